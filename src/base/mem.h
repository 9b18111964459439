#ifndef FAST_BASE_MEM_H
#define FAST_BASE_MEM_H

/* Cleanup at the end of a scope: `fast_autofree char *p = ...;`. A function that hands the object
 * out does so with fast_steal(&p) at its very end. */

#include <stdlib.h>

static inline void fast_autofree_fn(void *p)
{
    free(*(void **)p);
}

#define fast_autofree __attribute__((cleanup(fast_autofree_fn)))

/* Returns *|p| and sets it to NULL. */
#define fast_steal(p)                                                                              \
    ({                                                                                             \
        __auto_type fast_steal_p_ = (p);                                                           \
        __auto_type fast_steal_v_ = *fast_steal_p_;                                                \
        *fast_steal_p_ = NULL;                                                                     \
        fast_steal_v_;                                                                             \
    })

#define FAST_COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

#define FAST_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#endif
