/* A model in this process: who loads it, and what the others do meanwhile. The loader writes into the
 * memory that everybody will have, then maps it for reading like everybody. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "storelib/lib.h"

static int by_name(const void *a, const void *b, void *arg)
{
    const struct fast_tensor *t = arg;
    return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

int store_model_new(struct fast_store *s, struct fast_manifest *manifest, size_t len,
                    struct fast_store_model **ret, struct fast_err *err)
{
    size_t n = fast_manifest_count(manifest);
    struct fast_store_model *m = calloc(1, sizeof(*m));
    struct fast_tensor *tensors = calloc(n ? n : 1, sizeof(*tensors));
    uint32_t *sorted = calloc(n ? n : 1, sizeof(*sorted));
    if (!m || !tensors || !sorted) {
        free(m);
        free(tensors);
        free(sorted);
        free(manifest);
        return fast_err_set(err, FAST_ENOMEM, "no memory for %zu tensors", n);
    }
    for (size_t i = 0; i < n; i++) {
        fast_manifest_get(manifest, i, &tensors[i]);
        sorted[i] = (uint32_t)i;
    }
    qsort_r(sorted, n, sizeof(*sorted), by_name, tensors);
    *m = (struct fast_store_model){.store = s, .manifest = manifest, .manifest_len = len,
                                   .tensors = tensors, .sorted = sorted, .count = n};
    *ret = m;
    return 0;
}

static void model_free(struct fast_store_model *m)
{
    free(m->sorted);
    free(m->tensors);
    free(m->manifest);
    free(m);
}

/* A file that nobody can change any more. */
static int seal(const void *data, size_t len, int *ret_fd, struct fast_err *err)
{
    int fd = memfd_create("fast-manifest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || write(fd, data, len) != (ssize_t)len ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        if (fd >= 0)
            close(fd);
        return fast_err_set(err, FAST_EIO, "no file for the table of tensors");
    }
    *ret_fd = fd;
    return 0;
}

static int read_manifest(int fd, uint64_t bytes, struct fast_manifest **ret, size_t *ret_len,
                         struct fast_err *err)
{
    struct stat st;
    if (fstat(fd, &st) || st.st_size <= 0 || (uint64_t)st.st_size > FAST_MANIFEST_MAX)
        return fast_err_set(err, FAST_EPROTO, "the store hands out no table of tensors");
    size_t len = (size_t)st.st_size;
    fast_autofree struct fast_manifest *m = malloc(len);
    if (!m)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the table of tensors");
    if (pread(fd, m, len, 0) != (ssize_t)len)
        return fast_err_set(err, FAST_EPROTO, "the store hands out no table of tensors");
    int rc = fast_manifest_check(m, len, bytes, err);
    if (rc)
        return rc;
    *ret = fast_steal(&m);
    *ret_len = len;
    return 0;
}

/* ---- getting one ---- */

static int join(struct fast_store *s, struct store_grant *g, struct fast_store_model **ret,
                struct fast_err *err)
{
    struct fast_manifest *manifest = NULL;
    struct store_map map = {0};
    size_t len = 0;
    int rc = read_manifest(g->manifest_fd, g->bytes, &manifest, &len, err);
    rc = rc ? rc : store_map_grant(&s->d, g, false, &map, err);
    if (rc) {
        free(manifest);
        return rc;
    }
    rc = store_model_new(s, manifest, len, ret, err);
    if (rc) {
        store_map_fini(&s->d, &map);
        return rc;
    }
    (*ret)->map = map;
    (*ret)->bytes = g->bytes;
    return 0;
}

static int load(struct fast_store *s, struct store_grant *g, struct fast_tensor *tensors, size_t n,
                store_fill_fn *fill, void *arg, struct fast_store_model **ret, struct fast_err *err)
{
    struct fast_manifest *manifest = NULL;
    struct fast_store_model *m = NULL;
    struct store_map map = {0};
    size_t len = 0;
    int fd = -1;
    fast_ns began = store_now();
    int rc = store_map_grant(&s->d, g, true, &map, err);
    if (rc)
        return rc;
    rc = fill(arg, s, map.base, tensors, n, err);
    rc = rc ? rc : store_map_protect(&s->d, &map, err);
    rc = rc ? rc : fast_manifest_new(tensors, n, &manifest, &len, err);
    rc = rc ? rc : seal(manifest, len, &fd, err);
    rc = rc ? rc : store_client_commit(s, g->epoch, g->model, fd, store_now() - began, err);
    if (fd >= 0)
        close(fd);
    rc = rc ? rc : store_model_new(s, fast_steal(&manifest), len, &m, err);
    if (rc) {
        free(manifest);
        store_map_fini(&s->d, &map);
        return rc;
    }
    m->map = map;
    m->bytes = g->bytes;
    m->loaded = true;
    *ret = m;
    return 0;
}

static int load_private(struct fast_store *s, struct fast_tensor *tensors, size_t n, uint64_t bytes,
                        store_fill_fn *fill, void *arg, struct fast_store_model **ret,
                        struct fast_err *err)
{
    struct fast_manifest *manifest = NULL;
    struct store_map map = {0};
    size_t len = 0;
    int rc = store_map_private(&s->d, bytes, &map, err);
    if (rc)
        return rc;
    rc = fill(arg, s, map.base, tensors, n, err);
    rc = rc ? rc : fast_manifest_new(tensors, n, &manifest, &len, err);
    rc = rc ? rc : store_model_new(s, manifest, len, ret, err);
    if (rc) {
        store_map_fini(&s->d, &map);
        return rc;
    }
    (*ret)->map = map;
    (*ret)->bytes = bytes;
    (*ret)->loaded = true;
    return 0;
}

static int obtain_shared(struct fast_store *s, const struct store_want *want,
                         struct fast_tensor *tensors, size_t n, store_fill_fn *fill, void *arg,
                         struct fast_store_model **ret, struct fast_err *err)
{
    struct store_grant *g = calloc(1, sizeof(*g));
    if (!g)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a model");
    g->manifest_fd = -1;
    int rc = store_client_want(s, want, g, err);
    if (rc) {
        free(g);
        return rc;
    }
    rc = g->load ? load(s, g, tensors, n, fill, arg, ret, err) : join(s, g, ret, err);
    if (rc) {
        store_client_close(s, g->epoch, g->model, NULL);
    } else {
        (*ret)->id = g->model;
        (*ret)->epoch = g->epoch;
    }
    store_grant_fini(g);
    free(g);
    return rc;
}

int store_model_obtain(struct fast_store *s, const struct store_want *want,
                       struct fast_tensor *tensors, size_t n, store_fill_fn *fill, void *arg,
                       struct fast_store_model **ret, struct fast_err *err)
{
    int rc = store_client_enter(s, err);
    if (rc)
        return rc;
    rc = obtain_shared(s, want, tensors, n, fill, arg, ret, err);
    /* A wrong file is wrong in a private copy as well; who may not share should hear of it. */
    bool wrong = rc == -FAST_EINVAL ||
                 (rc == -FAST_EPERM && (want->flags & (FAST_STORE_SHARED | FAST_STORE_PINNED)));
    if (rc && !wrong && fill && (want->flags & FAST_STORE_PRIVATE))
        rc = load_private(s, tensors, n, want->bytes, fill, arg, ret, err);
    if (!rc)
        store_client_use(s);
    return rc;
}

/* ---- of a model ---- */

void fast_store_release(struct fast_store_model *m)
{
    if (!m)
        return;
    struct fast_store *s = m->store;
    bool shared = m->map.kind != STORE_MAP_PRIVATE;
    if (!store_client_enter(s, NULL)) {
        s->d.ctx_sync(); /* a kernel that still reads it would fault */
        store_map_fini(&s->d, &m->map);
        if (shared)
            store_client_close(s, m->epoch, m->id, NULL);
    }
    model_free(m);
    store_client_drop(s);
}

size_t fast_store_model_count(const struct fast_store_model *m)
{
    return m->count;
}

int fast_store_model_tensor(const struct fast_store_model *m, size_t i, struct fast_store_tensor *ret)
{
    if (i >= m->count)
        return FAST_STORE_ENOENT;
    const struct fast_tensor *t = &m->tensors[i];
    *ret = (struct fast_store_tensor){.name = t->name, .dtype = fast_dtype_name(t->dtype),
                                      .ndim = t->ndim, .shape = t->shape, .bytes = t->bytes,
                                      .offset = t->offset, .device = m->map.base + t->offset,
                                      .hash = t->hash};
    return 0;
}

int fast_store_model_find(const struct fast_store_model *m, const char *name,
                          struct fast_store_tensor *ret)
{
    size_t low = 0, high = m->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int c = strcmp(m->tensors[m->sorted[mid]].name, name);
        if (!c)
            return fast_store_model_tensor(m, m->sorted[mid], ret);
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return FAST_STORE_ENOENT;
}

uint64_t fast_store_model_device(const struct fast_store_model *m)
{
    return m->map.base;
}

uint64_t fast_store_model_bytes(const struct fast_store_model *m)
{
    return m->bytes;
}

int fast_store_model_loaded(const struct fast_store_model *m)
{
    return m->loaded;
}

int fast_store_model_is_shared(const struct fast_store_model *m)
{
    return m->map.kind != STORE_MAP_PRIVATE;
}
