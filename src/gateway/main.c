/* fast-gateway: settings, start, stop. */

#include "gateway/gateway.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/parse.h"
#include "gateway/async.h"
#include "gateway/sink.h"
#include "gateway/trace.h"
#include "io/file.h"
#include "io/http2.h"
#include "io/http_stream.h"
#include "io/tls.h"

#define PATHS_MAX 32
#define STOP_MAX FAST_S(10) /* for events and tunnels, which may have no end */
#define DESCRIPTORS_KEPT 64 /* for doors, databases, logs and callbacks */

static const char help[] =
    "Usage: fast-gateway [options]\n"
    "\n"
    "The front door: an OpenFaaS-compatible API and the calls to functions. It decides how many\n"
    "replicas of a function run and on which GPU; fast-node starts them and shares the GPUs.\n"
    "\n"
    "  --listen ADDRESS      API and calls (default 127.0.0.1:8080; port 0: any free one)\n"
    "  --metrics ADDRESS     Prometheus metrics (default 127.0.0.1:8082; \"\": none)\n"
    "  --state-dir DIR       where control.sock of fast-node is, and gateway.db\n"
    "                        (default: root /var/lib/fast-gshare, else ~/.local/state/fast-gshare)\n"
    "  --images DIR          executables that image names stand for; may be given several times\n"
    "  --profiles DIR        NAME.csv for the annotation fastgshare/profile; several times\n"
    "  --policy NAME         how functions with a profile and an SLO are scaled: queue (default),\n"
    "                        paper, hybrid, or whole (whole GPUs)\n"
    "  --moves N             at most so many replicas, 0 to 16, are moved to another GPU so that one has\n"
    "                        room that has none because of how they lie (default 4; 0: never)\n"
    "  --timeout SPAN        how long a function may take to answer (default 60s)\n"
    "  --queue-timeout SPAN  how long a request waits for a replica (default 60s)\n"
    "  --queue N             requests that wait for one function (default 1024)\n"
    "  --connections N       connections of clients (default 4096)\n"
    "  --busy-poll SPAN      look for the next event for so long before going to sleep, up to 1ms, while\n"
    "                        events come that fast: a quicker answer for CPU time (default 0s: sleep)\n"
    "  --tls-listen ADDRESS  the same as --listen over TLS; with --tls-cert and --tls-key, PEM files,\n"
    "  --tls-cert FILE       which SIGHUP makes it read again\n"
    "  --tls-key FILE\n"
    "  --access-log FILE     a line of JSON for each request (\"-\": standard output)\n"
    "  --traces WHERE        spans as OTLP JSON to a file, or to http://HOST:4318/v1/traces\n"
    "  --verbose, -v         log more\n"
    "  --help, -h            this text\n"
    "\n"
    "Environment: basic_auth=true asks for a password below /system; user and password are read\n"
    "from the files basic-auth-user and basic-auth-password in secret_mount_path (/run/secrets).\n"
    "\n"
    "Examples:\n"
    "  fast-gateway --images ./functions &\n"
    "  curl -d '{\"service\":\"digits\",\"image\":\"digits\",\"annotations\":{\n"
    "    \"fastgshare/gpu_sm_partition\":\"12\",\"fastgshare/gpu_quota_request\":\"0.3\",\n"
    "    \"fastgshare/gpu_mem\":\"512Mi\"}}' http://127.0.0.1:8080/system/functions\n"
    "  curl --data-binary @image http://127.0.0.1:8080/function/digits\n"
    "\n"
    "Exit status: 0 stopped by a signal, 1 it cannot run, 2 the command line is wrong.\n";

struct settings {
    struct gw_conf conf;
    const char *images[PATHS_MAX], *profiles[PATHS_MAX];
    char image_dirs[PATHS_MAX][PATH_MAX];
    char state_dir[PATH_MAX], defaults[4][PATH_MAX + 64], tool[PATH_MAX + 64];
    char *user, *password;
};

static int parse_count(const char *text, const char *what, int64_t max, int64_t *ret,
                       struct fast_err *err)
{
    return fast_parse_int(text, what, 1, max, ret, err);
}

static int add_path(const char **list, int *n, const char *path, struct fast_err *err)
{
    if (*n == PATHS_MAX)
        return fast_err_set(err, FAST_EINVAL, "more than %d folders", PATHS_MAX);
    list[(*n)++] = path;
    return 0;
}

/* What is found there is started by the node, which is in a folder of its own. */
static int add_images(struct settings *s, const char *path, struct fast_err *err)
{
    int *n = &s->conf.paths.nimages;
    if (*n < PATHS_MAX && fast_path_absolute(path, s->image_dirs[*n], err))
        return fast_err_wrap(err, "--images");
    return add_path(s->images, n, *n < PATHS_MAX ? s->image_dirs[*n] : path, err);
}

static int set_address(const char **at, const char *text, const char *what, struct fast_err *err)
{
    *at = text;
    return fast_http_address_check(text, err) ? fast_err_wrap(err, "%s", what) : 0;
}

static int set_option(struct settings *s, int c, const char *arg, struct fast_err *err)
{
    struct gw_conf *k = &s->conf;
    int64_t n = 0;
    int r = 0;
    switch (c) {
    case 'l':
        return set_address(&k->listen, arg, "--listen", err);
    case 'm':
        return *arg ? set_address(&k->metrics, arg, "--metrics", err) : (k->metrics = arg, 0);
    case 's':
        k->state_dir = arg;
        return 0;
    case 'i':
        return add_images(s, arg, err);
    case 'p':
        return add_path(s->profiles, &k->paths.nprofiles, arg, err);
    case 'P':
        r = fast_scaler_parse(arg, &k->scaler, err);
        return r ? fast_err_wrap(err, "--policy") : 0;
    case 't':
        return fast_parse_duration(arg, "--timeout", FAST_MS(1), FAST_S(86400), &k->timeout, err);
    case 'q':
        return fast_parse_duration(arg, "--queue-timeout", FAST_MS(1), FAST_S(86400),
                                   &k->queue_timeout, err);
    case 'Q':
        r = parse_count(arg, "--queue", 1000000, &n, err);
        k->queue_max = (int)n;
        return r;
    case 'c':
        r = parse_count(arg, "--connections", 1000000, &n, err);
        k->max_conns = (size_t)n;
        return r;
    case 'b':
        return fast_parse_duration(arg, "--busy-poll", 0, FAST_MS(1), &k->busy_poll, err);
    case 'M':
        r = fast_parse_int(arg, "--moves", 0, GW_MOVES_MAX, &n, err);
        k->moves_max = (int)n;
        return r;
    case 'x':
        return set_address(&k->tls_listen, arg, "--tls-listen", err);
    case 'C':
        k->tls_cert = arg;
        return 0;
    case 'K':
        k->tls_key = arg;
        return 0;
    case 'a':
        k->access_log = arg;
        return 0;
    case 'T':
        k->traces = arg;
        return 0;
    case 'v':
        fast_log_set(FAST_LOG_DEBUG, fast_log_stderr);
        return 0;
    default:
        return fast_err_set(err, FAST_EINVAL, "see fast-gateway --help");
    }
}

/* 0: go on. 1: help was asked for. */
static int parse_options(struct settings *s, int argc, char **argv, struct fast_err *err)
{
    static const struct option longs[] = {
        {"listen", 1, NULL, 'l'},      {"metrics", 1, NULL, 'm'},
        {"state-dir", 1, NULL, 's'},   {"images", 1, NULL, 'i'},
        {"profiles", 1, NULL, 'p'},    {"timeout", 1, NULL, 't'},
        {"policy", 1, NULL, 'P'},
        {"moves", 1, NULL, 'M'},
        {"queue-timeout", 1, NULL, 'q'}, {"queue", 1, NULL, 'Q'},
        {"connections", 1, NULL, 'c'}, {"busy-poll", 1, NULL, 'b'},
        {"access-log", 1, NULL, 'a'},
        {"tls-listen", 1, NULL, 'x'},  {"tls-cert", 1, NULL, 'C'},
        {"tls-key", 1, NULL, 'K'},     {"traces", 1, NULL, 'T'},
        {"verbose", 0, NULL, 'v'},
        {"help", 0, NULL, 'h'},        {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, ":vh", longs, NULL)) != -1;) {
        if (c == 'h')
            return 1;
        if (c == ':' || c == '?')
            return fast_err_set(err, FAST_EINVAL, "%s: %s (see fast-gateway --help)",
                                argv[optind - 1],
                                c == ':' ? "this option needs a value" : "no such option");
        int r = set_option(s, c, optarg, err);
        if (r)
            return r;
    }
    if (optind < argc)
        return fast_err_set(err, FAST_EINVAL, "\"%s\" is not an option (see fast-gateway --help)",
                            argv[optind]);
    return 0;
}

static void default_paths(struct settings *s)
{
    struct gw_conf *k = &s->conf;
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = 0;
    /* In a build tree this program is build/src/gateway/fast-gateway; installed, BIN/fast-gateway. */
    snprintf(s->defaults[0], sizeof(s->defaults[0]), "%s/../../functions", self);
    snprintf(s->defaults[1], sizeof(s->defaults[1]), "%s/functions", FAST_LIBEXEC);
    snprintf(s->defaults[2], sizeof(s->defaults[2]), "%s/../../../models/profiles", self);
    snprintf(s->defaults[3], sizeof(s->defaults[3]), "%s/profiles", FAST_LIBEXEC);
    add_path(s->images, &k->paths.nimages, s->defaults[0], NULL);
    add_path(s->images, &k->paths.nimages, s->defaults[1], NULL);
    add_path(s->profiles, &k->paths.nprofiles, s->defaults[2], NULL);
    add_path(s->profiles, &k->paths.nprofiles, s->defaults[3], NULL);
    static const char *const tools[] = {"fast-run", "../cli/fast-run"};
    for (size_t i = 0; !k->paths.tool && i < FAST_COUNT_OF(tools); i++) {
        snprintf(s->tool, sizeof(s->tool), "%s/%s", self, tools[i]);
        k->paths.tool = access(s->tool, X_OK) ? NULL : s->tool;
    }
    k->paths.images = s->images;
    k->paths.profiles = s->profiles;
}

static int find_state_dir(struct settings *s, struct fast_err *err)
{
    const char *home = getenv("HOME");
    char *full = s->state_dir;
    int n;
    if (s->conf.state_dir)
        n = snprintf(full, sizeof(s->state_dir), "%s", s->conf.state_dir);
    else if (geteuid() == 0)
        n = snprintf(full, sizeof(s->state_dir), "/var/lib/fast-gshare");
    else
        n = snprintf(full, sizeof(s->state_dir), "%s/.local/state/fast-gshare", home ? home : "");
    if (n <= 0 || (size_t)n >= sizeof(s->state_dir))
        return fast_err_set(err, FAST_EINVAL, "--state-dir: the path is empty or too long");
    int r = fast_dir_make(full, 0755, err);
    if (r)
        return r;
    fast_autofree char *real = realpath(full, NULL);
    if (!real || strlen(real) >= sizeof(s->state_dir))
        return fast_err_set(err, FAST_EIO, "%s: %s", full, strerror(errno));
    memcpy(full, real, strlen(real) + 1);
    s->conf.state_dir = s->conf.paths.state_dir = full;
    return 0;
}

static int read_credential(const char *dir, const char *name, char **ret, struct fast_err *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int r = fast_file_read(path, GW_CREDENTIAL_MAX, ret, NULL, err);
    if (r)
        return fast_err_wrap(err, "basic_auth");
    char *from = *ret + strspn(*ret, " \t\r\n");
    size_t len = strlen(from);
    while (len && strchr(" \t\r\n", from[len - 1]))
        len--;
    memmove(*ret, from, len);
    (*ret)[len] = 0;
    return len ? 0 : fast_err_set(err, FAST_EINVAL, "basic_auth: %s is empty", path);
}

static int read_auth(struct settings *s, struct fast_err *err)
{
    const char *on = getenv("basic_auth"), *dir = getenv("secret_mount_path");
    if (!on || (strcmp(on, "true") && strcmp(on, "1")))
        return 0;
    if (!dir || !*dir)
        dir = "/run/secrets";
    int r = read_credential(dir, "basic-auth-user", &s->user, err);
    if (!r)
        r = read_credential(dir, "basic-auth-password", &s->password, err);
    s->conf.auth = true;
    s->conf.user = s->user;
    s->conf.password = s->password;
    return r;
}

/* A client's connection is a descriptor, and its request another one, towards the function: a gateway without any
 * answers nobody. */
static void want_descriptors(struct gw_conf *k)
{
    uint64_t was, now;
    fast_descriptors_raise(&was, &now); /* what there is has to do if it fails */
    uint64_t room = now > DESCRIPTORS_KEPT + 2 ? (now - DESCRIPTORS_KEPT) / 2 : 1;
    if (!now || k->max_conns <= room)
        return;
    fast_log(WARN, "few descriptors: fewer connections", "limit=%llu connections=%llu instead=%llu",
             (unsigned long long)now, (unsigned long long)k->max_conns, (unsigned long long)room);
    k->max_conns = (size_t)room;
}

/* ---- running ---- */

static void on_tick(void *arg)
{
    struct gateway *gw = arg;
    gw_replicas_tick(gw);
    gw_elastic_second(gw);
    gw_profiles_tick(gw);
    gw_scaler_tick(gw);
    gw_trials_tick(gw);
    fast_timer_set(gw->tick, fast_loop_now(gw->loop) + FAST_S(1));
}

static size_t open_conns(const struct gateway *gw)
{
    return fast_http_server_conns(gw->server) + (gw->secure ? fast_http_server_conns(gw->secure) : 0);
}

static void on_job_tick(void *arg)
{
    struct gateway *gw = arg;
    gw_invoke_tick(gw);
    gw_scaler_rush(gw);
    gw_move_tick(gw);
    if (gw->stopping && !open_conns(gw) && gw_tracer_is_done(gw->tracer))
        fast_loop_stop(gw->loop);
    fast_timer_set(gw->job_timer, fast_loop_now(gw->loop) + FAST_MS(100));
}

static void on_wait_timer(void *arg)
{
    gw_invoke_wait_out(arg);
}

static void on_stop_timeout(void *arg)
{
    struct gateway *gw = arg;
    if (gw_invoke_has_end(gw, gw->stop_asked)) {
        fast_timer_set(gw->stop_timer, fast_loop_now(gw->loop) + FAST_MS(100));
        return;
    }
    fast_log(WARN, "requests cut off", "connections=%zu", open_conns(gw));
    fast_loop_stop(gw->loop);
}

static void on_signal(void *arg, int signal)
{
    struct gateway *gw = arg;
    if (gw->stopping) {
        /* Not when it is the first one again: see AGAIN in node/main.c. */
        if (fast_clock_now() - gw->stop_asked >= FAST_MS(500))
            fast_loop_stop(gw->loop);
        return;
    }
    gw->stop_asked = fast_clock_now();
    fast_log(INFO, "stopping", "signal=%d connections=%zu", signal,
             open_conns(gw));
    gw->stopping = true;
    fast_http_server_drain(gw->server);
    if (gw->secure)
        fast_http_server_drain(gw->secure);
    fast_timer_set(gw->stop_timer, fast_loop_now(gw->loop) + STOP_MAX);
}

/* Certificate and key may have changed. */
static void on_hangup(void *arg, int signal)
{
    struct gateway *gw = arg;
    struct fast_err err;
    (void)signal;
    if (gw->tls && fast_tls_reload(gw->tls, &err))
        fast_log(ERROR, "the certificate stays as it was", "why=\"%s\"", err.msg);
    else
        fast_log(INFO, "reloaded", "tls=%d", gw->tls != NULL);
}

static int listen_tls(struct gateway *gw, struct fast_http_server_conf conf, struct fast_err *err)
{
    const struct gw_conf *k = gw->conf;
    if (!k->tls_listen && !k->tls_cert && !k->tls_key)
        return 0;
    if (!k->tls_listen || !k->tls_cert || !k->tls_key)
        return fast_err_set(err, FAST_EINVAL, "--tls-listen, --tls-cert and --tls-key belong together");
    int r = fast_tls_new(k->tls_cert, k->tls_key, fast_http2() != NULL, &gw->tls, err);
    if (r)
        return fast_err_wrap(err, "--tls-listen");
    conf.address = k->tls_listen;
    conf.secure = fast_tls_secure(gw->tls);
    r = fast_http_server_new(gw->loop, &conf, &gw->secure, err);
    return r ? fast_err_wrap(err, "--tls-listen") : 0;
}

static int listen_all(struct gateway *gw, struct fast_err *err)
{
    const struct gw_conf *k = gw->conf;
    struct fast_http_server_conf api = {.address = k->listen, .max_conns = k->max_conns,
                                        .handler = gw_api_request, .arg = gw,
                                        .http2 = fast_http2(),
                                        .finished = gw_api_finished, .finished_some = !k->access_log};
    struct fast_http_server_conf metrics = {.address = k->metrics, .max_conns = 64,
                                            .handler = gw_api_metrics, .arg = gw};
    if (k->access_log && gw_sink_new(gw->loop, k->access_log, &gw->access_log, err))
        return fast_err_wrap(err, "--access-log");
    if (k->traces && gw_tracer_new(gw->loop, k->traces, &gw->tracer, err))
        return fast_err_wrap(err, "--traces");
    int r = fast_http_server_new(gw->loop, &api, &gw->server, err);
    if (r)
        return fast_err_wrap(err, "--listen");
    if (listen_tls(gw, api, err))
        return -err->code;
    if (*k->metrics && fast_http_server_new(gw->loop, &metrics, &gw->metrics, err))
        return fast_err_wrap(err, "--metrics");
    return 0;
}

static int open_queue(struct gateway *gw, struct fast_err *err)
{
    char path[PATH_MAX + 16];
    struct gw_queue *queue = NULL;
    snprintf(path, sizeof(path), "%s/async.db", gw->conf->state_dir);
    int r = gw_queue_sqlite_open(path, fast_clock_wall(), &queue, err);
    if (r)
        return r;
    r = gw_async_new(gw, queue, &gw->async, err);
    if (r)
        queue->ops->close(queue);
    return r;
}

static int open_all(struct gateway *gw, char *control, size_t cap, struct fast_err *err)
{
    char db[PATH_MAX + 16], profiles[PATH_MAX + 16];
    struct fast_fleet_conf fleet = {.fit = FAST_FIT_AREA, .reclaim = FAST_RECLAIM_RESTRUCTURE};
    snprintf(db, sizeof(db), "%s/gateway.db", gw->conf->state_dir);
    snprintf(profiles, sizeof(profiles), "%s/profiles.db", gw->conf->state_dir);
    snprintf(control, cap, "%s/control.sock", gw->conf->state_dir);
    int r = fast_loop_new(&gw->loop, err);
    if (!r) {
        fast_loop_spin(gw->loop, gw->conf->busy_poll);
        r = listen_all(gw, err);
    }
    if (!r)
        r = gw_store_open(db, &gw->store, err);
    if (!r)
        r = gw_profiles_open(profiles, &gw->profiles, err);
    if (!r)
        r = fast_fleet_new(&fleet, &gw->fleet, err);
    if (!r)
        r = gw_functions_load(gw, err);
    if (!r)
        r = gw_namespaces_load(gw, err);
    if (!r)
        r = open_queue(gw, err);
    if (!r)
        r = gw_link_new(gw->loop, control, &gw_replica_link_ops, gw, &gw->link, err);
    gw->tick = r ? NULL : fast_timer_new(gw->loop, on_tick, gw);
    gw->job_timer = r ? NULL : fast_timer_new(gw->loop, on_job_tick, gw);
    gw->wait_timer = r ? NULL : fast_timer_new(gw->loop, on_wait_timer, gw);
    gw->stop_timer = r ? NULL : fast_timer_new(gw->loop, on_stop_timeout, gw);
    gw->linger_timer = r ? NULL : fast_timer_new(gw->loop, gw_elastic_tick, gw);
    if (!r && (!gw->linger_timer || !gw->tick || !gw->job_timer || !gw->wait_timer || !gw->stop_timer))
        r = fast_err_set(err, FAST_ENOMEM, "no memory for timers");
    if (!r)
        r = fast_loop_signal(gw->loop, SIGTERM, on_signal, gw, err);
    if (!r)
        r = fast_loop_signal(gw->loop, SIGINT, on_signal, gw, err);
    if (!r)
        r = fast_loop_signal(gw->loop, SIGHUP, on_hangup, gw, err);
    return r;
}

static void close_all(struct gateway *gw)
{
    fast_http_server_free(gw->server);
    fast_http_server_free(gw->secure);
    fast_tls_free(gw->tls);
    fast_http_server_free(gw->metrics);
    gw_async_free(gw->async);
    free(gw->head);
    gw_tracer_free(gw->tracer);
    gw_sink_free(gw->access_log);
    free(gw->api_stats);
    json_decref(gw->namespaces);
    gw_link_free(gw->link);
    gw_replicas_free(gw);
    gw_functions_free(gw);
    gw_models_forget(gw);
    fast_fleet_free(gw->fleet);
    gw_store_close(gw->store);
    gw_profiles_close(gw->profiles);
    fast_timer_free(gw->tick);
    fast_timer_free(gw->job_timer);
    fast_timer_free(gw->wait_timer);
    fast_due_fini(&gw->waiting);
    fast_timer_free(gw->stop_timer);
    fast_timer_free(gw->linger_timer);
    fast_loop_free(gw->loop);
}

static int run(const struct gw_conf *conf, struct fast_err *err)
{
    struct gateway gw = {.conf = conf, .next_key = 1, .session = 1, .started_ns = fast_clock_wall()};
    char control[PATH_MAX + 16];
    int r = open_all(&gw, control, sizeof(control), err);
    if (!r) {
        fast_log(INFO, "listening", "port=%d metrics=%d tls=%d state=%s", fast_http_server_port(gw.server),
                 gw.metrics ? fast_http_server_port(gw.metrics) : 0,
                 gw.secure ? fast_http_server_port(gw.secure) : 0, conf->state_dir);
        fast_timer_set(gw.tick, fast_loop_now(gw.loop) + FAST_S(1));
        fast_timer_set(gw.job_timer, fast_loop_now(gw.loop) + FAST_MS(100));
        r = fast_loop_run(gw.loop, err);
    }
    close_all(&gw);
    return r;
}

int main(int argc, char **argv)
{
    static struct settings s;
    struct fast_err err = {0};
    s.conf = (struct gw_conf){.listen = "127.0.0.1:8080",
                              .metrics = "127.0.0.1:8082",
                              .timeout = FAST_S(60),
                              .queue_timeout = FAST_S(60),
                              .queue_max = 1024,
                              .moves_max = 4,
                              .max_conns = 4096};
    fast_log_set(FAST_LOG_INFO, fast_log_stderr);
    signal(SIGPIPE, SIG_IGN);
    /* Passwords, secrets and everybody's requests are in here, and functions may have the same user: nothing looks into
     * this process that has not the right to do so with other users' processes, and none of it goes into a core. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    int r = parse_options(&s, argc, argv, &err);
    if (r == 1) {
        fputs(help, stdout);
        return 0;
    }
    if (r) {
        fprintf(stderr, "fast-gateway: %s\n", err.msg);
        return 2;
    }
    want_descriptors(&s.conf);
    default_paths(&s);
    r = find_state_dir(&s, &err);
    if (!r)
        r = read_auth(&s, &err);
    if (!r)
        r = run(&s.conf, &err);
    free(s.user);
    free(s.password);
    if (!r)
        return 0;
    fprintf(stderr, "fast-gateway: %s\n", err.msg);
    return 1;
}
