#ifndef DIGITS_GPU_H
#define DIGITS_GPU_H

/* The network on a GPU: weights stay on the device, each answer is four launches on one stream. */

#include "digits/net.h"

struct gpu;

/* |module_path| may be NULL: what lies beside the executable. Refuses a module whose answer for a
 * known image differs from the CPU's. Returns NULL with a message on failure. */
struct gpu *gpu_open(const struct net *net, const char *module_path, char *msg, size_t msg_size);

/* What is on the device goes with the process. NULL is fine. */
void gpu_close(struct gpu *gpu);

/* Returns 0, or -1 with a message; the context is then not to be trusted any more. */
int gpu_infer(struct gpu *gpu, const float pixels[NET_PIXELS], float logits[NET_CLASSES],
              char *msg, size_t msg_size);

const char *gpu_name(const struct gpu *gpu);
const char *gpu_module(const struct gpu *gpu);

#endif
