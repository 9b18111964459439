#include "../unit/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "hook/gate.h"

/* The hook from inside, on a driver of a few lines whose streams advance when the test says so:
 * markers, their fallbacks, and the tables. */

static struct fast_limits_page limits;
static struct fast_counters_page counters;
static struct fast_session session = {.limits = &limits, .counters = &counters, .gpus = 1, .fd = -1};

/* One stream: the last marker that was enqueued. */
static struct {
    bool can_write, event_reached;
    int writes, records;
    _Atomic uint32_t *at;
    uint32_t value;
    char context, event;
} drv;

void *fast_real_dlsym(void *handle, const char *name)
{
    (void)handle, (void)name;
    return NULL;
}

void *fast_real_dlopen(const char *path, int flags)
{
    (void)path, (void)flags;
    return NULL;
}

static CUresult get_current(CUcontext *ret)
{
    *ret = (CUcontext)&drv.context;
    return CUDA_SUCCESS;
}

static CUresult get_device(CUdevice *ret)
{
    *ret = 0;
    return CUDA_SUCCESS;
}

static CUresult host_register(void *p, size_t bytes, unsigned flags)
{
    (void)p, (void)bytes, (void)flags;
    return CUDA_SUCCESS;
}

static CUresult device_pointer(CUdeviceptr *ret, void *p, unsigned flags)
{
    (void)flags;
    *ret = (CUdeviceptr)(uintptr_t)p;
    return CUDA_SUCCESS;
}

static CUresult stream_write(CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags)
{
    (void)stream, (void)flags;
    if (!drv.can_write)
        return CUDA_ERROR_NOT_SUPPORTED;
    drv.writes++;
    drv.at = (_Atomic uint32_t *)(uintptr_t)at;
    drv.value = value;
    return CUDA_SUCCESS;
}

/* The stream gets as far as its last marker. */
static void advance(void)
{
    atomic_store(drv.at, drv.value);
}

static CUresult event_create(CUevent *ret, unsigned flags)
{
    assert_int_equal(flags, CU_EVENT_DISABLE_TIMING);
    *ret = (CUevent)&drv.event;
    return CUDA_SUCCESS;
}

static CUresult event_record(CUevent event, CUstream stream)
{
    (void)event, (void)stream;
    drv.records++;
    drv.event_reached = false;
    return CUDA_SUCCESS;
}

static CUresult event_query(CUevent event)
{
    (void)event;
    return drv.event_reached ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

static int set_up(void **state)
{
    (void)state;
    memset(&fast_hook, 0, sizeof(fast_hook));
    memset(&fast_thread, 0, sizeof(fast_thread));
    memset(&limits, 0, sizeof(limits));
    memset(&counters, 0, sizeof(counters));
    memset(&drv, 0, sizeof(drv));
    drv.can_write = true;
    fast_hook.log_fd = fast_hook.kick_fd = fast_hook.dead_fd = -1;
    fast_hook.driver = (struct fast_driver){
        .ctx_get_current = get_current, .ctx_get_device = get_device,
        .host_register = host_register, .host_device_pointer = device_pointer,
        .stream_write = {stream_write, stream_write}, .event_create = event_create,
        .event_record = {event_record, event_record}, .event_query = event_query};
    atomic_store(&fast_hook.resolved, 1);
    atomic_store(&fast_hook.session, &session);
    atomic_store(&fast_hook.mode, FAST_MODE_LINKED);
    limits.inflight_ns = FAST_MS(2);
    return 0;
}

/* A launch of the default stream; what it costs is known beforehand. */
static struct fast_gate_op launch(enum fast_gate_kind kind, uint64_t arg, CUresult r)
{
    struct fast_gate_op op;
    assert_true(fast_gate_enter(&op, kind, NULL, false, arg));
    fast_gate_leave(&op, r);
    return op;
}

static void markers(void **state)
{
    (void)state;
    struct fast_gate_op op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    assert_int_equal(fast_stream_pending(op.ctx, op.stream), op.cost);
    assert_int_equal(fast_gpu_pending(0), op.cost);
    assert_int_equal(drv.writes, 0); /* not yet: half of the bound is free */
    fast_gate_flush();
    fast_gate_flush();
    assert_int_equal(drv.writes, 1);
    assert_int_equal(fast_gpu_pending(0), op.cost);
    advance();
    assert_int_equal(fast_gpu_pending(0), 0);
    assert_int_equal(counters.gpu[0].launches, 1);
}

/* Work whose call has not returned is not covered by a marker of another thread. */
static void inside_a_call(void **state)
{
    (void)state;
    struct fast_gate_op late, op;
    assert_true(fast_gate_enter(&late, FAST_GATE_KERNEL, NULL, false, 0));
    op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    fast_gate_flush();
    advance();
    assert_int_equal(fast_gpu_pending(0), late.cost);
    fast_gate_leave(&late, CUDA_SUCCESS);
    assert_int_equal(fast_gpu_pending(0), op.cost);
    fast_gate_flush();
    advance();
    assert_int_equal(fast_gpu_pending(0), 0);
}

static void sums_wrap_around(void **state)
{
    (void)state;
    struct fast_gate_op op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    uint32_t near = UINT32_MAX - op.cost / 2;
    fast_gate_flush();
    atomic_store(&op.stream->entered, near);
    atomic_store(&op.stream->left_own, 0);
    atomic_store(&op.stream->left, near);
    atomic_store(&op.stream->marked, near);
    atomic_store(&op.stream->synced, near);
    atomic_store(drv.at, near);
    assert_int_equal(fast_gpu_pending(0), 0);
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    assert_int_equal(fast_gpu_pending(0), op.cost);
    fast_gate_flush();
    advance();
    assert_int_equal(fast_gpu_pending(0), 0);
}

/* Without memory operations in streams there are events, one per stream. */
static void events_instead(void **state)
{
    (void)state;
    drv.can_write = false;
    struct fast_gate_op op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    fast_gate_flush(); /* finds out that it cannot write */
    assert_int_equal(op.ctx->mark, FAST_MARK_EVENT);
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    fast_gate_flush();
    assert_int_equal(drv.records, 1);
    assert_int_equal(fast_gpu_pending(0), 2 * op.cost);
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    fast_gate_flush(); /* the event is in use: no second marker */
    assert_int_equal(drv.records, 1);
    drv.event_reached = true;
    assert_int_equal(fast_gpu_pending(0), op.cost);
    fast_stream_mark(op.ctx, op.stream, NULL, false);
    assert_int_equal(drv.records, 2);
    drv.event_reached = true;
    assert_int_equal(fast_gpu_pending(0), 0);
}

/* Nobody marks the end of the work: after its estimated time the hook thread gives it up. */
static void unmarked_tail(void **state)
{
    (void)state;
    struct fast_gate_op op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    assert_false(fast_gpu_settle(0, false, true));
    assert_int_equal(fast_gpu_pending(0), op.cost);
    fast_ns end = fast_hook_now() + FAST_S(5);
    while (!fast_gpu_settle(0, false, true) && fast_hook_now() < end)
        ;
    assert_int_equal(fast_gpu_pending(0), 0);
}

/* A look late after the end of the work charges what the work takes by its estimate, from the look before. */
static void late_looks(void **state)
{
    (void)state;
    struct fast_gpu *g = &fast_hook.gpus[0];
    atomic_store(&g->unit_ns, FAST_MS(1));
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    fast_gate_flush();
    assert_false(fast_gpu_settle(0, false, false));
    fast_ns before = g->seen_ns - g->busy_since;
    usleep(20000);
    advance();
    assert_true(fast_gpu_settle(0, false, false));
    assert_int_equal(counters.gpu[0].busy_ns, before + FAST_MS(1));
    /* Work that went on between the looks was not over in the middle between them. */
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    fast_gate_flush();
    assert_false(fast_gpu_settle(0, false, false));
    fast_ns seen = g->seen_ns, charged = (fast_ns)counters.gpu[0].busy_ns, since = g->busy_since;
    for (int i = 0; i < 5; i++) {
        advance();
        usleep(1000);
        launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
        fast_gate_flush();
    }
    advance();
    assert_true(fast_gpu_settle(0, false, false));
    assert_true((fast_ns)counters.gpu[0].busy_ns - charged >= seen - since + FAST_MS(5));
}

static void *wait_and_advance(void *arg)
{
    (void)arg;
    usleep(300000);
    advance();
    return NULL;
}

/* The second of two kernels that do not fit in the bound is let in when the first has run for about as long
 * as it takes, so that the GPU does not wait for it; a third is not. */
static void lead(void **state)
{
    (void)state;
    pthread_t other;
    atomic_store(&fast_hook.gpus[0].unit_ns, FAST_MS(20));
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    fast_ns start = fast_hook_now();
    struct fast_gate_op op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    assert_true(fast_hook_now() - start >= FAST_MS(19));
    assert_int_equal(fast_gpu_pending(0), 2 * op.cost);
    assert_int_equal(pthread_create(&other, NULL, wait_and_advance, NULL), 0);
    start = fast_hook_now();
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    assert_true(fast_hook_now() - start >= FAST_MS(200));
    pthread_join(other, NULL);
}

/* Nothing is let in early behind which a token ends. */
static void no_lead_at_the_end(void **state)
{
    (void)state;
    pthread_t other;
    struct fast_gpu *g = &fast_hook.gpus[0];
    atomic_store(&g->unit_ns, FAST_MS(20));
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    atomic_store(&g->tight, 1);
    limits.gpu[0].until_ns = fast_hook_now() + FAST_MS(30);
    assert_int_equal(pthread_create(&other, NULL, wait_and_advance, NULL), 0);
    fast_ns start = fast_hook_now();
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    assert_true(fast_hook_now() - start >= FAST_MS(200));
    pthread_join(other, NULL);
}

/* A marker between two overlapping launches would part them. */
static void overlapping_launches(void **state)
{
    (void)state;
    uint32_t cost = launch(FAST_GATE_KERNEL, 1, CUDA_SUCCESS).cost;
    int plain = 0;
    for (uint32_t sum = 2 * cost; sum < 2000; sum += cost)
        launch(FAST_GATE_KERNEL, 1, CUDA_SUCCESS);
    assert_int_equal(drv.writes, 0);
    launch(FAST_GATE_KERNEL, 1, CUDA_SUCCESS); /* the bound comes first */
    assert_int_equal(drv.writes, 1);
    advance();
    for (uint32_t sum = 0; sum < 2000; sum += cost, plain = drv.writes - 1) {
        launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
        advance();
    }
    assert_true(plain >= 1);
}

static void pdl_attribute(void **state)
{
    (void)state;
    CUlaunchAttribute attrs[2] = {{.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION - 1},
                                  {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION}};
    CUlaunchConfig config = {.attrs = attrs, .numAttrs = 2};
    assert_false(fast_gate_is_pdl(NULL));
    assert_false(fast_gate_is_pdl(&config));
    attrs[1].value.programmaticStreamSerializationAllowed = 1;
    assert_true(fast_gate_is_pdl(&config));
    config.numAttrs = 1;
    assert_false(fast_gate_is_pdl(&config));
}

static CUresult implicit_capture(CUstream stream, CUstreamCaptureStatus *ret)
{
    (void)stream, (void)ret;
    return 906; /* CUDA_ERROR_STREAM_CAPTURE_IMPLICIT: of the default stream while another one captures */
}

static void default_stream_beside_a_capture(void **state)
{
    (void)state;
    struct fast_gate_op op;
    fast_hook.driver.stream_is_capturing[0] = implicit_capture;
    assert_false(fast_gate_capturing(NULL, false));
    atomic_store(&fast_hook.captures, 1);
    assert_true(fast_gate_capturing(NULL, false));
    assert_false(fast_gate_enter(&op, FAST_GATE_KERNEL, NULL, false, 0));
    assert_int_equal(drv.writes, 0);
}

static void broken_context(void **state)
{
    (void)state;
    launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    launch(FAST_GATE_KERNEL, 0, CUDA_ERROR_INVALID_VALUE);
    assert_true(fast_gpu_pending(0) > 0);
    assert_int_equal(counters.gpu[0].launches, 1); /* a refused launch is none */
    launch(FAST_GATE_KERNEL, 0, CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_int_equal(fast_gpu_pending(0), 0);
}

static void contexts_end(void **state)
{
    (void)state;
    struct fast_gate_op op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    fast_gate_flush();
    fast_ctx_forget((CUcontext)&drv.context);
    assert_int_equal(fast_gpu_pending(0), 0);
    assert_null(op.ctx->ctx);
    struct fast_gate_op again = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
    assert_int_equal(fast_gpu_pending(0), again.cost);
    fast_gate_flush();
    advance();
    assert_int_equal(fast_gpu_pending(0), 0);
}

/* Ten thousand streams one after the other, and more at a time than there are places. */
static void many_streams(void **state)
{
    (void)state;
    struct fast_ctx *ctx = fast_ctx_current();
    assert_non_null(ctx);
    /* The default streams: one for all, one for each thread. */
    assert_ptr_not_equal(fast_stream_find(ctx, NULL, true), fast_stream_find(ctx, NULL, false));
    for (uintptr_t i = 1; i <= 10000; i++) {
        CUstream handle = (CUstream)(i * 64);
        struct fast_stream *s = fast_stream_find(ctx, handle, false);
        assert_ptr_equal(fast_stream_find(ctx, handle, false), s);
        assert_true(s < &ctx->streams[FAST_HOOK_STREAMS - 1]);
        fast_stream_end(ctx, handle);
    }
    for (uintptr_t i = 1; i <= 1000; i++)
        assert_non_null(fast_stream_find(ctx, (CUstream)(i * 4096), false));
    assert_ptr_equal(fast_thread.stream, &ctx->streams[FAST_HOOK_STREAMS - 1]);
}

static CUresult stream_write_ptsz(CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags)
{
    (void)stream, (void)at, (void)value, (void)flags;
    drv.records++;
    return CUDA_SUCCESS;
}

/* A handle means another stream to a function of the other variant. */
static void marker_of_the_same_variant(void **state)
{
    (void)state;
    struct fast_gate_op op;
    fast_hook.driver.stream_write[1] = stream_write_ptsz;
    for (int per_thread = 0; per_thread < 2; per_thread++) {
        assert_true(fast_gate_enter(&op, FAST_GATE_KERNEL, NULL, per_thread != 0, 0));
        fast_gate_leave(&op, CUDA_SUCCESS);
        fast_gate_flush();
        assert_int_equal(drv.writes, 1);
        assert_int_equal(drv.records, per_thread);
    }
}

static void *key_of_thread(void *arg)
{
    *(uintptr_t *)arg = fast_stream_key(CU_STREAM_PER_THREAD, false);
    return NULL;
}

static void a_stream_for_each_thread(void **state)
{
    (void)state;
    pthread_t thread;
    uintptr_t other = 0, mine = fast_stream_key(NULL, true);
    assert_int_equal(pthread_create(&thread, NULL, key_of_thread, &other), 0);
    pthread_join(thread, NULL);
    assert_true(other && other != mine);
    assert_true(fast_stream_key(CU_STREAM_PER_THREAD, false) == mine);
    assert_true(fast_stream_key(CU_STREAM_LEGACY, true) == fast_stream_key(NULL, false));
}

static void small_copies_pass(void **state)
{
    (void)state;
    struct fast_gate_op op;
    assert_false(fast_gate_enter(&op, FAST_GATE_COPY, NULL, false, FAST_GATE_COPY_MIN - 1));
    assert_true(fast_gate_enter(&op, FAST_GATE_COPY, NULL, false, FAST_GATE_COPY_MIN));
    fast_gate_leave(&op, CUDA_SUCCESS);
    assert_int_equal(counters.gpu[0].copies, 1);
    assert_true(fast_gpu_pending(0) > 0);
    /* The host has its data: everything before it in the stream is complete. */
    assert_true(fast_gate_enter(&op, FAST_GATE_COPY_DONE, NULL, false, 16));
    fast_gate_leave(&op, CUDA_SUCCESS);
    assert_int_equal(fast_gpu_pending(0), 0);
    assert_int_equal(counters.gpu[0].copies, 1);
}

/* A graph's cost is learned from intervals in which nothing else ran. */
static void graphs_are_learned(void **state)
{
    (void)state;
    uint64_t exec = 0x123450;
    uint32_t first = fast_graph_cost(exec, 0);
    for (int i = 0; i < 20; i++) {
        struct fast_gate_op op = launch(FAST_GATE_GRAPH, exec, CUDA_SUCCESS);
        fast_ns until = fast_hook_now() + FAST_US(300);
        while (fast_hook_now() < until)
            ;
        fast_stream_synced(op.stream, fast_stream_left(op.stream));
        fast_gate_look(true);
    }
    assert_int_equal(counters.gpu[0].launches, 20);
    assert_true(fast_graph_cost(exec, 0) >= 250 && fast_graph_cost(exec, 0) < first);
    assert_true(counters.gpu[0].busy_ns >= 20 * FAST_US(300));
}

/* Work that is found complete ended at some earlier time: the time until then is no length of a kernel, but a
 * bound on it. Programs with short kernels that wait for them tell no more than that. */
static void found_complete(enum fast_gate_kind kind, uint64_t arg, int n)
{
    struct fast_gate_op op = {0};
    for (int i = 0; i < n; i++) {
        op = launch(kind, arg, CUDA_SUCCESS);
        fast_stream_synced(op.stream, fast_stream_left(op.stream));
    }
    fast_gate_look(false);
    assert_int_equal(fast_gpu_pending(0), 0);
}

static void short_work_is_learned(void **state)
{
    (void)state;
    uint64_t exec = 0x123450;
    fast_ns start = 0;
    /* Another thread that gets the core meanwhile makes the bound worse than what is known already. */
    for (int i = 0; i < 100 && !fast_hook.gpus[0].unit_ns; i++) {
        start = fast_hook_now();
        found_complete(FAST_GATE_KERNEL, 0, 1000);
    }
    assert_true(fast_hook.gpus[0].unit_ns > 0);
    assert_true(fast_hook.gpus[0].unit_ns <= (fast_hook_now() - start) / 1000);
    atomic_store(&fast_hook.gpus[0].unit_ns, FAST_MS(10));
    uint32_t unknown = fast_graph_cost(exec, 0);
    for (int i = 0; i < 100 && fast_graph_cost(exec, 0) == unknown; i++)
        found_complete(FAST_GATE_GRAPH, exec, 20);
    assert_true(fast_graph_cost(exec, 0) < unknown);
    assert_int_equal(fast_hook.gpus[0].unit_ns, FAST_MS(10)); /* graphs tell nothing of kernels */
}

static void long_looks_teach_nothing(void **state)
{
    (void)state;
    uint64_t exec = 0x123450;
    for (int i = 0; i < 3; i++) {
        atomic_store(&fast_hook.gpus[0].unit_ns, 2000);
        struct fast_gate_op op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
        usleep(1000);
        fast_stream_synced(op.stream, fast_stream_left(op.stream));
        fast_gate_look(false);
        assert_int_equal(fast_hook.gpus[0].unit_ns, 2000);
        uint32_t unknown = fast_graph_cost(exec, 0);
        op = launch(FAST_GATE_GRAPH, exec, CUDA_SUCCESS);
        usleep(1000);
        fast_stream_synced(op.stream, fast_stream_left(op.stream));
        fast_gate_look(false);
        assert_int_equal(fast_graph_cost(exec, 0), unknown);
        /* Nor does a bound that is a little better than what is known. */
        atomic_store(&fast_hook.gpus[0].unit_ns, FAST_MS(1));
        op = launch(FAST_GATE_KERNEL, 0, CUDA_SUCCESS);
        usleep(600);
        fast_stream_synced(op.stream, fast_stream_left(op.stream));
        fast_gate_look(false);
        assert_int_equal(fast_hook.gpus[0].unit_ns, FAST_MS(1));
    }
}

/* Against a plain array, with keys that collide. */
static void tables(void **state)
{
    (void)state;
    static uint64_t bytes[4096];
    struct fast_table table;
    struct fast_table_row row;
    unsigned seed = 7;
    memset(bytes, 0, sizeof(bytes));
    fast_table_init(&table);
    for (int i = 0; i < 400000; i++) {
        unsigned k = (unsigned)rand_r(&seed) % 4096;
        uint64_t key = (uint64_t)(k + 1) << 21;
        if (rand_r(&seed) % 2) {
            row = (struct fast_table_row){.key = key, .bytes = bytes[k] = (uint64_t)i + 1};
            assert_true(fast_table_put(&table, &row));
        } else {
            assert_int_equal(fast_table_take(&table, key, &row), bytes[k] != 0);
            assert_true(!bytes[k] || row.bytes == bytes[k]);
            bytes[k] = 0;
        }
    }
    for (unsigned k = 0; k < 4096; k++)
        assert_int_equal(fast_table_get(&table, (uint64_t)(k + 1) << 21, &row), bytes[k] != 0);
    assert_false(fast_table_get(&table, 0, &row));
}

/* Rows of one owner go, all others stay, whatever places they have moved to. */
static void owned_rows(void **state)
{
    (void)state;
    struct fast_table table;
    struct fast_table_row row;
    struct fast_table_row some[100];
    uint64_t sum = 0, expect = 0;
    uint32_t n;
    fast_table_init(&table);
    for (uint64_t k = 1; k <= 10000; k++) {
        row = (struct fast_table_row){.key = k << 9, .bytes = k, .owner = k % 3, .gpu = 1};
        assert_true(fast_table_put(&table, &row));
    }
    do {
        n = fast_table_take_owned(&table, 2, some, 100);
        for (uint32_t i = 0; i < n; i++) {
            sum += some[i].bytes;
            assert_int_equal(some[i].gpu, 1);
        }
    } while (n == 100);
    for (uint64_t k = 1; k <= 10000; k++) {
        expect += k % 3 == 2 ? k : 0;
        assert_int_equal(fast_table_get(&table, k << 9, &row), k % 3 != 2);
    }
    assert_true(sum == expect);
    assert_int_equal(fast_table_take_owned(&table, 2, some, 100), 0);
}

static void entry_table(void **state)
{
    (void)state;
    for (int i = 0; i < FAST_ENTRY_COUNT; i++)
        assert_int_equal(fast_entry_find(fast_entry_hooked[i].symbol), i);
    assert_int_equal(fast_entry_find("cuModuleLoad"), -1);
    assert_int_equal(fast_entry_find("cu"), -1);
    assert_int_equal(fast_entry_find(""), -1);
    assert_true(fast_entry_base_find("cuLaunchKernel") >= 0);
    assert_int_equal(fast_entry_base_find("cuStreamWriteValue32"), -1);
}

#define T(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(markers), T(inside_a_call), T(sums_wrap_around), T(events_instead), T(unmarked_tail),
        T(late_looks), T(lead), T(no_lead_at_the_end),
        T(overlapping_launches), T(pdl_attribute), T(default_stream_beside_a_capture), T(broken_context),
        T(contexts_end), T(many_streams), T(a_stream_for_each_thread),
        T(marker_of_the_same_variant),
        T(small_copies_pass), T(graphs_are_learned), T(short_work_is_learned), T(long_looks_teach_nothing),
        T(tables), T(owned_rows), T(entry_table),
    };
    return cmocka_run_group_tests_name("marks", tests, NULL, NULL);
}
