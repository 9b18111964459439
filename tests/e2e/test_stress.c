/* Nobody waits for ever: real hooks in real processes against the real manager, with tiny tokens,
 * idle gaps, several processes and threads of a replica, policies that change, and processes that are
 * stopped, killed and started again, the manager's too. After each stretch of that every thread has to
 * get work through; what may take long is the machine, so the limits are a hundred times what is seen.
 *
 * STRESS_SECONDS: how long it goes on (default 5). STRESS_SEED: to see a failure again. */
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/mem.h"
#include "e2e/stress.h"
#include "manager_world.h"

#define CHAOS_NS FAST_MS(150)
#define STUCK_NS FAST_S(15)
#define REPLICAS 5

enum { TELL = 254, PRINT_STATE }; /* commands to the node; below: a policy */

static struct world world;

static struct {
    char dir[64], page_path[96];
    struct stress_page *page;
    pid_t node, client[STRESS_CLIENTS];
    int command; /* to the node */
    unsigned seed;
    fast_ns started[STRESS_CLIENTS];
} test;

/* Client i belongs to replica i % REPLICAS. One may use a thousandth of the time, some have no claim. */
static const struct fast_slice slices[REPLICAS] = {
    {60, 200, 1000, 0}, {50, 0, 400, 0}, {24, 100, 100, 0}, {100, 50, 1000, 0}, {12, 0, 1, 0}};

static const struct fast_sched_conf confs[] = {
    {.policy = FAST_POLICY_FAST, .window_ns = FAST_MS(10), .token_ns = FAST_US(100)},
    {.policy = FAST_POLICY_FAST, .window_ns = FAST_MS(100), .token_ns = FAST_US(300)},
    {.policy = FAST_POLICY_FAST, .window_ns = FAST_MS(20), .token_ns = FAST_MS(10)},
    {.policy = FAST_POLICY_TIMESHARE, .window_ns = FAST_MS(50), .token_ns = FAST_US(500)},
    {.policy = FAST_POLICY_TIMESHARE, .charge = FAST_CHARGE_HELD, .window_ns = FAST_MS(10),
     .token_ns = FAST_MS(1)},
    {.policy = FAST_POLICY_RACING},
};

static unsigned pick(unsigned n)
{
    return (unsigned)rand_r(&test.seed) % n;
}

/* ---- the node, a process of its own ---- */

static int command;

static void set_policy(struct world *w)
{
    const struct fast_sched_conf *c = &confs[command];
    struct fast_msg_policy_set set = {.policy = c->policy, .charge = c->charge,
                                      .window_ns = c->window_ns, .token_ns = c->token_ns};
    if (node_policy_set(w->node.manager, &set, NULL))
        abort();
}

/* A token that was held while the machine was busy with others is paid for: 20 ms take a replica with a thousandth of
 * the time 20 s. */
static void tell(struct world *w)
{
    const struct node_pool *pool = &w->node.manager->pool[0];
    atomic_store(&test.page->lost, w->node.manager->lost_wishes);
    for (const struct node_share *s = pool->shares; s; s = s->next) {
        struct fast_sched_stats st = fast_sched_stats(pool->sched, s->client, fast_clock_now());
        int replica = atoi(strrchr(s->replica->id, '.') + 1);
        for (int i = replica; i < STRESS_CLIENTS; i += REPLICAS)
            atomic_store(&test.page->owing_ns[i], st.used_ns * 1000 / slices[replica].limit_milli);
    }
    atomic_fetch_add(&test.page->told, 1);
}

static void print_state(struct world *w)
{
    const struct node_pool *pool = &w->node.manager->pool[0];
    fprintf(stderr, "policy %d sm held %d tokens out %d expiry in %lld us valid %d\n",
            (int)fast_sched_conf(pool->sched)->policy, fast_sched_sm_held(pool->sched),
            fast_sched_tokens_out(pool->sched),
            (long long)(fast_sched_expiry(pool->sched) - fast_clock_now()) / 1000,
            fast_sched_valid(pool->sched));
    for (const struct node_share *s = pool->shares; s; s = s->next) {
        struct fast_sched_stats st = fast_sched_stats(pool->sched, s->client, fast_clock_now());
        fprintf(stderr, "%s token %llu revoked %d holder %d sched wants %d token %llu used %lld us\n",
                s->replica->id, (unsigned long long)s->token, s->revoked,
                s->holder ? s->holder->pid : 0, st.wants, (unsigned long long)st.token,
                (long long)st.used_ns / 1000);
        for (const struct node_session *x = s->sessions; x; x = x->share_next) {
            const struct fast_grant *g = &x->pages.limits->gpu[0];
            fprintf(stderr, "  pid %d queued %d wished %d paused %d page token %llu last %llu in flight %u\n",
                    x->pid, x->seat[0].queued, x->seat[0].wished, x->paused,
                    (unsigned long long)atomic_load(&g->token),
                    (unsigned long long)atomic_load(&g->last),
                    atomic_load(&x->pages.counters->gpu[0].in_flight));
        }
    }
}

static void node_main(int from)
{
    unsigned char c;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!freopen("/dev/null", "w", stdout) || world_begin_in(&world, test.dir, confs[0]))
        _exit(2);
    for (int i = 0; i < REPLICAS; i++) {
        const struct fast_slice *s = &slices[i];
        if (world_add(&world, s->sm_pct, s->request_milli, s->limit_milli, 0))
            _exit(3);
    }
    world_start(&world);
    while (read(from, &c, 1) == 1) {
        command = c;
        world_call(&world, c == PRINT_STATE ? print_state : c == TELL ? tell : set_policy);
    }
    _exit(0);
}

static void node_start(void)
{
    int fds[2];
    if (test.command >= 0)
        close(test.command);
    if (pipe2(fds, O_CLOEXEC))
        abort();
    test.node = fork();
    if (!test.node)
        node_main(fds[0]);
    close(fds[0]);
    test.command = fds[1];
}

static void tell_node(unsigned char c)
{
    if (write(test.command, &c, 1) != 1)
        abort();
}

/* ---- clients ---- */

static void client_start(int i)
{
    char place[16], threads[16], seed[16], ticket[40];
    for (int k = 0; k < STRESS_THREADS; k++)
        atomic_store(&test.page->thread[i][k].since_ns, 0);
    snprintf(place, sizeof(place), "%d", i);
    snprintf(threads, sizeof(threads), "%d", 1 + i % STRESS_THREADS);
    snprintf(seed, sizeof(seed), "%u", pick(100000));
    snprintf(ticket, sizeof(ticket), "%016x%016x", 0x1234, i % REPLICAS + 1);
    test.client[i] = fork();
    if (test.client[i])
        return;
    char socket[112];
    snprintf(socket, sizeof(socket), "%s/node.sock", test.dir);
    setenv("LD_PRELOAD", getenv("STRESS_HOOK"), 1);
    setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1); /* when all is built with it */
    setenv("FAST_NODE_SOCKET", socket, 1);
    setenv("FAST_TICKET", ticket, 1);
    setenv("FAST_SIM", "v100-16gb:1", 1);
    setenv("FAST_SIM_DIR", test.dir, 1);
    setenv("LD_LIBRARY_PATH", getenv("STRESS_DRIVER"), 1);
    setenv("SPIN_IMAGE", getenv("STRESS_IMAGE"), 1);
    const char *program = getenv("STRESS_CLIENT");
    execl(program, program, test.page_path, place, threads, seed, (char *)NULL);
    _exit(127);
}

static void kill_and_reap(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void stop_for_a_while(pid_t pid)
{
    kill(pid, SIGSTOP);
    usleep(pick(20000));
    kill(pid, SIGCONT);
}

/* ---- what happens to them ---- */

static void disturb(void)
{
    unsigned what = pick(20);
    int i = (int)pick(STRESS_CLIENTS);
    if (what < 8) {
        tell_node((unsigned char)pick(FAST_COUNT_OF(confs)));
    } else if (what < 10) {
        kill_and_reap(test.client[i]);
        client_start(i);
    } else if (what < 14) {
        stop_for_a_while(test.client[i]);
    } else if (what < 15) {
        stop_for_a_while(test.node);
    } else if (what < 16) {
        kill_and_reap(test.node);
        usleep(pick(2) ? pick(200000) : 0);
        node_start();
    }
    usleep(pick(20000));
}

static bool died(void)
{
    for (int i = 0; i < STRESS_CLIENTS; i++) {
        int status;
        if (waitpid(test.client[i], &status, WNOHANG) <= 0)
            continue;
        fprintf(stderr, "client %d ended, status %x\n", i, (unsigned)status);
        return true;
    }
    return false;
}

/* The node says how it stands; false: it does not answer. */
static bool ask_node(void)
{
    uint32_t told = atomic_load(&test.page->told);
    fast_ns until = fast_clock_now() + STUCK_NS;
    tell_node(TELL);
    while (atomic_load(&test.page->told) == told && fast_clock_now() < until)
        usleep(1000);
    return atomic_load(&test.page->told) != told;
}

/* Whether a client waits for more than the time in which its replica pays what it owes. */
static bool is_stuck(int i, fast_ns took, fast_ns *limit)
{
    if (took <= *limit)
        return false;
    fast_ns owing = ask_node() ? atomic_load(&test.page->owing_ns[i]) : 0;
    *limit = took + owing + STUCK_NS;
    return owing < FAST_MS(100);
}

/* Every thread gets through at least once. */
static bool all_go_on(fast_ns *ret_took)
{
    uint64_t before[STRESS_CLIENTS][STRESS_THREADS];
    fast_ns from = fast_clock_now(), limit[STRESS_CLIENTS];
    for (int i = 0; i < STRESS_CLIENTS; i++) {
        limit[i] = STUCK_NS;
        for (int k = 0; k < STRESS_THREADS; k++)
            before[i][k] = atomic_load(&test.page->thread[i][k].launches);
    }
    for (;;) {
        int waiting = 0;
        *ret_took = fast_clock_now() - from;
        for (int i = 0; i < STRESS_CLIENTS; i++)
            for (int k = 0; k < 1 + i % STRESS_THREADS; k++) {
                bool waits = atomic_load(&test.page->thread[i][k].launches) == before[i][k];
                waiting += waits;
                if (waits && is_stuck(i, *ret_took, &limit[i])) {
                    fprintf(stderr, "client %d (pid %d) thread %d waits for ever\n", i, test.client[i], k);
                    return false;
                }
            }
        if (!waiting)
            return true;
        if (died())
            return false;
        usleep(1000);
    }
}

static bool run(double seconds)
{
    fast_ns end = fast_clock_now() + (fast_ns)(seconds * 1e9), worst = 0, took;
    int rounds = 0;
    while (fast_clock_now() < end || rounds < 3) {
        fast_ns until = fast_clock_now() + CHAOS_NS;
        atomic_store(&test.page->calm, 0);
        while (fast_clock_now() < until)
            disturb();
        if (pick(3) == 0)
            tell_node((unsigned char)pick(FAST_COUNT_OF(confs)));
        atomic_store(&test.page->calm, 1);
        bool go_on = all_go_on(&took);
        go_on = ask_node() && go_on;
        if (atomic_load(&test.page->lost))
            fprintf(stderr, "a client had to ask again for a token\n");
        if (!go_on || atomic_load(&test.page->lost)) {
            tell_node(PRINT_STATE);
            usleep(500000);
            return false;
        }
        worst = took > worst ? took : worst;
        rounds++;
        if (getenv("STRESS_VERBOSE"))
            fprintf(stderr, "%d: %lld ms\n", rounds, (long long)took / 1000000);
    }
    printf("%d rounds, the slowest took %lld ms\n", rounds, (long long)worst / 1000000);
    return true;
}

int main(void)
{
    const char *seconds = getenv("STRESS_SECONDS"), *seed = getenv("STRESS_SEED");
    char rm[96];
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    test.seed = seed ? (unsigned)atoi(seed) : (unsigned)fast_clock_now();
    test.command = -1;
    snprintf(test.dir, sizeof(test.dir), "/tmp/fast-stress-XXXXXX");
    if (!mkdtemp(test.dir))
        return 1;
    snprintf(test.page_path, sizeof(test.page_path), "%s/page", test.dir);
    printf("seed %u\n", test.seed);
    int fd = open(test.page_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(struct stress_page)))
        return 1;
    test.page = mmap(NULL, sizeof(struct stress_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (test.page == MAP_FAILED)
        return 1;
    node_start();
    for (int i = 0; i < STRESS_CLIENTS; i++)
        client_start(i);
    fast_ns took;
    bool ok = all_go_on(&took) && run(seconds ? atof(seconds) : 5);
    if (!ok && getenv("STRESS_HOLD"))
        pause();
    for (int i = 0; i < STRESS_CLIENTS; i++)
        kill_and_reap(test.client[i]);
    kill_and_reap(test.node);
    snprintf(rm, sizeof(rm), "rm -rf %s", test.dir);
    return system(rm) || !ok;
}
