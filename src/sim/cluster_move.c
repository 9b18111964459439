/* Moving replicas in a simulated cluster: a copy is started where the plan says, and takes over when it
 * serves; only then the replica stops. It assumes that the fleet plans (core/place.h). */

#include <stdlib.h>

#include "sim/cluster_impl.h"

#define MOVES 4 /* at a time */

static struct cluster_replica *find(struct cluster *c, uint64_t id)
{
    for (int i = 0; i < c->n; i++)
        if (c->replica[i].id == id && !c->replica[i].stopping)
            return &c->replica[i];
    return NULL;
}

/* The copy has what its original has, which may have been resized since it was planned. */
static void begin(struct cluster *c, const struct fast_move *move)
{
    const struct cluster_replica *old = find(c, move->replica);
    struct cluster_replica *copy = NULL;
    if (!old || old->replaces || !c->conf->start_ns)
        return;
    const struct cluster_replica was = *old; /* starting may move it */
    if (cluster_start_at(c, was.function, &move->want, &copy, NULL) || !copy)
        return;
    copy->replaces = was.id;
    copy->quota_milli = was.quota_milli;
    copy->rps_milli = was.rps_milli;
    copy->host_ns = was.host_ns;
    copy->busy_ns = was.busy_ns;
}

static void take_over(struct cluster *c, int i)
{
    struct cluster_replica *copy = &c->replica[i];
    const uint64_t old = copy->replaces;
    struct cluster_replica *from = find(c, old);
    copy->replaces = 0;
    if (!from) { /* stopped or lost meanwhile: nobody needs the copy */
        copy->stopping = true;
        cluster_drop(c, i);
        return;
    }
    from->stopping = true;
    c->ret->moves++;
    if (from->free_at == FAST_NEVER)
        cluster_drop(c, (int)(from - c->replica));
}

void cluster_move(struct cluster *c)
{
    struct fast_move moves[MOVES];
    struct fast_defrag worth;
    bool copying = false;
    if (!c->conf->defrag_ns)
        return;
    for (int i = c->n - 1; i >= 0; i--) {
        if (i < c->n && c->replica[i].replaces && c->replica[i].ready_at <= c->now)
            take_over(c, i);
        copying |= i < c->n && c->replica[i].replaces;
    }
    if (c->now < c->defrag_at)
        return;
    c->defrag_at = c->now + c->conf->defrag_ns;
    /* Plans of two moments do not know of each other. */
    if (copying || fast_fleet_defrag(c->fleet, MOVES, UINT64_MAX, moves, &worth, NULL))
        return;
    for (int i = 0; i < worth.nmoves; i++)
        begin(c, &moves[i]);
}

fast_ns cluster_next_move(const struct cluster *c)
{
    return c->conf->defrag_ns ? c->defrag_at : FAST_NEVER;
}

void cluster_count_gpus(struct cluster *c, fast_ns span)
{
    int busy = 0;
    c->looks++;
    for (int i = 0; i < c->n; i++) {
        busy += c->seen[c->replica[i].gpu] != c->looks;
        c->seen[c->replica[i].gpu] = c->looks;
    }
    c->ret->gpus_s += busy * (double)span / 1e9;
}
