/* Decides which request bodies of a function are kept for its profile: the last few, in memory alone, of
 * functions whose deployment asks for it. What callers send is theirs: nothing is kept unasked, nothing is
 * written to a disk, and it is given out below /system only, to who may deploy. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"

#define BODY_MAX 65536 /* longer ones are not kept */

struct gw_record_body {
    char *data;
    size_t len;
};

struct gw_records {
    struct gw_record_body body[GW_RECORDS_MAX];
    int next, count;
};

void gw_records_free(struct gw_records *r)
{
    for (int i = 0; r && i < GW_RECORDS_MAX; i++)
        free(r->body[i].data);
    free(r);
}

void gw_record(struct gw_function *fn, const char *data, size_t len)
{
    int most = fn->spec->record;
    if (len > BODY_MAX)
        return;
    if (!fn->records)
        fn->records = calloc(1, sizeof(*fn->records));
    char *copy = fn->records ? malloc(len) : NULL;
    if (!copy)
        return; /* a sample less */
    memcpy(copy, data, len);
    struct gw_records *r = fn->records;
    free(r->body[r->next].data);
    r->body[r->next] = (struct gw_record_body){copy, len};
    r->next = (r->next + 1) % most;
    r->count = r->count < most ? r->count + 1 : most;
}

void gw_api_recorded(const struct gw_request *rq, const char *name)
{
    struct gw_function *fn = gw_request_function(rq, name, NULL);
    char text[16];
    int64_t at;
    if (!fn)
        return;
    const struct gw_records *r = fn->records;
    int count = r ? r->count : 0;
    if (!gw_query_get(rq->query, "index", text, sizeof(text))) {
        gw_reply_json(rq->req, 200, json_pack("{s:i, s:i}", "kept", fn->spec->record, "count", count));
        return;
    }
    if (!r || fast_parse_int(text, "index", 0, GW_RECORDS_MAX, &at, NULL) || at >= count) {
        fast_http_req_text_reply(rq->req, 404, "index: there are %d recorded bodies", count);
        return;
    }
    fast_http_req_reply(rq->req, 200, NULL, "application/octet-stream", r->body[at].data,
                        r->body[at].len);
}
