/* fast watchdog: decides how requests reach a program and when this process ends. It assumes that
 * one replica is one watchdog, started by fast-node with PORT in its environment. */

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "base/words.h"
#include "cli/cli.h"
#include "cli/watchdog.h"

#define BODY_MAX ((size_t)256 << 20)
#define INTERNAL "X-OpenFaaS-Internal: fast-watchdog\r\n"

extern char **environ;

/* ---- what the parts share ---- */

void wd_log(const char *fmt, ...)
{
    char text[1024];
    struct tm tm;
    va_list ap;
    time_t now = time(NULL);
    size_t n = strftime(text, sizeof(text), "%Y/%m/%d %H:%M:%S ", localtime_r(&now, &tm));
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof(text) - n, fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s\n", text);
}

void wd_error(struct fast_http_req *req, int status, const char *text)
{
    char line[512];
    int n = snprintf(line, sizeof(line), "%s\n", text);
    fast_http_req_reply(req, status, INTERNAL, "text/plain; charset=utf-8", line,
                        n < (int)sizeof(line) ? (size_t)n : sizeof(line) - 1);
}

void wd_leave(struct watchdog *wd)
{
    wd->inflight--;
    if (wd->stopping && !wd->inflight)
        fast_loop_stop(wd->loop);
}

fast_ns wd_timeout(const struct watchdog *wd, const struct fast_http_req *req)
{
    const char *text = fast_http_req_text(req);
    const struct fast_http_field *f = fast_http_head_find(fast_http_req_head(req), text, "x-timeout");
    fast_ns most = wd->conf->exec_timeout, asked = most;
    char value[32];
    if (!f || f->value_len >= sizeof(value))
        return most;
    snprintf(value, sizeof(value), "%.*s", (int)f->value_len, text + f->value);
    return fast_parse_duration(value, "X-Timeout", FAST_MS(1), most, &asked, NULL) ? most : asked;
}

/* ---- requests ---- */

static void on_body(void *arg, struct fast_http_req *req, char *body, size_t len)
{
    wd_fork_request(arg, req, body, len);
}

static void redirect(const struct watchdog *wd, struct fast_http_req *req)
{
    char fields[2048];
    snprintf(fields, sizeof(fields), "Location: %s\r\n", wd->conf->destination);
    fast_http_req_reply(req, 302, fields, NULL, "", 0);
}

static void on_request(void *arg, struct fast_http_req *req)
{
    struct watchdog *wd = arg;
    const struct fast_http_head *h = fast_http_req_head(req);
    const char *path = fast_http_req_text(req) + h->target;
    size_t len = 0;
    while (len < h->target_len && path[len] != '?')
        len++;
    bool full = wd->conf->max_inflight && wd->inflight >= wd->conf->max_inflight;
    if (fast_http_is_exact(path, len, "/_/health"))
        fast_http_req_text_reply(req, wd->stopping ? 503 : 200, wd->stopping ? "stopping" : "OK");
    else if (fast_http_is_exact(path, len, "/_/ready"))
        fast_http_req_text_reply(req, wd->stopping ? 503 : full ? 429 : 200,
                                 wd->stopping ? "stopping" : full ? "busy" : "OK");
    else if (full)
        wd_error(req, 429, "as many requests as max_inflight allows are under way");
    else if (wd->conf->mode == WD_REDIRECT)
        redirect(wd, req);
    else if (wd->conf->mode == WD_HTTP)
        wd_http_request(wd, req);
    else
        fast_http_req_collect(req, BODY_MAX, on_body, wd);
}

/* ---- life ---- */

static void on_stop_timeout(void *arg)
{
    struct watchdog *wd = arg;
    fast_loop_stop(wd->loop);
}

static void on_signal(void *arg, int signal)
{
    struct watchdog *wd = arg;
    if (wd->stopping) {
        fast_loop_stop(wd->loop);
        return;
    }
    wd->stopping = true;
    if (wd->child > 0)
        kill(wd->child, signal);
    fast_http_server_drain(wd->server);
    fast_timer_set(wd->stop, fast_loop_now(wd->loop) + wd->conf->exec_timeout);
    if (!wd->inflight)
        fast_loop_stop(wd->loop);
}

/* A function whose process is gone answers nothing any more: the replica is started anew. */
static void on_child_end(void *arg, int events)
{
    struct watchdog *wd = arg;
    int status = 0;
    (void)events;
    if (waitpid(wd->child, &status, WNOHANG) != wd->child)
        return;
    wd_log("the process of the function ended: %s %d", WIFSIGNALED(status) ? "signal" : "status",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    wd->child = 0;
    fast_loop_stop(wd->loop);
}

static int start_child(struct watchdog *wd, struct fast_err *err)
{
    posix_spawnattr_t attr;
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attr, &none);
    int r = posix_spawnp(&wd->child, wd->conf->argv[0], NULL, &attr, wd->conf->argv, environ);
    posix_spawnattr_destroy(&attr);
    if (r) {
        wd->child = 0;
        return fast_err_set(err, FAST_ENOENT, "cannot execute \"%s\": %s", wd->conf->argv[0],
                            strerror(r));
    }
    wd->child_fd = (int)syscall(SYS_pidfd_open, wd->child, 0);
    if (wd->child_fd < 0 || !fast_watch_new(wd->loop, wd->child_fd, FAST_LOOP_IN, on_child_end, wd))
        return fast_err_set(err, FAST_EIO, "cannot watch process %d", (int)wd->child);
    return fast_http_pool_new(wd->loop, wd->conf->upstream_port, NULL, &wd->pool, err);
}

static int open_all(struct watchdog *wd, struct fast_err *err)
{
    char address[64];
    snprintf(address, sizeof(address), "127.0.0.1:%d", wd->conf->port);
    struct fast_http_server_conf conf = {.address = address, .max_conns = 4096,
                                         .handler = on_request, .arg = wd};
    int r = fast_loop_new(&wd->loop, err);
    r = r ? r : fast_loop_signal(wd->loop, SIGTERM, on_signal, wd, err);
    r = r ? r : fast_loop_signal(wd->loop, SIGINT, on_signal, wd, err);
    if (!r && !(wd->stop = fast_timer_new(wd->loop, on_stop_timeout, wd)))
        r = fast_err_set(err, FAST_ENOMEM, "no memory for a timer");
    if (!r && wd->conf->mode == WD_HTTP)
        r = start_child(wd, err);
    return r ? r : fast_http_server_new(wd->loop, &conf, &wd->server, err);
}

static int serve(const struct wd_conf *conf, struct fast_err *err)
{
    struct watchdog wd = {.conf = conf, .child_fd = -1};
    int r = open_all(&wd, err);
    if (!r) {
        wd_log("listening on port %d", fast_http_server_port(wd.server));
        r = fast_loop_run(wd.loop, err);
    }
    if (wd.child > 0) {
        kill(wd.child, SIGTERM);
        waitpid(wd.child, NULL, 0);
    }
    bool died = conf->mode == WD_HTTP && !wd.stopping;
    fast_http_server_free(wd.server);
    fast_http_pool_free(wd.pool);
    fast_timer_free(wd.stop);
    fast_loop_free(wd.loop);
    if (wd.child_fd >= 0)
        close(wd.child_fd);
    return r ? r : died ? fast_err_set(err, FAST_EPEER, "the function has ended") : 0;
}

/* ---- settings ---- */

static const char *env(const char *name, const char *other)
{
    const char *v = getenv(name);
    if ((!v || !*v) && other)
        v = getenv(other);
    return v && *v ? v : NULL;
}

/* A bare number is seconds, as the watchdogs of OpenFaaS read it. */
static int span(const char *name, fast_ns fallback, fast_ns *ret, struct fast_err *err)
{
    const char *text = env(name, NULL);
    int64_t n = 0;
    *ret = fallback;
    if (!text)
        return 0;
    if (text[strspn(text, "0123456789")])
        return fast_parse_duration(text, name, FAST_MS(1), FAST_S(86400), ret, err);
    int r = fast_parse_int(text, name, 1, 86400, &n, err);
    if (!r)
        *ret = FAST_S(n);
    return r;
}

static int flag(const char *name, bool fallback, bool *ret, struct fast_err *err)
{
    const char *text = env(name, NULL);
    *ret = fallback;
    return text ? fast_parse_bool(text, name, ret, err) : 0;
}

static int number(const char *text, const char *what, int max, int *ret, struct fast_err *err)
{
    int64_t n = 0;
    int r = text ? fast_parse_int(text, what, 0, max, &n, err) : 0;
    if (!r && text)
        *ret = (int)n;
    return r;
}

static int read_mode(const char *text, enum wd_mode *ret, struct fast_err *err)
{
    static const struct {
        const char *name;
        enum wd_mode mode;
    } modes[] = {{"classic", WD_CLASSIC}, {"serializing", WD_CLASSIC}, {"streaming", WD_STREAMING},
                 {"http", WD_HTTP},       {"redirect", WD_REDIRECT}};
    for (size_t i = 0; i < FAST_COUNT_OF(modes); i++)
        if (!text || !strcmp(text, modes[i].name)) {
            *ret = modes[i].mode;
            return 0;
        }
    return fast_err_set(err, FAST_EINVAL,
                        "mode: \"%s\" is not known (classic, serializing, streaming, http, "
                        "redirect)", text);
}

static int read_upstream(struct wd_conf *c, struct fast_err *err)
{
    const char *url = env("http_upstream_url", "upstream_url");
    c->upstream_port = 5000;
    if (!url)
        return 0;
    const char *host = strstr(url, "://"), *colon = strrchr(url, ':');
    char digits[8];
    if (!host || !colon || colon == host)
        return fast_err_set(err, FAST_EINVAL, "http_upstream_url: \"%s\" has no port", url);
    snprintf(digits, sizeof(digits), "%.*s", (int)strspn(colon + 1, "0123456789"), colon + 1);
    return number(digits, "port of http_upstream_url", 65535, &c->upstream_port, err);
}

static int read_conf(struct wd_conf *c, const char *mode, struct fast_err *err)
{
    int r = read_mode(mode ? mode : env("mode", NULL), &c->mode, err);
    c->content_type = env("content_type", NULL);
    c->destination = env("destination", NULL);
    c->port = 8080;
    r = r ? r : number(env("PORT", "port"), "port", 65535, &c->port, err);
    r = r ? r : number(env("max_inflight", NULL), "max_inflight", 1000000, &c->max_inflight, err);
    r = r ? r : span("exec_timeout", FAST_S(3600), &c->exec_timeout, err);
    r = r ? r : flag("combine_output", true, &c->combine_output, err);
    r = r ? r : flag("cgi_headers", true, &c->cgi_headers, err);
    r = r ? r : flag("prefix_logs", true, &c->prefix_logs, err);
    if (!r && c->mode == WD_HTTP)
        r = read_upstream(c, err);
    if (!r && c->mode == WD_REDIRECT && !c->destination)
        r = fast_err_set(err, FAST_EINVAL, "destination: the environment does not say where to");
    return r;
}

/* The secrets of a function lie under a path of its own where the machine allows that; elsewhere
 * the words of its command line are led to where they are. */
static char *place_secret(char *word)
{
    static const char there[] = "/var/openfaas/secrets/";
    const char *dir = getenv("SECRETS_PATH");
    char *path = NULL;
    if (!dir || strncmp(word, there, sizeof(there) - 1) || !access(word, F_OK))
        return word;
    return asprintf(&path, "%s/%s", dir, word + sizeof(there) - 1) < 0 ? word : path;
}

static int read_words(struct wd_conf *c, int argc, char **argv, char **ret_text,
                      struct fast_err *err)
{
    const char *line = env("fprocess", "function_process");
    size_t len = 0, n = 0;
    if (argc || c->mode == WD_REDIRECT) {
        c->argv = argv;
        return 0;
    }
    if (!line)
        return fast_err_set(err, FAST_EINVAL, "give the command behind --, or in the environment as fprocess");
    int r = fast_words_split(line, "fprocess", ret_text, &len, err);
    if (r)
        return r;
    c->argv = calloc(len + 1, sizeof(char *));
    if (!c->argv || !len)
        return fast_err_set(err, FAST_EINVAL, "fprocess: it names no program");
    for (char *p = *ret_text; p < *ret_text + len; p += strlen(p) + 1)
        c->argv[n++] = place_secret(p);
    return 0;
}

struct watchdog_opts {
    const char *mode;
};

static const struct cli_opt opts[] = {
    {"mode", 'm', CLI_ONE, offsetof(struct watchdog_opts, mode), "MODE",
     "classic (default), streaming, http or redirect", "classic serializing streaming http redirect"},
};

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct watchdog_opts *o = arg;
    struct wd_conf conf = {0};
    struct fast_err err;
    char *text = NULL;
    (void)cli;
    int r = read_conf(&conf, o->mode, &err);
    r = r ? r : read_words(&conf, argc, argv, &text, &err);
    if (r)
        return cli_fail(CLI_USAGE, "watchdog: %s", err.msg);
    r = serve(&conf, &err);
    if (conf.argv != argv)
        free(conf.argv);
    free(text);
    return r ? cli_fail(CLI_FAILED, "watchdog: %s", err.msg) : CLI_OK;
}

const struct cli_cmd cmd_watchdog = {
    .name = "watchdog", .args = "[-- COMMAND...]", .summary = "serve a program over HTTP",
    .max_args = -1,
    .detail =
        "Listens on $PORT and gives each request to COMMAND, or to $fprocess: the body on standard\n"
        "input, headers as Http_NAME, Http_Method, Http_Path and Http_Query in the environment.\n"
        "  classic    a process for each request; what it writes is the answer\n"
        "  streaming  the same, the answer begins with its first bytes\n"
        "  http       one process with a server of its own at $http_upstream_url\n"
        "  redirect   no process: 302 to $destination\n"
        "Settings have the names that the OpenFaaS watchdogs use: exec_timeout, max_inflight,\n"
        "content_type, combine_output, cgi_headers, mode. Example:\n"
        "  PORT=8081 fast watchdog -- tr a-z A-Z",
    CLI_CMD_OPTS(opts, struct watchdog_opts), .run = run};
