/* The strict parsers of what people write: they end, read nothing beyond the text, and set nothing
 * on an error. The first byte chooses the parser. */

#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "core/profile.h"
#include "fuzz/fuzz.h"
#include "sim/model.h"

static void values(const char *text)
{
    const int64_t mark = 0x5a5a5a5a5a5a5a5a;
    int64_t v = mark;
    uint64_t u = (uint64_t)mark;
    struct fast_err err;
    FUZZ_CHECK(fast_parse_int(text, "x", -5, 500, &v, &err) ? v == mark : v >= -5 && v <= 500);
    v = mark;
    FUZZ_CHECK(fast_parse_milli(text, "x", 0, 1000, &v, &err) ? v == mark : v >= 0 && v <= 1000);
    v = mark;
    FUZZ_CHECK(fast_parse_duration(text, "x", 0, FAST_S(60), &v, &err) ? v == mark
                                                                      : v >= 0 && v <= FAST_S(60));
    FUZZ_CHECK(fast_parse_bytes(text, "x", 1 << 30, &u, &err) ? u == (uint64_t)mark
                                                              : u <= 1 << 30);
    if (!fast_parse_name(text, "x", &err))
        FUZZ_CHECK(strlen(text) <= 63 && !strpbrk(text, "/._ ") && *text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct fast_err err;
    char *text = malloc(size); /* its own block, so that a read too far is seen */
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    if (data[0] % 3 == 0) {
        values(text);
    } else if (data[0] % 3 == 1) {
        struct fast_profile *p = NULL;
        if (!fast_profile_parse(text, &p, &err))
            fast_profile_free(p);
    } else {
        struct sim_model model;
        if (!sim_model_parse(text, strlen(text), &model, &err))
            FUZZ_CHECK(sim_model_kernels(&model) > 0);
    }
    free(text);
    return 0;
}
