/* The kernels of the digits network, written once: nvcc compiles this file for a GPU, a C compiler
 * with common/cuda_cpu.h compiles it for the simulated one. Each thread computes one element and
 * adds its terms in a fixed order, so that results do not depend on the device (nvcc -fmad=false,
 * gcc -ffp-contract=off: no fused multiply-add on one side only).
 *
 * Activations are [channel][row][column], the batch is blockIdx.y. */

#ifdef __CUDACC__
#define DIGITS_KERNEL extern "C" __global__ void
#else
#define DIGITS_KERNEL __global__ void
#endif

/* out = relu(conv3x3(in) + bias), zero padding. Grid (out_channels, batch), block (side, side);
 * weights are [out_channel][in_channel][3][3]. */
DIGITS_KERNEL digits_conv_relu(const float *__restrict__ in, const float *__restrict__ weights,
                               const float *__restrict__ bias, float *__restrict__ out,
                               int in_channels)
{
    const int side = (int)blockDim.x, area = side * side;
    const int x = (int)threadIdx.x, y = (int)threadIdx.y, o = (int)blockIdx.x;
    const float *image = in + (int)blockIdx.y * in_channels * area;
    const float *w = weights + o * in_channels * 9;
    float sum = bias[o];
    for (int c = 0; c < in_channels; c++)
        for (int dy = -1; dy <= 1; dy++)
            for (int dx = -1; dx <= 1; dx++) {
                const int sy = y + dy, sx = x + dx;
                if (sy >= 0 && sy < side && sx >= 0 && sx < side)
                    sum += image[c * area + sy * side + sx] * w[c * 9 + (dy + 1) * 3 + dx + 1];
            }
    out[((int)blockIdx.y * (int)gridDim.x + o) * area + y * side + x] = sum > 0.0f ? sum : 0.0f;
}

/* 2x2 maximum. Grid (channels, batch), block (side / 2, side / 2). */
DIGITS_KERNEL digits_maxpool(const float *__restrict__ in, float *__restrict__ out)
{
    const int half = (int)blockDim.x, side = 2 * half;
    const int x = (int)threadIdx.x, y = (int)threadIdx.y;
    const int map = (int)blockIdx.y * (int)gridDim.x + (int)blockIdx.x;
    const float *tile = in + map * side * side + 2 * y * side + 2 * x;
    float best = tile[0];
    best = tile[1] > best ? tile[1] : best;
    best = tile[side] > best ? tile[side] : best;
    best = tile[side + 1] > best ? tile[side + 1] : best;
    out[map * half * half + y * half + x] = best;
}

/* out = weights x in + bias, one thread per output. Grid (1, batch), block (outputs). */
DIGITS_KERNEL digits_fc(const float *__restrict__ in, const float *__restrict__ weights,
                        const float *__restrict__ bias, float *__restrict__ out, int inputs)
{
    const int o = (int)threadIdx.x;
    const float *x = in + (int)blockIdx.y * inputs;
    float sum = bias[o];
    for (int i = 0; i < inputs; i++)
        sum += x[i] * weights[o * inputs + i];
    out[(int)blockIdx.y * (int)blockDim.x + o] = sum;
}
