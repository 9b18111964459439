/* Moves bytes through pinned staging buffers: while the device takes one, the next is read and hashed.
 * Pinned, because a copy out of pageable memory would be staged a second time by the driver. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "storelib/lib.h"

#define STAGES 4
#define STAGE_BYTES FAST_MIB(2) /* stays in the cache of a core between reading, hashing and copying */

struct stage {
    const struct fast_store_driver *d;
    unsigned char *buf; /* STAGES of STAGE_BYTES, pinned */
    CUstream stream;
    CUevent event[STAGES];
    bool busy[STAGES];
    int at;
    size_t fill;
};

static void stage_fini(struct stage *s)
{
    if (s->stream)
        s->d->stream_sync(s->stream);
    for (int i = 0; i < STAGES; i++)
        if (s->event[i])
            s->d->event_destroy(s->event[i]);
    if (s->stream)
        s->d->stream_destroy(s->stream);
    if (s->buf)
        s->d->host_free(s->buf);
}

static int stage_init(struct stage *s, const struct fast_store_driver *d, struct fast_err *err)
{
    void *buf = NULL;
    *s = (struct stage){.d = d};
    int rc = fast_store_driver_check(d, d->host_alloc(&buf, STAGES * STAGE_BYTES, 0),
                                     "cuMemHostAlloc", err);
    s->buf = buf;
    rc = rc ? rc
            : fast_store_driver_check(d, d->stream_create(&s->stream, CU_STREAM_NON_BLOCKING),
                                      "cuStreamCreate", err);
    for (int i = 0; i < STAGES && !rc; i++)
        rc = fast_store_driver_check(
            d, d->event_create(&s->event[i], CU_EVENT_DISABLE_TIMING | CU_EVENT_BLOCKING_SYNC),
            "cuEventCreate", err);
    if (rc)
        stage_fini(s);
    return rc;
}

/* The buffer of now is full: on to the next one, once the device is done with it. */
static int stage_turn(struct stage *s, struct fast_err *err)
{
    const struct fast_store_driver *d = s->d;
    int rc = fast_store_driver_check(d, d->event_record(s->event[s->at], s->stream), "cuEventRecord",
                                     err);
    s->busy[s->at] = true;
    s->at = (s->at + 1) % STAGES;
    s->fill = 0;
    if (!rc && s->busy[s->at])
        rc = fast_store_driver_check(d, d->event_sync(s->event[s->at]), "cuEventSynchronize", err);
    return rc;
}

static int read_all(int fd, unsigned char *to, size_t n, uint64_t from, struct fast_err *err)
{
    while (n) {
        ssize_t got = pread(fd, to, n, (off_t)from);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fast_err_set(err, FAST_EIO, "reading the file: %s",
                                got ? strerror(errno) : "it became shorter");
        to += got;
        from += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static int stage_piece(struct stage *s, int fd, CUdeviceptr base, struct store_piece *p,
                       struct fast_err *err)
{
    struct fast_hash hash;
    uint64_t done = 0;
    int rc = 0;
    fast_hash_init(&hash, 0);
    while (done < p->bytes && !rc) {
        if (s->fill == STAGE_BYTES && (rc = stage_turn(s, err)))
            break;
        size_t n = STAGE_BYTES - s->fill;
        n = p->bytes - done < n ? (size_t)(p->bytes - done) : n;
        unsigned char *buf = s->buf + (size_t)s->at * STAGE_BYTES + s->fill;
        rc = read_all(fd, buf, n, p->from + done, err);
        if (rc)
            break;
        fast_hash_add(&hash, buf, n);
        rc = fast_store_driver_check(
            s->d, s->d->copy_htod_async(base + p->to + done, buf, n, s->stream),
            "cuMemcpyHtoDAsync", err);
        s->fill += n;
        done += n;
    }
    p->hash = fast_hash_value(&hash);
    return rc;
}

int store_stage_file(const struct fast_store_driver *d, int fd, CUdeviceptr base,
                     struct store_piece *pieces, size_t n, struct fast_err *err)
{
    struct stage s;
    int rc = stage_init(&s, d, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < n && !rc; i++)
        rc = stage_piece(&s, fd, base, &pieces[i], err);
    if (!rc)
        rc = fast_store_driver_check(d, d->stream_sync(s.stream), "cuStreamSynchronize", err);
    stage_fini(&s);
    return rc;
}

/* The first buffer is for the file, the second for the device. */
static int compare_one(struct stage *s, int fd, CUdeviceptr base, struct store_piece *p, bool *ret_same,
                       struct fast_err *err)
{
    unsigned char *ours = s->buf, *theirs = s->buf + STAGE_BYTES;
    struct fast_hash hash;
    int rc = 0;
    fast_hash_init(&hash, 0);
    *ret_same = true;
    for (uint64_t done = 0; done < p->bytes && !rc && *ret_same;) {
        size_t n = p->bytes - done < STAGE_BYTES ? (size_t)(p->bytes - done) : STAGE_BYTES;
        rc = read_all(fd, ours, n, p->from + done, err);
        rc = rc ? rc
                : fast_store_driver_check(s->d, s->d->copy_dtoh(theirs, base + p->to + done, n),
                                          "cuMemcpyDtoH", err);
        *ret_same = !rc && !memcmp(ours, theirs, n);
        fast_hash_add(&hash, ours, n);
        done += n;
    }
    p->hash = fast_hash_value(&hash);
    return rc;
}

int store_stage_compare(const struct fast_store_driver *d, int fd, CUdeviceptr base,
                        struct store_piece *pieces, size_t n, size_t *ret_first, struct fast_err *err)
{
    struct stage s;
    size_t i = 0;
    bool same = true;
    int rc = stage_init(&s, d, err);
    if (rc)
        return rc;
    for (; i < n && !rc && same; i += same && !rc)
        rc = compare_one(&s, fd, base, &pieces[i], &same, err);
    stage_fini(&s);
    *ret_first = i;
    return rc;
}

static int hash_one(struct stage *s, CUdeviceptr from, uint64_t bytes, uint64_t *ret,
                    struct fast_err *err)
{
    struct fast_hash hash;
    int rc = 0;
    fast_hash_init(&hash, 0);
    for (uint64_t done = 0; done < bytes && !rc;) {
        size_t n = bytes - done < STAGE_BYTES ? (size_t)(bytes - done) : STAGE_BYTES;
        rc = fast_store_driver_check(
            s->d, s->d->copy((CUdeviceptr)(uintptr_t)s->buf, from + done, n), "cuMemcpy", err);
        if (!rc)
            fast_hash_add(&hash, s->buf, n);
        done += n;
    }
    *ret = fast_hash_value(&hash);
    return rc;
}

int store_stage_hash(const struct fast_store_driver *d, const void *data, uint64_t bytes,
                     uint64_t *ret, struct fast_err *err)
{
    struct stage s;
    int rc = stage_init(&s, d, err);
    if (rc)
        return rc;
    rc = hash_one(&s, (CUdeviceptr)(uintptr_t)data, bytes, ret, err);
    stage_fini(&s);
    return rc;
}

int store_stage_hash_all(const struct fast_store_driver *d, CUdeviceptr base,
                         struct fast_tensor *tensors, size_t n, struct fast_err *err)
{
    struct stage s;
    int rc = stage_init(&s, d, err);
    if (rc)
        return rc;
    for (size_t i = 0; i < n && !rc; i++)
        rc = hash_one(&s, base + tensors[i].offset, tensors[i].bytes, &tensors[i].hash, err);
    stage_fini(&s);
    return rc;
}
