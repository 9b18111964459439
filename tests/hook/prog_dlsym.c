#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"

/* Reaches the driver by dlopen and dlsym. With CLIENT_DRIVER in the environment it opens that path
 * with RTLD_DEEPBIND, as plugins are opened. */

static void *lib;

static void *find(const char *symbol)
{
    return dlsym(lib, symbol);
}

int main(int argc, char **argv)
{
    const char *path = getenv("CLIENT_DRIVER");
    lib = path ? dlopen(path, RTLD_NOW | RTLD_DEEPBIND) : dlopen("libcuda.so.1", RTLD_NOW);
    if (!lib) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    return client_main(find, argc, argv);
}
