/* One connection of node.sock: a process of a replica. Everything that it says is checked here; what
 * makes no sense closes or slows down this one connection and nothing else.
 *
 *  - no hello within five seconds, or sixty-four newer ones without a hello; a wrong ticket; a
 *    malformed or unknown message: closed
 *  - more than MESSAGES_MAX messages in 100 ms, from all processes of the replica together: not read from
 *    until these are over; who connects too often meanwhile is refused
 *  - it does not read its answers: closed
 *  - token_done for a token that it does not hold, a GPU that it does not have, memory released that
 *    it never had: ignored and counted, logged once
 *  - more than LINES_MAX lines about a replica, or about strangers, in ten seconds: left out of the log */
#include "node/manager.h"
#include "node/mps.h"
#include "node/process.h"
#include "node/stores.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "io/packet.h"

#define BATCH 32 /* messages read in one turn of the loop, so that everybody has a turn */
#define MESSAGES_MAX 5000
#define MESSAGES_SPAN FAST_MS(100)
#define HELLO_MESSAGES 20 /* what a new connection costs, in messages */
#define LINES_MAX 100
#define LINES_SPAN FAST_S(10)
#define HELLO_TIMEOUT FAST_S(5)
#define STRANGERS_MAX 64
#define SESSIONS_MAX 1024
#define SESSIONS_PER_REPLICA 64
#define SILENT FAST_MS(100) /* so long a stranger has its place, whoever else comes */
#define TICK FAST_MS(100)

/* Never later than it is to be anyway: whoever keeps connecting must not put it off. */
static void tick_soon(struct node_manager *m, fast_ns wait)
{
    fast_ns at = fast_clock_now() + wait;
    if (m->tick_at && m->tick_at <= at)
        return;
    m->tick_at = at;
    fast_timer_set(m->tick, at);
}

/* How much of |most| in each |span| is used, with |more|. */
static uint32_t spend(struct node_budget *b, fast_ns span, uint32_t most, uint32_t more)
{
    fast_ns now = fast_clock_now();
    if (now - b->since >= span)
        *b = (struct node_budget){.since = now};
    b->used = b->used < most ? b->used + more : most + 1;
    return b->used;
}

static bool may_send(struct node_share *share, uint32_t messages)
{
    return spend(&share->messages, MESSAGES_SPAN, MESSAGES_MAX, messages) <= MESSAGES_MAX;
}

bool node_session_may_tell(struct node_session *s)
{
    struct node_budget *lines = s->share ? &s->share->lines : &s->m->lines;
    bool full = lines->used == LINES_MAX;
    uint32_t used = spend(lines, LINES_SPAN, LINES_MAX, 1);
    if (full && used > LINES_MAX)
        fast_log(WARN, "lines left out", "replica=%s: there are too many about it",
                 s->share ? s->share->replica->id : "none");
    return used <= LINES_MAX;
}

static bool is_unread(int fd)
{
    int bytes = 0;
    return !ioctl(fd, SIOCOUTQ, &bytes) && bytes > 0;
}

/* Otherwise a client that never reads could come and go until nobody is sent any more descriptors. */
static void close_fd(struct node_session *s)
{
    struct node_unread *u = s->share && is_unread(s->fd) ? malloc(sizeof(*u)) : NULL;
    if (!u) {
        close(s->fd);
        return;
    }
    *u = (struct node_unread){s->m->unread, s->share, s->fd};
    s->m->unread = u;
    s->share->unread++;
    shutdown(s->fd, SHUT_RDWR);
    tick_soon(s->m, TICK);
}

static void look_at_unread(struct node_manager *m)
{
    for (struct node_unread **at = &m->unread, *u; (u = *at);) {
        if (is_unread(u->fd)) {
            at = &u->next;
            continue;
        }
        if (u->share)
            u->share->unread--;
        *at = u->next;
        close(u->fd);
        free(u);
    }
}

void node_session_forget_unread(struct node_manager *m, const struct node_share *share)
{
    for (struct node_unread *u = m->unread; u; u = u->next)
        if (u->share == share)
            u->share = NULL;
}

void node_session_free_unread(struct node_manager *m)
{
    for (struct node_unread *u; (u = m->unread);) {
        m->unread = u->next;
        close(u->fd);
        free(u);
    }
}

void node_session_close(struct node_session *s)
{
    struct node_manager *m = s->m;
    fast_watch_free(s->watch);
    close_fd(s);
    while (s->wishes) {
        struct node_wish *w = s->wishes;
        s->wishes = w->next;
        node_stores_cancel(m->node->stores, w);
        free(w);
    }
    if (s->share) {
        if (node_session_may_tell(s))
            fast_log(INFO, "client gone", "replica=%s pid=%d launches=%llu", s->share->replica->id, s->pid,
                     (unsigned long long)fast_counters_launches(&s->pages.counters->gpu[0]));
        node_share_detach(s->share, s);
    } else {
        m->strangers--;
    }
    if (s->prev)
        s->prev->next = s->next;
    else
        m->sessions = s->next;
    if (s->next)
        s->next->prev = s->prev;
    m->session_count--;
    node_pages_free(&s->pages);
    free(s);
}

static int reply(struct node_session *s, const struct fast_msg *msg, const int *fds, int nfds)
{
    struct fast_err err;
    int r = fast_packet_send(s->fd, msg, fds, nfds, &err);
    if (r && node_session_may_tell(s))
        fast_log(WARN, "client closed", "pid=%d: %s", s->pid, err.msg);
    return r;
}

/* Tells why and returns what closes the connection. */
static int refuse(struct node_session *s, int code, const char *text)
{
    struct fast_msg msg = {.type = FAST_MSG_T_refused,
                           .refused = {.code = (uint32_t)code, .text = fast_str(text)}};
    if (node_session_may_tell(s))
        fast_log(WARN, "client refused", "pid=%d uid=%u: %s", s->pid, s->uid, text);
    fast_packet_send(s->fd, &msg, NULL, 0, NULL);
    return -code;
}

static void odd(struct node_session *s, const char *what)
{
    s->oddities++;
    if (!s->oddity_logged && node_session_may_tell(s))
        fast_log(WARN, "client is odd", "replica=%s pid=%d: %s (told once)", s->share->replica->id,
                 s->pid, what);
    s->oddity_logged = true;
}

static bool is_full(const struct node_share *share)
{
    return share->session_count + share->unread >= SESSIONS_PER_REPLICA;
}

static int on_hello(struct node_session *s, const struct fast_msg *msg)
{
    struct fast_err err;
    int fds[2];
    if (s->share)
        return refuse(s, FAST_EPROTO, "hello was said before");
    if (msg->hello.version != FAST_MSG_VERSION)
        return refuse(s, FAST_EPROTO, "the protocol has another version; restart the replica");
    struct node_replica *replica =
        node_ticket_find(s->m->node->agent, msg->hello.ticket_hi, msg->hello.ticket_lo);
    if (!replica || !replica->share)
        return refuse(s, FAST_EPERM, "this ticket belongs to no replica");
    /* Who gets no answer takes the node for one that is gone. */
    if (s->m->session_count - s->m->strangers >= s->m->sessions_max)
        return refuse(s, FAST_ENOROOM, "the node has as many clients as it can have");
    if (is_full(replica->share))
        look_at_unread(s->m); /* some may have been read, or be gone, since the last tick */
    if (is_full(replica->share))
        return refuse(s, FAST_ENOROOM, "the replica has 64 processes with CUDA already, or closed connections "
                                       "that it has not read");
    if (!may_send(replica->share, HELLO_MESSAGES))
        return refuse(s, FAST_EBUSY, "the replica connects, or sends messages, too often");
    if (node_pages_new(&s->pages, fds, &err))
        return refuse(s, err.code, err.msg);
    s->m->strangers--;
    if (s->m->listen_full)
        tick_soon(s->m, 0);
    node_share_attach(replica->share, s);
    if (node_session_may_tell(s))
        fast_log(INFO, msg->hello.reconnect ? "client again" : "client", "replica=%s pid=%d uid=%u",
                 replica->id, s->pid, s->uid);
    struct fast_msg out = {.type = FAST_MSG_T_welcome,
                           .id = msg->id,
                           .welcome = {.version = FAST_MSG_VERSION,
                                       .epoch = s->m->node->epoch,
                                       .gpus = (uint32_t)__builtin_popcount(node_replica_gpus(replica)),
                                       .fail_open = replica->fail_open,
                                       .replica = fast_str(replica->id)}};
    int r = reply(s, &out, fds, 2);
    close(fds[0]);
    close(fds[1]);
    return r;
}

static int answer_reserve(struct node_session *s, uint32_t id, const struct fast_msg_mem_reserve *ask)
{
    struct node_share *part = node_share_part(s->share, ask->gpu);
    bool ok = part && node_ledger_reserve(&s->seat[ask->gpu].mem, ask->bytes, ask->family);
    struct fast_msg out = {.type = FAST_MSG_T_mem_reply,
                           .id = id,
                           .mem_reply = {.gpu = ask->gpu,
                                         .granted = ok,
                                         .free_bytes = part ? node_ledger_free(&part->mem) : 0}};
    if (ok)
        node_share_publish(part);
    else
        fast_log(DEBUG, "memory refused", "replica=%s pid=%d bytes=%llu free=%llu",
                 s->share->replica->id, s->pid, (unsigned long long)ask->bytes,
                 (unsigned long long)out.mem_reply.free_bytes);
    return reply(s, &out, NULL, 0);
}

static void on_room(void *arg, uint64_t key, int code, const char *text)
{
    struct node_wish *w = arg;
    struct node_session *s = w->session;
    struct node_wish **at = &s->wishes;
    (void)key;
    (void)code; /* there is room now, or not */
    (void)text;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    if (answer_reserve(s, w->id, &w->ask))
        shutdown(s->fd, SHUT_RDWR); /* closed from the loop */
    free(w);
}

/* How many bytes of unused models have to go for |bytes| more: the ledger knows what was promised, the
 * driver what contexts and other programs take. */
static uint64_t too_few(struct node_session *s, const struct node_share *part, uint64_t bytes)
{
    const struct node *node = s->m->node;
    uint32_t gpu = part->pool->gpu;
    uint64_t lacks = node_ledger_lacks(&s->seat[part->index].mem, bytes), left = 0;
    if (node_stores_cached(node->stores, gpu) && node_gpu_free(node->gpus, gpu, &left) && bytes > left &&
        bytes - left > lacks)
        lacks = bytes - left;
    return lacks;
}

static int on_reserve(struct node_session *s, const struct fast_msg *msg)
{
    const struct fast_msg_mem_reserve *m = &msg->mem_reserve;
    const struct node_share *part = node_share_part(s->share, m->gpu);
    uint64_t lacks = part ? too_few(s, part, m->bytes) : 0;
    struct node_wish *w = lacks && !s->wishes ? malloc(sizeof(*w)) : NULL; /* a hook asks for one thing at a time */
    if (w) {
        *w = (struct node_wish){s->wishes, s, msg->id, *m};
        if (node_stores_make_room(s->m->node->stores, part->pool->gpu, lacks, on_room, w)) {
            s->wishes = w;
            return 0;
        }
        free(w);
    }
    return answer_reserve(s, msg->id, m);
}

static void on_report(struct node_session *s, const struct fast_msg_client_report *r)
{
    bool tell = node_session_may_tell(s);
    if (tell)
        fast_log(INFO, "client report", "replica=%s pid=%d sms=%u mps=%u driver=%u unhooked=%zu",
                 s->share->replica->id, s->pid, r->sm_count, r->mps, r->driver_version,
                 fast_strv_count(r->unhooked));
    const struct node *node = s->m->node;
    s->reported = true;
    s->mps = r->mps == 1;
    s->sm_count = r->sm_count;
    if (s->mps)
        node_mps_client(node->mps);
    if (node_mps_ready(node->mps) && node_share_escaped(s) && tell)
        fast_log(WARN, s->mps ? "client outside its partition" : "client without mps",
                 "replica=%s pid=%d sms=%u; its SM partition is advisory", s->share->replica->id, s->pid, r->sm_count);
    for (size_t i = 0; i < fast_strv_count(r->unhooked) && i < 8 && node_session_may_tell(s); i++)
        fast_log(WARN, "not hooked", "replica=%s symbol=%.80s", s->share->replica->id,
                 fast_strv_get(r->unhooked, i));
}

static void on_want(struct node_session *s, const struct fast_msg_token_want *m)
{
    struct node_share *part = node_share_part(s->share, m->gpu);
    if (part)
        node_share_want(part, s, m->again != 0);
    else
        odd(s, "it wants a token for a GPU that it does not have");
}

static void on_done(struct node_session *s, const struct fast_msg_token_done *m)
{
    struct node_share *part = node_share_part(s->share, m->gpu);
    if (part && node_share_done(part, s, m->token, m->busy_ns, m->want != 0))
        return;
    odd(s, "it gave back a token that it does not hold");
    if (part && m->want) /* it waits, whatever it thought it had */
        node_share_want(part, s, false);
}

static void on_release(struct node_session *s, const struct fast_msg_mem_release *m)
{
    struct node_share *part = node_share_part(s->share, m->gpu);
    if (!part || !node_ledger_release(&s->seat[m->gpu].mem, m->bytes, m->family))
        odd(s, "it released more memory than it had reserved");
    if (part)
        node_share_publish(part);
}

static void on_state(struct node_session *s, const struct fast_msg_mem_state *m)
{
    struct node_share *part = node_share_part(s->share, m->gpu);
    if (!part)
        return;
    node_ledger_set(&s->seat[m->gpu].mem, m->bytes);
    node_share_publish(part);
}

/* Returns non-zero to have the connection closed. */
static int on_message(struct node_session *s, const struct fast_msg *msg)
{
    if (msg->type == FAST_MSG_T_hello)
        return on_hello(s, msg);
    if (!s->share)
        return refuse(s, FAST_EPROTO, "the first message must be hello");
    switch (msg->type) {
    case FAST_MSG_T_token_want:
        on_want(s, &msg->token_want);
        return 0;
    case FAST_MSG_T_token_done:
        on_done(s, &msg->token_done);
        return 0;
    case FAST_MSG_T_mem_reserve:
        return on_reserve(s, msg);
    case FAST_MSG_T_mem_release:
        on_release(s, &msg->mem_release);
        return 0;
    case FAST_MSG_T_mem_state:
        on_state(s, &msg->mem_state);
        return 0;
    case FAST_MSG_T_client_report:
        on_report(s, &msg->client_report);
        return 0;
    default:
        return refuse(s, FAST_EPROTO, "a client may not send this message");
    }
}

/* True while the session may be read from. */
static bool may_speak(struct node_session *s)
{
    if (may_send(s->share, 1))
        return true;
    s->paused = true;
    fast_watch_set(s->watch, 0);
    tick_soon(s->m, TICK);
    odd(s, "it sends too many messages; it is slowed down");
    return false;
}

static void on_readable(void *arg, int events)
{
    struct node_session *s = arg;
    struct node_manager *m = s->m;
    (void)events;
    for (int i = 0; i < BATCH; i++) {
        struct fast_msg msg;
        struct fast_err err;
        int r = fast_packet_recv(s->fd, m->buf, &msg, NULL, &err);
        if (r == -FAST_EBUSY)
            return;
        if (r == -FAST_EPROTO)
            refuse(s, FAST_EPROTO, err.msg);
        if (!r)
            r = on_message(s, &msg);
        if (r) {
            node_session_close(s);
            return;
        }
        if (!s->share || !may_speak(s))
            return;
    }
}

static void session_new(struct node_manager *m, int fd)
{
    struct ucred who = {0};
    socklen_t len = sizeof(who);
    char state = 0;
    struct node_session *s = calloc(1, sizeof(*s));
    if (s)
        s->watch = fast_watch_new(m->node->loop, fd, FAST_LOOP_IN, on_readable, s);
    if (!s || !s->watch) {
        free(s);
        close(fd);
        return;
    }
    if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len)) {
        s->pid = who.pid;
        s->uid = who.uid;
        node_process_stat(s->pid, &s->ticks, &state);
    }
    s->m = m;
    s->fd = fd;
    s->opened = fast_clock_now();
    s->next = m->sessions;
    if (s->next)
        s->next->prev = s;
    m->sessions = s;
    m->session_count++;
    m->strangers++;
    tick_soon(m, TICK);
}

/* What it said may lie unread: the node had no core for a while. */
static bool is_silent(const struct node_session *s, fast_ns now, fast_ns patience)
{
    char byte;
    return !s->share && now - s->opened >= patience &&
           recv(s->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0;
}

/* Who connects and says nothing must not hold the door for those who do: the one that has been silent
 * for longest goes (new sessions are at the head of the list), but not before it has had time to speak: many
 * replicas may come at once, and theirs lies unread. */
static bool drop_a_stranger(struct node_manager *m)
{
    struct node_session *oldest = NULL;
    for (struct node_session *s = m->sessions; s; s = s->next)
        if (!s->share)
            oldest = s;
    if (!oldest || !is_silent(oldest, fast_clock_now(), SILENT))
        return false;
    node_session_close(oldest);
    return true;
}

/* False: whoever comes waits in the socket's queue for the next tick. */
static bool has_place(struct node_manager *m)
{
    return m->strangers < STRANGERS_MAX || drop_a_stranger(m);
}

static void on_connection(void *arg, int events)
{
    struct node_manager *m = arg;
    bool out_of_files = false;
    (void)events;
    for (int i = 0; i < BATCH && !out_of_files && has_place(m); i++) {
        int fd = accept4(m->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
            return;
        out_of_files = fd < 0;
        if (fd >= 0)
            session_new(m, fd);
    }
    if (!out_of_files && has_place(m))
        return;
    fast_watch_set(m->listen_watch, 0);
    m->listen_full = true;
    tick_soon(m, TICK);
}

void node_session_tick(void *arg)
{
    struct node_manager *m = arg;
    fast_ns now = fast_clock_now();
    m->tick_at = 0;
    for (struct node_session *s = m->sessions, *next; s; s = next) {
        next = s->next;
        if (s->paused) {
            s->paused = false;
            fast_watch_set(s->watch, FAST_LOOP_IN);
        }
        if (is_silent(s, now, HELLO_TIMEOUT))
            node_session_close(s);
    }
    look_at_unread(m);
    m->listen_full = false;
    fast_watch_set(m->listen_watch, FAST_LOOP_IN);
    if (m->strangers || m->unread)
        tick_soon(m, TICK);
}

int node_session_listen(struct node_manager *m, struct fast_err *err)
{
    m->sessions_max = SESSIONS_MAX;
    int r = fast_packet_listen(m->node->socket, 0666, &m->listen_fd, err);
    if (r)
        return r;
    m->listen_watch =
        fast_watch_new(m->node->loop, m->listen_fd, FAST_LOOP_IN, on_connection, m);
    return m->listen_watch ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for a listener");
}
