#ifndef FAST_TESTS_HOOK_INSIDE_H
#define FAST_TESTS_HOOK_INSIDE_H

/* The hook from inside, for tests that are linked with its parts: its wrappers call a driver that says yes to
 * everything, and the process is its own node, so that charges are seen at once. */

#include "../unit/test.h"

#include "hook/gate.h"
#include "hook/memory.h"

#define TOKEN 7 /* the process holds it from the start */

struct inside_driver {
    CUresult result; /* of launches and frees */
    int registered, writes;
    CUdeviceptr next;
    _Atomic(_Atomic uint32_t *) at; /* the last marker; other threads set it */
    _Atomic uint32_t value;
    void *(*lookup)(const char *name); /* what dlsym answers; NULL: nothing is there */
};

extern struct inside_driver drv;
extern struct fast_limits_page limits;
extern struct fast_counters_page counters;
extern struct fast_session session;
extern char contexts[3];
extern __thread CUcontext current;

/* The wrapper of a symbol calls |fn|. */
#define REAL(symbol, fn) atomic_store(&fast_hook.real[FAST_ENTRY_##symbol], (fast_any_fn *)(fn))

int set_up(void **state); /* of each test */
CUresult captures(CUstream stream, CUstreamCaptureStatus *ret); /* for |stream_is_capturing| */
uint32_t launch(CUstream stream); /* returns what it costs */
uint64_t launches(void);
void in_thread(void *(*fn)(void *), void *arg);

#endif
