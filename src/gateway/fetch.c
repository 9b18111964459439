/* Drives libcurl's multi interface from the event loop. It assumes nothing about who is called but
 * that an answer fits into memory; redirects are not followed and only http and https are spoken. */

#include "gateway/fetch.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"

#define HEADERS_MAX ((size_t)64 << 10)
#define CONNECT_MS 10000L
/* Of a body that nobody wants: to read more of it costs more than another connection. */
#define UNKEPT_MAX ((size_t)64 << 10)

struct text {
    char *p;
    size_t len, cap;
};

struct fetch {
    struct fetch *next, *prev;
    struct gw_fetcher *owner;
    CURL *curl;
    struct curl_slist *lines;
    char *body;
    struct text headers, answer;
    size_t keep, unkept;
    bool internal, cut, headed; /* |headed|: the head of the answer is complete */
    gw_fetched_fn *fn;
    void *arg;
};

struct watch {
    struct gw_fetcher *owner;
    struct fast_watch *watch;
    curl_socket_t fd;
};

struct gw_fetcher {
    struct fast_loop *loop;
    CURLM *multi;
    struct fast_timer *timer;
    struct fetch *first;
};

static bool append(struct text *t, const char *p, size_t n, size_t max)
{
    if (t->len + n > max)
        return false;
    if (t->len + n + 1 > t->cap) {
        size_t cap = 2 * (t->len + n + 1);
        char *more = realloc(t->p, cap);
        if (!more)
            return false;
        t->p = more;
        t->cap = cap;
    }
    memcpy(t->p + t->len, p, n);
    t->len += n;
    t->p[t->len] = 0;
    return true;
}

static void free_fetch(struct fetch *f)
{
    if (f->prev)
        f->prev->next = f->next;
    else if (f->owner->first == f)
        f->owner->first = f->next;
    if (f->next)
        f->next->prev = f->prev;
    if (f->curl) {
        curl_multi_remove_handle(f->owner->multi, f->curl);
        curl_easy_cleanup(f->curl);
    }
    curl_slist_free_all(f->lines);
    free(f->body);
    free(f->headers.p);
    free(f->answer.p);
    free(f);
}

/* ---- what comes back ---- */

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct fetch *f = arg;
    size_t len = size * n, kept = f->keep - f->answer.len;
    if (kept > len)
        kept = len;
    f->cut = f->cut || kept < len || !append(&f->answer, p, kept, f->keep);
    f->unkept += len - kept;
    return f->keep || f->unkept <= UNKEPT_MAX ? len : 0;
}

static bool is_named(const char *line, size_t len, const char *name)
{
    size_t n = strlen(name);
    return len > n && !strncasecmp(line, name, n) && line[n] == ':';
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    static const char *const dropped[] = {"connection", "keep-alive", "transfer-encoding",
                                          "content-length", "trailer", "upgrade", "date"};
    struct fetch *f = arg;
    size_t len = size * n;
    if (len > 5 && !strncmp(p, "HTTP/", 5)) { /* an answer before the last, such as 100 */
        f->headers.len = 0;
        f->headed = false;
        if (f->headers.p)
            *f->headers.p = 0;
        return len;
    }
    f->headed = f->headed || len <= 2;
    f->internal = f->internal || is_named(p, len, "x-openfaas-internal");
    for (size_t i = 0; i < FAST_COUNT_OF(dropped); i++)
        if (is_named(p, len, dropped[i]))
            return len;
    if (len > 2)
        append(&f->headers, p, len, HEADERS_MAX);
    return len;
}

static void tell(struct fetch *f, CURLcode code)
{
    struct gw_fetched a = {.why = curl_easy_strerror(code),
                           .headers = f->headers.p ? f->headers.p : "",
                           .body = f->answer.p ? f->answer.p : "",
                           .len = f->answer.len,
                           .internal = f->internal,
                           .cut = f->cut};
    long status = 0;
    curl_off_t wait = 0;
    if (code == CURLE_OK || (!f->keep && f->headed)) {
        curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(f->curl, CURLINFO_RETRY_AFTER, &wait); /* curl keeps it below 6 h */
    }
    a.retry_after = FAST_S(wait);
    curl_easy_getinfo(f->curl, CURLINFO_TOTAL_TIME, &a.seconds);
    a.status = (int)status;
    f->fn(f->arg, &a);
    free_fetch(f);
}

static void tell_all(struct gw_fetcher *g)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(g->multi, &left))) {
        struct fetch *f = NULL;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&f);
        tell(f, code);
    }
}

/* ---- sockets and timer ---- */

static void on_ready(void *arg, int events)
{
    struct watch *w = arg;
    struct gw_fetcher *g = w->owner;
    int running, what = (events & FAST_LOOP_IN ? CURL_CSELECT_IN : 0) |
                        (events & FAST_LOOP_OUT ? CURL_CSELECT_OUT : 0) |
                        (events & FAST_LOOP_HUP ? CURL_CSELECT_ERR : 0);
    curl_multi_socket_action(g->multi, w->fd, what, &running);
    tell_all(g);
}

static int on_socket(CURL *curl, curl_socket_t fd, int what, void *arg, void *of_socket)
{
    struct gw_fetcher *g = arg;
    struct watch *w = of_socket;
    int events = (what & CURL_POLL_IN ? FAST_LOOP_IN : 0) | (what & CURL_POLL_OUT ? FAST_LOOP_OUT : 0);
    (void)curl;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            fast_watch_free(w->watch);
            free(w);
        }
        curl_multi_assign(g->multi, fd, NULL);
        return 0;
    }
    if (w) {
        fast_watch_set(w->watch, events);
        return 0;
    }
    w = calloc(1, sizeof(*w));
    if (!w)
        return -1;
    *w = (struct watch){g, NULL, fd};
    w->watch = fast_watch_new(g->loop, fd, events, on_ready, w);
    if (!w->watch) {
        free(w);
        return -1;
    }
    curl_multi_assign(g->multi, fd, w);
    return 0;
}

static int on_when(CURLM *multi, long ms, void *arg)
{
    struct gw_fetcher *g = arg;
    (void)multi;
    fast_timer_set(g->timer, ms < 0 ? FAST_NEVER : fast_loop_now(g->loop) + FAST_MS(ms));
    return 0;
}

static void on_timer(void *arg)
{
    struct gw_fetcher *g = arg;
    int running;
    curl_multi_socket_action(g->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    tell_all(g);
}

/* ---- asking ---- */

/* |empty|: fields without a value are sent as such. */
static int add_lines(struct fetch *f, const char *lines, bool empty)
{
    while (*lines) {
        const char *end = strstr(lines, "\r\n");
        size_t n = end ? (size_t)(end - lines) : strlen(lines);
        fast_autofree char *line = strndup(lines, n);
        char *colon = line ? strchr(line, ':') : NULL;
        if (empty && colon && !colon[1 + strspn(colon + 1, " \t")])
            memcpy(colon, ";", 2); /* libcurl takes "Name:" for a field that is not to be sent */
        struct curl_slist *more = line ? curl_slist_append(f->lines, line) : NULL;
        if (!more)
            return -FAST_ENOMEM;
        f->lines = more;
        lines += n + (end ? 2 : 0);
    }
    return 0;
}

static int set_up(struct fetch *f, const struct gw_fetch *w)
{
    f->curl = curl_easy_init();
    f->body = malloc(w->len + 1);
    if (!f->curl || !f->body || add_lines(f, "Expect:\r\n", false) || add_lines(f, w->headers, true) ||
        (!strcasestr(w->headers, "content-type:") && add_lines(f, "Content-Type:\r\n", false)))
        return -FAST_ENOMEM;
    if (w->len)
        memcpy(f->body, w->body, w->len);
    CURL *c = f->curl;
    curl_easy_setopt(c, CURLOPT_URL, w->url);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L); /* "/function/f/../g" is a path of f */
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, w->method);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)w->len);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, f->body);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, f->lines);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(w->timeout / FAST_MS(1)));
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, f);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, f);
    curl_easy_setopt(c, CURLOPT_PRIVATE, f);
    return curl_multi_add_handle(f->owner->multi, c) == CURLM_OK ? 0 : -FAST_EIO;
}

int gw_fetch(struct gw_fetcher *g, const struct gw_fetch *what, gw_fetched_fn *fn, void *arg,
             struct fast_err *err)
{
    struct fetch *f = calloc(1, sizeof(*f));
    if (!f)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a request");
    f->owner = g;
    f->keep = what->keep;
    f->fn = fn;
    f->arg = arg;
    f->next = g->first;
    if (f->next)
        f->next->prev = f;
    g->first = f;
    if (set_up(f, what)) {
        free_fetch(f);
        return fast_err_set(err, FAST_ENOMEM, "a request to %.100s cannot be made", what->url);
    }
    return 0;
}

bool gw_fetch_is_url(const char *text)
{
    CURLU *url = curl_url();
    char *scheme = NULL, *host = NULL;
    bool ok = url && curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK &&
              curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK && !strncmp(scheme, "http", 4) &&
              curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK && *host;
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(url);
    return ok;
}

void gw_fetch_cancel(struct gw_fetcher *g, const void *arg)
{
    for (struct fetch *f = g->first; f; f = f->next)
        if (f->arg == arg) {
            free_fetch(f);
            return;
        }
}

int gw_fetcher_new(struct fast_loop *loop, struct gw_fetcher **ret, struct fast_err *err)
{
    struct gw_fetcher *g = calloc(1, sizeof(*g));
    if (g) {
        g->loop = loop;
        curl_global_init(CURL_GLOBAL_DEFAULT);
        g->multi = curl_multi_init();
        g->timer = fast_timer_new(loop, on_timer, g);
    }
    if (!g || !g->multi || !g->timer) {
        gw_fetcher_free(g);
        return fast_err_set(err, FAST_ENOMEM, "no memory for requests of the gateway");
    }
    curl_multi_setopt(g->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(g->multi, CURLMOPT_SOCKETDATA, g);
    curl_multi_setopt(g->multi, CURLMOPT_TIMERFUNCTION, on_when);
    curl_multi_setopt(g->multi, CURLMOPT_TIMERDATA, g);
    *ret = g;
    return 0;
}

void gw_fetcher_free(struct gw_fetcher *g)
{
    if (!g)
        return;
    while (g->first)
        free_fetch(g->first);
    curl_multi_cleanup(g->multi);
    fast_timer_free(g->timer);
    free(g);
}
