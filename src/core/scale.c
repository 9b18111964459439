/* How many replicas a function needs. It decides from one moment's load; smoothing of the load is the
 * caller's choice of window. It assumes that every replica named to it runs or will run soon, so that
 * a replica that is still starting is not asked for twice. */

#include "core/scale.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "core/scale_impl.h"

static const char *const policy_names[FAST_SCALE_COUNT] = {"paper", "target", "queue", "hybrid"};

const char *fast_scale_policy_name(enum fast_scale_policy policy)
{
    return policy_names[policy];
}

int fast_scale_policy_parse(const char *text, enum fast_scale_policy *ret, struct fast_err *err)
{
    int found = fast_parse_name_of(policy_names, FAST_SCALE_COUNT, text);
    if (found < 0)
        return fast_err_set(err, FAST_EINVAL,
                        "scaling policy: \"%.40s\" is not paper, target, queue or hybrid", text);
    *ret = (enum fast_scale_policy)found;
    return 0;
}

int fast_scale_quota(int full_milli, int in_flight, fast_ns was_busy, fast_ns now)
{
    return in_flight || now - was_busy < FAST_SCALE_LINGER ? full_milli : 0;
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

int64_t scale_throughput(const struct scale_plan *plan, const struct fast_scale_replica *r)
{
    if (r->rps_milli > 0)
        return r->rps_milli;
    if (plan->in->profile)
        return fast_profile_look(plan->in->profile, r->sm_pct, r->quota_milli).rps_milli;
    return plan->conf->target_rps_milli;
}

static struct fast_scale_action *add_action(struct scale_plan *plan, enum fast_scale_kind kind)
{
    if (plan->n == plan->max)
        return NULL;
    struct fast_scale_action *a = &plan->ret[plan->n++];
    *a = (struct fast_scale_action){.kind = kind};
    return a;
}

/* Counts the change of |a| and says why: "load 52.3, capacity 50.0 to 75.0: |why|". */
static void apply(struct scale_plan *plan, struct fast_scale_action *a, int64_t was,
                  const char *why)
{
    int64_t before = plan->capacity, load = plan->in->load_milli;
    int sign = a->kind == FAST_SCALE_STOP ? -1 : 1;
    plan->count += a->kind == FAST_SCALE_RESIZE ? 0 : sign;
    plan->capacity += sign * a->rps_milli - was;
    snprintf(a->reason, sizeof(a->reason), "load %lld.%d, capacity %lld.%d to %lld.%d: %s",
             (long long)load / 1000, (int)(load % 1000 / 100), (long long)before / 1000,
             (int)(before % 1000 / 100), (long long)plan->capacity / 1000,
             (int)(plan->capacity % 1000 / 100), why);
}

bool scale_add_start(struct scale_plan *plan, const struct fast_profile_point *p, const char *why)
{
    struct fast_scale_action *a =
        plan->count < plan->conf->max ? add_action(plan, FAST_SCALE_START) : NULL;
    if (!a)
        return false;
    a->sm_pct = p->sm_pct;
    a->quota_milli = p->quota_milli;
    a->rps_milli = p->rps_milli;
    apply(plan, a, 0, why);
    return true;
}

bool scale_add_stop(struct scale_plan *plan, const struct fast_scale_replica *r, const char *why)
{
    struct fast_scale_action *a = add_action(plan, FAST_SCALE_STOP);
    if (!a)
        return false;
    a->id = r->id;
    a->sm_pct = r->sm_pct;
    a->quota_milli = r->quota_milli;
    a->rps_milli = scale_throughput(plan, r);
    apply(plan, a, 0, why);
    return true;
}

bool scale_add_resize(struct scale_plan *plan, const struct fast_scale_replica *r, int quota_milli,
                      const char *why)
{
    struct fast_scale_action *a = add_action(plan, FAST_SCALE_RESIZE);
    if (!a)
        return false;
    a->id = r->id;
    a->sm_pct = r->sm_pct;
    a->quota_milli = quota_milli;
    a->rps_milli = fast_profile_look(plan->in->profile, r->sm_pct, quota_milli).rps_milli;
    apply(plan, a, scale_throughput(plan, r), why);
    return true;
}

void scale_stop_newest(struct scale_plan *plan, int count, const char *why)
{
    uint64_t below = UINT64_MAX;
    while (plan->count > count) {
        const struct fast_scale_replica *newest = NULL;
        for (int i = 0; i < plan->in->nreplicas; i++) {
            const struct fast_scale_replica *r = &plan->in->replicas[i];
            if (r->id < below && (!newest || r->id > newest->id))
                newest = r;
        }
        if (!newest || !scale_add_stop(plan, newest, why))
            break;
        below = newest->id;
    }
}

void scale_note(const struct scale_plan *plan, const struct fast_scale_option *option)
{
    struct fast_scale_trace *t = plan->in->trace;
    if (!t)
        return;
    int at = t->noptions < FAST_SCALE_OPTIONS ? t->noptions : FAST_SCALE_OPTIONS;
    while (at > 0 && option->cost && option->cost < t->option[at - 1].cost)
        at--;
    if (at == FAST_SCALE_OPTIONS)
        return;
    if (t->noptions < FAST_SCALE_OPTIONS)
        t->noptions++;
    memmove(&t->option[at + 1], &t->option[at],
            sizeof(t->option[0]) * (size_t)(t->noptions - 1 - at));
    t->option[at] = *option;
}

/* Without load min 0 means none, but only some time after the last request. */
static int floor_of(const struct scale_plan *plan)
{
    const struct fast_scale_conf *conf = plan->conf;
    if (conf->min > 0)
        return conf->min;
    bool idle = plan->in->load_milli == 0 && conf->zero_after != FAST_NEVER &&
                plan->in->now - plan->in->last_request >= conf->zero_after;
    return idle || plan->in->nreplicas == 0 ? 0 : 1;
}

fast_ns scale_latency(const struct scale_plan *plan, const struct fast_profile_point *p)
{
    return plan->conf->slo_p99 ? p->p99_ns : p->p95_ns;
}

bool scale_meets_slo(const struct scale_plan *plan, const struct fast_profile_point *p)
{
    return p->rps_milli > 0 && (!plan->conf->slo_ns || scale_latency(plan, p) <= plan->conf->slo_ns);
}

/* The configuration with the best RPR among those that meet the SLO; NULL: none does. */
const struct fast_profile_point *scale_best_rpr(const struct scale_plan *plan)
{
    const struct fast_profile_point *best = NULL;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if (scale_meets_slo(plan, p) && (!best || fast_profile_rpr_cmp(p, best) > 0))
            best = p;
    }
    return best;
}

/* The one with the smallest throughput that covers |rest|, of equal ones that with the better RPR;
 * NULL: none does. */
static const struct fast_profile_point *smallest_cover(const struct scale_plan *plan, int64_t rest)
{
    const struct fast_profile_point *best = NULL;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if (!scale_meets_slo(plan, p) || p->rps_milli < rest)
            continue;
        if (!best || p->rps_milli < best->rps_milli ||
            (p->rps_milli == best->rps_milli && fast_profile_rpr_cmp(p, best) > 0))
            best = p;
    }
    return best;
}

int scale_no_configuration(const struct scale_plan *plan, struct fast_err *err)
{
    fast_ns best = FAST_NEVER;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if (p->rps_milli > 0 && scale_latency(plan, p) < best)
            best = scale_latency(plan, p);
    }
    if (best == FAST_NEVER)
        return fast_err_set(err, FAST_ENOENT, "no configuration of the profile has any throughput");
    return fast_err_set(err, FAST_ENOENT,
                        "no configuration of the profile meets the SLO of %lld us at %s; the best "
                        "has %lld us",
                        (long long)plan->conf->slo_ns / 1000, plan->conf->slo_p99 ? "p99" : "p95",
                        (long long)best / 1000);
}

/* The configurations with the best RPR, those that are too slow for the SLO among them. */
static void note_paper(const struct scale_plan *plan)
{
    for (int i = 0; plan->in->trace && i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if (p->rps_milli <= 0)
            continue;
        struct fast_scale_option o = {.kind = FAST_SCALE_START, .sm_pct = p->sm_pct,
                                      .quota_milli = p->quota_milli, .count = 1, .late_milli = -1,
                                      .cost = INT64_MAX / (fast_profile_rpr_milli(p) + 1)};
        snprintf(o.why, sizeof(o.why), "RPR %lld%s",
                 (long long)fast_profile_rpr_milli(p) / 1000,
                 scale_meets_slo(plan, p) ? "" : ", too slow for the SLO");
        scale_note(plan, &o);
    }
}

static int scale_up_paper(struct scale_plan *plan, int64_t gap, struct fast_err *err)
{
    const struct fast_profile_point *best = scale_best_rpr(plan);
    if (!best)
        return scale_no_configuration(plan, err);
    note_paper(plan);
    int64_t times = gap / best->rps_milli, rest = gap % best->rps_milli;
    for (int64_t i = 0; i < times; i++)
        if (!scale_add_start(plan, best, "best RPR"))
            return 0;
    if (rest > 0)
        scale_add_start(plan, smallest_cover(plan, rest), "smallest that covers the rest");
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

static int scale_down_paper(struct scale_plan *plan, int floor, struct fast_err *err)
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
            scale_throughput(plan, r), 0, 0};
    }
    qsort(ranked, (size_t)n, sizeof(*ranked), by_rpr);
    for (int i = 0; i < n && plan->count > floor; i++)
        if (plan->capacity - ranked[i].point.rps_milli < plan->in->load_milli ||
            !scale_add_stop(plan, ranked[i].replica, "lowest RPR"))
            break;
    free(ranked);
    return 0;
}

/* Starts what |min| asks for beyond the load. */
void scale_fill_to(struct scale_plan *plan, int floor)
{
    const struct fast_slice *slice = &plan->conf->slice;
    struct fast_profile_point p = {slice->sm_pct, slice->request_milli,
                                   plan->conf->target_rps_milli, 0, 0};
    if (plan->in->profile && slice->sm_pct) {
        p = fast_profile_look(plan->in->profile, slice->sm_pct, slice->request_milli);
        p.quota_milli = slice->request_milli;
    } else if (plan->in->profile) {
        const struct fast_profile_point *best = scale_best_rpr(plan);
        p = best ? *best : *fast_profile_at(plan->in->profile, 0);
    }
    while (plan->count < floor && scale_add_start(plan, &p, "fewer than the least number of replicas"))
        ;
}

static void scale_target(struct scale_plan *plan, int floor, bool up, bool down)
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
    while (up && plan->count < want && scale_add_start(plan, &p, "each has its target load"))
        ;
    if (down)
        scale_stop_newest(plan, (int)(want < plan->count ? want : plan->count), "fewer carry the load");
}

static int scale_paper(struct scale_plan *plan, int floor, bool up, bool down, struct fast_err *err)
{
    int64_t gap = plan->in->load_milli - plan->capacity;
    int rc = 0;
    if (gap > 0 && up)
        rc = scale_up_paper(plan, gap, err);
    else if (gap < 0 && down)
        rc = scale_down_paper(plan, floor, err);
    if (up)
        scale_fill_to(plan, floor);
    return rc;
}

int fast_scale_decide(const struct fast_scale_conf *conf, const struct fast_scale_input *input,
                      struct fast_scale_action *ret, int max, struct fast_err *err)
{
    if (fast_scale_check(conf, err))
        return -FAST_EINVAL;
    struct scale_plan plan = {conf, input, ret, 0, max, input->nreplicas, 0};
    if (input->trace)
        *input->trace = (struct fast_scale_trace){
            .load_milli = input->expected_milli ? input->expected_milli : input->load_milli,
            .late_milli = -1};
    for (int i = 0; i < input->nreplicas; i++)
        plan.capacity += scale_throughput(&plan, &input->replicas[i]);
    if (plan.count > conf->max) {
        scale_stop_newest(&plan, conf->max, "more than the most replicas");
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
    else if (conf->policy == FAST_SCALE_HYBRID && input->profile)
        rc = scale_hybrid(&plan, floor, up, down, err);
    else
        scale_target(&plan, floor, up, down);
    return rc && !plan.n ? rc : plan.n;
}
