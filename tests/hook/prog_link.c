#include <string.h>

#include "client.h"
#include "cuda/hook_proto.h"

/* Reaches the driver by linking with -lcuda: the dynamic linker binds every symbol. */

/* What has a wrapper in the hook has a prototype already. */
#define HOOKED(X)                                                                                  \
    X(cuInit) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) \
    X(cuCtxSynchronize) X(cuStreamSynchronize) X(cuStreamDestroy_v2) \
    X(cuLaunch) X(cuLaunchGrid) X(cuLaunchGridAsync) X(cuLaunchKernel) X(cuLaunchKernel_ptsz)      \
    X(cuLaunchKernelEx) X(cuLaunchKernelEx_ptsz) X(cuLaunchCooperativeKernel)                      \
    X(cuLaunchCooperativeKernel_ptsz) X(cuLaunchCooperativeKernelMultiDevice)                      \
    X(cuStreamBeginCapture_v2) X(cuStreamEndCapture) X(cuGraphLaunch) X(cuGraphLaunch_ptsz)        \
    X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemGetInfo_v2) X(cuDeviceTotalMem_v2)                     \
    X(cuMemAllocPitch_v2) X(cuMemAllocManaged) X(cuMemAllocAsync) X(cuMemAllocAsync_ptsz)          \
    X(cuMemFreeAsync) X(cuMemFreeAsync_ptsz) X(cuMemCreate) X(cuMemMap) X(cuMemUnmap)              \
    X(cuMemRelease) X(cuArrayCreate_v2) X(cuArrayDestroy) X(cuMemcpyHtoD_v2)                       \
    X(cuMemcpyHtoDAsync_v2) X(cuMemcpyDtoH_v2) X(cuMemcpyDtoH_v2_ptds) X(cuMemsetD8_v2)            \
    X(cuMemsetD8Async) X(cuGraphAddNode_v2) X(cuGraphDestroy)

#define UNHOOKED(X)                                                                                \
    X(cuModuleLoadData) X(cuModuleGetFunction) X(cuStreamCreate)       \
    X(cuFuncSetBlockShape) X(cuGraphInstantiateWithFlags) X(cuMemAddressReserve)                   \
    X(cuMemAddressFree) X(cuGraphCreate) X(cuDeviceGraphMemTrim) X(cuGraphGetNodes)

#define X(symbol) void symbol(void);
UNHOOKED(X)
#undef X

static const struct {
    const char *name;
    void *address;
} symbols[] = {
#define X(symbol) {#symbol, (void *)&(symbol)},
    HOOKED(X) UNHOOKED(X)
#undef X
};

static void *find(const char *symbol)
{
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++)
        if (!strcmp(symbols[i].name, symbol))
            return symbols[i].address;
    return NULL;
}

int main(int argc, char **argv)
{
    return client_main(find, argc, argv);
}
