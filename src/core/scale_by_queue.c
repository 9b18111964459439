/* FAST_SCALE_QUEUE: replicas are enough when the queue that they share keeps the SLO (scale_queue.h). It
 * assumes that a quota that is raised works at once and that a start takes the time that the expected
 * load looks ahead; so with conf.in_place what is there is raised first. Nothing goes that would break
 * the SLO now: what is judged is the queue of those that serve already. */

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/scale_impl.h"
#include "core/scale_queue.h"

/* Estimated late requests in 1,000, and the load at which a replica may go, in thousandths. The estimate
 * takes every service to be as long as the slowest of 100, so that some ten times fewer are late: in
 * the ramp of bench_scale 1.4 of 1,000. */
#define LATE_MILLI 80
#define CALM_MILLI 1150
#define IDLE_COST 500 /* of a replica that waits: 0.5 % of a GPU */
/* A step of a quota must bring half of what its GPU share would bring in the best configuration; less
 * is not worth it, except while a start is under way. */
#define WORTH_MILLI 500

/* The replicas as they would be after what has been decided so far. */
struct crew {
    struct fast_scale_replica *r;
    int n;
};

static bool too_slow(const struct scale_plan *plan, const struct fast_scale_replica *r)
{
    struct fast_profile_point p = fast_profile_look(plan->in->profile, r->sm_pct, r->quota_milli);
    return plan->conf->slo_ns && scale_latency(plan, &p) > plan->conf->slo_ns;
}

/* The queue of them; |serving|: of those that are there already. |without|: as if that one were not.
 * Who is too slow for the SLO is no help: with it among them no number of others would be enough. */
static struct scale_queue queue_of(const struct scale_plan *plan, const struct crew *crew,
                                   bool serving, int without)
{
    struct scale_queue q = {0};
    for (int i = 0; i < crew->n; i++) {
        const struct fast_scale_replica *r = &crew->r[i];
        if (i == without || (serving && r->starting) || too_slow(plan, r))
            continue;
        struct fast_profile_point p =
            fast_profile_look(plan->in->profile, r->sm_pct, r->quota_milli);
        q.servers++;
        q.rps_milli += scale_throughput(plan, r);
        if (scale_latency(plan, &p) > q.latency_ns)
            q.latency_ns = scale_latency(plan, &p);
    }
    return q;
}

static bool keeps(const struct scale_plan *plan, const struct scale_queue *q, int64_t load)
{
    return scale_queue_keeps(q, load, plan->conf->slo_ns, LATE_MILLI);
}

/* What |n| replicas of |p| take of GPUs at |load|, in a unit that only compares. With |vertical| that is
 * the time that requests take, and a little for each replica that waits: its memory. */
static int64_t cost(const struct scale_plan *plan, const struct fast_profile_point *p, int n,
                    int64_t load)
{
    int64_t area = (int64_t)p->sm_pct * p->quota_milli;
    return plan->conf->vertical ? area * load / p->rps_milli + (int64_t)n * IDLE_COST : n * area;
}

/* ---- starting ---- */

static void note_start(const struct scale_plan *plan, const struct fast_profile_point *p, int n,
                       int64_t load, int64_t c)
{
    const struct scale_queue q = {n, n * p->rps_milli, scale_latency(plan, p)};
    struct fast_scale_option o = {.kind = FAST_SCALE_START, .sm_pct = p->sm_pct,
                                  .quota_milli = p->quota_milli, .count = n,
                                  .late_milli = scale_queue_late(&q, load, plan->conf->slo_ns),
                                  .cost = c};
    snprintf(o.why, sizeof(o.why), "so many of them alone would keep the SLO");
    scale_note(plan, &o);
}

/* The configuration whose replicas keep the SLO at |peak| at the least cost at |load|. */
static const struct fast_profile_point *least_cost(const struct scale_plan *plan, int64_t load,
                                                   int64_t peak)
{
    const struct fast_profile_point *best = NULL;
    int64_t best_cost = INT64_MAX;
    int fewest = 0; /* of equal costs: fewer are faster, and hold less memory */
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        int n = scale_meets_slo(plan, p)
                    ? scale_queue_count(p, scale_latency(plan, p), peak, plan->conf->slo_ns,
                                        LATE_MILLI, plan->conf->max)
                    : 0;
        if (!n)
            continue;
        int64_t c = cost(plan, p, n, load);
        if (plan->in->trace)
            note_start(plan, p, n, peak, c);
        if (c < best_cost || (c == best_cost && n < fewest)) {
            best = p;
            best_cost = c;
            fewest = n;
        }
    }
    return best ? best : scale_best_rpr(plan);
}

static void start_more(struct scale_plan *plan, int64_t load, struct scale_queue q,
                       const struct fast_profile_point *p)
{
    while (!keeps(plan, &q, load)) {
        if (!scale_add_start(plan, p, "too many would wait too long"))
            return;
        q.servers++;
        q.rps_milli += p->rps_milli;
        q.latency_ns = scale_latency(plan, p) > q.latency_ns ? scale_latency(plan, p) : q.latency_ns;
    }
}

/* ---- raising and lowering ---- */

static bool is_profiled(const struct scale_plan *plan, int sm_pct)
{
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++)
        if (fast_profile_at(plan->in->profile, i)->sm_pct == sm_pct)
            return true;
    return false;
}

/* The next quota above (|up|) or below that of |r| in the profile; 0: there is none. On an SM partition
 * that the profile lacks, those of all others, since throughput is read between them. */
static int next_quota(const struct scale_plan *plan, const struct fast_scale_replica *r, bool up)
{
    bool profiled = is_profiled(plan, r->sm_pct);
    int best = 0;
    for (int i = 0; i < fast_profile_count(plan->in->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(plan->in->profile, i);
        if ((profiled && p->sm_pct != r->sm_pct) || (up ? p->quota_milli <= r->quota_milli
                                                        : p->quota_milli >= r->quota_milli))
            continue;
        if (!best || (up ? p->quota_milli < best : p->quota_milli > best))
            best = p->quota_milli;
    }
    return best;
}

/* Throughput for each thousandth of a GPU that the step to |quota| takes or frees. */
static int64_t yield(const struct scale_plan *plan, const struct fast_scale_replica *r, int quota)
{
    int64_t rps = fast_profile_look(plan->in->profile, r->sm_pct, quota).rps_milli - scale_throughput(plan, r);
    int64_t area = (int64_t)r->sm_pct * (quota - r->quota_milli);
    return area ? rps * 1000 / area : 0;
}

/* Who is raised next: one that is too slow for the SLO, else where the step brings most. -1: nobody
 * can, or nothing would bring |worth|. */
static int best_raise(const struct scale_plan *plan, const struct crew *crew, bool serving,
                      int64_t worth, int *ret_quota)
{
    int best = -1;
    int64_t most = 0;
    for (int i = 0; i < crew->n; i++) {
        const struct fast_scale_replica *r = &crew->r[i];
        int quota = next_quota(plan, r, true);
        if (!quota || (serving && r->starting) || quota - r->quota_milli > r->room_milli)
            continue;
        int64_t y = too_slow(plan, r) ? INT64_MAX : yield(plan, r, quota);
        if (y > most && y >= worth) {
            best = i;
            most = y;
            *ret_quota = quota;
        }
    }
    return best;
}

static void set_quota(const struct scale_plan *plan, struct fast_scale_replica *r, int quota)
{
    r->room_milli -= quota - r->quota_milli;
    r->quota_milli = quota;
    r->rps_milli = fast_profile_look(plan->in->profile, r->sm_pct, quota).rps_milli;
}

/* Raises until the SLO is kept at |load|, or nobody can be raised. */
static void raise_until(const struct scale_plan *plan, struct crew *crew, bool serving, int64_t load,
                        int64_t worth)
{
    for (;;) {
        int quota = 0;
        const struct scale_queue q = queue_of(plan, crew, serving, -1);
        int i = keeps(plan, &q, load) ? -1 : best_raise(plan, crew, serving, worth, &quota);
        if (i < 0)
            return;
        set_quota(plan, &crew->r[i], quota);
    }
}

/* Lowers, where it costs the least throughput first, while all keep the SLO at |load|. */
static void lower_while(const struct scale_plan *plan, struct crew *crew, int64_t load)
{
    for (;;) {
        int best = -1, best_quota = 0;
        int64_t least = INT64_MAX;
        for (int i = 0; i < crew->n; i++) {
            int quota = next_quota(plan, &crew->r[i], false);
            int64_t y = quota ? yield(plan, &crew->r[i], quota) : INT64_MAX;
            if (y < least) {
                best = i;
                least = y;
                best_quota = quota;
            }
        }
        if (best < 0)
            return;
        const struct fast_scale_replica was = crew->r[best];
        set_quota(plan, &crew->r[best], best_quota);
        const struct scale_queue q = queue_of(plan, crew, true, -1);
        if (!q.servers || too_slow(plan, &crew->r[best]) || !keeps(plan, &q, load)) {
            crew->r[best] = was;
            return;
        }
    }
}

static void carry_resizes(struct scale_plan *plan, const struct crew *crew)
{
    for (int i = 0; i < crew->n; i++) {
        const struct fast_scale_replica *was = &plan->in->replicas[i];
        int quota = crew->r[i].quota_milli;
        if (quota != was->quota_milli)
            scale_add_resize(plan, was, quota, quota > was->quota_milli
                                                   ? "where it is, before one is started"
                                                   : "all keep the SLO with less");
    }
}

/* ---- the decision ---- */

static int go_up(struct scale_plan *plan, struct crew *crew, int64_t load, int64_t now_load,
                 struct fast_err *err)
{
    const struct fast_profile_point *p = least_cost(plan, plan->in->load_milli, load);
    if (!p)
        return scale_no_configuration(plan, err);
    if (plan->conf->in_place) {
        if (plan->in->trace)
            plan->in->trace->needs_room = true;
        int64_t worth = p->rps_milli * 1000 / ((int64_t)p->sm_pct * p->quota_milli);
        raise_until(plan, crew, false, load, worth * WORTH_MILLI / 1000);
        raise_until(plan, crew, true, now_load, 1);
        carry_resizes(plan, crew);
    }
    start_more(plan, load, queue_of(plan, crew, false, -1), p);
    return 0;
}

/* One that is too slow, else one that is being started, else that with the least throughput per
 * resource; of equal ones the youngest. */
static int worst_of(const struct scale_plan *plan, const struct crew *crew)
{
    int worst = -1;
    struct fast_profile_point point = {0};
    for (int i = 0; i < crew->n; i++) {
        const struct fast_scale_replica *r = &crew->r[i];
        struct fast_profile_point p = {r->sm_pct, r->quota_milli > 0 ? r->quota_milli : 1,
                                       scale_throughput(plan, r), 0, 0};
        int c = worst < 0 ? -1 : fast_profile_rpr_cmp(&p, &point);
        if (worst >= 0 && r->starting != crew->r[worst].starting)
            c = r->starting ? -1 : 1;
        if (worst >= 0 && too_slow(plan, r) != too_slow(plan, &crew->r[worst]))
            c = too_slow(plan, r) ? -1 : 1;
        if (c < 0 || (c == 0 && r->id > crew->r[worst].id)) {
            worst = i;
            point = p;
        }
    }
    return worst;
}

/* One replica at a time. |load| is what the others have to bear, with a margin. */
static void go_down(struct scale_plan *plan, struct crew *crew, int64_t load, int floor)
{
    int worst = worst_of(plan, crew);
    if (worst < 0)
        return;
    const struct scale_queue q = queue_of(plan, crew, true, worst);
    const struct fast_scale_replica *r = &crew->r[worst];
    struct fast_scale_option o = {.kind = FAST_SCALE_STOP, .id = r->id, .sm_pct = r->sm_pct,
                                  .quota_milli = r->quota_milli, .count = 1,
                                  .late_milli = scale_queue_late(&q, load, plan->conf->slo_ns)};
    bool may = plan->count > floor && keeps(plan, &q, load);
    snprintf(o.why, sizeof(o.why), "%s",
             may ? "the others keep the SLO"
                 : plan->count > floor ? "the others would not keep the SLO" : "so many have to stay");
    scale_note(plan, &o);
    if (may) {
        scale_add_stop(plan, &plan->in->replicas[worst], "the others keep the SLO");
    } else if (plan->conf->in_place) {
        lower_while(plan, crew, load);
        carry_resizes(plan, crew);
    }
}

static int decide(struct scale_plan *plan, struct crew *crew, int floor, bool up, bool down,
                  struct fast_err *err)
{
    const struct fast_scale_input *in = plan->in;
    int64_t queued = (int64_t)in->queued * 1000, now_load = in->load_milli + queued;
    int64_t load = (in->expected_milli ? in->expected_milli : in->load_milli) + queued;
    if (load < in->burst_milli)
        load = in->burst_milli;
    int64_t calm = load > in->calm_milli ? load : in->calm_milli;
    const struct scale_queue all = queue_of(plan, crew, false, -1);
    const struct scale_queue serving = queue_of(plan, crew, true, -1);
    int rc = 0;
    if (in->trace) {
        in->trace->load_milli = load;
        in->trace->late_milli = scale_queue_late(&all, load, plan->conf->slo_ns);
        in->trace->late_max_milli = LATE_MILLI;
    }
    if (floor == 0 && in->nreplicas) /* idle for so long that no burst is waited for */
        scale_stop_newest(plan, 0, "no request for so long");
    else if (!keeps(plan, &all, load) ||
             (plan->conf->in_place && serving.servers && !keeps(plan, &serving, now_load)))
        rc = up ? go_up(plan, crew, load, now_load, err) : 0;
    else if (down)
        go_down(plan, crew, calm * CALM_MILLI / 1000, floor);
    if (up)
        scale_fill_to(plan, floor);
    return rc;
}

int scale_by_queue(struct scale_plan *plan, int floor, bool up, bool down, struct fast_err *err)
{
    int n = plan->in->nreplicas;
    struct crew crew = {malloc(sizeof(*crew.r) * (size_t)(n + 1)), n};
    if (!crew.r)
        return fast_err_set(err, FAST_ENOMEM, "no memory for %d replicas", n);
    if (n)
        memcpy(crew.r, plan->in->replicas, sizeof(*crew.r) * (size_t)n);
    int rc = decide(plan, &crew, floor, up, down, err);
    free(crew.r);
    return rc;
}
