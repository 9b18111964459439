/* fast demo: the main job from end to end. Starts node and gateway in a directory of its own,
 * deploys real functions, sends real requests under three policies, prints one table. */

#include <arpa/inet.h>
#include <errno.h>
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

#define POLL_US 100000
#define SECONDS_DEFAULT 20
#define RAMP "ramp" /* the scene that is not in demo_scenes */

struct demo {
    bool keep;
    const char *sim, *seconds, *listen, *scene;
};

static const struct cli_opt opts[] = {
    {"keep", 0, CLI_FLAG, offsetof(struct demo, keep), NULL,
     "leave everything running afterwards, until Ctrl-C"},
    {"sim", 0, CLI_STR, offsetof(struct demo, sim), "DEVICE[:N]",
     "simulate this even where a GPU is (default without one: v100-16gb)",
     "v100-16gb a100-40gb h100-80gb"},
    {"seconds", 0, CLI_STR, offsetof(struct demo, seconds), "N",
     "length of each load, 5 to 600 (default 20); six of them are played"},
    {"scene", 0, CLI_STR, offsetof(struct demo, scene), "NAME",
     "play this one alone: mix, neighbour or ramp", "mix neighbour ramp"},
    {"listen", 0, CLI_ADDR, offsetof(struct demo, listen), "HOST:PORT",
     "of the gateway (default: a free port; with --keep 127.0.0.1:8080)"},
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int s)
{
    (void)s;
    interrupted = 1;
}

/* Who closed standard output, or has it on a full disk, does not wait for the end either. */
bool demo_interrupted(void)
{
    return interrupted || ferror(stdout);
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

static void keep_running(const struct platform *p)
{
    printf("\nStill running at %s. Try in another terminal:\n"
           "  export OPENFAAS_URL=%s\n  fast top\n  fast gpu\n  fast describe resnet50\n"
           "  fast scale resnet50 4\n  fast explain resnet50\n  curl -d x %s/function/bert\nCtrl-C stops everything.\n",
           p->url, p->url, p->url);
    fflush(stdout);
    while (!demo_interrupted())
        usleep(POLL_US);
}

static int play_scenes(const struct demo *demo, const struct demo_stage *stage)
{
    int s = CLI_OK;
    for (int i = 0; i < demo_scene_count && !s; i++)
        if (!demo->scene || !strcmp(demo->scene, demo_scenes[i].name))
            s = demo_scene_play(stage, &demo_scenes[i]);
    if (!s && (!demo->scene || !strcmp(demo->scene, RAMP)))
        s = demo_scale(stage);
    return s;
}

static int with_platform(struct cli *cli, const struct demo *demo, struct platform *p,
                         const struct demo_digits *d, int seconds, bool simulated)
{
    cli->gateway = p->url;
    struct demo_stage stage = {.cli = cli, .digits = d, .port = atoi(strrchr(p->url, ':') + 1),
                               .seconds = seconds, .simulated = simulated,
                               .out = cli->json ? stderr : stdout, .list = cli->json ? json_array() : NULL};
    fprintf(stage.out, "%sFunctions share a GPU behind the gateway%s\n  %s GPU, gateway at %s\n",
            view_color(cli, "bold"), view_color(cli, "off"), simulated ? "simulated" : "real", p->url);
    int s = play_scenes(demo, &stage);
    if (!s && !cli->json && simulated)
        puts("\nThe GPU was simulated: the tables compare policies on the simulation and say\n"
             "nothing about a GPU.");
    if (!s && cli->json)
        api_print(stage.list);
    json_decref(stage.list);
    if (demo->keep && !s)
        s = demo_deploy(&stage, &demo_scenes[0]);
    if (demo->keep)
        keep_running(p);
    return s;
}

static int check(const struct demo *demo, int64_t *ret_seconds, struct fast_err *err)
{
    *ret_seconds = SECONDS_DEFAULT;
    int r = demo->seconds ? fast_parse_int(demo->seconds, "--seconds", 5, 600, ret_seconds, err) : 0;
    if (!r && demo->sim)
        r = fast_parse_sim(demo->sim, err);
    bool known = !demo->scene || !strcmp(demo->scene, RAMP);
    for (int i = 0; i < demo_scene_count; i++)
        known = known || !strcmp(demo->scene, demo_scenes[i].name);
    if (!r && !known)
        r = fast_err_set(err, FAST_EINVAL, "--scene: \"%.40s\" is not one of mix, neighbour, ramp", demo->scene);
    return r;
}

/* Starts everything in |dir|, plays, and stops everything. */
static int run_in(struct cli *cli, const struct demo *demo, const struct demo_digits *digits, int seconds,
                  const char *dir)
{
    struct fast_err err;
    struct platform p;
    char listen[64], metrics[64];
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", demo->keep ? 8080 : free_port());
    snprintf(metrics, sizeof(metrics), "127.0.0.1:%d", demo->keep && !demo->listen ? 8082 : free_port());
    bool real = !demo->sim && access("/proc/driver/nvidia/version", R_OK) == 0;
    struct platform_conf conf = {.state_dir = dir, .listen = demo->listen ? demo->listen : listen,
                                 .metrics = metrics,
                                 .sim = real ? NULL : demo->sim ? demo->sim : "v100-16gb"};
    if (platform_start(&p, cli, &conf, &err))
        return demo_interrupted() ? CLI_FAILED : cli_fail(CLI_FAILED, "%s", err.msg);
    int s = demo_interrupted() ? CLI_FAILED : with_platform(cli, demo, &p, digits, seconds, !real);
    platform_stop(&p);
    return s;
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct demo *demo = arg;
    struct fast_err err;
    struct demo_digits digits;
    int64_t seconds;
    const char *tmp = getenv("TMPDIR");
    char dir[64];
    (void)argc;
    (void)argv;
    if (check(demo, &seconds, &err))
        return cli_fail(CLI_USAGE, "demo: %s", err.msg);
    if (demo_digits_load(&digits, cli, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    struct sigaction sa = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    /* The paths of sockets in it have to be short. */
    snprintf(dir, sizeof(dir), "%s/fast-demo-XXXXXX", tmp && *tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    if (!mkdtemp(dir)) {
        demo_digits_fini(&digits);
        return cli_fail(CLI_FAILED, "cannot make the directory %s: %s; $TMPDIR names another place", dir,
                        strerror(errno));
    }
    int s = run_in(cli, demo, &digits, (int)seconds, dir);
    demo_digits_fini(&digits);
    if (s && !demo_interrupted()) {
        fprintf(stderr, "fast: the logs of this run are kept in %s\n", dir);
        return s;
    }
    if (demo_interrupted())
        fputs("fast: interrupted; everything is stopped and removed\n", stderr);
    return fast_dir_remove(dir, &err) ? cli_fail(CLI_FAILED, "%s", err.msg) : s;
}

const struct cli_cmd cmd_demo = {
    .name = "demo", .args = "", .summary = "what sharing a GPU is worth, from end to end, with tables",
    .detail = "Starts node and gateway in a directory of its own and sends real functions real requests, on\n"
              "one GPU (simulated where there is none). Three scenes:\n"
              "  mix        digits and four models under the policies timeshare, racing and fast\n"
              "  neighbour  functions with an SLO beside one that takes all it gets, under racing and fast\n"
              "  ramp       replicas of one function follow its load up, down and to none, with the reasons\n"
              "It takes two and a half minutes, and everything is stopped and removed at the end.\n"
              "Examples:\n  fast demo --scene neighbour --seconds 10\n  fast demo --json > demo.json",
    CLI_CMD_OPTS(opts, struct demo), .run = run};
