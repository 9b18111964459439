#ifndef FAST_SIMDRIVER_SHARED_STATE_H
#define FAST_SIMDRIVER_SHARED_STATE_H

/* What is in the state file. Only shared*.c know. */

#include <pthread.h>

#include "simdriver/shared.h"

#define SHARED_MAGIC 0x46535348u
#define SHARED_VERSION 3u

struct shared_phys {
    uint64_t key; /* 0: free */
    uint64_t bytes;
    uint64_t holders[SHARED_SLOTS / 64];
};

struct shared_event {
    uint64_t key; /* 0: free */
    uint64_t holders[SHARED_SLOTS / 64];
    struct shared_record last;
};

/* How far a stream that records such events is. */
struct shared_channel {
    uint64_t id;      /* 0: free; never the same again */
    uint64_t reached; /* its operations up to here have had their effect */
    int32_t slot;     /* whose stream it is */
};

struct shared_device {
    pthread_mutex_t lock;
    uint64_t generation;
    uint64_t fault; /* number << 32 | error */
    uint64_t charged[SHARED_SLOTS];
    int16_t client_slot[SIM_CLIENTS]; /* whose client it is, -1 when free */
    struct shared_phys phys[SHARED_PHYS];
    uint64_t channels_made;
    struct shared_channel channel[SIM_QUEUES];
    struct shared_event event[SHARED_EVENTS];
};

struct shared_head {
    uint32_t magic; /* set last */
    uint32_t version;
    uint64_t gpu_size;
    uint32_t devices;
    pthread_mutex_t lock; /* of the slots; taken before the lock of a device */
    int32_t slot_pid[SHARED_SLOTS];
    struct shared_device device[SHARED_DEVICES];
};

/* |slot| holds no event and has no stream any more. Under the lock of the device. */
void shared_events_clear(struct shared_device *dev, int slot);

#endif
