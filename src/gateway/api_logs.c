/* The log lines of a function as NDJSON, read from the files that its replicas write; when a line came, the node
 * has noted (io/log_times.h). The node keeps a log short: the end of what it has cut off is in ID.log.1, and is told
 * before what is in ID.log. */

#include "gateway/gateway.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parse.h"
#include "io/log_times.h"

#define FILES_MAX 128 /* two of a replica */
#define BLOCK 65536
#define POLL FAST_MS(200)

struct file {
    char id[GW_ID_MAX];
    char *path;
    off_t at;
    ino_t inode;
    int64_t tail; /* lines of it that are told, -1: all */
    bool seen;    /* it has been looked at */
    bool old;     /* nothing will be added to it */
    bool told;    /* all that is in it */
};

struct stream {
    struct gateway *gw;
    struct fast_http_req *req;
    struct fast_timer *timer;
    char name[GW_NAME_MAX], ns[GW_NAME_MAX], instance[GW_ID_MAX];
    int64_t tail; /* lines, -1: all */
    fast_ns since;
    bool follow, full;
    struct file files[FILES_MAX];
    int nfiles;
    char block[BLOCK];
};

static void free_stream(struct stream *s)
{
    for (int i = 0; i < s->nfiles; i++)
        free(s->files[i].path);
    fast_timer_free(s->timer);
    free(s);
}

static void on_done(void *user, bool complete)
{
    (void)complete;
    free_stream(user);
}

/* The offset where the last |lines| lines begin; *|ret_missing| is how many there are too few. */
static off_t tail_offset(int fd, off_t size, int64_t lines, int64_t *ret_missing)
{
    char buf[4096];
    off_t end = size;
    int64_t seen = 0;
    *ret_missing = lines;
    if (lines < 0)
        return 0;
    *ret_missing = 0;
    if (lines == 0)
        return size;
    while (end > 0) {
        size_t want = end < (off_t)sizeof(buf) ? (size_t)end : sizeof(buf);
        ssize_t n = pread(fd, buf, want, end - (off_t)want);
        if (n != (ssize_t)want)
            return 0;
        for (size_t i = want; i-- > 0;) {
            off_t at = end - (off_t)want + (off_t)i;
            if (buf[i] == '\n' && at != size - 1 && ++seen == lines)
                return at + 1;
        }
        end -= (off_t)want;
    }
    *ret_missing = lines - seen - (size > 0);
    return 0;
}

static void when_text(fast_ns wall, char ret[64])
{
    struct tm tm;
    char text[32];
    time_t sec = (time_t)(wall / FAST_S(1));
    long ns = (long)(wall % FAST_S(1));
    gmtime_r(&sec, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(ret, 64, "%s.%09ldZ", text, ns);
}

static void tell_line(struct stream *s, const struct file *f, fast_ns wall, const char *p, size_t len)
{
    char when[64];
    if (wall < s->since)
        return;
    when_text(wall, when);
    json_t *text = json_stringn(p, len);
    if (!text) { /* not UTF-8: what cannot be told is replaced, the line stays one */
        fast_autofree char *copy = strndup(p, len);
        for (char *c = copy; c && *c; c++)
            if ((unsigned char)*c >= 0x80)
                *c = '?';
        text = json_string(copy ? copy : "");
    }
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", s->name, "namespace", s->ns,
                          "instance", f->id, "timestamp", when, "text", text);
    fast_autofree char *line = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!line)
        return;
    size_t n = strlen(line);
    line[n++] = '\n'; /* in place of the NUL */
    if (!fast_http_req_write(s->req, line, n))
        s->full = true;
}

/* Tells the complete lines of one block; a longer line is told in pieces. */
static size_t tell_block(struct stream *s, const struct file *f, struct fast_log_times *times, size_t len)
{
    size_t at = 0;
    while (at < len) {
        const char *nl = memchr(s->block + at, '\n', len - at);
        if (!nl && !(at == 0 && len == sizeof(s->block)))
            break;
        size_t n = nl ? (size_t)(nl - (s->block + at)) : len, next = at + n + (nl != NULL);
        tell_line(s, f, fast_log_times_at(times, f->at + (off_t)next), s->block + at, n);
        at = next;
    }
    return at;
}

static void pump_file(struct stream *s, struct file *f)
{
    struct fast_log_times times;
    struct stat st;
    int64_t missing;
    int fd = f->told ? -1 : open(f->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        if (fd >= 0)
            close(fd);
        f->told = f->old; /* one that comes later has what is told already */
        return;
    }
    if (!f->seen)
        f->at = tail_offset(fd, st.st_size, f->tail, &missing);
    else if (st.st_ino != f->inode || st.st_size < f->at)
        f->at = 0; /* it was begun anew */
    f->inode = st.st_ino;
    f->seen = true;
    fast_log_times_open(&times, f->path);
    while (!s->full) {
        ssize_t n = pread(fd, s->block, sizeof(s->block), f->at);
        size_t told = n > 0 ? tell_block(s, f, &times, (size_t)n) : 0;
        f->at += (off_t)told;
        if (!told) {
            /* The last line without its end is told only when nobody waits for the rest of it. */
            if (n > 0 && (!s->follow || f->old))
                tell_line(s, f, fast_log_times_at(&times, f->at + (off_t)n), s->block, (size_t)n);
            f->told = f->old;
            break;
        }
    }
    fast_log_times_close(&times);
    close(fd);
}

/* The lines of a tail that are not in |path|. */
static int64_t missing_in(const char *path, int64_t tail)
{
    struct stat st;
    int64_t missing = tail;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && !fstat(fd, &st))
        tail_offset(fd, st.st_size, tail, &missing);
    if (fd >= 0)
        close(fd);
    return missing;
}

static void add_file(struct stream *s, const char *id, char *path, int64_t tail, bool old)
{
    struct file *f = &s->files[s->nfiles];
    if (!path)
        return;
    s->nfiles++;
    *f = (struct file){.path = path, .tail = tail, .old = old};
    snprintf(f->id, sizeof(f->id), "%s", id);
}

static void add_files(struct stream *s, const struct gw_function *fn)
{
    for (struct gw_replica *r = s->gw->replicas; r && s->nfiles + 2 <= FILES_MAX; r = r->next) {
        char *old = NULL;
        bool known = r->fn != fn || !r->log_path || !*r->log_path ||
                     (*s->instance && strcmp(s->instance, r->id));
        for (int i = 0; i < s->nfiles && !known; i++)
            known = !strcmp(s->files[i].id, r->id);
        if (known)
            continue;
        if (asprintf(&old, "%s.1", r->log_path) < 0)
            old = NULL;
        add_file(s, r->id, old, missing_in(r->log_path, s->tail), true);
        add_file(s, r->id, strdup(r->log_path), s->tail, false);
    }
}

static void pump(void *arg)
{
    struct stream *s = arg;
    struct gateway *gw = s->gw;
    struct gw_function *fn =
        gw_function_find(gw, s->name, strlen(s->name), s->ns, strlen(s->ns));
    if (fn)
        add_files(s, fn);
    for (int i = 0; i < s->nfiles && !s->full; i++)
        pump_file(s, &s->files[i]);
    if (!s->full && (!s->follow || !fn || gw->stopping)) {
        fast_http_req_end(s->req);
        return;
    }
    if (!s->full)
        fast_timer_set(s->timer, fast_loop_now(gw->loop) + POLL);
    fast_http_req_flush(s->req);
}

static void on_drain(void *user)
{
    struct stream *s = user;
    s->full = false;
    pump(s);
}

static bool parse_time(const char *text, fast_ns *ret)
{
    struct tm tm = {0};
    int hours = 0, minutes = 0;
    fast_ns part = 0, scale = FAST_S(1);
    char sign = 0;
    const char *p = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!p)
        return false;
    if (*p == '.')
        for (p++; *p >= '0' && *p <= '9'; p++)
            part += (*p - '0') * (scale /= 10);
    if (strcmp(p, "Z") != 0) {
        if (sscanf(p, "%c%2d:%2d", &sign, &hours, &minutes) != 3 || (sign != '+' && sign != '-') || strlen(p) != 6)
            return false;
        minutes = (sign == '+' ? 1 : -1) * (hours * 60 + minutes);
    }
    time_t sec = timegm(&tm) - minutes * (time_t)60;
    *ret = sec < 0 ? 0 : sec >= INT64_MAX / FAST_S(1) ? INT64_MAX : sec * FAST_S(1) + part;
    return true;
}

static bool parse_query(const struct gw_request *rq, struct stream *s)
{
    char text[64];
    bool ok = true;
    s->tail = -1;
    if (gw_query_get(rq->query, "tail", text, sizeof(text)))
        ok = !fast_parse_int(text, "tail", -1, INT32_MAX, &s->tail, NULL);
    if (ok && gw_query_get(rq->query, "since", text, sizeof(text)) && *text)
        ok = parse_time(text, &s->since);
    if (gw_query_get(rq->query, "follow", text, sizeof(text)))
        s->follow = !strcmp(text, "true") || !strcmp(text, "1");
    gw_query_get(rq->query, "instance", s->instance, sizeof(s->instance));
    if (!gw_query_get(rq->query, "namespace", s->ns, sizeof(s->ns)) || !*s->ns)
        snprintf(s->ns, sizeof(s->ns), "%s", GW_DEFAULT_NS);
    return ok;
}

void gw_api_logs(const struct gw_request *rq)
{
    static const struct fast_http_req_ops ops = {.drain = on_drain, .done = on_done};
    static const char fields[] = "Content-Type: application/x-ndjson\r\n";
    struct stream *s = calloc(1, sizeof(*s));
    if (!s) {
        fast_http_req_text_reply(rq->req, 500, "no memory for logs");
        return;
    }
    s->gw = rq->gw;
    s->req = rq->req;
    s->timer = fast_timer_new(rq->gw->loop, pump, s);
    int status = 0;
    if (!s->timer || !parse_query(rq, s))
        status = 422;
    else if (!gw_query_get(rq->query, "name", s->name, sizeof(s->name)) || !*s->name)
        status = 400;
    else if (!gw_function_find(rq->gw, s->name, strlen(s->name), s->ns, strlen(s->ns)))
        status = 404;
    if (status == 404) {
        fast_http_req_text_reply(rq->req, 404, "there is no function %s in namespace %s", s->name, s->ns);
        free_stream(s);
        return;
    }
    if (status) {
        fast_http_req_text_reply(rq->req, status, "%s",
                                 status == 422 ? "could not parse the log request"
                                               : "name: the name of a function is needed");
        free_stream(s);
        return;
    }
    fast_http_req_accept(rq->req, &ops, s);
    fast_http_req_start(rq->req, 200, fields, sizeof(fields) - 1, -1);
    pump(s);
}
