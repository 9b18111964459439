#include "io/blocks.h"

#include <stdlib.h>

/* As many as may be in use in one turn of a busy loop; a sanitizer wants to see each one freed. */
#if defined(__SANITIZE_ADDRESS__)
#define KEPT_MAX 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KEPT_MAX 0
#endif
#endif
#ifndef KEPT_MAX
#define KEPT_MAX 128
#endif

struct fast_block {
    struct fast_block *next;
};

void *fast_block_take(struct fast_blocks *b)
{
    struct fast_block *p = b->first;
    if (!p)
        return malloc(FAST_BLOCK);
    b->first = p->next;
    b->n--;
    return p;
}

void fast_block_give(struct fast_blocks *b, void *p, size_t size)
{
    struct fast_block *block = p;
    if (!block || size != FAST_BLOCK || b->n >= KEPT_MAX) {
        free(p);
        return;
    }
    block->next = b->first;
    b->first = block;
    b->n++;
}

void fast_blocks_fini(struct fast_blocks *b)
{
    while (b->first)
        free(fast_block_take(b));
}
