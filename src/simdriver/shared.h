#ifndef FAST_SIMDRIVER_SHARED_H
#define FAST_SIMDRIVER_SHARED_H

/* The simulated GPUs of this machine, as all processes see them: one file mapped by everybody, with
 * the model of every device, who uses it, and the memory that is charged to whom. There is no
 * daemon: whoever calls brings the model up to date, and whoever finds a dead process cleans up
 * after it. libcuda.so.1 joins as a process; libnvidia-ml.so.1 only looks. */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"
#include "sim/gpu.h"

#define SHARED_DEVICES 8
#define SHARED_SLOTS 128 /* processes that have called cuInit */
#define SHARED_PHYS 1024 /* allocations that more than one process may hold, per device */
#define SHARED_EVENTS 2048 /* events that more than one process may hold, per device */

struct shared_head;

struct shared {
    struct shared_head *head; /* NULL: not open */
    int fd;                   /* never closed: closing it would drop the lock on our slot */
    int slot;                 /* ours, -1 when we only look */
    int devices;
    unsigned mode;  /* of files: a folder with the set-group-ID bit is its group's */
    char dir[200];  /* FAST_SIM_DIR */
    char spec[32];  /* FAST_SIM, "v100-16gb:1" */
    char model[24]; /* "v100-16gb" */
};

/* Reads FAST_SIM and FAST_SIM_DIR, makes or maps the state file. */
int shared_open(struct shared *sh, struct fast_err *err);
/* Takes a process slot. */
int shared_join(struct shared *sh, struct fast_err *err);
/* Gives back what this process holds; it may join again. */
void shared_leave(struct shared *sh);

/* Locks device |dev| and returns its model; every other call below that names a device locks it
 * itself. A process that died while holding the lock leaves no trace but its last change. */
struct sim_gpu *shared_lock(struct shared *sh, int dev);
void shared_unlock(struct shared *sh, int dev);
/* Counts how often the model of |dev| had to be started anew. Under the lock. */
uint64_t shared_generation(struct shared *sh, int dev);
/* Notes, under the lock, that |client| of the model of |dev| belongs to this process, or not. */
void shared_own(struct shared *sh, int dev, int client, bool mine);

/* A fatal fault of one MPS client reaches all of them on the device. The mark that the last one left,
 * 0 before the first: never the same again, with |error| (not 0) in its lower half. */
void shared_fault(struct shared *sh, int dev, uint32_t error);
uint64_t shared_fault_mark(const struct shared *sh, int dev);

/* Frees what dead processes hold. Returns how many there were. */
int shared_reap(struct shared *sh);

/* Device memory. shared_charge returns -FAST_ENOMEM and charges nothing when it does not fit. */
int shared_charge(struct shared *sh, int dev, uint64_t bytes);
void shared_uncharge(struct shared *sh, int dev, uint64_t bytes);
uint64_t shared_used(struct shared *sh, int dev);
const struct sim_gpu_conf *shared_conf(const struct shared *sh, int dev);
uint64_t shared_total(const struct shared *sh, int dev);

/* Memory that may be held by several processes: charged while anybody holds it. |key| names it, and
 * is not 0. Returns -FAST_ENOMEM or -FAST_ENOROOM. */
int shared_phys_hold(struct shared *sh, int dev, uint64_t key, uint64_t bytes);
void shared_phys_drop(struct shared *sh, int dev, uint64_t key);
/* The file of it, if it is in one; removed when nobody holds it any more. */
/* Opens a file of the state, which is made if it is not there, with |flags| beside O_RDWR. */
int shared_file(const struct shared *sh, const char *path, int flags);
void shared_phys_path(const struct shared *sh, uint64_t key, char *ret, size_t size);
/* Turns |bytes| that this process was charged for into memory that may be shared. */
int shared_phys_convert(struct shared *sh, int dev, uint64_t key, uint64_t bytes);

/* Events that processes share. What is complete is told by the process whose stream it is, after the
 * effects of all before it, so that whoever has waited sees them. */
struct shared_record {
    int32_t device, channel;
    uint64_t id, index; /* of the channel, 0: nothing was ever recorded; of the operation there */
};
struct shared_event_ref {
    int32_t device, at;
    uint64_t key; /* 0: none */
};
/* Makes the event |ret->key| (not 0) of |ret->device|. -FAST_ENOROOM. */
int shared_event_new(struct shared *sh, struct shared_event_ref *ret);
/* -FAST_ENOENT: nobody holds it any more. */
int shared_event_hold(struct shared *sh, const struct shared_event_ref *ref);
void shared_event_drop(struct shared *sh, const struct shared_event_ref *ref);
void shared_event_record(struct shared *sh, const struct shared_event_ref *ref,
                         const struct shared_record *record);
struct shared_record shared_event_last(struct shared *sh, const struct shared_event_ref *ref);
/* So is what is left of a stream that is gone, and of a process that has died. */
bool shared_record_done(const struct shared *sh, const struct shared_record *record);
/* A stream of this process begins to record, in |ret->device|: fills |ret| but for |index|. */
int shared_channel_new(struct shared *sh, struct shared_record *ret);
void shared_channel_reach(struct shared *sh, const struct shared_record *channel, uint64_t index);
void shared_channel_free(struct shared *sh, const struct shared_record *channel);

/* A process on a device, for NVML. */
struct shared_proc {
    int pid;
    uint64_t bytes;
    fast_ns busy_ns; /* of its kernels */
};
/* Fills at most |max|; returns how many there are. */
int shared_procs(struct shared *sh, int dev, struct shared_proc *ret, int max);

/* The counters of the model, brought up to now. */
struct sim_gpu_counters shared_counters(struct shared *sh, int dev);

/* The 16 bytes that identify device |dev| of this directory. */
void shared_uuid(const struct shared *sh, int dev, unsigned char ret[16]);
/* "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" into |ret| of 48 bytes. */
void shared_uuid_text(const struct shared *sh, int dev, char *ret);

/* CLOCK_MONOTONIC. */
fast_ns shared_now(void);

#endif
