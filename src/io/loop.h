#ifndef FAST_IO_LOOP_H
#define FAST_IO_LOOP_H

/* The event loop: one thread, epoll, timers in a heap, signals and child exits as descriptors. It is
 * our own (about 300 lines) and not libuv because fast-node has to build on a machine with libc
 * alone, and one loop for all programs is simpler than two. Level-triggered; a callback may remove
 * any watch, its own included. Blocking work has no place in it. */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"

struct fast_blocks;
struct fast_loop;
struct fast_watch;
struct fast_timer;

enum { FAST_LOOP_IN = 1, FAST_LOOP_OUT = 2, FAST_LOOP_HUP = 4 }; /* HUP is always told */

typedef void fast_watch_fn(void *arg, int events);
typedef void fast_timer_fn(void *arg);
typedef void fast_signal_fn(void *arg, int signal);

int fast_loop_new(struct fast_loop **ret, struct fast_err *err);
void fast_loop_free(struct fast_loop *loop); /* frees all its watches and timers; NULL is fine */

/* Runs until fast_loop_stop(). */
int fast_loop_run(struct fast_loop *loop, struct fast_err *err);
void fast_loop_stop(struct fast_loop *loop);
/* More events are expected before |until|: the loop does not go to sleep before then, since a core that
 * has gone to sleep may take longer to wake than all that is to be done. It costs a core meanwhile. */
void fast_loop_linger(struct fast_loop *loop, fast_ns until);
/* Before it sleeps it looks for events for up to |most| as long as that pays (io/spin.h); 0: never. */
void fast_loop_spin(struct fast_loop *loop, fast_ns most);

/* Memory for what is read and written in it. */
struct fast_blocks *fast_loop_blocks(struct fast_loop *loop);

/* CLOCK_MONOTONIC, read once per turn of the loop. */
fast_ns fast_loop_now(const struct fast_loop *loop);
/* CLOCK_MONOTONIC, read now. */
fast_ns fast_clock_now(void);
/* Wall clock, ns since 1970. */
fast_ns fast_clock_wall(void);

/* Watches |fd|, which stays the caller's. NULL when out of memory or the kernel refuses the fd. */
struct fast_watch *fast_watch_new(struct fast_loop *loop, int fd, int events, fast_watch_fn *fn,
                                  void *arg);
void fast_watch_set(struct fast_watch *watch, int events);
void fast_watch_free(struct fast_watch *watch); /* before the fd is closed; NULL is fine */

/* A timer that is not set yet. Timers with the same deadline fire in the order they were set. */
struct fast_timer *fast_timer_new(struct fast_loop *loop, fast_timer_fn *fn, void *arg);
void fast_timer_set(struct fast_timer *timer, fast_ns deadline); /* FAST_NEVER: unset */
void fast_timer_free(struct fast_timer *timer); /* NULL is fine */

/* From now on |signal| is blocked and comes here instead. SIGCHLD needs no handler: watch a pidfd. */
int fast_loop_signal(struct fast_loop *loop, int signal, fast_signal_fn *fn, void *arg,
                     struct fast_err *err);

#endif
