/* fast ls, describe, rm, scale, invoke, logs, policy: what one does with a function. */

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "cli/table.h"
#include "cli/view.h"
#include "core/types.h"
#include "io/file.h"
#include "io/loop.h"

#define BODY_MAX (64u << 20)

struct fn {
    const char *ns, *data, *type, *since, *lines, *method;
    bool follow, wide, async;
};

#define NS_OPT                                                                                     \
    {"namespace", 'n', CLI_NAME, offsetof(struct fn, ns), "NAME", "default: openfaas-fn"}

/* The functions of |fn|'s namespace, without one those of all. */
static const char *list_path(const struct fn *fn, char *buf, size_t cap)
{
    char ns[256];
    snprintf(buf, cap, "/system/functions?namespace=%s", fn->ns ? api_escape(fn->ns, ns, sizeof(ns)) : "*");
    return buf;
}

static const char *with_ns(const char *path, const struct fn *fn, char *buf, size_t cap)
{
    char ns[256];
    snprintf(buf, cap, "%s%s%s", path, fn->ns ? "?namespace=" : "",
             fn->ns ? api_escape(fn->ns, ns, sizeof(ns)) : "");
    return buf;
}

static void print_list(const json_t *list)
{
    static const char *const heads[] = {"FUNCTION", "NAMESPACE", "READY", "REPLICAS", "CALLS",
                                        "IMAGE", NULL};
    struct table *t = table_new(heads);
    json_t *f;
    size_t i;
    json_array_foreach(list, i, f) {
        table_add(t, "%s", json_text(f, "name"));
        table_add(t, "%s", json_text(f, "namespace"));
        table_add(t, "%.0f", json_num(f, "availableReplicas"));
        table_add(t, "%.0f", json_num(f, "replicas"));
        table_add(t, "%.0f", json_num(f, "invocationCount"));
        table_add(t, "%s", json_text(f, "image"));
    }
    table_print(t, stdout, 0);
}

static int run_ls(struct cli *cli, void *arg, int argc, char **argv)
{
    char path[512];
    json_t *list = NULL;
    (void)argc;
    (void)argv;
    int s = api_json(cli, "GET", list_path(arg, path, sizeof(path)), NULL, &list);
    if (s)
        return s;
    if (cli->json)
        api_print(list);
    else if (!json_array_size(list) && ((struct fn *)arg)->ns)
        printf("No functions in namespace %s.\n", ((struct fn *)arg)->ns);
    else if (!json_array_size(list))
        puts("No functions yet. Try: fast deploy digits --image digits --sm 12 --quota 0.3");
    else
        print_list(list);
    json_decref(list);
    return CLI_OK;
}

static void print_map(const char *title, const json_t *map)
{
    const char *key;
    json_t *value;
    if (!json_object_size(map))
        return;
    printf("%s:\n", title);
    json_object_foreach((json_t *)map, key, value)
        printf("  %s = %s\n", key, json_string_value(value) ? json_string_value(value) : "");
}

static bool is_of(const json_t *replica, const char *name, const char *ns)
{
    return !strcmp(json_text(replica, "function"), name) &&
           !strcmp(json_text(replica, "namespace"), ns);
}

static json_t *replicas_of(const json_t *list, const char *name, const char *ns)
{
    json_t *ret = json_array(), *r;
    size_t i;
    json_array_foreach(list, i, r)
        if (is_of(r, name, ns))
            json_array_append(ret, r);
    return ret;
}

/* A plain process has no slice, whatever its row says. */
static void add_slice(struct table *t, const json_t *r)
{
    if (json_num(r, "gpu") < 0) {
        for (int i = 0; i < 4; i++)
            table_add(t, "-");
        return;
    }
    char gpus[32];
    double n = (double)json_array_size(json_object_get(r, "gpus"));
    table_add(t, "%s", view_gpus(r, gpus, sizeof(gpus)));
    table_add(t, "%.0f", json_num(r, "sm_pct"));
    table_add(t, "%.3g-%.3g", json_num(r, "quota_request"), json_num(r, "quota_limit"));
    table_add(t, "%.0f of %.0f MiB", json_num(r, "memory_used_bytes") / 1048576,
              n * json_num(r, "memory_cap_bytes") / 1048576);
}

static void print_replicas(const json_t *list, const char *name, const char *ns)
{
    static const char *const heads[] = {"REPLICA", "STATE", "GPU", "SM%", "QUOTA", "MEMORY",
                                        "PID", "RESTARTS", "NOTE", NULL};
    struct table *t = NULL;
    json_t *r;
    size_t i;
    json_array_foreach(list, i, r) {
        if (!is_of(r, name, ns))
            continue;
        if (!t)
            t = table_new(heads);
        table_add(t, "%s", json_text(r, "replica"));
        table_add(t, "%s", json_text(r, "state"));
        add_slice(t, r);
        table_add(t, "%.0f", json_num(r, "pid"));
        table_add(t, "%.0f", json_num(r, "restarts"));
        table_add(t, "%s", json_text(r, "text"));
    }
    puts(t ? "Replicas:" : "Replicas: none");
    table_print(t, stdout, 2);
}

static void print_profile(const json_t *p, const char *name)
{
    if (!p)
        return;
    printf("Profile:   %s", json_text(p, "source"));
    if (json_object_get(p, "trials"))
        printf(", %.0f trials, known to %.1f %%, %.0f live spans", json_num(p, "trials"),
               100 * json_num(p, "uncertainty"), json_num(p, "liveSpans"));
    putchar('\n');
    if (json_is_true(json_object_get(p, "drifting")))
        printf("           drift: live throughput is %.0f %% of that of the trials; `fast profile %s "
               "--fresh` measures again\n", 100 * json_num(p, "throughputRatio"), name);
}

/* What the limits are worth on the GPUs that the function uses, as their node has probed them. */
static void print_limits(struct cli *cli, const json_t *replicas, const char *name, const char *ns)
{
    json_t *gpus = NULL, *g, *r;
    size_t i, k;
    bool used = false;
    if (api_json(cli, "GET", "/system/gpus", NULL, &gpus))
        return;
    json_array_foreach(gpus, i, g) {
        const json_t *holds = json_object_get(g, "holds");
        int here = 0, without = 0;
        json_array_foreach(replicas, k, r)
            if (is_of(r, name, ns) && view_has_gpu(r, json_num(g, "gpu"))) {
                here++;
                without += (int)json_num(r, "clients_without_mps");
            }
        if (!here)
            continue;
        bool escaped = without && strcmp(json_text(g, "backend"), "none") != 0;
        printf("%s GPU %.0f: SMs %s (%s), time %s, memory %s\n", used ? "          " : "Limits:   ",
               json_num(g, "gpu"), escaped ? "advisory" : json_text(holds, "sm"), json_text(g, "backend"),
               json_text(holds, "time"), json_text(holds, "memory"));
        if (escaped)
            printf("           %d of its processes do not use MPS, or have more SMs than it gives them\n", without);
        used = true;
    }
    if (used)
        puts("           A process that is started without LD_PRELOAD is held by MPS alone: advisory");
    json_decref(gpus);
}

static void print_levels(const json_t *levels)
{
    const json_t *v;
    size_t i;
    json_array_foreach(levels, i, v)
        printf("           %-15s %-9s %s\n", json_text(v, "what"), json_text(v, "level"), json_text(v, "by"));
}

static int run_describe(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct fn *fn = arg;
    char name[256], base[512], path[1024];
    json_t *f = NULL, *replicas = NULL;
    (void)argc;
    snprintf(base, sizeof(base), "/system/function/%s", api_escape(argv[0], name, sizeof(name)));
    int s = api_json(cli, "GET", with_ns(base, fn, path, sizeof(path)), NULL, &f);
    if (s)
        return s;
    const char *ns = *json_text(f, "namespace") ? json_text(f, "namespace") : "openfaas-fn";
    s = api_json(cli, "GET", "/system/replicas", NULL, &replicas);
    if (cli->json && !s) {
        json_object_set_new(f, "replicaList", replicas_of(replicas, json_text(f, "name"), ns));
        api_print(f);
    }
    if (cli->json || s) {
        json_decref(replicas);
        json_decref(f);
        return s;
    }
    printf("Function:  %s\nNamespace: %s\nImage:     %s\nReady:     %.0f of %.0f replicas\n"
           "Calls:     %.0f\nURL:       %s/function/%s.%s\n",
           json_text(f, "name"), ns, json_text(f, "image"), json_num(f, "availableReplicas"),
           json_num(f, "replicas"), json_num(f, "invocationCount"), cli->gateway,
           json_text(f, "name"), ns);
    if (*json_text(f, "envProcess"))
        printf("Process:   %s\n", json_text(f, "envProcess"));
    printf("Runner:    %s\nIsolation: %s\n", json_text(f, "runner"), json_text(f, "isolation"));
    print_levels(json_object_get(f, "isolationLevels"));
    const json_t *slice = json_object_get(f, "slice");
    char each[64] = "";
    if (json_num(slice, "gpus") > 1)
        snprintf(each, sizeof(each), ", on each of %.0f GPUs at once", json_num(slice, "gpus"));
    if (slice)
        printf("Slice:     %.0f %% of the SMs, %.3g to %.3g of the time%s\n", json_num(slice, "sm_pct"),
               json_num(slice, "quota_request"), json_num(slice, "quota_limit"), each);
    else
        puts("Slice:     none: a plain process, without a GPU");
    print_profile(json_object_get(f, "profile"), json_text(f, "name"));
    print_map("Annotations", json_object_get(f, "annotations"));
    print_map("Labels", json_object_get(f, "labels"));
    print_map("Environment", json_object_get(f, "envVars"));
    print_limits(cli, replicas, json_text(f, "name"), ns);
    print_replicas(replicas, json_text(f, "name"), ns);
    json_decref(replicas);
    json_decref(f);
    return CLI_OK;
}

static int run_rm(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct fn *fn = arg;
    int status = CLI_OK;
    for (int i = 0; i < argc; i++) {
        json_t *body = json_pack("{s:s}", "functionName", argv[i]);
        if (fn->ns)
            json_object_set_new(body, "namespace", json_string(fn->ns));
        int s = api_json(cli, "DELETE", "/system/functions", body, NULL);
        json_decref(body);
        if (!s)
            printf(cli->json ? "{\"function\": \"%s\", \"removed\": true}\n"
                             : "%s is being removed.\n", argv[i]);
        status = s ? s : status;
    }
    return status;
}

/* What the gateway has made of it: the function's labels bound it. */
static int tell_scale(struct cli *cli, const struct fn *fn, const char *name, int64_t asked)
{
    char escaped[256], query[300], path[640];
    json_t *f = NULL;
    snprintf(query, sizeof(query), "/system/function/%s", api_escape(name, escaped, sizeof(escaped)));
    int s = api_json(cli, "GET", with_ns(query, fn, path, sizeof(path)), NULL, &f);
    if (s)
        return s;
    long long got = (long long)json_num(f, "replicas");
    if (cli->json)
        printf("{\"function\": \"%s\", \"replicas\": %lld}\n", name, got);
    else if (got == asked)
        printf("%s goes to %lld replicas.\n", name, got);
    else
        printf("%s goes to %lld replicas, not %lld: see its labels com.openfaas.scale.min and .max.\n",
               name, got, (long long)asked);
    json_decref(f);
    return CLI_OK;
}

static int run_scale(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct fn *fn = arg;
    struct fast_err err;
    int64_t n = 0;
    char name[256], path[512];
    (void)argc;
    if (fast_parse_int(argv[1], "replicas", 0, 1000, &n, &err))
        return cli_fail(CLI_USAGE, "scale: %s", err.msg);
    snprintf(path, sizeof(path), "/system/scale-function/%s",
             api_escape(argv[0], name, sizeof(name)));
    json_t *body = json_pack("{s:s, s:I}", "serviceName", argv[0], "replicas", (json_int_t)n);
    if (fn->ns)
        json_object_set_new(body, "namespace", json_string(fn->ns));
    int s = api_json(cli, "POST", path, body, NULL);
    json_decref(body);
    return s ? s : tell_scale(cli, fn, argv[0], n);
}

/* The request body: a file, "-" or a pipe for standard input, else the text itself or nothing. */
static int read_body(const struct fn *fn, int argc, char **argv, char **ret, size_t *ret_len,
                     struct fast_err *err)
{
    if (fn->data)
        return (*ret = strdup(fn->data)) ? (*ret_len = strlen(*ret), 0)
                                         : fast_err_set(err, FAST_ENOMEM, "out of memory");
    if (argc > 1)
        return fast_file_read(strcmp(argv[1], "-") ? argv[1] : "/dev/stdin", BODY_MAX, ret, ret_len,
                              err);
    if (!isatty(STDIN_FILENO))
        return fast_file_read("/dev/stdin", BODY_MAX, ret, ret_len, err);
    *ret = NULL;
    *ret_len = 0;
    return 0;
}

static int run_invoke(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct fn *fn = arg;
    struct fast_err err;
    fast_autofree char *body = NULL;
    size_t len = 0;
    char name[256], path[512];
    api_autoreply r = {0};
    if (read_body(fn, argc, argv, &body, &len, &err))
        return cli_fail(CLI_USAGE, "invoke: %s", err.msg);
    snprintf(path, sizeof(path), "/%sfunction/%s%s%s", fn->async ? "async-" : "",
             api_escape(argv[0], name, sizeof(name)), fn->ns ? "." : "", fn->ns ? fn->ns : "");
    int rc = api_call(cli, fn->method ? fn->method : "POST", path, body ? body : "", len,
                      fn->type ? fn->type : "application/octet-stream", &r);
    if (rc)
        return cli_fail(CLI_NOREACH, "no gateway at %s (%s). Start one with `fast up`", cli->gateway,
                        r.body ? r.body : "out of memory");
    if (r.status < 200 || r.status > 299)
        return cli_fail(CLI_FAILED, "%s answered %ld: %s", argv[0], r.status, r.body);
    if (fn->async && cli->json)
        printf("{\"callId\": \"%s\", \"status\": %ld}\n", r.call_id, r.status);
    else if (fn->async)
        printf("%s is called later: call %s. See: fast async ls\n", argv[0], r.call_id);
    fwrite(r.body, 1, r.len, stdout);
    if (cli->tty && r.len && r.body[r.len - 1] != '\n')
        putchar('\n');
    if (cli->tty && !cli->json)
        fprintf(stderr, "(%ld in %.1f ms, call %s)\n", r.status, r.seconds * 1e3, r.call_id);
    return CLI_OK;
}

static void print_log_line(void *arg, const char *text)
{
    const struct cli *cli = arg;
    json_t *row = cli->json ? NULL : json_loads(text, 0, NULL);
    if (row)
        printf("%s %s %s\n", json_text(row, "timestamp"), json_text(row, "instance"),
               json_text(row, "text"));
    else
        puts(text);
    fflush(stdout);
    json_decref(row);
}

/* Back from now, as the API wants it: a moment. */
static int parse_since(const char *text, char *ret, size_t cap, struct fast_err *err)
{
    fast_ns back;
    struct tm tm;
    int r = fast_parse_duration(text, "--since", FAST_MS(1), FAST_S(86400 * 3650LL), &back, err);
    if (r)
        return r;
    time_t at = (time_t)((fast_clock_wall() - back) / FAST_S(1));
    strftime(ret, cap, "&since=%Y-%m-%dT%H:%M:%SZ", gmtime_r(&at, &tm));
    return 0;
}

static int run_logs(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct fn *fn = arg;
    char name[256], ns[256], path[1024];
    struct fast_err err;
    int64_t lines = 100;
    (void)argc;
    if (fn->lines && fast_parse_int(fn->lines, "--lines", -1, 1000000, &lines, &err))
        return cli_fail(CLI_USAGE, "logs: %s", err.msg);
    char since[64] = "";
    if (fn->since && parse_since(fn->since, since, sizeof(since), &err))
        return cli_fail(CLI_USAGE, "logs: %s", err.msg);
    snprintf(path, sizeof(path), "/system/logs?name=%s&tail=%lld&follow=%s%s%s%s",
             api_escape(argv[0], name, sizeof(name)), (long long)lines, fn->follow ? "true" : "false", since,
             fn->ns ? "&namespace=" : "", fn->ns ? api_escape(fn->ns, ns, sizeof(ns)) : "");
    return api_stream(cli, path, print_log_line, cli);
}

static int run_policy(struct cli *cli, void *arg, int argc, char **argv)
{
    json_t *body = NULL, *now = NULL;
    enum fast_policy policy;
    struct fast_err err;
    (void)arg;
    if (argc && fast_policy_parse(argv[0], &policy, &err))
        return cli_fail(CLI_USAGE, "%s", err.msg);
    if (argc) {
        body = json_pack("{s:s}", "policy", argv[0]);
        int s = api_json(cli, "PUT", "/system/policy", body, NULL);
        json_decref(body);
        if (s)
            return s;
    }
    int s = api_json(cli, "GET", "/system/policy", NULL, &now);
    if (s)
        return s;
    if (cli->json)
        api_print(now);
    else
        printf("policy %s, charge %s, window %.0f ms\n", json_text(now, "policy"),
               json_text(now, "charge"), json_num(now, "window_ms"));
    json_decref(now);
    return CLI_OK;
}

static const struct cli_opt ns_opts[] = {NS_OPT};
static const struct cli_opt invoke_opts[] = {
    NS_OPT,
    {"data", 'd', CLI_STR, offsetof(struct fn, data), "TEXT", "the body itself"},
    {"type", 't', CLI_STR, offsetof(struct fn, type), "MIME", "Content-Type of the body"},
    {"method", 'X', CLI_STR, offsetof(struct fn, method), "METHOD", "default: POST"},
    {"async", 0, CLI_FLAG, offsetof(struct fn, async), NULL, "return at once; the call is made later"},
};
static const struct cli_opt logs_opts[] = {
    NS_OPT,
    {"follow", 'f', CLI_FLAG, offsetof(struct fn, follow), NULL, "go on with new lines"},
    {"lines", 'l', CLI_STR, offsetof(struct fn, lines), "N", "last N lines (default 100, -1: all)"},
    {"since", 0, CLI_STR, offsetof(struct fn, since), "TIME", "lines of the last 10m, 1h30m, ..."},
};

const struct cli_cmd cmd_ls = {
    .name = "ls", .args = "", .summary = "list functions", CLI_CMD_OPTS(ns_opts, struct fn),
    .run = run_ls};
const struct cli_cmd cmd_describe = {
    .name = "describe", .args = "NAME", .summary = "show one function and its replicas",
    .min_args = 1, .max_args = 1, CLI_CMD_OPTS(ns_opts, struct fn), .run = run_describe};
const struct cli_cmd cmd_rm = {
    .name = "rm", .args = "NAME...", .summary = "remove functions", .min_args = 1, .max_args = -1,
    CLI_CMD_OPTS(ns_opts, struct fn), .run = run_rm};
const struct cli_cmd cmd_scale = {
    .name = "scale", .args = "NAME REPLICAS", .summary = "set the number of replicas",
    .min_args = 2, .max_args = 2, CLI_CMD_OPTS(ns_opts, struct fn), .run = run_scale};
const struct cli_cmd cmd_invoke = {
    .name = "invoke", .args = "NAME [FILE]", .summary = "call a function", .min_args = 1,
    .max_args = 2,
    .detail = "The body is FILE (- for standard input), --data, or what is piped in. Examples:\n"
              "  fast invoke digits image.pgm\n  echo hello | fast invoke echo",
    CLI_CMD_OPTS(invoke_opts, struct fn), .run = run_invoke};
const struct cli_cmd cmd_logs = {
    .name = "logs", .args = "NAME", .summary = "print what a function wrote", .min_args = 1,
    .detail = "Lines that were there already are shown with the time at which the last of them came, new\n"
              "ones (--follow) with the time at which they come: a program's output bears no time.",
    .max_args = 1, CLI_CMD_OPTS(logs_opts, struct fn), .run = run_logs};
const struct cli_cmd cmd_policy = {
    .name = "policy", .args = "[fast|timeshare|racing]",
    .summary = "show or change how tokens are given out", .max_args = 1,
    .detail = "fast: several tokens at once while their SM partitions fit in 100 %\n"
              "timeshare: one token at a time\nracing: no tokens, no partitions",
    .run = run_policy};
