/* fast-store: keeps the weights of models on one GPU for the replicas that use them. It ends
 * by itself (--idle) when nothing is stored any more. Also the program that puts a file into a store
 * (--push). */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/parse.h"
#include "io/file.h"
#include "store/store.h"
#include "storelib/fast_store.h"
#include "storelib/lib.h"

static const char usage[] =
    "usage: fast-store --socket PATH [options]\n"
    "       fast-store --socket PATH --push FILE --model NAME [--version V] [--shared] [--pinned]\n"
    "\n"
    "Keeps the weights of models on the first GPU that it sees (CUDA_VISIBLE_DEVICES) for all programs\n"
    "that use libfast-store.so.\n"
    "\n"
    "  --socket PATH    listen there (Unix, SOCK_SEQPACKET)\n"
    "  --listen-fd N    an inherited socket that listens already\n"
    "  --gpu N          index of the GPU on its node, for reports (0)\n"
    "  --key-file FILE  16 bytes: let in who has a pass made with them; without it everybody who may\n"
    "                   connect is let in\n"
    "  --probe-file F   where to keep what the driver was found to be able to\n"
    "  --limit LIST     how much of the GPU the models of a namespace may take, as of fast-node's\n"
    "                   --model-limit; default: all of it\n"
    "  --user N         the user that it becomes, 0: none; as of fast-node's --function-users\n"
    "  --idle TIME      end after so long without models and clients; default: never\n"
    "  --push FILE      load a safetensors file into the store at PATH ($FAST_STORE_PASS) and end\n"
    "  --model NAME, --version V, --shared, --pinned   of the model that is pushed\n"
    "  --help, --version-of-program\n";

enum { SOCKET = 1, LISTEN, GPU, KEY, PROBE_FILE, LIMIT, IDLE, PUSH, MODEL, VERSION, SHARED, PINNED, PROBE, USER,
       HELP, PROGRAM };

struct options {
    struct store_conf conf;
    const char *push, *model, *version;
    unsigned flags;
    uid_t user;
    bool probe, help, program;
};

static int take(struct options *o, int which, const char *value, struct fast_err *err)
{
    int64_t n = 0;
    int rc = 0;
    switch (which) {
    case SOCKET:
        o->conf.socket = value;
        break;
    case LISTEN:
        rc = fast_parse_int(value, "--listen-fd", 3, 65535, &n, err);
        o->conf.listen_fd = (int)n;
        break;
    case GPU:
        rc = fast_parse_int(value, "--gpu", 0, 1023, &n, err);
        o->conf.gpu = (int)n;
        break;
    case KEY:
        o->conf.key_file = value;
        break;
    case PROBE_FILE:
        o->conf.probe_file = value;
        break;
    case LIMIT:
        return fast_limits_parse(value, "--limit", &o->conf.limits, err);
    case IDLE:
        return fast_parse_duration(value, "--idle", 0, FAST_S(86400), &o->conf.idle, err);
    case USER:
        rc = fast_parse_int(value, "--user", 0, INT32_MAX, &n, err);
        o->user = (uid_t)n;
        break;
    case PUSH:
        o->push = value;
        break;
    case MODEL:
        o->model = value;
        break;
    case VERSION:
        o->version = value;
        break;
    case SHARED:
        o->flags |= FAST_STORE_SHARED;
        break;
    case PINNED:
        o->flags |= FAST_STORE_PINNED;
        break;
    default:
        o->probe |= which == PROBE;
        o->help |= which == HELP;
        o->program |= which == PROGRAM;
    }
    return rc;
}

static int parse(int argc, char **argv, struct options *o, struct fast_err *err)
{
    static const struct option longs[] = {
        {"socket", required_argument, NULL, SOCKET}, {"listen-fd", required_argument, NULL, LISTEN},
        {"gpu", required_argument, NULL, GPU},       {"key-file", required_argument, NULL, KEY},
        {"probe-file", required_argument, NULL, PROBE_FILE},
        {"limit", required_argument, NULL, LIMIT},
        {"idle", required_argument, NULL, IDLE},     {"push", required_argument, NULL, PUSH},
        {"user", required_argument, NULL, USER},
        {"model", required_argument, NULL, MODEL},   {"version", required_argument, NULL, VERSION},
        {"shared", no_argument, NULL, SHARED},       {"pinned", no_argument, NULL, PINNED},
        {"probe", no_argument, NULL, PROBE},         {"help", no_argument, NULL, HELP},
        {"version-of-program", no_argument, NULL, PROGRAM},
        {NULL, 0, NULL, 0}};
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == '?')
            return fast_err_set(err, FAST_EINVAL, "%.80s: unknown option, or its value is missing",
                                argv[optind - 1]);
        int rc = take(o, c, optarg, err);
        if (rc)
            return rc;
    }
    if (optind != argc)
        return fast_err_set(err, FAST_EINVAL, "unexpected argument \"%.80s\"", argv[optind]);
    if (!o->probe && !o->help && !o->program && !o->conf.socket)
        return fast_err_set(err, FAST_EINVAL, "--socket is missing");
    if (o->push && !o->model)
        return fast_err_set(err, FAST_EINVAL, "--push needs --model");
    return 0;
}

/* This program has read the file itself; what a replica has loaded under its name it compares with it. */
static int verify(const struct options *o, struct fast_store *store, const struct fast_store_model *model,
                  char *msg, size_t msg_size)
{
    struct fast_err err;
    char why[256];
    int rc = fast_store_model_loaded(model) ? 0 : fast_store_model_compare(model, o->push, why, sizeof(why));
    if (rc) {
        snprintf(msg, msg_size, "what is stored as %.60s is not what is in the file: %.100s; fast model rm it and "
                 "push again", o->model, why);
        return rc;
    }
    rc = store_client_verified(store, model, o->flags, &err);
    if (rc)
        snprintf(msg, msg_size, "%.200s", err.msg);
    return rc;
}

/* MPS serves one user at a time, that of the functions. Whoever pushes goes on reading all files. */
static int become(uid_t user, bool reads, struct fast_err *err)
{
    const uint32_t bit = reads ? 1u << CAP_DAC_READ_SEARCH : 0;
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2] = {{bit, bit, 0}, {0}};
    if (!user)
        return 0;
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) || setgroups(0, NULL) || setresgid(user, user, user) ||
        setresuid(user, user, user) || syscall(SYS_capset, &head, caps))
        return fast_err_set(err, FAST_EPERM, "cannot become user %u: %s", user, strerror(errno));
    return 0;
}

static int push(const struct options *o)
{
    struct fast_store *store = NULL;
    struct fast_store_model *model = NULL;
    char msg[256];
    struct fast_err err;
    if (become(o->user, true, &err)) {
        fprintf(stderr, "fast-store: %s\n", err.msg);
        return 1;
    }
    int rc = fast_store_connect(o->conf.socket, NULL, &store, msg, sizeof(msg));
    rc = rc ? rc
            : fast_store_load_file(store, o->push, o->model, o->version, o->flags, 600000, &model, msg,
                                   sizeof(msg));
    rc = rc ? rc : verify(o, store, model, msg, sizeof(msg));
    if (rc)
        fprintf(stderr, "fast-store: %s\n", msg);
    else
        printf("%s: %zu tensors, %.1f MB, %s (%s)\n", o->model, fast_store_model_count(model),
               (double)fast_store_model_bytes(model) / 1e6,
               fast_store_model_loaded(model) ? "loaded" : "was there already, byte for byte", fast_store_via(store));
    fast_store_release(model);
    fast_store_disconnect(store);
    return rc ? 1 : 0;
}

static void on_signal(void *arg, int sig)
{
    struct store *s = arg;
    (void)sig;
    fast_loop_stop(s->loop);
}

static int read_key(struct store *s, struct fast_err *err)
{
    char *data = NULL;
    size_t len = 0;
    if (!s->conf->key_file)
        return 0;
    int rc = fast_file_read(s->conf->key_file, FAST_PASS_KEY + 1, &data, &len, err);
    if (!rc && len != FAST_PASS_KEY)
        rc = fast_err_set(err, FAST_EINVAL, "--key-file: %zu bytes are not %d", len, FAST_PASS_KEY);
    if (!rc)
        memcpy(s->key, data, FAST_PASS_KEY);
    free(data);
    return rc;
}

static int begin(struct store *s, uid_t user, struct fast_err *err)
{
    uint32_t epoch = 0;
    if (getrandom(&epoch, sizeof(epoch), 0) != sizeof(epoch))
        return fast_err_set(err, FAST_EIO, "no random numbers: %s", strerror(errno));
    s->epoch = epoch |= 1;
    int rc = read_key(s, err);
    rc = rc ? rc : become(user, false, err);
    rc = rc ? rc : store_device_init(&s->device, s->conf->probe_file, err);
    rc = rc ? rc : fast_catalog_new(epoch, &s->catalog, err);
    if (!rc)
        fast_catalog_limit(s->catalog, &s->conf->limits, s->device.total, s->device.granularity);
    rc = rc ? rc : fast_loop_new(&s->loop, err);
    rc = rc ? rc : fast_loop_signal(s->loop, SIGTERM, on_signal, s, err);
    rc = rc ? rc : fast_loop_signal(s->loop, SIGINT, on_signal, s, err);
    return rc ? rc : store_sessions_begin(s, err);
}

/* Every client and every piece of a model is one. */
static void want_descriptors(void)
{
    uint64_t was, now;
    if (fast_descriptors_raise(&was, &now))
        fast_log(WARN, "few descriptors", "error=\"%s\"", strerror(errno));
}

static int serve(const struct options *o)
{
    static struct store s; /* large, and zero */
    struct fast_err err = {0};
    s.conf = &o->conf;
    s.listen_fd = -1;
    signal(SIGPIPE, SIG_IGN);
    fast_log_set(FAST_LOG_INFO, fast_log_stderr);
    if (o->conf.listen_fd >= 0)
        fcntl(o->conf.listen_fd, F_SETFD, FD_CLOEXEC);
    want_descriptors();
    int rc = begin(&s, o->user, &err);
    if (!rc) {
        fast_log(INFO, "store ready", "gpu=%d via=%s epoch=%llx: models of an earlier life are not "
                 "known here", o->conf.gpu, fast_store_via_name(s.device.via),
                 (unsigned long long)s.epoch);
        rc = fast_loop_run(s.loop, &err);
    }
    if (rc)
        fprintf(stderr, "fast-store: %s\n", err.msg);
    store_sessions_end(&s);
    for (int i = 0; i < (s.catalog ? fast_catalog_count(s.catalog) : 0); i++) {
        struct store_model *d = fast_catalog_at(s.catalog, i)->data;
        if (d)
            store_device_free(&s.device, d->mem);
        free(d);
    }
    fast_catalog_free(s.catalog);
    fast_loop_free(s.loop);
    return rc ? 1 : 0;
}

int main(int argc, char **argv)
{
    struct options o = {.conf = {.listen_fd = -1, .idle = FAST_NEVER}};
    struct fast_err err;
    if (parse(argc, argv, &o, &err)) {
        fprintf(stderr, "fast-store: %s\n", err.msg);
        return 2;
    }
    if (o.help)
        return fputs(usage, stdout) < 0;
    if (o.program)
        return puts("fast-store " FAST_VERSION) < 0;
    if (o.probe)
        return store_probe_run();
    return o.push ? push(&o) : serve(&o);
}
