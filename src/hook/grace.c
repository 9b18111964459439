#include "hook/gate.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The grace time: the node is gone, and the process goes on with its last slice. The hook's thread
 * plays the node on a private copy of the limits page: in every window there is a token for as long
 * as the limit says, and none for the rest; memory stays under the cap, as far as this process
 * alone knows. The windows of different processes are not in step, so that SM partitions of different
 * replicas may meet: what holds them apart then is MPS alone.
 *
 * A node that hangs looks like one that is gone: it writes its pulse into the page many times in the
 * time that it takes to be given up. */

#define WINDOW_NS FAST_MS(100)
#define LOOK_NS FAST_MS(1)

bool fast_grace_pulse_lost(const struct fast_session *session, fast_ns now)
{
    int64_t pulse = atomic_load_explicit(&session->limits->pulse_ns, memory_order_relaxed);
    return pulse && now - pulse > FAST_PULSE_LOST_NS;
}

struct fast_session *fast_grace_session(const struct fast_session *last)
{
    struct fast_session *s = calloc(1, sizeof(*s));
    void *page = mmap(NULL, FAST_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!s || page == MAP_FAILED) {
        free(s);
        if (page != MAP_FAILED)
            munmap(page, FAST_PAGE_BYTES);
        return NULL;
    }
    struct fast_limits_page *l = page;
    memcpy(page, last->limits, sizeof(*l));
    atomic_store(&l->pulse_ns, 0);
    for (int i = 0; i < FAST_PAGE_GPUS; i++) {
        atomic_store(&l->gpu[i].token, 0);
        atomic_store(&l->gpu[i].contended, 0);
    }
    *s = (struct fast_session){.limits = l, .local = l, .counters = last->counters,
                               .gpus = last->gpus, .fail_open = last->fail_open, .fd = -1};
    return s;
}

static void set_token(struct fast_grant *g, uint64_t token, fast_ns until)
{
    atomic_store(&g->until_ns, until);
    if (token)
        atomic_store(&g->last, token);
    atomic_store(&g->token, token);
    atomic_fetch_add(&g->wake, 1);
    syscall(SYS_futex, &g->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* A token that was given back is followed by another one at once: nobody else waits. */
static fast_ns give_out(struct fast_grant *g, const struct fast_gpu *gpu, fast_ns now)
{
    uint32_t milli = atomic_load(&g->limit_milli);
    fast_ns phase = (now - atomic_load(&fast_hook.lost_ns)) % WINDOW_NS;
    fast_ns share = milli ? WINDOW_NS / 1000 * milli : WINDOW_NS;
    uint64_t token = atomic_load(&g->token);
    if (phase >= share) {
        if (token)
            set_token(g, 0, now);
        return WINDOW_NS - phase;
    }
    if (!token || token == atomic_load(&gpu->spent) || token == gpu->done)
        set_token(g, atomic_load(&g->last) + 1, now + share - phase);
    return share - phase;
}

fast_ns fast_grace_turn(struct fast_session *session, fast_ns now)
{
    fast_ns wait = LOOK_NS;
    for (uint32_t i = 0; i < session->gpus; i++) {
        fast_ns next = give_out(&session->local->gpu[i], &fast_hook.gpus[i], now);
        wait = next < wait ? next : wait;
    }
    return wait;
}
