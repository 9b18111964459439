#ifndef FAST_GATEWAY_ASYNC_H
#define FAST_GATEWAY_ASYNC_H

/* Calls that are answered with 202 and made later. */

#include "gateway/queue.h"

struct gateway;
struct gw_async;

/* Takes |queue| over when it succeeds. */
int gw_async_new(struct gateway *gw, struct gw_queue *queue, struct gw_async **ret,
                 struct fast_err *err);
void gw_async_free(struct gw_async *async); /* what is under way is done again later; NULL is fine */
struct gw_async_counts {
    uint64_t waiting, dead;
    int running;
    uint64_t submitted, processed; /* since the start */
};
struct gw_async_counts gw_async_counts(const struct gw_async *async);

#endif
