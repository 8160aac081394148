/* Usage records: what is rounded and how, and lines as existing programs read them. */
#include "base/clock.h"
#include "suite.h"
#include "usage/usage.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void expect_line(const struct usage_record *record, const char *expected)
{
    char line[256];
    ck_assert_int_eq(usage_format(record, line, sizeof line), (int)strlen(expected));
    ck_assert_str_eq(line, expected);
}

/* ---- blurring -------------------------------------------------------------------- */

START_TEST(sizes_are_rounded_up_by_their_magnitude)
{
    static const struct {
        uint64_t exact, blurred;
    } sizes[] = {
        {0, 0}, {1, 10000}, {9999, 10000}, {10000, 10000}, {10001, 20000}, {990000, 990000},
        {990001, 1000000}, {999999, 1000000}, {1000000, 1000000}, {1000001, 2000000},
        {999000000, 999000000}, {999000001, 1000000000}, {1000000000, 1000000000},
        {1000000001, 1100000000}, {12345678901, 12400000000},
        {UINT64_MAX, UINT64_MAX}, /* cannot be rounded up */
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        ck_assert_uint_eq(usage_blur_bytes(sizes[i].exact), sizes[i].blurred);
}
END_TEST

START_TEST(opening_times_are_rounded_down)
{
    struct usage_record record = {.started = 123456789, .total_bytes = 1};
    usage_blur(&record, 60);
    ck_assert_int_eq(record.started, 120000000);
    ck_assert_uint_eq(record.total_bytes, 10000);
    usage_blur(&record, 60);
    ck_assert_int_eq(record.started, 120000000);
}
END_TEST

START_TEST(durations_are_not_blurred)
{
    struct usage_record record = {.total_time = 1234567, .waiting_time = 7654321};
    usage_blur(&record, 3600);
    ck_assert_int_eq(record.total_time, 1234567);
    ck_assert_int_eq(record.waiting_time, 7654321);
}
END_TEST

START_TEST(without_blur_a_record_stays_exact)
{
    struct usage_record record = {.started = 123456789, .total_bytes = 12345};
    usage_blur(&record, 0);
    ck_assert_int_eq(record.started, 123456789);
    ck_assert_uint_eq(record.total_bytes, 12345);
}
END_TEST

/* ---- lines ----------------------------------------------------------------------- */

START_TEST(a_pair_is_a_line_of_five_keys)
{
    struct usage_record record = {
        .started = 1500000,
        .total_time = 2500000,
        .waiting_time = 500000,
        .total_bytes = 20,
        .outcome = PAIR_HAPPY,
    };
    expect_line(&record, "{\"started\": 1.5, \"total_time\": 2.5, \"waiting_time\": 0.5, "
                         "\"total_bytes\": 20, \"mood\": \"happy\"}\n");
}
END_TEST

START_TEST(a_connection_without_a_peer_has_a_waiting_time_of_null)
{
    struct usage_record record = {.waiting_time = -1, .outcome = PAIR_LONELY};
    expect_line(&record, "{\"started\": 0.0, \"total_time\": 0.0, \"waiting_time\": null, "
                         "\"total_bytes\": 0, \"mood\": \"lonely\"}\n");
}
END_TEST

START_TEST(times_have_one_to_six_decimals)
{
    struct usage_record record = {
        .started = 1700000000000001,
        .total_time = 10000000,
        .waiting_time = 1,
        .total_bytes = UINT64_MAX,
        .outcome = PAIR_ERRORY,
    };
    expect_line(&record,
        "{\"started\": 1700000000.000001, \"total_time\": 10.0, \"waiting_time\": "
        "0.000001, \"total_bytes\": 18446744073709551615, \"mood\": \"errory\"}\n");
}
END_TEST

START_TEST(a_line_that_does_not_fit_is_refused)
{
    char line[256];
    struct usage_record record = {.outcome = PAIR_HAPPY};
    int length = usage_format(&record, line, sizeof line);
    ck_assert_int_gt(length, 0);
    ck_assert_int_eq(usage_format(&record, line, (size_t)length), -ENOSPC);
    ck_assert_int_eq(usage_format(&record, line, (size_t)length + 1), length);
}
END_TEST

START_TEST(moods_are_those_that_existing_readers_know)
{
    static const char *const moods[PAIR_OUTCOMES] = {
        [PAIR_HAPPY] = "happy",
        [PAIR_LONELY] = "lonely",
        [PAIR_ERRORY] = "errory",
        [PAIR_IMPATIENT] = "impatient",
        [PAIR_REDUNDANT] = "redundant",
        [PAIR_EMPTY] = "empty",
        [PAIR_FULL] = "errory",
        [PAIR_SOURCE] = "errory",
        [PAIR_SERVED] = "errory", /* not recorded */
    };
    for (int outcome = 0; outcome < PAIR_OUTCOMES; outcome++)
        ck_assert_str_eq(usage_mood((enum pair_outcome)outcome), moods[outcome]);
}
END_TEST

/* ---- making ---------------------------------------------------------------------- */

/* A connection of so many microseconds ago; the clock was set forward by `step` since. */
static struct usage_start ago(int64_t time, int64_t step)
{
    return (struct usage_start){clock_epoch() - time - step, clock_steady() - time};
}

START_TEST(a_pair_starts_with_its_earlier_connection)
{
    for (int swapped = 0; swapped < 2; swapped++) {
        struct usage_start first = ago(5000000, 0), second = first;
        second.opened += 3000000;
        second.since += 3000000;
        struct usage_record record =
            swapped ? usage_pair(second, first, 42) : usage_pair(first, second, 42);
        ck_assert_int_eq(record.started, first.opened);
        ck_assert_int_eq(record.waiting_time, 3000000);
        ck_assert_int_ge(record.total_time, 5000000);
        ck_assert_uint_eq(record.total_bytes, 42);
        ck_assert_uint_eq(record.outcome, PAIR_HAPPY);
    }
}
END_TEST

START_TEST(setting_the_clock_changes_no_duration)
{
    static const int64_t steps[] = {-3600000000, 3600000000};
    for (int i = 0; i < 2; i++) {
        struct usage_start before = ago(5000000, steps[i]), after = ago(2000000, 0);
        struct usage_record pair = usage_pair(before, after, 0);
        struct usage_record single = usage_single(before, PAIR_LONELY);
        ck_assert_int_eq(pair.started, before.opened);
        ck_assert_int_ge(pair.waiting_time, 2900000);
        ck_assert_int_le(pair.waiting_time, 3100000);
        ck_assert_int_ge(single.total_time, 5000000);
        ck_assert_int_lt(single.total_time, 3600000000);
    }
}
END_TEST

START_TEST(without_the_steady_time_no_duration_is_negative_or_huge)
{
    int64_t now = clock_epoch();
    ck_assert_int_ge(usage_single(usage_start_of(now + 3600000000, 0), PAIR_EMPTY).total_time, 0);
    int64_t time = usage_single(usage_start_of(now - 3600000000, 0), PAIR_EMPTY).total_time;
    ck_assert_int_ge(time, 0);
    ck_assert_int_lt(time, 3600000000);
}
END_TEST

START_TEST(the_age_of_a_connection_does_not_depend_on_a_clock_that_is_set)
{
    static const int64_t steps[] = {-3600000000, -30000000, 0, 30000000, 3600000000};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        int64_t before = clock_steady();
        int64_t opened = clock_epoch() - 5000000 + steps[i];
        struct usage_start start = usage_start_of(opened, before - 5000000);
        ck_assert_int_eq(start.opened, opened);
        ck_assert_int_eq(start.since, before - 5000000);
    }
    int64_t later = clock_steady() + 3600000000;
    ck_assert_int_le(usage_start_of(1, later).since, clock_steady());
}
END_TEST

START_TEST(a_record_is_sent_whole_or_not_at_all)
{
    int ends[2];
    struct usage_record sent = usage_single(usage_start_now(), PAIR_EMPTY), received;
    ck_assert_int_eq(pipe2(ends, O_NONBLOCK), 0);
    ck_assert_int_eq(usage_send(ends[1], &sent), 0);
    ck_assert_int_eq(read(ends[0], &received, sizeof received), (ssize_t)sizeof received);
    ck_assert_mem_eq(&sent, &received, sizeof sent);
    int count = 0, error;
    while ((error = usage_send(ends[1], &sent)) == 0)
        count++;
    ck_assert_int_eq(error, -EAGAIN);
    for (int i = 0; i < count; i++)
        ck_assert_int_eq(read(ends[0], &received, sizeof received), (ssize_t)sizeof received);
    ck_assert_int_eq(read(ends[0], &received, sizeof received), -1);
    (void)signal(SIGPIPE, SIG_IGN);
    close(ends[0]);
    ck_assert_int_eq(usage_send(ends[1], &sent), -EPIPE);
    close(ends[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("usage");
    TCase *tests = tcase_create("records");
    tcase_add_test(tests, sizes_are_rounded_up_by_their_magnitude);
    tcase_add_test(tests, opening_times_are_rounded_down);
    tcase_add_test(tests, durations_are_not_blurred);
    tcase_add_test(tests, without_blur_a_record_stays_exact);
    tcase_add_test(tests, a_pair_is_a_line_of_five_keys);
    tcase_add_test(tests, a_connection_without_a_peer_has_a_waiting_time_of_null);
    tcase_add_test(tests, times_have_one_to_six_decimals);
    tcase_add_test(tests, a_line_that_does_not_fit_is_refused);
    tcase_add_test(tests, moods_are_those_that_existing_readers_know);
    tcase_add_test(tests, a_pair_starts_with_its_earlier_connection);
    tcase_add_test(tests, setting_the_clock_changes_no_duration);
    tcase_add_test(tests, without_the_steady_time_no_duration_is_negative_or_huge);
    tcase_add_test(tests, the_age_of_a_connection_does_not_depend_on_a_clock_that_is_set);
    tcase_add_test(tests, a_record_is_sent_whole_or_not_at_all);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
