/* fast up: node and gateway together, in the foreground, until Ctrl-C. */

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/units.h"
#include "cli/platform.h"
#include "io/loop.h"

/* A daemon that dies is started again; one that dies this often within a minute is given up. */
#define DEATHS_MAX 5
#define DEATHS_WITHIN FAST_S(60)

struct up {
    const char *sim, *state_dir, *listen, *metrics, *policy, *charge, *window;
    struct cli_list images;
};

static const struct cli_opt opts[] = {
    {"sim", 0, CLI_STR, offsetof(struct up, sim), "DEVICE[:N]",
     "simulate N GPUs: v100-16gb, a100-40gb or h100-80gb"},
    {"listen", 0, CLI_STR, offsetof(struct up, listen), "HOST:PORT", "default: 127.0.0.1:8080"},
    {"metrics", 0, CLI_STR, offsetof(struct up, metrics), "HOST:PORT", "default: 127.0.0.1:8082"},
    {"state-dir", 0, CLI_STR, offsetof(struct up, state_dir), "DIR",
     "functions, secrets, logs, sockets (default: /var/lib/fast-gshare as root)"},
    {"images", 0, CLI_LIST, offsetof(struct up, images), "DIR", "folder of executables to deploy"},
    {"policy", 0, CLI_STR, offsetof(struct up, policy), "NAME", "fast, timeshare or racing"},
    {"charge", 0, CLI_STR, offsetof(struct up, charge), "NAME", "busy or held"},
    {"window", 0, CLI_STR, offsetof(struct up, window), "TIME", "accounting period, default 100ms"},
};

/* Waits for one of the signals; 0 on a time-out. */
static int wait_signal(const sigset_t *set, fast_ns timeout)
{
    struct timespec t = {timeout / FAST_S(1), timeout % FAST_S(1)};
    int s = sigtimedwait(set, NULL, &t);
    return s > 0 ? s : 0;
}

struct deaths {
    fast_ns since;
    int count;
};

static int revive(struct platform *p, struct deaths *d)
{
    struct fast_err err;
    for (int i = 0; i < PLATFORM_COUNT; i++) {
        int status;
        if (p->pid[i] <= 0 || waitpid(p->pid[i], &status, WNOHANG) != p->pid[i])
            continue;
        p->pid[i] = 0;
        fast_ns now = fast_clock_now();
        if (now - d->since > DEATHS_WITHIN)
            *d = (struct deaths){now, 0};
        if (++d->count > DEATHS_MAX)
            return cli_fail(CLI_FAILED, "%s died %d times within a minute; its log is %s",
                            platform_name(i), d->count, p->log[i]);
        fprintf(stderr, "fast: %s died (%s %d); it is started again\n", platform_name(i),
                WIFSIGNALED(status) ? "signal" : "status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        if (platform_restart(p, i, &err))
            return cli_fail(CLI_FAILED, "%s", err.msg);
    }
    return CLI_OK;
}

static void greet(const struct platform *p, const struct up *up)
{
    printf("Gateway  %s   (OpenFaaS API; metrics on %s)\n", p->url,
           up->metrics ? up->metrics : "127.0.0.1:8082");
    printf("GPUs     %s\n", up->sim ? "simulated: no figure from here is a GPU's" : "real");
    printf("State    %s\n\nTry in another terminal:\n"
           "  fast gpu\n"
           "  fast deploy digits --image digits --sm 12 --quota 0.3 --slo 50ms\n"
           "  fast top\n\nCtrl-C stops everything.\n", p->state_dir);
    fflush(stdout);
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct up *up = arg;
    struct platform_conf conf = {.state_dir = up->state_dir, .listen = up->listen,
                                 .metrics = up->metrics, .sim = up->sim, .policy = up->policy,
                                 .charge = up->charge, .window = up->window, .images = &up->images};
    struct platform p;
    struct fast_err err;
    struct deaths deaths = {fast_clock_now(), 0};
    sigset_t set;
    (void)argc;
    (void)argv;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    if (platform_start(&p, cli, &conf, &err))
        return cli_fail(CLI_FAILED, "%s", err.msg);
    greet(&p, up);
    int status = CLI_OK;
    for (int s = 0; status == CLI_OK; s = wait_signal(&set, FAST_S(1))) {
        if (s == SIGINT || s == SIGTERM || s == SIGHUP)
            break;
        status = revive(&p, &deaths);
    }
    fputs("\nStopping functions and daemons.\n", stderr);
    platform_stop(&p);
    return status;
}

const struct cli_cmd cmd_up = {
    .name = "up", .args = "", .summary = "start node and gateway on this machine",
    .detail = "With a GPU:     fast up\nWithout a GPU:  fast up --sim=v100-16gb:2\n"
              "Functions that were deployed before are started again.",
    CLI_CMD_OPTS(opts, struct up), .run = run};
