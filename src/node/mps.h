#ifndef FAST_NODE_MPS_H
#define FAST_NODE_MPS_H

/* NVIDIA MPS, which makes SM partitions hold: one control daemon of our own in a private directory
 * below the state directory, without root. It outlives the node (its clients would die with it), and
 * the next life of the node finds it there. */

#include "node/node.h"

/* Starts the daemon, or adopts one that answers. *|ret| is never NULL on success, also when MPS is
 * off or (in mode auto) not to be had: node_mps_ready() tells. */
int node_mps_new(const struct node_conf *conf, struct fast_loop *loop, struct node_mps **ret,
                 struct fast_err *err);
bool node_mps_ready(const struct node_mps *mps);
/* It takes limits of pinned memory and understands them: each process gets one as a second line. */
bool node_mps_limits(const struct node_mps *mps);
/* For CUDA_MPS_PIPE_DIRECTORY; a directory without a daemon when MPS is not ready. */
const char *node_mps_pipe_dir(const struct node_mps *mps);

/* There is a client, so there is a server: it is looked at now and every second. */
void node_mps_client(struct node_mps *mps);

/* The server has failed, and took these processes (|count| -1: all its clients) with it: they have
 * to end before it works again. |pids| are valid for the call. */
typedef void node_mps_lost_fn(void *arg, const int *pids, int count, const char *why);
void node_mps_on_lost(struct node_mps *mps, node_mps_lost_fn *fn, void *arg);

/* Has the server let go of clients that are about to be killed: a kill with work in flight may take
 * the server along. |done| is called once, after a second at the latest, never from within. False:
 * there is no server, or no memory, and |done| is not called. */
typedef void node_mps_done_fn(void *arg);
bool node_mps_terminate(struct node_mps *mps, const int *pids, int count, node_mps_done_fn *done,
                        void *arg);

/* Ends the daemon. For an orderly end of the node, when no replica is left. */
void node_mps_quit(struct node_mps *mps);
void node_mps_free(struct node_mps *mps); /* the daemon runs on */

#endif
