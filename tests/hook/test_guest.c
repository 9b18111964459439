#include "harness.h"

#include <stdio.h>
#include <stdlib.h>

/* The hook as a guest: programs that close the driver, have their own signal handlers, bring several
 * runtimes, end threads with work in flight, or launch what has to be compiled first. */

static struct fake_stats run_guest(struct child *c, struct fake_conf *conf, const char *what,
                                   const char *arg)
{
    struct fake_node *n = begin(conf);
    run_program(c, RUN(what, arg), "prog_guest");
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.launches, value(c, "launched"));
    assert_int_equal(s.strange, 0);
    assert_int_equal(s.hellos, 1);
    return s;
}

static void driver_is_closed(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_MS(2);
    run_guest(&c, &conf, "dlclose", NULL);
    assert_int_equal(value(&c, "launched"), 200);
}

/* The handler stays the program's, and runs in none of the hook's threads. */
static void own_signal_handler(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_MS(2);
    struct fake_stats s = run_guest(&c, &conf, "signals", NULL);
    assert_true(value(&c, "handled") > 0);
    assert_int_equal(value(&c, "elsewhere"), 0);
    assert_int_equal(value(&c, "kept"), 1);
    assert_true(s.tokens >= 1);
}

static void several_runtimes(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    for (int i = 0; i < 10; i++) {
        run_guest(&c, &conf, "runtimes", NULL);
        assert_int_equal(value(&c, "launched"), 150);
    }
}

static void threads_end(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    conf.token_ns = FAST_S(100);
    conf.contended = true;
    struct fake_stats s = run_guest(&c, &conf, "threads_end", NULL);
    assert_int_equal(value(&c, "launched"), 150);
    assert_true(s.dones >= 1); /* what ended threads have left is seen to be complete */
}

/* The token is revoked while the first launch is still being compiled. It comes back when that has run, and the time
 * of the compiler is nobody's GPU time. */
static void compiled_at_first_launch(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    char module[512];
    snprintf(module, sizeof(module), "%s/jit.sim.so", env.programs);
    conf.token_ns = FAST_MS(20);
    struct fake_stats s = run_guest(&c, &conf, "jit", module);
    assert_int_equal(value(&c, "launched"), 50);
    assert_true(s.overrun_max_ns > FAST_MS(100));
    assert_true(s.dones >= 1);
    assert_true(s.busy_ns > 0 && s.busy_ns < FAST_MS(250)); /* compiled for 300 ms */
}

/* A thread that is cancelled ends where it would have ended without the hook: no call of the driver is a place to. */
static void threads_are_cancelled(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    if (WITH_ASAN) /* it takes the unwound stack of a cancelled thread for an error */
        skip();
    struct fake_stats s = run_guest(&c, &conf, "cancelled", NULL);
    assert_int_equal(value(&c, "done"), 1);
    assert_int_equal(s.mem_used, 0);
    assert_true(s.tokens < 50);
}

static void descriptors_are_replaced(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    run_guest(&c, &conf, "descriptors", "255");
    assert_int_equal(value(&c, "foreign"), 0);
    assert_true(value(&c, "cpu_ms") < 200);
}

/* All descriptors are closed: the hook comes back with new ones, and does not spin for those that are gone. */
static void descriptors_are_closed(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    struct fake_node *n = begin(&conf);
    run_program(&c, RUN("descriptors", "1023"), "prog_guest");
    struct fake_stats s = stats_after(n);
    end();
    assert_true(value(&c, "replaced") > 0);
    assert_int_equal(s.hellos, 2);
    assert_true(value(&c, "cpu_ms") < 200);
}

/* At the cap of 1 GiB: at once, or after a while that is not enough, or when there is room. */
static void memory_is_waited_for(void **state)
{
    (void)state;
    static const struct {
        const char *ms;
        long second;
    } rows[] = {{NULL, 2}, {"nonsense", 2}, {"-5", 2}, {"30", 2}, {"60000", 0}};
    struct fake_conf conf = usual();
    struct child c;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].ms)
            setenv("FAST_MEM_WAIT_MS", rows[i].ms, 1);
        if (i == 4) /* what cannot fit fails at once, or this would take a minute */
            conf.cap = FAST_MIB(850);
        run_guest(&c, &conf, "memory", i == 4 ? "freed" : NULL);
        unsetenv("FAST_MEM_WAIT_MS");
        assert_int_equal(value(&c, "second"), rows[i].second);
        assert_int_equal(value(&c, "third"), i == 4 ? 2 : 0);
    }
}

/* What the driver says of captures is what the program gets, and what runs beside them is counted. */
static void work_beside_a_capture(void **state)
{
    (void)state;
    static const char *const answers[] = {"twice", "implicit", "invalid", "over", "apart"};
    struct fake_conf conf = usual();
    struct child bare, c;
    run_program(&bare, &(struct run){.args = {"captures"}}, "prog_guest");
    assert_int_equal(value(&bare, "implicit"), 906);
    assert_int_equal(value(&bare, "invalid"), 901);
    run_guest(&c, &conf, "captures", NULL);
    assert_int_equal(value(&c, "launched"), 5);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++)
        assert_int_equal(value(&c, answers[i]), value(&bare, answers[i]));
}

/* A library that is opened with RTLD_DEEPBIND is gated as the program is; in no replica the flag stays. */
static void deeply_bound_library(void **state)
{
    (void)state;
    struct fake_conf conf = usual();
    struct child c;
    char library[512];
    if (WITH_ASAN)
        skip();
    snprintf(library, sizeof(library), "%s/libplugin.so", env.programs);
    run_guest(&c, &conf, "plugin", library);
    assert_int_equal(value(&c, "launched"), 100);
    assert_int_equal(value(&c, "drivers_own"), 0);
    run_program(&c, &(struct run){.hooked = true, .args = {"plugin", library}}, "prog_guest");
    assert_int_equal(value(&c, "drivers_own"), 1);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        T(driver_is_closed), T(own_signal_handler),       T(several_runtimes),
        T(threads_end),      T(compiled_at_first_launch), T(memory_is_waited_for),
        T(threads_are_cancelled), T(descriptors_are_replaced), T(descriptors_are_closed),
        T(work_beside_a_capture), T(deeply_bound_library),
    };
    harness_init();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int r = cmocka_run_group_tests_name("hook_guest", tests, NULL, NULL);
    harness_fini();
    return r;
}
