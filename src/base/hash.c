/* Eight independent lanes of multiply and rotate, so that a core's multiplier is kept busy; at the end
 * they are folded into one with a finalizer in which every bit of a lane reaches every bit of the
 * result. The constants are odd numbers without structure (fractional digits of square roots). */
#include "base/hash.h"

#include <string.h>

#define K1 0x6a09e667f3bcc909ull /* sqrt(2) */
#define K2 0xbb67ae8584caa73bull /* sqrt(3) */
#define K3 0x3c6ef372fe94f82bull /* sqrt(5) */
#define BLOCK ((size_t)FAST_HASH_LANES * 8)

static uint64_t rotate(uint64_t v, int by)
{
    return v << by | v >> (64 - by);
}

static uint64_t finish(uint64_t v)
{
    v = (v ^ v >> 32) * K2;
    v = (v ^ v >> 29) * K1;
    return v ^ v >> 32;
}

void fast_hash_init(struct fast_hash *h, uint64_t seed)
{
    memset(h, 0, sizeof(*h));
    for (int i = 0; i < FAST_HASH_LANES; i++)
        h->lane[i] = finish(seed + K3 * (uint64_t)(i + 1));
}

static void block(uint64_t lane[FAST_HASH_LANES], const unsigned char *p)
{
    uint64_t word[FAST_HASH_LANES];
    memcpy(word, p, BLOCK);
    for (int i = 0; i < FAST_HASH_LANES; i++)
        lane[i] = rotate((lane[i] ^ word[i]) * K1, 29) + K2;
}

void fast_hash_add(struct fast_hash *h, const void *data, size_t len)
{
    const unsigned char *p = data;
    size_t fill = h->bytes % BLOCK;
    h->bytes += len;
    if (fill) {
        size_t n = len < BLOCK - fill ? len : BLOCK - fill;
        memcpy(h->tail + fill, p, n);
        p += n;
        len -= n;
        if (fill + n < BLOCK)
            return;
        block(h->lane, h->tail);
    }
    uint64_t lane[FAST_HASH_LANES]; /* in registers */
    memcpy(lane, h->lane, sizeof(lane));
    for (; len >= BLOCK; p += BLOCK, len -= BLOCK)
        block(lane, p);
    memcpy(h->lane, lane, sizeof(lane));
    if (len)
        memcpy(h->tail, p, len);
}

uint64_t fast_hash_value(const struct fast_hash *h)
{
    struct fast_hash last = *h;
    size_t fill = h->bytes % BLOCK;
    if (fill) {
        memset(last.tail + fill, 0, BLOCK - fill);
        block(last.lane, last.tail);
    }
    uint64_t v = last.bytes * K3;
    for (int i = 0; i < FAST_HASH_LANES; i++)
        v = finish(rotate(v, 23) ^ last.lane[i]) + K1;
    return finish(v);
}

uint64_t fast_hash_of(const void *data, size_t len, uint64_t seed)
{
    struct fast_hash h;
    fast_hash_init(&h, seed);
    fast_hash_add(&h, data, len);
    return fast_hash_value(&h);
}
