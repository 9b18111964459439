/* Prints the profile of a model, as the gateway reads it: one replica on a simulated V100 under the
 * scheduler of fast-node with its defaults, for each SM partition and time quota of the authors'
 * experiments. One user asks without pause, so that throughput is what one replica can do and
 * latency has no queue in it. Virtual time: always the same file. */

#include <stdio.h>

#include "core/profile.h"
#include "icpp23.h"
#include "trial.h"

#define RUN FAST_S(60)

static int make(const char *name, struct fast_err *err)
{
    static const int sm[] = {6, 12, 24, 50, 60, 80, 100};
    static struct fast_profile_point point[35];
    static char text[65536];
    struct sim_model model;
    struct fast_profile *profile = NULL;
    int n = 0, r = icpp23_model(name, &model, err);
    for (size_t i = 0; !r && i < sizeof(sm) / sizeof(sm[0]); i++)
        for (int quota = 200; !r && quota <= 1000; quota += 200)
            r = bench_trial(&model, sm[i], quota, RUN, &point[n++], err);
    if (!r)
        r = fast_profile_new(point, n, &profile, err);
    if (r)
        return r;
    fast_profile_print(profile, text, sizeof(text));
    fast_profile_free(profile);
    printf("# %s on a SIMULATED Tesla V100, made by tools/make-profiles.sh: not measured on a GPU.\n"
           "# One replica, one user without pause, %d s of virtual time each.\n%s",
           name, (int)(RUN / FAST_S(1)), text);
    return 0;
}

int main(int argc, char **argv)
{
    struct fast_err err;
    if (argc != 2) {
        fprintf(stderr, "usage: make_profile MODEL\n");
        return 2;
    }
    if (make(argv[1], &err)) {
        fprintf(stderr, "make_profile: %s\n", err.msg);
        return 1;
    }
    return 0;
}
