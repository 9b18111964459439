#ifndef FAST_TESTS_FAKE_NVML_H
#define FAST_TESTS_FAKE_NVML_H

/* What the fake NVML answers. A test changes it through the symbol fake_nvml of the library; a program
 * under test is told by FAKE_NVML=no-gpm. Every function counts its calls. */

enum fake_fn {
    FAKE_INIT,
    FAKE_UUID,
    FAKE_MEMORY,
    FAKE_UTIL,
    FAKE_PROCESSES,
    FAKE_ALLOC,
    FAKE_SAMPLE,
    FAKE_GET,
    FAKE_FNS
};

struct fake_process {
    unsigned pid;
    unsigned long long bytes;
    unsigned instance[2];
};

struct fake_nvml {
    unsigned calls[FAKE_FNS];
    unsigned fails[FAKE_FNS]; /* bits: call 0, 1, ... and so on fails; beyond 31 as the last bit */
    int no_gpm;
    int live; /* samples that are allocated */
    unsigned util;
    double share[11]; /* by metric, per cent */
    int result[11];
    unsigned long long used;
    struct fake_process process[2][4]; /* [1]: clients of MPS; pid 0: no more */
    void *before; /* the first of the last two samples compared */
};

#endif
