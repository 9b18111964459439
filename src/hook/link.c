#include "hook/hook.h"

#include <errno.h>
#include <linux/futex.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "wire/msg.h"

/* The connection to the node. Sending never blocks; the answer to a reservation and the welcome are
 * waited for, at most for the given time. The hook may not use io/: it must not own an event loop in
 * somebody else's process, and its buffers are small because stacks of other people's threads are.
 *
 * A thread that is cancelled ends in the C library's waiting calls, with whatever lock it holds, and in no call of a
 * driver. So what threads of the program come by in the hook are system calls as they are.
 *
 * A descriptor of a broken connection is shut down at once and closed when the next one is made, so
 * that a thread that is about to send on it cannot hit somebody else's new descriptor. */

#define SEND_MAX 4096
#define RECV_MAX 4096
#define REPLY_NS FAST_S(2)

static int poll_for(struct pollfd *fds, fast_ns timeout)
{
    struct timespec ts = {.tv_sec = timeout / FAST_S(1), .tv_nsec = timeout % FAST_S(1)};
    return (int)syscall(SYS_ppoll, fds, 1, &ts, NULL, 0);
}

static int send_msg(int fd, const struct fast_msg *msg)
{
    unsigned char buf[SEND_MAX];
    size_t len = 0;
    struct fast_err err;
    if (fd < 0 || fast_msg_encode(msg, buf, sizeof(buf), &len, &err))
        return -1;
    ssize_t n;
    do
        n = syscall(SYS_sendto, fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT, NULL, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN && errno != ENOBUFS) {
        atomic_store(&fast_hook.lost, 1);
        fast_hook_kick();
    }
    return n < 0 ? -1 : 0;
}

static void take_fds(struct msghdr *mh, int *fds, int max)
{
    int n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (n < max)
                fds[n++] = fd;
            else
                close(fd);
        }
    }
}

/* Waits until |deadline| for one message; |fds|, two of them or NULL, are -1 where none came. */
static int recv_msg(int fd, fast_ns deadline, void *buf, struct fast_msg *ret, int *fds)
{
    union {
        char buf[CMSG_SPACE(sizeof(int) * 4)];
        struct cmsghdr align;
    } ctl;
    struct iovec iov = {buf, RECV_MAX};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl.buf,
                        .msg_controllen = sizeof(ctl.buf)};
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct fast_err err;
    ssize_t n = -1;
    do {
        fast_ns left = deadline - fast_hook_now();
        if (left <= 0)
            return -1;
        if (poll_for(&p, left) <= 0)
            continue;
        n = syscall(SYS_recvmsg, fd, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -1;
    } while (n < 0);
    if (n == 0)
        return -1;
    if (fds)
        fds[0] = fds[1] = -1;
    take_fds(&mh, fds, fds ? 2 : 0);
    return mh.msg_flags & MSG_TRUNC ? -1 : fast_msg_decode(buf, (size_t)n, ret, &err);
}

static bool lock_link(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2;
    return pthread_mutex_timedlock(&fast_hook.link_lock, &until) == 0;
}

static void unlock_link(void)
{
    pthread_mutex_unlock(&fast_hook.link_lock);
}

/* ---- connecting ---- */

static int open_socket(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, fast_hook.socket_path, strlen(fast_hook.socket_path) + 1);
    int fd = fast_hook_far(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a))) {
        fast_hook.full = errno == EAGAIN; /* so many wait at its door */
        close(fd);
        fd = -1;
    }
    return fd;
}

static struct fast_session *map_pages(const int *fds, const struct fast_msg_welcome *w)
{
    struct fast_session *s = calloc(1, sizeof(*s));
    void *limits = mmap(NULL, FAST_PAGE_BYTES, PROT_READ, MAP_SHARED, fds[0], 0);
    void *counters = mmap(NULL, FAST_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
    if (s && limits != MAP_FAILED && counters != MAP_FAILED) {
        s->limits = limits;
        s->counters = counters;
        s->gpus = w->gpus < FAST_PAGE_GPUS ? w->gpus : FAST_PAGE_GPUS;
        s->fail_open = w->fail_open != 0;
        if (s->limits->magic == FAST_PAGE_MAGIC && s->limits->version == FAST_PAGE_VERSION &&
            w->version == FAST_MSG_VERSION)
            return s;
    }
    if (limits != MAP_FAILED)
        munmap(limits, FAST_PAGE_BYTES);
    if (counters != MAP_FAILED)
        munmap(counters, FAST_PAGE_BYTES);
    free(s);
    return NULL;
}

static struct fast_session *shake_hands(int fd, bool reconnect, fast_ns deadline)
{
    unsigned char buf[RECV_MAX];
    int fds[2] = {-1, -1};
    struct fast_session *s = NULL;
    struct fast_msg msg = {.type = FAST_MSG_T_hello,
                           .hello = {.version = FAST_MSG_VERSION, .ticket_hi = fast_hook.ticket_hi,
                                     .ticket_lo = fast_hook.ticket_lo, .reconnect = reconnect}};
    if (send_msg(fd, &msg) || recv_msg(fd, deadline, buf, &msg, fds))
        return NULL;
    if (msg.type == FAST_MSG_T_welcome && fds[0] >= 0 && fds[1] >= 0) {
        s = map_pages(fds, &msg.welcome);
    } else if (msg.type == FAST_MSG_T_refused) {
        /* Or more processes than a node lets in would be a way around all limits. */
        fast_hook.full = msg.refused.code == FAST_ENOROOM || msg.refused.code == FAST_EBUSY;
        fast_hook_log("refused code=%u text=%s", msg.refused.code, msg.refused.text.p);
    }
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (s)
        s->fd = fd;
    return s;
}

static size_t list_unhooked(char *buf, size_t cap)
{
    size_t len = 0;
    for (size_t i = 0; i < fast_entry_base_count && i < 512; i++) {
        size_t n = strlen(fast_entry_bases[i].base) + 1;
        if (!(atomic_load(&fast_hook.unhooked[i / 64]) >> (i % 64) & 1) || len + n > cap)
            continue;
        memcpy(buf + len, fast_entry_bases[i].base, n);
        len += n;
    }
    return len;
}

/* What the driver says of itself, to be checked against what the node set up. */
void fast_link_report(const struct fast_session *s)
{
    const struct fast_driver *d = &fast_hook.driver;
    char names[2048];
    int version = 0, count = 0;
    atomic_store(&fast_hook.unhooked_new, 0);
    size_t len = list_unhooked(names, sizeof(names));
    if (d->driver_version)
        d->driver_version(&version);
    if (!d->device_count || d->device_count(&count) != CUDA_SUCCESS || !d->device_attribute)
        return;
    for (int i = 0; i < count && i < (int)s->gpus; i++) {
        int sms = 0, mps = 0;
        d->device_attribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, i);
        d->device_attribute(&mps, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, i);
        struct fast_msg msg = {.type = FAST_MSG_T_client_report,
                               .client_report = {.gpu = (uint32_t)i, .sm_count = (uint32_t)sms,
                                                 .mps = mps == 1,
                                                 .driver_version = (uint32_t)version,
                                                 .unhooked = {names, (uint32_t)len}}};
        send_msg(s->fd, &msg);
    }
}

/* Under the lock, so that no reservation falls between the sum and the new ledger. */
static void report_memory(const struct fast_session *s, uint32_t gpu)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    struct fast_msg msg = {.type = FAST_MSG_T_mem_state,
                           .mem_state = {.gpu = gpu, .bytes = atomic_load(&g->mem_used)}};
    atomic_store(&g->mem_unsaid, send_msg(s->fd, &msg) != 0);
}

void fast_link_memory(const struct fast_session *s)
{
    for (uint32_t i = 0; i < s->gpus; i++) {
        if (!atomic_load(&fast_hook.gpus[i].mem_unsaid) ||
            pthread_mutex_trylock(&fast_hook.link_lock)) /* who has it may wait for the node */
            continue;
        report_memory(s, i);
        unlock_link();
    }
}

static void set_mode_without_node(void)
{
    fast_ns lost = atomic_load(&fast_hook.lost_ns), grace = atomic_load(&fast_hook.grace_ns);
    bool in_grace = lost && fast_hook_now() - lost < grace;
    bool closed = fast_hook.fail_closed || fast_hook.full;
    atomic_store(&fast_hook.mode, in_grace ? FAST_MODE_GRACE : closed ? FAST_MODE_CLOSED : FAST_MODE_OPEN);
}

/* Whoever gave out tokens is another one from now on. */
static void reset_tokens(void)
{
    for (uint32_t i = 0; i < FAST_PAGE_GPUS; i++) {
        struct fast_gpu *g = &fast_hook.gpus[i];
        atomic_store(&g->held, 0);
        atomic_store(&g->spent, 0);
        atomic_store(&g->want_sent, 0);
        atomic_store(&g->tight, 0);
        g->done = 0;
        g->revoked_ns = 0;
        g->waits_ns = 0;
    }
}

/* Under the lock: the grace time has passed. */
static void end_grace(void)
{
    struct fast_session *s = atomic_load(&fast_hook.session);
    if (!s || !s->local || atomic_load(&fast_hook.mode) == FAST_MODE_GRACE)
        return;
    atomic_store(&fast_hook.session, NULL);
    reset_tokens();
    fast_hook_log("grace over mode=%u", atomic_load(&fast_hook.mode));
    for (uint32_t i = 0; i < s->gpus; i++)
        syscall(SYS_futex, &s->limits->gpu[i].wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

bool fast_link_connect(bool reconnect, fast_ns timeout)
{
    if (!lock_link())
        return false;
    fast_hook.full = false;
    int fd = open_socket();
    struct fast_session *s = fd < 0 ? NULL : shake_hands(fd, reconnect, fast_hook_now() + timeout);
    if (s) {
        for (uint32_t i = 0; reconnect && i < s->gpus; i++)
            if (atomic_load(&fast_hook.gpus[i].mem_used))
                report_memory(s, i);
        if (fast_hook.dead_fd >= 0)
            close(fast_hook.dead_fd);
        fast_hook.dead_fd = -1;
        fast_hook.fail_closed = !s->fail_open;
        atomic_store(&fast_hook.lost, 0);
        atomic_store(&fast_hook.mode, FAST_MODE_LINKED);
        atomic_store(&fast_hook.session, s);
        reset_tokens();
    } else {
        if (fd >= 0)
            close(fd);
        set_mode_without_node();
        end_grace();
    }
    unlock_link();
    if (s)
        fast_link_report(s);
    fast_hook_log("connect ok=%d", s != NULL);
    return s != NULL;
}

bool fast_link_alive(struct fast_session *session)
{
    struct pollfd p = {.fd = session->fd, .events = POLLRDHUP};
    if (atomic_exchange(&fast_hook.lost, 0) || fast_grace_pulse_lost(session, fast_hook_now()))
        return false;
    return poll(&p, 1, 0) <= 0 || !(p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

void fast_link_drop(struct fast_session *session)
{
    if (!lock_link())
        return;
    bool gone = shutdown(session->fd, SHUT_RDWR) && (errno == EBADF || errno == ENOTSOCK);
    fast_hook.dead_fd = gone ? -1 : session->fd; /* the program has closed it: the number is not ours any more */
    atomic_store(&fast_hook.lost_ns, fast_hook_now());
    atomic_store(&fast_hook.grace_ns, atomic_load(&session->limits->grace_ns));
    set_mode_without_node();
    bool grace = atomic_load(&fast_hook.mode) == FAST_MODE_GRACE;
    atomic_store(&fast_hook.session, grace ? fast_grace_session(session) : NULL);
    reset_tokens();
    unlock_link();
    fast_hook_log("node gone mode=%u", atomic_load(&fast_hook.mode));
    for (uint32_t i = 0; i < session->gpus; i++)
        syscall(SYS_futex, &session->limits->gpu[i].wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void fast_link_reset(void)
{
    struct fast_session *s = atomic_load(&fast_hook.session);
    if (s && s->fd >= 0)
        close(s->fd);
    if (fast_hook.dead_fd >= 0)
        close(fast_hook.dead_fd);
    if (fast_hook.kick_fd >= 0)
        close(fast_hook.kick_fd);
    fast_hook.dead_fd = fast_hook.kick_fd = -1;
    atomic_store(&fast_hook.session, NULL);
    atomic_store(&fast_hook.mode, FAST_MODE_OFF);
    atomic_store(&fast_hook.start, 0);
    atomic_store(&fast_hook.lost_ns, 0);
    atomic_store(&fast_hook.asleep, 0);
}

/* Several copies of the CUDA runtime in one process call cuInit each; the first one connects, the
 * others wait for it. */
void fast_link_start(void)
{
    uint32_t was = 0;
    struct timespec ms = {.tv_nsec = 1000000};
    int cancel;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel); /* connecting and closing may end a thread too */
    if (atomic_compare_exchange_strong(&fast_hook.start, &was, 1)) {
        const char *blocking = getenv("CUDA_LAUNCH_BLOCKING"); /* the driver reads it at the same time */
        fast_hook.launches_wait = blocking && *blocking && *blocking != '0';
        fast_link_connect(false, FAST_S(2));
        if (!fast_hook_thread_start()) {
            /* Without the thread no token would ever be given back. */
            struct fast_session *s = atomic_load(&fast_hook.session);
            if (s)
                fast_link_drop(s);
            atomic_store(&fast_hook.mode, FAST_MODE_OPEN);
        }
        atomic_store(&fast_hook.start, 2);
    }
    for (int i = 0; i < 3000 && atomic_load(&fast_hook.start) == 1; i++)
        syscall(SYS_nanosleep, &ms, NULL);
    pthread_setcancelstate(cancel, NULL);
}

/* ---- tokens ---- */

bool fast_link_want(uint32_t gpu, bool again)
{
    struct fast_session *s = atomic_load(&fast_hook.session);
    struct fast_msg msg = {.type = FAST_MSG_T_token_want, .token_want = {.gpu = gpu, .again = again}};
    return s && (s->local || !send_msg(s->fd, &msg));
}

bool fast_link_done(uint32_t gpu, uint64_t token, fast_ns busy, fast_ns overrun, bool want)
{
    struct fast_session *s = atomic_load(&fast_hook.session);
    struct fast_msg msg = {.type = FAST_MSG_T_token_done,
                           .token_done = {.gpu = gpu, .token = token, .busy_ns = busy,
                                          .overrun_ns = overrun, .want = want}};
    return s && (s->local || !send_msg(s->fd, &msg));
}

/* ---- memory ---- */

/* The sum of what is held goes to the node as soon as the socket takes it. */
static void say_later(uint32_t gpu)
{
    atomic_store(&fast_hook.gpus[gpu].mem_unsaid, 1);
    fast_hook_kick();
}

/* Under the lock. 1: charged, 0: refused, -1: there was no answer. */
static int ask_memory(struct fast_session *s, uint32_t gpu, uint64_t bytes, uint32_t family)
{
    unsigned char buf[RECV_MAX];
    if (s->local) {
        uint64_t cap = atomic_load(&s->limits->gpu[gpu].mem_cap_bytes);
        return !cap || atomic_load(&fast_hook.gpus[gpu].mem_used) + bytes <= cap;
    }
    uint32_t id = ++fast_hook.next_id;
    fast_ns deadline = fast_hook_now() + REPLY_NS;
    struct fast_msg msg = {.type = FAST_MSG_T_mem_reserve, .id = id,
                           .mem_reserve = {.gpu = gpu, .bytes = bytes, .family = family}};
    while (send_msg(s->fd, &msg)) {
        struct pollfd p = {.fd = s->fd, .events = POLLOUT};
        if (atomic_load(&fast_hook.lost) || fast_hook_now() >= deadline)
            return -1;
        poll_for(&p, FAST_MS(10)); /* the node is behind with reading */
    }
    do
        if (recv_msg(s->fd, deadline, buf, &msg, NULL))
            return -1;
    while (msg.type != FAST_MSG_T_mem_reply || msg.id != id);
    return msg.mem_reply.granted != 0;
}

bool fast_link_reserve(uint32_t gpu, uint64_t bytes, uint32_t family)
{
    if (!lock_link()) {
        if (fast_hook.fail_closed)
            return false;
        atomic_fetch_add(&fast_hook.gpus[gpu].mem_used, bytes);
        say_later(gpu);
        return true;
    }
    struct fast_session *s = atomic_load(&fast_hook.session);
    int granted = s && gpu < s->gpus ? ask_memory(s, gpu, bytes, family) : -1;
    bool ok = granted > 0 || (granted < 0 && atomic_load(&fast_hook.mode) != FAST_MODE_CLOSED);
    if (ok)
        atomic_fetch_add(&fast_hook.gpus[gpu].mem_used, bytes);
    if (s && granted < 0)
        say_later(gpu);
    unlock_link();
    if (!ok)
        fast_hook_log("memory refused gpu=%u bytes=%llu", gpu, (unsigned long long)bytes);
    return ok;
}

void fast_link_release(uint32_t gpu, uint64_t bytes, uint32_t family)
{
    bool locked = lock_link();
    struct fast_session *s = atomic_load(&fast_hook.session);
    struct fast_msg msg = {.type = FAST_MSG_T_mem_release,
                           .mem_release = {.gpu = gpu, .bytes = bytes, .family = family}};
    atomic_fetch_sub(&fast_hook.gpus[gpu].mem_used, bytes);
    if (s && gpu < s->gpus && !s->local && send_msg(s->fd, &msg))
        say_later(gpu);
    if (locked)
        unlock_link();
}
