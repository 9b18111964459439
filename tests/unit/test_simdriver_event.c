/* Events of several processes. The children are this program again, with a role in argv[2]. Work is held
 * back by gates, words that a stream waits for, so that nothing here depends on when somebody runs. */
#include "simchild.h"

#include <signal.h>

#define FLAGS (CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING)

/* A word of host memory; what is submitted behind it waits until it is opened. */
struct gate {
    int *word;
    CUdeviceptr device;
};

static struct gate gate_new(void)
{
    struct gate g;
    CU(cuMemHostAlloc((void **)&g.word, 4096, 2));
    *g.word = 0;
    CU(cuMemHostGetDevicePointer_v2(&g.device, g.word, 0));
    return g;
}

static void gate_wait(const struct gate *g, CUstream s)
{
    CU(cuStreamWaitValue32_v2(s, g->device, 1, CU_STREAM_WAIT_VALUE_GEQ));
}

static void gate_open(const struct gate *g)
{
    __atomic_store_n(g->word, 1, __ATOMIC_RELEASE);
}

static CUevent event_opened(void)
{
    CUipcEventHandle handle;
    CUevent e;
    hear(LINK, &handle, sizeof(handle));
    CU(cuIpcOpenEventHandle(&e, handle));
    return e;
}

static CUstream stream_new(void)
{
    CUstream s;
    CU(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    return s;
}

/* ---- children ---- */

/* Waits on the device and on the host for what the parent records, then records itself. */
static void role_taker(void)
{
    char go;
    float ms;
    CUdeviceptr p;
    CUipcMemHandle memory;
    CUipcEventHandle handle;
    CUevent e = event_opened(), again;
    CUstream s = stream_new();
    hear(LINK, &memory, sizeof(memory));
    CU(cuIpcOpenMemHandle_v2(&p, memory, 1));
    struct gate g = gate_new(), copy = gate_new();
    CU(cuEventQuery(e)); /* nothing was recorded yet */
    CU(cuEventSynchronize(e));
    CU_FAILS(cuIpcGetEventHandle(&handle, e), CUDA_ERROR_INVALID_HANDLE);
    say(LINK, "o", 1);
    hear(LINK, &go, 1); /* recorded behind a gate that is closed */
    CU_FAILS(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    CU_FAILS(cuEventElapsedTime(&ms, e, e), CUDA_ERROR_INVALID_HANDLE);
    CU(cuStreamWaitEvent(s, e, 0));
    CU(cuMemcpyDtoHAsync_v2(copy.word, p, 4, s));
    CU_FAILS(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    say(LINK, "w", 1);
    CU(cuEventSynchronize(e));
    CU(cuEventQuery(e));
    CU(cuStreamSynchronize(s));
    assert_int_equal(*copy.word, 4711);
    /* Now the other way round. */
    gate_wait(&g, s);
    CU(cuMemsetD32Async(p, 815, 1, s));
    CU(cuEventRecord(e, s));
    say(LINK, "r", 1);
    hear(LINK, &go, 1);
    gate_open(&g);
    hear(LINK, &handle, sizeof(handle));
    CU(cuIpcOpenEventHandle(&again, handle)); /* twice in one process */
    CU(cuEventDestroy_v2(again));
    CU(cuEventQuery(e));
    CU(cuStreamSynchronize(s));
    CU(cuEventDestroy_v2(e));
    CU_FAILS(cuEventQuery(e), CUDA_ERROR_INVALID_HANDLE);
}

/* Waits for one record while the parent makes another one. */
static void role_exact(void)
{
    char go;
    CUevent e = event_opened();
    CUstream s = stream_new();
    CU(cuStreamWaitEvent(s, e, 0));
    say(LINK, "w", 1);
    hear(LINK, &go, 1); /* the first record may complete, the second one not yet */
    CU(cuStreamSynchronize(s));
    CU_FAILS(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    CU(cuStreamWaitEvent(s, e, 0));
    CU(cuEventDestroy_v2(e)); /* the stream waits on */
    CU_FAILS(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    say(LINK, "s", 1);
    hear(LINK, &go, 1);
    CU(cuStreamSynchronize(s));
}

/* Gives an event that it has recorded and that will never be complete. */
static void role_giver(void)
{
    CUevent e;
    CUipcEventHandle handle;
    struct gate g = gate_new();
    gate_wait(&g, NULL);
    CU(cuEventCreate(&e, FLAGS));
    CU(cuEventRecord(e, NULL));
    CU(cuIpcGetEventHandle(&handle, e));
    say(LINK, &handle, sizeof(handle));
    pause();
}

/* Dies while it has an event of the parent open, behind which its stream waits. */
static void role_dies(void)
{
    CUevent e = event_opened();
    CU(cuStreamWaitEvent(NULL, e, 0));
    say(LINK, "w", 1);
    pause();
}

static const struct sim_role roles[] = {
    {"taker", role_taker}, {"exact", role_exact}, {"giver", role_giver}, {"dies", role_dies}};

/* ---- tests ---- */

static void handles(void **state)
{
    (void)state;
    CUevent e, plain;
    CUipcEventHandle handle;
    CU_FAILS(cuEventCreate(&e, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
    CU(cuEventCreate(&plain, CU_EVENT_DISABLE_TIMING));
    CU_FAILS(cuIpcGetEventHandle(&handle, plain), CUDA_ERROR_INVALID_HANDLE);
    CU_FAILS(cuIpcGetEventHandle(&handle, NULL), CUDA_ERROR_INVALID_HANDLE);
    CU(cuEventCreate(&e, FLAGS));
    CU_FAILS(cuIpcGetEventHandle(NULL, e), CUDA_ERROR_INVALID_VALUE);
    CU(cuIpcGetEventHandle(&handle, e));
    CU_FAILS(cuIpcOpenEventHandle(&plain, handle), CUDA_ERROR_INVALID_CONTEXT);
    memset(&handle, 0xff, sizeof(handle));
    CU_FAILS(cuIpcOpenEventHandle(&plain, handle), CUDA_ERROR_INVALID_HANDLE);
    CU(cuEventDestroy_v2(e));
}

/* One process's own work with such an event is as with any other. */
static void within_a_process(void **state)
{
    (void)state;
    CUevent e;
    CUstream s = stream_new(), t = stream_new();
    struct gate g = gate_new();
    CU(cuEventCreate(&e, FLAGS));
    CU(cuEventQuery(e));
    CU(cuEventRecord(e, s));
    CU(cuEventSynchronize(e));
    gate_wait(&g, s);
    CU(cuEventRecord(e, s));
    CU(cuStreamWaitEvent(s, e, 0)); /* its own stream: no deadlock */
    CU(cuStreamWaitEvent(t, e, 0));
    CU_FAILS(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    CU_FAILS(cuStreamQuery(t), CUDA_ERROR_NOT_READY);
    gate_open(&g);
    CU(cuEventSynchronize(e));
    CU(cuStreamSynchronize(t));
    CU(cuStreamDestroy_v2(s));
    CU(cuEventQuery(e)); /* of a stream that is gone */
    CU(cuEventDestroy_v2(e));
    CU(cuStreamDestroy_v2(t));
    CU(cuMemFreeHost(g.word));
}

static void both_ways(void **state)
{
    (void)state;
    char heard;
    int link;
    CUdeviceptr p;
    CUevent e;
    CUipcMemHandle memory;
    CUipcEventHandle handle;
    CUstream s = stream_new();
    struct gate g = gate_new(), copy = gate_new(); /* pinned: the copy does not wait */
    CU(cuMemAlloc_v2(&p, 4096));
    CU(cuIpcGetMemHandle(&memory, p));
    CU(cuEventCreate(&e, FLAGS));
    CU(cuIpcGetEventHandle(&handle, e));
    pid_t pid = child("taker", &link);
    say(link, &handle, sizeof(handle));
    say(link, &memory, sizeof(memory));
    hear(link, &heard, 1);
    gate_wait(&g, s);
    CU(cuMemsetD32Async(p, 4711, 1, s));
    CU(cuEventRecord(e, s));
    say(link, "g", 1);
    hear(link, &heard, 1); /* its stream waits, and soon its thread */
    gate_open(&g);
    hear(link, &heard, 1); /* it has recorded the event itself */
    CU_FAILS(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    CU(cuStreamWaitEvent(s, e, 0));
    CU(cuMemcpyDtoHAsync_v2(copy.word, p, 4, s));
    say(link, "g", 1);
    CU(cuStreamSynchronize(s));
    assert_int_equal(*copy.word, 815);
    CU(cuEventSynchronize(e));
    say(link, &handle, sizeof(handle));
    end_well(pid, link);
    CU(cuEventQuery(e)); /* the process that recorded it is gone */
    CU(cuEventDestroy_v2(e));
    CU(cuStreamDestroy_v2(s));
    CU(cuMemFree_v2(p));
    CU(cuMemFreeHost(g.word));
    CU(cuMemFreeHost(copy.word));
}

/* A wait is for what was recorded when it was asked for, in whatever stream comes next, and it outlives
 * the event here and there. CUDA leaves the latter undefined; here it is well. */
static void each_record_by_itself(void **state)
{
    (void)state;
    char heard;
    int link;
    CUevent e, late;
    CUipcEventHandle handle;
    CUstream s = stream_new(), t = stream_new();
    struct gate first = gate_new(), second = gate_new();
    CU(cuEventCreate(&e, FLAGS));
    CU(cuIpcGetEventHandle(&handle, e));
    gate_wait(&first, s);
    CU(cuEventRecord(e, s));
    pid_t pid = child("exact", &link);
    say(link, &handle, sizeof(handle));
    hear(link, &heard, 1);
    gate_wait(&second, t);
    CU(cuEventRecord(e, t));
    gate_open(&first);
    say(link, "g", 1);
    hear(link, &heard, 1);
    CU(cuEventDestroy_v2(e));
    CU(cuStreamDestroy_v2(t)); /* returns at once; its work is done first */
    gate_open(&second);
    say(link, "g", 1);
    end_well(pid, link);
    CU_FAILS(cuIpcOpenEventHandle(&late, handle), CUDA_ERROR_INVALID_CONTEXT);
    CU(cuStreamDestroy_v2(s));
    CU(cuMemFreeHost(first.word));
    CU(cuMemFreeHost(second.word));
}

/* What a process had not done when it died never will be: nobody waits for it. */
static void death_of_who_records(void **state)
{
    (void)state;
    int link, status;
    CUevent e, other;
    CUipcEventHandle handle;
    CUstream s = stream_new();
    pid_t pid = child("giver", &link);
    hear(link, &handle, sizeof(handle));
    CU(cuIpcOpenEventHandle(&e, handle));
    CU(cuStreamWaitEvent(s, e, 0));
    CU_FAILS(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    CU_FAILS(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(link);
    CU(cuStreamSynchronize(s));
    CU(cuEventSynchronize(e));
    CU(cuEventQuery(e));
    CU(cuEventRecord(e, s)); /* it is ours as well */
    CU(cuEventSynchronize(e));
    CU(cuEventDestroy_v2(e));
    CU_FAILS(cuIpcOpenEventHandle(&other, handle), CUDA_ERROR_INVALID_HANDLE);
    CU(cuStreamDestroy_v2(s));
}

static void death_of_who_waits(void **state)
{
    (void)state;
    char heard;
    int link, status;
    CUevent e;
    CUipcEventHandle handle;
    CUstream s = stream_new();
    struct gate g = gate_new();
    gate_wait(&g, s);
    CU(cuEventCreate(&e, FLAGS));
    CU(cuEventRecord(e, s));
    CU(cuIpcGetEventHandle(&handle, e));
    pid_t pid = child("dies", &link);
    say(link, &handle, sizeof(handle));
    hear(link, &heard, 1);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(link);
    CU_FAILS(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    gate_open(&g);
    CU(cuEventSynchronize(e));
    CU(cuEventDestroy_v2(e));
    CU(cuStreamDestroy_v2(s));
    CU(cuMemFreeHost(g.word));
}

/* There is an end of them, and what is destroyed is free again. */
static void many(void **state)
{
    (void)state;
    enum { MAX = 4096 };
    static CUevent e[MAX];
    for (int round = 0; round < 2; round++) {
        int n = 0;
        while (n < MAX && !cuEventCreate(&e[n], FLAGS))
            n++;
        assert_int_equal(n, 2048);
        while (n)
            CU(cuEventDestroy_v2(e[--n]));
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handles), cmocka_unit_test(within_a_process),
        cmocka_unit_test(both_ways), cmocka_unit_test(each_record_by_itself),
        cmocka_unit_test(death_of_who_records), cmocka_unit_test(death_of_who_waits),
        cmocka_unit_test(many),
    };
    sim_program = argv[0];
    if (argc > 2)
        return sim_role_run(argv[1], argv[2], roles, sizeof(roles) / sizeof(roles[0]), true);
    sim_environment(argc, argv, "v100-16gb:1");
    sim_context();
    int rc = cmocka_run_group_tests_name("simdriver_event", tests, NULL, NULL);
    sim_clean();
    return rc;
}
