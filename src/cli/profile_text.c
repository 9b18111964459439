/* The forms of a profile outside the database. Reading is strict: a table that is not understood whole
 * changes nothing. */

#include "cli/profile.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"
#include "cli/api.h"
#include "core/profile.h"

#define FIELD_MAX 2048
#define AUTHORS_HEAD "namespace,trial_name,key,value,limitations,other_metrics"

static json_t *trial_json(const struct fast_trial *t)
{
    bool ok = !strcmp(t->state, "ok");
    json_t *o = json_pack("{s:i, s:f, s:i, s:s, s:s, s:f, s:I, s:f}", "sm_pct", t->sm_pct, "quota",
                          t->quota_milli * 1e-3, "batch", t->batch > 0 ? t->batch : 1, "state",
                          t->state, "text", t->text, "error_rate", t->error_rate, "memory_bytes",
                          (json_int_t)t->memory_bytes, "seconds", t->seconds);
    const struct {
        const char *key;
        double v;
    } numbers[] = {{"rps", t->rps}, {"p50_ms", t->p50_ms}, {"p95_ms", t->p95_ms},
                   {"p99_ms", t->p99_ms}, {"utilization", t->utilization},
                   {"gpu_ms", t->gpu_ms}, {"sm_activity", t->sm_activity}, {"sm_occupancy", t->occupancy},
                   {"dram_activity", t->dram}};
    for (size_t i = 0; i < FAST_COUNT_OF(numbers); i++)
        json_object_set_new(o, numbers[i].key, ok ? json_real(numbers[i].v) : json_null());
    if (!(t->p50_ms > 0)) /* imported: the table does not say */
        json_object_set_new(o, "p50_ms", json_null());
    return o;
}

static void write_json(const struct profile *p, FILE *out)
{
    json_t *list = json_array();
    for (int i = 0; i < p->trials; i++)
        json_array_append_new(list, trial_json(&p->trial[i]));
    json_t *o = json_pack("{s:i, s:s, s:s, s:o}", "schema", 1, "function", p->name, "version",
                          p->version, "trials", list);
    json_dumpf(o, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    fputc('\n', out);
    json_decref(o);
}

static void write_csv(const struct profile *p, FILE *out)
{
    fprintf(out, "# %s, version %s\nsm,quota,rps,p95_ms,p99_ms\n", p->name, p->version);
    for (int i = 0; i < p->trials; i++) {
        const struct fast_trial *t = &p->trial[i];
        if (!strcmp(t->state, "ok"))
            fprintf(out, "%s%d,%.3f,%.3f,%.3f,%.3f\n",
                    strcmp(t->text, "predicted") ? "" : "# predicted:\n", t->sm_pct,
                    t->quota_milli * 1e-3, t->rps, t->p95_ms, fmax(t->p99_ms, t->p95_ms));
    }
}

/* The authors have qps -1 where a trial failed. */
static void write_authors(const struct profile *p, FILE *out)
{
    fprintf(out, "%s\n", AUTHORS_HEAD);
    for (int i = 0; i < p->trials; i++) {
        const struct fast_trial *t = &p->trial[i];
        bool ok = !strcmp(t->state, "ok");
        fprintf(out,
                "openfaas-fn,%s-%d-%d,qps,%.6g,\"{\"\"GPU_QUOTA\"\": \"\"%.3g\"\", \"\"GPU_SM\"\": "
                "\"\"%d\"\", \"\"GPU_MEMORY\"\": \"\"%lld\"\", \"\"replicas\"\": \"\"1\"\"}\","
                "\"{\"\"DCGM_FI_DEV_GPU_UTIL\"\": %.6g, \"\"DCGM_FI_PROF_SM_ACTIVE\"\": %.6g, "
                "\"\"DCGM_FI_PROF_SM_OCCUPANCY\"\": %.6g, \"\"DCGM_FI_PROF_DRAM_ACTIVE\"\": %.6g, "
                "\"\"error_rate\"\": %.6g, \"\"p95\"\": %.6g}\"\n",
                p->name, t->sm_pct, t->quota_milli, ok ? t->rps : -1.0, t->quota_milli * 1e-3,
                t->sm_pct, (long long)t->memory_bytes, 100 * t->utilization, t->sm_activity,
                t->occupancy, t->dram, t->error_rate, t->p95_ms);
    }
}

int profile_write(const struct profile *p, const char *form, FILE *out, struct fast_err *err)
{
    if (!strcmp(form, "csv"))
        write_csv(p, out);
    else if (!strcmp(form, "authors"))
        write_authors(p, out);
    else if (!strcmp(form, "json"))
        write_json(p, out);
    else
        return fast_err_set(err, FAST_EINVAL, "--format: \"%.20s\" is not csv, authors or json", form);
    return 0;
}

/* ---- reading ---- */

/* Numbers come from files: what an int cannot hold is one that no check lets through. */
static int to_int(double v)
{
    return v > -1e9 && v < 1e9 ? (int)lround(v) : -1;
}

static int64_t to_bytes(double v)
{
    return v >= 0 && v < 1e18 ? (int64_t)v : 0;
}

/* NaN is not. */
static bool is_number(double v)
{
    return v >= 0 && v < 1e12;
}

static int add(struct profile *p, const struct fast_trial *t, struct fast_err *err)
{
    if (t->sm_pct < 1 || t->sm_pct > 100 || t->quota_milli < 1 || t->quota_milli > 1000 ||
        t->batch < 1 || t->batch > PROFILE_BATCH_MAX || !(t->rps >= 0 && t->rps < 1e6))
        return fast_err_set(err, FAST_EINVAL, "SM %d %%, quota %.3f, batch %d, %g requests/s are out of "
                            "range", t->sm_pct, t->quota_milli * 1e-3, t->batch, t->rps);
    const double number[] = {t->p50_ms, t->p95_ms, t->p99_ms, t->utilization, t->sm_activity, t->occupancy,
                             t->dram, t->gpu_ms, t->error_rate, t->seconds};
    for (size_t i = 0; i < FAST_COUNT_OF(number); i++)
        if (!is_number(number[i]))
            return fast_err_set(err, FAST_EINVAL, "SM %d %% x quota %.3f: %g is no number of a trial",
                                t->sm_pct, t->quota_milli * 1e-3, number[i]);
    for (int i = 0; i < p->trials; i++)
        if (p->trial[i].sm_pct == t->sm_pct && p->trial[i].quota_milli == t->quota_milli &&
            p->trial[i].batch == t->batch)
            return fast_err_set(err, FAST_EINVAL, "SM %d %% x quota %.3f is there twice", t->sm_pct,
                                t->quota_milli * 1e-3);
    if (p->trials == FAST_TRIALS_MAX)
        return fast_err_set(err, FAST_EINVAL, "more than %d slices", FAST_TRIALS_MAX);
    p->trial[p->trials++] = *t;
    return 0;
}

static int read_csv(const char *text, struct profile *ret, struct fast_err *err)
{
    struct fast_profile *table = NULL;
    int r = fast_profile_parse(text, &table, err);
    for (int i = 0; !r && i < fast_profile_count(table); i++) {
        const struct fast_profile_point *at = fast_profile_at(table, i);
        struct fast_trial t = {.sm_pct = at->sm_pct, .quota_milli = at->quota_milli, .batch = 1,
                          .state = "ok", .text = "imported", .rps = (double)at->rps_milli * 1e-3,
                          .p95_ms = (double)at->p95_ns * 1e-6, .p99_ms = (double)at->p99_ns * 1e-6};
        r = add(ret, &t, err);
    }
    fast_profile_free(table);
    return r;
}

static int read_json(const char *text, size_t len, struct profile *ret, struct fast_err *err)
{
    json_error_t e;
    json_t *o = json_loadb(text, len, 0, &e), *list = json_object_get(o, "trials"), *row;
    size_t i;
    int r = 0;
    if (!o)
        r = fast_err_set(err, FAST_EINVAL, "line %d: %s", e.line, e.text);
    else if (json_num(o, "schema") != 1 || !json_is_array(list))
        r = fast_err_set(err, FAST_EINVAL, "\"schema\" is not 1, or \"trials\" is no list");
    json_array_foreach(list, i, row) {
        struct fast_trial t = {
            .sm_pct = to_int(json_num(row, "sm_pct")), .quota_milli = to_int(json_num(row, "quota") * 1e3),
            .batch = json_object_get(row, "batch") ? to_int(json_num(row, "batch")) : 1,
            .gpu_ms = json_num(row, "gpu_ms"),
            .rps = json_num(row, "rps"), .p50_ms = json_num(row, "p50_ms"),
            .p95_ms = json_num(row, "p95_ms"), .p99_ms = json_num(row, "p99_ms"),
            .utilization = json_num(row, "utilization"), .sm_activity = json_num(row, "sm_activity"),
            .occupancy = json_num(row, "sm_occupancy"), .dram = json_num(row, "dram_activity"),
            .memory_bytes = to_bytes(json_num(row, "memory_bytes")),
            .error_rate = json_num(row, "error_rate"), .seconds = json_num(row, "seconds")};
        snprintf(t.state, sizeof(t.state), "%s", json_text(row, "state"));
        snprintf(t.text, sizeof(t.text), "%s", json_text(row, "text"));
        r = r ? r : add(ret, &t, err);
    }
    json_decref(o);
    return r;
}

/* The next field of a CSV line, quotes undone; false: it is too long or a quote is not closed. */
static bool csv_field(const char **at, char ret[FIELD_MAX])
{
    size_t n = 0;
    const char *p = *at;
    bool quoted = *p == '"';
    for (p += quoted; *p && n < FIELD_MAX - 1; p++) {
        if (quoted && *p == '"') {
            if (p[1] != '"')
                break;
            p++;
        } else if (!quoted && strchr(",\r\n", *p)) {
            break;
        }
        ret[n++] = *p;
    }
    ret[n] = '\0';
    if (quoted && *p++ != '"')
        return false;
    if (*p && !strchr(",\r\n", *p))
        return false;
    *at = *p == ',' ? p + 1 : p;
    return true;
}

static double text_num(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? strtod(s, NULL) : json_num(o, key);
}

static int authors_row(char field[6][FIELD_MAX], struct fast_trial *ret, struct fast_err *err)
{
    json_t *limits = json_loads(field[4], 0, NULL), *more = json_loads(field[5], 0, NULL);
    char *end;
    int r = 0;
    *ret = (struct fast_trial){.batch = 1, .state = "ok", .text = "imported", .rps = strtod(field[3], &end)};
    if (strcmp(field[2], "qps") != 0 || *end || !*field[3] || !limits || !more)
        r = fast_err_set(err, FAST_EINVAL, "key is not qps, value no number, or limitations and "
                         "other_metrics are not JSON");
    ret->sm_pct = to_int(text_num(limits, "GPU_SM"));
    ret->quota_milli = to_int(text_num(limits, "GPU_QUOTA") * 1e3);
    ret->memory_bytes = to_bytes(text_num(limits, "GPU_MEMORY"));
    ret->utilization = text_num(more, "DCGM_FI_DEV_GPU_UTIL") / 100;
    ret->sm_activity = text_num(more, "DCGM_FI_PROF_SM_ACTIVE");
    ret->occupancy = text_num(more, "DCGM_FI_PROF_SM_OCCUPANCY");
    ret->dram = text_num(more, "DCGM_FI_PROF_DRAM_ACTIVE");
    ret->error_rate = text_num(more, "error_rate");
    ret->p95_ms = ret->p99_ms = text_num(more, "p95");
    if (ret->rps < 0) {
        ret->rps = 0;
        snprintf(ret->state, sizeof(ret->state), "errors");
    }
    json_decref(limits);
    json_decref(more);
    return r;
}

static int read_authors(const char *text, struct profile *ret, struct fast_err *err)
{
    static const int fields = 6;
    fast_autofree char(*field)[FIELD_MAX] = calloc(6, FIELD_MAX);
    if (!field)
        return fast_err_set(err, FAST_ENOMEM, "out of memory");
    const char *at = text + strcspn(text, "\n");
    for (int line = 2; *at; line++) {
        struct fast_trial t;
        at += strspn(at, "\r\n");
        if (!*at)
            break;
        for (int i = 0; i < fields; i++)
            if (!csv_field(&at, field[i]))
                return fast_err_set(err, FAST_EINVAL, "line %d: field %d is not CSV", line, i + 1);
        if (authors_row(field, &t, err) || add(ret, &t, err)) {
            fast_err_wrap(err, "line %d", line);
            return -FAST_EINVAL;
        }
    }
    return 0;
}

int profile_read(const char *text, size_t len, struct profile *ret, struct fast_err *err)
{
    int r;
    ret->trials = 0;
    if (!strncmp(text, AUTHORS_HEAD, strlen(AUTHORS_HEAD)))
        r = read_authors(text, ret, err);
    else if (text[strspn(text, " \t\r\n")] == '{')
        r = read_json(text, len, ret, err);
    else
        r = read_csv(text, ret, err);
    if (!r && !ret->trials)
        r = fast_err_set(err, FAST_EINVAL, "there is no slice in it");
    return r;
}
