/* The GPU side of replay. The host time between launches is slept, not burnt: a machine that
 * simulates a GPU has few cores. */
#include "replay/replay.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/cuda_min.h"
#include "common/weights.h"

/* A shorter sleep costs more than it waits: gaps are saved up until they reach this. */
#define SLEEP_MIN_NS 60000
/* A model's memory is what a replica of it takes, its context included; this much of it is not ours
 * to allocate (an idle context on a V100 takes about 300 MiB). */
#define CONTEXT_BYTES FAST_MIB(300)
/* In front of input and output on both sides, for the count; as long as device memory is aligned. */
#define COUNT_BYTES 256

struct replay {
    struct replay_conf conf;
    struct cuda cuda;
    char name[256], module_path[4096];
    CUmodule module;
    CUfunction spin;
    CUstream stream;
    CUevent begin, end;
    CUdeviceptr weights, work; /* |work|: the count, then room for input and output */
    unsigned char *host;       /* pinned: the count, then input or output */
    size_t input, output;      /* bytes copied per request */
    unsigned expected;         /* blocks that have run since the start, modulo 2^32 */
    int64_t debt_ns;           /* host time that is still to be slept */
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Owes |ns| of host time and sleeps when enough is owed, or what is owed when |all|. What a sleep
 * takes too long is given back by the next ones, so that the sum is right. */
static void host_work(struct replay *r, int64_t ns, bool all)
{
    r->debt_ns += ns;
    if (r->debt_ns <= 0 || (r->debt_ns < SLEEP_MIN_NS && !all))
        return;
    int64_t start = now_ns(), until = start + r->debt_ns;
    struct timespec t = {until / 1000000000, until % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
    r->debt_ns -= now_ns() - start;
    if (r->debt_ns < -1000000)
        r->debt_ns = -1000000; /* a machine that stalled is not to be caught up with */
}

/* The model's weights: one copy for all replicas of this function on the GPU where there is a store,
 * else one of its own, which is not touched. */
static int allocate_weights(struct replay *r, size_t bytes, char *msg, size_t msg_size)
{
    char version[40];
    snprintf(version, sizeof(version), "replay-%zu", bytes);
    if (!bytes ||
        !weights_share(r->conf.model.name, version, NULL, bytes, &r->weights, msg, msg_size))
        return 0;
    if (*msg)
        fprintf(stderr, "replay: weights are not shared: %s\n", msg);
    return cuda_check(&r->cuda, r->cuda.cuMemAlloc(&r->weights, bytes), "cuMemAlloc (weights)", msg,
                      msg_size);
}

static int allocate(struct replay *r, char *msg, size_t msg_size)
{
    const struct sim_model *m = &r->conf.model;
    const struct cuda *cuda = &r->cuda;
    r->input = (size_t)m->input_bytes * (size_t)r->conf.batch;
    r->output = (size_t)m->output_bytes * (size_t)r->conf.batch;
    size_t buffer = COUNT_BYTES + (r->input > r->output ? r->input : r->output);
    uint64_t total = m->mem_bytes > CONTEXT_BYTES ? m->mem_bytes - CONTEXT_BYTES : 0;
    uint64_t weights = m->shared_bytes < total ? m->shared_bytes : total;
    size_t work = (size_t)((double)(total - weights) * r->conf.memory_scale);
    weights = (uint64_t)((double)weights * r->conf.memory_scale);
    work = work > buffer ? work : buffer;
    if (allocate_weights(r, weights, msg, msg_size))
        return -1;
    if (cuda_check(cuda, cuda->cuMemAlloc(&r->work, work), "cuMemAlloc (work space)", msg,
                   msg_size) ||
        cuda_check(cuda, cuda->cuMemAllocHost((void **)&r->host, buffer), "cuMemAllocHost", msg,
                   msg_size))
        return -1;
    memset(r->host, 0, buffer);
    return cuda_check(cuda, cuda->cuMemcpyHtoD(r->work, r->host, COUNT_BYTES), "cuMemcpyHtoD", msg,
                      msg_size);
}

struct replay *replay_open(const struct replay_conf *conf, char *msg, size_t msg_size)
{
    static const char *const images[] = {"spin.fatbin", "spin.sim.so", "spin.ptx", NULL};
    struct replay *r = calloc(1, sizeof(*r));
    if (!r) {
        snprintf(msg, msg_size, "out of memory");
        return NULL;
    }
    r->conf = *conf;
    prctl(PR_SET_TIMERSLACK, 1000); /* the default of 50 us would stretch every gap */
    const struct cuda *cuda = &r->cuda;
    if (cuda_open(&r->cuda, CUDA_BY_GET_PROC_ADDRESS, r->name, sizeof(r->name), msg, msg_size) ||
        cuda_load_module(cuda, conf->module, images, "replay_spin", &r->module, r->module_path,
                         sizeof(r->module_path), msg, msg_size) ||
        cuda_check(cuda, cuda->cuModuleGetFunction(&r->spin, r->module, "replay_spin"),
                   "replay_spin", msg, msg_size) ||
        cuda_check(cuda, cuda->cuStreamCreate(&r->stream, CU_STREAM_NON_BLOCKING),
                   "cuStreamCreate", msg, msg_size) ||
        cuda_check(cuda, cuda->cuEventCreate(&r->begin, 0), "cuEventCreate", msg, msg_size) ||
        cuda_check(cuda, cuda->cuEventCreate(&r->end, 0), "cuEventCreate", msg, msg_size) ||
        allocate(r, msg, msg_size)) {
        replay_close(r);
        return NULL;
    }
    return r;
}

/* The model's kernels, each after its host time; that of the request itself was spent before. The
 * time that a launch took (or was held back for) is part of the host time before the next. */
static CUresult launch_all(struct replay *r)
{
    const struct sim_model *m = &r->conf.model;
    int64_t took = 0;
    for (int i = 0; i < sim_model_kernels(m); i++) {
        struct sim_kernel k;
        fast_ns gap;
        sim_model_kernel(m, i, &k, &gap);
        gap -= i ? took : m->host_ns;
        host_work(r, gap > 0 ? gap : 0, false);
        unsigned blocks = (unsigned)(k.blocks * r->conf.batch);
        unsigned long long block_ns = (unsigned long long)k.block_ns;
        void *params[] = {&block_ns, &k.occupancy_milli, &k.dram_milli, &r->work};
        int64_t start = now_ns();
        CUresult rc = r->cuda.cuLaunchKernel(r->spin, blocks, 1, 1, (unsigned)k.threads_per_block,
                                             1, 1, 0, r->stream, params, NULL);
        if (rc)
            return rc;
        took = now_ns() - start;
        r->expected += blocks;
    }
    return CUDA_SUCCESS;
}

/* Everything of one request that goes to the stream. |*what| is the call that failed. */
static CUresult submit(struct replay *r, const char **what)
{
    const struct cuda *cuda = &r->cuda;
    *what = "cuEventRecord";
    CUresult rc = cuda->cuEventRecord(r->begin, r->stream);
    if (!rc && r->input) {
        *what = "cuMemcpyHtoDAsync";
        rc = cuda->cuMemcpyHtoDAsync(r->work + COUNT_BYTES, r->host + COUNT_BYTES, r->input,
                                     r->stream);
    }
    if (!rc) {
        *what = "cuLaunchKernel";
        rc = launch_all(r);
    }
    if (!rc) {
        *what = "cuMemcpyDtoHAsync";
        rc = cuda->cuMemcpyDtoHAsync(r->host, r->work, COUNT_BYTES + r->output, r->stream);
    }
    if (!rc) {
        *what = "cuEventRecord";
        rc = cuda->cuEventRecord(r->end, r->stream);
    }
    if (!rc) {
        *what = "cuStreamSynchronize";
        rc = cuda->cuStreamSynchronize(r->stream);
    }
    return rc;
}

int replay_request(struct replay *r, struct replay_times *ret, char *msg, size_t msg_size)
{
    const char *what = "";
    unsigned count;
    float gpu_ms = 0;
    int64_t start = now_ns();
    host_work(r, r->conf.model.host_ns, true);
    CUresult rc = submit(r, &what);
    if (cuda_check(&r->cuda, rc, what, msg, msg_size) ||
        cuda_check(&r->cuda, r->cuda.cuEventElapsedTime(&gpu_ms, r->begin, r->end),
                   "cuEventElapsedTime", msg, msg_size))
        return -1;
    memcpy(&count, r->host, sizeof(count));
    if (count != r->expected) {
        snprintf(msg, msg_size, "%u blocks ran instead of %u", count, r->expected);
        return -1;
    }
    *ret = (struct replay_times){(double)gpu_ms, (double)(now_ns() - start) / 1e6};
    return 0;
}

void replay_close(struct replay *r)
{
    free(r);
}

const char *replay_device(const struct replay *r)
{
    return r->name;
}

const char *replay_module(const struct replay *r)
{
    return r->module_path;
}
