#ifndef FAST_BENCH_OVERRUN_H
#define FAST_BENCH_OVERRUN_H

#include <stdatomic.h>
#include <stdint.h>

#define OVERRUN_ENDS 200000

/* When kernels ended on the GPU, in the order of their ends. */
struct overrun_page {
    _Atomic uint64_t count;
    int64_t end[OVERRUN_ENDS];
};

#endif
