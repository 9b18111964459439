/* What the simulated MPS control daemon answers, command by command, and its server. */
#include "simdriver/mps_control.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void mps_log(const struct daemon *d, const char *fmt, ...)
{
    char text[MPS_LINE + 64], stamp[40];
    struct timespec now;
    struct tm tm;
    va_list ap;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &tm);
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (d->log >= 0)
        dprintf(d->log, "[%s.%03ld Control %5d] %s\n", stamp, now.tv_nsec / 1000000, (int)getpid(),
                text);
}

/* ---- the server ---- */

void mps_start_server(struct daemon *d, unsigned uid)
{
    pid_t parent = getpid();
    if (d->server)
        return;
    pid_t pid = fork();
    if (pid == 0) {
        /* Nothing of the daemon is its: not its sockets, not its lock. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        prctl(PR_SET_NAME, "nvidia-cuda-mps");
        if (getppid() != parent)
            _exit(0);
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_IGN);
        for (int fd = 0; fd < 1024; fd++)
            close(fd);
        for (;;)
            pause();
    }
    if (pid < 0)
        return;
    d->server = pid;
    d->server_pct = d->pct;
    mps_log(d, "Starting new server %d for user %u", (int)pid, uid);
}

void mps_stop_server(struct daemon *d)
{
    if (!d->server)
        return;
    kill(d->server, SIGKILL);
    waitpid(d->server, NULL, 0);
    mps_log(d, "Server %d exited with status 0", (int)d->server);
    d->server = 0;
}

bool mps_server_ended(struct daemon *d)
{
    int status = 0;
    if (!d->server || waitpid(d->server, &status, WNOHANG) != d->server)
        return false;
    mps_log(d, "Server %d exited with status %d", (int)d->server,
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    d->server = 0;
    return true;
}

void mps_begin_fault(struct daemon *d, const struct client *c)
{
    mps_log(d, "Server %d: fatal fault of client %d", (int)d->server, (int)c->pid);
    for (int i = 0; i < MPS_CLIENTS; i++)
        d->client[i].doomed = d->client[i].fd >= 0 && d->client[i].driver;
}

bool mps_in_fault(const struct daemon *d)
{
    for (int i = 0; i < MPS_CLIENTS; i++)
        if (d->client[i].fd >= 0 && d->client[i].doomed)
            return true;
    return false;
}

/* ---- commands: each prints its answer to |out| ---- */

typedef void command_fn(struct daemon *d, struct client *c, int argc, char **argv, FILE *out);

static bool may_set(struct client *c, FILE *out)
{
    if (c->uid == 0 || c->uid == getuid())
        return true;
    fprintf(out, "Insufficient privileges for UID %u. Control deamon settings can only be modified "
                 "by the user started it or by the root user.\n", c->uid);
    return false;
}

/* A percentage that is not one is ignored. */
bool mps_read_pct(const char *text, double *ret)
{
    char *end;
    double v = strtod(text, &end);
    if (*end || end == text || !(v > 0) || v > 100)
        return false;
    *ret = v;
    return true;
}

static void get_default_pct(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    (void)c;
    (void)argc;
    (void)argv;
    fprintf(out, "%.1f\n", d->pct);
}

static void set_default_pct(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    if (!may_set(c, out))
        return;
    if (argc > 1)
        (void)mps_read_pct(argv[1], &d->pct);
    get_default_pct(d, c, argc, argv, out);
}

static bool is_server(const struct daemon *d, const char *text, FILE *out)
{
    if (d->server && text && atoi(text) == d->server)
        return true;
    fprintf(out, "Server %s not found\n", text ? text : "");
    return false;
}

static void get_pct(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    (void)c;
    if (is_server(d, argc > 1 ? argv[1] : NULL, out))
        fprintf(out, "%.1f\n", d->server_pct);
}

static void set_pct(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    if (!may_set(c, out) || !is_server(d, argc > 1 ? argv[1] : NULL, out))
        return;
    if (argc > 2)
        (void)mps_read_pct(argv[2], &d->server_pct);
    fprintf(out, "%.1f\n", d->server_pct);
}

static void get_server_list(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    (void)c;
    (void)argc;
    (void)argv;
    if (d->server)
        fprintf(out, "%d\n", (int)d->server);
}

static void get_server_status(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    (void)c;
    if (is_server(d, argc > 1 ? argv[1] : NULL, out))
        fprintf(out, mps_in_fault(d) ? "FAULT\n" : "ACTIVE\n");
}

static void get_client_list(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    (void)c;
    if (!is_server(d, argc > 1 ? argv[1] : NULL, out))
        return;
    for (int i = 0; i < MPS_CLIENTS; i++)
        if (d->client[i].fd >= 0 && d->client[i].driver)
            fprintf(out, "%d\n", (int)d->client[i].pid);
}

static void read_comm(pid_t pid, char *ret, int size)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f || !fgets(ret, size, f))
        snprintf(ret, (size_t)size, "-");
    if (f)
        fclose(f);
    ret[strcspn(ret, "\n")] = '\0';
}

static void ps(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    char comm[32];
    int id = 1;
    (void)c;
    (void)argc;
    (void)argv;
    if (!d->server) {
        fprintf(out, "Server not found\n");
        return;
    }
    fprintf(out, "PID       ID    SERVER    DEVICE             NAMESPACE      COMMAND\n");
    for (int i = 0; i < MPS_CLIENTS; i++) {
        const struct client *k = &d->client[i];
        if (k->fd < 0 || !k->driver)
            continue;
        read_comm(k->pid, comm, sizeof(comm));
        fprintf(out, "%-9d %-5d %-9d %-18s %-14s %s\n", (int)k->pid, id++, (int)d->server,
                "GPU-simulated", "-", comm);
    }
}

static void start(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    unsigned uid = argc > 2 && !strcmp(argv[1], "-uid") ? (unsigned)atoi(argv[2]) : c->uid;
    if (may_set(c, out))
        mps_start_server(d, uid);
}

static void shutdown_one(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    if (may_set(c, out) && is_server(d, argc > 1 ? argv[1] : NULL, out))
        mps_stop_server(d);
}

/* Terminates one client. The real one makes its context fail; here the process is ended, which its
 * caller does next in any case. */
static void terminate_client(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    if (!may_set(c, out))
        return;
    bool server = is_server(d, argc > 1 ? argv[1] : NULL, out);
    for (int i = 0; server && argc > 2 && i < MPS_CLIENTS; i++) {
        struct client *k = &d->client[i];
        if (k->fd < 0 || !k->driver || k->pid != atoi(argv[2]))
            continue;
        kill(k->pid, SIGKILL);
        fprintf(out, "0\n");
        return;
    }
    fprintf(out, "Client %s not found\n1\n", argc > 2 ? argv[2] : "");
}

/* A value is a whole number with a suffix; anything behind it is cut off, and a fraction too, as the
 * real one does: "1.5G" is 1M. */
static void limit_text(const char *value, char *ret, size_t size)
{
    char *end;
    long n = strtol(value, &end, 10);
    snprintf(ret, size, "%ld%c", n, *end == 'G' || *end == 'g' ? 'G' : 'M');
}

static struct limit *limit_of(struct daemon *d, const char *device)
{
    for (int i = 0; i < d->limits; i++)
        if (!strcmp(d->limit[i].device, device))
            return &d->limit[i];
    return NULL;
}

static void set_default_limit(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    if (!may_set(c, out) || argc < 3)
        return;
    struct limit *l = limit_of(d, argv[1]);
    if (!l && d->limits < MPS_LIMITS) {
        l = &d->limit[d->limits++];
        snprintf(l->device, sizeof(l->device), "%s", argv[1]);
    }
    if (l)
        limit_text(argv[2], l->value, sizeof(l->value));
}

static void get_default_limit(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    struct limit *l = argc > 1 ? limit_of(d, argv[1]) : NULL;
    (void)c;
    if (l)
        fprintf(out, "%s\n", l->value);
}

static void set_priority(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    if (!may_set(c, out))
        return;
    if (argc < 2 || (strcmp(argv[1], "0") && strcmp(argv[1], "1")))
        fprintf(out, "Invalid priority value - must be 0 or 1!\n");
    else
        d->priority = argv[1][0];
}

static void get_priority(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    (void)c;
    (void)argc;
    (void)argv;
    fprintf(out, "%c\n", d->priority);
}

static void quit(struct daemon *d, struct client *c, int argc, char **argv, FILE *out)
{
    (void)argc;
    (void)argv;
    if (c->uid && c->uid != getuid())
        fprintf(out, "Not enough privilege to execute quit command\n");
    else
        d->quit = true;
}

static const struct {
    const char *name;
    command_fn *fn;
} commands[] = {
    {"get_default_active_thread_percentage", get_default_pct},
    {"set_default_active_thread_percentage", set_default_pct},
    {"get_active_thread_percentage", get_pct},
    {"set_active_thread_percentage", set_pct},
    {"get_server_list", get_server_list},
    {"get_server_status", get_server_status},
    {"get_client_list", get_client_list},
    {"ps", ps},
    {"start_server", start},
    {"shutdown_server", shutdown_one},
    {"terminate_client", terminate_client},
    {"set_default_device_pinned_mem_limit", set_default_limit},
    {"get_default_device_pinned_mem_limit", get_default_limit},
    {"set_default_client_priority", set_priority},
    {"get_default_client_priority", get_priority},
    {"quit", quit},
};

void mps_command(struct daemon *d, struct client *c, char *line)
{
    char *argv[8], *text = NULL, *save = NULL;
    size_t len = 0;
    int argc = 0;
    mps_log(d, "Cmd:%s", line);
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return;
    for (char *p = strtok_r(line, " \t\r", &save); p && argc < 8; p = strtok_r(NULL, " \t\r", &save))
        argv[argc++] = p;
    size_t i = 0;
    while (argc && i < sizeof(commands) / sizeof(commands[0]) && strcmp(commands[i].name, argv[0]))
        i++;
    if (argc && i < sizeof(commands) / sizeof(commands[0]))
        commands[i].fn(d, c, argc, argv, out);
    else if (argc)
        fprintf(out, "Unknown command \"%s\"\n", argv[0]);
    fputc('\0', out); /* the end of the answer */
    fclose(out);
    (void)!send(c->fd, text, len, MSG_NOSIGNAL);
    free(text);
}
