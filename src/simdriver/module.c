/* Modules: an image is an ELF shared object of module.h, which is loaded like any other, or PTX text.
 * Nothing here can execute PTX: its kernels take the default time and compute nothing. A real cubin
 * or fat binary has no code for a simulated GPU. */
#include <ctype.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "simdriver/drv.h"

#define EM_CUDA_ 190
#define FATBIN_MAGIC 0xba55ed50u
#define FATBIN_WRAPPER_MAGIC 0x466243b1u
#define IMAGE_MAX FAST_GIB(1)
#define PAGE 4096ull /* that a module is charged in */

struct function *module_function(const struct module *m, const char *name)
{
    for (struct function *f = m->functions; f; f = f->next)
        if (!strcmp(f->name, name))
            return f;
    return NULL;
}

static struct function *add_function(struct module *m, const char *name, size_t len, int params)
{
    struct function *f = handle_new(H_FUNCTION, sizeof(*f));
    if (!f)
        return NULL;
    f->module = m;
    f->name = strndup(name, len);
    f->param_bytes = calloc((size_t)params + 1, sizeof(*f->param_bytes));
    f->next = m->functions;
    m->functions = f;
    return f->name && f->param_bytes ? f : NULL;
}

static void free_functions(struct module *m)
{
    while (m->functions) {
        struct function *f = m->functions;
        m->functions = f->next;
        free(f->name);
        free(f->param_bytes);
        free(f->params);
        handle_free(f);
    }
}

/* ---- ELF ---- */

#define SEGMENTS_MAX 64

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

/* Copies |n| bytes of the image at |offset| to its place in the file and into |ret|. The kernel refuses to write what
 * is not mapped, where reading would be a fault. */
static bool copy_part(int fd, const unsigned char *image, uint64_t offset, void *ret, size_t n)
{
    return offset <= IMAGE_MAX && pwrite(fd, image + offset, n, (off_t)offset) == (ssize_t)n &&
           pread(fd, ret, n, (off_t)offset) == (ssize_t)n;
}

/* The end of a part of an image; above IMAGE_MAX if it cannot be. */
static uint64_t end_of(uint64_t offset, uint64_t size)
{
    return offset > IMAGE_MAX || size > IMAGE_MAX ? IMAGE_MAX + 1 : offset + size;
}

/* An image is passed without its size; an ELF file says how long it is. 0: not a valid one. */
static size_t elf_size(int fd, const unsigned char *image, const Elf64_Ehdr *e)
{
    Elf64_Phdr p[SEGMENTS_MAX];
    uint64_t end = end_of(e->e_shoff, (uint64_t)e->e_shnum * e->e_shentsize);
    if (e->e_ident[EI_CLASS] != ELFCLASS64 || e->e_phentsize != sizeof(Elf64_Phdr) || e->e_phoff > 4096 ||
        e->e_phnum > SEGMENTS_MAX || !copy_part(fd, image, e->e_phoff, p, e->e_phnum * sizeof(*p)))
        return 0;
    for (int i = 0; i < e->e_phnum; i++) {
        uint64_t at = end_of(p[i].p_offset, p[i].p_filesz);
        end = at > end ? at : end;
    }
    return end > IMAGE_MAX ? 0 : (size_t)end;
}

/* Loads a copy, so that each module has its own variables. The descriptor stays open for as long as
 * the module: the loader takes two objects with the same path for the same one. */
static CUresult open_elf(const void *image, struct image *ret)
{
    char path[64];
    Elf64_Ehdr e;
    CUresult rc = CUDA_ERROR_INVALID_IMAGE;
    ret->fd = memfd_create("fast-sim-module", MFD_CLOEXEC);
    if (ret->fd < 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", ret->fd);
    bool whole = copy_part(ret->fd, image, 0, &e, sizeof(e));
    if (whole && e.e_machine == EM_CUDA_)
        rc = CUDA_ERROR_NO_BINARY_FOR_GPU;
    else if (whole && (ret->bytes = elf_size(ret->fd, image, &e)) && write_all(ret->fd, image, ret->bytes))
        ret->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (ret->dl)
        ret->desc = dlsym(ret->dl, FAST_SIM_MODULE_SYMBOL);
    if (ret->desc && ret->desc->magic == FAST_SIM_MODULE_MAGIC)
        return CUDA_SUCCESS;
    image_close(ret);
    return rc;
}

void image_close(struct image *image)
{
    if (image->dl)
        dlclose(image->dl);
    if (image->fd >= 0)
        close(image->fd);
    image->dl = NULL;
    image->desc = NULL;
    image->fd = -1;
}

CUresult image_open(const void *data, struct image *ret)
{
    uint32_t magic;
    *ret = (struct image){.fd = -1};
    memcpy(&magic, data, sizeof(magic));
    if (magic == FATBIN_WRAPPER_MAGIC) {
        memcpy(&data, (const char *)data + 8, sizeof(data));
        memcpy(&magic, data, sizeof(magic));
    }
    if (magic == FATBIN_MAGIC)
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (!memcmp(data, ELFMAG, SELFMAG))
        return open_elf(data, ret);
    if (strstr(data, ".version") && strstr(data, ".target")) {
        ret->ptx = data;
        ret->bytes = strlen(data);
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_IMAGE;
}

/* ---- PTX ---- */

static size_t type_bytes(const char *type)
{
    size_t bits = 0;
    while (*type && !isdigit((unsigned char)*type))
        type++;
    bits = strtoul(type, NULL, 10);
    return bits ? bits / 8 : 1;
}

/* ".param .align 8 .b8 name[24]": the bytes of one parameter, |text| up to |end|. */
static uint16_t param_size(const char *text, const char *end)
{
    size_t bytes = 0, count = 1;
    for (const char *p = text; p < end; p++) {
        if (!strncmp(p, ".align", 6)) {
            p += 6;
            while (p < end && (isspace((unsigned char)*p) || isdigit((unsigned char)*p)))
                p++;
            p--;
        } else if (*p == '.' && strchr("busf", p[1]) && isdigit((unsigned char)p[2])) {
            bytes = type_bytes(p);
        } else if (*p == '[') {
            count = strtoul(p + 1, NULL, 10);
        }
    }
    return (uint16_t)(bytes * count);
}

static const char *word(const char *p, size_t *ret_len)
{
    while (isspace((unsigned char)*p))
        p++;
    *ret_len = strcspn(p, " \t\r\n(){");
    return p;
}

/* Enters every ".entry name(parameters)". */
static CUresult read_ptx(struct module *m, const char *text)
{
    for (const char *p = strstr(text, ".entry"); p; p = strstr(p, ".entry")) {
        size_t len;
        const char *name = word(p + 6, &len);
        const char *open = name + len + strspn(name + len, " \t\r\n");
        const char *close = *open == '(' ? strchr(open, ')') : NULL;
        int params = 0;
        if (!len)
            return CUDA_ERROR_INVALID_PTX;
        for (const char *q = open; close && q < close; q++)
            params += !strncmp(q, ".param", 6);
        struct function *f = add_function(m, name, len, params);
        if (!f)
            return CUDA_ERROR_OUT_OF_MEMORY;
        for (const char *q = open; close && q < close; q++) {
            if (strncmp(q, ".param", 6))
                continue;
            const char *end = q + strcspn(q, ",)");
            f->param_bytes[f->param_count++] = param_size(q + 6, end);
        }
        p = close ? close : open;
    }
    return m->functions ? CUDA_SUCCESS : CUDA_ERROR_INVALID_PTX;
}

/* ---- modules ---- */

CUresult module_fill(struct module *m, struct image *image)
{
    m->image = *image;
    if (image->ptx) {
        CUresult rc = read_ptx(m, image->ptx);
        m->image.ptx = NULL;
        return rc;
    }
    for (uint32_t i = 0; i < image->desc->kernel_count; i++) {
        const struct fast_sim_kernel *k = &image->desc->kernels[i];
        struct function *f = add_function(m, k->name, strlen(k->name), k->param_count);
        if (!f)
            return CUDA_ERROR_OUT_OF_MEMORY;
        f->kernel = k;
        f->param_count = k->param_count;
        if (k->param_count)
            memcpy(f->param_bytes, k->param_bytes,
                   (size_t)k->param_count * sizeof(*f->param_bytes));
    }
    return CUDA_SUCCESS;
}

void module_unload(struct module *m)
{
    struct module **p = m->ctx ? &m->ctx->modules : &drv.libraries;
    while (*p && *p != m)
        p = &(*p)->next;
    if (*p)
        *p = m->next;
    if (m->ctx && m->charged)
        shared_uncharge(&drv.shared, m->ctx->device, m->charged);
    free_functions(m);
    image_close(&m->image);
    handle_free(m);
}

static CUresult load(CUmodule *ret, const void *data)
{
    struct ctx *ctx;
    struct image image;
    if (!ret || !data)
        return CUDA_ERROR_INVALID_VALUE;
    /* Constructors of the image run here, so not under the lock. */
    CUresult opened = image_open(data, &image);
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc || opened) {
        image_close(&image);
        return rc ? rc : drv_leave(opened);
    }
    struct module *m = handle_new(H_MODULE, sizeof(*m));
    if (!m) {
        image_close(&image);
        return drv_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    m->ctx = ctx;
    m->next = ctx->modules;
    ctx->modules = m;
    rc = module_fill(m, &image);
    uint64_t bytes = (image.bytes + PAGE - 1) / PAGE * PAGE;
    if (!rc && shared_charge(&drv.shared, ctx->device, bytes))
        rc = CUDA_ERROR_OUT_OF_MEMORY;
    else if (!rc)
        m->charged = bytes;
    if (rc)
        module_unload(m);
    else
        *ret = (CUmodule)m;
    return drv_leave(rc);
}

CUAPI cuModuleLoadData(CUmodule *ret, const void *data)
{
    return load(ret, data);
}

CUAPI cuModuleLoadDataEx(CUmodule *ret, const void *data, unsigned count, int *options,
                         void **values)
{
    (void)count;
    (void)options;
    (void)values;
    return load(ret, data);
}

CUAPI cuModuleLoadFatBinary(CUmodule *ret, const void *data)
{
    return load(ret, data);
}

/* A file with a NUL behind it. */
char *image_read(const char *path, size_t *ret_size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    char *data = size >= 0 && size < (off_t)IMAGE_MAX ? calloc(1, (size_t)size + 64) : NULL;
    for (off_t at = 0; data && at < size;) {
        ssize_t k = pread(fd, data + at, (size_t)(size - at), at);
        if (k <= 0) {
            free(data);
            data = NULL;
        }
        at += k;
    }
    if (fd >= 0)
        close(fd);
    *ret_size = (size_t)size;
    return data;
}

CUAPI cuModuleLoad(CUmodule *ret, const char *path)
{
    if (!ret || !path)
        return CUDA_ERROR_INVALID_VALUE;
    size_t size;
    char *data = image_read(path, &size);
    if (!data)
        return CUDA_ERROR_FILE_NOT_FOUND;
    CUresult rc = load(ret, data);
    free(data);
    return rc;
}

CUAPI cuModuleUnload(CUmodule handle)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    struct module *m = (struct module *)handle;
    if (!handle_is(handle, H_MODULE))
        return drv_leave(CUDA_ERROR_INVALID_HANDLE);
    /* Kernels of it may still be waiting to run. */
    rc = ctx_sync(m->ctx);
    if (!rc && handle_is(handle, H_MODULE))
        module_unload(m);
    return drv_leave(rc);
}

/* A module, or the module of a library. */
static struct module *module_get(const void *handle)
{
    return handle_is(handle, H_MODULE) || handle_is(handle, H_LIBRARY) ? (struct module *)handle
                                                                       : NULL;
}

CUAPI cuModuleGetFunction(CUfunction *ret, CUmodule handle, const char *name)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    if (rc)
        return rc;
    struct module *m = module_get(handle);
    if (!ret || !name || !m)
        return drv_leave(m ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
    struct function *f = module_function(m, name);
    if (!f)
        return drv_leave(CUDA_ERROR_NOT_FOUND);
    *ret = (CUfunction)f;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuModuleGetFunctionCount(unsigned *ret, CUmodule handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct module *m = module_get(handle);
    if (!ret || !m)
        return drv_leave(m ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
    *ret = 0;
    for (const struct function *f = m->functions; f; f = f->next)
        ++*ret;
    return drv_leave(CUDA_SUCCESS);
}

CUAPI cuModuleEnumerateFunctions(CUfunction *ret, unsigned max, CUmodule handle)
{
    CUresult rc = drv_enter();
    if (rc)
        return rc;
    const struct module *m = module_get(handle);
    if (!ret || !m)
        return drv_leave(m ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE);
    for (struct function *f = m->functions; f && max; f = f->next, max--)
        *ret++ = (CUfunction)f;
    return drv_leave(CUDA_SUCCESS);
}

/* Images have no variables that the host may name. */
CUAPI cuModuleGetGlobal_v2(CUdeviceptr *ret, size_t *ret_size, CUmodule handle, const char *name)
{
    struct ctx *ctx;
    CUresult rc = drv_enter_ctx(&ctx);
    (void)ret;
    (void)ret_size;
    if (rc)
        return rc;
    return drv_leave(!name || !module_get(handle) ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_FOUND);
}

CUAPI cuModuleGetLoadingMode(int *ret)
{
    if (!ret)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = 1; /* CU_MODULE_EAGER_LOADING */
    return CUDA_SUCCESS;
}
