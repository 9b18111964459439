/* The body of a deployment: it is refused with words, or describes a function that can be scaled, started
 * and compared with itself. What clients get back is what they sent. */

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "gateway/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct gw_paths paths = {.tool = "/bin/true", .state_dir = "/nonexistent"};
    struct gw_spec *s = NULL, *again = NULL;
    struct fast_scale_conf scale;
    struct fast_err err = {0};
    char *text = malloc(size + 1); /* its own block, so that a read too far is seen */
    memcpy(text, data, size);
    int r = gw_spec_parse(text, size, "of-query", &paths, &s, &err);
    free(text);
    if (r) {
        FUZZ_CHECK(*err.msg && !s);
        return 0;
    }
    FUZZ_CHECK(*s->name && *s->ns && s->argv_len > 0 && s->argv[s->argv_len - 1] == 0);
    FUZZ_CHECK(s->min >= 0 && s->max >= s->min && s->slo >= 0);
    for (int i = 0; i < FAST_SCALER_COUNT; i++) {
        gw_spec_scale(s, (enum fast_scaler)i, &scale);
        FUZZ_CHECK(scale.min <= scale.max);
    }
    char *echo = json_dumps(s->json, JSON_COMPACT);
    FUZZ_CHECK(echo);
    FUZZ_CHECK(!gw_spec_parse(echo, strlen(echo), "of-query", &paths, &again, &err));
    FUZZ_CHECK(!gw_spec_needs_restart(s, again) && json_equal(s->json, again->json));
    free(echo);
    gw_spec_free(again);
    gw_spec_free(s);
    return 0;
}
