/* Decides what command a function's process is: a program of the image folders as it is, a watchdog
 * in front of one, or an image of the store within what it was packed with. What an image of the
 * store is stands in STATE_DIR/images/NAME.json, as `fast image add` wrote it. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/words.h"
#include "gateway/spec.h"
#include "io/file.h"
#include "wire/page.h"

#define IMAGE_FILE_MAX (1 << 20)
#define IMAGE_NAME_MAX 200 /* bytes, as `fast image add` has it */
/* Images whose programs are in every machine's PATH or in `fast` itself: what people try first, and
 * what the conformance tests of OpenFaaS deploy. |mode|: of the watchdog. */
static const struct {
    const char *repository, *mode;
} built_in[] = {
    {"functions/alpine", "classic"},
    {"theaxer/redirector", "redirect"},
};

struct argv {
    char *p;
    size_t len, cap;
    bool failed;
};

static void add(struct argv *a, const char *word)
{
    size_t n = strlen(word) + 1;
    if (a->len + n > a->cap) {
        size_t cap = 2 * (a->len + n) + 256;
        char *p = realloc(a->p, cap);
        if (!p) {
            a->failed = true;
            return;
        }
        a->p = p;
        a->cap = cap;
    }
    if (a->p)
        memcpy(a->p + a->len, word, n);
    a->len += n;
}

static void add_option(struct argv *a, const char *name, const char *value)
{
    if (!value || !*value)
        return;
    add(a, name);
    add(a, value);
}

/* ---- names ---- */

/* "docker.io/functions/alpine:latest" and "functions/alpine" are the same repository. */
static bool is_repository(const char *image, const char *repository)
{
    static const char hub[] = "docker.io/";
    if (!strncmp(image, hub, sizeof(hub) - 1))
        image += sizeof(hub) - 1;
    size_t n = strlen(repository);
    return !strncmp(image, repository, n) && (!image[n] || image[n] == ':' || image[n] == '@');
}

static const char *built_in_mode(const char *image)
{
    for (size_t i = 0; i < FAST_COUNT_OF(built_in); i++)
        if (is_repository(image, built_in[i].repository))
            return built_in[i].mode;
    return NULL;
}

static json_t *load_image(const char *state_dir, const char *name, size_t len)
{
    char path[4096], file[3 * IMAGE_NAME_MAX + 1]; /* each of them may be a slash */
    fast_autofree char *text = NULL;
    size_t at = 0;
    if (len == 0 || len > IMAGE_NAME_MAX || name[0] == '.')
        return NULL;
    for (size_t i = 0; i < len; i++)
        at += (size_t)snprintf(file + at, sizeof(file) - at, name[i] == '/' ? "%%2F" : "%c",
                               name[i]);
    if (snprintf(path, sizeof(path), "%s/images/%s.json", state_dir, file) >= (int)sizeof(path) ||
        fast_file_read(path, IMAGE_FILE_MAX, &text, NULL, NULL))
        return NULL;
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(o))
        return o;
    json_decref(o);
    return NULL;
}

/* By the whole name, without its tag, and by its last part. */
static json_t *find_image(const struct gw_paths *paths, const char *image)
{
    const char *slash = strrchr(image, '/'), *last = slash ? slash + 1 : image;
    if (!paths->state_dir)
        return NULL;
    json_t *o = load_image(paths->state_dir, image, strlen(image));
    if (!o)
        o = load_image(paths->state_dir, image, (size_t)(last - image) + strcspn(last, ":@"));
    return o ? o : load_image(paths->state_dir, last, strcspn(last, ":@"));
}

/* ---- commands ---- */

static int need_tool(const struct gw_paths *paths, const char *what, struct fast_err *err)
{
    if (paths->tool)
        return 0;
    return fast_err_set(err, FAST_EINVAL, "%s needs the program `fast-run` beside fast-gateway", what);
}

static bool wants_secrets(const struct gw_spec *s)
{
    return json_array_size(json_object_get(s->json, "secrets")) > 0;
}

static void add_number(struct argv *a, const char *name, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    add_option(a, name, value ? text : NULL);
}

/* What every function is bounded by, and which secrets it sees. */
static void add_bounds(struct argv *a, const struct gw_spec *s, const struct gw_paths *paths)
{
    char dir[4096];
    json_t *v;
    size_t i;
    add_number(a, "--memory", s->memory_max);
    add_number(a, "--cpu", s->cpu_milli);
    add_number(a, "--pids", GW_PIDS_MAX);
    if (s->gpu)
        add(a, "--gpu");
    add_option(a, "--hide", paths->state_dir);
    if (json_is_true(json_object_get(s->json, "readOnlyRootFilesystem")))
        add(a, "--read-only");
    if (!wants_secrets(s))
        return;
    snprintf(dir, sizeof(dir), "%s/secrets/%s", paths->state_dir, s->ns);
    add_option(a, "--secrets", dir);
    json_array_foreach(json_object_get(s->json, "secrets"), i, v)
        add_option(a, "--secret", json_string_value(v));
}

static void add_watchdog(struct argv *a, const char *program, const char *mode)
{
    add(a, program);
    add(a, "watchdog");
    add_option(a, "--mode", mode);
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *t = json_string_value(json_object_get(o, key));
    return t && *t ? t : NULL;
}

/* Programs on the machine: a word of envProcess is found as an image is. */
static int add_program(struct argv *a, const struct gw_spec *s, const struct gw_paths *paths,
                       struct fast_err *err)
{
    const char *line = text_of(s->json, "envProcess");
    fast_autofree char *words = NULL;
    char path[4096];
    size_t len = 0;
    int r = line ? fast_words_split(line, "envProcess", &words, &len, err) : 0;
    if (r)
        return r;
    if (line && (!len || !*words))
        return fast_err_set(err, FAST_EINVAL, "envProcess: it names no program");
    r = gw_image_find(line ? words : text_of(s->json, "image"), paths, path, sizeof(path), err);
    if (r && line && err) {
        char why[200];
        snprintf(why, sizeof(why), "%s", err->msg + strlen("image: "));
        return fast_err_set(err, FAST_EINVAL, "envProcess: %s", why);
    }
    if (r)
        return r;
    add(a, path);
    for (const char *p = line ? words + strlen(words) + 1 : NULL; p && p < words + len;
         p += strlen(p) + 1)
        add(a, p);
    return 0;
}

static void add_stored_words(struct argv *a, const json_t *image)
{
    json_t *v;
    size_t i;
    json_array_foreach(json_object_get(image, "argv"), i, v)
        if (json_is_string(v))
            add(a, json_string_value(v));
}

/* An image of the store. Behind a watchdog an envProcess takes the place of its own command. */
static int add_stored(struct argv *a, struct gw_spec *s, const json_t *image,
                      const struct gw_paths *paths, struct fast_err *err)
{
    const char *mode = text_of(image, "mode"), *root = text_of(image, "root"), *name;
    json_t *v;
    int r = need_tool(paths, "an image of the store", err);
    if (r)
        return r;
    add(a, paths->tool);
    add(a, "isolate");
    add_option(a, "--root", root);
    add_option(a, "--cwd", text_of(image, "cwd"));
    add_bounds(a, s, paths);
    json_object_foreach(json_object_get(image, "env"), name, v) {
        fast_autofree char *pair = NULL;
        if (asprintf(&pair, "%s=%s", name, json_string_value(v) ? json_string_value(v) : "") < 0)
            return fast_err_set(err, FAST_ENOMEM, "no memory for a command");
        add_option(a, "--env", pair);
    }
    add(a, "--");
    bool watched = mode && strcmp(mode, "port") != 0;
    if (watched) {
        add_watchdog(a, root ? FAST_WATCHDOG_IN_IMAGE : paths->tool, mode);
        add(a, "--");
    }
    if (!watched || !text_of(s->json, "envProcess"))
        add_stored_words(a, image);
    s->runner = !watched ? "its own HTTP server"
                         : !strcmp(mode, "http") ? "http watchdog" : "classic watchdog";
    snprintf(s->image_user, sizeof(s->image_user), "%s", text_of(image, "user") ? text_of(image, "user") : "");
    s->isolation = root ? "file system of the image, no_new_privs, rlimits"
                        : wants_secrets(s) ? "own mounts, no_new_privs, rlimits"
                                           : "no_new_privs, rlimits";
    return 0;
}

static int add_built_in(struct argv *a, struct gw_spec *s, const char *mode,
                        const struct gw_paths *paths, struct fast_err *err)
{
    int r = need_tool(paths, "this image", err);
    if (!r && !strcmp(mode, "classic") && !text_of(s->json, "envProcess"))
        r = fast_err_set(err, FAST_EINVAL, "envProcess: this image runs the command that is given here, and there is "
                         "none; try `faas-cli deploy --fprocess cat` or `fast deploy --process cat`");
    if (r)
        return r;
    add(a, paths->tool);
    add(a, "isolate");
    add_bounds(a, s, paths);
    add(a, "--");
    add_watchdog(a, paths->tool, mode);
    s->runner = !strcmp(mode, "classic") ? "classic watchdog" : "watchdog";
    s->isolation = wants_secrets(s) ? "own mounts, no_new_privs, rlimits" : "no_new_privs, rlimits";
    return 0;
}

static int add_plain(struct argv *a, struct gw_spec *s, const struct gw_paths *paths,
                     struct fast_err *err)
{
    s->runner = "its own HTTP server";
    s->isolation = "none: a process of the platform's user";
    if (paths->tool && paths->state_dir) {
        add(a, paths->tool);
        add(a, "isolate");
        add_bounds(a, s, paths);
        add(a, "--");
        s->isolation = wants_secrets(s) ? "own mounts, no_new_privs, rlimits" : "no_new_privs, rlimits";
    }
    return add_program(a, s, paths, err);
}

int gw_command_build(struct gw_spec *s, const struct gw_paths *paths, struct fast_err *err)
{
    struct argv a = {0};
    const char *image = text_of(s->json, "image");
    if (!image)
        return fast_err_set(err, FAST_EINVAL, "image: a name or the path of an executable is needed");
    json_t *stored = find_image(paths, image);
    const char *mode = stored ? NULL : built_in_mode(image);
    int r = stored ? add_stored(&a, s, stored, paths, err)
            : mode ? add_built_in(&a, s, mode, paths, err)
                   : add_plain(&a, s, paths, err);
    json_decref(stored);
    if (!r && a.failed)
        r = fast_err_set(err, FAST_ENOMEM, "no memory for a command");
    if (r) {
        free(a.p);
        return r;
    }
    s->argv = a.p;
    s->argv_len = a.len;
    return 0;
}
