#include "node/agent_life.h"

/* Decides when a replica is started, asked, declared ill, restarted and ended. Assumes that events
 * are reported in the order they happened and that |now| never runs backwards. */

#include <assert.h>

#define BIT(state) (1u << FAST_REPLICA_##state)

static const unsigned moves[FAST_REPLICA_STATE_COUNT] = {
    [FAST_REPLICA_STARTING] = BIT(READY) | BIT(BACKOFF) | BIT(STOPPING) | BIT(STOPPED),
    [FAST_REPLICA_READY] = BIT(UNHEALTHY) | BIT(STARTING) | BIT(BACKOFF) | BIT(STOPPING),
    [FAST_REPLICA_UNHEALTHY] = BIT(READY) | BIT(STARTING) | BIT(BACKOFF) | BIT(STOPPING),
    [FAST_REPLICA_BACKOFF] = BIT(STARTING) | BIT(STOPPED),
    [FAST_REPLICA_STOPPING] = BIT(STOPPED),
    [FAST_REPLICA_STOPPED] = 0,
};

bool node_life_may_move(enum fast_replica_state from, enum fast_replica_state to)
{
    return (moves[from] >> to) & 1;
}

static int move(struct node_life *life, enum fast_replica_state to)
{
    assert(node_life_may_move(life->state, to));
    life->state = to;
    return NODE_LIFE_TELL;
}

static fast_ns min_ns(fast_ns a, fast_ns b)
{
    return a < b ? a : b;
}

int node_life_begin(struct node_life *life, fast_ns start_timeout, fast_ns now)
{
    *life = (struct node_life){.state = FAST_REPLICA_STARTING, .start_timeout = start_timeout,
                               .spawned_at = now, .healthy_since = FAST_NEVER,
                               .probe_at = FAST_NEVER, .deadline = FAST_NEVER};
    return NODE_LIFE_SPAWN | NODE_LIFE_TELL;
}

int node_life_spawned(struct node_life *life, fast_ns now)
{
    life->running = true;
    life->was_ready = life->timed_out = false;
    life->fails = 0;
    life->spawned_at = now;
    life->healthy_since = FAST_NEVER;
    life->alive_at = now;
    life->poll = NODE_LIFE_POLL_MIN;
    life->probe_at = now + life->poll;
    life->deadline = now + life->start_timeout;
    return NODE_LIFE_TELL | NODE_LIFE_SAVE;
}

int node_life_adopt(struct node_life *life, fast_ns start_timeout, bool ready, fast_ns now)
{
    node_life_begin(life, start_timeout, now);
    node_life_spawned(life, now);
    life->probe_at = now;
    if (ready) {
        life->was_ready = true;
        life->ready_at = life->healthy_since = now;
        life->deadline = FAST_NEVER;
        move(life, FAST_REPLICA_READY);
    }
    return NODE_LIFE_TELL;
}

/* Waits before the next start, or starts at once after the first death of a replica that worked. */
static int plan_restart(struct node_life *life, fast_ns now)
{
    fast_ns delay = 0;
    if (life->deaths > 0 || !life->was_ready) {
        int step = life->deaths - (life->was_ready ? 1 : 0);
        delay = step < 16 ? min_ns(NODE_LIFE_BACKOFF_MIN << step, NODE_LIFE_BACKOFF_MAX)
                          : NODE_LIFE_BACKOFF_MAX;
    }
    life->deaths++;
    life->probe_at = FAST_NEVER;
    life->healthy_since = FAST_NEVER;
    if (delay == 0) {
        life->deadline = FAST_NEVER;
        life->restarts++;
        return move(life, FAST_REPLICA_STARTING) | NODE_LIFE_SPAWN;
    }
    life->deadline = now + delay;
    return move(life, FAST_REPLICA_BACKOFF);
}

static int end(struct node_life *life)
{
    life->probe_at = life->deadline = FAST_NEVER;
    return move(life, FAST_REPLICA_STOPPED) | NODE_LIFE_FORGET;
}

int node_life_spawn_failed(struct node_life *life, fast_ns now)
{
    life->running = false;
    life->was_ready = false;
    return plan_restart(life, now);
}

int node_life_died(struct node_life *life, fast_ns now)
{
    life->running = false;
    if (life->state == FAST_REPLICA_STOPPING)
        return end(life);
    if (life->healthy_since != FAST_NEVER && now - life->healthy_since >= NODE_LIFE_FORGIVE)
        life->deaths = 0;
    return plan_restart(life, now);
}

static int probe_ok(struct node_life *life, fast_ns now)
{
    int todo = 0;
    life->fails = 0;
    life->alive_at = now;
    life->probe_at = now + NODE_LIFE_CHECK;
    if (life->healthy_since == FAST_NEVER)
        life->healthy_since = now;
    if (now - life->healthy_since >= NODE_LIFE_FORGIVE)
        life->deaths = 0;
    if (life->state == FAST_REPLICA_STARTING) {
        life->was_ready = true;
        life->ready_at = now;
        life->deadline = FAST_NEVER;
        todo |= NODE_LIFE_SAVE;
    }
    if (life->state != FAST_REPLICA_READY)
        todo |= move(life, FAST_REPLICA_READY);
    return todo;
}

static int probe_bad(struct node_life *life, fast_ns now)
{
    life->fails++;
    if (life->state == FAST_REPLICA_STARTING) {
        life->poll = min_ns(life->poll + life->poll / 4, NODE_LIFE_POLL_MAX);
        life->probe_at = now + life->poll;
        return 0;
    }
    life->probe_at = now + NODE_LIFE_CHECK;
    if (life->state == FAST_REPLICA_UNHEALTHY)
        return now - life->alive_at >= NODE_LIFE_HUNG ? NODE_LIFE_KILL : 0;
    if (life->fails < NODE_LIFE_FAILS)
        return 0;
    life->healthy_since = FAST_NEVER;
    return move(life, FAST_REPLICA_UNHEALTHY);
}

int node_life_probed(struct node_life *life, bool ok, fast_ns now)
{
    if (!life->running || life->timed_out || life->state == FAST_REPLICA_STOPPING)
        return 0;
    return ok ? probe_ok(life, now) : probe_bad(life, now);
}

void node_life_worked(struct node_life *life, fast_ns now)
{
    life->alive_at = now;
}

int node_life_stop(struct node_life *life, fast_ns grace, fast_ns now)
{
    if (life->state == FAST_REPLICA_STOPPED)
        return 0;
    if (life->state == FAST_REPLICA_STOPPING) { /* asked again: only sooner, never later */
        life->deadline = min_ns(life->deadline, now + grace);
        return 0;
    }
    if (!life->running)
        return end(life);
    life->probe_at = FAST_NEVER;
    life->deadline = now + grace;
    return move(life, FAST_REPLICA_STOPPING) | NODE_LIFE_TERM;
}

static int deadline_over(struct node_life *life)
{
    life->deadline = FAST_NEVER;
    if (life->state == FAST_REPLICA_BACKOFF) {
        life->restarts++;
        return move(life, FAST_REPLICA_STARTING) | NODE_LIFE_SPAWN;
    }
    if (life->state == FAST_REPLICA_STARTING) {
        life->timed_out = true;
        life->probe_at = FAST_NEVER;
    }
    return NODE_LIFE_KILL; /* too slow to start, or too slow to stop */
}

int node_life_tick(struct node_life *life, fast_ns now)
{
    int todo = 0;
    if (now >= life->deadline)
        todo |= deadline_over(life);
    if (now >= life->probe_at) {
        life->probe_at = FAST_NEVER; /* until its answer is here */
        todo |= NODE_LIFE_PROBE;
    }
    return todo;
}

fast_ns node_life_next(const struct node_life *life)
{
    return min_ns(life->deadline, life->probe_at);
}
