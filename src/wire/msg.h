#ifndef FAST_WIRE_MSG_H
#define FAST_WIRE_MSG_H

/* The messages of wire/msg.def as structs, with one encoder and one decoder for all of them. The
 * decoder is the only place where lengths from a peer are looked at. */

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "wire/msg.def"

#define FAST_MSG_VERSION 1

/* The largest packet. Longer messages are refused by the encoder. */
#define FAST_MSG_MAX 65536

/* As |gpu| of a replica: it holds no slice of any GPU. */
#define FAST_GPU_NONE UINT32_MAX

/* Bytes that belong to the buffer they were decoded from, with a NUL behind them (not counted). A
 * str to encode needs no NUL. */
struct fast_str {
    const char *p;
    uint32_t len;
};

#define FAST_MSG_TYPE_u32 uint32_t
#define FAST_MSG_TYPE_u64 uint64_t
#define FAST_MSG_TYPE_i64 int64_t
#define FAST_MSG_TYPE_str struct fast_str
#define FAST_MSG_TYPE_strv struct fast_str

enum fast_msg_type {
    FAST_MSG_NONE = 0,
#define X(name, number) FAST_MSG_T_##name = (number),
    FAST_MSG_LIST(X)
#undef X
};

#define F(type, name) FAST_MSG_TYPE_##type name;
#define X(name, number)                                                                            \
    struct fast_msg_##name {                                                                       \
        FAST_MSG_##name(F)                                                                         \
    };
FAST_MSG_LIST(X)
#undef X
#undef F

struct fast_msg {
    uint32_t type; /* enum fast_msg_type */
    uint32_t id;   /* of the request, in its replies too; 0 for what nobody asked for */
    union {
#define X(name, number) struct fast_msg_##name name;
        FAST_MSG_LIST(X)
#undef X
    };
};

/* What was measured of a GPU for this gpu_row, as bits; the others of these fields mean nothing. Without MEM
 * |mem_used| is what the node knows of: its replicas and models. */
enum fast_known {
    FAST_KNOWN_UTIL = 1,
    FAST_KNOWN_SM = 2,
    FAST_KNOWN_OCCUPANCY = 4,
    FAST_KNOWN_DRAM = 8,
    FAST_KNOWN_MEM = 16,
};

/* How device memory was allocated. */
enum fast_family {
    FAST_FAMILY_DEVICE,
    FAST_FAMILY_MANAGED,
    FAST_FAMILY_POOL,
    FAST_FAMILY_VMM,
    FAST_FAMILY_ARRAY,
    FAST_FAMILY_COUNT,
};

/* Replica states as told in replica_row. */
enum fast_replica_state {
    FAST_REPLICA_STARTING, /* the process runs and does not answer yet */
    FAST_REPLICA_READY,
    FAST_REPLICA_UNHEALTHY, /* it was ready and stopped answering */
    FAST_REPLICA_BACKOFF,   /* it died; the next start waits */
    FAST_REPLICA_STOPPING,
    FAST_REPLICA_STOPPED, /* gone for good; the last row that is sent of it */
    FAST_REPLICA_STATE_COUNT
};

/* How SM partitions hold on a GPU. */
/* How well a limit holds. */
enum fast_hold {
    FAST_HOLD_ADVISORY, /* nothing keeps it */
    FAST_HOLD_SOFT,     /* for a process that keeps its hook and its environment */
    FAST_HOLD_HARD,     /* whatever the process does */
    FAST_HOLD_COUNT
};

enum fast_backend {
    FAST_BACKEND_NONE,     /* time only; partitions are advisory */
    FAST_BACKEND_MPS,      /* MPS active thread percentage: a cap, not a reservation (soft) */
    FAST_BACKEND_MPS_PART, /* MPS static partitions (hard) */
    FAST_BACKEND_COUNT
};

/* How a store hands out device memory. */
enum fast_store_via {
    FAST_STORE_VIA_VMM_RO, /* descriptors, mapped for reading: a write is caught by the device */
    FAST_STORE_VIA_VMM,    /* descriptors; the driver maps for reading and lets writes through */
    FAST_STORE_VIA_IPC,    /* legacy IPC handles, which cannot be mapped for reading alone */
    FAST_STORE_VIA_COUNT
};

const char *fast_msg_name(uint32_t type);
const char *fast_replica_state_name(uint32_t state);
const char *fast_backend_name(uint32_t backend);
const char *fast_store_via_name(uint32_t via);
const char *fast_hold_name(uint32_t hold);

/* Writes |msg| into |buf| of |cap| bytes. */
int fast_msg_encode(const struct fast_msg *msg, void *buf, size_t cap, size_t *ret_len,
                    struct fast_err *err);

/* Reads one packet. Strings in |ret| point into |buf|, which must outlive it. */
int fast_msg_decode(const void *buf, size_t len, struct fast_msg *ret, struct fast_err *err);

/* A str of a C string; NULL is "". */
struct fast_str fast_str(const char *text);

/* The |i|-th string of a strv, NULL past its end. */
const char *fast_strv_get(struct fast_str strv, size_t i);
size_t fast_strv_count(struct fast_str strv);

#endif
