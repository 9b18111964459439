#ifndef FAST_CORE_CATALOG_H
#define FAST_CORE_CATALOG_H

/* Which models a store holds, who uses them, who loads one and who waits for that, and which one goes
 * when memory is needed. Pure: the store has the memory and the connections, `now` is an argument, and
 * what is to be done comes out of fast_catalog_next().
 *
 *   want, nothing there                        one loader, everybody else waits
 *   +---------+ commit +-------+ removed, in use +---------+
 *   | loading |------->| ready |---------------->| retired |
 *   +---------+        +-------+                 +---------+
 *     |  ^ the loader dies or gives up: the       |  last reference
 *     |  | next who waits loads it    | removed   |
 *     +--+ nobody waits: gone         v or evicted, not in use
 *
 * A model belongs to a namespace and is addressed by name, version and digest in it. A reference
 * belongs to a client (a connection); when the client goes, so do its references. */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"
#include "core/limit.h"

#define FAST_CATALOG_MODELS 256
#define FAST_CATALOG_NS_MODELS 64 /* of one namespace */
#define FAST_CATALOG_HOLDS 256    /* references and waits of one client */
#define FAST_CATALOG_NAME 128   /* bytes of a model's name, with its NUL */
#define FAST_CATALOG_VERSION 64 /* and of its version */
#define FAST_CATALOG_NS 64      /* and of its namespace */
#define FAST_CATALOG_WAITS 1024 /* requests that wait, of all clients; one of each */

/* As told in model_row. One that is removed while it is loaded becomes FAST_MODEL_RETIRED by its commit. */
enum fast_model_state {
    FAST_MODEL_LOADING, /* somebody writes it */
    FAST_MODEL_READY,
    FAST_MODEL_RETIRED, /* removed; those who have it keep it */
    FAST_MODEL_GONE,
    FAST_MODEL_STATE_COUNT
};

/* Flags of model_want. */
enum {
    FAST_MODEL_F_SHARED = 1, /* when it is loaded: other namespaces may use it */
    FAST_MODEL_F_PINNED = 2, /* when it is loaded: it is not dropped for lack of memory */
};

const char *fast_model_state_name(uint32_t state);

struct fast_catalog;

struct fast_model {
    uint64_t id; /* never used twice, also not by another life of the store */
    char ns[FAST_CATALOG_NS], name[FAST_CATALOG_NAME], version[FAST_CATALOG_VERSION];
    uint64_t digest[2];
    enum fast_model_state state;
    uint64_t bytes;   /* as it was asked for */
    uint64_t charge;  /* what the device gives for it */
    bool shared, pinned;
    bool removed;     /* nobody new gets it */
    bool verified;    /* compared with what it should be; the store's own, false at first */
    uint32_t refs;    /* of all clients, that of the loader included */
    uint32_t waiting; /* requests */
    uint64_t loader;  /* a client; 0: none */
    uint64_t gets;
    fast_ns used_at;  /* last time that a reference was taken or given back */
    void *data;       /* the store's own; NULL at first */
};

/* What a client asks for. Strings end with the call. */
struct fast_model_want {
    const char *ns, *name, *version; /* version "": any */
    uint64_t digest[2];              /* 0, 0: any */
    uint64_t bytes;                  /* 0: it cannot load the model itself */
    uint32_t flags;                  /* FAST_MODEL_F_ */
    fast_ns wait;
};

enum fast_catalog_do {
    FAST_CATALOG_GIVE,   /* |client| has a reference to |model|, which is ready: request |id| */
    FAST_CATALOG_LOAD,   /* |client| has a reference to |model| and is to load it: request |id| */
    FAST_CATALOG_EXPIRE, /* request |id| of |client| has waited for too long */
    FAST_CATALOG_FREE,   /* |model| is gone: free its memory, and forget the pointer */
};

struct fast_catalog_action {
    enum fast_catalog_do what;
    uint64_t client;
    uint32_t id;
    struct fast_model *model;
};

/* |epoch|: of the life of the store, in the upper half of every model's id. */
int fast_catalog_new(uint32_t epoch, struct fast_catalog **ret, struct fast_err *err);
void fast_catalog_free(struct fast_catalog *c); /* NULL is fine; |data| of models is the caller's */

/* The models of a namespace may take so much of a device of |total| bytes, which gives memory by multiples of
 * |grain|. Those that are in use, are being loaded, are pinned or were removed and are still in use count; those
 * that nobody uses make room for others of their namespace. What is above a new limit stays. */
void fast_catalog_limit(struct fast_catalog *c, const struct fast_limits *limits, uint64_t total,
                        uint64_t grain);
uint64_t fast_catalog_limit_of(const struct fast_catalog *c, const char *ns);

/* Request |id| of |client| (not 0). What becomes of it comes from fast_catalog_next(), now or later.
 * FAST_ENOENT: nothing of that name that this namespace may use, and it cannot be loaded.
 * FAST_EINVAL, FAST_ENOROOM (of which the limit of its namespace is one), FAST_EBUSY (the client waits already,
 * and would for this as well): nothing was changed. */
int fast_catalog_want(struct fast_catalog *c, uint64_t client, uint32_t id,
                      const struct fast_model_want *want, fast_ns now, struct fast_err *err);

/* The loader says that the model is there. FAST_EPERM: it is not the loader. */
int fast_catalog_commit(struct fast_catalog *c, uint64_t client, uint64_t model, fast_ns now,
                        struct fast_err *err);

/* FAST_ENOENT: it is not there. The message tells a model of an earlier life of the store from one
 * that never was. */
int fast_catalog_known(const struct fast_catalog *c, uint64_t model, struct fast_err *err);

/* One reference of |client| less; of a loader: it gives up. FAST_ENOENT: it has none. */
int fast_catalog_close(struct fast_catalog *c, uint64_t client, uint64_t model, fast_ns now,
                       struct fast_err *err);

/* The connection is gone, however that came. */
void fast_catalog_client_gone(struct fast_catalog *c, uint64_t client, fast_ns now);

/* Every model of that name; |version| "": every version. FAST_ENOENT: there is none. One that is in use
 * or being loaded is given to nobody who asks from now on, and goes with its last reference. */
int fast_catalog_remove(struct fast_catalog *c, const char *ns, const char *name,
                        const char *version, struct fast_err *err);
int fast_catalog_pin(struct fast_catalog *c, const char *ns, const char *name, const char *version,
                     bool pin, struct fast_err *err);

/* Drops the model that was not used for longest, if there is one that is not in use and not pinned.
 * Its FREE comes from fast_catalog_next(). Returns its bytes, 0: there was none. */
uint64_t fast_catalog_evict(struct fast_catalog *c);

/* Requests that have waited for too long come out of fast_catalog_next(). */
void fast_catalog_tick(struct fast_catalog *c, fast_ns now);
/* When to call fast_catalog_tick() at the latest. */
fast_ns fast_catalog_expiry(const struct fast_catalog *c);

/* The next thing to do; false: nothing. Another call into the catalogue may come between two of them;
 * a model is valid until its FREE. */
bool fast_catalog_next(struct fast_catalog *c, struct fast_catalog_action *ret);

/* Models, in the order of their ids. */
int fast_catalog_count(const struct fast_catalog *c);
struct fast_model *fast_catalog_at(const struct fast_catalog *c, int i);
struct fast_model *fast_catalog_find(const struct fast_catalog *c, uint64_t model);

/* Not in use and not pinned: what may be dropped. */
bool fast_model_is_cached(const struct fast_model *m);

/* Invariants, for tests. */
bool fast_catalog_valid(const struct fast_catalog *c);

#endif
