#ifndef FAST_SIM_MODEL_H
#define FAST_SIM_MODEL_H

/* What one request of an inference model does to a GPU: host work, then kernels launched one after
 * the other without waiting, then a wait for the last one. Read from the small text files in
 * models/, which the simulator and functions/replay share. Pure: the caller reads the file. */

#include <stdint.h>

#include "base/err.h"
#include "base/units.h"
#include "sim/gpu.h"

#define SIM_MODEL_KERNELS_MAX 1000
#define SIM_MODEL_BYTES_MAX 65536 /* of a file */

/* A class of kernels that are alike. */
struct sim_model_class {
    int kernels;    /* of this class in one request */
    int64_t blocks; /* of one kernel */
    fast_ns block_ns;
};

struct sim_model {
    char name[32];
    uint64_t mem_bytes;     /* device memory of a replica */
    uint64_t shared_bytes;  /* of it, what replicas can share (weights); 0: unknown */
    fast_ns host_ns;        /* host time of a request before its first launch */
    fast_ns launch_ns;      /* host time before each launch, the GPU works beside it */
    struct sim_model_class small, large; /* the small kernels of a request come first */
    int threads_per_block;
    int occupancy_milli;
    int dram_milli;
    uint64_t input_bytes, output_bytes; /* copied to and from the device per request */
};

/* Parses |text|, which need not end in NUL: lines `key = value`, "#" begins a comment. Unknown and
 * missing keys, keys given twice and values out of range are refused; the message begins with
 * "line N: ". |ret| is set only on success. */
int sim_model_parse(const char *text, size_t len, struct sim_model *ret, struct fast_err *err);

/* Kernels of one request. */
int sim_model_kernels(const struct sim_model *model);

/* The |i|th kernel (from 0) and the host time before its launch. Out of range: an empty kernel. */
void sim_model_kernel(const struct sim_model *model, int i, struct sim_kernel *ret,
                      fast_ns *ret_gap);

#endif
