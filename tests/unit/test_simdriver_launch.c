/* Launches in all forms, modules and libraries of the simulated driver. */
#include "simcuda.h"

#include <elf.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>

static CUfunction add;
static CUdeviceptr cell;
static CUstream s;

static int cell_value(void)
{
    int v = 0;
    CU(cuCtxSynchronize());
    CU(cuMemcpyDtoH_v2(&v, cell, 4));
    return v;
}

static void every_form(void **state)
{
    (void)state;
    int value = 1, n = 1;
    void *params[] = {&cell, &value, &n};
    CUlaunchConfig config = {.gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32,
                             .blockDimY = 1, .blockDimZ = 1};
    CUDA_LAUNCH_PARAMS multi = {.function = add, .gridDimX = 1, .gridDimY = 1, .gridDimZ = 1,
                                .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1, .hStream = s,
                                .kernelParams = params};
    CU(cuMemsetD32_v2(cell, 0, 1));
    CU(cuCtxSynchronize());
    CU(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
    CU(cuLaunchKernel_ptsz(add, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    CU(cuCtxSynchronize());
    CU(cuLaunchKernelEx(&config, add, params, NULL));
    CU(cuLaunchKernelEx_ptsz(&config, add, params, NULL));
    CU(cuCtxSynchronize());
    CU(cuLaunchCooperativeKernel(add, 1, 1, 1, 32, 1, 1, 0, s, params));
    CU(cuLaunchCooperativeKernel_ptsz(add, 1, 1, 1, 32, 1, 1, 0, s, params));
    CU(cuLaunchCooperativeKernelMultiDevice(&multi, 1, 0));
    assert_int_equal(cell_value(), 7);
    /* All values in one buffer. */
    struct {
        CUdeviceptr p;
        int value, n;
    } all = {cell, 10, 1};
    size_t size = sizeof(all);
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &all, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                     CU_LAUNCH_PARAM_END};
    CU(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, s, NULL, extra));
    assert_int_equal(cell_value(), 17);
    size = 4;
    CU_FAILS(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, s, NULL, extra), CUDA_ERROR_INVALID_VALUE);
    /* As in CUDA 2. */
    CU_FAILS(cuLaunch(add), CUDA_ERROR_INVALID_VALUE);
    CU(cuFuncSetBlockShape(add, 32, 1, 1));
    CU(cuParamSetv(add, 0, &all, sizeof(all)));
    CU(cuParamSetSize(add, sizeof(all)));
    CU(cuLaunch(add));
    CU(cuLaunchGrid(add, 1, 1));
    CU(cuLaunchGridAsync(add, 1, 1, s));
    assert_int_equal(cell_value(), 47);
}

/* The caller may change its parameters as soon as the launch has returned. */
static void parameters_are_copied(void **state)
{
    (void)state;
    int value = 0, n = 1;
    void *params[] = {&cell, &value, &n};
    CU(cuMemsetD32_v2(cell, 0, 1));
    CU(cuCtxSynchronize());
    for (value = 1; value <= 10; value++)
        CU(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
    value = -1;
    assert_int_equal(cell_value(), 55);
}

static void refused(void **state)
{
    (void)state;
    int value = 1, n = 1;
    void *params[] = {&cell, &value, &n};
    static const unsigned wrong[][7] = {
        {0, 1, 1, 32, 1, 1, 0},     {1, 0, 1, 32, 1, 1, 0},    {1, 1, 0, 32, 1, 1, 0},
        {1, 1, 1, 0, 1, 1, 0},      {1, 1, 1, 1025, 1, 1, 0},  {1, 1, 1, 32, 33, 1, 0},
        {1, 1, 1, 1, 1, 65, 0},     {1, 65536, 1, 32, 1, 1, 0}, {1, 1, 1, 32, 1, 1, 49153},
    };
    CU(cuMemsetD32_v2(cell, 0, 1));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const unsigned *w = wrong[i];
        CU_FAILS(cuLaunchKernel(add, w[0], w[1], w[2], w[3], w[4], w[5], w[6], s, params, NULL),
                 CUDA_ERROR_INVALID_VALUE);
    }
    CU_FAILS(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, s, NULL, NULL), CUDA_ERROR_INVALID_VALUE);
    CU_FAILS(cuLaunchKernel(NULL, 1, 1, 1, 32, 1, 1, 0, s, params, NULL),
             CUDA_ERROR_INVALID_HANDLE);
    CU_FAILS(cuLaunchKernel((CUfunction)params, 1, 1, 1, 32, 1, 1, 0, s, params, NULL),
             CUDA_ERROR_INVALID_HANDLE);
    CU_FAILS(cuLaunchKernel(add, 1, 1, 1, 32, 1, 1, 0, (CUstream)params, params, NULL),
             CUDA_ERROR_INVALID_HANDLE);
    CU_FAILS(cuLaunchCooperativeKernel(add, 1000, 1, 1, 1024, 1, 1, 0, s, params),
             CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    CU_FAILS(cuLaunchKernelEx(NULL, add, params, NULL), CUDA_ERROR_INVALID_VALUE);
    assert_int_equal(cell_value(), 0);
}

static const char ptx[] = ".version 7.0\n.target sm_70\n.address_size 64\n"
                          ".visible .entry scale(\n\t.param .u64 scale_param_0,\n"
                          "\t.param .align 8 .b8 scale_param_1[24],\n\t.param .f32 scale_param_2\n)\n"
                          "{\n\tret;\n}\n"
                          ".entry empty()\n{\n\tret;\n}\n";

static void images(void **state)
{
    (void)state;
    CUmodule m;
    CUfunction f;
    size_t offset, size;
    unsigned char cubin[4096] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    CU(cuModuleLoadData(&m, ptx));
    CU(cuModuleGetFunction(&f, m, "scale"));
    CU(cuFuncGetParamInfo(f, 1, &offset, &size));
    assert_true(offset == 8 && size == 24);
    CU(cuFuncGetParamInfo(f, 2, &offset, &size));
    assert_true(offset == 32 && size == 4);
    CU_FAILS(cuFuncGetParamInfo(f, 3, &offset, &size), CUDA_ERROR_INVALID_VALUE);
    CU(cuModuleGetFunction(&f, m, "empty"));
    CU(cuLaunchKernel(f, 4, 1, 1, 64, 1, 1, 0, s, NULL, NULL));
    CU(cuStreamSynchronize(s));
    CU_FAILS(cuModuleGetFunction(&f, m, "nothing"), CUDA_ERROR_NOT_FOUND);
    CU(cuModuleUnload(m));
    CU_FAILS(cuModuleGetFunction(&f, m, "scale"), CUDA_ERROR_INVALID_HANDLE);
    cubin[16] = 2;
    cubin[18] = 190; /* EM_CUDA */
    CU_FAILS(cuModuleLoadData(&m, cubin), CUDA_ERROR_NO_BINARY_FOR_GPU);
    static const unsigned fatbin[16] = {0xba55ed50u};
    CU_FAILS(cuModuleLoadData(&m, fatbin), CUDA_ERROR_NO_BINARY_FOR_GPU);
    CU_FAILS(cuModuleLoadData(&m, "some text that is no image"), CUDA_ERROR_INVALID_IMAGE);
    CU_FAILS(cuModuleLoad(&m, "/nonexistent"), CUDA_ERROR_FILE_NOT_FOUND);
    CU_FAILS(cuModuleLoad(&m, NULL), CUDA_ERROR_INVALID_VALUE);
}

/* Without its size an image is as long as its headers say; what is behind it does not matter. */
static void image_in_memory(void **state)
{
    (void)state;
    CUmodule m;
    CUfunction f;
    struct stat st;
    int fd = open(sim_kernels, O_RDONLY);
    assert_int_equal(fstat(fd, &st), 0);
    char *data = malloc((size_t)st.st_size);
    assert_int_equal(read(fd, data, (size_t)st.st_size), st.st_size);
    close(fd);
    CU(cuModuleLoadData(&m, data));
    memset(data, 0, (size_t)st.st_size);
    free(data);
    CU(cuModuleGetFunction(&f, m, "add"));
    CU(cuMemsetD32_v2(cell, 0, 1));
    CU(cuCtxSynchronize());
    sim_add(f, cell, 3, 1, s);
    CU(cuModuleUnload(m)); /* after the kernel */
    assert_int_equal(cell_value(), 3);
}

static CUresult load_cut(const char *data, size_t size, size_t keep)
{
    size_t page = 4096, space = (size + page - 1) / page * page;
    char *p = mmap(NULL, space + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CUmodule m;
    assert_true(p != MAP_FAILED);
    assert_int_equal(mprotect(p + space, page, PROT_NONE), 0);
    char *at = p + space - keep;
    memcpy(at, data, keep);
    CUresult r = cuModuleLoadData(&m, at);
    munmap(p, space + page);
    return r;
}

/* Of an image that ends before its headers say, or whose headers lie, no byte is read that is not there. */
static void broken_images(void **state)
{
    (void)state;
    struct stat st;
    int fd = open(sim_kernels, O_RDONLY);
    assert_int_equal(fstat(fd, &st), 0);
    size_t size = (size_t)st.st_size;
    char *data = malloc(size), *copy = malloc(size);
    assert_int_equal(read(fd, data, size), st.st_size);
    close(fd);
    const size_t keep[] = {16, 63, 64, 100, 4096, size / 2, size - 1};
    for (size_t i = 0; i < sizeof(keep) / sizeof(keep[0]); i++)
        assert_int_equal(load_cut(data, size, keep[i]), CUDA_ERROR_INVALID_IMAGE);
    const struct {
        size_t at;
        uint64_t value;
    } lies[] = {{offsetof(Elf64_Ehdr, e_shoff), UINT64_MAX - 4096}, {offsetof(Elf64_Ehdr, e_phoff), 4096},
                {offsetof(Elf64_Ehdr, e_phoff), UINT64_MAX - 64},
                {sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_offset), UINT64_MAX - 4096},
                {sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_filesz), UINT64_MAX - 8}};
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        memcpy(copy, data, size);
        memcpy(copy + lies[i].at, &lies[i].value, sizeof(lies[i].value));
        assert_int_equal(load_cut(copy, size, size), CUDA_ERROR_INVALID_IMAGE);
    }
    free(data);
    free(copy);
}

static void libraries(void **state)
{
    (void)state;
    CUlibrary lib;
    CUkernel k;
    int value = 5, n = 1;
    void *params[] = {&cell, &value, &n};
    CU(cuLibraryLoadFromFile(&lib, sim_kernels, NULL, NULL, 0, NULL, NULL, 0));
    CU(cuLibraryGetKernel(&k, lib, "add"));
    CU_FAILS(cuLibraryGetKernel(&k, lib, "nothing"), CUDA_ERROR_NOT_FOUND);
    CU(cuMemsetD32_v2(cell, 0, 1));
    CU(cuCtxSynchronize());
    /* A kernel is launched like a function. */
    CU(cuLaunchKernel((CUfunction)k, 1, 1, 1, 32, 1, 1, 0, s, params, NULL));
    assert_int_equal(cell_value(), 5);
    CU(cuLibraryUnload(lib));
}

/* The stack of contexts, and the primary context, which counts its users. */
static void two_contexts(void **state)
{
    (void)state;
    CUcontext first, second, popped;
    CU(cuCtxGetCurrent(&first));
    CU(cuCtxCreate_v2(&second, 0, 0));
    CU(cuCtxGetCurrent(&popped));
    assert_ptr_equal(popped, second);
    CU(cuCtxPopCurrent_v2(&popped));
    assert_ptr_equal(popped, second);
    CU(cuCtxGetCurrent(&popped));
    assert_ptr_equal(popped, first);
    CU(cuCtxDestroy_v2(second));
    CU_FAILS(cuCtxSetCurrent(second), CUDA_ERROR_INVALID_CONTEXT);
    CUcontext p1, p2;
    CU(cuDevicePrimaryCtxRetain(&p1, 0));
    CU(cuDevicePrimaryCtxRetain(&p2, 0));
    assert_ptr_equal(p1, p2);
    CU(cuDevicePrimaryCtxRelease_v2(0));
    CU(cuDevicePrimaryCtxRelease_v2(0));
    CU_FAILS(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form),      cmocka_unit_test(parameters_are_copied),
        cmocka_unit_test(refused),         cmocka_unit_test(images),
        cmocka_unit_test(image_in_memory), cmocka_unit_test(broken_images), cmocka_unit_test(libraries),
        cmocka_unit_test(two_contexts),
    };
    sim_environment(argc, argv, "v100-16gb:1");
    sim_context();
    add = sim_function("add");
    CU(cuMemAlloc_v2(&cell, 4096));
    CU(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
    int rc = cmocka_run_group_tests_name("simdriver_launch", tests, NULL, NULL);
    sim_clean();
    return rc;
}
