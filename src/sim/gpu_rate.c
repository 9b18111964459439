/* Decides how fast each running kernel goes: its shape on its partition (waves), then who shares the
 * SMs, then who shares the DRAM.
 *
 * Assumes that
 * - blocks go to SMs breadth first and in waves: a kernel of B blocks on P SMs that hold r blocks
 *   each takes ceil(B / (P r)) times the time of a block;
 * - within that time a kernel is a fluid: what it takes of the SMs is the mean over its waves, and
 *   when its share changes it goes on at the new speed from the fraction that it has done. Nothing
 *   is lost by the change (work-conserving), which blocks that cannot be preempted only
 *   approximate;
 * - when more SMs are wanted than there are, everyone is slowed by the same factor;
 * - DRAM bandwidth is shared max-min fairly: a kernel that wants less than its fair share keeps its
 *   speed, the memory-bound ones are slowed. A slowed kernel stays on its SMs. */

#include "sim/gpu_state.h"

static int64_t ceil_div(int64_t a, int64_t b)
{
    return b <= 0 ? 0 : a / b + (a % b != 0);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Blocks of |k| that one SM holds at once. */
static int64_t resident(const struct sim_gpu *gpu, const struct sim_kernel *k)
{
    int threads = k->threads_per_block < 1 ? 1 : k->threads_per_block;
    int64_t fit = least(gpu->conf.threads_per_sm / threads, gpu->conf.blocks_per_sm);
    return fit < 1 ? 1 : fit;
}

static int64_t waves(const struct sim_gpu *gpu, const struct sim_kernel *k, int sms)
{
    return ceil_div(k->blocks, resident(gpu, k) * (sms < 1 ? 1 : sms));
}

fast_ns sim_gpu_op_ns(const struct sim_gpu *gpu, int client, const struct sim_op *op)
{
    fast_ns span = 0;
    if (op->kind == SIM_OP_KERNEL) {
        int sms = gpu->clients[client].sms;
        span = sim_mul_div(waves(gpu, &op->kernel, sms), op->kernel.block_ns, 1);
    } else if (op->kind == SIM_OP_COPY) {
        int64_t speed = op->copy.dir == SIM_COPY_DTOD ? gpu->conf.dram_bytes_per_us
                                                      : gpu->conf.copy_bytes_per_us;
        span = sim_mul_div_near((int64_t)op->copy.bytes, 1000, speed);
    }
    return least(span, SIM_OP_NS_MAX);
}

void sim_gpu_measure(struct sim_gpu *gpu, struct sim_queue *q)
{
    const struct sim_op *op = &sim_queue_head(q)->op;
    int client = sim_queue_client(q);
    q->full = sim_gpu_op_ns(gpu, client, op);
    q->sm = q->warps = 0;
    q->dram = SIM_MICRO;
    if (op->kind != SIM_OP_KERNEL || q->full == 0)
        return;
    const struct sim_kernel *k = &op->kernel;
    int sms = gpu->clients[client].sms;
    int64_t n = waves(gpu, k, sms);
    int64_t rest = k->blocks - (n - 1) * resident(gpu, k) * sms;
    int64_t sm_waves = (n - 1) * sms + least(rest, sms);
    int64_t warps_per_sm = gpu->conf.threads_per_sm / 32;
    q->sm = sim_mul_div(sm_waves, SIM_MICRO, n);
    q->warps = sim_mul_div(k->blocks * ceil_div(k->threads_per_block, 32),
                           (int64_t)k->occupancy_milli * (SIM_MICRO / 1000), n * warps_per_sm);
    q->warps = least(q->warps, q->sm);
    /* The bytes are the same on fewer SMs, so the bandwidth is less by as much as it takes longer. */
    q->dram = sim_mul_div(waves(gpu, k, gpu->conf.sms), (int64_t)k->dram_milli * (SIM_MICRO / 1000),
                          n);
}

/* Operations that run at this moment, and how much each is slowed by sharing SMs. */
struct running {
    struct sim_queue *q;
    fast_ns total;
    int64_t dram; /* wanted at that speed */
};

/* The time of |q| when its client wants |demand| in all: a queue of higher priority is served first,
 * queues of the same priority are slowed alike. */
static fast_ns within_client(const struct running *run, int n, const struct sim_queue *q,
                             int64_t partition, int64_t demand)
{
    if (demand <= partition)
        return q->full;
    int64_t ahead = 0, same = 0;
    for (int i = 0; i < n; i++) {
        const struct sim_queue *o = run[i].q;
        if (o->client != q->client)
            continue;
        if (o->priority < q->priority)
            ahead += o->sm;
        else if (o->priority == q->priority)
            same += o->sm;
    }
    int64_t room = partition - ahead;
    if (room <= 0)
        return q->sm ? FAST_NEVER : q->full;
    return same > room ? sim_mul_div_near(q->full, same, room) : q->full;
}

/* The bandwidth that no operation goes beyond, so that all of them fit: max-min fairness. The level
 * begins at an equal share and rises by what those below it leave over. */
static int64_t dram_level(const struct running *run, int n)
{
    int64_t level = n ? SIM_MICRO / n : SIM_MICRO;
    for (int pass = 0; pass < n; pass++) {
        int64_t room = SIM_MICRO, above = 0;
        for (int i = 0; i < n; i++) {
            if (run[i].dram > level)
                above++;
            else
                room -= run[i].dram;
        }
        if (!above)
            return SIM_MICRO;
        if (room / above <= level)
            break;
        level = room / above;
    }
    return level < 1 ? 1 : level;
}

/* |q| goes at the speed at which the whole takes |total| from now on. */
static void set_speed(struct sim_gpu *gpu, struct sim_queue *q, fast_ns total)
{
    if (total == q->total)
        return;
    if (q->total != FAST_NEVER) {
        uint64_t gone = (uint64_t)sim_mul_div(gpu->now - q->since, SIM_WHOLE, q->total);
        q->left -= gone < q->left ? gone : q->left;
    }
    q->since = gpu->now;
    q->total = total;
    q->at = total == FAST_NEVER
                ? FAST_NEVER
                : gpu->now + sim_mul_div_near((int64_t)q->left, total, SIM_WHOLE);
}

/* Collects what may run now; kernels of groups without the turn stand still. */
static int collect(struct sim_gpu *gpu, struct running *run)
{
    int n = 0;
    for (int i = 0; i < sim_queue_count(gpu); i++) {
        struct sim_queue *q = &gpu->queues[i];
        if (!q->used || !sim_queue_pending(q) || q->phase != SIM_PHASE_RUN)
            continue;
        if (sim_queue_head(q)->op.kind == SIM_OP_KERNEL &&
            (sim_queue_group(gpu, q) != gpu->turn || gpu->now < gpu->switch_end))
            set_speed(gpu, q, FAST_NEVER);
        else
            run[n++].q = q;
    }
    return n;
}

/* Slows everyone by the SMs that are wanted over those that there are. */
static void share_sms(struct sim_gpu *gpu, struct running *run, int n)
{
    int64_t demand[SIM_CLIENTS] = {0}, wanted = 0, there = (int64_t)gpu->conf.sms * SIM_MICRO;
    for (int i = 0; i < n; i++)
        demand[sim_queue_client(run[i].q)] += run[i].q->sm;
    for (int c = 0; c < SIM_CLIENTS; c++) {
        int64_t partition = (int64_t)gpu->clients[c].sms * SIM_MICRO;
        wanted += least(demand[c], partition);
    }
    for (int i = 0; i < n; i++) {
        int c = sim_queue_client(run[i].q);
        fast_ns total = within_client(run, n, run[i].q, (int64_t)gpu->clients[c].sms * SIM_MICRO,
                                      demand[c]);
        if (total != FAST_NEVER && run[i].q->sm && wanted > there)
            total = sim_mul_div_near(total, wanted, there);
        run[i].total = total;
        run[i].dram = total == FAST_NEVER ? 0 : sim_mul_div(run[i].q->dram, run[i].q->full, total);
    }
}

void sim_gpu_rate(struct sim_gpu *gpu)
{
    struct running run[SIM_QUEUES];
    int n = collect(gpu, run);
    gpu->busy = false;
    gpu->busy_clients = 0;
    gpu->sm = gpu->warps = gpu->dram = 0;
    if (n == 0)
        return;
    share_sms(gpu, run, n);
    int64_t level = dram_level(run, n);
    for (int i = 0; i < n; i++) {
        struct sim_queue *q = run[i].q;
        fast_ns total = run[i].total;
        if (total != FAST_NEVER && q->sm) {
            gpu->busy = true;
            gpu->busy_clients |= 1ULL << sim_queue_client(q);
            gpu->sm += sim_mul_div_near(q->sm, q->full, total);
            gpu->warps += sim_mul_div_near(q->warps, q->full, total);
        }
        gpu->dram += least(run[i].dram, level);
        if (total != FAST_NEVER && run[i].dram > level)
            total = sim_mul_div_near(total, run[i].dram, level);
        set_speed(gpu, q, total);
    }
    /* Times are whole nanoseconds, so the shares may add up to a hair too much. */
    gpu->sm = least(gpu->sm, (int64_t)gpu->conf.sms * SIM_MICRO);
    gpu->warps = least(gpu->warps, gpu->sm);
    gpu->dram = least(gpu->dram, SIM_MICRO);
}
