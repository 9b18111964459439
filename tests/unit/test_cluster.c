#include "sim/cluster.h"

#include <stdlib.h>

#include "core/scale_queue.h"
#include "test.h"

/* 20 ms of GPU time on any partition, no host time: at quota 0.4 of a window of 100 ms two requests. */
static struct fast_profile *profile(void)
{
    struct fast_profile *p = NULL;
    struct fast_err err = {0};
    if (fast_profile_parse("sm,quota,rps,p95_ms\n10,0.2,10,100\n10,0.4,20,80\n10,1.0,50,20\n", &p, &err))
        fail_msg("%s", err.msg);
    return p;
}

static struct sim_cluster_result *result;

static void run(struct sim_cluster_conf *conf)
{
    struct fast_err err = {0};
    if (sim_cluster_run(conf, result, &err))
        fail_msg("%s", err.msg);
}

static struct sim_cluster_conf conf_of(const struct fast_profile *p, const struct fast_arrivals *a,
                                       fast_ns slo)
{
    struct sim_cluster_conf conf = {.gpus = 2, .gpu_mem = 1000, .start_ns = FAST_S(1),
                                    .end_ns = FAST_S(40), .functions = 1};
    conf.function[0] = (struct sim_cluster_function){"f", p, a, slo, 1, 1, 20};
    return conf;
}

/* One request on a warm replica takes the 5 ms until its quota is raised, then its GPU time, and no more.
 * Its quota is held while it works, and while the replica was fresh. */
static void one_request(void **state)
{
    (void)state;
    fast_ns at[] = {FAST_S(5)};
    struct fast_arrivals a = {at, 1, 1};
    struct fast_profile *p = profile();
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_MS(25));
    run(&conf);
    assert_int_equal(result->requests, 1);
    assert_int_equal(result->violations, 0);
    assert_int_equal(result->function[0].latency.max, FAST_MS(25));
    assert_int_equal(result->replica_ns, FAST_S(40));
    assert_true(result->gpu_s < 0.1 * (0.025 + 2 * 0.005) + 1e-9);
    assert_true(result->gpu_s >= result->busy_s);
    conf.policy = SIM_CLUSTER_FLAT;
    run(&conf);
    assert_int_equal(result->function[0].latency.max, FAST_MS(20));
    assert_true(result->gpu_s > 0.1 * 0.2 * 40 - 1e-9);
    fast_profile_free(p);
}

/* From zero, the first request waits for the start; a second start is not asked for. */
static void from_zero(void **state)
{
    (void)state;
    fast_ns at[] = {FAST_S(5) + FAST_MS(500)};
    struct fast_arrivals a = {at, 1, 1};
    struct fast_profile *p = profile();
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_MS(25));
    conf.function[0].min = 0;
    conf.zero_after = FAST_S(10);
    run(&conf);
    assert_int_equal(result->starts, 1);
    assert_int_equal(result->stops, 1);
    assert_int_equal(result->function[0].latency.max, FAST_MS(1020));
    assert_int_equal(result->violations, 1);
    fast_profile_free(p);
}

/* Nothing happens for longer than a part of the time is: each has its own share of the memory, none another's. */
static void memory_in_parts(void **state)
{
    (void)state;
    fast_ns at[] = {FAST_S(5)};
    struct fast_arrivals a = {at, 1, 1};
    struct fast_profile *p = profile();
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_MS(25));
    double sum = 0;
    run(&conf);
    double part = (double)conf.end_ns / 1e9 / SIM_CLUSTER_BUCKETS * (double)conf.function[0].mem_bytes /
                  (double)conf.gpu_mem;
    for (int i = 0; i < SIM_CLUSTER_BUCKETS; i++) {
        assert_true(result->bucket[i].mem_s < part * 1.001);
        assert_true(i < SIM_CLUSTER_BUCKETS / 2 || result->bucket[i].mem_s > part * 0.999);
        sum += result->bucket[i].mem_s;
    }
    assert_true(sum > result->mem_s * 0.999 && sum < result->mem_s * 1.001);
    fast_profile_free(p);
}

/* Every request is counted once, whatever becomes of it; the same configuration, the same result. */
static void all_counted(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    struct fast_profile *p = profile();
    uint64_t late = 0, events = 0;
    assert_int_equal(fast_arrivals_poisson(&a, 120000, FAST_S(35), 3, NULL), 0);
    for (int i = 0; i < 2; i++) {
        struct sim_cluster_conf conf = conf_of(p, &a, FAST_MS(100));
        conf.nfailures = 1;
        conf.failure[0] = (struct sim_cluster_failure){SIM_FAIL_GPU, FAST_S(20), 0};
        run(&conf);
        assert_int_equal(result->requests, a.count);
        assert_true(result->violations > 0 && result->timeouts > 0);
        assert_true(!i || (late == result->violations && events == result->events));
        late = result->violations;
        events = result->events;
        assert_true(result->busy_s <= result->gpu_s);
    }
    fast_arrivals_fini(&a);
    fast_profile_free(p);
}

/* A cluster that is too small refuses, and late requests end as time-outs. */
static void full_cluster(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    struct fast_profile *p = profile();
    assert_int_equal(fast_arrivals_constant(&a, 1000000, FAST_S(20), NULL), 0);
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_MS(100));
    conf.gpus = 1;
    conf.function[0].max = 1000;
    conf.timeout_ns = FAST_S(2);
    run(&conf);
    assert_true(result->refused > 0 && result->timeouts > a.count / 4);
    assert_int_equal(result->requests, a.count);
    fast_profile_free(p);
    fast_arrivals_fini(&a);
}

/* Steady load under the queue policy: warm after the first seconds, few late, few changes. */
static void steady(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    struct fast_profile *p = profile();
    const struct fast_rate_point points[] = {{0, 0}, {FAST_S(60), 120000}, {FAST_S(300), 120000}};
    assert_int_equal(fast_arrivals_ramp(&a, points, 3, 5, NULL), 0);
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_MS(100));
    conf.end_ns = FAST_S(300);
    run(&conf);
    assert_true(result->violations * 100 < result->requests);
    assert_true(result->stops < 30);
    fast_arrivals_fini(&a);
    fast_profile_free(p);
}

static void estimate(void **state)
{
    (void)state;
    /* One server at half load: half wait, and exp(-2 (50 - 25) 0.08) of them longer than 80 ms. */
    const struct scale_queue q = {1, 50000, FAST_MS(20)};
    assert_true(scale_queue_keeps(&q, 25000, FAST_MS(100), 10));
    assert_false(scale_queue_keeps(&q, 25000, FAST_MS(100), 9));
    assert_false(scale_queue_keeps(&q, 50000, FAST_MS(1000), 999)); /* no queue lasts at full load */
    assert_false(scale_queue_keeps(&q, 1000, FAST_MS(20), 999));
    const struct fast_profile_point point = {10, 1000, 50000, FAST_MS(20), FAST_MS(20)};
    assert_int_equal(scale_queue_count(&point, FAST_MS(20), 25000, FAST_MS(100), 10, 9), 1);
    assert_int_equal(scale_queue_count(&point, FAST_MS(20), 25000, FAST_MS(100), 9, 9), 2);
    assert_int_equal(scale_queue_count(&point, FAST_MS(20), 900000, FAST_MS(100), 9, 9), 0);
}

/* Loads that fall at different times leave replicas on GPUs that could be idle. Moving them behind warm
 * copies frees the GPUs and loses no request. */
static void moving(void **state)
{
    (void)state;
    struct fast_profile *p = NULL;
    assert_int_equal(fast_profile_parse("sm,quota,rps,p95_ms\n50,0.4,20,80\n50,1.0,50,20\n", &p, NULL), 0);
    struct sim_cluster_conf conf = {.policy = SIM_CLUSTER_FLAT, .gpus = 16, .gpu_mem = 1000,
                                    .start_ns = FAST_S(1), .end_ns = FAST_S(300), .functions = 6};
    struct fast_arrivals a[6] = {0};
    for (int k = 0; k < 6; k++) {
        const struct fast_rate_point points[] = {
            {0, 2000}, {FAST_S(10 + 10 * k), 2000}, {FAST_S(30 + 10 * k), 150000},
            {FAST_S(60 + 10 * k), 150000}, {FAST_S(90 + 10 * k), 3000}, {FAST_S(295), 3000}};
        assert_int_equal(fast_arrivals_ramp(&a[k], points, 6, 5 + (uint64_t)k, NULL), 0);
        conf.function[k] = (struct sim_cluster_function){"f", p, &a[k], FAST_MS(300), 1, 1, 50};
    }
    run(&conf);
    assert_int_equal(result->moves, 0);
    const double before = result->gpus_s;
    const uint64_t requests = result->requests, late = result->violations;
    conf.defrag_ns = FAST_S(10);
    run(&conf);
    print_message("%.0f to %.0f GPU s by %d moves\n", before, result->gpus_s, (int)result->moves);
    assert_true(result->moves > 0);
    assert_true(result->gpus_s < before);
    assert_int_equal(result->requests, requests);
    assert_int_equal(result->timeouts, 0);
    assert_true(result->violations <= late + requests / 500); /* it changes who serves whom, no more */
    for (int k = 0; k < 6; k++)
        fast_arrivals_fini(&a[k]);
    fast_profile_free(p);
}

/* A query of which one sample was lost has not been answered, though the others were. */
static void query_with_a_lost_sample(void **state)
{
    (void)state;
    struct fast_profile *p = profile();
    struct sim_cluster_conf conf = conf_of(p, NULL, FAST_S(30));
    conf.policy = SIM_CLUSTER_FLAT;
    conf.function[0].query = 8;
    conf.function[0].max = 1;
    run(&conf);
    assert_true(result->requests > 10 && result->violations == 0);
    conf.nfailures = 1;
    conf.failure[0] = (struct sim_cluster_failure){SIM_FAIL_REPLICA, FAST_S(20), 0};
    for (int i = 0; i < 4; i++) /* at some moment it is not the last one of a query */
        if (conf.failure[0].at += FAST_MS(110), run(&conf), result->violations != 1)
            fail_msg("%d: %d lost, %d late", i, (int)result->lost, (int)result->violations);
    assert_int_equal(result->lost, 1);
    assert_int_equal(result->violations, 1);
    assert_int_equal(result->timeouts, 1);
    fast_profile_free(p);
}

/* A GPU is back when the last failure that it is part of is over. */
static void failures_overlap(void **state)
{
    (void)state;
    fast_ns at[] = {FAST_S(30)};
    struct fast_arrivals a = {at, 1, 1};
    struct fast_profile *p = profile();
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_S(1));
    conf.policy = SIM_CLUSTER_FLAT;
    conf.nfailures = 2; /* GPU 0 for good, then its node, GPU 0 and 1, for 5 s */
    conf.failure[0] = (struct sim_cluster_failure){SIM_FAIL_GPU, FAST_S(5), 0};
    conf.failure[1] = (struct sim_cluster_failure){SIM_FAIL_NODE, FAST_S(10), FAST_S(5)};
    run(&conf);
    assert_int_equal(result->failures, 2);
    assert_int_equal(result->violations, 0); /* GPU 1 is back */
    conf.failure[0].kind = SIM_FAIL_NODE; /* both for good */
    conf.failure[1].at = FAST_S(4);
    conf.failure[1].back_after = FAST_S(3);
    conf.failure[1].kind = SIM_FAIL_GPU; /* GPU 0 from 4 to 7 s, when its node is gone */
    run(&conf);
    assert_int_equal(result->failures, 2);
    assert_int_equal(result->violations, 1);
    fast_profile_free(p);
}

/* A node is all of its GPUs, wherever on it the replica is that counts; it comes back. */
static void a_node_fails(void **state)
{
    (void)state;
    fast_ns at[] = {FAST_S(20)};
    struct fast_arrivals a = {at, 1, 1};
    struct fast_profile *p = profile();
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_S(1));
    conf.policy = SIM_CLUSTER_FLAT;
    conf.nfailures = 2; /* GPU 0 for a moment, so that the replica is on GPU 1; then the node of both */
    conf.failure[0] = (struct sim_cluster_failure){SIM_FAIL_GPU, FAST_S(5), FAST_S(4)};
    conf.failure[1] = (struct sim_cluster_failure){SIM_FAIL_NODE, FAST_S(10), 0};
    run(&conf);
    assert_int_equal(result->failures, 2);
    assert_int_equal(result->violations, 1);
    conf.failure[1].back_after = FAST_S(5);
    run(&conf);
    assert_int_equal(result->violations, 0);
    fast_profile_free(p);
}

/* Without an SLO nothing is late, but what is not answered counts as a violation. */
static void unanswered_counts(void **state)
{
    (void)state;
    struct fast_arrivals a = {0};
    struct fast_profile *p = profile();
    assert_int_equal(fast_arrivals_constant(&a, 200000, FAST_S(10), NULL), 0);
    struct sim_cluster_conf conf = conf_of(p, &a, 0);
    conf.function[0].max = 1;
    conf.timeout_ns = FAST_S(2);
    run(&conf);
    assert_true(result->timeouts > 0 && result->timeouts < a.count);
    assert_int_equal(result->violations, result->timeouts);
    fast_arrivals_fini(&a);
    fast_profile_free(p);
}

/* What is under way when the time is up has not been answered; it is counted. */
static void under_way_at_the_end(void **state)
{
    (void)state;
    fast_ns at[] = {FAST_S(40) - FAST_MS(10)};
    struct fast_arrivals a = {at, 1, 1};
    struct fast_profile *p = profile();
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_S(1));
    run(&conf);
    assert_int_equal(result->requests, 1);
    assert_int_equal(result->violations, 1);
    fast_profile_free(p);
}

/* Latency counts from the moment that a request was due, not from when it was begun; a replica whose quota
 * is 0.4 takes no more of a window. */
static void from_the_due_time(void **state)
{
    (void)state;
    fast_ns at[] = {FAST_S(5), FAST_S(5), FAST_S(5)};
    struct fast_arrivals a = {at, 3, 3};
    struct fast_profile *p = profile();
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_MS(119));
    conf.policy = SIM_CLUSTER_PAPER;
    conf.function[0].max = 1;
    conf.function[0].first_sm = 10;
    conf.function[0].first_quota = 400;
    run(&conf);
    assert_int_equal(result->function[0].latency.max, FAST_MS(120));
    assert_int_equal(result->violations, 1);
    fast_profile_free(p);
}

/* A slice that a profile gives no throughput is slow, not a division by nothing. */
static void no_throughput(void **state)
{
    (void)state;
    fast_ns at[] = {FAST_S(5)};
    struct fast_arrivals a = {at, 1, 1};
    struct fast_profile *p = NULL;
    assert_int_equal(fast_profile_parse("sm,quota,rps,p95_ms\n10,0.2,0,100\n10,1.0,0,20\n100,1.0,5,20\n", &p, NULL), 0);
    struct sim_cluster_conf conf = conf_of(p, &a, FAST_MS(100));
    for (int i = 0; i < SIM_CLUSTER_POLICIES; i++) {
        conf.policy = (enum sim_cluster_policy)i;
        run(&conf);
        assert_int_equal(result->requests, 1);
        assert_true(result->function[0].latency.max >= FAST_MS(200));
    }
    fast_profile_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_request), cmocka_unit_test(moving), cmocka_unit_test(from_zero),
        cmocka_unit_test(memory_in_parts), cmocka_unit_test(all_counted), cmocka_unit_test(a_node_fails),
        cmocka_unit_test(unanswered_counts), cmocka_unit_test(query_with_a_lost_sample),
        cmocka_unit_test(failures_overlap), cmocka_unit_test(under_way_at_the_end),
        cmocka_unit_test(from_the_due_time), cmocka_unit_test(no_throughput),
        cmocka_unit_test(full_cluster), cmocka_unit_test(steady),    cmocka_unit_test(estimate),
    };
    result = calloc(1, sizeof(*result));
    int failed = result ? cmocka_run_group_tests_name("cluster", tests, NULL, NULL) : 1;
    free(result);
    return failed;
}
