#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* Another preloaded library, of somebody else: it wraps puts() and calls the next one. With a dlsym
 * that is not a tail call RTLD_NEXT would be looked up from the hook, and find puts() of here. */

__attribute__((visibility("default"))) int puts(const char *text);

int puts(const char *text)
{
    int (*next)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "puts");
    if (!next || next == puts) {
        fprintf(stderr, "RTLD_NEXT is wrong\n");
        abort();
    }
    fputs("second: ", stdout);
    return next(text);
}
