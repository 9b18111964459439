/* YAML to JSON on libyaml's event parser. Scalars stay text: "0.30" in an annotation has to arrive
 * byte by byte, and YAML's own guesses about types (no, 1e3, 08) are what people trip over. */

#include "cli/yaml_json.h"

#include <stdbool.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 64

struct reader {
    yaml_parser_t parser;
    const char *name;
    struct fast_err *err;
};

static int fail_at(struct reader *r, yaml_mark_t mark, const char *what)
{
    return fast_err_set(r->err, FAST_EINVAL, "%s:%zu:%zu: %s", r->name, mark.line + 1,
                        mark.column + 1, what);
}

static int next(struct reader *r, yaml_event_t *ev)
{
    if (yaml_parser_parse(&r->parser, ev))
        return 0;
    return fail_at(r, r->parser.problem_mark,
                   r->parser.problem ? r->parser.problem : "not valid YAML");
}

static int read_node(struct reader *r, yaml_event_t *ev, int depth, json_t **ret);

static bool is_null(const yaml_event_t *ev)
{
    const char *s = (const char *)ev->data.scalar.value;
    return ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*s || !strcmp(s, "~") || !strcmp(s, "null"));
}

static int read_sequence(struct reader *r, int depth, json_t **ret)
{
    json_t *array = json_array();
    for (;;) {
        yaml_event_t ev;
        json_t *item = NULL;
        int rc = next(r, &ev);
        bool end = !rc && ev.type == YAML_SEQUENCE_END_EVENT;
        if (!rc && !end)
            rc = read_node(r, &ev, depth + 1, &item);
        yaml_event_delete(&ev); /* libyaml has cleared it when there was none */
        if (rc) {
            json_decref(array);
            return rc;
        }
        if (end) {
            *ret = array;
            return 0;
        }
        json_array_append_new(array, item);
    }
}

static int read_pair(struct reader *r, yaml_event_t *key, int depth, json_t *object)
{
    yaml_event_t ev;
    json_t *value = NULL;
    const char *name = (const char *)key->data.scalar.value;
    if (key->type != YAML_SCALAR_EVENT)
        return fail_at(r, key->start_mark, "a key has to be a plain name");
    if (json_object_get(object, name))
        return fail_at(r, key->start_mark, "this key is there twice");
    int rc = next(r, &ev);
    if (rc)
        return rc;
    rc = read_node(r, &ev, depth + 1, &value);
    yaml_event_delete(&ev);
    if (!rc && json_object_set_new(object, name, value))
        rc = fail_at(r, key->start_mark, "the key is not UTF-8");
    return rc;
}

static int read_mapping(struct reader *r, int depth, json_t **ret)
{
    json_t *object = json_object();
    for (;;) {
        yaml_event_t key;
        int rc = next(r, &key);
        bool end = !rc && key.type == YAML_MAPPING_END_EVENT;
        if (!rc && !end)
            rc = read_pair(r, &key, depth, object);
        yaml_event_delete(&key);
        if (rc) {
            json_decref(object);
            return rc;
        }
        if (end) {
            *ret = object;
            return 0;
        }
    }
}

static int read_node(struct reader *r, yaml_event_t *ev, int depth, json_t **ret)
{
    if (depth > DEPTH_MAX)
        return fail_at(r, ev->start_mark, "nested too deeply");
    switch (ev->type) {
    case YAML_SCALAR_EVENT:
        *ret = is_null(ev) ? json_null()
                           : json_stringn((const char *)ev->data.scalar.value,
                                          ev->data.scalar.length);
        return *ret ? 0 : fail_at(r, ev->start_mark, "the text is not UTF-8");
    case YAML_SEQUENCE_START_EVENT:
        return read_sequence(r, depth, ret);
    case YAML_MAPPING_START_EVENT:
        return read_mapping(r, depth, ret);
    case YAML_ALIAS_EVENT:
        return fail_at(r, ev->start_mark, "aliases (*name) are not supported; write it out");
    default:
        return fail_at(r, ev->start_mark, "a value is missing");
    }
}

static int read_document(struct reader *r, json_t **ret)
{
    bool in_document = false;
    for (;;) {
        yaml_event_t ev;
        int rc = next(r, &ev);
        if (rc)
            return rc;
        yaml_event_type_t type = ev.type;
        if (type == YAML_DOCUMENT_START_EVENT && *ret)
            rc = fail_at(r, ev.start_mark, "only one document is expected");
        else if (type == YAML_DOCUMENT_START_EVENT)
            in_document = true;
        else if (in_document && !*ret && type != YAML_DOCUMENT_END_EVENT)
            rc = read_node(r, &ev, 0, ret);
        yaml_event_delete(&ev);
        if (rc || type == YAML_STREAM_END_EVENT)
            return rc;
    }
}

int fast_yaml_parse(const char *text, size_t len, const char *name, json_t **ret,
                    struct fast_err *err)
{
    struct reader r = {.name = name, .err = err};
    json_t *root = NULL;
    if (!yaml_parser_initialize(&r.parser))
        return fast_err_set(err, FAST_ENOMEM, "no memory for a YAML parser");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    int rc = read_document(&r, &root);
    yaml_parser_delete(&r.parser);
    if (!rc && !root)
        rc = fast_err_set(err, FAST_EINVAL, "%s: the file is empty", name);
    if (rc) {
        json_decref(root);
        return rc;
    }
    *ret = root;
    return 0;
}
