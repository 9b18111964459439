/* Decides who loads a model, who gets it and what is dropped. Sizes are small (some models, some
 * clients with some references each), so that lists are walked; nothing here is on the path of a
 * request to a function.
 *
 * A request becomes the reference that it gets: one object goes from waiting to held, and a count can
 * never differ from the objects that it counts. It assumes that every client is told of when it goes
 * (fast_catalog_client_gone). */
#include "core/catalog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"

#define MIB 1048576.0

struct hold {
    struct hold *next;
    uint64_t client;
    uint32_t id;
    struct fast_model *model;
    bool held;     /* it is a reference; else it waits */
    bool can_load;
    bool untold;   /* |what| has not been told */
    enum fast_catalog_do what;
    fast_ns until; /* of a wait */
};

struct fast_catalog {
    uint64_t epoch, last;
    struct fast_limits limits;
    uint64_t total, grain; /* of the device */
    struct fast_model *models[FAST_CATALOG_MODELS];
    int count, waits;
    struct hold *holds; /* in the order in which they came */
    struct fast_model *freed[2 * FAST_CATALOG_MODELS]; /* that nobody was told of yet */
    int freed_count;
    struct fast_model *last_freed; /* told of; kept until the next call, for whoever was told */
};

const char *fast_model_state_name(uint32_t state)
{
    static const char *const names[FAST_MODEL_STATE_COUNT] = {"loading", "ready", "retired", "gone"};
    return state < FAST_MODEL_STATE_COUNT ? names[state] : "unknown";
}

int fast_catalog_new(uint32_t epoch, struct fast_catalog **ret, struct fast_err *err)
{
    struct fast_catalog *c = calloc(1, sizeof(*c));
    if (!c)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a catalogue");
    c->epoch = (uint64_t)epoch << 32;
    c->grain = 1;
    *ret = c;
    return 0;
}

void fast_catalog_free(struct fast_catalog *c)
{
    if (!c)
        return;
    while (c->holds) {
        struct hold *h = c->holds;
        c->holds = h->next;
        free(h);
    }
    for (int i = 0; i < c->count; i++)
        free(c->models[i]);
    for (int i = 0; i < c->freed_count; i++)
        free(c->freed[i]);
    free(c->last_freed);
    free(c);
}

void fast_catalog_limit(struct fast_catalog *c, const struct fast_limits *limits, uint64_t total,
                        uint64_t grain)
{
    c->limits = *limits;
    c->total = total;
    c->grain = grain;
}

uint64_t fast_catalog_limit_of(const struct fast_catalog *c, const char *ns)
{
    return fast_limits_of(&c->limits, ns, c->total);
}

/* ---- looking ---- */

int fast_catalog_count(const struct fast_catalog *c)
{
    return c->count;
}

struct fast_model *fast_catalog_at(const struct fast_catalog *c, int i)
{
    return i >= 0 && i < c->count ? c->models[i] : NULL;
}

struct fast_model *fast_catalog_find(const struct fast_catalog *c, uint64_t id)
{
    for (int i = 0; i < c->count; i++)
        if (c->models[i]->id == id)
            return c->models[i];
    return NULL;
}

bool fast_model_is_cached(const struct fast_model *m)
{
    return m->state == FAST_MODEL_READY && m->refs == 0 && !m->pinned;
}

static bool is_named(const struct fast_model *m, const char *name, const char *version)
{
    return m->state <= FAST_MODEL_READY && !m->removed && !strcmp(m->name, name) &&
           (!*version || !strcmp(m->version, version));
}

static bool is_wanted(const struct fast_model *m, const struct fast_model_want *w, bool foreign)
{
    bool own = !strcmp(m->ns, w->ns);
    if (!is_named(m, w->name, w->version) || own == foreign || (foreign && !m->shared))
        return false;
    return (!w->digest[0] && !w->digest[1]) ||
           (m->digest[0] == w->digest[0] && m->digest[1] == w->digest[1]);
}

/* The newest that is ready, else the newest that is being loaded; the namespace's own first. */
static struct fast_model *find_wanted(const struct fast_catalog *c, const struct fast_model_want *w)
{
    struct fast_model *best = NULL;
    for (int foreign = 0; foreign < 2 && !best; foreign++)
        for (int i = c->count - 1; i >= 0; i--) {
            struct fast_model *m = c->models[i];
            if (is_wanted(m, w, foreign) &&
                (!best || (best->state != FAST_MODEL_READY && m->state == FAST_MODEL_READY)))
                best = m;
        }
    return best;
}

/* ---- models ---- */

static int check_text(const char *what, const char *text, size_t cap, bool empty, struct fast_err *err)
{
    size_t n = strlen(text);
    if ((!n && !empty) || n >= cap)
        return fast_err_set(err, FAST_EINVAL, "%s: \"%.80s\" has not %d to %zu bytes", what, text,
                            empty ? 0 : 1, cap - 1);
    if (!fast_is_text(text)) /* who lists models would be shown less, or more */
        return fast_err_set(err, FAST_EINVAL, "%s: it is not UTF-8, or has a control character", what);
    return 0;
}

static int check_want(const struct fast_model_want *w, struct fast_err *err)
{
    int rc = check_text("namespace", w->ns, FAST_CATALOG_NS, false, err);
    rc = rc ? rc : check_text("model", w->name, FAST_CATALOG_NAME, false, err);
    rc = rc ? rc : check_text("version", w->version, FAST_CATALOG_VERSION, true, err);
    if (!rc && w->bytes && !w->digest[0] && !w->digest[1])
        rc = fast_err_set(err, FAST_EINVAL, "model %s: it has no digest", w->name);
    return rc;
}

static void drop_model(struct fast_catalog *c, struct fast_model *m)
{
    int i = 0;
    while (c->models[i] != m)
        i++;
    c->count--;
    for (; i < c->count; i++)
        c->models[i] = c->models[i + 1];
    m->state = FAST_MODEL_GONE;
    c->freed[c->freed_count++] = m;
}

/* The least recently used that may be dropped, of namespace |ns| or, with NULL, of all. */
static struct fast_model *find_oldest(const struct fast_catalog *c, const char *ns)
{
    struct fast_model *oldest = NULL;
    for (int i = 0; i < c->count; i++)
        if (fast_model_is_cached(c->models[i]) && (!ns || !strcmp(c->models[i]->ns, ns)) &&
            (!oldest || c->models[i]->used_at < oldest->used_at))
            oldest = c->models[i];
    return oldest;
}

/* What the models of a namespace take. */
struct account {
    int models, cached;
    uint64_t bytes, cached_bytes;
};

static struct account account_of(const struct fast_catalog *c, const char *ns)
{
    struct account a = {0};
    for (int i = 0; i < c->count; i++) {
        const struct fast_model *m = c->models[i];
        if (strcmp(m->ns, ns) != 0)
            continue;
        a.models++;
        a.bytes += m->charge;
        a.cached += fast_model_is_cached(m);
        a.cached_bytes += fast_model_is_cached(m) ? m->charge : 0;
    }
    return a;
}

/* Models whose end nobody was told of yet have a place in |freed|, and so has every model when it goes. */
static bool has_place(const struct fast_catalog *c, const struct account *a)
{
    if (c->count + c->freed_count >= 2 * FAST_CATALOG_MODELS)
        return false;
    if (a->models >= FAST_CATALOG_NS_MODELS)
        return a->cached > 0;
    return c->count < FAST_CATALOG_MODELS || find_oldest(c, NULL);
}

/* A place for one more model of |ns|, if need be that of some that nobody uses. */
static int make_place(struct fast_catalog *c, const char *ns, uint64_t charge, struct fast_err *err)
{
    struct account a = account_of(c, ns);
    uint64_t limit = fast_catalog_limit_of(c, ns), firm = a.bytes - a.cached_bytes;
    if (c->total && charge > c->total)
        return fast_err_set(err, FAST_ENOROOM, "the GPU has %.1f MiB and not %.1f", (double)c->total / MIB,
                            (double)charge / MIB);
    if (charge > limit || firm > limit - charge)
        return fast_err_set(err, FAST_ENOROOM,
                            "namespace %s has %.1f MiB of models in use or pinned on this GPU, and %.1f MiB more "
                            "pass its limit of %.1f MiB: fast model rm, or a higher fast-node --model-limit",
                            ns, (double)firm / MIB, (double)charge / MIB, (double)limit / MIB);
    if (!has_place(c, &a))
        return fast_err_set(err, FAST_ENOROOM, "there are %d models already, %d of namespace %.60s",
                            c->count, a.models, ns);
    while (a.bytes > limit - charge || a.models >= FAST_CATALOG_NS_MODELS) {
        struct fast_model *oldest = find_oldest(c, ns);
        a.bytes -= oldest->charge;
        a.models--;
        drop_model(c, oldest);
    }
    if (c->count >= FAST_CATALOG_MODELS)
        drop_model(c, find_oldest(c, NULL));
    return 0;
}

static int add_model(struct fast_catalog *c, const struct fast_model_want *w, struct fast_model **ret,
                     struct fast_err *err)
{
    uint64_t rest = w->bytes % c->grain, charge = w->bytes + (rest ? c->grain - rest : 0);
    charge = charge < w->bytes ? UINT64_MAX : charge; /* more than there are */
    int rc = make_place(c, w->ns, charge, err);
    if (rc)
        return rc;
    struct fast_model *m = calloc(1, sizeof(*m));
    if (!m)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a model");
    m->id = c->epoch | ++c->last;
    snprintf(m->ns, sizeof(m->ns), "%s", w->ns);
    snprintf(m->name, sizeof(m->name), "%s", w->name);
    snprintf(m->version, sizeof(m->version), "%s", w->version);
    m->digest[0] = w->digest[0];
    m->digest[1] = w->digest[1];
    m->bytes = w->bytes;
    m->charge = charge;
    m->shared = w->flags & FAST_MODEL_F_SHARED;
    m->pinned = w->flags & FAST_MODEL_F_PINNED;
    c->models[c->count++] = m;
    *ret = m;
    return 0;
}

/* ---- holds ---- */

static void give(struct fast_catalog *c, struct hold *h, enum fast_catalog_do what, fast_ns now)
{
    struct fast_model *m = h->model;
    h->held = h->untold = true;
    h->what = what;
    m->waiting--;
    c->waits--;
    m->refs++;
    m->used_at = now;
    if (what == FAST_CATALOG_LOAD)
        m->loader = h->client;
    else
        m->gets++;
}

static void expire(struct fast_catalog *c, struct hold *h)
{
    h->model->waiting--;
    c->waits--;
    h->model = NULL; /* it may go before this is told */
    h->untold = true;
    h->what = FAST_CATALOG_EXPIRE;
}

int fast_catalog_want(struct fast_catalog *c, uint64_t client, uint32_t id,
                      const struct fast_model_want *w, fast_ns now, struct fast_err *err)
{
    int rc = check_want(w, err);
    if (rc)
        return rc;
    struct fast_model *m = find_wanted(c, w);
    if (!m && !w->bytes)
        return fast_err_set(err, FAST_ENOENT,
                            "there is no model %.100s%s%.60s for namespace %s (one of another "
                            "namespace has to be marked as shared)",
                            w->name, *w->version ? " of version " : "", w->version, w->ns);
    struct hold **at = &c->holds;
    bool waits = m && m->state == FAST_MODEL_LOADING;
    int of_client = 0;
    for (; *at; at = &(*at)->next) {
        of_client += (*at)->client == client;
        if (waits && (*at)->client == client && (*at)->model && !(*at)->held)
            return fast_err_set(err, FAST_EBUSY, "this client waits for a model already");
    }
    if (waits && c->waits >= FAST_CATALOG_WAITS)
        return fast_err_set(err, FAST_ENOROOM, "%d requests for models wait already", c->waits);
    if (of_client >= FAST_CATALOG_HOLDS)
        return fast_err_set(err, FAST_ENOROOM, "this client has %d references already", of_client);
    struct hold *h = calloc(1, sizeof(*h));
    if (!h)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a reference");
    bool is_new = !m;
    if (is_new && (rc = add_model(c, w, &m, err))) {
        free(h);
        return rc;
    }
    /* Who loads can write: never somebody of another namespace. */
    bool can_load = w->bytes == m->bytes && !strcmp(w->ns, m->ns);
    *h = (struct hold){.client = client, .id = id, .model = m, .can_load = can_load,
                       .until = w->wait < FAST_NEVER - now ? now + w->wait : FAST_NEVER};
    *at = h;
    m->waiting++;
    c->waits++;
    if (is_new)
        give(c, h, FAST_CATALOG_LOAD, now);
    else if (m->state == FAST_MODEL_READY)
        give(c, h, FAST_CATALOG_GIVE, now);
    return 0;
}

/* Nobody loads |m| any more: the next who waits and can does. */
static void find_loader(struct fast_catalog *c, struct fast_model *m, fast_ns now)
{
    m->loader = 0;
    for (struct hold *h = c->holds; h; h = h->next)
        if (h->model == m && !h->held && h->can_load) {
            give(c, h, FAST_CATALOG_LOAD, now);
            return;
        }
    for (struct hold *h = c->holds; h; h = h->next)
        if (h->model == m && !h->held)
            expire(c, h);
}

/* |m| has lost a reference of |client|. */
static void settle(struct fast_catalog *c, struct fast_model *m, uint64_t client, fast_ns now)
{
    m->refs--;
    m->used_at = now;
    if (m->state == FAST_MODEL_LOADING && m->loader == client)
        find_loader(c, m, now);
    if (!m->refs && (m->state == FAST_MODEL_LOADING || m->state == FAST_MODEL_RETIRED))
        drop_model(c, m);
}

int fast_catalog_commit(struct fast_catalog *c, uint64_t client, uint64_t model, fast_ns now,
                        struct fast_err *err)
{
    struct fast_model *m = fast_catalog_find(c, model);
    if (!m || m->state != FAST_MODEL_LOADING || m->loader != client)
        return fast_err_set(err, FAST_EPERM, "this client does not load model %llx",
                            (unsigned long long)model);
    m->state = m->removed ? FAST_MODEL_RETIRED : FAST_MODEL_READY;
    m->loader = 0;
    m->used_at = now;
    for (struct hold *h = c->holds; h; h = h->next)
        if (h->model == m && !h->held)
            give(c, h, FAST_CATALOG_GIVE, now);
    return 0;
}

int fast_catalog_known(const struct fast_catalog *c, uint64_t model, struct fast_err *err)
{
    if (fast_catalog_find(c, model))
        return 0;
    if ((model & ~UINT64_C(0xffffffff)) != c->epoch)
        return fast_err_set(err, FAST_ENOENT,
                            "model %llx is of an earlier life of this store, which does not know it: "
                            "who has it mapped keeps it",
                            (unsigned long long)model);
    return fast_err_set(err, FAST_ENOENT, "there is no model %llx", (unsigned long long)model);
}

int fast_catalog_close(struct fast_catalog *c, uint64_t client, uint64_t model, fast_ns now,
                       struct fast_err *err)
{
    struct hold **at = &c->holds;
    while (*at && ((*at)->client != client || !(*at)->held || (*at)->untold ||
                   (*at)->model->id != model))
        at = &(*at)->next;
    struct hold *h = *at;
    if (!h && fast_catalog_known(c, model, err))
        return -FAST_ENOENT;
    if (!h)
        return fast_err_set(err, FAST_ENOENT, "this client has no reference to model %llx",
                            (unsigned long long)model);
    struct fast_model *m = h->model;
    *at = h->next;
    free(h);
    settle(c, m, client, now);
    return 0;
}

void fast_catalog_client_gone(struct fast_catalog *c, uint64_t client, fast_ns now)
{
    /* Its waits first, so that it is not asked to load what it has just given up. */
    for (int held = 0; held < 2; held++)
        for (struct hold **at = &c->holds; *at;) {
            struct hold *h = *at;
            if (h->client != client || (h->held && !held)) {
                at = &h->next;
                continue;
            }
            *at = h->next;
            if (h->held) {
                settle(c, h->model, client, now);
            } else if (h->model) {
                h->model->waiting--;
                c->waits--;
            }
            free(h);
        }
}

/* ---- administration ---- */

static int not_found(const char *ns, const char *name, const char *version, struct fast_err *err)
{
    return fast_err_set(err, FAST_ENOENT, "namespace %.60s has no model %.100s%s%.60s here", ns, name,
                        *version ? " of version " : "", version);
}

int fast_catalog_remove(struct fast_catalog *c, const char *ns, const char *name,
                        const char *version, struct fast_err *err)
{
    int n = 0;
    for (int i = c->count - 1; i >= 0; i--) {
        struct fast_model *m = c->models[i];
        if (strcmp(m->ns, ns) != 0 || !is_named(m, name, version))
            continue;
        n++;
        m->removed = true;
        if (m->state == FAST_MODEL_LOADING)
            continue; /* goes on, for who waits for it already */
        if (m->refs)
            m->state = FAST_MODEL_RETIRED;
        else
            drop_model(c, m);
    }
    return n ? 0 : not_found(ns, name, version, err);
}

int fast_catalog_pin(struct fast_catalog *c, const char *ns, const char *name, const char *version,
                     bool pin, struct fast_err *err)
{
    int n = 0;
    for (int i = 0; i < c->count; i++) {
        struct fast_model *m = c->models[i];
        if (strcmp(m->ns, ns) != 0 || !is_named(m, name, version))
            continue;
        m->pinned = pin;
        n++;
    }
    return n ? 0 : not_found(ns, name, version, err);
}

uint64_t fast_catalog_evict(struct fast_catalog *c)
{
    struct fast_model *oldest = find_oldest(c, NULL);
    if (!oldest)
        return 0;
    drop_model(c, oldest);
    return oldest->bytes;
}

/* ---- time, and what is to be done ---- */

void fast_catalog_tick(struct fast_catalog *c, fast_ns now)
{
    for (struct hold *h = c->holds; h; h = h->next)
        if (h->model && !h->held && h->until <= now)
            expire(c, h);
}

fast_ns fast_catalog_expiry(const struct fast_catalog *c)
{
    fast_ns first = FAST_NEVER;
    for (const struct hold *h = c->holds; h; h = h->next)
        if (h->model && !h->held && h->until < first)
            first = h->until;
    return first;
}

bool fast_catalog_next(struct fast_catalog *c, struct fast_catalog_action *ret)
{
    free(c->last_freed);
    c->last_freed = NULL;
    if (c->freed_count) { /* memory first: who loads next may need it */
        c->last_freed = c->freed[--c->freed_count];
        *ret = (struct fast_catalog_action){.what = FAST_CATALOG_FREE, .model = c->last_freed};
        return true;
    }
    for (struct hold **at = &c->holds; *at; at = &(*at)->next) {
        struct hold *h = *at;
        if (!h->untold)
            continue;
        h->untold = false;
        *ret = (struct fast_catalog_action){h->what, h->client, h->id, h->model};
        if (h->what == FAST_CATALOG_EXPIRE) {
            *at = h->next;
            free(h);
        }
        return true;
    }
    return false;
}

bool fast_catalog_valid(const struct fast_catalog *c)
{
    int waits = 0;
    for (const struct hold *h = c->holds; h; h = h->next) {
        if (h->model && fast_catalog_find(c, h->model->id) != h->model)
            return false;
        waits += h->model && !h->held;
    }
    if (waits != c->waits)
        return false;
    for (int i = 0; i < c->count; i++) {
        const struct fast_model *m = c->models[i];
        if (!m)
            return false;
        uint32_t refs = 0, waiting = 0, loaders = 0;
        for (const struct hold *h = c->holds; h; h = h->next) {
            refs += h->model == m && h->held;
            waiting += h->model == m && !h->held;
            loaders += h->model == m && h->held && h->client == m->loader;
        }
        if (refs != m->refs || waiting != m->waiting ||
            (m->state == FAST_MODEL_LOADING ? !loaders || !m->loader : m->loader != 0 || waiting) ||
            (m->state == FAST_MODEL_RETIRED && !refs) || m->state == FAST_MODEL_GONE)
            return false;
    }
    return true;
}
