#ifndef FAST_BENCH_OPENB_H
#define FAST_BENCH_OPENB_H

/* The openb trace (Alibaba cluster-trace-gpu-v2023): pods and GPU nodes. The files are not part of this
 * repository: ../shared/data/ beside it, or the folder in FAST_BENCH_DATA. */

#include <stdbool.h>
#include <stdint.h>

#define OPENB_GPUS 8 /* of one node */

struct openb_pod {
    int cpu, mem; /* thousandths of a core, MiB */
    int gpus, milli; /* number, and of each */
    uint32_t spec;   /* bit i: GPU model i will do; 0: any */
};

struct openb_node {
    int cpu, mem, gpus;
    int model; /* its number */
};

struct openb {
    struct openb_pod *pods;
    struct openb_node *nodes;
    int npods, nnodes, ngpus;
    int *share; /* milli of the pods that share a GPU */
    int sharing;
};

/* False when the files are not there or not what is expected; |why| says it. */
bool openb_read(struct openb *ret, char why[200]);
void openb_fini(struct openb *trace);

static inline int openb_sharing(const struct openb *trace, unsigned i)
{
    return trace->share[i];
}

#endif
