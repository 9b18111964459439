/* Decides what a deployed function is and how many replicas it shall have. Every change is checked
 * against the GPUs and stored before it is promised; what runs follows in gw_function_reconcile. */

#include "gateway/scaling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

static uint32_t hash_of(const char *name, size_t name_len, const char *ns, size_t ns_len)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < name_len; i++)
        h = (h ^ (unsigned char)name[i]) * 16777619u;
    for (size_t i = 0; i < ns_len; i++)
        h = (h ^ (unsigned char)ns[i]) * 16777619u;
    return h;
}

static bool same(const char *text, const char *p, size_t len)
{
    return strlen(text) == len && !memcmp(text, p, len);
}

struct gw_function *gw_function_find(struct gateway *gw, const char *name, size_t name_len,
                                     const char *ns, size_t ns_len)
{
    uint32_t hash = hash_of(name, name_len, ns, ns_len);
    struct gw_function *f = gw->hash[hash % GW_BUCKETS];
    while (f && !(f->hash == hash && same(f->spec->name, name, name_len) && same(f->spec->ns, ns, ns_len)))
        f = f->hash_next;
    return f;
}

static void unhash(struct gateway *gw, struct gw_function *fn)
{
    struct gw_function **at = &gw->hash[fn->hash % GW_BUCKETS];
    while (*at && *at != fn)
        at = &(*at)->hash_next;
    if (*at)
        *at = fn->hash_next;
}

static void set_spec(struct gateway *gw, struct gw_function *fn, struct gw_spec *spec)
{
    bool trial = gw_spec_is_trial(spec);
    gw->ntrials += trial - fn->trial;
    fn->trial = trial;
    fn->spec = spec;
    gw->specs_changed = true;
}

/* Numbers go on where a removed function of this name left off: its replicas may still be going. */
static uint32_t next_number(const struct gateway *gw, const struct gw_spec *spec)
{
    uint32_t next = 1;
    for (const struct gw_function *fn = gw->nremoved ? gw->functions : NULL; fn; fn = fn->next)
        if (fn->removed && !strcmp(fn->spec->name, spec->name) && !strcmp(fn->spec->ns, spec->ns))
            next = fn->next_number;
    return next;
}

/* Appends, so that lists are in the order of deployment. */
static struct gw_function *add_function(struct gateway *gw, struct gw_spec *spec)
{
    struct gw_function *fn = calloc(1, sizeof(*fn));
    if (!fn)
        return NULL;
    set_spec(gw, fn, spec);
    fn->generation = 1;
    fn->next_number = next_number(gw, spec);
    fast_balance_init(&fn->balance);
    fn->wanted_at = fast_loop_now(gw->loop);
    gw_stats_init(&fn->stats, fn->wanted_at);
    fn->hash = hash_of(spec->name, strlen(spec->name), spec->ns, strlen(spec->ns));
    struct gw_function **bucket = &gw->hash[fn->hash % GW_BUCKETS];
    fn->hash_next = *bucket;
    *bucket = fn;
    fn->prev = gw->last_function;
    *(fn->prev ? &fn->prev->next : &gw->functions) = fn;
    gw->last_function = fn;
    return fn;
}

static void set_removed(struct gateway *gw, struct gw_function *fn)
{
    unhash(gw, fn);
    fn->removed = true;
    gw->nremoved++;
}

void gw_function_awake(struct gateway *gw, struct gw_function *fn)
{
    if (fn->awake)
        return;
    fn->awake = true;
    fn->awake_next = NULL;
    fn->awake_prev = gw->last_awake;
    *(fn->awake_prev ? &fn->awake_prev->awake_next : &gw->awake) = fn;
    gw->last_awake = fn;
}

void gw_function_sleep(struct gateway *gw, struct gw_function *fn)
{
    if (!fn->awake)
        return;
    *(fn->awake_prev ? &fn->awake_prev->awake_next : &gw->awake) = fn->awake_next;
    *(fn->awake_next ? &fn->awake_next->awake_prev : &gw->last_awake) = fn->awake_prev;
    fn->awake = false;
    fn->slept = true;
}

static void free_function(struct gateway *gw, struct gw_function *fn)
{
    gw_function_sleep(gw, fn);
    *(fn->prev ? &fn->prev->next : &gw->functions) = fn->next;
    *(fn->next ? &fn->next->prev : &gw->last_function) = fn->prev;
    if (fn->removed)
        gw->nremoved--;
    else
        unhash(gw, fn);
    gw->ntrials -= fn->trial;
    gw_stats_fini(&fn->stats);
    fast_balance_fini(&fn->balance);
    gw_live_free(fn->live);
    gw_scaling_free(fn->scaling);
    gw_records_free(fn->records);
    gw_spec_free(fn->spec);
    free(fn);
}

void gw_function_release(struct gateway *gw, struct gw_function *fn)
{
    if (fn->removed && !fn->nreplicas && !fn->jobs)
        free_function(gw, fn);
}

void gw_functions_free(struct gateway *gw)
{
    while (gw->functions)
        free_function(gw, gw->functions);
}

int gw_function_save(struct gateway *gw, struct gw_function *fn, struct fast_err *err)
{
    fast_autofree char *json = json_dumps(fn->spec->json, JSON_COMPACT);
    if (!json)
        return fast_err_set(err, FAST_ENOMEM, "no memory to store a function");
    struct gw_record rec = {.name = fn->spec->name,
                            .ns = fn->spec->ns,
                            .json = json,
                            .json_len = strlen(json),
                            .desired = fn->desired,
                            .next_number = fn->next_number,
                            .generation = fn->generation,
                            .created_ns = fn->created_ns};
    return gw_store_put(gw->store, &rec, err);
}

/* ---- whether it fits ---- */

static int check_gpus(const struct gateway *gw, const struct gw_spec *spec, struct fast_err *err)
{
    uint64_t most = 0;
    if (!spec->gpu)
        return 0;
    if (!gw->ngpus)
        return fast_err_set(err, FAST_EINVAL, "this node has no GPU");
    for (int i = 0; i < gw->ngpus; i++)
        if (gw->gpus[i].row.mem_total > most)
            most = gw->gpus[i].row.mem_total;
    if (spec->slice.mem_bytes > most)
        return fast_err_set(err, FAST_EINVAL,
                            "fastgshare/gpu_mem: %llu bytes are more than any GPU here has (%llu)",
                            (unsigned long long)spec->slice.mem_bytes, (unsigned long long)most);
    return 0;
}

struct more {
    struct fast_want want;
    int count, gpus; /* replicas, and of each */
};

/* Places them all and takes them back. */
static int try_more(struct gateway *gw, void *arg, struct fast_err *err)
{
    const struct more *m = arg;
    uint32_t gpus;
    int n = 0, r = 0;
    gw_elastic_all(gw, true);
    while (!r && n < m->count) {
        r = gw_places_take(gw, gw->next_key + (uint64_t)n, m->gpus, &m->want, &gpus, err);
        n += !r;
    }
    if (r && n)
        fast_err_wrap(err, "%d of %d replicas fit", n, m->count);
    for (int i = 0; i < n; i++)
        gw_places_give(gw, gw->next_key + (uint64_t)i, m->gpus);
    gw_elastic_all(gw, false);
    return r;
}

/* Whether |count| more replicas have a place now. */
int gw_function_try_places(struct gateway *gw, const struct gw_spec *spec, int count,
                           struct fast_err *err)
{
    struct more m = {.count = count, .gpus = spec->gpus};
    if (!spec->gpu)
        return 0;
    const struct fast_slice slice = gw_replica_slice(gw, &spec->slice);
    gw_replica_want(gw, &slice, &m.want);
    gw_company_want(gw, spec, &m.want);
    return gw_trials_make_room(gw, spec, try_more, &m, err);
}

/* The same, others that move or give way counted out. */
static int check_room(struct gateway *gw, const struct gw_spec *spec, int count,
                      struct fast_err *err)
{
    struct fast_err full;
    int r = gw_function_try_places(gw, spec, count, err);
    if (r == -FAST_ENOROOM && (gw_move_check(gw, spec, count) || !gw_give_way_check(gw, spec, count, &full)))
        r = 0;
    return r;
}

static int live_count(const struct gw_function *fn)
{
    int n = 0;
    for (int i = 0; i < fn->balance.n; i++)
        n += gw_replica_is_live(gw_replica_of(fn, i));
    return n;
}

static int clamp(int v, int min, int max)
{
    return v < min ? min : v > max ? max : v;
}

/* ---- deploy, change, remove ---- */

static int create(struct gateway *gw, struct gw_spec *spec, struct fast_err *err)
{
    int r = check_room(gw, spec, spec->min, err);
    if (r)
        return r;
    struct gw_function *fn = add_function(gw, spec);
    if (!fn)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a function");
    fn->desired = spec->min;
    fn->created_ns = fast_clock_wall();
    r = gw_function_save(gw, fn, err);
    if (r) {
        set_removed(gw, fn);
        fn->spec = NULL; /* still the caller's */
        free_function(gw, fn);
        return r;
    }
    fast_log(INFO, "function created", "name=%s.%s replicas=%d", spec->name, spec->ns, fn->desired);
    gw_function_reconcile(gw, fn);
    return 0;
}

static bool same_slice(const struct fast_slice *a, const struct fast_slice *b)
{
    return a->sm_pct == b->sm_pct && a->request_milli == b->request_milli &&
           a->limit_milli == b->limit_milli && a->mem_bytes == b->mem_bytes;
}

/* Quotas and memory of running replicas, all or none. */
static int resize_all(struct gateway *gw, struct gw_function *fn, const struct gw_spec *spec,
                      struct fast_err *err)
{
    const struct fast_slice old = fn->spec->slice;
    int r = 0;
    if (same_slice(&old, &spec->slice))
        return 0;
    for (struct gw_replica *p = gw->replicas; p && !r; p = p->next)
        if (p->fn == fn && gw_replica_is_live(p))
            r = gw_replica_resize(gw, p, &spec->slice, err);
    for (struct gw_replica *p = gw->replicas; p && r; p = p->next)
        if (p->fn == fn && gw_replica_is_live(p))
            gw_replica_resize(gw, p, &old, NULL);
    return r;
}

static int change(struct gateway *gw, struct gw_function *fn, struct gw_spec *spec,
                  struct fast_err *err)
{
    bool restart = gw_spec_needs_restart(fn->spec, spec);
    int desired = clamp(fn->desired, spec->min, spec->max_given || spec->max > fn->desired
                                                    ? spec->max
                                                    : fn->desired);
    int more = desired - live_count(fn);
    struct gw_function old = *fn;
    int r = restart ? 0 : resize_all(gw, fn, spec, err);
    if (!r && !restart && more > 0)
        r = check_room(gw, spec, more, err);
    if (r)
        return r;
    set_spec(gw, fn, spec);
    fn->desired = desired;
    fn->generation += restart;
    r = gw_function_save(gw, fn, err);
    if (r) {
        set_spec(gw, fn, old.spec);
        fn->desired = old.desired;
        fn->generation = old.generation;
        return r;
    }
    if (spec->record != old.spec->record) {
        gw_records_free(fn->records);
        fn->records = NULL;
    }
    gw_spec_free(old.spec);
    fn->retry_at = fn->retry_after = 0;
    fn->trouble[0] = 0;
    fast_log(INFO, "function changed", "name=%s.%s replicas=%d restart=%d", spec->name, spec->ns,
             desired, restart);
    gw_function_reconcile(gw, fn);
    return 0;
}

int gw_function_check(const struct gateway *gw, const struct gw_spec *spec, struct fast_err *err)
{
    int r = check_gpus(gw, spec, err);
    if (!r)
        r = gw_company_check(gw, spec, err);
    return r ? r : gw_secret_check(gw, spec, err);
}

int gw_function_deploy(struct gateway *gw, struct gw_spec *spec, struct fast_err *err)
{
    int r = gw_function_check(gw, spec, err);
    if (r)
        return r;
    struct gw_function *fn =
        gw_function_find(gw, spec->name, strlen(spec->name), spec->ns, strlen(spec->ns));
    return fn ? change(gw, fn, spec, err) : create(gw, spec, err);
}

int gw_function_remove(struct gateway *gw, struct gw_function *fn, struct fast_err *err)
{
    int r = gw_store_remove(gw->store, fn->spec->name, fn->spec->ns, err);
    if (r)
        return r;
    fast_log(INFO, "function removed", "name=%s.%s", fn->spec->name, fn->spec->ns);
    set_removed(gw, fn);
    fn->desired = 0;
    fn->jobs++; /* so that it outlives its last replica here */
    gw_invoke_drop_queue(gw, fn);
    gw_function_reconcile(gw, fn);
    fn->jobs--;
    gw_function_release(gw, fn);
    return 0;
}

int gw_function_scale(struct gateway *gw, struct gw_function *fn, int replicas,
                      struct fast_err *err)
{
    int old = fn->desired;
    char why[64];
    if (fn->spec->max_given && replicas > fn->spec->max)
        replicas = fn->spec->max;
    int more = replicas - live_count(fn);
    int r = more > 0 ? check_room(gw, fn->spec, more, err) : 0;
    if (r)
        return r;
    fn->desired = replicas;
    r = gw_function_save(gw, fn, err);
    if (r) {
        fn->desired = old;
        return r;
    }
    fn->wanted_at = fast_loop_now(gw->loop);
    snprintf(why, sizeof(why), "set to %d by hand, from %d", replicas, old);
    if (replicas != old)
        gw_scaling_note(gw, fn, "hand", replicas > old ? FAST_SCALE_START : FAST_SCALE_STOP, 0, why);
    gw_function_reconcile(gw, fn);
    return 0;
}

void gw_function_wake(struct gateway *gw, struct gw_function *fn)
{
    struct fast_err err;
    if (fn->desired > 0)
        return;
    fn->desired = fn->spec->min > 1 ? fn->spec->min : 1;
    if (gw_function_save(gw, fn, &err))
        fast_log(WARN, "cannot store the wake", "name=%s why=\"%s\"", fn->spec->name, err.msg);
    fn->last_up = fast_loop_now(gw->loop);
    gw_scaling_note(gw, fn, "request", FAST_SCALE_START, 0, "a request came and there was no replica");
    gw_function_reconcile(gw, fn);
}

/* ---- after a restart ---- */

static void load_one(void *arg, const struct gw_record *rec)
{
    struct gateway *gw = arg;
    struct gw_spec *spec = NULL;
    struct fast_err err;
    struct gw_function *fn = NULL;
    if (!gw_spec_parse(rec->json, rec->json_len, rec->ns, &gw->conf->paths, &spec, &err)) {
        gw_profiles_attach(gw, spec, NULL); /* it was deployed: a profile of now does not undo that */
        fn = add_function(gw, spec);
    } else {
        fast_log(ERROR, "a stored function is not valid here any more", "name=%s.%s why=\"%s\"",
                 rec->name, rec->ns, err.msg);
    }
    if (!fn) {
        gw_spec_free(spec);
        return;
    }
    fn->desired = rec->desired;
    fn->next_number = rec->next_number;
    fn->generation = rec->generation;
    fn->created_ns = rec->created_ns;
    if (fn->desired)
        gw_function_awake(gw, fn);
}

int gw_functions_load(struct gateway *gw, struct fast_err *err)
{
    return gw_store_each(gw->store, load_one, gw, err);
}

/* ---- reconciling ---- */

/* Which of the replicas goes when there are too many: one that is not ready, else the one with the
 * fewest requests, else the youngest. */
static struct gw_replica *pick_victim(const struct gw_function *fn)
{
    struct gw_replica *v = NULL;
    for (int i = 0; i < fn->balance.n; i++) {
        struct gw_replica *r = gw_replica_of(fn, i);
        if (!gw_replica_is_live(r))
            continue;
        bool a = gw_replica_is_ready(r), b = v && gw_replica_is_ready(v);
        if (!v || a < b || (a == b && r->in_flight < v->in_flight) ||
            (a == b && r->in_flight == v->in_flight && r->key > v->key))
            v = r;
    }
    return v;
}

static int count_going(const struct gw_function *fn)
{
    int n = 0;
    for (int i = 0; i < fn->balance.n; i++) {
        const struct gw_replica *r = gw_replica_of(fn, i);
        n += r->phase == GW_DRAINING || r->phase == GW_STOPPING;
    }
    return n;
}

/* A copy is seen to by its move, as long as its function is there. */
static bool is_outdated(const struct gw_replica *r)
{
    return r->phase <= GW_TOLD && !gw_replica_is_live(r) && (!r->copy_of || r->fn->removed);
}

/* Outdated replicas, and all of a removed function, go when the new ones can do the work, or one by
 * one when the new ones have no room beside them. */
static void retire_outdated(struct gateway *gw, struct gw_function *fn, bool no_room)
{
    int ready = 0, outdated = 0;
    for (int i = 0; i < fn->balance.n; i++) {
        const struct gw_replica *r = gw_replica_of(fn, i);
        ready += gw_replica_is_live(r) && gw_replica_is_ready(r);
        outdated += is_outdated(r);
    }
    bool all = outdated && ready >= fn->desired;
    bool one = outdated && no_room && !count_going(fn);
    for (struct gw_replica *r = gw->replicas, *next; r && (all || one); r = next) {
        next = r->next;
        if (r->fn != fn || !is_outdated(r))
            continue;
        gw_replica_drain(gw, r);
        one = false;
    }
}

void gw_function_reconcile(struct gateway *gw, struct gw_function *fn)
{
    struct fast_err err;
    bool no_room = false;
    int live = live_count(fn);
    fast_ns now = fast_loop_now(gw->loop);
    if (!fn->desired && !fn->nreplicas)
        return;
    gw_function_awake(gw, fn);
    if (!gw->loaded)
        return; /* what runs is not known yet */
    while (live < fn->desired && now >= fn->retry_at) {
        if (gw_replica_new(gw, fn, &fn->spec->slice, 0, &err)) {
            no_room = err.code != FAST_ENOROOM || !gw_move_room(gw, fn, &fn->spec->slice);
            if (no_room)
                gw_give_way(gw, fn, &fn->spec->slice);
            else
                fast_err_wrap(&err, "others are moved to make room");
            snprintf(fn->trouble, sizeof(fn->trouble), "%s", err.msg);
            break;
        }
        live++;
    }
    for (; live > fn->desired; live--) {
        struct gw_replica *v = pick_victim(fn);
        if (!v)
            break;
        gw_replica_drain(gw, v);
    }
    retire_outdated(gw, fn, no_room);
}
