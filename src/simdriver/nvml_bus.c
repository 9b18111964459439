/* Where the simulated GPUs are, and what is between them: a bus, over which any two reach each other, and
 * no NVLink. */
#include <stdio.h>
#include <string.h>

#include "simdriver/nvml.h"

/* nvmlPciInfo_t of the public header. */
struct pci_info {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char id[32];
};

NVML nvmlDeviceGetPciInfo_v3(struct device *d, struct pci_info *ret)
{
    int rc = nvml_enter_device(d, ret);
    if (rc)
        return rc;
    *ret = (struct pci_info){.bus = (unsigned)d->index + 1};
    snprintf(ret->legacy, sizeof(ret->legacy), "0000:%02X:00.0", ret->bus);
    snprintf(ret->id, sizeof(ret->id), "00000000:%02X:00.0", ret->bus);
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetPciInfo_v2(struct device *d, struct pci_info *ret)
{
    return nvmlDeviceGetPciInfo_v3(d, ret);
}

NVML nvmlDeviceGetHandleByPciBusId_v2(const char *id, struct device **ret)
{
    unsigned domain = 0, bus = 0;
    int rc = nvml_enter();
    if (rc)
        return rc;
    if (!id || !ret || sscanf(id, "%x:%x:", &domain, &bus) != 2)
        return nvml_leave(NVML_INVALID_ARGUMENT);
    if (domain || bus < 1 || bus > (unsigned)nvml_shared.devices)
        return nvml_leave(NVML_NOT_FOUND);
    *ret = nvml_device((int)bus - 1);
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetHandleByPciBusId(const char *id, struct device **ret)
{
    return nvmlDeviceGetHandleByPciBusId_v2(id, ret);
}

/* |which|: reading, writing, NVLink, atomics, properties. 0: it works, 3: not this way. */
NVML nvmlDeviceGetP2PStatus(struct device *a, struct device *b, int which, int *ret)
{
    int rc = nvml_enter_device(b, ret);
    if (rc)
        return rc;
    nvml_leave(NVML_SUCCESS);
    if ((rc = nvml_enter_device(a, ret)))
        return rc;
    if (which < 0 || which > 4 || a == b)
        return nvml_leave(NVML_INVALID_ARGUMENT);
    *ret = which == 2 ? 3 : 0;
    return nvml_leave(NVML_SUCCESS);
}

NVML nvmlDeviceGetNvLinkState(struct device *d, unsigned link, unsigned *ret)
{
    int rc = nvml_enter_device(d, ret);
    (void)link;
    return rc ? rc : nvml_leave(NVML_NOT_SUPPORTED);
}

NVML nvmlDeviceGetNvLinkRemoteDeviceType(struct device *d, unsigned link, unsigned *ret)
{
    return nvmlDeviceGetNvLinkState(d, link, ret);
}

NVML nvmlDeviceGetNvLinkRemotePciInfo_v2(struct device *d, unsigned link, struct pci_info *ret)
{
    int rc = nvml_enter_device(d, ret);
    (void)link;
    return rc ? rc : nvml_leave(NVML_NOT_SUPPORTED);
}
