#ifndef FAST_IO_HTTP_SERVER_H
#define FAST_IO_HTTP_SERVER_H

/* The serving end of HTTP/1.1 on the event loop: keep-alive, one request of a connection at a time
 * (pipelined ones wait in the socket), bodies streamed in both directions with back-pressure,
 * 100-continue, time-outs and a limit on connections. What a request means is its handler's
 * business.
 *
 * A client that closes its side while it waits counts as gone. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "io/http_parse.h"
#include "io/loop.h"

struct fast_http_server;
struct fast_http_req;
struct fast_http_secure;  /* http_stream.h, tls.h */
struct fast_http_upgrade; /* http2.h */

/* A request has come; its body is held back. The handler accepts it, collects its body or answers,
 * at once or later. */
typedef void fast_http_handler(void *arg, struct fast_http_req *req);

struct fast_http_req_ops {
    void (*body)(void *user, const char *data, size_t len); /* the next part of the body */
    void (*flush)(void *user); /* no more of the body is here now, perhaps nothing of it yet */
    void (*end)(void *user);   /* that was all of the body */
    void (*drain)(void *user); /* the response, which was full, has room again */
    void (*done)(void *user, bool complete); /* the last call: |req| is gone. false: cut off */
};

/* A request that is over. Its head is there for the length of the call. */
struct fast_http_finished {
    const struct fast_http_req *req;
    int status;      /* that was answered; 0: the connection ended before */
    bool complete;   /* the whole answer was given */
    uint64_t sent;   /* bytes of the answer's body */
    fast_ns began;   /* as fast_clock_now() */
    const char *note; /* fast_http_req_note(), else empty */
};

struct fast_http_server_conf {
    const char *address; /* as for fast_http_listen */
    size_t max_conns;    /* 0: 4096 */
    fast_ns head_timeout, idle_timeout; /* 0: 10 s, 60 s */
    fast_http_handler *handler;
    void (*finished)(void *arg, const struct fast_http_finished *what); /* NULL: nobody asks */
    bool finished_some; /* it is told of requests that were watched, and not of all */
    void *arg;
    const struct fast_http_secure *secure; /* NULL: bare TCP */
    const struct fast_http_upgrade *http2; /* http2.h; NULL: HTTP/1.1 alone */
};

int fast_http_server_new(struct fast_loop *loop, const struct fast_http_server_conf *conf,
                         struct fast_http_server **ret, struct fast_err *err);
void fast_http_server_free(struct fast_http_server *server); /* cuts everything; NULL is fine */
int fast_http_server_port(const struct fast_http_server *server);
/* Serves the connection |fd| as one that was accepted from |peer|, bare and in HTTP/1.1. */
void fast_http_server_adopt(struct fast_http_server *server, int fd, const char *peer);
/* Accepts no more and closes connections as they become idle. */
void fast_http_server_drain(struct fast_http_server *server);
size_t fast_http_server_conns(const struct fast_http_server *server);

/* ---- a request ---- */

const struct fast_http_head *fast_http_req_head(const struct fast_http_req *req);
/* The bytes of the head, which stay until the request is done. */
const char *fast_http_req_text(const struct fast_http_req *req);
/* Who calls, "127.0.0.1:40000". */
const char *fast_http_req_peer(const struct fast_http_req *req);
/* |finished| will be told of it; what it took counts from now on. */
void fast_http_req_watch(struct fast_http_req *req);
/* What |finished| is told of it beside; copied, up to FAST_HTTP_NOTE_MAX bytes. */
#define FAST_HTTP_NOTE_MAX 79
void fast_http_req_note(struct fast_http_req *req, const char *text);
bool fast_http_req_is_head(const struct fast_http_req *req);
bool fast_http_req_has_body(const struct fast_http_req *req);

/* From now on |ops| are told, |ops->done| in any case. The body waits for fast_http_req_read. */
void fast_http_req_accept(struct fast_http_req *req, const struct fast_http_req_ops *ops,
                          void *user);
/* Lets the body come, or holds it back. */
void fast_http_req_read(struct fast_http_req *req, bool on);

/* Reads the whole body, at most |max| bytes (else it answers 413 by itself), and gives it to |fn|
 * with a NUL behind it; |fn| has to answer at once or to accept the request. */
typedef void fast_http_collect_fn(void *arg, struct fast_http_req *req, char *body, size_t len);
void fast_http_req_collect(struct fast_http_req *req, size_t max, fast_http_collect_fn *fn,
                           void *arg);

/* Begins the response. |fields| are header lines, each with its CRLF, without those of framing.
 * |length| -1: not known, sent in chunks. Status 101 makes a tunnel of the connection: |fields| have its
 * Connection and Upgrade, what is written goes out as it is, and what comes is told as the body, whose end is
 * that of the client's side. */
void fast_http_req_start(struct fast_http_req *req, int status, const char *fields, size_t len,
                         int64_t length);
/* False: the response is full, wait for |drain|. The data is taken in any case. */
bool fast_http_req_write(struct fast_http_req *req, const char *data, size_t len);
void fast_http_req_flush(struct fast_http_req *req);
/* The response is complete. |req| may be gone when this returns. */
void fast_http_req_end(struct fast_http_req *req);
/* Cuts the connection: the only honest end of a response that cannot be completed. */
void fast_http_req_abort(struct fast_http_req *req);
bool fast_http_req_started(const struct fast_http_req *req);
/* Takes the beginning of a response back, so that another one can be given; false: some of it is with the
 * client already. */
bool fast_http_req_retract(struct fast_http_req *req);

/* The whole of a short response. |fields| may be NULL. */
void fast_http_req_reply(struct fast_http_req *req, int status, const char *fields,
                         const char *type, const char *body, size_t len);
/* The same with a line of text and a newline. */
void fast_http_req_text_reply(struct fast_http_req *req, int status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define FAST_HTTP_DATE_SIZE 32
/* "Sun, 06 Nov 1994 08:49:37 GMT" of |wall|. */
void fast_http_date(fast_ns wall, char ret[FAST_HTTP_DATE_SIZE]);

#endif
