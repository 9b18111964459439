/* Decides whether a replica may have more device memory. It assumes that every reservation of every
 * process comes through here before the driver allocates; sums cannot overflow, because nothing is
 * ever charged beyond the device (a cap is at most 2^63, checked below). */
#include "node/ledger.h"

static uint64_t pages(uint64_t bytes)
{
    return (bytes + NODE_LEDGER_PAGE - 1) / NODE_LEDGER_PAGE * NODE_LEDGER_PAGE;
}

/* What the process is charged for when it has allocated |bytes|. */
static uint64_t charged(const struct node_ledger_process *p, uint64_t bytes)
{
    return pages(bytes) + (p->of->all ? pages(p->context) : 0);
}

uint64_t node_ledger_charged(const struct node_ledger_process *p)
{
    return charged(p, p->bytes);
}

uint64_t node_ledger_free(const struct node_ledger *l)
{
    uint64_t cap = l->cap ? l->cap : l->device->total;
    return cap > l->used ? cap - l->used : 0;
}

static void charge(struct node_ledger_process *p, uint64_t bytes, uint64_t context)
{
    uint64_t before = charged(p, p->bytes);
    struct node_ledger *l = p->of;
    uint64_t cap = l->cap ? l->cap : l->device->total, was = l->on_device;
    p->bytes = bytes;
    p->context = context;
    l->used = l->used - before + charged(p, bytes);
    l->on_device = l->used < cap ? l->used : cap;
    l->device->used = l->device->used - was + l->on_device;
}

/* What the device has left. */
static uint64_t room(const struct node_ledger_device *d)
{
    return d->total > d->used && d->total - d->used > d->shared ? d->total - d->used - d->shared : 0;
}

uint64_t node_ledger_lacks(const struct node_ledger_process *p, uint64_t bytes)
{
    const struct node_ledger_device *d = p->of->device;
    if (bytes > d->total)
        return 0;
    uint64_t more = pages(p->bytes + bytes) - pages(p->bytes);
    return more <= node_ledger_free(p->of) && more > room(d) ? more - room(d) : 0;
}

bool node_ledger_reserve(struct node_ledger_process *p, uint64_t bytes, uint32_t family)
{
    struct node_ledger_device *d = p->of->device;
    if (bytes <= d->total) {
        uint64_t more = pages(p->bytes + bytes) - pages(p->bytes);
        if (more <= node_ledger_free(p->of) && more <= room(d)) {
            charge(p, p->bytes + bytes, p->context);
            if (family < FAST_FAMILY_COUNT)
                p->family[family] += bytes;
            return true;
        }
    }
    p->of->refused++;
    return false;
}

/* A context that ends gives back what was allocated in it under one name, whatever it was: so the rest comes
 * off the other families, lest they add up to more than there is. */
static void uncount(struct node_ledger_process *p, uint64_t bytes, uint32_t family)
{
    uint64_t sum = 0;
    if (family < FAST_FAMILY_COUNT)
        p->family[family] -= bytes < p->family[family] ? bytes : p->family[family];
    for (int i = 0; i < FAST_FAMILY_COUNT; i++)
        sum += p->family[i];
    uint64_t over = sum > p->bytes ? sum - p->bytes : 0;
    for (int i = 0; i < FAST_FAMILY_COUNT && over; i++) {
        uint64_t part = over < p->family[i] ? over : p->family[i];
        p->family[i] -= part;
        over -= part;
    }
}

bool node_ledger_release(struct node_ledger_process *p, uint64_t bytes, uint32_t family)
{
    bool known = bytes <= p->bytes;
    charge(p, known ? p->bytes - bytes : 0, p->context);
    uncount(p, bytes, family);
    return known;
}

void node_ledger_context(struct node_ledger_process *p, uint64_t bytes)
{
    uint64_t total = p->of->device->total;
    charge(p, p->bytes, bytes < total ? bytes : total);
}

void node_ledger_set(struct node_ledger_process *p, uint64_t bytes)
{
    uint64_t total = p->of->device->total;
    charge(p, bytes < total ? bytes : total, p->context);
    uncount(p, 0, FAST_FAMILY_COUNT);
}
