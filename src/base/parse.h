#ifndef FAST_BASE_PARSE_H
#define FAST_BASE_PARSE_H

/* Strict parsing of what people write: the whole string must be the value, nothing is guessed, and
 * an error names |what|, what was given and what is accepted. Nothing is set on an error. */

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/units.h"

/* A decimal integer, |min| <= value <= |max|. */
int fast_parse_int(const char *text, const char *what, int64_t min, int64_t max, int64_t *ret,
                   struct fast_err *err);

/* Whether |spec| names simulated GPUs: "v100-16gb", "h100-80gb:8". */
int fast_parse_sim(const char *spec, struct fast_err *err);

/* A decimal fraction such as "0.3" or "1", into thousandths. More than three decimals are refused,
 * unless they are zeros, so that no share is rounded in silence. */
int fast_parse_milli(const char *text, const char *what, int64_t min_milli, int64_t max_milli,
                     int64_t *ret_milli, struct fast_err *err);

/* Bytes: "2700000000", "512Mi", "512MiB", "2G", "1.5Gi". K, M, G, T, P, E are powers of 1000, with
 * "i" of 1024; a "B" may follow. */
int fast_parse_bytes(const char *text, const char *what, uint64_t max, uint64_t *ret,
                     struct fast_err *err);

/* A span of time: "69ms", "1.5s", "250us", "2m", "1h", "1m30s", "10ns". A bare number is refused:
 * the unit is part of the value. */
int fast_parse_duration(const char *text, const char *what, fast_ns min, fast_ns max, fast_ns *ret,
                        struct fast_err *err);

/* A function or namespace name: a DNS label, lower-case letters, digits and "-", at most 63 bytes,
 * beginning and ending with a letter or a digit. */
int fast_parse_name(const char *text, const char *what, struct fast_err *err);

/* Whether it is UTF-8 without control characters, and so can be shown, be a JSON string and a label. */
bool fast_is_text(const char *text);

/* The place of |text| in |names|, of which the |n| entries are set; -1 if it is none of them. */
int fast_parse_name_of(const char *const *names, int n, const char *text);

/* "on/off", "true/false", "yes/no", "1/0". */
int fast_parse_bool(const char *text, const char *what, bool *ret, struct fast_err *err);

#endif
