#ifndef FAST_CUDA_ENTRY_H
#define FAST_CUDA_ENTRY_H

/* The table of driver entry points (entry.tbl) as C. */

#include <stddef.h>

#include "cuda/entry_gen.h"

typedef void fast_any_fn(void);

enum fast_variant {
    FAST_VARIANT_LEGACY, /* legacy default stream, or no stream at all */
    FAST_VARIANT_PTSZ,   /* per-thread default stream, asynchronous call */
    FAST_VARIANT_PTDS,   /* per-thread default stream, synchronous call */
};

/* An entry point that the hook wraps. */
struct fast_entry_info {
    const char *symbol; /* as exported: "cuMemAlloc_v2" */
    const char *base;   /* as cuGetProcAddress knows it: "cuMemAlloc" */
    enum fast_entry_class cls;
    int since; /* lowest cudaVersion that cuGetProcAddress gives it for, 0: never */
    enum fast_variant variant;
};

/* By enum fast_entry, which is sorted by symbol. */
extern const struct fast_entry_info fast_entry_hooked[FAST_ENTRY_COUNT];

/* Base names of which at least one version is wrapped, sorted: a version of them that is not in the
 * table is a leak. */
struct fast_entry_base {
    const char *base;
    enum fast_entry_class cls;
};

extern const struct fast_entry_base fast_entry_bases[];
extern const size_t fast_entry_base_count;

/* An entry point of the simulated driver. */
struct fast_entry_fn {
    const char *base, *symbol;
    int since;
    enum fast_variant variant;
    fast_any_fn *fn;
};

/* Only in the simulated driver (sim_stubs.c): all that cuGetProcAddress can answer with, sorted by
 * base, then since. */
extern const struct fast_entry_fn fast_entry_fns[];
extern const size_t fast_entry_fn_count;

/* Index of |symbol| in fast_entry_hooked, -1 if it has no wrapper. */
int fast_entry_find(const char *symbol);

/* Index of |base| in fast_entry_bases, -1 if no version of it is wrapped. */
int fast_entry_base_find(const char *base);

#endif
