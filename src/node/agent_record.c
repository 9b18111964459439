#include "node/agent.h"

/* What the node knows of a replica on disk, state_dir/replicas/ID: a head and the replica_start
 * message. It is written after every start and when the replica becomes ready, and removed when the
 * replica is stopped, so that after a crash of the node the folder says what has to run.
 *
 * A record is trusted no more than a message: its checks are those of replica_start. A process in it
 * is ours only if it began at the time that the record says, in this boot of the machine. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/cgroup.h"
#include "io/file.h"

#define RECORD_MAGIC "FASTREP1"
#define BOOT_ID_LEN 40

struct record {
    char magic[8];
    char boot[BOOT_ID_LEN];
    uint64_t ticket_hi, ticket_lo;
    uint64_t ticks, started_ms;
    uint32_t pid, port, restarts, exit_code;
    uint32_t up_ms, ready, sm_running, pad;
};

static void read_boot_id(char *buf)
{
    memset(buf, 0, BOOT_ID_LEN);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (read(fd, buf, BOOT_ID_LEN - 1) < 0)
        buf[0] = 0;
    close(fd);
}

static void record_path(const struct agent_replica *r, char *buf, size_t size)
{
    snprintf(buf, size, "%s/replicas/%s", r->agent->node->conf->state_dir, r->shared.id);
}

int node_agent_save(const struct agent_replica *r, struct fast_err *err)
{
    char path[PATH_MAX];
    struct record rec = {.magic = RECORD_MAGIC,
                         .ticket_hi = r->shared.ticket_hi,
                         .ticket_lo = r->shared.ticket_lo,
                         .ticks = r->process.ticks,
                         .started_ms = r->started_ms,
                         .pid = (uint32_t)r->process.pid,
                         .port = r->port,
                         .restarts = r->life.restarts,
                         .exit_code = r->exit_code,
                         .up_ms = r->up_ms,
                         .ready = r->life.running && r->life.was_ready,
                         .sm_running = (uint32_t)r->shared.sm_running};
    read_boot_id(rec.boot);
    fast_autofree char *buf = malloc(sizeof(rec) + r->packet_len);
    if (!buf)
        return fast_err_set(err, FAST_ENOMEM, "no memory for the record of %s", r->shared.id);
    memcpy(buf, &rec, sizeof(rec));
    memcpy(buf + sizeof(rec), r->packet, r->packet_len);
    record_path(r, path, sizeof(path));
    return fast_file_replace(path, buf, sizeof(rec) + r->packet_len, 0600, err);
}

void node_agent_unsave(const struct agent_replica *r)
{
    char path[PATH_MAX];
    record_path(r, path, sizeof(path));
    if (unlink(path) && errno != ENOENT)
        fast_log(ERROR, "record not removed", "path=%s error=%s", path, strerror(errno));
}

/* ---- recovery ---- */

static int decode(struct node_agent *agent, const char *name, const char *data, size_t len,
                  struct record *ret_rec, struct agent_replica **ret, struct fast_err *err)
{
    struct fast_msg msg;
    if (len < sizeof(*ret_rec) || memcmp(data, RECORD_MAGIC, 8) != 0)
        return fast_err_set(err, FAST_EINVAL, "it is not a record of this version");
    memcpy(ret_rec, data, sizeof(*ret_rec));
    int rc = fast_msg_decode(data + sizeof(*ret_rec), len - sizeof(*ret_rec), &msg, err);
    if (rc)
        return rc;
    if (msg.type != FAST_MSG_T_replica_start || strcmp(msg.replica_start.replica.p, name) != 0)
        return fast_err_set(err, FAST_EINVAL, "it is of another replica");
    if (ret_rec->port > UINT16_MAX || ret_rec->sm_running > FAST_SM_PCT_MAX)
        return fast_err_set(err, FAST_EINVAL, "port or SM partition is out of range");
    return node_agent_replica_new(agent, &msg, ret, err);
}

/* Puts one replica into the table, with its process if that still runs. */
static int restore(struct node_agent *agent, const char *name, const char *data, size_t len,
                   struct fast_err *err)
{
    struct record rec;
    struct agent_replica *r = NULL;
    char boot[BOOT_ID_LEN];
    int rc = decode(agent, name, data, len, &rec, &r, err);
    if (rc)
        return rc;
    r->shared.ticket_hi = rec.ticket_hi;
    r->shared.ticket_lo = rec.ticket_lo;
    r->shared.sm_running = (int)rec.sm_running;
    r->port = rec.port;
    r->exit_code = rec.exit_code;
    r->started_ms = rec.started_ms;
    r->up_ms = rec.up_ms;
    read_boot_id(boot);
    bool lives = !memcmp(boot, rec.boot, sizeof(boot)) &&
                 !node_process_adopt((pid_t)rec.pid, rec.ticks, &r->process, NULL);
    rc = node_agent_insert(agent, r, err);
    if (rc) { /* for example: its GPU is gone. A process without limits must not go on. */
        node_process_signal(&r->process, SIGKILL);
        node_agent_replica_free(r);
        return rc;
    }
    fast_ns now = fast_loop_now(agent->node->loop);
    node_life_begin(&r->life, node_agent_start_timeout(r), now);
    if (lives) {
        node_life_adopt(&r->life, node_agent_start_timeout(r), rec.ready, now);
        r->adopted = true;
        fast_proc_user(fast_proc_inner((uint32_t)r->process.pid), &r->user);
        if (r->user == geteuid())
            r->user = 0;
        rc = node_agent_watch(r, err);
    }
    r->life.restarts = rec.restarts;
    return rc;
}

static void load(struct node_agent *agent, const char *folder, const char *name)
{
    char path[PATH_MAX], bad[PATH_MAX];
    struct fast_err err = {0};
    fast_autofree char *data = NULL;
    size_t len = 0;
    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
        return;
    if (!fast_file_read(path, FAST_MSG_MAX + sizeof(struct record), &data, &len, &err) &&
        !restore(agent, name, data, len, &err))
        return;
    fast_log(ERROR, "record not usable", "path=%s error=%s", path, err.msg);
    if (snprintf(bad, sizeof(bad), "%s.bad", path) < (int)sizeof(bad))
        rename(path, bad);
}

static bool is_adopted(void *arg, const char *ticket)
{
    const struct node_agent *agent = arg;
    char hex[33];
    for (int i = 0; i < agent->count; i++) {
        const struct agent_replica *r = agent->replicas[i];
        snprintf(hex, sizeof(hex), "%016llx%016llx", (unsigned long long)r->shared.ticket_hi,
                 (unsigned long long)r->shared.ticket_lo);
        if (r->life.running && !strcmp(hex, ticket))
            return true;
    }
    return false;
}

/* What died while nobody looked is started again, and has its first death behind it. */
static void resume(struct agent_replica *r)
{
    if (r->life.running) {
        fast_log(INFO, "replica adopted", "replica=%s pid=%d port=%u", r->shared.id,
                 (int)r->process.pid, r->port);
        node_agent_perform(r, NODE_LIFE_TELL);
        return;
    }
    fast_log(WARN, "replica died while the node was away", "replica=%s", r->shared.id);
    snprintf(r->text, sizeof(r->text), "ended while the node was away");
    r->life.restarts++;
    node_agent_perform(r, NODE_LIFE_SPAWN | NODE_LIFE_TELL);
}

int node_agent_recover(struct node_agent *agent, struct fast_err *err)
{
    char folder[PATH_MAX];
    struct agent_replica *all[AGENT_REPLICAS_MAX];
    snprintf(folder, sizeof(folder), "%s/replicas", agent->node->conf->state_dir);
    DIR *dir = opendir(folder);
    if (!dir)
        return fast_err_set(err, FAST_EIO, "cannot read %.180s: %s", folder, strerror(errno));
    for (struct dirent *d; (d = readdir(dir));) {
        const char *dot = strrchr(d->d_name, '.');
        if (d->d_name[0] == '.' || !dot || !strcmp(dot, ".bad"))
            continue;
        if (dot[strlen(dot) - 1] == '~') /* the node was killed while it wrote */
            unlinkat(dirfd(dir), d->d_name, 0);
        else
            load(agent, folder, d->d_name);
    }
    closedir(dir);
    int strays = node_process_kill_strays(agent->node->socket, is_adopted, agent);
    if (strays)
        fast_log(WARN, "processes without a record killed", "count=%d", strays);
    fast_cgroup_sweep(&fast_cgroup_here);
    int count = agent->count;
    memcpy(all, agent->replicas, sizeof(all)); /* one whose start fails stays, in back-off */
    for (int i = 0; i < count; i++)
        resume(all[i]);
    return 0;
}
