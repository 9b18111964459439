/* fast-node: brings up the parts in their order and takes them down in the reverse one. An orderly
 * end stops the replicas; any other end leaves them running, to be adopted by the next life. */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "io/file.h"
#include "node/gpu.h"
#include "node/manager.h"
#include "node/mps.h"
#include "node/options.h"
#include "node/stores.h"
#include "node/users.h"

struct program {
    struct node node;
    struct node_options options;
    bool stopping, orderly;
    fast_ns asked; /* to stop */
};

/* A second signal ends the node without its replicas. One that comes at once is the first one again:
 * the kernel repeats the signal for a dead parent (PR_SET_PDEATHSIG) when that had several threads. */
#define AGAIN FAST_MS(500)

/* Of the timers that end tokens; the kernel's default of 50 us would come on top of every one. */
#define TIMER_SLACK_NS 1000

static void on_stopped(void *arg)
{
    struct program *p = arg;
    p->orderly = true;
    fast_loop_stop(p->node.loop);
}

static void on_signal(void *arg, int sig)
{
    struct program *p = arg;
    if (p->stopping && fast_clock_now() - p->asked < AGAIN)
        return;
    fast_log(INFO, p->stopping ? "ending at once" : "stopping", "signal=%s", strsignal(sig));
    if (p->stopping) {
        fast_loop_stop(p->node.loop);
        return;
    }
    p->stopping = true;
    p->asked = fast_clock_now();
    node_agent_stop(p->node.agent, on_stopped, p);
}

/* The libraries of the simulated driver, loaded here and in replicas, read these. */
static int set_environment(const struct node_conf *c, struct fast_err *err)
{
    if (c->sim_spec && (setenv("FAST_SIM", c->sim_spec, 1) || setenv("FAST_SIM_DIR", c->sim_dir, 1)))
        return fast_err_set(err, FAST_ENOMEM, "no memory for the environment");
    return 0;
}

static int make_dirs(struct node *node, struct fast_err *err)
{
    static const char *const dirs[] = {"", "/run", "/replicas", "/logs"};
    const char *state = node->conf->state_dir;
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
        snprintf(path, sizeof(path), "%s%s", state, dirs[i]);
        int r = fast_dir_make(path, 0755, err);
        if (r)
            return fast_err_wrap(err, "--state-dir");
    }
    if (snprintf(node->socket, sizeof(node->socket), "%s/run/node.sock", state) >= (int)sizeof(node->socket))
        return fast_err_set(err, FAST_EINVAL,
                            "--state-dir: %.60s... is too long for a socket path (108 bytes)", state);
    return 0;
}

/* One node has a state directory, and with it sockets, records and the MPS daemon: nothing of it may be touched
 * before that is known. The lock is this process's: the kernel lets go of it when that ends, however it does, and
 * whatever child was about to begin. */
static int lock_state(const struct node *node, struct fast_err *err)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/lock", node->conf->state_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fd >= 0 && !fcntl(fd, F_SETLK, &lock))
        return 0;
    int r = fd >= 0 && (errno == EAGAIN || errno == EACCES)
                ? fast_err_set(err, FAST_EBUSY, "--state-dir: %.150s is in use by another fast-node",
                               node->conf->state_dir)
                : fast_err_set(err, FAST_EIO, "--state-dir: cannot lock %.150s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return r;
}

static int find_gpus(struct node *node, struct fast_err *err)
{
    const struct node_conf *c = node->conf;
    struct fast_err why;
    int r = node_gpus_new(c->sim_libs, &node->gpus, &why);
    if (r)
        fast_err_set(err, why.code, "%.180s%s", why.msg,
                     c->sim_spec ? "" : "; to simulate one, add --sim=v100-16gb");
    return r;
}

static int begin(struct program *p, struct fast_err *err)
{
    struct node *n = &p->node;
    static const int signals[] = {SIGTERM, SIGINT};
    n->conf = &p->options.conf;
    n->epoch = (uint64_t)fast_clock_wall();
    /* For clients; two more are on their way to each that has just come, which the kernel counts for this user. */
    uint64_t descriptors;
    fast_descriptors_raise(&p->options.conf.descriptors, &descriptors); /* what there is has to do if it fails */
    int r = set_environment(n->conf, err);
    if (!r)
        r = find_gpus(n, err);
    if (!r)
        r = make_dirs(n, err);
    if (!r)
        r = lock_state(n, err);
    if (!r && !n->conf->sim_spec)
        r = node_gpus_lock(n->gpus, err);
    if (!r)
        r = fast_loop_new(&n->loop, err);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]) && !r; i++)
        r = fast_loop_signal(n->loop, signals[i], on_signal, p, err);
    if (!r)
        r = node_users_new(n->conf, &n->users, err);
    if (!r)
        r = node_mps_new(n->conf, n->loop, &n->mps, err);
    if (!r)
        r = node_manager_new(n, &n->manager, err);
    if (!r)
        r = node_stores_new(n, &n->stores, err);
    if (!r)
        r = node_agent_new(n, &n->agent, err);
    if (!r)
        node_mps_on_lost(n->mps, node_agent_mps_lost, n->agent);
    return r;
}

static void end(struct program *p)
{
    struct node *n = &p->node;
    if (n->manager) {
        node_manager_closing(n->manager);
        unlink(n->socket);
    }
    node_manager_free(n->manager); /* it knows replicas and stores */
    n->manager = NULL;
    if (p->orderly)
        node_stores_quit(n->stores);
    node_stores_free(n->stores);
    n->stores = NULL; /* the agent asks nothing of them any more */
    node_agent_free(n->agent);
    if (p->orderly)
        node_mps_quit(n->mps);
    node_mps_free(n->mps);
    node_users_free(n->users);
    node_gpus_free(n->gpus);
    fast_loop_free(n->loop);
    /* What the simulated driver kept. Nobody uses it any more: every replica has ended. */
    if (p->orderly && n->conf->sim_spec && n->conf->sim_dir_own)
        fast_dir_remove(n->conf->sim_dir, NULL);
}

static void tell_start(const struct node *n)
{
    const struct node_conf *c = n->conf;
    for (int i = 0; i < node_gpu_count(n->gpus); i++) {
        const struct node_gpu_info *g = node_gpu_info(n->gpus, (uint32_t)i);
        fast_log(INFO, "gpu", "index=%d name=\"%s\" uuid=%s sms=%u mem_mib=%llu", i, g->name, g->uuid,
                 g->sms, (unsigned long long)(g->mem_total >> 20));
    }
    fast_log(INFO, "node ready", "name=%s state_dir=%s driver=%s%s mps=%s policy=%s", c->name,
             c->state_dir, node_gpu_driver(n->gpus), c->sim_spec ? " (simulated)" : "",
             node_mps_ready(n->mps) ? "yes" : "no", fast_policy_name(c->sched.policy));
}

int main(int argc, char **argv)
{
    static struct program p; /* large, and zero */
    struct fast_err err = {0};
    int r = node_options_read(argc, argv, &p.options, &err);
    if (r) {
        fprintf(stderr, "fast-node: %s\n", err.msg);
        return 2;
    }
    if (p.options.help || p.options.version) {
        if (p.options.help)
            node_options_help();
        else
            printf("fast-node " FAST_VERSION "\n");
        return 0;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
    /* Replicas have the same user, and the tickets and connections of all of them are in here: nothing may look into
     * this process or take a descriptor of it that has not the right to do so with other users' processes. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    fast_log_set(p.options.log_level, fast_log_stderr);
    r = begin(&p, &err);
    if (!r) {
        tell_start(&p.node);
        r = fast_loop_run(p.node.loop, &err);
    }
    if (r)
        fprintf(stderr, "fast-node: %s\n", err.msg);
    else
        fast_log(INFO, "node ends", "replicas=%s", p.orderly ? "stopped" : "left running");
    end(&p);
    return r ? 1 : 0;
}
