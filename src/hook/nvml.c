#include "hook/memory.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* NVML's memory reports tell the same story as the driver's. NVML sees all GPUs of the machine, the
 * replica only its own: they are matched by UUID, and a GPU that is not the replica's is reported as
 * it is. */

#define UUID_TEXT 96

typedef struct nvml_device *nvml_device;

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml_memory_v2 {
    unsigned int version;
    unsigned long long total, reserved, free, used;
};

typedef int memory_fn(nvml_device device, struct nvml_memory *memory);
typedef int memory_v2_fn(nvml_device device, struct nvml_memory_v2 *memory);
typedef int uuid_fn(nvml_device device, char *uuid, unsigned length);

#define NVML_ERROR_NOT_SUPPORTED 3
#define NVML_ERROR_LIBRARY_NOT_FOUND 12

memory_fn nvmlDeviceGetMemoryInfo;
memory_v2_fn nvmlDeviceGetMemoryInfo_v2;

/* The library stays loaded for good once a pointer of it is in use. */
static void *real_nvml(const char *name)
{
    void *lib = fast_real_dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);
    return lib ? fast_real_dlsym(lib, name) : NULL;
}

void *fast_nvml_wrapper(const char *name)
{
    if (strncmp(name, "nvmlDeviceGetMemoryInfo", 23) != 0 || !real_nvml(name))
        return NULL;
    if (!name[23])
        return (void *)&nvmlDeviceGetMemoryInfo;
    return strcmp(name + 23, "_v2") ? NULL : (void *)&nvmlDeviceGetMemoryInfo_v2;
}

/* "GPU-6f2a1b3c-..." of a device of the replica. */
static bool format_uuid(int gpu, char *buf, size_t cap)
{
    CUuuid u;
    int at = 0;
    if (!atomic_load(&fast_hook.resolved) || !fast_hook.driver.device_uuid ||
        fast_hook.driver.device_uuid(&u, gpu) != CUDA_SUCCESS)
        return false;
    at += snprintf(buf, cap, "GPU-");
    for (int i = 0; i < 16; i++)
        at += snprintf(buf + at, cap - (size_t)at, "%s%02x",
                       i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", (unsigned char)u.bytes[i]);
    return true;
}

/* The index of the device within the replica, -1: not the replica's. */
static int gpu_of(nvml_device device)
{
    char theirs[UUID_TEXT], ours[UUID_TEXT];
    struct fast_session *s = atomic_load(&fast_hook.session);
    uuid_fn *get_uuid = (uuid_fn *)real_nvml("nvmlDeviceGetUUID");
    if (!s || !get_uuid || get_uuid(device, theirs, sizeof(theirs)))
        return -1;
    for (uint32_t i = 0; i < s->gpus; i++)
        if (format_uuid((int)i, ours, sizeof(ours)) && !strcmp(ours, theirs))
            return (int)i;
    return -1;
}

/* What the cap leaves is free, the rest of it is used. */
static void clamp(nvml_device device, unsigned long long *total, unsigned long long *free_bytes,
                  unsigned long long *used)
{
    int gpu = gpu_of(device);
    uint64_t t = *total, f = *free_bytes;
    if (gpu < 0 || !fast_memory_clamp((uint32_t)gpu, &t, &f))
        return;
    *total = t;
    *free_bytes = f;
    *used = t - f;
}

FAST_EXPORT int nvmlDeviceGetMemoryInfo(nvml_device device, struct nvml_memory *memory)
{
    memory_fn *real = (memory_fn *)real_nvml("nvmlDeviceGetMemoryInfo");
    int r = real ? real(device, memory) : NVML_ERROR_LIBRARY_NOT_FOUND;
    if (r == 0)
        clamp(device, &memory->total, &memory->free, &memory->used);
    return r;
}

FAST_EXPORT int nvmlDeviceGetMemoryInfo_v2(nvml_device device, struct nvml_memory_v2 *memory)
{
    memory_v2_fn *real = (memory_v2_fn *)real_nvml("nvmlDeviceGetMemoryInfo_v2");
    int r = real ? real(device, memory) : NVML_ERROR_NOT_SUPPORTED;
    if (r == 0) {
        clamp(device, &memory->total, &memory->free, &memory->used);
        if (memory->total < memory->free + memory->used + memory->reserved)
            memory->reserved = 0; /* it belongs to the whole GPU, not to the cap */
    }
    return r;
}
