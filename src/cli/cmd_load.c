/* fast load: a load on one function, to see what a slice is worth. */

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "cli/load.h"
#include "cli/view.h"
#include "io/file.h"
#include "sim/arrivals.h"

#define BODY_MAX (16u << 20)

struct load {
    const char *rate, *seconds, *slo, *body, *connections, *seed, *timeout;
    bool constant, closed;
};

static const struct cli_opt opts[] = {
    {"rate", 'r', CLI_STR, offsetof(struct load, rate), "N", "requests per second, 0.001 to 100000 (default 10)"},
    {"seconds", 's', CLI_STR, offsetof(struct load, seconds), "N", "length, 1 to 3600 (default 10)"},
    {"constant", 0, CLI_FLAG, offsetof(struct load, constant), NULL,
     "constant gaps instead of Poisson arrivals"},
    {"closed", 0, CLI_FLAG, offsetof(struct load, closed), NULL,
     "no rate: each connection sends its next request when the last is answered"},
    {"slo", 0, CLI_STR, offsetof(struct load, slo), "TIME", "count answers later than this (69ms, 1s)"},
    {"body", 0, CLI_STR, offsetof(struct load, body), "FILE", "request body"},
    {"connections", 'c', CLI_STR, offsetof(struct load, connections), "N",
     "at most so many connections, to 10000 (default 64; with --closed 1)"},
    {"timeout", 0, CLI_STR, offsetof(struct load, timeout), "TIME", "of a request (default 60s)"},
    {"seed", 0, CLI_STR, offsetof(struct load, seed), "N", "of the arrivals (default 1)"},
};

struct plan {
    int64_t rate_milli, seconds, connections, seed;
    fast_ns slo, timeout;
    char host[64];
    int port;
};

static int parse(const struct cli *cli, const struct load *l, struct plan *p, struct fast_err *err)
{
    *p = (struct plan){10000, 10, l->closed ? 1 : 64, 1, 0, FAST_S(60), "", 80};
    if (l->closed && (l->rate || l->constant || l->seed))
        return fast_err_set(err, FAST_EINVAL, "--closed has no arrivals: leave out --rate, --constant and --seed");
    int r = l->rate ? fast_parse_milli(l->rate, "--rate", 1, 100000000, &p->rate_milli, err) : 0;
    if (!r && l->seconds)
        r = fast_parse_int(l->seconds, "--seconds", 1, 3600, &p->seconds, err);
    if (!r && l->connections)
        r = fast_parse_int(l->connections, "--connections", 1, 10000, &p->connections, err);
    if (!r && l->seed)
        r = fast_parse_int(l->seed, "--seed", 0, INT64_MAX, &p->seed, err);
    if (!r && l->slo)
        r = fast_parse_duration(l->slo, "--slo", 1000, FAST_S(3600), &p->slo, err);
    if (!r && l->timeout)
        r = fast_parse_duration(l->timeout, "--timeout", FAST_MS(1), FAST_S(3600), &p->timeout, err);
    return r ? r : api_host(cli, p->host, sizeof(p->host), &p->port, err);
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static bool on_progress(void *arg, fast_ns elapsed, fast_ns total, uint64_t done, uint64_t all)
{
    char text[96];
    (void)arg;
    snprintf(text, sizeof(text), "%llu of %llu requests", (unsigned long long)done,
             (unsigned long long)all);
    view_progress(text, total ? (double)elapsed / (double)total : 1);
    return !interrupted;
}

static void print_result(const struct cli *cli, const char *name, const struct plan *p,
                         const struct fast_load_result *r)
{
    double rps = r->span ? (double)r->ok * 1e9 / (double)r->span : 0;
    double ms[4];
    static const int milli[4] = {500, 950, 990, 999};
    for (int i = 0; i < 4; i++)
        ms[i] = (double)fast_hist_quantile(&r->latency, milli[i]) / 1e6;
    if (cli->json) {
        json_t *j = json_pack(
            "{s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I}", "sent",
            (json_int_t)r->sent, "ok", (json_int_t)r->ok, "rps", rps, "p50_ms", ms[0], "p95_ms",
            ms[1], "p99_ms", ms[2], "p999_ms", ms[3], "max_ms", (double)r->latency.max / 1e6,
            "throttled", (json_int_t)r->throttled, "client_errors", (json_int_t)r->client_errors,
            "server_errors", (json_int_t)r->server_errors, "timeouts", (json_int_t)r->timeouts,
            "lost", (json_int_t)r->lost, "violations", (json_int_t)r->violations);
        api_print(j);
        json_decref(j);
        return;
    }
    printf("%llu requests in %.1f s: %.1f answers/s, latency p50 %.1f, p95 %.1f, p99 %.1f, max %.1f "
           "ms\n", (unsigned long long)r->sent, (double)r->span / 1e9, rps, ms[0], ms[1], ms[2],
           (double)r->latency.max / 1e6);
    if (r->ok != r->sent)
        printf("not answered well: 429 %llu, other 4xx %llu, 5xx %llu, timed out %llu, connection "
               "lost %llu\n", (unsigned long long)r->throttled, (unsigned long long)r->client_errors,
               (unsigned long long)r->server_errors, (unsigned long long)r->timeouts,
               (unsigned long long)r->lost);
    if (!r->ok && r->client_errors)
        printf("`fast invoke %s` shows what it answers\n", name);
    if (p->slo)
        printf("later than %.0f ms or not answered well: %.2f %%\n", (double)p->slo / 1e6,
               r->sent ? 100.0 * (double)r->violations / (double)r->sent : 0);
}

/* A load on nobody tells nothing. Who may not ask gets the load all the same. */
static int check_function(struct cli *cli, const char *name)
{
    char escaped[256], path[600];
    const char *ns = strrchr(name, '.');
    int len = ns ? (int)(ns - name) : (int)strlen(name);
    char bare[128];
    api_autoreply r = {0};
    snprintf(bare, sizeof(bare), "%.*s", len, name);
    snprintf(path, sizeof(path), "/system/function/%s%s%s", api_escape(bare, escaped, sizeof(escaped)),
             ns ? "?namespace=" : "", ns ? ns + 1 : "");
    if (api_call(cli, "GET", path, NULL, 0, NULL, &r))
        return cli_fail(CLI_NOREACH, "no gateway at %s. Start one with `fast up`, or name it with --gateway",
                        cli->gateway);
    return r.status != 404 ? CLI_OK
                           : cli_fail(CLI_FAILED, "load: there is no function %s; `fast ls` lists them", name);
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct load *l = arg;
    struct plan p;
    struct fast_err err;
    struct fast_arrivals a = {0};
    char name[256], path[512];
    fast_autofree char *body = NULL;
    fast_autofree struct fast_load_result *result = calloc(1, sizeof(*result));
    size_t body_len = 0;
    (void)argc;
    if (parse(cli, l, &p, &err) ||
        (l->body && fast_file_read(l->body, BODY_MAX, &body, &body_len, &err)))
        return cli_fail(CLI_USAGE, "load: %s", err.msg);
    int there = check_function(cli, argv[0]);
    if (there)
        return there;
    snprintf(path, sizeof(path), "/function/%s", api_escape(argv[0], name, sizeof(name)));
    int r = !result ? fast_err_set(&err, FAST_ENOMEM, "out of memory")
            : l->closed   ? 0
            : l->constant ? fast_arrivals_constant(&a, p.rate_milli, FAST_S(p.seconds), &err)
                          : fast_arrivals_poisson(&a, p.rate_milli, FAST_S(p.seconds),
                                                  (uint64_t)p.seed, &err);
    const char *bodies[] = {body};
    struct fast_load_spec spec = {
        .host = p.host, .port = p.port, .path = path, .bodies = body ? bodies : NULL,
        .body_lens = &body_len, .body_count = body ? 1 : 0, .due = a.at, .due_count = a.count,
        .closed_until = l->closed ? FAST_S(p.seconds) : 0, .slo = p.slo, .timeout = p.timeout,
        .connections_max = (int)p.connections};
    struct sigaction sa = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &sa, NULL);
    if (!r)
        r = fast_load_run(&spec, 1, on_progress, NULL, result, &err);
    view_progress_end();
    fast_arrivals_fini(&a);
    if (r)
        return cli_fail(CLI_FAILED, "%s", err.msg);
    if (interrupted)
        fputs("interrupted; what was answered until then:\n", stderr);
    print_result(cli, argv[0], &p, result);
    return result->ok == result->sent && !interrupted ? CLI_OK : CLI_FAILED;
}

const struct cli_cmd cmd_load = {
    .name = "load", .args = "NAME", .summary = "send a function a load and measure",
    .detail = "Requests go out when they are due, whatever became of those before; latency counts\n"
              "from then. With --closed whoever has an answer sends the next one, to see how much a\n"
              "function gets done. Examples:\n  fast load resnet50 --rate 60 --seconds 20 --slo 69ms\n"
              "  fast load batch --closed --connections 8 --seconds 20",
    .min_args = 1, .max_args = 1, CLI_CMD_OPTS(opts, struct load), .run = run};
