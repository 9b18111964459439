/* Decides what a member of JSON is when it is missing or of another type: empty, or zero. */

#include "cli/api.h"

const char *json_text(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));
    return s ? s : "";
}

double json_num(const json_t *obj, const char *key)
{
    return json_number_value(json_object_get(obj, key));
}

void json_mean_add(struct json_mean *m, const json_t *obj, const char *key)
{
    const json_t *value = json_object_get(obj, key);
    m->sum += json_number_value(value);
    m->n += json_is_number(value);
}

double json_mean_of(const struct json_mean *m)
{
    return m->n ? m->sum / m->n : 0;
}
