/* Decides what an image name means on this machine: a program of the image folders. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/spec.h"

static bool is_executable(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

/* "docker.io/library/digits:latest@sha256:..." -> "digits" */
static size_t bare_name(const char *image, const char **ret)
{
    const char *slash = strrchr(image, '/');
    *ret = slash ? slash + 1 : image;
    return strcspn(*ret, ":@");
}

/* Build trees have a folder for each function: DIR/digits/digits. */
static bool find_in(const char *dir, const char *name, int len, char *ret, size_t cap)
{
    if (snprintf(ret, cap, "%s/%.*s", dir, len, name) < (int)cap && is_executable(ret))
        return true;
    return snprintf(ret, cap, "%s/%.*s/%.*s", dir, len, name, len, name) < (int)cap &&
           is_executable(ret);
}

int gw_image_find(const char *image, const struct gw_paths *paths, char *ret, size_t cap,
                  struct fast_err *err)
{
    const char *name;
    char dirs[160] = "";
    size_t at = 0;
    if (image[0] == '/') {
        if (snprintf(ret, cap, "%s", image) < (int)cap && is_executable(image))
            return 0;
        return fast_err_set(err, FAST_EINVAL, "image: there is no executable %.200s", image);
    }
    size_t len = bare_name(image, &name);
    if (len == 0 || len > 128 || name[0] == '.')
        return fast_err_set(err, FAST_EINVAL, "image: \"%.100s\" has no name", image);
    for (int i = 0; i < paths->nimages; i++) {
        if (find_in(paths->images[i], name, (int)len, ret, cap))
            return 0;
        int n = snprintf(dirs + at, sizeof(dirs) - at, "%s%s", i ? ", " : "", paths->images[i]);
        at = n > 0 && at + (size_t)n < sizeof(dirs) ? at + (size_t)n : sizeof(dirs) - 1;
    }
    return fast_err_set(err, FAST_EINVAL,
                        "image: \"%.60s\" is no image here, and there is no executable \"%.*s\" in %s; "
                        "`fast image ls` lists images, `fast image add` makes one",
                        image, (int)(len < 60 ? len : 60), name, *dirs ? dirs : "any folder (--images)");
}
