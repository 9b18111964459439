#ifndef FAST_SIMDRIVER_MPS_CONTROL_H
#define FAST_SIMDRIVER_MPS_CONTROL_H

/* The simulated MPS control daemon: its state, and its commands (mps_command.c). */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define MPS_CLIENTS 64
#define MPS_LINE 512
#define MPS_LIMITS 16

struct client {
    int fd; /* -1: free */
    pid_t pid;
    unsigned uid;
    bool driver;  /* not a user interface */
    bool doomed;  /* a driver that was there at a fault */
    char line[MPS_LINE];
    size_t len;
};

struct limit {
    char device[64], value[32];
};

struct daemon {
    char dir[80], log_dir[256];
    int listen, lock, log;
    double pct;        /* default for new clients */
    double server_pct; /* of the running server */
    char priority;
    pid_t server; /* 0: none */
    struct limit limit[MPS_LIMITS];
    int limits;
    struct client client[MPS_CLIENTS];
    bool quit;
};

/* Runs one line and sends the answer, which ends with a NUL. */
void mps_command(struct daemon *d, struct client *c, char *line);
/* A number in 0..100, not 0. Nothing is set if it is not one. */
bool mps_read_pct(const char *text, double *ret);
void mps_start_server(struct daemon *d, unsigned uid);
void mps_stop_server(struct daemon *d);
/* A client had a fatal fault, which reaches all of them. Until the last of them is gone the server is
 * in state FAULT and takes no other (documented). */
void mps_begin_fault(struct daemon *d, const struct client *c);
bool mps_in_fault(const struct daemon *d);
/* True once when it has ended by itself. */
bool mps_server_ended(struct daemon *d);
__attribute__((format(printf, 2, 3))) void mps_log(const struct daemon *d, const char *fmt, ...);

#endif
