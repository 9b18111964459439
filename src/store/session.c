/* The connections. Whoever does not read what it is told, or does not speak the protocol, is closed;
 * closing gives back all that it holds. Sessions are freed by a timer of the loop, never from within
 * something that may still use them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "io/packet.h"
#include "store/store.h"

#define SESSIONS_MAX 1024
#define SESSIONS_NS 256 /* of one namespace; the node's own are not counted */
#define PACKETS_PER_TURN 16

struct store_session *store_session_find(struct store *s, uint64_t id)
{
    struct store_session *c = s->sessions;
    while (c && c->id != id)
        c = c->next;
    return c;
}

static void session_end(struct store_session *c)
{
    struct store *s = c->store;
    if (c->closing)
        return;
    c->closing = true;
    c->watching = false;
    fast_watch_free(c->watch);
    c->watch = NULL;
    shutdown(c->fd, SHUT_RDWR);
    fast_timer_set(s->reap_timer, fast_loop_now(s->loop));
}

void store_send(struct store_session *c, const struct fast_msg *m, const int *fds, int nfds)
{
    struct fast_err err;
    if (!c || c->closing || !fast_packet_send(c->fd, m, fds, nfds, &err))
        return;
    fast_log(INFO, "client dropped", "pid=%d error=\"%s\"", c->pid, err.msg);
    session_end(c);
}

void store_done(struct store_session *c, uint32_t id, int code, const char *text)
{
    struct fast_msg m = {.type = FAST_MSG_T_done, .id = id,
                         .done = {.code = (uint32_t)code, .text = fast_str(text)}};
    store_send(c, &m, NULL, 0);
}

static void forget_closing(struct store *s)
{
    for (struct store_session **at = &s->sessions; *at;) {
        struct store_session *c = *at;
        if (!c->closing) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        s->session_count--;
        fast_catalog_client_gone(s->catalog, c->id, fast_loop_now(s->loop));
        close(c->fd);
        free(c);
    }
}

/* Tells of the models that have lost something, and of no others: whoever comes and goes a lot would fill the
 * connections of those who watch. */
static void on_reap(void *arg)
{
    struct store *s = arg;
    struct { uint64_t id; uint32_t refs, waiting; } before[FAST_CATALOG_MODELS];
    int n = fast_catalog_count(s->catalog);
    for (int i = 0; i < n; i++) {
        const struct fast_model *m = fast_catalog_at(s->catalog, i);
        before[i].id = m->id;
        before[i].refs = m->refs;
        before[i].waiting = m->waiting;
    }
    forget_closing(s);
    fast_watch_set(s->listen_watch, FAST_LOOP_IN);
    for (int i = 0; i < n; i++) {
        const struct fast_model *m = fast_catalog_find(s->catalog, before[i].id);
        if (m && (m->refs != before[i].refs || m->waiting != before[i].waiting))
            store_tell_model(s, m);
    }
    store_perform(s);
}

/* ---- requests ---- */

static int on_hello(struct store_session *c, const struct fast_msg *m, struct fast_err *err)
{
    struct store *s = c->store;
    if (m->type != FAST_MSG_T_store_hello || m->store_hello.version != FAST_MSG_VERSION)
        return fast_err_set(err, FAST_EPROTO, "the first message is not store_hello of version %d",
                            FAST_MSG_VERSION);
    if (!s->conf->key_file) {
        c->pass = (struct fast_pass){.admin = true, .ns = STORE_NS_DEFAULT, .who = "anybody"};
        if (m->store_hello.pass.len && m->store_hello.pass.len < sizeof(c->pass.ns))
            snprintf(c->pass.ns, sizeof(c->pass.ns), "%s", m->store_hello.pass.p);
    } else if (!fast_pass_read(s->key, m->store_hello.pass.p, &c->pass)) {
        return fast_err_set(err, FAST_EPERM, "this pass was not made by the node of this store");
    }
    int others = 0;
    for (const struct store_session *o = s->sessions; o && !c->pass.admin; o = o->next)
        others += o->greeted && !o->closing && !o->pass.admin && !strcmp(o->pass.ns, c->pass.ns);
    if (others >= SESSIONS_NS)
        return fast_err_set(err, FAST_ENOROOM, "namespace %.60s has %d connections already",
                            c->pass.ns, others);
    c->greeted = true;
    struct fast_msg out = {.type = FAST_MSG_T_store_welcome, .id = m->id,
                           .store_welcome = {.version = FAST_MSG_VERSION, .epoch = s->epoch,
                                             .via = s->device.via, .pid = (uint32_t)getpid(),
                                             .ns = fast_str(c->pass.ns)}};
    store_send(c, &out, NULL, 0);
    return 0;
}

static void watch_begin(struct store_session *c)
{
    struct store *s = c->store;
    struct fast_msg m;
    c->watching = true;
    for (int i = 0; i < fast_catalog_count(s->catalog); i++) {
        store_row(s, fast_catalog_at(s->catalog, i), &m);
        store_send(c, &m, NULL, 0);
    }
    store_usage(s, &m);
    store_send(c, &m, NULL, 0);
}

static int set_limit(struct store *s, const char *text, struct fast_err *err)
{
    struct fast_limits limits;
    int rc = fast_limits_parse(text, "limits", &limits, err);
    if (!rc)
        fast_catalog_limit(s->catalog, &limits, s->device.total, s->device.granularity);
    return rc;
}

/* Whoever says so had it in its hands: what is not ready, or is of an earlier life, cannot be meant. */
static int set_verified(struct store *s, uint64_t id, uint32_t flags, struct fast_err *err)
{
    struct fast_model *m = fast_catalog_find(s->catalog, id);
    if (!m)
        return fast_catalog_known(s->catalog, id, err);
    if (m->state == FAST_MODEL_LOADING)
        return fast_err_set(err, FAST_EBUSY, "model %s is being loaded", m->name);
    m->verified = true;
    m->shared |= (flags & FAST_MODEL_F_SHARED) != 0;
    m->pinned |= (flags & FAST_MODEL_F_PINNED) != 0;
    return 0;
}

static int administer(struct store_session *c, const struct fast_msg *m, struct fast_err *err)
{
    struct store *s = c->store;
    int rc = 0;
    if (!c->pass.admin)
        return fast_err_set(err, FAST_EPERM, "this pass does not give the right to administer");
    switch (m->type) {
    case FAST_MSG_T_model_remove:
        rc = fast_catalog_remove(s->catalog, m->model_remove.ns.p, m->model_remove.name.p,
                                 m->model_remove.version.p, err);
        break;
    case FAST_MSG_T_store_watch:
        watch_begin(c);
        return 0;
    case FAST_MSG_T_store_limit:
        rc = set_limit(s, m->store_limit.limits.p, err);
        break;
    case FAST_MSG_T_model_verified:
        rc = set_verified(s, m->model_verified.model, m->model_verified.flags, err);
        break;
    default:
        rc = fast_catalog_pin(s->catalog, m->model_pin.ns.p, m->model_pin.name.p,
                              m->model_pin.version.p, m->model_pin.pin != 0, err);
    }
    for (int i = 0; i < fast_catalog_count(s->catalog) && !rc; i++)
        store_tell_model(s, fast_catalog_at(s->catalog, i));
    return rc;
}

static void on_evict(struct store_session *c, const struct fast_msg *m)
{
    struct fast_msg out = {.type = FAST_MSG_T_store_evicted, .id = m->id};
    if (c->pass.admin)
        out.store_evicted.bytes = store_evict(c->store, m->store_evict.bytes);
    store_send(c, &out, NULL, 0);
}

/* Gives up |model|, or a reference to it. */
static int on_close(struct store_session *c, uint64_t id, struct fast_err *err)
{
    struct store *s = c->store;
    int rc = fast_catalog_close(s->catalog, c->id, id, fast_loop_now(s->loop), err);
    const struct fast_model *m = rc ? NULL : fast_catalog_find(s->catalog, id);
    if (m)
        store_tell_model(s, m);
    return rc;
}

static void on_message(struct store_session *c, const struct fast_msg *m, int *fds)
{
    struct fast_err err = {0};
    int rc = 0;
    switch (m->type) {
    case FAST_MSG_T_model_want:
        rc = store_want(c, m, &err);
        if (!rc)
            return; /* answered by what the catalogue decides */
        break;
    case FAST_MSG_T_model_commit:
        rc = store_commit(c, m, fds[0], &err);
        fds[0] = -1;
        break;
    case FAST_MSG_T_model_close:
        rc = on_close(c, m->model_close.model, &err);
        break;
    case FAST_MSG_T_model_known:
        rc = fast_catalog_known(c->store->catalog, m->model_known.model, &err);
        break;
    case FAST_MSG_T_store_evict:
        on_evict(c, m);
        return;
    case FAST_MSG_T_model_remove:
    case FAST_MSG_T_model_pin:
    case FAST_MSG_T_store_watch:
    case FAST_MSG_T_store_limit:
    case FAST_MSG_T_model_verified:
        rc = administer(c, m, &err);
        break;
    default:
        rc = fast_err_set(&err, FAST_EPROTO, "message %s is not a request to a store",
                          fast_msg_name(m->type));
    }
    store_done(c, m->id, -rc, rc ? err.msg : "");
    if (rc == -FAST_EPROTO)
        session_end(c);
}

static void refuse(struct store_session *c, const struct fast_err *err)
{
    struct fast_msg m = {.type = FAST_MSG_T_refused,
                         .refused = {.code = (uint32_t)err->code, .text = fast_str(err->msg)}};
    fast_log(WARN, "client refused", "pid=%d error=\"%s\"", c->pid, err->msg);
    store_send(c, &m, NULL, 0);
    session_end(c);
}

static void on_readable(void *arg, int events)
{
    struct store_session *c = arg;
    struct store *s = c->store;
    (void)events;
    for (int i = 0; i < PACKETS_PER_TURN && !c->closing; i++) {
        struct fast_msg m;
        struct fast_err err;
        int fds[FAST_PACKET_FDS];
        int rc = fast_packet_recv(c->fd, s->buf, &m, fds, &err);
        if (rc == -FAST_EBUSY)
            break;
        if (rc == -FAST_EPROTO) {
            refuse(c, &err);
        } else if (rc) {
            session_end(c);
        } else if (!c->greeted) {
            if (on_hello(c, &m, &err))
                refuse(c, &err);
        } else {
            on_message(c, &m, fds);
        }
        for (int k = 0; !rc && k < FAST_PACKET_FDS; k++)
            if (fds[k] >= 0)
                close(fds[k]);
    }
    store_perform(s);
}

/* ---- coming ---- */

/* Who has waited for longest without saying who it is. */
static struct store_session *find_silent(struct store *s)
{
    struct store_session *oldest = NULL;
    for (struct store_session *c = s->sessions; c; c = c->next)
        if (!c->greeted && !c->closing)
            oldest = c; /* the newest is the first */
    return oldest;
}

/* Half of the descriptors are for memory and for what the driver opens. */
static int sessions_max(void)
{
    struct rlimit r;
    return getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur / 2 > SESSIONS_MAX ? SESSIONS_MAX
                                                                         : (int)r.rlim_cur / 2;
}

/* No more connections until somebody goes; whoever only keeps a place goes now. */
static void hold_the_door(struct store *s)
{
    struct store_session *silent = find_silent(s);
    if (s->sessions)
        fast_watch_set(s->listen_watch, 0);
    if (silent)
        session_end(silent);
}

static void on_connection(void *arg, int events)
{
    struct store *s = arg;
    struct ucred who = {0};
    socklen_t len = sizeof(who);
    (void)events;
    if (s->session_count >= sessions_max()) {
        hold_the_door(s);
        return;
    }
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            hold_the_door(s);
        return;
    }
    struct store_session *c = calloc(1, sizeof(*c));
    if (c)
        c->watch = fast_watch_new(s->loop, fd, FAST_LOOP_IN, on_readable, c);
    if (!c || !c->watch) {
        free(c);
        close(fd);
        return;
    }
    if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len))
        c->pid = who.pid;
    c->store = s;
    c->fd = fd;
    c->id = ++s->last_client;
    c->next = s->sessions;
    s->sessions = c;
    s->session_count++;
    fast_timer_set(s->idle_timer, FAST_NEVER);
}

static void on_wait(void *arg)
{
    struct store *s = arg;
    fast_catalog_tick(s->catalog, fast_loop_now(s->loop));
    store_perform(s);
}

static void on_idle(void *arg)
{
    struct store *s = arg;
    fast_log(INFO, "nothing is stored any more", "%s", "");
    fast_loop_stop(s->loop);
}

int store_sessions_begin(struct store *s, struct fast_err *err)
{
    s->wait_timer = fast_timer_new(s->loop, on_wait, s);
    s->idle_timer = fast_timer_new(s->loop, on_idle, s);
    s->reap_timer = fast_timer_new(s->loop, on_reap, s);
    s->listen_fd = s->conf->listen_fd;
    int rc = s->listen_fd >= 0
                 ? 0
                 : fast_packet_listen(s->conf->socket, s->conf->key_file ? 0666 : 0600,
                                      &s->listen_fd, err);
    if (rc)
        return rc;
    s->listen_watch = fast_watch_new(s->loop, s->listen_fd, FAST_LOOP_IN, on_connection, s);
    if (!s->listen_watch || !s->wait_timer || !s->idle_timer || !s->reap_timer)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a listener");
    store_perform(s);
    return 0;
}

void store_sessions_end(struct store *s)
{
    while (s->sessions) {
        struct store_session *c = s->sessions;
        s->sessions = c->next;
        fast_watch_free(c->watch);
        close(c->fd);
        free(c);
    }
    fast_watch_free(s->listen_watch);
    fast_timer_free(s->wait_timer);
    fast_timer_free(s->idle_timer);
    fast_timer_free(s->reap_timer);
    if (s->listen_fd >= 0) {
        close(s->listen_fd);
        if (s->conf->listen_fd < 0)
            unlink(s->conf->socket);
    }
}
