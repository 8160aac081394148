/* The terms of a connection: which of them agree, and which are refused. */
#include "setup/terms.h"
#include "suite.h"

#include <check.h>

static struct options options;

static void set_up(void)
{
    options = (struct options){
        .wait_timeout = 86400, .linger = 30, .idle_timeout = 30, .usage = {.log_fd = -1}};
}

START_TEST(terms_of_equal_options_agree_whenever_they_were_set)
{
    struct terms a = terms_of(&options), b = terms_of(&options);
    ck_assert_int_gt(a.since, 0);
    ck_assert_int_ge(b.since, a.since);
    ck_assert(terms_agree(&a, &b));
    ck_assert(terms_are_sound(&a));
}
END_TEST

/* Each case changes another option. */
static void change(int number)
{
    switch (number) {
    case 0:
        options.wait_timeout = 1;
        break;
    case 1:
        options.linger = 0;
        break;
    case 2:
        options.idle_timeout = 0;
        break;
    case 3:
        options.session_bytes = 1;
        break;
    case 4:
        options.debug = true;
        break;
    case 5:
        options.usage.database = "/a";
        break;
    default:
        options.usage.log_fd = 5;
        break;
    }
}

START_TEST(terms_differ_if_any_option_of_the_forwarder_differs)
{
    struct terms before = terms_of(&options);
    change(_i);
    struct terms after = terms_of(&options);
    ck_assert(!terms_agree(&before, &after));
    ck_assert(terms_are_sound(&after));
}
END_TEST

START_TEST(terms_differ_if_records_go_elsewhere_or_are_rounded_otherwise)
{
    struct terms none = terms_of(&options);
    options.usage.blur = 60;
    struct terms still_none = terms_of(&options);
    ck_assert(none.records == 0 && still_none.records == 0);
    options.usage.database = "/a";
    struct terms blurred = terms_of(&options);
    options.usage.blur = 0;
    struct terms exact = terms_of(&options);
    options.usage.database = "/b";
    struct terms elsewhere = terms_of(&options);
    ck_assert(blurred.records != exact.records && exact.records != elsewhere.records);
}
END_TEST

START_TEST(values_that_no_option_can_have_are_refused)
{
    struct terms terms = terms_of(&options);
    struct terms bad[] = {terms, terms, terms, terms, terms};
    bad[0].wait_timeout = 0;
    bad[1].linger = -1;
    bad[2].idle_timeout = INT32_MAX;
    bad[3].debug = 2;
    bad[4].wait_timeout = INT32_MIN;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ck_assert(!terms_are_sound(&bad[i]));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("terms");
    TCase *tests = tcase_create("terms");
    tcase_add_checked_fixture(tests, set_up, NULL);
    tcase_add_test(tests, terms_of_equal_options_agree_whenever_they_were_set);
    tcase_add_loop_test(tests, terms_differ_if_any_option_of_the_forwarder_differs, 0, 7);
    tcase_add_test(tests, terms_differ_if_records_go_elsewhere_or_are_rounded_otherwise);
    tcase_add_test(tests, values_that_no_option_can_have_are_refused);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
