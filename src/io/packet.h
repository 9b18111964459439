#ifndef FAST_IO_PACKET_H
#define FAST_IO_PACKET_H

/* Messages of wire/msg.h over Unix SOCK_SEQPACKET sockets, with descriptors beside them. */

#include <stdbool.h>

#include "base/err.h"
#include "base/units.h"
#include "wire/msg.h"

#define FAST_PACKET_FDS 4

/* Listens on |path| with |mode|. A stale socket file is removed, one that answers is not: then the
 * error is FAST_EBUSY. The fd is non-blocking. */
int fast_packet_listen(const char *path, int mode, int *ret_fd, struct fast_err *err);

/* Connects; blocking fd unless |nonblock|. FAST_EPEER if nobody listens. */
int fast_packet_connect(const char *path, bool nonblock, int *ret_fd, struct fast_err *err);

/* Sends one message with |nfds| descriptors, which stay the caller's. FAST_EBUSY when the socket of
 * a slow peer is full (nothing was sent), FAST_EPEER when it is gone. Never raises SIGPIPE. */
int fast_packet_send(int fd, const struct fast_msg *msg, const int *fds, int nfds,
                     struct fast_err *err);

/* Receives one message into |buf| of FAST_MSG_MAX bytes, which the strings of |ret| point into.
 * |ret_fds| (NULL: descriptors are closed) takes up to FAST_PACKET_FDS descriptors, close-on-exec;
 * unused places become -1. FAST_EBUSY when there is none on a non-blocking fd, FAST_EPEER at the
 * end. */
int fast_packet_recv(int fd, void *buf, struct fast_msg *ret, int *ret_fds, struct fast_err *err);

/* As above, but waits for at most |timeout| (for programs without a loop). FAST_ETIME. */
int fast_packet_recv_wait(int fd, fast_ns timeout, void *buf, struct fast_msg *ret, int *ret_fds,
                          struct fast_err *err);

#endif
