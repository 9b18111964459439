/* The manager over its real socket, and clients that take more of it than is theirs: time, messages, lines of its
 * log. */
#include <poll.h>
#include <string.h>
#include <sys/wait.h>

#include "base/log.h"
#include "manager_world.h"
#include "unit/test.h"

#define LONG FAST_S(5)

static struct world world;

static void begin(struct fast_sched_conf conf)
{
    assert_int_equal(world_begin(&world, conf), 0);
}

/* A client that keeps a token which others wait for is to be killed; if that does not end it, it loses its
 * connection. A client that nobody waits for may take its time. */
static void overrun_ends(void **state)
{
    (void)state;
    struct client bad, wide;
    begin((struct fast_sched_conf){.window_ns = FAST_MS(50)});
    world.conf.overrun_max = FAST_MS(100);
    world_overran = 0;
    world_add(&world, 60, 100, 200, 0);
    world_add(&world, 60, 500, 1000, 0);
    world_start(&world);
    client_replica(&bad, &world, 0);
    client_replica(&wide, &world, 1);
    client_want(&bad);
    assert_true(client_wait(&bad, true, LONG));
    assert_true(client_wait(&bad, false, LONG));
    usleep(700000); /* three looks */
    assert_int_equal(world_overran, 0);
    client_want(&wide);
    assert_true(client_wait(&wide, true, LONG));
    assert_int_equal(world_overran, 1);
    assert_int_not_equal(client_recv(&bad, NULL), 0); /* closed */
    client_close(&bad);
    client_close(&wide);
    world_end(&world);
}

/* All processes of a replica share what it may send: 16,000 messages take three times 100 ms and more, from
 * however many connections they come. */
static void crowd_of_one_replica(void **state)
{
    (void)state;
    struct client c[4];
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    world_start(&world);
    for (int i = 0; i < 4; i++)
        client_replica(&c[i], &world, 0);
    fast_ns from = world_now();
    for (int i = 0; i < 4; i++)
        for (uint64_t k = 1; k <= 4000; k++)
            client_done(&c[i], k, 0, false);
    for (int i = 0; i < 4; i++)
        assert_int_equal(client_reserve(&c[i], 1), 1);
    assert_true(world_now() - from >= FAST_MS(200));
    for (int i = 0; i < 4; i++)
        client_close(&c[i]);
    world_end(&world);
}

/* A node that is full says so. */
static void full_house(void **state)
{
    (void)state;
    struct client c[3], late;
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    world_add(&world, 50, 300, 1000, 0);
    world.node.manager->sessions_max = 3;
    world_start(&world);
    for (int i = 0; i < 3; i++)
        client_replica(&c[i], &world, 0);
    assert_int_equal(client_open(&late, &world, 0x1234, 2), FAST_MSG_T_refused);
    assert_int_equal(late.in.refused.code, FAST_ENOROOM);
    client_close(&late);
    client_close(&c[0]);
    uint32_t type = 0;
    for (fast_ns end = world_now() + LONG; type != FAST_MSG_T_welcome && world_now() < end; usleep(1000)) {
        type = client_open(&late, &world, 0x1234, 2);
        client_close(&late);
    }
    assert_int_equal(type, FAST_MSG_T_welcome);
    client_close(&c[1]);
    client_close(&c[2]);
    world_end(&world);
}

/* Of what waits for the store to drop models there is one thing for each process. */
static void one_wish_at_a_time(void **state)
{
    (void)state;
    struct client a, b;
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    world_add(&world, 50, 300, 1000, 0);
    world_start(&world);
    client_replica(&a, &world, 0);
    client_replica(&b, &world, 1);
    assert_int_equal(client_reserve(&a, WORLD_MEM - FAST_MIB(4)), 1);
    world_evictions = 0;
    world_evicts = true;
    for (int i = 0; i < 100; i++)
        client_send(&b, (struct fast_msg){.type = FAST_MSG_T_mem_reserve, .mem_reserve = {0, FAST_MIB(10), 0}});
    for (int i = 1; i < 100; i++) { /* the first one waits, the others are told no */
        assert_int_equal(client_recv(&b, NULL), 0);
        assert_int_equal(b.in.mem_reply.granted, 0);
    }
    assert_int_equal(world_evictions, 1);
    world_evicts = false;
    client_close(&a);
    client_close(&b);
    world_end(&world);
}

static _Atomic bool stop_knocking;

static void *knock(void *arg)
{
    int fd;
    (void)arg;
    for (; !stop_knocking; usleep(1000))
        if (!fast_packet_connect(world.node.socket, false, &fd, NULL))
            close(fd);
    return NULL;
}

/* Whoever sent too much is read from again, however many others knock at the door meanwhile. */
static void slowed_down_and_not_stopped(void **state)
{
    (void)state;
    struct client c;
    pthread_t thread;
    struct timeval most = {.tv_sec = 5};
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    world_start(&world);
    client_replica(&c, &world, 0);
    assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most)), 0);
    stop_knocking = false;
    pthread_create(&thread, NULL, knock, NULL);
    for (uint64_t k = 1; k <= 12000; k++) {
        const struct fast_msg done = {.type = FAST_MSG_T_token_done, .token_done = {0, k, 0, 0, 0}};
        assert_int_equal(fast_packet_send(c.fd, &done, NULL, 0, NULL), 0);
    }
    assert_int_equal(client_reserve(&c, 1), 1);
    stop_knocking = true;
    pthread_join(thread, NULL);
    client_close(&c);
    world_end(&world);
}

/* Nor may they come and go as often as they like. */
static void coming_and_going(void **state)
{
    (void)state;
    struct client c;
    int welcome = 0;
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    world_start(&world);
    fast_ns from = world_now();
    for (int i = 0; i < 1500; i++) {
        uint32_t type = client_open(&c, &world, 0x1234, 1);
        welcome += type == FAST_MSG_T_welcome;
        assert_true(type == FAST_MSG_T_welcome || (type == FAST_MSG_T_refused && c.in.refused.code == FAST_EBUSY));
        client_close(&c);
    }
    assert_true(welcome <= 250 * ((world_now() - from) / FAST_MS(100) + 2));
    world_end(&world);
}

/* What a client never reads are descriptors on their way, of which the node's user may have so many. Connections
 * that are closed unread count, until they are read or gone. */
static void unread_pages_count(void **state)
{
    (void)state;
    struct client c;
    int fds[64];
    const struct fast_msg hello = {.type = FAST_MSG_T_hello, .hello = {FAST_MSG_VERSION, 0x1234, 1, 0}};
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    world_start(&world);
    for (int i = 0; i < 64; i++) {
        assert_int_equal(fast_packet_connect(world.node.socket, false, &fds[i], NULL), 0);
        fast_packet_send(fds[i], &hello, NULL, 0, NULL);
        fast_packet_send(fds[i], &hello, NULL, 0, NULL); /* one too many */
        struct pollfd p = {.fd = fds[i], .events = POLLRDHUP};
        assert_int_equal(poll(&p, 1, (int)(LONG / FAST_MS(1))), 1);
    }
    assert_int_equal(client_open(&c, &world, 0x1234, 1), FAST_MSG_T_refused);
    assert_int_equal(c.in.refused.code, FAST_ENOROOM);
    client_close(&c);
    for (int i = 0; i < 64; i++)
        close(fds[i]);
    client_replica(&c, &world, 0); /* at once, and not after the next tick */
    client_close(&c);
    world_end(&world);
}

/* Connects, says that it uses MPS, and leaves the connection to whoever has the other end of |to|. */
static void connect_and_die(int to)
{
    struct client c;
    char byte = 0;
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } ctl = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl.buf, .msg_controllen = sizeof(ctl.buf)};
    struct cmsghdr *h = CMSG_FIRSTHDR(&mh);
    client_replica(&c, &world, 0);
    client_send(&c, (struct fast_msg){.type = FAST_MSG_T_client_report, .client_report = {0, 80, 1, 13000, {"", 0}}});
    *h = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(h), &c.fd, sizeof(int));
    _exit(sendmsg(to, &mh, 0) == 1 && read(to, &byte, 1) == 1 ? 0 : 1);
}

static int named;

static void ask_names(struct world *w)
{
    int pids[8];
    named = node_share_mps_clients(&w->replicas[0], pids, 8);
}

/* MPS is asked to end clients by number. That of a process which has ended, and left its connection to another
 * one, may be somebody else's by now. */
static void dead_processes_are_not_named(void **state)
{
    (void)state;
    int pair[2], status;
    char buf[CMSG_SPACE(sizeof(int))], byte;
    struct iovec iov = {&byte, 1};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof(buf)};
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    world_start(&world);
    pid_t pid = fork();
    if (pid == 0)
        connect_and_die(pair[1]);
    assert_int_equal(recvmsg(pair[0], &mh, 0), 1);
    for (fast_ns end = world_now() + LONG; named != 1 && world_now() < end; usleep(1000))
        world_call(&world, ask_names);
    assert_int_equal(named, 1);
    assert_int_equal(write(pair[0], "x", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    world_call(&world, ask_names);
    assert_int_equal(named, 0);
    const struct cmsghdr *h = CMSG_FIRSTHDR(&mh);
    int fd = -1;
    if (h)
        memcpy(&fd, CMSG_DATA(h), sizeof(int));
    assert_true(fd >= 0);
    close(fd);
    close(pair[0]);
    close(pair[1]);
    world_end(&world);
}

static _Atomic int lines;

static void count_line(enum fast_log_level level, const char *event, const char *pairs)
{
    (void)level;
    (void)event;
    (void)pairs;
    lines++;
}

/* Whatever a replica says or does, it does not fill the log. */
static void few_lines(void **state)
{
    (void)state;
    struct client c;
    char names[512];
    size_t len = 0;
    for (int i = 0; i < 40; i++)
        len += (size_t)snprintf(names + len, sizeof(names) - len, "cuName%d", i) + 1;
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    world_start(&world);
    fast_log_set(FAST_LOG_INFO, count_line);
    lines = 0;
    for (int i = 0; i < 40; i++) { /* it comes and goes, */
        client_replica(&c, &world, 0);
        for (int k = 0; k < 30; k++) /* has much to tell, */
            client_send(&c, (struct fast_msg){.type = FAST_MSG_T_client_report,
                                              .client_report = {0, 80, 0, 13000, {names, (uint32_t)len}}});
        for (int k = 0; k < 10; k++) { /* and complains */
            client_send(&c, (struct fast_msg){.type = FAST_MSG_T_token_want, .token_want = {0, 1}});
            assert_true(client_wait(&c, true, LONG));
            client_done(&c, c.limits->gpu[0].last, 0, false);
            assert_true(client_wait(&c, false, LONG));
        }
        client_close(&c);
    }
    assert_true(lines > 10 && lines <= 110);
    fast_log_set(FAST_LOG_INFO, NULL);
    world_end(&world);
}

/* Nor do those who have no ticket. */
static void few_lines_for_strangers(void **state)
{
    (void)state;
    struct client c;
    begin((struct fast_sched_conf){0});
    world_start(&world);
    fast_log_set(FAST_LOG_INFO, count_line);
    lines = 0;
    for (int i = 0; i < 500; i++) {
        assert_int_equal(client_open(&c, &world, 1, 2), FAST_MSG_T_refused);
        client_close(&c);
    }
    assert_true(lines > 10 && lines <= 110);
    fast_log_set(FAST_LOG_INFO, NULL);
    world_end(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overrun_ends),
        cmocka_unit_test(crowd_of_one_replica),
        cmocka_unit_test(full_house),
        cmocka_unit_test(one_wish_at_a_time),
        cmocka_unit_test(slowed_down_and_not_stopped),
        cmocka_unit_test(coming_and_going),
        cmocka_unit_test(unread_pages_count),
        cmocka_unit_test(dead_processes_are_not_named),
        cmocka_unit_test(few_lines),
        cmocka_unit_test(few_lines_for_strangers),
    };
    return cmocka_run_group_tests_name("manager_abuse", tests, NULL, NULL);
}
