#include "cli/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CELL 160

struct table {
    size_t cols, cells, cap;
    char (*text)[CELL];
};

static bool grow(struct table *t)
{
    if (t->cells < t->cap)
        return true;
    size_t cap = t->cap ? 2 * t->cap : 64;
    void *more = realloc(t->text, cap * CELL);
    if (!more)
        return false;
    t->text = more;
    t->cap = cap;
    return true;
}

struct table *table_new(const char *const *heads)
{
    struct table *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    while (heads[t->cols])
        t->cols++;
    for (size_t i = 0; i < t->cols; i++)
        table_add(t, "%s", heads[i]);
    return t;
}

void table_add(struct table *t, const char *fmt, ...)
{
    if (!t || !grow(t))
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->text[t->cells++], CELL, fmt, ap);
    va_end(ap);
}

/* Columns a terminal needs: bytes that do not continue a UTF-8 character. */
static int width(const char *s)
{
    int n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static bool is_number(const char *s)
{
    return (*s >= '0' && *s <= '9') || *s == '-' || *s == '.';
}

void table_print(struct table *t, FILE *out, int indent)
{
    if (!t)
        return;
    for (size_t row = 0; row * t->cols < t->cells; row++) {
        fprintf(out, "%*s", indent, "");
        for (size_t c = 0; c < t->cols && row * t->cols + c < t->cells; c++) {
            int widest = 0;
            bool numbers = t->cells > t->cols && is_number(t->text[t->cols + c]);
            for (size_t i = c; i < t->cells; i += t->cols)
                if (width(t->text[i]) > widest)
                    widest = width(t->text[i]);
            const char *cell = t->text[row * t->cols + c];
            int pad = widest - width(cell);
            bool last = c + 1 == t->cols;
            if (numbers)
                fprintf(out, "%*s%s%s", pad, "", cell, last ? "" : "  ");
            else
                fprintf(out, "%s%*s%s", cell, last ? 0 : pad, "", last ? "" : "  ");
        }
        fputc('\n', out);
    }
    free(t->text);
    free(t);
}
