/* probe WHAT: what the driver of this machine does, as lines of JSON
 * {"name": ..., "value": number or text, "unit": ...}. It assumes nothing but libcuda.so.1; each WHAT
 * runs in a process of its own, since some of them break their context on purpose. */
#include "probe.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char usage[] =
    "usage: probe --module IMAGE WHAT\n"
    "  device      name, driver version, SMs as this process sees them, attributes\n"
    "  costs       launches, events, stream writes; markers behind every 1, 8, 32 kernels; graphs\n"
    "  vmm         memory shared as a file descriptor; a write to a read-only mapping\n"
    "  ipc         memory shared by a legacy handle\n"
    "  checkpoint  suspend and resume another process\n"
    "  green SMS   a green context of at least so many SMs, and which SMs it runs on\n"
    "  smid        which SMs a kernel of this process runs on\n"
    "  illegal     a kernel that writes where nothing is\n"
    "  idle        holds a context and 256 MiB until its standard input ends\n";

void probe_number(const char *name, double value, const char *unit)
{
    printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"}\n", name, value, unit);
    fflush(stdout);
}

void probe_text(const char *name, const char *text)
{
    printf("{\"name\": \"%s\", \"value\": \"", name);
    for (; *text; text++)
        if ((unsigned char)*text >= ' ' && *text != '"' && *text != '\\')
            putchar(*text);
    printf("\", \"unit\": \"\"}\n");
    fflush(stdout);
}

bool probe_result(const struct probe *p, const char *name, CUresult r)
{
    const char *text = NULL;
    char line[128];
    if (!p->cuGetErrorName || p->cuGetErrorName(r, &text) || !text)
        text = "unknown";
    snprintf(line, sizeof(line), "%s (%d)", text, (int)r);
    probe_text(name, r == CUDA_SUCCESS ? "ok" : line);
    return r == CUDA_SUCCESS;
}

bool probe_missing(const char *name, const void *const *functions, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!functions[i]) {
            probe_text(name, "this driver does not export what it needs");
            return true;
        }
    }
    return false;
}

double probe_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

CUresult probe_spin(struct probe *p, CUstream stream, unsigned blocks, unsigned long long ns)
{
    int occupancy = 1000, dram = 0;
    void *params[] = {&ns, &occupancy, &dram, &p->count};
    return p->cuLaunchKernel(p->spin, blocks, 1, 1, 256, 1, 1, 0, stream, params, NULL);
}

bool probe_load(struct probe *p)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        probe_text("driver", dlerror());
        return false;
    }
#define PROBE_FIND(name, params) *(void **)&p->name = dlsym(lib, #name);
    PROBE_CALLS(PROBE_FIND)
#undef PROBE_FIND
    return p->cuInit && p->cuDeviceGet && probe_result(p, "driver.init", p->cuInit(0)) &&
           probe_result(p, "driver.device", p->cuDeviceGet(&p->device, 0));
}

bool probe_open(struct probe *p)
{
    CUmodule module;
    if (!probe_load(p) ||
        !probe_result(p, "driver.context", p->cuDevicePrimaryCtxRetain(&p->context, p->device)) ||
        p->cuCtxSetCurrent(p->context) || p->cuStreamCreate(&p->stream, CU_STREAM_NON_BLOCKING) ||
        p->cuMemAlloc_v2(&p->count, 4096))
        return false;
    p->cuDeviceGetAttribute(&p->sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, p->device);
    if (!probe_result(p, "driver.module", p->cuModuleLoad(&module, p->module)) ||
        p->cuModuleGetFunction(&p->spin, module, "replay_spin"))
        return false;
    if (p->cuModuleGetFunction(&p->smid, module, "probe_smid"))
        p->smid = NULL;
    return true;
}

static int child(struct probe *p, char **argv, int argc)
{
    if (argc == 5 && !strcmp(argv[0], "vmm-import"))
        return probe_vmm_import(p, atoi(argv[1]), strtoull(argv[2], NULL, 10), atoi(argv[3]) != 0,
                                atoi(argv[4]));
    if (argc == 2 && !strcmp(argv[0], "ipc-import"))
        return probe_ipc_import(p, argv[1]);
    fputs(usage, stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(struct probe *p);
    } whats[] = {{"device", probe_device}, {"costs", probe_costs},   {"vmm", probe_vmm},
                 {"ipc", probe_ipc},       {"smid", probe_smid},     {"checkpoint", probe_checkpoint},
                 {"idle", probe_idle},     {"illegal", probe_illegal}};
    struct probe p = {.self = argv[0]};
    if (argc == 2 && !strcmp(argv[1], "--help"))
        return fputs(usage, stdout) < 0;
    if (argc < 4 || strcmp(argv[1], "--module") != 0)
        return fputs(usage, stderr), 2;
    p.module = argv[2];
    for (size_t i = 0; argc == 4 && i < sizeof(whats) / sizeof(whats[0]); i++)
        if (!strcmp(argv[3], whats[i].name))
            return whats[i].run(&p);
    if (argc == 5 && !strcmp(argv[3], "green"))
        return probe_green(&p, (unsigned)atoi(argv[4]));
    return child(&p, argv + 3, argc - 3);
}
