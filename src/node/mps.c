/* Starts and supervises nvidia-cuda-mps-control. Whether the daemon lives is asked through its own
 * user interface: socket and pid files stay behind when it dies, and the exit status of the interface
 * is 1 only when there is no daemon. What it was told is read back: it answers a value that it does
 * not take with the old one. What is done before the loop runs, and at its end, waits for answers;
 * nothing in between does (mps_ask.h). */
#include "node/mps_impl.h"

#include <errno.h>
#include <fcntl.h>
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
#include "base/mem.h"
#include "io/file.h"
#include "node/mps_text.h"

#define CONTROL "nvidia-cuda-mps-control"
#define ASK_TIMEOUT FAST_MS(2000)
#define START_TIMEOUT FAST_S(5)
#define AGAIN_TIMEOUT FAST_S(10) /* nobody waits for that */
#define START_LOOK FAST_MS(50)
#define RESTART_DELAY FAST_S(1)
#define ENVIRON_MAX (1 << 20)

bool node_mps_ready(const struct node_mps *m)
{
    return m && m->ready;
}

bool node_mps_limits(const struct node_mps *m)
{
    return node_mps_ready(m) && m->limits;
}

const char *node_mps_pipe_dir(const struct node_mps *m)
{
    return m->ready ? m->door.pipe_dir : m->none_dir;
}

void node_mps_on_lost(struct node_mps *m, node_mps_lost_fn *fn, void *arg)
{
    m->lost = fn;
    m->lost_arg = arg;
}

/* Waits for the end of |pid|, at most until |end|; then it is killed. */
static void reap(pid_t pid, fast_ns end)
{
    for (pid_t r; (r = waitpid(pid, NULL, WNOHANG)) != pid && (r == 0 || errno == EINTR);) {
        if (fast_clock_now() >= end)
            kill(pid, SIGKILL);
        poll(NULL, 0, 2);
    }
}

static int ask(const struct node_mps *m, const char *command, char *ret, size_t size)
{
    return node_mps_ask_wait(&m->door, command, ASK_TIMEOUT, ret, size);
}

#define GET_PCT "get_default_active_thread_percentage"
/* 0: a daemon answers; -1: nobody is there; -2: somebody is, and does not answer. */
static int answers(const struct node_mps *m)
{
    char text[256];
    int r = ask(m, GET_PCT, text, sizeof(text));
    return r == 0 && node_mps_read_pct(text) < 0 ? -1 : r;
}

/* Partitions come with each process; the daemon must not narrow them. |text|: its answer, NULL: none. */
#define SET_PCT "set_default_active_thread_percentage 100"
static int check_pct(const struct node_mps *m, const char *text, struct fast_err *err)
{
    if (!text)
        return fast_err_set(err, FAST_EIO, CONTROL " does not answer");
    if (node_mps_is_refusal(text))
        return fast_err_set(err, FAST_EPERM, "the MPS daemon in %.120s belongs to another user",
                            m->door.pipe_dir);
    if (node_mps_read_pct(text) != 1000)
        return fast_err_set(err, FAST_EPEER, CONTROL " does not take 100 %%: \"%.60s\"", text);
    return 0;
}

/* Memory limits come with each process as well, where this daemon knows what they are; nothing is set to find
 * out. */
#define GET_LIMIT "get_default_device_pinned_mem_limit 0"
static void take_limit(struct node_mps *m, const char *text)
{
    uint64_t bytes = 0;
    m->limits = text && node_mps_read_limit(text, &bytes);
    if (!m->limits)
        fast_log(WARN, "mps takes no memory limits", "answer=\"%.60s\"", text ? text : "none");
}

static int prepare(struct node_mps *m, struct fast_err *err)
{
    char text[256];
    int r = ask(m, SET_PCT, text, sizeof(text));
    r = check_pct(m, r ? NULL : text, err);
    if (r)
        return r;
    take_limit(m, ask(m, GET_LIMIT, text, sizeof(text)) ? NULL : text);
    return 0;
}

static void on_death(void *arg, int events);

static void follow(struct node_mps *m, pid_t pid)
{
    m->pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (m->pidfd >= 0)
        m->watch = fast_watch_new(m->loop, m->pidfd, FAST_LOOP_IN, on_death, m);
    m->ready = true;
    fast_timer_set(m->check, fast_clock_now());
}

static int wait_ready(struct node_mps *m, pid_t pid, const char *log, struct fast_err *err)
{
    for (fast_ns end = fast_clock_now() + START_TIMEOUT; fast_clock_now() < end;) {
        poll(NULL, 0, 10);
        if (waitpid(pid, NULL, WNOHANG) == pid)
            return fast_err_set(err, FAST_EIO, CONTROL " ended; see %s", log);
        if (answers(m) == 0) {
            int r = prepare(m, err);
            if (!r)
                return 0;
            break;
        }
        fast_err_set(err, FAST_ETIME, CONTROL " does not answer; see %s", log);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return -err->code;
}

static void log_path(const struct node_mps *m, char *ret, size_t size)
{
    snprintf(ret, size, "%s/output.log", m->door.log_dir);
}

static int launch(struct node_mps *m, pid_t *ret, struct fast_err *err)
{
    char log[PATH_MAX + 16];
    log_path(m, log, sizeof(log));
    int r = fast_dir_make(m->door.pipe_dir, 0755, err);
    if (!r)
        r = fast_dir_make(m->door.log_dir, 0755, err);
    if (r)
        return r;
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    pid_t pid = out < 0 ? 0 : node_mps_daemon_start(&m->door, out);
    int e = errno;
    if (out >= 0)
        close(out);
    if (pid <= 0)
        return e == ENOENT ? fast_err_set(err, FAST_ENOENT, "%.150s is not there", m->door.binary)
                           : fast_err_set(err, FAST_EIO, "cannot start " CONTROL ": %s", strerror(e));
    *ret = pid;
    return 0;
}

static int start(struct node_mps *m, struct fast_err *err)
{
    char log[PATH_MAX + 16];
    pid_t pid;
    int r = launch(m, &pid, err);
    log_path(m, log, sizeof(log));
    r = r ? r : wait_ready(m, pid, log, err);
    if (r)
        return r;
    m->child = pid;
    follow(m, pid);
    return 0;
}

/* ---- once more, while the loop runs ---- */

static void end_child(struct node_mps *m)
{
    if (m->child > 0)
        reap(m->child, 0);
    m->child = 0;
}

static void start_failed(struct node_mps *m, const char *why)
{
    fast_log(ERROR, "mps does not start", "%s", why);
    end_child(m);
    fast_timer_set(m->timer, fast_clock_now() + 10 * RESTART_DELAY);
}

static bool is_starting(const struct node_mps *m)
{
    return !m->ready && m->child > 0;
}

/* The clients of the daemon that died are no clients of the new one. */
static void on_limit(void *arg, const char *text)
{
    struct node_mps *m = arg;
    m->asked = false;
    if (!is_starting(m))
        return;
    take_limit(m, text);
    fast_timer_set(m->timer, FAST_NEVER);
    follow(m, m->child);
    fast_log(INFO, "mps again", "pid=%d", m->child);
    node_mps_tell_lost(m, NULL, -1, "the MPS daemon died");
}

static void on_pct(void *arg, const char *text)
{
    struct node_mps *m = arg;
    struct fast_err err;
    m->asked = false;
    if (!is_starting(m) || !text) /* it may answer the next time */
        return;
    if (check_pct(m, text, &err))
        start_failed(m, err.msg);
    else
        m->asked = node_mps_ask(m->talk, GET_LIMIT, on_limit, m);
}

static void on_answer(void *arg, const char *text)
{
    struct node_mps *m = arg;
    m->asked = false;
    if (is_starting(m) && text && node_mps_read_pct(text) >= 0)
        m->asked = node_mps_ask(m->talk, SET_PCT, on_pct, m);
}

static void on_timer(void *arg)
{
    struct node_mps *m = arg;
    struct fast_err err;
    fast_ns now = fast_clock_now();
    if (m->child == 0) {
        if (launch(m, &m->child, &err)) {
            start_failed(m, err.msg);
            return;
        }
        m->start_end = now + AGAIN_TIMEOUT;
        fast_log(INFO, "mps is started", "pid=%d", m->child);
    } else if (waitpid(m->child, NULL, WNOHANG) == m->child) {
        m->child = 0;
        start_failed(m, CONTROL " ended; see output.log of the logs");
        return;
    } else if (now >= m->start_end) {
        start_failed(m, CONTROL " does not answer");
        return;
    }
    if (!m->asked)
        m->asked = node_mps_ask(m->talk, GET_PCT, on_answer, m);
    fast_timer_set(m->timer, now + START_LOOK);
}

static void unfollow(struct node_mps *m)
{
    fast_watch_free(m->watch);
    m->watch = NULL;
    if (m->pidfd >= 0)
        close(m->pidfd);
    m->pidfd = -1;
    m->ready = false;
    fast_timer_set(m->check, FAST_NEVER);
}

static void on_death(void *arg, int events)
{
    struct node_mps *m = arg;
    (void)events;
    unfollow(m);
    node_mps_server_forget(m);
    if (m->child > 0)
        waitpid(m->child, NULL, WNOHANG);
    m->child = 0;
    fast_log(ERROR, "mps died", "its clients have failed; it is started again");
    fast_timer_set(m->timer, fast_clock_now() + RESTART_DELAY);
}

/* ---- a daemon of an earlier life ---- */

static pid_t written_pid(const struct node_mps *m)
{
    char path[PATH_MAX + 64], *text = NULL;
    snprintf(path, sizeof(path), "%s/" CONTROL ".pid", m->door.pipe_dir);
    if (fast_file_read(path, 32, &text, NULL, NULL))
        return 0;
    long pid = strtol(text, NULL, 10);
    free(text);
    return pid > 1 && pid <= INT_MAX ? (pid_t)pid : 0;
}

/* The file outlives the process, whose number may be another one's by now: it is ours if it was
 * started with our directory. */
static bool is_our_daemon(const struct node_mps *m, pid_t pid)
{
    char path[64], want[PATH_MAX + 32];
    snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
    int n = snprintf(want, sizeof(want), "CUDA_MPS_PIPE_DIRECTORY=%s", m->door.pipe_dir);
    fast_autofree char *env = malloc(ENVIRON_MAX);
    int fd = env ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t len = fd < 0 ? -1 : 0;
    for (ssize_t r = 1; fd >= 0 && r > 0 && len < ENVIRON_MAX - 1; len += r > 0 ? r : 0)
        r = read(fd, env + len, (size_t)(ENVIRON_MAX - 1 - len));
    if (fd >= 0)
        close(fd);
    if (len <= 0)
        return false;
    env[len] = 0;
    for (const char *p = env; p < env + len; p += strlen(p) + 1)
        if (!strncmp(p, want, (size_t)n + 1))
            return true;
    return false;
}

/* It holds the directory's lock, so that no other one can be started beside it. */
static void end_hung(const struct node_mps *m)
{
    pid_t pid = written_pid(m);
    int fd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (fd < 0)
        return;
    if (is_our_daemon(m, pid)) {
        fast_log(WARN, "mps hangs", "pid=%d is killed", (int)pid);
        syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        poll(&p, 1, 2000);
    }
    close(fd);
}

static int try_start(struct node_mps *m, struct fast_err *err)
{
    struct sockaddr_un a;
    if (strlen(m->door.pipe_dir) + sizeof("/control_privileged") > sizeof(a.sun_path))
        return fast_err_set(err, FAST_EINVAL, "%s is too long for a socket path", m->door.pipe_dir);
    int found = access(m->door.pipe_dir, F_OK) ? -1 : answers(m);
    if (found == -2)
        end_hung(m);
    if (found == 0) {
        int r = prepare(m, err);
        if (r)
            return r;
        follow(m, written_pid(m));
        fast_log(INFO, "mps adopted", "dir=%s", m->door.pipe_dir);
        return 0;
    }
    int r = start(m, err);
    if (!r)
        fast_log(INFO, "mps started", "dir=%s pid=%d", m->door.pipe_dir, m->child);
    return r;
}

/* With --mps=off, and a daemon there from an earlier life: nobody would ever end it. */
static void end_left_over(struct node_mps *m)
{
    char text[256];
    int found = access(m->door.pipe_dir, F_OK) ? -1 : answers(m);
    if (found == -2)
        end_hung(m);
    if (found == 0 && !ask(m, "quit -t 2", text, sizeof(text)))
        fast_log(INFO, "mps ended", "it was left from an earlier life");
}

static void set_paths(struct node_mps *m, const struct node_conf *conf)
{
    snprintf(m->door.pipe_dir, sizeof(m->door.pipe_dir), "%s/mps", conf->state_dir);
    snprintf(m->door.log_dir, sizeof(m->door.log_dir), "%s/logs/mps", conf->state_dir);
    snprintf(m->none_dir, sizeof(m->none_dir), "%s/no-mps", conf->state_dir);
    if (conf->mps_control)
        snprintf(m->door.binary, sizeof(m->door.binary), "%s", conf->mps_control);
    else if (conf->sim_libs)
        snprintf(m->door.binary, sizeof(m->door.binary), "%s/" CONTROL, conf->sim_libs);
    else
        snprintf(m->door.binary, sizeof(m->door.binary), CONTROL);
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
    m->check = fast_timer_new(loop, node_mps_server_check, m);
    set_paths(m, conf);
    int r = m->timer && m->check ? node_mps_talk_new(loop, &m->door, &m->talk, err)
                                 : fast_err_set(err, FAST_ENOMEM, "no memory for MPS");
    if (!r && conf->mps == NODE_MPS_OFF)
        end_left_over(m);
    if (!r && conf->mps != NODE_MPS_OFF) {
        struct fast_err why = {0};
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
    char text[256];
    if (m && !m->ready)
        end_child(m);
    if (!m || !m->ready)
        return;
    unfollow(m);
    node_mps_server_forget(m);
    ask(m, "quit -t 2", text, sizeof(text));
    if (m->child > 0)
        reap(m->child, fast_clock_now() + FAST_S(3));
    m->child = 0;
}

void node_mps_free(struct node_mps *m)
{
    if (!m)
        return;
    unfollow(m);
    node_mps_server_forget(m);
    node_mps_endings_free(m);
    node_mps_talk_free(m->talk);
    fast_timer_free(m->timer);
    fast_timer_free(m->check);
    free(m);
}
