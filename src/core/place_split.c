/* Places beyond rectangles. A token schedule may cut a replica's time into pieces, so a set of replicas
 * can run on a GPU exactly when the linear program of core/sched_plan.h finds a schedule within the
 * window; rectangles are the sets whose schedule needs no cut. It decides whether a replica for which
 * no rectangle is free has a schedule on a busy GPU. It assumes that the GPU's token scheduler plans
 * with slots (not greedy), and keeps for each GPU the shapes that had no schedule since something
 * last left it: more replicas cannot make room. */

#include <string.h>

#include "core/place_impl.h"
#include "core/sched_plan.h"

/* For one replica: GPUs that are looked at, and linear programs that are solved. */
#define LOOKS_MAX 1000
#define PLANS_MAX 32
/* While there is an idle GPU: at 10,000 GPUs 32 programs took 0.66 ms, and packed 0.1 % denser than 8. */
#define PLANS_IDLE 8

/* Lengths are in units of a millionth of the window. */
#define WINDOW (FAST_MILLI * INT64_C(1000))

static int collect(const struct fast_fleet *fleet, int g, uint64_t except,
                   struct fast_plan_item *ret)
{
    const struct fleet_gpu *gpu = &fleet->gpus[g];
    int n = 0;
    for (int i = 0; i < gpu->nreplicas; i++) {
        const struct fast_placed *p = place_table_find(&fleet->table, gpu->replicas[i]);
        if (p->rect.quota && gpu->replicas[i] != except)
            ret[n++] = (struct fast_plan_item){p->rect.sm, (fast_ns)p->rect.quota * 1000};
    }
    return n;
}

static bool known_refused(const struct fleet_gpu *gpu, const struct fast_rect *rect)
{
    for (int i = 0; i < gpu->nrefused; i++)
        if (gpu->refused[i].sm <= rect->sm && gpu->refused[i].quota <= rect->quota)
            return true;
    return false;
}

static void remember(struct fleet_gpu *gpu, const struct fast_rect *rect)
{
    int at = gpu->nrefused < FLEET_REFUSED ? gpu->nrefused++ : gpu->refused_next;
    gpu->refused[at] = *rect;
    gpu->refused_next = (at + 1) % FLEET_REFUSED;
}

/* Lower bounds on the length of any schedule, cheaper than the program: if values of SM partitions are
 * such that those of a set that fits never add up to more than 1, then the lengths weighted by them
 * cannot be above the window. These are the dual feasible functions of Fekete and Schepers (2001):
 * with k + 1 equal parts of the GPU, a partition counts for the k-ths that it spans. */
static bool surely_too_long(const struct fast_plan_item *items, int n)
{
    for (int k = 1; k <= 4; k++) {
        int64_t sum = 0; /* of length x value x k x 100 */
        for (int i = 0; i < n; i++) {
            int parts = (k + 1) * items[i].sm_pct;
            int value = parts % FAST_SM_PCT_MAX ? parts / FAST_SM_PCT_MAX * FAST_SM_PCT_MAX
                                                : k * items[i].sm_pct;
            sum += items[i].request_ns * value;
        }
        if (sum > (int64_t)WINDOW * k * FAST_SM_PCT_MAX)
            return true;
    }
    return false;
}

bool fleet_split_fits(const struct fast_fleet *fleet, int g, uint64_t except,
                      const struct fast_rect *rect)
{
    struct fast_plan_item items[FAST_PLAN_CLIENTS];
    int n = collect(fleet, g, except, items);
    if (n >= FAST_RECTS_USED_MAX)
        return false;
    items[n] = (struct fast_plan_item){rect->sm, (fast_ns)rect->quota * 1000};
    return !surely_too_long(items, n + 1) && fast_plan_fits(items, n + 1, WINDOW);
}

/* A search over busy GPUs, the fullest first. */
struct search {
    struct fast_fleet *fleet;
    const struct fast_want *want;
    struct fast_rect rect;
    int looks, plans, plans_max;
    bool ended; /* the bounds above are reached */
};

static bool fits(struct search *s, int g)
{
    struct fleet_gpu *gpu = &s->fleet->gpus[g];
    if (!gpu->nreplicas || fleet_gpu_rects(gpu) >= FAST_RECTS_USED_MAX ||
        fleet_area_free(gpu) < fast_rect_area(&s->rect) || !fleet_gpu_may(s->fleet, g, s->want) ||
        known_refused(gpu, &s->rect))
        return false;
    s->plans++;
    if (fleet_split_fits(s->fleet, g, FLEET_NOBODY, &s->rect))
        return true;
    remember(gpu, &s->rect);
    return false;
}

static bool accept(const void *arg, int g)
{
    struct search *s = *(struct search *const *)arg;
    if (s->looks++ >= LOOKS_MAX || s->plans >= s->plans_max) {
        s->ended = true;
        return true;
    }
    return fits(s, g);
}

int fleet_split_find(struct fast_fleet *fleet, const struct fast_want *want, bool pressing)
{
    struct search s = {.fleet = fleet, .want = want, .rect = fleet_rect(want),
                       .plans_max = pressing ? PLANS_MAX : PLANS_IDLE}, *at = &s;
    if (!fleet->conf.split || !s.rect.quota || want->exclusive)
        return -1;
    if (want->gpu != FAST_ANY)
        return want->gpu >= 0 && want->gpu < fleet->ngpus && fits(&s, want->gpu) ? want->gpu : -1;
    for (int g = 0; want->node != FAST_ANY && g < fleet->ngpus; g++)
        if (fleet->gpus[g].conf.node == want->node && fits(&s, g))
            return g;
    if (want->node != FAST_ANY)
        return -1;
    int g = place_index_find(&fleet->by_area, fast_rect_area(&s.rect), 1, want->slice.mem_bytes,
                             accept, &at);
    return s.ended ? -1 : g;
}

struct fast_placed fleet_split_on(const struct fast_fleet *fleet, int g,
                                  const struct fast_want *want)
{
    return (struct fast_placed){.gpu = g,
                                .rect = fleet_rect(want),
                                .mem_bytes = fleet_mem_own(&fleet->gpus[g], want),
                                .weights = want->weights,
                                .group = want->group,
                                .split = true};
}

void fleet_split_settle(struct fast_fleet *fleet, int g)
{
    struct fleet_gpu *gpu = &fleet->gpus[g];
    for (int i = 0; i < gpu->nreplicas && gpu->nsplit; i++) {
        struct fast_placed *p = place_table_find(&fleet->table, gpu->replicas[i]);
        struct fast_rect rect;
        if (!p->split ||
            !fast_rects_find(&gpu->rects, p->rect.quota, p->rect.sm, fleet->conf.fit, &rect, NULL) ||
            fast_rects_take(&gpu->rects, &rect, NULL))
            continue;
        gpu->nsplit--;
        gpu->split_area -= fast_rect_area(&rect);
        p->rect = rect;
        p->split = false;
    }
}

void fleet_split_unsettle(struct fast_fleet *fleet, uint64_t replica)
{
    struct fast_placed *p = place_table_find(&fleet->table, replica);
    if (!p || p->split)
        return;
    struct fleet_gpu *gpu = &fleet->gpus[p->gpu];
    fleet_unindex(fleet, p->gpu);
    if (!fast_rects_give(&gpu->rects, &p->rect, FAST_RECLAIM_RESTRUCTURE, NULL)) {
        gpu->nsplit++;
        gpu->split_area += fast_rect_area(&p->rect);
        p->split = true;
    }
    fleet_reindex(fleet, p->gpu);
}
