/* Decides what the words of a command line are. No shell is ever started for one. */

#include "base/words.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* One quoted part, from behind its quote to behind its end; NULL: it has none. */
static const char *take_quoted(const char *p, char quote, char *out, size_t *at)
{
    for (; *p && *p != quote; p++) {
        if (quote == '"' && *p == '\\' && (p[1] == '"' || p[1] == '\\'))
            p++;
        out[(*at)++] = *p;
    }
    return *p ? p + 1 : NULL;
}

static int take_word(const char **line, const char *what, char *out, size_t *at,
                     struct fast_err *err)
{
    const char *p = *line;
    while (*p && !is_blank(*p)) {
        if (*p == '\'' || *p == '"') {
            p = take_quoted(p + 1, *p, out, at);
            if (!p)
                return fast_err_set(err, FAST_EINVAL, "%s: a quote is not closed", what);
            continue;
        }
        if (*p == '\\' && !*++p)
            return fast_err_set(err, FAST_EINVAL, "%s: it ends with a backslash", what);
        out[(*at)++] = *p++;
    }
    out[(*at)++] = 0;
    *line = p;
    return 0;
}

int fast_words_split(const char *line, const char *what, char **ret, size_t *ret_len, struct fast_err *err)
{
    char *out = malloc(strlen(line) + 2); /* a word is never longer than what it came from */
    size_t at = 0;
    if (!out)
        return fast_err_set(err, FAST_ENOMEM, "%s: no memory", what);
    for (const char *p = line;;) {
        while (is_blank(*p))
            p++;
        if (!*p)
            break;
        int r = take_word(&p, what, out, &at, err);
        if (r) {
            free(out);
            return r;
        }
    }
    *ret = out;
    *ret_len = at;
    return 0;
}
