#ifndef FAST_CLI_WATCHDOG_H
#define FAST_CLI_WATCHDOG_H

/* What the parts of `fast watchdog` know of each other. It gives a program without an HTTP server
 * one: with a process for each request, or in front of one long-running process. Its settings are
 * those of the OpenFaaS watchdogs and come from the environment under the same names. */

#include <stdbool.h>
#include <sys/types.h>

#include "io/http_client.h"
#include "io/http_server.h"
#include "io/loop.h"

enum wd_mode {
    WD_CLASSIC,   /* a process for each request, the answer when it has ended */
    WD_STREAMING, /* the same, the answer as it is written */
    WD_HTTP,      /* one process with an HTTP server of its own */
    WD_REDIRECT   /* no process: 302 to $destination */
};

struct wd_conf {
    enum wd_mode mode;
    char **argv;              /* of the function, with a NULL behind it */
    const char *content_type; /* NULL: as the request */
    const char *destination;
    bool combine_output, cgi_headers, prefix_logs;
    fast_ns exec_timeout;
    int max_inflight; /* 0: no limit */
    int port, upstream_port;
};

struct watchdog {
    const struct wd_conf *conf;
    struct fast_loop *loop;
    struct fast_http_server *server;
    struct fast_timer *stop;
    struct fast_http_pool *pool;  /* WD_HTTP */
    pid_t child;                  /* WD_HTTP */
    int child_fd;                 /* its pidfd */
    int inflight;
    bool stopping;
};

/* One request to a function. */
void wd_fork_request(struct watchdog *wd, struct fast_http_req *req, char *body, size_t len);
void wd_http_request(struct watchdog *wd, struct fast_http_req *req);

/* "2026/11/24 09:00:00 " before the line, as the watchdogs of OpenFaaS log. */
void wd_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* An answer that is not the function's. */
void wd_error(struct fast_http_req *req, int status, const char *text);
/* A request is over. */
void wd_leave(struct watchdog *wd);
/* How long an answer to |req| may take: exec_timeout, or less where its X-Timeout says so ("1.5s"). */
fast_ns wd_timeout(const struct watchdog *wd, const struct fast_http_req *req);

#endif
