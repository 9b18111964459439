#ifndef FAST_HOOK_HOOK_H
#define FAST_HOOK_HOOK_H

/* The state of the hook, one struct for the whole process, and what its files know of each other.
 *
 * The hook is a guest in somebody else's program: it never exits, prints nothing (a log file on
 * request), installs no signal handlers, bounds its waits while it waits for the node, and holds no
 * lock while it calls the driver. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"
#include "cuda/abi.h"
#include "cuda/entry.h"
#include "cuda/hook_proto.h"
#include "hook/table.h"
#include "wire/msg.h"
#include "wire/page.h"

#define FAST_EXPORT __attribute__((visibility("default")))

#define FAST_HOOK_CTXS 32     /* contexts at a time; work in more is passed on ungated */
#define FAST_HOOK_STREAMS 256 /* streams of a context at a time; the rest share the last place */
#define FAST_HOOK_MAP 1024    /* places of the pointer map, a power of two */

/* How the completion of work in a context is seen. */
enum fast_mark {
    FAST_MARK_WRITE, /* cuStreamWriteValue32 into a host page */
    FAST_MARK_EVENT, /* one event per stream */
    FAST_MARK_NONE,  /* neither works: estimated */
};

/* Work in one stream, in cost units of about a microsecond of GPU time. All four sums only grow and
 * wrap around; differences of them are small. */
struct fast_stream {
    _Atomic uintptr_t key;     /* 0: free. See fast_stream_find() */
    _Atomic uint32_t entered;  /* admitted */
    _Atomic uint32_t left_own; /* of which the driver call has returned, in the thread |owner| */
    _Atomic uint32_t left;     /* the same, in all other threads. See fast_stream_left() */
    _Atomic uint32_t marked;   /* what had left at the newest marker */
    _Atomic uint32_t synced;   /* known to be complete by other means than the slot */
    _Atomic uintptr_t owner;   /* the thread that may count with plain stores, 0: nobody yet */
    _Atomic uint32_t marking;  /* somebody is enqueuing a marker */
    _Atomic uint32_t led;      /* not of what was complete when work was let in early. See ends_soon() */
    _Atomic int64_t tail_ns;   /* since when there is unmarked work behind the last marker */
    _Atomic(CUevent) event;    /* FAST_MARK_EVENT */
    _Atomic uint32_t event_at; /* what had left at the event that was recorded last */
};

struct fast_ctx {
    _Atomic(CUcontext) ctx;  /* NULL: free */
    _Atomic uint32_t ready;  /* the rest may be read */
    _Atomic uint32_t broken; /* a sticky error: nothing will ever complete */
    _Atomic uint32_t users;  /* threads that query events of it */
    _Atomic uint32_t high;   /* places of |streams| ever used */
    _Atomic uint32_t mark;   /* enum fast_mark */
    _Atomic int gpu; /* may be looked at while the place is taken for another context */
    _Atomic uint32_t *slots; /* one page, never unmapped: read by threads at any time */
    CUdeviceptr slots_at;
    struct fast_stream streams[FAST_HOOK_STREAMS];
};

struct fast_gpu {
    _Atomic uintptr_t owner;    /* the thread that counts its launches with plain stores */
    _Atomic uint64_t held;      /* token that work was submitted under and that is not done, 0: none */
    _Atomic uint64_t spent;     /* token that was given back before the node revoked it */
    _Atomic uint32_t want_sent; /* the node knows that we want a token */
    _Atomic uint32_t waiters;   /* threads that wait for one */
    _Atomic uint32_t tight;     /* the token ends soon: what is submitted has to fit before that */
    _Atomic uint32_t active;    /* work was submitted and is not known to be complete */
    _Atomic uint32_t settling;
    _Atomic uint32_t streams;   /* with work in flight at the last look, at least 1 */
    _Atomic uint32_t in_flight; /* units at the last look */
    _Atomic int64_t busy_since; /* start of the busy interval, when |active| */
    _Atomic int64_t seen_ns;    /* last look that found work in flight */
    _Atomic uint32_t seen_done; /* units complete then */
    _Atomic uint32_t others;     /* calls other than of kernels that are under way: they may wait for the device */
    _Atomic int64_t calls_from, calls_to; /* looks that saw kernels in calls of the driver and nothing else, 0: none */
    _Atomic int64_t idle_since; /* end of the last busy interval */
    _Atomic int64_t busy_ns;    /* of the token held */
    _Atomic uint32_t unit_ns;     /* learned time of a kernel, 0: nothing learned yet */
    _Atomic int64_t sample_ns;    /* start of the sample that is being taken */
    _Atomic uint32_t sample_done; /* units complete then */
    _Atomic uint64_t sample_launches;
    _Atomic uint32_t graphs;    /* graph launches in the sample, all of |graph| unless mixed */
    _Atomic uint32_t copies_us; /* estimated copy time in the sample */
    _Atomic uint64_t graph;     /* CUgraphExec */
    _Atomic uint32_t graph_mixed;
    _Atomic uint64_t mem_used;    /* bytes of this process, as charged */
    _Atomic uint32_t mem_unsaid;  /* the node may have missed a change of it */
    /* Of the hook thread alone. */
    int64_t revoked_ns; /* when it saw the revocation of |held|, 0: not yet */
    uint64_t done;      /* the token that it gave back last */
    int64_t waits_ns;   /* since when it sees threads wait, or asked again for them; 0: none */
};

/* A connection to the node. Never freed: threads read its pages at any time, and a node restarts
 * rarely. */
struct fast_session {
    const struct fast_limits_page *limits;
    struct fast_limits_page *local; /* grace.c: |limits|, when this process is its own node; else NULL */
    struct fast_counters_page *counters;
    uint32_t gpus;
    bool fail_open;
    int fd; /* closed, -1, when the node is gone; changed under link_lock */
};

/* All work of the stream whose driver call has returned. Both parts only grow, so that a sum that is
 * read while they do is one that was true, or less. */
static inline uint32_t fast_stream_left(const struct fast_stream *s)
{
    return atomic_load(&s->left_own) + atomic_load(&s->left);
}

/* Without a session. */
enum fast_hook_mode {
    FAST_MODE_OFF,    /* not a replica, or no cuInit yet: everything passes */
    FAST_MODE_LINKED, /* |session| is set */
    FAST_MODE_GRACE,  /* the node went away: the last slice, for a while */
    FAST_MODE_OPEN,   /* no node: everything passes */
    FAST_MODE_CLOSED, /* no node: everything waits */
};

/* A graph's learned cost. A collision of two graphs costs accuracy, nothing else. */
struct fast_graph_cost {
    _Atomic uint64_t exec;
    _Atomic uint32_t us;
};

#define FAST_HOOK_GRAPHS 256

/* Functions of the driver that the hook itself calls; any may be NULL. [1]: per-thread variant. */
struct fast_driver {
    CUresult (*ctx_get_current)(CUcontext *);
    CUresult (*ctx_get_device)(CUdevice *);
    CUresult (*stream_is_capturing[2])(CUstream, CUstreamCaptureStatus *);
    CUresult (*stream_write[2])(CUstream, CUdeviceptr, cuuint32_t, unsigned);
    CUresult (*host_register)(void *, size_t, unsigned);
    CUresult (*host_device_pointer)(CUdeviceptr *, void *, unsigned);
    CUresult (*event_create)(CUevent *, unsigned);
    CUresult (*event_record[2])(CUevent, CUstream);
    CUresult (*event_query)(CUevent);
    CUresult (*primary_state)(CUdevice, unsigned *, int *);
    CUresult (*device_count)(int *);
    CUresult (*device_attribute)(int *, int, CUdevice);
    CUresult (*device_uuid)(CUuuid *, CUdevice);
    CUresult (*driver_version)(int *);
    CUresult (*device_pool)(CUmemoryPool *, CUdevice);
    CUresult (*pool_attribute)(CUmemoryPool, int, void *);
    CUresult (*pool_trim)(CUmemoryPool, size_t);
    CUresult (*graph_attribute)(CUdevice, int, void *);
    CUresult (*graph_trim)(CUdevice);
    CUresult (*capture_mode)(CUstreamCaptureMode *);
};

struct fast_hook {
    /* Read once, when the library is loaded. */
    _Atomic uint32_t loaded; /* 0: not yet, 1: being read, 2: done */
    bool enabled;
    bool fail_closed;
    bool launches_wait; /* for their kernels: CUDA_LAUNCH_BLOCKING */
    bool full; /* a node is there, and has no place for this process now */
    fast_ns mem_wait; /* of an allocation that the cap has no room for */
    char socket_path[108];
    uint64_t ticket_hi, ticket_lo;
    int log_fd;

    /* The driver. Written by whoever comes first, always with the same values. */
    _Atomic uint32_t resolved;
    _Atomic(fast_any_fn *) real[FAST_ENTRY_COUNT];
    struct {
        _Atomic(void *) ptr;
        _Atomic uint32_t entry;
    } map[FAST_HOOK_MAP];
    struct fast_driver driver;
    _Atomic uint64_t unhooked[8]; /* bits of fast_entry_bases that leaked */
    _Atomic uint32_t unhooked_new; /* the node has not been told of some of them */

    /* The node. */
    _Atomic(struct fast_session *) session;
    _Atomic uint32_t mode;  /* enum fast_hook_mode */
    _Atomic uint32_t start; /* 0: before the first cuInit, 1: being linked, 2: done */
    _Atomic int64_t lost_ns, grace_ns;
    _Atomic uint32_t lost;   /* somebody saw the connection break */
    _Atomic uint32_t asleep; /* the hook thread waits for its eventfd */
    int kick_fd;
    int dead_fd; /* of the connection before, shut down */
    pthread_mutex_t link_lock; /* of the socket; never held around a driver call */
    uint32_t next_id;

    /* Work. */
    _Atomic uint32_t captures;
    _Atomic uint32_t ctx_epoch; /* changes when a context ends */
    struct fast_ctx ctxs[FAST_HOOK_CTXS];
    _Atomic(CUcontext) primary[FAST_PAGE_GPUS]; /* of each device, once it was retained */
    struct fast_gpu gpus[FAST_PAGE_GPUS];
    struct fast_graph_cost graphs[FAST_HOOK_GRAPHS];

    /* Memory. */
    struct fast_table blocks;   /* device pointers, arrays -> bytes, gpu */
    _Atomic uint64_t small[FAST_PAGE_GPUS][FAST_FAMILY_COUNT]; /* sums of small allocations (memory.c) */
    struct fast_table handles;  /* cuMemCreate: handle -> bytes, gpu, references */
    struct fast_table mappings; /* cuMemMap: address -> handle, bytes */
    struct fast_table pools;    /* memory pools -> bytes charged, gpu */
    struct fast_table sealed;   /* address -> bytes: imported, mapped for reading (access.c) */
    _Atomic uint32_t sealed_used;
    _Atomic uint32_t pools_used; /* there may be rows in |pools| */
    struct fast_table graph_sums; /* CUgraph -> bytes that its nodes allocate */
    _Atomic uint64_t graph_largest;  /* the largest of these sums so far; 0: no graph allocates */
    _Atomic uint64_t graph_captured; /* what the captures in progress allocate */
    _Atomic uint64_t graph_charged[FAST_PAGE_GPUS]; /* for what graphs have reserved */
};

/* What a thread knows by itself. */
struct fast_thread {
    struct fast_ctx *ctx; /* of the current context; NULL: ask */
    uint32_t ctx_epoch;
    uintptr_t stream_key; /* the stream that was used last */
    struct fast_stream *stream;
    struct {
        struct fast_stream *stream;
        CUstream handle;
        bool per_thread;
    } dirty[8]; /* streams with unmarked work of this thread */
};

/* Hidden: reached without a look-up in the global offset table. */
extern struct fast_hook fast_hook __attribute__((visibility("hidden")));
extern __thread struct fast_thread fast_thread
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* One thread at a time may write a counter without an atomic read-modify-write: whoever came first.
 * It is known by the address of its fast_thread; a later thread at the same address is the only one
 * there as well. */
static inline bool fast_owner_is_me(const _Atomic uintptr_t *owner)
{
    return atomic_load_explicit(owner, memory_order_relaxed) == (uintptr_t)&fast_thread;
}

static inline bool fast_owner_claim(_Atomic uintptr_t *owner)
{
    uintptr_t none = 0;
    return fast_owner_is_me(owner) ||
           atomic_compare_exchange_strong(owner, &none, (uintptr_t)&fast_thread);
}

/* ---- init.c ---- */

/* True in a process of a replica. Reads the environment at the first call, which may come before
 * the constructor: other libraries' constructors can run first. */
bool fast_hook_enabled(void);
fast_ns fast_hook_now(void); /* CLOCK_MONOTONIC */
void fast_hook_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int fast_hook_far(int fd); /* the same under a number that programs do not use; fd < 0 is fine */

/* ---- resolve.c ---- */

/* Never NULL: what the driver lacks is a function that says so. */
fast_any_fn *fast_hook_resolve(enum fast_entry entry);
/* Finds all real symbols; false while no driver is loaded, unless |load|. */
bool fast_hook_resolve_all(bool load);
/* The wrapper that a lookup of |name| gets instead of the driver's or NVML's function, or NULL. */
void *fast_hook_wrapper(const char *name);
/* The wrapper of a pointer that the driver returned for |base|, or the pointer itself. */
void *fast_hook_substitute(const char *base, void *real);
extern fast_any_fn *const fast_hook_wrappers[FAST_ENTRY_COUNT]; /* hook_stubs.c */

static inline fast_any_fn *fast_hook_real(enum fast_entry entry)
{
    fast_any_fn *fn = atomic_load_explicit(&fast_hook.real[entry], memory_order_acquire);
    return fn ? fn : fast_hook_resolve(entry);
}

#define FAST_REAL(symbol) ((fast_fn_##symbol *)fast_hook_real(FAST_ENTRY_##symbol))

/* ---- dlsym.c ---- */

/* The C library's own functions, past every wrapper. */
void *fast_real_dlsym(void *handle, const char *name);
void *fast_real_dlopen(const char *path, int flags);

/* ---- link.c ---- */

/* After a successful cuInit: connects once, waits for at most 2 s. */
void fast_link_start(void);
/* Asks for a token, or gives one back. False: the connection is broken. */
bool fast_link_want(uint32_t gpu, bool again);
bool fast_link_done(uint32_t gpu, uint64_t token, fast_ns busy, fast_ns overrun, bool want);
/* Memory. |family| is enum fast_family. */
bool fast_link_reserve(uint32_t gpu, uint64_t bytes, uint32_t family);
void fast_link_release(uint32_t gpu, uint64_t bytes, uint32_t family);
/* Hook thread: looks whether the node is still there, and after it went away tries to get a new
 * session. Returns how long to wait until the next try. */
void fast_link_report(const struct fast_session *session);
/* Tells the node the sums that it may have missed a change of. */
void fast_link_memory(const struct fast_session *session);
bool fast_link_alive(struct fast_session *session);
void fast_link_drop(struct fast_session *session);
bool fast_link_connect(bool reconnect, fast_ns timeout);
void fast_link_reset(void); /* in a forked child */

/* Waits for a change of |word|, |seen|, for at most |wait|. */
void fast_hook_sleep(const _Atomic uint32_t *word, uint32_t seen, fast_ns wait);

/* ---- grace.c ---- */

/* The node has not told for long that it is alive: it hangs. */
bool fast_grace_pulse_lost(const struct fast_session *session, fast_ns now);
/* A session without a node, with the limits of |last|; NULL: no memory. */
struct fast_session *fast_grace_session(const struct fast_session *last);
/* Hook thread: gives out and takes back. Returns when to look again, at the latest. */
fast_ns fast_grace_turn(struct fast_session *session, fast_ns now);

/* ---- thread.c ---- */

bool fast_hook_thread_start(void);
void fast_hook_kick(void); /* wakes the hook thread if it sleeps */

/* ---- nvml.c ---- */

void *fast_nvml_wrapper(const char *name);

#endif
