/* Memory of the simulated driver: real bytes, what the device has left, and what is refused. */
#include "simcuda.h"

static CUfunction add, poke;

static void copies(void **state)
{
    (void)state;
    enum { N = 100000 };
    CUdeviceptr a, b;
    unsigned char *in = malloc(N), *out = calloc(1, N);
    for (int i = 0; i < N; i++)
        in[i] = (unsigned char)(i * 31 + i / 256);
    CU(cuMemAlloc_v2(&a, N));
    CU(cuMemAlloc_v2(&b, N));
    CU(cuMemcpyHtoD_v2(a, in, N));
    CU(cuMemcpyDtoD_v2(b + 10, a, N - 10));
    CU(cuMemcpyDtoH_v2(out, b + 10, N - 10));
    assert_memory_equal(in, out, N - 10);
    /* By addresses alone. */
    memset(out, 0, N);
    CU(cuMemcpy((CUdeviceptr)(uintptr_t)out, a, N));
    assert_memory_equal(in, out, N);
    /* The bytes of an asynchronous copy are taken from pageable memory before the call returns. */
    unsigned char small[8] = "before";
    CU(cuMemcpyHtoDAsync_v2(a, small, sizeof(small), NULL));
    memcpy(small, "after", 6);
    CU(cuMemcpyDtoH_v2(out, a, sizeof(small)));
    assert_string_equal((char *)out, "before");
    CU(cuMemFree_v2(a));
    CU(cuMemFree_v2(b));
    free(in);
    free(out);
}

static void rectangles(void **state)
{
    (void)state;
    CUdeviceptr p;
    size_t pitch;
    char in[4][16], out[4][16];
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 16; x++)
            in[y][x] = (char)(16 * y + x);
    memset(out, 0x55, sizeof(out));
    CU(cuMemAllocPitch_v2(&p, &pitch, 16, 4, 4));
    assert_true(pitch >= 16 && pitch % 512 == 0);
    CUDA_MEMCPY2D up = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = in, .srcPitch = 16,
                        .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = p, .dstPitch = pitch,
                        .WidthInBytes = 16, .Height = 4};
    CU(cuMemcpy2D_v2(&up));
    /* Columns 3..7 of rows 1..2, into a corner. */
    CUDA_MEMCPY2D down = {.srcMemoryType = CU_MEMORYTYPE_DEVICE, .srcDevice = p,
                          .srcPitch = pitch, .srcXInBytes = 3, .srcY = 1,
                          .dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = out, .dstPitch = 16,
                          .WidthInBytes = 5, .Height = 2};
    CU(cuMemcpy2D_v2(&down));
    assert_memory_equal(out[0], &in[1][3], 5);
    assert_memory_equal(out[1], &in[2][3], 5);
    assert_int_equal(out[0][5], 0x55);
    CU_FAILS(cuMemcpy2D_v2(NULL), CUDA_ERROR_INVALID_VALUE);
    down.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    CU_FAILS(cuMemcpy2D_v2(&down), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFree_v2(p));
}

static void fills(void **state)
{
    (void)state;
    CUdeviceptr p;
    unsigned char b[16];
    CU(cuMemAlloc_v2(&p, 4096));
    CU(cuMemsetD8_v2(p, 0xab, 16));
    CU(cuMemsetD16_v2(p + 2, 0x1234, 2));
    CU(cuMemsetD32Async(p + 8, 0xdeadbeef, 1, NULL));
    CU(cuMemcpyDtoH_v2(b, p, 16));
    const unsigned char want[16] = {0xab, 0xab, 0x34, 0x12, 0x34, 0x12, 0xab, 0xab,
                                    0xef, 0xbe, 0xad, 0xde, 0xab, 0xab, 0xab, 0xab};
    assert_memory_equal(b, want, 16);
    CU(cuMemsetD2D8_v2(p, 8, 0, 3, 2));
    CU(cuMemcpyDtoH_v2(b, p, 16));
    assert_int_equal(b[2], 0);
    assert_int_equal(b[3], 0x12);
    assert_int_equal(b[10], 0);
    assert_int_equal(b[11], 0xde);
    CU_FAILS(cuMemsetD32_v2(p + 1, 0, 1), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFree_v2(p));
}

static void capacity(void **state)
{
    (void)state;
    CUdeviceptr p, q;
    size_t before = sim_free_bytes();
    CU(cuMemAlloc_v2(&p, 1 << 30));
    assert_true(before - sim_free_bytes() == 1 << 30);
    CU_FAILS(cuMemAlloc_v2(&q, sim_free_bytes() + 1), CUDA_ERROR_OUT_OF_MEMORY);
    CU(cuMemAlloc_v2(&q, sim_free_bytes()));
    assert_int_equal(sim_free_bytes(), 0);
    CU(cuMemFree_v2(q));
    CU(cuMemFree_v2(p));
    assert_true(sim_free_bytes() == before);
    CU_FAILS(cuMemAlloc_v2(&p, 0), CUDA_ERROR_INVALID_VALUE);
    CU_FAILS(cuMemFree_v2(p), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFree_v2(0));
}

static void pinned_and_managed(void **state)
{
    (void)state;
    int *h, *m, local[8] = {0};
    CUdeviceptr d, managed;
    CU(cuMemHostAlloc((void **)&h, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
    CU(cuMemHostGetDevicePointer_v2(&d, h, 0));
    h[0] = 40;
    sim_add(add, d, 2, 1, NULL);
    CU(cuCtxSynchronize());
    assert_int_equal(h[0], 42);
    CU(cuMemAllocManaged(&managed, 4096, CU_MEM_ATTACH_GLOBAL));
    m = (int *)(uintptr_t)managed;
    m[3] = 1;
    sim_add(add, managed, 5, 8, NULL);
    CU(cuCtxSynchronize());
    assert_int_equal(m[3], 6);
    CU(cuMemHostRegister_v2(local, sizeof(local), 0));
    CU_FAILS(cuMemHostRegister_v2(local, 4, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    CU(cuMemHostGetDevicePointer_v2(&d, local, 0));
    sim_add(add, d, 9, 8, NULL);
    CU(cuCtxSynchronize());
    assert_int_equal(local[7], 9);
    CU(cuMemHostUnregister(local));
    CU_FAILS(cuMemHostUnregister(local), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    CU(cuMemFreeHost(h));
    CU(cuMemFree_v2(managed));
}

static void pointers(void **state)
{
    (void)state;
    CUdeviceptr p, base;
    size_t size;
    unsigned type;
    CU(cuMemAlloc_v2(&p, 5000));
    CU(cuMemGetAddressRange_v2(&base, &size, p + 4999));
    assert_true(base == p && size == 5000);
    CU(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p));
    assert_int_equal(type, CU_MEMORYTYPE_DEVICE);
    CU_FAILS(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
                                   (CUdeviceptr)(uintptr_t)&type),
             CUDA_ERROR_INVALID_VALUE);
    CU_FAILS(cuMemcpyHtoD_v2((CUdeviceptr)(uintptr_t)&type, &type, 4), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFree_v2(p));
}

static uint64_t pool_value(CUmemoryPool pool, int which)
{
    uint64_t v;
    CU(cuMemPoolGetAttribute(pool, which, &v));
    return v;
}

static void pools(void **state)
{
    (void)state;
    CUmemoryPool pool;
    CUdeviceptr p, q;
    CUstream s;
    uint64_t keep = UINT64_MAX;
    size_t before = sim_free_bytes();
    CU(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    CU(cuDeviceGetDefaultMemPool(&pool, 0));
    CU(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
    /* Freed and allocated again in the same stream: one block, whatever the stream has done. */
    for (int i = 0; i < 50; i++) {
        CU(cuMemAllocAsync(&p, 3 << 20, s));
        sim_add(add, p, 1, 4, s);
        CU(cuMemFreeAsync(p, s));
        CU_FAILS(cuMemFreeAsync(p, s), CUDA_ERROR_INVALID_VALUE);
    }
    assert_int_equal(pool_value(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 4 << 20);
    assert_int_equal(pool_value(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
    CU(cuMemAllocAsync(&p, 3 << 20, s));
    CU(cuMemAllocAsync(&q, 1, s));
    assert_true(p != q);
    assert_int_equal(pool_value(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 6 << 20);
    CU(cuStreamSynchronize(s));
    CU(cuMemFreeAsync(p, s));
    CU(cuStreamSynchronize(s));
    assert_true(before - sim_free_bytes() == 6 << 20);
    CU(cuMemPoolTrimTo(pool, 0));
    assert_true(before - sim_free_bytes() == 2 << 20);
    keep = 0;
    CU(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
    CU(cuMemFreeAsync(q, s));
    CU(cuStreamSynchronize(s));
    assert_true(before == sim_free_bytes());
    CU(cuStreamDestroy_v2(s));
}

static void pool_limit(void **state)
{
    (void)state;
    CUmemoryPool pool;
    CUdeviceptr p, q;
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                            .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}, .maxSize = 8 << 20};
    CU(cuMemPoolCreate(&pool, &props));
    CU(cuMemAllocFromPoolAsync(&p, 6 << 20, pool, NULL));
    CU_FAILS(cuMemAllocFromPoolAsync(&q, 4 << 20, pool, NULL), CUDA_ERROR_OUT_OF_MEMORY);
    CU(cuMemFree_v2(p)); /* an ordinary free takes it too */
    CU(cuMemAllocFromPoolAsync(&q, 4 << 20, pool, NULL));
    CU(cuMemFreeAsync(q, NULL));
    CU(cuCtxSynchronize());
    CU(cuMemPoolDestroy(pool));
}

static void virtual_memory(void **state)
{
    (void)state;
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemAccessDesc rw = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle h, again;
    CUdeviceptr va;
    size_t unit, before = sim_free_bytes();
    char text[16] = "twice the same";
    CU(cuMemGetAllocationGranularity(&unit, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CU_FAILS(cuMemCreate(&h, unit + 1, &prop, 0), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemCreate(&h, unit, &prop, 0));
    assert_true(before - sim_free_bytes() == unit);
    CU(cuMemAddressReserve(&va, 2 * unit, 0, 0, 0));
    CU_FAILS(cuMemMap(va, unit, 1, h, 0), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemMap(va, unit, 0, h, 0));
    CU_FAILS(cuMemMap(va, unit, 0, h, 0), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemMap(va + unit, unit, 0, h, 0));
    CU(cuMemSetAccess(va, 2 * unit, &rw, 1));
    /* The same bytes at both addresses, and a copy over the border of the mappings. */
    CU(cuMemcpyHtoD_v2(va + 8, text, 16));
    memset(text, 0, 16);
    CU(cuMemcpyDtoH_v2(text, va + unit + 8, 16));
    assert_string_equal(text, "twice the same");
    CU(cuMemcpyHtoD_v2(va + unit - 8, text, 16));
    CU(cuMemcpyDtoH_v2(text, va + unit - 8, 16));
    assert_string_equal(text, "twice the same");
    CU(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)va));
    assert_true(again == h);
    CU(cuMemRelease(again));
    CU(cuMemRelease(h));
    CU_FAILS(cuMemRelease(h), CUDA_ERROR_INVALID_VALUE);
    CU_FAILS(cuMemAddressFree(va, 2 * unit), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemUnmap(va, unit));
    assert_true(before - sim_free_bytes() == unit);
    CU(cuMemUnmap(va + unit, unit));
    assert_true(before == sim_free_bytes());
    CU(cuMemAddressFree(va, 2 * unit));
}

/* Rows of an array that is wider than what is copied, and back. */
static void arrays(void **state)
{
    (void)state;
    CUDA_ARRAY_DESCRIPTOR desc = {.Width = 100, .Height = 3, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 2};
    CUarray array;
    float in[3][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}}, out[3][4] = {{0}};
    size_t before = sim_free_bytes();
    CU(cuArrayCreate_v2(&array, &desc));
    assert_true(sim_free_bytes() < before);
    CUDA_MEMCPY2D c = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = in, .srcPitch = sizeof(in[0]),
                       .dstMemoryType = CU_MEMORYTYPE_ARRAY, .dstArray = array, .dstXInBytes = 80,
                       .WidthInBytes = sizeof(in[0]), .Height = 3};
    CU(cuMemcpy2D_v2(&c));
    CUDA_MEMCPY2D back = {.dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = out, .dstPitch = sizeof(out[0]),
                          .srcMemoryType = CU_MEMORYTYPE_ARRAY, .srcArray = array, .srcXInBytes = 80,
                          .WidthInBytes = sizeof(in[0]), .Height = 3};
    CU(cuMemcpy2D_v2(&back));
    assert_memory_equal(in, out, sizeof(in));
    CU(cuArrayDestroy(array));
    assert_true(sim_free_bytes() == before);
    CU_FAILS(cuMemcpy2D_v2(&back), CUDA_ERROR_INVALID_VALUE);
    CU_FAILS(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
    desc.NumChannels = 3;
    CU_FAILS(cuArrayCreate_v2(&array, &desc), CUDA_ERROR_INVALID_VALUE);
}

/* Each in a context of its own, which is lost. */
static void illegal(void (*act)(CUdeviceptr))
{
    CUcontext ctx;
    CUdeviceptr p;
    size_t bytes;
    CU(cuCtxCreate_v2(&ctx, 0, 0));
    CU(cuMemAlloc_v2(&p, 1 << 20));
    act(p);
    CU_FAILS(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    CU_FAILS(cuMemGetInfo_v2(&bytes, &bytes), CUDA_ERROR_ILLEGAL_ADDRESS);
    CU_FAILS(cuMemAlloc_v2(&p, 4), CUDA_ERROR_ILLEGAL_ADDRESS);
    CU(cuCtxDestroy_v2(ctx));
    CU(cuCtxSynchronize()); /* the other context is well */
}

static void poke_behind(CUdeviceptr p)
{
    int value = 1;
    CUmodule module;
    CUfunction f;
    CU(cuModuleLoad(&module, sim_kernels));
    CU(cuModuleGetFunction(&f, module, "poke"));
    p += 1 << 20;
    void *params[] = {&p, &value};
    CU(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
}

static void fill_behind(CUdeviceptr p)
{
    CU(cuMemsetD8_v2(p + 1, 0, 1 << 20));
}

static void copy_behind(CUdeviceptr p)
{
    CU(cuMemcpyDtoDAsync_v2(p + 8, p, 1 << 20, NULL));
}

static void write_read_only(CUdeviceptr p)
{
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    CUmemAccessDesc ro = {{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READ};
    CUmemGenericAllocationHandle h;
    CUdeviceptr va;
    int value = 1;
    CUmodule module;
    CUfunction f;
    CU(cuMemCreate(&h, 2 << 20, &prop, 0));
    CU(cuMemAddressReserve(&va, 2 << 20, 0, 0, 0));
    CU(cuMemMap(va, 2 << 20, 0, h, 0));
    CU(cuMemSetAccess(va, 2 << 20, &ro, 1));
    CU(cuMemcpyDtoD_v2(p, va, 100)); /* reading is fine */
    CU(cuCtxSynchronize());
    CU(cuModuleLoad(&module, sim_kernels));
    CU(cuModuleGetFunction(&f, module, "poke"));
    void *params[] = {&va, &value};
    CU(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
}

static void illegal_addresses(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* it does not follow a jump out of the handler of a fault */
#endif
    illegal(poke_behind);
    illegal(fill_behind);
    illegal(copy_behind);
    illegal(write_read_only);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays),
        cmocka_unit_test(copies), cmocka_unit_test(rectangles), cmocka_unit_test(fills),
        cmocka_unit_test(capacity), cmocka_unit_test(pinned_and_managed),
        cmocka_unit_test(pointers), cmocka_unit_test(pools), cmocka_unit_test(pool_limit),
        cmocka_unit_test(virtual_memory), cmocka_unit_test(illegal_addresses),
    };
    sim_environment(argc, argv, "v100-16gb:1");
    sim_context();
    add = sim_function("add");
    poke = sim_function("poke");
    int rc = cmocka_run_group_tests_name("simdriver_memory", tests, NULL, NULL);
    sim_clean();
    return rc;
}
