/* Decides when a store runs: from the first client on its socket until it ends by itself. A store that
 * dies before it has said a word is not started again at once, and those who waited for it are sent away,
 * so that they learn of it. It assumes that a store with an inherited socket never removes the file. */
#include "node/stores_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"
#include "io/packet.h"
#include "node/gpu.h"
#include "node/manager.h"
#include "node/mps.h"
#include "node/users.h"
#include "wire/page.h"

#define BACKOFF_MIN FAST_MS(100)
#define BACKOFF_MAX FAST_S(10)
#define RECONNECT FAST_MS(100) /* a store that ends closes its connection first */
#define STOP_MS 1000
#define LOG_MAX (1 << 20)

/* ---- environment ---- */

struct env {
    char **v;
    size_t n;
};

static void env_add(struct env *e, const char *name, const char *value)
{
    char *text = NULL;
    if (value && asprintf(&text, "%s=%s", name, value) >= 0)
        e->v[e->n++] = text;
}

char **node_store_environment(const struct node_store *s, const char *pass)
{
    static const char *const kept[] = {"PATH", "HOME", "TMPDIR", "ASAN_OPTIONS", "TSAN_OPTIONS"};
    const struct node *node = s->all->node;
    const struct node_conf *c = node->conf;
    const char *uuid = node_gpu_uuid(node->gpus, s->gpu);
    char gpu[16];
    struct env e = {.v = calloc(FAST_COUNT_OF(kept) + 9, sizeof(char *))};
    if (!e.v)
        return NULL;
    for (size_t i = 0; i < FAST_COUNT_OF(kept); i++)
        env_add(&e, kept[i], getenv(kept[i]));
    snprintf(gpu, sizeof(gpu), "%u", s->gpu);
    env_add(&e, FAST_ENV_SOCKET, node->socket); /* whose it is; it has no ticket */
    env_add(&e, "CUDA_VISIBLE_DEVICES", c->sim_spec || !*uuid ? gpu : uuid);
    env_add(&e, "CUDA_MPS_PIPE_DIRECTORY", node_mps_pipe_dir(node->mps));
    env_add(&e, "FAST_SIM", c->sim_spec);
    env_add(&e, "FAST_SIM_DIR", c->sim_dir);
    env_add(&e, "LD_LIBRARY_PATH", c->sim_spec ? c->sim_libs : getenv("LD_LIBRARY_PATH"));
    env_add(&e, FAST_ENV_STORE_PASS, pass);
    return e.v;
}

void node_store_environment_free(char **env)
{
    for (char **v = env; v && *v; v++)
        free(*v);
    free(env);
}

void node_stores_env(const struct node_stores *all, const struct node_replica *replica, const char *ns,
                     node_env_fn *add, void *arg)
{
    struct fast_pass pass = {0};
    char text[FAST_PASS_MAX];
    if (!node_stores_ready(all) || replica->gpu >= (uint32_t)all->count)
        return;
    snprintf(pass.ns, sizeof(pass.ns), "%s", ns);
    snprintf(pass.who, sizeof(pass.who), "%s", replica->id);
    if (!fast_pass_make(all->key, &pass, text))
        return;
    add(arg, FAST_ENV_STORE, all->store[replica->gpu].socket);
    add(arg, FAST_ENV_STORE_PASS, text);
    if (all->node->conf->store_lib)
        add(arg, FAST_ENV_STORE_LIB, all->node->conf->store_lib);
}

/* ---- processes ---- */

static int open_log(const struct node_store *s)
{
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/store-%u.log", s->all->node->conf->state_dir, s->gpu);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (fd >= 0 && lseek(fd, 0, SEEK_END) > LOG_MAX && ftruncate(fd, 0))
        fast_log(WARN, "log not cut", "path=%s", path);
    return fd;
}

static void on_exited(void *arg, int events);

static int spawn(struct node_store *s, struct fast_err *err)
{
    char gpu[16], idle[24], probe[PATH_MAX], user[16];
    const struct node_conf *c = s->all->node->conf;
    snprintf(gpu, sizeof(gpu), "%u", s->gpu);
    snprintf(idle, sizeof(idle), "%lldms", (long long)(NODE_STORE_IDLE / FAST_MS(1)));
    snprintf(user, sizeof(user), "%u", node_users_shared(s->all->node->users));
    snprintf(probe, sizeof(probe), "%s/store/probe", c->state_dir);
    const char *argv[] = {c->store_path, "--socket", s->socket, "--listen-fd", "3", "--gpu", gpu,
                          "--key-file", s->all->key_path, "--probe-file", probe, "--idle", idle,
                          "--limit", c->model_limit, "--user", user, NULL};
    char **env = node_store_environment(s, NULL);
    int log_fd = open_log(s);
    struct node_process_spec spec = {argv, (const char *const *)env, "/", log_fd, s->listen_fd};
    int rc = env && log_fd >= 0 ? node_process_spawn(&spec, &s->process, err)
                                : fast_err_set(err, FAST_EIO, "no log for a store");
    node_store_environment_free(env);
    if (log_fd >= 0)
        close(log_fd);
    if (rc)
        return rc;
    s->exited = fast_watch_new(s->all->node->loop, s->process.pidfd, FAST_LOOP_IN, on_exited, s);
    rc = s->exited ? node_store_connect(s, err) : fast_err_set(err, FAST_ENOMEM, "no memory to watch");
    if (rc) {
        fast_watch_free(s->exited);
        s->exited = NULL;
        node_process_end(&s->process);
    }
    return rc;
}

/* Not at once, and those who wait are told. */
static void back_off(struct node_store *s)
{
    fast_ns wait = BACKOFF_MIN << (s->deaths < 7 ? s->deaths : 7);
    s->deaths++;
    for (int fd; (fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0;)
        close(fd);
    fast_watch_set(s->listen_watch, 0);
    fast_timer_set(s->timer, fast_loop_now(s->all->node->loop) +
                                 (wait < BACKOFF_MAX ? wait : BACKOFF_MAX));
}

static void on_client(void *arg, int events)
{
    struct node_store *s = arg;
    struct fast_err err = {0};
    (void)events;
    if (spawn(s, &err)) {
        fast_log(ERROR, "store not started", "gpu=%u error=\"%s\"", s->gpu, err.msg);
        back_off(s);
        return;
    }
    fast_log(INFO, "store started", "gpu=%u pid=%d", s->gpu, (int)s->process.pid);
    fast_watch_set(s->listen_watch, 0); /* its clients are the store's now */
}

static void on_timer(void *arg)
{
    struct node_store *s = arg;
    if (s->process.pidfd < 0)
        fast_watch_set(s->listen_watch, FAST_LOOP_IN);
    else if (s->fd < 0 && node_store_connect(s, NULL))
        node_process_signal(&s->process, SIGTERM);
}

static int listen_here(struct node_store *s, struct fast_err *err)
{
    int rc = fast_packet_listen(s->socket, 0666, &s->listen_fd, err);
    if (rc)
        return rc;
    s->listen_watch =
        fast_watch_new(s->all->node->loop, s->listen_fd, FAST_LOOP_IN, on_client, s);
    return s->listen_watch ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory for a listener");
}

static void gone(struct node_store *s)
{
    struct fast_err err;
    bool worked = s->worked;
    s->worked = false;
    node_store_hang_up(s);
    if (s->listen_fd < 0 && listen_here(s, &err)) {
        fast_log(ERROR, "no socket for a store", "gpu=%u error=\"%s\"", s->gpu, err.msg);
        return;
    }
    if (worked) {
        s->deaths = 0;
        fast_watch_set(s->listen_watch, FAST_LOOP_IN);
    } else {
        back_off(s);
    }
}

static void on_exited(void *arg, int events)
{
    struct node_store *s = arg;
    int status = -1;
    char how[96];
    (void)events;
    fast_watch_free(s->exited); /* before the pidfd is closed */
    s->exited = NULL;
    if (!node_process_reap(&s->process, &status)) { /* cannot happen; better looked at again */
        s->exited = fast_watch_new(s->all->node->loop, s->process.pidfd, FAST_LOOP_IN, on_exited, s);
        return;
    }
    node_process_status_text(status, how, sizeof(how));
    fast_log(INFO, "store ended", "gpu=%u how=\"%s\"", s->gpu, how);
    gone(s);
}

int node_store_adopt(struct node_store *s, pid_t pid)
{
    uint64_t ticks = 0;
    char state = 0;
    if (!node_process_stat(pid, &ticks, &state) || node_process_adopt(pid, ticks, &s->process, NULL))
        return -FAST_ENOENT; /* the end of its connection is about to be told */
    s->exited = fast_watch_new(s->all->node->loop, s->process.pidfd, FAST_LOOP_IN, on_exited, s);
    fast_log(INFO, "store adopted", "gpu=%u pid=%d", s->gpu, (int)pid);
    return s->exited ? 0 : -FAST_ENOMEM;
}

/* It has ended, which is about to be told; or it has given us up, since we did not read for long: then we
 * come back. One that never let us in is of no use. */
void node_store_lost(struct node_store *s)
{
    bool greeted = s->greeted;
    if (s->process.pidfd < 0) {
        gone(s);
        return;
    }
    node_store_hang_up(s);
    if (greeted)
        fast_timer_set(s->timer, fast_loop_now(s->all->node->loop) + RECONNECT);
    else
        node_process_signal(&s->process, SIGTERM);
}

/* ---- life ---- */

static int make_key(struct node_stores *all, struct fast_err *err)
{
    fast_autofree char *old = NULL;
    size_t len = 0;
    struct fast_pass admin = {.admin = true, .ns = "-", .who = "node"};
    int n = snprintf(all->key_path, sizeof(all->key_path), "%s/store.key",
                     all->node->conf->state_dir);
    int rc = n < (int)sizeof(all->key_path) ? 0 : fast_err_set(err, FAST_EINVAL, "path too long");
    if (!rc && !fast_file_read(all->key_path, FAST_PASS_KEY, &old, &len, NULL) &&
        len == FAST_PASS_KEY) {
        memcpy(all->key, old, FAST_PASS_KEY);
    } else if (!rc) {
        rc = getrandom(all->key, FAST_PASS_KEY, 0) == FAST_PASS_KEY
                 ? fast_file_replace(all->key_path, all->key, FAST_PASS_KEY, 0600, err)
                 : fast_err_set(err, FAST_EIO, "no random numbers: %s", strerror(errno));
    }
    if (!rc && !fast_pass_make(all->key, &admin, all->admin))
        rc = fast_err_set(err, FAST_EBUG, "no pass for the node itself");
    return rc;
}

static int begin(struct node_store *s, struct node_stores *all, uint32_t gpu, struct fast_err *err)
{
    s->all = all;
    s->gpu = gpu;
    s->listen_fd = s->fd = -1;
    s->process = NODE_PROCESS_NONE;
    s->timer = fast_timer_new(all->node->loop, on_timer, s);
    if (!s->timer)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a store");
    if (snprintf(s->socket, sizeof(s->socket), "%s/run/store-%u.sock", all->node->conf->state_dir, gpu) >=
        (int)sizeof(s->socket))
        return fast_err_set(err, FAST_EINVAL, "state directory \"%.80s\" is too long for a socket",
                            all->node->conf->state_dir);
    /* One of an earlier life? Its first answer says which process it is. */
    return node_store_connect(s, NULL) ? listen_here(s, err) : 0;
}

/* Where a store may write, which is not this user. */
static int make_folder(const struct node *node, struct fast_err *err)
{
    char path[PATH_MAX];
    uint32_t user = node_users_shared(node->users);
    snprintf(path, sizeof(path), "%s/store", node->conf->state_dir);
    int rc = fast_dir_make(path, 0700, err);
    if (!rc && user && chown(path, user, user))
        rc = fast_err_set(err, FAST_EIO, "cannot give %.150s to user %u: %s", path, user, strerror(errno));
    return rc;
}

int node_stores_new(struct node *node, struct node_stores **ret, struct fast_err *err)
{
    struct node_stores *all = calloc(1, sizeof(*all));
    if (!all)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the stores");
    all->node = node;
    int rc = node->conf->store_path ? make_key(all, err) : 0;
    rc = rc ? rc : make_folder(node, err);
    for (int i = 0; node->conf->store_path && i < node_gpu_count(node->gpus) && !rc; i++) {
        all->count = i + 1;
        rc = begin(&all->store[i], all, (uint32_t)i, err);
    }
    if (rc) {
        node_stores_free(all);
        return rc;
    }
    *ret = all;
    return 0;
}

bool node_stores_ready(const struct node_stores *all)
{
    return all->count > 0;
}

void node_stores_quit(struct node_stores *all)
{
    for (int i = 0; all && i < all->count; i++)
        node_process_signal(&all->store[i].process, SIGTERM);
    for (int i = 0; all && i < all->count; i++) {
        struct node_store *s = &all->store[i];
        struct pollfd p = {.fd = s->process.pidfd, .events = POLLIN};
        fast_watch_free(s->exited);
        s->exited = NULL;
        if (s->process.pidfd < 0)
            continue;
        poll(&p, 1, STOP_MS);
        node_process_end(&s->process);
    }
}

void node_stores_free(struct node_stores *all)
{
    if (!all)
        return;
    for (struct node_job *j = all->jobs; j; j = j->next)
        j->done = NULL;
    for (int i = 0; i < all->count; i++) {
        struct node_store *s = &all->store[i];
        bool lives = s->process.pidfd >= 0;
        node_store_hang_up(s);
        fast_watch_free(s->exited);
        fast_watch_free(s->listen_watch);
        fast_timer_free(s->timer);
        node_process_fini(&s->process);
        if (s->listen_fd >= 0)
            close(s->listen_fd);
        if (s->listen_fd >= 0 && !lives)
            unlink(s->socket);
    }
    while (all->jobs) { /* pushes */
        all->jobs->waiting = 1;
        node_job_answer(all, all->jobs, FAST_EPEER, "");
    }
    free(all);
}
