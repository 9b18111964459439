#ifndef FAST_GATEWAY_SINK_H
#define FAST_GATEWAY_SINK_H

/* A file that grows by lines. What is put is written within a second or when much has come; the file is
 * opened for each write, so that it may be moved away at any time. What cannot be written is dropped, and
 * told once: also what a pipe has no room for, since nothing here waits. */

#include <stddef.h>

#include "io/loop.h"

struct gw_sink;

/* |path| "-": standard output. The file need not be there; its folder must. */
int gw_sink_new(struct fast_loop *loop, const char *path, struct gw_sink **ret, struct fast_err *err);
void gw_sink_free(struct gw_sink *s); /* writes what is left; NULL is fine */
void gw_sink_put(struct gw_sink *s, const char *text, size_t len);

#endif
