#ifndef FAST_BASE_WORDS_H
#define FAST_BASE_WORDS_H

#include <stddef.h>

#include "base/err.h"

/* Splits |line| into words as a shell does, with quotes and backslashes and nothing else: no
 * variables, no globs. |ret|: each word with its NUL, |ret_len| bytes; the caller frees it. |what|
 * names the line in messages. */
int fast_words_split(const char *line, const char *what, char **ret, size_t *ret_len,
                     struct fast_err *err);

#endif
