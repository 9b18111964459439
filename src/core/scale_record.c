/* Keeps decisions. It assumes that what cannot be carried out is decided anew every second, so that equal
 * failures in a row are one record. */

#include "core/scale_record.h"

#include <stdlib.h>
#include <string.h>

void fast_scale_records_fini(struct fast_scale_records *records)
{
    free(records->ring);
    *records = (struct fast_scale_records){0};
}

static bool same(const struct fast_scale_did *a, const struct fast_scale_did *b)
{
    return a->action.kind == b->action.kind && a->action.id == b->action.id &&
           a->action.sm_pct == b->action.sm_pct && a->action.quota_milli == b->action.quota_milli &&
           !strcmp(a->outcome, b->outcome);
}

static bool repeats(const struct fast_scale_record *a, const struct fast_scale_record *b)
{
    bool failed = false;
    if (!a->cause || !b->cause || strcmp(a->cause, b->cause) != 0 || a->nactions != b->nactions)
        return false;
    for (int i = 0; i < a->nactions && i < FAST_RECORD_ACTIONS; i++) {
        if (!same(&a->did[i], &b->did[i]))
            return false;
        failed |= a->did[i].outcome[0] != 0;
    }
    return failed;
}

/* Most functions have few decisions. Until the ring is full, record i is at place i. */
static bool room_for_one(struct fast_scale_records *records)
{
    if (records->cap == FAST_RECORDS || records->total < (uint64_t)records->cap)
        return true;
    int cap = records->cap ? 2 * records->cap : 2;
    cap = cap < FAST_RECORDS ? cap : FAST_RECORDS;
    struct fast_scale_record *ring = realloc(records->ring, sizeof(*ring) * (size_t)cap);
    if (!ring)
        return false;
    records->ring = ring;
    records->cap = cap;
    return true;
}

void fast_scale_records_add(struct fast_scale_records *records,
                            const struct fast_scale_record *record)
{
    if (!room_for_one(records) || !records->ring)
        return;
    int times = 0;
    if (records->total) {
        const struct fast_scale_record *last = &records->ring[(records->total - 1) % FAST_RECORDS];
        times = repeats(last, record) ? last->times : 0;
    }
    if (!times) /* else in place of the one that it repeats */
        records->total++;
    struct fast_scale_record *place = &records->ring[(records->total - 1) % FAST_RECORDS];
    *place = *record;
    place->times = times + 1;
}

const struct fast_scale_record *fast_scale_records_get(const struct fast_scale_records *records,
                                                       uint64_t back)
{
    if (back >= records->total || back >= FAST_RECORDS)
        return NULL;
    return &records->ring[(records->total - 1 - back) % FAST_RECORDS];
}
