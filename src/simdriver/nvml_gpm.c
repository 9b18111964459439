/* NVML's GPM: exact values between two samples. */
#include <stdlib.h>

#include "simdriver/nvml.h"

struct sample {
    int device;
    struct sim_gpu_counters counters;
};

struct gpm_support {
    unsigned version, supported;
};

struct gpm_metric {
    unsigned id;
    int result;
    double value;
    struct {
        const char *short_name, *long_name, *unit;
    } info;
};

struct gpm_get {
    unsigned version, count;
    struct sample *before, *after;
    struct gpm_metric metric[];
};

NVML nvmlGpmQueryDeviceSupport(struct device *d, struct gpm_support *ret)
{
    int rc = nvml_enter_device(d, ret);
    if (rc)
        return rc;
    ret->supported = 1;
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlGpmSampleAlloc(struct sample **ret)
{
    if (!ret)
        return NVML_INVALID_ARGUMENT;
    *ret = calloc(1, sizeof(**ret));
    if (!*ret)
        return NVML_UNKNOWN;
    (*ret)->device = -1;
    return NVML_SUCCESS;
}

NVML nvmlGpmSampleFree(struct sample *s)
{
    free(s);
    return s ? NVML_SUCCESS : NVML_INVALID_ARGUMENT;
}

NVML nvmlGpmSampleGet(struct device *d, struct sample *s)
{
    int rc = nvml_enter_device(d, s);
    if (rc)
        return rc;
    s->device = d->index;
    s->counters = shared_counters(&nvml_shared, d->index);
    return nvml_leave(NVML_SUCCESS);
}

static void gpm_metric(struct gpm_metric *m, const struct sim_gpu_counters *a,
                       const struct sim_gpu_counters *b, int sms)
{
    double span = (double)(b->at - a->at), part = 0;
    m->result = NVML_SUCCESS;
    m->info.unit = "%";
    switch (m->id) {
    case 1:
        m->info.short_name = m->info.long_name = "graphics_util";
        part = (double)(b->busy_ns - a->busy_ns);
        break;
    case 2:
        m->info.short_name = m->info.long_name = "sm_util";
        part = (double)(b->sm_ns - a->sm_ns) / sms;
        break;
    case 3:
        m->info.short_name = m->info.long_name = "sm_occupancy";
        part = (double)(b->warp_ns - a->warp_ns) / sms;
        break;
    case 10:
        m->info.short_name = m->info.long_name = "dram_bw_util";
        part = (double)(b->dram_ns - a->dram_ns);
        break;
    default:
        m->result = NVML_NOT_SUPPORTED;
    }
    m->value = part * 100 / span;
}

NVML nvmlGpmMetricsGet(struct gpm_get *get)
{
    int rc = nvml_enter();
    if (rc)
        return rc;
    if (!get || !get->before || !get->after || get->before->device != get->after->device ||
        get->before->device < 0)
        return nvml_leave(NVML_INVALID_ARGUMENT);
    if (get->version != 1)
        return nvml_leave(NVML_VERSION_MISMATCH);
    if (get->after->counters.at <= get->before->counters.at)
        return nvml_leave(NVML_INVALID_ARGUMENT);
    int sms = shared_conf(&nvml_shared, get->before->device)->sms;
    for (unsigned i = 0; i < get->count; i++)
        gpm_metric(&get->metric[i], &get->before->counters, &get->after->counters, sms);
    return nvml_leave(NVML_SUCCESS);
}
