/* The load. It decides when a request goes out and on which connection, and counts what
 * becomes of it. It assumes one thread and a loop of its own; requests of one target go out in the
 * order in which they are due, on the connection that was used last, so that few stay warm. */

#include "cli/load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/http_parse.h"
#include "io/http_stream.h"
#include "io/loop.h"

#define BODY_CHECK_MAX (1u << 20) /* of a body, what check() gets to see */
#define PROGRESS_EVERY FAST_MS(100)
#define PAUSE FAST_MS(100) /* of a closed loop after a request that was not answered well */
#define HEAD_MAX 2048

struct target;

/* A connection: idle, or at one request. */
struct conn {
    struct target *target;
    struct conn *next; /* below it in the stack of idle ones */
    struct fast_http_stream s;
    struct fast_timer *timeout;
    struct fast_http_head head;
    struct fast_http_body framing;
    size_t request;
    fast_ns due; /* from when its clock runs */
    bool connecting, busy, got_head;
    char *body; /* kept for check() */
    size_t body_len, body_cap;
};

struct target {
    struct load *load;
    const struct fast_load_spec *spec;
    struct fast_load_result *result;
    struct sockaddr_in address;
    struct fast_timer *timer; /* when the next request is due */
    struct conn *conns;       /* connections_max of them; those without a socket have fd -1 */
    struct conn *idle;
    size_t next; /* requests before it have gone out or were given up */
    size_t done; /* requests whose end is known */
    fast_ns pause; /* closed: nothing goes out before */
    bool ended;
};

struct load {
    struct fast_loop *loop;
    struct target *targets;
    size_t count, running; /* running: targets with requests whose end is not known */
    fast_ns start, last;
    fast_load_progress *progress;
    void *progress_arg;
    struct fast_timer *progress_timer;
};

static void pump(struct target *t);

static fast_ns due(const struct target *t, size_t request)
{
    return t->load->start + t->spec->due[request];
}

static fast_ns deadline(const struct target *t, fast_ns from)
{
    fast_ns at;
    return __builtin_add_overflow(from, t->spec->timeout, &at) ? FAST_NEVER : at;
}

/* The last target whose requests have all come to their end ends the load. */
static void target_ended(struct target *t)
{
    if (--t->load->running == 0)
        fast_loop_stop(t->load->loop);
}

/* The end of a request that was due at |due_at| is known; |count| is where it belongs. */
static void account(struct target *t, fast_ns due_at, uint64_t *count, bool answered)
{
    fast_ns now = fast_clock_now(), latency = now - due_at;
    bool late = t->spec->slo && latency > t->spec->slo;
    ++*count;
    t->result->sent++;
    t->result->violations += count != &t->result->ok || late;
    if (answered)
        fast_hist_add(&t->result->latency, latency);
    t->result->span = t->load->last = now - t->load->start;
    if (count == &t->result->ok) {
        t->result->last_ok = t->result->span;
        if (t->spec->answered)
            t->spec->answered[t->result->ok - 1] = t->result->span;
    }
    t->done++;
    if (!t->spec->closed_until && t->done == t->spec->due_count)
        target_ended(t);
}

/* ---- connections ---- */

static void conn_close(struct conn *c)
{
    struct conn **at = &c->target->idle;
    while (*at && *at != c)
        at = &(*at)->next;
    if (*at)
        *at = c->next;
    fast_http_stream_fini(&c->s);
    fast_timer_set(c->timeout, FAST_NEVER);
    c->busy = c->connecting = false;
    c->body_len = 0;
}

/* The request of |c| ends without an answer, and the connection with it. */
static void conn_fail(struct conn *c, uint64_t *count)
{
    struct target *t = c->target;
    bool busy = c->busy;
    conn_close(c);
    if (busy)
        account(t, c->due, count, false);
    t->pause = fast_clock_now() + PAUSE;
    pump(t);
}

static void on_timeout(void *arg)
{
    struct conn *c = arg;
    conn_fail(c, &c->target->result->timeouts);
}

/* Keeps |len| bytes of the body for check(). */
static void keep_body(struct conn *c, const char *data, size_t len)
{
    if (!c->target->spec->check || c->body_len + len > BODY_CHECK_MAX)
        return;
    if (c->body_len + len > c->body_cap) {
        size_t cap = 2 * (c->body_len + len);
        char *body = realloc(c->body, cap);
        if (!body)
            return; /* what is kept is too short, and check() will say so */
        c->body = body;
        c->body_cap = cap;
    }
    memcpy(c->body + c->body_len, data, len);
    c->body_len += len;
}

/* Where an answer with |status| is counted. */
static uint64_t *count_of(struct conn *c, int status)
{
    const struct fast_load_spec *spec = c->target->spec;
    struct fast_load_result *r = c->target->result;
    if (status >= 200 && status < 300)
        return !spec->check || spec->check(spec->check_arg, c->request, c->body ? c->body : "",
                                           c->body_len)
                   ? &r->ok
                   : &r->wrong;
    if (status == 429)
        return &r->throttled;
    return status >= 500 ? &r->server_errors : &r->client_errors;
}

static void conn_answered(struct conn *c)
{
    struct target *t = c->target;
    int status = c->head.status;
    uint64_t *count = count_of(c, status);
    bool keep = c->head.keep_alive && c->framing.framing != FAST_HTTP_BODY_CLOSE && !c->s.eof &&
                !c->s.in_len && !fast_http_stream_waiting(&c->s) && !c->s.unsendable;
    if (keep) {
        fast_timer_set(c->timeout, FAST_NEVER);
        c->busy = false;
        c->body_len = 0;
        c->next = t->idle;
        t->idle = c;
    } else {
        conn_close(c);
    }
    account(t, c->due, count, status >= 200 && status < 300);
    if (status < 200 || status >= 300)
        t->pause = fast_clock_now() + PAUSE;
    pump(t);
}

/* Takes what is there of the head. False: there is nothing more to do now. */
static bool step_head(struct conn *c)
{
    int r = fast_http_head_parse(&c->head, c->s.in, c->s.in_len);
    if (r < 0) {
        conn_fail(c, &c->target->result->lost);
        return false;
    }
    if (r == 0)
        return false;
    size_t len = c->head.len;
    if (c->head.status < 200) {
        fast_http_head_init(&c->head, true);
    } else {
        c->got_head = true;
        fast_http_body_response(&c->framing, &c->head, false);
    }
    fast_http_stream_consume(&c->s, 0, len);
    return true;
}

/* Takes what is there of the body. */
static void step_body(struct conn *c)
{
    size_t at = 0, used = 0, len = 0;
    const char *data = NULL;
    while (!c->framing.done && at < c->s.in_len) {
        if (fast_http_body_next(&c->framing, c->s.in + at, c->s.in_len - at, &used, &data, &len)) {
            conn_fail(c, &c->target->result->lost);
            return;
        }
        at += used;
        if (len)
            keep_body(c, data, len);
    }
    fast_http_stream_consume(&c->s, 0, at);
    if (c->framing.framing == FAST_HTTP_BODY_CLOSE && c->s.eof && !c->s.in_len)
        c->framing.done = true;
    if (c->framing.done)
        conn_answered(c);
    else if (c->s.eof || c->s.broken)
        conn_fail(c, &c->target->result->lost);
}

static void step(struct conn *c)
{
    if (!c->busy) {
        /* An idle connection has nothing to say: it is at its end. */
        if (c->s.eof || c->s.broken || c->s.in_len)
            conn_close(c);
        return;
    }
    while (!c->got_head && c->s.in_len)
        if (!step_head(c))
            break;
    if (!c->busy)
        return;
    if (c->got_head)
        step_body(c);
    else if (c->s.eof || c->s.broken)
        conn_fail(c, &c->target->result->lost);
}

static void on_conn(void *arg, int events)
{
    struct conn *c = arg;
    if (c->connecting) {
        int e = 0;
        socklen_t len = sizeof(e);
        if (!(events & (FAST_LOOP_OUT | FAST_LOOP_HUP)))
            return;
        c->connecting = false;
        if (getsockopt(c->s.fd, SOL_SOCKET, SO_ERROR, &e, &len) || e) {
            conn_fail(c, &c->target->result->lost);
            return;
        }
    }
    if (events & FAST_LOOP_OUT)
        fast_http_stream_flush(&c->s);
    if (events & (FAST_LOOP_IN | FAST_LOOP_HUP)) {
        fast_http_stream_fill(&c->s, FAST_HTTP_HEAD_MAX);
        step(c);
    }
    if (c->s.fd >= 0 && !fast_http_stream_arm(&c->s))
        conn_fail(c, &c->target->result->lost);
}

static bool conn_open(struct conn *c)
{
    struct target *t = c->target;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    if (connect(fd, (const struct sockaddr *)&t->address, sizeof(t->address)) &&
        errno != EINPROGRESS) {
        close(fd);
        return false;
    }
    fast_http_stream_init(&c->s, t->load->loop, fd, on_conn, c);
    c->connecting = true;
    c->s.watch = fast_watch_new(t->load->loop, fd, FAST_LOOP_IN | FAST_LOOP_OUT, on_conn, c);
    if (c->s.watch)
        return true;
    conn_close(c);
    return false;
}

/* ---- requests ---- */

static void conn_send(struct conn *c, size_t request, fast_ns due_at)
{
    const struct fast_load_spec *spec = c->target->spec;
    const char *body = spec->body_count ? spec->bodies[request % spec->body_count] : NULL;
    size_t len = body ? spec->body_lens[request % spec->body_count] : 0;
    char head[HEAD_MAX];
    int n = snprintf(head, sizeof(head),
                     "%s %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: fast\r\n"
                     "Content-Length: %zu\r\n\r\n",
                     spec->method ? spec->method : "POST", spec->path, spec->host, spec->port, len);
    c->request = request;
    c->due = due_at;
    c->busy = true;
    c->got_head = false;
    c->body_len = 0;
    fast_http_head_init(&c->head, true);
    fast_timer_set(c->timeout, deadline(c->target, due_at));
    fast_http_stream_put(&c->s, head, (size_t)n);
    fast_http_stream_put(&c->s, body, len);
    if (!c->connecting) {
        fast_http_stream_flush(&c->s);
        if (!fast_http_stream_arm(&c->s))
            c->s.broken = true; /* the time-out ends it */
    }
}

/* An idle connection, or one without a socket; NULL: all are busy. */
static struct conn *conn_get(struct target *t)
{
    struct conn *c = t->idle;
    if (c) {
        t->idle = c->next;
        return c;
    }
    for (int i = 0; i < t->spec->connections_max; i++)
        if (t->conns[i].s.fd < 0)
            return &t->conns[i];
    return NULL;
}

/* Sends on the connection, or on one that is opened. */
static void send_on(struct target *t, struct conn *c, fast_ns due_at)
{
    size_t request = t->next++;
    if (c->s.fd >= 0 || conn_open(c)) {
        conn_send(c, request, due_at);
        return;
    }
    t->pause = fast_clock_now() + PAUSE;
    account(t, due_at, &t->result->lost, false);
}

/* Every connection has a request under way, until the time is over. */
static void pump_closed(struct target *t)
{
    fast_ns end = t->load->start + t->spec->closed_until, now;
    struct conn *c;
    while ((now = fast_clock_now()) < end && now >= t->pause && (c = conn_get(t)) != NULL)
        send_on(t, c, now);
    fast_timer_set(t->timer, now >= end ? FAST_NEVER : now < t->pause && t->pause < end ? t->pause : end);
    if (now >= end && t->done == t->next && !t->ended) {
        t->ended = true;
        target_ended(t);
    }
}

/* Sends what is due while there are connections, and sets the timer for what is due next. */
static void pump(struct target *t)
{
    if (t->spec->closed_until) {
        pump_closed(t);
        return;
    }
    while (t->next < t->spec->due_count) {
        fast_ns now = fast_clock_now();
        fast_ns due_at = due(t, t->next);
        if (due_at > now) {
            fast_timer_set(t->timer, due_at);
            return;
        }
        if (deadline(t, due_at) <= now) {
            t->next++;
            account(t, due_at, &t->result->timeouts, false);
            continue;
        }
        struct conn *c = conn_get(t);
        if (!c) {
            /* Whoever waits at the head gives up in time; a connection that gets free comes here. */
            fast_timer_set(t->timer, deadline(t, due_at));
            return;
        }
        send_on(t, c, due_at);
    }
    fast_timer_set(t->timer, FAST_NEVER);
}

static void on_timer(void *arg)
{
    pump(arg);
}

static void on_progress(void *arg)
{
    struct load *load = arg;
    fast_ns total = 0;
    uint64_t done = 0, all = 0;
    for (size_t i = 0; i < load->count; i++) {
        const struct fast_load_spec *spec = load->targets[i].spec;
        fast_ns last = spec->due_count ? spec->due[spec->due_count - 1] : spec->closed_until;
        total = last > total ? last : total;
        done += load->targets[i].done;
        all += spec->closed_until ? load->targets[i].done : spec->due_count;
    }
    fast_ns elapsed = fast_clock_now() - load->start;
    if (!load->progress(load->progress_arg, elapsed < total ? elapsed : total, total, done, all)) {
        fast_loop_stop(load->loop);
        return;
    }
    fast_timer_set(load->progress_timer, fast_loop_now(load->loop) + PROGRESS_EVERY);
}

/* ---- begin and end ---- */

static int check_spec(const struct fast_load_spec *spec, struct fast_err *err)
{
    struct in_addr address;
    if (inet_pton(AF_INET, spec->host, &address) != 1)
        return fast_err_set(err, FAST_EINVAL, "host: \"%.60s\" is not a numeric IPv4 address",
                            spec->host);
    if (spec->port < 1 || spec->port > 65535)
        return fast_err_set(err, FAST_EINVAL, "port: %d is not from 1 to 65535", spec->port);
    if (spec->path[0] != '/' || strlen(spec->path) > HEAD_MAX / 2 ||
        spec->path[strcspn(spec->path, " \t\r\n")])
        return fast_err_set(err, FAST_EINVAL,
                            "path: it does not begin with \"/\", has blanks or is too long");
    if (spec->connections_max < 1 || spec->timeout < 1 || spec->slo < 0 || spec->closed_until < 0)
        return fast_err_set(err, FAST_EINVAL,
                            "connections and time-out have to be at least 1, SLO and length not negative");
    if (spec->closed_until && (spec->due_count || spec->answered))
        return fast_err_set(err, FAST_EINVAL, "a closed loop has no schedule");
    for (size_t i = 1; i < spec->due_count; i++)
        if (spec->due[i] < spec->due[i - 1])
            return fast_err_set(err, FAST_EINVAL, "schedule: request %zu is due before the last one",
                                i + 1);
    return 0;
}

static int target_init(struct load *load, struct target *t, const struct fast_load_spec *spec,
                       struct fast_load_result *result, struct fast_err *err)
{
    size_t n = (size_t)spec->connections_max;
    t->load = load;
    t->spec = spec;
    t->result = result;
    t->address = (struct sockaddr_in){.sin_family = AF_INET,
                                      .sin_port = htons((uint16_t)spec->port)};
    inet_pton(AF_INET, spec->host, &t->address.sin_addr);
    t->timer = fast_timer_new(load->loop, on_timer, t);
    t->conns = calloc(n, sizeof(*t->conns));
    bool ok = t->timer && t->conns;
    for (size_t i = 0; ok && i < n; i++) {
        struct conn *c = &t->conns[i];
        c->target = t;
        c->s.fd = -1;
        c->timeout = fast_timer_new(load->loop, on_timeout, c);
        ok = c->timeout;
    }
    return ok ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for %zu connections", n);
}

static void target_fini(struct target *t)
{
    for (int i = 0; t->conns && i < t->spec->connections_max; i++) {
        struct conn *c = &t->conns[i];
        if (!c->target)
            break; /* it and what follows was not begun */
        fast_http_stream_fini(&c->s);
        fast_timer_free(c->timeout);
        free(c->body);
    }
    fast_timer_free(t->timer);
    free(t->conns);
}

static int play(struct load *load, struct fast_err *err)
{
    for (size_t i = 0; i < load->count; i++)
        load->running += load->targets[i].spec->due_count || load->targets[i].spec->closed_until;
    if (!load->running)
        return 0;
    if (load->progress) {
        load->progress_timer = fast_timer_new(load->loop, on_progress, load);
        if (!load->progress_timer)
            return fast_err_set(err, FAST_ENOMEM, "no memory for a timer");
        fast_timer_set(load->progress_timer, 0);
    }
    load->start = fast_clock_now();
    for (size_t i = 0; i < load->count; i++)
        fast_timer_set(load->targets[i].timer, load->start);
    int rc = fast_loop_run(load->loop, err);
    if (!rc && load->progress)
        on_progress(load);
    return rc;
}

int fast_load_run(const struct fast_load_spec *specs, size_t count, fast_load_progress *progress,
                  void *progress_arg, struct fast_load_result *ret, struct fast_err *err)
{
    struct load load = {.count = count, .progress = progress, .progress_arg = progress_arg};
    int rc = 0;
    memset(ret, 0, sizeof(*ret) * count);
    for (size_t i = 0; i < count && !rc; i++)
        if ((rc = check_spec(&specs[i], err)) != 0)
            return fast_err_wrap(err, "target %zu", i + 1);
    load.targets = calloc(count ? count : 1, sizeof(*load.targets));
    if (!load.targets)
        return fast_err_set(err, FAST_ENOMEM, "no memory for %zu targets", count);
    rc = fast_loop_new(&load.loop, err);
    size_t begun = 0;
    for (; begun < count && !rc; begun++)
        rc = target_init(&load, &load.targets[begun], &specs[begun], &ret[begun], err);
    if (!rc)
        rc = play(&load, err);
    for (size_t i = 0; i < begun; i++)
        target_fini(&load.targets[i]);
    fast_timer_free(load.progress_timer);
    fast_loop_free(load.loop);
    free(load.targets);
    return rc;
}
