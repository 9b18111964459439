/* Clients of several GPUs beside clients of one, in virtual time: the rules of core/gang.h after every event. */
#include "core/gang.h"

#include <stdlib.h>

#include "test.h"

#define CLIENTS 48
#define GPUS FAST_PLAN_GPUS

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CHURN_EVENTS 100000
#else
#define CHURN_EVENTS 1000000
#endif

/* What a client has of one of its GPUs. */
struct part {
    int id;
    uint64_t token;
    bool revoked;
    fast_ns until, granted, done_at;
    fast_ns held, here; /* unrevoked or not: in all, in this window */
};

struct client {
    uint32_t gpus;
    struct fast_slice slice;
    fast_ns kernel;      /* a revoked token comes back within this time */
    fast_ns work, pause; /* bursts; |work| FAST_NEVER: always busy */
    bool hangs;          /* it gives no token back */
    fast_ns want_at;
    struct part part[GPUS];
};

struct world {
    struct fast_gangs *g;
    int gpus, n;
    struct client c[CLIENTS];
    fast_ns now, window_at;
    unsigned seed;
    uint64_t events, gang_tokens;
    int sm_max;
    void (*window_end)(struct world *w);
};

static fast_ns below(struct world *w, fast_ns n)
{
    return n <= 0 ? 0 : (fast_ns)(((uint64_t)rand_r(&w->seed) << 20 | (uint64_t)rand_r(&w->seed)) % (uint64_t)n);
}

static void begin(struct world *w, const struct fast_sched_conf *conf, int gpus, unsigned seed)
{
    *w = (struct world){.gpus = gpus, .seed = seed};
    assert_int_equal(fast_gangs_new(conf, gpus, 0, &w->g, NULL), 0);
}

static void enter(struct world *w, struct client *c)
{
    int ids[GPUS], gpu = __builtin_ctz(c->gpus);
    if (c->gpus & (c->gpus - 1))
        assert_int_equal(fast_gangs_add(w->g, c->gpus, &c->slice, w->now, ids, NULL), 0);
    else
        ids[gpu] = fast_sched_add(fast_gangs_sched(w->g, gpu), &c->slice, w->now, NULL);
    for (int i = 0; i < w->gpus; i++)
        if (c->gpus >> i & 1) {
            assert_true(ids[i] >= 0);
            c->part[i] = (struct part){.id = ids[i], .done_at = FAST_NEVER, .held = c->part[i].held};
        }
}

/* Always busy, kernels of no length; the caller changes what it likes before it goes on. */
static struct client *add(struct world *w, uint32_t gpus, int sm, int request, int limit)
{
    struct client *c = &w->c[w->n++];
    *c = (struct client){.gpus = gpus, .slice = {sm, request, limit, 0}, .work = FAST_NEVER, .want_at = w->now};
    enter(w, c);
    return c;
}

static bool is_gang(const struct client *c)
{
    return c->gpus & (c->gpus - 1);
}

static struct client *of(struct world *w, int gpu, int id)
{
    for (int i = 0; i < w->n; i++)
        if (w->c[i].gpus >> gpu & 1 && w->c[i].part[gpu].id == id)
            return &w->c[i];
    fail();
    return NULL;
}

static void act(struct world *w, int gpu, const struct fast_sched_action *a)
{
    w->events++;
    if (a->kind == FAST_SCHED_CONTENDED || a->kind == FAST_SCHED_STUCK)
        return;
    struct client *c = of(w, gpu, a->client);
    struct part *p = &c->part[gpu];
    if (a->kind == FAST_SCHED_REVOKE) {
        assert_true(p->token == a->token && !p->revoked);
        p->revoked = true;
        fast_ns end = w->now + below(w, c->kernel + 1);
        p->done_at = c->hangs ? FAST_NEVER : end < p->done_at ? end : p->done_at;
        return;
    }
    assert_true(a->until_ns > w->now && (a->extended ? p->token == a->token && !p->revoked : !p->token));
    w->gang_tokens += is_gang(c) && !a->extended;
    p->until = a->until_ns;
    if (!a->extended)
        p->granted = w->now;
    p->token = a->token;
}

/* All or none, with the same end; but for a part that hangs. */
static void check_gangs(struct world *w)
{
    for (int i = 0; i < w->n; i++) {
        struct client *c = &w->c[i];
        int have = 0, lack = 0;
        fast_ns until = 0;
        for (int g = 0; g < w->gpus && is_gang(c); g++) {
            if (!(c->gpus >> g & 1))
                continue;
            if (c->part[g].token && !c->part[g].revoked) {
                have++;
                assert_true(!until || until == c->part[g].until);
                until = c->part[g].until;
            } else {
                lack += !c->hangs;
            }
        }
        assert_false(have && lack);
    }
}

static void settle(struct world *w)
{
    struct fast_sched_action a;
    for (int g = 0; g < w->gpus; g++) {
        struct fast_sched *s = fast_gangs_sched(w->g, g);
        while (fast_sched_next(s, &a))
            act(w, g, &a);
        int sm = fast_sched_sm_held(s);
        assert_true(sm <= 100);
        w->sm_max = sm > w->sm_max ? sm : w->sm_max;
    }
    assert_true(fast_gangs_valid(w->g));
    check_gangs(w);
}

/* |c| gives back what it has of |gpu|. */
static void give(struct world *w, struct client *c, int gpu)
{
    struct part *p = &c->part[gpu];
    bool want = c->work == FAST_NEVER || below(w, 4) > 0;
    uint64_t token = p->token;
    p->token = 0;
    p->revoked = false;
    p->done_at = FAST_NEVER;
    if (!want)
        c->want_at = w->now + below(w, 2 * c->pause);
    assert_int_equal(fast_sched_done(fast_gangs_sched(w->g, gpu), p->id, token, w->now - p->granted, want, w->now,
                                     NULL),
                     0);
    settle(w);
}

static void wish(struct world *w, struct client *c)
{
    c->want_at = FAST_NEVER;
    int first = (int)below(w, w->gpus);
    bool all = below(w, 2); /* or one of its GPUs for now: the others come along */
    for (int i = 0, done = 0; i < w->gpus && (all || !done); i++) {
        int gpu = (first + i) % w->gpus;
        if (!(c->gpus >> gpu & 1))
            continue;
        fast_sched_want(fast_gangs_sched(w->g, gpu), c->part[gpu].id, w->now);
        settle(w);
        done++;
    }
}

static fast_ns next_event(struct world *w, fast_ns window)
{
    fast_ns at = w->window_at + window;
    for (int g = 0; g < w->gpus; g++) {
        fast_ns e = fast_sched_expiry(fast_gangs_sched(w->g, g));
        at = e < at ? e : at;
    }
    for (int i = 0; i < w->n; i++) {
        at = w->c[i].want_at < at ? w->c[i].want_at : at;
        for (int g = 0; g < w->gpus; g++)
            if (w->c[i].gpus >> g & 1 && w->c[i].part[g].token && w->c[i].part[g].done_at < at)
                at = w->c[i].part[g].done_at;
    }
    return at;
}

static void pass(struct world *w, fast_ns to)
{
    for (int i = 0; i < w->n; i++)
        for (int g = 0; g < w->gpus; g++)
            if (w->c[i].gpus >> g & 1 && w->c[i].part[g].token) {
                w->c[i].part[g].held += to - w->now;
                w->c[i].part[g].here += to - w->now;
            }
    w->now = to > w->now ? to : w->now;
}

static void end_window(struct world *w)
{
    if (w->window_end)
        w->window_end(w);
    for (int i = 0; i < w->n; i++)
        for (int g = 0; g < w->gpus; g++)
            w->c[i].part[g].here = 0;
    w->window_at = w->now;
}

static void run(struct world *w, fast_ns until)
{
    for (;;) {
        fast_ns window = fast_sched_conf(fast_gangs_sched(w->g, 0))->window_ns, at = next_event(w, window);
        if (at > until)
            break;
        pass(w, at);
        if (w->now >= w->window_at + window)
            end_window(w);
        for (int i = 0; i < w->n; i++) {
            struct client *c = &w->c[i];
            for (int g = 0; g < w->gpus; g++)
                if (c->gpus >> g & 1 && c->part[g].token && c->part[g].done_at <= w->now)
                    give(w, c, g);
            if (c->want_at <= w->now)
                wish(w, c);
        }
        for (int g = 0; g < w->gpus; g++) {
            fast_sched_tick(fast_gangs_sched(w->g, g), w->now);
            settle(w);
        }
    }
    pass(w, until);
}

static void end(struct world *w)
{
    fast_gangs_free(w->g);
}

static uint32_t random_gpus(struct world *w, bool gang)
{
    uint32_t one = UINT32_C(1) << below(w, w->gpus), mask = one;
    while (gang && !(mask & (mask - 1)))
        mask |= UINT32_C(1) << below(w, w->gpus) | (UINT32_C(1) << below(w, w->gpus) & (uint32_t)below(w, 256));
    return gang ? mask : one;
}

/* ---- tests ---- */

/* Half of two GPUs each, beside two clients that are never idle: tokens of both at the same moment. */
static void both_or_none(void **state)
{
    (void)state;
    struct world w;
    begin(&w, &(struct fast_sched_conf){.charge = FAST_CHARGE_HELD}, 2, 1);
    struct client *pair = add(&w, 3, 60, 500, 500), *a = add(&w, 1, 60, 500, 1000), *b = add(&w, 2, 60, 300, 300);
    a->kernel = b->kernel = FAST_MS(1);
    run(&w, FAST_S(2));
    assert_in_range(pair->part[0].held, FAST_MS(960), FAST_MS(1010));
    assert_in_range(pair->part[1].held, FAST_MS(960), FAST_MS(1010));
    assert_in_range(a->part[0].held, FAST_MS(960), FAST_MS(1060));
    assert_in_range(b->part[1].held, FAST_MS(590), FAST_MS(610));
    end(&w);
}

/* A gang of one part that wants is granted on all, and what one part gives back takes the others with it. */
static void parts_come_along(void **state)
{
    (void)state;
    struct fast_gangs *g;
    struct fast_sched_action a;
    int id[GPUS];
    assert_int_equal(fast_gangs_new(&(struct fast_sched_conf){0}, 3, 0, &g, NULL), 0);
    assert_int_equal(fast_gangs_add(g, 5, &(struct fast_slice){100, 500, 1000, 0}, 0, id, NULL), 0);
    assert_int_equal(fast_gangs_linked(g, 0), 5);
    assert_int_equal(fast_gangs_linked(g, 1), 2);
    struct fast_sched *s0 = fast_gangs_sched(g, 0), *s2 = fast_gangs_sched(g, 2);
    fast_sched_want(s2, id[2], FAST_MS(1));
    assert_true(fast_sched_next(s0, &a) && a.kind == FAST_SCHED_GRANT);
    uint64_t token = a.token;
    assert_true(fast_sched_next(s2, &a) && a.kind == FAST_SCHED_GRANT);
    assert_int_equal(fast_sched_done(s0, id[0], token, 0, false, FAST_MS(2), NULL), 0);
    assert_true(fast_sched_next(s2, &a) && a.kind == FAST_SCHED_REVOKE);
    assert_true(fast_gangs_valid(g));
    fast_sched_want(s0, id[0], FAST_MS(2)); /* the other part still drains */
    assert_false(fast_sched_next(s0, &a) && a.kind == FAST_SCHED_GRANT);
    assert_int_equal(fast_sched_done(s2, id[2], a.token ? a.token : fast_sched_stats(s2, id[2], 0).token, 0, false,
                                     FAST_MS(3), NULL),
                     0);
    assert_int_equal(fast_sched_sm_held(s0), 100);
    assert_int_equal(fast_sched_sm_held(s2), 100);
    fast_sched_remove(s0, id[0], FAST_MS(4));
    assert_int_equal(fast_sched_sm_held(s0) + fast_sched_sm_held(s2), 0);
    assert_int_equal(fast_gangs_linked(g, 0), 1);
    assert_true(fast_gangs_valid(g));
    fast_gangs_free(g);
}

static void check_requests(struct world *w)
{
    fast_ns window = fast_sched_conf(fast_gangs_sched(w->g, 0))->window_ns;
    for (int i = 0; i < w->n && w->now > 2 * window; i++)
        for (int g = 0; g < w->gpus; g++) {
            const struct client *c = &w->c[i];
            if (c->gpus >> g & 1 && c->part[g].here < window / 1000 * c->slice.request_milli - window / 100)
                fail_msg("client %d on GPUs %x: sm %d request %d got %lld us of GPU %d", i, c->gpus, c->slice.sm_pct,
                         c->slice.request_milli, (long long)c->part[g].here / 1000, g);
        }
}

/* The window is cut into random slots, and each is filled with clients until nobody fits on his GPUs; the request is
 * the sum of a client's slots. Whatever else they want, each one gets it in every window, on every GPU. */
static void feasible_sets_are_met(void **state)
{
    (void)state;
    static const fast_ns windows[] = {FAST_MS(100), FAST_MS(10), FAST_S(1)};
    for (unsigned seed = 1; seed <= 120; seed++) {
        struct world w;
        uint32_t gpus[16];
        int sm[16], request[16] = {0}, n;
        begin(&w, &(struct fast_sched_conf){.charge = FAST_CHARGE_HELD, .window_ns = windows[seed % 3]},
              2 + (int)seed % 3, seed);
        n = 4 + (int)below(&w, 9);
        for (int i = 0; i < n; i++) {
            gpus[i] = random_gpus(&w, i < 3);
            sm[i] = 5 + (int)below(&w, 90);
        }
        for (int left = 1000; left > 0;) {
            int len = left < 100 ? left : 50 + (int)below(&w, left / 2), room[GPUS], from = (int)below(&w, n);
            left -= len;
            for (int g = 0; g < GPUS; g++)
                room[g] = 100;
            for (int i = 0; i < n; i++) {
                int k = (from + i) % n;
                bool fits = true;
                for (int g = 0; g < GPUS; g++)
                    fits &= !(gpus[k] >> g & 1) || sm[k] <= room[g];
                for (int g = 0; g < GPUS && fits; g++)
                    room[g] -= gpus[k] >> g & 1 ? sm[k] : 0;
                request[k] += fits ? len : 0;
            }
        }
        for (int i = 0; i < n; i++)
            if (request[i])
                add(&w, gpus[i], sm[i], request[i], request[i] + (int)below(&w, 1001 - request[i]));
        w.window_end = check_requests;
        run(&w, 12 * windows[seed % 3]);
        end(&w);
    }
}

/* A gang without a request has no slots: it gets its share beside clients that are never idle on each of its
 * GPUs all the same, and so do gangs that have one GPU in common with each other. */
static void gangs_do_not_starve(void **state)
{
    (void)state;
    struct world w;
    begin(&w, &(struct fast_sched_conf){.charge = FAST_CHARGE_HELD}, 3, 3);
    struct client *pair = add(&w, 3, 70, 0, 1000), *other = add(&w, 6, 70, 0, 1000);
    for (int g = 0; g < 3; g++)
        for (int i = 0; i < 2; i++)
            add(&w, UINT32_C(1) << g, 40, 0, 1000)->kernel = FAST_MS(1);
    run(&w, FAST_S(4));
    for (int i = 0; i < w.n; i++)
        for (int g = 0; g < 3; g++)
            if (w.c[i].gpus >> g & 1)
                assert_true(w.c[i].part[g].held > FAST_MS(700));
    assert_true(pair->part[0].held > FAST_S(1) && other->part[1].held > FAST_S(1));
    end(&w);
}

/* In its slot a gang takes what was lent, on all of its GPUs at once; what it leaves idle there is nobody's
 * shortage. */
static void gangs_take_their_slots_back(void **state)
{
    (void)state;
    struct fast_gangs *g;
    int id[GPUS];
    fast_ns now = 0;
    assert_int_equal(fast_gangs_new(&(struct fast_sched_conf){0}, 2, 0, &g, NULL), 0);
    struct fast_sched *s0 = fast_gangs_sched(g, 0), *s1 = fast_gangs_sched(g, 1);
    assert_int_equal(fast_gangs_add(g, 3, &(struct fast_slice){80, 900, 1000, 0}, 0, id, NULL), 0);
    int left = fast_sched_add(s0, &(struct fast_slice){50, 0, 1000, 0}, 0, NULL);
    int right = fast_sched_add(s1, &(struct fast_slice){50, 0, 1000, 0}, 0, NULL);
    fast_sched_want(s0, left, 0);
    fast_sched_want(s1, right, 0);
    uint64_t token[2] = {fast_sched_stats(s0, left, 0).token, fast_sched_stats(s1, right, 0).token};
    now = FAST_MS(100); /* the plan has the gang from here on */
    fast_sched_tick(s0, now);
    fast_sched_tick(s1, now);
    now += FAST_US(10);
    assert_false(fast_sched_stats(s0, left, now).revoked);
    fast_sched_want(s1, id[1], now);
    assert_true(fast_sched_stats(s0, left, now).revoked && fast_sched_stats(s1, right, now).revoked);
    assert_int_equal(fast_sched_done(s0, left, token[0], 0, true, now, NULL), 0);
    assert_int_equal(fast_sched_stats(s0, id[0], now).token, 0); /* half of it is not given */
    assert_int_equal(fast_sched_stats(s0, left, now).token, 0);  /* nor taken by others */
    assert_int_equal(fast_sched_done(s1, right, token[1], 0, true, now, NULL), 0);
    assert_true(fast_sched_stats(s0, id[0], now).token && fast_sched_stats(s1, id[1], now).token);
    for (; now < FAST_MS(450); now += FAST_MS(1)) {
        fast_sched_tick(s0, now);
        fast_sched_tick(s1, now);
        struct fast_sched_stats a = fast_sched_stats(s0, id[0], now), b = fast_sched_stats(s1, id[1], now);
        if (a.token && a.revoked)
            fast_sched_done(s0, id[0], a.token, 0, false, now, NULL);
        if (b.token && b.revoked)
            fast_sched_done(s1, id[1], b.token, INT64_MAX, true, now, NULL);
    }
    assert_true(fast_sched_stats(s0, id[0], now).windows >= 3);
    assert_int_equal(fast_sched_stats(s0, id[0], now).short_ns, 0); /* this part never had work */
    fast_gangs_free(g);
}

/* The earliest deadline of its parts is that of a gang. */
static void deadlines_order_gangs(void **state)
{
    (void)state;
    for (int late = 0; late < 2; late++) {
        struct fast_gangs *g;
        int id[GPUS];
        assert_int_equal(fast_gangs_new(&(struct fast_sched_conf){.greedy = true}, 2, 0, &g, NULL), 0);
        struct fast_sched *s0 = fast_gangs_sched(g, 0), *s1 = fast_gangs_sched(g, 1);
        assert_int_equal(fast_gangs_add(g, 3, &(struct fast_slice){100, 300, 1000, 0}, 0, id, NULL), 0);
        int first = fast_sched_add(s0, &(struct fast_slice){100, 900, 1000, 0}, 0, NULL);
        int rival = fast_sched_add(s0, &(struct fast_slice){100, 500, 1000, 0}, 0, NULL);
        fast_sched_want(s0, first, 0);
        fast_sched_deadline(s0, rival, FAST_MS(50), 0);
        fast_sched_deadline(s1, id[1], late ? FAST_MS(90) : FAST_MS(20), 0);
        fast_sched_want(s0, rival, 0);
        fast_sched_want(s0, id[0], 0);
        fast_sched_want(s1, id[1], 0);
        fast_sched_done(s0, first, fast_sched_stats(s0, first, 0).token, 0, false, FAST_MS(1), NULL);
        assert_int_equal(fast_sched_stats(s0, id[0], 0).token != 0, !late);
        assert_int_equal(fast_sched_stats(s0, rival, 0).token != 0, late);
        fast_gangs_free(g);
    }
}

/* Half of a collective operation was launched when the token was revoked: it ends when the other half is
 * launched, for which the other part must get a token though this one is not back. */
static void halves_of_a_collective(void **state)
{
    (void)state;
    struct fast_gangs *g;
    struct fast_sched_action a;
    int id[GPUS];
    assert_int_equal(fast_gangs_new(&(struct fast_sched_conf){.drain_ns = FAST_MS(20)}, 2, 0, &g, NULL), 0);
    assert_int_equal(fast_gangs_add(g, 3, &(struct fast_slice){60, 500, 1000, 0}, 0, id, NULL), 0);
    struct fast_sched *s0 = fast_gangs_sched(g, 0), *s1 = fast_gangs_sched(g, 1);
    int rival = fast_sched_add(s1, &(struct fast_slice){100, 500, 1000, 0}, 0, NULL);
    fast_sched_want(s0, id[0], 0);
    uint64_t first = fast_sched_stats(s0, id[0], 0).token, second = fast_sched_stats(s1, id[1], 0).token;
    assert_true(first && second);
    fast_sched_want(s1, rival, FAST_MS(1));
    fast_ns now = FAST_MS(1);
    while (!fast_sched_stats(s0, id[0], now).revoked) {
        now += FAST_MS(1);
        fast_sched_tick(s0, now);
        assert_true(now < FAST_MS(200));
    }
    assert_int_equal(fast_sched_done(s1, id[1], second, 0, true, now, NULL), 0);
    uint64_t again = 0;
    fast_ns revoked = now;
    while (!again && now < FAST_S(1)) {
        now += FAST_MS(1);
        fast_sched_tick(s0, now);
        fast_sched_tick(s1, now);
        struct fast_sched_stats r = fast_sched_stats(s1, rival, now);
        if (r.token && r.revoked)
            fast_sched_done(s1, rival, r.token, 0, true, now, NULL);
        again = fast_sched_stats(s1, id[1], now).token;
        assert_true(!again || now - revoked >= FAST_MS(20));
        assert_true(fast_sched_sm_held(s1) <= 100 && fast_gangs_valid(g));
    }
    assert_true(again != second && again);
    assert_int_equal(fast_sched_done(s0, id[0], first, 0, true, now, NULL), 0); /* it is complete now */
    assert_true(fast_sched_stats(s1, id[1], now).revoked);
    while (fast_sched_next(s1, &a) || fast_sched_next(s0, &a))
        ;
    assert_true(fast_gangs_valid(g));
    fast_gangs_free(g);
}

/* Random gangs and clients of one GPU come, work, crash, change and hang on four GPUs; after every event all
 * or none holds, as do all invariants of the schedulers. */
static void churn(void **state)
{
    (void)state;
    struct world w;
    uint64_t gangs = 0;
    begin(&w, &(struct fast_sched_conf){.drain_ns = FAST_MS(30)}, 4, 17);
    for (int i = 0; i < 20; i++) {
        int request = (int)below(&w, 300);
        struct client *c = add(&w, random_gpus(&w, i % 3 == 0), 1 + (int)below(&w, 100), request, request + 400);
        c->kernel = below(&w, FAST_MS(3));
        c->pause = FAST_MS(1) + below(&w, FAST_MS(40));
        c->work = i % 4 == 0 ? FAST_NEVER : 0;
    }
    for (int k = 0; w.events < CHURN_EVENTS; k++) {
        run(&w, w.now + below(&w, FAST_MS(3)));
        struct client *c = &w.c[below(&w, w.n)];
        int gpu = __builtin_ctz(c->gpus), what = (int)below(&w, 16);
        struct fast_sched *s = fast_gangs_sched(w.g, gpu);
        if (what == 0) {
            fast_sched_remove(s, c->part[gpu].id, w.now);
            c->gpus = random_gpus(&w, is_gang(c));
            c->hangs = below(&w, 30) == 0;
            c->want_at = w.now + below(&w, FAST_MS(10));
            enter(&w, c);
        } else if (what < 4) {
            int request = (int)below(&w, 400);
            c->slice = (struct fast_slice){1 + (int)below(&w, 100), request, 500 + request, 0};
            assert_int_equal(fast_sched_resize(s, c->part[gpu].id, &c->slice, w.now, NULL), 0);
        } else if (what == 4) {
            fast_sched_deadline(s, c->part[gpu].id, w.now + below(&w, FAST_MS(100)), w.now);
        } else if (what == 5) { /* a token that nobody took away */
            for (int g = 0; g < w.gpus; g++)
                if (c->gpus >> g & 1 && c->part[g].token && !c->hangs && below(&w, 2))
                    give(&w, c, g);
        } else if (what == 6 && k % 40 == 0) {
            struct fast_sched_conf conf = {.policy = (enum fast_policy)below(&w, 3),
                                           .window_ns = FAST_MS(20 + below(&w, 200)), .drain_ns = FAST_MS(30)};
            assert_int_equal(fast_sched_conf_set(s, &conf, w.now, NULL), 0);
            w.window_at = w.now;
        }
        settle(&w);
        gangs = w.gang_tokens;
    }
    print_message("%llu events, %llu tokens of gangs, %lld s\n", (unsigned long long)w.events,
                  (unsigned long long)gangs, (long long)(w.now / FAST_S(1)));
    assert_true(gangs > CHURN_EVENTS / 50 && w.sm_max > 90);
    end(&w);
}

static void wrong_gangs(void **state)
{
    (void)state;
    struct fast_gangs *g;
    struct fast_slice slice = {50, 500, 1000, 0};
    int id[GPUS];
    assert_int_equal(fast_gangs_new(&(struct fast_sched_conf){0}, 9, 0, &g, NULL), -FAST_EINVAL);
    assert_int_equal(fast_gangs_new(&(struct fast_sched_conf){.window_ns = 1}, 2, 0, &g, NULL), -FAST_EINVAL);
    assert_int_equal(fast_gangs_new(&(struct fast_sched_conf){0}, 2, 0, &g, NULL), 0);
    assert_int_equal(fast_gangs_add(g, 1, &slice, 0, id, NULL), -FAST_EINVAL);
    assert_int_equal(fast_gangs_add(g, 5, &slice, 0, id, NULL), -FAST_EINVAL);
    slice.sm_pct = 0;
    assert_int_equal(fast_gangs_add(g, 3, &slice, 0, id, NULL), -FAST_EINVAL);
    slice.sm_pct = 10;
    for (int i = 0; i < FAST_GANGS_MAX; i++)
        assert_int_equal(fast_gangs_add(g, 3, &slice, 0, id, NULL), 0);
    assert_int_equal(fast_gangs_add(g, 3, &slice, 0, id, NULL), -FAST_ENOROOM);
    assert_true(fast_gangs_valid(g));
    fast_gangs_free(g);
    fast_gangs_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_or_none),         cmocka_unit_test(parts_come_along),
        cmocka_unit_test(feasible_sets_are_met), cmocka_unit_test(gangs_do_not_starve),
        cmocka_unit_test(halves_of_a_collective), cmocka_unit_test(churn),
        cmocka_unit_test(gangs_take_their_slots_back), cmocka_unit_test(deadlines_order_gangs),
        cmocka_unit_test(wrong_gangs),
    };
    return cmocka_run_group_tests_name("gang", tests, NULL, NULL);
}
