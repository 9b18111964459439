#include "core/types.h"

#include "base/parse.h"

static const char *const policy_names[FAST_POLICY_COUNT] = {"fast", "timeshare", "racing"};
static const char *const charge_names[FAST_CHARGE_COUNT] = {"busy", "held"};

int fast_slice_check(const struct fast_slice *slice, struct fast_err *err)
{
    if (slice->sm_pct < 1 || slice->sm_pct > FAST_SM_PCT_MAX)
        return fast_err_set(err, FAST_EINVAL, "SM partition: %d %% is not from 1 to 100 %%",
                            slice->sm_pct);
    if (slice->request_milli < 0 || slice->request_milli > FAST_MILLI)
        return fast_err_set(err, FAST_EINVAL,
                            "quota request: %d thousandths is not from 0 to 1000 (0.0 to 1.0)",
                            slice->request_milli);
    if (slice->limit_milli < 1 || slice->limit_milli > FAST_MILLI)
        return fast_err_set(err, FAST_EINVAL,
                            "quota limit: %d thousandths is not from 1 to 1000 (0.001 to 1.0)",
                            slice->limit_milli);
    if (slice->limit_milli < slice->request_milli)
        return fast_err_set(err, FAST_EINVAL,
                            "quota limit: %d thousandths is below the quota request, %d; raise the "
                            "limit or lower the request",
                            slice->limit_milli, slice->request_milli);
    return 0;
}

const char *fast_policy_name(enum fast_policy policy)
{
    return policy_names[policy];
}

const char *fast_charge_name(enum fast_charge charge)
{
    return charge_names[charge];
}

int fast_policy_parse(const char *text, enum fast_policy *ret, struct fast_err *err)
{
    int found = fast_parse_name_of(policy_names, FAST_POLICY_COUNT, text);
    if (found < 0)
        return fast_err_set(err, FAST_EINVAL, "policy: \"%.40s\" is not fast, timeshare or racing",
                        text);
    *ret = (enum fast_policy)found;
    return 0;
}

int fast_charge_parse(const char *text, enum fast_charge *ret, struct fast_err *err)
{
    int found = fast_parse_name_of(charge_names, FAST_CHARGE_COUNT, text);
    if (found < 0)
        return fast_err_set(err, FAST_EINVAL, "charge: \"%.40s\" is not busy or held", text);
    *ret = (enum fast_charge)found;
    return 0;
}
