/* Decides what a trial sends. A model's time may depend on its input, so that an empty body is the last
 * choice. */

#include "cli/profile.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "io/file.h"

#define BODY_MAX (16u << 20)
#define SAMPLE "fastgshare/sample"

void profile_bodies_free(struct profile_bodies *b)
{
    for (int i = 0; i < b->count; i++)
        free(b->data[i]);
    *b = (struct profile_bodies){0};
}

/* Takes |data| over, |batch| times in a row. */
static int add(struct profile_bodies *b, char *data, size_t len, int batch, struct fast_err *err)
{
    char *all = data;
    if (data && batch > 1) {
        if (len > BODY_MAX / (size_t)batch) {
            free(data);
            return fast_err_set(err, FAST_EINVAL, "a body of %zu bytes %d times is more than %u MiB", len,
                                batch, BODY_MAX >> 20);
        }
        all = malloc(len * (size_t)batch + 1);
        for (int i = 0; all && i < batch; i++)
            memcpy(all + len * (size_t)i, data, len);
        free(data);
    }
    if (!all)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a body");
    b->data[b->count] = all;
    b->len[b->count++] = len * (size_t)(batch > 1 ? batch : 1);
    return 0;
}

static int from_file(struct profile_bodies *b, const char *path, int batch, struct fast_err *err)
{
    char *data = NULL;
    size_t len = 0;
    int r = fast_file_read(path, BODY_MAX, &data, &len, err);
    return r ? r : add(b, data, len, batch, err);
}

static int from_gateway(struct cli *cli, const json_t *function, struct profile_bodies *b, int batch,
                        struct fast_err *err)
{
    char name[300], ns[300], path[700];
    const char *space = json_text(function, "namespace");
    int r = 0;
    for (int i = 0; !r && i < PROFILE_BODIES_MAX; i++) {
        struct api_reply a = {0};
        snprintf(path, sizeof(path), "/system/recorded/%s?index=%d%s%s",
                 api_escape(json_text(function, "name"), name, sizeof(name)), i,
                 *space ? "&namespace=" : "", api_escape(space, ns, sizeof(ns)));
        if (api_call(cli, "GET", path, NULL, 0, NULL, &a) || a.status != 200) {
            api_reply_free(&a);
            break;
        }
        r = add(b, a.body, a.len, batch, err);
        a.body = NULL;
        api_reply_free(&a);
    }
    if (!r && !b->count)
        r = fast_err_set(err, FAST_ENOENT, "--recorded: the gateway has kept no request of %.64s; deploy it "
                         "with the annotation fastgshare/record=8, and let requests come",
                         json_text(function, "name"));
    return r;
}

int profile_bodies(struct cli *cli, const json_t *function, const char *file, bool recorded, int batch,
                   struct profile_bodies *ret, struct fast_err *err)
{
    const char *sample = json_text(json_object_get(function, "annotations"), SAMPLE);
    int r = 0;
    *ret = (struct profile_bodies){.source = "empty"};
    if (file) {
        ret->source = "from a file";
        r = from_file(ret, file, batch, err);
    } else if (recorded) {
        ret->source = "recorded from live requests";
        r = from_gateway(cli, function, ret, batch, err);
    } else if (*sample) {
        ret->source = "the sample that the function declares";
        /* The text itself and never a path: who deploys must not choose which of our files it gets. */
        r = add(ret, strdup(sample), strlen(sample), batch, err);
        if (r)
            fast_err_wrap(err, SAMPLE);
    }
    if (r)
        profile_bodies_free(ret);
    return r;
}

int profile_parse_batches(const char *text, const char *what, int ret[PROFILE_BATCHES_MAX], int *ret_n,
                          struct fast_err *err)
{
    int n = 0, r = 0;
    for (const char *at = text; !r; at++) {
        char one[16];
        int64_t v = 0;
        size_t len = strcspn(at, ",");
        snprintf(one, sizeof(one), "%.*s", len < sizeof(one) ? (int)len : (int)sizeof(one) - 1, at);
        r = fast_parse_int(one, what, 1, PROFILE_BATCH_MAX, &v, err);
        if (!r && n == PROFILE_BATCHES_MAX)
            r = fast_err_set(err, FAST_EINVAL, "%s: at most %d batches", what, PROFILE_BATCHES_MAX);
        for (int i = 0; !r && i < n; i++)
            if (ret[i] == v)
                r = fast_err_set(err, FAST_EINVAL, "%s: %d is there twice", what, (int)v);
        if (!r)
            ret[n++] = (int)v;
        at += len;
        if (!*at)
            break;
    }
    if (!r)
        *ret_n = n;
    return r;
}
