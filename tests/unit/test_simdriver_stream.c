/* Streams and events of the simulated driver: what waits for what, and exact times whatever the
 * threads of the process do. */
#include "simcuda.h"

#include <pthread.h>
#include <time.h>

static CUfunction add, spin;
static CUdeviceptr cell;

static int value_of_cell(void)
{
    int v = 0;
    CU(cuMemcpyDtoH_v2(&v, cell, sizeof(v)));
    return v;
}

static void sleep_ms(int ms)
{
    struct timespec ts = {.tv_sec = 0, .tv_nsec = ms * 1000000L};
    nanosleep(&ts, NULL);
}

static float span_ms(CUevent a, CUevent b)
{
    float ms = -1;
    CU(cuEventElapsedTime(&ms, a, b));
    return ms;
}

/* 300 kernels of 100 us are 30 ms, although the ring of the model holds 128. */
static void chain_is_exact(void **state)
{
    (void)state;
    CUstream s;
    CUevent a, b;
    CU(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&a, 0));
    CU(cuEventCreate(&b, 0));
    CU(cuMemsetD32_v2(cell, 0, 1));
    CU(cuCtxSynchronize());
    CU(cuEventRecord(a, s));
    for (int i = 0; i < 300; i++)
        sim_add(add, cell, 1, 1, s);
    CU(cuEventRecord(b, s));
    CU_FAILS(cuEventQuery(b), CUDA_ERROR_NOT_READY);
    CU_FAILS(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    CU(cuEventSynchronize(b));
    CU(cuStreamQuery(s));
    assert_int_equal(value_of_cell(), 300);
    float ms = span_ms(a, b);
    assert_true(ms >= 29.99f && ms < 31.0f);
    CU(cuEventDestroy_v2(a));
    CU(cuEventDestroy_v2(b));
    CU(cuStreamDestroy_v2(s));
}

static void events_order_streams(void **state)
{
    (void)state;
    CUstream s[2];
    CUevent e;
    int v[2] = {0, 0};
    CU(cuStreamCreate(&s[0], CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&s[1], CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
    CU(cuMemsetD32_v2(cell, 0, 1));
    CU(cuCtxSynchronize());
    for (int i = 0; i < 20; i++) {
        sim_add(add, cell, 1, 1, s[i % 2]);
        CU(cuEventRecord(e, s[i % 2]));
        CU(cuStreamWaitEvent(s[(i + 1) % 2], e, 0));
        if (i == 9)
            CU(cuMemcpyDtoHAsync_v2(&v[0], cell, 4, s[0]));
    }
    CU(cuMemcpyDtoHAsync_v2(&v[1], cell, 4, s[0]));
    CU(cuStreamSynchronize(s[0]));
    assert_int_equal(v[0], 10);
    assert_int_equal(v[1], 20);
    float ms;
    CU_FAILS(cuEventElapsedTime(&ms, e, e), CUDA_ERROR_INVALID_HANDLE);
    CU(cuStreamDestroy_v2(s[0]));
    CU(cuStreamDestroy_v2(s[1]));
    CU_FAILS(cuStreamSynchronize(s[0]), CUDA_ERROR_INVALID_HANDLE);
    CU(cuEventDestroy_v2(e));
    CU_FAILS(cuEventDestroy_v2(e), CUDA_ERROR_INVALID_HANDLE);
}

/* Two blocking streams with work of the legacy stream between: three kernels one after another. With
 * streams that do not block, the three run side by side. */
static float with_legacy(unsigned flags)
{
    CUstream a, b;
    CUevent e[6];
    CU(cuStreamCreate(&a, flags));
    CU(cuStreamCreate(&b, flags));
    for (int i = 0; i < 6; i++)
        CU(cuEventCreate(&e[i], 0));
    CUstream order[3] = {a, NULL, b};
    for (int i = 0; i < 3; i++) {
        CU(cuEventRecord(e[2 * i], order[i]));
        sim_spin(spin, 3000000, 8, order[i]);
        CU(cuEventRecord(e[2 * i + 1], order[i]));
    }
    CU(cuCtxSynchronize());
    float ms = span_ms(e[0], e[5]);
    for (int i = 0; i < 6; i++)
        CU(cuEventDestroy_v2(e[i]));
    CU(cuStreamDestroy_v2(a));
    CU(cuStreamDestroy_v2(b));
    return ms;
}

static void legacy_stream(void **state)
{
    (void)state;
    float blocking = with_legacy(CU_STREAM_DEFAULT), free_running = with_legacy(CU_STREAM_NON_BLOCKING);
    assert_true(blocking >= 9.0f);
    assert_true(free_running < 9.0f);
}

static void *own_stream(void *arg)
{
    CU(cuCtxSetCurrent(arg));
    sim_spin(spin, 200000000, 1, CU_STREAM_PER_THREAD);
    return NULL;
}

/* Each thread has a per-thread stream of its own: this one is idle while the other's is busy. */
static void per_thread_streams(void **state)
{
    (void)state;
    CUcontext ctx;
    pthread_t t;
    CU(cuCtxGetCurrent(&ctx));
    assert_int_equal(pthread_create(&t, NULL, own_stream, ctx), 0);
    pthread_join(t, NULL);
    CU(cuStreamSynchronize_ptsz(NULL));
    CU_FAILS(cuStreamQuery(NULL), CUDA_ERROR_NOT_READY); /* the legacy stream would wait for it */
    CU(cuCtxSynchronize());
}

static int calls[3];

static void on_host(void *arg)
{
    calls[0] = *(int *)arg;
    sleep_ms(5);
    calls[1] = 1;
}

static void on_callback(CUstream s, int status, void *arg)
{
    (void)s;
    calls[2] = status == 0 && calls[1] == 1 ? *(int *)arg : -1;
}

static void host_functions(void **state)
{
    (void)state;
    int token = 17;
    CUstream s;
    CU(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    memset(calls, 0, sizeof(calls));
    sim_spin(spin, 2000000, 1, s);
    CU(cuLaunchHostFunc(s, on_host, &token));
    CU(cuStreamAddCallback(s, on_callback, &token, 0));
    assert_int_equal(calls[0], 0);
    CU(cuStreamSynchronize(s));
    assert_int_equal(calls[0], 17);
    assert_int_equal(calls[2], 17);
    CU(cuStreamDestroy_v2(s));
}

/* A value is written without anybody calling the driver, after the kernels before it. */
static void written_values(void **state)
{
    (void)state;
    unsigned *flag;
    CUdeviceptr d;
    CUstream s;
    CU(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    CU(cuMemHostAlloc((void **)&flag, 4096, 0));
    CU(cuMemHostGetDevicePointer_v2(&d, flag, 0));
    CU(cuMemsetD32_v2(cell, 0, 1));
    CU(cuCtxSynchronize());
    int seen = 0;
    CU(cuMemHostRegister_v2(&seen, sizeof(seen), 0));
    sim_add(add, cell, 5, 1, s);
    CU(cuMemcpyDtoHAsync_v2(&seen, cell, 4, s));
    CU(cuStreamWriteValue32_v2(s, d, 7, 0));
    for (int i = 0; i < 5000 && __atomic_load_n(flag, __ATOMIC_ACQUIRE) != 7; i++)
        sleep_ms(1);
    assert_int_equal(*flag, 7);
    assert_int_equal(seen, 5);
    CU(cuMemHostUnregister(&seen));
    CU(cuMemFreeHost(flag));
    CU(cuStreamDestroy_v2(s));
}

/* One stream waits for the value that another one writes, or that the program does. */
static void waited_values(void **state)
{
    (void)state;
    CUstream a, b;
    unsigned *flag;
    CU(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    CU(cuMemHostAlloc((void **)&flag, 4096, 0));
    CUdeviceptr d = (CUdeviceptr)(uintptr_t)flag;
    CU(cuStreamWaitValue32_v2(a, d, 3, CU_STREAM_WAIT_VALUE_GEQ));
    CU(cuStreamWriteValue32_v2(a, d + 4, 9, 0));
    sleep_ms(5);
    CU_FAILS(cuStreamQuery(a), CUDA_ERROR_NOT_READY);
    CU(cuStreamWriteValue32_v2(b, d, 3, 0));
    CU(cuStreamSynchronize(a));
    assert_int_equal(flag[1], 9);
    CU(cuStreamWaitValue32_v2(b, d, 100, CU_STREAM_WAIT_VALUE_EQ));
    __atomic_store_n(&flag[0], 100, __ATOMIC_RELEASE);
    CU(cuStreamSynchronize(b));
    CU_FAILS(cuStreamWriteValue32_v2(a, d + 1, 0, 0), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFreeHost(flag));
    CU(cuStreamDestroy_v2(a));
    CU(cuStreamDestroy_v2(b));
}

/* A stream is destroyed at once for the program, and does its work first. */
static void destroyed_with_work(void **state)
{
    (void)state;
    CUstream s;
    CU(cuMemsetD32_v2(cell, 0, 1));
    CU(cuCtxSynchronize());
    CU(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 10; i++)
        sim_add(add, cell, 1, 1, s);
    CU(cuStreamDestroy_v2(s));
    CU(cuCtxSynchronize());
    assert_int_equal(value_of_cell(), 10);
}

/* The kernel of the urgent stream overtakes those that wait in the other. */
static void priorities(void **state)
{
    (void)state;
    CUstream low, high;
    CUevent e[2];
    int least, most;
    CU(cuCtxGetStreamPriorityRange(&least, &most));
    assert_true(most < least);
    CU(cuStreamCreateWithPriority(&low, CU_STREAM_NON_BLOCKING, least));
    CU(cuStreamCreateWithPriority(&high, CU_STREAM_NON_BLOCKING, most));
    CU(cuEventCreate(&e[0], 0));
    CU(cuEventCreate(&e[1], 0));
    sim_spin(spin, 2000000, 160 * 8, low); /* eight waves over the whole GPU */
    sim_spin(spin, 2000000, 160, high);
    CU(cuEventRecord(e[0], high));
    CU(cuEventRecord(e[1], low));
    CU(cuCtxSynchronize());
    assert_true(span_ms(e[0], e[1]) > 4.0f);
    CU(cuStreamDestroy_v2(low));
    CU(cuStreamDestroy_v2(high));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chain_is_exact), cmocka_unit_test(events_order_streams),
        cmocka_unit_test(legacy_stream), cmocka_unit_test(per_thread_streams),
        cmocka_unit_test(host_functions), cmocka_unit_test(written_values),
        cmocka_unit_test(waited_values), cmocka_unit_test(destroyed_with_work),
        cmocka_unit_test(priorities),
    };
    sim_environment(argc, argv, "v100-16gb:1");
    sim_context();
    add = sim_function("add");
    spin = sim_function("spin");
    CU(cuMemAlloc_v2(&cell, 4096));
    int rc = cmocka_run_group_tests_name("simdriver_stream", tests, NULL, NULL);
    sim_clean();
    return rc;
}
