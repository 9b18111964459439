#include "cuda/entry.h"

#include <stdlib.h>
#include <string.h>

/* Looks names up in the sorted tables. Most names that a program looks up are not the driver's, so
 * the first two letters decide before any search. */

static int cmp_symbol(const void *key, const void *row)
{
    return strcmp(key, ((const struct fast_entry_info *)row)->symbol);
}

static int cmp_base(const void *key, const void *row)
{
    return strcmp(key, ((const struct fast_entry_base *)row)->base);
}

int fast_entry_find(const char *symbol)
{
    if (symbol[0] != 'c' || symbol[1] != 'u')
        return -1;
    const struct fast_entry_info *row = bsearch(symbol, fast_entry_hooked, FAST_ENTRY_COUNT,
                                                sizeof(*row), cmp_symbol);
    return row ? (int)(row - fast_entry_hooked) : -1;
}

int fast_entry_base_find(const char *base)
{
    const struct fast_entry_base *row = bsearch(base, fast_entry_bases, fast_entry_base_count,
                                                sizeof(*row), cmp_base);
    return row ? (int)(row - fast_entry_bases) : -1;
}
