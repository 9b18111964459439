#ifndef FAST_IO_LOG_TIMES_H
#define FAST_IO_LOG_TIMES_H

/* When the lines of a log came. A replica writes its log by itself, so that it goes on while no node runs; beside
 * DIR/NAME.log the node keeps DIR/times/NAME.log, in which stands how long the log was at which time. A line came
 * when the log first reached its end. The times are the kernel's, of the last write before the node looked: what
 * nobody has looked at since is known by the time of the log's last write. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/units.h"

/* More is not kept: who has a file of this size should begin the log anew. */
#define FAST_LOG_TIMES_MAX (4 << 20)

/* Notes how long |log| is now. Returns the size of what is noted of it. A log that has become shorter, or that
 * is not there, is begun anew. */
int64_t fast_log_times_note(const char *log);
/* Forgets what is known of |log|: before it is removed. */
void fast_log_times_drop(const char *log);
/* The same before it is renamed or cut: what is known from |from| on is kept for |old|, where that is the beginning. */
void fast_log_times_move(const char *log, const char *old, off_t from);

/* For a reader. Its lines are asked for in order. */
struct fast_log_times {
    int fd; /* -1: nothing is noted */
    int64_t n, next;
    int64_t first, count; /* of what |part| holds */
    fast_ns last;         /* time of the last write, for what is not noted */
    struct fast_log_time {
        int64_t size;
        fast_ns wall;
    } part[128];
};

void fast_log_times_open(struct fast_log_times *t, const char *log);
void fast_log_times_close(struct fast_log_times *t);
/* When the log became |end| bytes long, as wall clock. */
fast_ns fast_log_times_at(struct fast_log_times *t, off_t end);

#endif
