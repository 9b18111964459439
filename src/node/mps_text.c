#include "node/mps_text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_end(const char *p)
{
    return p[strspn(p, " \t\r\n")] == 0;
}

int node_mps_read_pct(const char *text)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return -1;
    double v = strtod(text, &end);
    return end == text || !is_end(end) || v < 0 || v > 100 ? -1 : (int)(v * 10 + 0.5);
}

bool node_mps_read_limit(const char *text, uint64_t *ret)
{
    char *end;
    *ret = 0;
    if (is_end(text))
        return true;
    if (!isdigit((unsigned char)*text))
        return false;
    unsigned long long n = strtoull(text, &end, 10);
    int shift = *end == 'G' ? 30 : *end == 'M' ? 20 : 0;
    if (!shift || !is_end(end + 1) || n > UINT64_MAX >> shift)
        return false;
    *ret = (uint64_t)n << shift;
    return true;
}

void node_mps_write_limit(uint64_t bytes, char *ret, size_t size)
{
    uint64_t mib = (bytes >> 20) + ((bytes & 0xfffff) != 0);
    snprintf(ret, size, "%lluM", (unsigned long long)mib);
}

int node_mps_read_pids(const char *text, int *ret, int max)
{
    int n = 0;
    while (!is_end(text)) {
        char *end;
        text += strspn(text, " \t\r\n");
        if (!isdigit((unsigned char)*text))
            return -1;
        long pid = strtol(text, &end, 10);
        if (pid <= 1 || pid > INT32_MAX || !strchr(" \t\r\n", *end))
            return -1;
        if (n < max)
            ret[n] = (int)pid;
        n++;
        text = end;
    }
    return n;
}

enum node_mps_status node_mps_read_status(const char *text)
{
    static const struct {
        const char *name;
        enum node_mps_status status;
    } names[] = {{"INITIALIZING", NODE_MPS_STATUS_INITIALIZING},
                 {"ACTIVE", NODE_MPS_STATUS_ACTIVE},
                 {"FAULT", NODE_MPS_STATUS_FAULT}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t n = strlen(names[i].name);
        if (!strncmp(text, names[i].name, n) && is_end(text + n))
            return names[i].status;
    }
    return NODE_MPS_STATUS_UNKNOWN;
}

bool node_mps_is_refusal(const char *text)
{
    return strstr(text, "nsufficient privilege") || strstr(text, "ot enough privilege");
}

bool node_mps_is_terminated(const char *text)
{
    size_t len = strlen(text);
    while (len && isspace((unsigned char)text[len - 1]))
        len--;
    return len && text[len - 1] == '0' && (len == 1 || text[len - 2] == '\n');
}
