#ifndef FAST_SIMDRIVER_DRV_H
#define FAST_SIMDRIVER_DRV_H

/* What the files of the simulated libcuda.so.1 share.
 *
 * One lock per process, drv.lock, guards everything in here; the lock of a device (shared.h) is taken
 * inside it. Work that takes real time (a kernel's CPU code, a copy) runs without the lock, one piece
 * at a time, in the order in which the model says that it completed: see work.c.
 *
 * Exported functions are thin: they take the lock with drv_enter*(), do one thing, and end with
 * `return drv_leave(rc)`. */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"
#include "cuda/abi.h"
#include "cuda/hook_proto.h"
#include "sim/gpu.h"
#include "simdriver/module.h"
#include "simdriver/shared.h"

/* An exported function of the CUDA driver API. */
#define CUAPI __attribute__((visibility("default"))) CUresult

#define DRV_VERSION 13000
#define DRV_CONTEXT_BYTES FAST_MIB(300) /* what a context costs on the device */

/* ---- handles: objects whose memory is only ever used for the same type again, so that looking at
 * a stale or wrong handle is safe ---- */

enum handle_type {
    H_NONE, H_CTX, H_STREAM, H_EVENT, H_MODULE, H_FUNCTION, H_LIBRARY, H_POOL, H_PHYS, H_GRAPH,
    H_NODE, H_EXEC, H_ARRAY, H_LINKER, H_USER_OBJECT, H_TYPES
};

struct handle {
    enum handle_type type; /* H_NONE: free */
    struct handle *next_free;
};

void *handle_new(enum handle_type type, size_t size); /* zeroed; NULL when out of memory */
void handle_free(void *h);
bool handle_is(const void *h, enum handle_type type);

/* ---- objects ---- */

struct stream;
struct op;
struct graph;

struct ctx {
    struct handle handle;
    struct ctx *next;
    CUdevice ordinal;   /* as the program counts */
    int device, client; /* in the shared state; of the model */
    int sm_pct;
    uint64_t id, generation;
    uint64_t fault; /* mark of the last fault of an MPS client before this context */
    unsigned flags, api_version;
    int users; /* of the primary context: retains */
    bool primary;
    CUresult error; /* sticky; 0 when fine */
    struct stream *legacy;
    struct stream *streams; /* all of them */
    struct module *modules;
    size_t limit[16];
};

#define STREAM_ATTRIBUTES 4

/* The last nodes of a capture in a stream, or at an event. */
struct front {
    struct node **nodes;
    size_t count;
};

struct stream {
    struct handle handle;
    struct stream *next;        /* in ctx->streams */
    struct stream *next_active; /* in drv.active */
    struct ctx *ctx;
    uint64_t id;
    unsigned flags;
    int priority;
    bool legacy, per_thread, active, dying;
    int queue;                   /* of the model; -1 before the first operation */
    uint64_t base;               /* number of an operation minus its number in the model */
    struct op *head, *tail;      /* submitted, not applied yet */
    struct op *fresh;            /* the first of them that is not complete in the model */
    uint64_t submitted, collected, applied; /* operations so far: in all, complete, applied */
    unsigned effects;            /* of the list: those that do something */
    uint64_t seen_legacy;        /* operation of the legacy stream that this one already waits for */
    uint64_t seen_by_legacy;     /* the other way round */
    pthread_t owner;             /* of a per-thread stream */
    struct capture *capture;
    struct front front; /* what the next captured node depends on */
    char attribute[STREAM_ATTRIBUTES][64]; /* as the program has set them */
    struct shared_record channel; /* id 0: no shared event was recorded here yet */
};

struct event {
    struct handle handle;
    struct ctx *ctx;
    unsigned flags;
    bool recorded, done;
    fast_ns at;             /* when done */
    uint64_t record;        /* which record is the last one */
    struct stream *stream;  /* of the last record, while not done */
    uint64_t index;         /* its operation there */
    uint64_t capture_id; /* recorded last in that capture; 0: in none */
    struct front front;
    struct shared_event_ref shared; /* key 0: only this process knows it */
    struct event *next_shared;
};

struct function {
    struct handle handle;
    struct function *next;
    struct module *module;
    char *name;
    const struct fast_sim_kernel *kernel; /* NULL: PTX, it only takes its time */
    int param_count;
    uint16_t *param_bytes;
    int max_dynamic_shared;
    /* cuFuncSetBlockShape and the others of CUDA 2 */
    unsigned block[3], shared_bytes, param_size;
    unsigned char *params;
};

/* What a module is made of. */
struct image {
    int fd; /* -1: none */
    void *dl;
    const struct fast_sim_module *desc;
    const char *ptx; /* belongs to the caller */
    size_t bytes;
};

struct module {
    struct handle handle;
    struct module *next; /* in ctx->modules */
    struct ctx *ctx;     /* NULL: of a library, good in all contexts */
    struct image image;
    uint64_t charged; /* on the device of |ctx| */
    struct function *functions;
};

/* ---- work: what a stream does, and what a graph node holds ---- */

enum work_kind {
    WORK_EMPTY,
    WORK_KERNEL,
    WORK_COPY,
    WORK_MEMSET,
    WORK_WRITE, /* cuStreamWriteValue */
    WORK_WAIT,  /* cuStreamWaitValue */
    WORK_RECORD,
    WORK_HOST,
    WORK_ALLOC, /* only in a graph: its launch takes the memory */
    WORK_FREE, /* cuMemFreeAsync */
    WORK_DEPEND, /* only inside a stream: it waits for another one */
    WORK_AWAIT, /* the same, of whatever process */
};

struct work_kernel {
    struct function *fn;
    unsigned grid[3], block[3], shared_bytes;
    void **params; /* one block of memory with the values behind it; NULL if there are none */
    struct sim_kernel model;
};

struct work_copy {
    uintptr_t dst, src;
    size_t width, height, depth;
    size_t dst_pitch, dst_slice, src_pitch, src_slice;
    bool dst_device, src_device; /* to be checked */
    void *owned;                 /* a copy of the source */
};

struct work_memset {
    uintptr_t dst;
    size_t pitch, width, height; /* width in elements */
    unsigned value, size;
};

struct work_memop {
    uintptr_t addr;
    uint64_t value;
    unsigned flags;
    bool wide;
};

struct work_host {
    CUhostFn fn;
    CUstreamCallback callback; /* instead of fn */
    CUstream stream;
    void *arg;
};

struct work {
    enum work_kind kind;
    union {
        struct work_kernel kernel;
        struct work_copy copy;
        struct work_memset memset;
        struct work_memop memop;
        struct work_host host;
        struct event *event;
        struct shared_record await;
        struct {
            uintptr_t ptr;
            uint64_t serial;
        } free;
    };
};

/* An operation of a stream: one of the model, and its effect. */
struct op {
    struct op *next;
    struct stream *stream;
    uint64_t number, index; /* over the process, over the stream */
    struct work work;
    struct sim_op model;
    uint64_t record;   /* WORK_RECORD: which one */
    bool effect;       /* somebody sees it when it is done */
    bool wanted;       /* somebody waits for it */
    bool complete;     /* in the model */
    bool holding;      /* the model waits for us */
    bool handed, returned; /* the host function was handed to its thread, and has returned */
    bool released;     /* we told the model to go on */
    fast_ns at;        /* completion */
    struct stream *other; /* WORK_DEPEND: on what */
    uint64_t other_index, other_id;
    struct op *next_host;
};

/* ---- the process ---- */

struct drv {
    pthread_mutex_t lock;
    pthread_cond_t cond;   /* something was applied, or there is something earlier to wait for */
    pthread_cond_t work;   /* for the worker: there is something to do and nobody who waits */
    pthread_cond_t hosted; /* for the thread of host functions */
    bool initialized, forked, exiting, mps;
    int sm_pct;
    struct shared shared;
    int devices;                 /* visible */
    int visible[SHARED_DEVICES]; /* ordinal -> device */
    struct ctx *primary[SHARED_DEVICES];
    unsigned primary_flags[SHARED_DEVICES];
    struct ctx *contexts;
    struct module *libraries; /* modules without a context */
    struct event *shared_events;
    struct stream *active;    /* with operations in their lists */
    uint64_t numbers, ids;
    unsigned effects;         /* operations that do something, in all lists */
    bool applying, idle;      /* a thread runs without the lock; the worker sleeps */
    int waiters;          /* threads that wait for work */
    fast_ns sleep_until;  /* the earliest of the sleepers */
    struct op *host_head, *host_tail;
    bool started; /* the threads */
    int captures; /* in progress, any mode */
    int mps_fd;
};

extern struct drv drv;

/* Entering: 0 with the lock held, or an error without it. */
CUresult drv_enter(void);                 /* the driver is initialised */
CUresult drv_enter_ctx(struct ctx **ret); /* and a context is current and has no sticky error */
CUresult drv_enter_stream(CUstream handle, struct stream **ret); /* and |handle| is a stream */
/* Unlocks and returns |rc|. */
static inline CUresult drv_leave(CUresult rc)
{
    pthread_mutex_unlock(&drv.lock);
    return rc;
}

/* ctx.c */
struct ctx *ctx_current(void); /* of this thread; NULL if none */
void ctx_set_current(struct ctx *ctx);
struct ctx *ctx_get(CUcontext handle);              /* NULL: not a context */
/* |sm_pct|: the partition, under MPS. */
CUresult ctx_new(CUdevice dev, unsigned flags, unsigned version, int sm_pct, struct ctx **ret);
void ctx_free(struct ctx *ctx); /* waits for its work first */
CUresult ctx_fail(struct ctx *ctx, CUresult error); /* makes it sticky */
/* The error of |ctx|, 0 when it is fine. Under MPS the fatal fault of another client is one. */
CUresult ctx_error(struct ctx *ctx);
CUresult ctx_sync(struct ctx *ctx);

/* device.c */
bool device_valid(CUdevice dev);
int device_of(CUdevice dev);  /* index into the shared state */
int device_sms(CUdevice dev); /* that a context of this process can use */
const struct sim_gpu_conf *device_conf(int device);
size_t device_shared_bytes(const struct sim_gpu_conf *conf); /* of one SM */
size_t device_shared_optin(const struct sim_gpu_conf *conf); /* that one block may have */

/* mps.c */
void mps_connect(void);
/* The server takes no client: one of before a fault is still there. Asks again. */
bool mps_not_ready(void);
void mps_tell_fault(void);

/* stream.c */
#define STREAM_PRIORITY_GREATEST (-5)
/* A stream handle of |ctx|, with 0, 1 and 2; NULL if it is none. */
struct stream *stream_get(struct ctx *ctx, CUstream handle);
struct stream *stream_new(struct ctx *ctx, unsigned flags, int priority);
void stream_destroy(struct stream *s);
void stream_reap(struct stream *s); /* frees a dying one whose work is done */

/* event.c */
struct event *event_get(CUevent handle);
CUresult event_new(struct ctx *ctx, unsigned flags, struct event **ret);
bool event_recorded(const struct event *e); /* at all */
bool event_pending(const struct event *e);  /* and what was recorded last is not complete */
CUresult event_record(struct event *e, struct stream *s);
CUresult work_wait_event(struct stream *s, const struct event *e);
/* |e| is an event of other processes, too, from now on. */
void event_share(struct event *e, const struct shared_event_ref *ref);

/* work.c */
/* Puts |work| at the end of |s|, which takes over what |work| owns; in a capture it becomes a node
 * instead. The wait for room in the ring may let go of the lock for a while. */
CUresult work_submit(struct stream *s, struct work *work);
CUresult work_submit_now(struct stream *s, struct work *work); /* never captures */
/* |s| waits for operation |index| of |other|. */
CUresult work_depend(struct stream *s, struct stream *other, uint64_t index);
CUresult work_await(struct stream *s, const struct shared_record *record);
bool work_done(const struct stream *s, uint64_t index);
/* Waits until that operation of |s| has been applied. */
CUresult work_wait(struct stream *s, uint64_t index);
void work_drop(struct stream *s); /* forgets all operations of |s| */

/* progress.c */
#define WORK_REAP_EVERY FAST_MS(20)
#define WORK_POLL_EVERY FAST_US(50) /* looks at what other processes, or the CPU, write */
struct sim_gpu *work_lock_model(struct ctx *ctx);
void work_unlock_model(struct ctx *ctx);
void work_collect(void);        /* reads from the models what is complete */
fast_ns work_deadline(void);    /* when anything that somebody can see may happen next */
void work_sleep(fast_ns until); /* or until drv.cond */
/* Brings everything up to now and applies one operation. False: there was nothing to do. */
bool work_step(bool only_light);
/* Applies what is complete by now, unless another thread is at it. */
void work_poll(void);
void work_release(struct op *op); /* the model may go on behind a SIM_OP_HOLD */
void work_op_free(struct op *op);
void work_deactivate(struct stream *s);

/* user_object.c. Calls a destructor that is due, letting go of the lock. False: there is none. */
bool user_object_bury(void);

/* worker.c. Starts the threads of this process, once. */
int work_start(void);

/* apply.c; work_apply runs without the lock. */
CUresult work_apply(const struct work *work);
bool work_memop_true(const struct work_memop *op);
CUresult work_copy(struct work *dst, const struct work *src); /* with its own parameters */
void work_free(struct work *work);

/* area.c: the ranges of addresses that the driver knows. */
enum area_kind {
    AREA_DEVICE, AREA_MANAGED, AREA_HOST, AREA_REGISTERED, AREA_RESERVED, AREA_MAPPED, AREA_IPC,
    AREA_POOL, AREA_GRAPH
};

struct area {
    uintptr_t base;
    size_t size;  /* as asked for */
    size_t space; /* of addresses */
    enum area_kind kind;
    int device;
    unsigned flags, access;
    uint64_t id, charged;
    struct ctx *ctx;
    struct pool *pool;
    struct phys *phys;
    size_t offset;
    uint64_t key; /* of memory that processes share, in the shared state */
    int opened;   /* legacy IPC: how often; AREA_GRAPH: graphs that know it */
    /* AREA_POOL, AREA_GRAPH: freed by the program, freed in the stream of that number; |serial| counts what
     * has happened to it, so that a free that was overtaken by a new allocation is void. */
    bool pending, freed;
    uint64_t stream_id, serial;
};

int area_init(void);
bool area_in_window(uintptr_t addr);
/* Addresses for |space| bytes, a multiple of the page size, inside the window; 0 when there are none.
 * Nothing is mapped there yet. The area is entered by area_add. */
uintptr_t area_find_space(size_t space, size_t align, uintptr_t hint);
struct area *area_add(const struct area *area); /* NULL: out of memory, or it overlaps */
void area_remove(struct area *area);
struct area *area_at(uintptr_t addr); /* the range around |addr|, not a reservation */
struct area *area_reserved_at(uintptr_t addr);
struct area *area_next(uintptr_t addr); /* the first one that begins at or after |addr| */
/* All |bytes| from |addr| on are memory that a kernel may read, or write. */
bool area_covers(uintptr_t addr, size_t bytes, bool write);

/* memory.c */
CUresult memory_alloc(struct ctx *ctx, enum area_kind kind, size_t bytes, CUdeviceptr *ret);
CUresult memory_free(struct area *area);
int memory_commit(uintptr_t base, size_t space, bool nofork);
void memory_decommit(uintptr_t base, size_t space);
void memory_drop_ctx(struct ctx *ctx);

/* pool.c */
void pool_return(uintptr_t ptr, uint64_t serial); /* a stream has reached its cuMemFreeAsync */
CUresult pool_free_now(struct area *area);
void pool_synced(int device);
void pool_trim_all(int device);
void pool_drop_device(int device);

/* array.c. Where the elements of |array| are, 0: it is none. Needs no lock; of an array whose context is
 * gone this is no memory any more. */
uintptr_t array_memory(CUarray array, size_t *ret_pitch, size_t *ret_rows);

/* graph_memory.c */
CUresult graph_memory_new(int device, size_t bytes, CUdeviceptr *ret); /* addresses only */
void graph_memory_ref(uintptr_t ptr, int by); /* a graph knows it, or no more */
/* A launch needs the memory. |again|: also when the last launch has not freed it. */
CUresult graph_memory_take(uintptr_t ptr, bool again);
CUresult graph_memory_give(uintptr_t ptr, uint64_t *ret_serial); /* it will be freed by a WORK_FREE */
void graph_memory_return(uintptr_t ptr, uint64_t serial);        /* it is */
void graph_memory_drop_device(int device);

/* vmm.c, ipc.c */
void vmm_unmap(struct area *area);
void ipc_release(struct area *area);

/* module.c */
CUresult image_open(const void *data, struct image *ret);
void image_close(struct image *image);
char *image_read(const char *path, size_t *ret_size); /* the caller frees it; NULL if there is none */
CUresult module_fill(struct module *m, struct image *image);
void module_unload(struct module *m);
struct function *module_function(const struct module *m, const char *name);
struct function *function_get(const void *handle); /* of a CUfunction or a CUkernel */

/* launch.c */
#define SHARED_BYTES_DEFAULT 49152
CUresult launch_build(const void *func, const unsigned grid[3], const unsigned block[3],
                      unsigned shared_bytes, void **params, void **extra, struct work *ret);
void **launch_copy_params(const struct function *f, void *const *params);
size_t launch_param_offset(const struct function *f, int index);

/* capture.c */
CUresult capture_add(struct stream *s, struct work *work); /* |s| is capturing */
CUresult capture_add_child(struct stream *s, struct graph *child); /* takes it over */
CUresult capture_record(struct stream *s, struct event *e, unsigned flags);
CUresult capture_wait(struct stream *s, struct event *e, unsigned flags);
CUresult capture_unsafe(struct ctx *ctx);    /* a call that is not allowed while capturing */
CUresult capture_forbid(struct stream *s);   /* a call that is not allowed on a capturing stream */
CUresult capture_legacy(struct stream *s);   /* |s| may be the legacy stream during a capture */
void capture_invalidate(struct capture *capture);
void capture_leave(struct stream *s);
void capture_drop_ctx(struct ctx *ctx);

/* copy.c, fill.c: also used by graph nodes */
CUresult copy_build_3d(const CUDA_MEMCPY3D *p, struct work *ret);
CUresult fill_build(CUdeviceptr dst, size_t pitch, unsigned value, unsigned size, size_t width,
                    size_t height, struct work *ret);

#endif
