#include "io/packet.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/loop.h"

#define BACKLOG 512

static int fill_addr(const char *path, struct sockaddr_un *ret, struct fast_err *err)
{
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(ret->sun_path))
        return fast_err_set(err, FAST_EINVAL,
                            "socket path \"%s\" is longer than %zu bytes; use a shorter directory",
                            path, sizeof(ret->sun_path) - 1);
    memcpy(ret->sun_path, path, strlen(path) + 1);
    return 0;
}

int fast_packet_connect(const char *path, bool nonblock, int *ret_fd, struct fast_err *err)
{
    struct sockaddr_un a;
    int r = fill_addr(path, &a, err);
    if (r)
        return r;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&a, sizeof(a))) {
        r = fast_err_set(err, FAST_EPEER, "cannot connect to %s: %s", path, strerror(errno));
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

int fast_packet_listen(const char *path, int mode, int *ret_fd, struct fast_err *err)
{
    struct sockaddr_un a;
    int old = -1;
    int r = fill_addr(path, &a, err);
    if (r)
        return r;
    if (!fast_packet_connect(path, true, &old, NULL)) {
        close(old);
        return fast_err_set(err, FAST_EBUSY, "%s is in use by a program that runs", path);
    }
    unlink(path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fast_err_set(err, FAST_EIO, "socket: %s", strerror(errno));
    mode_t mask = umask(0777 & ~(mode_t)mode);
    r = bind(fd, (struct sockaddr *)&a, sizeof(a));
    umask(mask);
    if (r || listen(fd, BACKLOG)) {
        r = fast_err_set(err, FAST_EIO, "cannot listen on %s: %s", path, strerror(errno));
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

int fast_packet_send(int fd, const struct fast_msg *msg, const int *fds, int nfds,
                     struct fast_err *err)
{
    unsigned char buf[FAST_MSG_MAX];
    union {
        char buf[CMSG_SPACE(sizeof(int) * FAST_PACKET_FDS)];
        struct cmsghdr align;
    } ctl = {0};
    size_t len = 0;
    int r = fast_msg_encode(msg, buf, sizeof(buf), &len, err);
    if (r)
        return r;
    struct iovec iov = {buf, len};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds > 0 && nfds <= FAST_PACKET_FDS) {
        mh.msg_control = ctl.buf;
        mh.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)nfds);
    }
    ssize_t n;
    do
        n = sendmsg(fd, &mh, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return 0;
    if (errno == EAGAIN || errno == ENOBUFS)
        return fast_err_set(err, FAST_EBUSY, "the peer does not read its messages");
    return fast_err_set(err, FAST_EPEER, "sendmsg: %s", strerror(errno));
}

static void take_fds(struct msghdr *mh, int *ret_fds)
{
    int n = 0;
    if (ret_fds)
        for (int i = 0; i < FAST_PACKET_FDS; i++)
            ret_fds[i] = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (ret_fds && n < FAST_PACKET_FDS)
                ret_fds[n++] = fd;
            else
                close(fd);
        }
    }
}

static void close_fds(int *fds)
{
    for (int i = 0; fds && i < FAST_PACKET_FDS; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

int fast_packet_recv(int fd, void *buf, struct fast_msg *ret, int *ret_fds, struct fast_err *err)
{
    union {
        char buf[CMSG_SPACE(sizeof(int) * FAST_PACKET_FDS)];
        struct cmsghdr align;
    } ctl;
    struct iovec iov = {buf, FAST_MSG_MAX};
    struct msghdr mh = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl.buf, .msg_controllen = sizeof(ctl.buf)};
    ssize_t n;
    do
        n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN)
        return fast_err_set(err, FAST_EBUSY, "no message is there");
    if (n < 0)
        return fast_err_set(err, FAST_EPEER, "recvmsg: %s", strerror(errno));
    take_fds(&mh, ret_fds);
    if (n == 0)
        return fast_err_set(err, FAST_EPEER, "the peer closed the connection");
    int r = mh.msg_flags & MSG_TRUNC
                ? fast_err_set(err, FAST_EPROTO, "a packet is longer than %d bytes", FAST_MSG_MAX)
                : fast_msg_decode(buf, (size_t)n, ret, err);
    if (r)
        close_fds(ret_fds);
    return r;
}

int fast_packet_recv_wait(int fd, fast_ns timeout, void *buf, struct fast_msg *ret, int *ret_fds,
                          struct fast_err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    fast_ns now = fast_clock_now(), end = timeout < FAST_NEVER - now ? now + timeout : FAST_NEVER;
    int n;
    /* A signal that the program handles, and a time of more than an int has milliseconds, end nothing. */
    do {
        fast_ns left = end - now > 0 ? (end - now) / 1000000 : 0;
        n = poll(&p, 1, left < INT_MAX ? (int)left : INT_MAX);
        if (n < 0 && errno != EINTR)
            return fast_err_set(err, FAST_EIO, "poll: %s", strerror(errno));
    } while (n <= 0 && (now = fast_clock_now()) < end);
    if (n <= 0)
        return fast_err_set(err, FAST_ETIME, "no answer within %lld ms",
                            (long long)(timeout / 1000000));
    return fast_packet_recv(fd, buf, ret, ret_fds, err);
}
