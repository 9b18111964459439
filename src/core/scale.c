/* How many replicas a function needs. It decides from one moment's load; smoothing of the load is the
 * caller's choice of window. It assumes that every replica named to it runs or will run soon, so that
 * a replica that is still starting is not asked for twice. */

#include "core/scale.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/scale_queue.h"

/* The actions that are being collected. */
struct plan {
    const struct fast_scale_conf *conf;
    const struct fast_scale_input *in;
    struct fast_scale_action *ret;
    int n, max;
    int count;        /* replicas after the actions */
    int64_t capacity; /* sum of T after the actions */
};

static const char *const policy_names[FAST_SCALE_COUNT] = {"paper", "target", "queue"};

const char *fast_scale_policy_name(enum fast_scale_policy policy)
{
    return policy_names[policy];
}

int fast_scale_check(const struct fast_scale_conf *conf, struct fast_err *err)
{
    if (conf->min < 0 || conf->max < 1 || conf->max > FAST_SCALE_REPLICAS_MAX ||
        conf->min > conf->max)
        return fast_err_set(err, FAST_EINVAL,
                            "replicas: min %d and max %d are not 0 <= min <= max, 1 <= max <= %d",
                            conf->min, conf->max, FAST_SCALE_REPLICAS_MAX);
    if (conf->target_rps_milli < 0)
        return fast_err_set(err, FAST_EINVAL, "target load: it is negative");
    if (conf->slo_ns < 0 || conf->up_cooldown < 0 || conf->down_cooldown < 0 ||
        conf->zero_after < 0)
        return fast_err_set(err, FAST_EINVAL, "SLO, cool-downs and the time to zero: one is negative");
    if (conf->slice.sm_pct)
        return fast_slice_check(&conf->slice, err);
    return 0;
}

static int64_t throughput(const struct plan *plan, const struct fast_scale_replica *r)
{
    if (r->rps_milli > 0)
        return r->rps_milli;
    if (plan->in->profile)
        return fast_profile_look(plan->in->profile, r->sm_pct, r->quota_milli).rps_milli;
    return plan->conf->target_rps_milli;
}

static struct fast_scale_action *add_action(struct plan *plan, enum fast_scale_kind kind)
{
    if (plan->n == plan->max)
        return NULL;
    struct fast_scale_action *a = &plan->ret[plan->n++];
    *a = (struct fast_scale_action){.kind = kind};
    return a;
}

/* Counts the change of |a| and says why: "load 52.3, capacity 50.0 to 75.0: |why|". */
static void apply(struct plan *plan, struct fast_scale_action *a, const char *why)
{
    int64_t before = plan->capacity, load = plan->in->load_milli;
    int sign = a->kind == FAST_SCALE_START ? 1 : -1;
    plan->count += sign;
    plan->capacity += sign * a->rps_milli;
    snprintf(a->reason, sizeof(a->reason), "load %lld.%d, capacity %lld.%d to %lld.%d: %s",
             (long long)load / 1000, (int)(load % 1000 / 100), (long long)before / 1000,
             (int)(before % 1000 / 100), (long long)plan->capacity / 1000,
             (int)(plan->capacity % 1000 / 100), why);
}

static bool add_start(struct plan *plan, const struct fast_profile_point *p, const char *why)
{
    struct fast_scale_action *a =
        plan->count < plan->conf->max ? add_action(plan, FAST_SCALE_START) : NULL;
    if (!a)
        return false;
    a->sm_pct = p->sm_pct;
    a->quota_milli = p->quota_milli;
    a->rps_milli = p->rps_milli;
    apply(plan, a, why);
    return true;
}

static bool add_stop(struct plan *plan, const struct fast_scale_replica *r, const char *why)
{
    struct fast_scale_action *a = add_action(plan, FAST_SCALE_STOP);
    if (!a)
        return false;
    a->id = r->id;
    a->sm_pct = r->sm_pct;
    a->quota_milli = r->quota_milli;
    a->rps_milli = throughput(plan, r);
    apply(plan, a, why);
    return true;
}

/* Stops the replicas with the highest ids until |count| are left. */
static void stop_newest(struct plan *plan, int count, const char *why)
{
    uint64_t below = UINT64_MAX;
    while (plan->count > count) {
        const struct fast_scale_replica *newest = NULL;
        for (int i = 0; i < plan->in->nreplicas; i++) {
            const struct fast_scale_replica *r = &plan->in->replicas[i];
            if (r->id < below && (!newest || r->id > newest->id))
                newest = r;
        }
        if (!newest || !add_stop(plan, newest, why))
            break;
        below = newest->id;
    }
}

/* Without load min 0 means none, but only some time after the last request. */
static int floor_of(const struct plan *plan)
{
    const struct fast_scale_conf *conf = plan->conf;
    if (conf->min > 0)
        return conf->min;
    bool idle = plan->in->load_milli == 0 && conf->zero_after != FAST_NEVER &&
                plan->in->now - plan->in->last_request >= conf->zero_after;
    return idle || plan->in->nreplicas == 0 ? 0 : 1;
}

static fast_ns latency(const struct plan *plan, const struct fast_profile_point *p)
{
    return plan->conf->slo_p99 ? p->p99_ns : p->p95_ns;
}

static bool meets_slo(const struct plan *plan, const struct fast_profile_point *p)
{
    return p->rps_milli > 0 && (!plan->conf->slo_ns || latency(plan, p) <= plan->conf->slo_ns);
}

/* The configuration with the best RPR among those that meet the SLO; NULL: none does. */
static const struct fast_profile_point *best_rpr(const struct plan *plan)
{
    const struct fast_profile_point *best = NULL;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if (meets_slo(plan, p) && (!best || fast_profile_rpr_cmp(p, best) > 0))
            best = p;
    }
    return best;
}

/* The one with the smallest throughput that covers |rest|, of equal ones that with the better RPR;
 * NULL: none does. */
static const struct fast_profile_point *smallest_cover(const struct plan *plan, int64_t rest)
{
    const struct fast_profile_point *best = NULL;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if (!meets_slo(plan, p) || p->rps_milli < rest)
            continue;
        if (!best || p->rps_milli < best->rps_milli ||
            (p->rps_milli == best->rps_milli && fast_profile_rpr_cmp(p, best) > 0))
            best = p;
    }
    return best;
}

static int no_configuration(const struct plan *plan, struct fast_err *err)
{
    fast_ns best = FAST_NEVER;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if (p->rps_milli > 0 && latency(plan, p) < best)
            best = latency(plan, p);
    }
    if (best == FAST_NEVER)
        return fast_err_set(err, FAST_ENOENT, "no configuration of the profile has any throughput");
    return fast_err_set(err, FAST_ENOENT,
                        "no configuration of the profile meets the SLO of %lld us at %s; the best "
                        "has %lld us",
                        (long long)plan->conf->slo_ns / 1000, plan->conf->slo_p99 ? "p99" : "p95",
                        (long long)best / 1000);
}

static int scale_up_paper(struct plan *plan, int64_t gap, struct fast_err *err)
{
    const struct fast_profile_point *best = best_rpr(plan);
    if (!best)
        return no_configuration(plan, err);
    int64_t times = gap / best->rps_milli, rest = gap % best->rps_milli;
    for (int64_t i = 0; i < times; i++)
        if (!add_start(plan, best, "best RPR"))
            return 0;
    if (rest > 0)
        add_start(plan, smallest_cover(plan, rest), "smallest that covers the rest");
    return 0;
}

/* A replica with what the order of removal looks at. */
struct ranked {
    const struct fast_scale_replica *replica;
    struct fast_profile_point point;
};

static int by_rpr(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    int c = fast_profile_rpr_cmp(&x->point, &y->point);
    if (c)
        return c;
    return x->replica->id > y->replica->id ? -1 : x->replica->id < y->replica->id;
}

static int scale_down_paper(struct plan *plan, int floor, struct fast_err *err)
{
    int n = plan->in->nreplicas;
    if (n < 1)
        return 0;
    struct ranked *ranked = malloc(sizeof(*ranked) * (size_t)n);
    if (!ranked)
        return fast_err_set(err, FAST_ENOMEM, "no memory to order %d replicas", n);
    for (int i = 0; i < n; i++) {
        const struct fast_scale_replica *r = &plan->in->replicas[i];
        ranked[i].replica = r;
        ranked[i].point = (struct fast_profile_point){
            r->sm_pct > 0 ? r->sm_pct : 1, r->quota_milli > 0 ? r->quota_milli : 1,
            throughput(plan, r), 0, 0};
    }
    qsort(ranked, (size_t)n, sizeof(*ranked), by_rpr);
    for (int i = 0; i < n && plan->count > floor; i++)
        if (plan->capacity - ranked[i].point.rps_milli < plan->in->load_milli ||
            !add_stop(plan, ranked[i].replica, "lowest RPR"))
            break;
    free(ranked);
    return 0;
}

/* Starts what |min| asks for beyond the load. */
static void fill_to(struct plan *plan, int floor)
{
    const struct fast_slice *slice = &plan->conf->slice;
    struct fast_profile_point p = {slice->sm_pct, slice->request_milli,
                                   plan->conf->target_rps_milli, 0, 0};
    if (plan->in->profile && slice->sm_pct) {
        p = fast_profile_look(plan->in->profile, slice->sm_pct, slice->request_milli);
        p.quota_milli = slice->request_milli;
    } else if (plan->in->profile) {
        const struct fast_profile_point *best = best_rpr(plan);
        p = best ? *best : *fast_profile_at(plan->in->profile, 0);
    }
    while (plan->count < floor && add_start(plan, &p, "fewer than the least number of replicas"))
        ;
}

static void scale_target(struct plan *plan, int floor, bool up, bool down)
{
    const struct fast_scale_conf *conf = plan->conf;
    const struct fast_profile_point p = {conf->slice.sm_pct, conf->slice.request_milli,
                                         conf->target_rps_milli, 0, 0};
    int64_t load = plan->in->load_milli, want = plan->count;
    if (conf->target_rps_milli > 0)
        want = load / conf->target_rps_milli + (load % conf->target_rps_milli > 0);
    else if (load > 0 && !want)
        want = 1;
    else if (floor == 0)
        want = 0;
    if (want < floor)
        want = floor;
    while (up && plan->count < want && add_start(plan, &p, "each has its target load"))
        ;
    if (down)
        stop_newest(plan, (int)(want < plan->count ? want : plan->count), "fewer carry the load");
}

static int scale_paper(struct plan *plan, int floor, bool up, bool down, struct fast_err *err)
{
    int64_t gap = plan->in->load_milli - plan->capacity;
    int rc = 0;
    if (gap > 0 && up)
        rc = scale_up_paper(plan, gap, err);
    else if (gap < 0 && down)
        rc = scale_down_paper(plan, floor, err);
    if (up)
        fill_to(plan, floor);
    return rc;
}

/* Estimated late requests in 1,000, and the load at which a replica may go, in thousandths. The estimate
 * takes every service to be as long as the slowest of 100, so that some ten times fewer are late: in
 * the ramp of bench_scale 1.4 of 1,000. */
#define LATE_MILLI 80
#define CALM_MILLI 1150

static struct scale_queue queue_of(const struct plan *plan)
{
    struct scale_queue q = {plan->in->nreplicas, plan->capacity, 0};
    for (int i = 0; i < plan->in->nreplicas; i++) {
        const struct fast_scale_replica *r = &plan->in->replicas[i];
        struct fast_profile_point p =
            fast_profile_look(plan->in->profile, r->sm_pct, r->quota_milli);
        if (latency(plan, &p) > q.latency_ns)
            q.latency_ns = latency(plan, &p);
    }
    return q;
}

/* The configuration whose replicas keep the SLO at |load| with the least SM x quota in all. */
static const struct fast_profile_point *least_area(const struct plan *plan, int64_t load)
{
    const struct fast_profile_point *best = NULL;
    int64_t best_area = INT64_MAX;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        int n = meets_slo(plan, p) ? scale_queue_count(p, latency(plan, p), load, plan->conf->slo_ns,
                                                       LATE_MILLI, plan->conf->max)
                                   : 0;
        int64_t area = (int64_t)n * p->sm_pct * p->quota_milli;
        if (n && area < best_area) {
            best = p;
            best_area = area;
        }
    }
    return best ? best : best_rpr(plan);
}

static int scale_queue_up(struct plan *plan, int64_t load, struct scale_queue *q,
                          struct fast_err *err)
{
    const struct fast_profile_point *p = least_area(plan, load);
    if (!p)
        return no_configuration(plan, err);
    while (!scale_queue_keeps(q, load, plan->conf->slo_ns, LATE_MILLI)) {
        if (!add_start(plan, p, "too many would wait too long"))
            return 0;
        q->servers++;
        q->rps_milli += p->rps_milli;
        q->latency_ns = latency(plan, p) > q->latency_ns ? latency(plan, p) : q->latency_ns;
    }
    return 0;
}

/* One replica at a time: the one with the least throughput per resource. */
static void scale_queue_down(struct plan *plan, int64_t load, struct scale_queue q, int floor)
{
    const struct fast_scale_replica *worst = NULL;
    struct fast_profile_point point = {0};
    for (int i = 0; i < plan->in->nreplicas; i++) {
        const struct fast_scale_replica *r = &plan->in->replicas[i];
        struct fast_profile_point p = {r->sm_pct, r->quota_milli, throughput(plan, r), 0, 0};
        int c = worst ? fast_profile_rpr_cmp(&p, &point) : -1;
        if (c < 0 || (c == 0 && r->id > worst->id)) {
            worst = r;
            point = p;
        }
    }
    if (!worst || plan->count <= floor)
        return;
    q.servers--;
    q.rps_milli -= point.rps_milli;
    if (scale_queue_keeps(&q, load * CALM_MILLI / 1000, plan->conf->slo_ns, LATE_MILLI))
        add_stop(plan, worst, "the others keep the SLO");
}

static int scale_by_queue(struct plan *plan, int floor, bool up, bool down, struct fast_err *err)
{
    int64_t load = plan->in->expected_milli ? plan->in->expected_milli : plan->in->load_milli;
    struct scale_queue q = queue_of(plan);
    load += (int64_t)plan->in->queued * 1000;
    int rc = 0;
    if (!scale_queue_keeps(&q, load, plan->conf->slo_ns, LATE_MILLI))
        rc = up ? scale_queue_up(plan, load, &q, err) : 0;
    else if (down)
        scale_queue_down(plan, load, q, floor);
    if (up)
        fill_to(plan, floor);
    return rc;
}

int fast_scale_decide(const struct fast_scale_conf *conf, const struct fast_scale_input *input,
                      struct fast_scale_action *ret, int max, struct fast_err *err)
{
    if (fast_scale_check(conf, err))
        return -FAST_EINVAL;
    struct plan plan = {conf, input, ret, 0, max, input->nreplicas, 0};
    for (int i = 0; i < input->nreplicas; i++)
        plan.capacity += throughput(&plan, &input->replicas[i]);
    if (plan.count > conf->max) {
        stop_newest(&plan, conf->max, "more than the most replicas");
        return plan.n;
    }
    fast_ns last = input->last_up > input->last_down ? input->last_up : input->last_down;
    /* From none to one is never held back. */
    bool up = !input->last_up || !plan.count || input->now - input->last_up >= conf->up_cooldown;
    bool down = !last || input->now - last >= conf->down_cooldown;
    int floor = floor_of(&plan), rc = 0;
    if (conf->policy == FAST_SCALE_PAPER && input->profile)
        rc = scale_paper(&plan, floor, up, down, err);
    else if (conf->policy == FAST_SCALE_QUEUE && input->profile)
        rc = scale_by_queue(&plan, floor, up, down, err);
    else
        scale_target(&plan, floor, up, down);
    return rc && !plan.n ? rc : plan.n;
}
