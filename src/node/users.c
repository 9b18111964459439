/* Decides which user a function runs as. Users have numbers and no names: the first of the range is that of
 * functions with a GPU, the others are given to functions as they come, and written to STATE_DIR/users, one line
 * each. A number is given anew only when none is left, to a function that has not started since this node did. */

#include "node/users.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"

#define FILE_MAX (8 << 20)
#define NAMES_MAX 160

struct user {
    char *name; /* NAMESPACE/FUNCTION; NULL: nobody's */
    bool used;  /* since this node started */
};

struct node_users {
    uint32_t first, count; /* of those that functions have by themselves */
    char path[PATH_MAX];
    struct user *user;
};

/* What a function has to get at, seen by another user. */
struct need {
    const char *path;
    int how;
};

/* Tries it: capabilities, user namespaces and the rights of folders all have a say. Returns what is missing, or
 * NULL. */
static const char *find_obstacle(uint32_t uid, const struct need *need, size_t n)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
            _exit(1);
        for (size_t i = 0; i < n; i++)
            if (need[i].path && access(need[i].path, need[i].how))
                _exit(2 + (int)i);
        _exit(0);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    int code = pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    return code == 0 ? NULL : code == 1 ? "this process may not become another user" : need[code - 2].path;
}

/* The simulated driver keeps its state in files that its users share, by their group. */
static void share_folder(const char *dir, uint32_t gid)
{
    DIR *d = dir && !mkdir(dir, 0770) ? opendir(dir) : dir ? opendir(dir) : NULL;
    if (!d)
        return;
    bool ok = !fchown(dirfd(d), (uid_t)-1, gid) && !fchmod(dirfd(d), S_ISGID | 0770);
    for (struct dirent *e; ok && (e = readdir(d));)
        if (e->d_type == DT_REG && !fchownat(dirfd(d), e->d_name, (uid_t)-1, gid, AT_SYMLINK_NOFOLLOW))
            ok = !fchmodat(dirfd(d), e->d_name, 0660, 0);
    closedir(d);
}

static void recall(struct node_users *u)
{
    fast_autofree char *text = NULL;
    char *save = NULL, name[NAMES_MAX];
    unsigned uid = 0;
    if (fast_file_read(u->path, FILE_MAX, &text, NULL, NULL))
        return;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (sscanf(line, "%u %159s", &uid, name) == 2 && uid >= u->first && uid - u->first < u->count) {
            free(u->user[uid - u->first].name);
            u->user[uid - u->first].name = strdup(name);
        }
}

int node_users_new(const struct node_conf *conf, struct node_users **ret, struct fast_err *err)
{
    char run[PATH_MAX];
    struct node_users *u = calloc(1, sizeof(*u));
    if (!u)
        return fast_err_set(err, FAST_ENOMEM, "no memory for users");
    *ret = u;
    if (!conf->users_first)
        return 0;
    snprintf(run, sizeof(run), "%s/run", conf->state_dir);
    snprintf(u->path, sizeof(u->path), "%s/users", conf->state_dir);
    share_folder(conf->sim_dir, conf->users_first);
    const struct need need[] = {{run, X_OK},
                                {conf->hook_path, R_OK},
                                {conf->store_path, X_OK},
                                {conf->sim_libs, X_OK},
                                {conf->sim_dir, R_OK | W_OK | X_OK}};
    const char *obstacle = find_obstacle(conf->users_first, need, FAST_COUNT_OF(need));
    if (obstacle) {
        fast_log(WARN, "functions have the node's user", "user=%u why=\"%s\"", conf->users_first, obstacle);
        return 0;
    }
    u->user = calloc(conf->users_last - conf->users_first, sizeof(*u->user));
    if (!u->user)
        return fast_err_set(err, FAST_ENOMEM, "no memory for users");
    u->first = conf->users_first + 1;
    u->count = conf->users_last - conf->users_first;
    recall(u);
    return 0;
}

void node_users_free(struct node_users *u)
{
    for (uint32_t i = 0; u && u->user && i < u->count; i++)
        free(u->user[i].name);
    if (u)
        free(u->user);
    free(u);
}

uint32_t node_users_shared(const struct node_users *u)
{
    return u->count ? u->first - 1 : 0;
}

static int save(const struct node_users *u, struct fast_err *err)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    for (uint32_t i = 0; f && i < u->count; i++)
        if (u->user[i].name)
            fprintf(f, "%u %s\n", u->first + i, u->user[i].name);
    int r = !f || fclose(f) ? fast_err_set(err, FAST_ENOMEM, "no memory for users")
                            : fast_file_replace(u->path, text, len, 0600, err);
    free(text);
    return r;
}

int node_users_own(struct node_users *u, const char *ns, const char *function, uint32_t *ret, struct fast_err *err)
{
    char name[NAMES_MAX];
    struct user *place = NULL;
    snprintf(name, sizeof(name), "%s/%s", ns, function);
    for (uint32_t i = 0; i < u->count; i++) {
        struct user *v = &u->user[i];
        if (v->name && !strcmp(v->name, name)) {
            v->used = true;
            *ret = u->first + i;
            return 0;
        }
        if (!place || (place->name && (!v->name || (place->used && !v->used))))
            place = v;
    }
    char *copy = place && !place->used ? strdup(name) : NULL;
    if (!copy)
        return fast_err_set(err, FAST_EBUSY, "no user is left for %.100s: give fast-node more --function-users", name);
    free(place->name);
    *place = (struct user){copy, true};
    *ret = u->first + (uint32_t)(place - u->user);
    return save(u, err);
}
