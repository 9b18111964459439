/* What a token costs: one decision of the scheduler by itself, and a hand-over between two clients
 * over the node's real socket and shared pages. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "core/sched.h"
#include "e2e/manager_world.h"

#define EVENTS 400000
#define ROUNDS 5
#define HANDOVERS 4000

static const struct bench_figure figures[] = {
    {"token.decision_ns_10", "ns", NULL},
    {"token.decision_ns_100", "ns", NULL},
    {"token.decision_ns_1000", "ns", NULL},
    {"token.grants_per_s", "1/s", ">= 200000"},
    {"token.handover_p50_us", "us", "<= 20"},
    {"token.handover_p99_us", "us", "<= 100"},
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- decisions ---- */

struct holders {
    int client[128];
    uint64_t token[128];
    int n;
    long grants;
};

static void take(struct fast_sched *s, struct holders *h)
{
    struct fast_sched_action a;
    while (fast_sched_next(s, &a)) {
        if (a.kind != FAST_SCHED_GRANT || a.extended)
            continue;
        h->client[h->n] = a.client;
        h->token[h->n++] = a.token;
        h->grants++;
    }
}

/* |clients| always have work; one after the other gives its token back. What is measured is the
 * whole event: accounts, the choice of the next, and taking the actions. */
static double decide(int clients, double *ret_grants_per_s)
{
    struct fast_sched *s;
    struct holders h = {0};
    fast_ns now = 0;
    unsigned seed = 1;
    if (fast_sched_new(&(struct fast_sched_conf){0}, now, &s, NULL))
        abort();
    for (int i = 0; i < clients; i++) {
        struct fast_slice slice = {6 + rand_r(&seed) % 20, clients > 60 ? 0 : 1000 / clients, 1000, 0};
        if (fast_sched_add(s, &slice, now, NULL) < 0)
            abort();
    }
    for (int i = 0; i < clients; i++) {
        fast_sched_want(s, i, now);
        take(s, &h);
    }
    double from = bench_now_s();
    for (int i = 0; i < EVENTS; i++) {
        int k = i % h.n;
        int client = h.client[k];
        uint64_t token = h.token[k];
        h.client[k] = h.client[--h.n];
        h.token[k] = h.token[h.n];
        now += FAST_US(300);
        fast_sched_done(s, client, token, FAST_US(200), true, now, NULL);
        take(s, &h);
    }
    double took = bench_now_s() - from;
    *ret_grants_per_s = (double)h.grants / took;
    fast_sched_free(s);
    return took / EVENTS * 1e9;
}

static void bench_decisions(const struct bench *b)
{
    static const int sizes[] = {10, 100, 1000};
    for (int i = 0; i < 3; i++) {
        double ns[ROUNDS], grants[ROUNDS];
        char name[64];
        snprintf(name, sizeof(name), "token.decision_ns_%d", sizes[i]);
        bool per_s = sizes[i] == 100 && bench_wants(b, "token.grants_per_s");
        if (!bench_wants(b, name) && !per_s)
            continue;
        for (int k = 0; k < ROUNDS; k++)
            ns[k] = decide(sizes[i], &grants[k]);
        qsort(ns, ROUNDS, sizeof(double), by_value);
        qsort(grants, ROUNDS, sizeof(double), by_value);
        if (bench_wants(b, name))
            bench_print(b, name, ns[ROUNDS / 2], (long)EVENTS * ROUNDS, ns[ROUNDS - 1] - ns[0]);
        if (per_s)
            bench_print(b, "token.grants_per_s", grants[ROUNDS / 2], (long)EVENTS * ROUNDS,
                        grants[ROUNDS - 1] - grants[0]);
    }
}

/* ---- hand-over: from "done" of one client until the other one is awake with its token ---- */

static struct world world;

static void bench_handover(const struct bench *b)
{
    if (!bench_wants(b, "token.handover_p50_us") && !bench_wants(b, "token.handover_p99_us"))
        return;
    static double us[HANDOVERS];
    static struct client c[2];
    int n = 0;
    if (world_begin(&world, (struct fast_sched_conf){.greedy = true, .window_ns = FAST_S(10),
                                                     .token_ns = FAST_S(1)}))
        abort();
    for (int i = 0; i < 2; i++)
        if (world_add(&world, 60, 500, 1000, 0))
            abort();
    world_start(&world);
    for (int i = 0; i < 2; i++)
        client_replica(&c[i], &world, i);
    client_want(&c[0]);
    if (!client_wait(&c[0], true, FAST_S(5)))
        abort();
    for (int i = 0; i < HANDOVERS; i++) {
        struct client *from = &c[i % 2], *to = &c[(i + 1) % 2];
        client_want(to);
        fast_ns start = world_now();
        client_done(from, from->limits->gpu[0].last, FAST_US(1), false);
        if (!client_wait(to, true, FAST_S(5)))
            break;
        us[n++] = (double)(world_now() - start) / 1000;
    }
    client_close(&c[0]);
    client_close(&c[1]);
    world_end(&world);
    qsort(us, (size_t)n, sizeof(double), by_value);
    if (n == 0)
        return;
    double spread = us[n * 3 / 4] - us[n / 4];
    if (bench_wants(b, "token.handover_p50_us"))
        bench_print(b, "token.handover_p50_us", us[n / 2], n, spread);
    if (bench_wants(b, "token.handover_p99_us"))
        bench_print(b, "token.handover_p99_us", us[n * 99 / 100], n, spread);
}

int main(int argc, char **argv)
{
    struct bench b;
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    bench_decisions(&b);
    bench_handover(&b);
    return 0;
}
