/* A pass reads "1:ADMIN:NAMESPACE:WHO:CODE", the code in 16 hex digits over all before its colon. It
 * assumes that the key is secret and random; that the code has 64 bits is enough for a socket on this
 * machine, where every guess is a connection. */
#include "core/pass.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t rotate(uint64_t v, int by)
{
    return v << by | v >> (64 - by);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

static uint64_t word(const unsigned char *p, size_t len)
{
    uint64_t w = 0;
    for (size_t i = 0; i < len; i++)
        w |= (uint64_t)p[i] << (8 * i);
    return w;
}

static void compress(uint64_t v[4], uint64_t m)
{
    v[3] ^= m;
    sip_round(v);
    sip_round(v);
    v[0] ^= m;
}

unsigned long long fast_pass_code(const unsigned char key[FAST_PASS_KEY], const void *data, size_t len)
{
    const unsigned char *p = data;
    uint64_t k0 = word(key, 8), k1 = word(key + 8, 8);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575ull, k1 ^ 0x646f72616e646f6dull,
                     k0 ^ 0x6c7967656e657261ull, k1 ^ 0x7465646279746573ull};
    size_t left = len;
    for (; left >= 8; p += 8, left -= 8)
        compress(v, word(p, 8));
    compress(v, word(p, left) | (uint64_t)len << 56);
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static bool name_ok(const char *name, size_t cap)
{
    return *name && strlen(name) < cap && !strchr(name, ':');
}

bool fast_pass_make(const unsigned char key[FAST_PASS_KEY], const struct fast_pass *pass, char *ret)
{
    if (!name_ok(pass->ns, sizeof(pass->ns)) || !name_ok(pass->who, sizeof(pass->who)))
        return false;
    int n = snprintf(ret, FAST_PASS_MAX, "1:%d:%s:%s", pass->admin, pass->ns, pass->who);
    snprintf(ret + n, FAST_PASS_MAX - (size_t)n, ":%016llx", fast_pass_code(key, ret, (size_t)n));
    return true;
}

/* Copies the part up to the next ':' and returns what is behind it; NULL: it does not fit. */
static const char *take(const char *at, char *ret, size_t cap)
{
    size_t n = at ? strcspn(at, ":") : 0;
    if (!n || n >= cap || !at[n])
        return NULL;
    memcpy(ret, at, n);
    ret[n] = 0;
    return at + n + 1;
}

bool fast_pass_read(const unsigned char key[FAST_PASS_KEY], const char *text, struct fast_pass *ret)
{
    struct fast_pass p = {0};
    char version[8], admin[8], again[FAST_PASS_MAX];
    const char *at = take(text, version, sizeof(version));
    at = take(at, admin, sizeof(admin));
    at = take(at, p.ns, sizeof(p.ns));
    at = take(at, p.who, sizeof(p.who));
    if (!at || strcmp(version, "1") != 0 || strlen(admin) != 1 || (*admin != '0' && *admin != '1'))
        return false;
    p.admin = *admin == '1';
    /* The same words under the same key make the same text. */
    if (!fast_pass_make(key, &p, again) || strcmp(again, text) != 0)
        return false;
    *ret = p;
    return true;
}
