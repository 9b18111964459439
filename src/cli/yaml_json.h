#ifndef FAST_CLI_YAML_JSON_H
#define FAST_CLI_YAML_JSON_H

#include <jansson.h>

#include "base/err.h"

/* Reads YAML into JSON: all scalars become strings (their exact text), except that an empty or
 * null scalar becomes null. One document, no duplicate keys, no aliases, at most 64 levels. |name|
 * is put in front of messages, which carry line and column. */
int fast_yaml_parse(const char *text, size_t len, const char *name, json_t **ret,
                    struct fast_err *err);

#endif
