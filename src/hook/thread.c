#include "hook/gate.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The one thread of the hook. It starts after the first cuInit, with all signals blocked, and never
 * binds a context. It gives tokens back: after a revocation as soon as everything is complete, and
 * by itself when the GPU is idle. It notices that the node is gone and looks for it. While there is
 * neither a token nor work it sleeps in poll() and costs nothing. */

#define IDLE_CONTENDED_NS FAST_US(100) /* an idle client gives its token back after so long */
#define IDLE_ALONE_NS FAST_MS(5)       /* and after so long when nobody waits for it */
#define TIGHT_NS FAST_US(400)          /* a look may come so late */
#define SLACK_NS 1000 /* of this thread's timers; the default of 50 us would be added to every wait */
#define AGAIN_NS FAST_MS(500) /* threads that wait so long for a token ask once more */
#define ALIVE_NS FAST_MS(10)
#define GRACE_TRY_NS FAST_MS(200) /* looks for a new node at least this often, */
#define GRACE_WAIT_NS FAST_MS(40) /* and waits for its answer for so long, since its windows go on */

void fast_hook_kick(void)
{
    uint64_t one = 1;
    if (atomic_exchange(&fast_hook.asleep, 0) && fast_hook.kick_fd >= 0 &&
        syscall(SYS_write, fast_hook.kick_fd, &one, sizeof(one)) < 0)
        return; /* the counter is full: the thread is awake */
}

/* Everything under |token| is complete. */
static bool finish(uint32_t gpu, uint64_t token, fast_ns overrun)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    bool want = atomic_load(&g->waiters) != 0;
    fast_ns busy = atomic_exchange(&g->busy_ns, 0);
    if (want)
        atomic_store(&g->want_sent, 1); /* before the answer can come */
    if (!fast_link_done(gpu, token, busy, overrun, want)) {
        atomic_fetch_add(&g->busy_ns, busy);
        return false;
    }
    if (!want)
        atomic_store(&g->want_sent, 0); /* who looked at it meanwhile is among the waiters below */
    g->done = token;
    atomic_store(&g->tight, 0);
    g->revoked_ns = 0;
    atomic_compare_exchange_strong(&g->held, &token, 0);
    /* A thread that came to wait before |held| was 0 relies on us. */
    if (!want && atomic_load(&g->waiters) && !atomic_exchange(&g->want_sent, 1) &&
        !fast_link_want(gpu, false))
        atomic_store(&g->want_sent, 0);
    return true;
}

/* No token, and none that came and went. Whoever waits has asked for one. It is asked for once more
 * when that takes long, so that no wish that was lost, in whatever way, is lost for ever. */
static void look_waiting(const struct fast_session *session, uint32_t gpu, fast_ns now)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    if (!atomic_load(&g->waiters) || session->local) {
        g->waits_ns = 0;
        return;
    }
    bool again = atomic_exchange(&g->want_sent, 1);
    if (again && !g->waits_ns)
        g->waits_ns = now;
    if (again && now - g->waits_ns < AGAIN_NS)
        return;
    g->waits_ns = now;
    if (!fast_link_want(gpu, again))
        atomic_store(&g->want_sent, 0);
}

static fast_ns look_revoked(uint32_t gpu, uint64_t held, fast_ns now)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    if (!g->revoked_ns)
        g->revoked_ns = now;
    fast_gpu_settle(gpu, false, true);
    if (!fast_gpu_pending(gpu) && !atomic_load(&g->active))
        finish(gpu, held, fast_hook_now() - g->revoked_ns);
    return now - g->revoked_ns < FAST_MS(30) ? FAST_US(30) : FAST_US(300);
}

/* Decides whether the end of the token is near, and returns how long to wait until it may be. */
static fast_ns look_end(const struct fast_session *session, uint32_t gpu, bool contended, fast_ns now)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    fast_ns from = atomic_load(&session->limits->gpu[gpu].until_ns) - TIGHT_NS -
                   atomic_load(&session->limits->inflight_ns);
    atomic_store(&g->tight, contended && now >= from);
    if (!contended)
        return FAST_MS(1);
    return now >= from || from - now > FAST_US(200) ? FAST_US(200) : from - now;
}

static fast_ns look_held(const struct fast_session *session, uint32_t gpu, uint64_t held,
                         bool contended, fast_ns now)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    fast_ns wait = look_end(session, gpu, contended, now);
    if (!fast_gpu_settle(gpu, false, true))
        return wait;
    fast_ns idle = now - atomic_load(&g->idle_since);
    if (idle < (contended ? IDLE_CONTENDED_NS : IDLE_ALONE_NS))
        return contended ? IDLE_CONTENDED_NS : FAST_MS(1);
    /* From here on nobody enters with this token; whoever did so already is seen in the sum. */
    atomic_store(&g->spent, held);
    if (fast_gpu_pending(gpu) || atomic_load(&g->active))
        atomic_store(&g->spent, 0);
    else
        finish(gpu, held, 0);
    return FAST_US(100);
}

/* Returns how long it may take until the next look. */
static fast_ns look_gpu(const struct fast_session *session, uint32_t gpu)
{
    struct fast_gpu *g = &fast_hook.gpus[gpu];
    const struct fast_grant *grant = &session->limits->gpu[gpu];
    fast_ns now = fast_hook_now();
    uint64_t held = atomic_load(&g->held), token = atomic_load(&grant->token);
    uint64_t last = atomic_load(&grant->last);
    if (held || token)
        g->waits_ns = 0;
    if (held && token == held && held != atomic_load(&g->spent))
        return look_held(session, gpu, held, atomic_load(&grant->contended), now);
    if (held && held != token && held != last) {
        /* A thread took it from the page of the session before this one: this node knows nothing of it. */
        fast_gpu_settle(gpu, false, true);
        if (!fast_gpu_pending(gpu))
            atomic_compare_exchange_strong(&g->held, &held, 0);
        return FAST_US(200);
    }
    if (held)
        return look_revoked(gpu, held, now);
    if (token && token != atomic_load(&g->spent) && token != g->done) {
        /* Granted, and nobody has looked yet. */
        atomic_store(&g->idle_since, now);
        if (!atomic_exchange(&g->held, token))
            atomic_store(&g->want_sent, 0);
        return FAST_US(200);
    }
    if (!token && last && last != g->done && !fast_gpu_pending(gpu)) {
        finish(gpu, last, 0); /* it came and went unseen */
        return FAST_US(200);
    }
    if (!token)
        look_waiting(session, gpu, now);
    if (!fast_gpu_settle(gpu, false, true))
        return FAST_MS(2);
    return atomic_load(&g->waiters) || atomic_load(&g->want_sent) ? FAST_MS(2) : FAST_NEVER;
}

void fast_hook_sleep(const _Atomic uint32_t *word, uint32_t seen, fast_ns wait)
{
    struct timespec ts = {.tv_sec = wait / FAST_S(1), .tv_nsec = wait % FAST_S(1)};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &ts, NULL, 0);
}

/* Until somebody kicks, or the node goes away. */
static void sleep_idle(const struct fast_session *session)
{
    struct pollfd fds[2] = {{.fd = fast_hook.kick_fd, .events = POLLIN},
                            {.fd = session->fd, .events = POLLRDHUP}};
    uint64_t count;
    poll(fds, 2, 1000);
    atomic_store(&fast_hook.asleep, 0);
    if (fds[0].revents & POLLNVAL) /* the program has closed it */
        fast_hook.kick_fd = fast_hook_far(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (fds[0].revents & POLLIN && read(fast_hook.kick_fd, &count, sizeof(count)) < 0)
        return;
}

/* One turn with a session. */
static void turn(struct fast_session *session)
{
    uint32_t first = 0, seen[FAST_PAGE_GPUS];
    fast_ns wait = FAST_NEVER;
    /* Whoever changes something after this kicks, so that the look below cannot miss it. */
    atomic_store(&fast_hook.asleep, 1);
    for (uint32_t i = 0; i < session->gpus; i++) {
        seen[i] = atomic_load(&session->limits->gpu[i].wake);
        fast_ns next = look_gpu(session, i);
        if (next < wait) {
            wait = next;
            first = i;
        }
    }
    if (wait == FAST_NEVER) {
        sleep_idle(session);
        return;
    }
    atomic_store(&fast_hook.asleep, 0);
    fast_hook_sleep(&session->limits->gpu[first].wake, seen[first], wait);
}

static void *run(void *arg)
{
    (void)arg;
    prctl(PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0);
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    fast_ns checked = 0, back_off = FAST_MS(10);
    if (fast_hook.driver.capture_mode)
        fast_hook.driver.capture_mode(&mode); /* another thread's capture must not refuse a query */
    for (;;) {
        struct fast_session *session = atomic_load(&fast_hook.session);
        fast_ns now = fast_hook_now();
        if (session && session->local) {
            fast_ns wait = fast_grace_turn(session, now);
            for (uint32_t i = 0; i < session->gpus; i++)
                look_gpu(session, i);
            if (now - checked > back_off) {
                bool again = fast_link_connect(true, GRACE_WAIT_NS);
                back_off = again ? FAST_MS(10) : back_off * 2 < GRACE_TRY_NS ? back_off * 2 : GRACE_TRY_NS;
                checked = now;
                continue;
            }
            const _Atomic uint32_t *wake = &session->limits->gpu[0].wake;
            fast_hook_sleep(wake, atomic_load(wake), wait);
            continue;
        }
        if (!session) {
            struct timespec ts = {.tv_sec = back_off / FAST_S(1), .tv_nsec = back_off % FAST_S(1)};
            nanosleep(&ts, NULL);
            back_off = back_off * 2 < FAST_S(1) ? back_off * 2 : FAST_S(1);
            if (fast_link_connect(true, FAST_S(2)))
                back_off = FAST_MS(10);
            continue;
        }
        if (atomic_load(&fast_hook.lost) || now - checked > ALIVE_NS) {
            checked = now;
            if (!fast_link_alive(session)) {
                fast_link_drop(session);
                continue;
            }
        }
        if (atomic_load(&fast_hook.unhooked_new))
            fast_link_report(session);
        fast_link_memory(session);
        turn(session);
    }
    return NULL;
}

bool fast_hook_thread_start(void)
{
    sigset_t all, before;
    pthread_attr_t attr;
    pthread_t thread;
    fast_hook.kick_fd = fast_hook_far(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (fast_hook.kick_fd < 0 || pthread_attr_init(&attr))
        return false;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, FAST_KIB(256));
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&thread, &attr, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return r == 0;
}
