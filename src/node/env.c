/* What a process of a replica must find in its environment for the hook, for CUDA and for MPS. */
#include "node/mps.h"
#include "node/node.h"

#include <inttypes.h>
#include <stdio.h>

#include "node/gpu.h"
#include "node/mps_text.h"
#include "wire/page.h"

#define MPS_LIMIT_SPARE (UINT64_C(1) << 30)

/* Only policy fast shares the SMs; under the others a process gets all of them. The percentage of a
 * process is fixed when it starts. */
static int sm_pct(const struct node *node, const struct node_replica *r)
{
    bool fast = node_policy(node->manager)->policy == FAST_POLICY_FAST;
    return fast ? r->slice.sm_pct : FAST_SM_PCT_MAX;
}

/* The UUID holds whatever order the driver counts in; the simulated one counts plainly. */
static void add_gpus(const struct node *node, const struct node_replica *replica, node_env_fn *add, void *arg)
{
    char text[FAST_NODE_GPUS_MAX * 64] = "";
    size_t at = 0;
    for (uint32_t d = node_replica_gpus(replica); d; d &= d - 1) {
        uint32_t gpu = (uint32_t)__builtin_ctz(d);
        const char *uuid = node_gpu_uuid(node->gpus, gpu), *comma = at ? "," : "";
        int n = node->conf->sim_spec || !*uuid ? snprintf(text + at, sizeof(text) - at, "%s%u", comma, gpu)
                                               : snprintf(text + at, sizeof(text) - at, "%s%s", comma, uuid);
        at += (size_t)n < sizeof(text) - at ? (size_t)n : 0;
    }
    add(arg, "CUDA_VISIBLE_DEVICES", text);
}

/* The same on each of its GPUs, which it counts from 0. */
static void add_memory_limit(const struct node_replica *replica, node_env_fn *add, void *arg)
{
    char limit[24], text[FAST_NODE_GPUS_MAX * 32] = "";
    size_t at = 0;
    node_mps_write_limit(replica->slice.mem_bytes + MPS_LIMIT_SPARE, limit, sizeof(limit));
    for (int i = 0; i < __builtin_popcount(node_replica_gpus(replica)); i++)
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%s%d=%s", i ? "," : "", i, limit);
    add(arg, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", text);
}

void node_env(const struct node *node, const struct node_replica *replica, node_env_fn *add, void *arg)
{
    char text[64];
    const struct node_conf *conf = node->conf;
    add(arg, FAST_ENV_SOCKET, node->socket);
    snprintf(text, sizeof(text), "%016" PRIx64 "%016" PRIx64, replica->ticket_hi, replica->ticket_lo);
    add(arg, FAST_ENV_TICKET, text);
    add(arg, FAST_ENV_FAIL, replica->fail_open ? "open" : "closed");
    add(arg, "LD_PRELOAD", conf->hook_path);
    add_gpus(node, replica, add, arg);
    /* Without our MPS the directory has to be one where nobody listens, or the process would join
     * a daemon that somebody else has started. */
    add(arg, "CUDA_MPS_PIPE_DIRECTORY", node_mps_pipe_dir(node->mps));
    snprintf(text, sizeof(text), "%d", sm_pct(node, replica));
    add(arg, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", text);
    /* The hook keeps the cap of the whole replica; this is for a process that has lost the hook. The
     * driver's own needs, a context for one, count in it. */
    if (node_mps_limits(node->mps) && replica->slice.mem_bytes)
        add_memory_limit(replica, add, arg);
    if (!conf->sim_spec)
        return;
    add(arg, "FAST_SIM", conf->sim_spec);
    add(arg, "FAST_SIM_DIR", conf->sim_dir);
    add(arg, "LD_LIBRARY_PATH", conf->sim_libs);
}
