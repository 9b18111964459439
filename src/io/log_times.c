/* Decides what time a line of a log is told with. It assumes that one process notes and any number read, and
 * that 16 bytes at the end of a file appear at once or not at all to a reader. */

#include "io/log_times.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"

#define SIZE ((int64_t)sizeof(struct fast_log_time))

static bool times_path(const char *log, const char *name, char ret[PATH_MAX])
{
    const char *slash = strrchr(log, '/');
    return slash && snprintf(ret, PATH_MAX, "%.*s/times%s", (int)(slash - log), log, name ? name : slash) < PATH_MAX;
}

static fast_ns written(const struct stat *st)
{
    return st->st_mtim.tv_sec * FAST_S(1) + st->st_mtim.tv_nsec;
}

static int open_times(const char *log, const char *path)
{
    char dir[PATH_MAX];
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0 && errno == ENOENT && times_path(log, "", dir) && !fast_dir_make(dir, 0750, NULL))
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    return fd;
}

int64_t fast_log_times_note(const char *log)
{
    char path[PATH_MAX];
    struct stat st, own;
    struct fast_log_time last = {0}, now;
    if (!times_path(log, NULL, path))
        return 0;
    if (stat(log, &st)) {
        unlink(path);
        return 0;
    }
    int fd = open_times(log, path);
    if (fd < 0)
        return 0;
    int64_t at = fstat(fd, &own) ? 0 : own.st_size / SIZE * SIZE; /* half of one: its writer was killed */
    if (at && pread(fd, &last, sizeof(last), at - SIZE) != SIZE)
        at = 0;
    if (st.st_size < last.size) {
        at = ftruncate(fd, 0) ? at : 0;
        last = (struct fast_log_time){0};
    }
    now = (struct fast_log_time){st.st_size, written(&st)};
    if (now.wall < last.wall) /* the clock was set back: lines keep their order */
        now.wall = last.wall;
    if (now.size > last.size && pwrite(fd, &now, sizeof(now), at) == SIZE)
        at += SIZE;
    close(fd);
    return at;
}

void fast_log_times_drop(const char *log)
{
    char path[PATH_MAX];
    if (times_path(log, NULL, path))
        unlink(path);
}

void fast_log_times_move(const char *log, const char *old, off_t from)
{
    char path[PATH_MAX], to[PATH_MAX];
    struct fast_log_time part[128];
    if (!times_path(log, NULL, path) || !times_path(old, NULL, to))
        return;
    int in = open(path, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    for (ssize_t n; in >= 0 && out >= 0 && (n = read(in, part, sizeof(part))) >= SIZE;) {
        size_t kept = 0;
        for (ssize_t i = 0; i < n / SIZE; i++)
            if (part[i].size > from)
                part[kept++] = (struct fast_log_time){part[i].size - from, part[i].wall};
        if (write(out, part, kept * sizeof(*part)) != (ssize_t)(kept * sizeof(*part)))
            break;
    }
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    unlink(path);
}

/* ---- reading ---- */

void fast_log_times_open(struct fast_log_times *t, const char *log)
{
    char path[PATH_MAX];
    struct stat st;
    *t = (struct fast_log_times){.fd = -1};
    if (!stat(log, &st))
        t->last = written(&st);
    t->fd = times_path(log, NULL, path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (t->fd >= 0 && !fstat(t->fd, &st))
        t->n = st.st_size / SIZE;
}

void fast_log_times_close(struct fast_log_times *t)
{
    if (t->fd >= 0)
        close(t->fd);
    t->fd = -1;
}

static const struct fast_log_time *entry(struct fast_log_times *t, int64_t i)
{
    if (i < t->first || i >= t->first + t->count) {
        ssize_t n = pread(t->fd, t->part, sizeof(t->part), i * SIZE);
        t->first = i;
        t->count = n > 0 ? n / SIZE : 0;
    }
    return t->count ? &t->part[i - t->first] : NULL;
}

/* The first of them at which the log was |end| bytes long, from |t->next| on; |t->n|: none. */
static int64_t search(struct fast_log_times *t, off_t end)
{
    int64_t low = t->next, high = t->n;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        const struct fast_log_time *e = entry(t, mid);
        if (e && e->size < end)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

fast_ns fast_log_times_at(struct fast_log_times *t, off_t end)
{
    const struct fast_log_time *e = t->next < t->n ? entry(t, t->next) : NULL;
    if (e && e->size < end) {
        t->next++; /* most often it is the next one */
        e = t->next < t->n ? entry(t, t->next) : NULL;
        if (e && e->size < end)
            t->next = search(t, end);
    }
    e = t->next < t->n ? entry(t, t->next) : NULL;
    return e ? e->wall : t->last;
}
