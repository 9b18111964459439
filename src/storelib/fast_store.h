#ifndef FAST_STORE_H
#define FAST_STORE_H

/* libfast-store.so: replicas of a model share one copy of its weights in device memory. This header
 * stands alone; a program needs nothing else of FaST-GShare.
 *
 *     struct fast_store *store;
 *     struct fast_store_model *model;
 *     char msg[256];
 *     fast_store_connect(NULL, NULL, &store, msg, sizeof(msg));
 *     fast_store_load_file(store, "resnet50.safetensors", "resnet50", NULL, 0, 30000, &model,
 *                          msg, sizeof(msg));
 *     struct fast_store_tensor t;
 *     fast_store_model_find(model, "conv1.weight", &t);     // t.device is a device pointer
 *
 * The first process that asks loads the file, the others wait and get the same memory, mapped for
 * reading. It stays for as long as they hold it, whatever becomes of the process that loaded it or of
 * the store. When a process ends, in whichever way, what it held is given back.
 *
 * A function returns 0, or a negative FAST_STORE_E code with the reason in |msg| of |msg_size| bytes
 * (NULL is fine). Where no CUDA context is current, the primary one of the first device is made
 * current. A connection may be used by several threads. It is not good in a forked child. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FAST_STORE_API __attribute__((visibility("default")))

enum {
    FAST_STORE_EINVAL = -1,  /* the argument or the file is wrong */
    FAST_STORE_ENOENT = -2,  /* there is no such model, file or tensor */
    FAST_STORE_ENOMEM = -4,  /* out of memory, of the host or the device */
    FAST_STORE_ENOROOM = -5, /* too many models, references or connections; larger than the device */
    FAST_STORE_EPERM = -6,   /* not allowed */
    FAST_STORE_EBUSY = -7,
    FAST_STORE_EIO = -8,     /* a system call or the driver failed */
    FAST_STORE_EPROTO = -9,  /* the store speaks another protocol */
    FAST_STORE_EPEER = -10,  /* there is no store */
    FAST_STORE_ETIME = -11,  /* somebody else loads the model and takes too long */
    FAST_STORE_ENOSYS = -12, /* the driver cannot share memory */
};

/* Flags of loading. */
enum {
    FAST_STORE_SHARED = 1,  /* functions of other namespaces may use the model too; only for who may
                             * administer the store, else FAST_STORE_EPERM. PINNED likewise */
    FAST_STORE_PINNED = 2,  /* it is never dropped for lack of memory */
    FAST_STORE_PRIVATE = 4, /* without a store, or after a time-out: load a copy of one's own */
};

struct fast_store;
struct fast_store_model;

/* A tensor. Strings and shape belong to the model. */
struct fast_store_tensor {
    const char *name;
    const char *dtype;     /* as in safetensors: "F32", "BF16", "I64", "F8_E4M3", "BOOL", ... */
    uint32_t ndim;         /* at most 8 */
    const uint64_t *shape;
    uint64_t bytes;
    uint64_t offset;       /* from the beginning of the model */
    uint64_t device;       /* a CUdeviceptr, a multiple of 256 */
    uint64_t hash;         /* of its bytes */
};

/* A tensor to be stored. */
struct fast_store_source {
    const char *name, *dtype;
    uint32_t ndim;
    const uint64_t *shape;
    uint64_t bytes;
    const void *data; /* in host or in device memory, contiguous */
};

/* |socket| NULL: $FAST_STORE_SOCKET; |pass| NULL: $FAST_STORE_PASS.
 * FAST_STORE_EPEER: there is no store; with FAST_STORE_PRIVATE one may go on with |store| NULL. */
FAST_STORE_API int fast_store_connect(const char *socket, const char *pass, struct fast_store **ret,
                                      char *msg, size_t msg_size);
/* The connection closes when the last model is released as well. NULL is fine. */
FAST_STORE_API void fast_store_disconnect(struct fast_store *store);
/* How memory is shared here: "vmm-read-only", "vmm" or "ipc". */
FAST_STORE_API const char *fast_store_via(const struct fast_store *store);

/* A model out of a safetensors file. |version| NULL: one is made of the file's header, size and time of
 * change, so that a changed file is another model. |wait_ms|: how long to wait for who loads it. */
FAST_STORE_API int fast_store_load_file(struct fast_store *store, const char *path, const char *name,
                                        const char *version, unsigned flags, unsigned wait_ms,
                                        struct fast_store_model **ret, char *msg, size_t msg_size);

/* A model that is there already, or is being loaded. |version| NULL: the newest. */
FAST_STORE_API int fast_store_get(struct fast_store *store, const char *name, const char *version,
                                  unsigned wait_ms, struct fast_store_model **ret, char *msg,
                                  size_t msg_size);

/* A model out of tensors that this process has. Their bytes are hashed first: a model of that name with
 * other contents is another model. |version| NULL: "". */
FAST_STORE_API int fast_store_put(struct fast_store *store, const char *name, const char *version,
                                  const struct fast_store_source *tensors, size_t count,
                                  unsigned flags, unsigned wait_ms, struct fast_store_model **ret,
                                  char *msg, size_t msg_size);

/* Waits for the work of the current context, unmaps it and gives the reference back. NULL is fine. */
FAST_STORE_API void fast_store_release(struct fast_store_model *model);

FAST_STORE_API size_t fast_store_model_count(const struct fast_store_model *model);
/* FAST_STORE_ENOENT: |i| is not below the count. In the order of their offsets. */
FAST_STORE_API int fast_store_model_tensor(const struct fast_store_model *model, size_t i,
                                           struct fast_store_tensor *ret);
FAST_STORE_API int fast_store_model_find(const struct fast_store_model *model, const char *name,
                                         struct fast_store_tensor *ret);
FAST_STORE_API uint64_t fast_store_model_device(const struct fast_store_model *model);
FAST_STORE_API uint64_t fast_store_model_bytes(const struct fast_store_model *model);
/* 1: this process has loaded it. */
FAST_STORE_API int fast_store_model_loaded(const struct fast_store_model *model);
/* 0: it is a private copy. */
FAST_STORE_API int fast_store_model_is_shared(const struct fast_store_model *model);

/* Reads the model back and compares the hash of every tensor. FAST_STORE_EIO: one differs. */
FAST_STORE_API int fast_store_model_verify(const struct fast_store_model *model, char *msg,
                                           size_t msg_size);
/* Compares the model, byte for byte, with a safetensors file, and its hashes with those of the file's bytes: whether
 * whoever loaded it has loaded that. FAST_STORE_EIO: it is something else. */
FAST_STORE_API int fast_store_model_compare(const struct fast_store_model *model, const char *path, char *msg,
                                            size_t msg_size);
/* Whether the store still knows of it. FAST_STORE_ENOENT: the store has been started anew since; the
 * model goes on, and is not counted as the store's. */
FAST_STORE_API int fast_store_model_known(const struct fast_store_model *model, char *msg,
                                          size_t msg_size);

#ifdef __cplusplus
}
#endif

#endif
