/* Starting and stopping the two daemons. They are found beside this executable: in its own folder
 * when installed, in the folders of the build tree otherwise. Their logs go to the state directory. */

#include "cli/platform.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "io/file.h"
#include "io/loop.h"
#include "io/packet.h"

#define START_TIMEOUT FAST_S(20)
#define STOP_TIMEOUT FAST_S(15)
#define POLL_STEP_US 20000
#define ARGS_MAX 64

static const char *const names[PLATFORM_COUNT] = {"fast-node", "fast-gateway"};
static const char *const folders[PLATFORM_COUNT] = {"node", "gateway"};

struct args {
    char *v[ARGS_MAX];
    int n;
};

const char *platform_name(int which)
{
    return names[which];
}

static void add_arg(struct args *a, const char *flag, const char *value)
{
    if (!value || a->n + 2 >= ARGS_MAX)
        return;
    if (flag)
        a->v[a->n++] = strdup(flag);
    a->v[a->n++] = strdup(value);
}

static void free_args(struct args *a)
{
    for (int i = 0; i < a->n; i++)
        free(a->v[i]);
}

static int find_program(const struct cli *cli, int which, char *path, size_t cap,
                        struct fast_err *err)
{
    snprintf(path, cap, "%s/%s", cli->self_dir, names[which]);
    if (!access(path, X_OK))
        return 0;
    snprintf(path, cap, "%s/../%s/%s", cli->self_dir, folders[which], names[which]);
    if (!access(path, X_OK))
        return 0;
    return fast_err_set(err, FAST_ENOENT, "%s is neither beside fast in %.120s nor in the build tree",
                        names[which], cli->self_dir);
}

static void build_args(const struct platform *p, int which, struct args *a)
{
    const struct platform_conf *c = &p->conf;
    add_arg(a, "--state-dir", p->state_dir);
    if (which == PLATFORM_NODE) {
        add_arg(a, "--sim", c->sim);
        add_arg(a, "--policy", c->policy);
        add_arg(a, "--charge", c->charge);
        add_arg(a, "--window", c->window);
        add_arg(a, "--model-limit", c->model_limit);
        add_arg(a, "--function-users", c->users);
        return;
    }
    add_arg(a, "--listen", c->listen);
    add_arg(a, "--metrics", c->metrics);
    add_arg(a, "--policy", c->scaling);
    for (int i = 0; c->images && i < c->images->n; i++)
        add_arg(a, "--images", c->images->v[i]);
    for (int i = 0; c->more && i < c->more->n; i++)
        add_arg(a, NULL, c->more->v[i]);
}

/* In the child: nothing but system calls. The parent's death ends it with a SIGTERM, so that no
 * daemon is left behind when `fast up` is killed. */
static void run_child(char *const *argv, int log_fd, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0); /* Ctrl-C reaches `fast up` alone, which stops its children in order */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    execv(argv[0], argv);
    _exit(127);
}

static int spawn(struct platform *p, int which, struct fast_err *err)
{
    char path[8300];
    struct args a = {0};
    int r = find_program(p->cli, which, path, sizeof(path), err);
    if (r)
        return r;
    int fd = open(p->log[which], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "cannot write %.150s: %s", p->log[which],
                            strerror(errno));
    add_arg(&a, NULL, path);
    build_args(p, which, &a);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0)
        run_child(a.v, fd, parent);
    close(fd);
    free_args(&a);
    if (pid < 0)
        return fast_err_set(err, FAST_EIO, "fork: %s", strerror(errno));
    p->pid[which] = pid;
    return 0;
}

/* The gateway is there when it answers |path|: /healthz, or what needs the node behind it. */
static bool answers(struct platform *p, int which, const char *path_asked)
{
    if (which == PLATFORM_NODE) {
        char path[4200];
        int fd = -1;
        snprintf(path, sizeof(path), "%s/control.sock", p->state_dir);
        if (fast_packet_connect(path, false, &fd, NULL))
            return false;
        close(fd);
        return true;
    }
    struct cli cli = *p->cli;
    cli.gateway = p->url;
    api_autoreply r = {0};
    if (api_call(&cli, "GET", path_asked, NULL, 0, NULL, &r))
        return false;
    return r.status == 200 || r.status == 401; /* 401: only with a password, and it is up */
}

/* Then a daemon could not even log why it ended. */
static bool is_full(const char *dir)
{
    struct statvfs v;
    return !statvfs(dir, &v) && (v.f_bavail == 0 || (v.f_files && v.f_favail == 0));
}

static int wait_for(struct platform *p, int which, struct fast_err *err)
{
    fast_ns end = fast_clock_now() + START_TIMEOUT;
    char line[180] = "";
    int status;
    while (fast_clock_now() < end) {
        if (waitpid(p->pid[which], &status, WNOHANG) == p->pid[which]) {
            p->pid[which] = 0;
            int fd = open(p->log[which], O_RDONLY | O_CLOEXEC);
            if (fd >= 0) {
                fast_file_last_line(fd, line, sizeof(line));
                close(fd);
            }
            bool usage = WIFEXITED(status) && WEXITSTATUS(status) == 2;
            return fast_err_set(err, usage ? FAST_EINVAL : FAST_EPEER, "%s did not start: %s%.150s", names[which],
                                *line ? line : is_full(p->state_dir) ? "there is no room left in "
                                                                     : "it ended without a word; see ",
                                *line ? "" : p->state_dir);
        }
        if (answers(p, which, "/system/policy"))
            return 0;
        usleep(POLL_STEP_US);
    }
    return fast_err_set(err, FAST_ETIME, "%s does not answer after 20 s; its log is %.150s",
                        names[which], p->log[which]);
}

int platform_restart(struct platform *p, int which, struct fast_err *err)
{
    return spawn(p, which, err);
}

void platform_state_dir(const char *given, char *ret, size_t cap)
{
    const char *home = getenv("HOME");
    if (given)
        snprintf(ret, cap, "%s", given);
    else if (geteuid() == 0)
        snprintf(ret, cap, "/var/lib/fast-gshare");
    else
        snprintf(ret, cap, "%s/.local/state/fast-gshare", home ? home : "/tmp");
}

int platform_start(struct platform *p, struct cli *cli, const struct platform_conf *conf,
                   struct fast_err *err)
{
    *p = (struct platform){.conf = *conf, .cli = cli};
    const char *listen = conf->listen ? conf->listen : "127.0.0.1:8080";
    platform_state_dir(conf->state_dir, p->state_dir, sizeof(p->state_dir));
    snprintf(p->url, sizeof(p->url), "http://%.250s", listen);
    int r = conf->sim ? fast_parse_sim(conf->sim, err) : 0; /* before anything is made */
    r = r ? r : fast_dir_make(p->state_dir, 0755, err);
    for (int i = 0; !r && i < PLATFORM_COUNT; i++) {
        snprintf(p->log[i], sizeof(p->log[i]), "%s/%s.log", p->state_dir, names[i]);
        if (answers(p, i, "/healthz"))
            r = fast_err_set(err, FAST_EBUSY, i == PLATFORM_NODE
                             ? "a fast-node runs in %s already; stop it, or use another --state-dir"
                             : "something answers at %s already; use another --listen",
                             i == PLATFORM_NODE ? p->state_dir : p->url);
    }
    for (int i = 0; !r && i < PLATFORM_COUNT; i++) {
        r = spawn(p, i, err);
        if (!r)
            r = wait_for(p, i, err);
        p->node_lived = p->node_lived || (!r && i == PLATFORM_NODE);
    }
    if (r)
        platform_stop(p);
    return r;
}

static void stop_one(struct platform *p, int which)
{
    if (p->pid[which] <= 0)
        return;
    kill(p->pid[which], SIGTERM);
    fast_ns end = fast_clock_now() + STOP_TIMEOUT;
    while (waitpid(p->pid[which], NULL, WNOHANG) == 0) {
        if (fast_clock_now() > end) {
            kill(p->pid[which], SIGKILL);
            waitpid(p->pid[which], NULL, 0);
            break;
        }
        usleep(POLL_STEP_US);
    }
    p->pid[which] = 0;
}

/* A node that died leaves functions and the MPS daemon behind, for its next life to adopt. At the end
 * there has to be one more life, to end them. */
static void revive_to_end(struct platform *p)
{
    struct fast_err err;
    if (!p->node_lived || p->pid[PLATFORM_NODE] > 0)
        return;
    if (spawn(p, PLATFORM_NODE, &err) || wait_for(p, PLATFORM_NODE, &err))
        fprintf(stderr, "fast: functions may be left running: %s\n", err.msg);
}

void platform_stop(struct platform *p)
{
    int status;
    if (p->pid[PLATFORM_NODE] > 0 &&
        waitpid(p->pid[PLATFORM_NODE], &status, WNOHANG) == p->pid[PLATFORM_NODE])
        p->pid[PLATFORM_NODE] = 0;
    revive_to_end(p);
    for (int i = PLATFORM_COUNT - 1; i >= 0; i--)
        stop_one(p, i);
}
