/* Repeated lines are written once, and then once a minute with their count, for all processes. */
#include "base/repeats.h"
#include "scratch.h"
#include "suite.h"

#include <sys/wait.h>
#include <syslog.h>

enum {
    MINUTE = REPEATS_PERIOD,
    NOW = 1000000 /* milliseconds: some time after boot */
};

static char said[64][512];
static size_t said_count;
static bool refused; /* the log cannot be written */

static bool say(int priority, const char *text)
{
    if (refused)
        return false;
    ck_assert_uint_lt(said_count, sizeof said / sizeof said[0]);
    (void)snprintf(said[said_count++], sizeof said[0], "<%d>%s", priority, text);
    return true;
}

static void expect_said(const char *line)
{
    ck_assert_uint_eq(said_count, 1);
    ck_assert_str_eq(said[0], line);
    said_count = 0;
}

static void expect_silence(void)
{
    ck_assert_msg(said_count == 0, "said: %s", said[0]);
}

static void set_up(void)
{
    scratch_set_up();
    said_count = 0;
    refused = false;
    ck_assert_int_eq(repeats_share(scratch_path("repeats")), 0);
}

static void tear_down(void)
{
    (void)repeats_share(NULL);
    scratch_tear_down();
}

START_TEST(the_first_line_is_written_at_once_and_the_others_a_minute_later_with_their_count)
{
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    expect_said("<6>a refusal");
    for (int i = 1; i < 10; i++)
        repeats_add(LOG_INFO, "a refusal", NOW + i, say);
    expect_silence();
    repeats_add(LOG_INFO, "a refusal", NOW + MINUTE, say);
    expect_said("<6>a refusal (10 times in 60 seconds)");
    repeats_add(LOG_INFO, "a refusal", NOW + 3 * MINUTE, say);
    expect_said("<6>a refusal");
}
END_TEST

START_TEST(a_sum_is_written_when_it_is_due_and_not_twice)
{
    for (int i = 0; i < 3; i++)
        repeats_add(LOG_WARNING, "a refusal", NOW, say);
    said_count = 0;
    ck_assert_int_eq(repeats_write_due(false, NOW + 1000, say), MINUTE - 1000);
    expect_silence();
    (void)repeats_write_due(false, NOW + MINUTE, say);
    expect_said("<4>a refusal (2 times in 60 seconds)");
    ck_assert_int_eq(repeats_write_due(true, NOW + MINUTE, say), MINUTE);
    expect_silence();
}
END_TEST

START_TEST(a_process_without_a_log_leaves_its_lines_to_the_others)
{
    repeats_count(LOG_ERR, "cannot read a file", NOW);
    repeats_count(LOG_ERR, "cannot read a file", NOW + 1);
    expect_silence();
    (void)repeats_write_due(false, NOW + 2, say);
    expect_said("<3>cannot read a file (2 times)");
}
END_TEST

START_TEST(a_sum_of_less_than_a_second_names_no_time)
{
    for (int i = 0; i < 3; i++)
        repeats_add(LOG_INFO, "a refusal", NOW, say);
    said_count = 0;
    (void)repeats_write_due(true, NOW + 100, say);
    expect_said("<6>a refusal (2 times)");
}
END_TEST

START_TEST(at_the_end_all_sums_are_written)
{
    for (int i = 0; i < 3; i++)
        repeats_add(LOG_INFO, "a refusal", NOW, say);
    said_count = 0;
    (void)repeats_write_due(true, NOW + 5000, say);
    expect_said("<6>a refusal (2 times in 5 seconds)");
}
END_TEST

START_TEST(each_text_has_its_own_count)
{
    repeats_add(LOG_INFO, "one", NOW, say);
    repeats_add(LOG_INFO, "two", NOW, say);
    ck_assert_uint_eq(said_count, 2);
    said_count = 0;
    repeats_add(LOG_INFO, "one", NOW + 1, say);
    (void)repeats_write_due(false, NOW + 2 * MINUTE, say);
    expect_said("<6>one");
}
END_TEST

/* A minute is full of more texts than there are places. */
START_TEST(texts_that_find_no_place_are_counted_together)
{
    char text[32];
    for (int i = 0; i < 2 * REPEATS_KINDS; i++) {
        (void)snprintf(text, sizeof text, "text %d", i);
        repeats_add(LOG_INFO, text, NOW, say);
    }
    ck_assert_uint_eq(said_count, REPEATS_KINDS + 1);
    ck_assert_str_eq(said[REPEATS_KINDS], "<6>lines of other texts, counted together");
    said_count = 0;
    repeats_add(LOG_INFO, "a later text", NOW + MINUTE, say);
    ck_assert_str_eq(said[0], "<6>a later text");
}
END_TEST

START_TEST(processes_that_share_a_file_count_together)
{
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    expect_said("<6>a refusal");
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            if (i % 2 == 0) /* opened again, as by another program */
                (void)repeats_share(scratch_path("repeats"));
            for (int k = 0; k < 100; k++)
                repeats_add(LOG_INFO, "a refusal", NOW + k, say);
            _exit((int)said_count);
        }
    }
    for (int status, i = 0; i < 20; i++) {
        ck_assert_int_gt(wait(&status), 0);
        ck_assert_int_eq(status, 0); /* it wrote no line */
    }
    (void)repeats_write_due(true, NOW + MINUTE, say);
    ck_assert_uint_eq(said_count, 1);
    int count = 0;
    ck_assert_int_eq(sscanf(said[0], "<6>a refusal (%d times", &count), 1);
    ck_assert_int_le(count, 2000);
    ck_assert_int_ge(count, 1500); /* fewer, as a process without the lock counts for itself */
}
END_TEST

START_TEST(a_process_that_dies_while_it_counts_delays_no_other)
{
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        for (;;)
            repeats_add(LOG_INFO, "a refusal", NOW, say);
    (void)usleep(20000);
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    repeats_add(LOG_INFO, "another", NOW, say);
    expect_said("<6>another");
    repeats_add(LOG_INFO, "another", NOW, say);
    expect_silence();
}
END_TEST

/* Returns the process that has the lock of the file. */
static pid_t hold_lock(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int locked[2];
    char byte;
    ck_assert_int_eq(pipe(locked), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        int fd = open(scratch_path("repeats"), O_RDWR);
        _exit(fcntl(fd, F_SETLK, &lock) < 0 || write(locked[1], "", 1) < 0 ? 1 : pause());
    }
    close(locked[1]);
    ck_assert_int_eq(read(locked[0], &byte, 1), 1);
    close(locked[0]);
    return child;
}

START_TEST(a_process_that_cannot_have_the_lock_tries_again_in_a_second)
{
    pid_t holder = hold_lock();
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    ck_assert_int_eq(repeats_write_due(false, NOW, say), 1000);
    expect_silence();
    ck_assert_int_eq(kill(holder, SIGKILL), 0);
    ck_assert_int_eq(waitpid(holder, NULL, 0), holder);
    (void)repeats_write_due(false, NOW, say);
    expect_said("<6>a refusal");
}
END_TEST

START_TEST(lines_counted_without_the_lock_are_written_once_it_is_free)
{
    char text[32];
    pid_t holder = hold_lock();
    for (int i = 0; i < 2 * REPEATS_KINDS; i++) {
        (void)snprintf(text, sizeof text, "text %d", i);
        repeats_add(LOG_INFO, text, NOW, say);
    }
    expect_silence();
    ck_assert_int_eq(kill(holder, SIGKILL), 0);
    ck_assert_int_eq(waitpid(holder, NULL, 0), holder);
    (void)repeats_write_due(false, NOW, say);
    ck_assert_uint_eq(said_count, REPEATS_KINDS + 1);
    ck_assert_str_eq(said[0], "<6>text 0");
    (void)snprintf(text, sizeof text, "together (%d times)", (int)REPEATS_KINDS);
    ck_assert_ptr_nonnull(strstr(said[REPEATS_KINDS], text));
}
END_TEST

START_TEST(lost_lines_are_reported_once_lines_can_be_written)
{
    repeats_count_lost(3, NOW);
    refused = true;
    ck_assert_int_eq(repeats_write_due(false, NOW, say), 1000);
    refused = false;
    (void)repeats_write_due(false, NOW, say);
    expect_said("<4>3 lines of this log were lost: they could not be written at once");
    (void)repeats_write_due(false, NOW, say);
    expect_silence();
}
END_TEST

START_TEST(a_sum_that_could_not_be_written_keeps_its_count)
{
    refused = true;
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    repeats_add(LOG_INFO, "a refusal", NOW + MINUTE, say);
    refused = false;
    repeats_add(LOG_INFO, "a refusal", NOW + 2 * MINUTE, say);
    expect_said("<6>a refusal (3 times in 60 seconds)");
}
END_TEST

static void spoil(const char *bytes, size_t size)
{
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    said_count = 0;
    scratch_write(scratch_path("repeats"), bytes, size);
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    expect_said("<6>a refusal");
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    expect_silence();
}

START_TEST(a_file_that_was_emptied_or_overwritten_is_started_again)
{
    char noise[1 << 14];
    memset(noise, 0xff, sizeof noise);
    spoil("", 0);
    spoil(noise, sizeof noise);
    spoil("repeats1", 8);
}
END_TEST

/* The counts may have any value, but a text has an end, and a priority is a valid one. */
START_TEST(any_bytes_behind_a_valid_magic_do_no_harm)
{
    static const uint8_t bytes[] = {0xff, 0x7f, 0x80, 0x01};
    char noise[1 << 14];
    memset(noise, bytes[_i], sizeof noise);
    memcpy(noise, "repeats1", 8);
    scratch_write(scratch_path("repeats"), noise, sizeof noise);
    (void)repeats_write_due(true, NOW, say);
    ck_assert_uint_gt(said_count, REPEATS_KINDS);
    for (size_t i = 0; i < said_count; i++) {
        char priority = (char)('0' + (bytes[_i] & LOG_PRIMASK));
        ck_assert_uint_lt(strlen(said[i]), 512);
        ck_assert_int_eq(said[i][1], strstr(said[i], "were lost") != NULL ? '4' : priority);
    }
}
END_TEST

START_TEST(without_a_file_a_process_counts_its_own_lines)
{
    ck_assert_int_lt(repeats_share(scratch_path("missing/repeats")), 0);
    ck_assert_int_eq(mkfifo(scratch_path("fifo"), 0600), 0);
    ck_assert_int_lt(repeats_share(scratch_path("fifo")), 0);
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    expect_said("<6>a refusal");
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    expect_silence();
    (void)repeats_write_due(true, NOW, say);
    expect_said("<6>a refusal");
}
END_TEST

START_TEST(a_full_file_system_is_noticed_when_the_file_is_made)
{
    scratch_limit_files(100);
    ck_assert_int_lt(repeats_share(scratch_path("another")), 0);
    scratch_limit_files(RLIM_INFINITY);
    repeats_add(LOG_INFO, "a refusal", NOW, say);
    expect_said("<6>a refusal");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("repeats");
    TCase *tests = tcase_create("lines that repeat");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(
        tests, the_first_line_is_written_at_once_and_the_others_a_minute_later_with_their_count);
    tcase_add_test(tests, a_sum_is_written_when_it_is_due_and_not_twice);
    tcase_add_test(tests, a_process_without_a_log_leaves_its_lines_to_the_others);
    tcase_add_test(tests, a_sum_of_less_than_a_second_names_no_time);
    tcase_add_test(tests, at_the_end_all_sums_are_written);
    tcase_add_test(tests, each_text_has_its_own_count);
    tcase_add_test(tests, texts_that_find_no_place_are_counted_together);
    tcase_add_test(tests, lines_counted_without_the_lock_are_written_once_it_is_free);
    tcase_add_test(tests, processes_that_share_a_file_count_together);
    tcase_add_test(tests, a_process_that_dies_while_it_counts_delays_no_other);
    tcase_add_test(tests, a_process_that_cannot_have_the_lock_tries_again_in_a_second);
    tcase_add_test(tests, lost_lines_are_reported_once_lines_can_be_written);
    tcase_add_test(tests, a_sum_that_could_not_be_written_keeps_its_count);
    tcase_add_test(tests, a_file_that_was_emptied_or_overwritten_is_started_again);
    tcase_add_loop_test(tests, any_bytes_behind_a_valid_magic_do_no_harm, 0, 4);
    tcase_add_test(tests, without_a_file_a_process_counts_its_own_lines);
    tcase_add_test(tests, a_full_file_system_is_noticed_when_the_file_is_made);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
