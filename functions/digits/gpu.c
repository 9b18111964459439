/* Drives the network through the CUDA driver API. One stream, no waiting between the launches: the
 * host waits once, for the ten numbers that come back. */
#include "digits/gpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cuda_min.h"
#include "common/weights.h"

struct gpu {
    struct cuda cuda;
    struct net net;
    char name[256], module_path[4096];
    CUmodule module;
    CUfunction conv, pool, fc;
    CUstream stream;
    CUdeviceptr weights; /* all six tensors, as in the file */
    CUdeviceptr input, map1, map2, features, output;
};

/* Where tensor |part| of the file lies on the device. */
static CUdeviceptr on_device(const struct gpu *gpu, const float *part)
{
    return gpu->weights + (CUdeviceptr)(part - gpu->net.conv1) * sizeof(float);
}

static int allocate(struct gpu *gpu, char *msg, size_t msg_size)
{
    const struct net *net = &gpu->net;
    const struct {
        CUdeviceptr *ptr;
        size_t floats;
    } buffers[] = {{&gpu->input, NET_PIXELS},
                   {&gpu->map1, net->channels1 * NET_PIXELS},
                   {&gpu->map2, net->channels2 * NET_PIXELS},
                   {&gpu->features, net_features(net)},
                   {&gpu->output, NET_CLASSES}};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++) {
        size_t bytes = buffers[i].floats * sizeof(float);
        if (cuda_check(&gpu->cuda, gpu->cuda.cuMemAlloc(buffers[i].ptr, bytes), "cuMemAlloc", msg,
                       msg_size))
            return -1;
    }
    return 0;
}

/* One copy for all replicas of this function on the GPU, where there is a store; else one of its own. */
static int load_weights(struct gpu *gpu, char *msg, size_t msg_size)
{
    const struct cuda *cuda = &gpu->cuda;
    size_t bytes = gpu->net.floats * sizeof(float);
    if (!weights_share("digits", "", gpu->net.conv1, bytes, &gpu->weights, msg, msg_size))
        return 0;
    if (*msg)
        fprintf(stderr, "digits: weights are not shared: %s\n", msg);
    return cuda_check(cuda, cuda->cuMemAlloc(&gpu->weights, bytes), "cuMemAlloc", msg, msg_size) ||
                   cuda_check(cuda, cuda->cuMemcpyHtoD(gpu->weights, gpu->net.conv1, bytes),
                              "cuMemcpyHtoD", msg, msg_size)
               ? -1
               : 0;
}

static int find_kernels(struct gpu *gpu, char *msg, size_t msg_size)
{
    const struct {
        CUfunction *ret;
        const char *name;
    } kernels[] = {{&gpu->conv, "digits_conv_relu"},
                   {&gpu->pool, "digits_maxpool"},
                   {&gpu->fc, "digits_fc"}};
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++)
        if (cuda_check(&gpu->cuda,
                       gpu->cuda.cuModuleGetFunction(kernels[i].ret, gpu->module, kernels[i].name),
                       kernels[i].name, msg, msg_size))
            return -1;
    return 0;
}

static CUresult launch(struct gpu *gpu, CUfunction f, size_t grid, int block_x, int block_y,
                       void **params)
{
    return gpu->cuda.cuLaunchKernel(f, (unsigned)grid, 1, 1, (unsigned)block_x, (unsigned)block_y,
                                    1, 0, gpu->stream, params, NULL);
}

/* One convolution with its bias and relu. */
static CUresult launch_conv(struct gpu *gpu, CUdeviceptr in, size_t in_channels, const float *weights,
                            const float *bias, CUdeviceptr out, size_t out_channels)
{
    int channels = (int)in_channels;
    CUdeviceptr w = on_device(gpu, weights), b = on_device(gpu, bias);
    void *params[] = {&in, &w, &b, &out, &channels};
    return launch(gpu, gpu->conv, out_channels, NET_SIDE, NET_SIDE, params);
}

int gpu_infer(struct gpu *gpu, const float pixels[NET_PIXELS], float logits[NET_CLASSES],
              char *msg, size_t msg_size)
{
    const struct net *net = &gpu->net;
    const struct cuda *cuda = &gpu->cuda;
    CUdeviceptr fc = on_device(gpu, net->fc), bias3 = on_device(gpu, net->bias3);
    int features = (int)net_features(net);
    void *pool_params[] = {&gpu->map2, &gpu->features};
    void *fc_params[] = {&gpu->features, &fc, &bias3, &gpu->output, &features};
    const char *what = "cuMemcpyHtoDAsync";
    CUresult rc = cuda->cuMemcpyHtoDAsync(gpu->input, pixels, NET_PIXELS * sizeof(float),
                                          gpu->stream);
    if (!rc) {
        what = "cuLaunchKernel";
        rc = launch_conv(gpu, gpu->input, 1, net->conv1, net->bias1, gpu->map1, net->channels1);
    }
    if (!rc)
        rc = launch_conv(gpu, gpu->map1, net->channels1, net->conv2, net->bias2, gpu->map2,
                         net->channels2);
    if (!rc)
        rc = launch(gpu, gpu->pool, net->channels2, NET_SIDE / 2, NET_SIDE / 2, pool_params);
    if (!rc)
        rc = launch(gpu, gpu->fc, 1, NET_CLASSES, 1, fc_params);
    if (!rc) {
        what = "cuMemcpyDtoHAsync";
        rc = cuda->cuMemcpyDtoHAsync(logits, gpu->output, NET_CLASSES * sizeof(float), gpu->stream);
    }
    if (!rc) {
        what = "cuStreamSynchronize";
        rc = cuda->cuStreamSynchronize(gpu->stream);
    }
    return cuda_check(cuda, rc, what, msg, msg_size);
}

/* A module for another device may load and compute nothing, or something else (PTX on a device that
 * cannot run it). So the first answer is compared with the CPU's. */
static int verify(struct gpu *gpu, char *msg, size_t msg_size)
{
    float pixels[NET_PIXELS], want[NET_CLASSES], have[NET_CLASSES] = {0};
    for (int i = 0; i < NET_PIXELS; i++)
        pixels[i] = (float)(i * 7 % 17) / 16;
    net_cpu(&gpu->net, pixels, want);
    if (gpu_infer(gpu, pixels, have, msg, msg_size))
        return -1;
    for (int i = 0; i < NET_CLASSES; i++)
        if (!(fabsf(want[i] - have[i]) <= 1e-3f * (1 + fabsf(want[i])))) {
            snprintf(msg, msg_size, "%s computes %g where the CPU computes %g", gpu->module_path,
                     (double)have[i], (double)want[i]);
            return -1;
        }
    return 0;
}

struct gpu *gpu_open(const struct net *net, const char *module_path, char *msg, size_t msg_size)
{
    static const char *const images[] = {"digits.fatbin", "digits.sim.so", "digits.ptx", NULL};
    struct gpu *gpu = calloc(1, sizeof(*gpu));
    if (!gpu) {
        snprintf(msg, msg_size, "out of memory");
        return NULL;
    }
    gpu->net = *net;
    if (cuda_open(&gpu->cuda, CUDA_BY_DLSYM, gpu->name, sizeof(gpu->name), msg, msg_size) ||
        cuda_load_module(&gpu->cuda, module_path, images, "digits_fc", &gpu->module,
                         gpu->module_path, sizeof(gpu->module_path), msg, msg_size) ||
        find_kernels(gpu, msg, msg_size) || allocate(gpu, msg, msg_size) || load_weights(gpu, msg, msg_size) ||
        cuda_check(&gpu->cuda, gpu->cuda.cuStreamCreate(&gpu->stream, CU_STREAM_NON_BLOCKING),
                   "cuStreamCreate", msg, msg_size) ||
        verify(gpu, msg, msg_size)) {
        gpu_close(gpu);
        return NULL;
    }
    return gpu;
}

void gpu_close(struct gpu *gpu)
{
    free(gpu);
}

const char *gpu_name(const struct gpu *gpu)
{
    return gpu->name;
}

const char *gpu_module(const struct gpu *gpu)
{
    return gpu->module_path;
}
