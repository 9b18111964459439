/* A CUDA program that always has work and keeps four kernels in flight, as tests/e2e/spin.c does. After
 * each kernel it records an event, and so knows when the GPU was done with it, however late its own
 * threads are. These moments go into a file.
 *
 * Usage: overrun_child MICROSECONDS FILE */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "common/cuda_min.h"
#include "overrun.h"

#define IN_FLIGHT 4

static struct cuda cuda;

static void check(CUresult r, const char *what)
{
    char msg[256];
    if (!cuda_check(&cuda, r, what, msg, sizeof(msg)))
        return;
    fprintf(stderr, "overrun_child: %s\n", msg);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* An event on an idle stream is reached at once: the best of some tries says what its moment is on the
 * host's clock. */
static int64_t anchor(CUstream stream, CUevent event)
{
    for (;;) {
        int64_t from = now_ns();
        check(cuda.cuEventRecord(event, stream), "record");
        int64_t to = now_ns();
        check(cuda.cuStreamSynchronize(stream), "synchronize");
        if (to - from < 10000)
            return from + (to - from) / 2;
    }
}

static void spin(CUfunction f, unsigned long long ns, CUdeviceptr count, struct overrun_page *page)
{
    int occupancy = 500, dram = 0;
    void *params[] = {&ns, &occupancy, &dram, &count};
    CUevent base, ends[IN_FLIGHT];
    CUstream stream;
    check(cuda.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "stream");
    check(cuda.cuEventCreate(&base, 0), "event");
    for (int i = 0; i < IN_FLIGHT; i++)
        check(cuda.cuEventCreate(&ends[i], 0), "event");
    int64_t zero = anchor(stream, base);
    for (uint64_t n = 0; n + IN_FLIGHT <= OVERRUN_ENDS;) {
        for (int i = 0; i < IN_FLIGHT; i++) {
            check(cuda.cuLaunchKernel(f, 8, 1, 1, 256, 1, 1, 0, stream, params, NULL), "launch");
            check(cuda.cuEventRecord(ends[i], stream), "record");
        }
        check(cuda.cuStreamSynchronize(stream), "synchronize");
        for (int i = 0; i < IN_FLIGHT; i++) {
            float ms = 0;
            check(cuda.cuEventElapsedTime(&ms, base, ends[i]), "elapsed");
            page->end[n++] = zero + (int64_t)((double)ms * 1e6);
        }
        atomic_store(&page->count, n);
        if (n % 2000 < IN_FLIGHT)
            zero = anchor(stream, base); /* a float has no more than 24 bits */
    }
    pause();
}

int main(int argc, char **argv)
{
    static const char *const images[] = {"spin.sim.so", NULL};
    char name[128], msg[512], path[512];
    CUmodule module;
    CUfunction f;
    CUdeviceptr count;
    int fd = argc == 3 ? open(argv[2], O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return 2;
    void *page = mmap(NULL, sizeof(struct overrun_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED ||
        cuda_open(&cuda, CUDA_BY_DLSYM, name, sizeof(name), msg, sizeof(msg)) ||
        cuda_load_module(&cuda, getenv("SPIN_IMAGE"), images, "replay_spin", &module, path,
                         sizeof(path), msg, sizeof(msg)))
        return 3;
    check(cuda.cuModuleGetFunction(&f, module, "replay_spin"), "replay_spin");
    check(cuda.cuMemAlloc(&count, 4), "cuMemAlloc");
    spin(f, strtoull(argv[1], NULL, 10) * 1000, count, page);
    return 0;
}
