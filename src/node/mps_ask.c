/* The user interface of MPS as a child process. It is given its question on the standard input; its
 * answer is complete when it closes its output. Its exit status is 1 when there is no daemon, and says
 * nothing otherwise. */
#include "node/mps_ask.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"

#define ASK_TIMEOUT FAST_MS(1500)
#define END_LOOK FAST_MS(1)
#define QUESTION_MAX 128
#define QUESTIONS_MAX 64

extern char **environ;

/* ---- the child ---- */

/* Names that must not reach the daemon: it renumbers devices and takes defaults from them. */
static bool is_ours(const char *entry)
{
    static const char *const names[] = {"CUDA_MPS_PIPE_DIRECTORY=", "CUDA_MPS_LOG_DIRECTORY=",
                                        "LD_PRELOAD=", "CUDA_VISIBLE_DEVICES=",
                                        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=",
                                        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="};
    for (size_t i = 0; i < FAST_COUNT_OF(names); i++)
        if (!strncmp(entry, names[i], strlen(names[i])))
            return true;
    return false;
}

static int spawn(const struct node_mps_door *door, const char *option, int in, int out)
{
    char pipe_dir[PATH_MAX + 32], log_dir[PATH_MAX + 32];
    char *argv[] = {(char *)(uintptr_t)door->binary, (char *)(uintptr_t)option, NULL};
    size_t n = 0, count = 0;
    while (environ[count])
        count++;
    fast_autofree char **env = calloc(count + 3, sizeof(char *));
    if (!env)
        return 0;
    for (size_t i = 0; i < count; i++)
        if (!is_ours(environ[i]))
            env[n++] = environ[i];
    snprintf(pipe_dir, sizeof(pipe_dir), "CUDA_MPS_PIPE_DIRECTORY=%s", door->pipe_dir);
    snprintf(log_dir, sizeof(log_dir), "CUDA_MPS_LOG_DIRECTORY=%s", door->log_dir);
    env[n++] = pipe_dir;
    env[n++] = log_dir;
    posix_spawnattr_t attr;
    posix_spawn_file_actions_t act;
    sigset_t none, all;
    pid_t pid = 0;
    sigemptyset(&none);
    sigfillset(&all);
    if (posix_spawnattr_init(&attr))
        return 0;
    if (posix_spawn_file_actions_init(&act)) {
        posix_spawnattr_destroy(&attr);
        return 0;
    }
    int r = posix_spawnattr_setflags(
        &attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = r ? r : posix_spawnattr_setsigmask(&attr, &none);
    r = r ? r : posix_spawnattr_setsigdefault(&attr, &all);
    r = r ? r : posix_spawn_file_actions_adddup2(&act, in, STDIN_FILENO);
    r = r ? r : posix_spawn_file_actions_adddup2(&act, out, STDOUT_FILENO);
    r = r ? r : posix_spawn_file_actions_adddup2(&act, out, STDERR_FILENO);
    r = r ? r : posix_spawnp(&pid, door->binary, &act, &attr, argv, env);
    posix_spawn_file_actions_destroy(&act);
    posix_spawnattr_destroy(&attr);
    if (r)
        errno = r;
    return r ? 0 : (int)pid;
}

int node_mps_daemon_start(const struct node_mps_door *door, int out)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0)
        return 0;
    int pid = spawn(door, "-f", null, out);
    int e = errno;
    close(null);
    errno = e;
    return pid;
}

/* One question to one process. */
struct ask {
    int pid, fd; /* fd: its output */
    char text[NODE_MPS_TEXT_MAX];
    size_t len;
};

static int begin(const struct node_mps_door *door, const char *command, struct ask *ret)
{
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC))
        return -1;
    if (pipe2(out, O_CLOEXEC)) {
        close(in[0]);
        close(in[1]);
        return -1;
    }
    /* The pipe takes the question whether it is read or not. */
    bool ok = dprintf(in[1], "%s\n", command) > 0;
    ret->len = 0;
    ret->fd = out[0];
    ret->pid = ok ? spawn(door, NULL, in[0], out[1]) : 0;
    close(in[0]);
    close(in[1]);
    close(out[1]);
    if (ret->pid > 0)
        return 0;
    close(out[0]);
    return -1;
}

/* Reads what there is. False: it was the last. */
static bool take(struct ask *a)
{
    char more[512];
    ssize_t n = read(a->fd, more, sizeof(more));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    for (ssize_t i = 0; i < n; i++)
        if (a->len + 1 < sizeof(a->text))
            a->text[a->len++] = more[i];
    return n > 0;
}

/* Who has closed its output is about to end, but nobody may wait for that. True: it has; *|ret_ok|: |text| is the
 * daemon's answer. */
static bool has_ended(struct ask *a, bool *ret_ok)
{
    int status = -1, r = waitpid(a->pid, &status, WNOHANG);
    if (r == 0 || (r < 0 && errno == EINTR))
        return false;
    close(a->fd);
    a->text[a->len] = 0;
    *ret_ok = r == a->pid && WIFEXITED(status) && !WEXITSTATUS(status);
    return true;
}

/* It has not answered, or not ended, in time. */
static void give_up(struct ask *a)
{
    kill(a->pid, SIGKILL);
    while (waitpid(a->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    close(a->fd);
}

int node_mps_ask_wait(const struct node_mps_door *door, const char *command, fast_ns timeout,
                      char *ret, size_t size)
{
    fast_autofree struct ask *a = malloc(sizeof(*a));
    fast_ns end = fast_clock_now() + timeout;
    bool more = true, ok = false;
    *ret = 0;
    if (!a || begin(door, command, a))
        return -1;
    for (fast_ns left; (left = end - fast_clock_now()) > 0;) {
        struct pollfd p = {.fd = a->fd, .events = POLLIN};
        if (!more && has_ended(a, &ok)) {
            snprintf(ret, size, "%s", a->text);
            return ok ? 0 : -1;
        }
        if (!more)
            poll(NULL, 0, 1);
        else if (poll(&p, 1, (int)(left / FAST_MS(1)) + 1) > 0)
            more = take(a);
    }
    give_up(a);
    return -2;
}

/* ---- questions in a row ---- */

struct question {
    struct question *next;
    char command[QUESTION_MAX];
    node_mps_answer_fn *fn;
    void *arg;
};

struct node_mps_talk {
    struct fast_loop *loop;
    struct node_mps_door door;
    struct fast_watch *watch;
    struct fast_timer *timer; /* begins the next one, looks whether one has ended, or ends it */
    struct question *first, **last;
    int count;
    bool asking; /* the first one is */
    fast_ns until; /* it has time */
    struct ask ask;
};

static void end_question(struct node_mps_talk *t, bool ok)
{
    struct question *q = t->first;
    fast_watch_free(t->watch);
    t->watch = NULL;
    t->asking = false;
    t->first = q->next;
    if (!t->first)
        t->last = &t->first;
    t->count--;
    fast_timer_set(t->timer, t->first ? fast_loop_now(t->loop) : FAST_NEVER);
    q->fn(q->arg, ok ? t->ask.text : NULL);
    free(q);
}

static void look(struct node_mps_talk *t)
{
    bool ok = false;
    fast_ns now = fast_clock_now();
    if (!t->watch && has_ended(&t->ask, &ok)) {
        end_question(t, ok);
    } else if (now >= t->until) {
        give_up(&t->ask);
        end_question(t, false);
    } else {
        fast_timer_set(t->timer, t->watch ? t->until : now + END_LOOK);
    }
}

static void on_output(void *arg, int events)
{
    struct node_mps_talk *t = arg;
    (void)events;
    if (take(&t->ask))
        return;
    fast_watch_free(t->watch);
    t->watch = NULL;
    look(t);
}

static void begin_question(struct node_mps_talk *t)
{
    struct question *q = t->first;
    if (begin(&t->door, q->command, &t->ask)) {
        t->first = q->next;
        if (!t->first)
            t->last = &t->first;
        t->count--;
        fast_timer_set(t->timer, t->first ? fast_loop_now(t->loop) : FAST_NEVER);
        q->fn(q->arg, NULL);
        free(q);
        return;
    }
    t->asking = true;
    t->until = fast_clock_now() + ASK_TIMEOUT;
    t->watch = fast_watch_new(t->loop, t->ask.fd, FAST_LOOP_IN, on_output, t);
    if (!t->watch)
        t->until = 0;
    look(t);
}

static void on_timer(void *arg)
{
    struct node_mps_talk *t = arg;
    if (t->asking)
        look(t);
    else if (t->first)
        begin_question(t);
}

int node_mps_talk_new(struct fast_loop *loop, const struct node_mps_door *door,
                      struct node_mps_talk **ret, struct fast_err *err)
{
    struct node_mps_talk *t = calloc(1, sizeof(*t));
    if (t)
        t->timer = fast_timer_new(loop, on_timer, t);
    if (!t || !t->timer) {
        free(t);
        return fast_err_set(err, FAST_ENOMEM, "no memory for MPS");
    }
    t->loop = loop;
    t->door = *door;
    t->last = &t->first;
    *ret = t;
    return 0;
}

void node_mps_talk_free(struct node_mps_talk *t)
{
    if (!t)
        return;
    fast_watch_free(t->watch);
    if (t->asking)
        give_up(&t->ask);
    for (struct question *q = t->first, *next; q; q = next) {
        next = q->next;
        free(q);
    }
    fast_timer_free(t->timer);
    free(t);
}

bool node_mps_ask(struct node_mps_talk *t, const char *command, node_mps_answer_fn *fn, void *arg)
{
    struct question *q = t->count < QUESTIONS_MAX ? calloc(1, sizeof(*q)) : NULL;
    if (!q || strlen(command) >= sizeof(q->command)) {
        free(q);
        return false;
    }
    snprintf(q->command, sizeof(q->command), "%s", command);
    q->fn = fn;
    q->arg = arg;
    *t->last = q;
    t->last = &q->next;
    t->count++;
    if (!t->asking)
        fast_timer_set(t->timer, fast_loop_now(t->loop));
    return true;
}
