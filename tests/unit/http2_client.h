#ifndef FAST_TESTS_UNIT_HTTP2_CLIENT_H
#define FAST_TESTS_UNIT_HTTP2_CLIENT_H

/* A client of HTTP/2 that makes frames by hand, blocks, and counts windows. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test.h"

enum { DATA, HEADERS, RST_STREAM = 3, SETTINGS, PING = 6, GOAWAY, WINDOW_UPDATE };
enum { END_STREAM = 1, END_HEADERS = 4, ACK = 1 };

static int port;

struct frame {
    uint32_t len, stream;
    uint8_t kind, flags;
    uint8_t payload[65536];
};

struct client {
    int fd;
    int64_t window; /* of the connection */
    uint32_t stream; /* whose window is the other one */
    int64_t stream_window;
    struct frame f;
};

static inline void put(const struct client *c, uint8_t kind, uint8_t flags, uint32_t stream, const void *payload,
                       size_t len)
{
    uint8_t all[9 + 16384] = {(uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len, kind, flags,
                              (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8),
                              (uint8_t)stream};
    if (len)
        memcpy(all + 9, payload, len);
    send(c->fd, all, 9 + len, MSG_NOSIGNAL);
}

/* A request without Huffman's code; |end|: flags of its frame. */
static inline void ask(struct client *c, uint32_t stream, bool post, const char *path, uint8_t end)
{
    size_t len = strlen(path);
    uint8_t block[64] = {post ? 0x83 : 0x82, 0x86, 0x01, 1, 'a', 0x04, (uint8_t)len};
    assert_true(7 + len <= sizeof(block));
    memcpy(block + 7, path, len);
    c->stream = stream;
    c->stream_window = 65535;
    put(c, HEADERS, end, stream, block, 7 + len);
}

static inline bool read_all(int fd, void *buf, size_t len)
{
    for (size_t n = 0; n < len;) {
        ssize_t r = recv(fd, (char *)buf + n, len - n, 0);
        if (r <= 0)
            return false;
        n += (size_t)r;
    }
    return true;
}

/* The next frame, false at the end; windows are kept. */
static inline bool next(struct client *c)
{
    uint8_t h[9];
    if (!read_all(c->fd, h, sizeof(h)))
        return false;
    c->f = (struct frame){.len = (uint32_t)h[0] << 16 | (uint32_t)h[1] << 8 | h[2], .kind = h[3], .flags = h[4],
                          .stream = (uint32_t)h[5] << 24 | (uint32_t)h[6] << 16 | (uint32_t)h[7] << 8 | h[8]};
    if (!read_all(c->fd, c->f.payload, c->f.len))
        return false;
    if (c->f.kind == WINDOW_UPDATE) {
        const uint8_t *p = c->f.payload;
        int64_t more = (int64_t)p[0] << 24 | (int64_t)p[1] << 16 | (int64_t)p[2] << 8 | p[3];
        if (!c->f.stream)
            c->window += more;
        else if (c->f.stream == c->stream)
            c->stream_window += more;
    }
    return true;
}

static inline void read_until(struct client *c, uint8_t kind, uint8_t flags, uint32_t stream)
{
    do
        assert_true(next(c));
    while (c->f.kind != kind || (c->f.flags & flags) != flags || c->f.stream != stream);
}

/* What has been sent was looked at, and what came of it has come. */
static inline void settle(struct client *c)
{
    static const uint8_t nothing[8];
    for (int i = 0; i < 3; i++) {
        put(c, PING, 0, 0, nothing, sizeof(nothing));
        read_until(c, PING, ACK, 0);
    }
}

/* Sends |len| bytes of a body, or as many as the windows allow. */
static inline size_t upload(struct client *c, size_t len, bool patient)
{
    static const uint8_t block[16384];
    size_t sent = 0;
    while (sent < len) {
        int64_t n = (int64_t)(len - sent);
        if (n > (int64_t)sizeof(block))
            n = sizeof(block);
        n = n < c->window ? n : c->window;
        n = n < c->stream_window ? n : c->stream_window;
        if (n > 0) {
            sent += (size_t)n;
            put(c, DATA, sent == len ? END_STREAM : 0, c->stream, block, (size_t)n);
            c->window -= n;
            c->stream_window -= n;
            continue;
        }
        if (patient) {
            assert_true(next(c));
            continue;
        }
        settle(c);
        if (c->window <= 0 || c->stream_window <= 0)
            break;
    }
    return sent;
}

static inline struct client *begin(const uint8_t *settings, size_t len)
{
    struct client *c = calloc(1, sizeof(*c));
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {20, 0};
    int one = 1;
    assert_non_null(c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c->window = 65535;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    assert_int_equal(connect(c->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(send(c->fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, MSG_NOSIGNAL), 24);
    put(c, SETTINGS, 0, 0, settings, len);
    return c;
}

static inline void end(struct client *c)
{
    close(c->fd);
    free(c);
}

#endif
