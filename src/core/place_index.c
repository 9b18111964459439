/* The index over the free rectangles of a fleet. It assumes that functions come in few shapes, so that
 * sorted arrays of shapes, and of GPUs within a shape, beat trees. GPUs of equal memory are kept in
 * descending order, because the lowest is taken first: it leaves at the end of the array. */

#include "core/place_index.h"

#include <stdlib.h>
#include <string.h>

static int shape_cmp(const struct place_shape *shape, int area, int quota, int sm)
{
    if (shape->area != area)
        return shape->area < area ? -1 : 1;
    if (shape->quota != quota)
        return shape->quota < quota ? -1 : 1;
    return (shape->sm > sm) - (shape->sm < sm);
}

/* The place of the first shape that is not below the given one. */
static int shape_at(const struct place_index *index, int area, int quota, int sm)
{
    int lo = 0, hi = index->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (shape_cmp(index->shapes[mid], area, quota, sm) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The number of entries that come before (|mem|, |gpu|) in descending order. */
static int entry_at(const struct place_shape *shape, uint64_t mem, int gpu)
{
    int lo = 0, hi = shape->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        const struct place_entry *e = &shape->entries[mid];
        if (e->mem_free > mem || (e->mem_free == mem && e->gpu > gpu))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void shape_free(struct place_shape *shape)
{
    free(shape->entries);
    free(shape);
}

void place_index_fini(struct place_index *index)
{
    for (int i = 0; i < index->n; i++)
        shape_free(index->shapes[i]);
    while (index->spare) {
        struct place_shape *next = index->spare->next;
        shape_free(index->spare);
        index->spare = next;
    }
    free(index->shapes);
    memset(index, 0, sizeof(*index));
}

int place_grow(void **array, int n, int *cap, size_t size)
{
    if (n < *cap)
        return 0;
    int more = *cap ? 2 * *cap : 4;
    void *at = realloc(*array, (size_t)more * size);
    if (!at)
        return -FAST_ENOMEM;
    *array = at;
    *cap = more;
    return 0;
}

int place_insert(void **array, int *n, int *cap, int at, const void *it)
{
    if (place_grow(array, *n, cap, sizeof(it)))
        return -FAST_ENOMEM;
    char *to = (char *)*array + (size_t)at * sizeof(it);
    memmove(to + sizeof(it), to, (size_t)(*n - at) * sizeof(it));
    memcpy(to, &it, sizeof(it));
    ++*n;
    return 0;
}

static int no_memory(struct fast_err *err)
{
    return fast_err_set(err, FAST_ENOMEM, "no memory for the index of the GPUs");
}

static int shape_insert(struct place_index *index, int at, int area, int quota, int sm,
                        struct fast_err *err)
{
    struct place_shape *shape = index->spare;
    if (shape)
        index->spare = shape->next;
    else
        shape = calloc(1, sizeof(*shape));
    if (!shape || place_grow((void **)&shape->entries, 0, &shape->cap, sizeof(struct place_entry)) ||
        place_insert((void **)&index->shapes, &index->n, &index->cap, at, shape)) {
        if (shape)
            shape_free(shape);
        return no_memory(err);
    }
    shape->area = area;
    shape->quota = quota;
    shape->sm = sm;
    return 0;
}

int place_index_add(struct place_index *index, int quota, int sm, uint64_t mem_free, int gpu,
                    struct fast_err *err)
{
    int at = shape_at(index, quota * sm, quota, sm);
    bool known = at < index->n && !shape_cmp(index->shapes[at], quota * sm, quota, sm);
    if (!known && shape_insert(index, at, quota * sm, quota, sm, err))
        return -FAST_ENOMEM;
    struct place_shape *shape = index->shapes[at];
    if (place_grow((void **)&shape->entries, shape->n, &shape->cap, sizeof(struct place_entry)))
        return no_memory(err);
    int to = entry_at(shape, mem_free, gpu);
    memmove(&shape->entries[to + 1], &shape->entries[to],
            sizeof(struct place_entry) * (size_t)(shape->n - to));
    shape->entries[to] = (struct place_entry){mem_free, gpu};
    shape->n++;
    return 0;
}

bool place_index_remove(struct place_index *index, int quota, int sm, uint64_t mem_free, int gpu)
{
    int at = shape_at(index, quota * sm, quota, sm);
    if (at == index->n || shape_cmp(index->shapes[at], quota * sm, quota, sm))
        return false;
    struct place_shape *shape = index->shapes[at];
    int from = entry_at(shape, mem_free, gpu);
    if (from == shape->n || shape->entries[from].mem_free != mem_free ||
        shape->entries[from].gpu != gpu)
        return false;
    shape->n--;
    memmove(&shape->entries[from], &shape->entries[from + 1],
            sizeof(struct place_entry) * (size_t)(shape->n - from));
    if (!shape->n) {
        shape->next = index->spare;
        index->spare = shape;
        index->n--;
        memmove(&index->shapes[at], &index->shapes[at + 1],
                sizeof(struct place_shape *) * (size_t)(index->n - at));
    }
    return true;
}

int place_index_find(const struct place_index *index, int quota, int sm, uint64_t mem,
                     place_accept_fn *accept, const void *arg)
{
    const struct place_entry *best = NULL;
    int area = 0;
    for (int i = shape_at(index, quota * sm, 0, 0); i < index->n; i++) {
        const struct place_shape *shape = index->shapes[i];
        if (best && shape->area > area)
            break;
        if (shape->quota < quota || shape->sm < sm)
            continue;
        for (int k = entry_at(shape, mem, -1) - 1; k >= 0; k--) {
            const struct place_entry *e = &shape->entries[k];
            if (best && (e->mem_free > best->mem_free ||
                         (e->mem_free == best->mem_free && e->gpu > best->gpu)))
                break;
            if (!accept(arg, e->gpu))
                continue;
            best = e;
            area = shape->area;
            break;
        }
    }
    return best ? best->gpu : -1;
}
