/* The order of operations on the simulated GPU, its limits, and what holds whatever is done to it. */

#include "test_sim_world.h"

#define HOLD ((struct sim_op){.kind = SIM_OP_HOLD})
#define MARK ((struct sim_op){.kind = SIM_OP_MARK})

/* A mark takes the moment of what is before it; a wait on another queue ends with what it is for. */
static void wait_and_mark(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){50, 50});
    world_submit(&w, 0, world_kernel(20, 1000), 0);
    world_submit(&w, 0, MARK, 0);
    world_submit(&w, 0, world_kernel(20, 1000), 0);
    world_submit(&w, 1, world_wait(0, 2), 0);
    world_submit(&w, 1, world_kernel(20, 500), 0);
    world_submit(&w, 1, world_wait(0, 1), 0); /* met long ago */
    world_submit(&w, 1, MARK, 0);
    world_run(&w);
    assert_done_at(&w, 0, 2, 1000);
    assert_done_at(&w, 0, 3, 2000);
    assert_done_at(&w, 1, 1, 1000);
    assert_done_at(&w, 1, 2, 1500);
    assert_done_at(&w, 1, 4, 1500);
    assert_int_equal(world_submit(&w, 1, MARK, 1700), 5);
    assert_done_at(&w, 1, 5, 2000); /* the world has run until 2000 already */
    world_close(&w);
}

/* Each queue waits for the other one in turn; all of it happens at one moment. */
static void a_chain_of_waits(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){50, 50});
    world_submit(&w, 0, HOLD, 0);
    for (uint64_t i = 1; i < SIM_RING; i++) {
        world_submit(&w, 0, world_wait(1, i), 0);
        world_submit(&w, 1, world_wait(0, i), 0);
    }
    assert_int_equal(sim_gpu_next(w.gpu), FAST_NEVER);
    sim_gpu_release(w.gpu, 0, 1, 700);
    world_run(&w);
    assert_done_at(&w, 0, SIM_RING, 700);
    assert_done_at(&w, 1, SIM_RING - 1, 700);
    world_close(&w);
}

static void hold_and_release(void **state)
{
    (void)state;
    struct world w;
    uint64_t seq = 0;
    world_open(&w, 1, (int[]){100});
    world_submit(&w, 0, world_kernel(40, 1000), 0);
    world_submit(&w, 0, HOLD, 0);
    world_submit(&w, 0, HOLD, 0);
    world_submit(&w, 0, world_kernel(40, 1000), 0);
    assert_false(sim_gpu_holding(w.gpu, 0, &seq));
    sim_gpu_release(w.gpu, 0, 3, 500); /* before its turn */
    sim_gpu_advance(w.gpu, 5000);
    assert_true(sim_gpu_holding(w.gpu, 0, &seq));
    assert_int_equal(seq, 2);
    assert_int_equal(sim_gpu_next(w.gpu), FAST_NEVER);
    sim_gpu_release(w.gpu, 0, 2, 6000);
    sim_gpu_release(w.gpu, 0, 2, 6000); /* again, and what was never submitted: nothing */
    sim_gpu_release(w.gpu, 0, 9, 6000);
    assert_false(sim_gpu_holding(w.gpu, 0, &seq));
    world_run(&w);
    assert_done_at(&w, 0, 2, 6000);
    assert_done_at(&w, 0, 3, 6000);
    assert_done_at(&w, 0, 4, 7000);
    world_close(&w);
}

/* One engine a direction; both run beside kernels, and a process without a turn may copy. */
static void copies(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 3, (int[]){0, 0, 0});
    int urgent = sim_gpu_queue_add(w.gpu, 2, -1, 0);
    world_submit(&w, 0, world_copy(3000, SIM_COPY_HTOD), 0);
    world_submit(&w, 0, world_kernel(40, 1000), 0);
    world_submit(&w, 1, world_copy(2000, SIM_COPY_HTOD), 10);
    world_submit(&w, 2, world_copy(1000, SIM_COPY_DTOH), 10);
    world_submit(&w, urgent, world_copy(500, SIM_COPY_HTOD), 20);
    world_submit(&w, 2, world_copy(0, SIM_COPY_DTOH), 20);
    world_run(&w);
    assert_done_at(&w, 0, 1, 3000);
    assert_done_at(&w, urgent, 1, 3500);
    assert_done_at(&w, 1, 1, 5500);
    assert_done_at(&w, 0, 2, 4000);
    assert_done_at(&w, 2, 1, 1010);
    assert_done_at(&w, 2, 2, 1010);
    assert_int_equal(sim_gpu_counters(w.gpu).busy_ns, 1000); /* copies are not kernels */
    world_close(&w);
}

/* A copy within the device takes all of the DRAM, so it shares it with a memory-bound kernel. */
static void copy_within_the_device(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){50, 50});
    struct sim_op op = world_kernel(20, 1000);
    op.kernel.dram_milli = 1000;
    world_submit(&w, 0, world_copy(100000, SIM_COPY_DTOD), 0);
    world_submit(&w, 1, op, 0);
    world_run(&w);
    assert_done_at(&w, 0, 1, 2000);
    assert_done_at(&w, 1, 1, 2000);
    assert_int_equal(sim_gpu_counters(w.gpu).dram_ns, 2000);
    world_close(&w);
}

/* A process that dies leaves its SMs, its copy engine and its turn to others, and nobody waits for
 * it. */
static void client_removed(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 3, (int[]){100, 100, 100});
    int second = sim_gpu_queue_add(w.gpu, 0, 0, 0);
    world_submit(&w, 0, world_kernel(40, 5000), 0);
    world_submit(&w, second, world_copy(90000, SIM_COPY_HTOD), 0);
    world_submit(&w, 1, world_kernel(40, 1000), 0);
    world_submit(&w, 1, world_copy(100, SIM_COPY_HTOD), 0);
    world_submit(&w, 2, world_wait(0, 1), 0);
    sim_gpu_client_remove(w.gpu, w.client[0], 500);
    assert_true(sim_gpu_valid(w.gpu));
    world_run(&w);
    assert_done_at(&w, 2, 1, 500);
    assert_done_at(&w, 1, 1, 1250); /* 250 done by 500, at half speed */
    assert_done_at(&w, 1, 2, 1350);
    assert_int_equal(sim_gpu_client_sms(w.gpu, 0), 0);
    assert_int_equal(sim_gpu_submit(w.gpu, 0, &MARK, 2000), 0);
    /* The id is free for the next one, which begins from nothing. */
    struct sim_client_conf conf = {.mps = true, .sm_pct = 10};
    assert_int_equal(sim_gpu_client_add(w.gpu, &conf, 2000), 0);
    assert_int_equal(sim_gpu_queue_add(w.gpu, 0, 0, 2000), 0);
    assert_int_equal(sim_gpu_done(w.gpu, 0), 0);
    assert_int_equal(sim_gpu_client_busy_ns(w.gpu, 0), 0);
    world_close(&w);
}

static void queue_removed(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){50, 50});
    world_submit(&w, 0, world_kernel(20, 1000), 0);
    world_submit(&w, 1, world_wait(0, 1), 0);
    sim_gpu_queue_remove(w.gpu, 0, 400);
    assert_done_at(&w, 1, 1, 400);
    assert_int_equal(sim_gpu_next(w.gpu), FAST_NEVER);
    assert_int_equal(sim_gpu_counters(w.gpu).kernels, 0);
    assert_int_equal(sim_gpu_counters(w.gpu).busy_ns, 400);
    /* A wait that stands behind a hold does not come to mean the next queue with this id. */
    world_submit(&w, 1, HOLD, 500);
    int queue = sim_gpu_queue_add(w.gpu, 0, 0, 500);
    assert_int_equal(queue, 0);
    world_submit(&w, 1, world_wait(0, 1), 500);
    sim_gpu_queue_remove(w.gpu, 0, 500);
    assert_int_equal(sim_gpu_queue_add(w.gpu, 0, 0, 500), 0);
    sim_gpu_release(w.gpu, 1, 2, 600);
    assert_done_at(&w, 1, 3, 600);
    world_close(&w);
}

static void full_ring(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 1, (int[]){100});
    for (uint64_t i = 1; i <= SIM_RING; i++)
        assert_int_equal(world_submit(&w, 0, world_kernel(40, 10), 0), i);
    assert_int_equal(world_submit(&w, 0, MARK, 9), 0);
    assert_int_equal(world_submit(&w, 0, MARK, 10), SIM_RING + 1);
    assert_int_equal(world_submit(&w, 0, MARK, 10), 0);
    world_run(&w);
    assert_done_at(&w, 0, SIM_RING + 1, 10 * SIM_RING);
    assert_done_at(&w, 0, 2, 20);
    assert_done_at(&w, 0, 1, FAST_NEVER); /* its place is taken */
    world_close(&w);
}

static void full_tables_and_wrong_ids(void **state)
{
    (void)state;
    struct world w;
    struct sim_client_conf conf = {.mps = true, .sm_pct = 100};
    uint64_t seq = 0;
    world_open(&w, 0, NULL);
    for (int i = 0; i < SIM_CLIENTS; i++)
        assert_int_equal(sim_gpu_client_add(w.gpu, &conf, 0), i);
    assert_int_equal(sim_gpu_client_add(w.gpu, &conf, 0), -FAST_ENOROOM);
    for (int i = 0; i < SIM_QUEUES; i++)
        assert_int_equal(sim_gpu_queue_add(w.gpu, i % SIM_CLIENTS, 0, 0), i);
    assert_int_equal(sim_gpu_queue_add(w.gpu, 0, 0, 0), -FAST_ENOROOM);
    sim_gpu_client_remove(w.gpu, 63, 0);
    for (int i = 0; i < 2; i++) {
        int id = i ? SIM_QUEUES : -1;
        assert_int_equal(sim_gpu_submit(w.gpu, id, &MARK, 0), 0);
        assert_int_equal(sim_gpu_done_at(w.gpu, id, 1), FAST_NEVER);
        assert_false(sim_gpu_holding(w.gpu, id, &seq));
        sim_gpu_release(w.gpu, id, 1, 0);
        sim_gpu_queue_remove(w.gpu, id, 0);
        sim_gpu_client_remove(w.gpu, id, 0);
        assert_true(sim_gpu_queue_add(w.gpu, id, 0, 0) < 0);
    }
    assert_true(sim_gpu_queue_add(w.gpu, 63, 0, 0) < 0);
    world_close(&w);
}

/* Numbers that no device has: nothing overflows, and what takes no time takes none. */
static void extreme_kernels(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){100, 100});
    world_submit(&w, 0, world_kernel(0, 1000), 5);
    world_submit(&w, 0, world_kernel(-1, 1000), 5);
    world_submit(&w, 0, world_kernel(10, 0), 5);
    world_submit(&w, 0, world_copy(0, SIM_COPY_DTOD), 5);
    assert_done_at(&w, 0, 4, 5);
    struct sim_op op = world_kernel(INT64_MAX, INT64_MAX);
    op.kernel.threads_per_block = 100000;
    op.kernel.dram_milli = 100000;
    world_submit(&w, 0, op, 5);
    world_submit(&w, 0, op, 5);
    world_submit(&w, 1, op, 5);
    world_submit(&w, 0, world_copy(UINT64_MAX, SIM_COPY_DTOH), 5);
    assert_true(sim_gpu_earliest(w.gpu, 0, 6) > FAST_S(1000000));
    sim_gpu_advance(w.gpu, FAST_S(1000000));
    assert_true(sim_gpu_valid(w.gpu));
    assert_int_equal(sim_gpu_done(w.gpu, 0), 4);
    sim_gpu_client_remove(w.gpu, 0, FAST_S(1000001));
    world_close(&w);
}

static void earliest(void **state)
{
    (void)state;
    struct world w;
    world_open(&w, 2, (int[]){100, 100});
    struct sim_op op = world_kernel(40, 1000);
    op.kernel.latency_ns = 10;
    world_submit(&w, 0, op, 0);
    world_submit(&w, 0, op, 0);
    world_submit(&w, 0, world_copy(100, SIM_COPY_HTOD), 0);
    assert_int_equal(sim_gpu_earliest(w.gpu, 0, 3), 1010 + 1010 + 100);
    assert_int_equal(sim_gpu_earliest(w.gpu, 0, 4), FAST_NEVER);
    sim_gpu_advance(w.gpu, 510); /* half of the first kernel; two roundings may make it 2 ns early */
    assert_in_range(sim_gpu_earliest(w.gpu, 0, 1), 1008, 1010);
    world_submit(&w, 1, op, 510); /* it will be later than that */
    assert_in_range(sim_gpu_earliest(w.gpu, 0, 1), 1008, 1010);
    world_run(&w);
    assert_true(sim_gpu_done_at(w.gpu, 0, 1) > 1010);
    assert_int_equal(sim_gpu_earliest(w.gpu, 0, 1), sim_gpu_done_at(w.gpu, 0, 1));
    world_close(&w);
}

static int pick(unsigned *seed, int n)
{
    return (int)((unsigned)rand_r(seed) % (unsigned)n);
}

static struct sim_op random_op(unsigned *seed, bool with_holds)
{
    struct sim_op op = world_kernel(1 + pick(seed, 100), 1 + pick(seed, 3000));
    switch (pick(seed, 8)) {
    case 0:
        return world_copy((uint64_t)pick(seed, 5000), (enum sim_copy_dir)pick(seed, 3));
    case 1:
        return world_wait(pick(seed, 8), (uint64_t)pick(seed, 20));
    case 2:
        return MARK;
    case 3:
        if (with_holds)
            return HOLD;
        break;
    default:
        break;
    }
    op.kernel.threads_per_block = 32 << pick(seed, 6);
    op.kernel.dram_milli = pick(seed, 3) ? 0 : pick(seed, 1001);
    op.kernel.latency_ns = pick(seed, 2) * 20;
    return op;
}

/* One random thing done to |gpu| at |now|. */
static void random_call(struct sim_gpu *gpu, unsigned *seed, fast_ns now)
{
    struct sim_client_conf conf = {.mps = pick(seed, 3) > 0, .sm_pct = 1 + pick(seed, 100)};
    int what = pick(seed, 40);
    uint64_t seq = 0;
    if (what == 0)
        sim_gpu_client_add(gpu, &conf, now);
    else if (what == 1)
        sim_gpu_client_remove(gpu, pick(seed, 6), now);
    else if (what < 6)
        sim_gpu_queue_add(gpu, pick(seed, 6), pick(seed, 3) - 1, now);
    else if (what == 6)
        sim_gpu_queue_remove(gpu, pick(seed, 12), now);
    else if (what < 12) {
        int queue = pick(seed, 12);
        if (sim_gpu_holding(gpu, queue, &seq))
            sim_gpu_release(gpu, queue, seq, now);
    } else {
        struct sim_op op = random_op(seed, true);
        sim_gpu_submit(gpu, pick(seed, 12), &op, now);
    }
}

/* The state is valid after anything, and how often it was asked to advance makes no difference. */
static void random_calls(void **state)
{
    (void)state;
    for (unsigned round = 1; round <= 20; round++) {
        struct world w, often;
        unsigned seed = round, seed_often = round, steps = round;
        world_open(&w, 2, (int[]){50, 0});
        world_open(&often, 2, (int[]){50, 0});
        fast_ns now = 0;
        for (int i = 0; i < 2000; i++) {
            fast_ns then = now + pick(&steps, 1500);
            for (fast_ns t = now; t < then; t += 1 + pick(&steps, 400))
                sim_gpu_advance(often.gpu, t);
            sim_gpu_advance(w.gpu, then);
            sim_gpu_advance(often.gpu, then);
            random_call(w.gpu, &seed, then);
            random_call(often.gpu, &seed_often, then);
            now = then;
            assert_true(sim_gpu_valid(w.gpu));
            struct sim_gpu_counters a = sim_gpu_counters(w.gpu), b = sim_gpu_counters(often.gpu);
            assert_memory_equal(&a, &b, sizeof(a));
            assert_int_equal(sim_gpu_next(w.gpu), sim_gpu_next(often.gpu));
        }
        world_close(&w);
        world_close(&often);
    }
}

/* However clients disturb each other, every block runs once: the SM time of all kernels is what they
 * take alone (without DRAM contention, which keeps SMs longer). */
static void work_is_conserved(void **state)
{
    (void)state;
    for (unsigned round = 1; round <= 20; round++) {
        struct world w;
        unsigned seed = round;
        world_open(&w, 4, (int[]){50, 70, 30, round % 2 ? 0 : 100});
        int64_t expected = 0;
        uint64_t kernels = 0;
        fast_ns now = 0;
        for (int i = 0; i < 400; i++) {
            int queue = pick(&seed, 4), sms = sim_gpu_client_sms(w.gpu, w.client[queue]);
            struct sim_op op = world_kernel(1 + pick(&seed, 200), 10 * (1 + pick(&seed, 100)));
            now += pick(&seed, 2000);
            if (!world_submit(&w, queue, op, now))
                continue;
            int64_t wave = 4 * sms, full = op.kernel.blocks / wave, rest = op.kernel.blocks % wave;
            expected += (full * sms + (rest < sms ? rest : sms)) * op.kernel.block_ns;
            kernels++;
        }
        world_run(&w);
        struct sim_gpu_counters c = sim_gpu_counters(w.gpu);
        assert_int_equal(c.kernels, kernels);
        assert_in_range(c.sm_ns, expected - (int64_t)kernels * 40, expected + (int64_t)kernels * 40);
        assert_true(expected > 1000000); /* so the tolerance is small beside it */
        assert_true(c.busy_ns * 10 >= c.sm_ns && c.warp_ns <= c.sm_ns);
        world_close(&w);
    }
}

/* A process is killed in the middle of an update: the state is half the old and half the new one.
 * The others go on: nothing hangs, and what they submit is done. */
static void torn_updates(void **state)
{
    (void)state;
    size_t size = sim_gpu_size();
    struct sim_gpu *old = malloc(size);
    for (unsigned round = 1; round <= 40; round++) {
        struct world w;
        unsigned seed = round;
        fast_ns now = 0;
        world_open(&w, 3, (int[]){50, 0, 50});
        for (int i = 0; i < 30; i++) {
            for (int k = 0; k < 10; k++)
                random_call(w.gpu, &seed, now += pick(&seed, 1500));
            memcpy(old, w.gpu, size);
            random_call(w.gpu, &seed, now += pick(&seed, 5000));
            /* Words of the old state come back, in no order that one can rely on. */
            for (size_t at = 0; at + 8 <= size; at += 8)
                if (memcmp((char *)w.gpu + at, (char *)old + at, 8) && pick(&seed, 2))
                    memcpy((char *)w.gpu + at, (char *)old + at, 8);
            sim_gpu_advance(w.gpu, now += 1000);
        }
        for (int i = 0; i < SIM_CLIENTS; i++)
            sim_gpu_client_remove(w.gpu, i, now);
        struct sim_client_conf conf = {.mps = true, .sm_pct = 100};
        int client = sim_gpu_client_add(w.gpu, &conf, now);
        int queue = sim_gpu_queue_add(w.gpu, client, 0, now);
        struct sim_op op = world_kernel(40, 1000);
        assert_int_equal(sim_gpu_submit(w.gpu, queue, &op, now), 1);
        sim_gpu_advance(w.gpu, now + 100000);
        assert_int_equal(sim_gpu_done(w.gpu, queue), 1);
        free(w.gpu);
    }
    free(old);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wait_and_mark),
        cmocka_unit_test(a_chain_of_waits),
        cmocka_unit_test(hold_and_release),
        cmocka_unit_test(copies),
        cmocka_unit_test(copy_within_the_device),
        cmocka_unit_test(client_removed),
        cmocka_unit_test(queue_removed),
        cmocka_unit_test(full_ring),
        cmocka_unit_test(full_tables_and_wrong_ids),
        cmocka_unit_test(extreme_kernels),
        cmocka_unit_test(earliest),
        cmocka_unit_test(random_calls),
        cmocka_unit_test(work_is_conserved),
        cmocka_unit_test(torn_updates),
    };
    return cmocka_run_group_tests_name("sim_ops", tests, NULL, NULL);
}
