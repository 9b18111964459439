/* When lines of a log came: what is noted, and what a reader makes of it. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"
#include "io/log_times.h"
#include "test.h"

static char root[] = "/tmp/fast-log-times-XXXXXX", log_file[64], times_file[64];

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(root))
        return -1;
    snprintf(log_file, sizeof(log_file), "%s/a.log", root);
    snprintf(times_file, sizeof(times_file), "%s/times/a.log", root);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return fast_dir_remove(root, NULL);
}

/* The log is |size| bytes long, and was written to last at |wall|. */
static void write_log(off_t size, fast_ns wall)
{
    int fd = open(log_file, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    const struct timespec t[2] = {{.tv_sec = wall / FAST_S(1), .tv_nsec = wall % FAST_S(1)},
                                  {.tv_sec = wall / FAST_S(1), .tv_nsec = wall % FAST_S(1)}};
    assert_true(fd >= 0 && !ftruncate(fd, size) && !futimens(fd, t));
    close(fd);
}

static fast_ns at(off_t end)
{
    struct fast_log_times t;
    fast_log_times_open(&t, log_file);
    fast_ns wall = fast_log_times_at(&t, end);
    fast_log_times_close(&t);
    return wall;
}

static void note(off_t size, fast_ns wall)
{
    write_log(size, wall);
    fast_log_times_note(log_file);
}

static void lines(void **state)
{
    (void)state;
    note(10, FAST_S(100));
    note(10, FAST_S(150)); /* nothing came */
    note(30, FAST_S(200) + 7);
    write_log(40, FAST_S(300));
    assert_true(at(1) == FAST_S(100));
    assert_true(at(10) == FAST_S(100));
    assert_true(at(11) == FAST_S(200) + 7);
    assert_true(at(30) == FAST_S(200) + 7);
    assert_true(at(31) == FAST_S(300)); /* nobody has looked since */
    note(50, FAST_S(120));              /* the clock was set back */
    assert_true(at(50) == FAST_S(200) + 7);
}

static void logs_that_begin_anew(void **state)
{
    (void)state;
    note(100, FAST_S(100));
    note(20, FAST_S(400));
    assert_true(at(20) == FAST_S(400));
    fast_log_times_drop(log_file);
    assert_int_equal(access(times_file, F_OK), -1);
    write_log(50, FAST_S(500));
    assert_true(at(20) == FAST_S(500));
    note(50, FAST_S(500));
    unlink(log_file);
    assert_true(fast_log_times_note(log_file) == 0);
    assert_int_equal(access(times_file, F_OK), -1);
    assert_true(at(20) == 0);
}

static void logs_that_are_cut(void **state)
{
    (void)state;
    char old[80], times[80];
    struct fast_log_times t;
    snprintf(old, sizeof(old), "%s.1", log_file);
    snprintf(times, sizeof(times), "%s/times/a.log.1", root);
    unlink(log_file);
    fast_log_times_drop(log_file);
    for (int i = 1; i <= 300; i++)
        note(10 * i, FAST_S(i));
    fast_log_times_move(log_file, old, 2005);
    assert_int_equal(access(times_file, F_OK), -1);
    fast_log_times_open(&t, old);
    assert_true(fast_log_times_at(&t, 1) == FAST_S(201)); /* byte 2006 of before */
    assert_true(fast_log_times_at(&t, 995) == FAST_S(300));
    fast_log_times_close(&t);
    fast_log_times_move(log_file, old, 0); /* nothing was noted since */
    fast_log_times_open(&t, old);
    assert_true(fast_log_times_at(&t, 1) == 0);
    fast_log_times_close(&t);
    assert_int_equal(unlink(times), 0);
}

static void half_a_note(void **state)
{
    (void)state;
    note(10, FAST_S(100));
    int fd = open(times_file, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_true(write(fd, "1234567", 7) == 7);
    close(fd);
    assert_true(at(10) == FAST_S(100));
    note(20, FAST_S(200));
    assert_true(at(10) == FAST_S(100));
    assert_true(at(20) == FAST_S(200));
}

/* Of many, by a reader who goes on and by one who leaps. */
static void many(void **state)
{
    (void)state;
    struct fast_log_times t;
    fast_log_times_drop(log_file);
    for (int i = 1; i <= 1000; i++)
        note(10 * i, FAST_S(i));
    fast_log_times_open(&t, log_file);
    for (int end = 1; end <= 10000; end++)
        assert_true(fast_log_times_at(&t, end) == FAST_S((end + 9) / 10));
    fast_log_times_close(&t);
    for (int step = 7; step < 9000; step = 3 * step + 1) {
        fast_log_times_open(&t, log_file);
        for (int end = step; end <= 10000; end += step)
            assert_true(fast_log_times_at(&t, end) == FAST_S((end + 9) / 10));
        fast_log_times_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines),
        cmocka_unit_test(logs_that_begin_anew),
        cmocka_unit_test(logs_that_are_cut),
        cmocka_unit_test(half_a_note),
        cmocka_unit_test(many),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
