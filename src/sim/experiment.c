/* Decides what a replica of a function does when: it takes a request, works on the host, launches
 * kernels without waiting for them, waits for the last one and answers.
 *
 * Assumes that
 * - a request goes to a replica of its function drawn at random, as a Kubernetes service does it, and
 *   waits there in order of arrival;
 * - hosts of replicas slow each other down by a fixed part for each other one at work; how many there
 *   are is looked at when a piece of host work begins;
 * - a launch without a token waits for one; a token that is called back goes back when what was
 *   launched under it is complete; an idle replica gives it back when somebody waits for it. So what a
 *   replica has queued when its quota is used up is overdrawn, and a bound on it matters. */

#include "sim/experiment.h"

#include <stdlib.h>
#include <string.h>

#define USERS_MAX 1000
#define KERNEL_FIRST_NS 250000 /* of a kernel before any was seen, as the hook has it */

enum state {
    IDLE,  /* no request */
    HOST,  /* working until |until|, then the next operation is submitted */
    TOKEN, /* wants to submit and has no token */
    FULL,  /* wants to submit and its queue has no room, or the bound on what is in flight */
    SYNC,  /* waits for what it submitted */
};

struct replica {
    int function, client, queue, sched; /* -1: the scheduler does not know it */
    enum state state;
    fast_ns until;
    int step;           /* of the request: the operation that is submitted next */
    uint64_t submitted; /* the last operation */
    uint64_t kernels;   /* of them */
    uint64_t token;     /* 0: none */
    bool revoked, contended;
    fast_ns in_flight_ns;
    fast_ns busy_at_grant;
    int waiting, first; /* requests in |sent_at|, the one being served included */
    fast_ns sent_at[USERS_MAX];
};

struct exp {
    const struct sim_exp_conf *conf;
    struct sim_gpu *gpu;
    struct fast_sched *sched; /* NULL without tokens */
    struct sim_exp_result *ret;
    uint64_t random;
    fast_ns now;
    uint64_t requests;
    size_t come[SIM_EXP_FUNCTIONS]; /* of those that are due at given moments */
    int replicas;
    struct replica replica[SIM_EXP_REPLICAS];
};

static const struct sim_model *model_of(const struct exp *x, const struct replica *r)
{
    return &x->conf->function[r->function].model;
}

static fast_ns busy_ns(const struct exp *x, const struct replica *r)
{
    return x->conf->in_flight ? r->in_flight_ns : sim_gpu_client_busy_ns(x->gpu, r->client);
}

/* The time until |next|, between two events. Step 1 is the first kernel: from step 2 on it is out. */
static void count_in_flight(struct exp *x, fast_ns next)
{
    for (int i = 0; i < x->replicas; i++) {
        struct replica *r = &x->replica[i];
        bool at_work = r->state == HOST || r->state == FULL || r->state == SYNC;
        if (r->submitted > sim_gpu_done(x->gpu, r->queue) || (at_work && r->step > 1))
            r->in_flight_ns += next - x->now;
    }
}

/* xorshift64*, then the upper bits. */
static int draw(struct exp *x, int n)
{
    x->random ^= x->random >> 12;
    x->random ^= x->random << 25;
    x->random ^= x->random >> 27;
    return (int)((x->random * 0x2545f4914f6cdd1dULL >> 33) % (uint64_t)n);
}

/* Operation |step| of a request: the input, the kernels, the output. False when there is none, as at
 * the end. |ret_gap| is the host time before it. */
static bool request_op(const struct sim_model *m, int step, struct sim_op *ret, fast_ns *ret_gap)
{
    int kernels = sim_model_kernels(m);
    *ret_gap = 0;
    *ret = (struct sim_op){.kind = SIM_OP_COPY};
    if (step < 0 || step > kernels + 1)
        return false;
    if (step == 0) {
        ret->copy.bytes = m->input_bytes;
        ret->copy.dir = SIM_COPY_HTOD;
    } else if (step <= kernels) {
        ret->kind = SIM_OP_KERNEL;
        sim_model_kernel(m, step - 1, &ret->kernel, ret_gap);
    } else {
        ret->copy.bytes = m->output_bytes;
        ret->copy.dir = SIM_COPY_DTOH;
    }
    return true;
}

/* |gap| of host work of |r| as long as it takes beside the others. */
static fast_ns slowed(const struct exp *x, const struct replica *r, fast_ns gap)
{
    int others = 0;
    for (int i = 0; i < x->replicas; i++)
        others += x->replica[i].state == HOST && &x->replica[i] != r;
    return gap + gap * others * x->conf->host_slowdown_milli / 1000;
}

/* The host of |r| prepares its next operation, or waits for what it has submitted. */
static void prepare(struct exp *x, struct replica *r)
{
    struct sim_op op;
    fast_ns gap;
    if (request_op(model_of(x, r), r->step, &op, &gap)) {
        r->state = HOST;
        r->until = x->now + slowed(x, r, gap);
    } else {
        r->state = SYNC;
        r->until = FAST_NEVER;
    }
}

static void begin_request(struct exp *x, struct replica *r)
{
    r->step = 0;
    prepare(x, r);
}

static void send_request(struct exp *x, int function)
{
    int first = 0;
    for (int f = 0; f < function; f++)
        first += x->conf->function[f].replicas;
    struct replica *r = &x->replica[first + draw(x, x->conf->function[function].replicas)];
    if (r->waiting == USERS_MAX) {
        x->ret->function[function].refused++;
        return;
    }
    r->sent_at[(r->first + r->waiting) % USERS_MAX] = x->now;
    r->waiting++;
    if (r->state == IDLE)
        begin_request(x, r);
}

static void end_request(struct exp *x, struct replica *r)
{
    int function = r->function;
    fast_hist_add(&x->ret->function[function].latency, x->now - r->sent_at[r->first]);
    x->ret->function[function].requests++;
    x->requests++;
    r->first = (r->first + 1) % USERS_MAX;
    r->waiting--;
    r->state = IDLE;
    r->until = FAST_NEVER;
    if (r->waiting)
        begin_request(x, r);
    if (!x->conf->function[function].due)
        send_request(x, function);
}

/* When the next request of function |f| comes by itself. */
static fast_ns next_due(const struct exp *x, int f)
{
    const struct sim_exp_function *fn = &x->conf->function[f];
    return fn->due && x->come[f] < fn->due_count ? fn->due[x->come[f]] : FAST_NEVER;
}

static void send_due(struct exp *x)
{
    for (int f = 0; f < x->conf->functions; f++)
        for (; next_due(x, f) <= x->now; x->come[f]++)
            send_request(x, f);
}

static bool drained(const struct exp *x, const struct replica *r)
{
    return sim_gpu_done(x->gpu, r->queue) >= r->submitted;
}

/* Whether one more operation may be queued. A copy counts like a kernel: there is one in a request. */
static bool has_room(const struct exp *x, const struct replica *r)
{
    uint64_t queued = r->submitted - sim_gpu_done(x->gpu, r->queue);
    if (queued >= SIM_RING)
        return false;
    if (!x->conf->inflight_ns || !queued)
        return true;
    int64_t complete = r->kernels > queued ? (int64_t)(r->kernels - queued) : 0;
    fast_ns mean = complete ? sim_gpu_client_busy_ns(x->gpu, r->client) / complete : KERNEL_FIRST_NS;
    return (int64_t)(queued + 1) * mean <= x->conf->inflight_ns;
}

static void submit(struct exp *x, struct replica *r)
{
    struct sim_op op;
    fast_ns gap;
    if (x->sched && (!r->token || r->revoked)) {
        r->state = TOKEN;
        r->until = FAST_NEVER;
        if (!r->token)
            fast_sched_want(x->sched, r->sched, x->now);
        return;
    }
    if (!has_room(x, r)) {
        r->state = FULL;
        r->until = FAST_NEVER;
        return;
    }
    request_op(model_of(x, r), r->step, &op, &gap);
    r->submitted = sim_gpu_submit(x->gpu, r->queue, &op, x->now);
    r->kernels += op.kind == SIM_OP_KERNEL;
    r->step++;
    prepare(x, r);
}

/* Gives the token of |r| back if it has to go and nothing is in flight under it. Returns whether. */
static bool give_back(struct exp *x, struct replica *r)
{
    bool idle = r->state == IDLE;
    if (!r->token || !drained(x, r) || !(r->revoked || (idle && r->contended)))
        return false;
    fast_ns busy = busy_ns(x, r) - r->busy_at_grant;
    fast_sched_done(x->sched, r->sched, r->token, busy, r->state == TOKEN, x->now, NULL);
    r->token = 0;
    r->revoked = false;
    return true;
}

static struct replica *replica_of(struct exp *x, int sched)
{
    for (int i = 0; i < x->replicas; i++)
        if (x->replica[i].sched == sched)
            return &x->replica[i];
    return NULL;
}

/* Does what the scheduler says. Returns whether it said anything. */
static bool obey(struct exp *x)
{
    struct fast_sched_action act;
    bool any = false;
    while (x->sched && fast_sched_next(x->sched, &act)) {
        struct replica *r = replica_of(x, act.client);
        any = true;
        if (!r)
            continue;
        if (act.kind == FAST_SCHED_GRANT && !act.extended) {
            r->token = act.token;
            r->revoked = false;
            r->busy_at_grant = busy_ns(x, r);
            if (r->state == TOKEN)
                r->state = FULL; /* goes on in react() */
        }
        if (act.kind == FAST_SCHED_GRANT || act.kind == FAST_SCHED_CONTENDED)
            r->contended = act.contended;
        if (act.kind == FAST_SCHED_REVOKE && r->token == act.token)
            r->revoked = true;
    }
    return any;
}

/* Lets every replica do what it can at |now|, until none can do anything. */
static void react(struct exp *x)
{
    bool again = true;
    while (again) {
        again = obey(x);
        for (int i = 0; i < x->replicas; i++) {
            struct replica *r = &x->replica[i];
            bool goes_on = r->state == FULL && has_room(x, r);
            if ((r->state == HOST && r->until <= x->now) || goes_on) {
                submit(x, r);
                again = true;
            } else if (r->state == SYNC && drained(x, r)) {
                end_request(x, r);
                again = true;
            }
            if (x->sched && give_back(x, r))
                again = true;
        }
    }
}

static fast_ns next_event(const struct exp *x)
{
    fast_ns next = sim_gpu_next(x->gpu);
    for (int f = 0; f < x->conf->functions; f++)
        if (next_due(x, f) < next)
            next = next_due(x, f);
    for (int i = 0; i < x->replicas; i++)
        if (x->replica[i].state == HOST && x->replica[i].until < next)
            next = x->replica[i].until;
    if (x->sched && fast_sched_expiry(x->sched) < next)
        next = fast_sched_expiry(x->sched);
    return next;
}

static bool is_active(const struct exp *x)
{
    for (int i = 0; i < x->replicas; i++) {
        enum state s = x->replica[i].state;
        if (s == HOST || s == FULL || (s != IDLE && !drained(x, &x->replica[i])))
            return true;
    }
    return false;
}

static void run(struct exp *x)
{
    fast_ns end = x->conf->duration_ns;
    uint64_t most = x->conf->requests_max ? x->conf->requests_max : UINT64_MAX;
    for (int f = 0; f < x->conf->functions; f++)
        for (int u = 0; u < x->conf->function[f].users && !x->conf->function[f].due; u++)
            send_request(x, f);
    send_due(x);
    react(x);
    while (x->now < end && x->requests < most) {
        fast_ns next = next_event(x);
        if (next > end)
            next = end;
        if (is_active(x))
            x->ret->active_ns += next - x->now;
        count_in_flight(x, next);
        x->now = next;
        sim_gpu_advance(x->gpu, next);
        send_due(x);
        if (x->sched)
            fast_sched_tick(x->sched, next);
        react(x);
        x->ret->events++;
    }
}

static int add_replica(struct exp *x, int function, struct fast_err *err)
{
    const struct sim_exp_function *f = &x->conf->function[function];
    struct sim_client_conf conf = {.mps = x->conf->mps, .sm_pct = f->slice.sm_pct};
    struct replica *r = &x->replica[x->replicas];
    r->function = function;
    r->until = FAST_NEVER;
    r->sched = -1;
    r->client = sim_gpu_client_add(x->gpu, &conf, 0);
    r->queue = sim_gpu_queue_add(x->gpu, r->client, 0, 0);
    if (r->client < 0 || r->queue < 0)
        return fast_err_set(err, FAST_ENOROOM, "the GPU has no room for replica %d", x->replicas);
    if (x->sched) {
        r->sched = fast_sched_add(x->sched, &f->slice, 0, err);
        if (r->sched < 0)
            return r->sched;
    }
    x->replicas++;
    return 0;
}

static int check(const struct sim_exp_conf *conf, struct fast_err *err)
{
    int replicas = 0;
    if (conf->functions < 1 || conf->functions > SIM_EXP_FUNCTIONS)
        return fast_err_set(err, FAST_EINVAL, "functions: %d is not from 1 to %d", conf->functions,
                            SIM_EXP_FUNCTIONS);
    for (int f = 0; f < conf->functions; f++) {
        const struct sim_exp_function *fn = &conf->function[f];
        if (fn->replicas < 1 || fn->users < 0 || fn->users > USERS_MAX)
            return fast_err_set(err, FAST_EINVAL, "function %d: at least 1 replica, 0 to %d users",
                                f, USERS_MAX);
        if (fast_slice_check(&fn->slice, err))
            return fast_err_wrap(err, "function %d", f);
        replicas += fn->replicas;
    }
    if (replicas > SIM_EXP_REPLICAS)
        return fast_err_set(err, FAST_EINVAL, "replicas: %d are more than %d", replicas,
                            SIM_EXP_REPLICAS);
    return 0;
}

/* Fills the GPU with the replicas and runs. */
static int set_up_and_run(struct exp *x, struct fast_err *err)
{
    const struct sim_exp_conf *conf = x->conf;
    int rc = 0;
    sim_gpu_init(x->gpu, &conf->gpu, 0);
    if (conf->tokens)
        rc = fast_sched_new(&conf->sched, 0, &x->sched, err);
    for (int f = 0; !rc && f < conf->functions; f++)
        for (int i = 0; !rc && i < conf->function[f].replicas; i++)
            rc = add_replica(x, f, err);
    if (rc)
        return rc;
    run(x);
    x->ret->span_ns = x->now;
    x->ret->gpu = sim_gpu_counters(x->gpu);
    return 0;
}

int sim_exp_run(const struct sim_exp_conf *conf, struct sim_exp_result *ret, struct fast_err *err)
{
    int rc = check(conf, err);
    if (rc)
        return rc;
    memset(ret, 0, sizeof(*ret));
    for (int f = 0; f < conf->functions; f++)
        fast_hist_init(&ret->function[f].latency);
    struct sim_gpu *gpu = malloc(sim_gpu_size());
    struct exp *x = calloc(1, sizeof(*x));
    if (gpu && x) {
        *x = (struct exp){.conf = conf, .gpu = gpu, .ret = ret, .random = conf->seed * 2 + 1};
        rc = set_up_and_run(x, err);
        fast_sched_free(x->sched);
    } else {
        rc = fast_err_set(err, FAST_ENOMEM, "no memory for an experiment");
    }
    free(x);
    free(gpu);
    return rc;
}
