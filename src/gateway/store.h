#ifndef FAST_GATEWAY_STORE_H
#define FAST_GATEWAY_STORE_H

/* What survives the gateway: deployed functions and which generation of one each replica is, in
 * SQLite. Every write is on the disk when it returns: what a client was promised stays true. */

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct gw_store;

/* A function as it is stored. */
struct gw_record {
    const char *name, *ns, *json;
    size_t json_len;
    int desired;          /* replicas */
    uint32_t next_number; /* of its next replica; numbers are not used again */
    uint32_t generation;  /* goes up when running processes are outdated */
    int64_t created_ns;   /* wall clock */
};

/* Opens or creates the database. FAST_EPROTO: it was written by a newer version. FAST_EBUSY: another
 * gateway runs on it. */
int gw_store_open(const char *path, struct gw_store **ret, struct fast_err *err);
void gw_store_close(struct gw_store *store); /* NULL is fine */

int gw_store_put(struct gw_store *store, const struct gw_record *record, struct fast_err *err);
int gw_store_remove(struct gw_store *store, const char *name, const char *ns, struct fast_err *err);
/* Calls |fn| for each function; what it gets belongs to the call. */
int gw_store_each(struct gw_store *store, void (*fn)(void *arg, const struct gw_record *record),
                  void *arg, struct fast_err *err);

/* Which generation a replica was started as. */
int gw_store_replica_put(struct gw_store *store, const char *replica, uint32_t generation,
                         struct fast_err *err);
int gw_store_replica_remove(struct gw_store *store, const char *replica, struct fast_err *err);
/* 0 when the replica is not known. */
uint32_t gw_store_replica_generation(struct gw_store *store, const char *replica);

/* Namespaces that were created, each with its labels and annotations as JSON. */
int gw_store_ns_put(struct gw_store *store, const char *name, const char *json,
                    struct fast_err *err);
int gw_store_ns_remove(struct gw_store *store, const char *name, struct fast_err *err);
int gw_store_ns_each(struct gw_store *store, void (*fn)(void *arg, const char *name, const char *json),
                     void *arg, struct fast_err *err);

#endif
