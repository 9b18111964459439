#ifndef FAST_CLI_IMAGE_H
#define FAST_CLI_IMAGE_H

/* An OCI image layout becomes a folder with its files and what is to be known to run it. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* What an image may still take of the disk; each layer takes from it. */
struct image_room {
    uint64_t bytes, files;
};

/* Who its programs would be in a container of their own. */
struct image_user {
    uid_t uid;
    gid_t gid;
};

/* Reads what |layout| has for this machine into |image| (argv, env, cwd, user, root), its files into the new folder
 * |root|. Where it has several, the tag of |name| chooses. */
int image_add_oci(const char *layout, const char *name, const char *root, json_t *image, struct fast_err *err);

int image_load_json(const char *path, json_t **ret, struct fast_err *err);

/* Lays the layer in the archive |blob| over what is in |root|. */
int image_lay_over(const char *blob, const char *root, struct image_room *room, struct fast_err *err);
/* At the end: what |user| could read, everybody can, and nothing gives anybody rights. */
int image_settle(const char *root, const struct image_user *user, struct fast_err *err);
/* The first line that a program writes, whose standard input is |path|. */
int image_ask_tool(const char *const *argv, const char *path, char *ret, size_t cap, struct fast_err *err);

#endif
