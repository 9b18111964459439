/* Starts and supervises nvidia-cuda-mps-control. Whether the daemon lives is asked through its own
 * user interface: socket and pid files stay behind when it dies, and the exit status of the interface
 * is 1 only when there is no daemon. Asking blocks the loop for some milliseconds, at the most
 * ASK_TIMEOUT; that happens at the start and after the daemon has died, when every client of it has
 * failed anyway. */
#include "node/mps.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "io/file.h"

#define CONTROL "nvidia-cuda-mps-control"
#define ASK_TIMEOUT FAST_MS(2000)
#define START_TIMEOUT FAST_S(5)
#define RESTART_DELAY FAST_S(1)

struct node_mps {
    struct fast_loop *loop;
    struct fast_timer *timer; /* starts it again */
    struct fast_watch *watch;
    int pidfd;
    pid_t child; /* 0: adopted */
    bool ready;
    char binary[PATH_MAX];
    char pipe_dir[PATH_MAX], log_dir[PATH_MAX], none_dir[PATH_MAX];
};

bool node_mps_ready(const struct node_mps *m)
{
    return m && m->ready;
}

const char *node_mps_pipe_dir(const struct node_mps *m)
{
    return m->ready ? m->pipe_dir : m->none_dir;
}

/* In a child: everything that the node has blocked or opened is taken back. */
static void child_exec(const struct node_mps *m, int in, int out, char *const argv[])
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    setenv("CUDA_MPS_PIPE_DIRECTORY", m->pipe_dir, 1);
    setenv("CUDA_MPS_LOG_DIRECTORY", m->log_dir, 1);
    unsetenv("LD_PRELOAD");
    unsetenv("CUDA_VISIBLE_DEVICES");
    unsetenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    execvp(m->binary, argv);
    _exit(127);
}

/* Waits for the end of |pid|, at most until |end|; then it is killed. Returns its exit status. */
static int reap(pid_t pid, fast_ns end)
{
    int status = 0;
    for (;;) {
        pid_t r = waitpid(pid, &status, WNOHANG);
        if (r == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        if (r < 0 && errno != EINTR)
            return -1;
        if (fast_clock_now() >= end)
            kill(pid, SIGKILL);
        poll(NULL, 0, 2);
    }
}

/* Gives |command| to the daemon; 0 when there is one that answers. */
static int ask(const struct node_mps *m, const char *command)
{
    int in[2];
    char *argv[] = {(char *)(uintptr_t)m->binary, NULL};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || pipe2(in, O_CLOEXEC)) {
        if (null >= 0)
            close(null);
        return -1;
    }
    pid_t pid = fork();
    if (pid == 0)
        child_exec(m, in[0], null, argv);
    close(in[0]);
    close(null);
    if (pid > 0 && dprintf(in[1], "%s\n", command) < 0)
        fast_log(DEBUG, "mps", "the interface does not read");
    close(in[1]);
    return pid > 0 ? reap(pid, fast_clock_now() + ASK_TIMEOUT) : -1;
}

static bool answers(const struct node_mps *m)
{
    return ask(m, "get_default_active_thread_percentage") == 0;
}

static void on_death(void *arg, int events);

static void follow(struct node_mps *m, pid_t pid)
{
    m->pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (m->pidfd >= 0)
        m->watch = fast_watch_new(m->loop, m->pidfd, FAST_LOOP_IN, on_death, m);
    m->ready = true;
}

static int start(struct node_mps *m, struct fast_err *err)
{
    char *argv[] = {m->binary, (char *)(uintptr_t)"-f", NULL};
    char log[PATH_MAX + 16];
    snprintf(log, sizeof(log), "%s/output.log", m->log_dir);
    int r = fast_dir_make(m->pipe_dir, 0755, err);
    if (!r)
        r = fast_dir_make(m->log_dir, 0755, err);
    if (r)
        return r;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    pid_t pid = null < 0 || out < 0 ? -1 : fork();
    if (pid == 0)
        child_exec(m, null, out, argv);
    int e = errno;
    if (null >= 0)
        close(null);
    if (out >= 0)
        close(out);
    if (pid < 0)
        return fast_err_set(err, FAST_EIO, "cannot start " CONTROL ": %s", strerror(e));
    for (fast_ns end = fast_clock_now() + START_TIMEOUT; fast_clock_now() < end;) {
        int status;
        poll(NULL, 0, 10);
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) && WEXITSTATUS(status) == 127
                       ? fast_err_set(err, FAST_ENOENT, CONTROL " is not there")
                       : fast_err_set(err, FAST_EIO, CONTROL " ended; see %s", log);
        if (answers(m)) {
            m->child = pid;
            follow(m, pid);
            return 0;
        }
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return fast_err_set(err, FAST_ETIME, CONTROL " does not answer; see %s", log);
}

static void on_timer(void *arg)
{
    struct node_mps *m = arg;
    struct fast_err err;
    if (!start(m, &err)) {
        fast_log(INFO, "mps again", "pid=%d", m->child);
        return;
    }
    fast_log(ERROR, "mps does not start", "%s", err.msg);
    fast_timer_set(m->timer, fast_clock_now() + 10 * RESTART_DELAY);
}

static void unfollow(struct node_mps *m)
{
    fast_watch_free(m->watch);
    m->watch = NULL;
    if (m->pidfd >= 0)
        close(m->pidfd);
    m->pidfd = -1;
    m->ready = false;
}

static void on_death(void *arg, int events)
{
    struct node_mps *m = arg;
    (void)events;
    unfollow(m);
    if (m->child > 0)
        waitpid(m->child, NULL, WNOHANG);
    m->child = 0;
    fast_log(ERROR, "mps died", "its clients have failed; it is started again");
    fast_timer_set(m->timer, fast_clock_now() + RESTART_DELAY);
}

static pid_t adopted_pid(const struct node_mps *m)
{
    char path[PATH_MAX + 64], *text = NULL;
    snprintf(path, sizeof(path), "%s/" CONTROL ".pid", m->pipe_dir);
    if (fast_file_read(path, 32, &text, NULL, NULL))
        return 0;
    long pid = strtol(text, NULL, 10);
    free(text);
    return pid > 1 && pid <= INT_MAX ? (pid_t)pid : 0;
}

static int try_start(struct node_mps *m, struct fast_err *err)
{
    struct sockaddr_un a;
    if (strlen(m->pipe_dir) + sizeof("/control_privileged") > sizeof(a.sun_path))
        return fast_err_set(err, FAST_EINVAL, "%s is too long for a socket path", m->pipe_dir);
    if (!access(m->pipe_dir, F_OK) && answers(m)) {
        follow(m, adopted_pid(m));
        fast_log(INFO, "mps adopted", "dir=%s", m->pipe_dir);
        return 0;
    }
    int r = start(m, err);
    if (!r)
        fast_log(INFO, "mps started", "dir=%s pid=%d", m->pipe_dir, m->child);
    return r;
}

int node_mps_new(const struct node_conf *conf, struct fast_loop *loop, struct node_mps **ret,
                 struct fast_err *err)
{
    struct node_mps *m = calloc(1, sizeof(*m));
    if (!m)
        return fast_err_set(err, FAST_ENOMEM, "no memory for MPS");
    m->loop = loop;
    m->pidfd = -1;
    m->timer = fast_timer_new(loop, on_timer, m);
    snprintf(m->pipe_dir, sizeof(m->pipe_dir), "%s/mps", conf->state_dir);
    snprintf(m->log_dir, sizeof(m->log_dir), "%s/logs/mps", conf->state_dir);
    snprintf(m->none_dir, sizeof(m->none_dir), "%s/no-mps", conf->state_dir);
    if (conf->sim_libs)
        snprintf(m->binary, sizeof(m->binary), "%s/" CONTROL, conf->sim_libs);
    else
        snprintf(m->binary, sizeof(m->binary), CONTROL);
    int r = m->timer ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for MPS");
    if (!r && conf->mps != NODE_MPS_OFF) {
        struct fast_err why;
        r = try_start(m, &why);
        if (r && conf->mps == NODE_MPS_AUTO) {
            fast_log(WARN, "no mps", "%s; SM partitions are advisory", why.msg);
            r = 0;
        } else if (r && err) {
            *err = why;
        }
    }
    if (r) {
        node_mps_free(m);
        return r;
    }
    *ret = m;
    return 0;
}

void node_mps_quit(struct node_mps *m)
{
    if (!m || !m->ready)
        return;
    unfollow(m);
    ask(m, "quit -t 2");
    if (m->child > 0)
        reap(m->child, fast_clock_now() + FAST_S(3));
    m->child = 0;
}

void node_mps_free(struct node_mps *m)
{
    if (!m)
        return;
    unfollow(m);
    fast_timer_free(m->timer);
    free(m);
}
