#ifndef FAST_NODE_HEALTH_H
#define FAST_NODE_HEALTH_H

/* One question to a replica: does it answer? */

#include <stddef.h>

#include "base/err.h"
#include "base/units.h"
#include "io/loop.h"

/* Asked when a function names no path; a server that answers 404 to it is taken as ready, since many
 * plain HTTP programs know nothing of the convention. */
#define NODE_HEALTH_PATH "/_/health"
#define NODE_HEALTH_PATH_MAX 255

struct node_health;

/* |ok| or the reason why not, which ends with the call. Called once, never from within
 * node_health_new(); the probe is freed by then. */
typedef void node_health_fn(void *arg, bool ok, const char *reason);

/* Sends GET |path| ("": the default path with its fallback) to 127.0.0.1:|port| without waiting. */
int node_health_new(struct fast_loop *loop, uint32_t port, const char *path, fast_ns timeout,
                    node_health_fn *fn, void *arg, struct node_health **ret, struct fast_err *err);

/* Gives up; |fn| is not called. NULL is fine. */
void node_health_free(struct node_health *health);

/* A path that may be sent: begins with "/", printable ASCII without blanks, not too long. */
int node_health_check_path(const char *path, struct fast_err *err);

/* What a status line says: the code, 0 while it is not complete, -1 if it is no HTTP. Pure. */
int node_health_status(const char *data, size_t len);

#endif
