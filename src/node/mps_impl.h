#ifndef FAST_NODE_MPS_IMPL_H
#define FAST_NODE_MPS_IMPL_H

/* What mps.c (the control daemon) and mps_server.c (the server that it starts) share. */

#include "node/mps.h"
#include "node/mps_ask.h"

struct node_mps_server {
    int pid; /* 0: none is known */
    int pidfd;
    struct fast_watch *watch;
    bool fault, shut; /* shut: it was told to end, because it did not recover */
    fast_ns fault_at;
};

struct node_mps_ending; /* a node_mps_terminate() */

struct node_mps {
    struct fast_loop *loop;
    struct node_mps_door door;
    struct node_mps_talk *talk;
    struct fast_timer *timer; /* starts the daemon again, and looks whether it answers */
    struct fast_timer *check; /* looks at the server */
    struct fast_watch *watch;
    int pidfd;
    pid_t child; /* 0: adopted */
    bool ready, limits;
    fast_ns start_end; /* not |ready|, with a |child|: it has to answer by then */
    bool asked; /* the server, or a daemon that starts, is being looked at */
    char none_dir[PATH_MAX];
    struct node_mps_server server;
    struct node_mps_ending *endings;
    node_mps_lost_fn *lost;
    void *lost_arg;
};

void node_mps_server_check(void *arg); /* of |check| */
/* Forgets it; the daemon is gone, or is no concern of this process any more. */
void node_mps_server_forget(struct node_mps *m);
void node_mps_endings_free(struct node_mps *m); /* calls what waits */
void node_mps_tell_lost(struct node_mps *m, const int *pids, int count, const char *why);

#endif
