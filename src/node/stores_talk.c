/* The connection to a store: the node is its administrator, knows its models and their bytes, and passes
 * on what it is asked. What a store says is believed no further than it can count. */
#include "node/stores_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "io/packet.h"
#include "node/manager.h"

#define PACKETS_PER_TURN 64

/* ---- jobs ---- */

struct node_job *node_job_new(struct node_stores *all, node_stores_done_fn *done, void *arg,
                              uint64_t key)
{
    struct node_job *j = calloc(1, sizeof(*j));
    if (!j)
        return NULL;
    *j = (struct node_job){.next = all->jobs, .all = all, .done = done, .arg = arg, .key = key,
                           .code = FAST_ENOENT, .process = NODE_PROCESS_NONE, .output_fd = -1};
    all->jobs = j;
    return j;
}

/* Several stores may be asked. One that has no such model (any more) says nothing against those that do;
 * one that could not do it must not be hidden by those that could. */
static int weight(int code)
{
    return code == FAST_ENOENT || code == FAST_EPEER ? 0 : code ? 2 : 1;
}

static void note(struct node_job *job, int code, const char *text)
{
    job->did += !code;
    if (weight(code) < weight(job->code) || (weight(code) == weight(job->code) && *job->text))
        return; /* the first of its weight counts; at first it is FAST_ENOENT without a word */
    job->code = code;
    snprintf(job->text, sizeof(job->text), "%s", text);
}

void node_job_answer(struct node_stores *all, struct node_job *job, int code, const char *text)
{
    size_t len;
    note(job, code, text);
    if (--job->waiting > 0)
        return;
    len = strlen(job->text);
    if (weight(job->code) == 2 && job->did)
        snprintf(job->text + len, sizeof(job->text) - len, " (done on %d of the GPUs; try again for the rest)",
                 job->did);
    struct node_job **at = &all->jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    node_job_end_process(job);
    if (job->done)
        job->done(job->arg, job->key, job->code, job->text);
    free(job);
}

void node_stores_cancel(struct node_stores *all, const void *arg)
{
    for (struct node_job *j = all ? all->jobs : NULL; j; j = j->next)
        if (j->arg == arg)
            j->done = NULL;
}

/* ---- what a store has ---- */

static void tell(const struct node_store *s, const struct node_model *m)
{
    if (s->all->on_model)
        s->all->on_model(s->all->on_model_arg, &m->row);
}

static void set_usage(struct node_store *s, uint64_t bytes, uint64_t cached)
{
    struct node_manager *m = s->all->node->manager;
    s->bytes = bytes;
    s->cached = cached < bytes ? cached : bytes;
    if (m) /* not while the node ends */
        m->pool[s->gpu].device.shared = bytes;
}

static struct node_model **find_model(struct node_store *s, uint64_t id)
{
    struct node_model **at = &s->models;
    while (*at && (*at)->row.model != id)
        at = &(*at)->next;
    return at;
}

static void on_row(struct node_store *s, const struct fast_msg_model_row *row)
{
    struct node_model **at = find_model(s, row->model), *m = *at;
    if (!m && row->state == FAST_MODEL_GONE)
        return;
    if (!m && !(m = calloc(1, sizeof(*m))))
        return;
    *at = m;
    snprintf(m->ns, sizeof(m->ns), "%s", row->ns.p);
    snprintf(m->name, sizeof(m->name), "%s", row->name.p);
    snprintf(m->version, sizeof(m->version), "%s", row->version.p);
    m->row = *row;
    m->row.gpu = s->gpu;
    snprintf(m->loader, sizeof(m->loader), "%s", row->loader.p);
    m->row.loader = fast_str(m->loader);
    m->row.ns = fast_str(m->ns);
    m->row.name = fast_str(m->name);
    m->row.version = fast_str(m->version);
    tell(s, m);
    if (row->state != FAST_MODEL_GONE)
        return;
    *at = m->next;
    free(m);
}

static void forget_models(struct node_store *s)
{
    while (s->models) {
        struct node_model *m = s->models;
        m->row.state = FAST_MODEL_GONE;
        m->row.bytes = 0;
        tell(s, m);
        s->models = m->next;
        free(m);
    }
}

void node_stores_models(const struct node_stores *all, node_stores_model_fn *fn, void *arg)
{
    for (int i = 0; i < all->count; i++)
        for (const struct node_model *m = all->store[i].models; m; m = m->next)
            fn(arg, &m->row);
}

void node_stores_on_model(struct node_stores *all, node_stores_model_fn *fn, void *arg)
{
    if (!all)
        return;
    all->on_model = fn;
    all->on_model_arg = arg;
}

void node_stores_row(const struct node_stores *all, uint32_t gpu, struct fast_msg_gpu_row *ret)
{
    const struct node_store *s = gpu < (uint32_t)all->count ? &all->store[gpu] : NULL;
    ret->mem_shared = s ? s->bytes : 0;
    ret->mem_cached = s ? s->cached : 0;
    ret->store_via = s ? s->via : 0;
}

/* ---- the connection ---- */

void node_store_hang_up(struct node_store *s)
{
    fast_watch_free(s->watch);
    s->watch = NULL;
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->greeted = false;
    /* Replicas that have its models keep that memory, but whose it is nobody can tell any more. */
    set_usage(s, 0, 0);
    s->clients = 0;
    forget_models(s);
    while (s->asked) {
        struct node_asked *a = s->asked;
        s->asked = a->next;
        node_job_answer(s->all, a->job, FAST_EPEER, "the store went away");
        free(a);
    }
}

static void on_answer(struct node_store *s, uint32_t id, int code, const char *text)
{
    for (struct node_asked **at = &s->asked; *at; at = &(*at)->next) {
        struct node_asked *a = *at;
        if (a->id != id)
            continue;
        *at = a->next;
        char where[256];
        snprintf(where, sizeof(where), "GPU %u: %s", s->gpu, text);
        node_job_answer(s->all, a->job, code, code ? where : text);
        free(a);
        return;
    }
}

static int send_next(struct node_store *s, struct fast_msg *m, struct fast_err *err)
{
    m->id = ++s->next_id ? s->next_id : ++s->next_id;
    return fast_packet_send(s->fd, m, NULL, 0, err);
}

static int on_welcome(struct node_store *s, const struct fast_msg_store_welcome *w,
                      struct fast_err *err)
{
    struct fast_msg watch = {.type = FAST_MSG_T_store_watch};
    struct fast_msg limit = {.type = FAST_MSG_T_store_limit,
                             .store_limit = {.limits = fast_str(s->all->node->conf->model_limit)}};
    s->via = w->via;
    s->greeted = s->worked = true;
    s->deaths = 0;
    if (s->process.pidfd < 0 && node_store_adopt(s, (pid_t)w->pid))
        return fast_err_set(err, FAST_EPEER, "it is gone");
    /* One of an earlier life of the node has the limits of then. */
    return send_next(s, &limit, err) ? -err->code : send_next(s, &watch, err);
}

static int on_message(struct node_store *s, const struct fast_msg *m, struct fast_err *err)
{
    switch (m->type) {
    case FAST_MSG_T_store_welcome:
        return on_welcome(s, &m->store_welcome, err);
    case FAST_MSG_T_refused:
        return fast_err_set(err, FAST_EPERM, "it refuses: %.200s", m->refused.text.p);
    case FAST_MSG_T_model_row:
        on_row(s, &m->model_row);
        return 0;
    case FAST_MSG_T_store_usage:
        s->clients = m->store_usage.clients;
        set_usage(s, m->store_usage.bytes, m->store_usage.cached);
        return 0;
    case FAST_MSG_T_store_evicted:
        set_usage(s, s->bytes > m->store_evicted.bytes ? s->bytes - m->store_evicted.bytes : 0,
                  s->cached > m->store_evicted.bytes ? s->cached - m->store_evicted.bytes : 0);
        on_answer(s, m->id, 0, "");
        return 0;
    case FAST_MSG_T_done:
        on_answer(s, m->id, (int)m->done.code, m->done.text.p);
        return 0;
    default:
        return 0;
    }
}

static void on_readable(void *arg, int events)
{
    struct node_store *s = arg;
    (void)events;
    for (int i = 0; i < PACKETS_PER_TURN && s->fd >= 0; i++) {
        struct fast_msg m;
        struct fast_err err;
        int rc = fast_packet_recv(s->fd, s->all->buf, &m, NULL, &err);
        if (rc == -FAST_EBUSY)
            return;
        rc = rc ? rc : on_message(s, &m, &err);
        if (!rc)
            continue;
        fast_log(INFO, "store hung up", "gpu=%u why=\"%s\"", s->gpu, err.msg);
        node_store_lost(s);
        return;
    }
}

int node_store_connect(struct node_store *s, struct fast_err *err)
{
    struct fast_msg hello = {.type = FAST_MSG_T_store_hello,
                             .store_hello = {.version = FAST_MSG_VERSION,
                                             .pass = fast_str(s->all->admin)}};
    int rc = fast_packet_connect(s->socket, true, &s->fd, err);
    if (rc) {
        s->fd = -1;
        return rc;
    }
    s->watch = fast_watch_new(s->all->node->loop, s->fd, FAST_LOOP_IN, on_readable, s);
    rc = s->watch ? send_next(s, &hello, err) : fast_err_set(err, FAST_ENOMEM, "no memory to watch");
    if (rc)
        node_store_hang_up(s);
    return rc;
}

/* ---- requests ---- */

/* The answer comes later, and with it the end of |job|, unless this fails. */
static int ask(struct node_store *s, struct fast_msg *m, struct node_job *job, struct fast_err *err)
{
    struct node_asked *a = calloc(1, sizeof(*a));
    if (!a)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a request");
    int rc = send_next(s, m, err);
    if (rc) {
        free(a);
        return rc;
    }
    *a = (struct node_asked){.next = s->asked, .id = m->id, .job = job};
    s->asked = a;
    job->waiting++;
    return 0;
}

static bool has(const struct node_store *s, struct fast_str ns, struct fast_str name,
                struct fast_str version)
{
    for (const struct node_model *m = s->models; m; m = m->next)
        if (!strcmp(m->ns, ns.p) && !strcmp(m->name, name.p) &&
            (!version.len || !strcmp(m->version, version.p)))
            return true;
    return false;
}

static int ask_all(struct node_stores *all, const struct fast_msg *msg, struct node_job *job,
                   struct fast_err *err)
{
    bool pin = msg->type == FAST_MSG_T_model_pin;
    struct fast_str ns = pin ? msg->model_pin.ns : msg->model_remove.ns;
    struct fast_str name = pin ? msg->model_pin.name : msg->model_remove.name;
    struct fast_str version = pin ? msg->model_pin.version : msg->model_remove.version;
    int rc = fast_err_set(err, FAST_ENOENT, "no GPU here has model %.100s of namespace %.63s", name.p,
                          ns.p);
    for (int i = 0; i < all->count; i++) {
        struct fast_msg m = *msg;
        struct fast_err why;
        if (!has(&all->store[i], ns, name, version) || !ask(&all->store[i], &m, job, &why))
            continue;
        rc = fast_err_set(err, why.code, "GPU %d: %.200s", i, why.msg);
        note(job, why.code, err->msg);
    }
    return job->waiting ? 0 : rc;
}

int node_stores_request(struct node_stores *all, const struct fast_msg *msg, node_stores_done_fn *done,
                        void *arg, uint64_t key, struct fast_err *err)
{
    if (!node_stores_ready(all))
        return fast_err_set(err, FAST_ENOSYS, "the program fast-store is not installed here");
    if (msg->type == FAST_MSG_T_model_push && msg->model_push.gpu >= (uint32_t)all->count)
        return fast_err_set(err, FAST_EINVAL, "gpu: there is no GPU %u", msg->model_push.gpu);
    struct node_job *job = node_job_new(all, done, arg, key);
    if (!job)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a request");
    int rc = msg->type == FAST_MSG_T_model_push
                 ? node_store_push(&all->store[msg->model_push.gpu], &msg->model_push, job, err)
                 : ask_all(all, msg, job, err);
    if (rc) {
        job->done = NULL;
        node_job_answer(all, job, 0, "");
    }
    return rc;
}

uint64_t node_stores_cached(const struct node_stores *all, uint32_t gpu)
{
    return gpu < (uint32_t)all->count ? all->store[gpu].cached : 0;
}

bool node_stores_make_room(struct node_stores *all, uint32_t gpu, uint64_t bytes,
                           node_stores_done_fn *done, void *arg)
{
    struct node_store *s = gpu < (uint32_t)all->count ? &all->store[gpu] : NULL;
    struct fast_msg m = {.type = FAST_MSG_T_store_evict, .store_evict = {.bytes = bytes}};
    struct node_job *job = s && s->fd >= 0 && bytes <= s->cached ? node_job_new(all, done, arg, 0) : NULL;
    if (!job)
        return false;
    if (!ask(s, &m, job, NULL))
        return true;
    job->done = NULL;
    node_job_answer(all, job, 0, "");
    return false;
}
