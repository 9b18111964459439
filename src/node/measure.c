/* What the processes of replicas have on a GPU beside what they allocated: contexts, modules, printf buffers, local
 * memory. The driver takes it without asking anybody, so that only NVML can tell; what is above the ledger's sum is
 * that. It assumes that NVML and this program know processes by the same numbers; where they do not, nothing is
 * known, and nothing charged. */
#include "io/loop.h"
#include "node/gpu.h"
#include "node/manager.h"

#define EVERY FAST_S(1)

static const struct node_nvml_process *find(const struct node_nvml_process *list, int n, int pid)
{
    for (int i = 0; i < n; i++)
        if (list[i].pid == pid)
            return &list[i];
    return NULL;
}

static void look_at(struct node_share *s, const struct node_nvml_process *list, int n)
{
    uint64_t was = s->mem.used;
    for (struct node_session *x = s->first->sessions; x; x = x->share_next) {
        struct node_ledger_process *mem = &x->seat[s->index].mem;
        const struct node_nvml_process *p = find(list, n, x->pid);
        node_ledger_context(mem, p && p->bytes > mem->bytes ? p->bytes - mem->bytes : 0);
    }
    if (s->mem.used != was)
        node_share_publish(s);
}

void node_measure(struct node *node, uint32_t gpu, fast_ns now)
{
    struct node_nvml_process list[NODE_NVML_PROCESSES];
    struct node_pool *pool = &node->manager->pool[gpu];
    if (!pool->shares || (pool->measured && now - pool->measured < EVERY))
        return;
    pool->measured = now;
    int n = node_gpu_processes(node->gpus, gpu, list, NODE_NVML_PROCESSES);
    for (struct node_share *s = pool->shares; s && n >= 0; s = s->next)
        look_at(s, list, n);
}
