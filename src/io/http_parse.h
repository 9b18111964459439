#ifndef FAST_IO_HTTP_PARSE_H
#define FAST_IO_HTTP_PARSE_H

/* HTTP/1.1 framing (RFC 9112), strict on purpose: what two programs could read in two ways is
 * refused, for that is how requests are smuggled. Nothing here allocates, reads a clock or touches
 * a socket; the caller owns the bytes, and a head is described by offsets into them, so that the
 * buffer may move while it grows. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FAST_HTTP_HEAD_MAX 65536
#define FAST_HTTP_LINE_MAX 16384 /* of a request line: longer is 414 */
#define FAST_HTTP_FIELDS_MAX 128
/* Bytes that Connection may list: every field is looked for among them. */
#define FAST_HTTP_CONNECTION_MAX 1024

struct fast_http_field {
    uint32_t name, name_len, value, value_len;
};

/* A request head or a response head. |len| includes the blank line. */
struct fast_http_head {
    bool response;
    bool chunked;     /* the body is in chunks */
    bool keep_alive;  /* what version and Connection say about the next message */
    bool expect;      /* Expect: 100-continue */
    int minor;        /* HTTP/1.minor, 0 or 1 */
    int status;       /* of a response */
    int64_t length;   /* Content-Length, -1: none was given */
    uint32_t method, method_len;
    uint32_t target, target_len; /* origin-form: an absolute URI has lost scheme and authority */
    uint32_t host, host_len;     /* of the absolute URI, else of the Host field */
    uint32_t fields, len;
    struct fast_http_field field[FAST_HTTP_FIELDS_MAX];
    /* where the parser is */
    uint32_t line, scan;
    int state;
    bool te, hosts, authority;
    uint32_t connection; /* bytes of its Connection fields */
    const char *why; /* what was wrong, in words; belongs to the program */
};

void fast_http_head_init(struct fast_http_head *head, bool response);

/* Reads on in |buf|, whose first |len| bytes are there by now; what was there before must be
 * unchanged. 1: the head is complete. 0: more is needed. Else the negative status to answer with:
 * -400, -414, -417, -431 or -505. */
int fast_http_head_parse(struct fast_http_head *head, const char *buf, size_t len);

/* The first field of that name (any case), NULL if there is none. */
const struct fast_http_field *fast_http_head_find(const struct fast_http_head *head,
                                                  const char *buf, const char *name);
/* Whether the field lists |token| between commas. */
bool fast_http_head_lists(const struct fast_http_head *head, const char *buf, const char *name,
                          const char *token);
/* The most bytes that its fields take, each written anew as "Name: value": a blank more for each than it came with. */
static inline size_t fast_http_head_room(const struct fast_http_head *head)
{
    return (size_t)head->len + head->fields;
}
/* Whether |len| bytes are the same but for the case of letters. */
bool fast_http_same(const char *p, const char *text, size_t len);
/* Names are told apart by their lengths first, which for a literal costs nothing. */
static inline bool fast_http_is(const char *p, size_t len, const char *text) /* any case */
{
    return strlen(text) == len && fast_http_same(p, text, len);
}
static inline bool fast_http_is_exact(const char *p, size_t len, const char *text)
{
    return strlen(text) == len && !memcmp(p, text, len);
}

/* Whether a field belongs to one connection and must not be forwarded: Connection and what it
 * lists, Keep-Alive, Proxy-Authenticate, Proxy-Authorization, TE, Trailer, Transfer-Encoding,
 * Upgrade; and Content-Length, since whoever forwards frames anew. */
bool fast_http_is_hop(const struct fast_http_head *head, const char *buf,
                      const struct fast_http_field *field);
/* Whether there is a field |name| that is forwarded. */
bool fast_http_passes(const struct fast_http_head *head, const char *buf, const char *name);

/* ---- bodies ---- */

enum fast_http_framing {
    FAST_HTTP_BODY_NONE,
    FAST_HTTP_BODY_LENGTH,
    FAST_HTTP_BODY_CHUNKED,
    FAST_HTTP_BODY_CLOSE /* a response that ends with its connection */
};

struct fast_http_body {
    enum fast_http_framing framing;
    bool done;
    uint64_t left; /* of the length, or of the chunk */
    int state;
    uint32_t count; /* digits of a size, bytes of extensions and trailers */
};

void fast_http_body_request(struct fast_http_body *body, const struct fast_http_head *head);
/* |to_head|: the response answers a HEAD request and so has no body. */
void fast_http_body_response(struct fast_http_body *body, const struct fast_http_head *head,
                             bool to_head);

/* Takes framing and at most one run of data from the |len| bytes at |p|; *|ret_used| says how many
 * bytes were taken, and |ret_data| (inside them) is the run. Call again until all is used or
 * |body|->done. 0, or -400: the framing is broken. */
int fast_http_body_next(struct fast_http_body *body, const char *p, size_t len, size_t *ret_used,
                        const char **ret_data, size_t *ret_data_len);

/* "200" -> "OK"; never NULL. */
const char *fast_http_reason(int status);

#endif
