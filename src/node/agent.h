#ifndef FAST_NODE_AGENT_H
#define FAST_NODE_AGENT_H

/* The agent half of fast-node, as its own files see it; node.h has what the manager sees. */

#include <limits.h>

#include "io/loop.h"
#include "node/agent_life.h"
#include "node/health.h"
#include "node/node.h"
#include "node/process.h"
#include "wire/msg.h"

#define AGENT_REPLICAS_MAX 256
#define AGENT_TEXT_MAX 256

struct node_agent_notes;
struct node_control;

struct agent_replica {
    struct node_replica shared; /* with the manager */
    struct node_agent *agent;
    struct node_life life;
    struct node_process process;
    struct fast_watch *exited; /* on the pidfd */
    struct fast_timer *timer;  /* of the life */
    struct node_health *health;
    struct fast_msg start; /* replica_start with the slice of now, id 0; its strings are in |packet| */
    char *packet;
    size_t packet_len;
    char *log_path;
    uint32_t port;
    uint64_t cpu;       /* that the process had used at the last probe without an answer */
    uint32_t exit_code; /* of the last process that ended */
    uint64_t started_ms;
    uint32_t up_ms;
    bool adopted;
    uint32_t user; /* that its function alone has, or those with a GPU; 0: it shares the node's */
    char text[AGENT_TEXT_MAX]; /* why it is not ready, or what is to be known */
};

struct node_agent {
    struct node *node;
    struct node_control *control;
    struct agent_replica *replicas[AGENT_REPLICAS_MAX]; /* |count| of them, in order of their start */
    int count;
    struct fast_timer *logs_timer;
    struct node_agent_notes *notes;
    struct fast_timer *stop_timer; /* calls |stop_done| from the loop; NULL until a stop */
    node_agent_done_fn *stop_done;
    void *stop_arg;
    bool stopping;
};

/* ---- agent.c ---- */

struct agent_replica *node_agent_find(const struct node_agent *agent, const char *id);
/* Takes over |r|, whose |shared| and |start| are filled in, and makes it known to the manager. */
int node_agent_insert(struct node_agent *agent, struct agent_replica *r, struct fast_err *err);
/* Takes it out again, frees it, and removes its record. */
void node_agent_forget(struct agent_replica *r);
/* Watches the exit of r->process, sets the timer, and performs |todo| (agent_life.h). |r| may be
 * gone afterwards. */
int node_agent_watch(struct agent_replica *r, struct fast_err *err);
void node_agent_perform(struct agent_replica *r, int todo);
void node_agent_row(const struct agent_replica *r, struct fast_msg_replica_row *ret);

/* ---- agent_request.c: what control.sock asks for ---- */

int node_agent_start(struct node_agent *agent, const struct fast_msg *msg, struct fast_err *err);
int node_agent_stop_one(struct node_agent *agent, const struct fast_msg_replica_stop *msg,
                        struct fast_err *err);
/* |ret_text| of AGENT_TEXT_MAX bytes: what the caller has to know of a success, or "". */
int node_agent_resize(struct node_agent *agent, const struct fast_msg_replica_resize *msg,
                      char *ret_text, struct fast_err *err);
int node_agent_deadline(struct node_agent *agent, const struct fast_msg_replica_deadline *msg,
                        struct fast_err *err);
int node_agent_hold(struct node_agent *agent, const struct fast_msg_replica_hold *msg, struct fast_err *err);
/* A replica of a replica_start message, checked; not inserted yet. */
int node_agent_replica_new(struct node_agent *agent, const struct fast_msg *msg,
                           struct agent_replica **ret, struct fast_err *err);
void node_agent_replica_free(struct agent_replica *r);
fast_ns node_agent_start_timeout(const struct agent_replica *r);
/* Brings the slice in |start| and |packet| up to date. */
int node_agent_repack(struct agent_replica *r, const struct fast_slice *slice, struct fast_err *err);

/* ---- agent_spawn.c ---- */

/* Starts the process of |r| with a new port. */
int node_agent_spawn(struct agent_replica *r, struct fast_err *err);

/* ---- agent_log.c ---- */

/* Opens the log for a start and writes a line that tells one start from the next. */
int node_agent_log_open(const struct agent_replica *r, bool *ret_fresh, struct fast_err *err);
/* Keep the logs of replicas that run, and of those that are gone, bounded; see there. */
void node_agent_trim_logs(struct node_agent *agent);
void node_agent_prune_logs(struct node_agent *agent);
/* Notes when lines come; NULL where the kernel does not tell. */
struct node_agent_notes *node_agent_notes_new(struct node_agent *agent);
void node_agent_notes_free(struct node_agent_notes *notes);

/* ---- agent_record.c ---- */

/* Writes state_dir/replicas/ID, which is all that an adoption needs. */
int node_agent_save(const struct agent_replica *r, struct fast_err *err);
void node_agent_unsave(const struct agent_replica *r);
/* Adopts what lives, kills what has no record, starts again what died. Never fails for a bad file:
 * it is logged and set aside as ID.bad. */
int node_agent_recover(struct node_agent *agent, struct fast_err *err);

#endif
