/* Memory between processes: as a file descriptor with rights per mapping, and by a legacy handle. The
 * importer is this program, started anew, so that it has a driver of its own. Also the suspension of
 * another process. */
#include "probe.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATTERN 0x5a17c0deu
#define NOBODY 65534

static int finish(pid_t pid)
{
    int status = 0;
    if (pid <= 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Who hangs in the driver ends with the one that waits for it, whose alarm rings. */
static void end_with_parent(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* What a container has of its own, short of its files: exit status 126 where that is not allowed. Only
 * children are in the new space of process numbers, hence one more of them. */
static void go_apart(void)
{
    if (unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID))
        _exit(126);
    pid_t pid = fork();
    if (pid)
        _exit(finish(pid));
    end_with_parent();
}

/* Runs this program with |args|; returns its number. |in| is its standard input, -1: none. |apart|: in
 * namespaces of its own. */
static pid_t start(const struct probe *p, const char *const *args, int in, bool apart)
{
    const char *argv[16] = {p->self, "--module", p->module};
    size_t n = 3;
    for (; *args && n < 15; args++)
        argv[n++] = *args;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        end_with_parent();
        if (in >= 0)
            dup2(in, STDIN_FILENO);
        if (apart)
            go_apart();
        execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid;
}

static CUmemAllocationProp device_memory(const struct probe *p)
{
    return (CUmemAllocationProp){
        .type = CU_MEM_ALLOCATION_TYPE_PINNED,
        .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
        .location = {CU_MEM_LOCATION_TYPE_DEVICE, p->device}};
}

static bool map(struct probe *p, CUmemGenericAllocationHandle h, size_t size, CUmemAccess_flags rights,
                CUdeviceptr *ret)
{
    CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, p->device}, rights};
    return probe_result(p, "vmm.reserve", p->cuMemAddressReserve(ret, size, 0, 0, 0)) &&
           probe_result(p, "vmm.map", p->cuMemMap(*ret, size, 0, h, 0)) &&
           probe_result(p, rights == CU_MEM_ACCESS_FLAGS_PROT_READ ? "vmm.set_read_only" : "vmm.set_access",
                        p->cuMemSetAccess(*ret, size, &access, 1));
}

/* Another process, of the user |uid|, maps the memory and reads it; its exit status becomes the figure. */
static void import_as(const struct probe *p, const char *figure, int fd, size_t size, bool try_write, int uid,
                      bool apart)
{
    char fd_text[16], size_text[32], uid_text[16];
    const char *args[] = {"vmm-import", fd_text, size_text, try_write ? "1" : "0", uid_text, NULL};
    snprintf(fd_text, sizeof(fd_text), "%d", fd);
    snprintf(size_text, sizeof(size_text), "%zu", size);
    snprintf(uid_text, sizeof(uid_text), "%d", uid);
    probe_number(figure, finish(start(p, args, -1, apart)), "exit status, 0 well");
}

int probe_vmm(struct probe *p)
{
    size_t size = 0;
    int fd = -1;
    CUmemGenericAllocationHandle h;
    CUdeviceptr at;
    unsigned back = 0;
    if (!probe_open(p))
        return 1;
    const void *needs[] = {(void *)(uintptr_t)p->cuMemCreate,
                           (void *)(uintptr_t)p->cuMemExportToShareableHandle,
                           (void *)(uintptr_t)p->cuMemSetAccess};
    CUmemAllocationProp prop = device_memory(p);
    if (probe_missing("vmm", needs, 3) ||
        !probe_result(p, "vmm.granularity",
                      p->cuMemGetAllocationGranularity(&size, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM)))
        return 1;
    probe_number("vmm.granularity_kib", (double)size / 1024, "KiB");
    if (!probe_result(p, "vmm.create", p->cuMemCreate(&h, size, &prop, 0)) ||
        !map(p, h, size, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, &at) ||
        !probe_result(p, "vmm.export",
                      p->cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0)) ||
        p->cuMemsetD32_v2(at, PATTERN, size / 4) || p->cuCtxSynchronize())
        return 1;
    fcntl(fd, F_SETFD, 0);
    import_as(p, "vmm.import_status", fd, size, false, 0, false);
    if (geteuid() == 0) {
        import_as(p, "vmm.import_other_uid_status", fd, size, false, NOBODY, false);
        import_as(p, "vmm.import_other_namespaces_status", fd, size, false, 0, true);
    }
    import_as(p, "vmm.write_status", fd, size, true, 0, false);
    bool reads = !p->cuMemcpyDtoH_v2(&back, at, sizeof(back));
    probe_text("vmm.after_write", !reads ? "the owner's context is broken, too"
                                  : back == PATTERN ? "the data are as they were"
                                                    : "the write went through");
    return 0;
}

int probe_vmm_import(struct probe *p, int fd, size_t size, bool try_write, int uid)
{
    CUmemGenericAllocationHandle h;
    CUdeviceptr at;
    unsigned back = 0;
    alarm(20); /* a client of another user waits for the MPS server */
    if (uid && setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid))
        return 3;
    if (!probe_open(p) ||
        !probe_result(p, "vmm.import",
                      p->cuMemImportFromShareableHandle(&h, (void *)(intptr_t)fd,
                                                        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)) ||
        !map(p, h, size, CU_MEM_ACCESS_FLAGS_PROT_READ, &at) ||
        !probe_result(p, "vmm.read", p->cuMemcpyDtoH_v2(&back, at, sizeof(back))))
        return 1;
    probe_text("vmm.read_value", back == PATTERN ? "the owner's" : "something else");
    if (try_write) {
        CUresult r = p->cuMemsetD32_v2(at, 0, 1024);
        probe_result(p, "vmm.write_call", r);
        probe_result(p, "vmm.write_sync", p->cuCtxSynchronize());
    }
    return back == PATTERN ? 0 : 1;
}

int probe_ipc(struct probe *p)
{
    CUipcMemHandle handle;
    CUdeviceptr at;
    char hex[2 * sizeof(handle) + 1];
    if (!probe_open(p))
        return 1;
    const void *needs[] = {(void *)(uintptr_t)p->cuIpcGetMemHandle,
                           (void *)(uintptr_t)p->cuIpcOpenMemHandle_v2};
    if (probe_missing("ipc", needs, 2) || p->cuMemAlloc_v2(&at, 4 << 20) ||
        p->cuMemsetD32_v2(at, PATTERN, (4 << 20) / 4) || p->cuCtxSynchronize() ||
        !probe_result(p, "ipc.handle", p->cuIpcGetMemHandle(&handle, at)))
        return 1;
    for (size_t i = 0; i < sizeof(handle); i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)handle.reserved[i]);
    const char *args[] = {"ipc-import", hex, NULL};
    int rc = finish(start(p, args, -1, false));
    probe_number("ipc.import_status", rc, "exit status, 0 well");
    return rc != 0;
}

int probe_ipc_import(struct probe *p, const char *hex)
{
    CUipcMemHandle handle;
    CUdeviceptr at;
    unsigned back = 0;
    for (size_t i = 0; i < sizeof(handle) && hex[2 * i] && hex[2 * i + 1]; i++) {
        const char byte[3] = {hex[2 * i], hex[2 * i + 1], 0};
        handle.reserved[i] = (char)strtoul(byte, NULL, 16);
    }
    if (!probe_open(p) || !probe_result(p, "ipc.open", p->cuIpcOpenMemHandle_v2(&at, handle, 1)) ||
        p->cuMemcpyDtoH_v2(&back, at, sizeof(back)))
        return 1;
    return back == PATTERN ? 0 : 1;
}

int probe_idle(struct probe *p)
{
    CUdeviceptr at;
    char c;
    if (!probe_open(p) || p->cuMemAlloc_v2(&at, 256 << 20) ||
        p->cuMemsetD32_v2(at, PATTERN, (256 << 20) / 4) || p->cuCtxSynchronize())
        return 1;
    probe_text("idle", "ready");
    while (read(STDIN_FILENO, &c, 1) > 0) {
        unsigned back = 0;
        CUresult r = p->cuMemcpyDtoH_v2(&back, at, sizeof(back));
        probe_text("idle.memory", r == CUDA_SUCCESS && back == PATTERN ? "as it was" : "lost");
    }
    return 0;
}

static void suspend(struct probe *p, int pid)
{
    unsigned lock_args[16] = {10000}; /* milliseconds */
    static const char *const names[] = {"checkpoint.lock_ms", "checkpoint.checkpoint_ms",
                                        "checkpoint.restore_ms", "checkpoint.unlock_ms"};
    CUresult (*const calls[])(int, void *) = {p->cuCheckpointProcessLock, p->cuCheckpointProcessCheckpoint,
                                              p->cuCheckpointProcessRestore, p->cuCheckpointProcessUnlock};
    for (int i = 0; i < 4; i++) {
        double start = probe_now_us();
        CUresult r = calls[i](pid, i == 0 ? lock_args : NULL);
        if (r != CUDA_SUCCESS) {
            probe_result(p, names[i], r);
            if (i == 1) /* it holds the lock still, and would wait for ever */
                calls[3](pid, NULL);
            return;
        }
        probe_number(names[i], (probe_now_us() - start) / 1000, "ms, 256 MiB");
    }
}

int probe_checkpoint(struct probe *p)
{
    int to[2];
    const char *args[] = {"idle", NULL};
    if (!probe_load(p))
        return 1;
    const void *needs[] = {(void *)(uintptr_t)p->cuCheckpointProcessLock,
                           (void *)(uintptr_t)p->cuCheckpointProcessCheckpoint,
                           (void *)(uintptr_t)p->cuCheckpointProcessRestore,
                           (void *)(uintptr_t)p->cuCheckpointProcessUnlock};
    if (probe_missing("checkpoint", needs, 4) || pipe2(to, O_CLOEXEC))
        return 0;
    pid_t pid = start(p, args, to[0], false);
    close(to[0]);
    sleep(4); /* until it has its memory */
    suspend(p, pid);
    if (write(to[1], "?", 1) == 1)
        sleep(1);
    close(to[1]);
    alarm(20);
    probe_number("checkpoint.child_status", finish(pid), "exit status, 0 well");
    return 0;
}
