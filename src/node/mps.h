#ifndef FAST_NODE_MPS_H
#define FAST_NODE_MPS_H

/* NVIDIA MPS, which makes SM partitions hold: one control daemon of our own in a private directory
 * below the state directory. It outlives the node (its clients would die with it), and the next life
 * of the node finds it there. */

#include "node/node.h"

/* Starts the daemon, or adopts one that answers. *|ret| is never NULL on success, also when MPS is
 * off or (in mode auto) not to be had: node_mps_ready() tells. */
int node_mps_new(const struct node_conf *conf, struct fast_loop *loop, struct node_mps **ret,
                 struct fast_err *err);
bool node_mps_ready(const struct node_mps *mps);
/* For CUDA_MPS_PIPE_DIRECTORY; a directory without a daemon when MPS is not ready. */
const char *node_mps_pipe_dir(const struct node_mps *mps);
/* Ends the daemon. For an orderly end of the node, when no replica is left. */
void node_mps_quit(struct node_mps *mps);
void node_mps_free(struct node_mps *mps); /* the daemon runs on */

#endif
