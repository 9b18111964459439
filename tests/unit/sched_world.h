#ifndef TEST_SCHED_WORLD_H
#define TEST_SCHED_WORLD_H

/* Clients of a token scheduler in virtual time, for its tests: each one has work by some pattern,
 * and after a revocation the kernel that runs goes on for a while. Every invariant is checked after
 * every event. */

#include "core/sched.h"

#include <stdlib.h>

#include "test.h"

#define WORLD_MAX 128

struct world_client {
    struct fast_slice slice;
    fast_ns kernel;     /* after a revocation it drains for up to this long */
    fast_ns work;       /* of one burst; FAST_NEVER: always busy */
    fast_ns pause;      /* between bursts, on average */
    int busy_pct;       /* of the time it holds a token, as it reports */
    bool never_done;    /* it does not give tokens back */
    bool deadlines;     /* it has them */
    int id;
    uint64_t token;
    bool revoked;
    fast_ns granted, until, left, done_at, want_at;
    fast_ns held, held_here, held_before; /* in all, in this window, in the one before */
    fast_ns want_since;
    uint64_t grants;
};

struct world {
    struct fast_sched *s;
    struct world_client c[WORLD_MAX];
    int n;
    fast_ns now, window_at;
    unsigned seed;
    uint64_t events, hash;
    int sm_max, holders_max;
    bool contended;
    void (*window_end)(struct world *w); /* NULL: nothing to check there */
};

static inline fast_ns world_random(struct world *w, fast_ns below)
{
    return below <= 0 ? 0 : (fast_ns)(((uint64_t)rand_r(&w->seed) << 20 | rand_r(&w->seed)) % (uint64_t)below);
}

static inline struct world_client *world_of(struct world *w, int id)
{
    for (int i = 0; i < w->n; i++)
        if (w->c[i].id == id)
            return &w->c[i];
    fail();
    return NULL;
}

static inline void world_mix(struct world *w, uint64_t v)
{
    w->hash = (w->hash ^ v) * 0x100000001b3ull;
}

static inline void world_granted(struct world *w, struct world_client *c,
                                 const struct fast_sched_action *a)
{
    if (a->extended) {
        assert_true(c->token == a->token && !c->revoked);
        c->until = a->until_ns;
        return;
    }
    assert_true(c->token == 0);
    assert_true(a->until_ns > w->now);
    c->token = a->token;
    c->until = a->until_ns;
    c->granted = w->now;
    c->want_since = FAST_NEVER;
    c->grants++;
    if (c->work != FAST_NEVER)
        c->done_at = w->now + c->left;
}

static inline void world_actions(struct world *w)
{
    struct fast_sched_action a;
    while (fast_sched_next(w->s, &a)) {
        world_mix(w, (uint64_t)a.kind << 56 ^ (uint64_t)(a.client + 1) << 40 ^ (uint64_t)w->now);
        w->events++;
        if (a.kind == FAST_SCHED_CONTENDED) {
            w->contended = a.contended;
            continue;
        }
        struct world_client *c = world_of(w, a.client);
        if (a.kind == FAST_SCHED_GRANT)
            world_granted(w, c, &a);
        if (a.kind == FAST_SCHED_REVOKE) {
            assert_true(c->token == a.token && !c->revoked);
            c->revoked = true;
            fast_ns end = w->now + world_random(w, c->kernel + 1);
            if (c->never_done)
                c->done_at = FAST_NEVER;
            else if (end < c->done_at)
                c->done_at = end;
        }
    }
    assert_true(fast_sched_valid(w->s));
    int sm = fast_sched_sm_held(w->s);
    w->sm_max = sm > w->sm_max ? sm : w->sm_max;
    w->holders_max = fast_sched_tokens_out(w->s) > w->holders_max ? fast_sched_tokens_out(w->s) : w->holders_max;
}

static inline void world_done(struct world *w, struct world_client *c)
{
    fast_ns held = w->now - c->granted;
    fast_ns used = held < c->left ? held : c->left;
    bool want = true;
    if (c->work != FAST_NEVER) {
        c->left -= used;
        want = c->left > 0;
    }
    uint64_t token = c->token;
    c->token = 0;
    c->revoked = false;
    c->done_at = FAST_NEVER;
    if (!want) {
        c->want_at = w->now + world_random(w, 2 * c->pause);
        c->left = c->work;
    } else {
        c->want_since = w->now;
    }
    assert_int_equal(fast_sched_done(w->s, c->id, token, held / 100 * c->busy_pct, want, w->now, NULL), 0);
    world_actions(w);
}

/* Adds up held time, split at the edge of the window. */
static inline void world_pass(struct world *w, fast_ns to)
{
    for (int i = 0; i < w->n; i++)
        if (w->c[i].token) {
            w->c[i].held += to - w->now;
            w->c[i].held_here += to - w->now;
        }
    w->now = to;
}

static inline void world_init(struct world *w, const struct fast_sched_conf *conf, unsigned seed)
{
    *w = (struct world){.seed = seed, .hash = 0xcbf29ce484222325ull};
    assert_int_equal(fast_sched_new(conf, 0, &w->s, NULL), 0);
}

/* Always busy, kernels of no length; the caller changes what it likes before world_run(). */
static inline struct world_client *world_add(struct world *w, int sm, int request, int limit)
{
    struct world_client *c = &w->c[w->n++];
    *c = (struct world_client){.slice = {sm, request, limit, 0}, .work = FAST_NEVER,
                               .left = FAST_NEVER, .busy_pct = 100, .done_at = FAST_NEVER,
                               .want_at = w->now, .want_since = FAST_NEVER};
    c->id = fast_sched_add(w->s, &c->slice, w->now, NULL);
    assert_true(c->id >= 0);
    return c;
}

static inline void world_window(struct world *w)
{
    if (w->window_end)
        w->window_end(w);
    for (int i = 0; i < w->n; i++) {
        w->c[i].held_before = w->c[i].held_here;
        w->c[i].held_here = 0;
    }
    w->window_at = w->now;
}

/* Clients with |deadlines| get a new one with each wish, which may already be over. */
static inline void world_deadline(struct world *w, const struct world_client *c)
{
    if (c->deadlines)
        fast_sched_deadline(w->s, c->id, w->now + world_random(w, FAST_MS(200)) - FAST_MS(20), w->now);
    world_actions(w);
}

static inline void world_run(struct world *w, fast_ns until)
{
    fast_ns window = fast_sched_conf(w->s)->window_ns;
    for (;;) {
        fast_ns at = fast_sched_expiry(w->s);
        if (w->window_at + window < at)
            at = w->window_at + window;
        for (int i = 0; i < w->n; i++) {
            if (w->c[i].want_at < at)
                at = w->c[i].want_at;
            if (w->c[i].token && w->c[i].done_at < at)
                at = w->c[i].done_at;
        }
        if (at > until)
            break;
        world_pass(w, at > w->now ? at : w->now);
        if (w->now == w->window_at + window)
            world_window(w);
        for (int i = 0; i < w->n; i++) {
            struct world_client *c = &w->c[i];
            if (c->token && c->done_at <= w->now) {
                world_done(w, c);
                world_deadline(w, c);
            } else if (c->want_at <= w->now) {
                c->want_at = FAST_NEVER;
                c->want_since = w->now;
                if (c->work != FAST_NEVER)
                    c->left = c->work;
                world_deadline(w, c);
                fast_sched_want(w->s, c->id, w->now);
                world_actions(w);
            }
        }
        fast_sched_tick(w->s, w->now);
        world_actions(w);
    }
    world_pass(w, until);
}

static inline void world_fini(struct world *w)
{
    fast_sched_free(w->s);
}

#endif
