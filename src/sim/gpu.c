/* The outside of the GPU model: clients, queues, what they submit, and what can be asked. What
 * happens in time is in gpu_run.c, who gets how much in gpu_rate.c.
 *
 * Assumes that whoever shares the state keeps calls apart with a lock of its own. Ids that come in
 * from outside are checked: a wrong one is ignored or answered as idle. */

#include <string.h>

#include "sim/gpu_state.h"

#define BLOCKS_MAX (1LL << 40)
#define COPY_BYTES_MAX (1ULL << 50)

size_t sim_gpu_size(void)
{
    return sizeof(struct sim_gpu);
}

void sim_gpu_init(struct sim_gpu *gpu, const struct sim_gpu_conf *conf, fast_ns now)
{
    memset(gpu, 0, offsetof(struct sim_gpu, queues));
    for (int i = 0; i < SIM_QUEUES; i++) /* the rest of a queue is cleared when it is added */
        gpu->queues[i].used = false;
    gpu->conf = *conf;
    gpu->now = now;
    gpu->next = FAST_NEVER;
    gpu->turn = -1;
    gpu->engine[0] = gpu->engine[1] = -1;
}

const struct sim_gpu_conf *sim_gpu_conf(const struct sim_gpu *gpu)
{
    return &gpu->conf;
}

static bool client_ok(const struct sim_gpu *gpu, int client)
{
    return client >= 0 && client < SIM_CLIENTS && gpu->clients[client].used;
}

static bool queue_ok(const struct sim_gpu *gpu, int queue)
{
    return queue >= 0 && queue < SIM_QUEUES && gpu->queues[queue].used;
}

static int partition_sms(const struct sim_gpu_conf *conf, const struct sim_client_conf *client)
{
    if (!client->mps || client->sm_pct >= 100)
        return conf->sms;
    int step = conf->sm_granularity < 1 ? 1 : conf->sm_granularity;
    int sms = conf->sms * (client->sm_pct < 1 ? 1 : client->sm_pct) / 100 / step * step;
    return sms < step ? step : sms;
}

int sim_gpu_client_add(struct sim_gpu *gpu, const struct sim_client_conf *conf, fast_ns now)
{
    sim_gpu_advance(gpu, now);
    for (int i = 0; i < SIM_CLIENTS; i++) {
        if (gpu->clients[i].used)
            continue;
        gpu->clients[i] = (struct sim_client){
            .used = true, .mps = conf->mps, .sms = partition_sms(&gpu->conf, conf)};
        return i;
    }
    return -FAST_ENOROOM;
}

/* Waits of others for operations of |queue| are met by its end. */
static void end_waits_for(struct sim_gpu *gpu, int queue)
{
    for (int i = 0; i < sim_queue_count(gpu); i++) {
        struct sim_queue *q = &gpu->queues[i];
        if (!q->used)
            continue;
        for (int s = 0; s < SIM_RING; s++)
            if (q->ring[s].op.kind == SIM_OP_WAIT && q->ring[s].op.wait.queue == queue)
                q->ring[s].op.wait.queue = -1;
    }
}

static void drop_queue(struct sim_gpu *gpu, int queue)
{
    for (int dir = 0; dir < 2; dir++)
        if (gpu->engine[dir] == queue)
            gpu->engine[dir] = -1;
    gpu->queues[queue].used = false;
    end_waits_for(gpu, queue);
}

void sim_gpu_client_remove(struct sim_gpu *gpu, int client, fast_ns now)
{
    if (!client_ok(gpu, client))
        return;
    sim_gpu_advance(gpu, now);
    gpu->updating = true;
    for (int i = 0; i < sim_queue_count(gpu); i++)
        if (gpu->queues[i].used && gpu->queues[i].client == client)
            drop_queue(gpu, i);
    gpu->clients[client].used = false;
    sim_gpu_settle(gpu);
    gpu->updating = false;
}

int sim_gpu_client_sms(const struct sim_gpu *gpu, int client)
{
    return client_ok(gpu, client) ? gpu->clients[client].sms : 0;
}

fast_ns sim_gpu_client_busy_ns(const struct sim_gpu *gpu, int client)
{
    return client_ok(gpu, client) ? gpu->clients[client].busy_ns : 0;
}

int sim_gpu_queue_add(struct sim_gpu *gpu, int client, int priority, fast_ns now)
{
    if (!client_ok(gpu, client))
        return -FAST_EINVAL;
    sim_gpu_advance(gpu, now);
    for (int i = 0; i < SIM_QUEUES; i++) {
        struct sim_queue *q = &gpu->queues[i];
        if (q->used)
            continue;
        memset(q, 0, sizeof(*q));
        q->client = client;
        q->priority = priority;
        q->at = FAST_NEVER;
        q->used = true;
        if (gpu->queue_top < i + 1)
            gpu->queue_top = i + 1;
        return i;
    }
    return -FAST_ENOROOM;
}

void sim_gpu_queue_remove(struct sim_gpu *gpu, int queue, fast_ns now)
{
    if (!queue_ok(gpu, queue))
        return;
    sim_gpu_advance(gpu, now);
    gpu->updating = true;
    drop_queue(gpu, queue);
    sim_gpu_settle(gpu);
    gpu->updating = false;
}

static int64_t clamp(int64_t v, int64_t min, int64_t max)
{
    return v < min ? min : v > max ? max : v;
}

/* Cuts what is out of range, so that the arithmetic cannot overflow. */
static struct sim_op tame(const struct sim_gpu *gpu, const struct sim_op *op)
{
    struct sim_op ret = *op;
    if (op->kind == SIM_OP_KERNEL) {
        struct sim_kernel *k = &ret.kernel;
        k->blocks = clamp(k->blocks, 0, BLOCKS_MAX);
        k->threads_per_block = (int)clamp(k->threads_per_block, 1, gpu->conf.threads_per_sm);
        k->block_ns = clamp(k->block_ns, 0, SIM_OP_NS_MAX);
        k->occupancy_milli = (int)clamp(k->occupancy_milli, 0, 1000);
        k->dram_milli = (int)clamp(k->dram_milli, 0, 1000);
        k->latency_ns = clamp(k->latency_ns, 0, SIM_OP_NS_MAX);
    } else if (op->kind == SIM_OP_COPY && ret.copy.bytes > COPY_BYTES_MAX) {
        ret.copy.bytes = COPY_BYTES_MAX;
    }
    return ret;
}

uint64_t sim_gpu_submit(struct sim_gpu *gpu, int queue, const struct sim_op *op, fast_ns now)
{
    if (!queue_ok(gpu, queue))
        return 0;
    sim_gpu_advance(gpu, now);
    struct sim_queue *q = &gpu->queues[queue];
    if (q->submitted - q->done >= SIM_RING)
        return 0;
    gpu->updating = true;
    uint64_t seq = q->submitted + 1;
    *sim_slot(q, seq) = (struct sim_slot){.op = tame(gpu, op), .done_at = FAST_NEVER};
    q->submitted = seq;
    if (seq == q->done + 1) /* else it waits behind others and changes nothing yet */
        sim_gpu_settle(gpu);
    gpu->updating = false;
    return seq;
}

void sim_gpu_release(struct sim_gpu *gpu, int queue, uint64_t seq, fast_ns now)
{
    if (!queue_ok(gpu, queue))
        return;
    sim_gpu_advance(gpu, now);
    struct sim_queue *q = &gpu->queues[queue];
    if (seq <= q->done || seq > q->submitted)
        return;
    gpu->updating = true;
    sim_slot(q, seq)->released = true;
    if (seq == q->done + 1)
        sim_gpu_settle(gpu);
    gpu->updating = false;
}

uint64_t sim_gpu_done(const struct sim_gpu *gpu, int queue)
{
    return queue_ok(gpu, queue) ? gpu->queues[queue].done : 0;
}

fast_ns sim_gpu_done_at(const struct sim_gpu *gpu, int queue, uint64_t seq)
{
    if (!queue_ok(gpu, queue))
        return FAST_NEVER;
    const struct sim_queue *q = &gpu->queues[queue];
    if (seq == 0 || seq > q->done || q->submitted - seq >= SIM_RING)
        return FAST_NEVER;
    return q->ring[seq & (SIM_RING - 1)].done_at;
}

bool sim_gpu_holding(const struct sim_gpu *gpu, int queue, uint64_t *ret_seq)
{
    if (!queue_ok(gpu, queue))
        return false;
    const struct sim_queue *q = &gpu->queues[queue];
    if (!sim_queue_pending(q) || q->phase != SIM_PHASE_HOLD)
        return false;
    *ret_seq = q->done + 1;
    return true;
}

fast_ns sim_gpu_next(const struct sim_gpu *gpu)
{
    return gpu->next;
}

/* What the head of |q| takes at least from now on. */
static fast_ns head_ns(const struct sim_gpu *gpu, const struct sim_queue *q)
{
    const struct sim_op *op = &q->ring[(q->done + 1) & (SIM_RING - 1)].op;
    fast_ns left = 0;
    switch (q->phase) {
    case SIM_PHASE_LAUNCH:
        return q->at - gpu->now + sim_gpu_op_ns(gpu, sim_queue_client(q), op);
    case SIM_PHASE_COPY:
        return q->at - gpu->now;
    case SIM_PHASE_RUN:
        left = sim_mul_div((int64_t)q->left, q->full, SIM_WHOLE);
        if (q->total != FAST_NEVER)
            left -= sim_mul_div(gpu->now - q->since, q->full, q->total);
        return left > 1 ? left - 1 : 0; /* two roundings */
    default:
        return sim_gpu_op_ns(gpu, sim_queue_client(q), op);
    }
}

fast_ns sim_gpu_earliest(const struct sim_gpu *gpu, int queue, uint64_t seq)
{
    if (!queue_ok(gpu, queue))
        return gpu->now;
    const struct sim_queue *q = &gpu->queues[queue];
    if (seq > q->submitted)
        return FAST_NEVER;
    if (seq <= q->done) {
        fast_ns at = sim_gpu_done_at(gpu, queue, seq);
        return at == FAST_NEVER ? gpu->now : at;
    }
    fast_ns sum = gpu->now + head_ns(gpu, q);
    for (uint64_t s = q->done + 2; s <= seq && s <= q->done + SIM_RING; s++) {
        const struct sim_op *op = &q->ring[s & (SIM_RING - 1)].op;
        fast_ns span = sim_gpu_op_ns(gpu, sim_queue_client(q), op);
        if (op->kind == SIM_OP_KERNEL)
            span += op->kernel.latency_ns;
        if (span > FAST_NEVER - 1 - sum)
            return FAST_NEVER - 1;
        sum += span;
    }
    return sum;
}

struct sim_gpu_counters sim_gpu_counters(const struct sim_gpu *gpu)
{
    return (struct sim_gpu_counters){
        .at = gpu->now,
        .busy_ns = gpu->busy_ns,
        .sm_ns = gpu->sm_sum.whole,
        .warp_ns = gpu->warp_sum.whole,
        .dram_ns = gpu->dram_sum.whole,
        .kernels = gpu->kernels,
    };
}

static bool queue_valid(const struct sim_gpu *gpu, const struct sim_queue *q)
{
    if (q->done > q->submitted || q->submitted - q->done > SIM_RING ||
        !client_ok(gpu, q->client) || q->left > SIM_WHOLE)
        return false;
    if (!sim_queue_pending(q))
        return q->phase == SIM_PHASE_IDLE;
    if (q->phase == SIM_PHASE_IDLE || q->phase > SIM_PHASE_HOLD)
        return false; /* what can begin has begun */
    if (q->phase == SIM_PHASE_LAUNCH || q->phase == SIM_PHASE_COPY)
        return q->at >= gpu->now && q->at != FAST_NEVER && gpu->next <= q->at;
    if (q->phase == SIM_PHASE_RUN)
        return q->since <= gpu->now && gpu->next <= q->at;
    return true;
}

bool sim_gpu_valid(const struct sim_gpu *gpu)
{
    if (gpu->updating || gpu->turn < -1 || gpu->turn >= SIM_GROUPS || gpu->next < gpu->now ||
        gpu->sm < 0 || gpu->sm > (int64_t)gpu->conf.sms * SIM_MICRO || gpu->warps < 0 ||
        gpu->warps > gpu->sm || gpu->dram < 0 || gpu->dram > SIM_MICRO)
        return false;
    for (int i = 0; i < SIM_QUEUES; i++)
        if (gpu->queues[i].used && (i >= gpu->queue_top || !queue_valid(gpu, &gpu->queues[i])))
            return false;
    for (int dir = 0; dir < 2; dir++) {
        int owner = gpu->engine[dir];
        if (owner != -1 && (!queue_ok(gpu, owner) || gpu->queues[owner].phase != SIM_PHASE_COPY))
            return false;
    }
    return true;
}
