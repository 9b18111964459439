#ifndef FUNCTIONS_CUDA_MIN_H
#define FUNCTIONS_CUDA_MIN_H

/* The part of the CUDA driver API that the functions use, declared here so that they build without a
 * CUDA toolkit and start without a driver. Types and values are those of NVIDIA's cuda.h. */

#include <stddef.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;

#define CUDA_SUCCESS 0
#define CUDA_ERROR_OUT_OF_MEMORY 2
#define CU_STREAM_NON_BLOCKING 1

/* X(member, symbol, version, parameters): the symbol is what a program compiled against cuda.h would
 * bind to; the version is the CUDA release that introduced this form, for cuGetProcAddress. */
#define CUDA_ENTRY_POINTS(X)                                                                       \
    X(cuInit, "cuInit", 2000, (unsigned flags))                                                    \
    X(cuDeviceGet, "cuDeviceGet", 2000, (CUdevice * ret, int ordinal))                             \
    X(cuDeviceGetName, "cuDeviceGetName", 2000, (char *ret, int size, CUdevice device))            \
    X(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", 7000,                                  \
      (CUcontext * ret, CUdevice device))                                                          \
    X(cuCtxSetCurrent, "cuCtxSetCurrent", 4000, (CUcontext context))                               \
    X(cuModuleLoad, "cuModuleLoad", 2000, (CUmodule * ret, const char *path))                      \
    X(cuModuleUnload, "cuModuleUnload", 2000, (CUmodule module))                                   \
    X(cuModuleGetFunction, "cuModuleGetFunction", 2000,                                            \
      (CUfunction * ret, CUmodule module, const char *name))                                       \
    X(cuMemAlloc, "cuMemAlloc_v2", 3020, (CUdeviceptr * ret, size_t bytes))                        \
    X(cuMemFree, "cuMemFree_v2", 3020, (CUdeviceptr ptr))                                          \
    X(cuMemAllocHost, "cuMemAllocHost_v2", 3020, (void **ret, size_t bytes))                       \
    X(cuMemcpyHtoD, "cuMemcpyHtoD_v2", 3020, (CUdeviceptr to, const void *from, size_t bytes))     \
    X(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", 3020,                                             \
      (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                           \
    X(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", 3020,                                             \
      (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                                 \
    X(cuStreamCreate, "cuStreamCreate", 2000, (CUstream * ret, unsigned flags))                    \
    X(cuStreamSynchronize, "cuStreamSynchronize", 2000, (CUstream stream))                         \
    X(cuEventCreate, "cuEventCreate", 2000, (CUevent * ret, unsigned flags))                       \
    X(cuEventRecord, "cuEventRecord", 2000, (CUevent event, CUstream stream))                      \
    X(cuEventElapsedTime, "cuEventElapsedTime", 2000, (float *ret_ms, CUevent from, CUevent to))   \
    X(cuLaunchKernel, "cuLaunchKernel", 4000,                                                      \
      (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,   \
       unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **params,  \
       void **extra))                                                                              \
    X(cuGetErrorName, "cuGetErrorName", 6000, (CUresult error, const char **ret))

#define CUDA_MEMBER(member, symbol, version, params) CUresult(*member) params;

struct cuda {
    void *library;
    CUDA_ENTRY_POINTS(CUDA_MEMBER)
};

/* Two ways into the driver, as real programs use: each symbol by its exported name, or one look-up
 * of cuGetProcAddress_v2 and everything else through it (what the CUDA runtime does). */
enum cuda_lookup { CUDA_BY_DLSYM, CUDA_BY_GET_PROC_ADDRESS };

/* Loads libcuda.so.1, finds every entry point, initialises the driver and makes the primary context
 * of device 0 current. |name| gets the device's name. Returns 0, or -1 with a message. */
int cuda_open(struct cuda *cuda, enum cuda_lookup lookup, char *name, size_t name_size, char *msg,
              size_t msg_size);

/* Returns 0 when |rc| is CUDA_SUCCESS, else -1 with "|what|: CUDA_ERROR_...". */
int cuda_check(const struct cuda *cuda, CUresult rc, const char *what, char *msg, size_t msg_size);

/* Loads |module_path|, or the first of |names| (ends with NULL) beside the executable that loads and
 * has |kernel|. |path| gets what was loaded. Returns 0, or -1 with all the reasons. */
int cuda_load_module(const struct cuda *cuda, const char *module_path, const char *const *names,
                     const char *kernel, CUmodule *ret, char *path, size_t path_size, char *msg,
                     size_t msg_size);

#endif
