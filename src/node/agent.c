#include "node/agent.h"

/* The table of replicas, and the hands of their state machines: what agent_life.c decides is done
 * here, and what happens to a process is told to it. */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"
#include "io/port_owner.h"
#include "node/control.h"
#include "node/mps.h"

#define TRIM_PERIOD FAST_S(2)

/* ---- the table ---- */

struct agent_replica *node_agent_find(const struct node_agent *agent, const char *id)
{
    for (int i = 0; i < agent->count; i++)
        if (!strcmp(agent->replicas[i]->shared.id, id))
            return agent->replicas[i];
    return NULL;
}

struct node_replica *node_ticket_find(struct node_agent *agent, uint64_t hi, uint64_t lo)
{
    for (int i = 0; i < agent->count; i++) {
        struct node_replica *r = &agent->replicas[i]->shared;
        if (r->ticket_hi == hi && r->ticket_lo == lo && r->gpu != FAST_GPU_NONE)
            return r;
    }
    return NULL;
}

static void on_timer(void *arg);

int node_agent_insert(struct node_agent *agent, struct agent_replica *r, struct fast_err *err)
{
    if (agent->count == AGENT_REPLICAS_MAX)
        return fast_err_set(err, FAST_ENOROOM, "a node runs at most %d replicas",
                            AGENT_REPLICAS_MAX);
    r->timer = fast_timer_new(agent->node->loop, on_timer, r);
    if (!r->timer)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a replica");
    int rc = r->shared.gpu == FAST_GPU_NONE
                 ? 0
                 : node_share_add(agent->node->manager, &r->shared, err);
    if (rc)
        return rc;
    agent->replicas[agent->count++] = r;
    return 0;
}

void node_agent_forget(struct agent_replica *r)
{
    struct node_agent *agent = r->agent;
    int i = 0;
    while (agent->replicas[i] != r)
        i++;
    agent->count--;
    for (; i < agent->count; i++)
        agent->replicas[i] = agent->replicas[i + 1];
    if (r->shared.gpu != FAST_GPU_NONE)
        node_share_remove(agent->node->manager, &r->shared);
    node_agent_unsave(r);
    node_agent_replica_free(r);
    node_agent_prune_logs(agent);
    if (agent->stopping && agent->count == 0)
        fast_timer_set(agent->stop_timer, fast_loop_now(agent->node->loop));
}

void node_agent_row(const struct agent_replica *r, struct fast_msg_replica_row *ret)
{
    const struct fast_slice *s = &r->shared.slice;
    *ret = (struct fast_msg_replica_row){
        .replica = fast_str(r->shared.id),
        .function = r->start.replica_start.function,
        .ns = r->start.replica_start.ns,
        .gpu = r->shared.gpu,
        .sm_pct = (uint32_t)(r->life.running ? r->shared.sm_running : s->sm_pct),
        .request_milli = (uint32_t)s->request_milli,
        .limit_milli = (uint32_t)s->limit_milli,
        .mem_bytes = s->mem_bytes,
        .state = r->life.state,
        .pid = (uint32_t)r->process.pid,
        .port = r->life.running ? r->port : 0,
        .restarts = r->life.restarts,
        .exit_status = r->exit_code,
        .started_ms = r->started_ms,
        .up_ms = r->up_ms,
        .log_path = fast_str(r->log_path),
        .text = fast_str(r->text),
        .more_gpus = r->shared.more_gpus,
    };
}

/* ---- events ---- */

/* Room for one line of what a program said last. */
#define LAST_LINE_MAX 160

/* The last line of a log, cut, without what is not printable; "" when it is the node's own. */
static void last_line(const char *path, char ret[LAST_LINE_MAX])
{
    char line[1024] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
        fast_file_last_line(fd, line, sizeof(line));
        close(fd);
    }
    ret[0] = 0;
    if (strstr(line, " fast-node: "))
        return;
    size_t at = 0;
    for (; line[at] && at + 1 < LAST_LINE_MAX; at++)
        ret[at] = line[at] >= 0x20 && line[at] < 0x7f ? line[at] : '?';
    ret[at] = 0;
}

static void on_exited(void *arg, int events)
{
    struct agent_replica *r = arg;
    struct fast_loop *loop = r->agent->node->loop;
    int status = -1;
    pid_t pid = r->process.pid;
    (void)events;
    fast_watch_free(r->exited); /* before the pidfd is closed */
    r->exited = NULL;
    if (!node_process_reap(&r->process, &status)) { /* cannot happen; better looked at again */
        r->exited = fast_watch_new(loop, r->process.pidfd, FAST_LOOP_IN, on_exited, r);
        return;
    }
    node_health_free(r->health);
    r->health = NULL;
    r->exit_code = node_process_status_code(status);
    char how[96];
    node_process_status_text(status, how, sizeof(how));
    if (!r->life.timed_out) {
        char last[LAST_LINE_MAX];
        last_line(r->log_path, last);
        snprintf(r->text, sizeof(r->text), "%s%s%s", how, *last ? ": " : "", last);
    }
    bool expected = r->life.state == FAST_REPLICA_STOPPING;
    int todo = node_life_died(&r->life, fast_loop_now(loop));
    if (expected)
        fast_log(INFO, "replica ended", "replica=%s pid=%d how=\"%s\"", r->shared.id, (int)pid, how);
    else
        fast_log(WARN, "replica died", "replica=%s pid=%d how=\"%s\" next=%s", r->shared.id,
                 (int)pid, how, fast_replica_state_name(r->life.state));
    node_agent_perform(r, todo);
}

int node_agent_watch(struct agent_replica *r, struct fast_err *err)
{
    r->exited = fast_watch_new(r->agent->node->loop, r->process.pidfd, FAST_LOOP_IN, on_exited, r);
    return r->exited ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory to watch %s", r->shared.id);
}

/* A process group that is killed once MPS has let go of it. Its replica may be gone by then. */
static void on_let_go(void *arg)
{
    struct node_process *group = arg;
    node_process_signal(group, SIGKILL);
    free(group);
}

static void kill_group(struct agent_replica *r)
{
    int pids[64];
    int n = node_share_mps_clients(&r->shared, pids, (int)FAST_COUNT_OF(pids));
    struct node_process *group = n ? malloc(sizeof(*group)) : NULL;
    if (group) {
        *group = r->process;
        if (node_mps_terminate(r->agent->node->mps, pids, n, on_let_go, group))
            return;
        free(group);
    }
    node_process_signal(&r->process, SIGKILL);
}

/* More than what its threads use by waking up now and then, in the seconds between two probes. */
#define CPU_WORKS 2

static void look_for_work(struct agent_replica *r, fast_ns now)
{
    uint64_t cpu = node_process_cpu(r->process.pid);
    if (cpu >= r->cpu + CPU_WORKS)
        node_life_worked(&r->life, now);
    r->cpu = cpu;
}

static void on_probed(void *arg, bool ok, const char *reason)
{
    struct agent_replica *r = arg;
    fast_ns now = fast_loop_now(r->agent->node->loop);
    enum fast_replica_state before = r->life.state;
    r->health = NULL;
    enum fast_port_owner owner = ok && r->user ? fast_port_owner(r->port, r->user) : FAST_PORT_UNKNOWN;
    if (owner == FAST_PORT_OTHER) { /* it can only begin anew with another port */
        fast_log(WARN, "replica without its port", "replica=%s pid=%d port=%u: another user's program listens there",
                 r->shared.id, (int)r->process.pid, r->port);
        kill_group(r);
        return;
    }
    if (owner == FAST_PORT_NOBODY) {
        ok = false;
        reason = "nothing listens on its port any more once it has answered";
    }
    if (!ok)
        look_for_work(r, now);
    int todo = node_life_probed(&r->life, ok, now);
    if (todo & NODE_LIFE_KILL)
        fast_log(WARN, "replica hangs", "replica=%s pid=%d; no answer and no work for %d s, it is started again",
                 r->shared.id, (int)r->process.pid, (int)(NODE_LIFE_HUNG / FAST_S(1)));
    if (r->life.state == FAST_REPLICA_READY && before != FAST_REPLICA_READY) {
        if (before == FAST_REPLICA_STARTING && !r->adopted)
            r->up_ms = (uint32_t)((r->life.ready_at - r->life.spawned_at) / 1000000);
        r->text[0] = 0;
        fast_log(INFO, "replica ready", "replica=%s pid=%d port=%u up_ms=%u", r->shared.id,
                 (int)r->process.pid, r->port, r->up_ms);
    } else if (!ok && r->life.state != FAST_REPLICA_READY) {
        snprintf(r->text, sizeof(r->text), "%s", reason);
        if (before == FAST_REPLICA_READY)
            fast_log(WARN, "replica unhealthy", "replica=%s why=\"%s\"", r->shared.id, reason);
    }
    node_agent_perform(r, todo);
}

static void on_timer(void *arg)
{
    struct agent_replica *r = arg;
    int todo = node_life_tick(&r->life, fast_loop_now(r->agent->node->loop));
    if (r->life.timed_out && (todo & NODE_LIFE_KILL)) {
        char why[128];
        snprintf(why, sizeof(why), "%.120s", r->text[0] ? r->text : "it did not answer");
        snprintf(r->text, sizeof(r->text), "not ready within %lld ms: %s",
                 (long long)(r->life.start_timeout / 1000000), why);
        fast_log(WARN, "replica too slow to start", "replica=%s why=\"%s\"", r->shared.id, r->text);
    }
    node_agent_perform(r, todo);
}

/* ---- actions ---- */

static int respawn(struct agent_replica *r)
{
    struct fast_err err = {0};
    fast_ns now = fast_clock_now(); /* a start may take a while; the turn's time is too early */
    int rc = node_agent_spawn(r, &err);
    if (!rc && (rc = node_agent_watch(r, &err)))
        node_process_end(&r->process);
    if (rc) {
        snprintf(r->text, sizeof(r->text), "%s", err.msg);
        fast_log(ERROR, "replica not started", "replica=%s error=%s", r->shared.id, err.msg);
        return node_life_spawn_failed(&r->life, now);
    }
    fast_log(INFO, "replica started", "replica=%s pid=%d port=%u restarts=%u", r->shared.id,
             (int)r->process.pid, r->port, r->life.restarts);
    return node_life_spawned(&r->life, now);
}

static void probe(struct agent_replica *r)
{
    struct fast_err err;
    struct node_agent *agent = r->agent;
    node_health_free(r->health);
    r->health = NULL;
    if (node_health_new(agent->node->loop, r->port, r->start.replica_start.health_path.p,
                        NODE_LIFE_PROBE_TIMEOUT, on_probed, r, &r->health, &err)) {
        /* Out of descriptors or memory: our trouble, not the replica's. Ask again later. */
        fast_log(ERROR, "no health probe", "replica=%s error=%s", r->shared.id, err.msg);
        r->life.probe_at = fast_loop_now(agent->node->loop) + NODE_LIFE_CHECK;
    }
}

static bool has_any(const int *pids, int count, const int *of, int of_count)
{
    for (int i = 0; i < of_count; i++)
        for (int k = 0; k < count; k++)
            if (pids[k] == of[i])
                return true;
    return false;
}

void node_agent_mps_lost(void *arg, const int *pids, int count, const char *why)
{
    struct node_agent *agent = arg;
    for (int i = 0; i < agent->count; i++) {
        struct agent_replica *r = agent->replicas[i];
        int own[64];
        int n = node_share_mps_clients(&r->shared, own, (int)FAST_COUNT_OF(own));
        if (n == 0 || !r->life.running || (count >= 0 && !has_any(pids, count, own, n)))
            continue;
        fast_log(ERROR, "replica taken", "replica=%s pid=%d why=\"%s\"", r->shared.id,
                 (int)r->process.pid, why);
        node_process_signal(&r->process, SIGKILL);
    }
}

void node_agent_overran(struct node_agent *agent, struct node_replica *replica, fast_ns overrun)
{
    for (int i = 0; i < agent->count; i++) {
        struct agent_replica *r = agent->replicas[i];
        if (&r->shared != replica || !r->life.running)
            continue;
        fast_log(ERROR, "replica overran", "replica=%s pid=%d ms=%lld: it is killed, since others wait",
                 replica->id, (int)r->process.pid, (long long)overrun / FAST_MS(1));
        kill_group(r);
    }
}

void node_agent_perform(struct agent_replica *r, int todo)
{
    struct fast_err err;
    struct node_control *control = r->agent->control;
    if (todo & NODE_LIFE_TERM)
        node_process_signal(&r->process, SIGTERM);
    if (todo & NODE_LIFE_KILL)
        kill_group(r);
    if (todo & NODE_LIFE_SPAWN)
        todo |= respawn(r);
    if (todo & NODE_LIFE_PROBE)
        probe(r);
    /* Written down before anybody is told of it. */
    if ((todo & NODE_LIFE_SAVE) && node_agent_save(r, &err))
        fast_log(ERROR, "record not written", "replica=%s error=%s", r->shared.id, err.msg);
    if (todo & NODE_LIFE_TELL)
        node_control_tell(control, r);
    if (todo & NODE_LIFE_FORGET) {
        fast_log(INFO, "replica stopped", "replica=%s", r->shared.id);
        node_agent_forget(r);
        return;
    }
    fast_timer_set(r->timer, node_life_next(&r->life));
}

/* ---- life of the agent ---- */

static void on_logs_timer(void *arg)
{
    struct node_agent *agent = arg;
    node_agent_trim_logs(agent);
    fast_timer_set(agent->logs_timer, fast_loop_now(agent->node->loop) + TRIM_PERIOD);
}

static void on_stopped(void *arg)
{
    struct node_agent *agent = arg;
    agent->stop_done(agent->stop_arg);
}

static int make_dirs(const struct node_conf *conf, struct fast_err *err)
{
    char path[PATH_MAX];
    if (strlen(conf->state_dir) + NODE_NAME_MAX + 32 > sizeof(path))
        return fast_err_set(err, FAST_EINVAL, "state directory \"%.80s...\" is too long a path",
                            conf->state_dir);
    snprintf(path, sizeof(path), "%s/replicas", conf->state_dir);
    int rc = fast_dir_make(path, 0700, err);
    if (rc)
        return rc;
    snprintf(path, sizeof(path), "%s/logs", conf->state_dir);
    return fast_dir_make(path, 0750, err);
}

int node_agent_new(struct node *node, struct node_agent **ret, struct fast_err *err)
{
    struct node_agent *agent = calloc(1, sizeof(*agent));
    if (!agent)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the agent");
    agent->node = node;
    agent->logs_timer = fast_timer_new(node->loop, on_logs_timer, agent);
    agent->stop_timer = fast_timer_new(node->loop, on_stopped, agent);
    int rc = agent->logs_timer && agent->stop_timer
                 ? make_dirs(node->conf, err)
                 : fast_err_set(err, FAST_ENOMEM, "no memory for the agent");
    /* The socket comes first: a second node on the same state directory fails here, before it
     * touches a record. */
    rc = rc ? rc : node_control_new(agent, &agent->control, err);
    rc = rc ? rc : node_agent_recover(agent, err);
    if (rc) {
        node_agent_free(agent);
        return rc;
    }
    agent->notes = node_agent_notes_new(agent);
    fast_timer_set(agent->logs_timer, fast_loop_now(node->loop) + TRIM_PERIOD);
    *ret = agent;
    return 0;
}

void node_agent_stop(struct node_agent *agent, node_agent_done_fn *done, void *arg)
{
    struct agent_replica *all[AGENT_REPLICAS_MAX];
    int count = agent->count;
    memcpy(all, agent->replicas, sizeof(all));
    agent->stop_done = done;
    agent->stop_arg = arg;
    agent->stopping = true;
    for (int i = 0; i < count; i++) {
        struct fast_msg_replica_stop stop = {.replica = fast_str(all[i]->shared.id)};
        node_agent_stop_one(agent, &stop, NULL);
    }
    if (agent->count == 0)
        fast_timer_set(agent->stop_timer, fast_loop_now(agent->node->loop));
}

void node_agent_free(struct node_agent *agent)
{
    if (!agent)
        return;
    node_control_free(agent->control);
    node_agent_notes_free(agent->notes);
    while (agent->count > 0)
        node_agent_replica_free(agent->replicas[--agent->count]);
    fast_timer_free(agent->logs_timer);
    fast_timer_free(agent->stop_timer);
    free(agent);
}
