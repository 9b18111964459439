#include "wire/msg.h"

#include <stdbool.h>
#include <string.h>

/* Packet: u16 version, u16 type, u32 id, then the fields. Numbers are little-endian; a str is a u32
 * length, its bytes and a NUL. A strv is a str whose last byte is a NUL unless it is empty. */
#define HEADER_LEN 8

struct out {
    unsigned char *p;
    size_t len, cap;
};

struct in {
    const unsigned char *p;
    size_t at, len;
};

static bool put(struct out *o, uint64_t v, size_t bytes)
{
    if (o->cap - o->len < bytes)
        return false;
    for (size_t i = 0; i < bytes; i++)
        o->p[o->len++] = (unsigned char)(v >> (8 * i));
    return true;
}

static bool get(struct in *in, uint64_t *ret, size_t bytes)
{
    if (in->len - in->at < bytes)
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < bytes; i++)
        v |= (uint64_t)in->p[in->at++] << (8 * i);
    *ret = v;
    return true;
}

static bool put_u32(struct out *o, const uint32_t *v)
{
    return put(o, *v, 4);
}

static bool put_u64(struct out *o, const uint64_t *v)
{
    return put(o, *v, 8);
}

static bool put_i64(struct out *o, const int64_t *v)
{
    return put(o, (uint64_t)*v, 8);
}

static bool put_str(struct out *o, const struct fast_str *s)
{
    if (!put(o, s->len, 4) || o->cap - o->len < (size_t)s->len + 1)
        return false;
    if (s->len)
        memcpy(o->p + o->len, s->p, s->len);
    o->len += s->len;
    o->p[o->len++] = 0;
    return true;
}

static bool put_strv(struct out *o, const struct fast_str *s)
{
    return (s->len == 0 || s->p[s->len - 1] == 0) && put_str(o, s);
}

static bool get_u32(struct in *in, uint32_t *v)
{
    uint64_t w = 0;
    bool ok = get(in, &w, 4);
    *v = (uint32_t)w;
    return ok;
}

static bool get_u64(struct in *in, uint64_t *v)
{
    return get(in, v, 8);
}

static bool get_i64(struct in *in, int64_t *v)
{
    uint64_t w = 0;
    bool ok = get(in, &w, 8);
    *v = (int64_t)w;
    return ok;
}

/* The bytes between may hold no NUL: a name that ends early for one reader and late for another is
 * how checks are got round. */
static bool get_bytes(struct in *in, struct fast_str *s)
{
    uint64_t n = 0;
    if (!get(in, &n, 4) || in->len - in->at < n + 1 || in->p[in->at + n] != 0)
        return false;
    *s = (struct fast_str){(const char *)in->p + in->at, (uint32_t)n};
    in->at += n + 1;
    return true;
}

static bool get_str(struct in *in, struct fast_str *s)
{
    return get_bytes(in, s) && !memchr(s->p, 0, s->len);
}

static bool get_strv(struct in *in, struct fast_str *s)
{
    return get_bytes(in, s) && (s->len == 0 || s->p[s->len - 1] == 0);
}

#define F(type, name) &&put_##type(o, &m->name)
#define X(name, number)                                                                            \
    static bool encode_##name(struct out *o, const struct fast_msg_##name *m)                      \
    {                                                                                              \
        return true FAST_MSG_##name(F);                                                            \
    }
FAST_MSG_LIST(X)
#undef X
#undef F

#define F(type, name) &&get_##type(in, &m->name)
#define X(name, number)                                                                            \
    static bool decode_##name(struct in *in, struct fast_msg_##name *m)                            \
    {                                                                                              \
        return true FAST_MSG_##name(F);                                                            \
    }
FAST_MSG_LIST(X)
#undef X
#undef F

int fast_msg_encode(const struct fast_msg *msg, void *buf, size_t cap, size_t *ret_len,
                    struct fast_err *err)
{
    struct out o = {buf, 0, cap < FAST_MSG_MAX ? cap : FAST_MSG_MAX};
    bool ok = put(&o, FAST_MSG_VERSION, 2) && put(&o, msg->type, 2) && put(&o, msg->id, 4);
    switch (msg->type) {
#define X(name, number)                                                                            \
    case number:                                                                                   \
        ok = ok && encode_##name(&o, &msg->name);                                                  \
        break;
        FAST_MSG_LIST(X)
#undef X
    default:
        return fast_err_set(err, FAST_EBUG, "message type %u is unknown", msg->type);
    }
    if (!ok)
        return fast_err_set(err, FAST_EINVAL, "message %s does not fit in %zu bytes",
                            fast_msg_name(msg->type), o.cap);
    *ret_len = o.len;
    return 0;
}

int fast_msg_decode(const void *buf, size_t len, struct fast_msg *ret, struct fast_err *err)
{
    struct in in = {buf, 0, len};
    uint64_t version = 0, type = 0, id = 0;
    if (len < HEADER_LEN || !get(&in, &version, 2) || !get(&in, &type, 2) || !get(&in, &id, 4))
        return fast_err_set(err, FAST_EPROTO, "a packet of %zu bytes has no header", len);
    if (version != FAST_MSG_VERSION)
        return fast_err_set(err, FAST_EPROTO, "the peer speaks version %d, this program %d",
                            (int)version, FAST_MSG_VERSION);
    struct fast_msg m = {.type = (uint32_t)type, .id = (uint32_t)id};
    bool ok = false;
    switch (m.type) {
#define X(name, number)                                                                            \
    case number:                                                                                   \
        ok = decode_##name(&in, &m.name);                                                          \
        break;
        FAST_MSG_LIST(X)
#undef X
    default:
        return fast_err_set(err, FAST_EPROTO, "message type %u is unknown", m.type);
    }
    if (!ok || in.at != in.len)
        return fast_err_set(err, FAST_EPROTO, "message %s of %zu bytes is malformed",
                            fast_msg_name(m.type), len);
    *ret = m;
    return 0;
}

const char *fast_msg_name(uint32_t type)
{
    switch (type) {
#define X(name, number)                                                                            \
    case number:                                                                                   \
        return #name;
        FAST_MSG_LIST(X)
#undef X
    default:
        return "unknown";
    }
}

const char *fast_replica_state_name(uint32_t state)
{
    static const char *const names[FAST_REPLICA_STATE_COUNT] = {
        "starting", "ready", "unhealthy", "backoff", "stopping", "stopped",
    };
    return state < FAST_REPLICA_STATE_COUNT ? names[state] : "unknown";
}

const char *fast_hold_name(uint32_t hold)
{
    static const char *const names[FAST_HOLD_COUNT] = {"advisory", "soft", "hard"};
    return hold < FAST_HOLD_COUNT ? names[hold] : "unknown";
}

const char *fast_backend_name(uint32_t backend)
{
    static const char *const names[FAST_BACKEND_COUNT] = {"none", "mps", "mps-partition"};
    return backend < FAST_BACKEND_COUNT ? names[backend] : "unknown";
}

const char *fast_store_via_name(uint32_t via)
{
    static const char *const names[FAST_STORE_VIA_COUNT] = {"vmm-read-only", "vmm", "ipc"};
    return via < FAST_STORE_VIA_COUNT ? names[via] : "unknown";
}

struct fast_str fast_str(const char *text)
{
    return (struct fast_str){text, text ? (uint32_t)strlen(text) : 0};
}

const char *fast_strv_get(struct fast_str strv, size_t i)
{
    const char *p = strv.p;
    const char *end = strv.p + strv.len;
    for (; p < end && i > 0; i--)
        p += strlen(p) + 1;
    return p < end ? p : NULL;
}

size_t fast_strv_count(struct fast_str strv)
{
    size_t n = 0;
    for (uint32_t i = 0; i < strv.len; i++)
        n += strv.p[i] == 0;
    return n;
}
