#ifndef FAST_TESTS_HOOK_CLIENT_H
#define FAST_TESTS_HOOK_CLIENT_H

/* An ordinary CUDA program that knows nothing of the hook. How it reaches the driver is the
 * business of the program around it: |find| returns the address of a driver function, or NULL. */

typedef void *client_find_fn(const char *symbol);

/* Does what argv[1] says and prints "name=value" pairs. Returns an exit status. */
int client_main(client_find_fn *find, int argc, char **argv);

#endif
