/* The block is a header, one row of fixed size for each tensor, and the names, each with its NUL. All
 * that comes from another process goes through fast_manifest_check(), after which every offset in it
 * lies inside the block and every tensor inside the model. */
#include "core/manifest.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

#define MAGIC 0x314d5346u /* "FSM1" */

struct row {
    uint64_t offset, bytes, hash, name; /* |name|: from the start of the names */
    uint32_t dtype, ndim;
    uint64_t shape[FAST_TENSOR_DIMS];
};

struct fast_manifest {
    uint32_t magic, reserved;
    uint64_t count, names; /* |names|: bytes of them */
    struct row rows[];
};

static const struct {
    const char *name;
    unsigned bits;
} dtypes[FAST_DTYPE_COUNT] = {
#define X(name, bits) {#name, bits},
    FAST_DTYPES(X)
#undef X
};

const char *fast_dtype_name(uint32_t dtype)
{
    return dtype < FAST_DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

enum fast_dtype fast_dtype_find(const char *name)
{
    int i = 0;
    while (i < FAST_DTYPE_COUNT && strcmp(dtypes[i].name, name) != 0)
        i++;
    return (enum fast_dtype)i;
}

unsigned fast_dtype_bytes(uint32_t dtype)
{
    return dtype < FAST_DTYPE_COUNT ? dtypes[dtype].bits / 8 : 0;
}

/* Bytes that dtype and shape ask for; false when that is no number. */
static bool expected_bytes(uint32_t dtype, uint32_t ndim, const uint64_t *shape, uint64_t *ret)
{
    uint64_t n = fast_dtype_bytes(dtype);
    if (!n || ndim > FAST_TENSOR_DIMS)
        return false;
    for (uint32_t i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(n, shape[i], &n))
            return false;
    *ret = n;
    return true;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_names(const struct fast_tensor *t, size_t n, struct fast_err *err)
{
    fast_autofree const char **names = malloc((n ? n : 1) * sizeof(*names));
    if (!names)
        return fast_err_set(err, FAST_ENOMEM, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++)
        names[i] = t[i].name;
    qsort(names, n, sizeof(*names), compare_names);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(names[i - 1], names[i]))
            return fast_err_set(err, FAST_EINVAL, "tensor \"%.100s\" is there twice", names[i]);
    return 0;
}

int fast_manifest_lay_out(struct fast_tensor *t, size_t n, uint64_t *ret_bytes, struct fast_err *err)
{
    uint64_t at = 0, want = 0;
    if (n > FAST_MANIFEST_TENSORS)
        return fast_err_set(err, FAST_EINVAL, "%zu tensors are more than %d", n,
                            FAST_MANIFEST_TENSORS);
    for (size_t i = 0; i < n; i++) {
        if (!expected_bytes(t[i].dtype, t[i].ndim, t[i].shape, &want) || want != t[i].bytes)
            return fast_err_set(err, FAST_EINVAL,
                                "tensor \"%.100s\": its shape of type %s does not have %llu bytes",
                                t[i].name, fast_dtype_name(t[i].dtype),
                                (unsigned long long)t[i].bytes);
        at = (at + FAST_TENSOR_ALIGN - 1) / FAST_TENSOR_ALIGN * FAST_TENSOR_ALIGN;
        t[i].offset = at;
        if (at > INT64_MAX || want > INT64_MAX)
            return fast_err_set(err, FAST_EINVAL, "tensor \"%.100s\" is too large", t[i].name);
        at += want;
    }
    int rc = check_names(t, n, err);
    if (!rc)
        *ret_bytes = at;
    return rc;
}

void fast_manifest_digest(const struct fast_tensor *t, size_t n, uint64_t salt, uint64_t ret[2])
{
    for (int half = 0; half < 2; half++) {
        struct fast_hash h;
        fast_hash_init(&h, salt ^ (half ? UINT64_C(0x9b05688c2b3e6c1f) : 0));
        for (size_t i = 0; i < n; i++) {
            const uint64_t numbers[] = {t[i].dtype, t[i].ndim, t[i].hash};
            fast_hash_add(&h, t[i].name, strlen(t[i].name) + 1);
            fast_hash_add(&h, numbers, sizeof(numbers));
            fast_hash_add(&h, t[i].shape, t[i].ndim * sizeof(t[i].shape[0]));
        }
        ret[half] = fast_hash_value(&h);
    }
    ret[1] += !ret[0] && !ret[1]; /* 0, 0 means "any" */
}

int fast_manifest_new(const struct fast_tensor *t, size_t n, struct fast_manifest **ret,
                      size_t *ret_len, struct fast_err *err)
{
    size_t names = 0, rows = sizeof(struct fast_manifest) + n * sizeof(struct row);
    for (size_t i = 0; i < n; i++)
        names += strlen(t[i].name) + 1;
    if (n > FAST_MANIFEST_TENSORS || rows + names > FAST_MANIFEST_MAX)
        return fast_err_set(err, FAST_EINVAL, "the table of %zu tensors is too long", n);
    struct fast_manifest *m = calloc(1, rows + names);
    if (!m)
        return fast_err_set(err, FAST_ENOMEM, "no memory for %zu tensors", n);
    *m = (struct fast_manifest){.magic = MAGIC, .count = n, .names = names};
    char *text = (char *)m + rows;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        m->rows[i] = (struct row){.offset = t[i].offset, .bytes = t[i].bytes, .hash = t[i].hash,
                                  .name = at, .dtype = t[i].dtype, .ndim = t[i].ndim};
        memcpy(m->rows[i].shape, t[i].shape, sizeof(m->rows[i].shape));
        size_t n_bytes = strlen(t[i].name) + 1;
        memcpy(text + at, t[i].name, n_bytes);
        at += n_bytes;
    }
    *ret = m;
    *ret_len = rows + names;
    return 0;
}

static const char *names_of(const struct fast_manifest *m)
{
    return (const char *)&m->rows[m->count];
}

static int check_row(const struct fast_manifest *m, size_t i, uint64_t bytes, struct fast_err *err)
{
    const struct row *r = &m->rows[i];
    uint64_t want = 0;
    if (r->name >= m->names || !expected_bytes(r->dtype, r->ndim, r->shape, &want) ||
        want != r->bytes || r->offset > bytes || r->bytes > bytes - r->offset)
        return fast_err_set(err, FAST_EPROTO, "manifest: tensor %zu is wrong", i);
    return 0;
}

int fast_manifest_check(const struct fast_manifest *m, size_t len, uint64_t bytes,
                        struct fast_err *err)
{
    if (len < sizeof(*m) || len > FAST_MANIFEST_MAX || m->magic != MAGIC ||
        m->count > FAST_MANIFEST_TENSORS || m->names > len ||
        sizeof(*m) + m->count * sizeof(struct row) + m->names != len)
        return fast_err_set(err, FAST_EPROTO, "%zu bytes are not a manifest", len);
    if (m->names && names_of(m)[m->names - 1])
        return fast_err_set(err, FAST_EPROTO, "manifest: the last name has no end");
    for (size_t i = 0; i < m->count; i++)
        if (check_row(m, i, bytes, err))
            return -FAST_EPROTO;
    return 0;
}

size_t fast_manifest_count(const struct fast_manifest *m)
{
    return m->count;
}

void fast_manifest_get(const struct fast_manifest *m, size_t i, struct fast_tensor *ret)
{
    const struct row *r = &m->rows[i];
    *ret = (struct fast_tensor){.name = names_of(m) + r->name, .dtype = r->dtype, .ndim = r->ndim,
                                .offset = r->offset, .bytes = r->bytes, .hash = r->hash};
    memcpy(ret->shape, r->shape, sizeof(ret->shape));
}
