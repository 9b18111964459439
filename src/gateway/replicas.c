/* Decides what becomes of a replica: placed, told to the node, given requests, drained, stopped,
 * forgotten. It assumes that the node's rows are the truth about processes, and the fleet the truth
 * about places. */

#include "gateway/job.h"
#include "gateway/replica_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"
#include "wire/page.h"

#define PF_EXITING 4 /* of the flags in /proc/PID/stat */
#define DRAIN_MAX FAST_S(10)
#define SUSPECT FAST_S(1)
#define RETRY_FIRST FAST_S(1)
#define RETRY_MAX FAST_S(30)

bool gw_replica_is_live(const struct gw_replica *r)
{
    return r->phase <= GW_TOLD && r->generation == r->fn->generation && !r->fn->removed && !r->copy_of;
}

bool gw_replica_is_ready(const struct gw_replica *r)
{
    return r->phase == GW_TOLD && r->state == FAST_REPLICA_READY && r->port;
}

int gw_function_ready(const struct gw_function *fn)
{
    int n = 0;
    for (int i = 0; i < fn->balance.n; i++)
        n += gw_replica_is_ready(gw_replica_of(fn, i));
    return n;
}

struct fast_slice gw_replica_slice(const struct gateway *gw, const struct fast_slice *slice)
{
    struct fast_slice s = *slice;
    if (gw->conf->scaler == FAST_SCALER_WHOLE)
        s = (struct fast_slice){FAST_SM_PCT_MAX, FAST_MILLI, FAST_MILLI, 0};
    uint64_t least = gw->ngpus ? gw->gpus[0].row.mem_total : 0;
    for (int i = 1; i < gw->ngpus; i++)
        if (gw->gpus[i].row.mem_total < least)
            least = gw->gpus[i].row.mem_total;
    if (!s.mem_bytes)
        s.mem_bytes = gw_spec_default_mem(s.sm_pct, least);
    return s;
}

void gw_replica_want(const struct gateway *gw, const struct fast_slice *slice,
                     struct fast_want *ret)
{
    *ret = (struct fast_want){.slice = *slice, .node = FAST_ANY, .gpu = FAST_ANY,
                              .exclusive = gw->conf->scaler == FAST_SCALER_WHOLE};
}

/* ---- coming and going ---- */

struct gw_replica *replica_add(struct gateway *gw, struct gw_function *fn, const char *id,
                               struct fast_err *err)
{
    struct gw_replica *r = calloc(1, sizeof(*r)), **at = &gw->replicas;
    if (!r) {
        fast_err_set(err, FAST_ENOMEM, "no memory for a replica");
        return NULL;
    }
    r->fn = fn;
    r->key = gw->next_key++;
    r->gpu = -1;
    r->due = FAST_NEVER;
    r->session = gw->session;
    snprintf(r->id, sizeof(r->id), "%s", id);
    gw_stats_init(&r->stats, fast_loop_now(gw->loop));
    if (fast_balance_add(&fn->balance, &r->item, err)) {
        free(r);
        return NULL;
    }
    fn->nreplicas++;
    gw_function_awake(gw, fn);
    while (*at)
        at = &(*at)->next;
    *at = r;
    return r;
}

static void free_replica(struct gateway *gw, struct gw_replica *r)
{
    struct gw_replica **at = &gw->replicas;
    while (*at && *at != r)
        at = &(*at)->next;
    if (*at)
        *at = r->next;
    fast_http_pool_free(r->pool);
    gw_stats_fini(&r->stats);
    free(r->more_stats);
    free(r->log_path);
    free(r->text);
    free(r);
}

void gw_replicas_free(struct gateway *gw)
{
    while (gw->replicas)
        free_replica(gw, gw->replicas);
}

void replica_set_ready(struct gateway *gw, struct gw_replica *r)
{
    bool ready = gw_replica_is_ready(r) && !r->suspect_until;
    bool more = ready && !r->item.ready;
    r->item.ready = ready;
    r->item.weight = gw_spec_weight(r->fn->spec, &r->slice);
    if (more) {
        r->fn->retry_after = 0;
        r->fn->trouble[0] = 0;
        gw_invoke_queue(gw, r->fn);
    }
    if (ready && !r->in_flight)
        gw_elastic_idle(gw, r);
}

/* The replica is not there any more: its place is free. Requests in flight on it end by
 * themselves, since their connections do. */
void replica_gone(struct gateway *gw, struct gw_replica *r)
{
    struct gw_function *fn = r->fn;
    if (r->phase == GW_GONE)
        return;
    r->phase = GW_GONE;
    gw_elastic_forget(gw, r);
    gw_replica_take_out(gw, r);
    gw_store_replica_remove(gw->store, r->id, NULL);
    gw_socket_remove(gw, r);
    fast_balance_remove(&fn->balance, &r->item);
    fn->nreplicas--;
    if (!r->in_flight)
        free_replica(gw, r);
    gw_function_release(gw, fn);
}

static struct gw_replica *find_key(struct gateway *gw, uint64_t key)
{
    struct gw_replica *r = gw->replicas;
    while (r && r->key != key)
        r = r->next;
    return r;
}

struct gw_replica *replica_find(struct gateway *gw, const char *id)
{
    struct gw_replica *r = gw->replicas;
    while (r && (r->phase == GW_GONE || strcmp(r->id, id)))
        r = r->next;
    return r;
}

/* ---- telling the node ---- */

void replica_back_off(struct gateway *gw, struct gw_function *fn, const char *text)
{
    fn->retry_after = !fn->retry_after ? RETRY_FIRST
                                       : 2 * fn->retry_after < RETRY_MAX ? 2 * fn->retry_after
                                                                         : RETRY_MAX;
    fn->retry_at = fast_loop_now(gw->loop) + fn->retry_after;
    snprintf(fn->trouble, sizeof(fn->trouble), "%s", text);
}

void replica_failed(struct gateway *gw, const struct gw_replica *r, const char *text)
{
    if (r->copy_of)
        gw_move_failed(gw, r, text); /* the replica goes on as it was */
    else
        replica_back_off(gw, r->fn, text);
}

static void on_started(void *arg, uint64_t key, int code, const char *text)
{
    struct gateway *gw = arg;
    struct gw_replica *r = find_key(gw, key);
    if (!r || code == FAST_OK)
        return;
    if (code == FAST_EPEER) {
        if (r->phase == GW_TOLD)
            r->phase = GW_PLACED; /* it may not have been heard: said again later */
        return;
    }
    fast_log(WARN, "replica refused", "replica=%s why=\"%s\"", r->id, text);
    replica_failed(gw, r, text);
    replica_gone(gw, r);
}

/* Strings of an environment or argument list, one after the other. */
struct strings {
    char *p;
    size_t len, cap;
    bool failed;
};

static void add_string(struct strings *s, const char *name, const char *value)
{
    size_t need = strlen(name) + strlen(value) + 2;
    if (s->len + need > s->cap) {
        size_t cap = 2 * (s->len + need) + 256;
        char *p = realloc(s->p, cap);
        if (!p) {
            s->failed = true;
            return;
        }
        s->p = p;
        s->cap = cap;
    }
    s->len += (size_t)sprintf(s->p + s->len, "%s=%s", name, value) + 1;
}

static void build_env(const struct gateway *gw, const struct gw_function *fn, struct strings *env)
{
    const struct gw_spec *s = fn->spec;
    char dir[4096];
    const char *name, *process = json_string_value(json_object_get(s->json, "envProcess"));
    json_t *v;
    json_object_foreach(json_object_get(s->json, "envVars"), name, v)
        add_string(env, name, json_string_value(v));
    if (process && *process)
        add_string(env, "fprocess", process);
    add_string(env, "OPENFAAS_NAME", s->name);
    add_string(env, "OPENFAAS_NAMESPACE", s->ns);
    const char *model = gw_spec_map(s, "annotations", "fastgshare/model");
    if (model)
        add_string(env, "FAST_MODEL", model);
    if (s->mem_wait) {
        char ms[24];
        snprintf(ms, sizeof(ms), "%lld", (long long)s->mem_wait / 1000000);
        add_string(env, FAST_ENV_MEM_WAIT, ms);
    }
    const char *batch = gw_spec_map(s, "annotations", "has-gpu/batch_size");
    if (batch)
        add_string(env, "HAS_GPU_BATCH_SIZE", batch);
    if (json_array_size(json_object_get(s->json, "secrets")) &&
        !gw_secret_dir(gw, s->ns, dir, sizeof(dir)))
        add_string(env, "SECRETS_PATH", dir);
}

void replica_tell_start(struct gateway *gw, struct gw_replica *r)
{
    const struct gw_spec *s = r->fn->spec;
    struct strings env = {0};
    struct fast_err err;
    char path[128];
    build_env(gw, r->fn, &env);
    if (gw_socket_prepare(gw, r, path, sizeof(path)))
        add_string(&env, "FAST_SOCKET", path);
    struct fast_msg m = {
        .type = FAST_MSG_T_replica_start,
        .replica_start = {.replica = fast_str(r->id),
                          .function = fast_str(s->name),
                          .ns = fast_str(s->ns),
                          .gpu = r->gpu < 0 ? FAST_GPU_NONE : (uint32_t)r->gpu,
                          .more_gpus = r->more_gpus,
                          .sm_pct = (uint32_t)r->slice.sm_pct,
                          .request_milli = (uint32_t)r->slice.request_milli,
                          .limit_milli = (uint32_t)r->slice.limit_milli,
                          .mem_bytes = r->slice.mem_bytes,
                          .argv = {s->argv, (uint32_t)s->argv_len},
                          .env = {env.p, (uint32_t)env.len},
                          .cwd = fast_str(""),
                          .health_path = fast_str(s->health_path)}};
    r->phase = GW_TOLD;
    r->told_milli = r->slice.request_milli;
    if (env.failed)
        fast_err_set(&err, FAST_ENOMEM, "no memory for an environment");
    if (env.failed || gw_link_request(gw->link, &m, on_started, gw, r->key, &err)) {
        r->phase = GW_PLACED; /* told when the node is there, or at the next tick */
        snprintf(r->fn->trouble, sizeof(r->fn->trouble), "%s", err.msg);
    }
    free(env.p);
}

static void on_stopped(void *arg, uint64_t key, int code, const char *text)
{
    struct gateway *gw = arg;
    struct gw_replica *r = find_key(gw, key);
    (void)text;
    if (r && code == FAST_ENOENT)
        replica_gone(gw, r);
}

void replica_tell_stop(struct gateway *gw, struct gw_replica *r)
{
    struct fast_msg m = {.type = FAST_MSG_T_replica_stop,
                         .replica_stop = {.replica = fast_str(r->id)}};
    r->phase = gw_link_request(gw->link, &m, on_stopped, gw, r->key, NULL) ? GW_DRAINING
                                                                         : GW_STOPPING;
}

struct placing {
    struct gw_replica *r;
    struct fast_want want; /* of resize(): its slice alone */
    bool firm;             /* it keeps its guarantee for good */
    uint32_t gpus;
};

static int place(struct gateway *gw, void *arg, struct fast_err *err)
{
    struct placing *p = arg;
    if (p->firm)
        gw_elastic_all(gw, true);
    int rc = gw_places_take(gw, p->r->key, p->r->fn->spec->gpus, &p->want, &p->gpus, err);
    if (p->firm)
        gw_elastic_all(gw, false);
    return rc;
}

static int resize(struct gateway *gw, void *arg, struct fast_err *err)
{
    struct placing *p = arg;
    if (p->firm)
        gw_elastic_all(gw, true);
    int rc = gw_replica_resize_place(gw, p->r, &p->want.slice, err);
    if (p->firm)
        gw_elastic_all(gw, false);
    return rc;
}

/* |of|: it is a copy, on GPU |gpu| of the fleet; NULL: it is not. */
static int start(struct gateway *gw, struct gw_function *fn, const struct fast_slice *slice, int64_t rps_milli,
                 const struct gw_replica *of, int gpu, struct gw_replica **ret, struct fast_err *err)
{
    char id[GW_ID_MAX];
    struct placing p = {.firm = !gw_elastic(gw, fn)};
    snprintf(id, sizeof(id), "%s.%s.%u", fn->spec->name, fn->spec->ns, fn->next_number);
    struct gw_replica *r = replica_add(gw, fn, id, err);
    if (!r)
        return -err->code;
    r->generation = fn->generation;
    r->slice = *slice;
    r->rps_milli = rps_milli;
    r->copy_of = of ? of->key : 0;
    int rc = 0;
    if (fn->spec->gpu) {
        r->slice = gw_replica_slice(gw, slice);
        p.r = r;
        gw_replica_want(gw, &r->slice, &p.want);
        gw_models_want(gw, fn->spec, &p.want);
        gw_company_want(gw, fn->spec, &p.want);
        p.want.gpu = gpu;
        rc = of ? place(gw, &p, err) : gw_trials_make_room(gw, fn->spec, place, &p, err);
        r->in_fleet = !rc;
        if (!rc)
            gw_replica_set_gpus(r, p.gpus);
    }
    fn->next_number++;
    if (!rc)
        rc = gw_store_replica_put(gw->store, id, r->generation, err);
    if (!rc)
        rc = gw_function_save(gw, fn, err);
    if (rc) {
        fn->jobs++; /* the function stays, whatever its state */
        replica_gone(gw, r);
        fn->jobs--;
        return rc;
    }
    *ret = r;
    replica_tell_start(gw, r);
    return 0;
}

int gw_replica_new(struct gateway *gw, struct gw_function *fn, const struct fast_slice *slice,
                   int64_t rps_milli, struct fast_err *err)
{
    struct gw_replica *r;
    return start(gw, fn, slice, rps_milli, NULL, FAST_ANY, &r, err);
}

int gw_replica_copy(struct gateway *gw, const struct gw_replica *of, int gpu, struct gw_replica **ret,
                    struct fast_err *err)
{
    return start(gw, of->fn, &of->slice, of->rps_milli, of, gpu, ret, err);
}

void gw_replica_drain(struct gateway *gw, struct gw_replica *r)
{
    if (r->phase > GW_TOLD)
        return;
    bool unknown = r->phase == GW_PLACED && !r->pid;
    r->phase = GW_DRAINING;
    r->drain_until = fast_loop_now(gw->loop) + DRAIN_MAX;
    replica_set_ready(gw, r);
    if (unknown)
        replica_gone(gw, r);
    else if (!r->in_flight)
        replica_tell_stop(gw, r);
}

void gw_replica_cut(struct gateway *gw, struct gw_replica *r)
{
    uint64_t key = r->key;
    gw_replica_drain(gw, r); /* one that the node knows nothing of is gone at once */
    r = find_key(gw, key);
    if (r && r->phase == GW_DRAINING)
        replica_tell_stop(gw, r);
}

void gw_replica_leave(struct gateway *gw, struct gw_replica *r)
{
    gw_replica_count_flight(r, -1, fast_loop_now(gw->loop));
    if (r->phase != GW_GONE)
        fast_balance_done(&r->fn->balance, &r->item);
    gw_replica_tell_due(gw, r);
    if (r->in_flight)
        return;
    if (r->phase == GW_GONE)
        free_replica(gw, r);
    else if (r->phase == GW_DRAINING)
        replica_tell_stop(gw, r);
    else
        gw_elastic_idle(gw, r);
}

int gw_replica_resize(struct gateway *gw, struct gw_replica *r, const struct fast_slice *slice,
                      struct fast_err *err)
{
    struct fast_slice s = r->fn->spec->gpu ? gw_replica_slice(gw, slice) : *slice;
    struct placing p = {.r = r, .want = {.slice = s}, .firm = !gw_elastic(gw, r->fn)};
    const struct fast_slice was = gw_elastic_slice(r);
    if (r->parked)
        p.want.slice.request_milli = 0;
    int rc = r->in_fleet ? gw_trials_make_room(gw, r->fn->spec, resize, &p, err) : 0;
    if (rc)
        return rc;
    struct fast_msg m = {.type = FAST_MSG_T_replica_resize,
                         .replica_resize = {.replica = fast_str(r->id),
                                            .sm_pct = (uint32_t)s.sm_pct,
                                            .request_milli = (uint32_t)s.request_milli,
                                            .limit_milli = (uint32_t)s.limit_milli,
                                            .mem_bytes = s.mem_bytes}};
    if (r->phase == GW_TOLD)
        rc = gw_link_request(gw->link, &m, NULL, NULL, 0, err);
    if (rc) { /* the node is away: it keeps what it has */
        if (r->in_fleet)
            gw_replica_resize_place(gw, r, &was, NULL);
        return rc;
    }
    r->slice = s;
    r->told_milli = s.request_milli;
    gw_elastic_tell(gw, r);
    r->item.weight = gw_spec_weight(r->fn->spec, &r->slice);
    return 0;
}

void gw_replica_suspect(struct gateway *gw, struct gw_replica *r)
{
    if (r->phase != GW_TOLD)
        return;
    r->suspect_until = fast_loop_now(gw->loop) + SUSPECT;
    replica_set_ready(gw, r);
}

/* The kernel closes the connections of a dying process before, or after, the socket that it listens
 * on, and until that is closed it still takes connections in, only to reset them. What tells is
 * PF_EXITING, which is set before either. */
static bool is_exiting(uint32_t pid)
{
    char buf[FAST_PROC_STAT_MAX], state = 0;
    unsigned flags = 0;
    const char *at = fast_proc_stat(pid, buf);
    if (!at)
        return access("/proc/self/stat", R_OK) == 0;
    if (sscanf(at, " %c %*d %*d %*d %*d %*d %u", &state, &flags) != 2)
        return false;
    return state == 'Z' || state == 'X' || (flags & PF_EXITING);
}

void gw_replica_check(struct gateway *gw, struct gw_replica *r)
{
    if (r->pid && is_exiting(r->pid))
        gw_replica_suspect(gw, r);
}

static void clear_suspects(struct gateway *gw, fast_ns now)
{
    for (struct gw_replica *r = gw->replicas; r; r = r ? r->next : gw->replicas)
        if (r->suspect_until && r->suspect_until <= now && r->phase == GW_TOLD) {
            r->suspect_until = 0;
            replica_set_ready(gw, r);
            r = NULL; /* requests that waited may have changed the list */
        }
}

void gw_replicas_tick(struct gateway *gw)
{
    fast_ns now = fast_loop_now(gw->loop);
    bool synced = gw_link_synced(gw->link);
    clear_suspects(gw, now);
    for (struct gw_replica *r = gw->replicas, *next; r && synced; r = next) {
        next = r->next;
        if (r->phase == GW_PLACED)
            replica_tell_start(gw, r);
        else if (r->phase == GW_DRAINING && (!r->in_flight || now >= r->drain_until))
            replica_tell_stop(gw, r);
    }
}
