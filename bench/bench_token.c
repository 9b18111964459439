/* What a token costs: one decision of the scheduler by itself, and a hand-over between two clients
 * over the node's real socket and shared pages. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/mem.h"
#include "bench.h"
#include "core/gang.h"
#include "e2e/manager_world.h"

#define EVENTS 400000
#define ROUNDS 5
#define PLANS 20
#define PLAN_GPUS 4
#define HANDOVERS 8000
#define HANDOVER_ROUNDS 9
#define WARM 200   /* hand-overs while the threads start */
#define TAKERS 64
#define PAUSE_NS 1000000
#define COMERS 200

static const struct bench_figure figures[] = {
    {"token.decision_ns_10", "ns", NULL},
    {"token.decision_ns_100", "ns", NULL},
    {"token.decision_ns_1000", "ns", NULL},
    {"token.grants_per_s", "1/s", ">= 200000"},
    {"token.plan_stall_us_10", "us", NULL},
    {"token.plan_stall_us_40", "us", "<= 1000"},
    {"token.plan_stall_us_100", "us", "<= 1000"},
    {"token.plan_stall_us_400", "us", "<= 1000"},
    {"token.handover_p50_us", "us", "<= 20"},
    {"token.handover_p99_us", "us", "<= 100"},
    {"token.handover_middle_p50_us", "us", NULL},
    {"token.handover_middle_p99_us", "us", NULL},
    {"token.handover_worst_p99_us", "us", NULL},
    {"token.handover_pauses_p50_us", "us", NULL},
    {"token.handover_pauses_p99_us", "us", NULL},
    {"token.wakeups_p50_us", "us", NULL},
    {"token.wakeups_p99_us", "us", NULL},
    {"connect.200_clients_ms", "ms", "<= 1000"},
    {"connect.slowest_ms", "ms", "<= 50"},
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

/* ---- a new plan: nobody gets a token while it is made ---- */

static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void tell_nobody(const struct fast_gangs *gangs)
{
    struct fast_sched_action a;
    for (int g = 0; g < PLAN_GPUS; g++)
        while (fast_sched_next(fast_gangs_sched(gangs, g), &a))
            continue;
}

/* |clients| share four GPUs, as many as can be need two to four of them at the same time. In one window after the
 * other somebody's request changes, so that the next one needs a new plan. The CPU time of the longest tick. */
static double longest_tick(int clients, unsigned seed)
{
    struct fast_gangs *gangs;
    int part[FAST_PLAN_GPUS], first = -1;
    double most = 0;
    if (fast_gangs_new(&(struct fast_sched_conf){0}, PLAN_GPUS, 0, &gangs, NULL))
        abort();
    struct fast_sched *s = fast_gangs_sched(gangs, 0);
    for (int i = 0; i < clients; i++) {
        struct fast_slice slice = {5 + rand_r(&seed) % 40, 0, 1000, 0};
        uint32_t gpus = 1 + (uint32_t)rand_r(&seed) % ((1u << PLAN_GPUS) - 1);
        gpus = gpus & (gpus - 1) ? gpus : 3;
        slice.request_milli = 100 + (int)((unsigned)rand_r(&seed) % (4000u / (unsigned)(clients < 64 ? clients : 64)));
        int r = i < FAST_GANGS_MAX ? fast_gangs_add(gangs, gpus, &slice, 0, part, NULL)
                                   : fast_sched_add(fast_gangs_sched(gangs, i % PLAN_GPUS), &slice, 0, NULL);
        if (r < 0)
            abort();
        first = first < 0 && i < FAST_GANGS_MAX && gpus & 1 ? part[0] : first;
    }
    fast_sched_want(s, first, 0);
    for (int k = 1; k <= PLANS; k++) {
        fast_ns now = k * FAST_WINDOW_DEFAULT;
        struct fast_slice slice = {20 + k, 200, 1000, 0};
        fast_sched_resize(s, first, &slice, now - 1, NULL);
        tell_nobody(gangs);
        double from = cpu_us();
        fast_sched_tick(s, now);
        double took = cpu_us() - from;
        most = took > most ? took : most;
        tell_nobody(gangs);
    }
    if (fast_sched_plans(s) < PLANS)
        abort();
    fast_gangs_free(gangs);
    return most;
}

static void bench_plans(const struct bench *b)
{
    static const int sizes[] = {10, 40, 100, 400};
    for (size_t i = 0; i < FAST_COUNT_OF(sizes); i++) {
        double us[ROUNDS];
        char name[64];
        snprintf(name, sizeof(name), "token.plan_stall_us_%d", sizes[i]);
        if (!bench_wants(b, name))
            continue;
        for (int k = 0; k < ROUNDS; k++)
            us[k] = longest_tick(sizes[i], (unsigned)k + 1);
        qsort(us, ROUNDS, sizeof(double), by_value);
        bench_print(b, name, us[ROUNDS / 2], (long)PLANS * ROUNDS, us[ROUNDS - 1] - us[0]);
    }
}

/* ---- hand-over: from "done" of one client until the next one is awake with its token ---- */

static struct world world;

/* A thread that waits for its token, notes when it has it, and gives it back at once. */
struct taker {
    struct client client;
    pthread_t thread;
    struct turns *turns;
};

/* |given|: when the last holder gave back. |pauses|: a client has no work for a while after each
 * token, and asks anew; otherwise it says with the token that it wants another one. */
struct turns {
    _Atomic fast_ns given;
    _Atomic int count;
    bool pauses;
    double us[HANDOVERS];
};

/* The number of the newest token: one that came and went before anybody looked counts as well. */
static uint64_t newest(const struct client *c)
{
    return atomic_load(&((struct fast_limits_page *)(uintptr_t)c->limits)->gpu[0].last);
}

static uint64_t wait_newer(struct client *c, uint64_t than)
{
    struct fast_grant *g = (struct fast_grant *)(uintptr_t)&c->limits->gpu[0];
    fast_ns end = world_now() + FAST_S(5);
    for (;;) {
        uint32_t wake = atomic_load(&g->wake);
        if (newest(c) != than || world_now() > end)
            return newest(c);
        struct timespec t = {1, 0};
        syscall(SYS_futex, &g->wake, FUTEX_WAIT, wake, &t, NULL, 0);
    }
}

static void *take_turns(void *arg)
{
    struct taker *t = arg;
    struct turns *turns = t->turns;
    uint64_t token = 0;
    client_want(&t->client);
    while (atomic_load(&turns->count) < HANDOVERS) {
        uint64_t next = wait_newer(&t->client, token);
        if (next == token)
            break;
        fast_ns now = world_now(), given = atomic_load(&turns->given);
        int i = atomic_fetch_add(&turns->count, 1);
        if (i < HANDOVERS && given)
            turns->us[i] = (double)(now - given) / 1000;
        token = next;
        atomic_store(&turns->given, world_now());
        client_done(&t->client, token, FAST_US(1), !turns->pauses);
        if (!turns->pauses)
            continue;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL); /* until its next request */
        client_want(&t->client);
    }
    return NULL;
}

/* |ret|: median and 99th percentile of one round, in us. */
static bool hand_over(bool pauses, double ret[2])
{
    static struct turns turns;
    static struct taker takers[TAKERS];
    turns = (struct turns){.pauses = pauses};
    if (world_begin(&world, (struct fast_sched_conf){.greedy = true, .window_ns = FAST_S(10), .token_ns = FAST_S(1)}))
        abort();
    for (int i = 0; i < TAKERS; i++)
        if (world_add(&world, 60, 10, 1000, 0))
            abort();
    world_start(&world);
    for (int i = 0; i < TAKERS; i++) {
        takers[i] = (struct taker){.turns = &turns};
        client_replica(&takers[i].client, &world, i);
        pthread_create(&takers[i].thread, NULL, take_turns, &takers[i]);
    }
    for (int i = 0; i < TAKERS; i++) {
        pthread_join(takers[i].thread, NULL);
        client_close(&takers[i].client);
    }
    world_end(&world);
    int n = turns.count < HANDOVERS ? turns.count : HANDOVERS;
    if (n <= WARM)
        return false;
    double *from = turns.us + WARM;
    n -= WARM;
    qsort(from, (size_t)n, sizeof(double), by_value);
    ret[0] = from[n / 2];
    ret[1] = from[n * 99 / 100];
    return true;
}

/* What the kernel alone takes for the two wake-ups of a hand-over, holder to node and node to next
 * holder: two threads that pass a futex word to and fro. A virtual core that sleeps is slow to wake. */
struct ping {
    _Atomic uint32_t word;
    double us[HANDOVERS];
};

static void pass(struct ping *p, uint32_t from, uint32_t to)
{
    while (atomic_load(&p->word) != from)
        syscall(SYS_futex, &p->word, FUTEX_WAIT, to, NULL, NULL, 0);
    atomic_store(&p->word, to);
    syscall(SYS_futex, &p->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void *pong(void *arg)
{
    for (int i = 0; i < HANDOVERS; i++)
        pass(arg, 1, 0);
    return NULL;
}

static bool ping_pong(double ret[2])
{
    static struct ping p;
    pthread_t thread;
    atomic_store(&p.word, 0);
    pthread_create(&thread, NULL, pong, &p);
    for (int i = 0; i < HANDOVERS; i++) {
        double from = bench_now_s();
        pass(&p, 0, 1);
        while (atomic_load(&p.word) != 0)
            syscall(SYS_futex, &p.word, FUTEX_WAIT, 1, NULL, NULL, 0);
        p.us[i] = (bench_now_s() - from) * 1e6;
    }
    pthread_join(thread, NULL);
    qsort(p.us, HANDOVERS, sizeof(double), by_value);
    ret[0] = p.us[HANDOVERS / 2];
    ret[1] = p.us[HANDOVERS * 99 / 100];
    return true;
}

static bool always(double ret[2])
{
    return hand_over(false, ret);
}

static bool with_pauses(double ret[2])
{
    return hand_over(true, ret);
}

/* In rounds, one of each kind in turn, so that what else the machine does hits all of them. The least
 * disturbed round counts: other work on the machine only ever adds. The spread is how far the round in the
 * middle lies above it; that one and the worst of all have figures of their own. */
static void bench_handover(const struct bench *b)
{
    static const struct {
        bool (*round)(double ret[2]);
        const char *figure[2];
    } kinds[] = {
        {always, {"token.handover_p50_us", "token.handover_p99_us"}},
        {with_pauses, {"token.handover_pauses_p50_us", "token.handover_pauses_p99_us"}},
        {ping_pong, {"token.wakeups_p50_us", "token.wakeups_p99_us"}},
    };
    static const char *const middle[] = {"token.handover_middle_p50_us", "token.handover_middle_p99_us"};
    double us[FAST_COUNT_OF(kinds)][2][HANDOVER_ROUNDS];
    int got[FAST_COUNT_OF(kinds)] = {0};
    for (int i = 0; i < HANDOVER_ROUNDS; i++)
        for (size_t k = 0; k < FAST_COUNT_OF(kinds); k++) {
            double ret[2];
            bool more = k == 0 && (bench_wants(b, middle[0]) || bench_wants(b, middle[1]) ||
                                   bench_wants(b, "token.handover_worst_p99_us"));
            if (!(more || bench_wants(b, kinds[k].figure[0]) || bench_wants(b, kinds[k].figure[1])) ||
                !kinds[k].round(ret))
                continue;
            us[k][0][got[k]] = ret[0];
            us[k][1][got[k]++] = ret[1];
        }
    for (size_t k = 0; k < FAST_COUNT_OF(kinds); k++)
        for (int q = 0; q < 2 && got[k]; q++) {
            qsort(us[k][q], (size_t)got[k], sizeof(double), by_value);
            if (k == 0 && bench_wants(b, middle[q]))
                bench_print(b, middle[q], us[k][q][got[k] / 2], (long)HANDOVERS * got[k],
                            us[k][q][got[k] - 1] - us[k][q][0]);
            if (k == 0 && q && bench_wants(b, "token.handover_worst_p99_us"))
                bench_print(b, "token.handover_worst_p99_us", us[k][q][got[k] - 1], (long)HANDOVERS * got[k], 0);
            if (bench_wants(b, kinds[k].figure[q]))
                bench_print(b, kinds[k].figure[q], us[k][q][0], (long)HANDOVERS * got[k],
                            us[k][q][got[k] / 2] - us[k][q][0]);
        }
}

/* ---- connecting: all clients say hello at the same moment ---- */

struct comer {
    pthread_t thread;
    pthread_barrier_t *start;
    int i;
    double ms;
};

static void *come(void *arg)
{
    struct comer *c = arg;
    static __thread struct client client;
    pthread_barrier_wait(c->start);
    double from = bench_now_s();
    client_replica(&client, &world, c->i % TAKERS);
    c->ms = (bench_now_s() - from) * 1e3;
    client_close(&client);
    return NULL;
}

static void bench_connect(const struct bench *b)
{
    if (!bench_wants(b, "connect.200_clients_ms") && !bench_wants(b, "connect.slowest_ms"))
        return;
    static struct comer comers[COMERS];
    double all[ROUNDS], slowest[ROUNDS];
    pthread_barrier_t start;
    if (world_begin(&world, (struct fast_sched_conf){0}))
        abort();
    for (int i = 0; i < TAKERS; i++)
        if (world_add(&world, 60, 10, 1000, 0))
            abort();
    world_start(&world);
    for (int k = 0; k < ROUNDS; k++) {
        pthread_barrier_init(&start, NULL, COMERS + 1);
        for (int i = 0; i < COMERS; i++) {
            comers[i] = (struct comer){.start = &start, .i = i};
            pthread_create(&comers[i].thread, NULL, come, &comers[i]);
        }
        pthread_barrier_wait(&start);
        double from = bench_now_s();
        slowest[k] = 0;
        for (int i = 0; i < COMERS; i++) {
            pthread_join(comers[i].thread, NULL);
            slowest[k] = comers[i].ms > slowest[k] ? comers[i].ms : slowest[k];
        }
        all[k] = (bench_now_s() - from) * 1e3;
        pthread_barrier_destroy(&start);
    }
    world_end(&world);
    qsort(all, ROUNDS, sizeof(double), by_value);
    qsort(slowest, ROUNDS, sizeof(double), by_value);
    if (bench_wants(b, "connect.200_clients_ms"))
        bench_print(b, "connect.200_clients_ms", all[ROUNDS / 2], COMERS * ROUNDS, all[ROUNDS - 1] - all[0]);
    if (bench_wants(b, "connect.slowest_ms"))
        bench_print(b, "connect.slowest_ms", slowest[ROUNDS / 2], COMERS * ROUNDS,
                    slowest[ROUNDS - 1] - slowest[0]);
}

int main(int argc, char **argv)
{
    struct bench b;
    bench_init(&b, figures, sizeof(figures) / sizeof(figures[0]), argc, argv);
    bench_decisions(&b);
    bench_plans(&b);
    bench_handover(&b);
    bench_connect(&b);
    return 0;
}
