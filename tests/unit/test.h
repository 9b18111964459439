#ifndef FAST_TESTS_UNIT_TEST_H
#define FAST_TESTS_UNIT_TEST_H

/* cmocka and the headers that it wants before it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#endif
