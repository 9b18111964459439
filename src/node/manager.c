/* Owns the GPUs' token schedulers and performs what they decide. Time is read once per event; the
 * deadline of a scheduler is a timer of the loop. */
#include "node/manager.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"

/* While tokens are waited for, an event is often followed by the next one before a core that went to sleep
 * would be awake again (some 40 us on a virtual one). */
#define LINGER FAST_US(50)

static void on_timer(void *arg)
{
    struct node_pool *pool = arg;
    fast_sched_tick(pool->sched, fast_clock_now());
    node_pool_apply(pool);
}

static void perform(struct node_pool *pool, const struct fast_sched_action *a)
{
    if (a->kind == FAST_SCHED_CONTENDED) {
        pool->contended = a->contended;
        pool->contended_at = fast_clock_now();
        for (struct node_share *s = pool->shares; s; s = s->next)
            node_share_contended(s, a->contended);
        return;
    }
    struct node_share *s = a->client < pool->by_client_len ? pool->by_client[a->client] : NULL;
    if (!s)
        return;
    if (a->kind == FAST_SCHED_GRANT)
        node_share_granted(s, a);
    else if (a->kind == FAST_SCHED_REVOKE)
        node_share_revoked(s);
    else
        fast_log(WARN, "token not given back",
                 "replica=%s gpu=%u sm=%d pid=%d: its SMs stay taken until it does",
                 s->replica->id, pool->gpu, s->replica->sm_running,
                 s->holder ? s->holder->pid : 0);
}

/* Performing an action may lead to the next event (a token that nobody wants any more goes back at
 * once), which ends up here again: the outer call does the work then. */
void node_pool_apply(struct node_pool *pool)
{
    struct node_manager *m = pool->m;
    struct fast_sched_action a;
    if (m->applying)
        return;
    m->applying = true;
    uint32_t linked = fast_gangs_linked(m->gangs, (int)pool->gpu);
    for (bool more = true; more;) {
        more = false;
        for (uint32_t d = linked; d; d &= d - 1) {
            struct node_pool *p = &m->pool[__builtin_ctz(d)];
            for (; fast_sched_next(p->sched, &a); more = linked & (linked - 1))
                perform(p, &a);
        }
    }
    m->applying = false;
    bool contended = false;
    for (uint32_t d = linked; d; d &= d - 1) {
        struct node_pool *p = &m->pool[__builtin_ctz(d)];
        fast_timer_set(p->timer, fast_sched_expiry(p->sched));
        contended |= p->contended;
    }
    if (contended && m->may_linger)
        fast_loop_linger(m->node->loop, fast_clock_now() + LINGER);
}

static int pool_init(struct node_manager *m, uint32_t gpu, struct fast_err *err)
{
    struct node_pool *pool = &m->pool[gpu];
    pool->m = m;
    pool->gpu = gpu;
    pool->device.total = node_gpu_mem(m->node->gpus, gpu);
    pool->timer = fast_timer_new(m->node->loop, on_timer, pool);
    if (!pool->timer)
        return fast_err_set(err, FAST_ENOMEM, "no memory for GPU %u", gpu);
    pool->sched = fast_gangs_sched(m->gangs, (int)gpu);
    return 0;
}

static void on_pulse(void *arg)
{
    struct node_manager *m = arg;
    fast_ns now = fast_clock_now();
    for (struct node_session *s = m->sessions; s; s = s->next)
        if (s->share)
            atomic_store(&s->pages.limits->pulse_ns, now);
    for (int i = 0; i < m->pools; i++) {
        for (struct node_share *s = m->pool[i].shares; s; s = s->next)
            node_share_check(s, now);
        if (m->node->conf->mem_all)
            node_measure(m->node, (uint32_t)i, now);
    }
    fast_timer_set(m->pulse, now + FAST_PULSE_NS);
}

int node_manager_new(struct node *node, struct node_manager **ret, struct fast_err *err)
{
    struct node_manager *m = calloc(1, sizeof(*m));
    if (!m)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the manager");
    m->node = node;
    m->conf = node->conf->sched;
    cpu_set_t cpus; /* alone on one core it would only be in the way of whom it waits for */
    m->may_linger = !sched_getaffinity(0, sizeof(cpus), &cpus) && CPU_COUNT(&cpus) > 1;
    m->listen_fd = -1;
    m->pools = node_gpu_count(node->gpus);
    int r = fast_gangs_new(&m->conf, m->pools, fast_clock_now(), &m->gangs, err);
    for (int i = 0; i < m->pools && !r; i++)
        r = pool_init(m, (uint32_t)i, err);
    if (!r) {
        if (m->pools)
            m->conf = *fast_sched_conf(m->pool[0].sched);
        m->tick = fast_timer_new(node->loop, node_session_tick, m);
        m->pulse = fast_timer_new(node->loop, on_pulse, m);
        if (m->pulse)
            fast_timer_set(m->pulse, fast_clock_now() + FAST_PULSE_NS);
        r = m->tick && m->pulse ? node_session_listen(m, err)
                                : fast_err_set(err, FAST_ENOMEM, "no memory for the manager");
    }
    if (r) {
        node_manager_free(m);
        return r;
    }
    *ret = m;
    return 0;
}

void node_manager_closing(struct node_manager *m)
{
    for (struct node_session *s = m->sessions; s; s = s->next)
        if (s->share)
            atomic_store(&s->pages.limits->closing, 1);
}

void node_manager_free(struct node_manager *m)
{
    if (!m)
        return;
    while (m->sessions)
        node_session_close(m->sessions);
    for (int i = 0; i < m->pools; i++) {
        struct node_pool *pool = &m->pool[i];
        while (m->gangs && pool->shares)
            node_share_remove(m, pool->shares->replica);
        fast_timer_free(pool->timer);
    }
    for (int i = 0; i < m->pools; i++)
        free(m->pool[i].by_client);
    fast_gangs_free(m->gangs);
    node_session_free_unread(m);
    fast_timer_free(m->tick);
    fast_timer_free(m->pulse);
    fast_watch_free(m->listen_watch);
    if (m->listen_fd >= 0)
        close(m->listen_fd);
    free(m);
}

const struct fast_sched_conf *node_policy(const struct node_manager *m)
{
    return &m->conf;
}

int node_policy_set(struct node_manager *m, const struct fast_msg_policy_set *set,
                    struct fast_err *err)
{
    struct fast_sched_conf c = m->conf;
    c.policy = (enum fast_policy)set->policy;
    c.charge = (enum fast_charge)set->charge;
    if (set->window_ns) {
        c.window_ns = set->window_ns;
        c.drain_ns = 0;
    }
    if (set->token_ns)
        c.token_ns = set->token_ns;
    else if (c.token_ns > c.window_ns && c.window_ns > 0)
        c.token_ns = c.window_ns;
    if (m->pools) { /* at one is at all */
        int r = fast_sched_conf_set(m->pool[0].sched, &c, fast_clock_now(), err);
        if (r)
            return r;
        c = *fast_sched_conf(m->pool[0].sched);
    }
    m->conf = c;
    fast_log(INFO, "policy", "policy=%s charge=%s window_us=%lld token_us=%lld",
             fast_policy_name(c.policy), fast_charge_name(c.charge), (long long)c.window_ns / 1000,
             (long long)c.token_ns / 1000);
    for (int i = 0; i < m->pools; i++) {
        for (struct node_share *s = m->pool[i].shares; s; s = s->next)
            node_share_publish(s);
        node_pool_apply(&m->pool[i]);
        for (struct node_share *s = m->pool[i].shares; s && c.policy != FAST_POLICY_RACING; s = s->next)
            node_share_resume(s);
    }
    return 0;
}
