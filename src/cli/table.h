#ifndef FAST_CLI_TABLE_H
#define FAST_CLI_TABLE_H

/* Text tables: cells are collected, columns get the width of their widest cell. Numbers (cells that
 * begin with a digit, "-" or ".") are set to the right. */

#include <stdio.h>

struct table;

/* |heads| are the column titles, NULL at the end. NULL when out of memory. */
struct table *table_new(const char *const *heads);
/* Adds the next cell, row by row. */
void table_add(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints and frees. |indent|: spaces before each line. */
void table_print(struct table *t, FILE *out, int indent);

#endif
