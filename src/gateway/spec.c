/* Decides what a deployment means. It assumes nothing about its input but that it is bytes. */

#include "gateway/spec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"
#include "io/file.h"

#define NOTE "fastgshare/"
#define REPLICAS_MAX 1000
#define PRIORITY_MAX 100
#define TARGET_ALERT_MILLI 5000
#define TARGET_DEFAULT_MILLI 50000
#define PROPORTION_MAX (10 * (int64_t)FAST_MILLI)
#define MEM_DEFAULT_MIN (UINT64_C(512) << 20)
#define MEM_GRAIN (UINT64_C(2) << 20)
#define PROFILE_FILE_MAX (1 << 20)

/* ---- shape of the JSON ---- */

static int want_type(const json_t *v, const char *key, const char *type, bool ok,
                     struct fast_err *err)
{
    if (!v || json_is_null(v) || ok)
        return 0;
    return fast_err_set(err, FAST_EINVAL, "%s: this must be %s", key, type);
}

static int check_map(const json_t *root, const char *key, struct fast_err *err)
{
    json_t *map = json_object_get(root, key), *v;
    const char *name;
    int r = want_type(map, key, "an object of strings", json_is_object(map), err);
    if (r)
        return r;
    json_object_foreach(map, name, v) {
        if (!json_is_string(v))
            return fast_err_set(err, FAST_EINVAL, "%s: the value of \"%.100s\" must be a string",
                                key, name);
        if (!strcmp(key, "envVars") && (!*name || strchr(name, '=')))
            return fast_err_set(err, FAST_EINVAL, "envVars: \"%.100s\" is not a name", name);
    }
    return 0;
}

static int check_list(const json_t *root, const char *key, struct fast_err *err)
{
    json_t *list = json_object_get(root, key), *v;
    size_t i;
    int r = want_type(list, key, "an array of strings", json_is_array(list), err);
    if (r)
        return r;
    json_array_foreach(list, i, v)
        if (!json_is_string(v))
            return fast_err_set(err, FAST_EINVAL, "%s: its items must be strings", key);
    return 0;
}

static int check_shape(const json_t *root, struct fast_err *err)
{
    static const char *const maps[] = {"envVars", "labels", "annotations", "limits", "requests"};
    static const char *const lists[] = {"secrets", "constraints"};
    static const char *const texts[] = {"service", "image", "namespace", "envProcess"};
    int r = 0;
    if (!json_is_object(root))
        return fast_err_set(err, FAST_EINVAL, "the body must be a JSON object");
    for (size_t i = 0; !r && i < FAST_COUNT_OF(texts); i++) {
        const json_t *v = json_object_get(root, texts[i]);
        r = want_type(v, texts[i], "a string", json_is_string(v), err);
    }
    for (size_t i = 0; !r && i < FAST_COUNT_OF(maps); i++)
        r = check_map(root, maps[i], err);
    for (size_t i = 0; !r && i < FAST_COUNT_OF(lists); i++)
        r = check_list(root, lists[i], err);
    return r;
}

static const char *text_of(const json_t *obj, const char *key)
{
    const char *t = json_string_value(json_object_get(obj, key));
    return t && *t ? t : NULL;
}

const char *gw_spec_map(const struct gw_spec *s, const char *key, const char *name)
{
    return text_of(json_object_get(s->json, key), name);
}

bool gw_spec_is_trial(const struct gw_spec *s)
{
    return gw_spec_map(s, "labels", NOTE "trial") != NULL;
}

/* ---- annotations and labels ---- */

/* Every annotation of ours, behind "fastgshare/": one with another name is a typing error, which would
 * else cost a function its GPU in silence. The last row is what the authors' own tools write. */
static const char *const notes[] = {
    "gpu_quota_request", "gpu_quota_limit", "gpu_sm_partition", "gpu_mem", "gpu_mem_wait", "slo", "slo_percentile",
    "slo-percentile", "priority", "profile", "model", "batch", "max_inflight", "record", "repeatable",
    "sample", "socket", "trial", "profile_batches", "gpus", "gpu_type", "affinity", "anti_affinity", "spread",
    "role", "nodeName", "gpu_info", "vgpu_id", "vgpu_type", "vgpu_uuid",
};

static int check_notes(const struct gw_spec *s, struct fast_err *err)
{
    const char *key, *near = NULL;
    json_t *value;
    json_object_foreach(json_object_get(s->json, "annotations"), key, value) {
        if (strncmp(key, NOTE, strlen(NOTE)))
            continue;
        const char *name = key + strlen(NOTE);
        bool known = false;
        for (size_t i = 0; i < FAST_COUNT_OF(notes) && !known; i++) {
            known = !strcmp(notes[i], name);
            if (!near && !strncmp(notes[i], name, strlen(name) < 6 ? strlen(name) : 6))
                near = notes[i];
        }
        if (!known)
            return fast_err_set(err, FAST_EINVAL,
                                NOTE "%.60s: there is no such annotation%s%s; see `man fast-gateway`", name,
                                near ? "; did you mean " NOTE : "", near ? near : "");
    }
    return 0;
}

static int parse_slice(struct gw_spec *s, struct fast_err *err)
{
    const char *request = gw_spec_map(s, "annotations", NOTE "gpu_quota_request");
    const char *limit = gw_spec_map(s, "annotations", NOTE "gpu_quota_limit");
    const char *sm = gw_spec_map(s, "annotations", NOTE "gpu_sm_partition");
    const char *mem = gw_spec_map(s, "annotations", NOTE "gpu_mem");
    const char *gpus = gw_spec_map(s, "annotations", NOTE "gpus");
    int64_t count = 1;
    int64_t request_milli = FAST_MILLI, limit_milli = FAST_MILLI, sm_pct = FAST_SM_PCT_MAX;
    uint64_t mem_bytes = 0;
    int r = 0;
    s->gpu = request || limit || sm || mem || gpus;
    if (gpus)
        r = fast_parse_int(gpus, NOTE "gpus", 1, FAST_NODE_GPUS_MAX, &count, err);
    s->gpus = (int)count;
    if (!r && request)
        r = fast_parse_milli(request, NOTE "gpu_quota_request", 0, FAST_MILLI, &request_milli, err);
    if (!r && limit)
        r = fast_parse_milli(limit, NOTE "gpu_quota_limit", 1, FAST_MILLI, &limit_milli, err);
    if (!r && sm)
        r = fast_parse_int(sm, NOTE "gpu_sm_partition", 1, FAST_SM_PCT_MAX, &sm_pct, err);
    if (!r && mem)
        r = fast_parse_bytes(mem, NOTE "gpu_mem", UINT64_MAX / 2, &mem_bytes, err);
    if (r)
        return r;
    if (!request && limit)
        request_milli = limit_milli;
    if (!limit)
        limit_milli = request_milli ? request_milli : FAST_MILLI;
    if (limit_milli < request_milli)
        return fast_err_set(err, FAST_EINVAL,
                            NOTE "gpu_quota_limit: \"%.20s\" is below " NOTE
                                 "gpu_quota_request \"%.20s\"",
                            limit, request);
    s->slice = (struct fast_slice){(int)sm_pct, (int)request_milli, (int)limit_milli, mem_bytes};
    return 0;
}

/* |asked|: by name. A model may have one of its own name, and need not. */
static int load_profile(struct gw_spec *s, const char *name, bool asked, const struct gw_paths *paths,
                        struct fast_err *err)
{
    fast_autofree char *text = NULL;
    char path[4096];
    if (strchr(name, '/') || name[0] == '.')
        return !asked ? 0 : fast_err_set(err, FAST_EINVAL, NOTE "profile: \"%.80s\" is not a name", name);
    for (int i = 0; i < paths->nprofiles && !text; i++)
        if (snprintf(path, sizeof(path), "%s/%s.csv", paths->profiles[i], name) <
            (int)sizeof(path))
            fast_file_read(path, PROFILE_FILE_MAX, &text, NULL, NULL);
    if (!text && !asked)
        return 0;
    if (!text)
        return fast_err_set(err, FAST_EINVAL, NOTE "profile: there is no %.80s.csv in %.100s",
                            name, paths->nprofiles ? paths->profiles[0] : "any folder (--profiles)");
    if (fast_profile_parse(text, &s->profile, err))
        return fast_err_wrap(err, NOTE "profile: %.100s", path);
    return 0;
}

/* A function with a profile and no slice begins with the configuration of the best RPR that meets
 * its SLO. */
static int slice_from_profile(struct gw_spec *s, struct fast_err *err)
{
    const struct fast_profile_point *best = NULL;
    for (int i = 0; i < fast_profile_count(s->profile); i++) {
        const struct fast_profile_point *p = fast_profile_at(s->profile, i);
        if (s->slo && (s->slo_p95 ? p->p95_ns : p->p99_ns) > s->slo)
            continue;
        if (!best || fast_profile_rpr_cmp(p, best) > 0)
            best = p;
    }
    if (!best)
        return fast_err_set(err, FAST_EINVAL,
                            NOTE "slo: no configuration of the profile is that fast");
    s->slice.sm_pct = best->sm_pct;
    s->slice.request_milli = s->slice.limit_milli = best->quota_milli;
    return 0;
}

static bool names_slice(const struct gw_spec *s)
{
    return gw_spec_map(s, "annotations", NOTE "gpu_quota_request") ||
           gw_spec_map(s, "annotations", NOTE "gpu_sm_partition");
}

static int parse_notes(struct gw_spec *s, const struct gw_paths *paths, struct fast_err *err)
{
    const char *slo = gw_spec_map(s, "annotations", NOTE "slo");
    const char *pct = gw_spec_map(s, "annotations", NOTE "slo_percentile");
    if (!pct)
        pct = gw_spec_map(s, "annotations", NOTE "slo-percentile");
    const char *profile = gw_spec_map(s, "annotations", NOTE "profile");
    const char *priority = gw_spec_map(s, "annotations", NOTE "priority");
    int r = check_notes(s, err);
    r = r ? r : parse_slice(s, err);
    if (!r && slo)
        r = fast_parse_duration(slo, NOTE "slo", FAST_US(1), FAST_S(3600), &s->slo, err);
    if (!r && pct && strcmp(pct, "95") && strcmp(pct, "99"))
        r = fast_err_set(err, FAST_EINVAL, NOTE "slo_percentile: \"%.20s\" is neither 95 nor 99",
                         pct);
    s->slo_p95 = pct && !strcmp(pct, "95");
    int64_t level = 0;
    if (!r && priority)
        r = fast_parse_int(priority, NOTE "priority", -PRIORITY_MAX, PRIORITY_MAX, &level, err);
    s->priority = (int)level;
    const char *record = gw_spec_map(s, "annotations", NOTE "record");
    int64_t bodies = 0;
    if (!r && record)
        r = fast_parse_int(record, NOTE "record", 0, GW_RECORDS_MAX, &bodies, err);
    s->record = (int)bodies;
    const char *model = gw_spec_map(s, "annotations", NOTE "model");
    if (!r && s->gpus > 1 && (profile || model))
        r = fast_err_set(err, FAST_EINVAL, NOTE "%s: \"%.80s\" is of one GPU, and " NOTE "gpus asks for %d for each "
                         "replica; leave one of the two out", profile ? "profile" : "model",
                         profile ? profile : model, s->gpus);
    if (!r && (profile || model))
        r = load_profile(s, profile ? profile : model, profile != NULL, paths, err);
    if (!r && s->profile && !names_slice(s))
        r = slice_from_profile(s, err);
    s->gpu = s->gpu || s->profile;
    return r;
}

static int label_int(const struct gw_spec *s, const char *name, int64_t min, int64_t max, int *ret,
                     struct fast_err *err)
{
    const char *text = gw_spec_map(s, "labels", name);
    int64_t v = 0;
    if (!text)
        return 0;
    int r = fast_parse_int(text, name, min, max, &v, err);
    if (!r)
        *ret = (int)v;
    return r;
}

/* Of a function that is scaled, 5, as OpenFaaS has it for one that names a target. */
static int default_max(const struct gw_spec *s, bool has_target)
{
    int least = has_target || (s->profile && s->slo) ? 5 : 1;
    return s->min > least ? s->min : least;
}

/* What the load of a replica is, and how much it may be. OpenFaaS has two rules. Who only says how many replicas there
 * may be knows the first one: an alert at more than 5 requests/s. The second one scales at 50 for each replica, or at
 * the part of it that is named. */
static int parse_target(struct gw_spec *s, struct fast_err *err)
{
    const char *type = gw_spec_map(s, "labels", "com.openfaas.scale.type");
    const char *part = gw_spec_map(s, "labels", "com.openfaas.scale.target-proportion");
    int64_t milli = FAST_MILLI;
    int r = 0;
    if (part)
        r = fast_parse_milli(part, "com.openfaas.scale.target-proportion", 1, PROPORTION_MAX, &milli, err);
    if (r)
        return r;
    s->by_capacity = type && !strcmp(type, "capacity");
    if (type && !s->by_capacity && strcmp(type, "rps") != 0)
        return fast_err_set(err, FAST_EINVAL, "com.openfaas.scale.type: \"%.40s\" is neither rps (requests per second) "
                            "nor capacity (requests in flight)", type);
    if (!s->target_milli)
        s->target_milli = s->max_given && s->max > s->min && !type ? TARGET_ALERT_MILLI : TARGET_DEFAULT_MILLI;
    s->target_milli = s->target_milli * milli / FAST_MILLI;
    if (!s->target_milli)
        s->target_milli = 1;
    return 0;
}

static int parse_labels(struct gw_spec *s, struct fast_err *err)
{
    const char *target = gw_spec_map(s, "labels", "com.openfaas.scale.target");
    const char *zero = gw_spec_map(s, "labels", "com.openfaas.scale.zero");
    const char *idle = gw_spec_map(s, "labels", "com.openfaas.scale.zero-duration");
    bool to_zero = false;
    fast_ns after = FAST_S(900);
    s->min = 1;
    s->max = -1;
    int r = label_int(s, "com.openfaas.scale.min", 0, REPLICAS_MAX, &s->min, err);
    if (!r)
        r = label_int(s, "com.openfaas.scale.max", 1, REPLICAS_MAX, &s->max, err);
    if (!r && target)
        r = fast_parse_milli(target, "com.openfaas.scale.target", 1, INT64_C(1000000000),
                             &s->target_milli, err);
    if (!r && zero)
        r = fast_parse_bool(zero, "com.openfaas.scale.zero", &to_zero, err);
    if (!r && idle)
        r = fast_parse_duration(idle, "com.openfaas.scale.zero-duration", FAST_S(1),
                                FAST_S(86400), &after, err);
    if (r)
        return r;
    s->max_given = s->max >= 0;
    if (s->max_given && s->max < s->min)
        return fast_err_set(err, FAST_EINVAL,
                            "com.openfaas.scale.max: %d is below com.openfaas.scale.min %d", s->max,
                            s->min);
    if (!s->max_given)
        s->max = default_max(s, s->target_milli);
    s->zero_after = to_zero ? after : FAST_NEVER;
    return parse_target(s, err);
}

/* ---- the whole ---- */

int gw_spec_check_ns(const char *ns, const char *what, struct fast_err *err)
{
    int r = fast_parse_name(ns, what, err);
    if (!r && !strncmp(ns, "kube-", 5))
        r = fast_err_set(err, FAST_EPERM, "%s: %.40s belongs to Kubernetes; take another name", what, ns);
    return r;
}

static int parse_names(struct gw_spec *s, const char *query_ns, struct fast_err *err)
{
    const char *name = text_of(s->json, "service"), *ns = text_of(s->json, "namespace");
    if (!ns)
        ns = query_ns && *query_ns ? query_ns : GW_DEFAULT_NS;
    int r = fast_parse_name(name ? name : "", "service", err);
    if (!r)
        r = gw_spec_check_ns(ns, "namespace", err);
    if (r)
        return r;
    snprintf(s->name, sizeof(s->name), "%s", name);
    snprintf(s->ns, sizeof(s->ns), "%s", ns);
    return 0;
}

int gw_spec_parse(const char *text, size_t len, const char *query_ns, const struct gw_paths *paths,
                  struct gw_spec **ret, struct fast_err *err)
{
    json_error_t je;
    struct gw_spec *s = calloc(1, sizeof(*s));
    if (!s)
        return fast_err_set(err, FAST_ENOMEM, "no memory for a function");
    s->json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    int r = s->json ? 0
                    : fast_err_set(err, FAST_EINVAL, "the body is not JSON: line %d column %d: %.120s",
                                   je.line, je.column, je.text);
    if (!r)
        r = check_shape(s->json, err);
    if (!r)
        r = parse_names(s, query_ns, err);
    if (!r)
        r = parse_notes(s, paths, err);
    if (!r)
        r = parse_labels(s, err);
    if (!r)
        r = gw_spec_calls(s, err);
    if (!r)
        r = gw_command_build(s, paths, err);
    if (r) {
        gw_spec_free(s);
        return r;
    }
    const char *health = gw_spec_map(s, "annotations", "com.openfaas.health.http.path");
    const char *ready = gw_spec_map(s, "annotations", "com.openfaas.ready.http.path");
    s->health_path = health ? health : ready ? ready : "";
    *ret = s;
    return 0;
}

int gw_spec_use_profile(struct gw_spec *s, struct fast_profile *profile, bool deploying,
                        struct fast_err *err)
{
    fast_profile_free(s->profile);
    s->profile = profile;
    s->profile_measured = true;
    if (!s->max_given)
        s->max = default_max(s, gw_spec_map(s, "labels", "com.openfaas.scale.target"));
    if (!deploying || names_slice(s))
        return 0;
    s->gpu = true;
    return slice_from_profile(s, err);
}

void gw_spec_free(struct gw_spec *s)
{
    if (!s)
        return;
    json_decref(s->json);
    fast_profile_free(s->profile);
    free(s->argv);
    free(s->listed);
    free(s);
}

static bool same_value(const struct gw_spec *a, const struct gw_spec *b, const char *key)
{
    const json_t *x = json_object_get(a->json, key), *y = json_object_get(b->json, key);
    bool empty_x = !x || json_is_null(x) || (json_is_object(x) && !json_object_size(x)) ||
                   (json_is_array(x) && !json_array_size(x));
    bool empty_y = !y || json_is_null(y) || (json_is_object(y) && !json_object_size(y)) ||
                   (json_is_array(y) && !json_array_size(y));
    return empty_x || empty_y ? empty_x == empty_y : json_equal(x, y);
}

static bool same_model(const struct gw_spec *a, const struct gw_spec *b)
{
    const char *x = gw_spec_map(a, "annotations", NOTE "model");
    const char *y = gw_spec_map(b, "annotations", NOTE "model");
    return x && y ? !strcmp(x, y) : !x && !y;
}

bool gw_spec_needs_restart(const struct gw_spec *a, const struct gw_spec *b)
{
    return a->gpu != b->gpu || a->gpus != b->gpus || a->slice.sm_pct != b->slice.sm_pct || a->argv_len != b->argv_len ||
           memcmp(a->argv, b->argv, a->argv_len) || strcmp(a->health_path, b->health_path) ||
           !same_value(a, b, "envVars") || !same_value(a, b, "secrets") ||
           !same_value(a, b, "envProcess") || a->local_socket != b->local_socket || !same_model(a, b);
}

uint64_t gw_spec_default_mem(int sm_pct, uint64_t gpu_bytes)
{
    uint64_t mem = gpu_bytes / MEM_GRAIN * (uint64_t)sm_pct / 100 * MEM_GRAIN;
    if (mem < MEM_DEFAULT_MIN)
        mem = MEM_DEFAULT_MIN < gpu_bytes ? MEM_DEFAULT_MIN : gpu_bytes;
    return mem - mem % MEM_GRAIN;
}

void gw_spec_scale(const struct gw_spec *s, enum fast_scaler scaler, struct fast_scale_conf *ret)
{
    *ret = (struct fast_scale_conf){.policy = FAST_SCALE_TARGET,
                                    .min = s->zero_after == FAST_NEVER ? s->min : 0,
                                    .max = s->max,
                                    .slo_ns = s->slo,
                                    .slo_p99 = !s->slo_p95,
                                    .target_rps_milli = s->target_milli,
                                    .slice = s->slice,
                                    .zero_after = s->zero_after,
                                    .down_cooldown = FAST_S(10)};
    if (scaler == FAST_SCALER_WHOLE ? s->gpu : s->profile && s->slo)
        fast_scaler_conf(scaler, ret);
}

int gw_spec_limit(const struct gw_spec *s, int quota_milli)
{
    bool named = gw_spec_map(s, "annotations", NOTE "gpu_quota_limit") != NULL;
    int limit = named ? s->slice.limit_milli : 0;
    return limit > quota_milli ? limit : quota_milli;
}

int64_t gw_spec_weight(const struct gw_spec *s, const struct fast_slice *slice)
{
    if (!s->profile || !slice->request_milli)
        return 1;
    return fast_profile_look(s->profile, slice->sm_pct, slice->request_milli).rps_milli;
}

bool gw_spec_is_scaled(const struct gw_spec *s)
{
    return s->min < s->max || s->zero_after != FAST_NEVER;
}
