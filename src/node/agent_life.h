#ifndef FAST_NODE_AGENT_LIFE_H
#define FAST_NODE_AGENT_LIFE_H

/* The life of one replica as a state machine. Pure: `now` is an argument, what is to be done is
 * returned, and nothing is done here. The agent feeds it what happened and performs the actions.
 *
 *              spawned, polled until it answers
 *            +----------+   answers    +-------+  3 answers missing  +-----------+
 *   begin -->| starting |------------->| ready |-------------------->| unhealthy |
 *            +----------+              +-------+<--------------------+-----------+
 *              |  ^   ^                  |   |         answers         |     |
 *              |  |   | first death after it was ready: at once        |     |
 *              |  |   +------------------+-----------------------------+     |
 *              |  | delay over           | later deaths                      |
 *   dies, or   |  |                      v                                   |
 *   too slow   |  |                +---------+                               |
 *              |  +----------------| backoff |<------------------------------+
 *              +------------------>+---------+
 *                                       | stop
 *   stop, while a process runs          v
 *            +----------+  dies    +---------+
 *        --->| stopping |--------->| stopped |
 *            +----------+          +---------+
 *
 * One that is unhealthy and shows no sign of life for two minutes is killed. The delays are 100 ms,
 * doubled at each further death up to 10 s; ten seconds of health in a row forgive everything. */

#include <stdbool.h>

#include "base/units.h"
#include "wire/msg.h"

#define NODE_LIFE_BACKOFF_MIN FAST_MS(100)
#define NODE_LIFE_BACKOFF_MAX FAST_S(10)
#define NODE_LIFE_FORGIVE FAST_S(10)     /* health that resets the delays */
#define NODE_LIFE_POLL_MIN FAST_MS(20)   /* between probes while it starts ... */
#define NODE_LIFE_POLL_MAX FAST_MS(250)  /* ... growing by a quarter each time */
#define NODE_LIFE_CHECK FAST_S(2)        /* between probes afterwards */
#define NODE_LIFE_PROBE_TIMEOUT FAST_S(2)
#define NODE_LIFE_FAILS 3                /* probes without an answer: unhealthy */
#define NODE_LIFE_HUNG FAST_S(120)       /* unhealthy, and without any sign of life: killed */

/* What the agent has to do; several at once, in this order. */
enum {
    NODE_LIFE_TERM = 1,   /* SIGTERM to the group */
    NODE_LIFE_KILL = 2,   /* SIGKILL to the group */
    NODE_LIFE_SPAWN = 4,  /* start a process, then report spawned or spawn_failed */
    NODE_LIFE_PROBE = 8,  /* ask it, then report probed */
    NODE_LIFE_FORGET = 16, /* stopped: nothing of it remains */
    NODE_LIFE_TELL = 32,  /* the row has changed */
    NODE_LIFE_SAVE = 64,  /* so has what an adoption has to know */
};

struct node_life {
    enum fast_replica_state state;
    bool running;    /* there is a process */
    bool was_ready;  /* since the last spawn */
    bool timed_out;  /* killed because it did not become ready */
    fast_ns start_timeout;
    fast_ns spawned_at, ready_at;
    fast_ns healthy_since; /* FAST_NEVER: not now */
    fast_ns alive_at;      /* the last sign of life: an answer, or work */
    fast_ns poll;          /* between probes while it starts */
    fast_ns probe_at;      /* FAST_NEVER: none is due */
    fast_ns deadline;      /* of the start, the back-off or the grace; FAST_NEVER: none */
    int fails;             /* probes without an answer in a row */
    int deaths;            /* that are not forgiven */
    uint32_t restarts;     /* spawns beyond the first */
};

/* A new replica: returns NODE_LIFE_SPAWN. */
int node_life_begin(struct node_life *life, fast_ns start_timeout, fast_ns now);

/* A process of an earlier life of the node. It keeps its state: one that was |ready| is not taken
 * out of use for the moment that the first probe needs. */
int node_life_adopt(struct node_life *life, fast_ns start_timeout, bool ready, fast_ns now);

/* What happened. Each returns the actions to take. An event that makes no sense in the state that
 * the replica is in (a probe's answer that comes late) changes nothing. */
int node_life_spawned(struct node_life *life, fast_ns now);
int node_life_spawn_failed(struct node_life *life, fast_ns now);
int node_life_probed(struct node_life *life, bool ok, fast_ns now);
/* It does not answer, but works: it may just be busy with one long request. */
void node_life_worked(struct node_life *life, fast_ns now);
int node_life_died(struct node_life *life, fast_ns now);
int node_life_stop(struct node_life *life, fast_ns grace, fast_ns now);
int node_life_tick(struct node_life *life, fast_ns now);

/* When node_life_tick() is to be called at the latest. */
fast_ns node_life_next(const struct node_life *life);

/* The moves of the diagram. */
bool node_life_may_move(enum fast_replica_state from, enum fast_replica_state to);

#endif
