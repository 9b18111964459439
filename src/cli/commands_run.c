/* The commands of `fast-run`: those that a function is started through. It is a program of its own since the libraries
 * of the others (HTTP, TLS, databases) cost several times what its own work does, and a cold start waits for it. */

#include "base/mem.h"
#include "cli/cli.h"

const struct cli_cmd *const cli_cmds[] = {&cmd_isolate, &cmd_watchdog};
const size_t cli_cmd_count = FAST_COUNT_OF(cli_cmds);
