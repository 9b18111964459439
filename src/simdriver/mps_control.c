/* nvidia-cuda-mps-control for the simulated GPUs: the control daemon (-d, -f) and, without an option,
 * its user interface, which reads commands from the standard input. Files, outputs and exit statuses
 * are those measured on the real one (driver 555): nearly everything exits with 0, and an unusable
 * value is answered with the old one.
 *
 * The daemon owns the socket `control`. A driver that connects to it and says "CLIENT" is an MPS
 * client for as long as the connection lives. The server is a process of its own, as in reality, only
 * that it has nothing to do: the model of the GPU is shared memory. */
#include "simdriver/mps_control.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void path_of(const struct daemon *d, const char *name, char *ret, size_t size)
{
    snprintf(ret, size, "%s/%s", d->dir, name);
}

/* ---- connections ---- */

static void drop(struct daemon *d, struct client *c)
{
    if (c->driver)
        mps_log(d, "User %u client %d disconnected", c->uid, (int)c->pid);
    close(c->fd);
    *c = (struct client){.fd = -1};
}

static void greet(struct daemon *d, struct client *c)
{
    char reply[32];
    mps_log(d, "Accepting connection...");
    if (mps_in_fault(d)) {
        (void)!send(c->fd, "FAULT\n", 6, MSG_NOSIGNAL);
        return;
    }
    c->driver = true;
    mps_log(d, "User %u client %d: NEW CLIENT %d from user %u: Server already exists", c->uid,
             (int)c->pid, (int)c->pid, c->uid);
    mps_start_server(d, c->uid);
    int n = snprintf(reply, sizeof(reply), "%.3f\n", d->server_pct);
    (void)!send(c->fd, reply, (size_t)n, MSG_NOSIGNAL);
}

static void receive(struct daemon *d, struct client *c)
{
    ssize_t n = recv(c->fd, c->line + c->len, sizeof(c->line) - 1 - c->len, 0);
    if (n <= 0) {
        drop(d, c);
        return;
    }
    c->len += (size_t)n;
    c->line[c->len] = '\0';
    for (char *end; c->fd >= 0 && (end = strchr(c->line, '\n'));) {
        char line[MPS_LINE];
        *end = '\0';
        snprintf(line, sizeof(line), "%s", c->line);
        c->len -= (size_t)(end + 1 - c->line);
        memmove(c->line, end + 1, c->len + 1);
        if (!strcmp(line, "CLIENT"))
            greet(d, c);
        else if (!strcmp(line, "FAULT") && c->driver)
            mps_begin_fault(d, c);
        else
            mps_command(d, c, line);
    }
    if (c->fd >= 0 && c->len == sizeof(c->line) - 1)
        drop(d, c);
}

static void accept_one(struct daemon *d)
{
    struct ucred cred;
    socklen_t size = sizeof(cred);
    int fd = accept4(d->listen, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    for (int i = 0; i < MPS_CLIENTS; i++) {
        struct client *c = &d->client[i];
        if (c->fd >= 0)
            continue;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size))
            break;
        *c = (struct client){.fd = fd, .pid = cred.pid, .uid = cred.uid};
        return;
    }
    close(fd);
}

static volatile sig_atomic_t stopped;

static void on_signal(int sig)
{
    (void)sig;
    stopped = 1;
}

static void serve(struct daemon *d)
{
    while (!d->quit && !stopped) {
        if (mps_server_ended(d))
            for (int i = 0; i < MPS_CLIENTS; i++)
                if (d->client[i].fd >= 0 && d->client[i].driver)
                    drop(d, &d->client[i]);
        struct pollfd p[MPS_CLIENTS + 1] = {{.fd = d->listen, .events = POLLIN}};
        for (int i = 0; i < MPS_CLIENTS; i++)
            p[i + 1] = (struct pollfd){.fd = d->client[i].fd, .events = POLLIN};
        if (poll(p, MPS_CLIENTS + 1, d->server ? 200 : -1) < 0)
            continue;
        for (int i = 0; i < MPS_CLIENTS; i++)
            if (p[i + 1].revents && d->client[i].fd >= 0)
                receive(d, &d->client[i]);
        if (p[0].revents)
            accept_one(d);
    }
}

/* ---- start and end ---- */

static int listen_on(const struct daemon *d, const char *name, mode_t mode)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", d->dir, name) >= (int)sizeof(a.sun_path))
        return -1;
    unlink(a.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&a, sizeof(a)) || chmod(a.sun_path, mode) ||
        listen(fd, MPS_CLIENTS)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

/* The lock on control_lock lasts as long as the daemon, whatever kills it. */
static bool take_lock(struct daemon *d)
{
    char path[128];
    path_of(d, "control_lock", path, sizeof(path));
    d->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    return d->lock >= 0 && !flock(d->lock, LOCK_EX | LOCK_NB);
}

static bool open_files(struct daemon *d, bool foreground)
{
    char path[300];
    snprintf(path, sizeof(path), "%s/control.log", d->log_dir);
    d->log = foreground ? STDOUT_FILENO
                        : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    path_of(d, "log", path, sizeof(path));
    unlink(path);
    mkfifo(path, 0644);
    path_of(d, "nvidia-cuda-mps-control.pid", path, sizeof(path));
    FILE *f = fopen(path, "we");
    if (f) {
        fprintf(f, "%d", (int)getpid());
        fclose(f);
    }
    d->listen = listen_on(d, "control", 0666);
    int privileged = listen_on(d, "control_privileged", 0755); /* exists, is not used */
    (void)privileged;
    return f && d->listen >= 0;
}

static void close_files(const struct daemon *d)
{
    char path[128];
    path_of(d, "log", path, sizeof(path));
    unlink(path);
    path_of(d, "nvidia-cuda-mps-control.pid", path, sizeof(path));
    unlink(path);
}

static void read_dirs(struct daemon *d)
{
    const char *dir = getenv("CUDA_MPS_PIPE_DIRECTORY"), *log = getenv("CUDA_MPS_LOG_DIRECTORY");
    snprintf(d->dir, sizeof(d->dir), "%s", dir && *dir ? dir : "/tmp/nvidia-mps");
    snprintf(d->log_dir, sizeof(d->log_dir), "%s", log && *log ? log : "/var/log/nvidia-mps");
}

static int run_daemon(bool foreground)
{
    static struct daemon d = {.log = -1, .listen = -1, .pct = 100, .priority = '0'};
    const char *pct = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    int ready[2];
    read_dirs(&d);
    if (pct)
        (void)mps_read_pct(pct, &d.pct);
    for (int i = 0; i < MPS_CLIENTS; i++)
        d.client[i].fd = -1;
    mkdir(d.dir, 0755);
    mkdir(d.log_dir, 0755);
    if (!take_lock(&d)) {
        fprintf(stderr, "An instance of this daemon is already running\n");
        return 1;
    }
    /* The parent of -d returns when the child listens. */
    if (!foreground && pipe2(ready, O_CLOEXEC))
        return 1;
    pid_t child = foreground ? 0 : fork();
    if (child > 0) {
        char ok;
        close(ready[1]);
        return read(ready[0], &ok, 1) == 1 ? 0 : 1;
    }
    if (child < 0 || !open_files(&d, foreground)) {
        fprintf(stderr, "Cannot listen in %s\n", d.dir);
        return 1;
    }
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    mps_log(&d, "Starting control daemon using socket %s/control", d.dir);
    if (!foreground) {
        int null = open("/dev/null", O_RDWR);
        setsid();
        for (int fd = 0; fd < 3 && null >= 0; fd++)
            dup2(null, fd);
        (void)!write(ready[1], "", 1);
        close(ready[1]);
    }
    serve(&d);
    mps_log(&d, "Exit");
    mps_stop_server(&d);
    close_files(&d);
    /* In this order: whoever sees its connection end can start another daemon. */
    close(d.listen);
    close(d.lock);
    return 0;
}

/* ---- the user interface ---- */

static int run_ui(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    static struct daemon d;
    char line[MPS_LINE];
    read_dirs(&d);
    int n = snprintf(a.sun_path, sizeof(a.sun_path), "%s/control", d.dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || n >= (int)sizeof(a.sun_path) ||
        connect(fd, (const struct sockaddr *)&a, sizeof(a))) {
        printf("Cannot find MPS control daemon process\n");
        return 1;
    }
    while (fgets(line, sizeof(line), stdin)) {
        char c = 0;
        line[strcspn(line, "\n")] = '\0';
        if (!line[strspn(line, " \t\r")])
            continue;
        if (dprintf(fd, "%s\n", line) < 0)
            return 1;
        bool silent = true;
        while (recv(fd, &c, 1, 0) == 1 && c) {
            putchar(c);
            silent = false;
        }
        fflush(stdout);
        if (strncmp(line, "quit", 4))
            continue;
        /* An accepted quit is done when the daemon is gone. */
        while (silent && recv(fd, &c, 1, 0) == 1)
            ;
        break;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 1)
        return run_ui();
    if (argc == 2 && (!strcmp(argv[1], "-d") || !strcmp(argv[1], "-f")))
        return run_daemon(argv[1][1] == 'f');
    if (argc == 2 && !strcmp(argv[1], "-h")) {
        printf("usage: nvidia-cuda-mps-control [-d | -f]\n(simulated)\n");
        return 0;
    }
    fprintf(stderr, "nvidia-cuda-mps-control (simulated): unknown option %s\n", argv[1]);
    return 1;
}
