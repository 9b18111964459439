/* `fast-watchdog`, whose only command is the watchdog. It is linked statically where that can be: it runs within
 * images, whose libraries, if they have any, are their own. */

#include "base/mem.h"
#include "cli/cli.h"

const struct cli_cmd *const cli_cmds[] = {&cmd_watchdog};
const size_t cli_cmd_count = FAST_COUNT_OF(cli_cmds);
