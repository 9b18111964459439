#ifndef FAST_CLI_MANIFEST_H
#define FAST_CLI_MANIFEST_H

/* Files as people have them for Kubernetes: the OpenFaaS Function, and FaSTPod, FaSTFunc, FaSTSvc and
 * SharePod of the systems that this one follows. */

#include <jansson.h>

#include "base/err.h"

/* Reads one document. |ret_deployment|: a FunctionDeployment, or NULL; |ret_ns|: the name of a
 * namespace to create, or NULL. |ignored| gets the paths of what has no meaning here. */
int manifest_read(json_t *doc, json_t **ret_deployment, char **ret_ns, json_t *ignored,
                  struct fast_err *err);

/* The documents of |text|; |ret| becomes an array. |name| stands in front of messages. */
int manifest_parse(const char *text, const char *name, json_t **ret, struct fast_err *err);
/* The same of a file. */
int manifest_load(const char *path, json_t **ret, struct fast_err *err);

#endif
