#ifndef FUNCTIONS_WEIGHTS_H
#define FUNCTIONS_WEIGHTS_H

/* Weights that a program shares with others like it, where there is a store of models for that:
 * $FAST_STORE_SOCKET names its socket, $FAST_STORE_LIB the library (default: libfast-store.so.0, found at
 * run time), $FAST_MODEL what the model is called there. Without the first a program has its weights for
 * itself, and needs none of this. */

#include <stddef.h>

#include "common/cuda_min.h"

/* |name|: of the model, without $FAST_MODEL. |version| "": told apart by the contents, which are hashed
 * first; else taken without a look if it is there under that version. |data| NULL: |bytes| zeros. A
 * context must be current. Returns 0 and where they are, for reading, until the program ends; else -1 with
 * the reason, or with "" where there is no store. */
int weights_share(const char *name, const char *version, const void *data, size_t bytes,
                  CUdeviceptr *ret, char *msg, size_t msg_size);

#endif
