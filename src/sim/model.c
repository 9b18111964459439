/* Parses the files in models/: a table of keys, each with its unit and range; see the header for what
 * is refused. */

#include "sim/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"

#define LINE_MAX_LEN 200

enum key_type { KEY_NAME, KEY_INT, KEY_MILLI, KEY_DURATION, KEY_BYTES };

/* |max| of a fraction is in thousandths, of a duration in nanoseconds. */
static const struct key {
    const char *name;
    size_t offset, size;
    int64_t min, max;
    enum key_type type;
    bool optional; /* 0 when absent */
} keys[] = {
#define FIELD(f) offsetof(struct sim_model, f), sizeof(((struct sim_model *)0)->f)
    {"name", FIELD(name), 0, 0, KEY_NAME, false},
    {"memory", FIELD(mem_bytes), 0, 1LL << 42, KEY_BYTES, false},
    {"shared_memory", FIELD(shared_bytes), 0, 1LL << 42, KEY_BYTES, true},
    {"input", FIELD(input_bytes), 0, 1LL << 32, KEY_BYTES, true},
    {"output", FIELD(output_bytes), 0, 1LL << 32, KEY_BYTES, true},
    {"host", FIELD(host_ns), 0, FAST_S(60), KEY_DURATION, false},
    {"launch", FIELD(launch_ns), 0, FAST_S(1), KEY_DURATION, false},
    {"threads_per_block", FIELD(threads_per_block), 1, 1024, KEY_INT, false},
    {"occupancy", FIELD(occupancy_milli), 0, 1000, KEY_MILLI, false},
    {"dram", FIELD(dram_milli), 0, 1000, KEY_MILLI, false},
    {"small_kernels", FIELD(small.kernels), 0, SIM_MODEL_KERNELS_MAX, KEY_INT, false},
    {"small_blocks", FIELD(small.blocks), 1, 1LL << 31, KEY_INT, false},
    {"small_block", FIELD(small.block_ns), 1, FAST_S(60), KEY_DURATION, false},
    {"large_kernels", FIELD(large.kernels), 0, SIM_MODEL_KERNELS_MAX, KEY_INT, false},
    {"large_blocks", FIELD(large.blocks), 1, 1LL << 31, KEY_INT, false},
    {"large_block", FIELD(large.block_ns), 1, FAST_S(60), KEY_DURATION, false},
#undef FIELD
};

#define KEY_COUNT FAST_COUNT_OF(keys)

static int set_name(char *dest, size_t size, const char *text, struct fast_err *err)
{
    if (strlen(text) >= size)
        return fast_err_set(err, FAST_EINVAL, "name: \"%.40s\" is longer than %zu bytes", text,
                            size - 1);
    if (fast_parse_name(text, "name", err))
        return -FAST_EINVAL;
    memcpy(dest, text, strlen(text) + 1);
    return 0;
}

/* An integer member of 4 or 8 bytes; the ranges of the table fit in it. */
static void set_int(char *dest, size_t size, int64_t v)
{
    int32_t narrow = (int32_t)v;
    memcpy(dest, size == sizeof(narrow) ? (const void *)&narrow : (const void *)&v, size);
}

static int set_value(struct sim_model *model, const struct key *key, const char *text,
                     struct fast_err *err)
{
    char *dest = (char *)model + key->offset;
    int64_t v = 0;
    uint64_t bytes = 0;
    int rc = 0;
    switch (key->type) {
    case KEY_NAME:
        return set_name(dest, key->size, text, err);
    case KEY_INT:
        rc = fast_parse_int(text, key->name, key->min, key->max, &v, err);
        break;
    case KEY_MILLI:
        rc = fast_parse_milli(text, key->name, key->min, key->max, &v, err);
        break;
    case KEY_DURATION:
        rc = fast_parse_duration(text, key->name, key->min, key->max, &v, err);
        break;
    case KEY_BYTES:
        rc = fast_parse_bytes(text, key->name, (uint64_t)key->max, &bytes, err);
        v = (int64_t)bytes;
        break;
    }
    if (!rc)
        set_int(dest, key->size, v);
    return rc;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static char *trim(char *text)
{
    while (is_space(*text))
        text++;
    size_t len = strlen(text);
    while (len && is_space(text[len - 1]))
        text[--len] = 0;
    return text;
}

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

/* |line| is changed. */
static int parse_line(char *line, struct sim_model *model, bool *seen, struct fast_err *err)
{
    line[strcspn(line, "#")] = 0;
    char *name = trim(line);
    if (!*name)
        return 0;
    char *value = strchr(name, '=');
    if (!value)
        return fast_err_set(err, FAST_EINVAL, "\"%.40s\" is not \"key = value\"", name);
    *value++ = 0;
    name = trim(name);
    const struct key *key = find_key(name);
    if (!key)
        return fast_err_set(err, FAST_EINVAL, "there is no key \"%.40s\"", name);
    if (seen[key - keys])
        return fast_err_set(err, FAST_EINVAL, "%s is given twice", key->name);
    seen[key - keys] = true;
    return set_value(model, key, trim(value), err);
}

int sim_model_parse(const char *text, size_t len, struct sim_model *ret, struct fast_err *err)
{
    struct sim_model model = {.name = ""};
    bool seen[KEY_COUNT] = {false};
    int number = 0;
    if (len > SIM_MODEL_BYTES_MAX)
        return fast_err_set(err, FAST_EINVAL, "more than %d bytes", SIM_MODEL_BYTES_MAX);
    for (size_t at = 0; at < len;) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end ? (size_t)(end - text) - at : len - at;
        char line[LINE_MAX_LEN + 1];
        number++;
        if (n > LINE_MAX_LEN || memchr(text + at, 0, n))
            return fast_err_set(err, FAST_EINVAL, "line %d: longer than %d bytes, or not text",
                                number, LINE_MAX_LEN);
        memcpy(line, text + at, n);
        line[n] = 0;
        if (parse_line(line, &model, seen, err))
            return fast_err_wrap(err, "line %d", number);
        at += n + 1;
    }
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (!seen[i] && !keys[i].optional)
            return fast_err_set(err, FAST_EINVAL, "line %d: %s is missing", number, keys[i].name);
    if (sim_model_kernels(&model) == 0)
        return fast_err_set(err, FAST_EINVAL, "line %d: there are no kernels", number);
    *ret = model;
    return 0;
}

int sim_model_kernels(const struct sim_model *model)
{
    return model->small.kernels + model->large.kernels;
}

void sim_model_kernel(const struct sim_model *model, int i, struct sim_kernel *ret,
                      fast_ns *ret_gap)
{
    *ret = (struct sim_kernel){.threads_per_block = 1};
    *ret_gap = 0;
    if (i < 0 || i >= sim_model_kernels(model))
        return;
    const struct sim_model_class *class = i < model->small.kernels ? &model->small : &model->large;
    *ret = (struct sim_kernel){.blocks = class->blocks,
                               .threads_per_block = model->threads_per_block,
                               .block_ns = class->block_ns,
                               .occupancy_milli = model->occupancy_milli,
                               .dram_milli = model->dram_milli};
    *ret_gap = model->launch_ns + (i == 0 ? model->host_ns : 0);
}
