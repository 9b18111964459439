__attribute__((visibility("default"))) int only_here_answer(void);

int only_here_answer(void)
{
    return 42;
}
