/* Does a write to memory that is mapped for reading fail? That kills the context of who tries it, and
 * under MPS those of everybody on the GPU, so that it is tried once per node and driver, in a process of
 * its own outside MPS, and the outcome is kept in a file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"
#include "store/store.h"

/* Exit statuses of the probe, above those of a program that cannot start. */
enum { PROBE_RO = 40, PROBE_VMM, PROBE_IPC, PROBE_NONE };

#define PATTERN 0x5a5a5a5au

/* Maps a chunk twice, as a loader and as a reader would, and writes through the second mapping. */
static int try_vmm(const struct fast_store_driver *d, CUdevice device)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
    CUmemGenericAllocationHandle own, imported;
    CUdeviceptr at = 0, again = 0;
    size_t size = 0;
    unsigned word = 0;
    int fd = -1;
    if (d->granularity(&size, &prop, 0) || d->create(&own, size, &prop, 0) ||
        d->export_handle(&fd, own, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) ||
        d->import_handle(&imported, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) ||
        d->reserve(&at, size, 0, 0, 0) || d->map(at, size, 0, own, 0) ||
        fast_store_driver_set_access(d, device, at, size, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, NULL) ||
        d->memset32(at, PATTERN, size / 4) || d->ctx_sync() ||
        d->reserve(&again, size, 0, 0, 0) || d->map(again, size, 0, imported, 0) ||
        fast_store_driver_set_access(d, device, again, size, CU_MEM_ACCESS_FLAGS_PROT_READ, NULL) ||
        d->copy_dtoh(&word, again, sizeof(word)) || word != PATTERN)
        return PROBE_IPC;
    CUresult r = d->memset32(again, ~PATTERN, 1);
    r = r ? r : d->ctx_sync();
    return r ? PROBE_RO : PROBE_VMM;
}

int store_probe_run(void)
{
    struct fast_store_driver d;
    struct fast_err err;
    CUcontext ctx = NULL;
    CUdevice device;
    if (fast_store_driver_load(&d, &err) || d.device_get(&device, 0) ||
        fast_store_driver_enter(&d, &ctx, &err))
        return PROBE_NONE;
    int found = fast_store_driver_has_vmm(&d, device) ? try_vmm(&d, device) : PROBE_IPC;
    if (found == PROBE_IPC && (!d.ipc_get || !d.ipc_open))
        found = PROBE_NONE;
    return found;
}

static int ask(int *ret, struct fast_err *err)
{
    int status = 0;
    pid_t pid = fork();
    if (pid < 0)
        return fast_err_set(err, FAST_EIO, "fork: %s", strerror(errno));
    if (pid == 0) {
        setenv("CUDA_MPS_PIPE_DIRECTORY", "/nonexistent", 1);
        unsetenv("LD_PRELOAD");
        execl("/proc/self/exe", "fast-store", "--probe", (char *)NULL);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *ret = WIFEXITED(status) ? WEXITSTATUS(status) : PROBE_NONE;
    return 0;
}

static bool recall(const char *file, int version, enum fast_store_via *ret)
{
    char *text = NULL;
    size_t len = 0;
    int of = 0, via = 0;
    if (!file || fast_file_read(file, 256, &text, &len, NULL))
        return false;
    bool ok = sscanf(text, "driver %d via %d", &of, &via) == 2 && of == version && via >= 0 &&
              via < FAST_STORE_VIA_COUNT;
    free(text);
    if (ok)
        *ret = (enum fast_store_via)via;
    return ok;
}

int store_probe(const struct fast_store_driver *d, CUdevice device, const char *file,
                enum fast_store_via *ret, struct fast_err *err)
{
    char text[64];
    int version = 0, found = PROBE_NONE;
    (void)device;
    d->driver_version(&version);
    if (recall(file, version, ret))
        return 0;
    int rc = ask(&found, err);
    if (rc)
        return rc;
    if (found < PROBE_RO || found >= PROBE_NONE)
        return fast_err_set(err, FAST_ENOSYS, "this driver cannot share device memory (probe: %d)",
                            found);
    *ret = (enum fast_store_via)(found - PROBE_RO);
    int n = snprintf(text, sizeof(text), "driver %d via %d\n", version, (int)*ret);
    if (file && fast_file_replace(file, text, (size_t)n, 0644, err))
        fast_log(WARN, "probe not kept", "error=\"%s\"", err->msg);
    return 0;
}
