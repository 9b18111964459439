#ifndef FAST_CORE_PLACE_INDEX_H
#define FAST_CORE_PLACE_INDEX_H

/* Which GPUs have a free rectangle of which shape: part of place.c. Shapes are ordered by area, and
 * the GPUs of one shape by free memory, so that the first that fits leaves the least of both. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct place_entry {
    uint64_t mem_free;
    int gpu;
};

struct place_shape {
    int area, quota, sm;
    struct place_entry *entries; /* by free memory, then GPU number, both descending */
    int n, cap;
    struct place_shape *next; /* among the spare ones */
};

struct place_index {
    struct place_shape **shapes; /* by area, quota, SM, ascending; none is empty */
    int n, cap;
    struct place_shape *spare; /* empty, for shapes to come, as shapes come and go all the time */
};

/* Whether |gpu| will do, beyond shape and memory. */
typedef bool place_accept_fn(const void *arg, int gpu);

/* Makes room for one element more in |*array|; else -FAST_ENOMEM. */
int place_grow(void **array, int n, int *cap, size_t size);

/* Puts the pointer |it| at |at| of |*n| pointers, those from there on one further. */
int place_insert(void **array, int *n, int *cap, int at, const void *it);

void place_index_fini(struct place_index *index);
int place_index_add(struct place_index *index, int quota, int sm, uint64_t mem_free, int gpu,
                    struct fast_err *err);
/* Removes one entry that was added; false: there is none. */
bool place_index_remove(struct place_index *index, int quota, int sm, uint64_t mem_free, int gpu);

/* The GPU with the least free area (then the least free memory, then the lowest number) that holds
 * |quota| x |sm| and has |mem| free; -1: none. */
int place_index_find(const struct place_index *index, int quota, int sm, uint64_t mem,
                     place_accept_fn *accept, const void *arg);

#endif
