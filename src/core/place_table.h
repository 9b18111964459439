#ifndef FAST_CORE_PLACE_TABLE_H
#define FAST_CORE_PLACE_TABLE_H

/* Replica number to place: part of place.c. */

#include <stdint.h>

#include "core/place.h"

struct place_slot {
    uint64_t replica;
    bool taken;
    struct fast_placed placed;
};

struct place_table {
    struct place_slot *slots;
    uint32_t cap; /* a power of two, or 0 */
    uint32_t n;
};

void place_table_fini(struct place_table *table);
/* Makes sure that one more add will not fail. */
int place_table_reserve(struct place_table *table, struct fast_err *err);
/* Adds |replica|, which is not there, after a reserve. */
void place_table_add(struct place_table *table, uint64_t replica,
                     const struct fast_placed *placed);
/* Valid until the next add or remove; NULL: not there. */
struct fast_placed *place_table_find(const struct place_table *table, uint64_t replica);
void place_table_remove(struct place_table *table, uint64_t replica);

#endif
