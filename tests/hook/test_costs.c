#include "inside.h"

#include <unistd.h>

/* What the hook learns of the length of work, and when it takes work for complete. */

#define UNKNOWN_GRAPH (50 * FAST_GATE_FIRST_NS / 1000)

static struct fast_stream *stream(void)
{
    struct fast_ctx *ctx = fast_ctx_current();
    assert_non_null(ctx);
    return fast_stream_find(ctx, NULL, false);
}

static void complete(void)
{
    fast_stream_synced(stream(), fast_stream_left(stream()));
}

static CUgraphExec graph(int i)
{
    return (CUgraphExec)(uintptr_t)(0x10000 + 16 * i);
}

/* Which of two graphs took the time is not known. */
static void mixed_graphs(void **state)
{
    (void)state;
    for (int waited = 0; waited < 2; waited++) {
        for (int i = 0; i < 2; i++)
            assert_int_equal(cuGraphLaunch(graph(i), NULL), CUDA_SUCCESS), complete();
        fast_gate_look(waited);
        assert_false(fast_hook.gpus[0].active);
        for (int i = 0; i < 2; i++)
            assert_int_equal(fast_graph_cost((uintptr_t)graph(i), 0), UNKNOWN_GRAPH);
    }
}

/* What copies and known graphs take is not the kernels'. */
static void copies_and_graphs_beside_kernels(void **state)
{
    (void)state;
    const uint32_t copy_us = 101; /* 800 kB */
    assert_int_equal(cuMemcpyAsync(4096, 4096, 800000, NULL), CUDA_SUCCESS);
    for (int i = 0; i < 2; i++)
        launch(NULL);
    usleep(2000);
    complete();
    fast_gate_look(true);
    int64_t busy = counters.gpu[0].busy_ns;
    assert_true(busy >= FAST_MS(2));
    assert_int_equal(fast_hook.gpus[0].unit_ns, (busy - FAST_US(copy_us)) / 2);
    /* A graph of 1 ms, and then one kernel with it. */
    atomic_store(&fast_hook.graphs[((uintptr_t)graph(1) >> 4 ^ (uintptr_t)graph(1) >> 12) % FAST_HOOK_GRAPHS].us, 1000);
    atomic_store(&fast_hook.graphs[((uintptr_t)graph(1) >> 4 ^ (uintptr_t)graph(1) >> 12) % FAST_HOOK_GRAPHS].exec,
                 (uintptr_t)graph(1));
    assert_int_equal(fast_graph_cost((uintptr_t)graph(1), 0), 1000);
    atomic_store(&fast_hook.gpus[0].unit_ns, 0);
    assert_int_equal(cuGraphLaunch(graph(1), NULL), CUDA_SUCCESS);
    launch(NULL);
    usleep(3000);
    complete();
    fast_gate_look(true);
    assert_int_equal(fast_hook.gpus[0].unit_ns, counters.gpu[0].busy_ns - busy - FAST_MS(1));
}

/* In the middle of an interval progress is told in units, of which copies and graphs have others than kernels. */
static void progress_of_kernels_alone(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        launch(NULL);
        complete();
        if (i == 0)
            assert_int_equal(cuMemcpyAsync(4096, 4096, 800000, NULL), CUDA_SUCCESS);
        else if (i == 1)
            assert_int_equal(cuGraphLaunch(graph(1), NULL), CUDA_SUCCESS);
        else
            launch(NULL);
        usleep(1000);
        assert_false(fast_gpu_settle(0, false, false));
        assert_int_equal(fast_hook.gpus[0].unit_ns != 0, i == 2);
        complete();
        assert_true(fast_gpu_settle(0, false, false));
        atomic_store(&fast_hook.gpus[0].unit_ns, i < 2 ? 0 : 1);
    }
}

/* Unmarked work is given up after twice its time, and no sooner. */
static void tails_have_time(void **state)
{
    (void)state;
    atomic_store(&fast_hook.gpus[0].unit_ns, FAST_S(4));
    limits.inflight_ns = FAST_S(100);
    launch(NULL);
    assert_int_equal(drv.writes, 0);
    for (int i = 0; i < 5; i++) {
        assert_false(fast_gpu_settle(0, false, true));
        usleep(1000);
    }
    assert_int_equal(fast_gpu_pending(0), 4000000);
}

/* One interval at a time, which one thread at a time may end. */
static void intervals(void **state)
{
    (void)state;
    struct fast_gpu *g = &fast_hook.gpus[0];
    launch(NULL);
    int64_t since = g->busy_since;
    usleep(1000);
    fast_gpu_begin(0);
    assert_true(g->busy_since == since);
    complete();
    atomic_store(&g->settling, 1);
    assert_false(fast_gpu_settle(0, false, false));
    assert_true(g->active && counters.gpu[0].busy_ns == 0);
    atomic_store(&g->settling, 0);
    assert_true(fast_gpu_settle(0, false, false));
    assert_false(g->active);
    assert_int_equal(counters.gpu[0].busy_ns, FAST_GATE_FIRST_NS); /* late: as long as is estimated */
}

static enum { COMPILES, BESIDE_WORK, WAITS } slow_call;

/* A call of the driver that takes 20 ms, seen by two looks at least. */
static CUresult slow_launch(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g,
                            unsigned h, CUstream s, void **p, void **x)
{
    (void)f, (void)a, (void)b, (void)c, (void)d, (void)e, (void)g, (void)h, (void)s, (void)p, (void)x;
    fast_gpu_settle(0, false, true);
    usleep(20000);
    fast_gpu_settle(0, false, true);
    return CUDA_SUCCESS;
}

/* The time of a compiler in the call of a launch is not the GPU's; that of a launch that waits for the device is. */
static void compilers_are_not_charged(void **state)
{
    (void)state;
    struct fast_stream *other = fast_stream_find(fast_ctx_current(), (CUstream)4096, false);
    for (slow_call = COMPILES; slow_call <= WAITS; slow_call++) {
        int64_t before = counters.gpu[0].busy_ns;
        fast_ns from = fast_hook_now();
        if (slow_call == BESIDE_WORK) {
            launch((CUstream)4096);
            fast_stream_mark(fast_ctx_current(), other, (CUstream)4096, false);
        }
        fast_hook.launches_wait = slow_call == WAITS;
        REAL(cuLaunchKernel, slow_launch);
        assert_int_equal(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL), CUDA_SUCCESS);
        fast_stream_synced(other, fast_stream_left(other));
        complete();
        fast_gate_look(true);
        assert_false(fast_hook.gpus[0].active);
        int64_t busy = counters.gpu[0].busy_ns - before, all = fast_hook_now() - from;
        if (slow_call == COMPILES)
            assert_true(busy <= all - FAST_MS(20) && busy >= 0);
        else
            assert_true(busy >= FAST_MS(20));
        set_up(NULL);
        other = fast_stream_find(fast_ctx_current(), (CUstream)4096, false);
    }
}

/* What is complete stays so; and what is marked needs no second marker. */
static void progress_never_goes_back(void **state)
{
    (void)state;
    launch(NULL);
    for (int i = 0; i < 3; i++)
        fast_stream_mark(fast_ctx_current(), stream(), NULL, false);
    assert_int_equal(drv.writes, 1);
    fast_stream_synced(stream(), 100);
    fast_stream_synced(stream(), 50);
    assert_int_equal(stream()->synced, 100);
}

static int records[2];

static CUresult record(CUevent event, CUstream handle)
{
    (void)event, (void)handle;
    records[0]++;
    return CUDA_SUCCESS;
}

static CUresult record_ptsz(CUevent event, CUstream handle)
{
    (void)event, (void)handle;
    records[1]++;
    return CUDA_SUCCESS;
}

static CUresult make_event(CUevent *ret, unsigned flags)
{
    (void)flags;
    *ret = (CUevent)&records;
    return CUDA_SUCCESS;
}

static CUresult reached(CUevent event)
{
    (void)event;
    return CUDA_SUCCESS;
}

/* Without writes into memory a marker is an event in the stream that the caller means. */
static void events_of_the_variant(void **state)
{
    (void)state;
    fast_hook.driver.stream_write[0] = NULL;
    fast_hook.driver.event_create = make_event;
    fast_hook.driver.event_query = reached;
    fast_hook.driver.event_record[0] = record;
    fast_hook.driver.event_record[1] = record_ptsz;
    memset(records, 0, sizeof(records));
    for (int i = 0; i < 2; i++) {
        launch(NULL);
        fast_gate_flush();
        assert_int_equal(cuLaunchKernel_ptsz(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL), CUDA_SUCCESS);
        fast_gate_flush();
        assert_int_equal(records[0], i + 1);
        assert_int_equal(records[1], i + 1);
    }
}

/* Streams that share a place are in no order: a marker of one tells nothing of the others. */
static void streams_without_a_place(void **state)
{
    (void)state;
    struct fast_ctx *ctx = fast_ctx_current();
    struct fast_stream *last = &ctx->streams[FAST_HOOK_STREAMS - 1];
    uintptr_t handle = 4096;
    while (fast_stream_find(ctx, (CUstream)handle, false) != last)
        handle += 4096;
    launch((CUstream)handle);
    fast_gate_flush();
    assert_int_equal(drv.writes, 0);
    assert_int_equal(fast_stream_pending(ctx, last), fast_kernel_cost(0));
}

/* A page cannot be registered while another thread captures: the context is taken up afterwards. */
static void new_context_during_a_capture(void **state)
{
    (void)state;
    atomic_store(&fast_hook.captures, 1);
    launch(NULL);
    assert_int_equal(drv.registered, 0);
    assert_int_equal(launches(), 0);
    atomic_store(&fast_hook.captures, 0);
    launch(NULL);
    assert_int_equal(drv.registered, 1);
    assert_int_equal(launches(), 1);
}

#define T(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(mixed_graphs), T(copies_and_graphs_beside_kernels), T(progress_of_kernels_alone), T(tails_have_time),
        T(intervals), T(progress_never_goes_back), T(events_of_the_variant), T(streams_without_a_place),
        T(new_context_during_a_capture), T(compilers_are_not_charged),
    };
    return cmocka_run_group_tests_name("costs", tests, NULL, NULL);
}
