#ifndef FAST_IO_HTTP_CLIENT_H
#define FAST_IO_HTTP_CLIENT_H

/* The calling end of HTTP/1.1 on the event loop, towards one port of this machine: a pool keeps
 * idle connections and reuses the one that was used last. Bodies are streamed both ways with
 * back-pressure. Time-outs are the caller's business. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "io/http_parse.h"
#include "io/loop.h"

struct fast_http_pool;
struct fast_http_call;

struct fast_http_call_ops {
    /* The head of the response; |text| holds its bytes during this call only. */
    void (*head)(void *user, const struct fast_http_head *head, const char *text,
                 const struct fast_http_body *body);
    void (*body)(void *user, const char *data, size_t len);
    void (*flush)(void *user); /* no more of the body is here now */
    void (*drain)(void *user); /* the request, which was full, has room again */
    /* The last call, one of the two: the response is complete, or it will never be. |connected|:
     * something of the request may have arrived. */
    void (*end)(void *user);
    void (*fail)(void *user, bool connected, const char *why);
};

/* |path|: of a Unix socket that is tried first, NULL: there is none. */
int fast_http_pool_new(struct fast_loop *loop, int port, const char *path,
                       struct fast_http_pool **ret, struct fast_err *err);
/* From now on connections are made by |dial|: a connected non-blocking socket, or -1. */
typedef int fast_http_dial(void *arg);
void fast_http_pool_dial(struct fast_http_pool *pool, fast_http_dial *dial, void *arg);
/* Calls that are under way go on; NULL is fine. */
void fast_http_pool_free(struct fast_http_pool *pool);

/* Begins a call with a request head (complete with its blank line). |to_head|: it is a HEAD
 * request. |chunked|: its body is sent in chunks. Nothing is told before this has returned. */
int fast_http_call_new(struct fast_http_pool *pool, const struct fast_http_call_ops *ops,
                       void *user, const char *head, size_t len, bool to_head, bool chunked,
                       struct fast_http_call **ret, struct fast_err *err);
/* The function may switch protocols: with status 101 both directions become bytes, and finishing closes our side. */
void fast_http_call_upgrade(struct fast_http_call *call);
/* False: the request is full, wait for |drain|. The data is taken in any case. */
bool fast_http_call_write(struct fast_http_call *call, const char *data, size_t len);
void fast_http_call_flush(struct fast_http_call *call);
/* The body of the request is complete. */
void fast_http_call_finish(struct fast_http_call *call);
/* Lets the body of the response come (as at the beginning), or holds it back. */
void fast_http_call_read(struct fast_http_call *call, bool on);
/* Ends the call; nothing more is told. */
void fast_http_call_cancel(struct fast_http_call *call);

#endif
