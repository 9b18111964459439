/* What a process of a replica must find in its environment for the hook, for CUDA and for MPS. */
#include "node/mps.h"
#include "node/node.h"

#include <inttypes.h>
#include <stdio.h>

#include "node/gpu.h"
#include "wire/page.h"

/* Only policy fast shares the SMs; under the others a process gets all of them. The percentage of a
 * process is fixed when it starts. */
static int sm_pct(const struct node *node, const struct node_replica *r)
{
    bool fast = node_policy(node->manager)->policy == FAST_POLICY_FAST;
    return fast ? r->slice.sm_pct : FAST_SM_PCT_MAX;
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
    /* The UUID holds whatever order the driver counts in; the simulated one counts plainly. */
    snprintf(text, sizeof(text), "%u", replica->gpu);
    const char *uuid = node_gpu_uuid(node->gpus, replica->gpu);
    add(arg, "CUDA_VISIBLE_DEVICES", conf->sim_spec || !*uuid ? text : uuid);
    /* Without our MPS the directory has to be one where nobody listens, or the process would join
     * a daemon that somebody else has started. */
    add(arg, "CUDA_MPS_PIPE_DIRECTORY", node_mps_pipe_dir(node->mps));
    snprintf(text, sizeof(text), "%d", sm_pct(node, replica));
    add(arg, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", text);
    if (!conf->sim_spec)
        return;
    add(arg, "FAST_SIM", conf->sim_spec);
    add(arg, "FAST_SIM_DIR", conf->sim_dir);
    add(arg, "LD_LIBRARY_PATH", conf->sim_libs);
}
