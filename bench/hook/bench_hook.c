#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../tests/hook/fake_node.h"
#include "bench.h"
#include "cuda/entry.h"

/* What the hook costs: the same program on a driver that does nothing, with and without it. */

#define RUNS 9
#define ROWS 512

static const struct bench_figure figures[] = {
    {"hook.gate_ns", "ns", "<= 20"},
    {"hook.gate_first_ns", "ns", NULL},
    {"hook.pass_same_pointer", "of 1", ">= 1"},
    {"hook.init_ms", "ms", "<= 2"},
};

static char socket_path[128];

static void exec_child(bool hooked, const char *driver, const char *what, const char *arg, int out)
{
    dup2(out, 1);
    setenv("LD_LIBRARY_PATH", driver, 1);
    setenv("FAST_SIM", "v100-16gb:1", 1);
    if (hooked) {
        setenv("LD_PRELOAD", BENCH_HOOK, 1);
        setenv("FAST_NODE_SOCKET", socket_path, 1);
        setenv("FAST_TICKET", FAKE_TICKET, 1);
    }
    execl(BENCH_CHILD, BENCH_CHILD, what, arg, (char *)NULL);
    _exit(127);
}

/* Output of the child; the caller frees it. NULL: it failed. */
static char *run_child(bool hooked, const char *driver, const char *what, const char *arg)
{
    int fds[2], status = 0;
    size_t cap = 1 << 17, len = 0;
    char *text = calloc(1, cap);
    if (!text || pipe(fds))
        return text;
    pid_t pid = fork();
    if (pid == 0)
        exec_child(hooked, driver, what, arg, fds[1]);
    close(fds[1]);
    for (ssize_t n; len < cap - 1 && (n = read(fds[0], text + len, cap - 1 - len)) > 0;)
        len += (size_t)n;
    close(fds[0]);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
        free(text);
        return NULL;
    }
    return text;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The number that the child prints, which is a median of its own, with the hook minus without. Of the
 * runs the least disturbed one counts: other work on the machine only ever adds. The spread is how far
 * the run in the middle lies above it. */
static void difference(const struct bench *b, const char *name, const char *what, const char *arg,
                       long n)
{
    double v[2][RUNS];
    for (int i = 0; i < RUNS; i++)
        for (int hooked = 0; hooked < 2; hooked++) {
            char *text = run_child(hooked != 0, BENCH_NULL_DRIVER, what, arg);
            if (!text) {
                bench_skip(b, name, "the program on the null driver failed");
                return;
            }
            v[hooked][i] = strtod(text, NULL);
            free(text);
        }
    for (int hooked = 0; hooked < 2; hooked++)
        qsort(v[hooked], RUNS, sizeof(double), by_value);
    bench_print(b, name, v[1][0] - v[0][0], n, v[1][RUNS / 2] - v[1][0]);
}

/* How many look-ups of functions that the hook leaves alone get the driver's own pointer. */
static void same_pointer(const struct bench *b)
{
    char *bare = run_child(false, BENCH_SIM_DRIVER, "lookups", NULL);
    char *with = run_child(true, BENCH_SIM_DRIVER, "lookups", NULL);
    char *at[2] = {NULL, NULL};
    long same = 0, all = 0;
    char *x = bare ? strtok_r(bare, "\n", &at[0]) : NULL;
    char *y = with ? strtok_r(with, "\n", &at[1]) : NULL;
    for (; x && y; x = strtok_r(NULL, "\n", &at[0]), y = strtok_r(NULL, "\n", &at[1])) {
        char symbol[128];
        if (sscanf(x, "%127s", symbol) == 1 && fast_entry_find(symbol) < 0) {
            all++;
            same += !strcmp(x, y);
        }
    }
    free(bare);
    free(with);
    if (all && !x && !y)
        bench_print(b, "hook.pass_same_pointer", (double)same / (double)all, all, 0);
    else
        bench_skip(b, "hook.pass_same_pointer", "the program on the simulated driver failed");
}

int main(int argc, char **argv)
{
    struct bench b;
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    char dir[] = "/tmp/fast-bench-XXXXXX";
    if (!mkdtemp(dir))
        return 1;
    snprintf(socket_path, sizeof(socket_path), "%s/node.sock", dir);
    setenv("FAST_SIM_DIR", dir, 1);
    struct fake_conf conf = {.path = socket_path, .gated = true, .fail_open = true,
                             .token_ns = FAST_S(100)};
    struct fake_node *node = fake_node_start(&conf);
    if (bench_wants(&b, "hook.gate_ns"))
        difference(&b, "hook.gate_ns", "gate", "1000000", 1000000L * RUNS);
    if (bench_wants(&b, "hook.gate_first_ns"))
        difference(&b, "hook.gate_first_ns", "first", "1000000", 10000L * RUNS);
    if (bench_wants(&b, "hook.pass_same_pointer"))
        same_pointer(&b);
    if (bench_wants(&b, "hook.init_ms"))
        difference(&b, "hook.init_ms", "init", NULL, RUNS);
    fake_node_stop(node);
    char command[64];
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command) != 0;
}
