/* Decides what happens when: operations begin and end in the order of their queues, copy engines and
 * the time slice go from one to the next.
 *
 * Assumes that
 * - the two copy engines, one a direction, run beside kernels and other processes; the copy of the
 *   queue with the lowest priority number, then the one that waits longest, is next;
 * - processes without MPS, and all MPS clients together, take turns. A group keeps its turn until
 *   its slice is over or it has no kernel to run, but only if another group has one; a switch costs
 *   |switch_ns|, in which nothing runs. Kernels are preempted and go on later. */

#include "sim/gpu_state.h"

/* Changes that one call handles before it returns, so that even a state gone bad ends. What is left
 * over is handled by the next call. */
#define CHANGES_MAX (1 << 20)

static void complete(struct sim_gpu *gpu, struct sim_queue *q)
{
    struct sim_slot *slot = sim_queue_head(q);
    if (slot->op.kind == SIM_OP_KERNEL)
        gpu->kernels++;
    slot->done_at = gpu->now;
    q->phase = SIM_PHASE_IDLE;
    q->at = FAST_NEVER;
    q->done++;
}

static bool wait_is_met(const struct sim_gpu *gpu, const struct sim_op *op)
{
    int target = op->wait.queue;
    if (target < 0 || target >= SIM_QUEUES || !gpu->queues[target].used)
        return true;
    return gpu->queues[target].done >= op->wait.seq;
}

static void begin_run(struct sim_gpu *gpu, struct sim_queue *q)
{
    sim_gpu_measure(gpu, q);
    q->phase = SIM_PHASE_RUN;
    q->left = SIM_WHOLE;
    q->since = gpu->now;
    q->total = FAST_NEVER; /* sim_gpu_rate() sets the speed */
    q->at = q->full ? FAST_NEVER : gpu->now;
}

/* Begins the head operation of |q|. */
static void begin(struct sim_gpu *gpu, struct sim_queue *q, struct sim_slot *slot)
{
    q->at = FAST_NEVER;
    switch (slot->op.kind) {
    case SIM_OP_KERNEL:
        q->phase = SIM_PHASE_LAUNCH;
        q->at = gpu->now + slot->op.kernel.latency_ns;
        break;
    case SIM_OP_COPY:
        if (slot->op.copy.dir == SIM_COPY_DTOD) {
            begin_run(gpu, q);
            break;
        }
        q->phase = SIM_PHASE_ENGINE;
        q->at = gpu->now;
        break;
    case SIM_OP_WAIT:
        q->phase = SIM_PHASE_WAIT;
        break;
    case SIM_OP_HOLD:
        q->phase = SIM_PHASE_HOLD;
        break;
    case SIM_OP_MARK:
    default:
        complete(gpu, q);
        break;
    }
}

static void free_engine(struct sim_gpu *gpu, const struct sim_queue *q)
{
    for (int dir = 0; dir < 2; dir++)
        if (gpu->engine[dir] == (int)(q - gpu->queues))
            gpu->engine[dir] = -1;
}

/* One step of the head operation of |q|; false when it can only wait. */
static bool step(struct sim_gpu *gpu, struct sim_queue *q)
{
    struct sim_slot *slot = sim_queue_head(q);
    bool due = q->at <= gpu->now;
    switch (q->phase) {
    case SIM_PHASE_IDLE:
        begin(gpu, q, slot);
        return true;
    case SIM_PHASE_LAUNCH:
        if (due)
            begin_run(gpu, q);
        return due;
    case SIM_PHASE_RUN:
        break;
    case SIM_PHASE_ENGINE:
        return false; /* assign_engines() */
    case SIM_PHASE_COPY:
        if (due)
            free_engine(gpu, q);
        break;
    case SIM_PHASE_WAIT:
        due = wait_is_met(gpu, &slot->op);
        break;
    case SIM_PHASE_HOLD:
        due = slot->released;
        break;
    default: /* a state gone bad: the operation begins again */
        q->phase = SIM_PHASE_IDLE;
        return true;
    }
    if (due)
        complete(gpu, q);
    return due;
}

static bool step_all(struct sim_gpu *gpu)
{
    bool changed = false;
    for (int i = 0; i < sim_queue_count(gpu); i++) {
        struct sim_queue *q = &gpu->queues[i];
        /* An operation takes at most four steps. */
        for (int n = 0; n < 4 * SIM_RING && q->used && sim_queue_pending(q); n++) {
            if (!step(gpu, q))
                break;
            changed = true;
        }
    }
    return changed;
}

/* The next copy of direction |dir|, or NULL. */
static struct sim_queue *next_copy(struct sim_gpu *gpu, int dir)
{
    struct sim_queue *best = NULL;
    for (int i = 0; i < sim_queue_count(gpu); i++) {
        struct sim_queue *q = &gpu->queues[i];
        if (!q->used || !sim_queue_pending(q) || q->phase != SIM_PHASE_ENGINE ||
            (int)sim_queue_head(q)->op.copy.dir != dir)
            continue;
        if (!best || q->priority < best->priority ||
            (q->priority == best->priority && q->at < best->at))
            best = q;
    }
    return best;
}

static void assign_engines(struct sim_gpu *gpu)
{
    for (int dir = 0; dir < 2; dir++) {
        int owner = gpu->engine[dir];
        if (owner >= 0 && owner < SIM_QUEUES && gpu->queues[owner].used &&
            gpu->queues[owner].phase == SIM_PHASE_COPY)
            continue;
        struct sim_queue *q = next_copy(gpu, dir);
        gpu->engine[dir] = q ? (int)(q - gpu->queues) : -1;
        if (!q)
            continue;
        q->phase = SIM_PHASE_COPY;
        q->at = gpu->now + sim_gpu_op_ns(gpu, sim_queue_client(q), &sim_queue_head(q)->op);
    }
}

/* Gives the turn to the next group that wants it, when it is free or its slice is over. Returns
 * whether a group without the turn waits. */
static bool give_turn(struct sim_gpu *gpu)
{
    bool wants[SIM_GROUPS] = {false};
    int wanting = 0;
    for (int i = 0; i < sim_queue_count(gpu); i++) {
        struct sim_queue *q = &gpu->queues[i];
        if (!sim_queue_computes(q))
            continue;
        int group = sim_queue_group(gpu, q);
        wanting += !wants[group];
        wants[group] = true;
    }
    if (gpu->turn < -1 || gpu->turn >= SIM_GROUPS)
        gpu->turn = -1;
    bool mine = gpu->turn >= 0 && wants[gpu->turn];
    bool others = wanting > mine;
    if (gpu->now < gpu->switch_end || !others || (mine && gpu->now < gpu->slice_end))
        return others;
    for (int i = 1; i <= SIM_GROUPS; i++) {
        int group = (gpu->turn + i) % SIM_GROUPS;
        if (!wants[group] || group == gpu->turn)
            continue;
        gpu->switch_end = gpu->now + (gpu->turn < 0 ? 0 : gpu->conf.switch_ns);
        gpu->slice_end = gpu->switch_end + gpu->conf.timeslice_ns;
        gpu->turn = group;
        break;
    }
    return wanting > 1;
}

static fast_ns next_change(const struct sim_gpu *gpu, bool others)
{
    fast_ns next = FAST_NEVER;
    for (int i = 0; i < sim_queue_count(gpu); i++) {
        const struct sim_queue *q = &gpu->queues[i];
        bool timed = q->phase == SIM_PHASE_LAUNCH || q->phase == SIM_PHASE_RUN ||
                     q->phase == SIM_PHASE_COPY;
        if (q->used && sim_queue_pending(q) && timed && q->at < next)
            next = q->at;
    }
    if (gpu->switch_end > gpu->now && gpu->switch_end < next)
        next = gpu->switch_end;
    if (others && gpu->slice_end > gpu->now && gpu->slice_end < next)
        next = gpu->slice_end;
    return next;
}

void sim_gpu_settle(struct sim_gpu *gpu)
{
    /* A pass that changes nothing is the last one; every other one completes or begins something. */
    bool changed = true;
    for (int pass = 0; pass < 4 * SIM_QUEUES && changed; pass++) {
        changed = step_all(gpu);
        assign_engines(gpu);
    }
    bool others = give_turn(gpu);
    sim_gpu_rate(gpu);
    gpu->next = changed ? gpu->now : next_change(gpu, others);
}

static void add(struct sim_integral *sum, int64_t rate, fast_ns span)
{
    __int128 micro = (__int128)rate * span + sum->micro;
    sum->whole += (int64_t)(micro / SIM_MICRO);
    sum->micro = (int64_t)(micro % SIM_MICRO);
}

static void pass_time(struct sim_gpu *gpu, fast_ns until)
{
    fast_ns span = until - gpu->now;
    gpu->now = until;
    if (!gpu->busy && !gpu->dram)
        return;
    add(&gpu->sm_sum, gpu->sm, span);
    add(&gpu->warp_sum, gpu->warps, span);
    add(&gpu->dram_sum, gpu->dram, span);
    if (gpu->busy)
        gpu->busy_ns += span;
    for (uint64_t rest = gpu->busy_clients; rest; rest &= rest - 1)
        gpu->clients[__builtin_ctzll(rest)].busy_ns += span;
}

void sim_gpu_advance(struct sim_gpu *gpu, fast_ns now)
{
    if (gpu->updating)
        sim_gpu_settle(gpu); /* somebody died in here */
    gpu->updating = true;
    for (int n = 0; n < CHANGES_MAX && gpu->next <= now; n++) {
        if (gpu->next > gpu->now)
            pass_time(gpu, gpu->next);
        sim_gpu_settle(gpu);
    }
    if (now > gpu->now && gpu->next > now)
        pass_time(gpu, now);
    gpu->updating = false;
}
