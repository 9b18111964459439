/* The exported names of the simulated driver, and cuGetProcAddress, against the table of entry points
 * (argv[2]) and, if it is there, against the answers of a real driver (argv[3]). */
#include "simcuda.h"

#include <dlfcn.h>

static const char *table_path, *facts_path;
static void *self;

struct row {
    char symbol[64], base[64], variant[8];
    int since;
};

static struct row rows[1024];
static int row_count;

static void read_table(void)
{
    char line[1024];
    FILE *f = fopen(table_path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        struct row r;
        if (line[0] == '#' || sscanf(line, "%63s %63s %d %7s", r.symbol, r.base, &r.since,
                                     r.variant) != 4)
            continue;
        assert_true(row_count < 1024);
        rows[row_count++] = r;
    }
    fclose(f);
    assert_true(row_count >= 674);
}

/* What cuGetProcAddress_v2 says; the status is checked against the pointer. */
static void *look_up(const char *base, int version, cuuint64_t flags, int *ret_status)
{
    void *fn = &fn;
    CUdriverProcAddressQueryResult status = 99;
    CU(cuGetProcAddress_v2(base, &fn, version, flags, &status));
    assert_int_equal(status == CU_GET_PROC_ADDRESS_SUCCESS, fn != NULL);
    *ret_status = (int)status;
    return fn;
}

static void all_exported(void **state)
{
    (void)state;
    for (int i = 0; i < row_count; i++)
        if (!dlsym(self, rows[i].symbol))
            fail_msg("%s is not exported", rows[i].symbol);
}

static bool has_variant(const char *base)
{
    for (int i = 0; i < row_count; i++)
        if (!strcmp(rows[i].base, base) && rows[i].variant[0] == 'p')
            return true;
    return false;
}

static void every_step(void **state)
{
    (void)state;
    int status;
    for (int i = 0; i < row_count; i++) {
        const struct row *r = &rows[i];
        bool variant = r->variant[0] == 'p';
        if (!r->since)
            continue;
        void *want = dlsym(self, r->symbol);
        /* Flags 0 and 1 are the same, 3 is like 2. */
        for (cuuint64_t flags = 0; flags < 4; flags++) {
            bool per_thread = flags & 2;
            if (variant != (per_thread && has_variant(r->base)))
                continue;
            if (look_up(r->base, r->since, flags, &status) != want)
                fail_msg("%s at %d flags %d is not %s", r->base, r->since, (int)flags, r->symbol);
            assert_true(look_up(r->base, r->since - 1, flags, &status) != want);
        }
    }
}

static void known_answers(void **state)
{
    (void)state;
    int status;
    void *fn;
    assert_ptr_equal(look_up("cuMemAlloc", 13000, 0, &status), dlsym(self, "cuMemAlloc_v2"));
    assert_ptr_equal(look_up("cuMemcpyHtoD", 13000, 2, &status),
                     dlsym(self, "cuMemcpyHtoD_v2_ptds"));
    assert_ptr_equal(look_up("cuCtxCreate", 99999, 0, &status), dlsym(self, "cuCtxCreate_v4"));
    assert_null(look_up("cuMemcpyHtoD", 6999, 2, &status));
    assert_int_equal(status, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    assert_null(look_up("cuMemAlloc_v2", 13000, 0, &status));
    assert_int_equal(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    assert_null(look_up("", 0, 0, &status));
    assert_int_equal(status, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    CU(cuGetProcAddress_v2("cuInit", &fn, 2000, 0, NULL));
    CU_FAILS(cuGetProcAddress_v2("cuInit", &fn, 2000, 4, NULL), CUDA_ERROR_INVALID_VALUE);
    CU(cuGetProcAddress("cuInit", &fn, 2000, 0));
    CU_FAILS(cuGetProcAddress("cuNothing", &fn, 13000, 0), CUDA_ERROR_NOT_FOUND);
    assert_null(fn);
}

/* Columns: base name, flags, lowest version, symbol, source. */
static void as_the_real_driver(void **state)
{
    (void)state;
    char line[512], base[64], symbol[64];
    int flags, version, status, n = 0;
    FILE *f = facts_path ? fopen(facts_path, "r") : NULL;
    if (!f)
        skip();
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%63[^,],%d,%d,%63[^,]", base, &flags, &version, symbol) != 4)
            continue;
        if (look_up(base, version, (cuuint64_t)flags, &status) != dlsym(self, symbol))
            fail_msg("%s at %d flags %d is not %s", base, version, flags, symbol);
        n++;
    }
    fclose(f);
    assert_true(n > 1000);
}

/* All of the above came before cuInit. */
static void before_init(void **state)
{
    (void)state;
    int n;
    CUdevice d;
    size_t bytes;
    CU_FAILS(cuDeviceGetCount(&n), CUDA_ERROR_NOT_INITIALIZED);
    CU_FAILS(cuMemGetInfo_v2(&bytes, &bytes), CUDA_ERROR_NOT_INITIALIZED);
    CU_FAILS(cuInit(1), CUDA_ERROR_INVALID_VALUE);
    CU(cuInit(0));
    CU(cuInit(0));
    CU(cuDeviceGetCount(&n));
    assert_int_equal(n, 2);
    CU_FAILS(cuDeviceGet(&d, 2), CUDA_ERROR_INVALID_DEVICE);
    CU_FAILS(cuMemGetInfo_v2(&bytes, &bytes), CUDA_ERROR_INVALID_CONTEXT);
    char name[64];
    int sms, mps;
    CU(cuDeviceGetName(name, sizeof(name), 1));
    assert_non_null(strstr(name, "(simulated)"));
    CU(cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    CU(cuDeviceGetAttribute(&mps, CU_DEVICE_ATTRIBUTE_MPS_ENABLED, 0));
    assert_int_equal(sms, 132);
    assert_int_equal(mps, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_exported),       cmocka_unit_test(every_step),
        cmocka_unit_test(known_answers),      cmocka_unit_test(as_the_real_driver),
        cmocka_unit_test(before_init),
    };
    sim_environment(argc, argv, "h100-80gb:2");
    table_path = argc > 2 ? argv[2] : "";
    facts_path = argc > 3 ? argv[3] : NULL;
    self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    read_table();
    int rc = cmocka_run_group_tests_name("simdriver_lookup", tests, NULL, NULL);
    sim_clean();
    return rc;
}
