#ifndef FAST_IO_HTTP_CONN_H
#define FAST_IO_HTTP_CONN_H

/* The inside of the serving end, shared by http_server.c (what happens to a connection) and
 * http_req.c (what handlers call). */

#include "io/http_server.h"
#include "io/http_stream.h"

enum fast_http_conn_state { HEAD, EXCHANGE, LINGERING, UPGRADED };

/* What takes a connection over that begins with the preface of HTTP/2 (http2.c). Each function but the first
 * gets what that has returned. */
struct fast_http2_conn;
struct fast_http_upgrade {
    struct fast_http2_conn *(*begin)(struct fast_http_req *conn); /* NULL: no memory */
    bool (*step)(struct fast_http2_conn *c); /* takes its input, puts its output; false: it is over */
    /* Since when it waits for its client, all of it or a stream; FAST_NEVER: it does not. */
    fast_ns (*waits_since)(const struct fast_http2_conn *c);
    /* Gives up the streams that wait since |before| or longer; false: there is nothing left to be given up. */
    bool (*give_up)(struct fast_http2_conn *c, fast_ns before);
    void (*free)(struct fast_http2_conn *c); /* NULL is fine */
};

struct fast_http_collected {
    fast_http_collect_fn *fn;
    void *arg;
    char *data;
    size_t len, cap, max;
    bool too_large;
};

/* A connection and the request that it is at. */
struct fast_http_req {
    struct fast_http_server *server;
    struct fast_http_req *prev, *next;
    struct fast_http_stream s;
    enum fast_http_conn_state state;
    bool stepping, again, closed;
    bool shut; /* lingering, and our side is closed */
    bool accepted; /* it has come from outside: it may become another protocol */
    struct fast_http2_conn *h2; /* UPGRADED */
    /* the request */
    struct fast_http_head head;
    struct fast_http_body body;
    const struct fast_http_req_ops *ops;
    void *user;
    bool reading, end_told, was_full;
    bool fresh; /* it is read from here on, and |flush| has not been told since */
    struct fast_http_collected collect;
    /* the response */
    bool started, ended, chunked, bodiless, close_after;
    bool tunnel; /* another protocol is spoken, by others */
    int64_t left; /* of a response with a length, -1: none */
    uint64_t from; /* where it begins in what is sent */
    int status;
    uint64_t sent; /* bytes of its body */
    bool watched;  /* its end is told */
    fast_ns began; /* of the exchange, when that is so */
    fast_ns deadline, linger_end;
    char peer[64];
    char note[FAST_HTTP_NOTE_MAX + 1];
};

struct fast_http_server {
    struct fast_loop *loop;
    struct fast_http_server_conf conf;
    int fd, port;
    struct fast_watch *watch;
    struct fast_timer *sweep;
    struct fast_http_req *conns;
    size_t count;
    bool draining, full;
};

/* Moves the connection on as far as it goes; inside itself it only notes that it has to go on. */
void fast_http_conn_step(struct fast_http_req *conn);
void fast_http_conn_close(struct fast_http_req *conn);

#endif
