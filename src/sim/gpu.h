#ifndef FAST_SIM_GPU_H
#define FAST_SIM_GPU_H

/* A model of one GPU in virtual time: kernels as blocks on SMs, MPS partitions, time slicing between
 * processes without MPS, DRAM contention, copies. It is pure: `now` is an argument, and the whole
 * state is one struct without pointers, so that it may lie in memory shared between processes
 * (simdriver does that) and may be copied to look ahead.
 *
 * A client is a process with a context. It has queues (streams); operations of one queue run in
 * order. The model knows nothing of tokens: whoever submits is served.
 *
 * Nothing in here is a GPU: what it answers is a simulation. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"

#define SIM_CLIENTS 64  /* contexts at once, above what MPS allows (48, 60 from CUDA 13.1) */
#define SIM_QUEUES 256  /* streams of all clients together */
#define SIM_RING 128    /* operations submitted and not complete, per queue; a power of two */

struct sim_gpu; /* sizeof by sim_gpu_size() */

struct sim_gpu_conf {
    char name[64];            /* "Tesla V100-SXM2-16GB (simulated)" */
    int sms;                  /* streaming multiprocessors */
    int threads_per_sm;       /* resident threads: 2048 */
    int blocks_per_sm;        /* resident blocks: 32 */
    int cc_major, cc_minor;   /* compute capability */
    uint64_t mem_bytes;
    int sm_granularity;       /* an MPS partition is rounded down to a multiple of this, at least it */
    fast_ns timeslice_ns;     /* between processes without MPS */
    fast_ns switch_ns;        /* cost of such a switch */
    int64_t copy_bytes_per_us; /* host link, each direction */
    int64_t dram_bytes_per_us; /* device to device copies; 100 % of DRAM */
};

struct sim_client_conf {
    bool mps;       /* shares the GPU in space with the other MPS clients */
    int sm_pct;     /* active thread percentage, 1..100; without MPS it is 100 */
};

enum sim_op_kind {
    SIM_OP_KERNEL,
    SIM_OP_COPY,  /* occupies a copy engine (or, for device-to-device, DRAM) */
    SIM_OP_WAIT,  /* waits until operation |wait_seq| of |wait_queue| is complete */
    SIM_OP_MARK,  /* takes no time; its completion time is an event's time stamp */
    SIM_OP_HOLD,  /* blocks the queue until sim_gpu_release(): a host function, a memory wait */
};

enum sim_copy_dir { SIM_COPY_HTOD, SIM_COPY_DTOH, SIM_COPY_DTOD };

struct sim_kernel {
    int64_t blocks;        /* grid size */
    int threads_per_block; /* 1..1024: with blocks_per_sm it gives the blocks that fit on an SM */
    fast_ns block_ns;      /* time of one block when it has what it needs */
    int occupancy_milli;   /* warps of one block that are active, over its warps; 1000 = all */
    int dram_milli;        /* DRAM bandwidth taken when it runs on the whole GPU, thousandths */
    fast_ns latency_ns;    /* fixed time before the first block (launch latency, tail) */
};

struct sim_op {
    enum sim_op_kind kind;
    union {
        struct sim_kernel kernel;
        struct { uint64_t bytes; enum sim_copy_dir dir; } copy;
        struct { int queue; uint64_t seq; } wait;
    };
};

/* Integrals over time since init; a share of a span comes from the difference of two of them. */
struct sim_gpu_counters {
    fast_ns at;       /* the moment they hold for */
    fast_ns busy_ns;  /* at least one kernel was running */
    fast_ns sm_ns;    /* SMs with at least one block, x ns: divide by |sms| for SM activity */
    fast_ns warp_ns;  /* active warps / warps of an SM, summed over SMs, x ns: likewise */
    fast_ns dram_ns;  /* share of the DRAM bandwidth in use, x ns */
    uint64_t kernels; /* complete */
};

size_t sim_gpu_size(void);

/* Parameters of a device by name: v100-16gb, a100-40gb, h100-80gb. The message of an unknown name
 * lists the known ones. */
int sim_gpu_conf_named(const char *name, struct sim_gpu_conf *ret, struct fast_err *err);

void sim_gpu_init(struct sim_gpu *gpu, const struct sim_gpu_conf *conf, fast_ns now);
const struct sim_gpu_conf *sim_gpu_conf(const struct sim_gpu *gpu);

/* Returns the id of the client, or -FAST_ENOROOM. */
int sim_gpu_client_add(struct sim_gpu *gpu, const struct sim_client_conf *conf, fast_ns now);
/* Everything that the client has submitted is gone at |now| (killed process). */
void sim_gpu_client_remove(struct sim_gpu *gpu, int client, fast_ns now);
/* SMs that kernels of this client can use: what attribute 16 reports to it. */
int sim_gpu_client_sms(const struct sim_gpu *gpu, int client);
fast_ns sim_gpu_client_busy_ns(const struct sim_gpu *gpu, int client);

/* Returns the id of the queue, or -FAST_ENOROOM. Lower |priority| goes first, as in CUDA. */
int sim_gpu_queue_add(struct sim_gpu *gpu, int client, int priority, fast_ns now);
/* What is not complete on it never will be; waits for it elsewhere count as met. */
void sim_gpu_queue_remove(struct sim_gpu *gpu, int queue, fast_ns now);

/* Puts |op| at the end of |queue|. Returns its sequence number (1, 2, ...), 0 when the ring of the
 * queue is full. Advances the model to |now| first. */
uint64_t sim_gpu_submit(struct sim_gpu *gpu, int queue, const struct sim_op *op, fast_ns now);

/* Ends the SIM_OP_HOLD |seq| of |queue|. */
void sim_gpu_release(struct sim_gpu *gpu, int queue, uint64_t seq, fast_ns now);

/* Runs the model up to |now|; an earlier |now| than the last one changes nothing. Cost grows with
 * the number of events in between, not with the time. */
void sim_gpu_advance(struct sim_gpu *gpu, fast_ns now);

/* The highest sequence number of |queue| that is complete (all before it are too). */
uint64_t sim_gpu_done(const struct sim_gpu *gpu, int queue);
/* When |seq| completed; exact for the last SIM_RING operations, else FAST_NEVER. */
fast_ns sim_gpu_done_at(const struct sim_gpu *gpu, int queue, uint64_t seq);
/* True when |queue| waits at a SIM_OP_HOLD; |ret_seq| is which. */
bool sim_gpu_holding(const struct sim_gpu *gpu, int queue, uint64_t *ret_seq);

/* When the model will change by itself next; FAST_NEVER when it is idle. */
fast_ns sim_gpu_next(const struct sim_gpu *gpu);
/* A moment before which |seq| of |queue| cannot be complete (it is met if nobody else runs). */
fast_ns sim_gpu_earliest(const struct sim_gpu *gpu, int queue, uint64_t seq);

struct sim_gpu_counters sim_gpu_counters(const struct sim_gpu *gpu);

/* Invariants, for tests and fuzzers. */
bool sim_gpu_valid(const struct sim_gpu *gpu);

#endif
