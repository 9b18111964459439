#ifndef FAST_CORE_MANIFEST_H
#define FAST_CORE_MANIFEST_H

/* The table of tensors of a model, as one block of bytes that processes pass to each other: it is
 * written once by who loads the model and checked by everybody who reads it. Offsets count from the
 * beginning of the model's device memory. */

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define FAST_TENSOR_DIMS 8
#define FAST_TENSOR_ALIGN 256          /* of offsets: what every kernel and library is content with */
#define FAST_MANIFEST_TENSORS (1 << 20) /* at most */
#define FAST_MANIFEST_MAX ((size_t)FAST_MANIFEST_TENSORS * 256) /* bytes */

/* Element types, by the names of safetensors. X(name, bits). */
#define FAST_DTYPES(X)                                                                             \
    X(BOOL, 8) X(U8, 8) X(I8, 8) X(F8_E5M2, 8) X(F8_E4M3, 8) X(I16, 16) X(U16, 16) X(F16, 16)      \
    X(BF16, 16) X(I32, 32) X(U32, 32) X(F32, 32) X(C64, 64) X(F64, 64) X(I64, 64) X(U64, 64)

enum fast_dtype {
#define X(name, bits) FAST_DTYPE_##name,
    FAST_DTYPES(X)
#undef X
    FAST_DTYPE_COUNT
};

const char *fast_dtype_name(uint32_t dtype);
/* FAST_DTYPE_COUNT: there is none of that name. */
enum fast_dtype fast_dtype_find(const char *name);
unsigned fast_dtype_bytes(uint32_t dtype);

struct fast_tensor {
    const char *name;
    uint32_t dtype; /* enum fast_dtype */
    uint32_t ndim;
    uint64_t shape[FAST_TENSOR_DIMS];
    uint64_t offset, bytes;
    uint64_t hash; /* base/hash.h of its bytes, seed 0; 0: not known */
};

struct fast_manifest; /* the block itself */

/* Lays |n| tensors out one behind the other (their offsets are set, their bytes checked against dtype
 * and shape) and returns the bytes of device memory that they need. FAST_EINVAL: a shape that does not
 * fit its bytes, a name twice, too many. */
int fast_manifest_lay_out(struct fast_tensor *tensors, size_t n, uint64_t *ret_bytes,
                          struct fast_err *err);

/* Identity of a model by its tensors: names, types, shapes and hashes. |salt|: of where they came from,
 * when their hashes are not known. */
void fast_manifest_digest(const struct fast_tensor *tensors, size_t n, uint64_t salt,
                          uint64_t ret[2]);

/* Makes the block; the caller frees it. */
int fast_manifest_new(const struct fast_tensor *tensors, size_t n, struct fast_manifest **ret,
                      size_t *ret_len, struct fast_err *err);

/* Whether |len| bytes from another process are a manifest of a model of |bytes| of device memory. The
 * bytes must not change any more. */
int fast_manifest_check(const struct fast_manifest *m, size_t len, uint64_t bytes,
                        struct fast_err *err);

/* Of a checked one. */
size_t fast_manifest_count(const struct fast_manifest *m);
/* |i| below the count; the name belongs to |m|. */
void fast_manifest_get(const struct fast_manifest *m, size_t i, struct fast_tensor *ret);

#endif
