/* YAML as JSON of texts: what is refused, with which words, and that a refusal leaves nothing behind (under
 * AddressSanitizer). */

#include "cli/manifest.h"
#include "cli/yaml_json.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "test.h"

static void check_json(const char *yaml, const char *want)
{
    struct fast_err err;
    json_t *v = NULL;
    if (fast_yaml_parse(yaml, strlen(yaml), "t", &v, &err))
        fail_msg("%s: %s", yaml, err.msg);
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    assert_string_equal(text, want);
    free(text);
    json_decref(v);
}

static void scalars_stay_text(void **state)
{
    (void)state;
    check_json("a: 0.30\nb: [no, 1e3, '']\nc: ~\nd:\n", "{\"a\":\"0.30\",\"b\":[\"no\",\"1e3\",\"\"],"
                                                     "\"c\":null,\"d\":null}");
    check_json("plain", "\"plain\"");
}

static void refused(void **state)
{
    (void)state;
    char deep[80];
    memset(deep, '[', sizeof(deep));
    deep[70] = 0;
    const struct {
        const char *yaml, *words;
    } t[] = {{"", "empty"},
             {"a: [b", "t:"},
             {"a: 1\na: 2\n", "twice"},
             {"[1, *x]", "aliases"},
             {"x: &a 1\ny: *a\n", "aliases"},
             {"? [a]\n: b\n", "plain name"},
             {"a: 1\n---\nb: 2\n", "one document"},
             {"a: [{b: [*c]}]", "aliases"},
             {deep, "nested too deeply"}};
    for (size_t i = 0; i < FAST_COUNT_OF(t); i++) {
        struct fast_err err = {0};
        json_t *v = NULL;
        assert_int_equal(fast_yaml_parse(t[i].yaml, strlen(t[i].yaml), "t", &v, &err), -FAST_EINVAL);
        if (!strstr(err.msg, t[i].words))
            fail_msg("%s: %s", t[i].yaml, err.msg);
        assert_null(v);
    }
}

static void documents(void **state)
{
    (void)state;
    struct fast_err err;
    json_t *all = NULL;
    assert_int_equal(manifest_parse("# first\n---\na: 1\n---\nb: 2\n--- # last\n", "t", &all, &err), 0);
    assert_int_equal(json_array_size(all), 2);
    json_decref(all);
    assert_int_equal(manifest_parse("---\n# nothing\n", "t", &all, &err), -FAST_EINVAL);
    assert_int_equal(manifest_parse("a: 1\n---\n[*x]\n", "t", &all, &err), -FAST_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_stay_text),
        cmocka_unit_test(refused),
        cmocka_unit_test(documents),
    };
    return cmocka_run_group_tests_name("yaml", tests, NULL, NULL);
}
