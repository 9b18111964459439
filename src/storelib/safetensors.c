/* The header of a safetensors file: eight bytes with its length, then JSON: for each tensor its type,
 * its shape and where its bytes begin and end behind the header. Nothing in it is believed. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "storelib/lib.h"

#define HEADER_MAX 100000000 /* as the format's own reader has it */

static int bad(const char *name, const char *what, struct fast_err *err)
{
    return fast_err_set(err, FAST_EINVAL, "safetensors: tensor \"%.100s\": %s", name, what);
}

static bool get_u64(const json_t *v, uint64_t *ret)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *ret = (uint64_t)json_integer_value(v);
    return true;
}

static int read_tensor(const char *name, const json_t *v, uint64_t data_bytes, struct fast_tensor *t,
                       uint64_t *ret_from, struct fast_err *err)
{
    const json_t *shape = json_object_get(v, "shape"), *at = json_object_get(v, "data_offsets");
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    uint64_t from = 0, to = 0;
    *t = (struct fast_tensor){.name = name, .dtype = dtype ? fast_dtype_find(dtype) : FAST_DTYPE_COUNT};
    if (t->dtype == FAST_DTYPE_COUNT)
        return bad(name, "its dtype is not known", err);
    if (!json_is_array(shape) || json_array_size(shape) > FAST_TENSOR_DIMS)
        return bad(name, "its shape is not a list of at most 8 numbers", err);
    t->ndim = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < t->ndim; i++)
        if (!get_u64(json_array_get(shape, i), &t->shape[i]))
            return bad(name, "its shape is not a list of at most 8 numbers", err);
    if (json_array_size(at) != 2 || !get_u64(json_array_get(at, 0), &from) ||
        !get_u64(json_array_get(at, 1), &to) || from > to || to > data_bytes)
        return bad(name, "its data_offsets do not lie in the file", err);
    t->bytes = to - from;
    *ret_from = from;
    return 0;
}

struct entry {
    struct fast_tensor t;
    uint64_t from;
};

static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    /* An empty one has no bytes, wherever it lies: it comes first. */
    return x->t.bytes < y->t.bytes ? -1 : x->t.bytes > y->t.bytes;
}

static int fill(struct store_file *f, struct entry *entries, size_t n, uint64_t data_at,
                struct fast_err *err)
{
    size_t names = 0;
    qsort(entries, n, sizeof(*entries), by_place);
    for (size_t i = 0; i < n; i++) {
        if (i && entries[i - 1].from + entries[i - 1].t.bytes > entries[i].from)
            return bad(entries[i].t.name, "its bytes overlap with those of another one", err);
        names += strlen(entries[i].t.name) + 1;
    }
    f->tensors = calloc(n ? n : 1, sizeof(*f->tensors));
    f->pieces = calloc(n ? n : 1, sizeof(*f->pieces));
    char *at = f->names = malloc(names ? names : 1);
    if (!f->tensors || !f->pieces || !at)
        return fast_err_set(err, FAST_ENOMEM, "no memory for %zu tensors", n);
    for (size_t i = 0; i < n; i++) {
        f->tensors[i] = entries[i].t;
        f->tensors[i].name = at;
        at = stpcpy(at, entries[i].t.name) + 1;
    }
    f->count = n;
    int rc = fast_manifest_lay_out(f->tensors, n, &f->bytes, err);
    for (size_t i = 0; i < n && !rc; i++)
        f->pieces[i] = (struct store_piece){.from = data_at + entries[i].from,
                                            .to = f->tensors[i].offset, .bytes = f->tensors[i].bytes};
    return rc;
}

static int parse(struct store_file *f, const json_t *root, uint64_t data_at, uint64_t data_bytes,
                 struct fast_err *err)
{
    const char *name;
    json_t *v;
    size_t n = 0;
    if (!json_is_object(root) || json_object_size(root) > FAST_MANIFEST_TENSORS)
        return fast_err_set(err, FAST_EINVAL, "safetensors: the header is not a table of tensors");
    fast_autofree struct entry *entries = calloc(json_object_size(root) + 1, sizeof(*entries));
    if (!entries)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the header");
    json_object_foreach((json_t *)root, name, v) {
        if (!strcmp(name, "__metadata__"))
            continue;
        int rc = read_tensor(name, v, data_bytes, &entries[n].t, &entries[n].from, err);
        if (rc)
            return rc;
        n++;
    }
    return fill(f, entries, n, data_at, err);
}

static int read_header(struct store_file *f, const struct stat *st, struct fast_err *err)
{
    unsigned char size[8];
    uint64_t len = 0;
    json_error_t why;
    if (pread(f->fd, size, 8, 0) != 8)
        return fast_err_set(err, FAST_EINVAL, "safetensors: the file is shorter than its header");
    for (int i = 0; i < 8; i++)
        len |= (uint64_t)size[i] << (8 * i);
    if (len > HEADER_MAX || len + 8 > (uint64_t)st->st_size)
        return fast_err_set(err, FAST_EINVAL, "safetensors: the file is shorter than its header");
    fast_autofree char *text = malloc(len + 1);
    if (!text)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the header");
    if (pread(f->fd, text, len, 8) != (ssize_t)len)
        return fast_err_set(err, FAST_EIO, "reading the header: %s", strerror(errno));
    const uint64_t numbers[] = {(uint64_t)st->st_size, (uint64_t)st->st_mtim.tv_sec,
                                (uint64_t)st->st_mtim.tv_nsec};
    f->size = st->st_size;
    f->changed = st->st_mtim;
    f->stamp = fast_hash_of(text, len, fast_hash_of(numbers, sizeof(numbers), 0));
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return fast_err_set(err, FAST_EINVAL, "safetensors: the header is not JSON: %.100s", why.text);
    int rc = parse(f, root, len + 8, (uint64_t)st->st_size - len - 8, err);
    json_decref(root);
    return rc;
}

int store_file_check(const struct store_file *f, struct fast_err *err)
{
    struct stat st;
    if (fstat(f->fd, &st) || st.st_size != f->size || st.st_mtim.tv_sec != f->changed.tv_sec ||
        st.st_mtim.tv_nsec != f->changed.tv_nsec)
        return fast_err_set(err, FAST_EIO, "the file changed while it was read");
    return 0;
}

int store_file_open(const char *path, struct store_file *ret, struct fast_err *err)
{
    struct stat st;
    *ret = (struct store_file){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)}; /* a pipe would wait */
    if (ret->fd < 0)
        return fast_err_set(err, errno == ENOENT ? FAST_ENOENT : FAST_EIO, "%.180s: %s", path,
                            strerror(errno));
    int rc = fstat(ret->fd, &st) || !S_ISREG(st.st_mode)
                 ? fast_err_set(err, FAST_EINVAL, "it is not a regular file")
                 : read_header(ret, &st, err);
    if (!rc)
        return 0;
    store_file_fini(ret);
    return fast_err_wrap(err, "%.120s", path);
}

void store_file_fini(struct store_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->tensors);
    free(f->pieces);
    free(f->names);
    *f = (struct store_file){.fd = -1};
}
