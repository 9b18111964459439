#ifndef FAST_NODE_NODE_H
#define FAST_NODE_NODE_H

/* What the two halves of fast-node know of each other. The agent (agent.h, process, control) starts
 * and watches replicas and owns struct node_replica; the manager (manager.h, session, ledger) owns
 * tokens and memory, and hangs its part on |share|. Both run in the one thread of the loop. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/sched.h"
#include "core/types.h"
#include "io/loop.h"
#include "wire/msg.h"

struct node_agent;
struct node_gpus;
struct node_manager;
struct node_mps;
struct node_share;
struct node_stores;
struct node_users;

#define NODE_NAME_MAX 200 /* bytes of a replica id, with its NUL */

enum node_mps_mode { NODE_MPS_AUTO, NODE_MPS_ON, NODE_MPS_OFF };

/* Settings, read from the command line by main.c; nothing in here changes later. Strings are never
 * NULL unless it says so. */
struct node_conf {
    const char *name;      /* of the node; default: the host name */
    const char *state_dir; /* absolute; exists, mode 0755 */
    const char *hook_path; /* libfast-hook.so, absolute */
    const char *sim_spec;  /* "v100-16gb:2", or NULL: real GPUs */
    const char *sim_dir;   /* shared state of the simulated driver; NULL without sim_spec */
    bool sim_dir_own;      /* chosen by this node, which removes it at its orderly end */
    const char *sim_libs;  /* folder of the simulated libraries; NULL without sim_spec */
    enum node_mps_mode mps;
    const char *store_path; /* fast-store, absolute; NULL: not installed */
    const char *store_lib;  /* libfast-store.so, absolute; NULL: where the loader finds it */
    const char *mps_control; /* the program; NULL: nvidia-cuda-mps-control */
    uint32_t users_first, users_last; /* of functions; 0: they have the node's */
    const char *model_limit; /* core/limit.h; checked */
    struct fast_sched_conf sched;
    uint64_t descriptors; /* that a replica may have, as this program was given; 0: no matter */
    bool mem_all; /* contexts and modules count against a memory quota too */
    fast_ns overrun_max; /* a replica that keeps a token for so long after its end is killed; 0: never */
};

/* One running or startable replica. The agent fills it in before node_share_add(). */
struct node_replica {
    char id[NODE_NAME_MAX]; /* digits.openfaas-fn.1 */
    uint32_t gpu;           /* index on this node */
    uint32_t more_gpus;     /* bits: further GPUs, on each of which it has the same slice */
    struct fast_slice slice;
    int sm_running; /* SM partition that the running process was started with; slice.sm_pct until then */
    uint64_t ticket_hi, ticket_lo; /* random, new for every replica, kept over restarts of the node */
    bool fail_open;                /* told to the hook in welcome; default true */
    struct node_share *share;      /* the manager's, of the first GPU; NULL before node_share_add() */
};

/* The whole program. */
struct node {
    const struct node_conf *conf;
    struct fast_loop *loop;
    uint64_t epoch; /* of this life; another one than those before */
    char socket[108]; /* path of node.sock */
    struct node_gpus *gpus;
    struct node_mps *mps; /* never NULL; mps.h tells whether it is in use */
    struct node_manager *manager;
    struct node_users *users;   /* never NULL */
    struct node_stores *stores; /* never NULL */
    struct node_agent *agent;
};

/* ---- given by the agent ---- */

/* Listens on control.sock and adopts the replicas of an earlier life. Everything else in |node| is
 * there already; |node->agent| is set by the caller afterwards. */
int node_agent_new(struct node *node, struct node_agent **ret, struct fast_err *err);
/* Stops every replica with its grace; |done| is called once, from the loop, when none is left. */
typedef void node_agent_done_fn(void *arg);
void node_agent_stop(struct node_agent *agent, node_agent_done_fn *done, void *arg);
/* Closes sockets and frees memory; replicas that still run are left alone, to be adopted. */
void node_agent_free(struct node_agent *agent);

/* The MPS server took these processes with it (|count| -1: all its clients): their replicas are
 * ended, and start again. */
void node_agent_mps_lost(void *agent, const int *pids, int count, const char *why);

/* The replica keeps a token of its GPU, and others wait for it: its processes are killed, and start again. */
void node_agent_overran(struct node_agent *agent, struct node_replica *replica, fast_ns overrun);

/* The replica that |hi|, |lo| was handed to, whether its process is known yet or not; NULL: nobody. */
struct node_replica *node_ticket_find(struct node_agent *agent, uint64_t hi, uint64_t lo);

/* ---- given by the manager, main and gpu ---- */

/* All GPUs of the replica, as bits. */
static inline uint32_t node_replica_gpus(const struct node_replica *r)
{
    return UINT32_C(1) << r->gpu | r->more_gpus;
}

/* From now on clients with the replica's ticket are let in. FAST_EINVAL: no such GPU, a bad slice,
 * or a memory cap above the GPU's memory. Called before the first process starts, and at adoption. */
int node_share_add(struct node_manager *m, struct node_replica *replica, struct fast_err *err);
/* After a change of |slice| or |sm_running|; works at once, nothing is revoked that need not be. */
int node_share_update(struct node_manager *m, struct node_replica *replica, struct fast_err *err);
/* Guarantees so much of its request, until the next update. */
int node_share_hold(struct node_manager *m, const struct node_replica *replica, int request_milli,
                    struct fast_err *err);
/* What the replica is at should be done by then, by fast_clock_now(); FAST_NEVER: no matter when. */
void node_share_deadline(const struct node_replica *replica, fast_ns deadline);
/* The replica is gone for good: its sessions are closed, its SMs and memory are free. */
void node_share_remove(struct node_manager *m, struct node_replica *replica);
/* The processes of the replica that are clients of MPS; returns how many (at most |max|). */
int node_share_mps_clients(const struct node_replica *replica, int *pids, int max);
/* Of its |part|-th GPU, the lowest first: fills in everything but |replica|. */
void node_share_stats(const struct node_replica *replica, int part, struct fast_msg_replica_stats *ret);

/* policy_set of the control socket, on every GPU at once; nothing changes on an error. */
int node_policy_set(struct node_manager *m, const struct fast_msg_policy_set *set,
                    struct fast_err *err);
/* The rules of now, for ctl_welcome. */
const struct fast_sched_conf *node_policy(const struct node_manager *m);

/* The environment that a process of |replica| needs from the node: FAST_NODE_SOCKET, FAST_TICKET,
 * FAST_FAIL, LD_PRELOAD, CUDA_VISIBLE_DEVICES, CUDA_MPS_*, and with a simulated GPU FAST_SIM,
 * FAST_SIM_DIR, LD_LIBRARY_PATH. |add| is called once for each with strings that it must copy. */
typedef void node_env_fn(void *arg, const char *name, const char *value);
void node_env(const struct node *node, const struct node_replica *replica, node_env_fn *add,
              void *arg);

/* Measures what the processes of all replicas have on the GPU beside their allocations, unless it has just done so. */
void node_measure(struct node *node, uint32_t gpu, fast_ns now);

int node_gpu_count(const struct node_gpus *gpus);
uint64_t node_gpu_mem(const struct node_gpus *gpus, uint32_t gpu); /* bytes, total */
uint32_t node_gpu_sms(const struct node_gpus *gpus, uint32_t gpu);
/* Bytes that the driver has left, of all programs; false: it cannot be asked. */
bool node_gpu_free(const struct node_gpus *gpus, uint32_t gpu, uint64_t *ret);
const char *node_gpu_driver(const struct node_gpus *gpus);          /* "580.159", for ctl_welcome */
/* One gpu_row: inventory, the metrics since the last call for this GPU, and what the manager knows. */
void node_gpu_row(struct node *node, uint32_t gpu, struct fast_msg_gpu_row *ret);

#endif
