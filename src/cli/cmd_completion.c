/* fast completion: shell completion, printed from the table of commands. */

#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"

static void print_opts(const struct cli_opt *opts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        printf(" --%s", opts[i].name);
}

/* Values of options, a case each. */
static void print_values(const struct cli_cmd *c)
{
    for (size_t i = 0; i < c->opt_count; i++)
        if (c->opts[i].values && *c->opts[i].values)
            printf("    %s--%s) COMPREPLY=($(compgen -W \"%s\" -- \"$cur\")); return ;;\n", c->name,
                   c->opts[i].name, c->opts[i].values);
}

/* What a command calls its actions and choices: the words of small letters of its arguments. */
static void print_words(const char *args)
{
    static const char small[] = "abcdefghijklmnopqrstuvwxyz";
    for (const char *p = args; *p;) {
        size_t skip = strcspn(p, " [|]"), word = strspn(p, small);
        if (word && word == skip)
            printf(" %.*s", (int)word, p);
        p += skip + (p[skip] != 0);
    }
}

static void print_bash(void)
{
    puts("# fast(1) completion for bash: eval \"$(fast completion bash)\"\n"
         "_fast() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]} words=\n"
         "    # bash makes three words of --option=value\n"
         "    if [ \"$cur\" = = ]; then cur=; elif [ \"$option\" = = ]; then option=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
         "    if [ \"$COMP_CWORD\" = 1 ]; then");
    fputs("        words=\"help", stdout);
    for (size_t i = 0; i < cli_cmd_count; i++)
        printf(" %s", cli_cmds[i]->name);
    puts("\"\n    else\n        case ${COMP_WORDS[1]} in");
    for (size_t i = 0; i < cli_cmd_count; i++) {
        const struct cli_cmd *c = cli_cmds[i];
        printf("        %s) words=\"--help", c->name);
        print_words(c->args);
        print_opts(c->opts, c->opt_count);
        print_opts(cli_common_opts, cli_common_opt_count);
        if (!strncmp(c->args, "NAME", 4))
            fputs(" $(fast ls 2>/dev/null | awk 'NR>1 {print $1}')", stdout);
        puts("\" ;;");
    }
    fputs("        help) words=\"", stdout);
    for (size_t i = 0; i < cli_cmd_count; i++)
        printf("%s%s", i ? " " : "", cli_cmds[i]->name);
    puts("\" ;;\n"
         "        esac\n"
         "    fi\n"
         "    case ${COMP_WORDS[1]}$option in");
    for (size_t i = 0; i < cli_cmd_count; i++)
        print_values(cli_cmds[i]);
    puts("    completioncompletion) COMPREPLY=($(compgen -W \"bash zsh\" -- \"$cur\")); return ;;\n"
         "    esac\n"
         "    case $cur in\n"
         "    -*) COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")) ;;\n"
         "    *) COMPREPLY=($(compgen -W \"$(echo $words | tr ' ' '\\n' | grep -v '^--')\" -- \"$cur\") "
         "$(compgen -f -- \"$cur\")) ;;\n"
         "    esac\n"
         "}\n"
         "complete -F _fast fast");
}

static int run(struct cli *cli, void *arg, int argc, char **argv)
{
    (void)cli;
    (void)arg;
    (void)argc;
    if (strcmp(argv[0], "bash") && strcmp(argv[0], "zsh"))
        return cli_fail(CLI_USAGE, "completion: \"%s\" is not bash or zsh", argv[0]);
    if (!strcmp(argv[0], "zsh"))
        puts("autoload -U +X bashcompinit && bashcompinit");
    print_bash();
    return CLI_OK;
}

const struct cli_cmd cmd_completion = {
    .name = "completion", .args = "bash|zsh", .summary = "print shell completion",
    .detail = "Add to ~/.bashrc:  eval \"$(fast completion bash)\"", .min_args = 1, .max_args = 1,
    .run = run};
