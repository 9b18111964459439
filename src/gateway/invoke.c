/* Decides which replica answers a request to a function, and what the caller sees when none can.
 * What reaches a replica is framed anew: nothing of the caller's framing is forwarded. A request is
 * repeated on another replica only when nothing of an answer has come and the method allows it, or
 * when it cannot have reached a replica at all. */

#include "gateway/batch.h"
#include "gateway/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

#define ATTEMPTS_MAX 4 /* of what may be repeated: more would let one request end many replicas */
#define CONNECTS_MAX 4
/* Bytes of a body that are kept to be sent again: of any request, and of one that may be repeated. */
#define REPLAY_MAX 65536
#define BODY_RATE_MIN 1024 /* bytes/s, of a body that holds one of few places */
#define REPLAY_MAX_REPEATABLE (1 << 20)

/* ---- small things ---- */

/* The methods that are forwarded, and which may be repeated. */
static const struct method {
    const char *name;
    bool repeatable;
} methods[] = {{"GET", true},     {"POST", false}, {"PUT", true},    {"HEAD", true},
               {"DELETE", true},  {"PATCH", false}, {"OPTIONS", true}};

static const struct method *find_method(const struct fast_http_req *req)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    for (size_t i = 0; i < FAST_COUNT_OF(methods); i++)
        if (fast_http_is_exact(fast_http_req_text(req) + h->method, h->method_len, methods[i].name))
            return &methods[i];
    return NULL;
}

void gw_job_error(struct gw_job *j, int status, int retry_s, const char *why)
{
    char lines[512], text[512];
    if (j->batch) {
        gw_batch_error(j, status, retry_s, why);
        return;
    }
    size_t n = gw_own_lines(j->call_id, j->wall, lines, sizeof(lines));
    n += (size_t)snprintf(lines + n, sizeof(lines) - n, "X-OpenFaaS-Internal: proxy\r\n");
    if (retry_s)
        snprintf(lines + n, sizeof(lines) - n, "Retry-After: %d\r\n", retry_s);
    int len = snprintf(text, sizeof(text), "%s\n", why);
    if (len >= (int)sizeof(text))
        len = (int)sizeof(text) - 1;
    j->status = status;
    fast_http_req_reply(j->req, status, lines, "text/plain; charset=utf-8", text, (size_t)len);
}

fast_ns gw_job_timeout(const struct gw_job *j)
{
    return j->fn->spec->timeout ? j->fn->spec->timeout : j->gw->conf->timeout;
}

/* ---- leaving a replica, and the end of a job ---- */

static void leave(struct gw_job *j)
{
    struct gw_function *fn = j->fn;
    if (j->call)
        fast_http_call_cancel(j->call);
    j->call = NULL;
    struct gw_replica *r = gw_job_departs(j);
    if (!r)
        return;
    fn->jobs++; /* the replica may be the last that holds the function */
    gw_replica_leave(j->gw, r);
    fn->jobs--;
    if (fn->queue.n)
        gw_invoke_queue(j->gw, fn);
}

static void count(struct gw_job *j, struct gw_replica *r, int status)
{
    fast_ns now = fast_clock_now(), took = now - j->began;
    if (j->counted)
        return;
    j->counted = true;
    if (!j->batch)
        gw_stats_end(&j->fn->stats, status, took, j->fn->spec->slo, now);
    if (r)
        gw_stats_end(&r->stats, status, took, j->fn->spec->slo, now);
}

static void drop_replay(struct gw_job *j, bool lost)
{
    j->gw->replay_bytes -= j->replay_cap;
    free(j->replay);
    j->replay = NULL;
    j->replay_len = j->replay_cap = 0;
    j->replay_lost = lost;
}

static void begin_trace(struct gw_job *j)
{
    const char *text = fast_http_req_text(j->req);
    const struct fast_http_field *f =
        fast_http_head_find(fast_http_req_head(j->req), text, "traceparent");
    gw_trace_begin(&j->trace, f ? text + f->value : NULL, f ? f->value_len : 0,
                   gw_random_bytes(j->gw, 24));
}

/* |status| 0: the caller went away. */
static void end_trace(struct gw_job *j, int status)
{
    struct gw_trace_end e = {.name = j->fn->spec->name, .ns = j->fn->spec->ns, .method = j->method,
                             .replica = j->traced ? j->traced : "", .call_id = j->call_id,
                             .status = status, .from = j->wall, .to = fast_clock_wall(),
                             .waited = j->sent ? j->sent - j->began : 0, .attempts = j->attempts};
    gw_trace_finish(j->gw->tracer, &j->trace, &e);
}

struct gw_job *gw_job_new(struct gateway *gw, struct gw_function *fn, struct fast_http_req *req)
{
    struct gw_job *j = calloc(1, sizeof(*j));
    if (!j)
        return NULL;
    j->gw = gw;
    j->fn = fn;
    j->req = req;
    j->began = fast_loop_now(gw->loop);
    j->due = fn->spec->slo ? j->began + fn->spec->slo : 0;
    j->wall = fast_clock_wall();
    if (req)
        gw_call_id_of(gw, req, j->call_id);
    else
        gw_call_id(gw, j->call_id);
    if (req && gw->tracer)
        begin_trace(j);
    j->next = gw->jobs;
    if (j->next)
        j->next->prev = j;
    gw->jobs = j;
    fn->jobs++;
    return j;
}

void gw_job_free(struct gw_job *j)
{
    struct gateway *gw = j->gw;
    struct gw_function *fn = j->fn;
    gw_job_stop_waiting(j);
    gw_batch_forget(j);
    leave(j);
    if (j->prev)
        j->prev->next = j->next;
    else
        gw->jobs = j->next;
    if (j->next)
        j->next->prev = j->prev;
    drop_replay(j, true);
    free(j->traced);
    free(j);
    fn->jobs--;
    gw_function_release(gw, fn);
}

/* The last that is heard of a request. */
void gw_job_done(void *user, bool complete)
{
    struct gw_job *j = user;
    count(j, j->replica, complete ? j->status : 0);
    if (j->trace.on)
        end_trace(j, complete ? j->status : 0);
    gw_job_free(j);
}

/* ---- the request goes to a replica ---- */

static void keep_for_replay(struct gw_job *j, const char *data, size_t len)
{
    size_t max = j->idempotent ? REPLAY_MAX_REPEATABLE : REPLAY_MAX, cap = 2 * (j->replay_len + len);
    int64_t whole = fast_http_req_head(j->req)->length;
    if (j->answered || j->replay_lost)
        return;
    if (whole >= 0 && cap > (uint64_t)whole)
        cap = (size_t)whole;
    if (cap > max)
        cap = max;
    if (j->replay_len + len > max || j->gw->replay_bytes + cap > GW_KEPT_MAX) {
        drop_replay(j, true);
        return;
    }
    if (j->replay_len + len > j->replay_cap) {
        char *p = realloc(j->replay, cap);
        if (!p) {
            drop_replay(j, true);
            return;
        }
        j->gw->replay_bytes += cap - j->replay_cap;
        j->replay = p;
        j->replay_cap = cap;
    }
    memcpy(j->replay + j->replay_len, data, len);
    j->replay_len += len;
}

/* A body that is getting on has time. Where places are few it must earn it: a byte now and then would
 * keep all others out. */
static fast_ns deadline_of_body(const struct gw_job *j)
{
    fast_ns until = fast_loop_now(j->gw->loop) + gw_job_timeout(j);
    fast_ns earned = j->sent + gw_job_timeout(j) + (fast_ns)(j->arrived * (uint64_t)(FAST_S(1) / BODY_RATE_MIN));
    return j->fn->spec->max_inflight && !j->answered && earned < until ? earned : until;
}

static void on_req_body(void *user, const char *data, size_t len)
{
    struct gw_job *j = user;
    j->arrived += len;
    if (j->call && !j->tunnel) /* who waits has no deadline here */
        j->deadline = deadline_of_body(j);
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
    if (j->fn->spec->record && j->replay_len)
        gw_record(j->fn, j->replay, j->replay_len);
    if (j->tunnel) /* the function has so long to end it too */
        j->deadline = fast_loop_now(j->gw->loop) + gw_job_timeout(j);
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
                                                 on_req_drain, gw_job_done};

/* ---- the answer comes back ---- */

static void on_call_head(void *user, const struct fast_http_head *h, const char *text,
                         const struct fast_http_body *body)
{
    struct gw_job *j = user;
    const char *lines = NULL;
    size_t len = gw_job_answer_lines(j, h, text, &lines);
    if (!len) {
        gw_job_error(j, 502, 0, "no memory for the answer of the function");
        return;
    }
    j->answered = true;
    j->status = h->status;
    drop_replay(j, j->replay_lost);
    bool bodiless = body->framing == FAST_HTTP_BODY_NONE;
    int64_t length = h->length >= 0 ? h->length : -1;
    if (bodiless && length < 0 && !fast_http_req_is_head(j->req) && h->status >= 200 &&
        h->status != 304)
        length = 0;
    if (h->chunked)
        length = -1;
    j->sized = length >= 0 && h->status != 101; /* a tunnel ends when it likes */
    fast_http_req_start(j->req, h->status, lines, len, length);
    if (h->status == 101) { /* it may be silent for as long as it likes */
        j->tunnel = true;
        j->deadline = 0;
        count(j, j->replica, 101); /* how long it lasts says nothing of the function */
        fast_http_req_read(j->req, true);
    }
}

static void on_call_body(void *user, const char *data, size_t len)
{
    struct gw_job *j = user;
    if (j->deadline)
        j->deadline = fast_loop_now(j->gw->loop) + gw_job_timeout(j); /* it is getting on */
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
    if (!j->tunnel)
        gw_job_learn(j);
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

/* Takes back an answer of which the caller has seen nothing. It is not asked for again: the body of the request
 * is not kept any more. */
static void retract(struct gw_job *j)
{
    if (!j->answered || !fast_http_req_retract(j->req))
        return;
    j->answered = false;
    j->replay_lost = true;
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
    retract(j);
    if (j->answered) {
        j->status = 502;
        count(j, NULL, 502);
        fast_http_req_abort(j->req);
    } else if (may_repeat(j, connected)) {
        gw_job_dispatch(j);
    } else {
        char text[256];
        snprintf(text, sizeof(text), "no answer from function %s: %s", j->fn->spec->name, why);
        gw_job_error(j, 502, 0, text);
    }
}

static const struct fast_http_call_ops call_ops = {on_call_head, on_call_body, on_call_flush,
                                                   on_call_drain, on_call_end, on_call_fail};

/* The same of a batch: its answer is collected and then shared out. */
static void on_batch_nothing(void *user)
{
    (void)user;
}

static void on_batch_end(void *user)
{
    struct gw_job *j = user;
    j->call = NULL;
    count(j, j->replica, j->status);
    gw_job_learn(j);
    leave(j);
    gw_batch_answer(j);
}

static const struct fast_http_call_ops batch_ops = {gw_batch_on_head, gw_batch_on_body,
                                                    on_batch_nothing, on_batch_nothing,
                                                    on_batch_end,     on_call_fail};

/* ---- dispatch ---- */

static int open_call(struct gw_job *j, struct fast_err *err)
{
    struct gw_replica *r = j->replica;
    const char *head = NULL;
    fast_autofree char *of_batch = NULL;
    char path[128];
    bool to_head = !j->batch && fast_http_req_is_head(j->req);
    bool chunked = !j->batch && fast_http_req_head(j->req)->chunked;
    if (!r->pool) {
        bool local = gw_socket_path(j->gw, r, path, sizeof(path));
        if (fast_http_pool_new(j->gw->loop, r->port, local ? path : NULL, &r->pool, err))
            return -err->code;
    }
    size_t len = j->batch ? gw_batch_head(j, &of_batch) : gw_job_request_head(j, &head);
    if (!len)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a request");
    if (of_batch)
        head = of_batch;
    int rc = fast_http_call_new(r->pool, j->batch ? &batch_ops : &call_ops, j, head, len, to_head,
                                chunked, &j->call, err);
    if (!rc && j->upgrade)
        fast_http_call_upgrade(j->call);
    return rc;
}

static void send_body(struct gw_job *j)
{
    if (j->batch) {
        gw_batch_send(j);
        return;
    }
    if (j->replay_len)
        fast_http_call_write(j->call, j->replay, j->replay_len);
    if (j->body_ended)
        fast_http_call_finish(j->call);
    else
        fast_http_req_read(j->req, true); /* tells what has come, and the end */
}

/* The replica for a request: another one than that which failed it, if there is one. A replica that
 * has just died looks like the least busy one until the node has told of it. */
static struct fast_balance_item *pick_replica(struct gw_job *j)
{
    struct fast_balance *set = &j->fn->balance;
    set->limit = j->fn->spec->max_inflight;
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

void gw_job_dispatch(struct gw_job *j)
{
    struct fast_err err = {0};
    struct fast_balance_item *item;
    while (j->connects < CONNECTS_MAX && (item = pick_replica(j))) {
        struct gw_replica *r =
            gw_elastic_choose(j->gw, FAST_CONTAINER_OF(item, struct gw_replica, item), j->avoid);
        gw_replica_count_flight(r, 1, fast_loop_now(j->gw->loop));
        gw_job_arrives(j, r);
        if (!open_call(j, &err)) {
            j->attempts++;
            j->sent = fast_loop_now(j->gw->loop);
            j->arrived = 0;
            if (j->trace.on) {
                free(j->traced);
                j->traced = strdup(r->id);
            }
            j->deadline = j->sent + gw_job_timeout(j);
            gw_stats_start(&r->stats, fast_loop_now(j->gw->loop));
            gw_replica_tell_due(j->gw, r);
            send_body(j);
            return;
        }
        j->connects++;
        gw_replica_suspect(j->gw, r);
        leave(j);
    }
    if (j->connects >= CONNECTS_MAX)
        gw_job_error(j, 502, 0, *err.msg ? err.msg : "the function accepts no connections");
    else /* also when the only replicas do not accept connections: they are being restarted */
        gw_job_wait(j);
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
    gw_call_refuse(gw, req, 404, "", "error finding function %.*s%s: there is no such function",
                   (int)(len < 128 ? len : 128), name, memchr(name, '.', len) ? "" : "." GW_DEFAULT_NS);
}

/* A websocket; over HTTP/2 there is no such thing. */
static bool wants_upgrade(const struct fast_http_req *req)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f = fast_http_head_find(h, text, "upgrade");
    return f && fast_http_is(text + f->value, f->value_len, "websocket") && h->minor == 1 &&
           fast_http_is_exact(text + h->method, h->method_len, "GET") && h->length <= 0 && !h->chunked &&
           fast_http_head_lists(h, text, "connection", "upgrade");
}

void gw_invoke(struct gateway *gw, struct fast_http_req *req, const char *path, size_t len)
{
    size_t n = name_length(path, len);
    struct gw_function *fn = n ? find_target(gw, path, n) : NULL;
    if (!fn) {
        reply_unknown(gw, req, path, n);
        return;
    }
    const struct method *method = find_method(req);
    if (!method) {
        gw_call_refuse(gw, req, 405, "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n",
                       "this method is not forwarded to functions");
        return;
    }
    struct gw_job *j = gw_job_new(gw, fn, req);
    if (!j) {
        gw_call_refuse(gw, req, 503, "", "no memory for another request");
        return;
    }
    j->rest = (uint32_t)(path + n - fast_http_req_text(req));
    j->rest_len = (uint32_t)(len - n);
    j->method = method->name;
    j->upgrade = wants_upgrade(req);
    j->idempotent = fn->spec->repeatable || method->repeatable;
    gw_stats_start(&fn->stats, j->began);
    if (gw_batch_take(j))
        return;
    gw_job_alone(j);
}

void gw_job_alone(struct gw_job *j)
{
    fast_http_req_accept(j->req, &req_ops, j);
    gw_job_dispatch(j);
}

static void expire(struct gw_job *j)
{
    leave(j);
    retract(j);
    if (j->answered)
        fast_http_req_abort(j->req);
    else
        gw_job_error(j, 504, 0, "the function did not answer in time");
}

/* Who waits for a replica has no deadline here: gw_invoke_wait_out(). */
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

bool gw_invoke_has_end(const struct gateway *gw, fast_ns since)
{
    fast_ns now = fast_loop_now(gw->loop);
    for (const struct gw_job *j = gw->jobs; j; j = j->next) {
        fast_ns had = now - (j->began > since ? j->began : since);
        if (j->req && (!j->answered || j->sized) && had < gw->conf->queue_timeout + gw_job_timeout(j))
            return true;
    }
    return false;
}
