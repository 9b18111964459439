/* The exported functions: from what a program says to what a store is asked, and errors into text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "storelib/lib.h"
#include "wire/msg.h"

_Static_assert(FAST_STORE_EINVAL == -FAST_EINVAL && FAST_STORE_ENOENT == -FAST_ENOENT &&
                   FAST_STORE_ENOMEM == -FAST_ENOMEM && FAST_STORE_ENOROOM == -FAST_ENOROOM &&
                   FAST_STORE_EPERM == -FAST_EPERM && FAST_STORE_EBUSY == -FAST_EBUSY &&
                   FAST_STORE_EIO == -FAST_EIO && FAST_STORE_EPROTO == -FAST_EPROTO &&
                   FAST_STORE_EPEER == -FAST_EPEER && FAST_STORE_ETIME == -FAST_ETIME &&
                   FAST_STORE_ENOSYS == -FAST_ENOSYS,
               "the public codes are ours");

int store_tell(int rc, const struct fast_err *err, char *msg, size_t msg_size)
{
    if (msg && msg_size)
        snprintf(msg, msg_size, "%s", rc ? err->msg : "");
    return rc;
}

int fast_store_connect(const char *socket, const char *pass, struct fast_store **ret, char *msg,
                       size_t msg_size)
{
    struct fast_err err = {0};
    int rc = store_client_new(socket ? socket : getenv("FAST_STORE_SOCKET"),
                              pass ? pass : getenv("FAST_STORE_PASS"), ret, &err);
    return store_tell(rc, &err, msg, msg_size);
}

void fast_store_disconnect(struct fast_store *store)
{
    if (store)
        store_client_drop(store);
}

const char *fast_store_via(const struct fast_store *store)
{
    return fast_store_via_name(store->via);
}

/* ---- files ---- */

static int fill_from_file(void *arg, struct fast_store *s, CUdeviceptr base,
                          struct fast_tensor *tensors, size_t n, struct fast_err *err)
{
    struct store_file *f = arg;
    int rc = store_stage_file(&s->d, f->fd, base, f->pieces, n, err);
    rc = rc ? rc : store_file_check(f, err);
    for (size_t i = 0; i < n && !rc; i++)
        tensors[i].hash = f->pieces[i].hash;
    return rc;
}

static int load_file(struct fast_store *store, const char *path, struct store_want *want,
                     struct fast_store_model **ret, struct fast_err *err)
{
    struct store_file f;
    char stamp[24];
    struct fast_store *offline = NULL;
    int rc = store_file_open(path, &f, err);
    if (rc)
        return rc;
    if (!store && (want->flags & FAST_STORE_PRIVATE))
        rc = store_client_offline(&offline, err);
    else if (!store)
        rc = fast_err_set(err, FAST_EPEER, "there is no store");
    if (!want->version) {
        snprintf(stamp, sizeof(stamp), "%016llx", (unsigned long long)f.stamp);
        want->version = stamp;
    }
    want->bytes = f.bytes ? f.bytes : 1;
    fast_manifest_digest(f.tensors, f.count, f.stamp, want->digest);
    if (!rc)
        rc = store_model_obtain(store ? store : offline, want, f.tensors, f.count, fill_from_file, &f,
                                ret, err);
    if (offline)
        store_client_drop(offline);
    store_file_fini(&f);
    return rc;
}

int fast_store_load_file(struct fast_store *store, const char *path, const char *name,
                         const char *version, unsigned flags, unsigned wait_ms,
                         struct fast_store_model **ret, char *msg, size_t msg_size)
{
    struct fast_err err = {0};
    struct store_want want = {.name = name, .version = version, .flags = flags, .wait_ms = wait_ms};
    return store_tell(load_file(store, path, &want, ret, &err), &err, msg, msg_size);
}

int fast_store_get(struct fast_store *store, const char *name, const char *version, unsigned wait_ms,
                   struct fast_store_model **ret, char *msg, size_t msg_size)
{
    struct fast_err err = {0};
    struct store_want want = {.name = name, .version = version ? version : "", .wait_ms = wait_ms};
    int rc = store ? store_model_obtain(store, &want, NULL, 0, NULL, NULL, ret, &err)
                   : fast_err_set(&err, FAST_EPEER, "there is no store");
    return store_tell(rc, &err, msg, msg_size);
}

/* ---- tensors that are there already ---- */

static int fill_from_memory(void *arg, struct fast_store *s, CUdeviceptr base,
                            struct fast_tensor *tensors, size_t n, struct fast_err *err)
{
    const struct fast_store_source *from = arg;
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++)
        if (tensors[i].bytes)
            rc = fast_store_driver_check(&s->d,
                                         s->d.copy(base + tensors[i].offset,
                                                   (CUdeviceptr)(uintptr_t)from[i].data,
                                                   tensors[i].bytes),
                                         "cuMemcpy", err);
    /* A copy from device to device may still be under way. */
    return rc ? rc : fast_store_driver_check(&s->d, s->d.ctx_sync(), "cuCtxSynchronize", err);
}

static int describe(struct fast_store *s, const struct fast_store_source *from, struct fast_tensor *t,
                    struct fast_err *err)
{
    *t = (struct fast_tensor){.name = from->name, .dtype = fast_dtype_find(from->dtype),
                              .ndim = from->ndim, .bytes = from->bytes};
    if (t->dtype == FAST_DTYPE_COUNT)
        return fast_err_set(err, FAST_EINVAL, "tensor \"%.100s\": type %.20s is not known", from->name,
                            from->dtype);
    if (from->ndim > FAST_TENSOR_DIMS)
        return fast_err_set(err, FAST_EINVAL, "tensor \"%.100s\": it has more than 8 dimensions",
                            from->name);
    for (uint32_t i = 0; i < from->ndim; i++)
        t->shape[i] = from->shape[i];
    return store_stage_hash(&s->d, from->data, from->bytes, &t->hash, err);
}

static int put(struct fast_store *s, struct store_want *want, const struct fast_store_source *from,
               size_t n, struct fast_store_model **ret, struct fast_err *err)
{
    fast_autofree struct fast_tensor *t = calloc(n ? n : 1, sizeof(*t));
    if (!t)
        return fast_err_set(err, FAST_ENOMEM, "no memory for %zu tensors", n);
    int rc = store_client_enter(s, err);
    for (size_t i = 0; i < n && !rc; i++)
        rc = describe(s, &from[i], &t[i], err);
    rc = rc ? rc : fast_manifest_lay_out(t, n, &want->bytes, err);
    if (rc)
        return rc;
    want->bytes += !want->bytes;
    fast_manifest_digest(t, n, 0, want->digest);
    return store_model_obtain(s, want, t, n, fill_from_memory, (void *)(uintptr_t)from, ret, err);
}

int fast_store_put(struct fast_store *store, const char *name, const char *version,
                   const struct fast_store_source *tensors, size_t count, unsigned flags,
                   unsigned wait_ms, struct fast_store_model **ret, char *msg, size_t msg_size)
{
    struct fast_err err = {0};
    struct fast_store *offline = NULL;
    struct store_want want = {.name = name, .version = version ? version : "", .flags = flags,
                              .wait_ms = wait_ms};
    int rc = 0;
    if (!store && (flags & FAST_STORE_PRIVATE))
        rc = store_client_offline(&offline, &err);
    else if (!store)
        rc = fast_err_set(&err, FAST_EPEER, "there is no store");
    rc = rc ? rc : put(store ? store : offline, &want, tensors, count, ret, &err);
    if (offline)
        store_client_drop(offline);
    return store_tell(rc, &err, msg, msg_size);
}

/* ---- looking ---- */

int fast_store_model_verify(const struct fast_store_model *m, char *msg, size_t msg_size)
{
    struct fast_err err = {0};
    struct fast_store *s = m->store;
    size_t size = (m->count ? m->count : 1) * sizeof(struct fast_tensor);
    fast_autofree struct fast_tensor *t = malloc(size);
    if (!t)
        return store_tell(fast_err_set(&err, FAST_ENOMEM, "no memory for %zu tensors", m->count), &err,
                          msg, msg_size);
    memcpy(t, m->tensors, m->count * sizeof(*t));
    int rc = store_client_enter(s, &err);
    rc = rc ? rc : store_stage_hash_all(&s->d, m->map.base, t, m->count, &err);
    for (size_t i = 0; i < m->count && !rc; i++)
        if (t[i].hash != m->tensors[i].hash)
            rc = fast_err_set(&err, FAST_EIO, "tensor \"%.100s\" has other bytes than were stored",
                              t[i].name);
    return store_tell(rc, &err, msg, msg_size);
}

/* The table of tensors of both; their places need not be the same. */
static int same_table(const struct fast_store_model *m, const struct store_file *f, struct fast_err *err)
{
    if (m->count != f->count)
        return fast_err_set(err, FAST_EIO, "it has %zu tensors and not %zu", m->count, f->count);
    for (size_t i = 0; i < f->count; i++) {
        struct fast_store_tensor t;
        const struct fast_tensor *want = &f->tensors[i];
        if (fast_store_model_find(m, want->name, &t) || strcmp(t.dtype, fast_dtype_name(want->dtype)) != 0 ||
            t.bytes != want->bytes || t.ndim != want->ndim ||
            memcmp(t.shape, want->shape, t.ndim * sizeof(*t.shape)) != 0)
            return fast_err_set(err, FAST_EIO, "tensor \"%.100s\" is another one", want->name);
        f->pieces[i].to = t.offset;
    }
    return 0;
}

static int compare(const struct fast_store_model *m, struct store_file *f, struct fast_err *err)
{
    const struct fast_store *s = m->store;
    size_t first = 0;
    int rc = same_table(m, f, err);
    rc = rc ? rc : store_stage_compare(&s->d, f->fd, m->map.base, f->pieces, f->count, &first, err);
    for (size_t i = 0; i < f->count && !rc; i++) {
        struct fast_store_tensor t;
        fast_store_model_find(m, f->tensors[i].name, &t);
        if (i >= first || t.hash != f->pieces[i].hash)
            rc = fast_err_set(err, FAST_EIO, "tensor \"%.100s\" has other bytes%s", t.name,
                              i >= first ? "" : " than its hash says");
    }
    return rc ? rc : store_file_check(f, err);
}

int fast_store_model_compare(const struct fast_store_model *m, const char *path, char *msg, size_t msg_size)
{
    struct fast_err err = {0};
    struct store_file f;
    int rc = store_client_enter(m->store, &err);
    rc = rc ? rc : store_file_open(path, &f, &err);
    if (!rc) {
        rc = compare(m, &f, &err);
        store_file_fini(&f);
    }
    return store_tell(rc, &err, msg, msg_size);
}

int fast_store_model_known(const struct fast_store_model *m, char *msg, size_t msg_size)
{
    struct fast_err err = {0};
    int rc = m->map.kind == STORE_MAP_PRIVATE
                 ? fast_err_set(&err, FAST_ENOENT, "it is a private copy")
                 : store_client_known(m->store, m->id, &err);
    return store_tell(rc, &err, msg, msg_size);
}
