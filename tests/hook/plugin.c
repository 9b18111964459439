#include <dlfcn.h>
#include <string.h>

#include "cuda/hook_proto.h"

/* A library that reaches the driver by linking with it, opened by prog_guest. */

#define EXPORT __attribute__((visibility("default")))

EXPORT int plugin_launch(CUfunction fn, int n);
EXPORT int plugin_is_bound_to_driver(void);

int plugin_launch(CUfunction fn, int n)
{
    int launched = 0;
    while (launched < n && cuLaunchKernel(fn, 80, 1, 1, 256, 1, 1, 0, NULL, NULL, NULL) == CUDA_SUCCESS)
        launched++;
    return launched;
}

int plugin_is_bound_to_driver(void)
{
    Dl_info info;
    return dladdr((void *)&cuLaunchKernel, &info) && strstr(info.dli_fname, "libcuda");
}
