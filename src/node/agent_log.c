#include "node/agent.h"

/* The logs of replicas. A log is a file that the process appends to by itself, so that it outlives the node. It is
 * kept below LOG_MAX: at a start a log that is larger becomes ID.log.1; while a process runs, every two
 * seconds, the last LOG_KEEP bytes of a larger one are copied to ID.log.1 and it is
 * cut to nothing (appending goes on at its new end). Logs of replicas that are gone are kept for
 * reading, the newest LOG_FILES of them.
 *
 * The kernel tells of writes, and the node notes how long a log has become (io/log_times.h), at most every
 * NOTE_PERIOD: a function that does nothing but write costs the node no more. Lines that came while no node ran
 * have the time of the last of them. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/log_times.h"

#define LOG_MAX (10 << 20)
#define LOG_KEEP (1 << 20)
#define LOG_FILES 512
#define NOTE_PERIOD FAST_MS(5)

struct node_agent_notes {
    struct node_agent *agent;
    int fd; /* of inotify, on the folder of logs */
    struct fast_watch *watch;
    struct fast_timer *again;
};

int node_agent_log_open(const struct agent_replica *r, bool *ret_fresh, struct fast_err *err)
{
    char old[PATH_MAX], when[32];
    const char *path = r->log_path;
    struct stat st;
    if (!stat(path, &st) && st.st_size > LOG_MAX &&
        snprintf(old, sizeof(old), "%s.1", path) < (int)sizeof(old)) {
        fast_log_times_move(path, old, 0);
        rename(path, old);
    }
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "cannot write %.180s: %s", path, strerror(errno));
    *ret_fresh = !fstat(fd, &st) && st.st_size == 0;
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
    dprintf(fd, "%s.%03ldZ fast-node: start %u of %s on port %u: %s\n", when, now.tv_nsec / 1000000,
            r->life.restarts, r->shared.id, r->port, fast_strv_get(r->start.replica_start.argv, 0));
    return fd;
}

/* Copies the end of a log that has become too long and cuts it. */
static void trim_log(const char *path)
{
    char old[PATH_MAX];
    struct stat st;
    if (stat(path, &st) || (st.st_size <= LOG_MAX && fast_log_times_note(path) < FAST_LOG_TIMES_MAX) ||
        snprintf(old, sizeof(old), "%s.1", path) >= (int)sizeof(old))
        return;
    int in = open(path, O_RDWR | O_CLOEXEC);
    int out = open(old, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    fast_autofree char *buf = malloc(LOG_KEEP);
    off_t from = st.st_size > LOG_KEEP ? st.st_size - LOG_KEEP : 0;
    ssize_t n = in >= 0 && out >= 0 && buf ? pread(in, buf, LOG_KEEP, from) : -1;
    const char *nl = n > 0 && from > 0 ? memchr(buf, '\n', (size_t)n) : NULL;
    ssize_t skip = nl ? nl + 1 - buf : 0; /* the rest of a line says little */
    from += skip;
    if (n > 0 && write(out, buf + skip, (size_t)(n - skip)) != n - skip)
        fast_log(WARN, "log tail lost", "path=%s error=%s", path, strerror(errno));
    fast_log_times_move(path, old, from);
    if (in < 0 || ftruncate(in, 0))
        fast_log(WARN, "log not trimmed", "path=%s error=%s", path, strerror(errno));
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
}

/* The oldest log that belongs to no replica, into |ret|; returns how many there are. */
static int oldest_log(const struct node_agent *agent, const char *folder, char *ret, size_t size)
{
    int count = 0;
    time_t oldest = 0;
    DIR *dir = opendir(folder);
    if (!dir)
        return 0;
    for (struct dirent *d; (d = readdir(dir));) {
        char id[NODE_NAME_MAX];
        struct stat st;
        const char *end = strstr(d->d_name, ".log");
        if (!end || (size_t)(end - d->d_name) >= sizeof(id) ||
            fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW))
            continue;
        memcpy(id, d->d_name, (size_t)(end - d->d_name));
        id[end - d->d_name] = 0;
        bool is_older = count == 0 || st.st_mtime < oldest;
        if (node_agent_find(agent, id))
            continue;
        count++;
        if (is_older && snprintf(ret, size, "%s/%s", folder, d->d_name) < (int)size)
            oldest = st.st_mtime;
    }
    closedir(dir);
    return count;
}

void node_agent_trim_logs(struct node_agent *agent)
{
    for (int i = 0; i < agent->count; i++)
        trim_log(agent->replicas[i]->log_path);
}

void node_agent_prune_logs(struct node_agent *agent)
{
    char path[PATH_MAX], folder[PATH_MAX];
    snprintf(folder, sizeof(folder), "%s/logs", agent->node->conf->state_dir);
    while (oldest_log(agent, folder, path, sizeof(path)) > LOG_FILES && !unlink(path)) {
        fast_log_times_drop(path);
        fast_log(DEBUG, "old log removed", "path=%s", path);
    }
}

/* ---- times of lines ---- */

static void note_all(const struct node_agent *agent)
{
    for (int i = 0; i < agent->count; i++)
        fast_log_times_note(agent->replicas[i]->log_path);
}

static void note_file(const struct node_agent *agent, const char *name)
{
    char path[PATH_MAX];
    size_t n = strlen(name);
    if (n > 4 && !strcmp(name + n - 4, ".log") &&
        snprintf(path, sizeof(path), "%s/logs/%s", agent->node->conf->state_dir, name) < (int)sizeof(path))
        fast_log_times_note(path);
}

static void on_written(void *arg, int events)
{
    struct node_agent_notes *notes = arg;
    _Alignas(struct inotify_event) char buf[16384];
    (void)events;
    ssize_t n = read(notes->fd, buf, sizeof(buf));
    for (ssize_t at = 0; at < n;) {
        const struct inotify_event *e = (const struct inotify_event *)(buf + at);
        if (e->mask & IN_Q_OVERFLOW)
            note_all(notes->agent);
        else if (e->len)
            note_file(notes->agent, e->name);
        at += (ssize_t)(sizeof(*e) + e->len);
    }
    fast_watch_set(notes->watch, 0);
    fast_timer_set(notes->again, fast_loop_now(notes->agent->node->loop) + NOTE_PERIOD);
}

static void on_again(void *arg)
{
    struct node_agent_notes *notes = arg;
    fast_watch_set(notes->watch, FAST_LOOP_IN);
}

/* Without it lines are told with the time of the log's last write. */
struct node_agent_notes *node_agent_notes_new(struct node_agent *agent)
{
    char folder[PATH_MAX];
    struct node_agent_notes *notes = calloc(1, sizeof(*notes));
    if (!notes)
        return NULL;
    snprintf(folder, sizeof(folder), "%s/logs", agent->node->conf->state_dir);
    notes->agent = agent;
    notes->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    int added = notes->fd < 0 ? -1 : inotify_add_watch(notes->fd, folder, IN_MODIFY);
    notes->again = fast_timer_new(agent->node->loop, on_again, notes);
    notes->watch = added < 0 ? NULL : fast_watch_new(agent->node->loop, notes->fd, FAST_LOOP_IN, on_written, notes);
    if (!notes->again || !notes->watch) {
        fast_log(WARN, "times of log lines are not kept", "folder=%s error=%s", folder, strerror(errno));
        node_agent_notes_free(notes);
        return NULL;
    }
    note_all(agent); /* what an earlier life did not see */
    return notes;
}

void node_agent_notes_free(struct node_agent_notes *notes)
{
    if (!notes)
        return;
    note_all(notes->agent);
    fast_watch_free(notes->watch);
    fast_timer_free(notes->again);
    if (notes->fd >= 0)
        close(notes->fd);
    free(notes);
}
