#ifndef GPU_PROBE_H
#define GPU_PROBE_H

/* What the probes share: the driver, opened at run time so that they build without a toolkit and run
 * on the simulated driver too, and lines of JSON as the only output. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cuda/abi.h"

typedef struct CUgreenCtx_st *CUgreenCtx;
typedef struct CUdevResourceDesc_st *CUdevResourceDesc;

/* Opaque, 144 bytes; the number of SMs lies at byte 96, behind the type. */
typedef struct CUdevResource_st {
    int type;
    unsigned char pad[92];
    unsigned sm_count, sm_min, sm_align;
    unsigned char rest[36];
} CUdevResource;

/* Every entry point that a probe may call, by the exact name that the driver exports. NULL where
 * this driver has none. */
#define PROBE_CALLS(X)                                                                             \
    X(cuInit, (unsigned))                                                                          \
    X(cuDriverGetVersion, (int *))                                                                 \
    X(cuDeviceGet, (CUdevice *, int))                                                              \
    X(cuDeviceGetName, (char *, int, CUdevice))                                                    \
    X(cuDeviceGetAttribute, (int *, int, CUdevice))                                                \
    X(cuDeviceTotalMem_v2, (size_t *, CUdevice))                                                   \
    X(cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice))                                           \
    X(cuCtxSetCurrent, (CUcontext))                                                                \
    X(cuCtxSynchronize, (void))                                                                    \
    X(cuModuleLoad, (CUmodule *, const char *))                                                    \
    X(cuModuleGetFunction, (CUfunction *, CUmodule, const char *))                                 \
    X(cuLaunchKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,     \
                       unsigned, CUstream, void **, void **))                                      \
    X(cuStreamCreate, (CUstream *, unsigned))                                                      \
    X(cuStreamSynchronize, (CUstream))                                                             \
    X(cuStreamBeginCapture_v2, (CUstream, CUstreamCaptureMode))                                    \
    X(cuStreamEndCapture, (CUstream, CUgraph *))                                                   \
    X(cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long))                   \
    X(cuGraphLaunch, (CUgraphExec, CUstream))                                                      \
    X(cuEventCreate, (CUevent *, unsigned))                                                        \
    X(cuEventRecord, (CUevent, CUstream))                                                          \
    X(cuEventSynchronize, (CUevent))                                                               \
    X(cuEventElapsedTime, (float *, CUevent, CUevent))                                             \
    X(cuStreamWriteValue32_v2, (CUstream, CUdeviceptr, cuuint32_t, unsigned))                      \
    X(cuMemHostRegister_v2, (void *, size_t, unsigned))                                            \
    X(cuMemHostGetDevicePointer_v2, (CUdeviceptr *, void *, unsigned))                             \
    X(cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                      \
    X(cuMemFree_v2, (CUdeviceptr))                                                                 \
    X(cuMemsetD32_v2, (CUdeviceptr, unsigned, size_t))                                             \
    X(cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                                              \
    X(cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t))                                        \
    X(cuMemGetAllocationGranularity, (size_t *, const CUmemAllocationProp *, unsigned))            \
    X(cuMemCreate, (CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *,           \
                    unsigned long long))                                                           \
    X(cuMemExportToShareableHandle, (void *, CUmemGenericAllocationHandle, int,                    \
                                     unsigned long long))                                          \
    X(cuMemImportFromShareableHandle, (CUmemGenericAllocationHandle *, void *, int))               \
    X(cuMemAddressReserve, (CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long))       \
    X(cuMemMap, (CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long))   \
    X(cuMemSetAccess, (CUdeviceptr, size_t, const CUmemAccessDesc *, size_t))                      \
    X(cuIpcGetMemHandle, (CUipcMemHandle *, CUdeviceptr))                                          \
    X(cuIpcOpenMemHandle_v2, (CUdeviceptr *, CUipcMemHandle, unsigned))                            \
    X(cuDeviceGetDevResource, (CUdevice, CUdevResource *, int))                                    \
    X(cuDevSmResourceSplitByCount, (CUdevResource *, unsigned *, const CUdevResource *,            \
                                    CUdevResource *, unsigned, unsigned))                          \
    X(cuDevResourceGenerateDesc, (CUdevResourceDesc *, CUdevResource *, unsigned))                 \
    X(cuGreenCtxCreate, (CUgreenCtx *, CUdevResourceDesc, CUdevice, unsigned))                     \
    X(cuGreenCtxStreamCreate, (CUstream *, CUgreenCtx, unsigned, int))                             \
    X(cuGreenCtxDestroy, (CUgreenCtx))                                                             \
    X(cuCheckpointProcessGetState, (int, int *))                                                   \
    X(cuCheckpointProcessLock, (int, void *))                                                      \
    X(cuCheckpointProcessCheckpoint, (int, void *))                                                \
    X(cuCheckpointProcessRestore, (int, void *))                                                   \
    X(cuCheckpointProcessUnlock, (int, void *))                                                    \
    X(cuGetErrorName, (CUresult, const char **))

struct probe {
#define PROBE_MEMBER(name, params) CUresult(*name) params;
    PROBE_CALLS(PROBE_MEMBER)
#undef PROBE_MEMBER
    const char *self, *module; /* this program; the image with replay_spin */
    CUdevice device;
    CUcontext context;
    CUstream stream;
    CUfunction spin, smid; /* NULL: the image has none */
    CUdeviceptr count;
    int sms;
};

/* Loads the driver, makes a context, a stream and the kernels; false after a line that says why. */
bool probe_open(struct probe *p);
bool probe_load(struct probe *p); /* the driver alone */

/* One line of output each. */
void probe_number(const char *name, double value, const char *unit);
void probe_text(const char *name, const char *text);
/* The result of a call; true for success. A NULL function is told as "missing" by the caller. */
bool probe_result(const struct probe *p, const char *name, CUresult r);
bool probe_missing(const char *name, const void *const *functions, size_t count);

double probe_now_us(void);
/* |blocks| of 256 threads that keep their places for |ns|. */
CUresult probe_spin(struct probe *p, CUstream stream, unsigned blocks, unsigned long long ns);

int probe_device(struct probe *p);
int probe_costs(struct probe *p);
int probe_vmm(struct probe *p);
int probe_vmm_import(struct probe *p, int fd, size_t size, bool try_write, int uid);
int probe_ipc(struct probe *p);
int probe_ipc_import(struct probe *p, const char *hex);
int probe_checkpoint(struct probe *p);
int probe_idle(struct probe *p);
int probe_green(struct probe *p, unsigned sms);
int probe_smid(struct probe *p);
int probe_illegal(struct probe *p);

#endif
