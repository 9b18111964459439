/* Decides when clients of several GPUs get tokens: of all their GPUs in one decision. It goes through the gangs in
 * the order of their keys, and lets every GPU of a gang first give out what comes before it. What a gang is owed while
 * others still drain is kept free for it on all of its GPUs; nothing is granted until all of it is. */
#include "core/sched_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- the GPUs of a node ---- */

/* Who is linked with whom: the GPUs of a gang with each other, and with those of every gang that has one of
 * them. */
static void link_gpus(struct fast_gangs *gangs)
{
    for (int i = 0; i < gangs->n; i++) {
        uint32_t mask = UINT32_C(1) << i, before = 0;
        while (mask != before) {
            before = mask;
            for (int k = 0; k < FAST_GANGS_MAX; k++)
                if (gangs->gang[k].gpus & mask)
                    mask |= gangs->gang[k].gpus;
        }
        gangs->sched[i]->plan_void |= gangs->linked[i] != mask;
        gangs->linked[i] = mask;
    }
}

int fast_gangs_new(const struct fast_sched_conf *conf, int n, fast_ns now, struct fast_gangs **ret,
                   struct fast_err *err)
{
    int r = 0;
    if (n < 0 || n > FAST_PLAN_GPUS)
        return fast_err_set(err, FAST_EINVAL, "%d GPUs: tokens are scheduled for 0 to %d together", n,
                            FAST_PLAN_GPUS);
    struct fast_gangs *g = calloc(1, sizeof(*g));
    if (!g)
        return fast_err_set(err, FAST_ENOMEM, "no memory for token schedulers");
    for (int i = 0; i < n && !r; i++) {
        r = fast_sched_new(conf, now, &g->sched[i], err);
        if (r)
            break;
        g->sched[i]->gangs = g;
        g->sched[i]->gpu = i;
        g->n++;
    }
    link_gpus(g);
    if (r) {
        fast_gangs_free(g);
        return r;
    }
    *ret = g;
    return 0;
}

void fast_gangs_free(struct fast_gangs *gangs)
{
    for (int i = 0; gangs && i < gangs->n; i++)
        fast_sched_free(gangs->sched[i]);
    free(gangs);
}

struct fast_sched *fast_gangs_sched(const struct fast_gangs *gangs, int gpu)
{
    return gangs->sched[gpu];
}

uint32_t fast_gangs_linked(const struct fast_gangs *gangs, int gpu)
{
    return gangs->linked[gpu];
}

/* ---- gangs come and go ---- */

int fast_gangs_add(struct fast_gangs *gangs, uint32_t gpus, const struct fast_slice *slice, fast_ns now,
                   int *ret_clients, struct fast_err *err)
{
    struct gang *g = NULL;
    if (!(gpus & (gpus - 1)) || gpus >> gangs->n)
        return fast_err_set(err, FAST_EINVAL, "GPUs %#x: at least two of the %d of this node are needed", gpus,
                            gangs->n);
    for (int i = 0; i < FAST_GANGS_MAX && !g; i++)
        g = gangs->gang[i].gpus ? NULL : &gangs->gang[i];
    if (!g)
        return fast_err_set(err, FAST_ENOROOM, "a node takes at most %d clients of several GPUs", FAST_GANGS_MAX);
    for (uint32_t d = gpus; d; d &= d - 1) {
        int i = __builtin_ctz(d);
        g->client[i] = fast_sched_add(gangs->sched[i], slice, now, err);
        if (g->client[i] >= 0)
            continue;
        int r = g->client[i];
        for (uint32_t u = gpus & ((UINT32_C(1) << i) - 1); u; u &= u - 1)
            fast_sched_remove(gangs->sched[__builtin_ctz(u)], g->client[__builtin_ctz(u)], now);
        return r;
    }
    g->gpus = gpus;
    gangs->count++;
    link_gpus(gangs);
    for (uint32_t d = gpus; d; d &= d - 1) {
        int i = __builtin_ctz(d);
        gangs->sched[i]->clients[g->client[i]].gang = g;
        ret_clients[i] = g->client[i];
    }
    sched_advance(gangs->sched[__builtin_ctz(gpus)], now); /* all to the latest of their moments */
    return 0;
}

void sched_gang_forget(struct fast_gangs *gangs, struct gang *g)
{
    g->gpus = 0;
    gangs->count--;
    link_gpus(gangs);
}

/* ---- tokens ---- */

void sched_gang_revoke(struct fast_sched *s, const struct gang *g)
{
    for (uint32_t d = g->gpus; d; d &= d - 1)
        if (sched_part(s, g, d)->state == CLIENT_HOLD)
            sched_revoke_one(sched_of(s, d), sched_part(s, g, d));
}

void sched_gang_returned(struct fast_sched *s, const struct gang *g)
{
    sched_gang_revoke(s, g);
    /* What it has used is known better now than while the token was out. */
    for (uint32_t d = g->gpus; d; d &= d - 1)
        sched_rekey(sched_of(s, d), sched_part(s, g, d));
}

/* A gang that can be granted or extended in this decision. */
struct candidate {
    struct gang *gang;
    bool expired; /* it holds; all its tokens have just ended */
    bool stuck;   /* a token of it is not waited for: the others get theirs beside it */
    fast_ns since; /* when it began to wait */
    int64_t key[FAST_TREE_KEYS];
};

static bool is_candidate(struct fast_sched *s, struct gang *g, struct candidate *ret)
{
    bool wants = false;
    *ret = (struct candidate){.gang = g, .since = FAST_NEVER};
    for (uint32_t d = g->gpus; d; d &= d - 1) {
        const struct client *c = sched_part(s, g, d);
        if (c->throttled || (c->state == CLIENT_HOLD && !c->expired) || (c->state == CLIENT_DRAIN && !c->stuck))
            return false;
        ret->expired |= c->expired;
        ret->stuck |= c->stuck;
        wants |= c->state == CLIENT_READY;
        if (c->state == CLIENT_READY && c->ready_at < ret->since)
            ret->since = c->ready_at;
    }
    if (!wants && !ret->expired)
        return false;
    sched_key(sched_of(s, g->gpus), sched_part(s, g, g->gpus), ret->key);
    for (uint32_t d = g->gpus; d && ret->key[0] == CLASS_MISSING; d &= d - 1)
        if (sched_part(s, g, d)->deadline < ret->key[1])
            ret->key[1] = sched_part(s, g, d)->deadline;
    ret->key[3] = ret->expired ? s->now : ret->since;
    return true;
}

static bool is_stronger(const struct candidate *a, const struct candidate *b)
{
    for (int i = 0; i < FAST_TREE_KEYS; i++)
        if (a->key[i] != b->key[i])
            return a->key[i] < b->key[i];
    return false;
}

/* In the order of their keys. */
static int collect(struct fast_sched *s, struct candidate *list)
{
    uint32_t domain = sched_domain(s);
    int n = 0;
    for (int i = 0; i < FAST_GANGS_MAX; i++) {
        struct candidate c;
        if (!(s->gangs->gang[i].gpus & domain) || !is_candidate(s, &s->gangs->gang[i], &c))
            continue;
        int at = n++;
        for (; at > 0 && is_stronger(&c, &list[at - 1]); at--)
            list[at] = list[at - 1];
        list[at] = c;
    }
    return n;
}

/* What a part takes that has its SMs not yet. */
static int needs(const struct fast_sched *s, const struct client *c)
{
    return c->stuck ? 0 : c->expired ? c->held_sm : sched_width(s, c);
}

static bool has_room(struct fast_sched *s, const struct candidate *c)
{
    for (uint32_t d = c->gang->gpus; d; d &= d - 1)
        if (needs(sched_of(s, d), sched_part(s, c->gang, d)) > sched_of(s, d)->room)
            return false;
    return true;
}

/* Makes room on all of its GPUs by revoking tokens of weaker classes, or on none. */
static bool make_room(struct fast_sched *s, const struct candidate *c)
{
    for (int try = 1; try >= 0; try--)
        for (uint32_t d = c->gang->gpus; d; d &= d - 1) {
            struct fast_sched *of = sched_of(s, d);
            int need = needs(of, sched_part(s, c->gang, d));
            if (need > of->room && !sched_preempt(of, c->key[0], need, try))
                return false;
        }
    return true;
}

/* It has waited for long, and nobody before it in the order of any of its GPUs took what it needs: from now on
 * nobody after it does. A stuck token, which may never come back, would make others wait for nothing. */
static bool may_claim(struct fast_sched *s, const struct candidate *c)
{
    for (uint32_t d = c->gang->gpus; d; d &= d - 1)
        if (sched_of(s, d)->sm_stuck || !sched_of(s, d)->patient)
            return false;
    return !c->expired && s->now - c->since >= SCHED_PATIENCE * s->conf.token_ns;
}

static void take_room(struct fast_sched *s, const struct candidate *c)
{
    for (uint32_t d = c->gang->gpus; d; d &= d - 1)
        sched_of(s, d)->room -= needs(sched_of(s, d), sched_part(s, c->gang, d));
}

static bool is_free(struct fast_sched *s, const struct candidate *c)
{
    for (uint32_t d = c->gang->gpus; d; d &= d - 1)
        if (needs(sched_of(s, d), sched_part(s, c->gang, d)) > FAST_SM_PCT_MAX - sched_of(s, d)->sm_held)
            return false;
    return true;
}

static void give(struct fast_sched *s, const struct candidate *c)
{
    fast_ns until = FAST_NEVER;
    for (uint32_t d = c->gang->gpus; d; d &= d - 1) {
        fast_ns end = sched_token_end(sched_of(s, d), sched_part(s, c->gang, d));
        until = end < until ? end : until;
    }
    for (uint32_t d = c->gang->gpus; d; d &= d - 1) {
        struct client *part = sched_part(s, c->gang, d);
        if (part->expired)
            sched_extend(sched_of(s, d), part, until);
        else if (part->state != CLIENT_DRAIN)
            sched_grant(sched_of(s, d), part, until);
    }
}

void sched_gangs_decide(struct fast_sched *s)
{
    struct candidate list[FAST_GANGS_MAX];
    int n = collect(s, list);
    for (int i = 0; i < n; i++) {
        const struct candidate *c = &list[i];
        for (uint32_t d = c->gang->gpus; d; d &= d - 1)
            sched_fill(sched_of(s, d), c->key);
        if (has_room(s, c) || (c->key[0] < CLASS_ELASTIC && make_room(s, c))) {
            take_room(s, c);
            if (c->expired || is_free(s, c))
                give(s, c);
        } else if (may_claim(s, c)) {
            take_room(s, c);
            for (uint32_t d = c->gang->gpus; d; d &= d - 1)
                sched_of(s, d)->patient = false;
        }
    }
}

/* ---- invariants ---- */

static bool gang_valid(const struct fast_gangs *gangs, const struct gang *g)
{
    int hold = 0, other = 0;
    struct fast_sched *s = gangs->sched[__builtin_ctz(g->gpus)];
    for (uint32_t d = g->gpus; d; d &= d - 1) {
        const struct client *c = sched_part(s, g, d), *first = sched_part(s, g, g->gpus);
        if (c->gang != g || c->state == CLIENT_FREE || sched_of(s, d)->window_at != s->window_at ||
            sched_of(s, d)->now != s->now || c->slice.sm_pct != first->slice.sm_pct)
            return false;
        hold += c->state == CLIENT_HOLD;
        other += c->state != CLIENT_HOLD && !c->stuck;
    }
    return !hold || !other;
}

bool fast_gangs_valid(const struct fast_gangs *gangs)
{
    int count = 0;
    for (int i = 0; i < gangs->n; i++)
        if (!fast_sched_valid(gangs->sched[i]))
            return false;
    for (int i = 0; i < FAST_GANGS_MAX; i++) {
        if (!gangs->gang[i].gpus)
            continue;
        count++;
        if (!gang_valid(gangs, &gangs->gang[i]))
            return false;
    }
    return count == gangs->count;
}
