/* The manager over its real socket: what a good client gets, and what a bad one cannot do. Times in
 * here are upper bounds that leave a slow machine a hundred times what it needs. */
#include <fcntl.h>
#include <semaphore.h>
#include <string.h>

#include "base/mem.h"
#include "manager_world.h"
#include "unit/test.h"

#define LONG FAST_S(5)
#define SHORT FAST_MS(60)

static struct world world;

static void begin(struct fast_sched_conf conf)
{
    assert_int_equal(world_begin(&world, conf), 0);
}

static void hello(void **state)
{
    (void)state;
    struct client c;
    begin((struct fast_sched_conf){0});
    assert_int_equal(world_add(&world, 24, 300, 800, FAST_MIB(10)), 0);
    world_start(&world);
    client_replica(&c, &world, 0);
    assert_int_equal(c.in.id, 5);
    assert_int_equal(c.in.welcome.epoch, 7);
    assert_string_equal(c.in.welcome.replica.p, "f.openfaas-fn.0");
    assert_int_equal(c.limits->magic, FAST_PAGE_MAGIC);
    assert_int_equal(c.counters->version, FAST_PAGE_VERSION);
    assert_int_equal(c.limits->gated, 1);
    assert_int_equal(c.limits->gpu[0].sm_pct, 24);
    assert_int_equal(c.limits->gpu[0].limit_milli, 800);
    assert_int_equal(c.limits->gpu[0].mem_cap_bytes, FAST_MIB(10));
    client_close(&c);
    world_end(&world);
}

/* A client can neither write its limits, nor get a mapping that can, nor shrink a page. */
static void limits_are_read_only(void **state)
{
    (void)state;
    struct client c;
    char path[64];
    begin((struct fast_sched_conf){0});
    world_add(&world, 24, 300, 800, 0);
    world_start(&world);
    client_replica(&c, &world, 0);
    assert_ptr_equal(mmap(NULL, FAST_PAGE_BYTES, PROT_WRITE, MAP_SHARED, c.limits_fd, 0), MAP_FAILED);
    assert_int_not_equal(mprotect((void *)(uintptr_t)c.limits, FAST_PAGE_BYTES, PROT_WRITE), 0);
    assert_int_equal(pwrite(c.limits_fd, "x", 1, 0), -1);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", c.limits_fd);
    int again = open(path, O_RDWR);
    if (again >= 0) { /* the seal holds even where the open does not fail */
        assert_int_equal(pwrite(again, "x", 1, 0), -1);
        assert_ptr_equal(mmap(NULL, FAST_PAGE_BYTES, PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
        assert_int_not_equal(ftruncate(again, 0), 0);
        close(again);
    }
    assert_int_not_equal(ftruncate(c.counters_fd, 0), 0);
    client_close(&c);
    world_end(&world);
}

static void wrong_hellos(void **state)
{
    (void)state;
    struct client c;
    begin((struct fast_sched_conf){0});
    world_add(&world, 24, 300, 800, 0);
    world_start(&world);
    assert_int_equal(client_open(&c, &world, 1, 2), FAST_MSG_T_refused);
    assert_int_equal(c.in.refused.code, FAST_EPERM);
    assert_int_not_equal(client_recv(&c, NULL), 0); /* closed */
    client_close(&c);
    const struct fast_msg first[] = {
        {.type = FAST_MSG_T_token_want},
        {.type = FAST_MSG_T_hello, .hello = {99, 0x1234, 1, 0}},
        {.type = FAST_MSG_T_policy_set, .policy_set = {2, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
        assert_int_equal(fast_packet_connect(world.node.socket, false, &c.fd, NULL), 0);
        client_send(&c, first[i]);
        assert_int_equal(client_recv(&c, NULL), 0);
        assert_int_equal(c.in.type, FAST_MSG_T_refused);
        assert_int_not_equal(client_recv(&c, NULL), 0);
        close(c.fd);
    }
    world_end(&world);
}

/* Many who connect and say nothing do not keep out one who has a ticket. The answer has to be there
 * long before the silent ones are given up. */
static void silent_crowd(void **state)
{
    (void)state;
    struct client c;
    int fds[200];
    begin((struct fast_sched_conf){0});
    world_add(&world, 24, 300, 800, 0);
    world_start(&world);
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        assert_int_equal(fast_packet_connect(world.node.socket, false, &fds[i], NULL), 0);
    fast_ns before = fast_clock_now();
    client_replica(&c, &world, 0);
    assert_true(fast_clock_now() - before < FAST_S(3));
    client_close(&c);
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        close(fds[i]);
    world_end(&world);
}

static struct {
    struct client c[63];
    int late, late_failed;
    size_t strangers;
} crowd;

static void count_crowd(struct world *w)
{
    crowd.strangers = w->node.manager->strangers;
}

/* In the loop, so that nothing is read meanwhile: one more comes, then all say hello, and time passes. */
static void speak_while_away(struct world *w)
{
    const struct timespec away = {.tv_nsec = 150000000};
    crowd.late_failed = fast_packet_connect(w->node.socket, true, &crowd.late, NULL);
    for (size_t i = 0; i < FAST_COUNT_OF(crowd.c); i++)
        client_send(&crowd.c[i], (struct fast_msg){.type = FAST_MSG_T_hello,
                                                   .hello = {FAST_MSG_VERSION, 0x1234, 1, 0}});
    nanosleep(&away, NULL);
}

/* A node that had no core for long finds a crowd that has spoken: it is not silent. */
static void spoken_to_nobody(void **state)
{
    (void)state;
    begin((struct fast_sched_conf){0});
    world_add(&world, 24, 300, 800, 0);
    world_start(&world);
    for (size_t i = 0; i < FAST_COUNT_OF(crowd.c); i++)
        assert_int_equal(fast_packet_connect(world.node.socket, false, &crowd.c[i].fd, NULL), 0);
    while (crowd.strangers < FAST_COUNT_OF(crowd.c))
        world_call(&world, count_crowd);
    world_call(&world, speak_while_away);
    assert_int_equal(crowd.late_failed, 0);
    for (size_t i = 0; i < FAST_COUNT_OF(crowd.c); i++) {
        int fds[FAST_PACKET_FDS];
        assert_int_equal(client_recv(&crowd.c[i], fds), 0);
        assert_int_equal(crowd.c[i].in.type, FAST_MSG_T_welcome);
        close(fds[0]);
        close(fds[1]);
        close(crowd.c[i].fd);
    }
    close(crowd.late);
    world_end(&world);
}

static void garbage(void **state)
{
    (void)state;
    struct client good, bad;
    unsigned seed = 3;
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, 0);
    world_add(&world, 50, 300, 1000, 0);
    world_start(&world);
    client_replica(&good, &world, 0);
    for (int i = 0; i < 200; i++) {
        client_replica(&bad, &world, 1);
        unsigned char noise[300];
        for (size_t k = 0; k < sizeof(noise); k++)
            noise[k] = (unsigned char)rand_r(&seed);
        noise[0] = i % 3 ? noise[0] : (unsigned char)(i % 60);
        noise[1] = i % 3 ? noise[1] : 0;
        if (send(bad.fd, noise, 1 + (size_t)rand_r(&seed) % sizeof(noise), MSG_NOSIGNAL) < 0)
            assert_int_equal(errno, EPIPE);
        client_close(&bad);
    }
    client_want(&good);
    assert_true(client_wait(&good, true, LONG));
    client_close(&good);
    world_end(&world);
}

/* Two clients of 60 % never hold tokens together; the second one gets its own as soon as the first
 * one gives it back, or dies. */
static void tokens_go_round(void **state)
{
    (void)state;
    struct client a, b;
    begin((struct fast_sched_conf){.greedy = true, .token_ns = FAST_MS(100)});
    world_add(&world, 60, 500, 1000, 0);
    world_add(&world, 60, 500, 1000, 0);
    world_start(&world);
    client_replica(&a, &world, 0);
    client_replica(&b, &world, 1);
    uint64_t before = 0;
    for (int i = 0; i < 200; i++) {
        client_want(&a);
        assert_true(client_wait(&a, true, LONG));
        uint64_t token = client_token(&a);
        if (!token) { /* it ended already */
            token = a.limits->gpu[0].last;
        }
        assert_true(token > before);
        before = token;
        assert_int_equal(client_token(&b), 0);
        client_want(&b);
        client_done(&a, token, FAST_US(100), false);
        assert_true(client_wait(&b, true, LONG));
        assert_true(client_wait(&a, false, LONG));
        client_done(&b, b.limits->gpu[0].last, FAST_US(100), false);
        assert_true(client_wait(&b, false, LONG));
    }
    client_want(&a);
    assert_true(client_wait(&a, true, LONG));
    client_want(&b);
    client_close(&a); /* as when it is killed */
    assert_true(client_wait(&b, true, LONG));
    client_close(&b);
    world_end(&world);
}

/* What a client says with a token that it gives back outweighs what it said before: a wish that crosses
 * a token which its sender has not seen neither is lost with it nor leads to a second one. */
static void wish_of_the_holder(void **state)
{
    (void)state;
    struct client a;
    begin((struct fast_sched_conf){.token_ns = FAST_MS(1)});
    world_add(&world, 100, 500, 1000, 0);
    world_start(&world);
    client_replica(&a, &world, 0);
    client_want(&a);
    assert_true(client_wait(&a, true, LONG));
    uint64_t last = a.limits->gpu[0].last;
    for (int i = 0; i < 50; i++) {
        uint64_t token = last;
        client_want(&a);
        client_done(&a, token, 0, true);
        for (fast_ns end = world_now() + LONG; last == token && world_now() < end; usleep(50))
            last = a.limits->gpu[0].last;
        assert_true(last > token);
    }
    client_want(&a);
    client_done(&a, last, 0, false);
    assert_true(client_wait(&a, false, LONG));
    assert_false(client_wait(&a, true, SHORT));
    assert_int_equal(a.limits->gpu[0].last, last);
    client_close(&a);
    world_end(&world);
}

/* A client that says that the GPU did nothing, while others wait, pays for half of the time that it held
 * its tokens. */
static void lies_are_doubted(void **state)
{
    (void)state;
    struct client c[2];
    uint64_t given_back[2] = {0, 0};
    int turns[2] = {0, 0};
    begin((struct fast_sched_conf){.policy = FAST_POLICY_TIMESHARE, .token_ns = FAST_MS(100)});
    for (int i = 0; i < 2; i++)
        world_add(&world, 50, 0, 1000, 0);
    world_start(&world);
    for (int i = 0; i < 2; i++) {
        client_replica(&c[i], &world, i);
        client_want(&c[i]);
    }
    for (fast_ns end = world_now() + LONG; turns[0] + turns[1] < 200 && world_now() < end;) {
        for (int i = 0; i < 2; i++) {
            uint64_t token = client_token(&c[i]);
            if (!token || token == given_back[i])
                continue;
            usleep(1000);
            client_done(&c[i], token, i ? FAST_MS(1) : 0, true);
            given_back[i] = token;
            turns[i]++;
        }
    }
    assert_true(turns[0] + turns[1] >= 200);
    assert_true(turns[1] >= 40); /* a third, if the other one counts half; none, if it is believed */
    for (int i = 0; i < 2; i++)
        client_close(&c[i]);
    world_end(&world);
}

/* A token is taken back at its end, and the limit of a window holds. */
static void revoked_at_the_limit(void **state)
{
    (void)state;
    struct client a;
    begin((struct fast_sched_conf){
        .window_ns = FAST_S(10), .token_ns = FAST_MS(20), .charge = FAST_CHARGE_HELD});
    world_add(&world, 100, 1, 5, 0); /* 50 ms in 10 s */
    world_start(&world);
    client_replica(&a, &world, 0);
    client_want(&a);
    assert_true(client_wait(&a, true, LONG));
    fast_ns from = world_now();
    assert_true(client_wait(&a, false, LONG));
    fast_ns held = world_now() - from;
    assert_true(held >= FAST_MS(40));
    client_done(&a, a.limits->gpu[0].last, held, true);
    assert_false(client_wait(&a, true, SHORT));
    client_close(&a);
    world_end(&world);
}

/* Processes of one replica share its token: one at a time, each in its turn. */
static void processes_take_turns(void **state)
{
    (void)state;
    struct client c[3];
    int turns[3] = {0};
    begin((struct fast_sched_conf){.token_ns = FAST_MS(5)});
    world_add(&world, 30, 500, 1000, 0);
    world_start(&world);
    for (int i = 0; i < 3; i++) {
        client_replica(&c[i], &world, 0);
        client_want(&c[i]);
    }
    for (fast_ns end = world_now() + FAST_S(1); world_now() < end;) {
        for (int i = 0; i < 3; i++) { /* nobody holds one within the time of another's */
            uint64_t mine = client_token(&c[i]), other = client_token(&c[(i + 1) % 3]);
            assert_true(!mine || !other || client_token(&c[i]) != mine);
        }
        for (int i = 0; i < 3; i++) {
            uint64_t last = c[i].limits->gpu[0].last;
            if (!last || client_token(&c[i]) || c[i].in.id == last)
                continue;
            c[i].in.id = (uint32_t)last; /* given back already */
            turns[i]++;
            client_done(&c[i], last, FAST_MS(5), true);
        }
        usleep(500);
    }
    for (int i = 0; i < 3; i++)
        assert_true(turns[i] >= 5);
    client_close(&c[0]);
    client_close(&c[1]);
    client_close(&c[2]);
    world_end(&world);
}

static void memory(void **state)
{
    (void)state;
    struct client a, b, c;
    begin((struct fast_sched_conf){0});
    world_add(&world, 30, 500, 1000, FAST_MIB(20));
    world_add(&world, 30, 500, 1000, 0);
    assert_int_equal(world_add(&world, 30, 500, 1000, WORLD_MEM + 1), -FAST_EINVAL);
    world.count--;
    world_start(&world);
    client_replica(&a, &world, 0);
    client_replica(&b, &world, 0);
    client_replica(&c, &world, 1);
    assert_int_equal(client_reserve(&a, FAST_MIB(12)), 1);
    assert_int_equal(client_reserve(&b, FAST_MIB(9)), 0);
    assert_int_equal(b.in.mem_reply.free_bytes, FAST_MIB(8));
    assert_int_equal(client_reserve(&b, FAST_MIB(8)), 1);
    assert_int_equal(a.limits->gpu[0].mem_used_bytes, FAST_MIB(20));
    assert_int_equal(client_reserve(&c, FAST_MIB(45)), 0); /* 44 are left on the device */
    assert_int_equal(client_reserve(&c, UINT64_MAX), 0);
    assert_int_equal(client_reserve(&c, FAST_MIB(44)), 1);
    client_close(&a);
    for (int i = 0; i < 100 && b.limits->gpu[0].mem_used_bytes != FAST_MIB(8); i++)
        usleep(10000);
    assert_int_equal(client_reserve(&b, FAST_MIB(12)), 1);
    client_send(&b, (struct fast_msg){.type = FAST_MSG_T_mem_release, .mem_release = {0, FAST_MIB(20), 0}});
    client_send(&b, (struct fast_msg){.type = FAST_MSG_T_mem_release, .mem_release = {0, UINT64_MAX, 0}});
    assert_int_equal(client_reserve(&b, FAST_MIB(20)), 1);
    client_close(&b);
    client_close(&c);
    world_end(&world);
}

/* One client floods and never reads; the others do not wait for it. */
static void flood(void **state)
{
    (void)state;
    struct client good, bad;
    begin((struct fast_sched_conf){0});
    world_add(&world, 50, 300, 1000, FAST_MIB(8));
    world_add(&world, 50, 300, 1000, 0);
    world_start(&world);
    client_replica(&bad, &world, 0);
    client_replica(&good, &world, 1);
    fcntl(bad.fd, F_SETFL, O_NONBLOCK);
    fast_ns worst = 0;
    for (int i = 0; i < 50; i++) {
        for (int k = 0; k < 2000; k++) {
            client_send(&bad, (struct fast_msg){.type = FAST_MSG_T_mem_reserve, .mem_reserve = {0, 1, 0}});
            client_done(&bad, (uint64_t)k, INT64_MIN, true);
        }
        fast_ns from = world_now();
        client_want(&good);
        assert_true(client_wait(&good, true, LONG));
        worst = world_now() - from > worst ? world_now() - from : worst;
        client_done(&good, good.limits->gpu[0].last, -1, false);
        assert_true(client_wait(&good, false, LONG));
    }
    assert_true(worst < FAST_S(1));
    client_close(&bad);
    client_close(&good);
    world_end(&world);
}

/* One client never gives its token back; the others go on beside it, and get its SMs when it dies. */
static void never_done(void **state)
{
    (void)state;
    struct client bad, wide, slim;
    begin((struct fast_sched_conf){.drain_ns = FAST_MS(20), .window_ns = FAST_MS(50)});
    world_add(&world, 60, 100, 200, 0);
    world_add(&world, 60, 500, 1000, 0);
    world_add(&world, 40, 500, 1000, 0);
    world_start(&world);
    client_replica(&bad, &world, 0);
    client_replica(&wide, &world, 1);
    client_replica(&slim, &world, 2);
    client_want(&bad);
    assert_true(client_wait(&bad, true, LONG));
    client_want(&wide);
    assert_true(client_wait(&bad, false, LONG));
    usleep(30000);
    client_want(&slim);
    assert_true(client_wait(&slim, true, LONG));
    assert_false(client_wait(&wide, true, SHORT));
    client_close(&bad);
    client_done(&slim, slim.limits->gpu[0].last, 0, false);
    assert_true(client_wait(&wide, true, LONG));
    client_close(&wide);
    client_close(&slim);
    world_end(&world);
}

static void set_racing(struct world *w)
{
    struct fast_msg_policy_set set = {.policy = FAST_POLICY_RACING};
    assert_int_equal(node_policy_set(w->node.manager, &set, NULL), 0);
}

static void set_fast(struct world *w)
{
    struct fast_msg_policy_set bad = {.window_ns = 5}, set = {.window_ns = FAST_MS(20)};
    assert_int_equal(node_policy_set(w->node.manager, &bad, NULL), -FAST_EINVAL);
    assert_int_equal(node_policy(w->node.manager)->policy, FAST_POLICY_RACING);
    assert_int_equal(node_policy_set(w->node.manager, &set, NULL), 0);
    assert_int_equal(node_policy(w->node.manager)->window_ns, FAST_MS(20));
}

static void set_fast_again(struct world *w)
{
    struct fast_msg_policy_set set = {.window_ns = FAST_MS(20)};
    assert_int_equal(node_policy_set(w->node.manager, &set, NULL), 0);
}

static void policy_at_run_time(void **state)
{
    (void)state;
    struct client a;
    begin((struct fast_sched_conf){0});
    world_add(&world, 60, 500, 1000, 0);
    world_start(&world);
    client_replica(&a, &world, 0);
    client_want(&a);
    assert_true(client_wait(&a, true, LONG));
    world_call(&world, set_racing);
    assert_int_equal(a.limits->gated, 0);
    assert_true(client_wait(&a, false, LONG));
    client_done(&a, a.limits->gpu[0].last, 0, true);
    assert_false(client_wait(&a, true, SHORT));
    world_call(&world, set_fast); /* what was asked for meanwhile is remembered */
    assert_int_equal(a.limits->gated, 1);
    assert_true(client_wait(&a, true, LONG));
    client_done(&a, a.limits->gpu[0].last, 0, false);
    world_call(&world, set_racing);
    client_want(&a);
    assert_false(client_wait(&a, true, SHORT));
    world_call(&world, set_fast_again);
    assert_true(client_wait(&a, true, LONG));
    client_close(&a);
    world_end(&world);
}

static struct fast_msg_replica_stats stats;

static void get_stats(struct world *w)
{
    node_share_stats(&w->replicas[0], 0, &stats);
}

static void shrink(struct world *w)
{
    w->replicas[0].slice.limit_milli = 400;
    w->replicas[0].slice.request_milli = 400;
    w->replicas[0].slice.mem_bytes = FAST_MIB(2);
    assert_int_equal(node_share_update(w->node.manager, &w->replicas[0], NULL), 0);
    w->replicas[0].slice.limit_milli = 300;
    assert_int_equal(node_share_update(w->node.manager, &w->replicas[0], NULL), -FAST_EINVAL);
}

static void remove_first(struct world *w)
{
    node_share_remove(w->node.manager, &w->replicas[0]);
}

static void statistics_and_resize(void **state)
{
    (void)state;
    struct client a;
    begin((struct fast_sched_conf){0});
    world_add(&world, 60, 500, 1000, 0);
    world_start(&world);
    client_replica(&a, &world, 0);
    client_want(&a);
    assert_true(client_wait(&a, true, LONG));
    atomic_store(&a.counters->gpu[0].launches, 42);
    atomic_store(&a.counters->gpu[0].busy_ns, INT64_MAX);
    usleep(3000);
    client_done(&a, a.limits->gpu[0].last, INT64_MAX, false);
    assert_true(client_wait(&a, false, LONG));
    assert_int_equal(client_reserve(&a, 1), 1);
    world_call(&world, get_stats);
    assert_int_equal(stats.clients, 1);
    assert_int_equal(stats.launches, 42);
    assert_int_equal(stats.tokens, 1);
    assert_true(stats.held_ns >= FAST_MS(3) && stats.held_ns < FAST_S(60));
    assert_true(stats.busy_ns >= FAST_MS(3) && stats.busy_ns < FAST_S(60));
    assert_int_equal(stats.mem_bytes, FAST_MIB(2));
    assert_int_equal(stats.holds_token, 0);
    world_call(&world, shrink);
    assert_int_equal(a.limits->gpu[0].limit_milli, 400);
    assert_int_equal(client_reserve(&a, FAST_MIB(2)), 0);
    client_want(&a);
    assert_true(client_wait(&a, true, LONG));
    world_call(&world, remove_first);
    assert_int_not_equal(client_recv(&a, NULL), 0); /* closed */
    assert_int_equal(client_open(&a, &world, 0x1234, 1), FAST_MSG_T_refused);
    client_close(&a);
    world_end(&world);
}

/* The newest token of GPU |gpu|, which is there or not (|there|), after at most a long while; 0: it is not so. */
static uint64_t token_of(const struct client *c, int gpu, bool there)
{
    struct fast_grant *g = (struct fast_grant *)(uintptr_t)&c->limits->gpu[gpu];
    for (fast_ns end = world_now() + LONG; world_now() < end; usleep(50))
        if ((atomic_load(&g->token) != 0) == there)
            return atomic_load(&g->last);
    return 0;
}

static void want_of(struct client *c, uint32_t gpu)
{
    client_send(c, (struct fast_msg){.type = FAST_MSG_T_token_want, .token_want = {gpu, 0}});
}

static void done_of(struct client *c, uint32_t gpu, uint64_t token, bool want)
{
    client_send(c, (struct fast_msg){.type = FAST_MSG_T_token_done, .token_done = {gpu, token, 0, 0, want}});
}

/* Two processes of a replica, each at work on one of its two GPUs, hold a token at the same time; whoever else is
 * on one of the GPUs gets it when both are gone, and while he has it neither of them has one. */
static void two_gpus_at_once(void **state)
{
    (void)state;
    struct client p, q, other;
    world_gpus = 2;
    begin((struct fast_sched_conf){.window_ns = FAST_S(10), .token_ns = FAST_S(10)});
    assert_int_equal(world_add_on(&world, 0, 4, 60, 500, 1000, 0), -FAST_EINVAL);
    world.count = 0;
    assert_int_equal(world_add_on(&world, 0, 2, 60, 500, 1000, FAST_MIB(10)), 0);
    assert_int_equal(world_add_on(&world, 1, 0, 60, 500, 1000, 0), 0);
    world_start(&world);
    client_replica(&p, &world, 0);
    assert_int_equal(p.in.welcome.gpus, 2);
    client_replica(&q, &world, 0);
    client_replica(&other, &world, 1);
    assert_int_equal(p.limits->gpu[1].mem_cap_bytes, FAST_MIB(10));
    want_of(&p, 2); /* it has none */
    want_of(&p, 0);
    uint64_t first = token_of(&p, 0, true);
    want_of(&q, 1); /* reserved: at once */
    uint64_t second = token_of(&q, 1, true);
    assert_true(first && second && p.limits->gpu[0].token && !p.limits->gpu[1].token);
    want_of(&other, 0);
    done_of(&p, 0, first, false); /* the pair goes on: |q| works */
    assert_true(token_of(&p, 0, false));
    want_of(&p, 0);
    first = token_of(&p, 0, true);
    assert_true(first && q.limits->gpu[1].token == second && !other.limits->gpu[0].token);
    client_close(&q); /* as when it is killed; |p| works, so that nobody else gets in */
    done_of(&p, 0, first, false);
    assert_true(token_of(&other, 0, true));
    want_of(&p, 0); /* half of what it needs is free, and none of it is given */
    assert_false(client_wait(&p, true, SHORT));
    done_of(&other, 0, other.limits->gpu[0].last, false);
    assert_true(token_of(&p, 0, true));
    client_close(&p);
    client_close(&other);
    world_end(&world);
    world_gpus = 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello),
        cmocka_unit_test(limits_are_read_only),
        cmocka_unit_test(wrong_hellos),
        cmocka_unit_test(silent_crowd), cmocka_unit_test(spoken_to_nobody), cmocka_unit_test(garbage),
        cmocka_unit_test(tokens_go_round),
        cmocka_unit_test(wish_of_the_holder),
        cmocka_unit_test(lies_are_doubted),
        cmocka_unit_test(revoked_at_the_limit),
        cmocka_unit_test(processes_take_turns),
        cmocka_unit_test(memory),
        cmocka_unit_test(flood),
        cmocka_unit_test(never_done),
        cmocka_unit_test(two_gpus_at_once),
        cmocka_unit_test(policy_at_run_time),
        cmocka_unit_test(statistics_and_resize),
    };
    return cmocka_run_group_tests_name("manager", tests, NULL, NULL);
}
