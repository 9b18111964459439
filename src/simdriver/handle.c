/* Handles. Objects of one type come from chunks that are never given back or used for another type,
 * so that a handle that a program kept too long, or made up, can be looked at without harm. */
#include <stdlib.h>
#include <string.h>

#include "simdriver/drv.h"

#define CHUNKS 28
#define CHUNK_FIRST 32 /* objects; every chunk is twice as long as the one before */

static struct {
    char *base[CHUNKS];
    size_t size;
    int chunks;
    struct handle *free;
} pools[H_TYPES];

static bool grow(enum handle_type type)
{
    int k = pools[type].chunks;
    size_t count = (size_t)CHUNK_FIRST << k;
    if (k == CHUNKS)
        return false;
    char *base = calloc(count, pools[type].size);
    if (!base)
        return false;
    pools[type].base[k] = base;
    __atomic_store_n(&pools[type].chunks, k + 1, __ATOMIC_RELEASE);
    for (size_t i = count; i-- > 0;) {
        struct handle *h = (struct handle *)(base + i * pools[type].size);
        h->next_free = pools[type].free;
        pools[type].free = h;
    }
    return true;
}

void *handle_new(enum handle_type type, size_t size)
{
    pools[type].size = (size + 15) & ~(size_t)15;
    if (!pools[type].free && !grow(type))
        return NULL;
    struct handle *h = pools[type].free;
    pools[type].free = h->next_free;
    memset(h, 0, size);
    h->type = type;
    return h;
}

void handle_free(void *p)
{
    struct handle *h = p;
    enum handle_type type = h->type;
    h->type = H_NONE;
    h->next_free = pools[type].free;
    pools[type].free = h;
}

bool handle_is(const void *p, enum handle_type type)
{
    int chunks = __atomic_load_n(&pools[type].chunks, __ATOMIC_ACQUIRE);
    for (int k = 0; k < chunks; k++) {
        uintptr_t base = (uintptr_t)pools[type].base[k], at = (uintptr_t)p;
        if (at < base || at >= base + ((size_t)CHUNK_FIRST << k) * pools[type].size)
            continue;
        return (at - base) % pools[type].size == 0 && ((const struct handle *)p)->type == type;
    }
    return false;
}
