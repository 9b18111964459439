#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "cuda/abi.h"

/* Reaches the driver as the CUDA 13 runtime does: one dlsym for cuGetProcAddress_v2, and then all
 * its look-ups in order. What it finds is known by the name that the driver exports it under. */

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

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static void *found[ROWS];
static lookup_fn *lookup;

/* "cuLaunchKernel_ptsz" is cuLaunchKernel with flag 2; "_v2" is the newest version asked for. What
 * the runtime does not ask for (the pools' _ptsz, virtual memory) is asked for on its own. */
static void *find(const char *symbol)
{
    char base[128];
    snprintf(base, sizeof(base), "%s", symbol);
    char *ptsz = strstr(base, "_pts"), *ptds = strstr(base, "_ptds"), *v;
    cuuint64_t flags = ptsz || ptds ? 2 : 0;
    void *p = NULL;
    if (ptsz || ptds)
        *(ptsz ? ptsz : ptds) = '\0';
    v = strstr(base, "_v");
    if (v && v[2] >= '1' && v[2] <= '9')
        *v = '\0';
    int newest = -1;
    for (size_t i = 0; i < ROWS; i++)
        if (!strcmp(rows[i].name, base) && rows[i].flags == flags && rows[i].version > newest &&
            (rows[i].version < 13000 || strcmp(base, "cuCtxSynchronize") != 0)) {
            newest = rows[i].version;
            p = found[i];
        }
    if (newest < 0 && lookup(base, &p, 13000, flags, NULL) != CUDA_SUCCESS)
        return NULL;
    return p;
}

int main(int argc, char **argv)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    lookup = lib ? (lookup_fn *)dlsym(lib, "cuGetProcAddress_v2") : NULL;
    if (!lookup)
        return 3;
    int missing = 0, same = 0;
    for (size_t i = 0; i < ROWS; i++) {
        CUdriverProcAddressQueryResult status;
        if (lookup(rows[i].name, &found[i], rows[i].version, rows[i].flags, &status) ||
            (!found[i] && rows[i].name[0]))
            missing++;
        Dl_info info;
        if (found[i] && dladdr(found[i], &info) && strstr(info.dli_fname, "libcuda.so"))
            same++;
    }
    printf("lookups=%zu missing=%d drivers_own=%d\n", ROWS, missing, same);
    fflush(stdout);
    return client_main(find, argc, argv);
}
