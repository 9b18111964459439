#ifndef FAST_IO_PORT_OWNER_H
#define FAST_IO_PORT_OWNER_H

#include <stdint.h>
#include <sys/types.h>

enum fast_port_owner {
    FAST_PORT_UNKNOWN, /* the kernel does not tell of sockets */
    FAST_PORT_NOBODY,
    FAST_PORT_OWN,
    FAST_PORT_OTHER
};

/* Whose socket a connection to 127.0.0.1:|port| would reach now: that of user |uid| or another one's. */
enum fast_port_owner fast_port_owner(uint32_t port, uid_t uid);

#endif
