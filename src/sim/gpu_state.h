#ifndef FAST_SIM_GPU_STATE_H
#define FAST_SIM_GPU_STATE_H

/* The state of the GPU model, for the files gpu*.c alone. No pointers: it may lie in memory that
 * processes share, and one of them may die in the middle of an update. So no index out of it is
 * used unchecked, and every loop over it has a bound of its own. */

#include "sim/gpu.h"

#define SIM_MICRO 1000000         /* shares of an SM, and of the DRAM bandwidth, are millionths */
#define SIM_WHOLE (1ULL << 40)    /* a kernel that has not begun has this much left */
#define SIM_SPAN_MAX (1LL << 60)  /* the longest span; longer ones are cut to it */
#define SIM_OP_NS_MAX (1LL << 50) /* the longest operation at full speed: 13 days */
#define SIM_GROUPS (SIM_CLIENTS + 1)
#define SIM_GROUP_MPS SIM_CLIENTS /* all MPS clients are one group for time slicing */

enum sim_phase {
    SIM_PHASE_IDLE,   /* the head operation has not begun */
    SIM_PHASE_LAUNCH, /* a kernel before its first block, until |at| */
    SIM_PHASE_RUN,    /* a kernel or a device-to-device copy, ends at |at| at the present speed */
    SIM_PHASE_ENGINE, /* a copy that waits for its engine since |at| */
    SIM_PHASE_COPY,   /* a copy on its engine, until |at| */
    SIM_PHASE_WAIT,
    SIM_PHASE_HOLD,
};

struct sim_slot {
    struct sim_op op;
    fast_ns done_at;
    bool released; /* a hold, even before its turn */
};

struct sim_queue {
    bool used;
    int client, priority;
    int phase;      /* of the head operation, enum sim_phase */
    uint64_t submitted, done;
    fast_ns at;     /* see the phases; FAST_NEVER while it stands still */
    /* Of the head operation while it runs: */
    fast_ns since;  /* the present speed holds since then */
    fast_ns total;  /* time of the whole at the present speed; FAST_NEVER while it stands still */
    fast_ns full;   /* time of the whole when it has its partition for itself */
    uint64_t left;  /* at |since|, of SIM_WHOLE */
    int64_t sm, warps, dram; /* taken at full speed: SMs, SMs full of warps, bandwidth; millionths */
    struct sim_slot ring[SIM_RING]; /* operation |seq| lies at |seq| % SIM_RING */
};

struct sim_client {
    bool used, mps;
    int sms;
    fast_ns busy_ns;
};

struct sim_integral {
    int64_t whole;
    int64_t micro; /* 0 .. SIM_MICRO-1 */
};

struct sim_gpu {
    struct sim_gpu_conf conf;
    fast_ns now;
    fast_ns next;     /* of the next change, FAST_NEVER when nothing will change by itself */
    bool updating;    /* left behind by a process that died in an update */
    int queue_top;    /* queues from here on have never been used */

    /* Time slices. */
    int turn;         /* the group whose kernels run; -1 before the first */
    fast_ns slice_end, switch_end;

    int engine[2];    /* the queue whose copy is on the engine of a direction, -1 for none */

    /* What holds from |now| until |next|, and its integrals. */
    bool busy;
    uint64_t busy_clients; /* a bit each */
    int64_t sm, warps, dram; /* millionths */
    struct sim_integral sm_sum, warp_sum, dram_sum;
    fast_ns busy_ns;
    uint64_t kernels;

    struct sim_client clients[SIM_CLIENTS];
    struct sim_queue queues[SIM_QUEUES];
};

_Static_assert((SIM_RING & (SIM_RING - 1)) == 0, "a ring is a power of two");
_Static_assert(SIM_CLIENTS <= 64, "one bit a client");

/* |a| * |b| / |c| rounded down, or to the nearest; cut to SIM_SPAN_MAX. */
static inline int64_t sim_mul_div(int64_t a, int64_t b, int64_t c)
{
    if (c <= 0 || a <= 0 || b <= 0)
        return 0;
    __int128 v = (__int128)a * b / c;
    return v > SIM_SPAN_MAX ? SIM_SPAN_MAX : (int64_t)v;
}

static inline int64_t sim_mul_div_near(int64_t a, int64_t b, int64_t c)
{
    if (c <= 0 || a <= 0 || b <= 0)
        return 0;
    __int128 v = ((__int128)a * b + c / 2) / c;
    return v > SIM_SPAN_MAX ? SIM_SPAN_MAX : (int64_t)v;
}

static inline struct sim_slot *sim_slot(struct sim_queue *q, uint64_t seq)
{
    return &q->ring[seq & (SIM_RING - 1)];
}

static inline bool sim_queue_pending(const struct sim_queue *q)
{
    /* More than the ring holds is a state gone bad: the queue is stuck until it is removed, and
     * nobody walks through a distance of 2^64. */
    return q->done < q->submitted && q->submitted - q->done <= SIM_RING;
}

static inline struct sim_slot *sim_queue_head(struct sim_queue *q)
{
    return sim_slot(q, q->done + 1);
}

static inline int sim_queue_client(const struct sim_queue *q)
{
    return q->client >= 0 && q->client < SIM_CLIENTS ? q->client : 0;
}

static inline int sim_queue_count(const struct sim_gpu *gpu)
{
    int top = gpu->queue_top;
    return top < 0 ? 0 : top > SIM_QUEUES ? SIM_QUEUES : top;
}

/* True when the head of |q| is a kernel that runs or is about to: its group wants the GPU. */
static inline bool sim_queue_computes(struct sim_queue *q)
{
    return q->used && sim_queue_pending(q) &&
           (q->phase == SIM_PHASE_LAUNCH || q->phase == SIM_PHASE_RUN) &&
           sim_queue_head(q)->op.kind == SIM_OP_KERNEL;
}

static inline int sim_queue_group(const struct sim_gpu *gpu, const struct sim_queue *q)
{
    int client = sim_queue_client(q);
    return gpu->clients[client].mps ? SIM_GROUP_MPS : client;
}

/* gpu_rate.c: works out |full|, |sm|, |warps| and |dram| of the head operation of |q|. */
void sim_gpu_measure(struct sim_gpu *gpu, struct sim_queue *q);
/* Shares SMs and DRAM among what runs at |gpu->now|, and sets the speeds and when they end. */
void sim_gpu_rate(struct sim_gpu *gpu);

/* gpu_run.c: begins and ends whatever can begin or end at |gpu->now|; sets |gpu->next|. Calling it
 * twice is calling it once. */
void sim_gpu_settle(struct sim_gpu *gpu);
/* Time of one whole operation that has all it needs; 0 for what takes no time of its own. */
fast_ns sim_gpu_op_ns(const struct sim_gpu *gpu, int client, const struct sim_op *op);

#endif
