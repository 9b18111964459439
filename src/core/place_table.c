/* A hash table with linear probing that is at most two thirds full. A removal moves back what would
 * become unreachable, so that there are no tombstones. */

#include "core/place_table.h"

#include <stdlib.h>
#include <string.h>

static uint32_t home(const struct place_table *table, uint64_t replica)
{
    return (uint32_t)((replica * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (table->cap - 1);
}

/* The slot of |replica|, or the free one where it would go. */
static uint32_t probe(const struct place_table *table, uint64_t replica)
{
    uint32_t i = home(table, replica);
    while (table->slots[i].taken && table->slots[i].replica != replica)
        i = (i + 1) & (table->cap - 1);
    return i;
}

void place_table_fini(struct place_table *table)
{
    free(table->slots);
    memset(table, 0, sizeof(*table));
}

int place_table_reserve(struct place_table *table, struct fast_err *err)
{
    if (table->n + 1 <= table->cap / 3 * 2)
        return 0;
    struct place_table bigger = {.cap = table->cap ? 2 * table->cap : 16};
    bigger.slots = calloc(bigger.cap, sizeof(*bigger.slots));
    if (!bigger.slots)
        return fast_err_set(err, FAST_ENOMEM, "no memory for one more replica");
    for (uint32_t i = 0; i < table->cap; i++)
        if (table->slots[i].taken)
            place_table_add(&bigger, table->slots[i].replica, &table->slots[i].placed);
    place_table_fini(table);
    *table = bigger;
    return 0;
}

void place_table_add(struct place_table *table, uint64_t replica, const struct fast_placed *placed)
{
    table->slots[probe(table, replica)] = (struct place_slot){replica, true, *placed};
    table->n++;
}

struct fast_placed *place_table_find(const struct place_table *table, uint64_t replica)
{
    if (!table->cap)
        return NULL;
    struct place_slot *slot = &table->slots[probe(table, replica)];
    return slot->taken ? &slot->placed : NULL;
}

void place_table_remove(struct place_table *table, uint64_t replica)
{
    if (!table->cap)
        return;
    uint32_t mask = table->cap - 1, hole = probe(table, replica);
    if (!table->slots[hole].taken)
        return;
    for (uint32_t i = (hole + 1) & mask; table->slots[i].taken; i = (i + 1) & mask) {
        /* What lies at |i| may move into the hole unless its home is behind the hole. */
        uint32_t from_home = (i - home(table, table->slots[i].replica)) & mask;
        if (from_home < ((i - hole) & mask))
            continue;
        table->slots[hole] = table->slots[i];
        hole = i;
    }
    table->slots[hole].taken = false;
    table->n--;
}
