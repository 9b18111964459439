#include "hook/hook.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FD_FROM 512

/* The one place of mutable state, what the environment says, and what a fork leaves of it. */

struct fast_hook fast_hook = {.log_fd = -1, .kick_fd = -1, .dead_fd = -1};
__thread struct fast_thread fast_thread __attribute__((tls_model("initial-exec")));

fast_ns fast_hook_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return FAST_S(ts.tv_sec) + ts.tv_nsec;
}

void fast_hook_log(const char *fmt, ...)
{
    if (fast_hook.log_fd < 0)
        return;
    char line[512];
    int at = snprintf(line, sizeof(line), "%lld pid=%d ", (long long)fast_hook_now(), getpid());
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line + at, sizeof(line) - (size_t)at - 1, fmt, ap);
    va_end(ap);
    n = at + (n < 0 ? 0 : n);
    n = n < (int)sizeof(line) - 1 ? n : (int)sizeof(line) - 2;
    line[n++] = '\n';
    if (syscall(SYS_write, fast_hook.log_fd, line, (size_t)n) < 0)
        fast_hook.log_fd = -1;
}

/* Programs close what they do not know from 3 on, and get the lowest free number for what they open then: ours is
 * far from these where the limit allows it, or we would write to their files. */
int fast_hook_far(int fd)
{
    int far = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FD_FROM);
    if (far < 0)
        return fd;
    close(fd);
    return far;
}

/* 32 hex digits. */
static bool parse_ticket(const char *text, uint64_t *hi, uint64_t *lo)
{
    uint64_t part[2] = {0, 0};
    if (!text || strlen(text) != 32)
        return false;
    for (int i = 0; i < 32; i++) {
        const char *digits = "0123456789abcdef";
        const char *d = strchr(digits, text[i] | 0x20);
        if (!d || !text[i])
            return false;
        part[i / 16] = part[i / 16] << 4 | (uint64_t)(d - digits);
    }
    *hi = part[0];
    *lo = part[1];
    return true;
}

static void reset_locks(void)
{
    pthread_mutex_init(&fast_hook.link_lock, NULL);
    fast_table_init(&fast_hook.blocks);
    fast_table_init(&fast_hook.handles);
    fast_table_init(&fast_hook.mappings);
    fast_table_init(&fast_hook.pools);
    fast_table_init(&fast_hook.graph_sums);
    atomic_store(&fast_hook.graph_largest, 0);
    atomic_store(&fast_hook.graph_captured, 0);
    for (int gpu = 0; gpu < FAST_PAGE_GPUS; gpu++)
        atomic_store(&fast_hook.graph_charged[gpu], 0);
    memset(fast_hook.small, 0, sizeof(fast_hook.small));
    fast_table_init(&fast_hook.sealed);
    atomic_store(&fast_hook.pools_used, 0);
}

static void reset_work(void)
{
    for (int c = 0; c < FAST_HOOK_CTXS; c++) {
        struct fast_ctx *ctx = &fast_hook.ctxs[c];
        if (!ctx->slots && !atomic_load(&ctx->ctx))
            continue;
        memset(ctx, 0, sizeof(*ctx));
    }
    memset(fast_hook.gpus, 0, sizeof(fast_hook.gpus));
    memset(&fast_thread, 0, sizeof(fast_thread));
    atomic_store(&fast_hook.captures, 0);
}

/* In a forked child: no GPU work and no GPU memory is ours, nobody else runs, and whatever lock was
 * held is free. The child becomes a client of its own with its first cuInit. */
static void fork_child(void)
{
    reset_locks();
    fast_link_reset();
    reset_work();
}

static void read_environment(void)
{
    const char *path = getenv(FAST_ENV_SOCKET);
    const char *fail = getenv(FAST_ENV_FAIL);
    const char *log = getenv(FAST_ENV_HOOK_LOG);
    const char *wait = getenv(FAST_ENV_MEM_WAIT);
    if (!path || !*path || strlen(path) >= sizeof(fast_hook.socket_path))
        return;
    memcpy(fast_hook.socket_path, path, strlen(path) + 1);
    if (!parse_ticket(getenv(FAST_ENV_TICKET), &fast_hook.ticket_hi, &fast_hook.ticket_lo))
        fast_hook_log("ticket missing");
    fast_hook.fail_closed = fail && !strcmp(fail, "closed");
    long ms = wait ? strtol(wait, NULL, 10) : 0;
    fast_hook.mem_wait = ms <= 0 ? 0 : ms < FAST_MEM_WAIT_MAX / 1000000 ? FAST_MS(ms) : FAST_MEM_WAIT_MAX;
    if (log && *log)
        fast_hook.log_fd = fast_hook_far(open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
    reset_locks();
    fast_hook.enabled = pthread_atfork(NULL, NULL, fork_child) == 0;
}

static void load_once(void)
{
    uint32_t was = 0;
    if (atomic_compare_exchange_strong(&fast_hook.loaded, &was, 1)) {
        read_environment();
        atomic_store(&fast_hook.loaded, 2);
        return;
    }
    /* Another thread reads it: some microseconds. */
    while (atomic_load(&fast_hook.loaded) != 2)
        sched_yield();
}

bool fast_hook_enabled(void)
{
    if (atomic_load_explicit(&fast_hook.loaded, memory_order_acquire) != 2)
        load_once();
    return fast_hook.enabled;
}

__attribute__((constructor)) static void constructor(void)
{
    fast_hook_enabled();
}
