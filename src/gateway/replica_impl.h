#ifndef FAST_GATEWAY_REPLICA_IMPL_H
#define FAST_GATEWAY_REPLICA_IMPL_H

/* The inside of replicas: replicas.c decides what becomes of them, replica_told.c what the node's news
 * mean for them. */

#include "gateway/gateway.h"

/* NULL with |err|. The replica has a key and no place. */
struct gw_replica *replica_add(struct gateway *gw, struct gw_function *fn, const char *id,
                               struct fast_err *err);
/* It is not there any more: its place is free. May free it, and its function. */
void replica_gone(struct gateway *gw, struct gw_replica *r);
/* By its id; NULL: there is none that is not gone. */
struct gw_replica *replica_find(struct gateway *gw, const char *id);
/* Whether it takes requests now; may give it those that wait. */
void replica_set_ready(struct gateway *gw, struct gw_replica *r);
/* Starting |fn| failed, |text| says why: it is tried again later. */
void replica_back_off(struct gateway *gw, struct gw_function *fn, const char *text);
/* Starting |r| failed, or it ended by itself: the same, if it is not a copy. */
void replica_failed(struct gateway *gw, const struct gw_replica *r, const char *text);
void replica_tell_start(struct gateway *gw, struct gw_replica *r);
void replica_tell_stop(struct gateway *gw, struct gw_replica *r);

#endif
