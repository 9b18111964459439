#ifndef FAST_STORE_STORE_H
#define FAST_STORE_STORE_H

/* The parts of fast-store: device.c has the memory, session.c the connections, main.c the process. What
 * becomes of a model is decided in core/catalog.h. */

#include <stdbool.h>

#include "core/catalog.h"
#include "core/pass.h"
#include "io/loop.h"
#include "storelib/driver.h"
#include "wire/msg.h"

#define STORE_PARTS_MAX 256
#define STORE_NS_DEFAULT "openfaas-fn"

struct store_conf {
    const char *socket;
    int listen_fd;       /* inherited from the node; -1: listen on |socket| */
    int gpu;             /* index on the node, for its rows; the device is the first visible one */
    const char *key_file; /* NULL: everybody is let in, as |STORE_NS_DEFAULT|, and may administer */
    const char *probe_file; /* where the outcome of the probe is kept; NULL: nowhere */
    struct fast_limits limits; /* of namespaces; zeros: none */
    fast_ns idle;        /* ends after so long without models and clients; FAST_NEVER: it does not */
};

/* ---- device.c ---- */

struct store_part_mem {
    CUmemGenericAllocationHandle handle; /* VMM */
    int fd;                              /* VMM: exported; -1 */
    CUdeviceptr ptr;                     /* IPC */
    CUipcMemHandle ipc;
    uint64_t bytes;
};

/* Device memory of one model. */
struct store_mem {
    struct store_part_mem parts[STORE_PARTS_MAX];
    int count;
    uint64_t bytes; /* what the device gives for it */
};

struct store_device {
    struct fast_store_driver d;
    CUdevice device;
    CUcontext ctx; /* IPC needs one; VMM only if the driver says so */
    size_t granularity; /* the device gives memory by multiples of it */
    size_t total; /* bytes of the device */
    enum fast_store_via via;
};

int store_device_init(struct store_device *dev, const char *probe_file, struct fast_err *err);
/* At most what the device has in all. FAST_ENOMEM: it has no room now. */
int store_device_alloc(struct store_device *dev, uint64_t bytes, struct store_mem **ret,
                       struct fast_err *err);
void store_device_free(struct store_device *dev, struct store_mem *mem); /* NULL is fine */

/* ---- probe.c ---- */

/* The exit status of `fast-store --probe`, which tries it out in a process of its own. */
int store_probe_run(void);
/* Asks such a process, or the file of an earlier answer. */
int store_probe(const struct fast_store_driver *d, CUdevice device, const char *file,
                enum fast_store_via *ret, struct fast_err *err);

/* ---- session.c ---- */

struct store_session {
    struct store *store;
    struct store_session *next;
    uint64_t id; /* as a client of the catalogue */
    int fd;
    struct fast_watch *watch;
    bool greeted, watching, closing;
    int pid;
    struct fast_pass pass;
};

struct store {
    const struct store_conf *conf;
    struct fast_loop *loop;
    struct store_device device;
    struct fast_catalog *catalog;
    unsigned char key[FAST_PASS_KEY];
    uint64_t epoch, last_client;
    struct store_session *sessions;
    int session_count;
    int listen_fd;
    struct fast_watch *listen_watch;
    struct fast_timer *wait_timer, *idle_timer, *reap_timer;
    uint64_t bytes; /* of device memory */
    char buf[FAST_MSG_MAX];
};

/* What the store adds to a model. */
struct store_model {
    struct store_mem *mem;
    int manifest_fd;
    uint32_t tensors;
    fast_ns load_ns;
    char loader[FAST_PASS_NAME]; /* who has loaded it */
};

int store_sessions_begin(struct store *s, struct fast_err *err);
void store_sessions_end(struct store *s);

/* ---- models.c ---- */

/* Performs what the catalogue has decided. */
void store_perform(struct store *s);
/* A request of |c|; the answer is sent, now or later. */
int store_want(struct store_session *c, const struct fast_msg *m, struct fast_err *err);
/* Takes |fd|. */
int store_commit(struct store_session *c, const struct fast_msg *m, int fd, struct fast_err *err);
/* Drops what nobody uses until the device has |bytes| more; returns what was dropped. */
uint64_t store_evict(struct store *s, uint64_t bytes);
void store_row(const struct store *s, const struct fast_model *m, struct fast_msg *ret);
void store_usage(const struct store *s, struct fast_msg *ret);
/* Tells those who watch. */
void store_tell_model(struct store *s, const struct fast_model *m);
void store_tell_usage(struct store *s);
struct store_session *store_session_find(struct store *s, uint64_t id);
/* A session that cannot be written to is closed from the loop. */
void store_send(struct store_session *c, const struct fast_msg *m, const int *fds, int nfds);
void store_done(struct store_session *c, uint32_t id, int code, const char *text);

#endif
