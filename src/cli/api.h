#ifndef FAST_CLI_API_H
#define FAST_CLI_API_H

/* Requests to the gateway, blocking (libcurl). */

#include <jansson.h>
#include <stddef.h>

#include "cli/cli.h"

struct api_reply {
    long status;       /* HTTP status; 0: nobody answered, |body| says why */
    char *body;        /* with a NUL behind it; owned */
    size_t len;
    char call_id[64];  /* X-Call-Id */
    double seconds;    /* from the first byte sent to the last received */
};

void api_reply_free(struct api_reply *reply);

#define api_autoreply __attribute__((cleanup(api_reply_free))) struct api_reply

/* Sends |method| |path| (from "/" on) with |body| of |len| bytes (NULL: none). Returns 0 when there
 * was an HTTP answer, whatever its status. */
int api_call(struct cli *cli, const char *method, const char *path, const void *body, size_t len,
             const char *content_type, struct api_reply *ret);

/* As above with JSON both ways: |in| may be NULL and is not consumed; |ret_json| (may be NULL) is
 * set when the answer is 2xx and JSON, else NULL. Prints what went wrong and returns CLI_FAILED or
 * CLI_NOREACH when the status is not 2xx. */
int api_json(struct cli *cli, const char *method, const char *path, const json_t *in,
             json_t **ret_json);

/* Says which password is missing; returns CLI_FAILED. */
int api_unauthorized(const struct cli *cli);

/* Streams the body of GET |path| to |out| as it comes. */
int api_stream(struct cli *cli, const char *path, void (*line)(void *arg, const char *text),
               void *arg);

/* Percent-encodes |text| into |buf|. */
const char *api_escape(const char *text, char *buf, size_t cap);

/* The address of the gateway for who speaks to it without libcurl; a name other than localhost is
 * passed on as it is. */
int api_host(const struct cli *cli, char *ret_host, size_t cap, int *ret_port, struct fast_err *err);

/* Prints |json| indented with a newline. */
void api_print(const json_t *json);

/* Member as text or a default; never NULL. */
const char *json_text(const json_t *obj, const char *key);
double json_num(const json_t *obj, const char *key);

/* The mean of a number that may be null at times, which then does not count. */
struct json_mean {
    double sum;
    int n; /* 0: it was never known */
};
void json_mean_add(struct json_mean *m, const json_t *obj, const char *key);
double json_mean_of(const struct json_mean *m); /* 0 when not known */

#endif
