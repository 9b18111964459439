#ifndef FAST_CORE_BALANCE_H
#define FAST_CORE_BALANCE_H

/* Which replica of a function gets the next request: of those that are ready and below the limit,
 * the one with the fewest requests in flight for its weight; of equal ones the least recently used.
 * The item is embedded in the caller's replica. A pick is one scan over the replicas of one function
 * (some nanoseconds each; functions have tens at most). */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct fast_balance_item {
    bool ready;       /* takes requests */
    int in_flight;    /* kept by pick and done */
    int64_t weight;   /* relative throughput, such as rps in thousandths; below 1 counts as 1 */
    uint64_t used;    /* turn of the last pick */
    int slot;         /* its place in the set; the set's business */
};

struct fast_balance {
    struct fast_balance_item **items;
    int n, cap;
    int limit; /* most requests in flight at one of them; 0: none */
    uint64_t turn;
};

void fast_balance_init(struct fast_balance *set);
void fast_balance_fini(struct fast_balance *set); /* items are the caller's */

/* Adds |item|, whose fields are set and whose in_flight is 0. */
int fast_balance_add(struct fast_balance *set, struct fast_balance_item *item,
                     struct fast_err *err);
/* Requests in flight on it go on; call done for none of them any more. */
void fast_balance_remove(struct fast_balance *set, struct fast_balance_item *item);

/* The replica for one request, which is in flight on it from now; NULL: none is free. */
struct fast_balance_item *fast_balance_pick(struct fast_balance *set);
/* The request that was given to |item| is over. */
void fast_balance_done(struct fast_balance *set, struct fast_balance_item *item);

/* Requests in flight over all replicas, and replicas that are ready. */
int fast_balance_in_flight(const struct fast_balance *set);
int fast_balance_ready(const struct fast_balance *set);

#endif
