/* The one kernel of replay: every block keeps its place on an SM for |block_ns| and then counts
 * itself. Of its warps, |occupancy_milli| thousandths stay active. |dram_milli| is for devices that
 * model memory bandwidth; here nothing is read. */
extern "C" __global__ void replay_spin(unsigned long long block_ns, int occupancy_milli,
                                       int dram_milli, unsigned *blocks_done)
{
    unsigned long long start, now;
    const unsigned warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
    (void)dram_milli;
    if (warp != 0 && warp * 1000 >= (unsigned)occupancy_milli * warps)
        return;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - start < block_ns);
    if (threadIdx.x == 0)
        atomicAdd(blocks_done, 1u);
}
