#include "hook/table.h"

#include <string.h>
#include <sys/mman.h>

/* Open addressing with linear probing and backward shift on removal. Memory comes from mmap, since
 * malloc may belong to the program and may call into the driver itself. */

#define FIRST_CAP 256

static uint64_t mix(uint64_t key)
{
    key ^= key >> 33;
    key *= 0xff51afd7ed558ccdULL;
    return key ^ key >> 29;
}

static struct fast_table_shard *shard_of(struct fast_table *table, uint64_t key)
{
    return &table->shards[mix(key) >> 60 & (FAST_TABLE_SHARDS - 1)];
}

void fast_table_init(struct fast_table *table)
{
    for (int i = 0; i < FAST_TABLE_SHARDS; i++) {
        table->shards[i] = (struct fast_table_shard){0};
        pthread_mutex_init(&table->shards[i].lock, NULL);
    }
}

/* The place of |key|, or the free place where it belongs. */
static uint32_t place(const struct fast_table_shard *s, uint64_t key)
{
    uint32_t i = (uint32_t)mix(key) & (s->cap - 1);
    while (s->rows[i].key && s->rows[i].key != key)
        i = (i + 1) & (s->cap - 1);
    return i;
}

static bool grow(struct fast_table_shard *s)
{
    struct fast_table_shard old = *s;
    uint32_t cap = old.cap ? old.cap * 2 : FIRST_CAP;
    void *rows = mmap(NULL, cap * sizeof(*s->rows), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (rows == MAP_FAILED)
        return false;
    s->rows = rows;
    s->cap = cap;
    for (uint32_t i = 0; i < old.cap; i++)
        if (old.rows[i].key)
            s->rows[place(s, old.rows[i].key)] = old.rows[i];
    if (old.rows)
        munmap(old.rows, old.cap * sizeof(*s->rows));
    return true;
}

/* Closes the hole at |i|: rows behind it that had to go further move up. */
static void remove_at(struct fast_table_shard *s, uint32_t i)
{
    uint32_t mask = s->cap - 1;
    for (uint32_t k = (i + 1) & mask; s->rows[k].key; k = (k + 1) & mask) {
        uint32_t home = (uint32_t)mix(s->rows[k].key) & mask;
        if (((k - home) & mask) >= ((k - i) & mask)) {
            s->rows[i] = s->rows[k];
            i = k;
        }
    }
    s->rows[i].key = 0;
    s->used--;
}

bool fast_table_put(struct fast_table *table, const struct fast_table_row *row)
{
    struct fast_table_shard *s = shard_of(table, row->key);
    pthread_mutex_lock(&s->lock);
    bool ok = s->used * 4 < s->cap * 3 || grow(s);
    if (ok) {
        uint32_t i = place(s, row->key);
        s->used += s->rows[i].key == 0;
        s->rows[i] = *row;
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

bool fast_table_get(struct fast_table *table, uint64_t key, struct fast_table_row *ret)
{
    struct fast_table_shard *s = shard_of(table, key);
    bool found = false;
    pthread_mutex_lock(&s->lock);
    if (s->cap && key) {
        *ret = s->rows[place(s, key)];
        found = ret->key != 0;
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

bool fast_table_take(struct fast_table *table, uint64_t key, struct fast_table_row *ret)
{
    struct fast_table_shard *s = shard_of(table, key);
    bool found = false;
    pthread_mutex_lock(&s->lock);
    if (s->cap && key) {
        uint32_t i = place(s, key);
        *ret = s->rows[i];
        found = ret->key != 0;
        if (found)
            remove_at(s, i);
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

uint32_t fast_table_list(struct fast_table *table, struct fast_table_row *ret, uint32_t max)
{
    uint32_t n = 0;
    for (int i = 0; i < FAST_TABLE_SHARDS; i++) {
        struct fast_table_shard *s = &table->shards[i];
        pthread_mutex_lock(&s->lock);
        for (uint32_t k = 0; s->used && k < s->cap && n < max; k++)
            if (s->rows[k].key)
                ret[n++] = s->rows[k];
        pthread_mutex_unlock(&s->lock);
    }
    return n;
}

static uint32_t take_owned(struct fast_table_shard *s, uint64_t owner, struct fast_table_row *ret,
                           uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->cap && n < max;) {
        if (!s->rows[i].key || s->rows[i].owner != owner) {
            i++;
            continue;
        }
        ret[n++] = s->rows[i];
        remove_at(s, i); /* another row may have moved here: look again */
    }
    return n;
}

uint32_t fast_table_take_owned(struct fast_table *table, uint64_t owner, struct fast_table_row *ret,
                               uint32_t max)
{
    uint32_t n = 0;
    for (int i = 0; i < FAST_TABLE_SHARDS; i++) {
        pthread_mutex_lock(&table->shards[i].lock);
        n += take_owned(&table->shards[i], owner, ret + n, max - n);
        pthread_mutex_unlock(&table->shards[i].lock);
    }
    return n;
}

bool fast_table_ref(struct fast_table *table, uint64_t key, int by, struct fast_table_row *ret)
{
    struct fast_table_shard *s = shard_of(table, key);
    bool found = false;
    pthread_mutex_lock(&s->lock);
    if (s->cap && key) {
        uint32_t i = place(s, key);
        found = s->rows[i].key != 0;
        s->rows[i].refs += found ? by : 0;
        *ret = s->rows[i];
        if (found && ret->refs <= 0)
            remove_at(s, i);
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}
