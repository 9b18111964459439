/* The digits that were held out of the training: found, read, and shown to the function. */

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/api.h"
#include "cli/demo.h"
#include "cli/view.h"
#include "io/file.h"

#define DIGIT_BYTES 64
#define DIGITS_MAX (1u << 20)

static int find_digits(const struct cli *cli, char *path, size_t cap, struct fast_err *err)
{
    static const char *const places[] = {
        "/../../functions/digits/" , /* build tree: build/src/cli -> build/functions/digits */
        "/../../../functions/digits/", /* source tree beside it */
        "/../share/fast-gshare/digits/",
    };
    for (size_t i = 0; i < FAST_COUNT_OF(places); i++) {
        snprintf(path, cap, "%s%sheldout.bin", cli->self_dir, places[i]);
        FILE *f = fopen(path, "rb");
        if (f) {
            fclose(f);
            return 0;
        }
    }
    return fast_err_set(err, FAST_ENOENT, "the held-out digits (heldout.bin) are not found");
}

int demo_digits_load(struct demo_digits *d, const struct cli *cli, struct fast_err *err)
{
    char path[PATH_MAX];
    size_t len = 0;
    *d = (struct demo_digits){0};
    int r = find_digits(cli, path, sizeof(path), err);
    if (!r)
        r = fast_file_read(path, DIGITS_MAX, &d->data, &len, err);
    if (r)
        return r;
    d->count = len / (DIGIT_BYTES + 1);
    d->bodies = calloc(d->count + 1, sizeof(*d->bodies));
    d->lens = calloc(d->count + 1, sizeof(*d->lens));
    if (!d->bodies || !d->lens || !d->count || len % (DIGIT_BYTES + 1)) {
        demo_digits_fini(d);
        return fast_err_set(err, FAST_EINVAL, "%s is not a set of digits", path);
    }
    for (size_t i = 0; i < d->count; i++) {
        d->bodies[i] = d->data + i * (DIGIT_BYTES + 1);
        d->lens[i] = DIGIT_BYTES;
    }
    return 0;
}

void demo_digits_fini(struct demo_digits *d)
{
    free(d->data);
    free(d->bodies);
    free(d->lens);
    *d = (struct demo_digits){0};
}

static bool is_right(const struct demo_digits *d, size_t i, const char *body, size_t len)
{
    json_t *answer = json_loadb(body, len, 0, NULL);
    json_t *digit = json_object_get(answer, "digit");
    bool right = json_is_integer(digit) && i < d->count &&
                 json_integer_value(digit) == d->bodies[i][DIGIT_BYTES];
    json_decref(answer);
    return right;
}

int demo_digits_read(const struct demo_stage *stage)
{
    const struct demo_digits *d = stage->digits;
    size_t right = 0;
    for (size_t i = 0; i < d->count && !demo_interrupted(); i++) {
        api_autoreply r = {0};
        if (api_call(stage->cli, "POST", "/function/digits", d->bodies[i], d->lens[i],
                     "application/octet-stream", &r) || r.status != 200)
            return cli_fail(CLI_FAILED, "digits did not answer image %zu: %s", i, r.body ? r.body : "");
        right += is_right(d, i, r.body, r.len);
        if (i % 50 == 0)
            view_progress("  reading digits", (double)i / (double)d->count);
    }
    view_progress_end();
    if (demo_interrupted())
        return CLI_FAILED;
    fprintf(stage->out, "  digits: %zu of %zu handwritten digits read right (%.1f%%), none of them\n"
            "  used in training\n", right, d->count, 100.0 * (double)right / (double)d->count);
    return CLI_OK;
}
