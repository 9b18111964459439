/* Getting into the driver. Everything that can be missing on a machine (library, symbol, device,
 * module) is reported in words, since this is what a user sees first. */
#include "common/cuda_min.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef CUresult get_proc_address_fn(const char *name, void **ret, int version, uint64_t flags,
                                     int *ret_status);

/* cuGetProcAddress wants the name of the source code: "cuMemAlloc", not "cuMemAlloc_v2". */
static void *look_up(const struct cuda *cuda, get_proc_address_fn *get, const char *symbol,
                     int version)
{
    if (!get)
        return dlsym(cuda->library, symbol);
    char name[64];
    void *found = NULL;
    int status = 0;
    snprintf(name, sizeof(name), "%s", symbol);
    size_t len = strlen(name);
    if (len > 3 && !strcmp(name + len - 3, "_v2"))
        name[len - 3] = '\0';
    return get(name, &found, version, 0, &status) == CUDA_SUCCESS ? found : NULL;
}

static int find_all(struct cuda *cuda, enum cuda_lookup lookup, char *msg, size_t msg_size)
{
    get_proc_address_fn *get = NULL;
    if (lookup == CUDA_BY_GET_PROC_ADDRESS)
        *(void **)&get = dlsym(cuda->library, "cuGetProcAddress_v2");
#define CUDA_FIND(member, symbol, version, params)                                                 \
    *(void **)&cuda->member = look_up(cuda, get, symbol, version);                                 \
    if (!cuda->member) {                                                                           \
        snprintf(msg, msg_size, "libcuda.so.1 has no " symbol);                                    \
        return -1;                                                                                 \
    }
    CUDA_ENTRY_POINTS(CUDA_FIND)
    return 0;
}

int cuda_check(const struct cuda *cuda, CUresult rc, const char *what, char *msg, size_t msg_size)
{
    const char *name = NULL;
    if (rc == CUDA_SUCCESS)
        return 0;
    if (cuda->cuGetErrorName(rc, &name) != CUDA_SUCCESS || !name)
        name = "unknown error";
    snprintf(msg, msg_size, "%s: %s (%d)", what, name, rc);
    return -1;
}

int cuda_open(struct cuda *cuda, enum cuda_lookup lookup, char *name, size_t name_size, char *msg,
              size_t msg_size)
{
    CUdevice device;
    CUcontext context;
    *cuda = (struct cuda){.library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)};
    if (!cuda->library) {
        snprintf(msg, msg_size, "no CUDA driver: %s", dlerror());
        return -1;
    }
    if (find_all(cuda, lookup, msg, msg_size) ||
        cuda_check(cuda, cuda->cuInit(0), "cuInit", msg, msg_size) ||
        cuda_check(cuda, cuda->cuDeviceGet(&device, 0), "cuDeviceGet", msg, msg_size) ||
        cuda_check(cuda, cuda->cuDeviceGetName(name, (int)name_size, device), "cuDeviceGetName",
                   msg, msg_size) ||
        cuda_check(cuda, cuda->cuDevicePrimaryCtxRetain(&context, device),
                   "cuDevicePrimaryCtxRetain", msg, msg_size) ||
        cuda_check(cuda, cuda->cuCtxSetCurrent(context), "cuCtxSetCurrent", msg, msg_size))
        return -1;
    return 0;
}

/* Loads one file; a module without |kernel| is not ours. */
static int load_one(const struct cuda *cuda, const char *path, const char *kernel, CUmodule *ret,
                    char *msg, size_t msg_size)
{
    CUfunction function;
    if (cuda_check(cuda, cuda->cuModuleLoad(ret, path), "cuModuleLoad", msg, msg_size))
        return -1;
    if (!cuda_check(cuda, cuda->cuModuleGetFunction(&function, *ret, kernel), kernel, msg, msg_size))
        return 0;
    cuda->cuModuleUnload(*ret);
    return -1;
}

/* The directory of the executable, with the slash. */
static size_t own_directory(char *path, size_t size)
{
    ssize_t len = readlink("/proc/self/exe", path, size - 1);
    path[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(path, '/');
    size_t dir = slash ? (size_t)(slash - path) + 1 : 0;
    path[dir] = '\0';
    return dir;
}

int cuda_load_module(const struct cuda *cuda, const char *module_path, const char *const *names,
                     const char *kernel, CUmodule *ret, char *path, size_t path_size, char *msg,
                     size_t msg_size)
{
    char reason[256], all[1024] = "";
    if (module_path) {
        snprintf(path, path_size, "%s", module_path);
        if (!load_one(cuda, path, kernel, ret, reason, sizeof(reason)))
            return 0;
        snprintf(msg, msg_size, "module %s: %s", path, reason);
        return -1;
    }
    size_t dir = own_directory(path, path_size);
    for (; *names; names++) {
        snprintf(path + dir, path_size - dir, "%s", *names);
        if (access(path, R_OK))
            continue;
        if (!load_one(cuda, path, kernel, ret, reason, sizeof(reason)))
            return 0;
        size_t len = strlen(all);
        snprintf(all + len, sizeof(all) - len, "; %s: %s", *names, reason);
    }
    path[dir] = '\0';
    snprintf(msg, msg_size, "no module in %s fits this device%s", path, all);
    return -1;
}
