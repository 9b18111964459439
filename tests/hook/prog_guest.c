/* A program that treats the driver and its own process as real ones do, which a hook has to live with. It
 * prints "name=value" pairs.
 *
 * Usage: prog_guest dlclose | signals | runtimes | threads_end | cancelled | memory [FREED] | captures | jit MODULE
 *        prog_guest plugin LIBRARY | descriptors LAST */
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cuda/hook_proto.h"

#define LAUNCHES 50
#define RUNTIMES 3
#define THREADS 30
#define MINE_MAX 8

static const char image[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                            ".visible .entry work()\n{\n    ret;\n}\n";

typedef CUresult retain_fn(CUcontext *, CUdevice);
typedef CUresult current_fn(CUcontext *);
typedef CUresult load_fn(CUmodule *, const void *);
typedef CUresult function_fn(CUfunction *, CUmodule, const char *);
typedef CUresult lookup_fn(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);

/* What a program or a copy of the CUDA runtime knows of the driver. */
struct driver {
    void *lib;
    lookup_fn *lookup; /* NULL: by dlsym */
    CUfunction fn;
};

static void *find(const struct driver *d, const char *name, int version)
{
    void *p = NULL;
    if (d->lookup)
        d->lookup(name, &p, version, 0, NULL);
    else
        p = dlsym(d->lib, name);
    if (p)
        return p;
    fprintf(stderr, "prog_guest: no %s\n", name);
    exit(3);
}

static void need(CUresult r, const char *what)
{
    if (r == CUDA_SUCCESS)
        return;
    fprintf(stderr, "prog_guest: %s: %d\n", what, (int)r);
    exit(4);
}

static void begin(struct driver *d, bool by_lookup, const char *module_path)
{
    CUcontext ctx;
    CUmodule module;
    *d = (struct driver){.lib = dlopen("libcuda.so.1", RTLD_NOW)};
    if (!d->lib)
        exit(3);
    if (by_lookup)
        d->lookup = (lookup_fn *)dlsym(d->lib, "cuGetProcAddress_v2");
    need(((fast_fn_cuInit *)find(d, "cuInit", 2000))(0), "cuInit");
    need(((retain_fn *)find(d, "cuDevicePrimaryCtxRetain", 7000))(&ctx, 0), "retain");
    need(((fast_fn_cuCtxSetCurrent *)find(d, "cuCtxSetCurrent", 4000))(ctx), "cuCtxSetCurrent");
    if (module_path)
        need(((load_fn *)find(d, "cuModuleLoad", 2000))(&module, module_path), "cuModuleLoad");
    else
        need(((load_fn *)find(d, "cuModuleLoadData", 2000))(&module, image), "cuModuleLoadData");
    need(((function_fn *)find(d, "cuModuleGetFunction", 2000))(&d->fn, module, "work"), "work");
}

static void launch(const struct driver *d, int n)
{
    fast_fn_cuLaunchKernel *fn = (fast_fn_cuLaunchKernel *)find(d, "cuLaunchKernel", 4000);
    for (int i = 0; i < n; i++)
        need(fn(d->fn, 80, 1, 1, 256, 1, 1, 0, NULL, NULL, NULL), "launch");
}

static void synchronize(const struct driver *d)
{
    need(((fast_fn_cuStreamSynchronize *)find(d, "cuStreamSynchronize", 2000))(NULL), "synchronize");
}

/* The library is opened and closed again and again, by a program that has no other reference to it. */
static int do_dlclose(void)
{
    int launched = 0;
    for (int i = 0; i < 4; i++) {
        struct driver d;
        begin(&d, false, NULL);
        launch(&d, LAUNCHES);
        synchronize(&d);
        launched += LAUNCHES;
        dlclose(d.lib);
    }
    printf("launched=%d\n", launched);
    return 0;
}

/* ---- signals ---- */

static _Atomic int handled, elsewhere, sent;
static _Atomic long mine[MINE_MAX];

static void on_signal(int sig)
{
    long tid = syscall(SYS_gettid);
    (void)sig;
    atomic_fetch_add(&handled, 1);
    for (int i = 0; i < MINE_MAX; i++)
        if (atomic_load(&mine[i]) == tid)
            return;
    atomic_fetch_add(&elsewhere, 1); /* a thread that is not the program's */
}

static void *send_signals(void *arg)
{
    atomic_store(&mine[1], syscall(SYS_gettid));
    for (int i = 0; i < 200; i++) {
        kill(getpid(), SIGUSR1);
        usleep(500);
    }
    atomic_store(&sent, 1);
    return arg;
}

/* It has a handler of its own, which interrupts whatever its threads wait for. */
static int do_signals(void)
{
    struct driver d;
    struct sigaction now, was = {.sa_handler = on_signal};
    pthread_t sender;
    int launched = 0;
    atomic_store(&mine[0], syscall(SYS_gettid));
    sigaction(SIGUSR1, &was, NULL);
    begin(&d, false, NULL);
    if (pthread_create(&sender, NULL, send_signals, NULL))
        return 3;
    while (!atomic_load(&sent)) {
        launch(&d, LAUNCHES);
        synchronize(&d);
        launched += LAUNCHES;
    }
    pthread_join(sender, NULL);
    /* While no thread of the program takes it, it waits for one that does. */
    sigset_t usr1, before;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, &before);
    kill(getpid(), SIGUSR1);
    usleep(20000);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    sigaction(SIGUSR1, NULL, &now);
    printf("launched=%d handled=%d elsewhere=%d kept=%d\n", launched, atomic_load(&handled),
           atomic_load(&elsewhere), now.sa_handler == on_signal);
    return 0;
}

/* ---- several runtimes ---- */

static pthread_barrier_t together;

static void *runtime(void *arg)
{
    struct driver d;
    pthread_barrier_wait(&together);
    begin(&d, true, NULL);
    launch(&d, LAUNCHES);
    synchronize(&d);
    return arg;
}

/* Copies of the CUDA runtime that were linked into libraries: each looks up and initializes by itself. */
static int do_runtimes(void)
{
    pthread_t t[RUNTIMES];
    pthread_barrier_init(&together, NULL, RUNTIMES);
    for (int i = 0; i < RUNTIMES; i++)
        if (pthread_create(&t[i], NULL, runtime, NULL))
            return 3;
    for (int i = 0; i < RUNTIMES; i++)
        pthread_join(t[i], NULL);
    printf("launched=%d\n", RUNTIMES * LAUNCHES);
    return 0;
}

/* ---- threads that end ---- */

static struct driver shared;
static CUcontext shared_ctx;

static void *short_life(void *arg)
{
    fast_fn_cuLaunchKernel_ptsz *fn = (fast_fn_cuLaunchKernel_ptsz *)find(&shared, "cuLaunchKernel_ptsz", 7000);
    need(((fast_fn_cuCtxSetCurrent *)find(&shared, "cuCtxSetCurrent", 4000))(shared_ctx), "cuCtxSetCurrent");
    for (int i = 0; i < 5; i++)
        need(fn(shared.fn, 80, 1, 1, 256, 1, 1, 0, NULL, NULL, NULL), "launch");
    return arg; /* with work in flight, in a stream of its own */
}

static int do_threads_end(void)
{
    begin(&shared, false, NULL);
    need(((current_fn *)find(&shared, "cuCtxGetCurrent", 4000))(&shared_ctx), "current");
    for (int i = 0; i < THREADS; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, short_life, NULL))
            return 3;
        pthread_join(t, NULL);
    }
    need(((fast_fn_cuCtxSynchronize *)find(&shared, "cuCtxSynchronize", 2000))(), "synchronize");
    printf("launched=%d\n", 5 * THREADS);
    fflush(stdout);
    usleep(300000); /* idle: the token goes back */
    return 0;
}

/* ---- memory at the cap ---- */

static CUdeviceptr large;

static void *free_later(void *arg)
{
    need(((fast_fn_cuCtxSetCurrent *)find(&shared, "cuCtxSetCurrent", 4000))(shared_ctx), "cuCtxSetCurrent");
    usleep(200000);
    if (((fast_fn_cuMemFree_v2 *)find(&shared, "cuMemFree_v2", 3020))(large))
        exit(4);
    return arg;
}

/* 800 MiB are held while 600 more are wanted. With |freed| they are freed by another thread meanwhile, else
 * afterwards. Then 900 are wanted. */
static int do_memory(bool freed)
{
    pthread_t t;
    CUdeviceptr p;
    CUresult r = CUDA_SUCCESS;
    begin(&shared, false, NULL);
    need(((current_fn *)find(&shared, "cuCtxGetCurrent", 4000))(&shared_ctx), "current");
    fast_fn_cuMemAlloc_v2 *alloc = (fast_fn_cuMemAlloc_v2 *)find(&shared, "cuMemAlloc_v2", 3020);
    need(alloc(&large, 800u << 20), "alloc");
    if (!freed)
        r = alloc(&p, 600u << 20);
    if (pthread_create(&t, NULL, free_later, NULL))
        return 3;
    if (freed)
        r = alloc(&p, 600u << 20);
    pthread_join(t, NULL);
    printf("launched=0 second=%d third=%d\n", (int)r, (int)alloc(&p, 900u << 20));
    return 0;
}

/* ---- captures ---- */

typedef CUresult create_fn(CUstream *, unsigned);

/* While a stream captures, another thread or library works in the default stream, which the driver refuses where
 * the two wait for each other, and ends the capture. Prints what the driver said. */
static int do_captures(void)
{
    struct driver d;
    CUstream blocking, other;
    CUgraph graph = NULL;
    int launched = 3;
    begin(&d, false, NULL);
    create_fn *create = (create_fn *)find(&d, "cuStreamCreate", 2000);
    fast_fn_cuStreamBeginCapture_v2 *start =
        (fast_fn_cuStreamBeginCapture_v2 *)find(&d, "cuStreamBeginCapture_v2", 10010);
    fast_fn_cuStreamEndCapture *stop = (fast_fn_cuStreamEndCapture *)find(&d, "cuStreamEndCapture", 10000);
    fast_fn_cuLaunchKernel *work = (fast_fn_cuLaunchKernel *)find(&d, "cuLaunchKernel", 4000);
    need(create(&blocking, 0), "stream");
    need(create(&other, CU_STREAM_NON_BLOCKING), "stream");
    launch(&d, 1);
    need(start(blocking, CU_STREAM_CAPTURE_MODE_RELAXED), "capture");
    printf("twice=%d", (int)start(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
    printf(" implicit=%d", (int)work(d.fn, 80, 1, 1, 256, 1, 1, 0, NULL, NULL, NULL));
    printf(" invalid=%d", (int)stop(blocking, &graph));
    printf(" over=%d", (int)stop(blocking, &graph));
    launch(&d, 1);
    need(start(other, CU_STREAM_CAPTURE_MODE_RELAXED), "capture");
    need(work(d.fn, 80, 1, 1, 256, 1, 1, 0, other, NULL, NULL), "captured launch");
    launch(&d, 1); /* beside it */
    printf(" apart=%d", (int)stop(other, &graph));
    for (int i = 0; i < 2; i++, launched++) /* all captures are over */
        need(work(d.fn, 80, 1, 1, 256, 1, 1, 0, i ? other : blocking, NULL, NULL), "launch");
    synchronize(&d);
    printf(" launched=%d\n", launched);
    return 0;
}

/* A library that is to use its own copies of what it links with, not those of the program. */
static int do_plugin(const char *path)
{
    struct driver d;
    begin(&d, false, NULL);
    void *lib = dlopen(path, RTLD_NOW | RTLD_DEEPBIND);
    int (*plugin)(CUfunction, int) = lib ? (int (*)(CUfunction, int))dlsym(lib, "plugin_launch") : NULL;
    int (*bound)(void) = lib ? (int (*)(void))dlsym(lib, "plugin_is_bound_to_driver") : NULL;
    if (!plugin || !bound) {
        fprintf(stderr, "prog_guest: %s\n", dlerror());
        return 3;
    }
    launch(&d, LAUNCHES);
    int launched = LAUNCHES + plugin(d.fn, LAUNCHES);
    synchronize(&d);
    printf("launched=%d drivers_own=%d\n", launched, bound());
    return 0;
}

static int do_jit(const char *module)
{
    struct driver d;
    begin(&d, false, module);
    launch(&d, LAUNCHES);
    synchronize(&d);
    printf("launched=%d\n", LAUNCHES);
    return 0;
}

struct doomed {
    const struct driver *d;
    CUdeviceptr ptr;
    _Atomic int state; /* 1: it runs, 2: it was cancelled */
};

/* Notices that it was cancelled in the first call that may end a thread, which no call of the driver is. */
static void *doomed_thread(void *arg)
{
    struct doomed *t = arg;
    const struct driver *d = t->d;
    CUcontext ctx;
    CUdeviceptr more;
    need(((retain_fn *)find(d, "cuDevicePrimaryCtxRetain", 7000))(&ctx, 0), "retain");
    need(((fast_fn_cuCtxSetCurrent *)find(d, "cuCtxSetCurrent", 4000))(ctx), "cuCtxSetCurrent");
    atomic_store(&t->state, 1);
    while (atomic_load(&t->state) != 2)
        ;
    need(((fast_fn_cuMemFree_v2 *)find(d, "cuMemFree_v2", 3020))(t->ptr), "free");
    need(((fast_fn_cuMemAlloc_v2 *)find(d, "cuMemAlloc_v2", 3020))(&more, 4 << 20), "alloc");
    need(((fast_fn_cuMemFree_v2 *)find(d, "cuMemFree_v2", 3020))(more), "free");
    launch(d, 1); /* the last, since the simulated driver waits by the C library where it has to wait */
    atomic_store(&t->state, 3);
    for (;;)
        pause();
    return NULL;
}

static int do_cancelled(void)
{
    struct driver d;
    struct doomed t = {.d = &d};
    pthread_t thread;
    begin(&d, false, NULL);
    launch(&d, LAUNCHES);
    synchronize(&d);
    need(((fast_fn_cuMemAlloc_v2 *)find(&d, "cuMemAlloc_v2", 3020))(&t.ptr, 4 << 20), "alloc");
    if (pthread_create(&thread, NULL, doomed_thread, &t))
        return 3;
    while (atomic_load(&t.state) != 1)
        usleep(1000);
    usleep(100000); /* the token goes back meanwhile */
    pthread_cancel(thread);
    atomic_store(&t.state, 2);
    pthread_join(thread, NULL);
    launch(&d, LAUNCHES);
    synchronize(&d);
    sleep(1); /* it has no work, and wants no token */
    printf("launched=%d done=%d\n", 2 * LAUNCHES + 1, atomic_load(&t.state) == 3);
    return 0;
}

/* Sockets and the like that are not the program's own, up to |last|, become one of its own: it has closed all
 * that it did not know, and opened something else. The driver's files stay. */
static int replace_descriptors(int own, int last)
{
    char path[64], kind[64];
    int count = 0;
    for (int fd = 3; fd <= last; fd++) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, kind, sizeof(kind) - 1);
        kind[n > 0 ? n : 0] = 0;
        if (fd != own && (!strncmp(kind, "socket:", 7) || strstr(kind, "eventfd")))
            count += dup2(own, fd) == fd;
    }
    return count;
}

/* For a while there is nothing to do, which must cost nothing. */
static long idle_cpu_ms(void)
{
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    sleep(1);
    getrusage(RUSAGE_SELF, &after);
    return (after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000 +
           (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1000;
}

static int do_descriptors(int last)
{
    struct driver d;
    int pair[2];
    char foreign[64];
    begin(&d, false, NULL);
    launch(&d, LAUNCHES);
    synchronize(&d);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair))
        return 3;
    dup2(pair[1], 300); /* beyond what is replaced */
    dup2(pair[0], 301);
    close(pair[0]);
    close(pair[1]);
    int replaced = 0;
    if (last < 300)
        replaced = replace_descriptors(301, last);
    else
        for (int fd = 400; fd <= last; fd++)
            replaced += !close(fd);
    for (int i = 0; i < 5; i++) {
        launch(&d, LAUNCHES);
        synchronize(&d);
        usleep(20000);
    }
    long cpu = idle_cpu_ms();
    printf("launched=%d replaced=%d foreign=%d cpu_ms=%ld\n", 6 * LAUNCHES, replaced,
           recv(300, foreign, sizeof(foreign), MSG_DONTWAIT) > 0, cpu);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "dlclose"))
        return do_dlclose();
    if (!strcmp(what, "signals"))
        return do_signals();
    if (!strcmp(what, "runtimes"))
        return do_runtimes();
    if (!strcmp(what, "threads_end"))
        return do_threads_end();
    if (!strcmp(what, "memory"))
        return do_memory(argc > 2);
    if (!strcmp(what, "captures"))
        return do_captures();
    if (!strcmp(what, "cancelled"))
        return do_cancelled();
    if (!strcmp(what, "descriptors") && argc > 2)
        return do_descriptors(atoi(argv[2]));
    if (!strcmp(what, "plugin") && argc > 2)
        return do_plugin(argv[2]);
    return !strcmp(what, "jit") && argc > 2 ? do_jit(argv[2]) : 2;
}
