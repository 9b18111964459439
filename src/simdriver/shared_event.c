/* Events that processes share. The last record of an event names a stream of some process and an
 * operation in it; that process publishes how far the stream is. So a record is complete or not
 * whatever is recorded afterwards, and nobody has to tidy up: a stream that is gone has a channel
 * with another id, or none. */
#include "simdriver/shared_state.h"

static void holder_set(struct shared_event *e, int slot, bool holds)
{
    uint64_t bit = 1ull << (slot % 64), *word = &e->holders[slot / 64];
    *word = holds ? *word | bit : *word & ~bit;
}

static void event_leave(struct shared_event *e, int slot)
{
    uint64_t left = 0;
    holder_set(e, slot, false);
    for (int k = 0; k < SHARED_SLOTS / 64; k++)
        left |= e->holders[k];
    if (!left)
        e->key = 0;
}

static void channel_close(struct shared_channel *c)
{
    __atomic_store_n(&c->id, 0, __ATOMIC_RELEASE);
}

void shared_events_clear(struct shared_device *d, int slot)
{
    for (int i = 0; i < SIM_QUEUES; i++)
        if (d->channel[i].id && d->channel[i].slot == slot)
            channel_close(&d->channel[i]);
    for (int i = 0; i < SHARED_EVENTS; i++)
        if (d->event[i].key)
            event_leave(&d->event[i], slot);
}

/* The event, NULL if it is not there any more. Under the lock of its device. */
static struct shared_event *event_of(struct shared *sh, const struct shared_event_ref *ref)
{
    struct shared_event *e = &sh->head->device[ref->device].event[ref->at];
    return e->key == ref->key ? e : NULL;
}

int shared_event_new(struct shared *sh, struct shared_event_ref *ret)
{
    struct shared_event *events = sh->head->device[ret->device].event;
    int at = 0;
    shared_lock(sh, ret->device);
    while (at < SHARED_EVENTS && events[at].key)
        at++;
    if (at < SHARED_EVENTS) {
        events[at] = (struct shared_event){.key = ret->key};
        holder_set(&events[at], sh->slot, true);
    }
    shared_unlock(sh, ret->device);
    ret->at = at;
    return at < SHARED_EVENTS ? 0 : -FAST_ENOROOM;
}

int shared_event_hold(struct shared *sh, const struct shared_event_ref *ref)
{
    shared_lock(sh, ref->device);
    struct shared_event *e = event_of(sh, ref);
    if (e)
        holder_set(e, sh->slot, true);
    shared_unlock(sh, ref->device);
    return e ? 0 : -FAST_ENOENT;
}

void shared_event_drop(struct shared *sh, const struct shared_event_ref *ref)
{
    shared_lock(sh, ref->device);
    struct shared_event *e = event_of(sh, ref);
    if (e)
        event_leave(e, sh->slot);
    shared_unlock(sh, ref->device);
}

void shared_event_record(struct shared *sh, const struct shared_event_ref *ref,
                         const struct shared_record *record)
{
    shared_lock(sh, ref->device);
    struct shared_event *e = event_of(sh, ref);
    if (e)
        e->last = *record;
    shared_unlock(sh, ref->device);
}

struct shared_record shared_event_last(struct shared *sh, const struct shared_event_ref *ref)
{
    struct shared_record last = {0};
    shared_lock(sh, ref->device);
    const struct shared_event *e = event_of(sh, ref);
    if (e)
        last = e->last;
    shared_unlock(sh, ref->device);
    return last;
}

/* Without the lock: a channel that changes hands meanwhile is one whose stream is gone. */
bool shared_record_done(const struct shared *sh, const struct shared_record *r)
{
    const struct shared_channel *c = &sh->head->device[r->device].channel[r->channel];
    return !r->id || __atomic_load_n(&c->id, __ATOMIC_ACQUIRE) != r->id ||
           __atomic_load_n(&c->reached, __ATOMIC_ACQUIRE) >= r->index;
}

int shared_channel_new(struct shared *sh, struct shared_record *ret)
{
    struct shared_device *d = &sh->head->device[ret->device];
    int at = 0;
    shared_lock(sh, ret->device);
    while (at < SIM_QUEUES && d->channel[at].id)
        at++;
    if (at < SIM_QUEUES) {
        d->channel[at].reached = 0;
        d->channel[at].slot = sh->slot;
        ret->channel = at;
        ret->id = ++d->channels_made;
        __atomic_store_n(&d->channel[at].id, ret->id, __ATOMIC_RELEASE);
    }
    shared_unlock(sh, ret->device);
    return at < SIM_QUEUES ? 0 : -FAST_ENOROOM;
}

void shared_channel_reach(struct shared *sh, const struct shared_record *channel, uint64_t index)
{
    struct shared_channel *c = &sh->head->device[channel->device].channel[channel->channel];
    __atomic_store_n(&c->reached, index, __ATOMIC_RELEASE);
}

void shared_channel_free(struct shared *sh, const struct shared_record *channel)
{
    struct shared_device *d = &sh->head->device[channel->device];
    shared_lock(sh, channel->device);
    channel_close(&d->channel[channel->channel]);
    shared_unlock(sh, channel->device);
}
