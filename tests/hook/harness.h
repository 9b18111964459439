#ifndef FAST_TESTS_HOOK_HARNESS_H
#define FAST_TESTS_HOOK_HARNESS_H

/* Runs programs with and without the hook, and a fake node beside them. Everything in here fails the
 * test that runs when something goes wrong. */

#include "../unit/test.h"

#include <stdbool.h>
#include <sys/types.h>

#include "fake_node.h"

#define OUT_MAX 16384

/* Sanitizers wrap dlopen themselves: they refuse RTLD_DEEPBIND and do not know the caller. */
#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN true
#endif
#endif
#ifndef WITH_ASAN
#define WITH_ASAN false
#endif
#if defined(__SANITIZE_THREAD__)
#define WITH_SANITIZER true
#else
#define WITH_SANITIZER WITH_ASAN
#endif

struct harness {
    char dir[64], socket[128], sim[128];
    const char *hook, *driver, *programs;
    struct fake_node *node; /* of the test that runs */
};

extern struct harness env;

struct run {
    bool hooked, linked; /* preload the hook; tell it about the node */
    const char *program; /* prog_link, ... */
    const char *preload; /* one more library, behind the hook */
    const char *driver_path; /* CLIENT_DRIVER */
    const char *fail;
    const char *ticket;
    const char *args[6];
};

struct child {
    pid_t pid;
    int out;
    char text[OUT_MAX];
    size_t len;
};

/* The ways to reach the driver. */
extern const char *const programs[4];

#define RUN(...) (&(struct run){.hooked = true, .linked = true, .args = {__VA_ARGS__}})

/* Reads where things are from the environment and makes a directory; the end removes it. */
void harness_init(void);
void harness_fini(void);

void start(struct child *c, const struct run *r, const char *program);
/* Reads until |until| was printed, or to the end; false when it takes too long. */
bool read_until(struct child *c, const char *until, int timeout_ms);
/* Waits for the end and returns the exit status. */
int finish(struct child *c);
/* All of it; the exit status must be 0. */
void run_program(struct child *c, const struct run *r, const char *program);
/* The number after "name=" in the output; -1 if there is none. */
long value(const struct child *c, const char *name);
/* Skips the test where the driver itself cannot do what the program asks for. */
void need_driver(const char *what, const char *arg);

struct fake_conf usual(void);
struct fake_node *begin(const struct fake_conf *conf);
void end(void);
int tear_down(void **state);
/* The sums of all pages, once the node has noticed that the clients are gone. */
struct fake_stats stats_after(struct fake_node *n);

#endif
