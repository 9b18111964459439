/* How far a client overruns its token, beyond the kernel that may just have begun: a program that always
 * has work under the hook on the simulated GPU, and a node that revokes every 5 ms.
 *
 * overrun.excess_us is the GPU's time, from the events that the program records: how long after the
 * revocation the last kernel ended, less the length of a kernel. overrun.back_us is the host's: how
 * long until the token is back at the node, less the same; on a machine with few cores it is mostly what
 * the threads of program, driver and node wait for each other. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/hist.h"
#include "bench.h"
#include "hook/fake_node.h"
#include "overrun.h"

#define TOKEN FAST_MS(5)
#define SECONDS 4
#define REVOCATIONS 10000

static const struct bench_figure figures[] = {
    {"overrun.excess_us", "us", "<= 100"},   {"overrun.excess_us_50us", "us", NULL},
    {"overrun.excess_us_200us", "us", NULL}, {"overrun.excess_us_1ms", "us", NULL},
    {"overrun.excess_us_5ms", "us", NULL},   {"overrun.excess_us_20ms", "us", NULL},
    {"overrun.back_us", "us", NULL},
};

static const struct {
    const char *figure, *us;
} kernels[] = {{"overrun.excess_us_50us", "50"},
               {"overrun.excess_us_200us", "200"},
               {"overrun.excess_us_1ms", "1000"},
               {"overrun.excess_us_5ms", "5000"},
               {"overrun.excess_us_20ms", "20000"}};

struct result {
    struct fast_hist gpu, back; /* from the revocation */
};

/* The GPU kit names other places: what it measures may have been built elsewhere, or be a real GPU. */
static const char *place(const char *name, const char *built)
{
    const char *given = getenv(name);
    return given ? given : built;
}

static pid_t start(const char *socket, const char *us, const char *file)
{
    const char *child = place("OVERRUN_CHILD", BENCH_CHILD);
    pid_t pid = fork();
    if (pid)
        return pid;
    if (!getenv("OVERRUN_CHILD")) { /* else the driver is the one that the environment leads to */
        setenv("LD_LIBRARY_PATH", BENCH_SIM_DRIVER, 1);
        setenv("FAST_SIM", "v100-16gb:1", 1);
    }
    setenv("LD_PRELOAD", place("OVERRUN_HOOK", BENCH_HOOK), 1);
    setenv("FAST_NODE_SOCKET", socket, 1);
    setenv("FAST_TICKET", FAKE_TICKET, 1);
    setenv("SPIN_IMAGE", place("OVERRUN_IMAGE", BENCH_SPIN_IMAGE), 1);
    execl(child, child, us, file, (char *)NULL);
    _exit(127);
}

static struct overrun_page *page_new(const char *file)
{
    int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(struct overrun_page)))
        abort();
    void *page = mmap(NULL, sizeof(struct overrun_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page == MAP_FAILED)
        abort();
    return page;
}

/* Adds what came after |from|, when the length of the kernels is learned. */
static void evaluate(const struct overrun_page *page, const struct fake_revocation *r, int n, fast_ns from,
                     struct result *ret)
{
    uint64_t k = 0, count = atomic_load(&page->count);
    for (int i = 0; i < n; i++) {
        fast_ns last = r[i].at;
        while (k < count && page->end[k] <= r[i].back) {
            if (page->end[k] > last)
                last = page->end[k];
            k++;
        }
        if (r[i].at < from || k == count)
            continue;
        fast_hist_add(&ret->gpu, last - r[i].at);
        fast_hist_add(&ret->back, r[i].back - r[i].at);
    }
}

static void measure(const char *dir, const char *us, struct result *ret)
{
    static struct fake_revocation revocations[REVOCATIONS];
    struct fake_stats stats;
    char socket[160], file[160];
    snprintf(socket, sizeof(socket), "%s/%s.sock", dir, us);
    snprintf(file, sizeof(file), "%s/%s.ends", dir, us);
    struct overrun_page *page = page_new(file);
    struct fake_conf conf = {.path = socket, .gated = true, .fail_open = true, .contended = true,
                             .token_ns = TOKEN, .revocations = revocations,
                             .revocations_max = REVOCATIONS};
    struct fake_node *node = fake_node_start(&conf);
    pid_t pid = start(socket, us, file);
    struct timespec now;
    sleep(1);
    clock_gettime(CLOCK_MONOTONIC, &now);
    sleep(SECONDS);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fake_node_stats(node, &stats);
    fake_node_stop(node);
    fast_hist_init(&ret->gpu);
    fast_hist_init(&ret->back);
    evaluate(page, revocations, stats.revocations, FAST_S(now.tv_sec) + now.tv_nsec, ret);
    munmap(page, sizeof(*page));
}

/* In microseconds beyond |length_us|. */
static double excess(const struct fast_hist *h, int milli, double length_us)
{
    return fmax(0, (double)fast_hist_quantile(h, milli) / 1000 - length_us);
}

static void print_histogram(const struct fast_hist *h, double length_us)
{
    static const int bounds[] = {0, 10, 25, 50, 100, 250, 500, 1000, 2000};
    fprintf(stderr, "kernels of %.0f us:", length_us);
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++)
        fprintf(stderr, " <=%d: %.1f%%", bounds[i],
                100.0 * (double)fast_hist_count_le(h, (int64_t)((bounds[i] + length_us) * 1032)) /
                    (double)h->count);
    fprintf(stderr, "\n");
}

int main(int argc, char **argv)
{
    struct bench b;
    double worst = 0, back = 0;
    long n = 0;
    char dir[] = "/tmp/fast-bench-XXXXXX", command[64];
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    if (!mkdtemp(dir))
        return 1;
    setenv("FAST_SIM_DIR", dir, 1);
    bool all = bench_wants(&b, "overrun.excess_us") || bench_wants(&b, "overrun.back_us");
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
        static struct result r;
        if (!all && !bench_wants(&b, kernels[i].figure))
            continue;
        measure(dir, kernels[i].us, &r);
        double length = strtod(kernels[i].us, NULL), p99 = excess(&r.gpu, 990, length);
        worst = fmax(worst, p99);
        back = fmax(back, excess(&r.back, 990, length));
        n += (long)r.gpu.count;
        if (getenv("BENCH_HISTOGRAM"))
            print_histogram(&r.gpu, length);
        if (bench_wants(&b, kernels[i].figure))
            bench_print(&b, kernels[i].figure, p99, (long)r.gpu.count, excess(&r.gpu, 500, length));
    }
    if (bench_wants(&b, "overrun.excess_us"))
        bench_print(&b, "overrun.excess_us", worst, n, 0);
    if (bench_wants(&b, "overrun.back_us"))
        bench_print(&b, "overrun.back_us", back, n, 0);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command) != 0;
}
