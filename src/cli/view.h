#ifndef FAST_CLI_VIEW_H
#define FAST_CLI_VIEW_H

/* Drawing on a terminal: bars, colours (only where cli->color), moving the cursor. */

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "cli/cli.h"

/* A bar of |width| cells for |share| of 0..1 in |buf|; returns |buf|. */
const char *view_bar(double share, int width, char *buf, size_t cap);

/* ANSI sequence, or "" without colour: "bold", "dim", "red", "green", "yellow", "off". */
const char *view_color(const struct cli *cli, const char *name);

/* Redraws one line of progress on stderr when that is a terminal, else prints nothing. */
void view_progress(const char *text, double share);
void view_progress_end(void);

/* |text| at |indent|, broken between words so that lines have at most 80 columns. */
void view_wrap(FILE *out, int indent, const char *text);

/* "1.5 GiB", "300 MiB". */
const char *view_bytes(double bytes, char *buf, size_t cap);

/* The GPUs of a replica of /system/replicas: "0", or "0+2" when it has several at once. */
const char *view_gpus(const json_t *replica, char *buf, size_t cap);
bool view_has_gpu(const json_t *replica, double gpu);

#endif
