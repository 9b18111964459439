#ifndef FAST_NODE_MPS_ASK_H
#define FAST_NODE_MPS_ASK_H

/* Talks to an MPS control daemon through its own user interface: a process for each question, its
 * answer is what it prints. Questions wait for each other, and are answered in their order. */

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "io/loop.h"

#define NODE_MPS_TEXT_MAX 4096 /* an answer is cut there */

struct node_mps_door {
    char binary[PATH_MAX]; /* nvidia-cuda-mps-control */
    char pipe_dir[PATH_MAX], log_dir[PATH_MAX];
};

/* |text| NULL: no daemon has answered in time. */
typedef void node_mps_answer_fn(void *arg, const char *text);

struct node_mps_talk;

int node_mps_talk_new(struct fast_loop *loop, const struct node_mps_door *door,
                      struct node_mps_talk **ret, struct fast_err *err);
/* Questions that are still open are never answered. */
void node_mps_talk_free(struct node_mps_talk *talk);
/* |fn| is called once, never from within; false: it was not taken, and |fn| is not called. */
bool node_mps_ask(struct node_mps_talk *talk, const char *command, node_mps_answer_fn *fn, void *arg);

/* The same, waiting for the answer for at most |timeout|. 0: |ret| has the answer; -1: nobody is
 * there; -2: it did not answer in time. */
int node_mps_ask_wait(const struct node_mps_door *door, const char *command, fast_ns timeout,
                      char *ret, size_t size);

/* Starts the daemon in the foreground with its output in |out|; 0: not started. */
int node_mps_daemon_start(const struct node_mps_door *door, int out);

#endif
