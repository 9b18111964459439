/* Decides what fast-node is to do, from its command line. Options are rows of one table, so that
 * parsing and help cannot disagree. */
#include "node/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/parse.h"
#include "core/limit.h"
#include "io/file.h"

#define OVERRUN_DEFAULT FAST_S(60) /* a first launch that is compiled may take tens of seconds */

/* Above the users of a machine and those that systems hand out for containers (65536 each, from 100000 on). */
#define USERS_DEFAULT "200000-265535"
#define USERS_MAX 1000000

enum { STATE_DIR, HOOK, SIM, POLICY, CHARGE, MEMORY, WINDOW, TOKEN, OVERRUN, MPS, MPS_CONTROL, MODEL_LIMIT, USERS, NAME,
       LOG_LEVEL, HELP, VERSION, COUNT };

static const struct {
    const char *name, *arg, *text;
} rows[COUNT] = {
    [STATE_DIR] = {"state-dir", "DIR",
                   "sockets, logs and records of replicas; default /var/lib/fast-gshare for root,\n"
                   "else ~/.local/state/fast-gshare. One fast-node has a GPU: another one for it,\n"
                   "whatever its directory, does not start"},
    [HOOK] = {"hook", "FILE", "libfast-hook.so; default: the one that was built or installed with\n"
                              "this program"},
    [SIM] = {"sim", "SPEC", "simulate GPUs instead of using real ones: DEVICE[:COUNT] with DEVICE\n"
                            "v100-16gb, a100-40gb or h100-80gb; default $FAST_SIM"},
    [POLICY] = {"policy", "P", "fast (default): tokens for several replicas at once while their SM\n"
                               "partitions fit; timeshare: one token at a time, with all SMs; racing:\n"
                               "no tokens and no partitions. To compare them"},
    [CHARGE] = {"charge", "C", "what counts against a time quota: busy (default), the time that the\n"
                               "GPU worked for a replica, or held, the time it had a token"},
    [MEMORY] = {"charge-memory", "M",
                "what counts against a memory quota: allocated (default), or all, with contexts and\n"
                "modules, as NVML tells them; of a GPU of today that is 300 to 500 MiB a process"},
    [WINDOW] = {"window", "TIME", "the period of time quotas, 10ms to 10s; default 100ms"},
    [TOKEN] = {"token", "TIME", "the longest token, 100us to the window; default 10ms"},
    [OVERRUN] = {"overrun", "TIME", "a replica that keeps a token for so long after its end, while others\n"
                                    "wait for the GPU, is killed and starts again; default 1m, 0s: never"},
    [MPS] = {"mps", "auto|on|off", "NVIDIA MPS, which makes SM partitions hold: auto (default) uses it\n"
                                   "if it starts, on fails without it, off leaves partitions advisory"},
    [MPS_CONTROL] = {"mps-control", "FILE", "the control program of MPS; default: nvidia-cuda-mps-control\n"
                                            "of PATH, or the simulated one"},
    [MODEL_LIMIT] = {"model-limit", "LIST",
                     "how much of each GPU the shared models of a namespace may take, in use and\n"
                     "pinned ones together: [NAMESPACE=]PERCENT% or [NAMESPACE=]SIZE, with commas; one\n"
                     "without a name is for all others; default " FAST_LIMIT_DEFAULT},
    [USERS] = {"function-users", "RANGE",
               "FIRST-LAST: users (numbers) that functions run as, where this program is root; the\n"
               "first is that of all functions with a GPU, and their group. \"none\": they have its\n"
               "own. Default for root: " USERS_DEFAULT},
    [NAME] = {"name", "NAME", "of this node, for the gateway; default: the host name"},
    [LOG_LEVEL] = {"log-level", "LEVEL", "error, warn, info (default) or debug; the log is stderr"},
    [HELP] = {"help", NULL, "print this"},
    [VERSION] = {"version", NULL, "print the version"},
};

void node_options_help(void)
{
    printf("usage: fast-node [options]\n\n"
           "Runs GPU functions on this machine: starts their replicas, gives out tokens so that each\n"
           "one gets its share of the GPU's SMs and time, and keeps them within their memory. The\n"
           "gateway and the command \"fast\" talk to it through DIR/control.sock.\n\n");
    for (int i = 0; i < COUNT; i++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", rows[i].name, rows[i].arg ? " " : "",
                 rows[i].arg ? rows[i].arg : "");
        const char *p = rows[i].text;
        printf("  %-20s", left);
        if (strlen(left) > 19)
            printf("\n  %-20s", "");
        for (const char *nl; (nl = strchr(p, '\n')); p = nl + 1)
            printf(" %.*s\n  %-20s", (int)(nl - p), p, "");
        printf(" %s\n", p);
    }
    printf("\nSIGTERM and SIGINT stop all replicas, each with its grace, and then the node; a second\n"
           "one ends the node at once. Replicas live on when the node is killed, and the next\n"
           "fast-node with the same --state-dir adopts them.\n\n"
           "example, on a machine without a GPU:\n"
           "  fast-node --sim v100-16gb --state-dir /tmp/fast\n");
}

static int parse_mps(const char *text, enum node_mps_mode *ret, struct fast_err *err)
{
    static const char *const names[] = {
        [NODE_MPS_AUTO] = "auto", [NODE_MPS_ON] = "on", [NODE_MPS_OFF] = "off"};
    int found = fast_parse_name_of(names, FAST_COUNT_OF(names), text);
    if (found < 0)
        return fast_err_set(err, FAST_EINVAL, "--mps: \"%.40s\" is not auto, on or off", text);
    *ret = (enum node_mps_mode)found;
    return 0;
}

static int parse_users(const char *text, struct node_conf *c, struct fast_err *err)
{
    unsigned first = 0, last = 0;
    int used = 0;
    c->users_first = c->users_last = 0;
    if (!strcmp(text, "none"))
        return 0;
    if (sscanf(text, "%9u-%9u%n", &first, &last, &used) != 2 || text[used] || !first || last <= first ||
        last - first > USERS_MAX)
        return fast_err_set(err, FAST_EINVAL, "--function-users: \"%.40s\" is not none or such as " USERS_DEFAULT,
                            text);
    if (geteuid() != 0)
        return fast_err_set(err, FAST_EPERM, "--function-users: it takes root to run functions as other users");
    c->users_first = first;
    c->users_last = last;
    return 0;
}

static int parse_level(const char *text, enum fast_log_level *ret, struct fast_err *err)
{
    for (int i = FAST_LOG_ERROR; i <= FAST_LOG_DEBUG; i++)
        if (!strcmp(text, fast_log_level_name((enum fast_log_level)i))) {
            *ret = (enum fast_log_level)i;
            return 0;
        }
    return fast_err_set(err, FAST_EINVAL, "--log-level: \"%.40s\" is not error, warn, info or debug",
                        text);
}

static int parse_memory(const char *text, bool *ret, struct fast_err *err)
{
    static const char *const names[] = {"allocated", "all"};
    int found = fast_parse_name_of(names, FAST_COUNT_OF(names), text);
    if (found < 0)
        return fast_err_set(err, FAST_EINVAL, "--charge-memory: \"%.40s\" is not allocated or all", text);
    *ret = found == 1;
    return 0;
}

static int parse_name(const char *text, struct fast_err *err)
{
    size_t n = strlen(text);
    bool ok = n > 0 && n < 64;
    for (size_t i = 0; i < n && ok; i++)
        ok = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z') ||
             (text[i] >= '0' && text[i] <= '9') || strchr("-._", text[i]);
    return ok ? 0 : fast_err_set(err, FAST_EINVAL,
                                 "--name: \"%.70s\" is not 1 to 63 letters, digits, '-', '.' or '_'",
                                 text);
}

static int take(struct node_options *o, int which, const char *value, struct fast_err *err)
{
    struct node_conf *c = &o->conf;
    struct fast_limits limits;
    switch (which) {
    case STATE_DIR:
        c->state_dir = value;
        return *value ? 0 : fast_err_set(err, FAST_EINVAL, "--state-dir is empty");
    case HOOK:
        c->hook_path = value;
        return 0;
    case SIM:
        c->sim_spec = value;
        return *value ? 0 : fast_err_set(err, FAST_EINVAL, "--sim is empty; try v100-16gb");
    case POLICY:
        return fast_policy_parse(value, &c->sched.policy, err) ? fast_err_wrap(err, "--policy") : 0;
    case CHARGE:
        return fast_charge_parse(value, &c->sched.charge, err) ? fast_err_wrap(err, "--charge") : 0;
    case MEMORY:
        return parse_memory(value, &c->mem_all, err);
    case WINDOW:
        return fast_parse_duration(value, "--window", FAST_WINDOW_MIN, FAST_WINDOW_MAX,
                                   &c->sched.window_ns, err);
    case TOKEN:
        return fast_parse_duration(value, "--token", FAST_TOKEN_MIN, FAST_TOKEN_MAX,
                                   &c->sched.token_ns, err);
    case OVERRUN:
        return fast_parse_duration(value, "--overrun", 0, FAST_S(3600), &c->overrun_max, err);
    case MPS:
        return parse_mps(value, &c->mps, err);
    case MPS_CONTROL:
        c->mps_control = value;
        return *value && !access(value, X_OK)
                   ? 0
                   : fast_err_set(err, FAST_ENOENT, "--mps-control: %.150s is not a program", value);
    case MODEL_LIMIT:
        c->model_limit = value;
        return fast_limits_parse(value, "--model-limit", &limits, err);
    case USERS:
        return parse_users(value, c, err);
    case NAME:
        c->name = value;
        return parse_name(value, err);
    case LOG_LEVEL:
        return parse_level(value, &o->log_level, err);
    case HELP:
        o->help = true;
        return 0;
    default:
        o->version = true;
        return 0;
    }
}

static int parse(int argc, char **argv, struct node_options *o, struct fast_err *err)
{
    struct option longs[COUNT + 1] = {0};
    for (int i = 0; i < COUNT; i++)
        longs[i] = (struct option){rows[i].name, rows[i].arg ? required_argument : no_argument, NULL,
                                   256 + i};
    opterr = 0;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, ":h", longs, NULL)) != -1;) {
        if (c == ':')
            return fast_err_set(err, FAST_EINVAL, "%s needs a value", argv[optind - 1]);
        if (c == '?')
            return fast_err_set(err, FAST_EINVAL, "%s is not an option; see fast-node --help",
                                argv[optind - 1]);
        int r = take(o, c == 'h' ? HELP : c - 256, optarg, err);
        if (r || o->help || o->version)
            return r;
    }
    if (optind < argc)
        return fast_err_set(err, FAST_EINVAL, "\"%s\": fast-node takes options only; see --help",
                            argv[optind]);
    if (o->conf.sched.token_ns > (o->conf.sched.window_ns ? o->conf.sched.window_ns
                                                          : FAST_WINDOW_DEFAULT))
        return fast_err_set(err, FAST_EINVAL, "--token is longer than the window");
    return 0;
}

/* ---- defaults ---- */

static int state_dir(struct node_options *o, struct fast_err *err)
{
    const char *home = getenv("HOME"), *path = o->conf.state_dir;
    char text[PATH_MAX];
    if (!path && getuid() == 0) {
        path = "/var/lib/fast-gshare";
    } else if (!path) {
        if (!home || *home != '/')
            return fast_err_set(err, FAST_EINVAL, "HOME is not set: name a directory by --state-dir");
        if (snprintf(text, sizeof(text), "%s/.local/state/fast-gshare", home) >= (int)sizeof(text))
            return fast_err_set(err, FAST_EINVAL, "HOME is too long: use --state-dir");
        path = text;
    }
    int r = fast_path_absolute(path, o->state_dir, err);
    o->conf.state_dir = o->state_dir;
    return r;
}

/* What lies beside this program in the build tree, or was installed with it. */
static int find_beside(const char *in_build, const char *installed, char *ret, const char *option,
                       struct fast_err *err)
{
    char exe[PATH_MAX], path[2 * PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    exe[n > 0 ? n : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash)
        *slash = 0;
    for (int i = 0; i < 2; i++) {
        const char *name = i ? installed : in_build;
        int len = i ? snprintf(path, sizeof(path), "%s/../" FAST_LIBDIR "/fast-gshare/%s", exe, name)
                    : snprintf(path, sizeof(path), "%s/../%s", exe, name);
        char real[PATH_MAX];
        if (len < (int)sizeof(path) && realpath(path, real)) {
            memcpy(ret, real, strlen(real) + 1);
            return 0;
        }
    }
    return fast_err_set(err, FAST_ENOENT, "%s is neither in %s/../%s nor installed%s%s", in_build, exe,
                        in_build, option ? "; name it by " : "", option ? option : "");
}

/* Models can be shared where the programs for it were built; without them everything else works. */
static void find_store(struct node_options *o)
{
    if (!find_beside("store/fast-store", "../../bin/fast-store", o->store, NULL, NULL) ||
        !find_beside("bin/fast-store", "fast-store", o->store, NULL, NULL))
        o->conf.store_path = o->store;
    if (!find_beside("storelib/libfast-store.so.0", "../libfast-store.so.0", o->store_lib, NULL, NULL))
        o->conf.store_lib = o->store_lib;
}

static int defaults(struct node_options *o, struct fast_err *err)
{
    struct node_conf *c = &o->conf;
    int r = state_dir(o, err);
    find_store(o);
    if (!r && c->hook_path) {
        r = fast_path_absolute(c->hook_path, o->hook, err);
        if (!r && access(o->hook, R_OK))
            r = fast_err_set(err, FAST_ENOENT, "--hook: %.200s cannot be read", o->hook);
    } else if (!r) {
        r = find_beside("hook/libfast-hook.so", "libfast-hook.so", o->hook, "--hook", err);
    }
    c->hook_path = o->hook;
    if (!c->name) {
        gethostname(o->name, sizeof(o->name) - 1);
        c->name = *o->name ? o->name : "node";
    }
    const char *sim = getenv("FAST_SIM"), *dir = getenv("FAST_SIM_DIR");
    if (!c->sim_spec && sim && *sim)
        c->sim_spec = sim;
    if (r || !c->sim_spec)
        return r;
    r = fast_parse_sim(c->sim_spec, err);
    if (r)
        return r;
    c->sim_dir_own = !dir || !*dir;
    if (!c->sim_dir_own)
        r = fast_path_absolute(dir, o->sim_dir, err);
    else /* one for each state directory, so that two nodes of a user do not share GPUs unasked */
        snprintf(o->sim_dir, sizeof(o->sim_dir), "/dev/shm/fast-sim-%u-%08x", (unsigned)getuid(),
                 (unsigned)fast_hash_of(o->state_dir, strlen(o->state_dir), 0));
    if (!r)
        r = find_beside("simdriver", "sim", o->sim_libs, NULL, err);
    c->sim_dir = o->sim_dir;
    c->sim_libs = o->sim_libs;
    return r;
}

int node_options_read(int argc, char **argv, struct node_options *ret, struct fast_err *err)
{
    memset(ret, 0, sizeof(*ret));
    ret->log_level = FAST_LOG_INFO;
    ret->conf.model_limit = FAST_LIMIT_DEFAULT;
    ret->conf.overrun_max = OVERRUN_DEFAULT;
    int r = geteuid() ? 0 : parse_users(USERS_DEFAULT, &ret->conf, err);
    r = r ? r : parse(argc, argv, ret, err);
    if (r || ret->help || ret->version)
        return r;
    return defaults(ret, err);
}
