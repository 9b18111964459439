#include "node/process.h"

/* Starts, adopts and ends process groups. A replica leads a session and a group of its own, so that
 * everything it forks can be ended with it, and its pid is a valid group id for as long as any
 * member lives. A group is only signalled while its leader is known to be the process that we
 * started: the leader is unreaped (a child), or no other process has taken its pid. */

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/cgroup.h"
#include "io/file.h"
#include "wire/page.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define ENVIRON_MAX (1 << 20)

static int pidfd_open_(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by itself */
}

uint64_t node_process_cpu(pid_t pid)
{
    char buf[FAST_PROC_STAT_MAX];
    const char *p = fast_proc_stat(fast_proc_inner((uint32_t)pid), buf);
    unsigned long long user = 0, kernel = 0;
    if (!p || sscanf(p, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &kernel) != 2)
        return 0;
    return user + kernel;
}

bool node_process_stat(pid_t pid, uint64_t *ret_ticks, char *ret_state)
{
    char buf[FAST_PROC_STAT_MAX];
    const char *p = fast_proc_stat((uint32_t)pid, buf);
    unsigned long long ticks = 0;
    char state = 0;
    if (!p || sscanf(p, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
                            "%*d %*d %llu", &state, &ticks) != 2)
        return false;
    *ret_ticks = ticks;
    *ret_state = state;
    return true;
}

static int spawn_error(const char *what, const char *name, int code, struct fast_err *err)
{
    int kind = code == ENOENT || code == ENOTDIR  ? FAST_ENOENT
               : code == EACCES || code == EPERM  ? FAST_EPERM
               : code == ENOEXEC || code == E2BIG ? FAST_EINVAL
                                                  : FAST_EIO;
    return fast_err_set(err, kind, "cannot %s \"%.120s\": %s", what, name, strerror(code));
}

/* posix_spawn's attributes and file actions, each of which may run out of memory. */
static int fill_spawn(const struct node_process_spec *spec, const char *cwd,
                      posix_spawnattr_t *attr, posix_spawn_file_actions_t *act)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int r = posix_spawnattr_setflags(
        attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = r ? r : posix_spawnattr_setsigmask(attr, &none);
    r = r ? r : posix_spawnattr_setsigdefault(attr, &all);
    r = r ? r : posix_spawn_file_actions_addopen(act, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    r = r ? r : posix_spawn_file_actions_adddup2(act, spec->output_fd, STDOUT_FILENO);
    r = r ? r : posix_spawn_file_actions_adddup2(act, spec->output_fd, STDERR_FILENO);
    r = r ? r : posix_spawn_file_actions_addchdir_np(act, cwd);
    if (spec->inherit_fd > 0) /* onto itself it only stops being close-on-exec */
        r = r ? r : posix_spawn_file_actions_adddup2(act, spec->inherit_fd, NODE_PROCESS_FD);
#if __GLIBC_PREREQ(2, 34)
    r = r ? r
          : posix_spawn_file_actions_addclosefrom_np(act, NODE_PROCESS_FD + (spec->inherit_fd > 0));
#endif
    return r;
}

/* glibc's posix_spawn is a vfork that is safe with signals, and tells the errno of a failed exec
 * through shared memory: neither a page table is copied nor a pipe needed. */
/* A child inherits what this process has at that moment. */
static int spawn(const struct node_process_spec *spec, const posix_spawnattr_t *attr,
                 const posix_spawn_file_actions_t *act, pid_t *ret)
{
    struct rlimit own, its;
    bool other = spec->descriptors && !getrlimit(RLIMIT_NOFILE, &own) && spec->descriptors < own.rlim_cur;
    int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0); /* not the node's own, but what the node was given */
    if (other) {
        its = (struct rlimit){(rlim_t)spec->descriptors, own.rlim_max};
        setrlimit(RLIMIT_NOFILE, &its);
    }
    int r = posix_spawnp(ret, spec->argv[0], act, attr, (char *const *)spec->argv, (char *const *)spec->envp);
    if (other)
        setrlimit(RLIMIT_NOFILE, &own);
    if (slack > 0)
        prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
    return r;
}

int node_process_spawn(const struct node_process_spec *spec, struct node_process *ret,
                       struct fast_err *err)
{
    const char *cwd = spec->cwd && *spec->cwd ? spec->cwd : "/";
    struct stat st;
    if (stat(cwd, &st))
        return spawn_error("enter directory", cwd, errno, err);
    if (!S_ISDIR(st.st_mode))
        return spawn_error("enter directory", cwd, ENOTDIR, err);
    posix_spawnattr_t attr;
    posix_spawn_file_actions_t act;
    pid_t pid = 0;
    if (posix_spawnattr_init(&attr))
        return fast_err_set(err, FAST_ENOMEM, "no memory to start a process");
    if (posix_spawn_file_actions_init(&act)) {
        posix_spawnattr_destroy(&attr);
        return fast_err_set(err, FAST_ENOMEM, "no memory to start a process");
    }
    int r = fill_spawn(spec, cwd, &attr, &act);
    r = r ? r : spawn(spec, &attr, &act, &pid);
    posix_spawn_file_actions_destroy(&act);
    posix_spawnattr_destroy(&attr);
    if (r)
        return spawn_error("execute", spec->argv[0], r, err);

    /* Even if it has died by now it is a zombie that only we can reap, so the pid is still its. */
    struct node_process p = {.pid = pid, .pidfd = pidfd_open_(pid), .child = true};
    char state = 0;
    if (p.pidfd < 0 || !node_process_stat(pid, &p.ticks, &state)) {
        r = fast_err_set(err, FAST_EIO, "cannot watch process %d: %s", (int)pid, strerror(errno));
        kill(-pid, SIGKILL);
        waitpid(pid, NULL, 0);
        node_process_fini(&p);
        return r;
    }
    *ret = p;
    return 0;
}

static bool is_same(pid_t pid, uint64_t ticks)
{
    uint64_t now_ticks = 0;
    char state = 0;
    return node_process_stat(pid, &now_ticks, &state) && now_ticks == ticks && state != 'Z' &&
           state != 'X';
}

int node_process_adopt(pid_t pid, uint64_t ticks, struct node_process *ret, struct fast_err *err)
{
    int fd = pid > 0 ? pidfd_open_(pid) : -1;
    /* Looked at after the pidfd is held: what it names cannot change any more. */
    if (fd < 0 || !is_same(pid, ticks)) {
        if (fd >= 0)
            close(fd);
        return fast_err_set(err, FAST_ENOENT, "process %d is gone", (int)pid);
    }
    *ret = (struct node_process){.pid = pid, .pidfd = fd, .ticks = ticks, .child = false};
    return 0;
}

/* False when another process has the pid by now; one that is not there at all may still have left a
 * group behind, whose id is then reserved. */
static bool owns_group(const struct node_process *p)
{
    uint64_t ticks = 0;
    char state = 0;
    return p->pid > 1 && (!node_process_stat(p->pid, &ticks, &state) || ticks == p->ticks);
}

void node_process_signal(const struct node_process *p, int signal)
{
    if (owns_group(p))
        kill(-p->pid, signal);
}

bool node_process_reap(struct node_process *p, int *ret_status)
{
    siginfo_t si = {0};
    int status = -1;
    if (p->child) {
        if (waitid((idtype_t)P_PIDFD, (id_t)p->pidfd, &si, WEXITED | WNOHANG | WNOWAIT) ||
            si.si_pid == 0)
            return false;
    } else if (is_same(p->pid, p->ticks)) {
        return false;
    }
    node_process_signal(p, SIGKILL);
    if (p->child)
        waitpid(p->pid, &status, 0);
    fast_cgroup_end(&fast_cgroup_here, p->pid); /* and who has left the group of processes */
    node_process_fini(p);
    *ret_status = status;
    return true;
}

void node_process_end(struct node_process *p)
{
    node_process_signal(p, SIGKILL);
    if (p->child)
        waitpid(p->pid, NULL, 0);
    fast_cgroup_end(&fast_cgroup_here, p->pid);
    node_process_fini(p);
}

void node_process_fini(struct node_process *p)
{
    if (p->pidfd >= 0)
        close(p->pidfd);
    *p = NODE_PROCESS_NONE;
}

void node_process_status_text(int status, char *buf, int size)
{
    if (status == -1)
        snprintf(buf, (size_t)size, "ended, with a status that is not known");
    else if (WIFSIGNALED(status))
        snprintf(buf, (size_t)size, "killed by signal %d (%s)%s", WTERMSIG(status),
                 strsignal(WTERMSIG(status)), WCOREDUMP(status) ? ", core dumped" : "");
    else
        snprintf(buf, (size_t)size, "exit status %d", WEXITSTATUS(status));
}

uint32_t node_process_status_code(int status)
{
    if (status == -1)
        return 0;
    return (uint32_t)(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

int node_process_free_port(uint32_t *ret, struct fast_err *err)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) ||
        getsockname(fd, (struct sockaddr *)&a, &len)) {
        int r = fast_err_set(err, FAST_EIO, "cannot find a free port: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
        return r;
    }
    close(fd);
    *ret = ntohs(a.sin_port);
    return 0;
}

/* ---- strays ---- */

/* The value of |name| in a block of NAME=value strings, NULL if it is not in it. */
static const char *env_get(const char *env, size_t len, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = env; p < env + len; p += strlen(p) + 1)
        if (!strncmp(p, name, n) && p[n] == '=')
            return p + n + 1;
    return NULL;
}

static ssize_t read_environ(pid_t pid, char *buf, size_t size)
{
    char path[64];
    size_t len = 0;
    snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n;
    while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
        len += (size_t)n;
    close(fd);
    buf[len] = 0;
    return (ssize_t)len;
}

int node_process_kill_strays(const char *socket_path, node_ticket_fn *is_live, void *arg)
{
    int count = 0;
    fast_autofree char *env = malloc(ENVIRON_MAX);
    DIR *dir = env ? opendir("/proc") : NULL;
    if (!dir)
        return 0;
    for (struct dirent *d; (d = readdir(dir));) {
        char *end = NULL;
        long pid = strtol(d->d_name, &end, 10);
        if (pid <= 1 || *end || pid > INT_MAX || pid == getpid())
            continue;
        int fd = pidfd_open_((pid_t)pid);
        ssize_t len = fd < 0 ? -1 : read_environ((pid_t)pid, env, ENVIRON_MAX);
        const char *path = len > 0 ? env_get(env, (size_t)len, FAST_ENV_SOCKET) : NULL;
        const char *ticket = len > 0 ? env_get(env, (size_t)len, FAST_ENV_TICKET) : NULL;
        if (path && ticket && !strcmp(path, socket_path) && !is_live(arg, ticket) &&
            !syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0))
            count++;
        if (fd >= 0)
            close(fd);
    }
    closedir(dir);
    return count;
}
