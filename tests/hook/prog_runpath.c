#include <dlfcn.h>
#include <stdio.h>

/* Opens a library that only its own RUNPATH leads to, and calls puts(). */

int main(void)
{
    void *lib = dlopen("libonly_here.so", RTLD_NOW);
    int (*answer)(void) = lib ? (int (*)(void))dlsym(lib, "only_here_answer") : NULL;
    if (!answer) {
        fprintf(stderr, "%s\n", dlerror());
        return 3;
    }
    printf("answer=%d\n", answer());
    fflush(stdout);
    puts("puts");
    return 0;
}
