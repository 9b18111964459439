/* Decides what becomes of the layers of an image. Each is unpacked with tar into a folder of its own, so that no link
 * of another layer can lead it astray (tar sees to those of the same archive), and then moved over what is there,
 * where no link is followed: no image can write outside its folder. It assumes that the folder is closed to all others
 * until it is done. What tar is about to write it tells first, and is stopped where that is too much. */

#include "cli/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/file.h"

#define DEPTH_MAX 200               /* of folders: each costs two paths on the stack */
/* A header of an archive may say that it is as large as it likes. What is written to a file is told in advance, but for
 * that there is no need to believe either. */
#define TAR "ulimit -v 2097152; ulimit -f \"$0\"; export LC_ALL=C; exec tar \"$@\""

extern char **environ;

static int failed(const char *what, const char *path, struct fast_err *err)
{
    return fast_err_set(err, FAST_EIO, "cannot %s %.200s: %s", what, path, strerror(errno));
}

/* ---- tools ---- */

/* |input|: NULL for nothing. |ret|: what it writes. */
static int start_tool(const char *const *argv, const char *input, FILE **ret, pid_t *ret_pid, struct fast_err *err)
{
    posix_spawn_file_actions_t act;
    int out[2], r;
    if (pipe2(out, O_CLOEXEC))
        return fast_err_set(err, FAST_EIO, "no pipe for %s: %s", argv[0], strerror(errno));
    posix_spawn_file_actions_init(&act);
    posix_spawn_file_actions_addopen(&act, STDIN_FILENO, input ? input : "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&act, out[1], STDOUT_FILENO);
    r = posix_spawnp(ret_pid, argv[0], &act, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&act);
    close(out[1]);
    *ret = r ? NULL : fdopen(out[0], "r");
    if (*ret)
        return 0;
    close(out[0]);
    return fast_err_set(err, FAST_ENOENT, "cannot execute %s: %s", argv[0], strerror(r ? r : errno));
}

static int end_tool(const char *name, pid_t pid, FILE *out, struct fast_err *err)
{
    int status = 0;
    fclose(out);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status ? fast_err_set(err, FAST_EIO, "%s failed", name) : 0;
}

int image_ask_tool(const char *const *argv, const char *path, char *ret, size_t cap, struct fast_err *err)
{
    FILE *out;
    pid_t pid;
    int r = start_tool(argv, path, &out, &pid, err);
    if (r)
        return r;
    if (!fgets(ret, (int)cap, out))
        *ret = 0;
    ret[strcspn(ret, "\n")] = 0;
    return end_tool(argv[0], pid, out, err);
}

/* A line of `tar -xvv`: KIND-AND-MODE OWNER SIZE DATE TIME NAME, of a device MAJOR,MINOR as its size. */
static int take_room(const char *line, struct image_room *room, struct fast_err *err)
{
    unsigned long long size = 0;
    int at = 0;
    bool folder = !strncmp(line, "drwx", 4) && strstr(line, "  Creating directory: "); /* that it has no entry for */
    if (*line == 'b' || *line == 'c') {
        sscanf(line, "%*s %*s %*s %*s %*s %n", &at);
        return fast_err_set(err, FAST_EINVAL, "it has a device outside /dev, %.200s: only the machine gives devices",
                            line + at);
    }
    if (sscanf(line, "%*s %*s %llu", &size) != 1 && !folder)
        return fast_err_set(err, FAST_EINVAL, "tar tells of a file in a way that is not known: %.200s", line);
    if (size > room->bytes || !room->files)
        return fast_err_set(err, FAST_EINVAL, "its files are too %s: they would take more than nine tenths of %s",
                            size > room->bytes ? "large" : "many", "what is free for images");
    room->bytes -= size;
    room->files--;
    return 0;
}

static int unpack(const char *blob, const char *into, struct image_room *room, struct fast_err *err)
{
    /* Owners count, by number, until image_settle(); only root can give files to them. */
    char blocks[24];
    const char *const tar[] = {"sh", "-c", TAR, blocks, "-xvvpf", blob, "-C", into,
                               geteuid() ? "--no-same-owner" : "--same-owner", "--numeric-owner", "--anchored",
                               "--exclude=dev/*", "--exclude=./dev/*", "--exclude=/dev/*", NULL};
    snprintf(blocks, sizeof(blocks), "%llu", (unsigned long long)room->bytes / 512);
    FILE *out;
    pid_t pid;
    char *line = NULL;
    size_t cap = 0;
    int r = start_tool(tar, NULL, &out, &pid, err);
    if (r)
        return r;
    while (!r && getline(&line, &cap, out) > 0) {
        line[strcspn(line, "\n")] = 0;
        r = take_room(line, room, err);
    }
    free(line);
    if (!r)
        return end_tool("tar", pid, out, err);
    kill(pid, SIGKILL);
    end_tool("tar", pid, out, NULL);
    return r;
}

/* ---- one layer over the others ---- */

static bool is_dot(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

static int join(char ret[PATH_MAX], const char *dir, const char *name, struct fast_err *err)
{
    if (snprintf(ret, PATH_MAX, "%s/%s", dir, name) < PATH_MAX)
        return 0;
    return fast_err_set(err, FAST_EINVAL, "a path in it is too long: %.200s", name);
}

typedef int each_fn(void *arg, const char *dir, const char *name, struct fast_err *err);

/* Of the entries of |dir|, those that begin with ".wh." (|marks|) or the others. */
static int each(const char *dir, bool marks, each_fn *fn, void *arg, struct fast_err *err)
{
    int r = 0;
    DIR *d = opendir(dir);
    if (!d)
        return failed("read", dir, err);
    for (struct dirent *e; !r && (e = readdir(d));)
        if (!is_dot(e->d_name) && !strncmp(e->d_name, ".wh.", 4) == marks)
            r = fn(arg, dir, e->d_name, err);
    closedir(d);
    return r;
}

/* What is there, a folder with all of it, goes. */
static int clear(const char *path, struct fast_err *err)
{
    struct stat st;
    return lstat(path, &st) ? 0 : fast_dir_remove(path, err);
}

static int clear_entry(void *arg, const char *dir, const char *name, struct fast_err *err)
{
    char path[PATH_MAX];
    (void)arg;
    int r = join(path, dir, name, err);
    return r ? r : clear(path, err);
}

struct merge {
    const char *to;
    int depth;
};

/* A mark ".wh.NAME": NAME of the layers below is gone; ".wh..wh..opq": all of the folder is. */
static int carry_out_mark(void *arg, const char *dir, const char *mark, struct fast_err *err)
{
    const struct merge *m = arg;
    char path[PATH_MAX];
    int r = 0;
    if (!strcmp(mark, ".wh..wh..opq"))
        r = each(m->to, false, clear_entry, NULL, err);
    else if (mark[4] && !is_dot(mark + 4))
        r = clear_entry(NULL, m->to, mark + 4, err);
    r = r ? r : join(path, dir, mark, err);
    return r ? r : clear(path, err);
}

static int merge_folder(const char *from, const struct stat *st, const char *to, int depth, struct fast_err *err);

static int merge_entry(void *arg, const char *dir, const char *name, struct fast_err *err)
{
    const struct merge *m = arg;
    char from[PATH_MAX], to[PATH_MAX];
    struct stat st, there;
    int r = join(from, dir, name, err);
    r = r ? r : join(to, m->to, name, err);
    if (r)
        return r;
    if (lstat(from, &st))
        return failed("look at", from, err);
    bool exists = !lstat(to, &there);
    if (exists && S_ISDIR(there.st_mode) != S_ISDIR(st.st_mode) && (r = clear(to, err)))
        return r;
    if (S_ISDIR(st.st_mode))
        return merge_folder(from, &st, to, m->depth + 1, err);
    return rename(from, to) ? failed("place", to, err) : 0;
}

/* |to| may be there, as a folder. Who is not root needs the rights to move what is in it. */
static int merge_folder(const char *from, const struct stat *st, const char *to, int depth, struct fast_err *err)
{
    struct merge m = {to, depth};
    if (depth > DEPTH_MAX)
        return fast_err_set(err, FAST_EINVAL, "it has folders in one another more than %d deep", DEPTH_MAX);
    if ((mkdir(to, 0700) && errno != EEXIST) || chmod(to, 0700) || chmod(from, 0700))
        return failed("make", to, err);
    int r = each(from, true, carry_out_mark, &m, err);
    r = r ? r : each(from, false, merge_entry, &m, err);
    if (!r && ((geteuid() == 0 && lchown(to, st->st_uid, st->st_gid)) || chmod(to, st->st_mode & 07777)))
        r = failed("give its mode to", to, err);
    return r;
}

int image_lay_over(const char *blob, const char *root, struct image_room *room, struct fast_err *err)
{
    char stage[PATH_MAX];
    struct stat st = {.st_mode = 0700, .st_uid = geteuid(), .st_gid = getegid()};
    if (snprintf(stage, sizeof(stage), "%s.layer", root) >= (int)sizeof(stage))
        return fast_err_set(err, FAST_EINVAL, "the path of the image is too long");
    int r = clear(stage, err); /* of an attempt that was cut off */
    r = r ? r : fast_dir_make(stage, 0700, err);
    r = r ? r : unpack(blob, stage, room, err);
    r = r ? r : merge_folder(stage, &st, root, 0, err);
    clear(stage, NULL);
    return r;
}

/* ---- the whole ---- */

/* Its own user is nobody's here: what that one could read, everybody can. Without set-user-ID: else any user of the
 * machine could become root by a program of an image. */
static mode_t mode_for_all(const struct stat *st, const struct image_user *user)
{
    mode_t may = st->st_uid == user->uid ? st->st_mode >> 6 : st->st_gid == user->gid ? st->st_mode >> 3 : st->st_mode;
    if (user->uid == 0)
        may = (S_ISDIR(st->st_mode) ? 5 : 4) | (st->st_mode & 0111 ? 1 : 0);
    return (st->st_mode & 01777) | (may & 5);
}

static int settle_entry(void *arg, const char *dir, const char *name, struct fast_err *err)
{
    char path[PATH_MAX];
    struct stat st;
    int r = join(path, dir, name, err);
    if (r)
        return r;
    if (lstat(path, &st))
        return failed("look at", path, err);
    if (S_ISLNK(st.st_mode))
        return geteuid() == 0 && lchown(path, 0, 0) ? failed("take", path, err) : 0;
    if (S_ISDIR(st.st_mode)) {
        if (geteuid() && chmod(path, st.st_mode | 0700)) /* whose folders would else be closed to itself */
            return failed("open", path, err);
        r = each(path, false, settle_entry, arg, err);
        r = r ? r : each(path, true, settle_entry, arg, err);
    }
    if (r)
        return r;
    mode_t mode = geteuid() == 0 ? mode_for_all(&st, arg) : (st.st_mode & 01777) | (S_ISDIR(st.st_mode) ? 0700 : 0400);
    bool ok = (geteuid() || !lchown(path, 0, 0)) && !chmod(path, mode);
    return ok ? 0 : failed("give its mode to", path, err);
}

int image_settle(const char *root, const struct image_user *user, struct fast_err *err)
{
    struct image_user copy = *user;
    int r = each(root, false, settle_entry, &copy, err);
    return r ? r : chmod(root, 0755) ? failed("open", root, err) : 0;
}
