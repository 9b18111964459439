/* The commands of `fast`. */

#include "base/mem.h"
#include "cli/cli.h"

const struct cli_cmd *const cli_cmds[] = {
    &cmd_up,   &cmd_deploy, &cmd_apply, &cmd_ls,  &cmd_describe, &cmd_rm,     &cmd_scale, &cmd_explain,
    &cmd_defrag,
    &cmd_invoke,
    &cmd_logs, &cmd_top,    &cmd_gpu, &cmd_policy,   &cmd_load, &cmd_profile, &cmd_simulate,
    &cmd_demo, &cmd_image, &cmd_model, &cmd_bench, &cmd_async, &cmd_watchdog, &cmd_isolate, &cmd_completion,
};
const size_t cli_cmd_count = FAST_COUNT_OF(cli_cmds);
