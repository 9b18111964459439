/* Puts a file into a store: fast-store --push does it, in a process of its own with a context on the GPU,
 * which this one must not have. Its last line says how it went. */
#include "node/stores_impl.h"
#include "node/users.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/file.h"

static void on_exited(void *arg, int events)
{
    struct node_job *job = arg;
    char text[256];
    int status = -1;
    (void)events;
    fast_watch_free(job->exited);
    job->exited = NULL;
    node_process_reap(&job->process, &status);
    fast_file_last_line(job->output_fd, text, sizeof(text));
    const char *at = strncmp(text, "fast-store: ", 12) ? text : text + 12;
    node_job_answer(job->all, job, status ? FAST_EIO : FAST_OK, at);
}

void node_job_end_process(struct node_job *job)
{
    fast_watch_free(job->exited);
    job->exited = NULL;
    if (job->process.pidfd >= 0)
        node_process_end(&job->process);
    if (job->output_fd >= 0)
        close(job->output_fd);
    job->output_fd = -1;
}

static int spawn(struct node_store *s, const struct fast_msg_model_push *m, struct node_job *job,
                 struct fast_err *err)
{
    struct fast_pass pass = {.admin = true, .who = "push"}; /* may pin and share */
    char text[FAST_PASS_MAX];
    const char *argv[14] = {s->all->node->conf->store_path, "--socket", s->socket, "--push", m->path.p,
                            "--model", m->name.p};
    int n = 7;
    snprintf(pass.ns, sizeof(pass.ns), "%s", m->ns.p);
    if (!fast_pass_make(s->all->key, &pass, text))
        return fast_err_set(err, FAST_EINVAL, "namespace \"%.80s\" is not a name", m->ns.p);
    if (m->version.len) {
        argv[n++] = "--version";
        argv[n++] = m->version.p;
    }
    if (m->flags & FAST_MODEL_F_SHARED)
        argv[n++] = "--shared";
    if (m->flags & FAST_MODEL_F_PINNED)
        argv[n++] = "--pinned";
    char user[16];
    snprintf(user, sizeof(user), "%u", node_users_shared(s->all->node->users));
    argv[n++] = "--user";
    argv[n++] = user;
    char **env = node_store_environment(s, text);
    struct node_process_spec spec = {argv, (const char *const *)env, "/", job->output_fd, -1};
    int rc = env ? node_process_spawn(&spec, &job->process, err)
                 : fast_err_set(err, FAST_ENOMEM, "no memory to start a process");
    node_store_environment_free(env);
    return rc;
}

int node_store_push(struct node_store *s, const struct fast_msg_model_push *m, struct node_job *job,
                    struct fast_err *err)
{
    job->output_fd = memfd_create("fast-push", MFD_CLOEXEC);
    int rc = m->path.p[0] != '/' || !m->name.len
                 ? fast_err_set(err, FAST_EINVAL, "path, name: an absolute path and a name are needed")
             : job->output_fd < 0 ? fast_err_set(err, FAST_EIO, "no file for what it says")
                                  : spawn(s, m, job, err);
    if (!rc) {
        job->exited =
            fast_watch_new(s->all->node->loop, job->process.pidfd, FAST_LOOP_IN, on_exited, job);
        rc = job->exited ? 0 : fast_err_set(err, FAST_ENOMEM, "no memory to watch");
    }
    job->waiting += !rc;
    return rc;
}
