#ifndef DIGITS_INPUT_H
#define DIGITS_INPUT_H

/* What a request may look like: 64 raw bytes 0..16; a PGM image (P2 or P5) of 8x8 or 28x28; or JSON
 * {"pixels":[64 numbers 0..16]}. Strict: what is not one of these is refused with the reason. */

#include <stddef.h>

#include "digits/net.h"

/* Fills |pixels| with 0..1, ink bright. Returns 0, or -1 with a message. |body| has a NUL behind it. */
int input_parse(const unsigned char *body, size_t len, float pixels[NET_PIXELS], char *msg,
                size_t msg_size);

#endif
