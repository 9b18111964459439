#ifndef FUNCTIONS_HTTP_PARSE_H
#define FUNCTIONS_HTTP_PARSE_H

/* Parsing of HTTP/1.x requests out of a buffer that grows. Pure: bytes in, verdict out. Strict where
 * leniency lets two parties disagree about where a request ends (RFC 9112): no folded lines, no bare
 * LF, no Content-Length beside Transfer-Encoding, no second Host. */

#include <stdbool.h>
#include <stddef.h>

#define HTTP_HEAD_MAX 16384 /* request line and headers together */

/* A piece of the buffer: it moves when the buffer does, so it is an offset. */
struct http_span {
    size_t at, len;
};

struct http_head {
    size_t len; /* of request line and headers, with the empty line */
    struct http_span method, path, query, content_type;
    bool minor1;  /* HTTP/1.1, else 1.0 */
    bool close;   /* the connection ends after the answer */
    bool expects; /* Expect: 100-continue */
    bool chunked;
    size_t content_length; /* 0 when chunked */
};

/* All return 1 when complete, 0 when more bytes are needed, or -STATUS (-400, -413, ...) when the
 * request must be refused with that status. */
int http_head_parse(const char *buf, size_t len, struct http_head *ret);

/* |buf| begins after the head. |ret_used| is what the body takes of the buffer. */
int http_body_scan(const char *buf, size_t len, const struct http_head *head, size_t body_max,
                   size_t *ret_used);

/* Joins the chunks of a complete chunked body in place and returns the length of the result. */
size_t http_chunks_join(char *buf);

#endif
