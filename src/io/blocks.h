#ifndef FAST_IO_BLOCKS_H
#define FAST_IO_BLOCKS_H

/* Blocks of one size that are used for a moment and again soon: what is given back is handed out next, still
 * warm. An allocator joins and cuts such sizes anew each time, which took a twentieth of a small request.
 * Blocks are of malloc(): who has taken one may realloc() and free() it. */

#include <stddef.h>

#define FAST_BLOCK 16384 /* bytes */

struct fast_block; /* one that waits */
struct fast_blocks {
    struct fast_block *first;
    int n;
};

void *fast_block_take(struct fast_blocks *b); /* NULL: no memory */
/* |p|, which has room for |size| bytes, is kept if it is a block and few are kept, else freed; NULL is fine. */
void fast_block_give(struct fast_blocks *b, void *p, size_t size);
void fast_blocks_fini(struct fast_blocks *b);

#endif
