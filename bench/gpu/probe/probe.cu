/* The spin kernel of functions/replay, and a kernel whose blocks write down which SM they run on. */
#include "../../../functions/replay/spin.cu"

extern "C" __global__ void probe_smid(unsigned long long block_ns, unsigned *out)
{
    unsigned long long start, now;
    unsigned sm;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - start < block_ns);
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    if (threadIdx.x == 0)
        out[blockIdx.x] = sm;
}
