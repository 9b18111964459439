#ifndef FAST_CORE_PASS_H
#define FAST_CORE_PASS_H

/* What a process shows to a store: who it is, which namespace it belongs to, and whether it may
 * administer, with a message authentication code under a key that the node and its stores share. A
 * store can check it without asking anybody, so that it works while the node is away. */

#include <stdbool.h>
#include <stddef.h>

#define FAST_PASS_KEY 16   /* bytes */
#define FAST_PASS_MAX 320  /* bytes of a pass, with its NUL */
#define FAST_PASS_NAME 200 /* of a name in it, with its NUL */

struct fast_pass {
    bool admin;
    char ns[64];
    char who[FAST_PASS_NAME]; /* a replica id, or the name of a program */
};

/* Writes a pass into |ret| of FAST_PASS_MAX bytes. False: a name is too long, or has a ':'. */
bool fast_pass_make(const unsigned char key[FAST_PASS_KEY], const struct fast_pass *pass, char *ret);

/* False: the text is not a pass, or was made with another key. */
bool fast_pass_read(const unsigned char key[FAST_PASS_KEY], const char *text, struct fast_pass *ret);

/* The code itself: SipHash-2-4 (J.-P. Aumasson, D. J. Bernstein, 2012). */
unsigned long long fast_pass_code(const unsigned char key[FAST_PASS_KEY], const void *data,
                                  size_t len);

#endif
