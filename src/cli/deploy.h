#ifndef FAST_CLI_DEPLOY_H
#define FAST_CLI_DEPLOY_H

/* Building an OpenFaaS FunctionDeployment from flags or from a stack file, and sending it. */

#include <jansson.h>

#include "cli/cli.h"

/* PUT, and POST when the function is new (as faas-cli does). Prints the outcome. */
int deploy_send(struct cli *cli, const json_t *deployment);

/* Asks whether all of |list| are valid, so that one that is not leaves nothing behind. */
int deploy_check_all(struct cli *cli, const json_t *list);

/* Reads a stack.yml as faas-cli reads it; |ret| becomes an array of FunctionDeployments. Its
 * provider.gateway is the gateway of |cli| from then on, unless --gateway named one; the usual address
 * in a file does not take the place of OPENFAAS_URL. */
int deploy_read_stack(struct cli *cli, const char *path, json_t **ret, struct fast_err *err);

#endif
