/* Makes memory that a client can see and cannot change. A sealed memfd cannot shrink under the
 * node's feet (no SIGBUS), and after F_SEAL_FUTURE_WRITE nobody gets a writable mapping of it, not
 * even by opening it again through /proc. */
#include "node/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static int page_new(const char *name, int prot, int seals, void **ret, int *ret_fd)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    void *p = MAP_FAILED;
    if (!ftruncate(fd, FAST_PAGE_BYTES))
        p = mmap(NULL, FAST_PAGE_BYTES, prot, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | seals)) {
        int e = errno;
        if (p != MAP_FAILED)
            munmap(p, FAST_PAGE_BYTES);
        close(fd);
        return -e;
    }
    *ret = p;
    *ret_fd = fd;
    return 0;
}

static int open_readonly(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

int node_pages_new(struct node_pages *ret, int ret_fds[2], struct fast_err *err)
{
    void *limits = NULL, *counters = NULL;
    int fd = -1, r = page_new("fast-limits", PROT_READ | PROT_WRITE, F_SEAL_FUTURE_WRITE, &limits, &fd);
    if (r)
        return fast_err_set(err, FAST_EIO, "cannot make the limits page: %s", strerror(-r));
    ret_fds[0] = open_readonly(fd);
    if (ret_fds[0] < 0) {
        r = fast_err_set(err, FAST_EIO, "cannot open the limits page again: %s", strerror(errno));
        munmap(limits, FAST_PAGE_BYTES);
        close(fd);
        return r;
    }
    close(fd);
    /* Zeros are a good counters page but for its head, which the node writes through a mapping of
     * its own, since the client's page is only read afterwards. */
    r = page_new("fast-counters", PROT_READ | PROT_WRITE, 0, &counters, &ret_fds[1]);
    if (r) {
        munmap(limits, FAST_PAGE_BYTES);
        close(ret_fds[0]);
        return fast_err_set(err, FAST_EIO, "cannot make the counters page: %s", strerror(-r));
    }
    struct fast_limits_page *l = limits;
    struct fast_counters_page *c = counters;
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): page_new() has set both. */
    l->magic = c->magic = FAST_PAGE_MAGIC;
    l->version = c->version = FAST_PAGE_VERSION;
    mprotect(counters, FAST_PAGE_BYTES, PROT_READ);
    *ret = (struct node_pages){l, c};
    return 0;
}

void node_pages_free(struct node_pages *p)
{
    if (p->limits)
        munmap(p->limits, FAST_PAGE_BYTES);
    if (p->counters)
        munmap((void *)(uintptr_t)p->counters, FAST_PAGE_BYTES);
    *p = (struct node_pages){0};
}

void node_pages_wake(struct fast_grant *g)
{
    atomic_fetch_add_explicit(&g->wake, 1, memory_order_release);
    syscall(SYS_futex, &g->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
