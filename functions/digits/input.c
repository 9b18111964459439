/* Decides what the bytes of a request mean. The network was trained on 16 grey levels with bright
 * ink; an image whose corners are bright is taken to be dark ink on paper and is inverted. */
#include "digits/input.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BIG = 28, GRID = 32, LEVELS = 16 };

/* A position in the body, and where to say what is wrong with it. */
struct cursor {
    const char *at, *end;
    char *msg;
    size_t msg_size;
};

static int refuse(const struct cursor *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static int refuse(const struct cursor *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(c->msg, c->msg_size, fmt, args);
    va_end(args);
    return -1;
}

static void skip_space(struct cursor *c)
{
    while (c->at < c->end && strchr(" \t\r\n", *c->at) && *c->at)
        c->at++;
}

static bool take(struct cursor *c, const char *text)
{
    skip_space(c);
    size_t len = strlen(text);
    if ((size_t)(c->end - c->at) < len || memcmp(c->at, text, len) != 0)
        return false;
    c->at += len;
    return true;
}

/* A JSON number 0..16. strtof() alone would also take "inf", "0x1" and " 1". */
static int json_number(struct cursor *c, float *ret)
{
    skip_space(c);
    char text[32];
    size_t len = 0;
    while (c->at + len < c->end && len + 1 < sizeof(text) &&
           (isdigit((unsigned char)c->at[len]) || (c->at[len] && strchr("+-.eE", c->at[len]))))
        len++;
    memcpy(text, c->at, len);
    text[len] = '\0';
    char *stop = text;
    float value = strtof(text, &stop);
    if (!len || *stop || !(isdigit((unsigned char)text[0]) || text[0] == '-') ||
        text[len - 1] == '.')
        return refuse(c, "a pixel is not a number");
    if (!(value >= 0 && value <= LEVELS))
        return refuse(c, "pixel %s is not between 0 and %d", text, LEVELS);
    c->at += len;
    *ret = value / LEVELS;
    return 0;
}

static int parse_json(struct cursor *c, float pixels[NET_PIXELS])
{
    int count = 0;
    if (!take(c, "{") || !take(c, "\"pixels\"") || !take(c, ":") || !take(c, "["))
        return refuse(c, "the JSON is not {\"pixels\":[%d numbers 0..%d]}", NET_PIXELS, LEVELS);
    if (!take(c, "]"))
        for (;;) {
            float value = 0;
            if (json_number(c, &value))
                return -1;
            if (count == NET_PIXELS)
                return refuse(c, "there are more than %d pixels", NET_PIXELS);
            pixels[count++] = value;
            if (take(c, "]"))
                break;
            if (!take(c, ","))
                return refuse(c, "the JSON is malformed after pixel %d", count);
        }
    if (!take(c, "}"))
        return refuse(c, "the JSON does not end after \"pixels\"");
    skip_space(c);
    if (c->at != c->end)
        return refuse(c, "there is something behind the JSON object");
    if (count != NET_PIXELS)
        return refuse(c, "there are %d pixels instead of %d", count, NET_PIXELS);
    return 0;
}

/* A decimal number of a PGM, after white space and comments. */
static int pgm_number(struct cursor *c, const char *what, int max, int *ret)
{
    skip_space(c);
    while (c->at < c->end && *c->at == '#') {
        while (c->at < c->end && *c->at != '\n')
            c->at++;
        skip_space(c);
    }
    int value = 0, digits = 0;
    for (; c->at < c->end && isdigit((unsigned char)*c->at); c->at++, digits++) {
        value = value * 10 + (*c->at - '0');
        if (value > max)
            return refuse(c, "the PGM's %s is above %d", what, max);
    }
    if (!digits)
        return refuse(c, "the PGM's %s is missing or not a number", what);
    *ret = value;
    return 0;
}

/* Values of a PGM of |count| pixels, divided by its maximum. */
static int pgm_pixels(struct cursor *c, bool plain, int max, int count, float *ret)
{
    if (!plain && (c->at == c->end || !isspace((unsigned char)*c->at++)))
        return refuse(c, "the PGM's header does not end in white space");
    if (!plain && c->end - c->at != count)
        return refuse(c, "the PGM has %td bytes of pixels instead of %d", c->end - c->at, count);
    for (int i = 0; i < count; i++) {
        int value = plain ? 0 : (unsigned char)*c->at++;
        if (plain && pgm_number(c, "pixel", max, &value))
            return -1;
        if (value > max)
            return refuse(c, "pixel %d of the PGM is %d, above its maximum %d", i, value, max);
        ret[i] = (float)value / (float)max;
    }
    skip_space(c);
    if (plain && c->at != c->end)
        return refuse(c, "the PGM has more than %d pixels", count);
    return 0;
}

/* Shrinks a 28x28 image the way the training images were made from 32x32 bitmaps: the ink fills the
 * height (or the width, if it is wider than high), and each pixel is the mean of 4x4 samples. */
static void shrink(const float *big, float pixels[NET_PIXELS])
{
    int top = BIG, bottom = -1, left = BIG, right = -1;
    for (int i = 0; i < BIG * BIG; i++)
        if (big[i] > 0.2f) {
            int y = i / BIG, x = i % BIG;
            top = y < top ? y : top;
            bottom = y > bottom ? y : bottom;
            left = x < left ? x : left;
            right = x > right ? x : right;
        }
    memset(pixels, 0, NET_PIXELS * sizeof(*pixels));
    if (bottom < 0)
        return; /* a blank image stays one */
    int high = bottom - top + 1, wide = right - left + 1, size = high > wide ? high : wide;
    for (int i = 0; i < GRID * GRID; i++) {
        /* Twice the distance from the centre, so that everything stays an integer until the end. */
        int gy = 2 * (i / GRID) + 1 - GRID, gx = 2 * (i % GRID) + 1 - GRID;
        int y = (gy * size + GRID * (top + bottom + 1) + GRID * BIG * 2) / (2 * GRID) - BIG;
        int x = (gx * size + GRID * (left + right + 1) + GRID * BIG * 2) / (2 * GRID) - BIG;
        if (y >= 0 && y < BIG && x >= 0 && x < BIG)
            pixels[i / GRID / 4 * NET_SIDE + i % GRID / 4] += big[y * BIG + x] / 16.0f;
    }
}

static int parse_pgm(struct cursor *c, float pixels[NET_PIXELS])
{
    bool plain = c->at[1] == '2';
    int width = 0, height = 0, max = 0;
    float image[BIG * BIG] = {0};
    c->at += 2;
    if (c->at == c->end || !isspace((unsigned char)*c->at))
        return refuse(c, "the PGM's header is malformed");
    if (pgm_number(c, "width", 65535, &width) || pgm_number(c, "height", 65535, &height) ||
        pgm_number(c, "maximum", 255, &max))
        return -1;
    if (width != height || (width != NET_SIDE && width != BIG))
        return refuse(c, "the PGM is %dx%d; accepted are %dx%d and %dx%d", width, height, NET_SIDE,
                      NET_SIDE, BIG, BIG);
    if (!max)
        return refuse(c, "the PGM's maximum is 0");
    if (pgm_pixels(c, plain, max, width * height, image))
        return -1;
    int last = width * height - 1;
    if (image[0] + image[width - 1] + image[last - width + 1] + image[last] > 2.0f)
        for (int i = 0; i <= last; i++)
            image[i] = 1.0f - image[i];
    if (width == BIG)
        shrink(image, pixels);
    else
        memcpy(pixels, image, NET_PIXELS * sizeof(*pixels));
    return 0;
}

static int parse_raw(struct cursor *c, float pixels[NET_PIXELS])
{
    for (int i = 0; i < NET_PIXELS; i++) {
        int value = (unsigned char)c->at[i];
        if (value > LEVELS)
            return refuse(c, "pixel %d is %d, not between 0 and %d", i, value, LEVELS);
        pixels[i] = (float)value / LEVELS;
    }
    return 0;
}

int input_parse(const unsigned char *body, size_t len, float pixels[NET_PIXELS], char *msg,
                size_t msg_size)
{
    const char *text = (const char *)body;
    struct cursor c = {text, text + len, msg, msg_size};
    if (len >= 2 && text[0] == 'P' && (text[1] == '2' || text[1] == '5'))
        return parse_pgm(&c, pixels);
    if (len == NET_PIXELS && text[0] != '{')
        return parse_raw(&c, pixels);
    skip_space(&c);
    if (c.at < c.end && *c.at == '{')
        return parse_json(&c, pixels);
    return refuse(&c, "%zu bytes are no image: send %d bytes 0..%d, a PGM of 8x8 or 28x28, or JSON "
                      "{\"pixels\":[...]}", len, NET_PIXELS, LEVELS);
}
