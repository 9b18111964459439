#ifndef FAST_IO_HTTP_STREAM_H
#define FAST_IO_HTTP_STREAM_H

/* A socket with two bounded buffers, shared by the two ends of HTTP (http_server.c,
 * http_client.c). Reading stops when its owner says so, writing tells when it is behind: together
 * they keep the memory of a transfer constant whatever its size. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "io/loop.h"

/* Who writes stops when more than this is waiting to be sent. */
#define FAST_HTTP_HIGH_WATER 65536

/* Bytes that do not go to the socket as they are. Sessions behave as a non-blocking socket does: what cannot
 * be done now is -1 with EAGAIN. */
struct fast_http_secure {
    void *(*accept)(void *arg, int fd); /* a session; NULL: no memory */
    ssize_t (*recv)(void *session, char *buf, size_t len);
    ssize_t (*send)(void *session, const char *buf, size_t len);
    bool (*pending)(void *session);     /* bytes are here that the socket does not tell of */
    bool (*wants_write)(void *session); /* it cannot go on before the socket takes bytes */
    void (*shutdown)(void *session);    /* tells the other end that nothing more comes */
    void (*free)(void *session);
    void *arg;
};

struct fast_http_stream {
    struct fast_loop *loop;
    int fd;
    const struct fast_http_secure *secure; /* NULL: the bare socket */
    void *session;
    struct fast_watch *watch; /* NULL while there is nothing to wait for */
    fast_watch_fn *fn;
    void *arg;
    char *in; /* read, not consumed */
    size_t in_len, in_cap;
    bool resting; /* between two messages */
    bool filled; /* the last read took all the room there was: the next one gets more */
    char *out; /* out[out_at .. out_len) waits to be sent */
    size_t out_at, out_len, out_cap;
    uint64_t sent; /* bytes that have gone out, of all times */
    bool reading;
    bool full; /* its owner waits for room: writability is told even when nothing waits */
    bool eof;       /* the peer has sent its last byte */
    bool broken;    /* reading failed */
    bool unsendable; /* writing failed: what is put is dropped */
    bool moved;     /* something was read or sent since the owner cleared this */
};

/* |fd| belongs to the stream from now on. */
void fast_http_stream_init(struct fast_http_stream *s, struct fast_loop *loop, int fd,
                           fast_watch_fn *fn, void *arg);
void fast_http_stream_fini(struct fast_http_stream *s);

/* Reads once, as long as fewer than |cap| bytes are in the buffer. True if bytes came. */
bool fast_http_stream_fill(struct fast_http_stream *s, size_t cap);
/* Drops |len| bytes at |from| of the input. */
void fast_http_stream_consume(struct fast_http_stream *s, size_t from, size_t len);

/* Between two messages: a connection that is idle keeps no buffers, once they are empty. */
void fast_http_stream_rest(struct fast_http_stream *s);

/* Takes all of |data|: small pieces are gathered until flush. */
void fast_http_stream_put(struct fast_http_stream *s, const char *data, size_t len);
void fast_http_stream_flush(struct fast_http_stream *s);
/* Ends the sending direction. */
void fast_http_stream_shutdown(struct fast_http_stream *s);
/* Whether there is something to read that no event will tell of. */
bool fast_http_stream_pending(const struct fast_http_stream *s);
size_t fast_http_stream_waiting(const struct fast_http_stream *s);
/* Takes back what was put since sent + waiting was |from|; false: some of it may have gone out. */
bool fast_http_stream_retract(struct fast_http_stream *s, uint64_t from);

/* Waits for what the stream needs now. False when that is not possible (out of memory). */
bool fast_http_stream_arm(struct fast_http_stream *s);

/* Whether it is an address such as "127.0.0.1:8080", "[::1]:0", ":8080" (127.0.0.1), whoever listens there. The
 * error names what is wrong. */
int fast_http_address_check(const char *address, struct fast_err *err);
int fast_http_listen(const char *address, int *ret_fd, int *ret_port, struct fast_err *err);

#endif
