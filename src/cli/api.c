#include "cli/api.h"

#include <ctype.h>
#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/mem.h"
#include "base/parse.h"

#define BODY_MAX (64u << 20)
#define CONNECT_TIMEOUT_MS 3000L

void api_reply_free(struct api_reply *reply)
{
    free(reply->body);
    reply->body = NULL;
}

static bool append(struct api_reply *r, const char *p, size_t n)
{
    if (r->len + n > BODY_MAX)
        return false;
    char *more = realloc(r->body, r->len + n + 1);
    if (!more)
        return false;
    memcpy(more + r->len, p, n);
    r->body = more;
    r->len += n;
    more[r->len] = 0;
    return true;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    return append(arg, p, size * n) ? size * n : 0;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct api_reply *r = arg;
    size_t len = size * n;
    static const char name[] = "x-call-id:";
    if (len > sizeof(name) && !strncasecmp(p, name, sizeof(name) - 1)) {
        size_t at = sizeof(name) - 1;
        while (at < len && p[at] == ' ')
            at++;
        snprintf(r->call_id, sizeof(r->call_id), "%.*s",
                 (int)(strcspn(p + at, "\r\n") < len - at ? strcspn(p + at, "\r\n") : len - at),
                 p + at);
    }
    return len;
}

/* Not at the start of every command: it takes longer than most of those that ask nobody. */
static void begin(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static CURL *open_call(struct cli *cli, const char *method, const char *path)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char url[4096];
    pthread_once(&once, begin);
    CURL *c = curl_easy_init();
    if (!c)
        return NULL;
    snprintf(url, sizeof(url), "%s%s", cli->gateway, path);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "fast/" FAST_VERSION);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    const char *user = getenv("FAST_USER"), *password = getenv("FAST_PASSWORD");
    if (password && !cli->foreign) {
        curl_easy_setopt(c, CURLOPT_USERNAME, user ? user : "admin");
        curl_easy_setopt(c, CURLOPT_PASSWORD, password);
    }
    return c;
}

int api_call(struct cli *cli, const char *method, const char *path, const void *body, size_t len,
             const char *content_type, struct api_reply *ret)
{
    *ret = (struct api_reply){0};
    CURL *c = open_call(cli, method, path);
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    char type[256];
    snprintf(type, sizeof(type), "Content-Type: %s", content_type ? content_type : "application/json");
    headers = curl_slist_append(headers, type);
    if (!c || !headers || !append(ret, "", 0))
        return -FAST_ENOMEM;
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    if (body) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)len);
    }
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, ret);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, ret);
    CURLcode code = curl_easy_perform(c);
    if (code == CURLE_OK) {
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &ret->status);
        curl_easy_getinfo(c, CURLINFO_TOTAL_TIME, &ret->seconds);
    } else {
        ret->len = 0;
        append(ret, curl_easy_strerror(code), strlen(curl_easy_strerror(code)));
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
    return code == CURLE_OK ? 0 : -FAST_EPEER;
}

int api_unauthorized(const struct cli *cli)
{
    if (cli->foreign)
        return cli_fail(CLI_FAILED, "%s, which the file names, wants a password: it is sent only to the "
                        "gateway of OPENFAAS_URL or --gateway", cli->gateway);
    return cli_fail(CLI_FAILED, "the gateway wants a password: set FAST_USER and FAST_PASSWORD");
}

static int explain(struct cli *cli, const struct api_reply *r, int rc)
{
    if (rc == -FAST_ENOMEM)
        return cli_fail(CLI_FAILED, "out of memory");
    if (rc)
        return cli_fail(CLI_NOREACH, "no gateway at %s (%s). Start one with `fast up`, or name it "
                        "with --gateway", cli->gateway, r->body);
    if (r->status == 401)
        return api_unauthorized(cli);
    if (!r->len)
        return cli_fail(CLI_FAILED, "the gateway answered %ld", r->status);
    return cli_fail(CLI_FAILED, "%s", r->body);
}

int api_json(struct cli *cli, const char *method, const char *path, const json_t *in,
             json_t **ret_json)
{
    api_autoreply r;
    fast_autofree char *text = in ? json_dumps(in, JSON_COMPACT) : NULL;
    int rc = api_call(cli, method, path, text, text ? strlen(text) : 0, NULL, &r);
    if (ret_json)
        *ret_json = NULL;
    if (rc || r.status < 200 || r.status > 299)
        return explain(cli, &r, rc);
    if (!ret_json)
        return CLI_OK;
    json_error_t e;
    *ret_json = json_loadb(r.body, r.len, JSON_DECODE_ANY, &e);
    if (!*ret_json)
        return cli_fail(CLI_FAILED, "the gateway's answer to %s %s is not JSON: %s", method, path,
                        e.text);
    return CLI_OK;
}

struct stream {
    void (*line)(void *, const char *);
    void *arg;
    CURL *call;
    struct api_reply buf;
};

static size_t on_stream(char *p, size_t size, size_t n, void *arg)
{
    struct stream *s = arg;
    if (!append(&s->buf, p, size * n))
        return 0;
    char *start = s->buf.body;
    long status = 0;
    curl_easy_getinfo(s->call, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > 299)
        return size * n; /* why it failed, for explain() */
    for (char *nl; s->line && (nl = memchr(start, '\n', s->buf.len - (size_t)(start - s->buf.body)));
         start = nl + 1) {
        *nl = 0;
        s->line(s->arg, start);
    }
    s->buf.len -= (size_t)(start - s->buf.body);
    memmove(s->buf.body, start, s->buf.len + 1);
    return ferror(stdout) ? 0 : size * n; /* nobody reads what is printed: it ends */
}

int api_stream(struct cli *cli, const char *path, void (*line)(void *arg, const char *text),
               void *arg)
{
    CURL *c = open_call(cli, "GET", path);
    struct stream s = {line, arg, c, {0}};
    if (!c)
        return cli_fail(CLI_FAILED, "out of memory");
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_stream);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &s);
    CURLcode code = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &s.buf.status);
    curl_easy_cleanup(c);
    int status = CLI_OK;
    if (code != CURLE_OK && s.buf.status == 0) {
        s.buf.len = 0;
        append(&s.buf, curl_easy_strerror(code), strlen(curl_easy_strerror(code)));
        status = explain(cli, &s.buf, -FAST_EPEER);
    } else if (s.buf.status < 200 || s.buf.status > 299) {
        status = explain(cli, &s.buf, 0);
    } else if (code != CURLE_OK && !ferror(stdout)) {
        status = cli_fail(CLI_FAILED, "%s broke off: %s", cli->gateway, curl_easy_strerror(code));
    }
    api_reply_free(&s.buf);
    return status;
}

const char *api_escape(const char *text, char *buf, size_t cap)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t at = 0;
    for (; *text && at + 4 < cap; text++) {
        unsigned char c = (unsigned char)*text;
        if (isalnum(c) || strchr("-._~", c)) {
            buf[at++] = (char)c;
        } else {
            buf[at++] = '%';
            buf[at++] = hex[c >> 4];
            buf[at++] = hex[c & 15];
        }
    }
    buf[at] = 0;
    return buf;
}

int api_host(const struct cli *cli, char *ret_host, size_t cap, int *ret_port, struct fast_err *err)
{
    const char *host = strstr(cli->gateway, "://");
    int64_t port = 80;
    host = host ? host + 3 : cli->gateway;
    const char *colon = strchr(host, ':');
    int r = colon ? fast_parse_int(colon + 1, "port of --gateway", 1, 65535, &port, err) : 0;
    if (r)
        return r;
    *ret_port = (int)port;
    snprintf(ret_host, cap, "%.*s", (int)(colon ? colon - host : (long)strlen(host)), host);
    if (!strcmp(ret_host, "localhost"))
        snprintf(ret_host, cap, "127.0.0.1");
    return 0;
}

void api_print(const json_t *json)
{
    fast_autofree char *text = json_dumps(json, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    puts(text ? text : "null");
}
