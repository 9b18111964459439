#include "cli/view.h"

#include <string.h>
#include <unistd.h>

#include "cli/api.h"

#define COLUMNS 80

const char *view_bar(double share, int width, char *buf, size_t cap)
{
    static const char *const parts[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
    size_t at = 0;
    if (share < 0)
        share = 0;
    if (share > 1)
        share = 1;
    int eighths = (int)(share * width * 8 + 0.5);
    for (int i = 0; i < width; i++) {
        int e = eighths > 8 ? 8 : eighths;
        eighths -= e;
        size_t n = strlen(parts[e]);
        if (at + n + 1 > cap)
            break;
        memcpy(buf + at, parts[e], n);
        at += n;
    }
    buf[at] = 0;
    return buf;
}

const char *view_color(const struct cli *cli, const char *name)
{
    static const struct {
        const char *name, *seq;
    } table[] = {{"bold", "\033[1m"}, {"dim", "\033[2m"}, {"red", "\033[31m"},
                 {"green", "\033[32m"}, {"yellow", "\033[33m"}, {"off", "\033[0m"}};
    for (size_t i = 0; cli->color && i < sizeof(table) / sizeof(table[0]); i++)
        if (!strcmp(table[i].name, name))
            return table[i].seq;
    return "";
}

void view_progress(const char *text, double share)
{
    char bar[128];
    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r\033[K%s [%s] %3.0f%%", text, view_bar(share, 24, bar, sizeof(bar)),
            share * 100);
    fflush(stderr);
}

void view_progress_end(void)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

void view_wrap(FILE *out, int indent, const char *text)
{
    int at = 0;
    while (*(text += strspn(text, " \n"))) {
        int word = (int)strcspn(text, " \n");
        if (at && at + 1 + word > COLUMNS) {
            fputc('\n', out);
            at = 0;
        }
        at += at ? fprintf(out, " %.*s", word, text) : fprintf(out, "%*s%.*s", indent, "", word, text);
        text += word;
    }
    if (at)
        fputc('\n', out);
}

const char *view_bytes(double bytes, char *buf, size_t cap)
{
    if (bytes >= 1073741824.0)
        snprintf(buf, cap, "%.1f GiB", bytes / 1073741824.0);
    else
        snprintf(buf, cap, "%.0f MiB", bytes / 1048576.0);
    return buf;
}

const char *view_gpus(const json_t *replica, char *buf, size_t cap)
{
    const json_t *gpus = json_object_get(replica, "gpus");
    size_t at = 0;
    snprintf(buf, cap, "%.0f", json_num(replica, "gpu"));
    for (size_t i = 0; i < json_array_size(gpus) && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%.0f", i ? "+" : "", json_num(json_array_get(gpus, i), "gpu"));
    return buf;
}

bool view_has_gpu(const json_t *replica, double gpu)
{
    const json_t *gpus = json_object_get(replica, "gpus");
    bool has = json_num(replica, "gpu") == gpu;
    for (size_t i = 0; i < json_array_size(gpus); i++)
        has |= json_num(json_array_get(gpus, i), "gpu") == gpu;
    return has;
}
