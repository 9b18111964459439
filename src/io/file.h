#ifndef FAST_IO_FILE_H
#define FAST_IO_FILE_H

/* Whole files, paths, directories, and the log sink. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"

/* Reads at most |max| bytes into a new buffer with a NUL behind them; the caller frees it. */
int fast_file_read(const char *path, size_t max, char **ret, size_t *ret_len, struct fast_err *err);

/* Writes |text| in one piece to a file that is there, as those of /proc and control groups; -1: errno says why. */
int fast_file_put(const char *path, const char *text);

/* Writes |path| so that after a crash there is either the old file or the new one. */
int fast_file_replace(const char *path, const void *data, size_t len, int mode,
                      struct fast_err *err);

/* The last line of an open file that is not empty, without its end, of at most |cap| - 1 bytes counted from the
 * end of the file; "" if there is none. */
void fast_file_last_line(int fd, char *ret, size_t cap);

/* /proc/PID/stat from its field 3 on, in |buf|; NULL if there is no such process. The name in field 2 may hold
 * spaces and brackets: what counts begins behind the last one. */
#define FAST_PROC_STAT_MAX 1024
const char *fast_proc_stat(uint32_t pid, char buf[FAST_PROC_STAT_MAX]);

/* The process that does the work of a replica: what runs in the container where |pid| is a container runtime (crun),
 * which leads a session of its own, else |pid|. */
uint32_t fast_proc_inner(uint32_t pid);

/* The user that a process runs as. */
bool fast_proc_user(uint32_t pid, uint32_t *ret);

/* Lets this process have as many descriptors as it may give itself: a connection is one, and what a program is given by
 * default is few (1024 with systemd). How many it had and has now; 0: not known. -1: it has as many as before, errno
 * says why. */
int fast_descriptors_raise(uint64_t *ret_was, uint64_t *ret_now);

/* |path| from the root of the file system on, however it is given: |ret| has room for PATH_MAX bytes. */
int fast_path_absolute(const char *path, char *ret, struct fast_err *err);

/* mkdir -p with |mode| for what is made. */
int fast_dir_make(const char *path, int mode, struct fast_err *err);

/* Removes |path| and all below it. Symbolic links are removed, not followed. */
int fast_dir_remove(const char *path, struct fast_err *err);

/* Writes "2026-11-24T02:10:22.533Z level event key=value" lines to stderr. */
fast_log_sink fast_log_stderr;

#endif
