/* GPUs and replicas on the metrics page. A GPU's measurements stand under DCGM's names and units as well,
 * so that dashboards made for dcgm-exporter work; what a GPU cannot tell (SM activity and occupancy need GPM,
 * from Hopper on) is left out there and not given as 0. */
#include "core/catalog.h"
#include "gateway/gateway.h"
#include "gateway/metrics.h"

#include <stdio.h>
#include <string.h>

#define MIB 1048576.0

typedef double gpu_fn(const struct gw_gpu *g);
typedef double replica_fn(const struct gw_replica *r, const struct fast_msg_replica_stats *s);

/* ---- GPUs ---- */

static double utilization(const struct gw_gpu *g)
{
    return g->row.util_milli / 1000.0;
}

static double utilization_pct(const struct gw_gpu *g)
{
    return g->row.util_milli / 10.0;
}

static double sm_activity(const struct gw_gpu *g)
{
    return g->row.sm_milli / 1000.0;
}

static double occupancy(const struct gw_gpu *g)
{
    return g->row.occupancy_milli / 1000.0;
}

static double dram(const struct gw_gpu *g)
{
    return g->row.dram_milli / 1000.0;
}

static double mem_used(const struct gw_gpu *g)
{
    return (double)g->row.mem_used;
}

static double mem_total(const struct gw_gpu *g)
{
    return (double)g->row.mem_total;
}

static double mem_capped(const struct gw_gpu *g)
{
    return (double)g->row.mem_capped;
}

static double mem_shared(const struct gw_gpu *g)
{
    return (double)g->row.mem_shared;
}

static double mem_cached(const struct gw_gpu *g)
{
    return (double)g->row.mem_cached;
}

static double used_mib(const struct gw_gpu *g)
{
    return (double)g->row.mem_used / MIB;
}

static double free_mib(const struct gw_gpu *g)
{
    return g->row.mem_used < g->row.mem_total ? (double)(g->row.mem_total - g->row.mem_used) / MIB : 0;
}

static double tokens_out(const struct gw_gpu *g)
{
    return g->row.tokens_out;
}

static double replicas(const struct gw_gpu *g)
{
    return g->row.replicas;
}

static const struct {
    const char *name, *help;
    gpu_fn *value;
    uint32_t needs; /* FAST_KNOWN_*; 0: the node itself knows */
} gpu_rows[] = {
    {"fast_gpu_utilization", "Share of time with a kernel running", utilization, FAST_KNOWN_UTIL},
    {"fast_gpu_sm_activity", "Share of SMs with a warp", sm_activity, FAST_KNOWN_SM},
    {"fast_gpu_sm_occupancy", "Share of warp slots", occupancy, FAST_KNOWN_OCCUPANCY},
    {"fast_gpu_memory_used_bytes", "Memory in use", mem_used, 0},
    {"fast_gpu_memory_total_bytes", "Memory of the GPU", mem_total, 0},
    {"fast_gpu_memory_capped_bytes", "Sum of the memory caps of its replicas", mem_capped, 0},
    {"fast_gpu_memory_shared_bytes", "Models that replicas share", mem_shared, 0},
    {"fast_gpu_memory_cached_bytes", "Of them, those that nobody uses", mem_cached, 0},
    {"fast_gpu_tokens_out", "Replicas that hold a token", tokens_out, 0},
    {"fast_gpu_replicas", "Replicas that have a slice", replicas, 0},
    {"DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)", utilization_pct, FAST_KNOWN_UTIL},
    {"DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)", used_mib, FAST_KNOWN_MEM},
    {"DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB)", free_mib, FAST_KNOWN_MEM},
    {"DCGM_FI_PROF_SM_ACTIVE", "Ratio of cycles an SM has at least 1 warp assigned", sm_activity,
     FAST_KNOWN_SM},
    {"DCGM_FI_PROF_SM_OCCUPANCY", "Ratio of warps resident on an SM", occupancy, FAST_KNOWN_OCCUPANCY},
    {"DCGM_FI_PROF_DRAM_ACTIVE", "Ratio of cycles the device memory interface is active", dram,
     FAST_KNOWN_DRAM},
};

static void gpu_value(struct gw_page *w, const struct gateway *gw, size_t row)
{
    bool dcgm = gpu_rows[row].name[0] == 'D';
    char node[GW_LABEL(64)], model[GW_LABEL(96)];
    gw_page_head(w, gpu_rows[row].name, "gauge", gpu_rows[row].help);
    for (int i = 0; i < gw->ngpus; i++) {
        const struct gw_gpu *g = &gw->gpus[i];
        gw_page_label(gw->node, node, sizeof(node));
        if (~g->row.known & gpu_rows[row].needs)
            continue;
        if (dcgm)
            gw_page_add(w, "%s{gpu=\"%u\",UUID=\"%s\",device=\"nvidia%u\",modelName=\"%s\",Hostname=\"%s\"} %.15g\n",
                        gpu_rows[row].name, g->row.gpu, g->uuid, g->row.gpu,
                        gw_page_label(g->name, model, sizeof(model)), node, gpu_rows[row].value(g));
        else
            gw_page_add(w, "%s{node=\"%s\",gpu=\"%u\",uuid=\"%s\"} %.15g\n", gpu_rows[row].name, node, g->row.gpu,
                        g->uuid, gpu_rows[row].value(g));
    }
}

/* What the limits are worth, as probed by the node. */
static void limits(struct gw_page *w, const struct gateway *gw)
{
    char node[GW_LABEL(64)];
    gw_page_head(w, "fast_gpu_limit", "gauge", "Always 1: how well each limit holds, and by what");
    for (int i = 0; i < gw->ngpus; i++) {
        const struct fast_msg_gpu_row *r = &gw->gpus[i].row;
        const struct {
            const char *limit;
            uint32_t hold;
        } each[] = {{"sm", r->hold_sm}, {"time", r->hold_time}, {"memory", r->hold_mem}};
        for (size_t k = 0; k < 3; k++)
            gw_page_add(w, "fast_gpu_limit{node=\"%s\",gpu=\"%u\",limit=\"%s\",holds=\"%s\",backend=\"%s\"} 1\n",
                        gw_page_label(gw->node, node, sizeof(node)), r->gpu, each[k].limit,
                        fast_hold_name(each[k].hold), fast_backend_name(r->backend));
    }
}

/* Of all models of |of|'s name and version, which differ in their tensors, or of which one was removed and is in
 * use: a series is there once. False: |of| is not the first of them. */
static bool sum_models(const struct gateway *gw, const struct fast_msg_model_row *of, uint64_t ret[3])
{
    bool found = false;
    memset(ret, 0, 3 * sizeof(*ret));
    for (const struct fast_msg_model_row *m = NULL; (m = gw_models_next(gw, m));) {
        if (m->gpu != of->gpu || strcmp(m->ns.p, of->ns.p) != 0 || strcmp(m->name.p, of->name.p) != 0 ||
            strcmp(m->version.p, of->version.p) != 0)
            continue;
        if (!found && m != of)
            return false;
        found = true;
        ret[0] += m->bytes;
        ret[1] += m->refs;
        ret[2] += m->gets;
    }
    return true;
}

static void models(struct gw_page *w, const struct gateway *gw)
{
    static const struct {
        const char *name, *type, *help;
    } rows[] = {{"fast_model_bytes", "gauge", "Device memory of a model that replicas share"},
                {"fast_model_references", "gauge", "Processes that have it"},
                {"fast_model_gets_total", "counter", "Times that it was taken without loading"}};
    for (int i = 0; i < 3; i++) {
        gw_page_head(w, rows[i].name, rows[i].type, rows[i].help);
        for (const struct fast_msg_model_row *m = NULL; (m = gw_models_next(gw, m));) {
            char ns[GW_LABEL(FAST_CATALOG_NS)], name[GW_LABEL(FAST_CATALOG_NAME)];
            char version[GW_LABEL(FAST_CATALOG_VERSION)];
            uint64_t sums[3];
            if (!sum_models(gw, m, sums))
                continue;
            gw_page_add(w, "%s{model=\"%s\",version=\"%s\",namespace=\"%s\",gpu=\"%u\"} %llu\n", rows[i].name,
                        gw_page_label(m->name.p, name, sizeof(name)),
                        gw_page_label(m->version.p, version, sizeof(version)),
                        gw_page_label(m->ns.p, ns, sizeof(ns)), m->gpu, (unsigned long long)sums[i]);
        }
    }
}

/* Models of each namespace that has some, and how much it may have. */
static void model_namespaces(struct gw_page *w, const struct gateway *gw)
{
    static const struct {
        const char *name, *help;
    } rows[] = {{"fast_model_namespace_bytes", "Device memory of all models of a namespace"},
                {"fast_model_namespace_limit_bytes", "How much of it they may take (fast-node --model-limit)"}};
    for (int i = 0; i < 2; i++) {
        gw_page_head(w, rows[i].name, "gauge", rows[i].help);
        for (const struct fast_msg_model_row *m = NULL; (m = gw_models_next(gw, m));) {
            char ns[GW_LABEL(FAST_CATALOG_NS)];
            uint64_t held;
            if (gw_models_held(gw, m, &held) && (i == 0 || m->limit != UINT64_MAX))
                gw_page_add(w, "%s{namespace=\"%s\",gpu=\"%u\"} %llu\n", rows[i].name,
                            gw_page_label(m->ns.p, ns, sizeof(ns)), m->gpu, (unsigned long long)(i ? m->limit : held));
        }
    }
}

/* What a node that is gone has told last says nothing about today: then there is none of it. */
void gw_metrics_gpus(struct gw_page *w, const struct gateway *gw)
{
    if (!gw_link_synced(gw->link))
        return;
    for (size_t i = 0; i < sizeof(gpu_rows) / sizeof(gpu_rows[0]); i++)
        gpu_value(w, gw, i);
    limits(w, gw);
    models(w, gw);
    model_namespaces(w, gw);
}

/* ---- replicas ---- */

#define STAT(name, value)                                                                                \
    static double name(const struct gw_replica *r, const struct fast_msg_replica_stats *s)                 \
    {                                                                                                       \
        (void)r;                                                                                            \
        (void)s;                                                                                            \
        return value;                                                                                       \
    }

STAT(busy, (double)s->busy_ns / 1e9)
STAT(held, (double)s->held_ns / 1e9)
STAT(waited, (double)s->wait_ns / 1e9)
STAT(throttled, (double)s->throttled_ns / 1e9)
STAT(overrun, (double)s->overrun_ns / 1e9)
STAT(short_of, (double)s->short_ns / 1e9)
STAT(launches, (double)s->launches)
STAT(tokens, (double)s->tokens)
STAT(windows, (double)s->windows)
STAT(refused, (double)s->mem_refused)
STAT(charged, (double)s->mem_bytes)
STAT(sm_partition, r->slice.sm_pct / 100.0)
STAT(request, r->slice.request_milli / 1000.0)
STAT(limit, r->slice.limit_milli / 1000.0)
STAT(mem_cap, (double)r->slice.mem_bytes)

static const struct {
    const char *name, *type, *help;
    replica_fn *value;
    bool ours; /* the gateway knows it without the node */
} replica_rows[] = {
    {"fast_replica_busy_seconds_total", "counter", "Time the GPU was busy for it", busy},
    {"fast_replica_held_seconds_total", "counter", "Time it held a token", held},
    {"fast_replica_wait_seconds_total", "counter", "Time it had work and no token", waited},
    {"fast_replica_throttled_seconds_total", "counter", "Time it was out of quota", throttled},
    {"fast_replica_overrun_seconds_total", "counter", "Time from revocations until the token was back", overrun},
    {"fast_replica_short_seconds_total", "counter",
     "What windows in which it always had work gave it less than its request", short_of},
    {"fast_replica_windows_total", "counter", "Windows that have ended", windows},
    {"fast_replica_tokens_total", "counter", "Tokens", tokens},
    {"fast_replica_launches_total", "counter", "Kernels and graphs", launches},
    {"fast_replica_memory_refused_total", "counter", "Allocations refused for want of room", refused},
    {"fast_replica_memory_charged_bytes", "gauge", "Device memory of all its processes, in whole pages", charged},
    {"fast_replica_memory_cap_bytes", "gauge", "Its memory cap; 0: the whole GPU", mem_cap, true},
    {"fast_replica_sm_partition", "gauge", "Its share of the SMs", sm_partition, true},
    {"fast_replica_quota_request", "gauge", "The share of time that it is promised", request, true},
    {"fast_replica_quota_limit", "gauge", "The share of time that it gets at most", limit, true},
};

static void add_value(struct gw_page *w, const struct gw_replica *r, int gpu, const char *name, const char *more,
                      double value)
{
    gw_page_add(w, "%s{replica=\"%s\",function_name=\"%s.%s\",gpu=\"%d\"%s} %.15g\n", name, r->id, r->fn->spec->name,
                r->fn->spec->ns, gpu, more, value);
}

/* One value for each GPU that it has. */
static void replica_value(struct gw_page *w, const struct gw_replica *r, const char *name, replica_fn *value)
{
    int i = 0;
    for (uint32_t gpus = r->phase == GW_GONE ? 0 : gw_replica_gpus(r); gpus; gpus &= gpus - 1, i++) {
        const struct fast_msg_replica_stats s = gw_replica_used_on(r, i);
        add_value(w, r, __builtin_ctz(gpus), name, "", value(r, &s));
    }
}

static void families_of(struct gw_page *w, const struct gw_replica *r, const char *name)
{
    int i = 0;
    for (uint32_t gpus = r->phase == GW_GONE ? 0 : gw_replica_gpus(r); gpus; gpus &= gpus - 1, i++) {
        const struct fast_msg_replica_stats s = gw_replica_used_on(r, i);
        const int gpu = __builtin_ctz(gpus);
        add_value(w, r, gpu, name, ",family=\"device\"", (double)s.mem_device);
        add_value(w, r, gpu, name, ",family=\"managed\"", (double)s.mem_managed);
        add_value(w, r, gpu, name, ",family=\"pool\"", (double)s.mem_pool);
        add_value(w, r, gpu, name, ",family=\"vmm\"", (double)s.mem_vmm);
        add_value(w, r, gpu, name, ",family=\"array\"", (double)s.mem_array);
        add_value(w, r, gpu, name, ",family=\"context\"", (double)s.mem_context);
    }
}

static void families(struct gw_page *w, const struct gateway *gw)
{
    static const char name[] = "fast_replica_memory_bytes";
    gw_page_head(w, name, "gauge", "Device memory as it was allocated; context: what a driver keeps beside it");
    for (const struct gw_replica *r = gw->replicas; r; r = r->next)
        families_of(w, r, name);
}

void gw_metrics_replicas(struct gw_page *w, const struct gateway *gw)
{
    bool told = gw_link_synced(gw->link);
    for (size_t i = 0; i < sizeof(replica_rows) / sizeof(replica_rows[0]); i++) {
        if (!told && !replica_rows[i].ours)
            continue;
        gw_page_head(w, replica_rows[i].name, replica_rows[i].type, replica_rows[i].help);
        for (const struct gw_replica *r = gw->replicas; r; r = r->next)
            replica_value(w, r, replica_rows[i].name, replica_rows[i].value);
    }
    if (told)
        families(w, gw);
}
