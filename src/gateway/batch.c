/* Decides which requests go together, and which part of an answer is whose. A batch is open while its first
 * request waits for company; then a job without a request of its own, the carrier, goes the way of any
 * other job: queue, replica, time-outs. */

#include "gateway/batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define BODY_MAX (1 << 20)
#define ANSWER_MAX ((size_t)64 << 20)
#define TYPE "application/vnd.fast-gshare.batch"
#define TYPE_MAX 128

struct seat {
    struct gw_job *job; /* NULL: it has gone */
    bool sent;          /* its body is in the call: a part of the answer is its own */
};

struct gw_batch {
    struct gateway *gw;
    struct gw_function *fn;
    struct fast_timer *timer; /* while it is open */
    struct gw_job *carrier; /* while it is on its way */
    struct seat *seats;
    int room, n, left, sent; /* seats: all, taken, not left again, sent */
    char target[512], type[TYPE_MAX]; /* what they have in common */
    /* the answer */
    bool parts;
    char answer_type[TYPE_MAX];
    char *answer;
    size_t answer_len, answer_cap;
};

/* ---- coming together ---- */

static void batch_free(struct gw_batch *b)
{
    if (b->fn->batch == b)
        b->fn->batch = NULL;
    fast_timer_free(b->timer);
    free(b->seats);
    free(b->answer);
    free(b);
}

static const struct fast_http_field *type_of(const struct gw_job *j)
{
    return fast_http_head_find(fast_http_req_head(j->req), fast_http_req_text(j->req), "content-type");
}

static bool fits(const struct gw_batch *b, const struct gw_job *j)
{
    const char *text = fast_http_req_text(j->req);
    const struct fast_http_field *type = type_of(j);
    return fast_http_is_exact(text + j->rest, j->rest_len, b->target) &&
           fast_http_is_exact(type ? text + type->value : "", type ? type->value_len : 0, b->type);
}

static void fail_all(struct gw_batch *b, int status, int retry_s, const char *why)
{
    for (int i = 0; i < b->n; i++)
        if (b->seats[i].job)
            gw_job_error(b->seats[i].job, status, retry_s, why);
}

/* From now on the batch is on its way. */
static void depart(struct gw_batch *b)
{
    struct gw_job *only = b->left == 1 ? gw_batch_first(b) : NULL;
    b->fn->batch = NULL;
    fast_timer_free(b->timer);
    b->timer = NULL;
    if (only) {
        only->in_batch = NULL;
        batch_free(b);
        gw_job_alone(only);
        return;
    }
    struct gw_job *carrier = gw_job_new(b->gw, b->fn, NULL);
    if (!carrier) {
        struct gw_function *fn = b->fn;
        fn->jobs++; /* the last of them may be what holds the function */
        fail_all(b, 503, 1, "no memory for a batch");
        batch_free(b);
        fn->jobs--;
        return;
    }
    b->carrier = carrier;
    carrier->batch = b;
    carrier->body_ended = true;
    carrier->idempotent = b->fn->spec->repeatable;
    carrier->began = gw_batch_first(b)->began; /* somebody is left, else there is no batch */
    carrier->due = gw_batch_first(b)->due;
    gw_job_dispatch(carrier);
}

static void on_timer(void *arg)
{
    depart(arg);
}

static struct gw_batch *batch_new(struct gw_job *j)
{
    const char *text = fast_http_req_text(j->req);
    const struct fast_http_field *type = type_of(j);
    struct gw_batch *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->gw = j->gw;
    b->fn = j->fn;
    b->room = j->fn->spec->batch_max;
    b->seats = calloc((size_t)b->room, sizeof(*b->seats));
    b->timer = fast_timer_new(j->gw->loop, on_timer, b);
    if (!b->seats || !b->timer) {
        batch_free(b);
        return NULL;
    }
    snprintf(b->target, sizeof(b->target), "%.*s", (int)j->rest_len, text + j->rest);
    snprintf(b->type, sizeof(b->type), "%.*s", type ? (int)type->value_len : 0,
             type ? text + type->value : "");
    fast_timer_set(b->timer, fast_loop_now(j->gw->loop) + j->fn->spec->batch_wait);
    j->fn->batch = b;
    return b;
}

/* The whole body is here: it may travel. */
static void join(struct gw_job *j)
{
    struct gw_function *fn = j->fn;
    if (fn->batch && !fits(fn->batch, j))
        depart(fn->batch);
    struct gw_batch *b = fn->batch ? fn->batch : batch_new(j);
    if (!b) {
        gw_job_alone(j);
        return;
    }
    j->in_batch = b;
    b->seats[b->n++].job = j;
    b->left++;
    if (b->n == b->room)
        depart(b);
}

static void on_body(void *user, const char *data, size_t len)
{
    struct gw_job *j = user;
    memcpy(j->replay + j->replay_len, data, len); /* its length was known, and is kept to */
    j->replay_len += len;
}

static void on_end(void *user)
{
    struct gw_job *j = user;
    j->body_ended = true;
    join(j);
}

bool gw_batch_take(struct gw_job *j)
{
    static const struct fast_http_req_ops ops = {.body = on_body, .end = on_end, .done = gw_job_done};
    const struct fast_http_head *h = fast_http_req_head(j->req);
    const struct fast_http_field *type = type_of(j);
    if (j->fn->spec->batch_max < 2 || h->length < 0 || h->length > BODY_MAX ||
        !fast_http_is_exact(fast_http_req_text(j->req) + h->method, h->method_len, "POST") ||
        j->gw->replay_bytes + (size_t)h->length > GW_KEPT_MAX ||
        j->rest_len >= sizeof(((struct gw_batch *)0)->target) || (type && type->value_len >= TYPE_MAX))
        return false;
    j->replay = malloc((size_t)h->length + 1);
    if (!j->replay)
        return false;
    j->replay_cap = (size_t)h->length + 1;
    j->gw->replay_bytes += j->replay_cap;
    fast_http_req_accept(j->req, &ops, j);
    fast_http_req_read(j->req, true);
    return true;
}

void gw_batch_forget(struct gw_job *j)
{
    struct gw_batch *b = j->in_batch;
    if (!b)
        return;
    j->in_batch = NULL;
    for (int i = 0; i < b->n; i++)
        if (b->seats[i].job == j)
            b->seats[i].job = NULL;
    b->left--;
    if (b->left || !(b->carrier || b->fn->batch == b)) /* the latter: it is being answered */
        return;
    struct gw_job *carrier = b->carrier;
    batch_free(b);
    if (carrier) /* out of the queue, or the replica sees its caller go */
        gw_job_done(carrier, false);
}

struct gw_job *gw_batch_first(const struct gw_batch *b)
{
    for (int i = 0; i < b->n; i++)
        if (b->seats[i].job)
            return b->seats[i].job;
    return NULL;
}

/* ---- to the function ---- */

/* "5:hello," */
static size_t part_size(const struct gw_job *j)
{
    char number[24];
    return (size_t)snprintf(number, sizeof(number), "%zu:", j->replay_len) + j->replay_len + 1;
}

size_t gw_batch_head(const struct gw_job *carrier, char **ret)
{
    const struct gw_batch *b = carrier->batch;
    size_t length = 0;
    for (int i = 0; i < b->n; i++)
        if (b->seats[i].job)
            length += part_size(b->seats[i].job);
    int n = asprintf(ret, "POST %s%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: " TYPE "\r\n"
                     "X-Batch-Size: %d\r\n%s%s%sX-Call-Id: %s\r\nX-Start-Time: %lld\r\n"
                     "Content-Length: %zu\r\n\r\n", *b->target == '/' ? "" : "/", b->target, b->left,
                     *b->type ? "X-Batch-Content-Type: " : "", b->type, *b->type ? "\r\n" : "",
                     carrier->call_id, (long long)carrier->wall, length);
    return n < 0 ? 0 : (size_t)n;
}

void gw_batch_send(struct gw_job *carrier)
{
    struct gw_batch *b = carrier->batch;
    char number[24];
    b->sent = b->left;
    for (int i = 0; i < b->n; i++) {
        const struct gw_job *j = b->seats[i].job;
        b->seats[i].sent = j != NULL;
        if (!j)
            continue;
        fast_http_call_write(carrier->call, number,
                             (size_t)snprintf(number, sizeof(number), "%zu:", j->replay_len));
        fast_http_call_write(carrier->call, j->replay, j->replay_len);
        fast_http_call_write(carrier->call, ",", 1);
    }
    fast_http_call_finish(carrier->call);
}

/* ---- and back ---- */

static void take_type(const struct fast_http_head *h, const char *text, const char *name, char *ret)
{
    const struct fast_http_field *f = fast_http_head_find(h, text, name);
    ret[0] = 0;
    if (f && f->value_len < TYPE_MAX)
        snprintf(ret, TYPE_MAX, "%.*s", (int)f->value_len, text + f->value);
}

void gw_batch_on_head(void *user, const struct fast_http_head *h, const char *text,
                      const struct fast_http_body *body)
{
    struct gw_job *carrier = user;
    struct gw_batch *b = carrier->batch;
    char type[TYPE_MAX];
    (void)body;
    carrier->status = h->status;
    take_type(h, text, "content-type", type);
    b->parts = h->status == 200 && !strncmp(type, TYPE, strlen(TYPE));
    take_type(h, text, b->parts ? "x-batch-content-type" : "content-type", b->answer_type);
    b->answer_len = 0;
}

void gw_batch_on_body(void *user, const char *data, size_t len)
{
    struct gw_job *carrier = user;
    struct gw_batch *b = carrier->batch;
    carrier->deadline = fast_loop_now(carrier->gw->loop) + gw_job_timeout(carrier);
    if (b->answer_len > ANSWER_MAX)
        return;
    if (b->answer_len + len > b->answer_cap) {
        char *p = realloc(b->answer, 2 * (b->answer_len + len));
        if (!p) {
            b->answer_len = ANSWER_MAX + 1;
            return;
        }
        b->answer = p;
        b->answer_cap = 2 * (b->answer_len + len);
    }
    memcpy(b->answer + b->answer_len, data, len);
    b->answer_len += len;
}

/* The next netstring at *|at|; false: there is none. */
static bool next_part(const struct gw_batch *b, size_t *at, const char **ret, size_t *ret_len)
{
    size_t i = *at, len = 0;
    for (; i < b->answer_len && b->answer[i] >= '0' && b->answer[i] <= '9' && len <= ANSWER_MAX; i++)
        len = len * 10 + (size_t)(b->answer[i] - '0');
    if (i == *at || i >= b->answer_len || b->answer[i] != ':' || len >= b->answer_len - i - 1 ||
        b->answer[i + 1 + len] != ',')
        return false;
    *ret = b->answer + i + 1;
    *ret_len = len;
    *at = i + len + 2;
    return true;
}

static bool parts_are_right(const struct gw_batch *b)
{
    const char *part;
    size_t at = 0, len;
    int n = 0;
    while (n < b->sent && next_part(b, &at, &part, &len))
        n++;
    return n == b->sent && at == b->answer_len;
}

static void reply(struct gw_job *j, const struct gw_batch *b, int status, const char *part, size_t len)
{
    char lines[512];
    size_t n = gw_own_lines(j->call_id, j->wall, lines, sizeof(lines));
    snprintf(lines + n, sizeof(lines) - n, "X-Batch-Size: %d\r\n", b->sent);
    j->status = status;
    fast_http_req_reply(j->req, status, lines, *b->answer_type ? b->answer_type : "text/plain; charset=utf-8",
                        part, len);
}

void gw_batch_answer(struct gw_job *carrier)
{
    struct gw_batch *b = carrier->batch;
    size_t at = 0;
    b->carrier = NULL;
    if (b->answer_len > ANSWER_MAX || (b->parts && !parts_are_right(b))) {
        gw_batch_error(carrier, 502, 0, "the function's answer is not one part for each request");
        return;
    }
    for (int i = 0; i < b->n; i++) {
        struct gw_job *j = b->seats[i].job;
        const char *part = b->answer;
        size_t len = b->answer_len;
        if (b->parts && b->seats[i].sent)
            next_part(b, &at, &part, &len);
        if (j)
            reply(j, b, carrier->status, len ? part : "", len);
    }
    batch_free(b);
    gw_job_free(carrier);
}

void gw_batch_error(struct gw_job *carrier, int status, int retry_s, const char *why)
{
    struct gw_batch *b = carrier->batch;
    b->carrier = NULL;
    fail_all(b, status, retry_s, why);
    batch_free(b);
    gw_job_free(carrier); /* last: it may be what holds the function */
}
