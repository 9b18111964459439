/* Libraries, kernels and functions: what cuLibraryLoad* adds to modules (good in every context), and
 * questions about kernels. A CUkernel and a CUfunction are the same object here. */
#include <stdlib.h>
#include <string.h>

#include "simdriver/drv.h"

CUresult cuModuleGetFunctionCount(unsigned *ret, CUmodule handle);
CUresult cuModuleEnumerateFunctions(CUfunction *ret, unsigned max, CUmodule handle);

struct function *function_get(const void *handle)
{
    return handle_is(handle, H_FUNCTION) ? (struct function *)handle : NULL;
}

static struct module *library_get(CUlibrary handle)
{
    return handle_is(handle, H_LIBRARY) ? (struct module *)handle : NULL;
}

CUAPI cuLibraryLoadData(CUlibrary *ret, const void *data, int *jit, void **jit_values,
                        unsigned jit_count, int *options, void **values, unsigned count)
{
    struct image image;
    (void)jit;
    (void)jit_values;
    (void)jit_count;
    (void)options;
    (void)values;
    (void)count;
    if (!ret || !data)
        return CUDA_ERROR_INVALID_VALUE;
    CUresult opened = image_open(data, &image);
    CUresult rc = drv_enter();
    if (rc || opened) {
        image_close(&image);
        return rc ? rc : drv_leave(opened);
    }
    struct module *m = handle_new(H_LIBRARY, sizeof(*m));
    if (!m) {
        image_close(&image);
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    m->next = drv.libraries;
    drv.libraries = m;
    rc = module_fill(m, &image);
    if (rc)
        module_unload(m);
    else
        *ret = (CUlibrary)m;
    return drv_leave(rc);
}

CUAPI cuLibraryLoadFromFile(CUlibrary *ret, const char *path, int *jit, void **jit_values,
                            unsigned jit_count, int *options, void **values, unsigned count)
{
    if (!ret || !path)
        return CUDA_ERROR_INVALID_VALUE;
    size_t size;
    char *data = image_read(path, &size);
    if (!data)
        return CUDA_ERROR_FILE_NOT_FOUND;
    CUresult rc =
        cuLibraryLoadData(ret, data, jit, jit_values, jit_count, options, values, count);
    free(data);
    return rc;
}

CUAPI cuLibraryUnload(CUlibrary handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct module *m = library_get(handle);
    if (!m)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    for (struct ctx *ctx = drv.contexts; ctx; ctx = ctx->next)
        (void)ctx_sync(ctx);
    module_unload(m);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuLibraryGetKernel(CUkernel *ret, CUlibrary handle, const char *name)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct module *m = library_get(handle);
    if (!ret || !name || !m)
        return drv_leave(m ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
    struct function *f = module_function(m, name);
    if (!f)
        return drv_leave(CUDA_ERROR_NOT_FOUND);
    *ret = (CUkernel)f;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuLibraryGetKernelCount(unsigned *ret, CUlibrary handle)
{
    return handle_is(handle, H_LIBRARY) ? cuModuleGetFunctionCount(ret, (CUmodule)handle)
                                        : CUDA_ERROR_INVALID_HANDLE;
}

CUAPI cuLibraryEnumerateKernels(CUkernel *ret, unsigned max, CUlibrary handle)
{
    return handle_is(handle, H_LIBRARY)
               ? cuModuleEnumerateFunctions((CUfunction *)ret, max, (CUmodule)handle)
               : CUDA_ERROR_INVALID_HANDLE;
}

CUAPI cuLibraryGetModule(CUmodule *ret, CUlibrary handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!ret || !library_get(handle))
        return drv_leave(ret ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE);
    *ret = (CUmodule)handle;
    return drv_leave(CUDA_SUCCESS);
}

/* Enters with a function; |ret| is where the answer goes. */
static CUresult enter_function(const void *handle, const void *ret, struct function **ret_f)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    *ret_f = function_get(handle);
    if (!*ret_f || !ret)
        return drv_leave(*ret_f ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
    return CUDA_SUCCESS;
}

CUAPI cuKernelGetFunction(CUfunction *ret, CUkernel kernel)
{
    struct function *f;
    CUresult rc = enter_function(kernel, ret, &f);
    if (rc)
        return rc;
    *ret = (CUfunction)f;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuKernelGetLibrary(CUlibrary *ret, CUkernel kernel)
{
    struct function *f;
    CUresult rc = enter_function(kernel, ret, &f);
    if (rc)
        return rc;
    *ret = (CUlibrary)f->module;
    return drv_leave(f->module->handle.type == H_LIBRARY ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE);
}

CUAPI cuFuncGetModule(CUmodule *ret, CUfunction func)
{
    struct function *f;
    CUresult rc = enter_function(func, ret, &f);
    if (rc)
        return rc;
    *ret = (CUmodule)f->module;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuFuncGetName(const char **ret, CUfunction func)
{
    struct function *f;
    CUresult rc = enter_function(func, ret, &f);
    if (rc)
        return rc;
    *ret = f->name;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuKernelGetName(const char **ret, CUkernel kernel)
{
    return cuFuncGetName(ret, (CUfunction)kernel);
}

CUAPI cuFuncGetParamInfo(CUfunction func, size_t index, size_t *ret_offset, size_t *ret_size)
{
    struct function *f;
    CUresult rc = enter_function(func, ret_offset, &f);
    if (rc)
        return rc;
    if (index >= (size_t)f->param_count)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret_offset = launch_param_offset(f, (int)index);
    if (ret_size)
        *ret_size = f->param_bytes[index];
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t *ret_offset, size_t *ret_size)
{
    return cuFuncGetParamInfo((CUfunction)kernel, index, ret_offset, ret_size);
}

CUAPI cuFuncGetAttribute(int *ret, int which, CUfunction func)
{
    struct function *f;
    CUresult rc = enter_function(func, ret, &f);
    if (rc)
        return rc;
    switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *ret = 1024;
        break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *ret = 32;
        break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *ret = 70;
        break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *ret = f->max_dynamic_shared ? f->max_dynamic_shared : SHARED_BYTES_DEFAULT;
        break;
    default:
        *ret = 0;
        rc = which < 0 || which > 15 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    }
    return drv_leave(rc);
}

CUAPI cuFuncSetAttribute(CUfunction func, int which, int value)
{
    struct function *f;
    CUresult rc = enter_function(func, &f, &f);
    if (rc)
        return rc;
    if (which == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        const struct ctx *ctx = ctx_current();
        const struct sim_gpu_conf *conf = device_conf(ctx ? ctx->device : device_of(0));
        if (value < 0 || (size_t)value > device_shared_optin(conf))
            return drv_leave(CUDA_ERROR_INVALID_VALUE);
        f->max_dynamic_shared = value;
    }
    return drv_leave(which >= 8 && which <= 15 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuKernelGetAttribute(int *ret, int which, CUkernel kernel, CUdevice dev)
{
    (void)dev;
    return cuFuncGetAttribute(ret, which, (CUfunction)kernel);
}

CUAPI cuKernelSetAttribute(int which, int value, CUkernel kernel, CUdevice dev)
{
    (void)dev;
    return cuFuncSetAttribute((CUfunction)kernel, which, value);
}

CUAPI cuFuncSetCacheConfig(CUfunction func, int config)
{
    struct function *f;
    CUresult rc = enter_function(func, &f, &f);
    (void)config;
    return rc ? rc : drv_leave(CUDA_SUCCESS);
}

CUAPI cuFuncSetSharedMemConfig(CUfunction func, int config)
{
    return cuFuncSetCacheConfig(func, config);
}

CUAPI cuKernelSetCacheConfig(CUkernel kernel, int config, CUdevice dev)
{
    (void)dev;
    return cuFuncSetCacheConfig((CUfunction)kernel, config);
}

CUAPI cuFuncIsLoaded(int *ret, CUfunction func)
{
    struct function *f;
    CUresult rc = enter_function(func, ret, &f);
    if (rc)
        return rc;
    *ret = 1; /* CU_FUNCTION_LOADING_STATE_LOADED */
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuFuncLoad(CUfunction func)
{
    return cuFuncSetCacheConfig(func, 0);
}

/* ---- occupancy ---- */

static int blocks_per_sm(const struct sim_gpu_conf *conf, int threads, size_t shared_bytes)
{
    size_t shared = device_shared_bytes(conf);
    int warps = (threads + 31) / 32;
    int n = conf->threads_per_sm / 32 / warps;
    if (n > conf->blocks_per_sm)
        n = conf->blocks_per_sm;
    if (shared_bytes && (size_t)n > shared / shared_bytes)
        n = (int)(shared / shared_bytes);
    return n;
}

CUAPI cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *ret, CUfunction func, int threads,
                                                           size_t shared_bytes, unsigned flags)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    (void)flags;
    if (rc)
        return rc;
    if (!function_get(func))
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (!ret || threads < 1)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = threads > 1024 ? 0 : blocks_per_sm(device_conf(ctx->device), threads, shared_bytes);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int *ret, CUfunction func, int threads,
                                                  size_t shared_bytes)
{
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(ret, func, threads, shared_bytes,
                                                                0);
}

/* The block size that fills an SM, and the grid that fills the GPU; the callback that makes shared
 * memory depend on the block size is asked only for the answer. */
CUAPI cuOccupancyMaxPotentialBlockSize(int *ret_grid, int *ret_block, CUfunction func,
                                       size_t (*dynamic)(int), size_t shared_bytes, int limit)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!function_get(func) || !ret_grid || !ret_block)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    const struct sim_gpu_conf *conf = device_conf(ctx->device);
    int block = limit > 0 && limit < 1024 ? limit : 1024;
    drv_leave(CUDA_SUCCESS);
    if (dynamic)
        shared_bytes = dynamic(block);
    *ret_block = block;
    *ret_grid = conf->sms * blocks_per_sm(conf, block, shared_bytes);
    return CUDA_SUCCESS;
}

CUAPI cuOccupancyMaxPotentialBlockSizeWithFlags(int *ret_grid, int *ret_block, CUfunction func,
                                                size_t (*dynamic)(int), size_t shared_bytes, int limit,
                                                unsigned flags)
{
    return flags > 1 ? CUDA_ERROR_INVALID_VALUE
                     : cuOccupancyMaxPotentialBlockSize(ret_grid, ret_block, func, dynamic, shared_bytes, limit);
}

CUAPI cuOccupancyAvailableDynamicSMemPerBlock(size_t *ret, CUfunction func, int blocks, int threads)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!function_get(func))
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    const struct sim_gpu_conf *conf = device_conf(ctx->device);
    if (!ret || blocks < 1 || threads < 1 || threads > 1024 || blocks > blocks_per_sm(conf, threads, 0))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    size_t most = device_shared_optin(conf), each = device_shared_bytes(conf) / (size_t)blocks;
    *ret = each < most ? each : most;
    return drv_leave(CUDA_SUCCESS);
}

/* ---- clusters ---- */

#define CLUSTER_MAX 8 /* that runs on every GPU with clusters */

/* Enters with a launch that may be one of clusters. */
static CUresult enter_cluster(const int *ret, CUfunction func, const CUlaunchConfig *config, struct ctx **ret_ctx)
{
    CUresult rc = drv_enter_ctx(ret_ctx);
    if (rc)
        return rc;
    if (!function_get(func))
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    if (!ret || !config || (config->numAttrs && !config->attrs))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    return device_conf((*ret_ctx)->device)->cc_major < 9 ? drv_leave(CUDA_ERROR_NOT_SUPPORTED) : CUDA_SUCCESS;
}

CUAPI cuOccupancyMaxPotentialClusterSize(int *ret, CUfunction func, const CUlaunchConfig *config)
{
    struct ctx *ctx;
    CUresult rc = enter_cluster(ret, func, config, &ctx);
    if (rc)
        return rc;
    *ret = CLUSTER_MAX;
    return drv_leave(CUDA_SUCCESS);
}

/* As if a cluster could lie on any SMs; a real one lies within a part of the GPU. */
CUAPI cuOccupancyMaxActiveClusters(int *ret, CUfunction func, const CUlaunchConfig *config)
{
    struct ctx *ctx;
    CUresult rc = enter_cluster(ret, func, config, &ctx);
    if (rc)
        return rc;
    uint64_t size = 1, threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    for (unsigned i = 0; i < config->numAttrs; i++)
        if (config->attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
            size = (uint64_t)config->attrs[i].value.clusterDim.x * config->attrs[i].value.clusterDim.y *
                   config->attrs[i].value.clusterDim.z;
    if (!size || size > CLUSTER_MAX || !threads || threads > 1024)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    int blocks = blocks_per_sm(device_conf(ctx->device), (int)threads, config->sharedMemBytes);
    *ret = (int)((uint64_t)blocks * (uint64_t)device_sms(ctx->ordinal) / size);
    return drv_leave(CUDA_SUCCESS);
}

/* ---- variables: no image has some that the host may name ---- */

CUAPI cuLibraryGetGlobal(CUdeviceptr *ret, size_t *ret_size, CUlibrary handle, const char *name)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    if (!library_get(handle))
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    return drv_leave(name && (ret || ret_size) ? CUDA_ERROR_NOT_FOUND : CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuLibraryGetManaged(CUdeviceptr *ret, size_t *ret_size, CUlibrary handle, const char *name)
{
    return cuLibraryGetGlobal(ret, ret_size, handle, name);
}

CUAPI cuLibraryGetUnifiedFunction(void **ret, CUlibrary handle, const char *name)
{
    size_t size;
    return cuLibraryGetGlobal(NULL, ret ? &size : NULL, handle, name);
}
