/* The query of a URL: a parameter is found where a plain search finds it, its value fits and has no NUL,
 * and one that is not there leaves what was there. The first byte chooses how much room there is. */

#include <stdlib.h>
#include <string.h>

#include "fuzz/fuzz.h"
#include "gateway/query.h"

/* Whether |name| stands at the beginning of a parameter of |query|. */
static bool is_named(const char *query, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = query; (p = strstr(p, name)); p++)
        if ((p == query || p[-1] == '&') && (!p[n] || p[n] == '=' || p[n] == '&'))
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"namespace", "name", "n", "tail", "since", "usage"};
    if (size < 1)
        return 0;
    size_t cap = 1 + data[0] % 64;
    char *query = malloc(size), *value = malloc(cap); /* blocks of their own: a byte too far is seen */
    memcpy(query, data + 1, size - 1);
    query[size - 1] = 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        memset(value, 'v', cap);
        bool found = gw_query_get(query, names[i], value, cap);
        FUZZ_CHECK(!found || is_named(query, names[i]));
        FUZZ_CHECK(!found || strnlen(value, cap) < cap);
    }
    free(query);
    free(value);
    return 0;
}
