/* The connection to a store. One request at a time. A store that went away is connected to again when
 * something is asked of it; references of the old life went with it, so
 * that giving one back to another life is not even tried. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/pass.h"
#include "io/packet.h"
#include "storelib/lib.h"

#define ANSWER FAST_S(10)  /* how long an answer may take that needs no waiting for others */
#define CONNECT FAST_S(10) /* how long a store may take to start */
#define RETRY FAST_MS(20)
#define ATTEMPTS 3

fast_ns store_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return FAST_S(t.tv_sec) + t.tv_nsec;
}

static void hang_up(struct fast_store *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static int greet(struct fast_store *s, struct fast_err *err)
{
    struct fast_msg hello = {.type = FAST_MSG_T_store_hello,
                             .store_hello = {.version = FAST_MSG_VERSION, .pass = fast_str(s->pass)}};
    struct fast_msg in;
    int rc = fast_packet_send(s->fd, &hello, NULL, 0, err);
    rc = rc ? rc : fast_packet_recv_wait(s->fd, CONNECT, s->buf, &in, NULL, err);
    if (rc)
        return rc;
    if (in.type == FAST_MSG_T_refused)
        return fast_err_set(err, (int)in.refused.code, "the store refuses: %.180s", in.refused.text.p);
    if (in.type != FAST_MSG_T_store_welcome || in.store_welcome.version != FAST_MSG_VERSION)
        return fast_err_set(err, FAST_EPROTO, "the store answers with %s", fast_msg_name(in.type));
    s->epoch = in.store_welcome.epoch;
    s->via = in.store_welcome.via;
    return 0;
}

/* A store that died leaves a socket where nobody listens until it is started anew. */
static int dial(struct fast_store *s, fast_ns patience, struct fast_err *err)
{
    fast_ns end = store_now() + patience;
    if (!*s->socket)
        return fast_err_set(err, FAST_EPEER, "there is no store");
    for (;;) {
        int rc = fast_packet_connect(s->socket, false, &s->fd, err);
        if (rc) {
            s->fd = -1;
        } else if ((rc = greet(s, err))) {
            hang_up(s);
        }
        if (rc != -FAST_EPEER || store_now() >= end)
            return rc;
        nanosleep(&(struct timespec){.tv_nsec = RETRY}, NULL);
    }
}

static int client_alloc(struct fast_store **ret, struct fast_err *err)
{
    struct fast_store *s = calloc(1, sizeof(*s));
    char *buf = malloc(FAST_MSG_MAX);
    if (!s || !buf) {
        free(s);
        free(buf);
        return fast_err_set(err, FAST_ENOMEM, "no memory for a connection");
    }
    s->buf = buf;
    s->fd = -1;
    s->users = 1;
    s->pid = getpid();
    pthread_mutex_init(&s->lock, NULL);
    int rc = fast_store_driver_load(&s->d, err);
    if (rc) {
        store_client_drop(s);
        return rc;
    }
    *ret = s;
    return 0;
}

int store_client_offline(struct fast_store **ret, struct fast_err *err)
{
    return client_alloc(ret, err);
}

int store_client_new(const char *socket, const char *pass, struct fast_store **ret,
                     struct fast_err *err)
{
    struct fast_store *s = NULL;
    if (!socket || !*socket)
        return fast_err_set(err, FAST_EPEER, "there is no store: FAST_STORE_SOCKET is not set");
    if (strlen(socket) >= sizeof(s->socket) || (pass && strlen(pass) >= sizeof(s->pass)))
        return fast_err_set(err, FAST_EINVAL, "the path of the store's socket, or the pass, is too long");
    int rc = client_alloc(&s, err);
    if (rc)
        return rc;
    snprintf(s->socket, sizeof(s->socket), "%s", socket);
    snprintf(s->pass, sizeof(s->pass), "%s", pass ? pass : "");
    rc = dial(s, FAST_MS(200), err);
    if (rc) {
        store_client_drop(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void store_client_use(struct fast_store *s)
{
    pthread_mutex_lock(&s->lock);
    s->users++;
    pthread_mutex_unlock(&s->lock);
}

void store_client_drop(struct fast_store *s)
{
    pthread_mutex_lock(&s->lock);
    int left = --s->users;
    pthread_mutex_unlock(&s->lock);
    if (left)
        return;
    CUdevice device;
    hang_up(s);
    if (s->primary && s->pid == getpid() && !s->d.device_get(&device, 0))
        s->d.primary_release(device);
    pthread_mutex_destroy(&s->lock);
    free(s->buf);
    free(s);
}

int store_client_enter(struct fast_store *s, struct fast_err *err)
{
    if (s->pid != getpid())
        return fast_err_set(err, FAST_EPERM, "the connection was made before a fork");
    return fast_store_driver_enter(&s->d, &s->primary, err);
}

/* ---- requests; under the lock ---- */

/* Sends |out| and receives the reply to it; what is left of an earlier one is dropped. */
static int call(struct fast_store *s, struct fast_msg *out, const int *fds, int nfds, fast_ns timeout,
                struct fast_msg *ret, int *ret_fds, struct fast_err *err)
{
    fast_ns end = store_now() + timeout;
    out->id = ++s->next_id ? s->next_id : ++s->next_id;
    int rc = fast_packet_send(s->fd, out, fds, nfds, err);
    while (!rc) {
        fast_ns left = end - store_now();
        rc = fast_packet_recv_wait(s->fd, left > 0 ? left : 0, s->buf, ret, ret_fds, err);
        if (!rc && ret->id == out->id)
            return 0;
        for (int i = 0; !rc && ret_fds && i < FAST_PACKET_FDS; i++)
            if (ret_fds[i] >= 0)
                close(ret_fds[i]);
    }
    /* What the store thinks of the request is not known: end the connection, and with it all of it. */
    hang_up(s);
    return rc;
}

static int expect_done(const struct fast_msg *m, struct fast_err *err)
{
    if (m->type != FAST_MSG_T_done)
        return fast_err_set(err, FAST_EPROTO, "the store answers with %s", fast_msg_name(m->type));
    return m->done.code ? fast_err_set(err, (int)m->done.code, "%.240s", m->done.text.p) : 0;
}

/* A request that makes sense in the life |epoch| alone. */
static int call_same(struct fast_store *s, uint64_t epoch, struct fast_msg *out, const int *fds,
                     int nfds, struct fast_err *err)
{
    struct fast_msg in;
    if (s->fd < 0 || s->epoch != epoch)
        return fast_err_set(err, FAST_EPEER, "the store went away");
    int rc = call(s, out, fds, nfds, ANSWER, &in, NULL, err);
    return rc ? rc : expect_done(&in, err);
}

static void close_all(int *fds)
{
    for (int i = 0; i < FAST_PACKET_FDS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static bool read_hex(const char *text, unsigned char *ret, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    if (strlen(text) != 2 * n)
        return false;
    for (size_t i = 0; i < 2 * n; i++) {
        const char *d = strchr(digits, text[i]);
        if (!d)
            return false;
        ret[i / 2] = (unsigned char)(i % 2 ? ret[i / 2] | (d - digits) : (d - digits) << 4);
    }
    return true;
}

static int receive_part(struct fast_store *s, struct store_grant *g, struct fast_err *err)
{
    struct fast_msg in;
    int fds[FAST_PACKET_FDS];
    int rc = fast_packet_recv_wait(s->fd, ANSWER, s->buf, &in, fds, err);
    if (rc)
        return rc;
    struct store_part p = {.fd = fds[0], .bytes = in.model_chunk.bytes};
    fds[0] = -1;
    close_all(fds);
    if (in.type != FAST_MSG_T_model_chunk || in.model_chunk.model != g->model || !p.bytes ||
        (p.fd < 0 && !read_hex(in.model_chunk.handle.p, (unsigned char *)&p.ipc, sizeof(p.ipc)))) {
        if (p.fd >= 0)
            close(p.fd);
        return fast_err_set(err, FAST_EPROTO, "the store hands out no memory");
    }
    g->parts[g->count++] = p;
    return 0;
}

void store_grant_fini(struct store_grant *g)
{
    for (int i = 0; i < g->count; i++)
        if (g->parts[i].fd >= 0)
            close(g->parts[i].fd);
    g->count = 0;
    if (g->manifest_fd >= 0)
        close(g->manifest_fd);
    g->manifest_fd = -1;
}

static int want_once(struct fast_store *s, const struct store_want *w, struct store_grant *g,
                     struct fast_err *err)
{
    struct fast_msg in, out = {.type = FAST_MSG_T_model_want,
                               .model_want = {.digest_hi = w->digest[0], .digest_lo = w->digest[1],
                                              .bytes = w->bytes, .flags = w->flags,
                                              .wait_ms = w->wait_ms, .name = fast_str(w->name),
                                              .version = fast_str(w->version)}};
    int fds[FAST_PACKET_FDS];
    int rc = s->fd < 0 ? dial(s, CONNECT, err) : 0;
    rc = rc ? rc : call(s, &out, NULL, 0, FAST_MS(w->wait_ms) + ANSWER, &in, fds, err);
    if (rc)
        return rc;
    *g = (struct store_grant){.manifest_fd = fds[0], .epoch = s->epoch};
    fds[0] = -1;
    close_all(fds);
    if (in.type != FAST_MSG_T_model_open) {
        store_grant_fini(g);
        return expect_done(&in, err);
    }
    g->model = in.model_open.model;
    g->bytes = in.model_open.bytes;
    g->load = in.model_open.load != 0;
    int chunks = in.model_open.chunks <= STORE_CHUNKS_MAX ? (int)in.model_open.chunks : 0;
    if (!chunks || (g->manifest_fd >= 0) == g->load)
        rc = fast_err_set(err, FAST_EPROTO, "the store hands out %u parts", in.model_open.chunks);
    while (!rc && g->count < chunks)
        rc = receive_part(s, g, err);
    if (rc) {
        store_grant_fini(g);
        hang_up(s);
    }
    return rc;
}

int store_client_want(struct fast_store *s, const struct store_want *want, struct store_grant *ret,
                      struct fast_err *err)
{
    int rc = -FAST_EPEER;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < ATTEMPTS && rc == -FAST_EPEER; i++)
        rc = want_once(s, want, ret, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int store_client_commit(struct fast_store *s, uint64_t epoch, uint64_t model, int manifest_fd,
                        fast_ns load, struct fast_err *err)
{
    struct fast_msg out = {.type = FAST_MSG_T_model_commit,
                           .model_commit = {.model = model, .load_ns = load}};
    pthread_mutex_lock(&s->lock);
    int rc = call_same(s, epoch, &out, &manifest_fd, 1, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int store_client_close(struct fast_store *s, uint64_t epoch, uint64_t model, struct fast_err *err)
{
    struct fast_msg out = {.type = FAST_MSG_T_model_close, .model_close = {.model = model}};
    pthread_mutex_lock(&s->lock);
    int rc = call_same(s, epoch, &out, NULL, 0, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int store_client_verified(struct fast_store *s, const struct fast_store_model *model, unsigned flags,
                          struct fast_err *err)
{
    struct fast_msg out = {.type = FAST_MSG_T_model_verified,
                           .model_verified = {.model = model->id, .flags = flags}};
    pthread_mutex_lock(&s->lock);
    int rc = call_same(s, model->epoch, &out, NULL, 0, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int store_client_known(struct fast_store *s, uint64_t model, struct fast_err *err)
{
    struct fast_msg in, out = {.type = FAST_MSG_T_model_known, .model_known = {.model = model}};
    int rc = -FAST_EPEER;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < ATTEMPTS && rc == -FAST_EPEER; i++) {
        rc = s->fd < 0 ? dial(s, CONNECT, err) : 0;
        rc = rc ? rc : call(s, &out, NULL, 0, ANSWER, &in, NULL, err);
    }
    rc = rc ? rc : expect_done(&in, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}
