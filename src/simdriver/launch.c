/* Kernel launches, in all forms that the driver API has had. Parameters are copied at the launch, so
 * that the caller may change them at once, as the API promises. */
#include <stdlib.h>
#include <string.h>

#include "simdriver/drv.h"

#define DEFAULT_BLOCK_NS FAST_US(5)   /* a kernel that says nothing about its time */
#define DEFAULT_LATENCY_NS FAST_US(2)

/* A parameter is aligned to the largest power of two that divides its size, at most 16. */
static size_t align_of(size_t bytes)
{
    size_t a = bytes & (~bytes + 1);
    return a > 16 ? 16 : a ? a : 1;
}

size_t launch_param_offset(const struct function *f, int index)
{
    size_t at = 0;
    for (int i = 0;; i++) {
        size_t a = align_of(f->param_bytes[i]);
        at = (at + a - 1) / a * a;
        if (i == index)
            return at;
        at += f->param_bytes[i];
    }
}

static size_t params_size(const struct function *f)
{
    int last = f->param_count - 1;
    return last < 0 ? 0 : launch_param_offset(f, last) + f->param_bytes[last];
}

/* One block of memory: the pointers, then the values that they point to. */
static void **make_params(const struct function *f, char **ret_values)
{
    size_t pointers = ((size_t)f->param_count * sizeof(void *) + 15) & ~(size_t)15;
    void **p = malloc(pointers + params_size(f) + 16);
    if (!p)
        return NULL;
    *ret_values = (char *)p + pointers;
    for (int i = 0; i < f->param_count; i++)
        p[i] = *ret_values + launch_param_offset(f, i);
    return p;
}

void **launch_copy_params(const struct function *f, void *const *params)
{
    char *values;
    void **p = make_params(f, &values);
    for (int i = 0; p && i < f->param_count; i++)
        memcpy(p[i], params[i], f->param_bytes[i]);
    return p;
}

/* |extra|: a buffer with all values in it instead of a list of pointers. */
static CUresult read_extra(void **extra, const void **ret_buffer, size_t *ret_size)
{
    *ret_buffer = NULL;
    *ret_size = 0;
    for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER)
            *ret_buffer = extra[1];
        else if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE)
            memcpy(ret_size, extra[1], sizeof(*ret_size));
        else
            return CUDA_ERROR_INVALID_VALUE;
    }
    return *ret_buffer || !*ret_size ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult copy_values(const struct function *f, const void *buffer, size_t size, void ***ret)
{
    char *values;
    size_t need = params_size(f);
    if (size < need)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = make_params(f, &values);
    if (!*ret)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (need)
        memcpy(values, buffer, need);
    return CUDA_SUCCESS;
}

static void cost_of(struct work_kernel *k)
{
    const struct fast_sim_kernel *kernel = k->fn->kernel;
    struct fast_sim_cost cost = {.block_ns = DEFAULT_BLOCK_NS, .latency_ns = DEFAULT_LATENCY_NS};
    struct fast_sim_launch launch = {.shared_bytes = k->shared_bytes, .params = k->params};
    memcpy(launch.grid, k->grid, sizeof(launch.grid));
    memcpy(launch.block, k->block, sizeof(launch.block));
    if (kernel && kernel->cost)
        kernel->cost(&launch, &cost);
    k->model = (struct sim_kernel){
        .blocks = cost.blocks ? cost.blocks : (int64_t)k->grid[0] * k->grid[1] * k->grid[2],
        .threads_per_block = (int)(k->block[0] * k->block[1] * k->block[2]),
        .block_ns = cost.block_ns,
        .occupancy_milli = cost.occupancy_milli ? cost.occupancy_milli : 1000,
        .dram_milli = cost.dram_milli,
        .latency_ns = cost.latency_ns,
    };
}

static bool shape_valid(const unsigned grid[3], const unsigned block[3])
{
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    return grid[0] && grid[0] <= INT32_MAX && grid[1] && grid[1] <= 65535 && grid[2] &&
           grid[2] <= 65535 && block[0] <= 1024 && block[1] <= 1024 && block[2] <= 64 && threads &&
           threads <= 1024;
}

CUresult launch_build(const void *func, const unsigned grid[3], const unsigned block[3],
                      unsigned shared_bytes, void **params, void **extra, struct work *ret)
{
    struct function *f = function_get(func);
    const void *buffer;
    size_t size;
    CUresult rc = CUDA_SUCCESS;
    if (!f)
        return CUDA_ERROR_INVALID_HANDLE;
    int most = f->max_dynamic_shared ? f->max_dynamic_shared : SHARED_BYTES_DEFAULT;
    if (!shape_valid(grid, block) || shared_bytes > (unsigned)most || (params && extra))
        return CUDA_ERROR_INVALID_VALUE;
    *ret = (struct work){.kind = WORK_KERNEL};
    struct work_kernel *k = &ret->kernel;
    k->fn = f;
    memcpy(k->grid, grid, sizeof(k->grid));
    memcpy(k->block, block, sizeof(k->block));
    k->shared_bytes = shared_bytes;
    if (params && f->param_count)
        rc = (k->params = launch_copy_params(f, params)) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    else if (extra && !(rc = read_extra(extra, &buffer, &size)))
        rc = copy_values(f, buffer, size, &k->params);
    else if (f->param_count && !rc)
        rc = CUDA_ERROR_INVALID_VALUE;
    if (rc)
        return rc;
    cost_of(k);
    return CUDA_SUCCESS;
}

static CUresult launch(CUfunction func, const unsigned grid[3], const unsigned block[3],
                       unsigned shared_bytes, CUstream stream, void **params, void **extra)
{
    struct stream *s;
    struct work work;
    CUresult rc = drv_enter_stream(stream, &s);
    if (rc)
        return rc;
    rc = launch_build(func, grid, block, shared_bytes, params, extra, &work);
    return drv_leave(rc ? rc : work_submit(s, &work));
}

CUAPI cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                     unsigned bz, unsigned shared, CUstream stream, void **params, void **extra)
{
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    return launch(f, grid, block, shared, stream, params, extra);
}

CUAPI cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **params, void **extra)
{
    if (!c)
        return CUDA_ERROR_INVALID_VALUE;
    const unsigned grid[3] = {c->gridDimX, c->gridDimY, c->gridDimZ};
    const unsigned block[3] = {c->blockDimX, c->blockDimY, c->blockDimZ};
    return launch(f, grid, block, c->sharedMemBytes, c->hStream, params, extra);
}

/* All blocks of a cooperative launch must be resident at the same time. */
static bool too_large(const struct ctx *ctx, const unsigned grid[3], const unsigned block[3])
{
    const struct sim_gpu_conf *conf = device_conf(ctx->device);
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    uint64_t warps = (threads + 31) / 32;
    uint64_t fit = warps ? (uint64_t)conf->threads_per_sm / 32 / warps : 0;
    if (fit > (uint64_t)conf->blocks_per_sm)
        fit = (uint64_t)conf->blocks_per_sm;
    uint64_t sms = (uint64_t)device_sms(ctx->ordinal);
    return (uint64_t)grid[0] * grid[1] * grid[2] > fit * sms;
}

static CUresult cooperative(CUfunction f, const unsigned grid[3], const unsigned block[3],
                            unsigned shared, CUstream stream, void **params)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (shape_valid(grid, block) && too_large(ctx, grid, block))
        return drv_leave(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    drv_leave(CUDA_SUCCESS);
    return launch(f, grid, block, shared, stream, params, NULL);
}

CUAPI cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                unsigned by, unsigned bz, unsigned shared, CUstream stream,
                                void **params)
{
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    return cooperative(f, grid, block, shared, stream, params);
}

CUAPI cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *list, unsigned devices,
                                           unsigned flags)
{
    CUresult rc = CUDA_SUCCESS;
    if (!list || !devices || devices > (unsigned)drv.devices || flags & ~3u)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; i < devices && !rc; i++) {
        const CUDA_LAUNCH_PARAMS *p = &list[i];
        const unsigned grid[3] = {p->gridDimX, p->gridDimY, p->gridDimZ};
        const unsigned block[3] = {p->blockDimX, p->blockDimY, p->blockDimZ};
        /* The default streams are not allowed here. */
        if (!p->hStream || p->hStream == CU_STREAM_LEGACY || p->hStream == CU_STREAM_PER_THREAD)
            rc = CUDA_ERROR_INVALID_VALUE;
        else
            rc = cooperative(p->function, grid, block, p->sharedMemBytes, p->hStream,
                             p->kernelParams);
    }
    return rc;
}

/* ---- CUDA 2 ---- */

static CUresult enter_old(CUfunction func, struct function **ret)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    *ret = function_get(func);
    return *ret ? CUDA_SUCCESS : drv_leave(CUDA_ERROR_INVALID_HANDLE);
}

CUAPI cuFuncSetBlockShape(CUfunction func, int x, int y, int z)
{
    struct function *f;
    CUresult rc = enter_old(func, &f);
    if (rc)
        return rc;
    const unsigned one[3] = {1, 1, 1}, block[3] = {(unsigned)x, (unsigned)y, (unsigned)z};
    if (x < 1 || y < 1 || z < 1 || !shape_valid(one, block))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    memcpy(f->block, block, sizeof(f->block));
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuFuncSetSharedSize(CUfunction func, unsigned bytes)
{
    struct function *f;
    CUresult rc = enter_old(func, &f);
    if (rc)
        return rc;
    f->shared_bytes = bytes;
    return drv_leave(CUDA_SUCCESS);
}

#define OLD_PARAMS_MAX 4096

CUAPI cuParamSetSize(CUfunction func, unsigned bytes)
{
    struct function *f;
    CUresult rc = enter_old(func, &f);
    if (rc)
        return rc;
    if (bytes > OLD_PARAMS_MAX)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    f->param_size = bytes;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuParamSetv(CUfunction func, int offset, void *value, unsigned bytes)
{
    struct function *f;
    CUresult rc = enter_old(func, &f);
    if (rc)
        return rc;
    if (offset < 0 || bytes > OLD_PARAMS_MAX || (unsigned)offset > OLD_PARAMS_MAX - bytes || !value)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    if (!f->params && !(f->params = calloc(1, OLD_PARAMS_MAX)))
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    memcpy(f->params + offset, value, bytes);
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuParamSeti(CUfunction func, int offset, unsigned value)
{
    return cuParamSetv(func, offset, &value, sizeof(value));
}

CUAPI cuParamSetf(CUfunction func, int offset, float value)
{
    return cuParamSetv(func, offset, &value, sizeof(value));
}

static CUresult old_launch(CUfunction func, int gw, int gh, CUstream stream)
{
    struct function *f;
    CUresult rc = enter_old(func, &f);
    if (rc)
        return rc;
    if (gw < 1 || gh < 1)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    const unsigned grid[3] = {(unsigned)gw, (unsigned)gh, 1};
    const unsigned block[3] = {f->block[0], f->block[1], f->block[2]};
    unsigned char none[1];
    size_t size = f->param_size;
    unsigned shared = f->shared_bytes;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, f->params ? f->params : none,
                     CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
    drv_leave(CUDA_SUCCESS);
    return launch(func, grid, block, shared, stream, NULL, extra);
}

CUAPI cuLaunch(CUfunction f)
{
    return old_launch(f, 1, 1, CU_STREAM_LEGACY);
}

CUAPI cuLaunchGrid(CUfunction f, int gw, int gh)
{
    return old_launch(f, gw, gh, CU_STREAM_LEGACY);
}

CUAPI cuLaunchGridAsync(CUfunction f, int gw, int gh, CUstream stream)
{
    return old_launch(f, gw, gh, stream);
}
