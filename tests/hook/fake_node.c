#include "fake_node.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io/loop.h"
#include "io/packet.h"
#include "wire/page.h"

#define CLIENTS 16

struct client {
    int fd; /* -1: free */
    struct fast_limits_page *limits;
    struct fast_counters_page *counters;
    uint64_t token; /* handed out and not given back */
    bool revoked, want;
    fast_ns revoked_at;
    uint64_t launches; /* counted when it was revoked */
    uint64_t mem;
    uint64_t families[FAST_FAMILY_COUNT];
    bool again; /* what it reserved before is known as a sum alone */
};

struct fake_node {
    struct fake_conf conf;
    struct fake_stats stats; /* without the sums over pages of living clients */
    struct client clients[CLIENTS];
    uint64_t next_token;
    int listen_fd;
    _Atomic bool stop;
    bool hang;
    pthread_mutex_t lock;
    pthread_t thread;
};

static void die(const char *what)
{
    perror(what);
    abort();
}

static void wake(struct fast_grant *g)
{
    atomic_fetch_add(&g->wake, 1);
    syscall(SYS_futex, &g->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void *make_page(const char *name, bool read_only, int *ret_fd)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    char path[64];
    if (fd < 0 || ftruncate(fd, FAST_PAGE_BYTES))
        die("memfd");
    void *page = mmap(NULL, FAST_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        die("mmap");
    *ret_fd = fd;
    if (read_only) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        *ret_fd = open(path, O_RDONLY | O_CLOEXEC);
        close(fd);
    }
    return page;
}

static void welcome(struct fake_node *n, struct client *c, uint32_t id)
{
    int fds[2];
    c->limits = make_page("limits", true, &fds[0]);
    c->counters = make_page("counters", false, &fds[1]);
    c->limits->magic = c->counters->magic = FAST_PAGE_MAGIC;
    c->limits->version = c->counters->version = FAST_PAGE_VERSION;
    if (n->conf.wrong == FAKE_NO_MAGIC)
        c->limits->magic++;
    if (n->conf.wrong == FAKE_PAGE_VERSION)
        c->limits->version++;
    atomic_store(&c->limits->epoch, 1);
    atomic_store(&c->limits->gated, n->conf.gated);
    atomic_store(&c->limits->grace_ns, n->conf.grace_ns);
    atomic_store(&c->limits->inflight_ns, n->conf.inflight_ns ? n->conf.inflight_ns : FAST_MS(2));
    atomic_store(&c->limits->gpu[0].mem_cap_bytes, n->conf.cap);
    atomic_store(&c->limits->gpu[0].limit_milli, n->conf.limit_milli);
    atomic_store(&c->limits->pulse_ns, n->conf.pulse ? fast_clock_now() : 0);
    atomic_store(&c->limits->gpu[0].contended, n->conf.contended);
    struct fast_msg m = {.type = FAST_MSG_T_welcome, .id = id,
                         .welcome = {.version = FAST_MSG_VERSION + (n->conf.wrong == FAKE_VERSION), .epoch = 1,
                                     .gpus = n->conf.gpus ? n->conf.gpus : 1,
                                     .fail_open = n->conf.fail_open, .replica = fast_str("test")}};
    fast_packet_send(c->fd, &m, fds, n->conf.wrong == FAKE_NO_PAGES ? 0 : 2, NULL);
    close(fds[0]);
    close(fds[1]);
}

static void grant(struct fake_node *n, struct client *c)
{
    struct fast_grant *g = &c->limits->gpu[0];
    if (!c->want || c->token || n->conf.silent)
        return;
    c->want = false;
    c->revoked = false;
    c->token = ++n->next_token;
    n->stats.tokens++;
    atomic_store(&g->until_ns, fast_clock_now() + n->conf.token_ns);
    atomic_store(&g->last, c->token);
    c->revoked = n->conf.flash && c->token == 1;
    c->revoked_at = fast_clock_now();
    atomic_store(&g->token, c->revoked ? 0 : c->token);
    wake(g);
}

static void take_done(struct fake_node *n, struct client *c, const struct fast_msg_token_done *d)
{
    struct fast_grant *g = &c->limits->gpu[0];
    n->stats.dones++;
    n->stats.strange += d->token != c->token || d->busy_ns < 0;
    n->stats.busy_ns += d->busy_ns;
    if (c->revoked && n->conf.revocations && n->stats.revocations < n->conf.revocations_max)
        n->conf.revocations[n->stats.revocations++] =
            (struct fake_revocation){c->revoked_at, fast_clock_now()};
    uint64_t late = c->revoked ? fast_counters_launches(&c->counters->gpu[0]) - c->launches : 0;
    n->stats.late_max = late > n->stats.late_max ? late : n->stats.late_max;
    if (d->overrun_ns > n->stats.overrun_max_ns)
        n->stats.overrun_max_ns = d->overrun_ns;
    if (!c->revoked && c->token) {
        atomic_store(&g->token, 0);
        wake(g);
    }
    c->token = 0;
    c->want |= d->want;
    grant(n, c);
}

static void set_used(struct fake_node *n, uint64_t used)
{
    n->stats.mem_used = used;
    if (used > n->stats.mem_peak)
        n->stats.mem_peak = used;
    for (int i = 0; i < CLIENTS; i++)
        if (n->clients[i].fd >= 0 && n->clients[i].limits)
            atomic_store(&n->clients[i].limits->gpu[0].mem_used_bytes, used);
}

static void take_reserve(struct fake_node *n, struct client *c, const struct fast_msg *in)
{
    uint64_t bytes = in->mem_reserve.bytes;
    bool ok = !n->conf.cap || n->stats.mem_used + bytes <= n->conf.cap;
    n->stats.mem_asked++;
    n->stats.mem_refused += !ok;
    if (ok) {
        c->mem += bytes;
        c->families[in->mem_reserve.family % FAST_FAMILY_COUNT] += bytes;
        set_used(n, n->stats.mem_used + bytes);
    }
    struct fast_msg out = {.type = FAST_MSG_T_mem_reply, .id = in->id,
                           .mem_reply = {.granted = ok, .free_bytes = 0}};
    fast_packet_send(c->fd, &out, NULL, 0, NULL);
}

static void add_pages(const struct client *c, struct fake_stats *s)
{
    if (!c->counters)
        return;
    s->launches += fast_counters_launches(&c->counters->gpu[0]);
    s->copies += atomic_load(&c->counters->gpu[0].copies);
    s->page_busy_ns += atomic_load(&c->counters->gpu[0].busy_ns);
    s->wait_ns += atomic_load(&c->counters->gpu[0].wait_ns);
}

static void take_release(struct fake_node *n, struct client *c, const struct fast_msg_mem_release *r)
{
    uint64_t *of = &c->families[r->family % FAST_FAMILY_COUNT];
    n->stats.strange += !c->again && *of < r->bytes;
    *of -= r->bytes;
    c->mem -= r->bytes;
    set_used(n, n->stats.mem_used - r->bytes);
}

static void bury(struct fake_node *n, struct client *c)
{
    add_pages(c, &n->stats);
    if (c->limits)
        munmap(c->limits, FAST_PAGE_BYTES);
    if (c->counters)
        munmap(c->counters, FAST_PAGE_BYTES);
    close(c->fd);
    uint64_t mem = c->mem;
    *c = (struct client){.fd = -1};
    set_used(n, n->stats.mem_used - mem);
}

static bool right_ticket(const struct fast_msg_hello *h)
{
    return h->ticket_hi == 0x0011223344556677ULL && h->ticket_lo == 0x8899aabbccddeeffULL;
}

static void take_report(struct fake_stats *s, const struct fast_msg_client_report *r)
{
    size_t len = r->unhooked.len < sizeof(s->unhooked) ? r->unhooked.len : sizeof(s->unhooked) - 1;
    s->reports++;
    s->sm_count = (int)r->sm_count;
    s->mps = (int)r->mps;
    s->driver_version = (int)r->driver_version;
    memcpy(s->unhooked, r->unhooked.p, len);
}

static void take(struct fake_node *n, struct client *c, const struct fast_msg *m)
{
    if (m->type == FAST_MSG_T_hello) {
        n->stats.hellos++;
        n->stats.reconnects += m->hello.reconnect != 0;
        bool full = n->conf.full > 0;
        n->conf.full -= full;
        if (right_ticket(&m->hello) && !full) {
            welcome(n, c, m->id);
            return;
        }
        struct fast_msg no = {.type = FAST_MSG_T_refused, .id = m->id,
                              .refused = {.code = full ? FAST_ENOROOM : FAST_EPERM,
                                          .text = fast_str(full ? "full" : "unknown ticket")}};
        n->stats.refused++;
        fast_packet_send(c->fd, &no, NULL, 0, NULL);
        bury(n, c);
    } else if (!c->limits) {
        n->stats.strange++;
    } else if (m->type == FAST_MSG_T_token_want) {
        n->stats.wants++;
        c->want = !n->conf.deaf || n->stats.wants > 1;
        grant(n, c);
    } else if (m->type == FAST_MSG_T_token_done) {
        take_done(n, c, &m->token_done);
    } else if (m->type == FAST_MSG_T_mem_reserve) {
        take_reserve(n, c, m);
    } else if (m->type == FAST_MSG_T_mem_release) {
        take_release(n, c, &m->mem_release);
    } else if (m->type == FAST_MSG_T_mem_state) {
        n->stats.mem_state += m->mem_state.bytes;
        c->again = true;
        c->mem += m->mem_state.bytes;
        set_used(n, n->stats.mem_used + m->mem_state.bytes);
    } else if (m->type == FAST_MSG_T_client_report) {
        take_report(&n->stats, &m->client_report);
    }
}

static void revoke_expired(struct fake_node *n)
{
    for (int i = 0; i < CLIENTS; i++) {
        struct client *c = &n->clients[i];
        if (c->fd < 0 || !c->limits || !c->token || c->revoked)
            continue;
        struct fast_grant *g = &c->limits->gpu[0];
        if (fast_clock_now() < atomic_load(&g->until_ns))
            continue;
        c->revoked = true;
        c->revoked_at = fast_clock_now();
        atomic_store(&g->token, 0);
        c->launches = fast_counters_launches(&c->counters->gpu[0]);
        wake(g);
    }
}

static void accept_client(struct fake_node *n)
{
    int fd = accept4(n->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (int i = 0; fd >= 0 && i < CLIENTS; i++) {
        if (n->clients[i].fd >= 0)
            continue;
        n->clients[i] = (struct client){.fd = fd};
        n->stats.clients++;
        return;
    }
    if (fd >= 0)
        close(fd);
}

static void read_client(struct fake_node *n, struct client *c)
{
    static unsigned char buf[FAST_MSG_MAX];
    struct fast_err err;
    struct fast_msg m;
    while (c->fd >= 0) {
        int r = fast_packet_recv(c->fd, buf, &m, NULL, &err);
        if (r == -FAST_EBUSY)
            return;
        if (r == -FAST_EPEER)
            bury(n, c);
        else if (r)
            n->stats.strange++;
        else
            take(n, c, &m);
    }
}

static void beat(struct fake_node *n)
{
    for (int i = 0; n->conf.pulse && i < CLIENTS; i++)
        if (n->clients[i].fd >= 0 && n->clients[i].limits)
            atomic_store(&n->clients[i].limits->pulse_ns, fast_clock_now());
}

static void *run(void *arg)
{
    struct fake_node *n = arg;
    while (!n->stop) {
        struct pollfd fds[CLIENTS + 1] = {{.fd = n->listen_fd, .events = POLLIN}};
        for (int i = 0; i < CLIENTS; i++)
            fds[i + 1] = (struct pollfd){.fd = n->clients[i].fd, .events = POLLIN};
        poll(fds, CLIENTS + 1, 1);
        pthread_mutex_lock(&n->lock);
        if (n->hang) {
            pthread_mutex_unlock(&n->lock);
            usleep(1000);
            continue;
        }
        beat(n);
        for (int i = 0; i < CLIENTS; i++)
            if (fds[i + 1].revents && n->clients[i].fd == fds[i + 1].fd)
                read_client(n, &n->clients[i]);
        if (fds[0].revents)
            accept_client(n);
        revoke_expired(n);
        pthread_mutex_unlock(&n->lock);
    }
    return NULL;
}

struct fake_node *fake_node_start(const struct fake_conf *conf)
{
    struct fake_node *n = calloc(1, sizeof(*n));
    struct fast_err err;
    if (!n)
        die("calloc");
    n->conf = *conf;
    for (int i = 0; i < CLIENTS; i++)
        n->clients[i].fd = -1;
    pthread_mutex_init(&n->lock, NULL);
    if (fast_packet_listen(conf->path, 0600, &n->listen_fd, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        abort();
    }
    if (pthread_create(&n->thread, NULL, run, n))
        die("pthread_create");
    return n;
}

void fake_node_hang(struct fake_node *n)
{
    pthread_mutex_lock(&n->lock);
    n->hang = true;
    pthread_mutex_unlock(&n->lock);
}

void fake_node_grant(struct fake_node *n)
{
    pthread_mutex_lock(&n->lock);
    n->conf.silent = false;
    for (int i = 0; i < CLIENTS; i++)
        if (n->clients[i].fd >= 0 && n->clients[i].limits)
            grant(n, &n->clients[i]);
    pthread_mutex_unlock(&n->lock);
}

void fake_node_stats(struct fake_node *n, struct fake_stats *ret)
{
    pthread_mutex_lock(&n->lock);
    *ret = n->stats;
    for (int i = 0; i < CLIENTS; i++)
        if (n->clients[i].fd >= 0)
            add_pages(&n->clients[i], ret);
    pthread_mutex_unlock(&n->lock);
}

void fake_node_stop(struct fake_node *n)
{
    pthread_mutex_lock(&n->lock);
    n->stop = true;
    pthread_mutex_unlock(&n->lock);
    pthread_join(n->thread, NULL);
    for (int i = 0; i < CLIENTS; i++)
        if (n->clients[i].fd >= 0)
            bury(n, &n->clients[i]);
    close(n->listen_fd);
    unlink(n->conf.path);
    pthread_mutex_destroy(&n->lock);
    free(n);
}
