#include "inside.h"

/* What is charged for device memory, to which GPU, and until when; and what reports say of it. */

static uint64_t used(uint32_t gpu)
{
    uint64_t bytes = fast_hook.gpus[gpu].mem_used;
    assert_true(bytes % FAST_MIB(1) == 0);
    return bytes / FAST_MIB(1);
}

/* ---- arrays ---- */

static CUresult make_array(CUarray *ret, const CUDA_ARRAY_DESCRIPTOR *desc)
{
    (void)desc;
    *ret = (CUarray)(uintptr_t)(drv.next += 4096);
    return CUDA_SUCCESS;
}

static CUresult make_3d(CUarray *ret, const CUDA_ARRAY3D_DESCRIPTOR *desc)
{
    (void)desc;
    return make_array(ret, NULL);
}

static CUresult make_mipmapped(CUmipmappedArray *ret, const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned levels)
{
    CUarray array;
    (void)desc, (void)levels;
    make_array(&array, NULL);
    *ret = (CUmipmappedArray)array;
    return CUDA_SUCCESS;
}

static CUresult destroy_array(CUarray array)
{
    (void)array;
    return CUDA_SUCCESS;
}

static CUresult destroy_mipmapped(CUmipmappedArray array)
{
    (void)array;
    return CUDA_SUCCESS;
}

static void array_sizes(void **state)
{
    (void)state;
    static const struct {
        CUarray_format format;
        unsigned channels;
        size_t width, height, depth;
        unsigned levels; /* 0: made as an array of two dimensions */
        uint64_t mib;
    } rows[] = {
        {CU_AD_FORMAT_FLOAT, 4, 1024, 1024, 0, 0, 16},        {CU_AD_FORMAT_HALF, 2, 1024, 1024, 0, 0, 4},
        {CU_AD_FORMAT_UNSIGNED_INT16, 1, 2048, 1024, 0, 0, 4}, {CU_AD_FORMAT_SIGNED_INT16, 1, 2048, 1024, 0, 0, 4},
        {CU_AD_FORMAT_UNSIGNED_INT8, 0, 4096, 1024, 0, 0, 4}, {CU_AD_FORMAT_SIGNED_INT8, 1, 4096, 1024, 0, 0, 4},
        {CU_AD_FORMAT_UNSIGNED_INT8, 1, 4 << 20, 0, 0, 0, 4}, {CU_AD_FORMAT_FLOAT, 1, 256, 256, 64, 1, 16},
        {CU_AD_FORMAT_FLOAT, 1, 1024, 1024, 0, 4, 6},         {CU_AD_FORMAT_FLOAT, 1, 128, 128, 128, 3, 10},
    };
    REAL(cuArrayCreate_v2, make_array);
    REAL(cuArray3DCreate_v2, make_3d);
    REAL(cuMipmappedArrayCreate, make_mipmapped);
    REAL(cuArrayDestroy, destroy_array);
    REAL(cuMipmappedArrayDestroy, destroy_mipmapped);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        CUDA_ARRAY_DESCRIPTOR flat = {.Width = rows[i].width, .Height = rows[i].height, .Format = rows[i].format,
                                      .NumChannels = rows[i].channels};
        CUDA_ARRAY3D_DESCRIPTOR deep = {.Width = rows[i].width, .Height = rows[i].height, .Depth = rows[i].depth,
                                        .Format = rows[i].format, .NumChannels = rows[i].channels};
        CUarray array;
        CUmipmappedArray mipmapped;
        if (rows[i].levels > 1)
            assert_int_equal(cuMipmappedArrayCreate(&mipmapped, &deep, rows[i].levels), CUDA_SUCCESS);
        else if (rows[i].levels)
            assert_int_equal(cuArray3DCreate_v2(&array, &deep), CUDA_SUCCESS);
        else
            assert_int_equal(cuArrayCreate_v2(&array, &flat), CUDA_SUCCESS);
        if (used(0) != rows[i].mib)
            fail_msg("row %zu: %lu MiB instead of %lu", i, used(0), rows[i].mib);
        if (rows[i].levels > 1)
            assert_int_equal(cuMipmappedArrayDestroy(mipmapped), CUDA_SUCCESS);
        else
            assert_int_equal(cuArrayDestroy(array), CUDA_SUCCESS);
        assert_int_equal(used(0), 0);
    }
}

/* ---- virtual memory management ---- */

static CUresult create(CUmemGenericAllocationHandle *ret, size_t bytes, const CUmemAllocationProp *prop,
                       unsigned long long flags)
{
    (void)bytes, (void)prop, (void)flags;
    *ret = drv.next += 4096;
    return drv.result;
}

static CUresult map(CUdeviceptr at, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                    unsigned long long flags)
{
    (void)at, (void)bytes, (void)offset, (void)handle, (void)flags;
    return CUDA_SUCCESS;
}

static CUresult unmap(CUdeviceptr at, size_t bytes)
{
    (void)at, (void)bytes;
    return CUDA_SUCCESS;
}

static CUresult release(CUmemGenericAllocationHandle handle)
{
    (void)handle;
    return CUDA_SUCCESS;
}

static CUmemGenericAllocationHandle retained;

static CUresult retain(CUmemGenericAllocationHandle *ret, void *address)
{
    (void)address;
    *ret = retained;
    return CUDA_SUCCESS;
}

/* A handle is charged to the device of its location, and until it and all its mappings are gone. */
static void handles(void **state)
{
    (void)state;
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 1}};
    CUmemGenericAllocationHandle handle[2], again;
    const CUdeviceptr at = 0x40000000, bytes = FAST_MIB(2);
    session.gpus = 2;
    limits.gpu[1].mem_cap_bytes = FAST_MIB(4);
    REAL(cuMemCreate, create);
    REAL(cuMemMap, map);
    REAL(cuMemUnmap, unmap);
    REAL(cuMemRelease, release);
    REAL(cuMemRetainAllocationHandle, retain);
    drv.result = CUDA_ERROR_OUT_OF_MEMORY;
    assert_int_equal(cuMemCreate(&handle[0], bytes, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
    assert_int_equal(used(1), 0);
    drv.result = CUDA_SUCCESS;
    for (int i = 0; i < 2; i++)
        assert_int_equal(cuMemCreate(&handle[i], bytes, &prop, 0), CUDA_SUCCESS);
    assert_int_equal(used(0), 0);
    assert_int_equal(used(1), 4);
    assert_int_equal(cuMemCreate(&again, bytes, &prop, 0), CUDA_ERROR_OUT_OF_MEMORY);
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE + 1; /* the host's */
    assert_int_equal(cuMemCreate(&again, bytes, &prop, 0), CUDA_SUCCESS);
    assert_int_equal(used(1), 4);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(cuMemMap(at + i * bytes, bytes, 0, handle[i], 0), CUDA_SUCCESS);
        assert_int_equal(cuMemRelease(handle[i]), CUDA_SUCCESS);
    }
    retained = handle[1];
    assert_int_equal(cuMemRetainAllocationHandle(&again, NULL), CUDA_SUCCESS);
    assert_int_equal(used(1), 4);
    assert_int_equal(cuMemUnmap(at, 2 * bytes), CUDA_SUCCESS); /* both */
    assert_int_equal(used(1), 2);
    for (int i = 0; i < 2; i++) { /* it is not known any more the second time */
        assert_int_equal(cuMemRelease(again), CUDA_SUCCESS);
        assert_int_equal(used(1), 0);
    }
}

/* ---- reports ---- */

static CUresult info_v1(unsigned *free_bytes, unsigned *total)
{
    *free_bytes = *total = UINT32_MAX;
    return CUDA_SUCCESS;
}

static CUresult total_v1(unsigned *bytes, CUdevice device)
{
    (void)device;
    *bytes = UINT32_MAX;
    return CUDA_SUCCESS;
}

/* The functions of CUDA 2 tell the cap too; and a replica that uses more than its cap has nothing free. */
static void reports(void **state)
{
    (void)state;
    unsigned free_bytes, total;
    uint64_t all = FAST_GIB(16), rest = FAST_GIB(8);
    REAL(cuMemGetInfo, info_v1);
    REAL(cuDeviceTotalMem, total_v1);
    limits.gpu[0].mem_cap_bytes = FAST_MIB(100);
    limits.gpu[0].mem_used_bytes = FAST_MIB(30);
    assert_int_equal(cuMemGetInfo(&free_bytes, &total), CUDA_SUCCESS);
    assert_int_equal(free_bytes, FAST_MIB(70));
    assert_int_equal(total, FAST_MIB(100));
    assert_int_equal(cuDeviceTotalMem(&total, 0), CUDA_SUCCESS);
    assert_int_equal(total, FAST_MIB(100));
    limits.gpu[0].mem_used_bytes = FAST_MIB(130);
    assert_true(fast_memory_clamp(0, &all, &rest));
    assert_true(all == FAST_MIB(100) && rest == 0);
    assert_false(fast_memory_clamp(1, &all, &rest)); /* not the replica's */
    limits.gpu[0].mem_cap_bytes = 0;
    assert_false(fast_memory_clamp(0, &all, &rest));
}

#define T(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(array_sizes), T(handles), T(reports),
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
