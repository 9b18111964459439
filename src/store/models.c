/* Performs what the catalogue decides: memory for who loads, descriptors for who gets. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "core/manifest.h"
#include "store/store.h"

#define SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

static struct store_model *data_of(const struct fast_model *m)
{
    return m->data;
}

/* ---- telling ---- */

void store_row(const struct store *s, const struct fast_model *m, struct fast_msg *ret)
{
    const struct store_model *d = data_of(m);
    fast_ns idle = m->refs ? 0 : fast_loop_now(s->loop) - m->used_at;
    *ret = (struct fast_msg){
        .type = FAST_MSG_T_model_row,
        .model_row = {.gpu = (uint32_t)s->conf->gpu, .model = m->id, .ns = fast_str(m->ns),
                      .name = fast_str(m->name), .version = fast_str(m->version),
                      .digest = m->digest[0], .state = m->state, .tensors = d ? d->tensors : 0,
                      .bytes = d && d->mem ? d->mem->bytes : 0, .refs = m->refs, .pinned = m->pinned,
                      .shared = m->shared, .waiting = m->waiting, .gets = m->gets,
                      .load_ns = d ? d->load_ns : 0,
                      .idle_ms = idle > 0 ? (uint64_t)(idle / 1000000) : 0,
                      .limit = fast_catalog_limit_of(s->catalog, m->ns),
                      .loader = fast_str(d ? d->loader : ""), .verified = m->verified}};
}

void store_usage(const struct store *s, struct fast_msg *ret)
{
    *ret = (struct fast_msg){.type = FAST_MSG_T_store_usage,
                             .store_usage = {.bytes = s->bytes, .via = s->device.via}};
    for (int i = 0; i < fast_catalog_count(s->catalog); i++) {
        const struct fast_model *m = fast_catalog_at(s->catalog, i);
        ret->store_usage.models++;
        if (fast_model_is_cached(m) && m->data)
            ret->store_usage.cached += data_of(m)->mem->bytes;
    }
    for (const struct store_session *c = s->sessions; c; c = c->next)
        ret->store_usage.clients += c->greeted && !c->watching;
}

void store_tell_model(struct store *s, const struct fast_model *m)
{
    struct fast_msg msg;
    store_row(s, m, &msg);
    for (struct store_session *c = s->sessions; c; c = c->next)
        if (c->watching)
            store_send(c, &msg, NULL, 0);
}

void store_tell_usage(struct store *s)
{
    struct fast_msg msg;
    store_usage(s, &msg);
    for (struct store_session *c = s->sessions; c; c = c->next)
        if (c->watching)
            store_send(c, &msg, NULL, 0);
}

/* ---- handing out ---- */

static void hex(const void *data, size_t n, char *ret)
{
    for (size_t i = 0; i < n; i++)
        snprintf(ret + 2 * i, 3, "%02x", ((const unsigned char *)data)[i]);
}

static void send_model(struct store_session *c, uint32_t id, const struct fast_model *m, bool load)
{
    const struct store_model *d = data_of(m);
    struct fast_msg open = {.type = FAST_MSG_T_model_open, .id = id,
                            .model_open = {.model = m->id, .load = load, .bytes = m->bytes,
                                           .chunks = (uint32_t)d->mem->count}};
    store_send(c, &open, load ? NULL : &d->manifest_fd, load ? 0 : 1);
    for (int i = 0; i < d->mem->count; i++) {
        const struct store_part_mem *p = &d->mem->parts[i];
        char handle[2 * sizeof(p->ipc) + 1] = "";
        if (p->fd < 0)
            hex(&p->ipc, sizeof(p->ipc), handle);
        struct fast_msg chunk = {.type = FAST_MSG_T_model_chunk, .id = id,
                                 .model_chunk = {.model = m->id, .bytes = p->bytes,
                                                 .handle = fast_str(handle)}};
        store_send(c, &chunk, p->fd < 0 ? NULL : &p->fd, p->fd < 0 ? 0 : 1);
    }
}

/* Memory for a model, if need be in place of models that nobody uses. */
static int provide(struct store *s, struct fast_model *m, struct fast_err *err)
{
    struct store_model *d = calloc(1, sizeof(*d));
    int rc = -FAST_ENOMEM;
    if (!d)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a model");
    d->manifest_fd = -1;
    do
        rc = store_device_alloc(&s->device, m->bytes, &d->mem, err);
    while (rc == -FAST_ENOMEM && store_evict(s, 1));
    if (rc) {
        free(d);
        return rc;
    }
    s->bytes += d->mem->bytes;
    m->data = d;
    return 0;
}

/* The client is made the loader, of memory that there may not be: then it gives up at once, and so on
 * with whoever waits. */
static void on_load(struct store *s, const struct fast_catalog_action *a)
{
    struct store_session *c = store_session_find(s, a->client);
    struct fast_err err = {0};
    uint64_t model = a->model->id;
    if (!a->model->data && provide(s, a->model, &err)) {
        fast_log(WARN, "no room", "model=\"%s\" bytes=%llu error=\"%s\"", a->model->name,
                 (unsigned long long)a->model->bytes, err.msg);
        store_done(c, a->id, err.code, err.msg);
        fast_catalog_close(s->catalog, a->client, model, fast_loop_now(s->loop), NULL);
        return;
    }
    fast_log(INFO, "model loads", "ns=%s model=\"%s\" version=\"%s\" bytes=%llu pid=%d", a->model->ns,
             a->model->name, a->model->version, (unsigned long long)a->model->bytes, c->pid);
    send_model(c, a->id, a->model, true);
    store_tell_model(s, a->model);
}

static void on_free(struct store *s, struct fast_model *m)
{
    struct store_model *d = data_of(m);
    store_tell_model(s, m);
    fast_log(INFO, "model gone", "ns=%s model=\"%s\" version=\"%s\"", m->ns, m->name, m->version);
    if (!d)
        return;
    s->bytes -= d->mem->bytes;
    store_device_free(&s->device, d->mem);
    if (d->manifest_fd >= 0)
        close(d->manifest_fd);
    free(d);
    m->data = NULL;
}

static void perform_one(struct store *s, const struct fast_catalog_action *a)
{
    switch (a->what) {
    case FAST_CATALOG_GIVE:
        send_model(store_session_find(s, a->client), a->id, a->model, false);
        store_tell_model(s, a->model);
        break;
    case FAST_CATALOG_LOAD:
        on_load(s, a);
        break;
    case FAST_CATALOG_EXPIRE:
        store_done(store_session_find(s, a->client), a->id, FAST_ETIME,
                   "the model is still being loaded by another process, or nobody loads it any more");
        break;
    case FAST_CATALOG_FREE:
        on_free(s, a->model);
        break;
    }
}

void store_perform(struct store *s)
{
    struct fast_catalog_action a;
    while (fast_catalog_next(s->catalog, &a))
        perform_one(s, &a);
    fast_timer_set(s->wait_timer, fast_catalog_expiry(s->catalog));
    store_tell_usage(s);
    bool idle = !fast_catalog_count(s->catalog) && s->conf->idle != FAST_NEVER;
    for (const struct store_session *c = s->sessions; c && idle; c = c->next)
        idle = c->watching || c->closing;
    fast_timer_set(s->idle_timer, idle ? fast_loop_now(s->loop) + s->conf->idle : FAST_NEVER);
}

uint64_t store_evict(struct store *s, uint64_t bytes)
{
    uint64_t before = s->bytes;
    struct fast_catalog_action a;
    while (before - s->bytes < bytes && fast_catalog_evict(s->catalog))
        /* What is freed comes out first. */
        if (fast_catalog_next(s->catalog, &a))
            perform_one(s, &a);
    return before - s->bytes;
}

/* ---- requests ---- */

int store_want(struct store_session *c, const struct fast_msg *m, struct fast_err *err)
{
    const struct fast_msg_model_want *w = &m->model_want;
    /* What others will read, or what stays for ever, is for whoever runs the machine to say. */
    if (!c->pass.admin && (w->flags & (FAST_MODEL_F_SHARED | FAST_MODEL_F_PINNED)))
        return fast_err_set(err, FAST_EPERM, "only fast model push may share a model with other "
                                             "namespaces, or pin it");
    struct fast_model_want want = {.ns = c->pass.ns, .name = w->name.p, .version = w->version.p,
                                   .digest = {w->digest_hi, w->digest_lo}, .bytes = w->bytes,
                                   .flags = w->flags, .wait = FAST_MS(w->wait_ms)};
    return fast_catalog_want(c->store->catalog, c->id, m->id, &want, fast_loop_now(c->store->loop),
                             err);
}

static int check_manifest(int fd, uint64_t bytes, uint32_t *ret_tensors, struct fast_err *err)
{
    struct stat st;
    int seals = fd >= 0 ? fcntl(fd, F_GET_SEALS) : -1;
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) || st.st_size <= 0 ||
        (uint64_t)st.st_size > FAST_MANIFEST_MAX)
        return fast_err_set(err, FAST_EPROTO, "there is no sealed table of tensors");
    size_t len = (size_t)st.st_size;
    void *p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return fast_err_set(err, FAST_EIO, "mmap: %s", strerror(errno));
    int rc = fast_manifest_check(p, len, bytes, err);
    if (!rc)
        *ret_tensors = (uint32_t)fast_manifest_count(p);
    munmap(p, len);
    return rc;
}

int store_commit(struct store_session *c, const struct fast_msg *m, int fd, struct fast_err *err)
{
    struct store *s = c->store;
    struct fast_model *model = fast_catalog_find(s->catalog, m->model_commit.model);
    uint32_t tensors = 0;
    int rc = model ? check_manifest(fd, model->bytes, &tensors, err)
                   : fast_catalog_known(s->catalog, m->model_commit.model, err);
    if (!rc)
        rc = fast_catalog_commit(s->catalog, c->id, m->model_commit.model, fast_loop_now(s->loop), err);
    if (rc || !model) {
        if (fd >= 0)
            close(fd);
        return rc;
    }
    struct store_model *d = data_of(model);
    d->manifest_fd = fd;
    d->tensors = tensors;
    d->load_ns = m->model_commit.load_ns;
    memcpy(d->loader, c->pass.who, sizeof(d->loader));
    fast_log(INFO, "model ready", "ns=%s model=\"%s\" version=\"%s\" tensors=%u bytes=%llu ms=%lld",
             model->ns, model->name, model->version, tensors, (unsigned long long)d->mem->bytes,
             (long long)(d->load_ns / 1000000));
    store_tell_model(s, model);
    return 0;
}
