/* HAS-GPU's hybrid scaler as its authors published it (persistentReconcile.go, has_autoscaling.go):
 * vertical first, by tenths of a GPU's time, then horizontal. It assumes that each replica says how far
 * its quota can grow where it is.
 *
 * Repaired: each function has its own Kalman filter (all shared one). A replica that is lowered keeps
 * the least quota that has any throughput. Replaced: throughput and latency are the profile's, where
 * they computed T = 1000 / (latency + 70), and the GPU of a new replica is the placement's choice, where
 * they went by the least occupied GPU with a row of the same SM partition. Kept, though they cost it:
 * configurations are chosen without a look at the SLO; the thresholds; one replica always stays. */

#include <math.h>
#include <stdlib.h>

#include "core/scale_impl.h"

#define STEP 100          /* thousandths of time */
#define UP_MILLI 900      /* of the capacity */
#define DOWN_MILLI 300
#define ENOUGH_MILLI 35000 /* requests/s that a configuration shall have */
#define SM_DEFAULT 30
#define QUOTA_DEFAULT 300
#define SM_STOPS 50 /* replicas with more are never stopped */
#define MARGIN_MILLI 5000

int64_t fast_kalman_step(struct fast_kalman *k, int64_t load_milli)
{
    const double q = 1, r = 10;
    double z = (double)load_milli / 1000;
    if (!k->began)
        *k = (struct fast_kalman){0, 1, true};
    double p = k->p + q, gain = p / (p + r);
    k->x += gain * (z - k->x);
    k->p = (1 - gain) * p;
    int64_t at = (int64_t)((k->x + sqrt(k->p)) * 1000);
    return at > load_milli + MARGIN_MILLI ? at : load_milli + MARGIN_MILLI;
}

/* The most efficient of those with enough throughput, else their default. */
static struct fast_profile_point most_efficient(const struct scale_plan *plan)
{
    const struct fast_profile_point *best = NULL;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if (p->rps_milli >= ENOUGH_MILLI && (!best || fast_profile_rpr_cmp(p, best) > 0))
            best = p;
    }
    if (best)
        return *best;
    struct fast_profile_point p = fast_profile_look(plan->in->profile, SM_DEFAULT, QUOTA_DEFAULT);
    p.sm_pct = SM_DEFAULT;
    p.quota_milli = QUOTA_DEFAULT;
    return p;
}

/* A replica with what has been decided for it so far. */
struct ranked {
    struct fast_scale_replica r;
    int quota;
    bool stopped;
};

static int by_sm(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->r.sm_pct != y->r.sm_pct)
        return x->r.sm_pct - y->r.sm_pct;
    return x->r.id < y->r.id ? -1 : x->r.id > y->r.id;
}

static int64_t at_quota(const struct scale_plan *plan, const struct ranked *k, int quota)
{
    return fast_profile_look(plan->in->profile, k->r.sm_pct, quota).rps_milli;
}

/* Raises the widest first. Returns what is still missing. */
static int64_t raise_quotas(const struct scale_plan *plan, struct ranked *list, int n, int64_t gap)
{
    for (int i = n - 1; i >= 0 && gap > 0; i--) {
        struct ranked *k = &list[i];
        int most = k->r.quota_milli + k->r.room_milli;
        int64_t was = at_quota(plan, k, k->quota), now = was;
        while (k->quota + STEP <= most && k->quota + STEP <= FAST_MILLI && now - was < gap) {
            k->quota += STEP;
            now = at_quota(plan, k, k->quota);
        }
        gap -= now - was;
    }
    return gap;
}

/* Lowers the narrowest first, then stops who has less than is too much; one stays. */
static void lower_quotas(const struct scale_plan *plan, struct ranked *list, int n, int floor,
                         int64_t excess)
{
    int left = n;
    for (int i = 0; i < n && excess > 0; i++) {
        struct ranked *k = &list[i];
        while (k->quota > STEP) {
            int64_t less = at_quota(plan, k, k->quota) - at_quota(plan, k, k->quota - STEP);
            if (less > excess)
                break;
            k->quota -= STEP;
            excess -= less;
        }
    }
    for (int i = 0; i < n && left > floor && left > 1; i++) {
        int64_t has = at_quota(plan, &list[i], list[i].quota);
        if (list[i].r.sm_pct > SM_STOPS || has > excess)
            continue;
        list[i].stopped = true;
        excess -= has;
        left--;
    }
}

static void carry(struct scale_plan *plan, const struct ranked *list, int n)
{
    for (int i = 0; i < n; i++)
        if (list[i].stopped)
            scale_add_stop(plan, &list[i].r, "below 30 % of the capacity");
        else if (list[i].quota != list[i].r.quota_milli)
            scale_add_resize(plan, &list[i].r, list[i].quota,
                             list[i].quota > list[i].r.quota_milli ? "vertical, before a start"
                                                                   : "below 30 % of the capacity");
}

int scale_hybrid(struct scale_plan *plan, int floor, bool up, bool down, struct fast_err *err)
{
    int n = plan->in->nreplicas;
    int64_t load = plan->in->expected_milli ? plan->in->expected_milli : plan->in->load_milli;
    int64_t target = plan->capacity * UP_MILLI / 1000;
    struct ranked *list = calloc((size_t)n + 1, sizeof(*list));
    if (!list)
        return fast_err_set(err, FAST_ENOMEM, "no memory to order %d replicas", n);
    for (int i = 0; i < n; i++)
        list[i] = (struct ranked){plan->in->replicas[i], plan->in->replicas[i].quota_milli, false};
    qsort(list, (size_t)n, sizeof(*list), by_sm);
    if (load > target && up) {
        if (plan->in->trace)
            plan->in->trace->needs_room = true;
        int64_t gap = raise_quotas(plan, list, n, load - target);
        const struct fast_profile_point p = most_efficient(plan);
        carry(plan, list, n);
        while (gap > 0 && p.rps_milli > 0 && scale_add_start(plan, &p, "horizontal, for the rest"))
            gap -= p.rps_milli;
    } else if (load < plan->capacity * DOWN_MILLI / 1000 && down) {
        lower_quotas(plan, list, n, floor, target - load);
        carry(plan, list, n);
    }
    free(list);
    if (up)
        scale_fill_to(plan, floor);
    return 0;
}
