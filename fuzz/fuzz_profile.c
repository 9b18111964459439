/* Profiles from outside: a table is refused with words, or each of its slices is one, and what is written
 * of it is read back as the same. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/profile.h"
#include "fuzz/fuzz.h"

static void check(const struct profile *p)
{
    FUZZ_CHECK(p->trials > 0 && p->trials <= FAST_TRIALS_MAX);
    for (int i = 0; i < p->trials; i++) {
        const struct fast_trial *t = &p->trial[i];
        FUZZ_CHECK(t->sm_pct >= 1 && t->sm_pct <= 100 && t->quota_milli >= 1 && t->quota_milli <= 1000);
        FUZZ_CHECK(t->batch >= 1 && t->rps >= 0 && isfinite(t->p95_ms) && t->memory_bytes >= 0);
        FUZZ_CHECK(memchr(t->state, 0, sizeof(t->state)) && memchr(t->text, 0, sizeof(t->text)));
    }
}

static void write_and_read(const struct profile *p, const char *form)
{
    static struct profile again;
    struct fast_err err = {0};
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    FUZZ_CHECK(out && !profile_write(p, form, out, &err));
    fclose(out);
    if (!strcmp(form, "json")) {
        FUZZ_CHECK(!profile_read(text, len, &again, &err) && again.trials == p->trials);
        check(&again);
        for (int i = 0; i < p->trials; i++)
            FUZZ_CHECK(again.trial[i].sm_pct == p->trial[i].sm_pct &&
                       again.trial[i].quota_milli == p->trial[i].quota_milli);
    } else if (!profile_read(text, len, &again, &err)) {
        check(&again); /* a table without a trial that succeeded, or of several batches, is none */
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct profile p;
    struct fast_err err = {0};
    char *text = malloc(size + 1); /* its own block, so that a read too far is seen */
    memcpy(text, data, size);
    text[size] = 0;
    if (profile_read(text, size, &p, &err)) {
        FUZZ_CHECK(*err.msg);
    } else {
        check(&p);
        write_and_read(&p, "json");
        write_and_read(&p, "csv");
        write_and_read(&p, "authors");
    }
    free(text);
    return 0;
}
