/* A request to a function from the caller's bytes to the function's and back: what reaches a function is always
 * one well-formed request at a time, whatever the caller sent, one that the caller has made, and llhttp reads it
 * as the same message; what reaches the caller is a row of well-formed answers, whatever the function sent; and
 * nothing of a request is left when its connections are gone. An input is a byte of switches, two bytes with the length of what the
 * caller sends, that, and what the function answers to each request. */

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz/fuzz.h"
#include "fuzz/request.h"
#include "gateway/async.h"
#include "gateway/job.h"
#include "gateway/replica_impl.h"

#define QUIET_TURNS 4 /* of the loop without an event: both ends are in this program */
#define TURNS_MAX 20000
#define PEERS_MAX 64

enum { CLOSES = 8, EARLY = 16, TWO_CALLERS = 32, TRACED = 64 };

static const size_t steps[8] = {1 << 20, 1, 2, 3, 7, 61, 700, 5000};

/* A function's end of a connection, or the caller's: what has come, and how far it has been read. */
struct peer {
    int fd; /* -1: this place is free */
    struct fast_watch *watch;
    char *seen;
    size_t len, cap, from;
    bool answered, tunnel;
};

static struct {
    struct gateway gw;
    struct gw_conf conf;
    struct gw_tracer *tracer;
    struct fast_timer *turn;
    int quiet, turns;
    struct peer peers[PEERS_MAX], callers[2];
    const char *asked, *reply;
    size_t asked_len, reply_len, step;
    int switches;
} w;

/* ---- peers ---- */

static void peer_close(struct peer *p)
{
    if (p->fd < 0)
        return;
    fast_watch_free(p->watch);
    close(p->fd);
    free(p->seen);
    *p = (struct peer){.fd = -1};
}

/* False: the other end is gone. */
static bool peer_read(struct peer *p)
{
    if (p->len == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 4096;
        p->seen = realloc(p->seen, p->cap);
        FUZZ_CHECK(p->seen);
    }
    ssize_t n = recv(p->fd, p->seen + p->len, p->cap - p->len, MSG_DONTWAIT);
    w.quiet = 0;
    if (n > 0)
        p->len += (size_t)n;
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

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
    w.quiet = 0;
    fast_timer_set(w.turn, fast_loop_now(w.gw.loop)); /* behind others that are due */
    FUZZ_CHECK(!fast_loop_run(w.gw.loop, NULL));
}

/* ---- the function ---- */

static void answer(struct peer *p)
{
    p->answered = true;
    for (size_t at = 0; at < w.reply_len;) {
        size_t n = w.reply_len - at < w.step ? w.reply_len - at : w.step;
        ssize_t sent = send(p->fd, w.reply + at, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0)
            break;
        at += (size_t)sent;
    }
    if (w.switches & CLOSES)
        shutdown(p->fd, SHUT_WR);
}

/* The caller may have asked for it more than once, and it may be sent again. */
static void check_is_asked(const struct message *got)
{
    static struct message m;
    bool found = is_batch(got), there = true;
    for (size_t at = 0; !found && there; at += m.len) {
        fast_http_head_init(&m.head, false);
        there = at < w.asked_len && fast_http_head_parse(&m.head, w.asked + at, w.asked_len - at) == 1 &&
                read_message(&m, w.asked + at, w.asked_len - at);
        if (!there)
            break;
        found = same_request(&m, got, w.gw.tracer != NULL);
        free(m.body);
    }
    FUZZ_CHECK(found);
}

/* What the gateway says itself stands there once, and nothing of the caller's connection stands there. */
static void check_request(const struct fast_http_head *h, const char *text)
{
    int ids = 0;
    FUZZ_CHECK(h->target_len && text[h->target] == '/' && h->minor == 1 && !h->expect);
    for (uint32_t i = 0; i < h->fields; i++) {
        const struct fast_http_field *f = &h->field[i];
        const char *name = text + f->name;
        ids += fast_http_is(name, f->name_len, "x-call-id");
        FUZZ_CHECK(!fast_http_is(name, f->name_len, "keep-alive") && !fast_http_is(name, f->name_len, "te") &&
                   !fast_http_is(name, f->name_len, "proxy-authorization"));
        FUZZ_CHECK(!fast_http_is(name, f->name_len, "connection") ||
                   fast_http_is(text + f->value, f->value_len, "upgrade"));
    }
    FUZZ_CHECK(ids == 1);
}

/* One request from where it begins; false: there is no complete one. */
static bool take_request(struct peer *p)
{
    static struct message m;
    const char *text = p->seen + p->from;
    size_t len = p->len - p->from;
    fast_http_head_init(&m.head, false);
    int r = len ? fast_http_head_parse(&m.head, text, len) : 0;
    if (r == -431) /* the caller's fields and ours are more than our parser takes */
        p->tunnel = true;
    FUZZ_CHECK(r >= 0 || r == -431);
    if (r != 1)
        return false;
    check_request(&m.head, text);
    if (w.switches & EARLY && !p->answered)
        answer(p);
    if (!read_message(&m, text, len))
        return false;
    p->tunnel = fast_http_head_lists(&m.head, text, "connection", "upgrade");
    if (!p->tunnel)
        compare(&m);
    check_is_asked(&m);
    free(m.body);
    p->from += m.len;
    if (!p->answered)
        answer(p);
    p->answered = false;
    return true;
}

static void on_function(void *arg, int events)
{
    struct peer *p = arg;
    (void)events;
    bool there = peer_read(p);
    while (!p->tunnel && take_request(p))
        ;
    if (!there)
        peer_close(p);
}

static int dial(void *arg)
{
    int pair[2];
    struct peer *p = w.peers;
    (void)arg;
    while (p < w.peers + PEERS_MAX && p->fd >= 0)
        p++;
    FUZZ_CHECK(p < w.peers + PEERS_MAX);
    FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
    p->fd = pair[1];
    p->watch = fast_watch_new(w.gw.loop, p->fd, FAST_LOOP_IN, on_function, p);
    FUZZ_CHECK(p->watch);
    return pair[0];
}

/* ---- the caller ---- */

static void on_caller(void *arg, int events)
{
    struct peer *p = arg;
    (void)events;
    if (peer_read(p))
        return;
    fast_watch_free(p->watch); /* its end is told for ever */
    p->watch = NULL;
}

static void call(struct peer *p)
{
    int pair[2];
    FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
    p->fd = pair[0];
    p->watch = fast_watch_new(w.gw.loop, p->fd, FAST_LOOP_IN, on_caller, p);
    FUZZ_CHECK(p->watch);
    fast_http_server_adopt(w.gw.server, pair[1], "10.0.0.1:99");
}

/* Whether the request at *|at| of the caller's bytes is HEAD; moves on to the next one. -1: there is none. */
static int next_request(const char *p, size_t len, size_t *at)
{
    struct fast_http_head h;
    struct fast_http_body body;
    size_t used = 0, n = 0, i;
    const char *data;
    fast_http_head_init(&h, false);
    if (*at >= len || fast_http_head_parse(&h, p + *at, len - *at) != 1)
        return -1;
    bool head = fast_http_is_exact(p + *at + h.method, h.method_len, "HEAD");
    fast_http_body_request(&body, &h);
    for (i = *at + h.len; !body.done && i < len; i += used)
        if (fast_http_body_next(&body, p + i, len - i, &used, &data, &n))
            break;
    *at = i;
    return head;
}

/* Everything that a caller has got is an answer to what it has asked, the last one perhaps cut off. */
static void check_answers(const struct peer *p, const char *asked, size_t asked_len)
{
    size_t from = 0, at = 0;
    bool last = false;
    while (from < p->len) {
        struct fast_http_head h;
        struct fast_http_body body;
        const char *text = p->seen + from, *data;
        size_t len = p->len - from, used = 0, n = 0, i;
        FUZZ_CHECK(!last);
        fast_http_head_init(&h, true);
        int r = fast_http_head_parse(&h, text, len);
        if (r == 0 || r == -431)
            return;
        FUZZ_CHECK(r == 1);
        from += h.len;
        if (h.status == 100)
            continue;
        int head = next_request(asked, asked_len, &at);
        last = h.status == 101 || !h.keep_alive || head < 0;
        if (h.status == 101)
            return;
        fast_http_body_response(&body, &h, head == 1);
        for (i = h.len; !body.done && i < len; i += used)
            FUZZ_CHECK(!fast_http_body_next(&body, text + i, len - i, &used, &data, &n));
        from += i - h.len;
    }
}

/* ---- asynchronous calls: what is promised can be made ---- */

/* Lines as another request has them: none of them ends a head. */
static void check_call(const struct gw_call *c)
{
    struct fast_http_head h;
    char *text = NULL;
    int n = asprintf(&text, "POST / HTTP/1.0\r\n%s\r\n", c->headers);
    FUZZ_CHECK(n > 0);
    fast_http_head_init(&h, false);
    int r = fast_http_head_parse(&h, text, (size_t)n);
    FUZZ_CHECK(r == -431 || (r == 1 && h.len == (uint32_t)n && !h.chunked && h.length < 0));
    FUZZ_CHECK(*c->call_id && strchr(c->function, '.') && !strpbrk(c->callback, " \r\n"));
    free(text);
}

static int queue_put(struct gw_queue *q, const struct gw_call *call, struct fast_err *err)
{
    (void)q;
    (void)err;
    check_call(call);
    return 0;
}

static int queue_commit(struct gw_queue *q, struct fast_err *err)
{
    (void)q;
    (void)err;
    w.quiet = 0;
    return 0;
}

/* ---- the gateway ---- */

static void handle(void *arg, struct fast_http_req *req)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *path = fast_http_req_text(req) + h->target;
    w.quiet = 0;
    if (h->target_len >= 10 && !memcmp(path, "/function/", 10))
        gw_invoke(arg, req, path + 10, h->target_len - 10);
    else if (h->target_len >= 16 && !memcmp(path, "/async-function/", 16))
        gw_async_request(arg, req, path + 16, h->target_len - 16);
    else
        fast_http_req_text_reply(req, 404, "404 page not found");
}

static void on_wait_timer(void *arg)
{
    gw_invoke_wait_out(arg);
}

static void world_function(const char *name, const char *notes)
{
    struct gateway *gw = &w.gw;
    struct fast_err err;
    char json[512];
    int n = snprintf(json, sizeof(json), "{\"service\":\"%s\",\"image\":\"/bin/true\",\"annotations\":{%s}}", name,
                     notes);
    const struct gw_record record = {name, GW_DEFAULT_NS, json, (size_t)n, 1, 1, 1, 1};
    FUZZ_CHECK(!gw_store_put(gw->store, &record, &err));
}

static void world_replica(struct gw_function *fn)
{
    struct fast_err err;
    struct gw_replica *r = replica_add(&w.gw, fn, fn->spec->name, &err);
    FUZZ_CHECK(r);
    r->generation = fn->generation;
    r->phase = GW_TOLD;
    r->state = FAST_REPLICA_READY;
    r->port = 1;
    replica_set_ready(&w.gw, r);
}

/* Nothing is taken out of it: the gateway has not loaded its functions, as far as it knows. */
static void world_init(void)
{
    static const struct gw_queue_ops ops = {.put = queue_put, .commit = queue_commit};
    static struct gw_queue queue = {&ops};
    struct gateway *gw = &w.gw;
    struct fast_err err;
    char path[] = "/tmp/fuzz-invoke-XXXXXX";
    w.conf = (struct gw_conf){.timeout = FAST_S(60), .queue_timeout = FAST_S(60), .queue_max = 2};
    *gw = (struct gateway){.conf = &w.conf, .next_key = 1};
    const struct fast_http_server_conf conf = {.address = "127.0.0.1:0", .handler = handle, .arg = gw};
    FUZZ_CHECK(!fast_loop_new(&gw->loop, &err));
    FUZZ_CHECK(!fast_http_server_new(gw->loop, &conf, &gw->server, &err));
    w.turn = fast_timer_new(gw->loop, on_turn, NULL);
    gw->wait_timer = fast_timer_new(gw->loop, on_wait_timer, gw);
    FUZZ_CHECK(w.turn && gw->wait_timer && !gw_tracer_new(gw->loop, "/dev/null", &w.tracer, &err));
    int fd = mkstemp(path);
    FUZZ_CHECK(fd >= 0 && !gw_store_open(path, &gw->store, &err));
    FUZZ_CHECK(!gw_profiles_open(":memory:", &gw->profiles, &err));
    close(fd);
    world_function("f", "");
    world_function("one", "\"fastgshare/max_inflight\":\"1\",\"fastgshare/slo\":\"1h\"");
    world_function("again", "\"fastgshare/repeatable\":\"true\"");
    world_function("many", "\"fastgshare/batch\":\"2,100ms\"");
    world_function("few", "\"fastgshare/batch\":\"2,0ms\"");
    FUZZ_CHECK(!gw_functions_load(gw, &err));
    unlink(path);
    for (struct gw_function *fn = gw->functions; fn; fn = fn->next)
        world_replica(fn);
    for (int i = 0; i < PEERS_MAX; i++)
        w.peers[i].fd = -1;
    FUZZ_CHECK(!gw_async_new(gw, &queue, &gw->async, &err));
}

/* A batch stays at its function when its callers have gone; here the functions go as well. */
static void check_nothing_is_left(void)
{
    for (int i = 0; i < PEERS_MAX; i++)
        peer_close(&w.peers[i]);
    run();
    FUZZ_CHECK(!w.gw.jobs && !w.gw.replay_bytes && !fast_http_server_conns(w.gw.server));
    for (struct gw_replica *r = w.gw.replicas; r; r = r->next) {
        fast_http_pool_free(r->pool);
        r->pool = NULL;
        FUZZ_CHECK(!r->in_flight && !r->jobs && !r->item.in_flight && !r->fn->jobs && !r->fn->queue.n &&
                   !r->fn->batch);
    }
}

/* Each replica's connections lead to here. */
static void connect_replicas(void)
{
    struct fast_err err;
    for (struct gw_replica *r = w.gw.replicas; r; r = r->next) {
        FUZZ_CHECK(!fast_http_pool_new(w.gw.loop, 1, NULL, &r->pool, &err));
        fast_http_pool_dial(r->pool, dial, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    if (!w.gw.loop)
        world_init();
    const char *asked = (const char *)data + 3;
    size_t asked_len = (size_t)data[1] << 8 | data[2];
    if (asked_len > size - 3)
        asked_len = size - 3;
    w.switches = data[0];
    w.step = steps[data[0] & 7];
    if (size / w.step > 300)
        w.step = size / 300;
    w.asked = asked;
    w.asked_len = asked_len;
    w.reply = asked + asked_len;
    w.reply_len = size - 3 - asked_len;
    w.turns = 0;
    w.gw.tracer = w.switches & TRACED ? w.tracer : NULL;
    connect_replicas();
    int n = w.switches & TWO_CALLERS ? 2 : 1;
    for (int i = 0; i < n; i++)
        call(&w.callers[i]);
    for (size_t at = 0; at < asked_len; at += w.step)
        for (int i = 0; i < n; i++) {
            size_t len = asked_len - at < w.step ? asked_len - at : w.step;
            send(w.callers[i].fd, asked + at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
            run();
        }
    run();
    for (int i = 0; i < n; i++) {
        check_answers(&w.callers[i], asked, asked_len);
        peer_close(&w.callers[i]);
    }
    run();
    for (struct gw_job *j = w.gw.jobs; j; j = j->next)
        FUZZ_CHECK(j->batch);
    check_nothing_is_left();
    return 0;
}
