/* What the driver says of its device, and where kernels run on it. */
#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMID_BLOCKS 1024

int probe_device(struct probe *p)
{
    static const struct {
        int attribute;
        const char *name;
    } rows[] = {{CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, "device.sms"},
                {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, "device.cc_major"},
                {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, "device.cc_minor"},
                {CU_DEVICE_ATTRIBUTE_MPS_ENABLED, "device.mps"},
                {CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, "device.vmm"},
                {CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, "device.vmm_fd"},
                {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, "device.pools"},
                {CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, "device.memops64"},
                {CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, "device.compute_mode"},
                {CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED, "device.preemption"}};
    char name[256] = "";
    int value = 0;
    size_t total = 0;
    double start = probe_now_us();
    if (!probe_open(p))
        return 1;
    probe_number("device.start_ms", (probe_now_us() - start) / 1000, "ms to a context and a kernel");
    if (!p->cuDeviceGetName(name, sizeof(name), p->device))
        probe_text("device.name", name);
    if (!p->cuDriverGetVersion(&value))
        probe_number("driver.cuda_version", value, "");
    if (!p->cuDeviceTotalMem_v2(&total, p->device))
        probe_number("device.memory_mib", (double)(total >> 20), "MiB");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (!p->cuDeviceGetAttribute(&value, rows[i].attribute, p->device))
            probe_number(rows[i].name, value, "");
    return 0;
}

/* Runs a kernel in |stream| whose blocks say which SM they are on, and prints the set. */
static int where(struct probe *p, CUstream stream, const char *name)
{
    static unsigned seen[SMID_BLOCKS];
    bool on[1024] = {false};
    char text[4096] = "";
    CUdeviceptr out;
    unsigned long long ns = 200000;
    void *params[] = {&ns, &out};
    if (!p->smid) {
        probe_text(name, "the image has no probe_smid (simulated, or built without nvcc)");
        return 0;
    }
    if (p->cuMemAlloc_v2(&out, sizeof(seen)) ||
        !probe_result(p, "smid.launch", p->cuLaunchKernel(p->smid, SMID_BLOCKS, 1, 1, 256, 1, 1, 0, stream,
                                                          params, NULL)) ||
        !probe_result(p, "smid.sync", p->cuStreamSynchronize(stream)) ||
        p->cuMemcpyDtoH_v2(seen, out, sizeof(seen)))
        return 1;
    int count = 0;
    for (int i = 0; i < SMID_BLOCKS; i++)
        if (seen[i] < 1024 && !on[seen[i]]) {
            on[seen[i]] = true;
            count++;
        }
    for (int i = 0; i < 1024; i++)
        if (on[i])
            snprintf(text + strlen(text), sizeof(text) - strlen(text), "%d ", i);
    probe_text(name, text);
    probe_number("smid.count", count, "SMs");
    return 0;
}

int probe_smid(struct probe *p)
{
    return !probe_open(p) || where(p, p->stream, "smid.set");
}

int probe_green(struct probe *p, unsigned sms)
{
    CUdevResource all, rest, groups[64];
    unsigned n = 1;
    CUdevResourceDesc desc;
    CUgreenCtx green;
    CUstream stream;
    if (!probe_open(p))
        return 1;
    const void *needs[] = {(void *)(uintptr_t)p->cuDeviceGetDevResource,
                           (void *)(uintptr_t)p->cuDevSmResourceSplitByCount,
                           (void *)(uintptr_t)p->cuDevResourceGenerateDesc,
                           (void *)(uintptr_t)p->cuGreenCtxCreate,
                           (void *)(uintptr_t)p->cuGreenCtxStreamCreate};
    memset(&all, 0, sizeof(all));
    if (probe_missing("green", needs, 5) ||
        !probe_result(p, "green.resource", p->cuDeviceGetDevResource(p->device, &all, 1)))
        return 0;
    probe_number("green.sms", all.sm_count, "SMs of the device");
    probe_number("green.sms_min", all.sm_min, "SMs, the least of a group");
    probe_number("green.sms_align", all.sm_align, "SMs, a group's multiple");
    double start = probe_now_us();
    if (!probe_result(p, "green.split", p->cuDevSmResourceSplitByCount(groups, &n, &all, &rest, 0, sms)) ||
        !probe_result(p, "green.describe", p->cuDevResourceGenerateDesc(&desc, groups, 1)) ||
        !probe_result(p, "green.create", p->cuGreenCtxCreate(&green, desc, p->device, 1)) ||
        !probe_result(p, "green.stream", p->cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0)))
        return 0;
    probe_number("green.group_sms", groups[0].sm_count, "SMs of the group");
    probe_number("green.create_ms", (probe_now_us() - start) / 1000, "ms");
    return where(p, stream, "green.smid_set");
}

/* Reserved addresses with nothing behind them. The simulated driver runs kernels in the process itself,
 * where such a write ends the process; a memset it checks as a GPU would. */
static CUresult write_nowhere(struct probe *p)
{
    CUdeviceptr at;
    char name[256] = "";
    CUresult r = p->cuMemAddressReserve(&at, 2 << 20, 0, 0, 0);
    p->cuDeviceGetName(name, sizeof(name), p->device);
    if (r != CUDA_SUCCESS)
        return r;
    p->count = at;
    r = strstr(name, "(simulated)") ? p->cuMemsetD32_v2(at, 1, 1024) : probe_spin(p, p->stream, 1, 1000);
    return r == CUDA_SUCCESS ? p->cuCtxSynchronize() : r;
}

/* A client that breaks: its error, and how long the driver takes to say so. */
int probe_illegal(struct probe *p)
{
    if (!probe_open(p))
        return 1;
    double start = probe_now_us();
    CUresult r = write_nowhere(p);
    probe_result(p, "illegal.error", r);
    probe_number("illegal.told_ms", (probe_now_us() - start) / 1000, "ms");
    return r == CUDA_SUCCESS;
}
