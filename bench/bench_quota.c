/* Whether requests hold in virtual time: random sets of clients that some schedule can serve, kernels
 * that cannot be interrupted, and the worst window of the worst client, counted in kernels. */
#include <stdio.h>

#include "bench.h"
#include "unit/sched_world.h"

#define SETS 1000
#define WINDOWS 10 /* of each set */
#define CLIENTS_MAX 12

static const struct bench_figure figures[] = {
    {"quota.short_kernels", "kernels", "<= 1"},
    {"quota.short_kernels_full", "kernels", NULL},
    {"quota.over_limit_pct", "% window", NULL},
};

struct result {
    double short_kernels, over_pct;
    long windows, short_windows;
};

static struct result now_measured;

static void look(struct world *w)
{
    fast_ns window = fast_sched_conf(w->s)->window_ns;
    if (w->now <= 2 * window)
        return;
    for (int i = 0; i < w->n; i++) {
        const struct world_client *c = &w->c[i];
        fast_ns lacks = window / 1000 * c->slice.request_milli - c->held_here;
        fast_ns over = c->held_here - window / 1000 * c->slice.limit_milli;
        double kernels = (double)lacks / (double)c->kernel;
        double pct = 100.0 * (double)over / (double)window;
        now_measured.windows++;
        now_measured.short_windows += kernels > 1;
        if (kernels > now_measured.short_kernels)
            now_measured.short_kernels = kernels;
        if (pct > now_measured.over_pct)
            now_measured.over_pct = pct;
    }
}

/* The window is cut into random slots, each filled with clients until nobody fits; the request of a
 * client is the sum of its slots. |fill| thousandths of the window are given away like that. */
static void feasible(struct world *w, int n, int slots, int fill)
{
    int sm[CLIENTS_MAX], request[CLIENTS_MAX] = {0};
    for (int i = 0; i < n; i++)
        sm[i] = 5 + (int)world_random(w, 70);
    for (int k = 0, left = fill; k < slots; k++) {
        int len = k == slots - 1 ? left : (int)world_random(w, left / 2 + 1);
        int room = 100, from = (int)world_random(w, n);
        left -= len;
        for (int i = 0; i < n; i++) {
            int c = (from + i) % n;
            if (sm[c] > room)
                continue;
            room -= sm[c];
            request[c] += len;
        }
    }
    for (int i = 0; i < n; i++)
        world_add(w, sm[i], request[i], 1000)->kernel = FAST_US(50 + world_random(w, 1950));
}

static struct result measure(int fill)
{
    now_measured = (struct result){0};
    for (unsigned seed = 1; seed <= SETS; seed++) {
        struct world w;
        world_init(&w, &(struct fast_sched_conf){0}, seed);
        int n = 2 + (int)world_random(&w, CLIENTS_MAX - 1);
        feasible(&w, n, 1 + (int)world_random(&w, 4), fill);
        w.window_end = look;
        world_run(&w, FAST_MS(100) * (WINDOWS + 2));
        world_fini(&w);
    }
    return now_measured;
}

int main(int argc, char **argv)
{
    struct bench b;
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    if (bench_wants(&b, "quota.short_kernels") || bench_wants(&b, "quota.over_limit_pct")) {
        /* 15 % of the window is what kernels of up to 2 ms lose between the slots. */
        struct result r = measure(850);
        if (bench_wants(&b, "quota.short_kernels"))
            bench_print(&b, "quota.short_kernels", r.short_kernels, r.windows, (double)r.short_windows);
        if (bench_wants(&b, "quota.over_limit_pct"))
            bench_print(&b, "quota.over_limit_pct", r.over_pct, r.windows, 0);
    }
    if (bench_wants(&b, "quota.short_kernels_full")) {
        struct result r = measure(1000);
        bench_print(&b, "quota.short_kernels_full", r.short_kernels, r.windows, (double)r.short_windows);
    }
    return 0;
}
