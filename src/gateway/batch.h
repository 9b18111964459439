#ifndef FAST_GATEWAY_BATCH_H
#define FAST_GATEWAY_BATCH_H

/* Several requests to a function as one call. A function that declares "fastgshare/batch" gets POST
 * requests of a known length together: Content-Type application/vnd.fast-gshare.batch, X-Batch-Size with
 * their number, and their bodies as netstrings ("5:hello,"), in order. It answers the same way, with one
 * netstring for each; X-Batch-Content-Type says what the bodies are, in both directions. Any other answer
 * is the answer to all of them. A request that found no company is sent as it is. */

#include "gateway/job.h"

struct gw_batch;

/* Whether |j| can be sent together with others; then it has been taken over. Its answer comes by
 * gw_job_error or from here. */
bool gw_batch_take(struct gw_job *j);
/* The request of |j| is gone: nobody waits for its part. When all are gone the batch is not made, or cut off. */
void gw_batch_forget(struct gw_job *j);

/* Of a job that carries a batch: the head (to be freed; 0: no memory), the body. */
size_t gw_batch_head(const struct gw_job *carrier, char **ret);
void gw_batch_send(struct gw_job *carrier);
/* Its answer arrives. */
void gw_batch_on_head(void *user, const struct fast_http_head *h, const char *text,
                      const struct fast_http_body *body);
void gw_batch_on_body(void *user, const char *data, size_t len);
/* Gives everybody the answer, or an error; ends |carrier|. */
void gw_batch_answer(struct gw_job *carrier);
void gw_batch_error(struct gw_job *carrier, int status, int retry_s, const char *why);
/* The first of those who wait. */
struct gw_job *gw_batch_first(const struct gw_batch *b);

#endif
