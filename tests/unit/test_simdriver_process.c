/* Several processes on one simulated GPU: shared memory, death, fork, and how they share its time.
 * The children are this program again, with a role in argv[2]; figures come from events, so from the
 * model's own time. argv[2] of the test itself is the folder of the simulated driver. */
#include "simchild.h"

#include <fcntl.h>
#include <signal.h>

static char *driver_dir;

/* ---- children ---- */

static void send_fd(int to, int fd)
{
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec io = {&byte, 1};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                          .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    assert_int_equal(sendmsg(to, &m, 0), 1);
}

static int receive_fd(int from)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec io = {&byte, 1};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = sizeof(control)};
    int fd;
    assert_int_equal(recvmsg(from, &m, 0), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
    return fd;
}

#define BYTES (2 << 20)

static const CUmemAllocationProp shareable = {
    .type = CU_MEM_ALLOCATION_TYPE_PINNED,
    .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
    .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};

static CUdeviceptr map(CUmemGenericAllocationHandle h, CUmemAccess_flags flags)
{
    CUdeviceptr va;
    CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, flags};
    CU(cuMemAddressReserve(&va, BYTES, 0, 0, 0));
    CU(cuMemMap(va, BYTES, 0, h, 0));
    CU(cuMemSetAccess(va, BYTES, &access, 1));
    return va;
}

/* Maps what it gets for reading, tells a word of it, then writes and must be stopped. */
static void role_vmm(void)
{
    CUmemGenericAllocationHandle h;
    int word = 0, fd = receive_fd(LINK), value = 1;
    size_t before = sim_free_bytes();
    CU(cuMemImportFromShareableHandle(&h, (void *)(uintptr_t)fd, 1));
    close(fd);
    assert_true(sim_free_bytes() == before); /* somebody else pays for it */
    CUdeviceptr va = map(h, CU_MEM_ACCESS_FLAGS_PROT_READ);
    CU(cuMemcpyDtoH_v2(&word, va + 4096, 4));
    say(LINK, &word, 4);
    hear(LINK, &value, 1); /* the producer is gone by now */
    CU(cuMemcpyDtoH_v2(&word, va + 4096, 4));
    say(LINK, &word, 4);
    CUfunction poke = sim_function("poke");
    void *params[] = {&va, &value};
    CU(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    CU_FAILS(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
}

static void role_ipc(void)
{
    CUipcMemHandle handle;
    CUdeviceptr p, again;
    int word = 0;
    hear(LINK, &handle, sizeof(handle));
    CU(cuIpcOpenMemHandle_v2(&p, handle, 1));
    CU(cuIpcOpenMemHandle_v2(&again, handle, 1));
    assert_true(p == again);
    CU(cuMemcpyDtoH_v2(&word, p + 8192, 4));
    CU(cuMemsetD32_v2(p, 4711, 1));
    CU(cuCtxSynchronize());
    say(LINK, &word, 4);
    hear(LINK, &word, 1);
    CU(cuIpcCloseMemHandle(p));
    CU(cuMemsetD32_v2(p, 1, 1)); /* still open once */
    CU(cuCtxSynchronize());
    CU(cuIpcCloseMemHandle(p));
}

/* Holds 1 GiB and keeps the GPU busy until it is killed. */
static void role_victim(void)
{
    CUdeviceptr p;
    CUfunction spin = sim_function("spin");
    CU(cuMemAlloc_v2(&p, 1 << 30));
    for (int i = 0; i < 50; i++)
        sim_spin(spin, 200000000, 160, NULL);
    say(LINK, "r", 1);
    pause();
}

/* 300 kernels of 1 ms on 40 blocks (half the SMs of a V100 at 100 %); says how long they took. */
static void role_load(void)
{
    CUfunction spin = sim_function("spin");
    CUevent e[2];
    float ms;
    char go;
    int report[2];
    CU(cuEventCreate(&e[0], 0));
    CU(cuEventCreate(&e[1], 0));
    say(LINK, "r", 1);
    hear(LINK, &go, 1);
    CU(cuEventRecord(e[0], NULL));
    for (int i = 0; i < 300; i++)
        sim_spin(spin, 1000000, 40, NULL);
    CU(cuEventRecord(e[1], NULL));
    CU(cuEventSynchronize(e[1]));
    CU(cuEventElapsedTime(&ms, e[0], e[1]));
    report[0] = (int)(ms * 1000);
    CU(cuDeviceGetAttribute(&report[1], CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    say(LINK, report, sizeof(report));
}

/* Writes behind its memory when told to ("w"), or does nothing; tells the error that it has then. */
static void role_fault(void)
{
    CUdeviceptr behind;
    CUfunction poke = sim_function("poke");
    int value = 1;
    void *params[] = {&behind, &value};
    char what;
    CU(cuMemAlloc_v2(&behind, 1 << 20));
    behind += 1 << 20;
    say(LINK, "r", 1);
    hear(LINK, &what, 1);
    if (what == 'w')
        CU(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    CUresult rc = cuCtxSynchronize();
    say(LINK, &rc, sizeof(rc));
    hear(LINK, &what, 1);
}

/* Has no context yet; tries to have one whenever it is told to. */
static void role_late(void)
{
    CUcontext ctx;
    char go;
    for (CUresult rc = CUDA_ERROR_UNKNOWN; rc;) {
        hear(LINK, &go, 1);
        rc = cuInit(0);
        rc = rc ? rc : cuCtxCreate_v2(&ctx, 0, 0);
        say(LINK, &rc, sizeof(rc));
    }
}

static const struct sim_role roles[] = {
    {"fault", role_fault}, {"late", role_late},
    {"vmm", role_vmm}, {"ipc", role_ipc}, {"victim", role_victim}, {"load", role_load}};

/* ---- tests ---- */

/* The fd carries the memory: it outlives the producer's handle and mapping. */
static void share_by_descriptor(void **state)
{
    (void)state;
    CUmemGenericAllocationHandle h;
    int link, fd = -1, word = 0;
    size_t before = sim_free_bytes();
    CU(cuMemCreate(&h, BYTES, &shareable, 0));
    CUdeviceptr va = map(h, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    CU(cuMemsetD32_v2(va + 4096, 1234, 1));
    CU(cuCtxSynchronize());
    CU(cuMemExportToShareableHandle(&fd, h, 1, 0));
    pid_t pid = child("vmm", &link);
    send_fd(link, fd);
    close(fd);
    hear(link, &word, 4);
    assert_int_equal(word, 1234);
    CU(cuMemsetD32_v2(va + 4096, 5678, 1));
    CU(cuCtxSynchronize());
    CU(cuMemUnmap(va, BYTES));
    CU(cuMemRelease(h));
    assert_true(sim_free_bytes() < before); /* the child holds it, and has a context */
    say(link, "g", 1);
    hear(link, &word, 4);
    assert_int_equal(word, 5678);
    end_well(pid, link);
    assert_true(sim_free_bytes() == before);
}

static void share_by_ipc(void **state)
{
    (void)state;
    CUipcMemHandle handle;
    CUdeviceptr p;
    int link, word = 0;
    size_t before = sim_free_bytes();
    CU(cuMemAlloc_v2(&p, 1 << 20));
    CU(cuMemsetD32_v2(p + 8192, 99, 1));
    CU(cuCtxSynchronize());
    CU_FAILS(cuIpcGetMemHandle(&handle, p + 4), CUDA_ERROR_INVALID_VALUE);
    CU(cuIpcGetMemHandle(&handle, p));
    CU(cuMemcpyDtoH_v2(&word, p + 8192, 4));
    assert_int_equal(word, 99); /* the bytes are still here */
    pid_t pid = child("ipc", &link);
    say(link, &handle, sizeof(handle));
    hear(link, &word, 4);
    assert_int_equal(word, 99);
    CU(cuMemcpyDtoH_v2(&word, p, 4));
    assert_int_equal(word, 4711);
    say(link, "g", 1);
    end_well(pid, link);
    CU(cuMemFree_v2(p));
    assert_true(sim_free_bytes() == before);
}

static void death_frees(void **state)
{
    (void)state;
    int link, status;
    char ready;
    CUfunction add = sim_function("add");
    CUdeviceptr p;
    size_t before = sim_free_bytes();
    CU(cuMemAlloc_v2(&p, 4096));
    for (int i = 0; i < 3; i++) {
        pid_t pid = child("victim", &link);
        hear(link, &ready, 1);
        assert_true(before - sim_free_bytes() >= (1u << 30) + (300u << 20));
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        close(link);
        /* Ten seconds of its work are gone with it, and so is its memory. */
        sim_add(add, p, 1, 1, NULL);
        CU(cuCtxSynchronize());
        assert_true(before - sim_free_bytes() == 4096);
    }
    CU(cuMemFree_v2(p));
}

static void fork_has_no_context(void **state)
{
    (void)state;
    int status = -1;
    pid_t pid = fork();
    if (pid == 0) {
        size_t bytes;
        int n;
        _exit(cuInit(0) != CUDA_ERROR_NOT_INITIALIZED ||
              cuMemGetInfo_v2(&bytes, &bytes) != CUDA_ERROR_NOT_INITIALIZED ||
              cuDeviceGetCount(&n) != CUDA_ERROR_NOT_INITIALIZED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    CU(cuCtxSynchronize()); /* and the parent is well */
}

struct load {
    int us, sms;
};

/* Two loads at once, each with |pct| under MPS (0: without MPS). */
static void two_loads(const char *pct, struct load ret[2])
{
    int link[2];
    pid_t pid[2];
    char ready;
    if (pct)
        setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", pct, 1);
    for (int i = 0; i < 2; i++)
        pid[i] = child("load", &link[i]);
    for (int i = 0; i < 2; i++)
        hear(link[i], &ready, 1);
    for (int i = 0; i < 2; i++)
        say(link[i], "g", 1);
    for (int i = 0; i < 2; i++)
        hear(link[i], &ret[i], sizeof(ret[i]));
    for (int i = 0; i < 2; i++)
        end_well(pid[i], link[i]);
    unsetenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
}

static int mps(const char *command)
{
    char line[512];
    const char *at = strstr(command, "%s");
    snprintf(line, sizeof(line), "%.*s%s%s", (int)(at - command), command, driver_dir, at + 2);
    int rc = system(line);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

/* 300 kernels of 1 ms on half the SMs: without MPS two processes take turns, with MPS they run side
 * by side. The bounds leave room for one starting later than the other. */
static void time_slicing_and_mps(void **state)
{
    (void)state;
    struct load l[2];
    two_loads(NULL, l);
    int longest = l[0].us > l[1].us ? l[0].us : l[1].us;
    assert_int_equal(l[0].sms, 80);
    assert_true(longest > 450000);
    setenv("CUDA_MPS_LOG_DIRECTORY", sim_dir, 1);
    assert_int_equal(mps("'%s/nvidia-cuda-mps-control' -d"), 0);
    assert_int_equal(mps("'%s/nvidia-cuda-mps-control' -d 2>/dev/null"), 1);
    two_loads("50", l);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(l[i].sms, 40);
        assert_true(l[i].us >= 299000 && l[i].us < 400000);
    }
    /* A quarter of the SMs holds 40 blocks of 1024 threads in one wave as well: 20 x 2. An eighth
     * needs two. */
    two_loads("12", l);
    assert_true(l[0].sms >= 8 && l[0].sms < 12);
    assert_true(l[0].us > 590000);
    assert_int_equal(mps("echo quit | '%s/nvidia-cuda-mps-control'"), 0);
    assert_int_equal(mps("echo ps | '%s/nvidia-cuda-mps-control' > /dev/null"), 1);
}

/* Documented for MPS: a fatal fault of one client is reported to all of them, and the server takes no
 * other one before the last of them has ended. */
static void fault_reaches_all(void **state)
{
    (void)state;
    CUresult rc;
    int link[3];
    pid_t pid[3];
    char ready;
    setenv("CUDA_MPS_LOG_DIRECTORY", sim_dir, 1);
    assert_int_equal(mps("'%s/nvidia-cuda-mps-control' -d"), 0);
    for (int i = 0; i < 2; i++) {
        pid[i] = child("fault", &link[i]);
        hear(link[i], &ready, 1);
    }
    say(link[0], "w", 1);
    hear(link[0], &rc, sizeof(rc));
    assert_int_equal(rc, CUDA_ERROR_ILLEGAL_ADDRESS);
    say(link[1], "g", 1);
    hear(link[1], &rc, sizeof(rc));
    assert_int_equal(rc, CUDA_ERROR_ILLEGAL_ADDRESS);
    CU(cuCtxSynchronize()); /* this process was there before MPS, and is no client */
    pid[2] = child("late", &link[2]);
    say(link[2], "g", 1);
    hear(link[2], &rc, sizeof(rc));
    assert_int_equal(rc, CUDA_ERROR_MPS_SERVER_NOT_READY);
    for (int i = 0; i < 2; i++) {
        say(link[i], "g", 1);
        end_well(pid[i], link[i]);
    }
    say(link[2], "g", 1);
    hear(link[2], &rc, sizeof(rc));
    assert_int_equal(rc, CUDA_SUCCESS);
    end_well(pid[2], link[2]);
    assert_int_equal(mps("echo quit | '%s/nvidia-cuda-mps-control'"), 0);
}

/* The answers that the real daemon was seen to give, which ignores what it cannot use. */
static void control_answers(void **state)
{
    (void)state;
    static const char commands[] =
        "get_default_active_thread_percentage\\nset_default_active_thread_percentage 33.3\\n"
        "set_default_active_thread_percentage 0\\nset_default_active_thread_percentage 150\\n"
        "set_default_active_thread_percentage abc\\nps\\nget_server_list\\nget_client_list 1\\n"
        "no_such_thing 1\\nset_default_device_pinned_mem_limit 0 1.5G\\n"
        "get_default_device_pinned_mem_limit 0\\nget_default_device_pinned_mem_limit 1\\n"
        "set_default_client_priority 5\\nterminate_client 1 2\\n";
    static const char answers[] =
        "100.0\n33.3\n33.3\n33.3\n33.3\nServer not found\nServer 1 not found\n"
        "Unknown command \"no_such_thing\"\n1M\nInvalid priority value - must be 0 or 1!\n"
        "Server 1 not found\nClient 2 not found\n1\n";
    char line[1024], out[1024] = "", path[128];
    setenv("CUDA_MPS_LOG_DIRECTORY", sim_dir, 1);
    assert_int_equal(mps("'%s/nvidia-cuda-mps-control' -d"), 0);
    snprintf(path, sizeof(path), "%s/nvidia-cuda-mps-control.pid", sim_dir);
    assert_int_equal(access(path, R_OK), 0);
    snprintf(line, sizeof(line), "printf '%s' | '%s/nvidia-cuda-mps-control'", commands, driver_dir);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, sizeof(out) - 1, f);
    out[n] = '\0';
    assert_int_equal(pclose(f), 0);
    assert_string_equal(out, answers);
    /* A new client gets what the daemon gives, and cannot have more. */
    struct load l[2];
    two_loads("90", l);
    assert_in_range(l[0].sms, 24, 27);
    assert_int_equal(mps("echo quit | '%s/nvidia-cuda-mps-control'"), 0);
    for (int i = 0; i < 1000 && !access(path, F_OK); i++)
        usleep(1000);
    assert_int_equal(access(path, F_OK), -1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(share_by_descriptor), cmocka_unit_test(share_by_ipc),
        cmocka_unit_test(death_frees), cmocka_unit_test(fork_has_no_context),
        cmocka_unit_test(time_slicing_and_mps), cmocka_unit_test(fault_reaches_all),
        cmocka_unit_test(control_answers),
    };
    if (argc < 3)
        return 2;
    sim_program = argv[0];
    if (argv[2][0] != '/')
        return sim_role_run(argv[1], argv[2], roles, sizeof(roles) / sizeof(roles[0]),
                            strcmp(argv[2], "late"));
    driver_dir = argv[2];
    sim_environment(argc, argv, "v100-16gb:1");
    sim_context();
    int rc = cmocka_run_group_tests_name("simdriver_process", tests, NULL, NULL);
    sim_clean();
    return rc;
}
