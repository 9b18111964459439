#include "io/blocks.h"
#include "io/loop.h"
#include "io/packet.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "test.h"

struct record {
    struct fast_loop *loop;
    char log[64];
    int len, stop_at;
};

struct named {
    struct record *rec;
    char name;
};

static void note(struct record *r, char c)
{
    r->log[r->len++] = c;
    if (r->len == r->stop_at)
        fast_loop_stop(r->loop);
}

static void on_timer(void *arg)
{
    struct named *n = arg;
    note(n->rec, n->name);
}

static void timers_in_order(void **state)
{
    (void)state;
    struct record r = {.stop_at = 4};
    assert_int_equal(fast_loop_new(&r.loop, NULL), 0);
    fast_ns now = fast_loop_now(r.loop);
    struct named n[5];
    struct fast_timer *t[5];
    for (int i = 0; i < 5; i++) {
        n[i] = (struct named){&r, (char)('a' + i)};
        t[i] = fast_timer_new(r.loop, on_timer, &n[i]);
        assert_non_null(t[i]);
    }
    fast_timer_set(t[0], now + FAST_MS(3));
    fast_timer_set(t[1], now + FAST_MS(1));
    fast_timer_set(t[2], now + FAST_MS(1)); /* same moment: in the order of setting */
    fast_timer_set(t[3], now + FAST_MS(2));
    fast_timer_set(t[3], now + FAST_MS(4)); /* set again: moves */
    fast_timer_set(t[4], now);
    fast_timer_free(t[4]);
    assert_int_equal(fast_loop_run(r.loop, NULL), 0);
    assert_string_equal(r.log, "bcad");
    for (int i = 0; i < 4; i++)
        fast_timer_free(t[i]);
    fast_loop_free(r.loop);
}

struct pipes {
    struct record *rec;
    struct fast_watch *mine, *other;
};

/* The first of two ready watches removes the other one: that one must not be called. */
static void on_readable(void *arg, int events)
{
    struct pipes *p = arg;
    assert_true(events & FAST_LOOP_IN);
    fast_watch_free(p->other);
    fast_watch_free(p->mine);
    note(p->rec, 'x');
}

static void removed_in_callback(void **state)
{
    (void)state;
    struct record r = {.stop_at = 1};
    int a[2], b[2];
    assert_int_equal(fast_loop_new(&r.loop, NULL), 0);
    assert_int_equal(pipe(a) | pipe(b), 0);
    assert_int_equal(write(a[1], "1", 1) + write(b[1], "1", 1), 2);
    struct pipes pa = {&r, NULL, NULL}, pb = {&r, NULL, NULL};
    pa.mine = pb.other = fast_watch_new(r.loop, a[0], FAST_LOOP_IN, on_readable, &pa);
    pb.mine = pa.other = fast_watch_new(r.loop, b[0], FAST_LOOP_IN, on_readable, &pb);
    assert_int_equal(fast_loop_run(r.loop, NULL), 0);
    assert_int_equal(r.len, 1);
    fast_loop_free(r.loop);
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
}

struct lingering {
    struct record *rec;
    int fd;
};

static void write_and_linger(void *arg)
{
    struct lingering *l = arg;
    note(l->rec, 'w');
    assert_int_equal(write(l->fd, "1", 1), 1);
    fast_loop_linger(l->rec->loop, fast_clock_now() + FAST_S(3600));
}

static void on_byte(void *arg, int events)
{
    struct lingering *l = arg;
    char c;
    (void)events;
    assert_int_equal(read(l->fd, &c, 1), 1);
    note(l->rec, 'r');
}

/* A loop that stays awake still tells what comes, and fires its timers. */
static void lingers(void **state)
{
    (void)state;
    struct record r = {.stop_at = 3};
    int p[2];
    assert_int_equal(fast_loop_new(&r.loop, NULL), 0);
    assert_int_equal(pipe(p), 0);
    struct lingering in = {&r, p[0]}, out = {&r, p[1]};
    struct named late = {&r, 't'};
    struct fast_watch *w = fast_watch_new(r.loop, p[0], FAST_LOOP_IN, on_byte, &in);
    struct fast_timer *first = fast_timer_new(r.loop, write_and_linger, &out);
    struct fast_timer *last = fast_timer_new(r.loop, on_timer, &late);
    fast_timer_set(first, fast_clock_now());
    fast_timer_set(last, fast_clock_now() + FAST_MS(20));
    assert_int_equal(fast_loop_run(r.loop, NULL), 0);
    assert_string_equal(r.log, "wrt");
    fast_timer_free(first);
    fast_timer_free(last);
    fast_watch_free(w);
    fast_loop_free(r.loop);
    close(p[0]);
    close(p[1]);
}

static void on_signal(void *arg, int signal)
{
    note(arg, signal == SIGUSR2 ? 'u' : '?');
}

static void signals(void **state)
{
    (void)state;
    struct record r = {.stop_at = 1};
    assert_int_equal(fast_loop_new(&r.loop, NULL), 0);
    assert_int_equal(fast_loop_signal(r.loop, SIGUSR2, on_signal, &r, NULL), 0);
    kill(getpid(), SIGUSR2);
    assert_int_equal(fast_loop_run(r.loop, NULL), 0);
    assert_string_equal(r.log, "u");
    fast_loop_free(r.loop);
}

static void packets(void **state)
{
    (void)state;
    char dir[] = "/tmp/fast-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
    struct fast_err err;
    int lfd = -1, again = -1, c = -1, fds[FAST_PACKET_FDS], p[2];
    assert_int_equal(fast_packet_listen(path, 0600, &lfd, &err), 0);
    assert_int_equal(fast_packet_listen(path, 0600, &again, &err), -FAST_EBUSY);
    assert_int_equal(fast_packet_connect(path, false, &c, &err), 0);
    int s = accept(lfd, NULL, NULL); /* the probe of the second listener */
    close(s);
    s = accept(lfd, NULL, NULL);
    assert_int_equal(pipe(p), 0);
    struct fast_msg m = {.type = FAST_MSG_T_done, .done = {.code = 3, .text = fast_str("hi")}}, got;
    char buf[FAST_MSG_MAX];
    assert_int_equal(fast_packet_send(s, &m, p, 1, &err), 0);
    assert_int_equal(fast_packet_recv_wait(c, FAST_S(1), buf, &got, fds, &err), 0);
    assert_string_equal(got.done.text.p, "hi");
    assert_true(fds[0] >= 0 && fds[1] == -1);
    assert_int_equal(fast_packet_recv_wait(c, FAST_MS(1), buf, &got, NULL, &err), -FAST_ETIME);
    close(s);
    assert_int_equal(fast_packet_recv_wait(c, FAST_S(1), buf, &got, NULL, &err), -FAST_EPEER);
    close(c);
    close(lfd);
    close(fds[0]);
    close(p[0]);
    close(p[1]);
    assert_int_equal(fast_packet_connect(path, false, &c, &err), -FAST_EPEER);
    unlink(path);
    rmdir(dir);
}

static int interrupted, peer_fd;

/* Speaks at the third interruption, so that whoever waits must have gone on waiting. */
static void on_alarm(int sig)
{
    static const struct fast_msg m = {.type = FAST_MSG_T_model_close, .id = 5};
    (void)sig;
    if (++interrupted == 3)
        fast_packet_send(peer_fd, &m, NULL, 0, NULL);
}

static void a_signal_does_not_end_a_wait(void **state)
{
    (void)state;
    int pair[2];
    static char buf[FAST_MSG_MAX];
    struct fast_msg got;
    struct fast_err err;
    struct sigaction act = {.sa_handler = on_alarm}, before;
    const struct itimerval often = {{0, 2000}, {0, 2000}}, never = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    peer_fd = pair[0];
    sigaction(SIGALRM, &act, &before);
    setitimer(ITIMER_REAL, &often, NULL);
    int rc = fast_packet_recv_wait(pair[1], FAST_S(60), buf, &got, NULL, &err);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    assert_int_equal(rc, 0);
    assert_int_equal(got.id, 5);
    close(pair[0]);
    close(pair[1]);
}

/* A block that was given back is handed out next; another size is not kept; no more than some are. */
static void blocks(void **state)
{
    (void)state;
    struct fast_loop *loop = NULL;
    struct fast_err err;
    assert_int_equal(fast_loop_new(&loop, &err), 0);
    struct fast_blocks *b = fast_loop_blocks(loop);
    char *one = fast_block_take(b), *two = fast_block_take(b), *many[1000];
    assert_non_null(one);
    assert_non_null(two);
    assert_ptr_not_equal(one, two);
    memset(one, 1, FAST_BLOCK);
    fast_block_give(b, NULL, 0);
    fast_block_give(b, one, FAST_BLOCK);
    fast_block_give(b, realloc(two, 100), 100);
    assert_true(b->n <= 1);
    bool kept = b->n;
    for (size_t i = 0; i < 1000; i++)
        many[i] = fast_block_take(b);
    assert_true(!kept || many[0] == one);
    for (size_t i = 0; i < 1000; i++)
        fast_block_give(b, many[i], FAST_BLOCK);
    assert_true(b->n <= 128);
    fast_loop_free(loop); /* and what it keeps */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_in_order), cmocka_unit_test(removed_in_callback), cmocka_unit_test(lingers),
        cmocka_unit_test(signals), cmocka_unit_test(packets),
        cmocka_unit_test(a_signal_does_not_end_a_wait), cmocka_unit_test(blocks),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
