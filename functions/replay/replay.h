#ifndef REPLAY_REPLAY_H
#define REPLAY_REPLAY_H

/* Does to a GPU what one request of a model does: host work, copies, the model's kernels one after
 * the other without waiting, a wait for the last. What the kernels compute is nothing but a count. */

#include <stddef.h>

#include "sim/model.h"

struct replay;

struct replay_conf {
    struct sim_model model;
    int batch;           /* requests answered at once: every kernel gets that many times the blocks */
    double memory_scale; /* of the model's device memory; it is allocated, not touched */
    const char *module;  /* path of the module image, or NULL: what lies beside the executable */
};

struct replay_times {
    double gpu_ms;   /* from the first operation on the GPU to the last, by the GPU's clock */
    double total_ms; /* the whole request, by the host's */
};

/* Returns NULL with a message on failure, such as a model that does not fit in device memory. */
struct replay *replay_open(const struct replay_conf *conf, char *msg, size_t msg_size);

/* What is on the device goes with the process. NULL is fine. */
void replay_close(struct replay *replay);

/* Returns 0, or -1 with a message; the context is then not to be trusted any more. */
int replay_request(struct replay *replay, struct replay_times *ret, char *msg, size_t msg_size);

const char *replay_device(const struct replay *replay);
const char *replay_module(const struct replay *replay);

#endif
