#ifndef FAST_STORELIB_LIB_H
#define FAST_STORELIB_LIB_H

/* What the files of libfast-store.so know of each other. */

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

#include "base/err.h"
#include "base/units.h"
#include "core/manifest.h"
#include "storelib/driver.h"
#include "storelib/fast_store.h"

#define STORE_CHUNKS_MAX 256

struct fast_store {
    struct fast_store_driver d;
    pthread_mutex_t lock; /* of the connection: one request at a time */
    char socket[108], pass[320];
    char ns[64];
    int fd; /* -1: not connected (now, or ever: |socket| is "") */
    pid_t pid; /* who made it; a forked child must leave it alone */
    uint64_t epoch;
    uint32_t via, next_id;
    int users;         /* the program, and each model; guarded by |lock| */
    CUcontext primary; /* retained, if there was no context */
    char *buf;         /* of FAST_MSG_MAX bytes, for replies */
};

enum store_map_kind { STORE_MAP_NONE, STORE_MAP_VMM, STORE_MAP_IPC, STORE_MAP_PRIVATE };

/* Device memory of a model in this process. */
struct store_map {
    enum store_map_kind kind;
    CUdevice device;
    CUdeviceptr base;
    size_t bytes; /* with what the granularity adds */
};

/* A part of a model, as the store hands it out. */
struct store_part {
    int fd; /* -1: |ipc| */
    uint64_t bytes;
    CUipcMemHandle ipc;
};

/* The answer to a request for a model. */
struct store_grant {
    uint64_t model, epoch, bytes;
    bool load;       /* the caller is the loader */
    int manifest_fd; /* -1 when |load| */
    struct store_part parts[STORE_CHUNKS_MAX];
    int count;
};

struct fast_store_model {
    struct fast_store *store;
    uint64_t id, epoch; /* of a shared one */
    uint64_t bytes;
    struct store_map map;
    bool loaded;
    struct fast_manifest *manifest; /* owned; names of |tensors| lie in it */
    size_t manifest_len;
    struct fast_tensor *tensors;
    uint32_t *sorted; /* indices by name */
    size_t count;
};

/* What is asked of a store; strings are never NULL. */
struct store_want {
    const char *name, *version;
    uint64_t digest[2], bytes;
    unsigned flags, wait_ms;
};

/* ---- client.c: the connection ---- */

int store_client_new(const char *socket, const char *pass, struct fast_store **ret,
                     struct fast_err *err);
/* One that is not connected, for private copies. */
int store_client_offline(struct fast_store **ret, struct fast_err *err);
void store_client_use(struct fast_store *s);
void store_client_drop(struct fast_store *s);
/* Makes sure that there is a context, and that this is not a forked child. */
int store_client_enter(struct fast_store *s, struct fast_err *err);
/* On success descriptors are the caller's: store_grant_fini() closes those that are left. */
int store_client_want(struct fast_store *s, const struct store_want *want, struct store_grant *ret,
                      struct fast_err *err);
void store_grant_fini(struct store_grant *grant);
int store_client_commit(struct fast_store *s, uint64_t epoch, uint64_t model, int manifest_fd,
                        fast_ns load, struct fast_err *err);
int store_client_close(struct fast_store *s, uint64_t epoch, uint64_t model, struct fast_err *err);
int store_client_known(struct fast_store *s, uint64_t model, struct fast_err *err);
/* Tells the store that |model| was compared with its file, and is to have |flags|. */
int store_client_verified(struct fast_store *s, const struct fast_store_model *model, unsigned flags,
                          struct fast_err *err);
fast_ns store_now(void);

/* ---- map.c ---- */

/* Maps what was granted; |write|: the loader. Takes the descriptors. */
int store_map_grant(const struct fast_store_driver *d, struct store_grant *grant, bool write,
                    struct store_map *ret, struct fast_err *err);
int store_map_private(const struct fast_store_driver *d, uint64_t bytes, struct store_map *ret,
                      struct fast_err *err);
/* The loader is done: from now on for reading. */
int store_map_protect(const struct fast_store_driver *d, const struct store_map *map,
                      struct fast_err *err);
void store_map_fini(const struct fast_store_driver *d, struct store_map *map);

/* ---- stage.c: bytes between files, host and device ---- */

/* A piece of a file, or of memory, and where it belongs. */
struct store_piece {
    uint64_t from;  /* offset in the file */
    uint64_t to;    /* from the beginning of the model */
    uint64_t bytes;
    uint64_t hash;  /* set */
};

/* Reads the pieces, in their order, from |fd| to the device at |base| and hashes them on the way. */
int store_stage_file(const struct fast_store_driver *d, int fd, CUdeviceptr base,
                     struct store_piece *pieces, size_t n, struct fast_err *err);
/* The hash of |bytes| at |data|, in host or device memory. */
int store_stage_hash(const struct fast_store_driver *d, const void *data, uint64_t bytes,
                     uint64_t *ret, struct fast_err *err);
/* Whether the pieces, at |base|, have the bytes that they have in |fd|. Returns in |ret_first| the first that has
 * not, or |n|; sets the hashes of those before, of the bytes in the file. */
int store_stage_compare(const struct fast_store_driver *d, int fd, CUdeviceptr base,
                        struct store_piece *pieces, size_t n, size_t *ret_first, struct fast_err *err);
/* The hashes of tensors on the device. */
int store_stage_hash_all(const struct fast_store_driver *d, CUdeviceptr base,
                         struct fast_tensor *tensors, size_t n, struct fast_err *err);

/* ---- model.c ---- */

/* Of a checked manifest, which it takes over, also on an error. */
int store_model_new(struct fast_store *s, struct fast_manifest *manifest, size_t len,
                    struct fast_store_model **ret, struct fast_err *err);
/* Everything of getting a model but filling it: |fill| writes the tensors at |base| and sets their
 * hashes. |tensors| are laid out. */
typedef int store_fill_fn(void *arg, struct fast_store *s, CUdeviceptr base,
                          struct fast_tensor *tensors, size_t n, struct fast_err *err);
int store_model_obtain(struct fast_store *s, const struct store_want *want,
                       struct fast_tensor *tensors, size_t n, store_fill_fn *fill, void *arg,
                       struct fast_store_model **ret, struct fast_err *err);

/* ---- safetensors.c ---- */

struct store_file {
    int fd;
    struct fast_tensor *tensors; /* |count|, by their place in the file; laid out */
    struct store_piece *pieces;
    size_t count;
    uint64_t bytes; /* of the model */
    uint64_t stamp; /* of header, size and time of change */
    off_t size;
    struct timespec changed;
    char *names;
};

int store_file_open(const char *path, struct store_file *ret, struct fast_err *err);
/* FAST_EIO: it is not any more what was opened. */
int store_file_check(const struct store_file *file, struct fast_err *err);
void store_file_fini(struct store_file *file);

/* ---- api.c ---- */

/* The end of an exported function. */
int store_tell(int rc, const struct fast_err *err, char *msg, size_t msg_size);

#endif
