#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

int fast_file_read(const char *path, size_t max, char **ret, size_t *ret_len, struct fast_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fast_err_set(err, errno == ENOENT ? FAST_ENOENT : FAST_EIO, "cannot open %s: %s",
                            path, strerror(errno));
    size_t cap = 4096, len = 0;
    char *buf = malloc(cap + 1);
    int r = 0;
    while (buf) {
        ssize_t n = read(fd, buf + len, cap - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = fast_err_set(err, FAST_EIO, "cannot read %s: %s", path, strerror(errno));
        if (n <= 0)
            break;
        len += (size_t)n;
        if (len > max) {
            r = fast_err_set(err, FAST_EINVAL, "%s is larger than %zu bytes", path, max);
            break;
        }
        if (len == cap) {
            char *more = realloc(buf, 2 * cap + 1);
            if (!more) {
                free(buf);
                buf = NULL;
                break;
            }
            buf = more;
            cap *= 2;
        }
    }
    close(fd);
    if (!buf)
        return fast_err_set(err, FAST_ENOMEM, "no memory to read %s", path);
    if (r) {
        free(buf);
        return r;
    }
    buf[len] = 0;
    *ret = buf;
    if (ret_len)
        *ret_len = len;
    return 0;
}

void fast_file_last_line(int fd, char *ret, size_t cap)
{
    off_t size = lseek(fd, 0, SEEK_END), from = size > (off_t)cap - 1 ? size - (off_t)cap + 1 : 0;
    ssize_t n = size < 0 ? -1 : pread(fd, ret, cap - 1, from);
    while (n > 0 && ret[n - 1] == '\n')
        n--;
    ret[n > 0 ? n : 0] = 0;
    const char *nl = strrchr(ret, '\n');
    if (nl)
        memmove(ret, nl + 1, strlen(nl));
}

const char *fast_proc_stat(uint32_t pid, char buf[FAST_PROC_STAT_MAX])
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/%u/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, FAST_PROC_STAT_MAX - 1);
    if (fd >= 0)
        close(fd);
    buf[n > 0 ? n : 0] = 0;
    const char *end = strrchr(buf, ')');
    return end ? end + 1 : NULL;
}

int fast_file_put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

static int write_all(int fd, const char *p, size_t len)
{
    while (len) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int fast_file_replace(const char *path, const void *data, size_t len, int mode,
                      struct fast_err *err)
{
    char tmp[PATH_MAX];
    if (snprintf(tmp, sizeof(tmp), "%s~", path) >= (int)sizeof(tmp))
        return fast_err_set(err, FAST_EINVAL, "path %.80s... is too long", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "cannot write %s: %s", tmp, strerror(errno));
    int r = write_all(fd, data, len) || fsync(fd);
    if (close(fd) || r || rename(tmp, path)) {
        r = fast_err_set(err, FAST_EIO, "cannot write %s: %s", path, strerror(errno));
        unlink(tmp);
        return r;
    }
    return 0;
}

bool fast_proc_user(uint32_t pid, uint32_t *ret)
{
    char path[64], *text = NULL;
    snprintf(path, sizeof(path), "/proc/%u/status", pid);
    if (fast_file_read(path, 1 << 16, &text, NULL, NULL))
        return false;
    const char *at = strstr(text, "\nUid:");
    bool ok = at && sscanf(at, "\nUid: %*u %u", ret) == 1;
    free(text);
    return ok;
}

uint32_t fast_proc_inner(uint32_t pid)
{
    char path[64];
    fast_autofree char *name = NULL, *children = NULL;
    snprintf(path, sizeof(path), "/proc/%u/comm", pid);
    if (fast_file_read(path, 64, &name, NULL, NULL) || strcmp(name, "crun\n") != 0)
        return pid;
    snprintf(path, sizeof(path), "/proc/%u/task/%u/children", pid, pid);
    unsigned inner = 0;
    bool found = !fast_file_read(path, 4096, &children, NULL, NULL) && sscanf(children, "%u", &inner) == 1;
    return found ? inner : pid;
}

int fast_descriptors_raise(uint64_t *ret_was, uint64_t *ret_now)
{
    struct rlimit r;
    *ret_was = *ret_now = 0;
    if (getrlimit(RLIMIT_NOFILE, &r))
        return 0;
    *ret_was = *ret_now = r.rlim_cur;
    r.rlim_cur = r.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &r))
        return -1;
    *ret_now = r.rlim_cur;
    return 0;
}

int fast_path_absolute(const char *path, char *ret, struct fast_err *err)
{
    char cwd[PATH_MAX] = "";
    int n;
    if (*path == '/')
        n = snprintf(ret, PATH_MAX, "%s", path);
    else if (getcwd(cwd, sizeof(cwd)))
        n = snprintf(ret, PATH_MAX, "%s/%s", cwd, path);
    else
        return fast_err_set(err, FAST_EIO, "the current directory is gone");
    return n < PATH_MAX ? 0 : fast_err_set(err, FAST_EINVAL, "path %.60s... is too long", path);
}

int fast_dir_make(const char *path, int mode, struct fast_err *err)
{
    char p[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof(p))
        return fast_err_set(err, FAST_EINVAL, "path of %zu bytes is empty or too long", n);
    memcpy(p, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (p[i] != '/' && p[i] != 0)
            continue;
        char c = p[i];
        p[i] = 0;
        if (mkdir(p, (mode_t)mode) && errno != EEXIST)
            return fast_err_set(err, FAST_EIO, "cannot make directory %s: %s", p, strerror(errno));
        p[i] = c;
    }
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

int fast_dir_remove(const char *path, struct fast_err *err)
{
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT))
        return fast_err_set(err, FAST_EIO, "cannot remove %s: %s", path, strerror(errno));
    return 0;
}

void fast_log_stderr(enum fast_log_level level, const char *event, const char *pairs)
{
    struct timespec t;
    struct tm tm;
    char when[32];
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
    dprintf(STDERR_FILENO, "%s.%03ldZ %-5s %s%s%s\n", when, t.tv_nsec / 1000000,
            fast_log_level_name(level), event, *pairs ? " " : "", pairs);
}
