/* The API of the gateway beside a node that does as it is told, and lies where the input says so: whatever is asked,
 * in whatever order, the answer is well-formed, says JSON only where JSON is, and is no 500 but for alerts; and
 * nothing is left of it in the end. An input is rows of a byte, two bytes with a length, and so much text: what is
 * asked for (rows of |asks|; the text is the rest of the target, a line feed, with LINE a line of the head and a line
 * feed, and the body), or, with NODE, a message of the node as it is on the wire. After LOCK alone a password is
 * needed. */

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/place.h"
#include "fuzz/fuzz.h"
#include "gateway/async.h"
#include "gateway/gateway.h"
#include "gateway/queue.h"
#include "io/file.h"
#include "io/packet.h"

#define QUIET_TURNS 6
#define TURNS_MAX 2000
#define ROWS_MAX 40
#define GPU_BYTES (UINT64_C(16) << 30)

static const char *const asks[] = {
    "GET /system/functions",         "POST /system/functions",      "PUT /system/functions",
    "DELETE /system/functions",      "GET /system/function/",       "POST /system/scale-function/",
    "GET /system/secrets",           "POST /system/secrets",        "PUT /system/secrets",
    "DELETE /system/secrets",        "GET /system/namespaces",      "GET /system/namespace/",
    "POST /system/namespace/",       "PUT /system/namespace/",      "DELETE /system/namespace/",
    "POST /system/alert",            "GET /system/info",            "GET /system/logs",
    "GET /system/gpus",              "GET /system/replicas",        "GET /system/models",
    "POST /system/models",           "PUT /system/models",          "DELETE /system/models",
    "GET /system/policy",            "PUT /system/policy",          "GET /system/explain/",
    "GET /system/defrag",            "POST /system/defrag",         "GET /system/recorded/",
    "GET /metrics",                  "POST /async-function/",       "DELETE /async-function/",
    "GET /system/async",
};
enum { ALERT = 15, METRICS = 30, LINE = 0x40, NODE = 0x80, LOCK = LINE | NODE };

static struct {
    char dir[32], state[64], control[64], log[64];
    struct gw_conf conf;
    struct gateway gw;
    struct fast_timer *turn;
    int quiet, turns, listener, node, caller;
    struct fast_watch *node_watch, *listen_watch;
    char *seen;
    size_t seen_len;
} w;

static void on_turn(void *arg)
{
    (void)arg;
    if (++w.quiet >= QUIET_TURNS || ++w.turns >= TURNS_MAX)
        fast_loop_stop(w.gw.loop);
    else
        fast_timer_set(w.turn, fast_loop_now(w.gw.loop)); /* behind others that are due */
}

static void run(void)
{
    w.quiet = w.turns = 0;
    fast_timer_set(w.turn, fast_loop_now(w.gw.loop)); /* behind others that are due */
    FUZZ_CHECK(!fast_loop_run(w.gw.loop, NULL));
}

/* ---- the node ---- */

static void tell(struct fast_msg m, uint32_t id)
{
    m.id = id;
    fast_packet_send(w.node, &m, NULL, 0, NULL);
}

static void tell_row(struct fast_str replica, struct fast_str function, struct fast_str ns, uint32_t gpu,
                     uint32_t more, uint32_t state)
{
    tell((struct fast_msg){.type = FAST_MSG_T_replica_row,
                           .replica_row = {.replica = replica, .function = function, .ns = ns, .gpu = gpu,
                                           .more_gpus = more, .sm_pct = 100, .request_milli = 100,
                                           .limit_milli = 1000, .mem_bytes = 1 << 30, .state = state, .port = 1,
                                           .log_path = fast_str(w.log), .text = fast_str("")}},
         0);
}

static void tell_gpu(uint32_t gpu)
{
    tell((struct fast_msg){.type = FAST_MSG_T_gpu_row,
                           .gpu_row = {.gpu = gpu, .uuid = fast_str("GPU-0"), .name = fast_str("Tesla V100"),
                                       .sms = 80, .mem_total = GPU_BYTES}},
         0);
}

static void obey(const struct fast_msg *m)
{
    const struct fast_msg done = {.type = FAST_MSG_T_done, .done = {.text = fast_str("")}};
    if (m->type == FAST_MSG_T_ctl_hello) {
        tell((struct fast_msg){.type = FAST_MSG_T_ctl_welcome,
                               .ctl_welcome = {.version = FAST_MSG_VERSION, .node = fast_str("n"), .gpus = 2,
                                               .driver = fast_str("d"), .window_ns = FAST_MS(100),
                                               .state_dir = fast_str(w.state)}},
             m->id);
        return;
    }
    if (m->type == FAST_MSG_T_gpu_list) {
        tell_gpu(0);
        tell_gpu(1);
    }
    tell(done, m->id);
    if (m->type == FAST_MSG_T_replica_start)
        tell_row(m->replica_start.replica, m->replica_start.function, m->replica_start.ns, m->replica_start.gpu,
                 m->replica_start.more_gpus, FAST_REPLICA_READY);
    if (m->type == FAST_MSG_T_replica_stop)
        tell_row(m->replica_stop.replica, fast_str(""), fast_str(""), 0, 0, FAST_REPLICA_STOPPED);
}

static void node_close(void)
{
    fast_watch_free(w.node_watch);
    w.node_watch = NULL;
    if (w.node >= 0)
        close(w.node);
    w.node = -1;
}

static void on_node(void *arg, int events)
{
    static char buf[FAST_MSG_MAX];
    struct fast_msg m;
    (void)arg;
    (void)events;
    w.quiet = 0;
    for (int i = 0; i < 64; i++) {
        int r = fast_packet_recv(w.node, buf, &m, NULL, NULL);
        if (r == -FAST_EBUSY)
            return;
        FUZZ_CHECK(r != -FAST_EPROTO); /* what the gateway says can be read */
        if (r) {
            node_close();
            return;
        }
        obey(&m);
    }
}

static void on_listener(void *arg, int events)
{
    (void)arg;
    (void)events;
    w.quiet = 0;
    int fd = accept4(w.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    node_close();
    w.node = fd;
    w.node_watch = fast_watch_new(w.gw.loop, fd, FAST_LOOP_IN, on_node, NULL);
    FUZZ_CHECK(w.node_watch);
}

/* ---- the caller ---- */

static void on_caller(void *arg, int events)
{
    (void)arg;
    (void)events;
    char *p = realloc(w.seen, w.seen_len + 65536);
    FUZZ_CHECK(p);
    w.seen = p;
    ssize_t n = recv(w.caller, w.seen + w.seen_len, 65536, MSG_DONTWAIT);
    w.quiet = n > 0 ? 0 : w.quiet;
    w.seen_len += n > 0 ? (size_t)n : 0;
}

static void check_json(const char *body, size_t len)
{
    json_t *v = json_loadb(body, len, JSON_DECODE_ANY, NULL);
    FUZZ_CHECK(v);
    json_decref(v);
}

/* One answer; its body, and where chunks are, what is in them. */
static void check_answer(unsigned what, bool with_line)
{
    struct fast_http_head h;
    struct fast_http_body body;
    size_t at, used = 0, n = 0, len = 0;
    const char *data;
    char *all = malloc(w.seen_len + 1);
    FUZZ_CHECK(all);
    fast_http_head_init(&h, true);
    FUZZ_CHECK(fast_http_head_parse(&h, w.seen, w.seen_len) == 1);
    FUZZ_CHECK(h.status >= 200 && (h.status < 500 || h.status == 503 || what == ALERT));
    fast_http_body_response(&body, &h, false);
    for (at = h.len; !body.done && at < w.seen_len; at += used) {
        FUZZ_CHECK(!fast_http_body_next(&body, w.seen + at, w.seen_len - at, &used, &data, &n));
        memcpy(all + len, n ? data : "", n);
        len += n;
    }
    const struct fast_http_field *type = fast_http_head_find(&h, w.seen, "content-type");
    bool ended = body.done || body.framing == FAST_HTTP_BODY_CLOSE;
    if (type && ended && fast_http_is(w.seen + type->value, type->value_len, "application/json"))
        check_json(all, len);
    if (type && fast_http_is(w.seen + type->value, type->value_len, "application/x-ndjson"))
        for (char *line = all, *end; (end = memchr(line, '\n', (size_t)(all + len - line))); line = end + 1)
            check_json(line, (size_t)(end - line));
    FUZZ_CHECK(at == w.seen_len || with_line); /* which may have been the end of the head */
    free(all);
}

/* Takes what is before the next line feed out of the text. */
static size_t take_line(const char **text, size_t *len)
{
    const char *lf = memchr(*text, '\n', *len);
    size_t n = lf ? (size_t)(lf - *text) : *len, skip = n + (lf != NULL);
    *text += skip;
    *len -= skip;
    return n;
}

static void ask(unsigned what, bool with_line, const char *text, size_t len)
{
    const char *target = text;
    size_t target_len = take_line(&text, &len);
    const char *line = text;
    size_t line_len = with_line ? take_line(&text, &len) : 0;
    char *request = NULL;
    int pair[2];
    int n = asprintf(&request, "%s%.*s HTTP/1.1\r\nHost: localhost\r\n%.*s%sContent-Length: %zu\r\n\r\n", asks[what],
                     (int)target_len, target, (int)line_len, line, line_len ? "\r\n" : "", len);
    FUZZ_CHECK(n > 0 && !socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
    w.caller = pair[0];
    struct fast_watch *watch = fast_watch_new(w.gw.loop, w.caller, FAST_LOOP_IN, on_caller, NULL);
    FUZZ_CHECK(watch);
    fast_http_server_adopt(what == METRICS ? w.gw.metrics : w.gw.server, pair[1], "10.0.0.1:99");
    send(w.caller, request, (size_t)n, MSG_NOSIGNAL);
    send(w.caller, text, len, MSG_NOSIGNAL);
    w.seen_len = 0;
    run();
    if (w.seen_len) /* a log that is followed has no end */
        check_answer(what, with_line);
    fast_watch_free(watch);
    close(w.caller);
    run();
    free(request);
    free(w.seen);
    w.seen = NULL;
}

/* ---- the world ---- */

static void world_dirs(void)
{
    struct fast_err err;
    snprintf(w.dir, sizeof(w.dir), "%s/fuzz-api-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    FUZZ_CHECK(mkdtemp(w.dir));
    snprintf(w.state, sizeof(w.state), "%s/state", w.dir);
    snprintf(w.control, sizeof(w.control), "%s/control.sock", w.dir);
    snprintf(w.log, sizeof(w.log), "%s/f.log", w.dir);
    static const char lines[] = "a line\nan\0other \xff\none\n\xc3\xa4\nthe last";
    FUZZ_CHECK(!fast_file_replace(w.log, lines, sizeof(lines) - 1, 0600, &err));
    FUZZ_CHECK(!fast_packet_listen(w.control, 0600, &w.listener, &err));
    static char user[] = "admin", password[] = "secret";
    w.conf = (struct gw_conf){.user = user, .password = password, .listen = "127.0.0.1:0", .metrics = "",
                              .timeout = FAST_S(60), .state_dir = w.state,
                              .queue_timeout = FAST_S(60), .queue_max = 2, .moves_max = 2,
                              .paths = {.tool = "/bin/true", .state_dir = w.state}};
}

static void nothing(void *arg)
{
    (void)arg;
}

static void world_begin(void)
{
    struct gateway *gw = &w.gw;
    struct fast_err err;
    char path[96];
    struct gw_queue *queue = NULL;
    const struct fast_fleet_conf fleet = {.fit = FAST_FIT_AREA, .reclaim = FAST_RECLAIM_RESTRUCTURE};
    *gw = (struct gateway){.conf = &w.conf, .next_key = 1, .session = 1};
    w.conf.auth = false;
    struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = gw_api_request, .arg = gw};
    FUZZ_CHECK(!fast_dir_make(w.state, 0700, &err));
    FUZZ_CHECK(!fast_loop_new(&gw->loop, &err) && !fast_http_server_new(gw->loop, &conf, &gw->server, &err));
    conf.handler = gw_api_metrics;
    FUZZ_CHECK(!fast_http_server_new(gw->loop, &conf, &gw->metrics, &err));
    snprintf(path, sizeof(path), "%s/gateway.db", w.state);
    FUZZ_CHECK(!gw_store_open(path, &gw->store, &err) && !gw_profiles_open(":memory:", &gw->profiles, &err));
    FUZZ_CHECK(!fast_fleet_new(&fleet, &gw->fleet, &err) && !gw_functions_load(gw, &err));
    snprintf(path, sizeof(path), "%s/async.db", w.state);
    FUZZ_CHECK(!gw_namespaces_load(gw, &err) && !gw_queue_sqlite_open(path, fast_clock_wall(), &queue, &err));
    FUZZ_CHECK(!gw_async_new(gw, queue, &gw->async, &err));
    w.turn = fast_timer_new(gw->loop, on_turn, NULL);
    gw->wait_timer = fast_timer_new(gw->loop, nothing, NULL);
    gw->linger_timer = fast_timer_new(gw->loop, nothing, NULL);
    w.listen_watch = fast_watch_new(gw->loop, w.listener, FAST_LOOP_IN, on_listener, NULL);
    w.node = -1;
    FUZZ_CHECK(w.turn && gw->wait_timer && gw->linger_timer && w.listen_watch);
    FUZZ_CHECK(!gw_link_new(gw->loop, w.control, &gw_replica_link_ops, gw, &gw->link, &err));
    run();
    FUZZ_CHECK(gw_link_synced(gw->link));
}

static void world_end(void)
{
    struct gateway *gw = &w.gw;
    struct fast_err err;
    gw_async_free(gw->async); /* where this machine is slow it has begun with a call */
    FUZZ_CHECK(!gw->jobs && !fast_http_server_conns(gw->server));
    fast_http_server_free(gw->server);
    fast_http_server_free(gw->metrics);
    json_decref(gw->namespaces);
    gw_link_free(gw->link);
    gw_replicas_free(gw);
    gw_functions_free(gw);
    gw_models_forget(gw);
    fast_fleet_free(gw->fleet);
    gw_store_close(gw->store);
    gw_profiles_close(gw->profiles);
    node_close();
    fast_watch_free(w.listen_watch);
    fast_timer_free(w.turn);
    fast_timer_free(gw->wait_timer);
    fast_timer_free(gw->linger_timer);
    free(gw->head);
    fast_due_fini(&gw->waiting);
    fast_loop_free(gw->loop);
    FUZZ_CHECK(!fast_dir_remove(w.state, &err));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!*w.dir)
        world_dirs();
    world_begin();
    for (int i = 0; i < ROWS_MAX && size >= 3; i++) {
        size_t len = (size_t)data[1] << 8 | data[2];
        len = len < size - 3 ? len : size - 3;
        unsigned what = data[0] % LINE % (sizeof(asks) / sizeof(asks[0]));
        if ((data[0] & LOCK) == LOCK) {
            w.conf.auth = true;
        } else if (data[0] & NODE && w.node >= 0) {
            send(w.node, data + 3, len, MSG_NOSIGNAL);
            run();
        } else if (!(data[0] & NODE)) {
            ask(what, data[0] & LINE, (const char *)data + 3, len);
        }
        data += 3 + len;
        size -= 3 + len;
    }
    world_end();
    return 0;
}
