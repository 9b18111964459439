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
