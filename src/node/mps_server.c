/* Watches the MPS server, which the control daemon starts for its first client. It works for all GPUs
 * and all replicas of the node. A fatal fault of one client reaches every client; the server is then
 * in state FAULT and takes no new client before all old ones have ended (documented), so that the
 * replicas which it took are ended here, and start again by themselves. A server that ends has taken
 * all its clients. Drivers before r550 do not tell the state: there only the end is seen. */
#include "node/mps_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "node/mps_text.h"

#define CHECK_PERIOD FAST_S(1)
#define FAULT_MAX FAST_S(10) /* then it is told to end */
#define TERMINATE_MAX FAST_S(1)
#define CLIENTS_MAX 256

void node_mps_tell_lost(struct node_mps *m, const int *pids, int count, const char *why)
{
    if (m->lost)
        m->lost(m->lost_arg, pids, count, why);
}

void node_mps_server_forget(struct node_mps *m)
{
    fast_watch_free(m->server.watch);
    if (m->server.pidfd > 0)
        close(m->server.pidfd);
    m->server = (struct node_mps_server){0};
}

static void server_ended(struct node_mps *m)
{
    fast_log(ERROR, "mps server ended", "pid=%d", m->server.pid);
    bool taken = m->server.fault; /* they were ended when it failed */
    node_mps_server_forget(m);
    if (!taken)
        node_mps_tell_lost(m, NULL, -1, "the MPS server ended");
}

static void on_end(void *arg, int events)
{
    (void)events;
    server_ended(arg);
}

static void follow(struct node_mps *m, int pid)
{
    struct node_mps_server *s = &m->server;
    if (s->pid == pid)
        return;
    if (s->pid)
        server_ended(m);
    s->pid = pid;
    s->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (s->pidfd > 0)
        s->watch = fast_watch_new(m->loop, s->pidfd, FAST_LOOP_IN, on_end, m);
    fast_log(INFO, "mps server", "pid=%d", pid);
}

static void on_clients(void *arg, const char *text)
{
    struct node_mps *m = arg;
    int pids[CLIENTS_MAX];
    int n = text ? node_mps_read_pids(text, pids, CLIENTS_MAX) : -1;
    node_mps_tell_lost(m, pids, n > CLIENTS_MAX ? CLIENTS_MAX : n, "the MPS server has a fault");
}

static void on_told(void *arg, const char *text)
{
    (void)arg;
    (void)text;
}

static void begin_fault(struct node_mps *m)
{
    char command[64];
    m->server.fault = true;
    m->server.fault_at = fast_loop_now(m->loop);
    fast_log(ERROR, "mps fault", "server=%d; its clients are ended", m->server.pid);
    snprintf(command, sizeof(command), "get_client_list %d", m->server.pid);
    if (!node_mps_ask(m->talk, command, on_clients, m))
        on_clients(m, NULL);
}

static void on_status(void *arg, const char *text)
{
    struct node_mps *m = arg;
    struct node_mps_server *s = &m->server;
    char command[64];
    m->asked = false;
    if (!s->pid || !text)
        return;
    enum node_mps_status status = node_mps_read_status(text);
    if (status == NODE_MPS_STATUS_FAULT && !s->fault) {
        begin_fault(m);
    } else if (status == NODE_MPS_STATUS_FAULT && !s->shut &&
               fast_loop_now(m->loop) - s->fault_at >= FAULT_MAX) {
        s->shut = true;
        fast_log(ERROR, "mps does not recover", "server=%d is told to end", s->pid);
        snprintf(command, sizeof(command), "shutdown_server %d -f", s->pid);
        node_mps_ask(m->talk, command, on_told, m);
    } else if (status == NODE_MPS_STATUS_ACTIVE && s->fault) {
        s->fault = s->shut = false;
        fast_log(INFO, "mps works again", "server=%d", s->pid);
    }
}

static void on_servers(void *arg, const char *text)
{
    struct node_mps *m = arg;
    char command[64];
    int pid = 0;
    int n = text ? node_mps_read_pids(text, &pid, 1) : -1;
    m->asked = false;
    if (!m->ready || n < 0)
        return;
    if (n == 0) {
        if (m->server.pid)
            server_ended(m);
        return;
    }
    follow(m, pid);
    snprintf(command, sizeof(command), "get_server_status %d", pid);
    m->asked = node_mps_ask(m->talk, command, on_status, m);
}

void node_mps_server_check(void *arg)
{
    struct node_mps *m = arg;
    if (!m->ready)
        return;
    if (!m->asked)
        m->asked = node_mps_ask(m->talk, "get_server_list", on_servers, m);
    fast_timer_set(m->check, fast_loop_now(m->loop) + CHECK_PERIOD);
}

void node_mps_client(struct node_mps *m)
{
    if (m && m->ready && !m->server.pid)
        fast_timer_set(m->check, fast_loop_now(m->loop));
}

/* ---- clients that are about to be killed ---- */

struct node_mps_ending {
    struct node_mps_ending *next;
    struct node_mps *m;
    struct fast_timer *timer;
    int open; /* questions */
    node_mps_done_fn *done; /* NULL: was called */
    void *arg;
};

static void call_done(struct node_mps_ending *e)
{
    node_mps_done_fn *done = e->done;
    e->done = NULL;
    fast_timer_set(e->timer, FAST_NEVER);
    if (done)
        done(e->arg);
}

static void ending_free(struct node_mps_ending *e)
{
    struct node_mps_ending **at = &e->m->endings;
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    fast_timer_free(e->timer);
    free(e);
}

static void on_late(void *arg)
{
    struct node_mps_ending *e = arg;
    if (e->done)
        fast_log(WARN, "mps is slow", "a client is killed before the server has let go of it");
    call_done(e);
    if (!e->open)
        ending_free(e);
}

static void on_terminated(void *arg, const char *text)
{
    struct node_mps_ending *e = arg;
    if (!text || !node_mps_is_terminated(text))
        fast_log(DEBUG, "mps client not terminated", "answer=\"%.80s\"", text ? text : "none");
    if (--e->open > 0)
        return;
    call_done(e);
    ending_free(e);
}

bool node_mps_terminate(struct node_mps *m, const int *pids, int count, node_mps_done_fn *done,
                        void *arg)
{
    if (!m || !m->ready || !m->server.pid || count <= 0)
        return false;
    struct node_mps_ending *e = calloc(1, sizeof(*e));
    if (!e)
        return false;
    *e = (struct node_mps_ending){.next = m->endings, .m = m, .done = done, .arg = arg};
    e->timer = fast_timer_new(m->loop, on_late, e);
    m->endings = e;
    for (int i = 0; i < count && e->timer; i++) {
        char command[64];
        snprintf(command, sizeof(command), "terminate_client %d %d", m->server.pid, pids[i]);
        e->open += node_mps_ask(m->talk, command, on_terminated, e);
    }
    if (!e->open) {
        ending_free(e);
        return false;
    }
    fast_timer_set(e->timer, fast_loop_now(m->loop) + TERMINATE_MAX);
    return true;
}

void node_mps_endings_free(struct node_mps *m)
{
    while (m->endings) {
        call_done(m->endings);
        ending_free(m->endings);
    }
}
