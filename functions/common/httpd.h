#ifndef FUNCTIONS_HTTPD_H
#define FUNCTIONS_HTTPD_H

/* A small HTTP/1.1 server for functions that serve one request at a time: one thread, many
 * connections (poll), keep-alive, bodies with Content-Length or chunked. It answers GET /_/health
 * and GET /_/ready itself; everything else goes to the handler. SIGTERM or SIGINT: it stops
 * listening, answers what has arrived, and returns. */

#include <stddef.h>

struct httpd_request {
    const char *method;       /* "POST" */
    const char *path;         /* "/a/b", without the query */
    const char *query;        /* after "?", "" if there is none */
    const char *content_type; /* "" if there is none */
    const unsigned char *body;
    size_t body_len;
};

/* What the handler fills in; it begins as 200, text/plain, empty. */
struct httpd_response {
    int status;
    const char *content_type; /* must outlive the call: a literal */
    char *body;               /* grown by httpd_printf(), freed by the server */
    size_t len, cap;
};

/* Pointers in |request| are valid during the call only. */
typedef void httpd_handler(void *ctx, const struct httpd_request *request,
                           struct httpd_response *response);

struct httpd_conf {
    const char *listen; /* "HOST:PORT" or "PORT"; NULL: 127.0.0.1 and $PORT, $port or 8080 */
    size_t body_max;    /* a longer body is refused with 413 */
    httpd_handler *handler;
    void *ctx;
};

/* Appends to the body. Memory that is not there turns the answer into a 500. */
void httpd_printf(struct httpd_response *response, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Appends |text| as a JSON string, with its quotes. Control characters are left out. */
void httpd_json_string(struct httpd_response *response, const char *text);

/* Answers |status| with one line of text, in place of whatever the body held. */
void httpd_fail(struct httpd_response *response, int status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Prints "listening on HOST:PORT" once it does (port 0: the kernel's choice) and serves until
 * SIGTERM. Returns 0 then, or -1 with a message in |msg| when it cannot listen. Takes over SIGTERM,
 * SIGINT and SIGPIPE: call it once, from main(). */
int httpd_run(const struct httpd_conf *conf, char *msg, size_t msg_size);

#endif
