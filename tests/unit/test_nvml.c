/* What the node makes of an NVML that lacks things, fails at times and tells nonsense. argv[1] is the fake,
 * argv[2] the same from before GPM. */
#include "node/nvml.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fake_nvml.h"
#include "wire/msg.h"

#include "test.h"

#define ALL (FAST_KNOWN_UTIL | FAST_KNOWN_SM | FAST_KNOWN_OCCUPANCY | FAST_KNOWN_DRAM)
#define STEP FAST_MS(100)

static const char *path_new, *path_old;
static struct fake_nvml *fake;
static fast_ns now;

static void reset(const char *path)
{
    void *lib = dlopen(path, RTLD_NOW);
    assert_non_null(lib);
    fake = dlsym(lib, "fake_nvml");
    assert_non_null(fake);
    *fake = (struct fake_nvml){.util = 40, .used = 5 << 20};
    fake->share[1] = 50;
    fake->share[2] = 30;
    fake->share[3] = 12.34;
    fake->share[10] = 99.96;
    now = FAST_S(1);
}

static struct node_nvml *open_one(void)
{
    struct node_nvml *n = node_nvml_new(path_new);
    assert_non_null(n);
    node_nvml_add(n, 3, "GPU-0");
    return n;
}

static struct node_gpu_shares next(struct node_nvml *n)
{
    return node_nvml_shares(n, 3, now += STEP);
}

static void end(struct node_nvml *n)
{
    node_nvml_free(n);
    assert_int_equal(fake->live, 0);
}

static void tells_all(void **state)
{
    (void)state;
    uint64_t used, available;
    reset(path_new);
    struct node_nvml *n = open_one();
    assert_string_equal(node_nvml_driver(n), "1.0 (fake)");
    struct node_gpu_shares s = next(n);
    assert_int_equal(s.known, ALL);
    assert_int_equal(s.util_milli, 500);
    assert_int_equal(s.sm_milli, 300);
    assert_int_equal(s.occupancy_milli, 123);
    assert_int_equal(s.dram_milli, 1000);
    assert_int_equal(fake->calls[FAKE_UTIL], 0);
    /* Asked again at once, it says the same. */
    fake->share[1] = 10;
    assert_int_equal(node_nvml_shares(n, 3, now + FAST_MS(80)).util_milli, 500);
    assert_int_equal(next(n).util_milli, 100);
    assert_true(node_nvml_memory(n, 3, &used, &available));
    assert_int_equal(used, 5 << 20);
    assert_int_equal(used + available, 16ull << 30);
    fake->fails[FAKE_MEMORY] = ~0u;
    assert_false(node_nvml_memory(n, 3, &used, &available));
    end(n);
}

static void without_gpm(void **state)
{
    (void)state;
    for (int old = 0; old < 2; old++) {
        reset(old ? path_old : path_new);
        fake->no_gpm = 1;
        struct node_nvml *n = node_nvml_new(old ? path_old : path_new);
        assert_non_null(n);
        node_nvml_add(n, 3, "GPU-0");
        struct node_gpu_shares s = next(n);
        assert_int_equal(s.known, FAST_KNOWN_UTIL);
        assert_int_equal(s.util_milli, 400);
        fake->fails[FAKE_UTIL] = ~0u;
        assert_int_equal(next(n).known, 0);
        fake->fails[FAKE_UTIL] = 0;
        fake->util = 0xffffffff;
        assert_int_equal(next(n).known, 0);
        fake->util = 0;
        s = next(n);
        assert_int_equal(s.known, FAST_KNOWN_UTIL);
        assert_int_equal(s.util_milli, 0);
        end(n);
    }
}

/* A sample that cannot be taken costs its period and nothing else, the first one too. */
static void samples_fail(void **state)
{
    (void)state;
    reset(path_new);
    fake->fails[FAKE_SAMPLE] = 1u << 0 | 1u << 3 | 1u << 4;
    struct node_nvml *n = open_one();
    struct node_gpu_shares s = next(n);
    assert_int_equal(s.known, FAST_KNOWN_UTIL); /* there is only one sample yet */
    assert_int_equal(s.util_milli, 400);
    assert_int_equal(next(n).known, ALL);
    s = next(n);
    assert_int_equal(s.known, FAST_KNOWN_UTIL);
    assert_int_equal(s.util_milli, 400);
    assert_int_equal(s.sm_milli, 0);
    fake->fails[FAKE_UTIL] = ~0u;
    assert_int_equal(next(n).known, 0);
    void *before = fake->before;
    s = next(n);
    assert_int_equal(s.known, ALL);
    assert_ptr_not_equal(fake->before, before); /* since the last good one */
    fake->fails[FAKE_GET] = 1u << 2;
    assert_int_equal(next(n).known, 0);
    assert_int_equal(next(n).known, ALL);
    end(n);
}

static void no_room_for_samples(void **state)
{
    (void)state;
    for (unsigned which = 0; which < 2; which++) {
        reset(path_new);
        fake->fails[FAKE_ALLOC] = 1u << which;
        struct node_nvml *n = open_one();
        assert_int_equal(fake->live, 0);
        assert_int_equal(next(n).known, FAST_KNOWN_UTIL);
        assert_int_equal(next(n).known, FAST_KNOWN_UTIL);
        end(n);
    }
}

static void nonsense(void **state)
{
    (void)state;
    static const double odd[] = {NAN, INFINITY, -INFINITY, -1, 102, 1e300};
    reset(path_new);
    struct node_nvml *n = open_one();
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        fake->share[2] = odd[i];
        assert_int_equal(next(n).known, ALL & ~FAST_KNOWN_SM);
    }
    fake->share[2] = 100.4;
    assert_int_equal(next(n).sm_milli, 1000);
    fake->result[3] = 3;
    assert_int_equal(next(n).known, ALL & ~FAST_KNOWN_OCCUPANCY);
    fake->result[1] = 3; /* then the plain way */
    struct node_gpu_shares s = next(n);
    assert_int_equal(s.known, ALL & ~FAST_KNOWN_OCCUPANCY);
    assert_int_equal(s.util_milli, 400);
    end(n);
}

static void not_there(void **state)
{
    (void)state;
    uint64_t used, available;
    assert_null(node_nvml_new("/no/such/library.so"));
    node_nvml_free(NULL);
    reset(path_new);
    fake->fails[FAKE_INIT] = ~0u;
    assert_null(node_nvml_new(path_new));
    reset(path_new);
    fake->fails[FAKE_UUID] = ~0u;
    struct node_nvml *n = open_one();
    assert_int_equal(next(n).known, 0);
    assert_false(node_nvml_memory(n, 3, &used, &available));
    assert_int_equal(next(n).known, 0);
    end(n);
}

/* A client of MPS may be in both lists, and of some the driver does not say what they have. */
static void processes_are_told_once(void **state)
{
    (void)state;
    struct node_nvml_process p[4];
    reset(path_new);
    fake->process[0][0] = (struct fake_process){.pid = 7, .bytes = 700};
    fake->process[0][1] = (struct fake_process){.pid = 8, .bytes = ~0ull};
    fake->process[1][0] = (struct fake_process){.pid = 7, .bytes = 900};
    fake->process[1][1] = (struct fake_process){.pid = 9, .bytes = 10};
    struct node_nvml *n = open_one();
    assert_int_equal(node_nvml_processes(n, 3, p, 4), 2);
    assert_int_equal(p[0].pid, 7);
    assert_int_equal(p[0].bytes, 900);
    assert_int_equal(p[1].pid, 9);
    assert_int_equal(node_nvml_processes(n, 3, p, 1), 1);
    fake->fails[FAKE_PROCESSES] = ~0u;
    assert_int_equal(node_nvml_processes(n, 3, p, 4), -1);
    assert_int_equal(node_nvml_processes(n, 2, p, 4), -1);
    end(n);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_all),           cmocka_unit_test(without_gpm),
        cmocka_unit_test(samples_fail),        cmocka_unit_test(no_room_for_samples),
        cmocka_unit_test(nonsense),            cmocka_unit_test(not_there),
        cmocka_unit_test(processes_are_told_once),
    };
    if (argc < 3)
        return 2;
    path_new = argv[1];
    path_old = argv[2];
    return cmocka_run_group_tests_name("nvml", tests, NULL, NULL);
}
