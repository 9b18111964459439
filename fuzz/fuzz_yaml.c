/* Manifests: every document of a file is refused with words or becomes JSON whose scalars are text, and
 * what a manifest becomes is a deployment that can be written out. */

#include <stdlib.h>
#include <string.h>

#include "cli/manifest.h"
#include "fuzz/fuzz.h"

static void check_scalars(const json_t *v)
{
    const char *key;
    json_t *item;
    size_t i;
    FUZZ_CHECK(!json_is_number(v) && !json_is_boolean(v));
    json_object_foreach((json_t *)v, key, item)
        check_scalars(item);
    json_array_foreach(v, i, item)
        check_scalars(item);
}

static void read_one(json_t *doc)
{
    struct fast_err err = {0};
    json_t *deployment = NULL, *ignored = json_array();
    char *ns = NULL;
    if (manifest_read(doc, &deployment, &ns, ignored, &err)) {
        FUZZ_CHECK(*err.msg && !deployment && !ns);
    } else if (deployment) {
        char *text = json_dumps(deployment, 0);
        FUZZ_CHECK(text && json_is_string(json_object_get(deployment, "service")));
        free(text);
    }
    json_decref(deployment);
    json_decref(ignored);
    free(ns);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fast_err err = {0};
    json_t *all = NULL, *doc;
    size_t i;
    char *text = malloc(size + 1); /* its own block, so that a read too far is seen */
    memcpy(text, data, size);
    text[size] = 0;
    if (manifest_parse(text, "fuzz", &all, &err)) {
        FUZZ_CHECK(*err.msg && !all);
    } else {
        FUZZ_CHECK(json_array_size(all) > 0);
        json_array_foreach(all, i, doc) {
            check_scalars(doc);
            read_one(doc);
        }
    }
    json_decref(all);
    free(text);
    return 0;
}
