/* fast image: the small image store of one machine, STATE_DIR/images. An image is NAME.json, which
 * the gateway reads at each deployment, and for an image with files the folder NAME.root beside it.
 * Each layer of an OCI layout is unpacked into a folder of its own with tar, which keeps the links of
 * one archive from leading out of it, and then laid over the others with cp, which does not write
 * through a link where a layer has a folder: no image can write outside its folder. */

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/words.h"
#include "cli/api.h"
#include "cli/platform.h"
#include "cli/table.h"
#include "io/file.h"

#define JSON_FILE_MAX (4u << 20)
#define DEPTH_MAX 64

extern char **environ;

struct image {
    const char *state_dir, *mode, *command;
};

static const struct cli_opt opts[] = {
    {"state-dir", 0, CLI_STR, offsetof(struct image, state_dir), "DIR", "as of `fast up`"},
    {"mode", 'm', CLI_STR, offsetof(struct image, mode), "MODE",
     "port: it listens on $PORT (default); classic, streaming or http: behind a watchdog"},
    {"command", 'c', CLI_STR, offsetof(struct image, command), "LINE",
     "what to run in a folder; default: its entry point"},
};

/* STATE_DIR/images/NAME|suffix|, with "/" as %2F. */
static int path_of(const char *dir, const char *name, const char *suffix, char *ret, size_t cap,
                   struct fast_err *err)
{
    size_t at = (size_t)snprintf(ret, cap, "%s/", dir);
    if (!*name || *name == '.' || strlen(name) > 200 || strspn(name, "/") == strlen(name))
        return fast_err_set(err, FAST_EINVAL, "\"%.80s\" is not the name of an image", name);
    for (const char *p = name; *p && at + 8 < cap; p++)
        at += (size_t)snprintf(ret + at, cap - at, *p == '/' ? "%%2F" : "%c", *p);
    snprintf(ret + at, cap - at, "%s", suffix);
    return 0;
}

static int run_tool(const char *const *argv, struct fast_err *err)
{
    pid_t pid;
    int status = 0, r = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ);
    if (r)
        return fast_err_set(err, FAST_ENOENT, "cannot execute %s: %s", argv[0], strerror(r));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status ? fast_err_set(err, FAST_EIO, "%s failed on %.200s", argv[0], argv[2]) : 0;
}

/* ---- OCI layouts ---- */

static int load(const char *path, json_t **ret, struct fast_err *err)
{
    fast_autofree char *text = NULL;
    json_error_t je;
    int r = fast_file_read(path, JSON_FILE_MAX, &text, NULL, err);
    if (r)
        return r;
    *ret = json_loads(text, 0, &je);
    return *ret ? 0 : fast_err_set(err, FAST_EINVAL, "%.200s: line %d: %.80s", path, je.line, je.text);
}

/* The file of a digest "sha256:..."; a digest that is none cannot lead elsewhere. */
static int blob_path(const char *layout, const json_t *descriptor, char *ret, size_t cap,
                     struct fast_err *err)
{
    const char *digest = json_text(descriptor, "digest"), *hex = strchr(digest, ':');
    if (!hex || hex[1 + strspn(hex + 1, "0123456789abcdef")] || !hex[1] ||
        strspn(digest, "abcdefghijklmnopqrstuvwxyz0123456789") != (size_t)(hex - digest))
        return fast_err_set(err, FAST_EINVAL, "%s: a digest is missing or malformed", layout);
    snprintf(ret, cap, "%s/blobs/%.*s/%s", layout, (int)(hex - digest), digest, hex + 1);
    return 0;
}

static int load_blob(const char *layout, const json_t *descriptor, json_t **ret, struct fast_err *err)
{
    char path[PATH_MAX];
    int r = blob_path(layout, descriptor, path, sizeof(path), err);
    return r ? r : load(path, ret, err);
}

static bool is_real_dir(const char *path)
{
    struct stat st;
    return *path && !lstat(path, &st) && S_ISDIR(st.st_mode);
}

static bool join(char *ret, size_t cap, const char *dir, const char *name)
{
    return snprintf(ret, cap, "%s/%s", dir, name) < (int)cap;
}

/* One mark ".wh.NAME" of a layer: NAME of the layers below is gone; ".wh..wh..opq": all of the
 * folder is. */
static int carry_out_mark(const char *mark, const char *below, struct fast_err *err)
{
    char path[PATH_MAX];
    struct stat st;
    if (!is_real_dir(below))
        return 0;
    if (!strcmp(mark, ".wh..wh..opq")) {
        int r = fast_dir_remove(below, err);
        return r ? r : fast_dir_make(below, 0755, err);
    }
    bool named = mark[4] && strcmp(mark + 4, ".") && strcmp(mark + 4, "..");
    if (!named || !join(path, sizeof(path), below, mark + 4) || lstat(path, &st))
        return 0;
    return fast_dir_remove(path, err);
}

/* |below|: what the layers before have at this place, "" when that is no folder. */
static int carry_out_marks(const char *layer, const char *below, int depth, struct fast_err *err)
{
    char path[PATH_MAX], under[PATH_MAX];
    int r = 0;
    DIR *d = depth < DEPTH_MAX ? opendir(layer) : NULL;
    for (struct dirent *e; !r && d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
            !join(path, sizeof(path), layer, e->d_name))
            continue;
        if (!strncmp(e->d_name, ".wh.", 4)) {
            r = carry_out_mark(e->d_name, below, err);
            unlink(path);
        } else if (is_real_dir(path)) {
            bool there = *below && join(under, sizeof(under), below, e->d_name) && is_real_dir(under);
            r = carry_out_marks(path, there ? under : "", depth + 1, err);
        }
    }
    if (d)
        closedir(d);
    return r;
}

static int lay_over(const char *blob, const char *root, struct fast_err *err)
{
    char stage[PATH_MAX], all[PATH_MAX];
    if (snprintf(stage, sizeof(stage), "%s.layer", root) >= (int)sizeof(stage) ||
        !join(all, sizeof(all), stage, "."))
        return fast_err_set(err, FAST_EINVAL, "the path of the image is too long");
    const char *const tar[] = {"tar", "-xf", blob, "-C", stage, "--no-same-owner", "--exclude=dev/*",
                               NULL};
    const char *const cp[] = {"cp", "-a", all, root, NULL};
    if (is_real_dir(stage)) /* of an attempt that was cut off */
        fast_dir_remove(stage, NULL);
    int r = fast_dir_make(stage, 0755, err);
    r = r ? r : run_tool(tar, err);
    r = r ? r : carry_out_marks(stage, root, 0, err);
    r = r ? r : run_tool(cp, err);
    if (is_real_dir(stage))
        fast_dir_remove(stage, NULL);
    return r;
}

static int unpack(const char *layout, json_t *manifest, const char *root, struct fast_err *err)
{
    json_t *layer;
    size_t i;
    int r = fast_dir_make(root, 0755, err);
    json_array_foreach(json_object_get(manifest, "layers"), i, layer) {
        char path[PATH_MAX];
        if (!r)
            r = blob_path(layout, layer, path, sizeof(path), err);
        r = r ? r : lay_over(path, root, err);
    }
    return r;
}

static void take_config(json_t *image, const json_t *config)
{
    static const char *const lists[] = {"Entrypoint", "Cmd"};
    const json_t *c = json_object_get(config, "config");
    json_t *argv = json_array(), *env = json_object(), *v;
    size_t i;
    for (size_t k = 0; k < FAST_COUNT_OF(lists); k++)
        json_array_extend(argv, json_object_get(c, lists[k]));
    json_array_foreach(json_object_get(c, "Env"), i, v) {
        const char *text = json_string_value(v), *eq = text ? strchr(text, '=') : NULL;
        fast_autofree char *name = eq ? strndup(text, (size_t)(eq - text)) : NULL;
        if (name)
            json_object_set_new(env, name, json_string(eq + 1));
    }
    json_object_set_new(image, "argv", argv);
    json_object_set_new(image, "env", env);
    if (*json_text(c, "WorkingDir"))
        json_object_set_new(image, "cwd", json_string(json_text(c, "WorkingDir")));
}

static int add_oci(const char *layout, const char *root, json_t *image, struct fast_err *err)
{
    char path[PATH_MAX];
    json_t *index = NULL, *manifest = NULL, *config = NULL;
    if (!join(path, sizeof(path), layout, "index.json"))
        return fast_err_set(err, FAST_EINVAL, "the path of the layout is too long");
    int r = load(path, &index, err);
    r = r ? r : load_blob(layout, json_array_get(json_object_get(index, "manifests"), 0), &manifest,
                          err);
    r = r ? r : load_blob(layout, json_object_get(manifest, "config"), &config, err);
    r = r ? r : unpack(layout, manifest, root, err);
    if (!r) {
        take_config(image, config);
        json_object_set_new(image, "kind", json_string("oci"));
        json_object_set_new(image, "root", json_string(root));
    }
    json_decref(index);
    json_decref(manifest);
    json_decref(config);
    return r;
}

/* ---- adding ---- */

static int set_words(json_t *image, const char *line, struct fast_err *err)
{
    fast_autofree char *words = NULL;
    size_t len = 0;
    json_t *argv = json_array();
    json_object_set_new(image, "argv", argv);
    int r = fast_words_split(line, "the command", &words, &len, err);
    for (const char *p = words; !r && p < words + len; p += strlen(p) + 1)
        json_array_append_new(argv, json_string(p));
    return r ? r : json_array_size(argv) ? 0
                 : fast_err_set(err, FAST_EINVAL, "the command is empty");
}

static int fill(const struct image *o, const char *root, const char *source, json_t *image,
                struct fast_err *err)
{
    char real[PATH_MAX], path[PATH_MAX + 16];
    struct stat st;
    int r = 0;
    bool is_dir = !stat(source, &st) && S_ISDIR(st.st_mode) && realpath(source, real);
    bool path_alone = (*source == '/' || *source == '.') && !source[strcspn(source, " \t")];
    if (!is_dir && path_alone && access(source, X_OK))
        return fast_err_set(err, FAST_ENOENT, "%.200s: %s; a folder, an OCI image layout or a command is expected",
                            source, strerror(errno));
    if (!is_dir) {
        json_object_set_new(image, "kind", json_string("command"));
        return set_words(image, source, err);
    }
    snprintf(path, sizeof(path), "%s/oci-layout", real);
    if (!access(path, F_OK))
        r = add_oci(real, root, image, err);
    else if (!o->command)
        r = fast_err_set(err, FAST_EINVAL, "%.200s is a folder: say what to run in it with --command",
                         real);
    else {
        json_object_set_new(image, "kind", json_string("dir"));
        json_object_set_new(image, "cwd", json_string(real));
    }
    if (!r && o->command)
        r = set_words(image, o->command, err);
    if (!r && !json_array_size(json_object_get(image, "argv")))
        r = fast_err_set(err, FAST_EINVAL, "the image has no entry point: give --command");
    return r;
}

static int add(const struct image *o, const char *dir, const char *name, const char *source,
               struct fast_err *err)
{
    static const char *const modes[] = {"port", "classic", "streaming", "http"};
    char file[PATH_MAX], root[PATH_MAX];
    const char *mode = o->mode ? o->mode : modes[0];
    bool known = false;
    for (size_t i = 0; i < FAST_COUNT_OF(modes); i++)
        known = known || !strcmp(mode, modes[i]);
    if (!known)
        return fast_err_set(err, FAST_EINVAL, "--mode: \"%.20s\" is none of port, classic, streaming, "
                            "http", mode);
    int r = path_of(dir, name, ".json", file, sizeof(file), err);
    r = r ? r : path_of(dir, name, ".root", root, sizeof(root), err);
    if (!r && !access(file, F_OK))
        return fast_err_set(err, FAST_EEXIST, "image %.100s is there already; remove it first", name);
    r = r ? r : fast_dir_make(dir, 0755, err);
    json_t *image = json_pack("{s:s, s:s}", "name", name, "mode", mode);
    r = r ? r : fill(o, root, source, image, err);
    fast_autofree char *text = r ? NULL : json_dumps(image, JSON_INDENT(2));
    json_decref(image);
    if (!r)
        r = fast_file_replace(file, text, strlen(text), 0644, err);
    if (r && !access(root, F_OK) && strlen(root) > strlen(dir) + 1)
        fast_dir_remove(root, NULL);
    return r;
}

/* ---- the rest ---- */

static int list(struct cli *cli, const char *dir)
{
    static const char *const heads[] = {"IMAGE", "KIND", "MODE", "COMMAND", NULL};
    struct table *t = table_new(heads);
    json_t *all = json_array();
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[PATH_MAX];
        json_t *o = NULL;
        size_t n = strlen(e->d_name);
        if (n < 6 || strcmp(e->d_name + n - 5, ".json") ||
            snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) >= (int)sizeof(path) ||
            load(path, &o, NULL))
            continue;
        json_array_append_new(all, o);
        table_add(t, "%s", json_text(o, "name"));
        table_add(t, "%s", json_text(o, "kind"));
        table_add(t, "%s", json_text(o, "mode"));
        const char *first = json_string_value(json_array_get(json_object_get(o, "argv"), 0));
        table_add(t, "%s", first ? first : "");
    }
    if (d)
        closedir(d);
    if (cli->json)
        api_print(all);
    table_print(t, cli->json ? stderr : stdout, 0);
    json_decref(all);
    return CLI_OK;
}

static int remove_one(const char *dir, const char *name, struct fast_err *err)
{
    char path[PATH_MAX];
    int r = path_of(dir, name, ".json", path, sizeof(path), err);
    if (!r && unlink(path))
        return fast_err_set(err, FAST_ENOENT, "there is no image %.100s", name);
    r = r ? r : path_of(dir, name, ".root", path, sizeof(path), err);
    return r || access(path, F_OK) ? r : fast_dir_remove(path, err);
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    const struct image *o = arg;
    struct fast_err err;
    char state[PATH_MAX - 16], dir[PATH_MAX];
    platform_state_dir(o->state_dir, state, sizeof(state));
    snprintf(dir, sizeof(dir), "%s/images", state);
    if (!strcmp(argv[0], "ls") && argc == 1)
        return list(cli, dir);
    bool adds = !strcmp(argv[0], "add") && argc == 3, removes = !strcmp(argv[0], "rm") && argc == 2;
    if (!adds && !removes)
        return cli_fail(CLI_USAGE, "image: use add NAME SOURCE, ls or rm NAME");
    if (adds ? add(o, dir, argv[1], argv[2], &err) : remove_one(dir, argv[1], &err))
        return cli_fail(CLI_FAILED, "image: %s", err.msg);
    if (cli->json)
        printf("{\"image\": \"%s\", \"%s\": true}\n", argv[1], adds ? "added" : "removed");
    else
        printf("image %s is %s.\n", argv[1], adds ? "there" : "removed");
    return CLI_OK;
}

const struct cli_cmd cmd_image = {
    .name = "image", .args = "add NAME SOURCE | ls | rm NAME",
    .summary = "what image names stand for on this machine", .min_args = 1, .max_args = 3,
    .detail = "SOURCE is a folder, an OCI image layout (a folder with oci-layout in it) or a command.\n"
              "Functions of an OCI image see its files alone. Examples:\n"
              "  fast image add upper 'tr a-z A-Z' --mode classic\n"
              "  fast image add ghcr.io/me/app ./app --command './server --fast'\n"
              "  skopeo copy docker://ghcr.io/me/fn:1 oci:fn && fast image add ghcr.io/me/fn fn",
    CLI_CMD_OPTS(opts, struct image), .run = run};
