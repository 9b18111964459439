#include "../unit/test.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_node.h"
#include "io/loop.h"

/* The hook in real programs on the simulated driver, against a node that does as it is told. */

#define OUT_MAX 16384

/* AddressSanitizer wraps dlopen itself: it refuses RTLD_DEEPBIND and does not know the caller. */
#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN true
#endif
#endif
#ifndef WITH_ASAN
#define WITH_ASAN false
#endif

static struct {
    char dir[64], socket[128], sim[128];
    const char *hook, *driver, *programs;
    struct fake_node *node; /* of the test that runs */
} env;

struct run {
    bool hooked, linked; /* preload the hook; tell it about the node */
    const char *program; /* prog_link, ... */
    const char *preload; /* one more library, behind the hook */
    const char *driver_path; /* CLIENT_DRIVER */
    const char *fail;
    const char *ticket;
    const char *args[6];
};

struct child {
    pid_t pid;
    int out;
    char text[OUT_MAX];
    size_t len;
};

static const char *const programs[] = {"prog_link", "prog_dlsym", "prog_deepbind", "prog_lookup"};

static void put(const char *name, const char *value)
{
    if (value)
        setenv(name, value, 1);
    else
        unsetenv(name);
}

static void exec_child(const struct run *r, const char *name)
{
    char path[512], preload[1024], driver[512];
    const char *argv[8] = {path};
    bool deepbind = !strcmp(name, "prog_deepbind");
    snprintf(path, sizeof(path), "%s/%s", env.programs, deepbind ? "prog_dlsym" : name);
    snprintf(preload, sizeof(preload), "%s%s%s", r->hooked ? env.hook : "",
             r->hooked && r->preload ? ":" : "", r->preload ? r->preload : "");
    snprintf(driver, sizeof(driver), "%s/libcuda.so.1", env.driver);
    for (int i = 0; i < 6 && r->args[i]; i++)
        argv[i + 1] = r->args[i];
    put("LD_LIBRARY_PATH", env.driver);
    put("FAST_SIM", "v100-16gb:1");
    put("FAST_SIM_DIR", env.sim);
    put("CUDA_MPS_PIPE_DIRECTORY", env.dir);
    put("CLIENT_DRIVER", deepbind ? driver : NULL);
    put("FAST_NODE_SOCKET", r->linked ? env.socket : NULL);
    put("FAST_TICKET", r->linked ? (r->ticket ? r->ticket : FAKE_TICKET) : NULL);
    put("FAST_FAIL", r->fail);
    put("LD_PRELOAD", preload[0] ? preload : NULL);
    put("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0");
    execv(path, (char *const *)argv);
    _exit(127);
}

static void start(struct child *c, const struct run *r, const char *program)
{
    int fds[2];
    *c = (struct child){0};
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    c->pid = fork();
    assert_true(c->pid >= 0);
    if (c->pid == 0) {
        dup2(fds[1], 1);
        exec_child(r, program);
    }
    close(fds[1]);
    c->out = fds[0];
}

/* Reads until |until| was printed, or to the end. */
static bool read_until(struct child *c, const char *until, int timeout_ms)
{
    fast_ns end = fast_clock_now() + FAST_MS(timeout_ms);
    while (!until || !strstr(c->text, until)) {
        struct pollfd p = {.fd = c->out, .events = POLLIN};
        int left = (int)((end - fast_clock_now()) / 1000000);
        if (left <= 0 || poll(&p, 1, left) <= 0)
            return false;
        if (c->len >= OUT_MAX - 1) /* keep the tail */
            c->len = 0;
        ssize_t n = read(c->out, c->text + c->len, OUT_MAX - 1 - c->len);
        if (n <= 0)
            return until == NULL;
        c->len += (size_t)n;
        c->text[c->len] = '\0';
    }
    return true;
}

static int finish(struct child *c)
{
    int status = 0;
    bool ended = read_until(c, NULL, 60000);
    if (!ended)
        kill(c->pid, SIGKILL);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    close(c->out);
    if (!ended)
        fail_msg("the program hangs; it said: %s", c->text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run_program(struct child *c, const struct run *r, const char *program)
{
    start(c, r, program);
    int status = finish(c);
    if (status)
        fail_msg("%s %s: exit status %d; it said: %s", program, r->args[0], status, c->text);
}

/* The number after "name=" in the output; -1 if there is none. */
static long value(const struct child *c, const char *name)
{
    char key[64];
    snprintf(key, sizeof(key), "%s=", name);
    for (const char *p = c->text; (p = strstr(p, key)); p++)
        if (p == c->text || p[-1] == ' ' || p[-1] == '\n')
            return strtol(p + strlen(key), NULL, 10);
    return -1;
}

static struct fake_conf usual(void)
{
    return (struct fake_conf){.path = env.socket, .cap = FAST_MIB(1024), .gated = true,
                              .fail_open = true, .token_ns = FAST_MS(20), .grace_ns = FAST_MS(200)};
}

static struct fake_node *begin(const struct fake_conf *conf)
{
    return env.node = fake_node_start(conf);
}

static void end(void)
{
    if (env.node)
        fake_node_stop(env.node);
    env.node = NULL;
}

static int tear_down(void **state)
{
    (void)state;
    end();
    return 0;
}

/* The sums of all pages, once the node has noticed that the clients are gone. */
static struct fake_stats stats_after(struct fake_node *n)
{
    struct fake_stats s;
    usleep(20000);
    fake_node_stats(n, &s);
    return s;
}

/* Skips the test where the driver itself cannot do what the program asks for. */
static void need_driver(const char *what, const char *arg)
{
    struct run r = {.args = {what, arg}};
    struct child c;
    start(&c, &r, "prog_dlsym");
    if (finish(&c) || strstr(c.text, "=801"))
        skip();
}

#define RUN(...) (&(struct run){.hooked = true, .linked = true, .args = {__VA_ARGS__}})

/* ---- tests ---- */

/* Without the hook, and with it but without a node, nothing is limited or looked at. */
static void untouched(void **state)
{
    (void)state;
    struct child c;
    for (int hooked = 0; hooked < 2; hooked++)
        for (size_t i = 0; i < 4; i++) {
            struct run r = {.hooked = hooked != 0, .args = {"alloc", "512", "4"}};
            if (WITH_ASAN && !strcmp(programs[i], "prog_deepbind"))
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
            assert_int_equal(s.mem_asked, 6);
            assert_int_equal(s.mem_refused, above ? 6 : 0);
            assert_true(s.mem_used == 0);
            if (!above) /* still there through its mapping, though the handle was released */
                assert_int_equal(value(&c, "vmm_free_mib"), 512);
        }
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
        assert_int_equal(s.launches, 20);
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
    start(&c, RUN("run", "3000"), "prog_dlsym");
    assert_true(read_until(&c, "so_far", 20000));
    end();
    usleep(1200000);
    struct fake_node *n = begin(&conf);
    assert_int_equal(finish(&c), 0);
    struct fake_stats s = stats_after(n);
    end();
    assert_int_equal(s.reconnects, 1);
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

/* Another preloaded library, in front of the hook's symbols or behind them. */
static void other_libraries(void **state)
{
    (void)state;
    char second[512];
    struct child c;
    if (WITH_ASAN)
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

static const char *need_env(const char *name)
{
    const char *value_of = getenv(name);
    if (!value_of) {
        fprintf(stderr, "%s is not set\n", name);
        exit(1);
    }
    return value_of;
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        T(untouched),
        T(gated),
        T(waits_for_token),
        T(entries),
        T(graphs),
        T(capped),
        T(families),
        T(arrays),
        T(lookups),
        T(nvml),
        T(unhooked),
        T(revoked),
        T(bounded),
        T(busy_is_gpu_time),
        T(node_flaps),
        T(idle_gives_back),
        T(captures),
        T(threads),
        T(copies),
        T(forks),
        T(environment),
        T(node_dies_open),
        T(node_dies_closed),
        T(no_node),
        T(other_libraries),
    };
    env.hook = need_env("HOOK_PATH");
    env.driver = need_env("HOOK_DRIVER_DIR");
    env.programs = need_env("HOOK_PROGRAMS");
    strcpy(env.dir, "/tmp/fast-hook-XXXXXX");
    if (!mkdtemp(env.dir))
        return 1;
    snprintf(env.socket, sizeof(env.socket), "%s/node.sock", env.dir);
    snprintf(env.sim, sizeof(env.sim), "%s/sim", env.dir);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int r = cmocka_run_group_tests_name("hook", tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", env.dir);
    return system(command) || r;
}
