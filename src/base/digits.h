#ifndef FAST_BASE_DIGITS_H
#define FAST_BASE_DIGITS_H

/* Decimal numbers where printf would cost more than all that is done with them. */

#include <stddef.h>
#include <stdint.h>

#define FAST_DIGITS_MAX 20 /* of a uint64_t */

/* Writes |n| without a closing 0 and returns how many digits it has. */
static inline size_t fast_digits(char buf[FAST_DIGITS_MAX], uint64_t n)
{
    size_t len = 1;
    for (uint64_t rest = n; rest >= 10; rest /= 10)
        len++;
    for (size_t i = len; i-- > 0; n /= 10)
        buf[i] = (char)('0' + n % 10);
    return len;
}

#endif
