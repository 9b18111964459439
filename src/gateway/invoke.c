/* Decides which replica answers a request to a function, and what the caller sees when none can.
 * What reaches a replica is framed anew: nothing of the caller's framing is forwarded. A request is
 * repeated on another replica only when nothing of an answer has come and the method allows it, or
 * when it cannot have reached a replica at all. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

#define ATTEMPTS_MAX 2
#define CONNECTS_MAX 4
#define REPLAY_MAX 65536 /* bytes of a body that are kept to be sent again */
#define INTERNAL "X-OpenFaaS-Internal: proxy\r\n"

/* One request, from its head to the last byte of its answer. */
struct gw_job {
    struct gw_job *next, *prev; /* of the gateway */
    struct gw_job *queue_next;
    struct gateway *gw;
    struct gw_function *fn;
    struct gw_replica *replica; /* NULL: it waits */
    struct fast_http_req *req;
    struct fast_http_call *call;
    uint32_t rest, rest_len; /* path and query for the function, within the head */
    bool queued, idempotent, answered, body_ended, counted;
    int attempts, connects, status;
    uint64_t avoid; /* key of the replica that failed it; 0: none */
    fast_ns began, deadline;
    int64_t wall;
    char call_id[80];
    char *replay; /* the body so far, while it may be needed again: until the answer begins */
    size_t replay_len, replay_cap;
    bool replay_lost; /* it has grown too large to be kept */
};

static void dispatch(struct gw_job *j);

/* ---- small things ---- */

static bool method_in(const struct fast_http_req *req, const char *const *list, size_t n)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    for (size_t i = 0; i < n; i++)
        if (fast_http_is_exact(fast_http_req_text(req) + h->method, h->method_len, list[i]))
            return true;
    return false;
}

static void take_call_id(struct gw_job *j)
{
    const char *text = fast_http_req_text(j->req);
    const struct fast_http_field *f =
        fast_http_head_find(fast_http_req_head(j->req), text, "x-call-id");
    if (f && f->value_len && f->value_len < sizeof(j->call_id))
        snprintf(j->call_id, sizeof(j->call_id), "%.*s", (int)f->value_len, text + f->value);
    else
        gw_call_id(j->gw, j->call_id);
}

/* The lines that every answer of a function has, errors too. */
static int own_lines(const struct gw_job *j, char *buf, size_t cap)
{
    return snprintf(buf, cap, "X-Call-Id: %s\r\nX-Start-Time: %lld\r\nX-Served-By: fast-gshare/%s\r\n",
                    j->call_id, (long long)j->wall, FAST_VERSION);
}

static void reply_error(struct gw_job *j, int status, const char *why)
{
    char lines[512], text[512];
    int n = own_lines(j, lines, sizeof(lines));
    snprintf(lines + n, sizeof(lines) - (size_t)n, "%s%s", INTERNAL,
             status == 503 ? "Retry-After: 1\r\n" : "");
    int len = snprintf(text, sizeof(text), "%s\n", why);
    if (len >= (int)sizeof(text))
        len = (int)sizeof(text) - 1;
    j->status = status;
    fast_http_req_reply(j->req, status, lines, "text/plain; charset=utf-8", text, (size_t)len);
}

/* ---- the queue of a function ---- */

static void enqueue(struct gw_job *j)
{
    struct gw_function *fn = j->fn;
    j->queued = true;
    j->queue_next = NULL;
    j->deadline = fast_loop_now(j->gw->loop) + j->gw->conf->queue_timeout;
    if (fn->queue_tail)
        fn->queue_tail->queue_next = j;
    else
        fn->queue_head = j;
    fn->queue_tail = j;
    fn->queued++;
}

static void dequeue(struct gw_job *j)
{
    struct gw_function *fn = j->fn;
    struct gw_job **at = &fn->queue_head, *before = NULL;
    if (!j->queued)
        return;
    while (*at && *at != j) {
        before = *at;
        at = &(*at)->queue_next;
    }
    *at = j->queue_next;
    if (fn->queue_tail == j)
        fn->queue_tail = before;
    fn->queued--;
    j->queued = false;
}

void gw_invoke_queue(struct gateway *gw, struct gw_function *fn)
{
    (void)gw;
    fn->jobs++; /* the last request may be what holds the function */
    /* One that has to wait again goes to the end, so each is tried once. */
    for (int n = fn->queued; n > 0 && fn->queue_head && fast_balance_ready(&fn->balance); n--) {
        struct gw_job *j = fn->queue_head;
        dequeue(j);
        dispatch(j);
    }
    fn->jobs--;
}

void gw_invoke_drop_queue(struct gateway *gw, struct gw_function *fn)
{
    (void)gw;
    while (fn->queue_head) {
        struct gw_job *j = fn->queue_head;
        dequeue(j);
        reply_error(j, 404, "the function was removed");
    }
}

/* ---- leaving a replica, and the end of a job ---- */

static void leave(struct gw_job *j)
{
    struct gw_replica *r = j->replica;
    if (j->call)
        fast_http_call_cancel(j->call);
    j->call = NULL;
    j->replica = NULL;
    if (r)
        gw_replica_leave(j->gw, r);
}

static void count(struct gw_job *j, struct gw_replica *r, int status)
{
    fast_ns now = fast_clock_now(), took = now - j->began;
    if (j->counted)
        return;
    j->counted = true;
    gw_stats_end(&j->fn->stats, status, took, j->fn->spec->slo, now);
    if (r)
        gw_stats_end(&r->stats, status, took, j->fn->spec->slo, now);
}

/* The last that is heard of a request. */
static void on_req_done(void *user, bool complete)
{
    struct gw_job *j = user;
    struct gateway *gw = j->gw;
    struct gw_function *fn = j->fn;
    dequeue(j);
    count(j, j->replica, complete ? j->status : 0);
    leave(j);
    if (j->prev)
        j->prev->next = j->next;
    else
        gw->jobs = j->next;
    if (j->next)
        j->next->prev = j->prev;
    free(j->replay);
    free(j);
    fn->jobs--;
    gw_function_release(gw, fn);
}

/* ---- the request goes to a replica ---- */

static void drop_replay(struct gw_job *j, bool lost)
{
    free(j->replay);
    j->replay = NULL;
    j->replay_len = j->replay_cap = 0;
    j->replay_lost = lost;
}

static void keep_for_replay(struct gw_job *j, const char *data, size_t len)
{
    if (j->answered || j->replay_lost)
        return;
    if (j->replay_len + len > REPLAY_MAX) {
        drop_replay(j, true);
        return;
    }
    if (j->replay_len + len > j->replay_cap) {
        char *p = realloc(j->replay, 2 * (j->replay_len + len));
        if (!p) {
            drop_replay(j, true);
            return;
        }
        j->replay = p;
        j->replay_cap = 2 * (j->replay_len + len);
    }
    memcpy(j->replay + j->replay_len, data, len);
    j->replay_len += len;
}

static void on_req_body(void *user, const char *data, size_t len)
{
    struct gw_job *j = user;
    j->deadline = fast_loop_now(j->gw->loop) + j->gw->conf->timeout;
    keep_for_replay(j, data, len);
    if (j->call && !fast_http_call_write(j->call, data, len))
        fast_http_req_read(j->req, false);
}

static void on_req_flush(void *user)
{
    struct gw_job *j = user;
    if (j->call)
        fast_http_call_flush(j->call);
}

static void on_req_end(void *user)
{
    struct gw_job *j = user;
    j->body_ended = true;
    if (j->call)
        fast_http_call_finish(j->call);
}

static void on_req_drain(void *user)
{
    struct gw_job *j = user;
    if (j->call)
        fast_http_call_read(j->call, true);
}

static const struct fast_http_req_ops req_ops = {on_req_body, on_req_flush, on_req_end,
                                                 on_req_drain, on_req_done};

struct writer {
    char *p;
    size_t len, cap;
};

static void put(struct writer *w, const char *p, size_t len)
{
    if (len > w->cap - w->len)
        len = w->cap - w->len;
    memcpy(w->p + w->len, p, len);
    w->len += len;
}

static void put_text(struct writer *w, const char *text)
{
    put(w, text, strlen(text));
}

static void put_line(struct writer *w, const char *name, const char *value, size_t len)
{
    put_text(w, name);
    put(w, ": ", 2);
    put(w, value, len);
    put(w, "\r\n", 2);
}

/* Fields that this program sets itself. */
static bool is_own(const char *name, size_t len)
{
    return fast_http_is(name, len, "x-call-id") || fast_http_is(name, len, "x-start-time") ||
           fast_http_is(name, len, "x-served-by");
}

static void put_fields(struct writer *w, const struct fast_http_head *h, const char *text)
{
    for (uint32_t i = 0; i < h->fields; i++) {
        const struct fast_http_field *f = &h->field[i];
        const char *name = text + f->name;
        if (fast_http_is_hop(h, text, f) || is_own(name, f->name_len) ||
            (!h->response && (fast_http_is(name, f->name_len, "host") ||
                              fast_http_is(name, f->name_len, "expect"))))
            continue;
        put(w, name, f->name_len);
        put(w, ": ", 2);
        put(w, text + f->value, f->value_len);
        put(w, "\r\n", 2);
    }
}

/* Builds the head for the function; *|ret| is to be freed. */
static size_t build_head(const struct gw_job *j, char **ret)
{
    const struct fast_http_head *h = fast_http_req_head(j->req);
    const char *text = fast_http_req_text(j->req), *peer = fast_http_req_peer(j->req);
    struct writer w = {.cap = (size_t)h->len + 1024};
    char number[64];
    w.p = *ret = malloc(w.cap);
    if (!w.p)
        return 0;
    put(&w, text + h->method, h->method_len);
    put_text(&w, " ");
    if (!j->rest_len || text[j->rest] != '/')
        put_text(&w, "/");
    put(&w, text + j->rest, j->rest_len);
    put_text(&w, " HTTP/1.1\r\n");
    if (h->host_len)
        put_line(&w, "Host", text + h->host, h->host_len);
    else
        put_text(&w, "Host: localhost\r\n");
    put_fields(&w, h, text);
    put_line(&w, "X-Call-Id", j->call_id, strlen(j->call_id));
    put_line(&w, "X-Start-Time", number,
             (size_t)snprintf(number, sizeof(number), "%lld", (long long)j->wall));
    if (!fast_http_head_find(h, text, "x-forwarded-host") && h->host_len)
        put_line(&w, "X-Forwarded-Host", text + h->host, h->host_len);
    if (!fast_http_head_find(h, text, "x-forwarded-for"))
        put_line(&w, "X-Forwarded-For", peer, strlen(peer));
    if (h->chunked)
        put_text(&w, "Transfer-Encoding: chunked\r\n");
    else if (h->length >= 0)
        put_line(&w, "Content-Length", number,
                 (size_t)snprintf(number, sizeof(number), "%lld", (long long)h->length));
    put_text(&w, "\r\n");
    return w.len;
}

/* ---- the answer comes back ---- */

static void on_call_head(void *user, const struct fast_http_head *h, const char *text,
                         const struct fast_http_body *body)
{
    struct gw_job *j = user;
    struct writer w = {.cap = (size_t)h->len + 1024};
    char own[256];
    j->answered = true;
    j->status = h->status;
    drop_replay(j, j->replay_lost);
    w.p = malloc(w.cap);
    if (!w.p) {
        j->answered = false;
        reply_error(j, 502, "no memory for the answer of the function");
        return;
    }
    put_fields(&w, h, text);
    if (!fast_http_head_find(h, text, "content-type") && h->status != 204 && h->status != 304) {
        const char *req_text = fast_http_req_text(j->req);
        const struct fast_http_field *f =
            fast_http_head_find(fast_http_req_head(j->req), req_text, "content-type");
        if (f)
            put_line(&w, "Content-Type", req_text + f->value, f->value_len);
        else
            put_text(&w, "Content-Type: text/plain; charset=utf-8\r\n");
    }
    if (!fast_http_head_find(h, text, "date")) {
        char date[32];
        fast_http_date(fast_clock_wall(), date);
        put_line(&w, "Date", date, strlen(date));
    }
    put(&w, own, (size_t)own_lines(j, own, sizeof(own)));
    bool bodiless = body->framing == FAST_HTTP_BODY_NONE;
    int64_t length = h->length >= 0 ? h->length : -1;
    if (bodiless && length < 0 && !fast_http_req_is_head(j->req) && h->status >= 200 &&
        h->status != 304)
        length = 0;
    if (h->chunked)
        length = -1;
    fast_http_req_start(j->req, h->status, w.p, w.len, length);
    free(w.p);
}

static void on_call_body(void *user, const char *data, size_t len)
{
    struct gw_job *j = user;
    j->deadline = fast_loop_now(j->gw->loop) + j->gw->conf->timeout; /* it is getting on */
    if (!fast_http_req_write(j->req, data, len) && j->call)
        fast_http_call_read(j->call, false);
}

static void on_call_flush(void *user)
{
    struct gw_job *j = user;
    fast_http_req_flush(j->req);
}

static void on_call_drain(void *user)
{
    struct gw_job *j = user;
    fast_http_req_read(j->req, true);
}

static void on_call_end(void *user)
{
    struct gw_job *j = user;
    j->call = NULL;
    count(j, j->replica, j->status);
    leave(j);
    fast_http_req_end(j->req);
}

/* Whether the same request may be sent again; |reached|: a replica may have begun with it. */
static bool may_repeat(const struct gw_job *j, bool reached)
{
    if (j->answered || j->replay_lost || j->fn->removed)
        return false;
    return reached ? j->idempotent && j->attempts < ATTEMPTS_MAX : j->connects < CONNECTS_MAX;
}

static void on_call_fail(void *user, bool connected, const char *why)
{
    struct gw_job *j = user;
    struct gw_replica *r = j->replica;
    fast_log(INFO, "request failed", "function=%s replica=%s answered=%d why=\"%s\"",
             j->fn->spec->name, r ? r->id : "-", j->answered, why);
    j->call = NULL;
    if (!connected) {
        j->attempts--;
        j->connects++;
        if (r)
            gw_replica_suspect(j->gw, r);
    } else if (r) {
        r->stats.failures++;
        if (!j->answered)
            gw_replica_check(j->gw, r);
    }
    j->avoid = r ? r->key : 0;
    leave(j);
    if (j->answered) {
        j->status = 502;
        count(j, NULL, 502);
        fast_http_req_abort(j->req);
    } else if (may_repeat(j, connected)) {
        dispatch(j);
    } else {
        char text[256];
        snprintf(text, sizeof(text), "no answer from function %s: %s", j->fn->spec->name, why);
        reply_error(j, 502, text);
    }
}

static const struct fast_http_call_ops call_ops = {on_call_head, on_call_body, on_call_flush,
                                                   on_call_drain, on_call_end, on_call_fail};

/* ---- dispatch ---- */

static int open_call(struct gw_job *j, struct fast_err *err)
{
    struct gw_replica *r = j->replica;
    const struct fast_http_head *h = fast_http_req_head(j->req);
    char *head = NULL, path[128];
    if (!r->pool) {
        bool local = gw_socket_path(j->gw, r, path, sizeof(path));
        if (fast_http_pool_new(j->gw->loop, r->port, local ? path : NULL, &r->pool, err))
            return -err->code;
    }
    size_t len = build_head(j, &head);
    if (!len)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a request");
    int rc = fast_http_call_new(r->pool, &call_ops, j, head, len, fast_http_req_is_head(j->req),
                                h->chunked, &j->call, err);
    free(head);
    return rc;
}

static void send_body(struct gw_job *j)
{
    if (j->replay_len)
        fast_http_call_write(j->call, j->replay, j->replay_len);
    if (j->body_ended)
        fast_http_call_finish(j->call);
    else
        fast_http_req_read(j->req, true); /* tells what has come, and the end */
}

/* Waits for a replica, if there may be one. */
static void wait_for_replica(struct gw_job *j)
{
    struct gw_function *fn = j->fn;
    char text[400];
    if (fn->removed) {
        reply_error(j, 404, "the function was removed");
    } else if (fn->queued >= j->gw->conf->queue_max) {
        snprintf(text, sizeof(text), "%d requests wait for function %s already", fn->queued,
                 fn->spec->name);
        reply_error(j, 503, text);
    } else {
        fast_http_req_read(j->req, false);
        enqueue(j);
        gw_function_wake(j->gw, fn);
    }
}

/* The replica for a request: another one than that which failed it, if there is one. A replica that
 * has just died looks like the least busy one until the node has told of it. */
static struct fast_balance_item *pick_replica(struct gw_job *j)
{
    struct fast_balance *set = &j->fn->balance;
    struct fast_balance_item *item = fast_balance_pick(set);
    struct gw_replica *r = item ? FAST_CONTAINER_OF(item, struct gw_replica, item) : NULL;
    if (!r || r->key != j->avoid || fast_balance_ready(set) < 2)
        return item;
    fast_balance_done(set, item);
    item->ready = false;
    struct fast_balance_item *other = fast_balance_pick(set);
    item->ready = true;
    return other;
}

static void dispatch(struct gw_job *j)
{
    struct fast_err err = {0};
    struct fast_balance_item *item;
    while (j->connects < CONNECTS_MAX && (item = pick_replica(j))) {
        struct gw_replica *r = FAST_CONTAINER_OF(item, struct gw_replica, item);
        gw_replica_count_flight(r, 1, fast_loop_now(j->gw->loop));
        j->replica = r;
        if (!open_call(j, &err)) {
            j->attempts++;
            j->deadline = fast_loop_now(j->gw->loop) + j->gw->conf->timeout;
            gw_stats_start(&r->stats, fast_loop_now(j->gw->loop));
            send_body(j);
            return;
        }
        j->connects++;
        leave(j);
        gw_replica_suspect(j->gw, r);
    }
    if (j->connects >= CONNECTS_MAX)
        reply_error(j, 502, *err.msg ? err.msg : "the function accepts no connections");
    else /* also when the only replicas do not accept connections: they are being restarted */
        wait_for_replica(j);
}

static bool is_name_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_' || c == '.';
}

/* NAME[.NS] up to "/", "?" or the end; 0: there is no valid name. */
static size_t name_length(const char *path, size_t len)
{
    size_t n = 0;
    while (n < len && path[n] != '/' && path[n] != '?') {
        if (!is_name_char(path[n]))
            return 0;
        n++;
    }
    return n;
}

static struct gw_function *find_target(struct gateway *gw, const char *name, size_t len)
{
    const char *ns = GW_DEFAULT_NS;
    size_t ns_len = strlen(ns);
    for (size_t i = len; i-- > 0;)
        if (name[i] == '.') {
            ns = name + i + 1;
            ns_len = len - i - 1;
            len = i;
            break;
        }
    return gw_function_find(gw, name, len, ns, ns_len);
}

static void reply_unknown(struct gateway *gw, struct fast_http_req *req, const char *name,
                          size_t len)
{
    static const char suffix[] = "." GW_DEFAULT_NS;
    char id[GW_CALL_ID_SIZE], lines[256], text[256];
    bool dot = memchr(name, '.', len);
    gw_call_id(gw, id);
    snprintf(lines, sizeof(lines), "X-Call-Id: %s\r\nX-Start-Time: %lld\r\n" INTERNAL, id,
             (long long)fast_clock_wall());
    int n = snprintf(text, sizeof(text), "error finding function %.*s%s: there is no such function\n",
                     (int)(len < 128 ? len : 128), name, dot ? "" : suffix);
    fast_http_req_reply(req, 404, lines, "text/plain; charset=utf-8", text, (size_t)n);
}

void gw_invoke(struct gateway *gw, struct fast_http_req *req, const char *path, size_t len)
{
    static const char *const allowed[] = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"};
    static const char *const repeatable[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"};
    size_t n = name_length(path, len);
    struct gw_function *fn = n ? find_target(gw, path, n) : NULL;
    if (!fn) {
        reply_unknown(gw, req, path, n);
        return;
    }
    if (!method_in(req, allowed, FAST_COUNT_OF(allowed))) {
        fast_http_req_text_reply(req, 405, "this method is not forwarded to functions");
        return;
    }
    struct gw_job *j = calloc(1, sizeof(*j));
    if (!j) {
        fast_http_req_text_reply(req, 503, "no memory for another request");
        return;
    }
    j->gw = gw;
    j->fn = fn;
    j->req = req;
    j->rest = (uint32_t)(path + n - fast_http_req_text(req));
    j->rest_len = (uint32_t)(len - n);
    j->idempotent = method_in(req, repeatable, FAST_COUNT_OF(repeatable));
    j->began = fast_loop_now(gw->loop);
    j->wall = fast_clock_wall();
    take_call_id(j);
    j->next = gw->jobs;
    if (j->next)
        j->next->prev = j;
    gw->jobs = j;
    fn->jobs++;
    gw_stats_start(&fn->stats, j->began);
    fast_http_req_accept(req, &req_ops, j);
    dispatch(j);
}

static void expire(struct gw_job *j)
{
    char text[400];
    if (j->queued) {
        dequeue(j);
        snprintf(text, sizeof(text), "no replica of function %s within %lld s%s%s",
                 j->fn->spec->name, (long long)(j->gw->conf->queue_timeout / FAST_S(1)),
                 *j->fn->trouble ? ": " : "", j->fn->trouble);
        reply_error(j, 503, text);
        return;
    }
    leave(j);
    if (j->answered)
        fast_http_req_abort(j->req);
    else
        reply_error(j, 504, "the function did not answer in time");
}

void gw_invoke_tick(struct gateway *gw)
{
    fast_ns now = fast_loop_now(gw->loop);
    /* The end of one request may end others: begin anew after each. */
    for (struct gw_job *j = gw->jobs; j; j = j ? j->next : gw->jobs)
        if (j->deadline <= now && j->deadline) {
            j->deadline = FAST_NEVER;
            expire(j);
            j = NULL;
        }
}
