/* Decides which GPUs a function may be on beside its size: of which type, with whom, apart from whom, and
 * spread over what fails by itself, which on one node is a GPU. */

#include "gateway/gateway.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/parse.h"

#define NOTE "fastgshare/"

static const char *note(const struct gw_spec *spec, const char *name)
{
    return gw_spec_map(spec, "annotations", name);
}

uint32_t gw_gpu_type(const char *name)
{
    uint32_t type = (uint32_t)fast_hash_of(name, strlen(name), 0);
    return type ? type : 1;
}

/* The group of a function; never 0. */
static uint64_t group_of(const char *ns, const char *name)
{
    char text[2 * GW_NAME_MAX + 2];
    int n = snprintf(text, sizeof(text), "%s/%s", ns, name);
    uint64_t group = fast_hash_of(text, (size_t)n, 0);
    return group ? group : 1;
}

/* The GPU whose name has the wanted type in it; NULL: there is none. */
static const struct gw_gpu *find_type(const struct gateway *gw, const char *type)
{
    for (int i = 0; i < gw->ngpus; i++)
        if (strcasestr(gw->gpus[i].name, type))
            return &gw->gpus[i];
    return NULL;
}

int gw_company_check(const struct gateway *gw, const struct gw_spec *spec, struct fast_err *err)
{
    const char *type = note(spec, NOTE "gpu_type"), *near = note(spec, NOTE "affinity");
    const char *avoid = note(spec, NOTE "anti_affinity"), *spread = note(spec, NOTE "spread");
    bool on = false;
    int r = near ? fast_parse_name(near, NOTE "affinity", err) : 0;
    if (!r && avoid)
        r = fast_parse_name(avoid, NOTE "anti_affinity", err);
    if (!r && spread)
        r = fast_parse_bool(spread, NOTE "spread", &on, err);
    if (!r && (type || near || avoid || spread) && !spec->gpu)
        r = fast_err_set(err, FAST_EINVAL, NOTE "gpu_type, affinity, anti_affinity, spread: the function uses "
                                           "no GPU (" NOTE "gpu_quota_request)");
    if (!r && type && !find_type(gw, type))
        r = fast_err_set(err, FAST_EINVAL, NOTE "gpu_type: no GPU here is a \"%.40s\"; the first one is a %s",
                         type, gw->ngpus ? gw->gpus[0].name : "-");
    const struct gw_gpu *like = type ? find_type(gw, type) : NULL;
    int fit = 0;
    for (int i = 0; i < gw->ngpus; i++)
        fit += !like || !strcmp(gw->gpus[i].name, like->name);
    if (!r && spec->gpu && spec->gpus > fit)
        r = fast_err_set(err, FAST_EINVAL, NOTE "gpus: %d is not from 1 to %d, the GPUs of this node%s%.40s; ask "
                         "for fewer, or deploy on a node that has as many", spec->gpus, fit, type ? " that are a " : "",
                         type ? type : "");
    return r;
}

void gw_company_group(const struct gw_spec *spec, struct fast_want *ret)
{
    const char *text = note(spec, NOTE "spread");
    bool spread = false;
    fast_parse_bool(text ? text : "false", NOTE "spread", &spread, NULL);
    ret->group = group_of(spec->ns, spec->name);
    ret->tied = spread || note(spec, NOTE "affinity") || note(spec, NOTE "anti_affinity");
}

void gw_company_want(const struct gateway *gw, const struct gw_spec *spec, struct fast_want *ret)
{
    const char *type = note(spec, NOTE "gpu_type"), *near = note(spec, NOTE "affinity");
    const char *avoid = note(spec, NOTE "anti_affinity"), *spread = note(spec, NOTE "spread");
    const struct gw_gpu *gpu = type ? find_type(gw, type) : NULL;
    gw_company_group(spec, ret);
    ret->type = gpu ? gw_gpu_type(gpu->name) : 0;
    ret->near = near ? group_of(spec->ns, near) : 0;
    ret->avoid = avoid ? group_of(spec->ns, avoid) : 0;
    fast_parse_bool(spread ? spread : "false", NOTE "spread", &ret->spread, NULL);
}
