#ifndef FAST_NODE_LEDGER_H
#define FAST_NODE_LEDGER_H

/* Who holds how much device memory. Pure arithmetic: a device has a capacity, a replica on it has a
 * cap over all its processes, a process has bytes. The driver hands out memory in pages of 2 MiB, so
 * that each process is charged for whole pages. */

#include <stdbool.h>
#include <stdint.h>

#include "wire/msg.h"

#define NODE_LEDGER_PAGE (UINT64_C(2) << 20)

struct node_ledger_device {
    uint64_t total; /* bytes */
    uint64_t used;  /* charged to all replicas */
    uint64_t shared; /* of models that replicas share, charged to no replica */
};

struct node_ledger {
    struct node_ledger_device *device;
    uint64_t cap; /* bytes; 0: the whole device */
    uint64_t used;
    uint64_t on_device; /* of |used|, what counts there: not beyond the cap */
    uint64_t refused; /* reservations */
    bool all; /* what processes have beside their allocations counts as well */
};

struct node_ledger_process {
    struct node_ledger *of;
    uint64_t bytes; /* as it reserved them */
    uint64_t context; /* what it has beside them: contexts, modules and what else a driver keeps */
    uint64_t family[FAST_FAMILY_COUNT]; /* the part of |bytes| of which it is known how it was allocated */
};

/* What the process is charged for. */
uint64_t node_ledger_charged(const struct node_ledger_process *p);
/* What the cap of the replica leaves. */
uint64_t node_ledger_free(const struct node_ledger *l);

/* False: the cap or the device does not have it, and nothing is charged. |family|: enum fast_family; what
 * is not known counts in the sum alone. */
bool node_ledger_reserve(struct node_ledger_process *p, uint64_t bytes, uint32_t family);
/* How many bytes the device is short of for that; 0: it is not, or the cap would refuse anyway. */
uint64_t node_ledger_lacks(const struct node_ledger_process *p, uint64_t bytes);
/* Gives back; more than it has counts as all it has, and is told by false. */
bool node_ledger_release(struct node_ledger_process *p, uint64_t bytes, uint32_t family);
/* What it has beside its allocations, as measured: it is there already, so that the cap may be exceeded. */
void node_ledger_context(struct node_ledger_process *p, uint64_t bytes);
/* The process holds |bytes|, whatever was known before (after a restart of the node): memory that
 * is there already cannot be refused, so that the cap may be exceeded. At most the device. It is only
 * what a process says: beyond the cap it takes nothing from others. */
void node_ledger_set(struct node_ledger_process *p, uint64_t bytes);

#endif
