/* Decides how one request becomes one process: its environment, its standard input and output, and
 * what its end means. It assumes that the body is small enough to be held in memory. */

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/watchdog.h"

#define OUTPUT_MAX ((size_t)256 << 20)
#define BLOCK 65536

extern char **environ;

struct run {
    struct watchdog *wd;
    struct fast_http_req *req; /* NULL: the caller has gone */
    pid_t pid;
    int in, out, pidfd; /* -1: closed */
    struct fast_watch *in_watch, *out_watch, *end_watch;
    struct fast_timer *timer;
    char *body, *answer, *type;
    size_t len, sent, answer_len, answer_cap, wrote;
    fast_ns began;
    int status;
    bool ended, late, too_long, full;
};

/* ---- environment ---- */

struct env {
    char **v;
    size_t n, cap;
};

static void add(struct env *e, char *text)
{
    if (e->n + 1 >= e->cap) {
        size_t cap = e->cap ? 2 * e->cap : 64;
        char **v = realloc(e->v, cap * sizeof(char *));
        if (!v) {
            free(text);
            return;
        }
        e->v = v;
        e->cap = cap;
    }
    if (!e->v)
        return;
    e->v[e->n++] = text;
    e->v[e->n] = NULL;
}

static void add_text(struct env *e, const char *name, const char *value, size_t len)
{
    char *text = NULL;
    if (asprintf(&text, "%s=%.*s", name, (int)len, value) >= 0)
        add(e, text);
}

/* What a caller's header must not be taken for: '_' stands for '-', and some names are the watchdog's own. */
static bool is_taken(const char *name, size_t n)
{
    return memchr(name, '_', n) || fast_http_is(name, n, "method") || fast_http_is(name, n, "path") ||
           fast_http_is(name, n, "query") || fast_http_is(name, n, "contentlength") ||
           fast_http_is(name, n, "transfer-encoding");
}

/* "x-call-id" -> "Http_X_Call_Id", as Go writes names of headers. */
static void add_header(struct env *e, const char *name, size_t n, const char *value, size_t len)
{
    char key[256] = "Http_";
    size_t at = 5;
    bool upper = true;
    if (n > sizeof(key) - 6 || is_taken(name, n))
        return;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        key[at++] = c == '-' ? '_' : (char)(upper ? toupper((unsigned char)c)
                                                  : tolower((unsigned char)c));
        upper = c == '-';
    }
    key[at] = 0;
    add_text(e, key, value, len);
}

static void add_cgi(struct env *e, struct fast_http_req *req)
{
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *text = fast_http_req_text(req), *target = text + h->target;
    for (uint32_t i = 0; i < h->fields; i++)
        add_header(e, text + h->field[i].name, h->field[i].name_len, text + h->field[i].value,
                   h->field[i].value_len);
    const char *query = memchr(target, '?', h->target_len);
    size_t path = query ? (size_t)(query - target) : h->target_len;
    add_text(e, "Http_Method", text + h->method, h->method_len);
    add_text(e, "Http_Path", target, path);
    if (query && h->target_len > path + 1)
        add_text(e, "Http_Query", query + 1, h->target_len - path - 1);
    if (h->chunked)
        add_text(e, "Http_Transfer_Encoding", "chunked", 7);
    if (h->length >= 0) {
        char n[24];
        add_text(e, "Http_ContentLength", n, (size_t)snprintf(n, sizeof(n), "%lld",
                                                             (long long)h->length));
    }
}

static void fill_env(const struct watchdog *wd, struct fast_http_req *req, struct env *e)
{
    for (char **v = environ; *v; v++) {
        char *copy = strdup(*v);
        if (copy)
            add(e, copy);
    }
    if (wd->conf->cgi_headers)
        add_cgi(e, req);
}

static void free_env(struct env *e)
{
    for (size_t i = 0; e->v && i < e->n; i++)
        free(e->v[i]);
    free(e->v);
}

/* ---- the end ---- */

static void close_pipe(int *fd, struct fast_watch **watch)
{
    fast_watch_free(*watch);
    *watch = NULL;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void free_run(struct run *r)
{
    struct watchdog *wd = r->wd;
    close_pipe(&r->in, &r->in_watch);
    close_pipe(&r->out, &r->out_watch);
    close_pipe(&r->pidfd, &r->end_watch);
    fast_timer_free(r->timer);
    free(r->body);
    free(r->answer);
    free(r->type);
    free(r);
    wd_leave(wd);
}

static void fields_of(const struct run *r, char *buf, size_t cap)
{
    snprintf(buf, cap, "X-Duration-Seconds: %f\r\n",
             (double)(fast_clock_now() - r->began) / 1e9);
}

static const char *why_failed(const struct run *r)
{
    if (r->late)
        return "the function took longer than exec_timeout or X-Timeout allow";
    if (r->too_long)
        return "the function wrote more than fits into memory";
    return r->status ? "the function failed" : NULL;
}

/* The process has ended and all it wrote has been read. */
static void finish(struct run *r)
{
    char fields[128];
    struct fast_http_req *req = r->req;
    const char *why = why_failed(r);
    if (why)
        wd_log("%s (%s %d)", why, WIFSIGNALED(r->status) ? "signal" : "status",
               WIFSIGNALED(r->status) ? WTERMSIG(r->status) : WEXITSTATUS(r->status));
    else
        wd_log("Wrote %zu Bytes - Duration: %fs", r->wrote,
               (double)(fast_clock_now() - r->began) / 1e9);
    r->req = NULL;
    if (!req) {
        free_run(r);
        return;
    }
    fields_of(r, fields, sizeof(fields));
    /* The last that is heard of the request is on_req_done, which frees. */
    if (fast_http_req_started(req) && why)
        fast_http_req_abort(req);
    else if (fast_http_req_started(req))
        fast_http_req_end(req);
    else if (why)
        wd_error(req, r->late ? 504 : 500, r->answer_len && !r->late ? r->answer : why);
    else
        fast_http_req_reply(req, 200, fields, r->type, r->answer ? r->answer : "", r->answer_len);
}

static void on_req_done(void *user, bool complete)
{
    struct run *r = user;
    (void)complete;
    bool over = !r->req;
    r->req = NULL;
    if (over) {
        free_run(r);
        return;
    }
    kill(-r->pid, SIGKILL); /* nobody wants the answer */
}

static void maybe_finish(struct run *r)
{
    if (r->ended && r->out < 0)
        finish(r);
}

/* ---- pipes ---- */

static bool keep(struct run *r, const char *p, size_t n)
{
    if (r->answer_len + n + 1 > r->answer_cap) {
        size_t cap = 2 * (r->answer_len + n + 1);
        char *more = cap > OUTPUT_MAX ? NULL : realloc(r->answer, cap);
        if (!more)
            return false;
        r->answer = more;
        r->answer_cap = cap;
    }
    memcpy(r->answer + r->answer_len, p, n);
    r->answer_len += n;
    r->answer[r->answer_len] = 0;
    return true;
}

static void stream(struct run *r, const char *p, size_t n)
{
    char fields[256];
    if (!r->req)
        return;
    if (!fast_http_req_started(r->req)) {
        int len = snprintf(fields, sizeof(fields), "Content-Type: %.200s\r\n",
                           r->type ? r->type : "application/octet-stream");
        fast_http_req_start(r->req, 200, fields, (size_t)len, -1);
    }
    if (!fast_http_req_write(r->req, p, n)) {
        r->full = true;
        fast_watch_set(r->out_watch, 0);
    }
    fast_http_req_flush(r->req);
}

static void on_output(void *arg, int events)
{
    struct run *r = arg;
    char block[BLOCK];
    (void)events;
    ssize_t n = read(r->out, block, sizeof(block));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        r->wrote += (size_t)n;
        if (r->wd->conf->mode == WD_STREAMING)
            stream(r, block, (size_t)n);
        else if (!keep(r, block, (size_t)n)) {
            r->too_long = true;
            kill(-r->pid, SIGKILL);
        }
        return;
    }
    close_pipe(&r->out, &r->out_watch);
    maybe_finish(r);
}

static void on_req_drain(void *user)
{
    struct run *r = user;
    r->full = false;
    if (r->out_watch)
        fast_watch_set(r->out_watch, FAST_LOOP_IN);
}

static void on_input(void *arg, int events)
{
    struct run *r = arg;
    (void)events;
    ssize_t n = r->sent < r->len ? write(r->in, r->body + r->sent, r->len - r->sent) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        r->sent += (size_t)n;
    if (n < 0 || r->sent == r->len) /* a process need not read its input */
        close_pipe(&r->in, &r->in_watch);
}

static void on_end(void *arg, int events)
{
    struct run *r = arg;
    (void)events;
    if (waitpid(r->pid, &r->status, WNOHANG) != r->pid)
        return;
    r->ended = true;
    close_pipe(&r->pidfd, &r->end_watch);
    close_pipe(&r->in, &r->in_watch);
    fast_timer_set(r->timer, FAST_NEVER);
    kill(-r->pid, SIGKILL); /* what it left behind would keep the pipe open */
    maybe_finish(r);
}

static void on_timeout(void *arg)
{
    struct run *r = arg;
    r->late = true;
    kill(-r->pid, SIGKILL);
}

/* ---- the start ---- */

static int spawn(struct run *r, struct fast_http_req *req, int in, int out)
{
    const struct wd_conf *c = r->wd->conf;
    posix_spawnattr_t attr;
    posix_spawn_file_actions_t act;
    sigset_t none, all;
    struct env e = {0};
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attr);
    posix_spawn_file_actions_init(&act);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                        POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawn_file_actions_adddup2(&act, in, STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&act, out, STDOUT_FILENO);
    if (c->combine_output && c->mode == WD_CLASSIC)
        posix_spawn_file_actions_adddup2(&act, out, STDERR_FILENO);
    fill_env(r->wd, req, &e);
    int rc = posix_spawnp(&r->pid, c->argv[0], &act, &attr, c->argv, e.v ? e.v : environ);
    posix_spawn_file_actions_destroy(&act);
    posix_spawnattr_destroy(&attr);
    free_env(&e);
    return rc;
}

static void take_type(struct run *r, struct fast_http_req *req)
{
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f =
        fast_http_head_find(fast_http_req_head(req), text, "content-type");
    if (r->wd->conf->content_type)
        r->type = strdup(r->wd->conf->content_type);
    else if (f)
        r->type = strndup(text + f->value, f->value_len);
}

static bool watch_all(struct run *r, const struct fast_http_req *req)
{
    struct fast_loop *loop = r->wd->loop;
    fcntl(r->in, F_SETFL, O_NONBLOCK);
    fcntl(r->out, F_SETFL, O_NONBLOCK);
    r->pidfd = (int)syscall(SYS_pidfd_open, r->pid, 0);
    r->in_watch = fast_watch_new(loop, r->in, FAST_LOOP_OUT, on_input, r);
    r->out_watch = fast_watch_new(loop, r->out, FAST_LOOP_IN, on_output, r);
    r->end_watch = r->pidfd < 0 ? NULL : fast_watch_new(loop, r->pidfd, FAST_LOOP_IN, on_end, r);
    r->timer = fast_timer_new(loop, on_timeout, r);
    if (!r->in_watch || !r->out_watch || !r->end_watch || !r->timer)
        return false;
    fast_timer_set(r->timer, fast_loop_now(loop) + wd_timeout(r->wd, req));
    return true;
}

/* NULL: it could not be started; |ret_why| says why. */
static struct run *start(struct watchdog *wd, struct fast_http_req *req, const char *body,
                         size_t len, const char **ret_why)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    struct run *r = calloc(1, sizeof(*r));
    *ret_why = "there is no room for another process";
    if (!r)
        return NULL;
    *r = (struct run){.wd = wd, .in = -1, .out = -1, .pidfd = -1, .len = len,
                      .began = fast_clock_now()};
    wd->inflight++;
    r->body = malloc(len + 1);
    int rc = !r->body || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) ? ENOMEM : 0;
    if (!rc) {
        memcpy(r->body, body, len);
        take_type(r, req);
        rc = spawn(r, req, in[0], out[1]);
        if (rc)
            *ret_why = strerror(rc);
    }
    if (in[0] >= 0)
        close(in[0]);
    if (out[1] >= 0)
        close(out[1]);
    r->in = in[1];
    r->out = out[0];
    if (!rc && watch_all(r, req))
        return r;
    if (!rc) {
        kill(-r->pid, SIGKILL);
        waitpid(r->pid, NULL, 0);
    }
    free_run(r);
    return NULL;
}

void wd_fork_request(struct watchdog *wd, struct fast_http_req *req, char *body, size_t len)
{
    static const struct fast_http_req_ops ops = {.drain = on_req_drain, .done = on_req_done};
    const char *why;
    wd_log("Forking fprocess.");
    struct run *r = start(wd, req, body, len, &why);
    if (!r) {
        wd_log("cannot start \"%s\": %s", wd->conf->argv[0], why);
        wd_error(req, 500, why);
        return;
    }
    r->req = req;
    fast_http_req_accept(req, &ops, r);
}
