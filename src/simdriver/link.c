/* The linker of the driver, as JIT compilers use it (cuLink*). Nothing here can link machine code: PTX is
 * put together as text, an image of module.h stays what it is, and device libraries say nothing. What
 * comes out is what cuModuleLoadData takes. */
#include <stdlib.h>
#include <string.h>

#include "simdriver/drv.h"

enum { IN_CUBIN = 0, IN_PTX = 1, IN_FATBINARY = 2, IN_OBJECT = 3, IN_LIBRARY = 4 };
enum { OPT_INFO_BUFFER = 3, OPT_INFO_BYTES = 4, OPT_ERROR_BUFFER = 5, OPT_ERROR_BYTES = 6 };

struct linker {
    struct handle handle;
    char *out; /* PTX, with a NUL behind it, or an image */
    size_t size;
    bool image;
    unsigned count; /* of options, which stay the caller's */
    int *options;
    void **values;
};

static struct linker *linker_get(CUlinkState handle)
{
    return handle_is(handle, H_LINKER) ? (struct linker *)handle : NULL;
}

/* The logs are empty. */
static void write_logs(const struct linker *l)
{
    for (unsigned i = 0; i < l->count; i++) {
        int o = l->options[i];
        if ((o == OPT_INFO_BUFFER || o == OPT_ERROR_BUFFER) && l->values[i])
            *(char *)l->values[i] = '\0';
        if (o == OPT_INFO_BYTES || o == OPT_ERROR_BYTES)
            l->values[i] = NULL;
    }
}

CUAPI cuLinkCreate_v2(unsigned count, int *options, void **values, CUlinkState *ret)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    if (!ret || (count && (!options || !values)))
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    struct linker *l = handle_new(H_LINKER, sizeof(*l));
    if (!l)
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    l->count = count;
    l->options = options;
    l->values = values;
    *ret = (CUlinkState)l;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuLinkCreate(unsigned count, int *options, void **values, CUlinkState *ret)
{
    return cuLinkCreate_v2(count, options, values, ret);
}

static CUresult append(struct linker *l, const char *data, size_t size, bool image)
{
    if (l->size && (image || l->image))
        return CUDA_ERROR_NOT_SUPPORTED; /* that would be linking */
    char *p = realloc(l->out, l->size + size + 2);
    if (!p)
        return CUDA_ERROR_OUT_OF_MEMORY;
    l->out = p;
    memcpy(p + l->size, data, size);
    l->size += size;
    l->image = image;
    if (!image)
        p[l->size++] = '\n';
    p[l->size] = '\0';
    return CUDA_SUCCESS;
}

static CUresult add(struct linker *l, int type, const char *data, size_t size)
{
    if (type == IN_LIBRARY)
        return size >= 8 && !memcmp(data, "!<arch>\n", 8) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
    if (type == IN_PTX) {
        size = strnlen(data, size);
        return memmem(data, size, ".version", 8) ? append(l, data, size, false) : CUDA_ERROR_INVALID_PTX;
    }
    if (type != IN_CUBIN && type != IN_OBJECT)
        return type == IN_FATBINARY ? CUDA_ERROR_NO_BINARY_FOR_GPU : CUDA_ERROR_INVALID_VALUE;
    struct image image;
    CUresult rc = size < 64 ? CUDA_ERROR_INVALID_IMAGE : image_open(data, &image);
    if (rc)
        return rc;
    bool is_ptx = image.ptx != NULL;
    image_close(&image);
    return is_ptx ? CUDA_ERROR_INVALID_IMAGE : append(l, data, size, true);
}

CUAPI cuLinkAddData_v2(CUlinkState handle, int type, void *data, size_t size, const char *name, unsigned count,
                       int *options, void **values)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    (void)name;
    (void)count;
    (void)options;
    (void)values;
    if (rc)
        return rc;
    struct linker *l = linker_get(handle);
    if (!l)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    return drv_leave(data && size ? add(l, type, data, size) : CUDA_ERROR_INVALID_VALUE);
}

CUAPI cuLinkAddData(CUlinkState handle, int type, void *data, size_t size, const char *name, unsigned count,
                    int *options, void **values)
{
    return cuLinkAddData_v2(handle, type, data, size, name, count, options, values);
}

CUAPI cuLinkAddFile_v2(CUlinkState handle, int type, const char *path, unsigned count, int *options,
                       void **values)
{
    size_t size = 0;
    char *data = path ? image_read(path, &size) : NULL;
    if (!data)
        return path ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_ERROR_INVALID_VALUE;
    CUresult rc = cuLinkAddData_v2(handle, type, data, size, path, count, options, values);
    free(data);
    return rc;
}

CUAPI cuLinkAddFile(CUlinkState handle, int type, const char *path, unsigned count, int *options, void **values)
{
    return cuLinkAddFile_v2(handle, type, path, count, options, values);
}

/* The result is good until the state is destroyed. */
CUAPI cuLinkComplete(CUlinkState handle, void **ret, size_t *ret_size)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    const struct linker *l = linker_get(handle);
    if (!l || !ret)
        return drv_leave(l ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
    write_logs(l);
    if (!l->out)
        return drv_leave(CUDA_ERROR_INVALID_VALUE);
    *ret = l->out;
    if (ret_size)
        *ret_size = l->size;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuLinkDestroy(CUlinkState handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    struct linker *l = linker_get(handle);
    if (!l)
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    free(l->out);
    handle_free(l);
    return drv_leave(CUDA_SUCCESS);
}
