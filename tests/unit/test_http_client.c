/* The calling end of HTTP against a peer that the test plays itself, step by step. */

#include "io/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test.h"

struct rig {
    struct fast_loop *loop;
    struct fast_timer *timer;
    int drained;
    bool late;
};

static void on_drain(void *user)
{
    struct rig *r = user;
    r->drained++;
    fast_loop_stop(r->loop);
}

static void on_fail(void *user, bool connected, const char *why)
{
    (void)user;
    (void)connected;
    fail_msg("%s", why);
}

static void on_late(void *arg)
{
    struct rig *r = arg;
    r->late = true;
    fast_loop_stop(r->loop);
}

static void run(struct rig *r, fast_ns limit)
{
    r->late = false;
    fast_timer_set(r->timer, fast_clock_now() + limit);
    assert_int_equal(fast_loop_run(r->loop, NULL), 0);
}

/* Reads what has come; waits a moment when nothing has. */
static size_t hear(int fd)
{
    static char buf[1 << 16];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 10) <= 0)
        return 0;
    ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    return n > 0 ? (size_t)n : 0;
}

/* A request that was full and is then sent to its last byte by a flush, outside of the loop, has
 * room again: this is told although nothing waits to be sent any more. */
static void room_is_told_after_a_flush(void **state)
{
    static const char head[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n";
    static const struct fast_http_call_ops ops = {.drain = on_drain, .fail = on_fail};
    static char data[8000000];
    struct rig r = {0};
    struct fast_http_pool *pool;
    struct fast_http_call *call;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    (void)state;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof(a)) || listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &len), 0);
    assert_int_equal(fast_loop_new(&r.loop, NULL), 0);
    r.timer = fast_timer_new(r.loop, on_late, &r);
    assert_int_equal(fast_http_pool_new(r.loop, ntohs(a.sin_port), NULL, &pool, NULL), 0);
    assert_int_equal(fast_http_call_new(pool, &ops, &r, head, sizeof(head) - 1, false, false, &call,
                                        NULL), 0);
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    run(&r, FAST_MS(50)); /* the connection is there */
    assert_false(fast_http_call_write(call, data, sizeof(data)));
    size_t got = 0, all = sizeof(head) - 1 + sizeof(data);
    for (int i = 0; i < 20000 && got < all; i++) {
        got += hear(fd);
        fast_http_call_flush(call);
    }
    assert_int_equal(got, all);
    assert_int_equal(r.drained, 0);
    run(&r, FAST_S(20));
    assert_false(r.late);
    assert_int_equal(r.drained, 1);
    fast_http_call_cancel(call);
    fast_http_pool_free(pool);
    fast_timer_free(r.timer);
    fast_loop_free(r.loop);
    close(fd);
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(room_is_told_after_a_flush)};
    return cmocka_run_group_tests_name("http_client", tests, NULL, NULL);
}
