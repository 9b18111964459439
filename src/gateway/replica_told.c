/* Decides what becomes of replicas when the node tells of them: its rows are the truth about processes.
 * It assumes that after a lost connection the node tells of everything anew before it is in sync. */

#include "gateway/replica_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static void on_welcome(void *arg, const struct fast_msg_ctl_welcome *m)
{
    struct gateway *gw = arg;
    snprintf(gw->node, sizeof(gw->node), "%s", m->node.p);
    snprintf(gw->driver, sizeof(gw->driver), "%s", m->driver.p);
    gw->simulated = m->simulated != 0;
    gw->policy = m->policy;
    gw->charge = m->charge;
    gw->window_ns = m->window_ns;
    gw->welcomed = true;
    fast_log(INFO, "node connected", "node=%s driver=%s gpus=%u simulated=%d", gw->node, gw->driver,
             m->gpus, gw->simulated);
}

static void on_gpu(void *arg, const struct fast_msg_gpu_row *m)
{
    struct gateway *gw = arg;
    struct gw_gpu *g = NULL;
    struct fast_err err;
    for (int i = 0; i < gw->ngpus; i++)
        if (gw->gpus[i].row.gpu == m->gpu)
            g = &gw->gpus[i];
    if (!g) {
        struct fast_gpu_conf conf = {.index = (int)m->gpu, .mem_bytes = m->mem_total,
                                     .type = gw_gpu_type(m->name.p), .domain = m->gpu};
        int fleet = 0;
        if (gw->ngpus == FAST_NODE_GPUS_MAX ||
            fast_fleet_gpu_add(gw->fleet, &conf, &fleet, &err)) {
            fast_log(ERROR, "a GPU is not used", "gpu=%u", m->gpu);
            return;
        }
        g = &gw->gpus[gw->ngpus++];
        g->fleet = fleet;
    }
    snprintf(g->uuid, sizeof(g->uuid), "%s", m->uuid.p);
    snprintf(g->name, sizeof(g->name), "%s", m->name.p);
    g->row = *m;
}

/* A replica that an earlier life of the gateway started. */
static struct gw_replica *adopt(struct gateway *gw, const struct fast_msg_replica_row *m)
{
    struct fast_err err;
    const char *number = strrchr(m->replica.p, '.');
    struct gw_function *fn =
        gw_function_find(gw, m->function.p, m->function.len, m->ns.p, m->ns.len);
    if (!fn || !number || m->state == FAST_REPLICA_STOPPED)
        return NULL;
    struct gw_replica *r = replica_add(gw, fn, m->replica.p, &err);
    if (!r)
        return NULL;
    r->generation = gw_store_replica_generation(gw->store, r->id);
    r->phase = m->state == FAST_REPLICA_STOPPING ? GW_STOPPING : GW_TOLD;
    uint32_t n = (uint32_t)strtoul(number + 1, NULL, 10);
    if (n >= fn->next_number)
        fn->next_number = n + 1;
    r->slice = (struct fast_slice){(int)m->sm_pct, (int)m->request_milli, (int)m->limit_milli,
                                   m->mem_bytes};
    if (fn->spec->gpu && m->gpu < FAST_NODE_GPUS_MAX)
        gw_replica_set_gpus(r, UINT32_C(1) << m->gpu | m->more_gpus);
    if (r->gpu >= 0) {
        r->slice = gw_replica_slice(gw, &r->slice);
        gw_replica_put_back(gw, r);
    }
    fast_log(INFO, "replica adopted", "replica=%s state=%s", r->id,
             fast_replica_state_name(m->state));
    return r;
}

static void copy_text(char **at, const char *text)
{
    if (*at && !strcmp(*at, text))
        return;
    free(*at);
    *at = strdup(text);
}

static void stop_stranger(struct gateway *gw, const struct fast_msg_replica_row *m)
{
    if (m->state == FAST_REPLICA_STOPPED || m->state == FAST_REPLICA_STOPPING)
        return;
    fast_log(WARN, "unknown replica stopped", "replica=%s", m->replica.p);
    struct fast_msg stop = {.type = FAST_MSG_T_replica_stop,
                            .replica_stop = {.replica = m->replica}};
    gw_link_request(gw->link, &stop, NULL, NULL, 0, NULL);
}

static void on_row(void *arg, const struct fast_msg_replica_row *m)
{
    struct gateway *gw = arg;
    struct gw_replica *r = replica_find(gw, m->replica.p);
    if (!r)
        r = adopt(gw, m);
    if (!r) {
        stop_stranger(gw, m);
        return;
    }
    r->session = gw->session;
    if (r->state != m->state)
        fast_log(INFO, "replica", "id=%s state=%s port=%u%s%s", r->id,
                 fast_replica_state_name(m->state), m->port, m->text.len ? " text=" : "", m->text.p);
    if (m->port != (uint32_t)r->port || m->pid != r->pid) {
        fast_http_pool_free(r->pool); /* its connections lead to a process that is gone */
        r->pool = NULL;
    }
    r->state = m->state;
    r->port = (int)m->port;
    r->pid = m->pid;
    r->restarts = m->restarts;
    r->up_ms = m->up_ms;
    r->started_ms = m->started_ms;
    copy_text(&r->log_path, m->log_path.p);
    copy_text(&r->text, m->text.p);
    if (r->phase == GW_PLACED && m->state != FAST_REPLICA_STOPPED)
        r->phase = GW_TOLD;
    if (m->state == FAST_REPLICA_STOPPED) {
        struct gw_function *fn = r->fn;
        if (r->phase == GW_TOLD)
            replica_failed(gw, r, m->text.p);
        fn->jobs++;
        replica_gone(gw, r);
        gw_function_reconcile(gw, fn);
        fn->jobs--;
        gw_function_release(gw, fn);
        return;
    }
    r->suspect_until = 0;
    replica_set_ready(gw, r);
    if (r->phase == GW_TOLD && m->state == FAST_REPLICA_READY &&
        r->fn->generation != 1) /* outdated ones may go now */
        gw_function_reconcile(gw, r->fn);
}

static void on_stats(void *arg, const struct fast_msg_replica_stats *m)
{
    struct gw_replica *r = replica_find(arg, m->replica.p);
    if (r)
        gw_replica_told_used(r, m);
}

/* Everything that runs is known now: what is missing is started, what the node has lost is
 * forgotten. */
static void on_synced(void *arg)
{
    struct gateway *gw = arg;
    gw->loaded = true;
    for (struct gw_replica *r = gw->replicas, *next; r; r = next) {
        next = r->next;
        if (r->phase == GW_GONE)
            continue;
        if (r->phase == GW_PLACED)
            replica_tell_start(gw, r);
        else if (r->session != gw->session)
            replica_gone(gw, r);
        else if (r->phase == GW_DRAINING && !r->in_flight)
            replica_tell_stop(gw, r);
    }
    for (struct gw_function *fn = gw->functions, *next; fn; fn = next) {
        next = fn->next;
        if (!fn->removed)
            gw_function_reconcile(gw, fn);
    }
    gw_elastic_synced(gw);
}

/* Running replicas go on without a node, and so do requests to them. */
static void on_lost(void *arg)
{
    struct gateway *gw = arg;
    gw->session++;
    gw->welcomed = false;
    gw_models_forget(gw);
    for (struct gw_replica *r = gw->replicas; r; r = r->next)
        if (r->phase == GW_STOPPING)
            r->phase = GW_DRAINING; /* said again when the node is back */
}

const struct gw_link_ops gw_replica_link_ops = {
    .welcome = on_welcome, .gpu = on_gpu,       .replica = on_row, .model = gw_models_told,
    .stats = on_stats,     .synced = on_synced, .lost = on_lost};
