#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda/hook_proto.h"

/* Run by bench_hook with and without the hook: "gate N", "first N" and "init" on the null driver, "lookups" on
 * the simulated one. */

typedef CUresult lookup_fn(const char *name, void **ret, int version, cuuint64_t flags,
                           CUdriverProcAddressQueryResult *status);

static const struct {
    const char *name;
    int version;
    cuuint64_t flags;
} rows[] = {
#define ROW(name, version, flags) {name, version, flags},
#include "lookups.def"
#undef ROW
};

static double now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ns per launch, the median over batches of a hundred with a synchronization behind each, as programs
 * have them. The first launch after a synchronization finds the GPU idle, begins a busy interval and
 * wakes the hook's thread: it is a figure of its own. */
static int gate(void *lib, long n, bool only_first)
{
    fast_fn_cuInit *init = (fast_fn_cuInit *)dlsym(lib, "cuInit");
    fast_fn_cuCtxSetCurrent *set = (fast_fn_cuCtxSetCurrent *)dlsym(lib, "cuCtxSetCurrent");
    fast_fn_cuLaunchKernel *launch = (fast_fn_cuLaunchKernel *)dlsym(lib, "cuLaunchKernel");
    fast_fn_cuStreamSynchronize *sync =
        (fast_fn_cuStreamSynchronize *)dlsym(lib, "cuStreamSynchronize");
    CUresult (*retain)(CUcontext *, CUdevice) =
        (CUresult(*)(CUcontext *, CUdevice))dlsym(lib, "cuDevicePrimaryCtxRetain");
    CUcontext ctx = NULL;
    if (!init || !set || !launch || !sync || !retain || init(0) || retain(&ctx, 0) || set(ctx))
        return 3;
    double *ns = calloc((size_t)n / 100 + 1, sizeof(double));
    long batches = 0;
    for (long i = -1000; ns && i < n; i += 100) {
        double first = now_ns();
        launch(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
        double start = now_ns();
        for (int k = 0; k < 100; k++)
            launch(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
        if (i >= 0)
            ns[batches++] = only_first ? start - first : (now_ns() - start) / 100;
        sync(NULL);
    }
    if (!batches)
        return 3;
    qsort(ns, (size_t)batches, sizeof(double), by_value);
    printf("%.2f\n", ns[batches / 2]);
    free(ns);
    return 0;
}

static int init(void *lib)
{
    double start = now_ns();
    fast_fn_cuInit *fn = (fast_fn_cuInit *)dlsym(lib, "cuInit");
    if (!fn || fn(0))
        return 3;
    printf("%.3f\n", (now_ns() - start) / 1e6);
    return 0;
}

/* One line a look-up: the symbol that the pointer belongs to, and 1 if it lies in the driver. */
static int lookups(void *lib)
{
    lookup_fn *fn = (lookup_fn *)dlsym(lib, "cuGetProcAddress_v2");
    for (size_t i = 0; fn && i < sizeof(rows) / sizeof(rows[0]); i++) {
        void *p = NULL;
        Dl_info info;
        fn(rows[i].name, &p, rows[i].version, rows[i].flags, NULL);
        if (!p || !dladdr(p, &info) || !info.dli_sname)
            continue;
        printf("%s %d\n", info.dli_sname, strstr(info.dli_fname, "libcuda.so") != NULL);
    }
    return fn ? 0 : 3;
}

int main(int argc, char **argv)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (!lib || argc < 2)
        return 3;
    if (!strcmp(argv[1], "gate"))
        return gate(lib, argc > 2 ? strtol(argv[2], NULL, 10) : 100000, false);
    if (!strcmp(argv[1], "first"))
        return gate(lib, argc > 2 ? strtol(argv[2], NULL, 10) : 100000, true);
    return !strcmp(argv[1], "init") ? init(lib) : lookups(lib);
}
