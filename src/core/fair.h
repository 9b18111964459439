#ifndef FAST_CORE_FAIR_H
#define FAST_CORE_FAIR_H

/* A queue that is fair between callers: each caller has a line of its own, first come first served, and
 * the lines take turns. Who sends a thousand requests waits behind its own, not in front of somebody
 * else's. A zeroed struct is an empty queue. Items are embedded in the caller's and belong to it. Push
 * looks at each line (queues are bounded, so that lines are too); the rest takes constant time, but for
 * fast_fair_newest_of_longest. */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct fast_fair_line;

struct fast_fair_item {
    struct fast_fair_item *next, *prev;
    struct fast_fair_line *line; /* NULL: it is in no queue */
};

struct fast_fair {
    struct fast_fair_line *turn; /* whose turn it is; the lines form a ring */
    int n;                       /* items in all lines */
};

/* Puts |item| at the end of the line of |caller|. FAST_ENOMEM: nothing has changed. */
int fast_fair_push(struct fast_fair *q, struct fast_fair_item *item, uint64_t caller,
                   struct fast_err *err);
/* Takes the next item in turn out; NULL: the queue is empty. */
struct fast_fair_item *fast_fair_pop(struct fast_fair *q);
/* Takes |item| out, wherever it is; it may be in no queue. */
void fast_fair_remove(struct fast_fair *q, struct fast_fair_item *item);
/* How many items of |caller| wait. */
int fast_fair_waiting(const struct fast_fair *q, uint64_t caller);
/* The item that came last to the longest line, and how long that is; NULL: the queue is empty. */
struct fast_fair_item *fast_fair_newest_of_longest(const struct fast_fair *q, int *ret_len);

#endif
