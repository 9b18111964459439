#include "io/loop.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "io/blocks.h"
#include "io/spin.h"

#define EVENTS_PER_TURN 128
#define UNSET SIZE_MAX

struct fast_watch {
    struct fast_loop *loop;
    struct fast_watch *prev, *next; /* in loop->watches, or by next alone in loop->dead */
    int fd, events;
    fast_watch_fn *fn; /* NULL: removed, waits for the end of the turn */
    void *arg;
};

struct fast_timer {
    struct fast_loop *loop;
    fast_ns deadline;
    uint64_t order; /* equal deadlines fire in the order they were set */
    size_t at;      /* index in loop->heap, UNSET when it is in no heap */
    fast_timer_fn *fn;
    void *arg;
};

struct signal_slot {
    fast_signal_fn *fn;
    void *arg;
};

struct fast_loop {
    int epfd, sigfd;
    bool stopped;
    fast_ns now;
    fast_ns linger; /* until then it looks for events without going to sleep */
    struct fast_spin spin;
    struct fast_blocks blocks;
    struct fast_watch *watches, *dead, *sigwatch;
    struct fast_timer **heap;
    size_t heap_len, heap_cap, timers;
    uint64_t order;
    sigset_t sigset;
    struct signal_slot signals[NSIG];
};

static fast_ns read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return FAST_S(t.tv_sec) + t.tv_nsec;
}

fast_ns fast_clock_now(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

fast_ns fast_clock_wall(void)
{
    return read_clock(CLOCK_REALTIME);
}

struct fast_blocks *fast_loop_blocks(struct fast_loop *loop)
{
    return &loop->blocks;
}

fast_ns fast_loop_now(const struct fast_loop *loop)
{
    return loop->now;
}

int fast_loop_new(struct fast_loop **ret, struct fast_err *err)
{
    struct fast_loop *l = calloc(1, sizeof(*l));
    if (!l)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the event loop");
    l->sigfd = -1;
    l->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (l->epfd < 0) {
        free(l);
        return fast_err_set(err, FAST_EIO, "epoll_create1: %s", strerror(errno));
    }
    sigemptyset(&l->sigset);
    l->now = fast_clock_now();
    *ret = l;
    return 0;
}

static void sweep(struct fast_loop *l)
{
    while (l->dead) {
        struct fast_watch *w = l->dead;
        l->dead = w->next;
        free(w);
    }
}

void fast_loop_free(struct fast_loop *l)
{
    if (!l)
        return;
    while (l->watches)
        fast_watch_free(l->watches);
    sweep(l);
    for (size_t i = 0; i < l->heap_len; i++)
        free(l->heap[i]);
    free(l->heap);
    fast_blocks_fini(&l->blocks);
    if (l->sigfd >= 0)
        close(l->sigfd);
    close(l->epfd);
    free(l);
}

void fast_loop_stop(struct fast_loop *l)
{
    l->stopped = true;
}

/* ---- timers: a binary heap by (deadline, order) ---- */

static bool before(const struct fast_timer *a, const struct fast_timer *b)
{
    return a->deadline != b->deadline ? a->deadline < b->deadline : a->order < b->order;
}

static void heap_put(struct fast_loop *l, size_t at, struct fast_timer *t)
{
    l->heap[at] = t;
    t->at = at;
}

static void heap_up(struct fast_loop *l, size_t at)
{
    struct fast_timer *t = l->heap[at];
    for (; at > 0 && before(t, l->heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap_put(l, at, l->heap[(at - 1) / 2]);
    heap_put(l, at, t);
}

static void heap_down(struct fast_loop *l, size_t at)
{
    struct fast_timer *t = l->heap[at];
    for (;;) {
        size_t c = 2 * at + 1;
        if (c >= l->heap_len)
            break;
        if (c + 1 < l->heap_len && before(l->heap[c + 1], l->heap[c]))
            c++;
        if (!before(l->heap[c], t))
            break;
        heap_put(l, at, l->heap[c]);
        at = c;
    }
    heap_put(l, at, t);
}

static void heap_remove(struct fast_timer *t)
{
    struct fast_loop *l = t->loop;
    size_t at = t->at;
    if (at == UNSET)
        return;
    t->at = UNSET;
    struct fast_timer *last = l->heap[--l->heap_len];
    if (last == t)
        return;
    heap_put(l, at, last);
    heap_up(l, at);
    heap_down(l, last->at);
}

/* The heap has room for every timer that exists, so that setting one cannot fail. */
struct fast_timer *fast_timer_new(struct fast_loop *l, fast_timer_fn *fn, void *arg)
{
    struct fast_timer *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    if (l->timers == l->heap_cap) {
        size_t cap = l->heap_cap ? 2 * l->heap_cap : 32;
        struct fast_timer **heap = realloc(l->heap, cap * sizeof(struct fast_timer *));
        if (!heap) {
            free(t);
            return NULL;
        }
        l->heap = heap;
        l->heap_cap = cap;
    }
    l->timers++;
    *t = (struct fast_timer){.loop = l, .at = UNSET, .fn = fn, .arg = arg};
    return t;
}

void fast_timer_set(struct fast_timer *t, fast_ns deadline)
{
    struct fast_loop *l = t->loop;
    heap_remove(t);
    if (deadline == FAST_NEVER)
        return;
    t->deadline = deadline;
    t->order = l->order++;
    l->heap[l->heap_len] = t;
    heap_up(l, l->heap_len++);
}

void fast_timer_free(struct fast_timer *t)
{
    if (!t)
        return;
    heap_remove(t);
    t->loop->timers--;
    free(t);
}

/* Only what was due when the turn began fires in it: a timer that sets itself to "now" cannot
 * starve the descriptors. */
static void run_timers(struct fast_loop *l)
{
    uint64_t limit = l->order;
    while (l->heap_len && !l->stopped) {
        struct fast_timer *t = l->heap[0];
        if (t->deadline > l->now || t->order >= limit)
            break;
        heap_remove(t);
        t->fn(t->arg);
    }
}

/* ---- descriptors ---- */

static uint32_t to_epoll(int events)
{
    uint32_t e = 0;
    if (events & FAST_LOOP_IN)
        e |= EPOLLIN;
    if (events & FAST_LOOP_OUT)
        e |= EPOLLOUT;
    return e;
}

struct fast_watch *fast_watch_new(struct fast_loop *l, int fd, int events, fast_watch_fn *fn,
                                  void *arg)
{
    struct fast_watch *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    *w = (struct fast_watch){.loop = l, .fd = fd, .events = events, .fn = fn, .arg = arg};
    struct epoll_event ev = {.events = to_epoll(events), .data.ptr = w};
    if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev)) {
        free(w);
        return NULL;
    }
    w->next = l->watches;
    if (w->next)
        w->next->prev = w;
    l->watches = w;
    return w;
}

void fast_watch_set(struct fast_watch *w, int events)
{
    if (w->events == events)
        return;
    struct epoll_event ev = {.events = to_epoll(events), .data.ptr = w};
    w->events = events;
    epoll_ctl(w->loop->epfd, EPOLL_CTL_MOD, w->fd, &ev);
}

/* The memory stays until the end of the turn: epoll may have told of it already. */
void fast_watch_free(struct fast_watch *w)
{
    if (!w)
        return;
    struct fast_loop *l = w->loop;
    epoll_ctl(l->epfd, EPOLL_CTL_DEL, w->fd, NULL);
    if (w->prev)
        w->prev->next = w->next;
    else
        l->watches = w->next;
    if (w->next)
        w->next->prev = w->prev;
    w->fn = NULL;
    w->next = l->dead;
    l->dead = w;
}

static int wait_ms(const struct fast_loop *l)
{
    if (!l->heap_len)
        return -1;
    fast_ns left = l->heap[0]->deadline - fast_clock_now();
    if (left <= 0)
        return 0;
    fast_ns ms = left / 1000000;
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

/* Returns as epoll_wait() does, 0 as well when a timer is due. */
static int stay_awake(const struct fast_loop *l, fast_ns until, struct epoll_event *ev)
{
    int n = 0;
    fast_ns now = fast_clock_now();
    while (!n && now < until && !(l->heap_len && l->heap[0]->deadline <= now)) {
        n = epoll_wait(l->epfd, ev, EVENTS_PER_TURN, 0);
        now = fast_clock_now();
    }
    return n;
}

/* epoll_pwait2 has nanoseconds; where the kernel lacks it (before 5.11) milliseconds have to do. */
static int go_to_sleep(const struct fast_loop *l, struct epoll_event *ev)
{
    static bool no_pwait2;
    if (!no_pwait2 && l->heap_len) {
        fast_ns left = l->heap[0]->deadline - fast_clock_now();
        if (left < 0)
            left = 0;
        struct timespec t = {left / FAST_S(1), left % FAST_S(1)};
        int n = epoll_pwait2(l->epfd, ev, EVENTS_PER_TURN, &t, NULL);
        if (n >= 0 || errno != ENOSYS)
            return n;
        no_pwait2 = true;
    }
    return epoll_wait(l->epfd, ev, EVENTS_PER_TURN, wait_ms(l));
}

static int wait_events(struct fast_loop *l, struct epoll_event *ev)
{
    fast_ns began = l->spin.most ? fast_clock_now() : 0, spin = fast_spin_until(&l->spin, began);
    fast_ns until = spin > l->linger ? spin : l->linger;
    int n = until ? stay_awake(l, until, ev) : 0;
    bool sleeps = !n;
    if (spin)
        fast_spin_over(&l->spin, until, fast_clock_now());
    if (sleeps) {
        l->linger = 0;
        n = go_to_sleep(l, ev);
    }
    if (n > 0 && l->spin.most) /* what ends by a timer tells nothing of when events come */
        fast_spin_learn(&l->spin, fast_clock_now() - began, sleeps);
    return n;
}

void fast_loop_linger(struct fast_loop *l, fast_ns until)
{
    l->linger = until;
}

void fast_loop_spin(struct fast_loop *l, fast_ns most)
{
    l->spin.most = most;
}

int fast_loop_run(struct fast_loop *l, struct fast_err *err)
{
    struct epoll_event ev[EVENTS_PER_TURN];
    l->stopped = false;
    while (!l->stopped) {
        int n = wait_events(l, ev);
        if (n < 0 && errno != EINTR)
            return fast_err_set(err, FAST_EIO, "epoll_wait: %s", strerror(errno));
        l->now = fast_clock_now();
        run_timers(l);
        for (int i = 0; i < n && !l->stopped; i++) {
            struct fast_watch *w = ev[i].data.ptr;
            uint32_t e = ev[i].events;
            int events = (e & EPOLLIN ? FAST_LOOP_IN : 0) | (e & EPOLLOUT ? FAST_LOOP_OUT : 0) |
                         (e & (EPOLLHUP | EPOLLERR) ? FAST_LOOP_HUP : 0);
            if (w->fn)
                w->fn(w->arg, events);
        }
        sweep(l);
    }
    return 0;
}

/* ---- signals ---- */

static void on_signal(void *arg, int events)
{
    struct fast_loop *l = arg;
    struct signalfd_siginfo si;
    (void)events;
    while (read(l->sigfd, &si, sizeof(si)) == (ssize_t)sizeof(si))
        if (si.ssi_signo < NSIG && l->signals[si.ssi_signo].fn)
            l->signals[si.ssi_signo].fn(l->signals[si.ssi_signo].arg, (int)si.ssi_signo);
}

int fast_loop_signal(struct fast_loop *l, int signal, fast_signal_fn *fn, void *arg,
                     struct fast_err *err)
{
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signal);
    sigaddset(&l->sigset, signal);
    if (sigprocmask(SIG_BLOCK, &one, NULL))
        return fast_err_set(err, FAST_EIO, "sigprocmask: %s", strerror(errno));
    int fd = signalfd(l->sigfd, &l->sigset, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "signalfd: %s", strerror(errno));
    l->signals[signal] = (struct signal_slot){fn, arg};
    l->sigfd = fd;
    if (!l->sigwatch)
        l->sigwatch = fast_watch_new(l, fd, FAST_LOOP_IN, on_signal, l);
    return l->sigwatch ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for a signal watch");
}
