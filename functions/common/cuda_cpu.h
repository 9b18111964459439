#ifndef FUNCTIONS_CUDA_CPU_H
#define FUNCTIONS_CUDA_CPU_H

/* Runs a CUDA C kernel on the CPU: the few words of CUDA C that our kernels use, as C. A kernel
 * compiled with this header is an ordinary function for one thread; CUDA_CPU_FOR_EACH_THREAD calls
 * it for every thread of a launch, one after the other. So a kernel must not need __syncthreads(),
 * shared memory or warp operations, and its threads must write different elements. */

struct cuda_cpu_dim {
    unsigned x, y, z;
};

/* A launch is computed by one thread, but several launches may be computed at once. */
static _Thread_local struct cuda_cpu_dim blockIdx, threadIdx, blockDim, gridDim;

#define __global__ static
#define __restrict__ restrict

/* |grid| and |block| are unsigned[3]; |call| is a kernel call such as `scale(x, n)`. */
#define CUDA_CPU_FOR_EACH_THREAD(grid, block, call)                                                \
    do {                                                                                           \
        gridDim = (struct cuda_cpu_dim){(grid)[0], (grid)[1], (grid)[2]};                          \
        blockDim = (struct cuda_cpu_dim){(block)[0], (block)[1], (block)[2]};                      \
        for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)                                 \
            for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)                             \
                for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)                         \
                    for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)                 \
                        for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)             \
                            for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)         \
                                call;                                                              \
    } while (0)

#endif
