#ifndef FAST_GATEWAY_PROFILES_H
#define FAST_GATEWAY_PROFILES_H

/* The profiles that were measured or imported, and what becomes of them while functions run. The
 * database lies beside the gateway's state; `fast profile` writes it, and changes are seen within a
 * second. */

#include <jansson.h>

#include "gateway/spec.h"

struct gateway;
struct gw_function;
struct gw_replica;
struct gw_profiles;

int gw_profiles_open(const char *path, struct gw_profiles **ret, struct fast_err *err);
void gw_profiles_close(struct gw_profiles *profiles); /* NULL is fine */

/* Gives a deployment the profile of its version, or else the imported one, if there is one: it takes the
 * place of the file that the deployment names. One that names no slice gets the slice from it too;
 * FAST_EINVAL where none of its slices meets the SLO. */
int gw_profiles_attach(struct gateway *gw, struct gw_spec *spec, struct fast_err *err);

/* Every second: takes up what has changed in the database, and what live requests say. */
void gw_profiles_tick(struct gateway *gw);

/* What people see of the profile of |fn|; NULL: it has none. */
json_t *gw_profiles_json(const struct gw_function *fn);

/* What is known of the profile of one function. */
struct gw_live;
void gw_live_free(struct gw_live *live); /* NULL is fine */

/* A request begins on a replica (+1) or ends (-1): keeps |in_flight|, and for how long one has had to
 * wait for another. */
void gw_replica_count_flight(struct gw_replica *r, int delta, fast_ns now);

#endif
