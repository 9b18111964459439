#include "node/agent.h"

/* What control.sock may ask of replicas. Everything in a request is checked here, before anything is
 * done: names become file names, argv and environment become a process. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/parse.h"
#include "io/log_times.h"
#include "wire/page.h"

#define ARGV_MAX 256
#define ENV_MAX 1024
#define TIMEOUT_MAX_MS 3600000
#define START_TIMEOUT_DEFAULT_MS 30000
#define STOP_GRACE_DEFAULT_MS 10000

/* ---- checks ---- */

/* The id is FUNCTION.NAMESPACE.NUMBER of the same message: no "/", no "..", no surprise. */
static int check_names(const struct fast_msg_replica_start *s, struct fast_err *err)
{
    int rc = fast_parse_name(s->function.p, "function", err);
    rc = rc ? rc : fast_parse_name(s->ns.p, "namespace", err);
    if (rc)
        return rc;
    char prefix[NODE_NAME_MAX];
    size_t n = (size_t)snprintf(prefix, sizeof(prefix), "%s.%s.", s->function.p, s->ns.p);
    const char *number = strncmp(s->replica.p, prefix, n) ? "" : s->replica.p + n;
    int64_t v = 0;
    if ((number[0] == '0' && number[1]) || fast_parse_int(number, "replica", 0, 999999999, &v, NULL))
        return fast_err_set(err, FAST_EINVAL,
                            "replica: \"%.100s\" is not %.120sN with a number N", s->replica.p,
                            prefix);
    return 0;
}

static int check_argv(struct fast_str argv, struct fast_err *err)
{
    size_t n = fast_strv_count(argv);
    if (n == 0 || !*fast_strv_get(argv, 0))
        return fast_err_set(err, FAST_EINVAL, "argv: the program is missing");
    if (n > ARGV_MAX)
        return fast_err_set(err, FAST_EINVAL, "argv: %zu arguments are more than %d", n, ARGV_MAX);
    return 0;
}

static int check_env(struct fast_str env, struct fast_err *err)
{
    size_t n = fast_strv_count(env);
    if (n > ENV_MAX)
        return fast_err_set(err, FAST_EINVAL, "env: %zu variables are more than %d", n, ENV_MAX);
    for (const char *p = env.p; p < env.p + env.len; p += strlen(p) + 1)
        if (*p == '=' || !strchr(p, '='))
            return fast_err_set(err, FAST_EINVAL, "env: \"%.80s\" is not NAME=value", p);
    return 0;
}

static int check_start(const struct fast_msg_replica_start *s, struct fast_err *err)
{
    int rc = check_names(s, err);
    rc = rc ? rc : check_argv(s->argv, err);
    rc = rc ? rc : check_env(s->env, err);
    rc = rc ? rc : node_health_check_path(s->health_path.p, err);
    if (rc)
        return rc;
    if (s->cwd.len && s->cwd.p[0] != '/')
        return fast_err_set(err, FAST_EINVAL, "cwd: \"%.80s\" is not an absolute path", s->cwd.p);
    if (s->start_timeout_ms > TIMEOUT_MAX_MS || s->stop_grace_ms > TIMEOUT_MAX_MS)
        return fast_err_set(err, FAST_EINVAL, "start timeout, stop grace: %u ms is more than an hour",
                            s->start_timeout_ms > TIMEOUT_MAX_MS ? s->start_timeout_ms
                                                                 : s->stop_grace_ms);
    if (s->more_gpus && s->gpu == FAST_GPU_NONE)
        return fast_err_set(err, FAST_EINVAL, "more GPUs: a process without a GPU has no further ones");
    return 0;
}

/* Numbers of a message into a slice; what does not fit into an int is refused, not wrapped. */
static int to_slice(uint32_t sm, uint32_t request, uint32_t limit, uint64_t mem,
                    struct fast_slice *ret, struct fast_err *err)
{
    if (sm > INT_MAX || request > INT_MAX || limit > INT_MAX)
        return fast_err_set(err, FAST_EINVAL, "slice: %u %% of SMs, quota %u to %u is out of range",
                            sm, request, limit);
    *ret = (struct fast_slice){(int)sm, (int)request, (int)limit, mem};
    return fast_slice_check(ret, err);
}

/* ---- the message kept with the replica ---- */

static int pack(struct agent_replica *r, const struct fast_msg *msg, struct fast_err *err)
{
    size_t len = 0;
    struct fast_msg out = *msg, in;
    char *buf = malloc(FAST_MSG_MAX);
    if (!buf)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a replica");
    out.id = 0;
    int rc = fast_msg_encode(&out, buf, FAST_MSG_MAX, &len, err);
    char *fit = rc ? NULL : realloc(buf, len);
    if (fit)
        buf = fit;
    rc = rc ? rc : fast_msg_decode(buf, len, &in, err);
    if (rc) {
        free(buf);
        return rc;
    }
    free(r->packet);
    r->packet = buf;
    r->packet_len = len;
    r->start = in;
    return 0;
}

int node_agent_repack(struct agent_replica *r, const struct fast_slice *slice, struct fast_err *err)
{
    struct fast_msg msg = r->start;
    msg.replica_start.sm_pct = (uint32_t)slice->sm_pct;
    msg.replica_start.request_milli = (uint32_t)slice->request_milli;
    msg.replica_start.limit_milli = (uint32_t)slice->limit_milli;
    msg.replica_start.mem_bytes = slice->mem_bytes;
    return pack(r, &msg, err);
}

void node_agent_replica_free(struct agent_replica *r)
{
    if (!r)
        return;
    node_health_free(r->health);
    fast_watch_free(r->exited);
    fast_timer_free(r->timer);
    node_process_fini(&r->process);
    free(r->packet);
    free(r->log_path);
    free(r);
}

static bool fails_closed(struct fast_str env)
{
    for (const char *p = env.p; p < env.p + env.len; p += strlen(p) + 1)
        if (!strcmp(p, FAST_ENV_FAIL "=closed"))
            return true;
    return false;
}

int node_agent_replica_new(struct node_agent *agent, const struct fast_msg *msg,
                           struct agent_replica **ret, struct fast_err *err)
{
    const struct fast_msg_replica_start *s = &msg->replica_start;
    struct fast_slice slice = {0}; /* of a plain process */
    uint64_t ticket[2];
    int rc = check_start(s, err);
    if (!rc && s->gpu != FAST_GPU_NONE)
        rc = to_slice(s->sm_pct, s->request_milli, s->limit_milli, s->mem_bytes, &slice, err);
    if (rc)
        return rc;
    if (getrandom(ticket, sizeof(ticket), 0) != sizeof(ticket))
        return fast_err_set(err, FAST_EIO, "no random numbers: %s", strerror(errno));
    struct agent_replica *r = calloc(1, sizeof(*r));
    if (!r)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a replica");
    r->agent = agent;
    r->process = NODE_PROCESS_NONE;
    rc = pack(r, msg, err);
    if (!rc && asprintf(&r->log_path, "%s/logs/%s.log", agent->node->conf->state_dir,
                        s->replica.p) < 0) {
        r->log_path = NULL;
        rc = fast_err_set(err, FAST_ENOMEM, "no memory for a replica");
    }
    if (rc) {
        node_agent_replica_free(r);
        return rc;
    }
    r->shared = (struct node_replica){.gpu = s->gpu, .more_gpus = s->more_gpus, .slice = slice,
                                      .sm_running = slice.sm_pct, .ticket_hi = ticket[0], .ticket_lo = ticket[1],
                                      .fail_open = !fails_closed(s->env)};
    snprintf(r->shared.id, sizeof(r->shared.id), "%s", s->replica.p);
    *ret = r;
    return 0;
}

fast_ns node_agent_start_timeout(const struct agent_replica *r)
{
    uint32_t ms = r->start.replica_start.start_timeout_ms;
    return FAST_MS(ms ? ms : START_TIMEOUT_DEFAULT_MS);
}

/* ---- requests ---- */

static int find_same(const struct agent_replica *old, const struct agent_replica *r,
                     struct fast_err *err)
{
    if (old->life.state == FAST_REPLICA_STOPPING)
        return fast_err_set(err, FAST_EBUSY, "replica %s is being stopped", old->shared.id);
    if (old->packet_len != r->packet_len || memcmp(old->packet, r->packet, r->packet_len) != 0)
        return fast_err_set(err, FAST_EEXIST, "replica %s is there already and is another one",
                            old->shared.id);
    return 0;
}

/* From here on the first process is being started: what fails now leaves nothing behind. */
static int launch(struct agent_replica *r, struct fast_err *err)
{
    fast_ns now = fast_loop_now(r->agent->node->loop);
    int todo = node_life_begin(&r->life, node_agent_start_timeout(r), now);
    int rc = node_agent_spawn(r, err);
    rc = rc ? rc : node_agent_watch(r, err);
    rc = rc ? rc : node_agent_save(r, err);
    if (rc) {
        fast_watch_free(r->exited); /* before the pidfd is closed */
        r->exited = NULL;
        node_process_end(&r->process);
        node_agent_forget(r);
        return rc;
    }
    todo |= node_life_spawned(&r->life, now);
    node_agent_perform(r, todo & ~(NODE_LIFE_SPAWN | NODE_LIFE_SAVE));
    return 0;
}

/* Ids come again: a new function of an old name must not go on with the log of the old one. */
static void put_log_aside(const struct agent_replica *r)
{
    char old[PATH_MAX];
    fast_log_times_drop(r->log_path);
    if (snprintf(old, sizeof(old), "%s.1", r->log_path) < (int)sizeof(old))
        rename(r->log_path, old);
}

int node_agent_start(struct node_agent *agent, const struct fast_msg *msg, struct fast_err *err)
{
    struct agent_replica *r = NULL;
    if (agent->stopping)
        return fast_err_set(err, FAST_EBUSY, "the node is being stopped");
    int rc = node_agent_replica_new(agent, msg, &r, err);
    if (rc)
        return rc;
    struct agent_replica *old = node_agent_find(agent, r->shared.id);
    rc = old ? find_same(old, r, err) : node_agent_insert(agent, r, err);
    if (rc || old) {
        node_agent_replica_free(r);
        return rc;
    }
    put_log_aside(r);
    return launch(r, err);
}

static struct agent_replica *find_or_tell(struct node_agent *agent, const char *id,
                                          struct fast_err *err)
{
    struct agent_replica *r = node_agent_find(agent, id);
    if (!r)
        fast_err_set(err, FAST_ENOENT, "replica \"%.120s\" is not on this node", id);
    return r;
}

int node_agent_stop_one(struct node_agent *agent, const struct fast_msg_replica_stop *msg,
                        struct fast_err *err)
{
    struct agent_replica *r = find_or_tell(agent, msg->replica.p, err);
    if (!r)
        return -FAST_ENOENT;
    if (msg->grace_ms > TIMEOUT_MAX_MS)
        return fast_err_set(err, FAST_EINVAL, "grace: %u ms is more than an hour", msg->grace_ms);
    uint32_t ms = msg->grace_ms ? msg->grace_ms : r->start.replica_start.stop_grace_ms;
    fast_ns grace = FAST_MS(ms ? ms : STOP_GRACE_DEFAULT_MS);
    node_agent_perform(r, node_life_stop(&r->life, grace, fast_loop_now(agent->node->loop)));
    return 0;
}

int node_agent_deadline(struct node_agent *agent, const struct fast_msg_replica_deadline *msg,
                        struct fast_err *err)
{
    struct agent_replica *r = find_or_tell(agent, msg->replica.p, err);
    if (!r)
        return -FAST_ENOENT;
    if (!r->shared.share)
        return fast_err_set(err, FAST_EINVAL, "replica %s has no slice of a GPU", r->shared.id);
    node_share_deadline(&r->shared, msg->deadline_ns);
    return 0;
}

int node_agent_hold(struct node_agent *agent, const struct fast_msg_replica_hold *msg, struct fast_err *err)
{
    struct agent_replica *r = find_or_tell(agent, msg->replica.p, err);
    if (!r)
        return -FAST_ENOENT;
    if (!r->shared.share)
        return fast_err_set(err, FAST_EINVAL, "replica %s has no slice of a GPU", r->shared.id);
    if (msg->request_milli > (uint32_t)r->shared.slice.request_milli)
        return fast_err_set(err, FAST_EINVAL, "hold: %u thousandths are more than the %d that replica %s may "
                            "have; resize it first", msg->request_milli, r->shared.slice.request_milli,
                            r->shared.id);
    return node_share_hold(agent->node->manager, &r->shared, (int)msg->request_milli, err);
}

int node_agent_resize(struct node_agent *agent, const struct fast_msg_replica_resize *msg,
                      char *ret_text, struct fast_err *err)
{
    struct fast_slice slice;
    *ret_text = 0;
    struct agent_replica *r = find_or_tell(agent, msg->replica.p, err);
    if (!r)
        return -FAST_ENOENT;
    int rc = to_slice(msg->sm_pct, msg->request_milli, msg->limit_milli, msg->mem_bytes, &slice, err);
    if (rc)
        return rc;
    if (r->shared.gpu == FAST_GPU_NONE)
        return fast_err_set(err, FAST_EINVAL, "replica %s has no slice of a GPU", r->shared.id);
    if (r->life.state == FAST_REPLICA_STOPPING)
        return fast_err_set(err, FAST_EBUSY, "replica %s is being stopped", r->shared.id);
    struct fast_slice old = r->shared.slice;
    r->shared.slice = slice;
    rc = node_share_update(agent->node->manager, &r->shared, err);
    if (rc) {
        r->shared.slice = old;
        return rc;
    }
    rc = node_agent_repack(r, &slice, err);
    rc = rc ? rc : node_agent_save(r, err);
    if (rc) { /* what is not written down would be lost in silence by a restart of the node */
        r->shared.slice = old;
        node_share_update(agent->node->manager, &r->shared, NULL);
        node_agent_repack(r, &old, NULL);
        return rc;
    }
    if (r->life.running && r->shared.sm_running != slice.sm_pct)
        snprintf(ret_text, AGENT_TEXT_MAX, "its process keeps %d %% of the SMs until its next start",
                 r->shared.sm_running);
    node_agent_perform(r, NODE_LIFE_TELL);
    return 0;
}
