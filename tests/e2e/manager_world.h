#ifndef TEST_MANAGER_WORLD_H
#define TEST_MANAGER_WORLD_H

/* The manager in a thread of its own with its real socket, and clients that speak to it as a hook
 * does, or not quite so. There is no agent and no GPU: both are played here. */

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "io/loop.h"
#include "io/packet.h"
#include "node/manager.h"
#include "node/mps.h"
#include "node/stores.h"
#include "wire/page.h"

#define WORLD_REPLICAS 64
#define WORLD_MEM FAST_MIB(64)

struct world {
    char dir[64];
    struct node_conf conf;
    struct node node;
    struct node_replica replicas[WORLD_REPLICAS];
    int count;
    int call_fd;
    pthread_t thread;
    void (*call)(struct world *w); /* to be run in the loop */
    sem_t called;
};

struct client {
    int fd;
    const struct fast_limits_page *limits;
    struct fast_counters_page *counters;
    int limits_fd, counters_fd;
    char buf[FAST_MSG_MAX];
    struct fast_msg in;
};

static int world_gpus = 1;
static _Atomic bool world_evicts; /* the store takes wishes, and never answers */
static _Atomic int world_evictions;
static struct world *the_world; /* for the functions that the agent and the GPUs would give */

bool node_mps_ready(const struct node_mps *mps)
{
    (void)mps;
    return false;
}

void node_mps_client(struct node_mps *mps)
{
    (void)mps;
}

uint64_t node_stores_cached(const struct node_stores *stores, uint32_t gpu)
{
    (void)stores;
    (void)gpu;
    return 0;
}

bool node_gpu_free(const struct node_gpus *gpus, uint32_t gpu, uint64_t *ret)
{
    (void)gpus;
    (void)gpu;
    (void)ret;
    return false;
}

bool node_stores_make_room(struct node_stores *stores, uint32_t gpu, uint64_t bytes,
                           node_stores_done_fn *done, void *arg)
{
    (void)stores;
    (void)gpu;
    (void)bytes;
    (void)done;
    (void)arg;
    world_evictions++;
    return world_evicts;
}

void node_stores_cancel(struct node_stores *stores, const void *arg)
{
    (void)stores;
    (void)arg;
}

int node_gpu_count(const struct node_gpus *gpus)
{
    (void)gpus;
    return world_gpus;
}

uint64_t node_gpu_mem(const struct node_gpus *gpus, uint32_t gpu)
{
    (void)gpus;
    return (int)gpu < world_gpus ? WORLD_MEM : 0;
}

uint32_t node_gpu_sms(const struct node_gpus *gpus, uint32_t gpu)
{
    (void)gpus;
    (void)gpu;
    return 80;
}

void node_measure(struct node *node, uint32_t gpu, fast_ns now)
{
    (void)node;
    (void)gpu;
    (void)now;
}

struct node_replica *node_ticket_find(struct node_agent *agent, uint64_t hi, uint64_t lo)
{
    (void)agent;
    for (int i = 0; i < the_world->count; i++)
        if (the_world->replicas[i].ticket_hi == hi && the_world->replicas[i].ticket_lo == lo)
            return &the_world->replicas[i];
    return NULL;
}

static _Atomic int world_overran; /* 1 + the number of the replica that was to be killed last */

void node_agent_overran(struct node_agent *agent, struct node_replica *replica, fast_ns overrun)
{
    (void)agent;
    (void)overrun;
    world_overran = 1 + (int)(replica - the_world->replicas);
}

static void world_on_call(void *arg, int events)
{
    struct world *w = arg;
    uint64_t n;
    (void)events;
    if (read(w->call_fd, &n, sizeof(n)) == (ssize_t)sizeof(n)) {
        w->call(w);
        sem_post(&w->called);
    }
}

static void *world_thread(void *arg)
{
    struct world *w = arg;
    fast_loop_run(w->node.loop, NULL);
    return NULL;
}

/* Runs |fn| in the thread of the loop. */
static inline void world_call(struct world *w, void (*fn)(struct world *w))
{
    uint64_t one = 1;
    w->call = fn;
    if (write(w->call_fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
        abort();
    sem_wait(&w->called);
}

/* On |gpu|, and on those of |more|, bits. */
static inline int world_add_on(struct world *w, uint32_t gpu, uint32_t more, int sm, int request, int limit,
                               uint64_t mem)
{
    int i = w->count++;
    struct node_replica *r = &w->replicas[i];
    snprintf(r->id, sizeof(r->id), "f.openfaas-fn.%d", i);
    r->slice = (struct fast_slice){sm, request, limit, mem};
    r->sm_running = sm;
    r->gpu = gpu;
    r->more_gpus = more;
    r->ticket_hi = 0x1234;
    r->ticket_lo = (uint64_t)i + 1;
    r->fail_open = true;
    return node_share_add(w->node.manager, r, NULL);
}

static inline int world_add(struct world *w, int sm, int request, int limit, uint64_t mem)
{
    return world_add_on(w, 0, 0, sm, request, limit, mem);
}

/* In a directory that is there and stays there. */
static inline int world_begin_in(struct world *w, const char *dir, struct fast_sched_conf conf)
{
    memset(w, 0, sizeof(*w));
    the_world = w;
    snprintf(w->dir, sizeof(w->dir), "%s", dir);
    w->conf = (struct node_conf){.name = "test", .state_dir = w->dir, .sched = conf};
    w->node.conf = &w->conf;
    w->node.epoch = 7;
    snprintf(w->node.socket, sizeof(w->node.socket), "%s/node.sock", w->dir);
    sem_init(&w->called, 0, 0);
    w->call_fd = eventfd(0, EFD_CLOEXEC);
    if (fast_loop_new(&w->node.loop, NULL) || node_manager_new(&w->node, &w->node.manager, NULL))
        return -1;
    return fast_watch_new(w->node.loop, w->call_fd, FAST_LOOP_IN, world_on_call, w) ? 0 : -1;
}

static inline int world_begin(struct world *w, struct fast_sched_conf conf)
{
    char dir[] = "/tmp/fast-manager-XXXXXX";
    return mkdtemp(dir) ? world_begin_in(w, dir, conf) : -1;
}

static inline void world_start(struct world *w)
{
    pthread_create(&w->thread, NULL, world_thread, w);
}

static void world_stop_fn(struct world *w)
{
    fast_loop_stop(w->node.loop);
}

static inline void world_end(struct world *w)
{
    world_call(w, world_stop_fn);
    pthread_join(w->thread, NULL);
    node_manager_free(w->node.manager);
    fast_loop_free(w->node.loop);
    close(w->call_fd);
    sem_destroy(&w->called);
    unlink(w->node.socket);
    rmdir(w->dir);
}

static inline fast_ns world_now(void)
{
    return fast_clock_now();
}

/* ---- clients ---- */

static inline void client_send(struct client *c, struct fast_msg msg)
{
    fast_packet_send(c->fd, &msg, NULL, 0, NULL);
}

static inline int client_recv(struct client *c, int *fds)
{
    return fast_packet_recv_wait(c->fd, FAST_S(5), c->buf, &c->in, fds, NULL);
}

/* Says hello; returns the type of the answer, 0 when the connection was closed. */
static inline uint32_t client_open(struct client *c, struct world *w, uint64_t hi, uint64_t lo)
{
    int fds[FAST_PACKET_FDS];
    memset(c, 0, sizeof(*c));
    c->limits_fd = c->counters_fd = -1;
    if (fast_packet_connect(w->node.socket, false, &c->fd, NULL))
        return 0;
    client_send(c, (struct fast_msg){.type = FAST_MSG_T_hello, .id = 5,
                                     .hello = {FAST_MSG_VERSION, hi, lo, 0}});
    if (client_recv(c, fds))
        return 0;
    if (c->in.type != FAST_MSG_T_welcome)
        return c->in.type;
    c->limits_fd = fds[0];
    c->counters_fd = fds[1];
    c->limits = mmap(NULL, FAST_PAGE_BYTES, PROT_READ, MAP_SHARED, fds[0], 0);
    c->counters = mmap(NULL, FAST_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
    return c->in.type;
}

static inline void client_replica(struct client *c, struct world *w, int i)
{
    uint32_t type = client_open(c, w, w->replicas[i].ticket_hi, w->replicas[i].ticket_lo);
    if (type != FAST_MSG_T_welcome)
        abort();
}

static inline void client_close(struct client *c)
{
    if (c->limits)
        munmap((void *)(uintptr_t)c->limits, FAST_PAGE_BYTES);
    if (c->counters)
        munmap(c->counters, FAST_PAGE_BYTES);
    if (c->limits_fd >= 0)
        close(c->limits_fd);
    if (c->counters_fd >= 0)
        close(c->counters_fd);
    close(c->fd);
}

static inline uint64_t client_token(const struct client *c)
{
    return atomic_load_explicit(&((struct fast_limits_page *)(uintptr_t)c->limits)->gpu[0].token,
                                memory_order_acquire);
}

/* Waits on the page as the hook does, until there is a token (|want|) or none; false: |timeout|. Nobody is
 * woken when a token that was given back goes, so that it looks by itself as well. */
static inline bool client_wait(struct client *c, bool want, fast_ns timeout)
{
    struct fast_grant *g = (struct fast_grant *)(uintptr_t)&c->limits->gpu[0];
    fast_ns end = world_now() + timeout;
    for (;;) {
        uint32_t wake = atomic_load(&g->wake);
        if ((client_token(c) != 0) == want)
            return true;
        fast_ns left = end - world_now();
        if (left <= 0)
            return false;
        struct timespec t = {.tv_nsec = left < FAST_MS(5) ? left : FAST_MS(5)};
        syscall(SYS_futex, &g->wake, FUTEX_WAIT, wake, &t, NULL, 0);
    }
}

static inline void client_want(struct client *c)
{
    client_send(c, (struct fast_msg){.type = FAST_MSG_T_token_want});
}

static inline void client_done(struct client *c, uint64_t token, fast_ns busy, bool want)
{
    client_send(c, (struct fast_msg){.type = FAST_MSG_T_token_done,
                                     .token_done = {0, token, busy, 0, want}});
}

static inline uint32_t client_reserve(struct client *c, uint64_t bytes)
{
    client_send(c, (struct fast_msg){.type = FAST_MSG_T_mem_reserve, .id = 9,
                                     .mem_reserve = {0, bytes, 0}});
    if (client_recv(c, NULL) || c->in.type != FAST_MSG_T_mem_reply || c->in.id != 9)
        return 2;
    return c->in.mem_reply.granted;
}

#endif
