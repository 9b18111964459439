#include "harness.h"

#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/packet.h"

/* The hook in real programs on the simulated driver, against a node that does as it is told. */

/* Without the hook, and with it but without a node, nothing is limited or looked at. */
static void untouched(void **state)
{
    (void)state;
    struct child c;
    for (int hooked = 0; hooked < 2; hooked++)
        for (size_t i = 0; i < 4; i++) {
            struct run r = {.hooked = hooked != 0, .args = {"alloc", "512", "4"}};
            if (WITH_SANITIZER && !strcmp(programs[i], "prog_deepbind"))
                continue;
            run_program(&c, &r, programs[i]);
            assert_int_equal(value(&c, "got"), 4);
            assert_true(value(&c, "total_mib") > 15000);
            assert_true(value(&c, "device_mib") > 15000);
            if (!strcmp(programs[i], "prog_lookup"))
                assert_int_equal(value(&c, "missing"), 0);
        }
}

static void gated(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    for (size_t i = 0; i < 4; i++) {
        struct fake_node *n = begin(&conf);
        struct child c;
        run_program(&c, RUN("launch", "200"), programs[i]);
        struct fake_stats s = stats_after(n);
        end();
        assert_int_equal(s.hellos, 1);
        assert_int_equal(s.launches, 200);
        assert_true(s.wants >= 1 && s.tokens >= 1);
        assert_int_equal(s.strange, 0);
        assert_int_equal(s.reports, 1);
        assert_int_equal(s.sm_count, 80);
        assert_true(s.page_busy_ns > 0);
    }
}

/* Nothing runs before there is a token. */
static void waits_for_token(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    conf.silent = true;
    for (size_t i = 0; i < 4; i++) {
        struct fake_node *n = begin(&conf);
        struct fake_stats s;
        struct child c;
        start(&c, RUN("launch", "50"), programs[i]);
        do {
            usleep(2000);
            fake_node_stats(n, &s);
        } while (!s.wants);
        usleep(100000);
        fake_node_stats(n, &s);
        assert_int_equal(s.launches, 0);
        assert_int_equal(s.wants, 1);
        fake_node_grant(n);
        assert_int_equal(finish(&c), 0);
        s = stats_after(n);
        end();
        assert_int_equal(s.launches, 50);
        assert_true(s.wait_ns > FAST_MS(90));
    }
}

/* A wish that got lost is told again after a while. */
static void lost_wish(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.deaf = true;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("launch", "50"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.launches, 50);
    assert_true(s.wants >= 2);
}

/* A token that is taken back before anybody has seen it is given back like any other. */
static void unseen_token(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.flash = true;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("launch", "50"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.launches, 50);
    assert_true(s.tokens >= 2 && s.dones >= 1);
    assert_int_equal(s.strange, 0);
}

/* Runs |what| in all four programs; each must launch |count| times and be counted so. */
static void check_entries(const char *what, int count)
{
    struct fake_conf conf = usual();
    for (size_t i = 0; i < 4; i++) {
        struct fake_node *n = begin(&conf);
        struct child c;
        run_program(&c, RUN(what), programs[i]);
        struct fake_stats s = stats_after(n);
        end();
        if (value(&c, "launched") != count)
            print_message("%s: %s\n", programs[i], c.text);
        assert_int_equal(value(&c, "launched"), count);
        assert_int_equal(s.launches, count);
    }
}

static void entries(void **state)
{
    (void)state;
    check_entries("entries", 10);
}

static void graphs(void **state)
{
    (void)state;
    need_driver("graphs", NULL);
    check_entries("graphs", 2);
}

static void capped(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    for (size_t i = 0; i < 4; i++) {
        struct fake_node *n = begin(&conf);
        struct child c;
        run_program(&c, RUN("alloc", "256", "8"), programs[i]);
        struct fake_stats s = stats_after(n);
        end();
        assert_int_equal(value(&c, "got"), 4);
        assert_int_equal(value(&c, "rc"), 2);
        assert_int_equal(value(&c, "total_mib"), 1024);
        assert_int_equal(value(&c, "free_mib"), 0);
        assert_int_equal(value(&c, "device_mib"), 1024);
        assert_int_equal(s.mem_refused, 1);
        assert_true(s.mem_peak == FAST_MIB(1024));
        assert_true(s.mem_used == 0);
    }
}

static void families(void **state)
{
    (void)state;
    static const char *const names[] = {"device", "pitch", "managed", "async", "async_ptsz", "vmm"};
    struct fake_conf conf = usual();
    struct child c;
    for (int above = 0; above < 2; above++)
        for (size_t i = 0; i < 4; i++) {
            struct fake_node *n = begin(&conf);
            run_program(&c, RUN("families", above ? "1100" : "512"), programs[i]);
            struct fake_stats s = stats_after(n);
            end();
            for (size_t k = 0; k < 6; k++)
                if (value(&c, names[k]) != (above ? 2 : 0))
                    fail_msg("%s, %s: %s", programs[i], names[k], c.text);
            assert_int_equal(s.strange, 0);
            assert_in_range(s.mem_asked, 5, 8); /* the pool may have room, or be trimmed first */
            assert_int_equal(s.mem_refused, above ? 6 : 0);
            assert_true(s.mem_used == 0);
            if (!above) /* still there through its mapping, though the handle was released */
                assert_int_equal(value(&c, "vmm_free_mib"), 512);
            if (!above) /* freed, and still reserved by the pool */
                assert_int_equal(value(&c, "kept_free_mib"), 512);
        }
}

/* What the driver refuses is not charged. */
static void refused(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.cap = FAST_GIB(16);
    begin(&conf);
    run_program(&c, RUN("refused"), "prog_dlsym");
    end();
    assert_int_equal(value(&c, "refused"), 2);
    assert_int_equal(value(&c, "then"), 0);
}

/* On a device of 16 GiB, with a cap of 1 GiB. */
static void cap_order(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("cap_order"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(value(&c, "refused"), 20);
    assert_int_equal(value(&c, "pitch"), 0);
    assert_int_equal(value(&c, "full"), 2);
    assert_int_equal(value(&c, "trimmed"), 0);
    assert_true(s.mem_peak == FAST_MIB(1024));
    assert_true(s.mem_used == 0);
}

/* The driver's blocks of 2 MiB are what the device runs out of. */
static void small_blocks(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.cap = FAST_MIB(8);
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("small"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(value(&c, "small"), 1000);
    assert_int_equal(value(&c, "full"), 2);
    assert_int_equal(value(&c, "held"), 2);
    assert_int_equal(value(&c, "room"), 0);
    assert_int_equal(value(&c, "large"), 4);
    assert_int_equal(value(&c, "middle"), 8);
    assert_int_equal(value(&c, "after"), 4);
    assert_true(s.mem_peak <= FAST_MIB(8));
    assert_int_equal(s.strange, 0);
    assert_true(s.mem_used == 0);
}

/* Memory that graphs allocate when they are launched is in the cap of 1 GiB as well. */
static void graph_memory(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    for (int above = 0; above < 2; above++)
        for (size_t i = 0; i < 4; i++) {
            struct fake_node *n = begin(&conf);
            run_program(&c, RUN("graph_memory", above ? "1100" : "400"), programs[i]);
            struct fake_stats s = stats_after(n);
            end();
            if (value(&c, "node") != (above ? 2 : 0) || value(&c, "captured") != (above ? 2 : 0))
                fail_msg("%s: %s", programs[i], c.text);
            if (!above) {
                assert_int_equal(value(&c, "kept_mib"), 624);
                assert_int_equal(value(&c, "trimmed_mib"), 1024);
                assert_int_equal(value(&c, "launched"), 2);
                assert_int_equal(value(&c, "rc"), 2);
                assert_true(s.mem_peak <= FAST_MIB(1024));
                assert_int_equal(s.strange, 0);
            }
            assert_true(s.mem_used == 0);
        }
}

static void contexts_end(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("contexts"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.launches, 2);
    assert_int_equal(s.mem_refused, 0);
    assert_true(s.mem_peak == FAST_MIB(700));
    assert_true(s.mem_used == 0);
}

static void arrays(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    need_driver("arrays", "512");
    for (int above = 0; above < 2; above++) {
        struct fake_node *n = begin(&conf);
        run_program(&c, RUN("arrays", above ? "1100" : "512"), "prog_dlsym");
        struct fake_stats s = stats_after(n);
        end();
        assert_int_equal(value(&c, "array"), above ? 2 : 0);
        assert_int_equal(s.strange, 0);
        assert_int_equal(s.mem_refused, above);
        assert_true(s.mem_used == 0);
    }
}

static void lookups(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    begin(&conf);
    struct child bare, hooked;
    run_program(&bare, &(struct run){.args = {"launch", "1"}}, "prog_lookup");
    run_program(&hooked, RUN("launch", "1"), "prog_lookup");
    end();
    assert_int_equal(value(&bare, "lookups"), 440);
    assert_int_equal(value(&bare, "missing"), 0);
    assert_int_equal(value(&bare, "drivers_own"), 439);
    assert_int_equal(value(&hooked, "missing"), 0);
    /* The rest is of class pass: the driver's own pointer. */
    assert_true(value(&hooked, "drivers_own") > 250 && value(&hooked, "drivers_own") < 400);
}

/* What cannot be hooked is told, also when it is found out after cuInit. */
static void unhooked(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("unhooked", "5"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.reports, 2);
    assert_string_equal(s.unhooked, "cuMemcpyHtoD");
}

/* NVML tells the same story as the driver, of the replica's own GPU. */
static void nvml(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    run_program(&c, &(struct run){.hooked = true, .args = {"nvml"}}, "prog_dlsym");
    assert_true(value(&c, "total_mib") > 15000);
    begin(&conf);
    run_program(&c, RUN("nvml"), "prog_dlsym");
    end();
    assert_int_equal(value(&c, "total_mib"), 1024);
    assert_int_equal(value(&c, "free_mib"), 512);
    assert_int_equal(value(&c, "used_mib"), 512);
    assert_int_equal(value(&c, "v2_total_mib"), 1024);
    assert_int_equal(value(&c, "v2_free_mib"), 512);
    assert_int_equal(value(&c, "v2_used_mib"), 512);
}

/* A token that ends while kernels are queued is given back when all of them are complete. */
static void revoked(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_MS(3);
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("launch", "2000"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.launches, 2000);
    assert_int_equal(s.strange, 0);
    assert_true(s.tokens >= 3);
    assert_true(s.dones >= s.tokens - 1);
    assert_true(s.busy_ns > 0);
}

/* The bound on work in flight holds a long queue back, so that submitting takes nearly as long as
 * running. */
static void bounded(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.gated = false;
    begin(&conf);
    run_program(&c, RUN("flood", "60"), "prog_dlsym");
    end();
    assert_true(value(&c, "all_ms") > 20);
    assert_true(value(&c, "submit_ms") * 2 > value(&c, "all_ms"));
}

/* After a revocation only what was in flight runs on: the launch that was inside its call, and 2 ms of work
 * before it, which is 4 kernels, or 8 before their length is learned. Told by counts and by the order of events on
 * the GPU; overrun.excess_us is the time. */
static void overrun_is_bounded(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_MS(5);
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("deep", "400"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.launches, 400);
    assert_int_equal(value(&c, "deep"), 0);
    assert_true(s.tokens >= 4);
    assert_true(s.late_max <= 1);
    assert_int_equal(s.strange, 0);
}

/* Work is over when the GPU is done, not when the program asks. */
static void busy_is_gpu_time(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_S(100);
    for (int gated_too = 0; gated_too < 2; gated_too++) {
        conf.gated = gated_too != 0;
        struct fake_node *n = begin(&conf);
        run_program(&c, RUN("late_sync"), "prog_dlsym");
        struct fake_stats s = stats_after(n);
        end();
        assert_int_equal(s.launches, 10);
        assert_true(s.page_busy_ns > FAST_MS(3));
        assert_true(s.page_busy_ns < FAST_MS(60));
        assert_int_equal(s.strange, 0);
    }
}

/* The node goes away and comes back again and again while threads launch. */
static void node_flaps(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_MS(2);
    conf.grace_ns = FAST_MS(20);
    begin(&conf);
    start(&c, RUN("threads", "40000"), "prog_dlsym");
    int again = 0;
    for (int i = 0; i < 8; i++) {
        usleep(60000);
        end();
        usleep(30000);
        struct fake_node *n = begin(&conf);
        struct fake_stats s;
        usleep(60000);
        fake_node_stats(n, &s);
        assert_int_equal(s.strange, 0);
        again += s.reconnects;
    }
    assert_int_equal(finish(&c), 0);
    assert_int_equal(value(&c, "launched"), 4 * 40000);
    assert_true(again >= 2);
}

static void idle_gives_back(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct fake_stats s;
    struct child c;
    conf.token_ns = FAST_S(100);
    conf.contended = true;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("pause", "20"), "prog_dlsym");
    s = stats_after(n);
    end();
    assert_int_equal(s.launches, 40);
    assert_true(s.dones >= 1);
    assert_int_equal(s.strange, 0);
}

static void captures(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    need_driver("capture", "1");
    for (size_t i = 0; i < 4; i++) {
        struct fake_node *n = begin(&conf);
        run_program(&c, RUN("capture", "20"), programs[i]);
        struct fake_stats s = stats_after(n);
        end();
        assert_int_equal(value(&c, "nodes"), 10); /* no marker became one */
        assert_int_equal(s.launches, 21);
    }
}

static void threads(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_MS(5);
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("threads", "500"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.launches, 2000);
    assert_int_equal(s.strange, 0);
}

static void copies(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    for (size_t i = 0; i < 4; i++) {
        struct fake_node *n = begin(&conf);
        run_program(&c, RUN("copies"), programs[i]);
        struct fake_stats s = stats_after(n);
        end();
        assert_int_equal(value(&c, "same"), 1);
        assert_int_equal(s.copies, 4);
        assert_int_equal(s.launches, 0);
    }
}

static void forks(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("fork", "30"), "prog_link");
    struct fake_stats s = stats_after(n);
    assert_int_equal(s.hellos, 2);
    assert_int_equal(s.launches, 60);
    run_program(&c, RUN("fork_late", "30"), "prog_dlsym");
    assert_true(value(&c, "child") != 9 && value(&c, "child") >= 0);
    s = stats_after(n);
    end();
    assert_int_equal(s.launches, 120);
    assert_int_equal(s.strange, 0);
}

/* What is changed in the environment after the start has no effect, in either direction. */
static void environment(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("env", "10"), "prog_dlsym");
    struct fake_stats s = stats_after(n);
    assert_int_equal(s.launches, 10);
    struct run r = {.hooked = true, .args = {"late_env", "10", "80", env.socket}};
    run_program(&c, &r, "prog_dlsym");
    s = stats_after(n);
    end();
    assert_int_equal(s.hellos, 1);
    assert_int_equal(s.launches, 10);
}

static void node_dies_open(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    begin(&conf);
    start(&c, RUN("run", "1500"), "prog_dlsym");
    assert_true(read_until(&c, "so_far", 20000));
    end();
    assert_int_equal(finish(&c), 0);
    assert_true(value(&c, "longest_ms") < 500);
}

/* In the grace time the last slice holds: a third of every window, so that a launch waits for the
 * rest of it every time. Afterwards everything passes. */
static void node_dies_grace(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.limit_milli = 300;
    conf.grace_ns = FAST_S(60);
    begin(&conf);
    start(&c, RUN("run", "2000"), "prog_dlsym");
    assert_true(read_until(&c, "so_far", 20000));
    end();
    assert_int_equal(finish(&c), 0);
    assert_in_range(value(&c, "longest_ms"), 50, 500);
    assert_true(value(&c, "launched") > 0);
}

/* A node whose socket stays open and that does nothing is given up. */
static void node_hangs(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_MS(50);
    conf.pulse = true;
    struct fake_node *n = begin(&conf);
    start(&c, RUN("run", "5000"), "prog_dlsym");
    assert_true(read_until(&c, "so_far", 20000));
    fake_node_hang(n);
    assert_int_equal(finish(&c), 0);
    end();
    assert_true(value(&c, "longest_ms") < 4000);
}

/* Closed: launches stop after the grace time and go on when there is a node again, which is told
 * what the process holds. */
static void node_dies_closed(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.fail_open = false;
    conf.grace_ns = FAST_MS(50);
    begin(&conf);
    start(&c, RUN("run", "3000", "256"), "prog_dlsym");
    assert_true(read_until(&c, "so_far", 20000));
    end();
    usleep(1200000);
    struct fake_node *n = begin(&conf);
    assert_int_equal(finish(&c), 0);
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.reconnects, 1);
    assert_true(s.mem_state == FAST_MIB(256));
    assert_true(s.launches > 0);
    assert_int_equal(s.strange, 0);
    assert_true(value(&c, "longest_ms") > 500);
}

/* No node from the start: open runs, and a wrong ticket is no node. */
static void no_node(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    run_program(&c, RUN("launch", "10"), "prog_link");
    struct fake_node *n = begin(&conf);
    struct run r = {.hooked = true, .linked = true, .ticket = "ffffffffffffffffffffffffffffffff",
                    .args = {"launch", "10"}};
    run_program(&c, &r, "prog_link");
    struct fake_stats s = stats_after(n);
    end();
    assert_true(s.refused >= 1);
    assert_int_equal(s.launches, 0);
}

/* A node that has no place for a process for now is no node that is away: nothing passes until it lets it in. */
static void refused_for_now(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.full = 3;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("launch", "10"), "prog_link");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.refused, 3);
    assert_int_equal(s.launches, 10);
}

/* Nor is one at whose door so many wait that nobody else may. */
static void crowded_door(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    int waiting[8], n = 0, door = -1;
    assert_int_equal(fast_packet_listen(env.socket, 0666, &door, NULL), 0);
    assert_int_equal(listen(door, 1), 0);
    while (n < 8 && !fast_packet_connect(env.socket, true, &waiting[n], NULL))
        n++;
    assert_true(n < 8);
    start(&c, RUN("launch", "10"), "prog_link");
    assert_false(read_until(&c, "launched", 500));
    close(door);
    while (n > 0)
        close(waiting[--n]);
    struct fake_node *node = begin(&conf);
    assert_int_equal(finish(&c), 0);
    struct fake_stats s = stats_after(node);
    end();
    assert_int_equal(s.launches, 10);
}

/* Closed from the start, and the node lets nobody in: nothing is launched. */
static void refused_and_closed(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct fake_stats s = {0};
    struct child c;
    struct run r = {.hooked = true, .linked = true, .fail = "closed", .ticket = "ffffffffffffffffffffffffffffffff",
                    .args = {"launch", "1"}};
    struct fake_node *n = begin(&conf);
    start(&c, &r, "prog_dlsym");
    while (s.refused < 4) { /* it asks again and again */
        bool launched = read_until(&c, "launched", 10);
        if (launched)
            kill(c.pid, SIGKILL);
        assert_false(launched);
        fake_node_stats(n, &s);
    }
    kill(c.pid, SIGKILL);
    assert_int_equal(finish(&c), 128 + SIGKILL);
    end();
    assert_int_equal(s.launches, 0);
}

/* Who welcomes in a way that this hook does not know is no node of its. One that tells of more GPUs than there can
 * be is one. */
static void strange_welcomes(void **state)
{
    (void)state;
    for (int wrong = FAKE_OK; wrong <= FAKE_VERSION; wrong++) {
        struct fake_conf conf = usual();
        struct child c;
        conf.wrong = wrong;
        conf.gpus = 1000;
        struct fake_node *n = begin(&conf);
        run_program(&c, RUN("launch", "20"), "prog_dlsym");
        struct fake_stats s = stats_after(n);
        end();
        assert_true(s.hellos >= 1);
        assert_int_equal(s.launches, wrong == FAKE_OK ? 20 : 0);
        assert_int_equal(s.wants > 0, wrong == FAKE_OK);
    }
}

/* Another preloaded library, in front of the hook's symbols or behind them. */
static void other_libraries(void **state)
{
    (void)state;
    char second[512];
    struct child c;
    if (WITH_SANITIZER)
        skip();
    snprintf(second, sizeof(second), "%s/libsecond.so", env.programs);
    for (int hooked = 0; hooked < 2; hooked++)
        for (int linked = 0; linked < 2; linked++) {
            struct run r = {.hooked = hooked != 0, .linked = linked != 0, .preload = second};
            run_program(&c, &r, "prog_runpath");
            assert_int_equal(value(&c, "answer"), 42);
            assert_non_null(strstr(c.text, "second: puts"));
        }
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        T(untouched),
        T(gated),
        T(waits_for_token), T(lost_wish), T(unseen_token),
        T(entries),
        T(graphs),
        T(capped),
        T(families),
        T(arrays),
        T(refused),
        T(cap_order),
        T(small_blocks), T(graph_memory),
        T(contexts_end),
        T(lookups),
        T(nvml),
        T(unhooked),
        T(revoked),
        T(bounded),
        T(overrun_is_bounded),
        T(busy_is_gpu_time),
        T(node_flaps),
        T(idle_gives_back),
        T(captures),
        T(threads),
        T(copies),
        T(forks),
        T(environment),
        T(node_dies_open), T(node_dies_grace), T(node_hangs),
        T(node_dies_closed),
        T(no_node),
        T(refused_for_now), T(crowded_door), T(refused_and_closed), T(strange_welcomes),
        T(other_libraries),
    };
    harness_init();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int r = cmocka_run_group_tests_name("hook", tests, NULL, NULL);
    harness_fini();
    return r;
}
