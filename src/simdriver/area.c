/* The ranges of addresses that the driver knows, sorted by address. Device pointers come from one
 * window of addresses that is reserved once, the same in every process where that is possible, so
 * that a device pointer can be told from a host pointer and a stray access to it faults. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "simdriver/drv.h"

#define WINDOW_AT 0x400000000000ull
#define WINDOW_MAX (1ull << 40)
#define WINDOW_MIN (1ull << 34)
#define PAGE 4096ull

static struct {
    uintptr_t base, size, next;
    struct area **v;
    size_t count, cap;
    uint64_t ids;
} areas;

int area_init(void)
{
    for (uint64_t size = WINDOW_MAX; size >= WINDOW_MIN && !areas.base; size /= 2) {
        void *p = mmap((void *)WINDOW_AT, size, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == MAP_FAILED)
            p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            continue;
        areas.base = areas.next = (uintptr_t)p;
        areas.size = size;
    }
    return areas.base ? 0 : -1;
}

bool area_in_window(uintptr_t addr)
{
    return addr - areas.base < areas.size;
}

/* Index of the first area that ends behind |addr|. */
static size_t lower(uintptr_t addr)
{
    size_t lo = 0, hi = areas.count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (areas.v[mid]->base + areas.v[mid]->space <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Mappings lie inside reservations: a reservation does not count as one of the disjoint areas. */
static bool is_outer(const struct area *a)
{
    return a->kind == AREA_RESERVED;
}

static struct {
    struct area **v;
    size_t count, cap;
} outer;

static bool range_free(uintptr_t at, size_t space, uintptr_t *ret_next)
{
    size_t i = lower(at);
    if (i < areas.count && areas.v[i]->base < at + space) {
        *ret_next = areas.v[i]->base + areas.v[i]->space;
        return false;
    }
    for (i = 0; i < outer.count; i++) {
        if (outer.v[i]->base >= at + space || outer.v[i]->base + outer.v[i]->space <= at)
            continue;
        *ret_next = outer.v[i]->base + outer.v[i]->space;
        return false;
    }
    return true;
}

static uintptr_t search(uintptr_t from, uintptr_t to, size_t space, size_t align)
{
    uintptr_t at = from;
    for (;;) {
        at = (at + align - 1) & ~(uintptr_t)(align - 1);
        if (at + space > to || at + space < at)
            return 0;
        if (range_free(at, space, &at))
            return at;
    }
}

/* The page behind the range stays free, so that running over the end of an allocation faults. */
uintptr_t area_find_space(size_t space, size_t align, uintptr_t hint)
{
    uintptr_t end = areas.base + areas.size, next;
    space += PAGE;
    if (space < PAGE || space > areas.size)
        return 0;
    if (hint && hint % align == 0 && area_in_window(hint) && hint + space <= end &&
        range_free(hint, space, &next))
        return hint;
    uintptr_t at = search(areas.next, end, space, align);
    if (!at)
        at = search(areas.base, end, space, align);
    if (at)
        areas.next = at + space;
    return at;
}

static bool make_room(struct area ***v, size_t count, size_t *cap)
{
    if (count < *cap)
        return true;
    size_t n = *cap ? *cap * 2 : 64;
    struct area **p = realloc(*v, n * sizeof(*p));
    if (!p)
        return false;
    *v = p;
    *cap = n;
    return true;
}

struct area *area_add(const struct area *area)
{
    struct area *a = malloc(sizeof(*a));
    size_t i = lower(area->base);
    if (!a || !make_room(&areas.v, areas.count, &areas.cap) ||
        !make_room(&outer.v, outer.count, &outer.cap) ||
        (!is_outer(area) && i < areas.count && areas.v[i]->base < area->base + area->space)) {
        free(a);
        return NULL;
    }
    *a = *area;
    a->id = ++areas.ids;
    if (is_outer(a)) {
        outer.v[outer.count++] = a;
        return a;
    }
    memmove(areas.v + i + 1, areas.v + i, (areas.count - i) * sizeof(*areas.v));
    areas.v[i] = a;
    areas.count++;
    return a;
}

void area_remove(struct area *a)
{
    if (is_outer(a)) {
        for (size_t i = 0; i < outer.count; i++)
            if (outer.v[i] == a)
                outer.v[i] = outer.v[--outer.count];
    } else {
        size_t i = lower(a->base);
        areas.count--;
        memmove(areas.v + i, areas.v + i + 1, (areas.count - i) * sizeof(*areas.v));
    }
    free(a);
}

struct area *area_at(uintptr_t addr)
{
    size_t i = lower(addr);
    return i < areas.count && areas.v[i]->base <= addr ? areas.v[i] : NULL;
}

struct area *area_reserved_at(uintptr_t addr)
{
    for (size_t i = 0; i < outer.count; i++)
        if (addr - outer.v[i]->base < outer.v[i]->size)
            return outer.v[i];
    return NULL;
}

struct area *area_next(uintptr_t addr)
{
    size_t i = lower(addr);
    if (i < areas.count && areas.v[i]->base < addr)
        i++;
    return i < areas.count ? areas.v[i] : NULL;
}

bool area_covers(uintptr_t addr, size_t bytes, bool write)
{
    while (bytes) {
        const struct area *a = area_at(addr);
        unsigned need = write ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ;
        if (!a || addr - a->base >= a->size || (a->access & need) != need || a->freed)
            return false;
        size_t n = a->size - (addr - a->base);
        if (n >= bytes)
            return true;
        addr += n;
        bytes -= n;
    }
    return true;
}
