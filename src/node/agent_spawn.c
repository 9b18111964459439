#include "node/agent.h"

/* What a process of a replica is born with: a port and an environment.
 *
 * The environment is built from nothing: a few variables of the node, then the function's own, then
 * the node's, which win; only the two lists of libraries are joined, the node's first. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "node/stores.h"
#include "node/users.h"
#include "wire/page.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* ---- environment ---- */

struct env {
    char **v; /* NAME=value, with a NULL behind them */
    size_t len, cap;
    bool failed; /* out of memory */
};

static void env_free(struct env *e)
{
    for (size_t i = 0; i < e->len; i++)
        free(e->v[i]);
    free(e->v);
}

static char **env_slot(struct env *e, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < e->len; i++)
        if (!strncmp(e->v[i], name, n) && e->v[i][n] == '=')
            return &e->v[i];
    if (e->len + 2 > e->cap) {
        size_t cap = e->cap ? 2 * e->cap : 64;
        char **v = realloc(e->v, cap * sizeof(char *));
        if (!v)
            return NULL;
        e->v = v;
        e->cap = cap;
    }
    e->v[e->len] = NULL;
    e->v[e->len + 1] = NULL;
    return &e->v[e->len++];
}

static void env_set(struct env *e, const char *name, const char *value)
{
    char *text = NULL;
    char **slot = e->failed ? NULL : env_slot(e, name);
    if (!slot || asprintf(&text, "%s=%s", name, value) < 0) {
        e->failed = true;
        if (slot && !*slot)
            e->len--;
        return;
    }
    free(*slot);
    *slot = text;
}

/* A variable of the node. Lists of libraries are put before the function's own. */
static void env_set_node(void *arg, const char *name, const char *value)
{
    struct env *e = arg;
    size_t n = strlen(name);
    bool is_list = !strcmp(name, "LD_PRELOAD") || !strcmp(name, "LD_LIBRARY_PATH");
    for (size_t i = 0; is_list && i < e->len; i++) {
        if (strncmp(e->v[i], name, n) != 0 || e->v[i][n] != '=' || !e->v[i][n + 1])
            continue;
        char *joined = NULL;
        if (asprintf(&joined, "%s:%s", value, e->v[i] + n + 1) < 0) {
            e->failed = true;
            return;
        }
        env_set(e, name, joined);
        free(joined);
        return;
    }
    env_set(e, name, value);
}

static bool shares_model(struct fast_str env)
{
    size_t n = strlen(FAST_ENV_MODEL);
    for (const char *p = env.p; p < env.p + env.len; p += strlen(p) + 1)
        if (!strncmp(p, FAST_ENV_MODEL, n) && p[n] == '=' && p[n + 1])
            return true;
    return false;
}

/* A process without a slice has no hook, so it must not see a GPU. Socket and ticket only mark it as
 * ours (node_process_kill_strays). */
static void env_fill_plain(struct env *e, const struct agent_replica *r)
{
    char ticket[33];
    snprintf(ticket, sizeof(ticket), "%016" PRIx64 "%016" PRIx64, r->shared.ticket_hi,
             r->shared.ticket_lo);
    env_set_node(e, FAST_ENV_SOCKET, r->agent->node->socket);
    env_set_node(e, FAST_ENV_TICKET, ticket);
    env_set_node(e, "CUDA_VISIBLE_DEVICES", "");
}

/* Only who is started by fast-run can become another user: it makes its view of files first. */
static int choose_user(struct agent_replica *r, struct fast_err *err)
{
    const struct fast_msg_replica_start *s = &r->start.replica_start;
    struct node_users *users = r->agent->node->users;
    uint32_t gid = node_users_shared(users), uid = gid;
    const char *program = fast_strv_get(s->argv, 0), *slash = strrchr(program, '/');
    bool runs = gid && !strcmp(slash ? slash + 1 : program, "fast-run");
    int rc = runs && r->shared.gpu == FAST_GPU_NONE ? node_users_own(users, s->ns.p, s->function.p, &uid, err) : 0;
    r->user = runs && !rc ? uid : 0;
    return rc;
}

static void env_user(struct env *e, const struct agent_replica *r)
{
    char text[32] = "";
    if (r->user)
        snprintf(text, sizeof(text), "%u:%u", r->user, node_users_shared(r->agent->node->users));
    env_set_node(e, FAST_ENV_USER, text);
}

static void env_fill(struct env *e, const struct agent_replica *r)
{
    /* LD_LIBRARY_PATH: where a machine keeps its driver, if not where the loader looks by itself. */
    static const char *const kept[] = {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"};
    const struct fast_msg_replica_start *s = &r->start.replica_start;
    char port[16];
    env_set(e, "PATH", PATH_DEFAULT);
    for (size_t i = 0; i < FAST_COUNT_OF(kept); i++) {
        const char *value = getenv(kept[i]);
        if (value)
            env_set(e, kept[i], value);
    }
    for (const char *p = s->env.p; p < s->env.p + s->env.len; p += strlen(p) + 1) {
        char name[256];
        size_t n = strcspn(p, "=");
        if (n < sizeof(name)) {
            memcpy(name, p, n);
            name[n] = 0;
            env_set(e, name, p + n + 1);
        }
    }
    snprintf(port, sizeof(port), "%u", r->port);
    env_set_node(e, "PORT", port);
    env_set_node(e, "port", port);
    env_set_node(e, "OPENFAAS_NAME", s->function.p);
    env_set_node(e, "OPENFAAS_NAMESPACE", s->ns.p);
    if (r->shared.gpu == FAST_GPU_NONE) {
        env_fill_plain(e, r);
        return;
    }
    node_env(r->agent->node, &r->shared, env_set_node, e);
    if (shares_model(s->env))
        node_stores_env(r->agent->node->stores, &r->shared, s->ns.p, env_set_node, e);
}

/* ---- spawn ---- */

static bool port_is_promised(const struct node_agent *agent, uint32_t port)
{
    for (int i = 0; i < agent->count; i++)
        if (agent->replicas[i]->port == port && agent->replicas[i]->life.running)
            return true;
    return false;
}

/* Every start has a new port: connections of the old process may keep its port in TIME_WAIT, and a
 * request that is late cannot reach the wrong process. A port that another replica was told but has
 * not bound yet is not given twice. */
static int find_port(struct agent_replica *r, struct fast_err *err)
{
    uint32_t port = 0;
    for (int i = 0; i < AGENT_REPLICAS_MAX; i++) {
        int rc = node_process_free_port(&port, err);
        if (rc)
            return rc;
        if (!port_is_promised(r->agent, port)) {
            r->port = port;
            return 0;
        }
    }
    return fast_err_set(err, FAST_EBUSY, "there is no free port");
}

static const char **argv_new(struct fast_str argv)
{
    size_t n = fast_strv_count(argv), i = 0;
    const char **v = calloc(n + 1, sizeof(char *));
    for (const char *p = argv.p; v && i < n; p += strlen(p) + 1)
        v[i++] = p;
    return v;
}

int node_agent_spawn(struct agent_replica *r, struct fast_err *err)
{
    const struct fast_msg_replica_start *s = &r->start.replica_start;
    struct env env = {0};
    int rc = find_port(r, err);
    if (rc)
        return rc;
    bool fresh = false;
    int log_fd = node_agent_log_open(r, &fresh, err);
    if (log_fd < 0)
        return log_fd;
    if (r->shared.sm_running != r->shared.slice.sm_pct) { /* a resize waited for this start */
        r->shared.sm_running = r->shared.slice.sm_pct;
        node_share_update(r->agent->node->manager, &r->shared, NULL);
    }
    env_fill(&env, r);
    rc = choose_user(r, err);
    env_user(&env, r);
    fast_autofree const char **argv = argv_new(s->argv);
    if (rc) {
        ; /* told below */
    } else if (!argv || env.failed) {
        rc = fast_err_set(err, FAST_ENOMEM, "no memory to start %s", r->shared.id);
    } else {
        struct node_process_spec spec = {argv, (const char *const *)env.v, s->cwd.p, log_fd, -1,
                                         r->agent->node->conf->descriptors};
        rc = node_process_spawn(&spec, &r->process, err);
    }
    if (rc && fresh)
        unlink(r->log_path);
    else if (rc)
        dprintf(log_fd, "fast-node: %s\n", err->msg);
    close(log_fd);
    env_free(&env);
    if (rc)
        return rc;
    r->adopted = false;
    r->up_ms = 0;
    r->started_ms = (uint64_t)(fast_clock_wall() / 1000000);
    return 0;
}
