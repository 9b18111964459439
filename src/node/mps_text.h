#ifndef FAST_NODE_MPS_TEXT_H
#define FAST_NODE_MPS_TEXT_H

/* What nvidia-cuda-mps-control says, and how it has to be spoken to. Pure. Its exit status is 0 for
 * nearly everything, also for what it refuses, so that the text alone tells. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum node_mps_status {
    NODE_MPS_STATUS_UNKNOWN, /* an answer that is none, or a daemon without this command (r535) */
    NODE_MPS_STATUS_INITIALIZING,
    NODE_MPS_STATUS_ACTIVE,
    NODE_MPS_STATUS_FAULT, /* takes no client before all that it had are gone */
};

/* "33.3\n" -> 333 tenths of a per cent; -1: not a percentage. */
int node_mps_read_pct(const char *text);

/* "500M\n" -> bytes. Empty: *|ret| = 0, no limit is set. False: not a limit. */
bool node_mps_read_limit(const char *text, uint64_t *ret);

/* A limit as the daemon understands it, in whole megabytes, rounded up: "1.5G" would be stored as
 * 1M. |ret| of at least 24 bytes. */
void node_mps_write_limit(uint64_t bytes, char *ret, size_t size);

/* One pid a line. Returns how many there are (|max| are stored), -1 for anything else, such as
 * "Server 12 not found". */
int node_mps_read_pids(const char *text, int *ret, int max);

enum node_mps_status node_mps_read_status(const char *text);

/* The daemon belongs to somebody else and takes no orders. */
bool node_mps_is_refusal(const char *text);

/* terminate_client prints its result last: 0 when the client can be killed safely. */
bool node_mps_is_terminated(const char *text);

#endif
