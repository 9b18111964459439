/* Answers questions about a token scheduler and checks its invariants; decides nothing. */
#include "core/sched_impl.h"

const struct fast_sched_conf *fast_sched_conf(const struct fast_sched *s)
{
    return &s->conf;
}

int fast_sched_sm_held(const struct fast_sched *s)
{
    return s->sm_held;
}

int fast_sched_tokens_out(const struct fast_sched *s)
{
    return s->tokens_out;
}

uint64_t fast_sched_plans(const struct fast_sched *s)
{
    return s->plans;
}

fast_ns fast_sched_planned_ns(const struct fast_sched *s)
{
    return s->plan.length_ns;
}

struct fast_sched_stats fast_sched_stats(const struct fast_sched *s, int client, fast_ns now)
{
    struct fast_sched_stats sum = {0};
    if (client < 0 || client >= s->used || s->clients[client].state == CLIENT_FREE)
        return sum;
    const struct client *c = &s->clients[client];
    sum = c->sum;
    sum.used_ns = c->quota.used_ns;
    sum.token = c->token;
    sum.revoked = c->state == CLIENT_DRAIN;
    sum.deadline = c->deadline;
    sum.wants = c->state == CLIENT_READY;
    if (now < s->now)
        now = s->now;
    if (c->state == CLIENT_HOLD || c->state == CLIENT_DRAIN)
        sum.held_ns += now - c->granted_at;
    if (c->state == CLIENT_DRAIN)
        sum.overrun_ns += now - c->revoked_at;
    if (c->state == CLIENT_READY)
        sum.wait_ns += now - c->ready_at;
    if (c->throttled)
        sum.throttled_ns += now - c->throttled_at;
    return sum;
}

static bool client_valid(const struct fast_sched *s, const struct client *c)
{
    bool holds = c->state == CLIENT_HOLD || c->state == CLIENT_DRAIN;
    if (holds != (c->token != 0) || c->expired || (c->throttled && c->state != CLIENT_READY))
        return false;
    if (holds && (c->holder_i >= s->tokens_out || s->holders[c->holder_i] != sched_id(s, c)))
        return false;
    bool waits = c->state == CLIENT_READY && !c->throttled;
    if (c->ready.in != (waits && !c->gang) || c->bound != (waits && c->gang))
        return false;
    if (c->timed.in != (holds && !c->stuck) || (c->stuck && c->state != CLIENT_DRAIN))
        return false;
    return c->state == CLIENT_HOLD || !(c->tell & TELL_GRANT) || c->state == CLIENT_DRAIN;
}

bool fast_sched_valid(const struct fast_sched *s)
{
    int held = 0, active = 0, stuck = 0, out = 0, throttled = 0, bound = 0;
    for (int i = 0; i < s->used; i++) {
        const struct client *c = &s->clients[i];
        if (c->state == CLIENT_FREE)
            continue;
        if (!client_valid(s, c))
            return false;
        held += c->held_sm;
        active += c->state == CLIENT_HOLD ? c->held_sm : 0;
        stuck += c->stuck ? c->held_sm : 0;
        out += c->token != 0;
        throttled += c->throttled;
        bound += c->bound;
    }
    return held == s->sm_held && active == s->sm_active && stuck == s->sm_stuck &&
           out == s->tokens_out && throttled == s->throttled && bound == s->bound && held <= FAST_SM_PCT_MAX &&
           fast_tree_valid(&s->ready) && fast_tree_valid(&s->timed);
}
