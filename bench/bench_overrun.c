/* How long after a revocation a token is back, beyond the kernel that may just have begun: a program
 * that always has work under the hook on the simulated GPU, and a node that revokes every 5 ms. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/hist.h"
#include "bench.h"
#include "hook/fake_node.h"

#define TOKEN FAST_MS(5)
#define SECONDS 4

static const struct bench_figure figures[] = {
    {"overrun.excess_us", "us", "<= 100"},   {"overrun.excess_us_50us", "us", NULL},
    {"overrun.excess_us_200us", "us", NULL}, {"overrun.excess_us_1ms", "us", NULL},
    {"overrun.excess_us_5ms", "us", NULL},   {"overrun.excess_us_20ms", "us", NULL},
};

static const struct {
    const char *figure, *us;
} kernels[] = {{"overrun.excess_us_50us", "50"},
               {"overrun.excess_us_200us", "200"},
               {"overrun.excess_us_1ms", "1000"},
               {"overrun.excess_us_5ms", "5000"},
               {"overrun.excess_us_20ms", "20000"}};

static pid_t start(const char *socket, const char *us)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    setenv("LD_LIBRARY_PATH", BENCH_SIM_DRIVER, 1);
    setenv("FAST_SIM", "v100-16gb:1", 1);
    setenv("LD_PRELOAD", BENCH_HOOK, 1);
    setenv("FAST_NODE_SOCKET", socket, 1);
    setenv("FAST_TICKET", FAKE_TICKET, 1);
    setenv("SPIN_IMAGE", BENCH_SPIN_IMAGE, 1);
    execl(BENCH_SPIN, BENCH_SPIN, us, (char *)NULL);
    _exit(127);
}

/* Quantiles of the overruns of one kernel length; the first half second is left out, when the length
 * is not learned yet. */
static void measure(const char *dir, const char *us, struct fast_hist *ret)
{
    char socket[160];
    snprintf(socket, sizeof(socket), "%s/%s.sock", dir, us);
    struct fake_conf conf = {.path = socket, .gated = true, .fail_open = true, .contended = true,
                             .token_ns = TOKEN, .overruns = ret};
    struct fake_node *node = fake_node_start(&conf);
    pid_t pid = start(socket, us);
    sleep(1);
    fast_hist_init(ret);
    sleep(SECONDS);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fake_node_stop(node);
}

int main(int argc, char **argv)
{
    struct bench b;
    double worst = 0;
    long n = 0;
    char dir[] = "/tmp/fast-bench-XXXXXX", command[64];
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    if (!mkdtemp(dir))
        return 1;
    setenv("FAST_SIM_DIR", dir, 1);
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
        static struct fast_hist hist;
        if (!bench_wants(&b, kernels[i].figure) && !bench_wants(&b, "overrun.excess_us"))
            continue;
        measure(dir, kernels[i].us, &hist);
        double length = strtod(kernels[i].us, NULL);
        double p99 = (double)fast_hist_quantile(&hist, 990) / 1000 - length;
        double p50 = (double)fast_hist_quantile(&hist, 500) / 1000 - length;
        p99 = p99 > 0 ? p99 : 0;
        worst = fmax(worst, p99);
        n += (long)hist.count;
        if (bench_wants(&b, kernels[i].figure))
            bench_print(&b, kernels[i].figure, p99, (long)hist.count, p50 > 0 ? p50 : 0);
    }
    if (bench_wants(&b, "overrun.excess_us"))
        bench_print(&b, "overrun.excess_us", worst, n, 0);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command) != 0;
}
