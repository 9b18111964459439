#include "inside.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the hook remembers, of whom, and what a fork leaves of it. */

/* ---- what a fork leaves ---- */

static struct fast_table *const tables[] = {&fast_hook.blocks, &fast_hook.handles, &fast_hook.mappings,
                                            &fast_hook.pools,  &fast_hook.sealed,  &fast_hook.graph_sums};
#define TABLES (sizeof(tables) / sizeof(tables[0]))

static int all_zero(const void *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (((const unsigned char *)p)[i])
            return 0;
    return 1;
}

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "in the child: not %s\n", #what);                                      \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

/* Nothing of the parent's work, memory and connection, no lock that another of its threads held; and what the
 * environment said first. */
static void check_child(const int *fds)
{
    struct fast_table_row row;
    for (size_t i = 0; i < TABLES; i++) {
        for (int k = 0; k < FAST_TABLE_SHARDS; k++) {
            CHECK(pthread_mutex_trylock(&tables[i]->shards[k].lock) == 0);
            pthread_mutex_unlock(&tables[i]->shards[k].lock);
        }
        CHECK(fast_table_list(tables[i], &row, 1) == 0);
    }
    CHECK(pthread_mutex_trylock(&fast_hook.link_lock) == 0);
    CHECK(all_zero(fast_hook.small, sizeof(fast_hook.small)));
    CHECK(all_zero(fast_hook.graph_charged, sizeof(fast_hook.graph_charged)));
    CHECK(all_zero(fast_hook.gpus, sizeof(fast_hook.gpus)));
    CHECK(all_zero(fast_hook.ctxs, sizeof(fast_hook.ctxs)));
    CHECK(all_zero(&fast_thread, sizeof(fast_thread)));
    CHECK(!fast_hook.graph_largest && !fast_hook.graph_captured && !fast_hook.pools_used && !fast_hook.captures);
    CHECK(!fast_hook.session && !fast_hook.start && !fast_hook.lost_ns && !fast_hook.asleep);
    CHECK(fast_hook.mode == FAST_MODE_OFF);
    CHECK(fast_hook.kick_fd == -1 && fast_hook.dead_fd == -1);
    for (int i = 0; i < 3; i++)
        CHECK(fcntl(fds[i], F_GETFD) == -1);
    CHECK(fast_hook_enabled());
    CHECK(!strcmp(fast_hook.socket_path, "/nowhere/node.sock"));
    CHECK(fast_hook.ticket_hi == 0x0011223344556677ULL && fast_hook.ticket_lo == 0x8899aabbccddeeffULL);
    CHECK(fast_hook.fail_closed && fast_hook.mem_wait == FAST_MS(70));
    _exit(0);
}

/* The environment of a function, and what it may change afterwards in vain. */
static void set_environment(bool after)
{
    setenv(FAST_ENV_SOCKET, after ? "/elsewhere/node.sock" : "/nowhere/node.sock", 1);
    setenv(FAST_ENV_TICKET, after ? "ffffffffffffffffffffffffffffffff" : "00112233445566778899AABBccddeeff", 1);
    setenv(FAST_ENV_FAIL, after ? "open" : "closed", 1);
    setenv(FAST_ENV_MEM_WAIT, after ? "1" : "70", 1);
}

static void use_everything(const int *fds)
{
    for (size_t i = 0; i < TABLES; i++)
        for (uint64_t key = 1; key < 100; key++)
            assert_true(fast_table_put(tables[i], &(struct fast_table_row){.key = key << 9, .bytes = 1}));
    launch(NULL);
    memset(fast_hook.small, 1, sizeof(fast_hook.small));
    memset(fast_hook.graph_charged, 1, sizeof(fast_hook.graph_charged));
    fast_hook.graph_largest = fast_hook.graph_captured = 1;
    fast_hook.lost_ns = 1;
    fast_hook.pools_used = fast_hook.captures = fast_hook.asleep = 1;
    session.fd = fds[0];
    fast_hook.kick_fd = fds[1];
    fast_hook.dead_fd = fds[2];
}

static void lock_everything(int (*fn)(pthread_mutex_t *))
{
    for (size_t i = 0; i < TABLES; i++)
        for (int k = 0; k < FAST_TABLE_SHARDS; k++)
            assert_int_equal(fn(&tables[i]->shards[k].lock), 0);
    assert_int_equal(fn(&fast_hook.link_lock), 0);
}

static void forked_child_is_new(void **state)
{
    (void)state;
    int fds[3], status = -1;
    for (int i = 0; i < 3; i++)
        fds[i] = eventfd(0, EFD_CLOEXEC);
    set_environment(false);
    fast_hook.enabled = false;
    atomic_store(&fast_hook.loaded, 0);
    assert_true(fast_hook_enabled());
    set_environment(true);
    assert_true(fast_hook_enabled());
    use_everything(fds);
    lock_everything(pthread_mutex_lock); /* another thread is in the middle of something */
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        check_child(fds);
    }
    lock_everything(pthread_mutex_unlock);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ptr_equal(fast_hook.session, &session); /* the parent goes on */
    assert_int_equal(launches(), 1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(close(fds[i]), 0);
    unsetenv(FAST_ENV_SOCKET);
}

static void tickets_are_read_strictly(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "00112233445566778899aabbccddeef", "00112233445566778899aabbccddeeff0",
                                      "00112233445566778899aabbccddeefg", " 0112233445566778899aabbccddeeff"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        set_environment(false);
        setenv(FAST_ENV_TICKET, bad[i], 1);
        atomic_store(&fast_hook.loaded, 0);
        assert_true(fast_hook_enabled()); /* the node will refuse it */
        assert_true(fast_hook.ticket_hi == 0 && fast_hook.ticket_lo == 0);
    }
    unsetenv(FAST_ENV_SOCKET);
}

/* ---- memory ---- */

static void allocate_in_each_family(int n)
{
    CUDA_ARRAY_DESCRIPTOR small = {.Width = 100, .Height = 10, .Format = CU_AD_FORMAT_UNSIGNED_INT8, .NumChannels = 1};
    CUDA_ARRAY_DESCRIPTOR large = {.Width = 1024, .Height = 1024, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
    CUdeviceptr p;
    CUarray array;
    for (int i = 0; i < n; i++) {
        assert_int_equal(cuMemAlloc_v2(&p, 1000), CUDA_SUCCESS);
        assert_int_equal(cuMemAllocManaged(&p, 5000, 0), CUDA_SUCCESS);
        assert_int_equal(cuArrayCreate_v2(&array, &small), CUDA_SUCCESS);
        assert_int_equal(cuMemAlloc_v2(&p, FAST_MIB(3)), CUDA_SUCCESS);
        assert_int_equal(cuMemAllocManaged(&p, FAST_MIB(2), 0), CUDA_SUCCESS);
        assert_int_equal(cuArrayCreate_v2(&array, &large), CUDA_SUCCESS);
    }
}

static void assert_small(uint64_t device, uint64_t managed, uint64_t array)
{
    assert_int_equal(fast_hook.small[0][FAST_FAMILY_DEVICE], device);
    assert_int_equal(fast_hook.small[0][FAST_FAMILY_MANAGED], managed);
    assert_int_equal(fast_hook.small[0][FAST_FAMILY_ARRAY], array);
}

/* The families of a context that ends, and nothing of another context. */
static void context_takes_its_memory_along(void **state)
{
    (void)state;
    CUcontext first = current, second = (CUcontext)&contexts[1];
    allocate_in_each_family(100);
    assert_small(102400, 819200, 102400);
    assert_true(fast_hook.gpus[0].mem_used == FAST_MIB(100 * (4 + 2 + 4) + 3 * 2));
    current = second;
    allocate_in_each_family(1);
    assert_int_equal(cuCtxDestroy_v2(first), CUDA_SUCCESS);
    assert_small(1024, 8192, 1024);
    assert_true(fast_hook.gpus[0].mem_used == FAST_MIB(4 + 2 + 4 + 3 * 2));
    assert_int_equal(cuCtxDestroy_v2(second), CUDA_SUCCESS);
    assert_small(0, 0, 0);
    assert_true(fast_hook.gpus[0].mem_used == 0);
}

/* What the driver does not free is still charged. */
static void refused_free(void **state)
{
    (void)state;
    CUdeviceptr p;
    assert_int_equal(cuMemAlloc_v2(&p, FAST_MIB(4)), CUDA_SUCCESS);
    drv.result = CUDA_ERROR_INVALID_VALUE;
    assert_int_equal(cuMemFree_v2(p), CUDA_ERROR_INVALID_VALUE);
    assert_true(fast_hook.gpus[0].mem_used == FAST_MIB(4));
    drv.result = CUDA_SUCCESS;
    assert_int_equal(cuMemFree_v2(p), CUDA_SUCCESS);
    assert_true(fast_hook.gpus[0].mem_used == 0);
    assert_int_equal(cuMemFree_v2(p), CUDA_SUCCESS); /* somebody else's */
    assert_true(fast_hook.gpus[0].mem_used == 0);
}

static CUresult set_access(CUdeviceptr at, size_t bytes, int first, int second)
{
    CUmemAccessDesc desc[] = {{.flags = first}, {.flags = second}};
    return cuMemSetAccess(at, bytes, desc, 2);
}

/* What was made read-only stays so, whichever part of it and for whichever device writing is asked for, until it is
 * unmapped: then the rest of it does. */
static void sealed_memory(void **state)
{
    (void)state;
    const int none = CU_MEM_ACCESS_FLAGS_PROT_NONE, ro = CU_MEM_ACCESS_FLAGS_PROT_READ,
              rw = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    const CUdeviceptr at = 0x1000000, part = 0x1000;
    assert_int_equal(set_access(at, 8 * part, rw, rw), CUDA_SUCCESS);
    assert_int_equal(set_access(at, 8 * part, ro, ro), CUDA_SUCCESS);
    assert_int_equal(set_access(at, 8 * part, rw, ro), CUDA_ERROR_NOT_PERMITTED);
    assert_int_equal(set_access(at + 3 * part, part, ro, rw), CUDA_ERROR_NOT_PERMITTED);
    assert_int_equal(set_access(at - part, 2 * part, rw, rw), CUDA_ERROR_NOT_PERMITTED);
    assert_int_equal(set_access(at - part, part, rw, rw), CUDA_SUCCESS);
    assert_int_equal(set_access(at + 8 * part, part, rw, rw), CUDA_SUCCESS);
    assert_int_equal(set_access(at, 8 * part, none, ro), CUDA_SUCCESS);
    fast_access_unmapped(at + 3 * part, 2 * part);
    for (CUdeviceptr i = 0; i < 8; i++)
        assert_int_equal(set_access(at + i * part, part, rw, rw),
                         i == 3 || i == 4 ? CUDA_SUCCESS : CUDA_ERROR_NOT_PERMITTED);
    /* Its own memory is a process' own affair. */
    CUdeviceptr own = 0x2000000;
    assert_true(fast_table_put(&fast_hook.mappings, &(struct fast_table_row){.key = own, .bytes = part}));
    assert_int_equal(set_access(own, part, ro, ro), CUDA_SUCCESS);
    assert_int_equal(set_access(own, part, rw, rw), CUDA_SUCCESS);
}

/* ---- the default streams ---- */

static struct fast_stream *legacy, *own;

static void assert_goes_to(const struct fast_stream *wanted, CUresult r, const char *what)
{
    static uint32_t was[2];
    uint32_t now[2] = {legacy->entered, own->entered};
    bool right = (now[0] != was[0]) == (wanted == legacy) && (now[1] != was[1]) == (wanted == own);
    if (what && (r != CUDA_SUCCESS || !right))
        fail_msg("%s: %d, the legacy stream %u -> %u, the thread's %u -> %u", what, (int)r, was[0], now[0],
                 was[1], now[1]);
    was[0] = now[0];
    was[1] = now[1];
    fast_stream_synced(legacy, fast_stream_left(legacy));
    fast_stream_synced(own, fast_stream_left(own));
}

/* Stream 0 of a function with _ptsz or _ptds is the thread's own. */
static void variants_of_the_default_stream(void **state)
{
    (void)state;
    struct fast_ctx *ctx = fast_ctx_current();
    CUdeviceptr p = 4096;
    char host[16];
    assert_non_null(ctx);
    legacy = fast_stream_find(ctx, NULL, false);
    own = fast_stream_find(ctx, NULL, true);
    assert_goes_to(NULL, 0, NULL);
#define GOES(stream, call) assert_goes_to(stream, call, #call)
    for (int i = 0; i < 3; i++) { /* the first time slowly */
        GOES(legacy, cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        GOES(own, cuLaunchKernel_ptsz(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    }
    GOES(legacy, cuLaunchKernel_ptsz(NULL, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_LEGACY, NULL, NULL));
    GOES(own, cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, CU_STREAM_PER_THREAD, NULL, NULL));
    GOES(legacy, cuGraphLaunch(NULL, NULL));
    GOES(own, cuGraphLaunch_ptsz(NULL, NULL));
    GOES(legacy, cuMemcpyAsync(p, p, FAST_MIB(1), NULL));
    GOES(own, cuMemcpyAsync_ptsz(p, p, FAST_MIB(1), NULL));
    GOES(legacy, cuMemsetD8_v2(p, 0, FAST_MIB(1)));
    GOES(own, cuMemsetD8_v2_ptds(p, 0, FAST_MIB(1)));
    GOES(NULL, cuMemcpyDtoH_v2_ptds(host, p, sizeof(host))); /* small: only waits */
#undef GOES
}

/* Who waits for one of them knows nothing of the other. */
static void waits_for_the_default_stream(void **state)
{
    (void)state;
    struct fast_ctx *ctx = fast_ctx_current();
    char host[16];
    legacy = fast_stream_find(ctx, NULL, false);
    own = fast_stream_find(ctx, NULL, true);
    for (int i = 0; i < 5; i++) {
        CUresult r = CUDA_SUCCESS;
        cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
        cuLaunchKernel_ptsz(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
        if (i == 0)
            r = cuStreamSynchronize_ptsz(NULL);
        else if (i == 1)
            r = cuStreamQuery_ptsz(NULL);
        else if (i == 2)
            r = cuMemcpyDtoH_v2_ptds(host, 4096, sizeof(host));
        else if (i == 3)
            r = cuStreamSynchronize(NULL);
        else
            r = cuMemcpyDtoH_v2(host, 4096, sizeof(host));
        assert_int_equal(r, CUDA_SUCCESS);
        assert_int_equal(fast_stream_pending(ctx, own) == 0, i < 3);
        assert_int_equal(fast_stream_pending(ctx, legacy) == 0, i >= 3);
        fast_stream_synced(legacy, fast_stream_left(legacy));
        fast_stream_synced(own, fast_stream_left(own));
    }
}

/* The driver is asked about the stream that the caller means. */
static void captures_of_the_variant(void **state)
{
    (void)state;
    CUdeviceptr p;
    fast_hook.driver.stream_is_capturing[1] = captures;
    for (int i = 0; i < 2; i++) {
        uint64_t before = launches();
        launch(NULL);
        cuLaunchKernel_ptsz(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
        assert_int_equal(launches() - before, i ? 1 : 2);
        atomic_store(&fast_hook.captures, 1);
    }
    assert_int_equal(cuMemAllocAsync(&p, 5000, NULL), CUDA_SUCCESS);
    assert_int_equal(fast_hook.graph_largest, 0);
    assert_int_equal(cuMemAllocAsync_ptsz(&p, 5000, NULL), CUDA_SUCCESS);
    assert_int_equal(fast_hook.graph_largest, 5000);
    /* A thread that has just launched there must notice that the stream captures now. */
    fast_hook.driver.stream_is_capturing[0] = captures;
    uint64_t before = launches();
    launch(NULL);
    assert_int_equal(launches(), before);
}

/* ---- the quick way in ---- */

static _Atomic bool advanced;

static void *advance_later(void *arg)
{
    usleep(200000);
    atomic_store(&advanced, true);
    atomic_store(drv.at, drv.value);
    return arg;
}

static pthread_t in_a_while(void)
{
    pthread_t thread;
    atomic_store(&advanced, false);
    assert_int_equal(pthread_create(&thread, NULL, advance_later, NULL), 0);
    return thread;
}

/* What was admitted and taken back while there was no room is not counted. */
static void quick_launches_are_bounded(void **state)
{
    (void)state;
    atomic_store(&fast_hook.gpus[0].unit_ns, FAST_MS(1));
    for (int i = 0; i < 2; i++)
        launch(NULL);
    assert_int_equal(fast_gpu_pending(0), 2000);
    fast_gate_flush();
    pthread_t other = in_a_while();
    for (int i = 0; i < 2; i++) /* one may be let in early */
        launch(NULL);
    assert_true(advanced);
    pthread_join(other, NULL);
    assert_int_equal(fast_stream_find(fast_ctx_current(), NULL, false)->entered, 4000);
    assert_int_equal(launches(), 4);
}

/* Near the end of a token even what fits in the bound waits for what is in flight. */
static void quick_launches_end_with_the_token(void **state)
{
    (void)state;
    launch(NULL);
    launch(NULL);
    fast_gate_flush();
    atomic_store(&fast_hook.gpus[0].tight, 1);
    limits.gpu[0].until_ns = fast_hook_now();
    pthread_t other = in_a_while();
    launch(NULL);
    assert_true(advanced);
    pthread_join(other, NULL);
}

static void *grant_later(void *arg)
{
    usleep(100000);
    atomic_store(&limits.gpu[0].token, TOKEN + 1);
    return arg;
}

/* A token that was given back is none, though the node has not taken it from the page yet. */
static void spent_token(void **state)
{
    (void)state;
    pthread_t other;
    launch(NULL);
    launch(NULL);
    assert_int_equal(fast_hook.gpus[0].held, TOKEN);
    atomic_store(&fast_hook.gpus[0].spent, TOKEN);
    assert_int_equal(pthread_create(&other, NULL, grant_later, NULL), 0);
    launch(NULL);
    assert_int_equal(fast_hook.gpus[0].held, TOKEN + 1);
    pthread_join(other, NULL);
}

static void streams_are_told_apart(void **state)
{
    (void)state;
    struct fast_ctx *ctx = fast_ctx_current();
    CUstream a = (CUstream)4096, b = (CUstream)8192;
    uint32_t cost = launch(a);
    launch(a);
    launch(b);
    assert_int_equal(fast_stream_find(ctx, b, false)->entered, cost);
    struct fast_stream *s = fast_stream_find(ctx, a, false);
    assert_int_equal(s->entered, 2 * cost);
    /* Another thread has ended the stream, and a new one has its place. */
    atomic_store(&s->key, 12288);
    launch(a);
    assert_int_equal(s->entered, 2 * cost);
    assert_int_equal(fast_stream_find(ctx, a, false)->entered, cost);
}

static void *work_in_second(void *arg)
{
    current = (CUcontext)&contexts[1];
    fast_ctx_forget((CUcontext)&contexts[0]);
    launch(NULL);
    assert_true(fast_owner_is_me(&fast_hook.ctxs[0].streams[0].owner));
    return arg;
}

/* Another thread ends the context and works in a second one, in the place of the first. */
static void contexts_are_told_apart(void **state)
{
    (void)state;
    launch(NULL);
    launch(NULL);
    atomic_store(&fast_hook.ctxs[0].broken, 1);
    in_thread(work_in_second, NULL);
    current = (CUcontext)&contexts[2];
    uint32_t cost = launch(NULL);
    for (int i = 0; i < 2; i++) {
        assert_ptr_equal(fast_hook.ctxs[i].ctx, &contexts[i + 1]);
        assert_int_equal(fast_stream_pending(&fast_hook.ctxs[i], &fast_hook.ctxs[i].streams[0]), cost);
    }
}

#define T(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(forked_child_is_new), T(tickets_are_read_strictly), T(context_takes_its_memory_along),
        T(refused_free), T(sealed_memory),
        T(variants_of_the_default_stream), T(waits_for_the_default_stream), T(captures_of_the_variant),
        T(quick_launches_are_bounded), T(quick_launches_end_with_the_token), T(spent_token),
        T(streams_are_told_apart), T(contexts_are_told_apart),
    };
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
