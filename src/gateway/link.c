/* Decides when to connect to the node and what a session begins with. It assumes that what is lost
 * with a session is found again in the rows of the next one, so nothing is queued for a node that
 * is away, and a node that does not read is treated as one that went. */

#include "gateway/link.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "io/packet.h"

#define RETRY_FIRST FAST_MS(50)
#define RETRY_MAX FAST_S(1)
#define WATCH_PERIOD_MS 500
#define PACKETS_PER_TURN 256

enum phase { AWAY, HELLO, LISTING, WATCHING, SYNCED };

struct pending {
    struct pending *next;
    uint32_t id;
    gw_link_done *done;
    void *arg;
    uint64_t key;
};

struct gw_link {
    struct fast_loop *loop;
    const char *path;
    const struct gw_link_ops *ops;
    void *arg;
    int fd;
    enum phase phase;
    struct fast_watch *watch;
    struct fast_timer *timer;
    fast_ns retry;
    uint32_t next_id, phase_id;
    struct pending *pending;
    bool told; /* that there is no node */
    char buf[FAST_MSG_MAX];
};

static void drop(struct gw_link *l, const char *why)
{
    bool was_up = l->phase > HELLO;
    fast_watch_free(l->watch);
    l->watch = NULL;
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->phase = AWAY;
    struct pending *list = l->pending;
    l->pending = NULL;
    if (!was_up && !l->told) {
        fast_log(WARN, "no node yet", "socket=%s why=\"%s\"", l->path, why);
        l->told = true;
    }
    if (was_up) {
        fast_log(WARN, "node lost", "why=\"%s\"", why);
        l->ops->lost(l->arg);
    }
    while (list) {
        struct pending *p = list;
        list = p->next;
        if (p->done)
            p->done(p->arg, p->key, FAST_EPEER, why);
        free(p);
    }
    fast_timer_set(l->timer, fast_loop_now(l->loop) + l->retry);
    l->retry = 2 * l->retry < RETRY_MAX ? 2 * l->retry : RETRY_MAX;
}

static int send_msg(struct gw_link *l, struct fast_msg *m, struct fast_err *err)
{
    m->id = ++l->next_id;
    if (m->id == 0)
        m->id = ++l->next_id;
    return fast_packet_send(l->fd, m, NULL, 0, err);
}

/* Sends the request that the session is at; its done leads to the next one. */
static int send_phase(struct gw_link *l, enum phase phase, struct fast_msg *m, struct fast_err *err)
{
    l->phase = phase;
    int r = send_msg(l, m, err);
    l->phase_id = m->id;
    return r;
}

static int next_phase(struct gw_link *l, struct fast_err *err)
{
    struct fast_msg list = {.type = FAST_MSG_T_gpu_list};
    struct fast_msg watch = {.type = FAST_MSG_T_watch, .watch = {.period_ms = WATCH_PERIOD_MS}};
    switch (l->phase) {
    case HELLO:
        return send_phase(l, LISTING, &list, err);
    case LISTING:
        return send_phase(l, WATCHING, &watch, err);
    case WATCHING:
        l->phase = SYNCED;
        l->retry = RETRY_FIRST;
        l->ops->synced(l->arg);
        return 0;
    default:
        return 0;
    }
}

static int on_done(struct gw_link *l, const struct fast_msg *m, struct fast_err *err)
{
    if (l->phase < SYNCED && m->id == l->phase_id) {
        if (m->done.code)
            return fast_err_set(err, FAST_EPROTO, "the node refuses: %s", m->done.text.p);
        return next_phase(l, err);
    }
    for (struct pending **at = &l->pending; *at; at = &(*at)->next) {
        struct pending *p = *at;
        if (p->id != m->id)
            continue;
        *at = p->next;
        if (p->done)
            p->done(p->arg, p->key, (int)m->done.code, m->done.text.p);
        free(p);
        return 0;
    }
    return 0;
}

static int on_message(struct gw_link *l, const struct fast_msg *m, struct fast_err *err)
{
    switch (m->type) {
    case FAST_MSG_T_ctl_welcome:
        if (m->ctl_welcome.version != FAST_MSG_VERSION)
            return fast_err_set(err, FAST_EPROTO, "the node speaks version %u, not %d",
                                m->ctl_welcome.version, FAST_MSG_VERSION);
        l->ops->welcome(l->arg, &m->ctl_welcome);
        return l->phase == HELLO ? next_phase(l, err) : 0;
    case FAST_MSG_T_gpu_row:
        l->ops->gpu(l->arg, &m->gpu_row);
        return 0;
    case FAST_MSG_T_replica_row:
        l->ops->replica(l->arg, &m->replica_row);
        return 0;
    case FAST_MSG_T_model_row:
        l->ops->model(l->arg, &m->model_row);
        return 0;
    case FAST_MSG_T_replica_stats:
        l->ops->stats(l->arg, &m->replica_stats);
        return 0;
    case FAST_MSG_T_done:
        return on_done(l, m, err);
    default:
        return 0; /* a newer node may tell more */
    }
}

static void on_readable(void *arg, int events)
{
    struct gw_link *l = arg;
    struct fast_msg m;
    struct fast_err err;
    (void)events;
    for (int i = 0; i < PACKETS_PER_TURN && l->fd >= 0; i++) {
        int r = fast_packet_recv(l->fd, l->buf, &m, NULL, &err);
        if (r == -FAST_EBUSY)
            return;
        if (!r)
            r = on_message(l, &m, &err);
        if (r) {
            drop(l, err.msg);
            return;
        }
    }
}

static void try_connect(void *arg)
{
    struct gw_link *l = arg;
    struct fast_err err;
    struct fast_msg hello = {.type = FAST_MSG_T_ctl_hello,
                             .ctl_hello = {.version = FAST_MSG_VERSION,
                                           .program = fast_str("fast-gateway")}};
    int r = fast_packet_connect(l->path, true, &l->fd, &err);
    if (!r) {
        l->watch = fast_watch_new(l->loop, l->fd, FAST_LOOP_IN, on_readable, l);
        r = l->watch ? send_phase(l, HELLO, &hello, &err)
                     : fast_err_set(&err, FAST_ENOMEM, "no memory for a watch");
    }
    if (r)
        drop(l, err.msg);
}

int gw_link_new(struct fast_loop *loop, const char *path, const struct gw_link_ops *ops, void *arg,
                struct gw_link **ret, struct fast_err *err)
{
    struct gw_link *l = calloc(1, sizeof(*l));
    if (!l)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the link to the node");
    l->loop = loop;
    l->path = path;
    l->ops = ops;
    l->arg = arg;
    l->fd = -1;
    l->retry = RETRY_FIRST;
    l->timer = fast_timer_new(loop, try_connect, l);
    if (!l->timer) {
        free(l);
        return fast_err_set(err, FAST_ENOMEM, "no memory for a timer");
    }
    fast_timer_set(l->timer, fast_loop_now(loop));
    *ret = l;
    return 0;
}

void gw_link_free(struct gw_link *l)
{
    if (!l)
        return;
    fast_watch_free(l->watch);
    if (l->fd >= 0)
        close(l->fd);
    while (l->pending) {
        struct pending *p = l->pending;
        l->pending = p->next;
        free(p);
    }
    fast_timer_free(l->timer);
    free(l);
}

bool gw_link_synced(const struct gw_link *l)
{
    return l->phase == SYNCED;
}

int gw_link_request(struct gw_link *l, struct fast_msg *msg, gw_link_done *done, void *arg,
                    uint64_t key, struct fast_err *err)
{
    if (l->phase < WATCHING) /* the rows that come then may need an answer */
        return fast_err_set(err, FAST_EPEER, "fast-node is not there");
    struct pending *p = malloc(sizeof(*p));
    if (!p)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a request");
    int r = send_msg(l, msg, err);
    if (r) {
        free(p);
        if (r == -FAST_EBUSY)
            shutdown(l->fd, SHUT_RDWR); /* it does not read: begin anew, from the loop */
        return r;
    }
    *p = (struct pending){l->pending, msg->id, done, arg, key};
    l->pending = p;
    return 0;
}
