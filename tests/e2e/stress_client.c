/* A CUDA program with random bursts of short kernels and random gaps in some threads, that says in a
 * shared page where it is.
 *
 * Usage: stress_client PAGE PLACE THREADS SEED */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "common/cuda_min.h"
#include "e2e/stress.h"

static struct cuda cuda;
static CUcontext context;
static CUfunction kernel;
static CUdeviceptr counter;
static struct stress_page *page;

struct worker {
    pthread_t thread;
    struct stress_thread *seen;
    unsigned seed;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void check(CUresult r, const char *what)
{
    char msg[256];
    if (!cuda_check(&cuda, r, what, msg, sizeof(msg)))
        return;
    fprintf(stderr, "stress_client: %s\n", msg);
    exit(1);
}

static void burst(struct worker *w, CUstream stream)
{
    int occupancy = 500, dram = 0, n = 1 + rand_r(&w->seed) % 6;
    unsigned long long ns = 5000 + (unsigned)rand_r(&w->seed) % 150000;
    void *params[] = {&ns, &occupancy, &dram, &counter};
    for (int i = 0; i < n; i++) {
        atomic_store(&w->seen->since_ns, now_ns());
        check(cuda.cuLaunchKernel(kernel, 4, 1, 1, 64, 1, 1, 0, stream, params, NULL), "launch");
        atomic_fetch_add(&w->seen->launches, 1);
    }
    atomic_store(&w->seen->since_ns, now_ns());
    if (rand_r(&w->seed) % 4)
        check(cuda.cuStreamSynchronize(stream), "synchronize");
    atomic_store(&w->seen->since_ns, 0);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    CUstream stream;
    check(cuda.cuCtxSetCurrent(context), "context");
    check(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "stream");
    for (;;) {
        burst(w, stream);
        unsigned gap = (unsigned)rand_r(&w->seed) % 8;
        if (gap >= 4) /* about as long as an idle client keeps its token */
            usleep((unsigned)rand_r(&w->seed) % 300);
        if (gap == 7 && !atomic_load(&page->calm))
            usleep((unsigned)rand_r(&w->seed) % 12000);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static const char *const images[] = {"spin.sim.so", NULL};
    char name[128], msg[512], path[512];
    struct worker workers[STRESS_THREADS];
    CUmodule module;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = argc == 5 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return 2;
    page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int place = atoi(argv[2]), threads = atoi(argv[3]);
    if (page == MAP_FAILED || threads < 1 || threads > STRESS_THREADS ||
        cuda_open(&cuda, CUDA_BY_DLSYM, name, sizeof(name), msg, sizeof(msg)) ||
        cuda_load_module(&cuda, getenv("SPIN_IMAGE"), images, "replay_spin", &module, path,
                         sizeof(path), msg, sizeof(msg)))
        return 3;
    check(cuda.cuModuleGetFunction(&kernel, module, "replay_spin"), "replay_spin");
    check(cuda.cuMemAlloc(&counter, 4), "cuMemAlloc");
    check(cuda.cuDevicePrimaryCtxRetain(&context, 0), "context");
    for (int i = 0; i < threads; i++) {
        workers[i] = (struct worker){.seen = &page->thread[place][i],
                                     .seed = (unsigned)atoi(argv[4]) * 31 + (unsigned)i};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            return 4;
    }
    pause();
    return 0;
}
