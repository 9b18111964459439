/* Asks libcuda.so.1 what GPUs there are. The question is put in a child: cuInit of a real driver
 * takes most of a second, keeps threads, files and memory, and would make the node a client of MPS. */
#include "node/gpu.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/loop.h"

#define ATTRIBUTE_SM_COUNT 16
#define TIMEOUT FAST_S(30)

struct cuda {
    int (*init)(unsigned);
    int (*count)(int *);
    int (*get)(int *, int);
    int (*name)(char *, int, int);
    int (*uuid)(unsigned char[16], int);
    int (*attribute)(int *, int, int);
    int (*total)(size_t *, int);
};

static int load(const char *path, struct cuda *c)
{
    void *h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!h)
        return -1;
    *(void **)&c->init = dlsym(h, "cuInit");
    *(void **)&c->count = dlsym(h, "cuDeviceGetCount");
    *(void **)&c->get = dlsym(h, "cuDeviceGet");
    *(void **)&c->name = dlsym(h, "cuDeviceGetName");
    *(void **)&c->uuid = dlsym(h, "cuDeviceGetUuid_v2");
    if (!c->uuid)
        *(void **)&c->uuid = dlsym(h, "cuDeviceGetUuid");
    *(void **)&c->attribute = dlsym(h, "cuDeviceGetAttribute");
    *(void **)&c->total = dlsym(h, "cuDeviceTotalMem_v2");
    return c->init && c->count && c->get && c->name && c->uuid && c->attribute && c->total ? 0 : -1;
}

static int look(const struct cuda *c, int i, struct node_gpu_info *ret)
{
    int dev, sms;
    size_t total;
    unsigned char u[16];
    if (c->get(&dev, i) || c->name(ret->name, sizeof(ret->name), dev) || c->uuid(u, dev) ||
        c->attribute(&sms, ATTRIBUTE_SM_COUNT, dev) || c->total(&total, dev))
        return -1;
    snprintf(ret->uuid, sizeof(ret->uuid),
             "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
             u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
    ret->sms = (uint32_t)sms;
    ret->mem_total = total;
    return 0;
}

/* In the child: writes one struct for each GPU. The exit status says where it went wrong. */
static int child(const char *path, int fd, int max)
{
    struct cuda c;
    int n = 0;
    setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
    setenv("CUDA_MPS_PIPE_DIRECTORY", "/nonexistent", 1);
    unsetenv("LD_PRELOAD");
    if (load(path, &c))
        return 2;
    if (c.init(0) || c.count(&n))
        return 3;
    for (int i = 0; i < n && i < max; i++) {
        struct node_gpu_info info = {0};
        if (look(&c, i, &info) || write(fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
            return 4;
    }
    return 0;
}

static int collect(int fd, struct node_gpu_info *ret, int max)
{
    char *at = (char *)ret;
    size_t len = 0, cap = (size_t)max * sizeof(*ret);
    fast_ns end = fast_clock_now() + TIMEOUT;
    while (len < cap) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        fast_ns left = end - fast_clock_now();
        int n = left > 0 ? poll(&p, 1, (int)(left / 1000000) + 1) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        ssize_t got = read(fd, at + len, cap - len);
        if (got <= 0)
            break;
        len += (size_t)got;
    }
    return (int)(len / sizeof(*ret));
}

int node_cuda_inventory(const char *sim_libs, struct node_gpu_info *ret, int max, struct fast_err *err)
{
    char path[PATH_MAX] = "libcuda.so.1";
    int fds[2], status = 0;
    if (sim_libs)
        snprintf(path, sizeof(path), "%s/libcuda.so.1", sim_libs);
    if (pipe(fds))
        return fast_err_set(err, FAST_EIO, "pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        _exit(child(path, fds[1], max));
    }
    close(fds[1]);
    int n = pid < 0 ? 0 : collect(fds[0], ret, max);
    close(fds[0]);
    if (pid < 0)
        return fast_err_set(err, FAST_EIO, "fork: %s", strerror(errno));
    if (n < 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (n < 0)
        return fast_err_set(err, FAST_ETIME, "%s does not answer within %d s", path,
                            (int)(TIMEOUT / FAST_S(1)));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        return fast_err_set(err, FAST_ENOENT, "there is no CUDA driver: %s cannot be loaded", path);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
        return fast_err_set(err, FAST_ENOENT, "the CUDA driver finds no GPU");
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return fast_err_set(err, FAST_EIO, "the CUDA driver failed to describe its GPUs");
    if (n == 0)
        return fast_err_set(err, FAST_ENOENT, "the CUDA driver finds no GPU");
    return n;
}
