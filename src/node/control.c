#include "node/control.h"

/* control.sock. A session says ctl_hello, then asks; every answer ends with done. Nothing waits for
 * a peer: what its socket does not take is kept for it up to QUEUE_MAX bytes, and one that reads
 * more slowly than it is told things loses its session. */

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/packet.h"
#include "node/stores.h"

#define SESSIONS_MAX 64
#define QUEUE_MAX (4u << 20)
#define PACKETS_PER_TURN 16
#define PERIOD_MIN_MS 50
#define PERIOD_MAX_MS 3600000
#define ANSWERED_LATER 1
#define GPU_ROW_AGE FAST_MS(40) /* figures are "since the last call": not for each session anew */

struct packet {
    struct packet *next;
    size_t len;
    char data[];
};

struct session {
    struct node_control *control;
    uint32_t id; /* no other session ever has it */
    int fd;
    struct fast_watch *watch;
    struct fast_timer *timer; /* of watch, NULL before it */
    fast_ns period;           /* 0: no statistics */
    bool greeted, watching;
    bool broken; /* to be closed at the end of the turn: something could not be sent */
    struct packet *first, **last;
    size_t queued;
};

struct node_control {
    struct node_agent *agent;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    int fd;
    struct fast_watch *watch;
    struct fast_timer *reaper; /* closes broken sessions, never from within a walk over them */
    struct session *sessions[SESSIONS_MAX];
    int count;
    uint32_t last_id;
    fast_ns gpu_at[FAST_NODE_GPUS_MAX]; /* when gpu[] was asked for; 0: never */
    struct fast_msg_gpu_row gpu[FAST_NODE_GPUS_MAX];
};

/* ---- sending ---- */

static void session_break(struct session *s, const char *why)
{
    struct node_control *c = s->control;
    if (s->broken)
        return;
    s->broken = true;
    fast_log(INFO, "control session dropped", "why=\"%s\"", why);
    fast_timer_set(c->reaper, fast_loop_now(c->agent->node->loop));
}

/* True when the socket took it, false when it is full. */
static bool send_now(struct session *s, const char *data, size_t len)
{
    ssize_t n;
    do
        n = send(s->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == ENOBUFS))
        return false;
    if (n < 0)
        session_break(s, strerror(errno));
    return true;
}

static void enqueue(struct session *s, const char *data, size_t len)
{
    struct packet *p = s->queued + len > QUEUE_MAX ? NULL : malloc(sizeof(*p) + len);
    if (!p) {
        session_break(s, "it does not read what it is told");
        return;
    }
    p->next = NULL;
    p->len = len;
    memcpy(p->data, data, len);
    *s->last = p;
    s->last = &p->next;
    s->queued += sizeof(*p) + len;
    fast_watch_set(s->watch, FAST_LOOP_IN | FAST_LOOP_OUT);
}

static void session_send(struct session *s, const struct fast_msg *msg)
{
    char buf[FAST_MSG_MAX];
    struct fast_err err;
    size_t len = 0;
    if (s->broken)
        return;
    if (fast_msg_encode(msg, buf, sizeof(buf), &len, &err)) {
        fast_log(ERROR, "message not sent", "error=%s", err.msg);
        session_break(s, "a message to it is too long");
    } else if (s->first || !send_now(s, buf, len)) {
        enqueue(s, buf, len);
    }
}

static void flush(struct session *s)
{
    while (s->first && !s->broken && send_now(s, s->first->data, s->first->len)) {
        struct packet *p = s->first;
        s->first = p->next;
        s->queued -= sizeof(*p) + p->len;
        free(p);
    }
    if (!s->first) {
        s->last = &s->first;
        fast_watch_set(s->watch, FAST_LOOP_IN);
    }
}

static void send_done(struct session *s, uint32_t id, int code, const char *text)
{
    struct fast_msg m = {.type = FAST_MSG_T_done, .id = id,
                         .done = {.code = (uint32_t)code, .text = fast_str(text)}};
    session_send(s, &m);
}

static void send_row(struct session *s, uint32_t id, const struct agent_replica *r)
{
    struct fast_msg m = {.type = FAST_MSG_T_replica_row, .id = id};
    node_agent_row(r, &m.replica_row);
    session_send(s, &m);
}

static void send_stats(struct session *s, uint32_t id, const struct agent_replica *r)
{
    struct fast_msg m = {.type = FAST_MSG_T_replica_stats, .id = id};
    bool plain = r->shared.gpu == FAST_GPU_NONE;
    int parts = plain ? 1 : __builtin_popcount(node_replica_gpus(&r->shared));
    m.replica_stats.gpu = FAST_GPU_NONE;
    m.replica_stats.replica = fast_str(r->shared.id);
    for (int i = 0; i < parts; i++) {
        if (!plain)
            node_share_stats(&r->shared, i, &m.replica_stats);
        session_send(s, &m);
    }
}

struct listing {
    struct session *session;
    uint32_t id;
};

static void send_model(void *arg, const struct fast_msg_model_row *row)
{
    const struct listing *l = arg;
    struct fast_msg m = {.type = FAST_MSG_T_model_row, .id = l->id, .model_row = *row};
    session_send(l->session, &m);
}

static void send_models(struct session *s, uint32_t id)
{
    struct listing l = {s, id};
    node_stores_models(s->control->agent->node->stores, send_model, &l);
}

static void on_model(void *arg, const struct fast_msg_model_row *row)
{
    struct node_control *c = arg;
    for (int i = 0; i < c->count; i++) {
        struct listing l = {c->sessions[i], 0};
        if (c->sessions[i]->watching)
            send_model(&l, row);
    }
}

static void send_gpus(struct session *s, uint32_t id)
{
    struct node_control *c = s->control;
    struct node *node = c->agent->node;
    fast_ns now = fast_loop_now(node->loop);
    int count = node_gpu_count(node->gpus);
    for (int i = 0; i < count && i < FAST_NODE_GPUS_MAX; i++) {
        if (c->gpu_at[i] == 0 || now - c->gpu_at[i] >= GPU_ROW_AGE) {
            node_gpu_row(node, (uint32_t)i, &c->gpu[i]);
            c->gpu_at[i] = now;
        }
        struct fast_msg m = {.type = FAST_MSG_T_gpu_row, .id = id, .gpu_row = c->gpu[i]};
        session_send(s, &m);
    }
}

void node_control_tell(struct node_control *c, const struct agent_replica *r)
{
    for (int i = 0; c && i < c->count; i++)
        if (c->sessions[i]->watching)
            send_row(c->sessions[i], 0, r);
}

/* ---- requests ---- */

static void on_period(void *arg)
{
    struct session *s = arg;
    const struct node_agent *agent = s->control->agent;
    for (int i = 0; i < agent->count; i++)
        send_stats(s, 0, agent->replicas[i]);
    send_gpus(s, 0);
    fast_timer_set(s->timer, fast_loop_now(agent->node->loop) + s->period);
}

static void welcome(struct session *s, uint32_t id)
{
    const struct node *node = s->control->agent->node;
    const struct fast_sched_conf *policy = node_policy(node->manager);
    struct fast_msg m = {
        .type = FAST_MSG_T_ctl_welcome,
        .id = id,
        .ctl_welcome = {.version = FAST_MSG_VERSION,
                        .node = fast_str(node->conf->name),
                        .driver = fast_str(node_gpu_driver(node->gpus)),
                        .simulated = node->conf->sim_spec != NULL,
                        .gpus = (uint32_t)node_gpu_count(node->gpus),
                        .policy = policy->policy,
                        .charge = policy->charge,
                        .window_ns = policy->window_ns,
                        .state_dir = fast_str(node->conf->state_dir)}};
    s->greeted = true;
    session_send(s, &m);
}

static int watch_begin(struct session *s, const struct fast_msg *msg, struct fast_err *err)
{
    const struct node_agent *agent = s->control->agent;
    uint32_t ms = msg->watch.period_ms;
    if (ms && (ms < PERIOD_MIN_MS || ms > PERIOD_MAX_MS))
        return fast_err_set(err, FAST_EINVAL, "period: %u ms is not 0 or from %d to %d ms", ms,
                            PERIOD_MIN_MS, PERIOD_MAX_MS);
    if (!s->timer)
        s->timer = fast_timer_new(agent->node->loop, on_period, s);
    if (!s->timer)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a watch");
    s->watching = true;
    s->period = FAST_MS(ms);
    fast_timer_set(s->timer, ms ? fast_loop_now(agent->node->loop) + s->period : FAST_NEVER);
    send_models(s, msg->id);
    for (int i = 0; i < agent->count; i++)
        send_row(s, msg->id, agent->replicas[i]);
    send_gpus(s, msg->id);
    return 0;
}

static int list_replicas(struct session *s, uint32_t id)
{
    const struct node_agent *agent = s->control->agent;
    for (int i = 0; i < agent->count; i++) {
        send_row(s, id, agent->replicas[i]);
        send_stats(s, id, agent->replicas[i]);
    }
    return 0;
}

static void on_store_done(void *arg, uint64_t key, int code, const char *text)
{
    struct node_control *c = arg;
    for (int i = 0; i < c->count; i++)
        if (c->sessions[i]->id == key >> 32)
            send_done(c->sessions[i], (uint32_t)key, code, text);
}

/* The stores answer it. */
static int ask_stores(struct session *s, const struct fast_msg *msg, struct fast_err *err)
{
    int rc = node_stores_request(s->control->agent->node->stores, msg, on_store_done, s->control,
                                 (uint64_t)s->id << 32 | msg->id, err);
    return rc ? rc : ANSWERED_LATER;
}

/* Performs one request; |ret_text| is what done says of a success. */
static int perform(struct session *s, const struct fast_msg *msg, char *ret_text,
                   struct fast_err *err)
{
    struct node_agent *agent = s->control->agent;
    switch (msg->type) {
    case FAST_MSG_T_gpu_list:
        send_gpus(s, msg->id);
        return 0;
    case FAST_MSG_T_replica_list:
        return list_replicas(s, msg->id);
    case FAST_MSG_T_watch:
        return watch_begin(s, msg, err);
    case FAST_MSG_T_replica_start:
        return node_agent_start(agent, msg, err);
    case FAST_MSG_T_replica_stop:
        return node_agent_stop_one(agent, &msg->replica_stop, err);
    case FAST_MSG_T_replica_resize:
        return node_agent_resize(agent, &msg->replica_resize, ret_text, err);
    case FAST_MSG_T_replica_hold:
        return node_agent_hold(agent, &msg->replica_hold, err);
    case FAST_MSG_T_replica_deadline:
        return node_agent_deadline(agent, &msg->replica_deadline, err);
    case FAST_MSG_T_policy_set:
        return node_policy_set(agent->node->manager, &msg->policy_set, err);
    case FAST_MSG_T_model_list:
        send_models(s, msg->id);
        return 0;
    case FAST_MSG_T_model_remove:
    case FAST_MSG_T_model_pin:
    case FAST_MSG_T_model_push:
        return ask_stores(s, msg, err);
    default:
        return fast_err_set(err, FAST_EPROTO, "message %s is not a request to a node",
                            fast_msg_name(msg->type));
    }
}

/* The last words to a peer that does not speak the protocol. */
static void refuse(struct session *s, uint32_t id, const struct fast_err *err)
{
    struct fast_msg m = {.type = FAST_MSG_T_refused, .id = id,
                         .refused = {.code = (uint32_t)err->code, .text = fast_str(err->msg)}};
    session_send(s, &m);
    session_break(s, err->msg);
}

static void handle(struct session *s, const struct fast_msg *msg)
{
    struct fast_err err = {0};
    char text[AGENT_TEXT_MAX] = "";
    if (msg->type == FAST_MSG_T_ctl_hello && msg->ctl_hello.version == FAST_MSG_VERSION) {
        welcome(s, msg->id);
        return;
    }
    if (!s->greeted) {
        fast_err_set(&err, FAST_EPROTO, "the first message is not ctl_hello of version %d",
                     FAST_MSG_VERSION);
        refuse(s, msg->id, &err);
        return;
    }
    int rc = perform(s, msg, text, &err);
    if (rc == ANSWERED_LATER)
        return;
    if (rc)
        fast_log(WARN, "request refused", "request=%s error=\"%s\"", fast_msg_name(msg->type),
                 err.msg);
    send_done(s, msg->id, -rc, rc ? err.msg : text);
}

/* ---- sessions ---- */

static void session_free(struct session *s)
{
    struct node_control *c = s->control;
    for (int i = 0; i < c->count; i++)
        if (c->sessions[i] == s)
            c->sessions[i] = c->sessions[--c->count];
    while (s->first) {
        struct packet *p = s->first;
        s->first = p->next;
        free(p);
    }
    fast_timer_free(s->timer);
    fast_watch_free(s->watch);
    close(s->fd);
    free(s);
}

static void on_reap(void *arg)
{
    struct node_control *c = arg;
    for (int i = c->count - 1; i >= 0; i--)
        if (c->sessions[i]->broken)
            session_free(c->sessions[i]);
}

static void on_session(void *arg, int events)
{
    struct session *s = arg;
    char buf[FAST_MSG_MAX];
    struct fast_msg msg;
    struct fast_err err;
    if (events & FAST_LOOP_OUT)
        flush(s);
    for (int i = 0; i < PACKETS_PER_TURN && !s->broken; i++) {
        int rc = fast_packet_recv(s->fd, buf, &msg, NULL, &err);
        if (rc == -FAST_EBUSY)
            return;
        if (rc == -FAST_EPROTO)
            refuse(s, 0, &err);
        else if (rc)
            session_break(s, err.msg);
        else
            handle(s, &msg);
    }
}

static void on_connect(void *arg, int events)
{
    struct node_control *c = arg;
    (void)events;
    int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct session *s = c->count < SESSIONS_MAX ? calloc(1, sizeof(*s)) : NULL;
    if (s) {
        *s = (struct session){.control = c, .fd = fd};
        s->last = &s->first;
        s->watch = fast_watch_new(c->agent->node->loop, fd, FAST_LOOP_IN, on_session, s);
    }
    if (!s || !s->watch) {
        fast_log(WARN, "control session refused", "sessions=%d", c->count);
        free(s);
        close(fd);
        return;
    }
    s->id = ++c->last_id;
    c->sessions[c->count++] = s;
}

int node_control_new(struct node_agent *agent, struct node_control **ret, struct fast_err *err)
{
    struct node_control *c = calloc(1, sizeof(*c));
    if (!c)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the control socket");
    c->agent = agent;
    c->fd = -1;
    int n = snprintf(c->path, sizeof(c->path), "%s/control.sock", agent->node->conf->state_dir);
    int rc = n >= (int)sizeof(c->path)
                 ? fast_err_set(err, FAST_EINVAL, "state directory \"%.100s\" is too long for a socket",
                                agent->node->conf->state_dir)
                 : fast_packet_listen(c->path, 0600, &c->fd, err);
    if (!rc) {
        c->watch = fast_watch_new(agent->node->loop, c->fd, FAST_LOOP_IN, on_connect, c);
        c->reaper = fast_timer_new(agent->node->loop, on_reap, c);
        if (!c->watch || !c->reaper)
            rc = fast_err_set(err, FAST_ENOMEM, "no memory for the control socket");
    }
    if (rc) {
        node_control_free(c);
        return rc;
    }
    node_stores_on_model(agent->node->stores, on_model, c);
    *ret = c;
    return 0;
}

void node_control_free(struct node_control *c)
{
    if (!c)
        return;
    node_stores_on_model(c->agent->node->stores, NULL, NULL);
    node_stores_cancel(c->agent->node->stores, c);
    while (c->count > 0)
        session_free(c->sessions[c->count - 1]);
    fast_watch_free(c->watch);
    fast_timer_free(c->reaper);
    if (c->fd >= 0) {
        close(c->fd);
        unlink(c->path);
    }
    free(c);
}
