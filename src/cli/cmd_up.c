/* fast up: node and gateway together, in the foreground, until Ctrl-C. */

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/parse.h"
#include "base/units.h"
#include "cli/platform.h"
#include "core/scale_load.h"
#include "io/cgroup.h"
#include "io/loop.h"

/* A daemon that dies is started again: at once after it lived for LIVED_WELL, else after a pause that
 * doubles. It is never given up, since functions run on without it and would end with `fast up`. */
#define LIVED_WELL FAST_S(10)
#define PAUSE_MIN FAST_MS(100)
#define PAUSE_MAX FAST_S(10)

struct up {
    const char *sim, *state_dir, *listen, *metrics, *policy, *scaling, *charge, *window, *model_limit, *users;
    const char *basic_auth;
    struct cli_list images, more;
};

static const struct cli_opt opts[] = {
    {"sim", 0, CLI_STR, offsetof(struct up, sim), "DEVICE[:N]",
     "simulate N GPUs: v100-16gb, a100-40gb or h100-80gb", "v100-16gb a100-40gb h100-80gb"},
    {"listen", 0, CLI_ADDR, offsetof(struct up, listen), "HOST:PORT", "default: 127.0.0.1:8080"},
    {"metrics", 0, CLI_ADDR, offsetof(struct up, metrics), "HOST:PORT",
     "default: 127.0.0.1:8082; \"\": none", ""},
    {"state-dir", 0, CLI_STR, offsetof(struct up, state_dir), "DIR",
     "functions, secrets, logs, sockets (default: /var/lib/fast-gshare as root)"},
    {"images", 0, CLI_LIST, offsetof(struct up, images), "DIR", "folder of executables to deploy"},
    {"gateway-option", 0, CLI_LIST, offsetof(struct up, more), "OPTION",
     "an option of fast-gateway, such as --access-log=FILE or --tls-listen=ADDRESS"},
    {"basic-auth", 0, CLI_STR, offsetof(struct up, basic_auth), "DIR",
     "ask for the user and password in DIR/basic-auth-user and DIR/basic-auth-password"},
    {"policy", 0, CLI_ONE, offsetof(struct up, policy), "NAME",
     "how replicas share a GPU: fast, timeshare or racing", "fast timeshare racing"},
    {"scaling", 0, CLI_ONE, offsetof(struct up, scaling), "NAME",
     "how many there are: queue, paper, hybrid or whole (fast-gateway --policy)", "queue paper hybrid whole"},
    {"charge", 0, CLI_ONE, offsetof(struct up, charge), "NAME", "busy or held", "busy held"},
    {"window", 0, CLI_STR, offsetof(struct up, window), "TIME", "accounting period, default 100ms"},
    {"function-users", 0, CLI_STR, offsetof(struct up, users), "RANGE",
     "FIRST-LAST or none: users (numbers) that functions run as when root starts this; default 200000-265535"},
    {"model-limit", 0, CLI_STR, offsetof(struct up, model_limit), "LIST",
     "how much of a GPU shared models of a namespace may take (fast-node --model-limit)"},
};

/* Waits for one of the signals; 0 on a time-out. */
static int wait_signal(const sigset_t *set, fast_ns timeout)
{
    struct timespec t = {timeout / FAST_S(1), timeout % FAST_S(1)};
    int s = sigtimedwait(set, NULL, &t);
    return s > 0 ? s : 0;
}

static fast_ns clamp(fast_ns v, fast_ns min, fast_ns max)
{
    return v < min ? min : v > max ? max : v;
}

struct life {
    fast_ns born, pause, due; /* the start, the last pause, the next start if it is dead */
};

static void mourn(const struct platform *p, int which, int status, struct life *l)
{
    fast_ns now = fast_clock_now();
    bool killed = WIFSIGNALED(status);
    if (now - l->born >= LIVED_WELL)
        l->pause = 0;
    else
        l->pause = clamp(2 * l->pause, PAUSE_MIN, PAUSE_MAX);
    l->due = now + l->pause;
    fprintf(stderr, "fast: %s died (%s %d); ", platform_name(which), killed ? "signal" : "status",
            killed ? WTERMSIG(status) : WEXITSTATUS(status));
    if (l->pause < FAST_S(1))
        fputs("it is started again\n", stderr);
    else
        fprintf(stderr, "it is started again in %lld s; its log is %s\n",
                (long long)(l->pause / FAST_S(1)), p->log[which]);
}

/* Starts what is dead and due; returns how long to wait at most until the next look. Nothing here
 * waits for a daemon to be ready: the other one may have to be started for that. */
static fast_ns revive(struct platform *p, struct life *lives)
{
    struct fast_err err;
    fast_ns wait = FAST_S(1);
    for (int i = 0; i < PLATFORM_COUNT; i++) {
        struct life *l = &lives[i];
        int status;
        if (p->pid[i] > 0 && waitpid(p->pid[i], &status, WNOHANG) == p->pid[i]) {
            p->pid[i] = 0;
            mourn(p, i, status, l);
        }
        fast_ns now = fast_clock_now();
        if (p->pid[i] <= 0 && now >= l->due) {
            l->born = now;
            if (platform_restart(p, i, &err)) {
                fprintf(stderr, "fast: %s; it is tried again in 10 s\n", err.msg);
                l->due = now + PAUSE_MAX;
            }
        }
        if (p->pid[i] <= 0)
            wait = clamp(l->due - now, 0, wait);
    }
    return wait;
}

static void greet(const struct platform *p, const struct up *up)
{
    printf("Gateway  %s   (OpenFaaS API; metrics on %s)\n", p->url,
           up->metrics ? up->metrics : "127.0.0.1:8082");
    printf("GPUs     %s\n", up->sim ? "simulated: no figure from here is a GPU's" : "real");
    const char *asked = getenv("basic_auth"), *dir = getenv("secret_mount_path");
    bool auth = asked && (!strcmp(asked, "true") || !strcmp(asked, "1"));
    printf("Access   %s\n",
           auth ? "with the password of basic-auth-password"
                : "no password: every user of this machine who reaches the port can run programs as\n"
                  "         this user. To ask for one: --basic-auth DIR");
    printf("State    %s\n\nTry in another terminal:\n", p->state_dir);
    if (strcmp(p->url, "http://127.0.0.1:8080") != 0)
        printf("  export OPENFAAS_URL=%s\n", p->url);
    if (auth && dir)
        printf("  export FAST_PASSWORD=\"$(cat %s/basic-auth-password)\"\n", dir);
    printf("  fast gpu\n"
           "  fast deploy digits --image digits --sm 12 --quota 0.3 --slo 50ms\n"
           "  fast top\n\nCtrl-C stops everything.\n");
    fflush(stdout);
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct up *up = arg;
    struct platform_conf conf = {.state_dir = up->state_dir, .listen = up->listen,
                                 .metrics = up->metrics, .sim = up->sim, .policy = up->policy,
                                 .scaling = up->scaling,
                                 .charge = up->charge, .window = up->window,
                                 .model_limit = up->model_limit, .users = up->users, .images = &up->images,
                                 .more = &up->more};
    struct platform p;
    struct fast_err err;
    struct life lives[PLATFORM_COUNT] = {{0}};
    sigset_t set;
    (void)argc;
    (void)argv;
    enum fast_scaler scaler;
    if (up->sim && fast_parse_sim(up->sim, &err))
        return cli_fail(CLI_USAGE, "up: %s", err.msg);
    if (up->scaling && fast_scaler_parse(up->scaling, &scaler, &err))
        return cli_fail(CLI_USAGE, "up: --scaling: %s", err.msg);
    if (up->basic_auth) { /* inherited by the gateway, which reads the files itself */
        setenv("basic_auth", "true", 1);
        setenv("secret_mount_path", up->basic_auth, 1);
    }
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    fast_cgroup_settle(&fast_cgroup_here, getpid());
    int r = platform_start(&p, cli, &conf, &err);
    if (r)
        return cli_fail(r == -FAST_EINVAL ? CLI_USAGE : CLI_FAILED, "%s", err.msg);
    greet(&p, up);
    for (int i = 0; i < PLATFORM_COUNT; i++)
        lives[i].born = fast_clock_now();
    fast_ns wait = 0;
    for (int s = 0; s != SIGINT && s != SIGTERM && s != SIGHUP; s = wait_signal(&set, wait))
        wait = revive(&p, lives);
    fputs("\nStopping functions and daemons.\n", stderr);
    platform_stop(&p);
    return CLI_OK;
}

const struct cli_cmd cmd_up = {
    .name = "up", .args = "", .summary = "start node and gateway on this machine",
    .detail = "With a GPU:     fast up\nWithout a GPU:  fast up --sim=v100-16gb:2\n"
              "Functions that were deployed before are started again.",
    CLI_CMD_OPTS(opts, struct up), .run = run};
