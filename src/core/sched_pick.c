/* Decides who holds a token next. A decision looks at all who wait and at all whose token has just
 * ended as equals, fills the GPU in the order of their keys, and only then acts: whose token ended
 * and who was chosen again goes on without a pause, who was not chosen is revoked, and who was
 * chosen while others still drain waits for these SMs, which nobody else gets meanwhile. */
#include "core/sched_impl.h"

#include <stddef.h>
#include <string.h>

#include "base/mem.h"

static fast_ns used_here(const struct fast_sched *s, const struct client *c)
{
    fast_ns used = c->quota.used_ns;
    if (c->state == CLIENT_HOLD || c->state == CLIENT_DRAIN)
        used += s->now - (c->granted_at > s->window_at ? c->granted_at : s->window_at);
    return used;
}

fast_ns sched_used(const struct fast_sched *s, const struct client *c)
{
    fast_ns used = used_here(s, c);
    for (uint32_t d = c->gang ? c->gang->gpus : 0; d; d &= d - 1) {
        fast_ns there = used_here(s, sched_part(s, c->gang, d)); /* it is as late there as here */
        used = there > used ? there : used;
    }
    return used;
}

bool sched_owns_slot(const struct fast_sched *s, const struct client *c)
{
    return s->slot < s->plan.slots && c->plan_i >= 0 &&
           s->plan.owners[s->slot] >> c->plan_i & 1;
}

/* A rest up to this length of |quota| is not worth a hand-over; the whole of it always is, however
 * small it is beside a token. */
static fast_ns sliver(const struct fast_sched *s, fast_ns quota)
{
    fast_ns most = s->conf.token_ns / 100;
    if (s->conf.whole_tokens)
        return 0;
    return quota / 10 < most ? quota / 10 : most;
}

bool sched_at_limit(const struct fast_sched *s, const struct client *c)
{
    return s->conf.policy != FAST_POLICY_RACING &&
           c->quota.limit_ns - sched_used(s, c) <= sliver(s, c->quota.limit_ns);
}

/* Deadlines order those who miss something of their request, and nobody else: who owns a slot comes first
 * all the same, and beyond its request a client competes by what it has used. */
void sched_key(const struct fast_sched *s, const struct client *c, int64_t key[FAST_TREE_KEYS])
{
    fast_ns used = sched_used(s, c);
    fast_ns missing = c->quota.request_ns - used;
    if (missing > sliver(s, c->quota.request_ns)) {
        key[0] = sched_owns_slot(s, c) ? CLASS_OWNER : CLASS_MISSING;
        key[1] = c->deadline;
        key[2] = -missing;
    } else {
        key[0] = CLASS_ELASTIC;
        key[1] = 0;
        key[2] = used * 1000 / (c->quota.limit_ns / 1000 + 1);
    }
    key[3] = c->state == CLIENT_HOLD ? s->now : c->ready_at;
}

void sched_ready_insert(struct fast_sched *s, struct client *c)
{
    if (sched_at_limit(s, c)) {
        c->throttled = true;
        c->throttled_at = s->now;
        s->throttled++;
        return;
    }
    if (c->gang) {
        c->bound = true;
        s->bound++;
        return;
    }
    sched_key(s, c, c->ready.key);
    c->ready.id = sched_id(s, c);
    c->ready.width = sched_width(s, c);
    fast_tree_insert(&s->ready, &c->ready);
}

void sched_ready_remove(struct fast_sched *s, struct client *c)
{
    fast_tree_remove(&s->ready, &c->ready);
    s->bound -= c->bound;
    c->bound = false;
    if (c->throttled) {
        c->throttled = false;
        s->throttled--;
        c->sum.throttled_ns += s->now - c->throttled_at;
    }
}

static void timed_insert(struct fast_sched *s, struct client *c, fast_ns at)
{
    memset(c->timed.key, 0, sizeof(c->timed.key));
    c->timed.key[0] = at;
    c->timed.id = sched_id(s, c);
    c->timed.width = 0;
    fast_tree_insert(&s->timed, &c->timed);
}

void sched_revoke(struct fast_sched *s, struct client *c)
{
    if (c->gang)
        sched_gang_revoke(s, c->gang);
    else
        sched_revoke_one(s, c);
}

void sched_revoke_one(struct fast_sched *s, struct client *c)
{
    fast_tree_remove(&s->timed, &c->timed);
    fast_tree_remove(&s->ready, &c->ready);
    if (!c->expired) {
        s->sm_active -= c->held_sm;
        s->room += c->held_sm;
    }
    c->expired = false;
    c->state = CLIENT_DRAIN;
    c->revoked_at = s->now;
    timed_insert(s, c, s->now + s->conf.drain_ns);
    sched_tell(s, c, TELL_REVOKE);
}

/* When a token that begins, or is extended, now must end at the latest. */
fast_ns sched_token_end(const struct fast_sched *s, const struct client *c)
{
    if (s->conf.policy == FAST_POLICY_RACING)
        return FAST_NEVER;
    fast_ns end = s->now + s->conf.token_ns;
    if (s->conf.whole_tokens)
        return end;
    fast_ns left = c->quota.limit_ns - sched_used(s, c);
    /* Who may have less than that in a window gets it all the same, or nothing would ever run, and pays
     * in the next ones. */
    if (c->quota.limit_ns < FAST_TOKEN_MIN && left < FAST_TOKEN_MIN)
        left = FAST_TOKEN_MIN;
    if (s->now + left < end)
        end = s->now + left;
    fast_ns missing = c->quota.request_ns - sched_used(s, c);
    if (missing > FAST_TOKEN_MIN / 2 && s->now + missing < end)
        end = s->now + missing; /* from there on it stands behind those who still miss theirs */
    if (s->plan.slots > 1 && s->window_at + s->plan.end_ns[s->slot] < end)
        end = s->window_at + s->plan.end_ns[s->slot];
    return end;
}

void sched_extend(struct fast_sched *s, struct client *c, fast_ns until)
{
    fast_tree_remove(&s->ready, &c->ready);
    c->expired = false;
    s->sm_active += c->held_sm;
    c->until = until;
    timed_insert(s, c, c->until);
    if (!(c->tell & TELL_GRANT))
        c->extended = true;
    sched_tell(s, c, TELL_GRANT);
}

/* |until| was found before it holds: the token itself has used nothing yet. */
void sched_grant(struct fast_sched *s, struct client *c, fast_ns until)
{
    sched_ready_remove(s, c);
    c->sum.wait_ns += c->state == CLIENT_READY ? s->now - c->ready_at : 0;
    c->sum.tokens++;
    c->until = until;
    c->state = CLIENT_HOLD;
    c->granted_at = s->now;
    c->token = ++s->last_token;
    c->held_sm = sched_width(s, c);
    c->extended = false;
    s->sm_held += c->held_sm;
    s->sm_active += c->held_sm;
    c->holder_i = s->tokens_out;
    s->holders[s->tokens_out++] = sched_id(s, c);
    s->window_used = true;
    timed_insert(s, c, c->until);
    sched_tell(s, c, TELL_GRANT);
}

void sched_unhold(struct fast_sched *s, struct client *c)
{
    fast_tree_remove(&s->timed, &c->timed);
    s->sm_held -= c->held_sm;
    if (c->state == CLIENT_HOLD)
        s->sm_active -= c->held_sm;
    if (c->stuck)
        s->sm_stuck -= c->held_sm;
    c->stuck = false;
    int last = s->holders[--s->tokens_out];
    s->holders[c->holder_i] = last;
    s->clients[last].holder_i = c->holder_i;
    c->token = 0;
    c->held_sm = 0;
}

/* Tokens whose end has come: the client is a candidate again, or drains, or is given up waiting
 * for. */
static void expire(struct fast_sched *s)
{
    s->expired_count = 0;
    for (;;) {
        struct fast_tree_node *n = fast_tree_first(&s->timed);
        if (!n || n->key[0] > s->now)
            return;
        struct client *c = CLIENT_OF_TIMED(n);
        fast_tree_remove(&s->timed, n);
        if (c->state == CLIENT_DRAIN) {
            c->stuck = true;
            s->sm_stuck += c->held_sm;
            sched_tell(s, c, TELL_STUCK);
            continue;
        }
        c->expired = true;
        s->sm_active -= c->held_sm;
        if (s->conf.whole_tokens || sched_at_limit(s, c) || c->held_sm != sched_width(s, c)) {
            sched_revoke(s, c);
            continue;
        }
        s->expired[s->expired_count++] = sched_id(s, c);
        if (c->gang)
            continue;
        sched_key(s, c, c->ready.key);
        c->ready.id = sched_id(s, c);
        c->ready.width = c->held_sm;
        fast_tree_insert(&s->ready, &c->ready);
    }
}

/* In class, deadline and what it misses; since when it waits does not matter. */
static bool weaker(const int64_t a[FAST_TREE_KEYS], const int64_t b[FAST_TREE_KEYS])
{
    for (int i = 0; i < 3; i++)
        if (a[i] != b[i])
            return a[i] > b[i];
    return false;
}

bool sched_preempt(struct fast_sched *s, int64_t class, int need, bool try)
{
    for (;;) {
        struct client *worst = NULL;
        int64_t worst_key[FAST_TREE_KEYS] = {0};
        int sum = 0;
        for (int i = 0; i < s->tokens_out; i++) {
            struct client *c = &s->clients[s->holders[i]];
            int64_t key[FAST_TREE_KEYS];
            if (c->state != CLIENT_HOLD || c->expired || c->held_sm == 0)
                continue;
            sched_key(s, c, key);
            if (key[0] <= class)
                continue;
            sum += c->held_sm;
            if (!worst || weaker(key, worst_key)) {
                worst = c;
                memcpy(worst_key, key, sizeof(worst_key));
            }
        }
        if (s->room >= need)
            return true;
        if (!worst || s->room + sum < need || try)
            return worst && s->room + sum >= need;
        sched_revoke(s, worst);
    }
}

/* Takes |c| out of the tree for the rest of this decision. */
static void set_aside(struct fast_sched *s, struct client *c)
{
    fast_tree_remove(&s->ready, &c->ready);
    s->aside[s->aside_count++] = sched_id(s, c);
}

static void choose(struct fast_sched *s, struct client *c)
{
    s->room -= c->expired ? c->held_sm : sched_width(s, c);
    if (c->expired)
        sched_extend(s, c, sched_token_end(s, c));
    else if (sched_width(s, c) <= FAST_SM_PCT_MAX - s->sm_held)
        sched_grant(s, c, sched_token_end(s, c));
    else
        set_aside(s, c); /* its SMs are spoken for and still drain */
}

/* The first in the order does not fit. Makes room for it, or sets it aside; false: the next ones may
 * have what is there. */
static bool help_head(struct fast_sched *s, struct client *head)
{
    int width = head->ready.width;
    int64_t class = head->ready.key[0];
    if (class < CLASS_ELASTIC && sched_preempt(s, class, width, false))
        return true;
    if (class == CLASS_OWNER && !head->expired) {
        set_aside(s, head); /* only a stuck token can be in an owner's way */
        return true;
    }
    if (s->patient && s->sm_stuck == 0 && !head->expired &&
        s->now - head->ready_at >= SCHED_PATIENCE * s->conf.token_ns) {
        s->patient = false;
        s->room -= width;
        set_aside(s, head);
        return true;
    }
    return false;
}

static bool is_before(const struct fast_tree_node *n, const int64_t *key)
{
    for (int i = 0; key && i < FAST_TREE_KEYS; i++)
        if (n->key[i] != key[i])
            return n->key[i] < key[i];
    return true;
}

void sched_fill(struct fast_sched *s, const int64_t *key)
{
    for (;;) {
        struct fast_tree_node *next = fast_tree_first(&s->ready);
        if (next && next->width > s->room && is_before(next, key)) {
            if (s->heads && help_head(s, CLIENT_OF_READY(next)))
                continue;
            s->heads = false;
            next = fast_tree_first_fit(&s->ready, s->room);
        }
        if (!next || !is_before(next, key))
            return;
        choose(s, CLIENT_OF_READY(next));
    }
}

static void begin(struct fast_sched *s)
{
    s->aside_count = 0;
    s->heads = !s->conf.greedy;
    s->patient = true;
    expire(s);
}

/* Whose token ended and who was not chosen has to give it back. */
static void end(struct fast_sched *s)
{
    for (int i = 0; i < s->expired_count; i++)
        if (s->clients[s->expired[i]].expired)
            sched_revoke(s, &s->clients[s->expired[i]]);
    for (int i = 0; i < s->aside_count; i++)
        fast_tree_insert(&s->ready, &s->clients[s->aside[i]].ready);
    bool contended = sched_waiting(s) > 0;
    if (contended != s->contended) {
        s->contended = contended;
        s->tell_contended = true;
    }
}

void sched_dispatch(struct fast_sched *s)
{
    uint32_t domain = sched_domain(s);
    sched_plan_fresh(s);
    for (uint32_t d = domain; d; d &= d - 1)
        begin(sched_of(s, d));
    for (uint32_t d = domain; d; d &= d - 1) /* a gang's token that ended on one GPU is out on the others */
        sched_of(s, d)->room = FAST_SM_PCT_MAX - sched_of(s, d)->sm_active - sched_of(s, d)->sm_stuck;
    if (s->gangs && s->gangs->count)
        sched_gangs_decide(s);
    for (uint32_t d = domain; d; d &= d - 1)
        sched_fill(sched_of(s, d), NULL);
    for (uint32_t d = domain; d; d &= d - 1)
        end(sched_of(s, d));
}
