#include "harness.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/loop.h"

struct harness env;

const char *const programs[4] = {"prog_link", "prog_dlsym", "prog_deepbind", "prog_lookup"};

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

void start(struct child *c, const struct run *r, const char *program)
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

bool read_until(struct child *c, const char *until, int timeout_ms)
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

int finish(struct child *c)
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

void run_program(struct child *c, const struct run *r, const char *program)
{
    start(c, r, program);
    int status = finish(c);
    if (status)
        fail_msg("%s %s: exit status %d; it said: %s", program, r->args[0], status, c->text);
}

long value(const struct child *c, const char *name)
{
    char key[64];
    snprintf(key, sizeof(key), "%s=", name);
    for (const char *p = c->text; (p = strstr(p, key)); p++)
        if (p == c->text || p[-1] == ' ' || p[-1] == '\n')
            return strtol(p + strlen(key), NULL, 10);
    return -1;
}

struct fake_conf usual(void)
{
    return (struct fake_conf){.path = env.socket, .cap = FAST_MIB(1024), .gated = true,
                              .fail_open = true, .token_ns = FAST_MS(20), .grace_ns = FAST_MS(200)};
}

struct fake_node *begin(const struct fake_conf *conf)
{
    return env.node = fake_node_start(conf);
}

void end(void)
{
    if (env.node)
        fake_node_stop(env.node);
    env.node = NULL;
}

int tear_down(void **state)
{
    (void)state;
    end();
    return 0;
}

struct fake_stats stats_after(struct fake_node *n)
{
    struct fake_stats s;
    usleep(20000);
    fake_node_stats(n, &s);
    return s;
}

void need_driver(const char *what, const char *arg)
{
    struct run r = {.args = {what, arg}};
    struct child c;
    start(&c, &r, "prog_dlsym");
    if (finish(&c) || strstr(c.text, "=801"))
        skip();
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

void harness_init(void)
{
    env.hook = need_env("HOOK_PATH");
    env.driver = need_env("HOOK_DRIVER_DIR");
    env.programs = need_env("HOOK_PROGRAMS");
    strcpy(env.dir, "/tmp/fast-hook-XXXXXX");
    if (!mkdtemp(env.dir))
        exit(1);
    snprintf(env.socket, sizeof(env.socket), "%s/node.sock", env.dir);
    snprintf(env.sim, sizeof(env.sim), "%s/sim", env.dir);
}

void harness_fini(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", env.dir);
    if (system(command))
        fprintf(stderr, "cannot remove %s\n", env.dir);
}
