#ifndef TEST_STRESS_H
#define TEST_STRESS_H

/* What the programs of the token stress test share: one page, written by the clients. */

#include <stdatomic.h>
#include <stdint.h>

#define STRESS_CLIENTS 8
#define STRESS_THREADS 3

struct stress_thread {
    _Atomic int64_t since_ns;  /* it has been in a call of the driver since then; 0: it is not */
    _Atomic uint64_t launches; /* calls that have returned */
};

struct stress_page {
    _Atomic uint32_t calm; /* no long idle gaps */
    _Atomic uint64_t lost; /* wishes that had to be repeated, as the node of now says */
    _Atomic int64_t owing_ns[STRESS_CLIENTS]; /* for so long a client's replica pays for what it had, as it says */
    _Atomic uint32_t told; /* how often it has said all that */
    struct stress_thread thread[STRESS_CLIENTS][STRESS_THREADS];
};

#endif
