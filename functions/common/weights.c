/* Takes weights from a store of models, or puts them there. Replicas that come at the same time do so at
 * the same time: the store has one of them load and the others wait. */
#include "common/weights.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "storelib/fast_store.h"

#define WAIT_MS 60000 /* for somebody else's loading */

/* The part of libfast-store.so that is used here. */
struct library {
    __typeof__(fast_store_connect) *connect;
    __typeof__(fast_store_get) *get;
    __typeof__(fast_store_put) *put;
    __typeof__(fast_store_model_device) *device;
};

static int load_library(struct library *l, char *msg, size_t msg_size)
{
    const char *path = getenv("FAST_STORE_LIB");
    void *lib = dlopen(path && *path ? path : "libfast-store.so.0", RTLD_NOW | RTLD_LOCAL);
    const struct {
        void *at;
        const char *name;
    } names[] = {{&l->connect, "fast_store_connect"},
                 {&l->get, "fast_store_get"},
                 {&l->put, "fast_store_put"},
                 {&l->device, "fast_store_model_device"}};
    if (!lib) {
        snprintf(msg, msg_size, "%s", dlerror());
        return -1;
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        *(void **)names[i].at = dlsym(lib, names[i].name);
        if (!*(void **)names[i].at) {
            snprintf(msg, msg_size, "libfast-store.so has no %s", names[i].name);
            return -1;
        }
    }
    return 0;
}

static int put(const struct library *l, struct fast_store *store, const char *name,
               const char *version, const void *data, size_t bytes, struct fast_store_model **ret,
               char *msg, size_t msg_size)
{
    const uint64_t shape[] = {bytes};
    /* Pages that are only read are all the same page of zeros. */
    void *zeros = data ? NULL : mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const struct fast_store_source source = {.name = "weights", .dtype = "U8", .ndim = 1,
                                             .shape = shape, .bytes = bytes,
                                             .data = data ? data : zeros};
    if (zeros == MAP_FAILED) {
        snprintf(msg, msg_size, "no memory for %zu bytes", bytes);
        return -1;
    }
    int rc = l->put(store, name, version, &source, 1, 0, WAIT_MS, ret, msg, msg_size);
    if (zeros)
        munmap(zeros, bytes);
    return rc;
}

int weights_share(const char *name, const char *version, const void *data, size_t bytes,
                  CUdeviceptr *ret, char *msg, size_t msg_size)
{
    struct library l;
    struct fast_store *store = NULL;
    struct fast_store_model *model = NULL;
    const char *socket = getenv("FAST_STORE_SOCKET"), *given = getenv("FAST_MODEL");
    *msg = 0;
    if (!socket || !*socket || !bytes)
        return -1;
    name = given && *given ? given : name;
    if (load_library(&l, msg, msg_size) || l.connect(NULL, NULL, &store, msg, msg_size))
        return -1;
    int rc = *version ? l.get(store, name, version, WAIT_MS, &model, msg, msg_size)
                      : FAST_STORE_ENOENT;
    if (rc == FAST_STORE_ENOENT)
        rc = put(&l, store, name, version, data, bytes, &model, msg, msg_size);
    if (rc)
        return -1;
    *ret = l.device(model);
    return 0;
}
