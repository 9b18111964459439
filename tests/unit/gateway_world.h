#ifndef FAST_TESTS_UNIT_GATEWAY_WORLD_H
#define FAST_TESTS_UNIT_GATEWAY_WORLD_H

/* A gateway with one deployed function "f", without a node, on a real loop that the test runs itself. Requests come
 * over socket pairs. */

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/gateway.h"
#include "test.h"

struct gateway_world {
    struct gateway gw;
    struct gw_conf conf;
    struct gw_function *fn;
    struct fast_http_server *server;
    struct fast_timer *stop;
    char dir[32];
};

static inline void world_stop(void *loop)
{
    fast_loop_stop(loop);
}

/* |annotations| are members of JSON; |handler| gets the world. 0 or -1. */
static inline int world_begin(struct gateway_world *w, const char *annotations, fast_http_handler *handler)
{
    static const struct gw_paths none = {0};
    struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = handler, .arg = w};
    struct fast_err err = {0};
    struct gw_spec *spec = NULL;
    char path[64], text[512];
    w->gw.conf = &w->conf;
    w->gw.next_key = 1;
    snprintf(w->dir, sizeof(w->dir), "/tmp/fast-world-XXXXXX");
    if (!mkdtemp(w->dir))
        return -1;
    snprintf(path, sizeof(path), "%s/gateway.db", w->dir);
    snprintf(text, sizeof(text), "{\"service\": \"f\", \"image\": \"/bin/true\", \"annotations\": {%s}}", annotations);
    int r = fast_loop_new(&w->gw.loop, &err);
    r = r ? r : fast_http_server_new(w->gw.loop, &conf, &w->server, &err);
    r = r ? r : gw_store_open(path, &w->gw.store, &err);
    r = r ? r : gw_spec_parse(text, strlen(text), NULL, &none, &spec, &err);
    r = r ? r : gw_function_deploy(&w->gw, spec, &err);
    if (r) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    w->fn = w->gw.functions;
    w->stop = fast_timer_new(w->gw.loop, world_stop, w->gw.loop);
    return w->stop ? 0 : -1;
}

/* After what the test began itself. */
static inline int world_end(struct gateway_world *w)
{
    char cmd[64];
    gw_functions_free(&w->gw);
    gw_store_close(w->gw.store);
    free(w->gw.head);
    fast_timer_free(w->stop);
    fast_loop_free(w->gw.loop);
    snprintf(cmd, sizeof(cmd), "rm -r %s", w->dir);
    return system(cmd);
}

static inline void world_run(struct gateway_world *w, fast_ns ns)
{
    fast_timer_set(w->stop, fast_clock_now() + ns);
    assert_int_equal(fast_loop_run(w->gw.loop, NULL), 0);
}

/* Sends |request|, and returns where its answer comes. */
static inline int world_ask(struct gateway_world *w, const char *request)
{
    int s[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s), 0);
    assert_int_equal(write(s[1], request, strlen(request)), (int)strlen(request));
    fast_http_server_adopt(w->server, s[0], "test");
    return s[1];
}

/* The status of the answer, which has to come within 10 s; closes |fd|. */
static inline int world_status(struct gateway_world *w, int fd)
{
    char buf[1024] = "";
    ssize_t n = -1;
    for (int i = 0; n < 0 && i < 2000; i++) {
        world_run(w, FAST_MS(5));
        n = read(fd, buf, sizeof(buf) - 1);
    }
    close(fd);
    assert_true(n > 12);
    return atoi(buf + strlen("HTTP/1.1 "));
}

#endif
