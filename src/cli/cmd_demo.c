/* fast demo: the main job from end to end. Starts node and gateway in a directory of its own,
 * deploys real functions, sends real requests under three policies, prints one table. */

#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "cli/demo.h"
#include "cli/platform.h"
#include "cli/view.h"
#include "io/file.h"
#include "io/loop.h"

#define READY_TIMEOUT FAST_S(60)
#define GONE_TIMEOUT FAST_S(30)
#define POLL_US 100000
#define SECONDS_DEFAULT 25

/* One V100 holds all of it: the slices of the paper's packing example (ResNet 12 % x 40 %, RNN-T
 * 24 % x 40 %, BERT 50 % x 60 %), GNMT beside them, and the digits. SLOs: the paper's for ResNet,
 * MLPerf's bounds for BERT (130 ms), GNMT (250 ms) and RNN-T (1 s). */
const struct demo_fn demo_functions[DEMO_FUNCTIONS] = {
    {"digits", "digits", NULL, 1, 6, "0.2", "1.0", FAST_MIB(512), FAST_MS(50), DEMO_AZURE, 20000},
    {"resnet50", "replay", "resnet50", 3, 12, "0.4", "0.8", FAST_MIB(1600), FAST_MS(69), DEMO_RAMP,
     110000},
    {"bert", "replay", "bert", 1, 50, "0.6", "1.0", FAST_MIB(2800), FAST_MS(130), DEMO_POISSON,
     12000},
    {"rnnt", "replay", "rnnt", 1, 24, "0.4", "1.0", FAST_MIB(2400), FAST_MS(1000), DEMO_POISSON,
     3000},
    {"gnmt", "replay", "gnmt", 1, 24, "0.4", "1.0", FAST_MIB(2600), FAST_MS(250), DEMO_POISSON,
     4000},
};

struct demo {
    bool keep;
    const char *sim, *seconds, *listen;
};

static const struct cli_opt opts[] = {
    {"keep", 0, CLI_FLAG, offsetof(struct demo, keep), NULL,
     "leave everything running afterwards, until Ctrl-C"},
    {"sim", 0, CLI_STR, offsetof(struct demo, sim), "DEVICE[:N]",
     "simulate this even where a GPU is (default without one: v100-16gb)",
     "v100-16gb a100-40gb h100-80gb"},
    {"seconds", 0, CLI_STR, offsetof(struct demo, seconds), "N",
     "length of the load per policy, 5 to 600 (default 25)"},
    {"listen", 0, CLI_STR, offsetof(struct demo, listen), "HOST:PORT",
     "of the gateway (default: a free port; with --keep 127.0.0.1:8080)"},
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int s)
{
    (void)s;
    interrupted = 1;
}

bool demo_interrupted(void)
{
    return interrupted;
}

/* A port that is free now. Somebody may take it before the gateway does; then the gateway says so. */
static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int port = -1;
    if (fd >= 0 && !bind(fd, (struct sockaddr *)&a, len) &&
        !getsockname(fd, (struct sockaddr *)&a, &len))
        port = ntohs(a.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

static json_t *deployment(const struct demo_fn *fn)
{
    char sm[16], mem[32], slo[32], replicas[16];
    snprintf(sm, sizeof(sm), "%d", fn->sm_pct);
    snprintf(mem, sizeof(mem), "%llu", (unsigned long long)fn->mem_bytes);
    snprintf(slo, sizeof(slo), "%lldms", (long long)(fn->slo / FAST_MS(1)));
    snprintf(replicas, sizeof(replicas), "%d", fn->replicas);
    json_t *env = fn->model ? json_pack("{s:s}", "MODEL", fn->model) : json_object();
    return json_pack("{s:s, s:s, s:o, s:{s:s, s:s}, s:{s:s, s:s, s:s, s:s, s:s}}", "service",
                     fn->name, "image", fn->image, "envVars", env, "labels",
                     "com.openfaas.scale.min", replicas, "com.openfaas.scale.max", replicas,
                     "annotations", "fastgshare/gpu_sm_partition", sm,
                     "fastgshare/gpu_quota_request", fn->quota_request,
                     "fastgshare/gpu_quota_limit", fn->quota_limit, "fastgshare/gpu_mem", mem,
                     "fastgshare/slo", slo);
}

/* Waits until |wanted| replicas are ready (0: until none is there). */
static int wait_replicas(struct cli *cli, size_t wanted, fast_ns timeout, const char *what)
{
    fast_ns start = fast_clock_now();
    while (!interrupted) {
        json_t *list = NULL, *r;
        size_t i, ready = 0;
        int s = api_json(cli, "GET", "/system/replicas", NULL, &list);
        if (s)
            return s;
        json_array_foreach(list, i, r)
            ready += wanted ? !strcmp(json_text(r, "state"), "ready") : 1;
        json_decref(list);
        if (wanted ? ready >= wanted : ready == 0) {
            view_progress_end();
            return CLI_OK;
        }
        fast_ns waited = fast_clock_now() - start;
        if (waited > timeout) {
            view_progress_end();
            return cli_fail(CLI_FAILED, "%zu of %zu replicas after %d s (%s)", ready, wanted,
                            (int)(waited / FAST_S(1)), what);
        }
        view_progress(what, wanted ? (double)ready / (double)wanted
                                   : (double)waited / (double)timeout);
        usleep(POLL_US);
    }
    return CLI_FAILED;
}

static int deploy_all(struct cli *cli)
{
    size_t replicas = 0;
    for (int i = 0; i < DEMO_FUNCTIONS; i++) {
        json_t *d = deployment(&demo_functions[i]);
        int s = api_json(cli, "POST", "/system/functions", d, NULL);
        json_decref(d);
        if (s)
            return s;
        replicas += (size_t)demo_functions[i].replicas;
    }
    return wait_replicas(cli, replicas, READY_TIMEOUT, "  replicas become ready");
}

static int remove_all(struct cli *cli)
{
    for (int i = 0; i < DEMO_FUNCTIONS; i++) {
        json_t *d = json_pack("{s:s}", "functionName", demo_functions[i].name);
        int s = api_json(cli, "DELETE", "/system/functions", d, NULL);
        json_decref(d);
        if (s)
            return s;
    }
    return wait_replicas(cli, 0, GONE_TIMEOUT, "  replicas go away");
}

static int set_policy(struct cli *cli, enum fast_policy policy)
{
    json_t *body = json_pack("{s:s}", "policy", fast_policy_name(policy));
    int s = api_json(cli, "PUT", "/system/policy", body, NULL);
    json_decref(body);
    return s;
}

static int accuracy(struct cli *cli, const struct demo_digits *d)
{
    size_t right = 0;
    for (size_t i = 0; i < d->count && !interrupted; i++) {
        api_autoreply r = {0};
        if (api_call(cli, "POST", "/function/digits", d->bodies[i], d->lens[i],
                     "application/octet-stream", &r) || r.status != 200)
            return cli_fail(CLI_FAILED, "digits did not answer image %zu: %s", i,
                            r.body ? r.body : "");
        right += demo_digits_right(d, i, r.body, r.len);
        if (i % 50 == 0)
            view_progress("  reading digits", (double)i / (double)d->count);
    }
    view_progress_end();
    fprintf(cli->json ? stderr : stdout,
            "  digits: %zu of %zu handwritten digits read right (%.1f%%), none of them used in "
            "training\n", right, d->count, 100.0 * (double)right / (double)d->count);
    return interrupted ? CLI_FAILED : CLI_OK;
}

static int play_all(struct cli *cli, const struct demo_digits *d, int port, int seconds,
                    struct demo_result *results, FILE *out)
{
    static const enum fast_policy order[FAST_POLICY_COUNT] = {
        FAST_POLICY_TIMESHARE, FAST_POLICY_RACING, FAST_POLICY_FAST};
    struct fast_err err;
    int s = CLI_OK;
    for (int k = 0; k < FAST_POLICY_COUNT && !s && !interrupted; k++) {
        results[k].policy = order[k];
        if (k > 0)
            s = remove_all(cli);
        if (!s)
            s = set_policy(cli, order[k]);
        if (!s)
            s = deploy_all(cli);
        if (!s && k == 0)
            s = accuracy(cli, d);
        if (s)
            break;
        fprintf(out, "  playing %d s under policy %s\n", seconds, fast_policy_name(order[k]));
        fflush(out);
        if (demo_play(cli, d, port, seconds, &results[k], &err))
            s = cli_fail(CLI_FAILED, "%s", err.msg);
    }
    return interrupted ? CLI_FAILED : s;
}

static void keep_running(const struct platform *p)
{
    printf("\nStill running at %s. Try in another terminal:\n"
           "  export OPENFAAS_URL=%s\n  fast top\n  fast gpu\n  fast describe resnet50\n"
           "  fast scale resnet50 4\n  fast explain resnet50\n  curl -d x %s/function/bert\nCtrl-C stops everything.\n",
           p->url, p->url, p->url);
    fflush(stdout);
    while (!interrupted)
        pause();
}

static int with_platform(struct cli *cli, const struct demo *demo, struct platform *p,
                         const struct demo_digits *d, int seconds, bool simulated)
{
    FILE *out = cli->json ? stderr : stdout;
    fast_autofree struct demo_result *results = calloc(FAST_POLICY_COUNT, sizeof(*results));
    if (!results)
        return cli_fail(CLI_FAILED, "out of memory");
    cli->gateway = p->url;
    fprintf(out, "%sFunctions share one GPU behind the gateway%s\n  %s GPU, gateway at %s\n",
            view_color(cli, "bold"), view_color(cli, "off"), simulated ? "simulated" : "real",
            p->url);
    fprintf(out, "  resnet50: the paper's ramp; %s; others: Poisson\n", demo_azure_source());
    fflush(out);
    int s = play_all(cli, d, atoi(strrchr(p->url, ':') + 1), seconds, results, out);
    if (s)
        return s;
    if (!demo_report(cli, results, FAST_POLICY_COUNT, simulated))
        s = CLI_FAILED;
    if (!s && !interrupted)
        s = remove_all(cli);
    if (!s && !interrupted)
        s = demo_scale(cli, atoi(strrchr(p->url, ':') + 1), seconds, out);
    if (demo->keep && !s)
        s = deploy_all(cli);
    if (demo->keep)
        keep_running(p);
    return s;
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct demo *demo = arg;
    struct fast_err err;
    struct platform p;
    struct demo_digits digits;
    int64_t seconds = SECONDS_DEFAULT;
    char dir[] = "/tmp/fast-demo-XXXXXX", listen[64], metrics[64];
    (void)argc;
    (void)argv;
    if (demo->seconds && fast_parse_int(demo->seconds, "--seconds", 5, 600, &seconds, &err))
        return cli_fail(CLI_USAGE, "demo: %s", err.msg);
    if (demo_digits_load(&digits, cli, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    if (!mkdtemp(dir))
        return cli_fail(CLI_FAILED, "cannot make a directory in /tmp");
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", demo->keep ? 8080 : free_port());
    snprintf(metrics, sizeof(metrics), "127.0.0.1:%d", demo->keep ? 8082 : free_port());
    bool real = !demo->sim && access("/proc/driver/nvidia/version", R_OK) == 0;
    struct platform_conf conf = {.state_dir = dir, .listen = demo->listen ? demo->listen : listen,
                                 .metrics = metrics,
                                 .sim = real ? NULL : demo->sim ? demo->sim : "v100-16gb"};
    struct sigaction sa = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    int s = CLI_FAILED;
    if (platform_start(&p, cli, &conf, &err)) {
        cli_fail(CLI_FAILED, "%s (logs in %s)", err.msg, dir);
    } else {
        s = with_platform(cli, demo, &p, &digits, (int)seconds, !real);
        platform_stop(&p);
    }
    demo_digits_fini(&digits);
    if (s && !interrupted) {
        fprintf(stderr, "fast: the logs of this run are kept in %s\n", dir);
        return s;
    }
    if (interrupted)
        fputs("fast: interrupted; everything is stopped and removed\n", stderr);
    return fast_dir_remove(dir, &err) ? cli_fail(CLI_FAILED, "%s", err.msg) : s;
}

const struct cli_cmd cmd_demo = {
    .name = "demo", .args = "", .summary = "the main job from end to end, with a table",
    .detail = "Deploys digits and four model servers on one GPU (simulated where there is none),\n"
              "plays the same load under the policies timeshare, racing and fast. Then replicas of one follow a\n"
              "ramp up, down and to none, with the reasons.",
    CLI_CMD_OPTS(opts, struct demo), .run = run};
