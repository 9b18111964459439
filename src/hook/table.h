#ifndef FAST_HOOK_TABLE_H
#define FAST_HOOK_TABLE_H

/* A hash table from a 64-bit key to two numbers, sharded so that threads seldom meet. Its locks are
 * held for a few instructions, never around a call out of this file but mmap. */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define FAST_TABLE_SHARDS 16

struct fast_table_row {
    uint64_t key; /* 0: free */
    uint64_t bytes;
    uint64_t other; /* what the caller wants to remember */
    uint64_t owner; /* the context that it goes away with */
    uint32_t gpu;
    int32_t refs;
};

struct fast_table_shard {
    pthread_mutex_t lock;
    struct fast_table_row *rows;
    uint32_t cap, used; /* cap is a power of two or 0 */
};

struct fast_table {
    struct fast_table_shard shards[FAST_TABLE_SHARDS];
};

/* Empties the table and makes its locks new, without freeing what a parent process may still lock. */
void fast_table_init(struct fast_table *table);

/* Replaces a row with the same key. False: out of memory. */
bool fast_table_put(struct fast_table *table, const struct fast_table_row *row);

bool fast_table_get(struct fast_table *table, uint64_t key, struct fast_table_row *ret);

/* Takes the row out. */
bool fast_table_take(struct fast_table *table, uint64_t key, struct fast_table_row *ret);

/* Copies up to |max| rows; returns how many. */
uint32_t fast_table_list(struct fast_table *table, struct fast_table_row *ret, uint32_t max);

/* Takes out up to |max| rows of |owner|; returns how many. */
uint32_t fast_table_take_owned(struct fast_table *table, uint64_t owner, struct fast_table_row *ret,
                               uint32_t max);

/* Adds |by| to the references of |key|; at 0 the row is taken out. False: there is no such row. */
bool fast_table_ref(struct fast_table *table, uint64_t key, int by, struct fast_table_row *ret);

#endif
