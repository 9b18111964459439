#include "gateway/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

#define ROOM 65536
#define WAIT FAST_S(1)

struct gw_sink {
    struct fast_loop *loop;
    struct fast_timer *timer;
    char *path;
    bool waiting, broken; /* broken: the last write failed */
    size_t len;
    char buf[ROOM];
};

static int open_file(const struct gw_sink *s)
{
    if (!strcmp(s->path, "-"))
        return dup(STDOUT_FILENO);
    return open(s->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0640); /* a FIFO does not block */
}

/* Waits for nobody: a pipe that is not read must not hold up requests. Standard output may be one, and its
 * O_NONBLOCK is others' too; a pipe that can be written has room for PIPE_BUF. */
static bool write_all(int fd, const char *p, size_t len)
{
    while (len) {
        struct pollfd can = {.fd = fd, .events = POLLOUT};
        if (poll(&can, 1, 0) == 0) {
            errno = EAGAIN;
            return false;
        }
        ssize_t n = write(fd, p, len < PIPE_BUF ? len : PIPE_BUF);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static void flush(struct gw_sink *s)
{
    int fd = s->len ? open_file(s) : -1;
    bool ok = !s->len || (fd >= 0 && write_all(fd, s->buf, s->len));
    if (!ok && !s->broken)
        fast_log(ERROR, "a file cannot be written", "path=%s why=\"%s\"", s->path, strerror(errno));
    s->broken = !ok;
    s->len = 0;
    if (fd >= 0)
        close(fd);
}

static void on_timer(void *arg)
{
    struct gw_sink *s = arg;
    s->waiting = false;
    flush(s);
}

int gw_sink_new(struct fast_loop *loop, const char *path, struct gw_sink **ret, struct fast_err *err)
{
    struct gw_sink *s = calloc(1, sizeof(*s));
    if (!s)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a log");
    s->loop = loop;
    s->path = strdup(path);
    s->timer = fast_timer_new(loop, on_timer, s);
    int fd = s->path && s->timer ? open_file(s) : -1;
    int r = s->path && s->timer ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for a log");
    if (!r && fd < 0)
        r = fast_err_set(err, FAST_EIO, "%.200s: %s", path, strerror(errno));
    if (r) {
        gw_sink_free(s);
        return r;
    }
    close(fd);
    *ret = s;
    return 0;
}

void gw_sink_free(struct gw_sink *s)
{
    if (!s)
        return;
    if (s->path)
        flush(s);
    fast_timer_free(s->timer);
    free(s->path);
    free(s);
}

void gw_sink_put(struct gw_sink *s, const char *text, size_t len)
{
    if (len > ROOM)
        return;
    if (s->len + len > ROOM)
        flush(s);
    memcpy(s->buf + s->len, text, len);
    s->len += len;
    if (!s->waiting)
        fast_timer_set(s->timer, fast_loop_now(s->loop) + WAIT);
    s->waiting = true;
}
