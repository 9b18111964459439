/* Tensor maps. The real 128 bytes are opaque and for the hardware; these are our own, checked by the rules
 * of the public documentation. No kernel reads them here. */
#include <string.h>

#include "simdriver/drv.h"

#define MAGIC 0x46535450u
#define RANK_MAX 5

struct tensor_map {
    uint32_t magic;
    uint8_t type, rank, interleave, swizzle;
    uint64_t address;
    uint64_t dim[RANK_MAX], stride[RANK_MAX - 1];
    uint16_t box[RANK_MAX];
    uint8_t step[RANK_MAX];
};

_Static_assert(sizeof(struct tensor_map) <= 128, "it fits");

enum { INTERLEAVE_NONE, INTERLEAVE_16, INTERLEAVE_32 };
enum { SWIZZLE_NONE, SWIZZLE_32, SWIZZLE_64, SWIZZLE_128, SWIZZLES = 7 };

/* CU_TENSOR_MAP_DATA_TYPE_*: u8, u16, u32, s32, u64, s64, f16, f32, f64, bf16, f32 flushed, tf32, tf32 flushed */
static const uint8_t element_bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};

static bool address_valid(uint64_t address, int interleave)
{
    return address && address % (interleave == INTERLEAVE_32 ? 32 : 16) == 0;
}

static bool shape_valid(unsigned bytes, unsigned rank, const cuuint64_t *dim, const cuuint64_t *stride,
                        const cuuint32_t *box, const cuuint32_t *step, int interleave)
{
    for (unsigned i = 0; i < rank; i++)
        if (!dim[i] || dim[i] > 1ull << 32 || !box[i] || box[i] > 256 || !step[i] || step[i] > 8)
            return false;
    for (unsigned i = 0; i + 1 < rank; i++)
        if (!stride[i] || stride[i] >= 1ull << 40 || stride[i] % (interleave == INTERLEAVE_32 ? 32 : 16))
            return false;
    return interleave != INTERLEAVE_NONE || (size_t)box[0] * bytes % 16 == 0;
}

/* The inner rows of a swizzled box are no longer than its pattern. */
static bool swizzle_valid(int swizzle, int interleave, size_t row_bytes)
{
    if (swizzle < 0 || swizzle >= SWIZZLES || (interleave == INTERLEAVE_32 && swizzle != SWIZZLE_32))
        return false;
    size_t most = swizzle == SWIZZLE_NONE || interleave != INTERLEAVE_NONE ? SIZE_MAX
                  : swizzle >= SWIZZLE_128                                 ? 128
                                                                           : (size_t)16 << swizzle;
    return row_bytes <= most;
}

CUAPI cuTensorMapEncodeTiled(void *ret, unsigned type, cuuint32_t rank, void *address, const cuuint64_t *dim,
                             const cuuint64_t *stride, const cuuint32_t *box, const cuuint32_t *step,
                             int interleave, int swizzle, int promotion, int fill)
{
    if (!ret || (uintptr_t)ret % 64 || type >= sizeof(element_bytes) || rank < 1 || rank > RANK_MAX || !dim ||
        !box || !step || (rank > 1 && !stride) || interleave < INTERLEAVE_NONE || interleave > INTERLEAVE_32 ||
        (interleave != INTERLEAVE_NONE && rank < 3) || promotion < 0 || promotion > 3 || fill < 0 || fill > 1)
        return CUDA_ERROR_INVALID_VALUE;
    unsigned bytes = element_bytes[type];
    if (!address_valid((uintptr_t)address, interleave) ||
        !shape_valid(bytes, rank, dim, stride, box, step, interleave) ||
        !swizzle_valid(swizzle, interleave, (size_t)box[0] * bytes))
        return CUDA_ERROR_INVALID_VALUE;
    struct tensor_map m = {.magic = MAGIC, .type = (uint8_t)type, .rank = (uint8_t)rank,
                           .interleave = (uint8_t)interleave, .swizzle = (uint8_t)swizzle,
                           .address = (uintptr_t)address};
    for (unsigned i = 0; i < rank; i++) {
        m.dim[i] = dim[i];
        m.box[i] = (uint16_t)box[i];
        m.step[i] = (uint8_t)step[i];
        if (i + 1 < rank)
            m.stride[i] = stride[i];
    }
    memset(ret, 0, 128);
    memcpy(ret, &m, sizeof(m));
    return CUDA_SUCCESS;
}

CUAPI cuTensorMapReplaceAddress(void *map, void *address)
{
    struct tensor_map m;
    if (!map)
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(&m, map, sizeof(m));
    if (m.magic != MAGIC || !address_valid((uintptr_t)address, m.interleave))
        return CUDA_ERROR_INVALID_VALUE;
    m.address = (uintptr_t)address;
    memcpy(map, &m, sizeof(m));
    return CUDA_SUCCESS;
}
