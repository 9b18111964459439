/* Takes the events of core/sched.h and turns them into decisions of sched_pick.c. It assumes
 * that every event of the GPU goes through here, in the order of time. Memory is taken when a client
 * is added, never later. What is to be told is kept as flags at its client, so that it needs no
 * room of its own however late the caller asks. */
#include "core/sched_impl.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define FIRST_CAP 16

/* ---- telling ---- */

static void untell(struct fast_sched *s, struct client *c)
{
    if (!c->tell)
        return;
    c->tell = 0;
    if (c->tell_prev >= 0)
        s->clients[c->tell_prev].tell_next = c->tell_next;
    else
        s->tell_first = c->tell_next;
    if (c->tell_next >= 0)
        s->clients[c->tell_next].tell_prev = c->tell_prev;
    else
        s->tell_last = c->tell_prev;
}

void sched_tell(struct fast_sched *s, struct client *c, unsigned what)
{
    int id = sched_id(s, c);
    if (!c->tell) {
        c->tell_prev = s->tell_last;
        c->tell_next = -1;
        if (s->tell_last >= 0)
            s->clients[s->tell_last].tell_next = id;
        else
            s->tell_first = id;
        s->tell_last = id;
    }
    c->tell |= what;
}

bool fast_sched_next(struct fast_sched *s, struct fast_sched_action *ret)
{
    *ret = (struct fast_sched_action){.client = -1, .contended = s->contended};
    if (s->tell_first < 0) {
        ret->kind = FAST_SCHED_CONTENDED;
        bool tell = s->tell_contended;
        s->tell_contended = false;
        return tell;
    }
    struct client *c = &s->clients[s->tell_first];
    ret->client = s->tell_first;
    ret->token = c->token;
    ret->until_ns = c->until;
    unsigned what = c->tell & -c->tell; /* the lowest: grant before revoke before stuck */
    if (what == TELL_GRANT) {
        ret->kind = FAST_SCHED_GRANT;
        ret->extended = c->extended;
        c->extended = false;
    } else {
        ret->kind = what == TELL_REVOKE ? FAST_SCHED_REVOKE : FAST_SCHED_STUCK;
    }
    if (c->tell == what)
        untell(s, c);
    else
        c->tell &= ~what;
    return true;
}

/* ---- events ---- */

static bool known(const struct fast_sched *s, int client)
{
    return client >= 0 && client < s->used && s->clients[client].state != CLIENT_FREE;
}

static int conf_fill(struct fast_sched_conf *c, struct fast_err *err)
{
    if (c->window_ns == 0)
        c->window_ns = FAST_WINDOW_DEFAULT;
    if (c->token_ns == 0)
        c->token_ns = FAST_TOKEN_DEFAULT < c->window_ns ? FAST_TOKEN_DEFAULT : c->window_ns;
    if (c->drain_ns == 0)
        c->drain_ns = c->window_ns;
    if ((unsigned)c->policy >= FAST_POLICY_COUNT || (unsigned)c->charge >= FAST_CHARGE_COUNT)
        return fast_err_set(err, FAST_EINVAL, "policy %d or charge %d is not known", (int)c->policy,
                            (int)c->charge);
    if (c->window_ns < FAST_WINDOW_MIN || c->window_ns > FAST_WINDOW_MAX)
        return fast_err_set(err, FAST_EINVAL, "window: %lld us is not from 10 ms to 10 s",
                            (long long)c->window_ns / 1000);
    if (c->token_ns < FAST_TOKEN_MIN || c->token_ns > FAST_TOKEN_MAX ||
        c->token_ns > c->window_ns)
        return fast_err_set(err, FAST_EINVAL,
                            "token: %lld us is not from 100 us to the window, %lld us",
                            (long long)c->token_ns / 1000, (long long)c->window_ns / 1000);
    if (c->drain_ns < 0)
        return fast_err_set(err, FAST_EINVAL, "drain time: it is negative");
    return 0;
}

int fast_sched_new(const struct fast_sched_conf *conf, fast_ns now, struct fast_sched **ret,
                   struct fast_err *err)
{
    struct fast_sched_conf c = *conf;
    int r = conf_fill(&c, err);
    if (r)
        return r;
    struct fast_sched *s = calloc(1, sizeof(*s));
    if (!s)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a token scheduler");
    s->conf = c;
    s->now = s->window_at = now;
    s->plan_void = true;
    s->free_first = s->tell_first = s->tell_last = -1;
    *ret = s;
    return 0;
}

void fast_sched_free(struct fast_sched *s)
{
    if (!s)
        return;
    free(s->clients);
    free(s->holders);
    free(s->aside);
    free(s->expired);
    free(s);
}

/* Clients move in memory, so that the trees are built anew. */
static void relocate(struct fast_sched *s, struct client *clients)
{
    struct client *old = s->clients;
    s->clients = clients;
    s->ready = s->timed = (struct fast_tree){0};
    for (int i = 0; i < s->used; i++) {
        if (clients[i].ready.in)
            fast_tree_insert(&s->ready, &clients[i].ready);
        if (clients[i].timed.in)
            fast_tree_insert(&s->timed, &clients[i].timed);
    }
    free(old);
}

static int grow(struct fast_sched *s, struct fast_err *err)
{
    int cap = s->cap ? 2 * s->cap : FIRST_CAP;
    if (s->cap >= FAST_SCHED_CLIENTS_MAX)
        return fast_err_set(err, FAST_ENOROOM, "a GPU takes at most %d clients",
                            FAST_SCHED_CLIENTS_MAX);
    int **scratch[] = {&s->holders, &s->aside, &s->expired};
    for (size_t i = 0; i < FAST_COUNT_OF(scratch); i++) {
        int *more = realloc(*scratch[i], (size_t)cap * sizeof(int));
        if (!more)
            return fast_err_set(err, FAST_ENOMEM, "no memory for %d clients", cap);
        *scratch[i] = more;
    }
    struct client *clients = calloc((size_t)cap, sizeof(*clients));
    if (!clients)
        return fast_err_set(err, FAST_ENOMEM, "no memory for %d clients", cap);
    if (s->used)
        memcpy(clients, s->clients, (size_t)s->used * sizeof(*clients));
    relocate(s, clients);
    s->cap = cap;
    return 0;
}

int fast_sched_add(struct fast_sched *s, const struct fast_slice *slice, fast_ns now,
                   struct fast_err *err)
{
    int r = fast_slice_check(slice, err);
    if (!r && s->free_first < 0 && s->used == s->cap)
        r = grow(s, err);
    if (r)
        return r;
    sched_advance(s, now);
    int id = s->free_first;
    if (id >= 0)
        s->free_first = s->clients[id].tell_next;
    else
        id = s->used++;
    struct client *c = &s->clients[id];
    *c = (struct client){.state = CLIENT_IDLE, .slice = *slice, .plan_i = -1, .rested = true,
                         .deadline = FAST_NEVER};
    fast_quota_set(&c->quota, slice, s->conf.window_ns);
    s->plan_old = true;
    return id;
}

static void remove_one(struct fast_sched *s, struct client *c)
{
    if (c->state == CLIENT_READY)
        sched_ready_remove(s, c);
    if (c->state == CLIENT_HOLD || c->state == CLIENT_DRAIN)
        sched_unhold(s, c);
    untell(s, c);
    c->state = CLIENT_FREE;
    c->gang = NULL;
    c->plan_i = -1;
    c->tell_next = s->free_first;
    s->free_first = sched_id(s, c);
    s->plan_old = true;
}

void fast_sched_remove(struct fast_sched *s, int client, fast_ns now)
{
    if (!known(s, client))
        return;
    sched_advance(s, now);
    struct client *c = &s->clients[client];
    struct gang *gang = c->gang;
    if (!gang) {
        remove_one(s, c);
        sched_dispatch(s);
        return;
    }
    uint32_t gpus = gang->gpus;
    for (uint32_t d = gpus; d; d &= d - 1)
        remove_one(sched_of(s, d), sched_part(s, gang, d));
    sched_gang_forget(s->gangs, gang);
    for (uint32_t d = gpus; d; d &= d - 1)
        sched_dispatch(sched_of(s, d)); /* they may not be linked any more */
}

static void resize_one(struct fast_sched *s, struct client *c, const struct fast_slice *slice)
{
    s->plan_old |= c->slice.sm_pct != slice->sm_pct || c->slice.request_milli != slice->request_milli;
    c->slice = *slice;
    fast_quota_set(&c->quota, slice, s->conf.window_ns);
    fast_ns left = fast_quota_left(&c->quota);
    if (c->state == CLIENT_HOLD && s->conf.policy != FAST_POLICY_RACING && !s->conf.whole_tokens &&
        left < c->until - s->now)
        sched_revoke(s, c); /* the limit is lower now than its token is long */
    sched_rekey(s, c);
}

int fast_sched_resize(struct fast_sched *s, int client, const struct fast_slice *slice, fast_ns now,
                      struct fast_err *err)
{
    if (!known(s, client))
        return fast_err_set(err, FAST_ENOENT, "there is no client %d", client);
    int r = fast_slice_check(slice, err);
    if (r)
        return r;
    sched_advance(s, now);
    struct client *c = &s->clients[client];
    if (!c->gang)
        resize_one(s, c, slice);
    for (uint32_t d = c->gang ? c->gang->gpus : 0; d; d &= d - 1)
        resize_one(sched_of(s, d), sched_part(s, c->gang, d), slice);
    sched_dispatch(s);
    return 0;
}

void fast_sched_want(struct fast_sched *s, int client, fast_ns now)
{
    if (!known(s, client) || s->clients[client].state != CLIENT_IDLE)
        return;
    sched_advance(s, now);
    struct client *c = &s->clients[client];
    c->state = CLIENT_READY;
    c->ready_at = s->now;
    sched_ready_insert(s, c);
    sched_dispatch(s);
}

void fast_sched_deadline(struct fast_sched *s, int client, fast_ns deadline, fast_ns now)
{
    if (!known(s, client) || s->clients[client].deadline == deadline)
        return;
    sched_advance(s, now);
    s->clients[client].deadline = deadline;
    sched_rekey(s, &s->clients[client]);
    sched_dispatch(s);
}

/* No work, no token. */
static void rest(struct client *c)
{
    c->state = CLIENT_IDLE;
    c->rested = true;
    c->deadline = FAST_NEVER;
}

void fast_sched_unwant(struct fast_sched *s, int client, fast_ns now)
{
    if (!known(s, client) || s->clients[client].state != CLIENT_READY)
        return;
    sched_advance(s, now);
    struct client *c = &s->clients[client];
    sched_ready_remove(s, c);
    c->sum.wait_ns += s->now - c->ready_at;
    rest(c);
    sched_dispatch(s);
}

int fast_sched_done(struct fast_sched *s, int client, uint64_t token, fast_ns busy_ns, bool want,
                    fast_ns now, struct fast_err *err)
{
    if (!known(s, client))
        return fast_err_set(err, FAST_ENOENT, "there is no client %d", client);
    struct client *c = &s->clients[client];
    if (token == 0 || token != c->token)
        return fast_err_set(err, FAST_EINVAL, "client %d does not hold token %llu", client,
                            (unsigned long long)token);
    sched_advance(s, now);
    fast_ns held = s->now - c->granted_at;
    fast_ns from = c->granted_at > s->window_at ? c->granted_at : s->window_at;
    fast_ns charge = s->conf.charge == FAST_CHARGE_HELD || busy_ns > held ? held : busy_ns;
    if (charge < 0)
        charge = 0;
    c->sum.held_ns += held;
    c->sum.charged_ns += charge;
    if (c->state == CLIENT_DRAIN)
        c->sum.overrun_ns += s->now - c->revoked_at;
    sched_unhold(s, c);
    untell(s, c);
    fast_quota_charge(&c->quota, charge, s->now - from, !s->conf.whole_tokens);
    c->state = CLIENT_READY;
    c->ready_at = s->now;
    if (!want)
        rest(c);
    else
        sched_ready_insert(s, c);
    if (c->gang)
        sched_gang_returned(s, c->gang);
    sched_dispatch(s);
    return 0;
}

static void apply_conf(struct fast_sched *s, const struct fast_sched_conf *next)
{
    for (int i = 0; i < s->used; i++) {
        struct client *c = &s->clients[i];
        if (c->state == CLIENT_HOLD && s->conf.policy != next->policy)
            sched_revoke(s, c);
    }
    s->conf = *next;
    for (int i = 0; i < s->used; i++) {
        struct client *c = &s->clients[i];
        if (c->state == CLIENT_FREE)
            continue;
        fast_quota_set(&c->quota, &c->slice, next->window_ns);
        fast_quota_roll(&c->quota, 2, false);
    }
    s->plan_old = s->plan_void = true;
}

int fast_sched_conf_set(struct fast_sched *s, const struct fast_sched_conf *conf, fast_ns now,
                        struct fast_err *err)
{
    struct fast_sched_conf next = *conf;
    int r = conf_fill(&next, err);
    if (r)
        return r;
    /* Those that have gangs in common, or may have, stay in step. */
    int count = s->gangs ? s->gangs->n : 1;
    for (int i = 0; i < count; i++)
        now = sched_of(s, 1u << i)->now > now ? sched_of(s, 1u << i)->now : now;
    for (int i = 0; i < count; i++)
        sched_advance(sched_of(s, 1u << i), now);
    for (int i = 0; i < count; i++)
        apply_conf(sched_of(s, 1u << i), &next);
    for (int i = 0; i < count; i++) {
        sched_window_begin(sched_of(s, 1u << i), now);
        sched_dispatch(sched_of(s, 1u << i));
    }
    return 0;
}

void fast_sched_tick(struct fast_sched *s, fast_ns now)
{
    sched_advance(s, now);
    sched_dispatch(s);
}
