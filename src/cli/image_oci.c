/* Decides which image of an OCI image layout is meant, and what its configuration says. Nothing of it is believed: each
 * blob is what its digest says or it is not taken. */

#include "cli/image.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/api.h"
#include "io/file.h"

#define JSON_FILE_MAX (4u << 20)
#define INDEX_DEPTH 4
#define ID_MAX 65534u /* as in user namespaces: beyond it nobody is */

int image_load_json(const char *path, json_t **ret, struct fast_err *err)
{
    fast_autofree char *text = NULL;
    json_error_t je;
    int r = fast_file_read(path, JSON_FILE_MAX, &text, NULL, err);
    if (r)
        return r;
    *ret = json_loads(text, 0, &je);
    return *ret ? 0 : fast_err_set(err, FAST_EINVAL, "%.200s: line %d: %.80s", path, je.line, je.text);
}

/* ---- blobs ---- */

/* The file of a digest "sha256:..."; a digest that is none cannot lead elsewhere. */
static int blob_path(const char *layout, const char *digest, char *ret, size_t cap, struct fast_err *err)
{
    const char *hex = strchr(digest, ':');
    size_t kind = hex ? (size_t)(hex - digest) : 0;
    bool known = !strncmp(digest, "sha256:", 7) || !strncmp(digest, "sha512:", 7);
    if (!known || !hex || strspn(hex + 1, "0123456789abcdef") != strlen(hex + 1) || strlen(hex + 1) < 64)
        return fast_err_set(err, FAST_EINVAL, "the digest \"%.100s\" is neither sha256 nor sha512", digest);
    if (snprintf(ret, cap, "%s/blobs/%.*s/%s", layout, (int)kind, digest, hex + 1) >= (int)cap)
        return fast_err_set(err, FAST_EINVAL, "the path of the layout is too long");
    return 0;
}

/* Its path, once it is known to be what the digest says. */
static int check_blob(const char *layout, const json_t *descriptor, char *ret, size_t cap, struct fast_err *err)
{
    const char *digest = json_text(descriptor, "digest");
    char sum[200];
    int r = blob_path(layout, digest, ret, cap, err);
    if (r)
        return r;
    if (access(ret, R_OK))
        return fast_err_set(err, FAST_ENOENT, "blob %.80s: %s", digest, strerror(errno));
    const char *const tool[] = {digest[3] == '2' ? "sha256sum" : "sha512sum", NULL};
    r = image_ask_tool(tool, ret, sum, sizeof(sum), err);
    if (r)
        return r;
    sum[strcspn(sum, " ")] = 0;
    return strcmp(sum, strchr(digest, ':') + 1) ? fast_err_set(err, FAST_EINVAL, "blob %.80s is something else: its "
                                                               "digest is %.80s", digest, sum)
                                                : 0;
}

static int load_blob(const char *layout, const json_t *descriptor, json_t **ret, struct fast_err *err)
{
    char path[PATH_MAX];
    int r = check_blob(layout, descriptor, path, sizeof(path), err);
    return r ? r : image_load_json(path, ret, err);
}

/* ---- which one ---- */

static const char *own_architecture(struct utsname *host)
{
    static const char *const names[][2] = {{"x86_64", "amd64"}, {"aarch64", "arm64"}};
    if (uname(host))
        return "";
    for (size_t i = 0; i < FAST_COUNT_OF(names); i++)
        if (!strcmp(host->machine, names[i][0]))
            return names[i][1];
    return host->machine;
}

/* What is said neither of the system nor of the architecture fits. */
static bool fits(const json_t *platform)
{
    struct utsname host;
    const char *os = json_text(platform, "os"), *architecture = json_text(platform, "architecture");
    return (!*os || !strcmp(os, "linux")) && (!*architecture || !strcmp(architecture, own_architecture(&host)));
}

static const char *ref_name(const json_t *descriptor)
{
    return json_text(json_object_get(descriptor, "annotations"), "org.opencontainers.image.ref.name");
}

static void add_word(char *list, size_t cap, const char *a, const char *b)
{
    size_t n = strlen(list);
    snprintf(list + n, cap - n, "%s%s%s%s", n ? ", " : "", a, *a && *b ? "/" : "", b);
}

/* Of those for this machine the one with |tag|, or the only one. */
static int choose(const json_t *index, const char *tag, const json_t **ret, struct fast_err *err)
{
    const json_t *d, *found = NULL, *tagged = NULL;
    char there[200] = "", names[200] = "";
    struct utsname host;
    bool several = false;
    size_t i;
    json_array_foreach(json_object_get(index, "manifests"), i, d) {
        const json_t *platform = json_object_get(d, "platform");
        add_word(there, sizeof(there), json_text(platform, "os"), json_text(platform, "architecture"));
        if (!fits(platform))
            continue;
        add_word(names, sizeof(names), "", ref_name(d));
        several = several || (found && strcmp(json_text(found, "digest"), json_text(d, "digest")) != 0);
        found = d;
        if (*tag && !strcmp(ref_name(d), tag))
            tagged = d;
    }
    *ret = tagged ? tagged : found;
    if (!found)
        return fast_err_set(err, FAST_EINVAL, "the layout has nothing for linux/%s, but for: %.150s",
                            own_architecture(&host), *there ? there : "no platform at all");
    if (several && !tagged)
        return fast_err_set(err, FAST_EINVAL, "the layout has several images, %.150s: say which as NAME:TAG", names);
    return 0;
}

static int find_manifest(const char *layout, const char *tag, json_t **ret, struct fast_err *err)
{
    char path[PATH_MAX];
    json_t *at = NULL;
    if (snprintf(path, sizeof(path), "%s/index.json", layout) >= (int)sizeof(path))
        return fast_err_set(err, FAST_EINVAL, "the path of the layout is too long");
    int r = image_load_json(path, &at, err);
    for (int i = 0; !r && json_is_array(json_object_get(at, "manifests")); i++) {
        const json_t *chosen = NULL;
        json_t *next = NULL;
        r = i < INDEX_DEPTH ? choose(at, tag, &chosen, err)
                            : fast_err_set(err, FAST_EINVAL, "the layout has indexes of indexes without end");
        r = r ? r : load_blob(layout, chosen, &next, err);
        json_decref(at);
        at = next;
    }
    if (!r && !json_is_array(json_object_get(at, "layers")))
        r = fast_err_set(err, FAST_EINVAL, "the layout has no manifest of an image");
    if (r)
        json_decref(at);
    else
        *ret = at;
    return r;
}

/* ---- its user ---- */

/* The fields of |name| in a file of lines NAME:X:ID[:GROUP]... of the image. */
static int look_up(const char *root, const char *file, const char *name, unsigned *ret, unsigned *ret_group,
                   struct fast_err *err)
{
    char path[PATH_MAX], *save = NULL;
    fast_autofree char *text = NULL;
    struct stat st;
    size_t n = strlen(name);
    snprintf(path, sizeof(path), "%s/etc", root);
    bool inside = !lstat(path, &st) && S_ISDIR(st.st_mode); /* and not where a link leads */
    snprintf(path, sizeof(path), "%s/etc/%s", root, file);
    inside = inside && !lstat(path, &st) && S_ISREG(st.st_mode);
    if (inside && !fast_file_read(path, JSON_FILE_MAX, &text, NULL, NULL))
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
            if (!strncmp(line, name, n) && line[n] == ':') {
                const char *id = strchr(line + n + 1, ':'); /* behind the password, which may be empty */
                if (id && sscanf(id, ":%9u:%9u", ret, ret_group) >= 1)
                    return 0;
            }
    return fast_err_set(err, FAST_EINVAL, "its user is \"%.60s\", whom its /etc/%s does not have", name, file);
}

static bool is_number(const char *text, unsigned *ret)
{
    int used = 0;
    return sscanf(text, "%9u%n", ret, &used) == 1 && !text[used] && *text >= '0' && *text <= '9';
}

/* "", NAME, ID, and with ":" and a group behind them. */
static int read_user(const char *root, const char *text, struct image_user *ret, struct fast_err *err)
{
    char name[128];
    unsigned uid = 0, gid = 0, ignored = 0;
    const char *group = strchr(text, ':');
    snprintf(name, sizeof(name), "%.*s", group ? (int)(group - text) : 127, text);
    if (*name && !is_number(name, &uid) && look_up(root, "passwd", name, &uid, &gid, err))
        return -err->code;
    if (group && group[1] && !is_number(group + 1, &gid) && look_up(root, "group", group + 1, &gid, &ignored, err))
        return -err->code;
    if (uid > ID_MAX || gid > ID_MAX)
        return fast_err_set(err, FAST_EINVAL, "its user is \"%.60s\": the numbers are too large", text);
    *ret = (struct image_user){uid, gid};
    return 0;
}

/* ---- its configuration ---- */

static int take_config(json_t *image, const json_t *config, struct fast_err *err)
{
    static const char *const lists[] = {"Entrypoint", "Cmd"};
    const json_t *c = json_object_get(config, "config");
    json_t *argv = json_array(), *env = json_object(), *v;
    size_t i;
    for (size_t k = 0; k < FAST_COUNT_OF(lists); k++)
        json_array_extend(argv, json_object_get(c, lists[k]));
    json_array_foreach(json_object_get(c, "Env"), i, v) {
        const char *text = json_string_value(v), *eq = text ? strchr(text, '=') : NULL;
        fast_autofree char *name = eq && eq != text ? strndup(text, (size_t)(eq - text)) : NULL;
        if (name)
            json_object_set_new(env, name, json_string(eq + 1));
    }
    json_object_set_new(image, "argv", argv);
    json_object_set_new(image, "env", env);
    const char *cwd = json_text(c, "WorkingDir"), *user = json_text(c, "User");
    if (*cwd)
        json_object_set_new(image, "cwd", json_string(cwd));
    if (*user)
        json_object_set_new(image, "user", json_string(user));
    if (*cwd && *cwd != '/')
        return fast_err_set(err, FAST_EINVAL, "its WorkingDir is \"%.100s\", which does not begin with \"/\"", cwd);
    return fits(config) ? 0 : fast_err_set(err, FAST_EINVAL, "it is for %s/%s", json_text(config, "os"),
                                           json_text(config, "architecture"));
}

/* WorkingDir need not be in a layer. What a link leads to is looked for when it runs. */
static int make_cwd(const char *root, const char *cwd, struct fast_err *err)
{
    char path[PATH_MAX];
    struct stat st;
    for (const char *p = cwd; *p;) {
        p += strspn(p, "/");
        size_t n = strcspn(p, "/");
        if ((n == 2 && !strncmp(p, "..", 2)) ||
            snprintf(path, sizeof(path), "%s/%.*s", root, (int)(p + n - cwd), cwd) >= (int)sizeof(path))
            return 0;
        if (n && lstat(path, &st) && mkdir(path, 0755))
            return fast_err_set(err, FAST_EIO, "cannot make its WorkingDir %.150s: %s", cwd, strerror(errno));
        if (n && (lstat(path, &st) || !S_ISDIR(st.st_mode)))
            return 0;
        p += n;
    }
    return 0;
}

/* ---- the whole ---- */

static int find_room(const char *root, struct image_room *ret, struct fast_err *err)
{
    struct statvfs fs;
    if (statvfs(root, &fs))
        return fast_err_set(err, FAST_EIO, "cannot look at %.200s: %s", root, strerror(errno));
    ret->bytes = (uint64_t)fs.f_bavail * fs.f_frsize / 10 * 9;
    ret->files = fs.f_files ? (uint64_t)fs.f_favail / 10 * 9 : UINT64_MAX; /* some file systems do not count them */
    return 0;
}

static int lay_all(const char *layout, const json_t *manifest, const char *root, struct fast_err *err)
{
    struct image_room room;
    const json_t *layer;
    size_t i;
    int r = fast_dir_make(root, 0700, err);
    r = r ? r : find_room(root, &room, err);
    json_array_foreach(json_object_get(manifest, "layers"), i, layer) {
        char path[PATH_MAX];
        r = r ? r : check_blob(layout, layer, path, sizeof(path), err);
        r = r ? r : image_lay_over(path, root, &room, err);
        if (r)
            return fast_err_wrap(err, "layer %zu", i + 1);
    }
    return r;
}

int image_add_oci(const char *layout, const char *name, const char *root, json_t *image, struct fast_err *err)
{
    const char *slash = strrchr(name, '/'), *colon = strchr(slash ? slash : name, ':');
    struct image_user user;
    struct stat st;
    json_t *manifest = NULL, *config = NULL;
    mode_t mask = umask(022); /* for folders that no layer has an entry for: tar's and those here */
    int r = lstat(root, &st) ? 0 : fast_dir_remove(root, err); /* of an attempt that was cut off */
    r = r ? r : find_manifest(layout, colon ? colon + 1 : "", &manifest, err);
    r = r ? r : load_blob(layout, json_object_get(manifest, "config"), &config, err);
    r = r ? r : take_config(image, config, err);
    r = r ? r : lay_all(layout, manifest, root, err);
    r = r ? r : make_cwd(root, json_text(image, "cwd"), err);
    r = r ? r : read_user(root, json_text(image, "user"), &user, err);
    r = r ? r : image_settle(root, &user, err);
    umask(mask);
    if (!r) {
        json_object_set_new(image, "kind", json_string("oci"));
        json_object_set_new(image, "root", json_string(root));
    }
    json_decref(manifest);
    json_decref(config);
    return r;
}
