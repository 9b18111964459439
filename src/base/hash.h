#ifndef FAST_BASE_HASH_H
#define FAST_BASE_HASH_H

/* A fast 64-bit hash of bytes that come in pieces, to tell contents apart (weights, tables of
 * tensors). It finds accidents, not attacks: whoever chooses the bytes can make two that collide. The
 * result depends on the bytes alone, not on how they were cut into pieces, nor on the machine as long
 * as it is little-endian. About 10 GB/s on a current core. */

#include <stddef.h>
#include <stdint.h>

#define FAST_HASH_LANES 8

struct fast_hash {
    uint64_t lane[FAST_HASH_LANES];
    unsigned char tail[FAST_HASH_LANES * 8]; /* bytes that do not fill all lanes yet */
    uint64_t bytes;
};

void fast_hash_init(struct fast_hash *hash, uint64_t seed);
void fast_hash_add(struct fast_hash *hash, const void *data, size_t len);
/* |hash| may go on after that. */
uint64_t fast_hash_value(const struct fast_hash *hash);

uint64_t fast_hash_of(const void *data, size_t len, uint64_t seed);

#endif
