/* The terms on which a connection is handed over: what agrees, and what is refused. */
#include "setup/terms.h"
#include "suite.h"

#include <check.h>

static struct options options;

static void set_up(void)
{
    options = (struct options){
        .wait_timeout = 86400, .linger = 30, .idle_timeout = 30, .usage = {.log_fd = -1}};
}

START_TEST(those_of_the_same_options_agree_whenever_they_were_set)
{
    struct terms a = terms_of(&options), b = terms_of(&options);
    ck_assert_int_gt(a.since, 0);
    ck_assert_int_ge(b.since, a.since);
    ck_assert(terms_agree(&a, &b));
    ck_assert(terms_are_sound(&a));
}
END_TEST

/* Each is another way to differ. */
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

START_TEST(any_other_option_of_the_forwarders_makes_them_differ)
{
    struct terms before = terms_of(&options);
    change(_i);
    struct terms after = terms_of(&options);
    ck_assert(!terms_agree(&before, &after));
    ck_assert(terms_are_sound(&after));
}
END_TEST

START_TEST(records_differ_by_where_they_go_and_by_how_they_are_blurred)
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

START_TEST(what_no_option_could_say_is_refused)
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
    tcase_add_test(tests, those_of_the_same_options_agree_whenever_they_were_set);
    tcase_add_loop_test(tests, any_other_option_of_the_forwarders_makes_them_differ, 0, 7);
    tcase_add_test(tests, records_differ_by_where_they_go_and_by_how_they_are_blurred);
    tcase_add_test(tests, what_no_option_could_say_is_refused);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
