/* fast image: the small image store of one machine, STATE_DIR/images. An image is NAME.json, which
 * the gateway reads at each deployment, and for an image with files the folder NAME.root beside it. */

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/words.h"
#include "cli/api.h"
#include "cli/image.h"
#include "cli/platform.h"
#include "cli/table.h"
#include "io/file.h"

struct image {
    const char *state_dir, *mode, *command;
};

static const struct cli_opt opts[] = {
    {"state-dir", 0, CLI_STR, offsetof(struct image, state_dir), "DIR", "as of `fast up`"},
    {"mode", 'm', CLI_ONE, offsetof(struct image, mode), "MODE",
     "port: it listens on $PORT (default); classic, streaming or http: behind a watchdog",
     "port classic streaming http"},
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

static int fill(const struct image *o, const char *name, const char *root, const char *source, json_t *image,
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
        r = image_add_oci(real, name, root, image, err);
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
    char file[PATH_MAX], root[PATH_MAX];
    const char *mode = o->mode ? o->mode : "port";
    int r = path_of(dir, name, ".json", file, sizeof(file), err);
    r = r ? r : path_of(dir, name, ".root", root, sizeof(root), err);
    if (!r && !access(file, F_OK))
        return fast_err_set(err, FAST_EEXIST, "image %.100s is there already; remove it first", name);
    r = r ? r : fast_dir_make(dir, 0755, err);
    json_t *image = json_pack("{s:s, s:s}", "name", name, "mode", mode);
    r = r ? r : fill(o, name, root, source, image, err);
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
            image_load_json(path, &o, NULL))
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
