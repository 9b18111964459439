/* Decides whose moment has come: a binary heap, in which each item knows its place. */

#include "core/due.h"

#include <stdlib.h>

static void put(struct fast_due *set, int at, struct fast_due_item *item)
{
    set->heap[at] = item;
    item->place = at + 1;
}

static void rise(struct fast_due *set, int at, struct fast_due_item *item)
{
    for (int up; at > 0 && item->at < set->heap[up = (at - 1) / 2]->at; at = up)
        put(set, at, set->heap[up]);
    put(set, at, item);
}

static void sink(struct fast_due *set, int at, struct fast_due_item *item)
{
    for (int down; (down = 2 * at + 1) < set->n; at = down) {
        if (down + 1 < set->n && set->heap[down + 1]->at < set->heap[down]->at)
            down++;
        if (item->at <= set->heap[down]->at)
            break;
        put(set, at, set->heap[down]);
    }
    put(set, at, item);
}

int fast_due_add(struct fast_due *set, struct fast_due_item *item, fast_ns at, struct fast_err *err)
{
    if (set->n == set->cap) {
        int cap = 2 * set->cap + 16;
        struct fast_due_item **heap = realloc(set->heap, (size_t)cap * sizeof(*heap));
        if (!heap)
            return fast_err_set(err, FAST_ENOMEM, "no memory for one more deadline");
        set->heap = heap;
        set->cap = cap;
    }
    item->at = at;
    rise(set, set->n++, item);
    return 0;
}

void fast_due_remove(struct fast_due *set, struct fast_due_item *item)
{
    int at = item->place - 1;
    if (at < 0)
        return;
    struct fast_due_item *last = set->heap[--set->n];
    item->place = 0;
    if (last == item)
        return;
    if (last->at < item->at)
        rise(set, at, last);
    else
        sink(set, at, last);
}

struct fast_due_item *fast_due_next(struct fast_due *set, fast_ns now)
{
    struct fast_due_item *item = set->n ? set->heap[0] : NULL;
    if (!item || item->at > now)
        return NULL;
    fast_due_remove(set, item);
    return item;
}

fast_ns fast_due_expiry(const struct fast_due *set)
{
    return set->n ? set->heap[0]->at : FAST_NEVER;
}

void fast_due_fini(struct fast_due *set)
{
    free(set->heap);
    *set = (struct fast_due){0};
}
