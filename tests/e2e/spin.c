/* A CUDA program that always has work: it launches kernels of a set length one after the other, and
 * keeps a few in flight. It knows nothing of this project; its port answers so that it counts as
 * alive.
 *
 * Usage: spin MICROSECONDS [BLOCKS [PERIOD_US FILE]]
 *
 * With a period it has work only once in that time, and writes the microseconds that each piece of work
 * took as lines into FILE. SPIN_GPUS=N in the environment: one thread does the same on each of the first N GPUs. */
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cuda_min.h"

#define IN_FLIGHT 4

static void *answer(void *arg)
{
    static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    int fd = *(int *)arg;
    for (;;) {
        char request[4096];
        int c = accept(fd, NULL, NULL);
        if (c < 0)
            continue;
        if (read(c, request, sizeof(request)) > 0 && write(c, ok, sizeof(ok) - 1) < 0)
            perror("write");
        close(c);
    }
    return NULL;
}

static int listen_on(const char *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((in_port_t)atoi(port)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    return fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 16) ? -1 : fd;
}

struct work {
    CUfunction f;
    CUdeviceptr count;
    unsigned blocks;
    unsigned long long block_ns;
    double period_us; /* 0: always */
    FILE *times;
};

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* The next piece of work is due a period after the one before was, or at once when that took longer. */
static void wait_due(double *due, double period_us)
{
    *due += period_us;
    double left = *due - now_us();
    if (left > 0)
        usleep((useconds_t)left);
    else
        *due = now_us();
}

static int spin(const struct cuda *cuda, struct work *w, char *msg, size_t msg_size)
{
    int occupancy = 500, dram = 0;
    void *params[] = {&w->block_ns, &occupancy, &dram, &w->count};
    double due = now_us();
    CUstream stream;
    int r = cuda_check(cuda, cuda->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate",
                       msg, msg_size);
    while (!r) {
        double start = now_us();
        for (int i = 0; i < IN_FLIGHT && !r; i++)
            r = cuda_check(cuda, cuda->cuLaunchKernel(w->f, w->blocks, 1, 1, 256, 1, 1, 0, stream, params, NULL),
                           "cuLaunchKernel", msg, msg_size);
        if (!r)
            r = cuda_check(cuda, cuda->cuStreamSynchronize(stream), "cuStreamSynchronize", msg, msg_size);
        if (w->times) {
            fprintf(w->times, "%.0f\n", now_us() - start);
            fflush(w->times);
            wait_due(&due, w->period_us);
        }
    }
    return r;
}

static const char *const images[] = {"spin.sim.so", "spin.fatbin", NULL};

/* In the current context. */
static int prepare(const struct cuda *cuda, struct work *w, char *msg, size_t msg_size)
{
    char path[512];
    CUmodule module;
    return cuda_load_module(cuda, getenv("SPIN_IMAGE"), images, "replay_spin", &module, path, sizeof(path), msg,
                            msg_size) ||
           cuda_check(cuda, cuda->cuModuleGetFunction(&w->f, module, "replay_spin"), "replay_spin", msg,
                      msg_size) ||
           cuda_check(cuda, cuda->cuMemAlloc(&w->count, 4), "cuMemAlloc", msg, msg_size);
}

struct further {
    const struct cuda *cuda;
    struct work work;
    int ordinal;
};

static void *spin_further(void *arg)
{
    struct further *f = arg;
    const struct cuda *cuda = f->cuda;
    char msg[512];
    CUdevice device;
    CUcontext context;
    if (!cuda_check(cuda, cuda->cuDeviceGet(&device, f->ordinal), "cuDeviceGet", msg, sizeof(msg)) &&
        !cuda_check(cuda, cuda->cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain", msg,
                    sizeof(msg)) &&
        !cuda_check(cuda, cuda->cuCtxSetCurrent(context), "cuCtxSetCurrent", msg, sizeof(msg)) &&
        !prepare(cuda, &f->work, msg, sizeof(msg)))
        spin(cuda, &f->work, msg, sizeof(msg));
    fprintf(stderr, "spin: GPU %d: %s\n", f->ordinal, msg);
    exit(1);
}

int main(int argc, char **argv)
{
    static struct further further[8];
    char name[128], msg[512];
    const char *port = getenv("PORT"), *gpus = getenv("SPIN_GPUS");
    struct cuda cuda;
    pthread_t thread;
    int fd = port ? listen_on(port) : -1;
    struct work work = {.block_ns = argc > 1 ? strtoull(argv[1], NULL, 10) * 1000 : 1000000,
                        .blocks = argc > 2 ? (unsigned)atoi(argv[2]) : 8,
                        .period_us = argc > 4 ? strtod(argv[3], NULL) : 0,
                        .times = argc > 4 ? fopen(argv[4], "w") : NULL};
    if (cuda_open(&cuda, CUDA_BY_DLSYM, name, sizeof(name), msg, sizeof(msg)) ||
        prepare(&cuda, &work, msg, sizeof(msg))) {
        fprintf(stderr, "spin: %s\n", msg);
        return 1;
    }
    if (fd >= 0 && pthread_create(&thread, NULL, answer, &fd))
        return 1;
    for (int i = 1; gpus && i < atoi(gpus) && i < 8; i++) {
        further[i] = (struct further){&cuda, work, i};
        if (pthread_create(&thread, NULL, spin_further, &further[i]))
            return 1;
    }
    spin(&cuda, &work, msg, sizeof(msg));
    fprintf(stderr, "spin: %s\n", msg);
    return 1;
}
