#ifndef FAST_GATEWAY_LINK_H
#define FAST_GATEWAY_LINK_H

/* The gateway's connection to its node (control.sock): it connects again with a back-off for as long
 * as the program runs, says hello, asks for all rows and watches them. */

#include <stdbool.h>

#include "base/err.h"
#include "io/loop.h"
#include "wire/msg.h"

struct gw_link;

struct gw_link_ops {
    void (*welcome)(void *arg, const struct fast_msg_ctl_welcome *m);
    void (*gpu)(void *arg, const struct fast_msg_gpu_row *m);
    void (*replica)(void *arg, const struct fast_msg_replica_row *m);
    void (*model)(void *arg, const struct fast_msg_model_row *m);
    void (*stats)(void *arg, const struct fast_msg_replica_stats *m);
    void (*synced)(void *arg); /* every row of today has been told */
    void (*lost)(void *arg);   /* from now on requests fail, until synced is told again */
};

/* The answer to a request. |code| is an enum fast_err_code; FAST_EPEER when the node went away. */
typedef void gw_link_done(void *arg, uint64_t key, int code, const char *text);

int gw_link_new(struct fast_loop *loop, const char *path, const struct gw_link_ops *ops, void *arg,
                struct gw_link **ret, struct fast_err *err);
void gw_link_free(struct gw_link *link); /* NULL is fine; pending requests are dropped */
bool gw_link_synced(const struct gw_link *link);

/* Sends a request; |done| (NULL is fine) is told its outcome with |arg| and |key|, once and never
 * before this has returned. FAST_EPEER when there is no node now; then nothing is told. */
int gw_link_request(struct gw_link *link, struct fast_msg *msg, gw_link_done *done, void *arg,
                    uint64_t key, struct fast_err *err);

#endif
