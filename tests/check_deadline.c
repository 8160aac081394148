/* Deadlines: they expire in order, and can be moved and cleared at any place of their list. */
#include "forward/deadline.h"
#include "suite.h"

#include <check.h>
#include <stdlib.h>

enum {
    COUNT = 5,
    LENGTH = 100
};

static struct deadline deadlines[COUNT];
static struct deadline_list list;

/* Sets one deadline each millisecond, from 0 on. */
static void set_all(void)
{
    list = (struct deadline_list){.length = LENGTH};
    for (int i = 0; i < COUNT; i++) {
        deadlines[i] = (struct deadline){.list = NULL};
        deadline_set(&deadlines[i], &list, i);
    }
}

static void expect_expiry(int64_t now, int index)
{
    struct deadline *due = deadline_expired(&list, now);
    ck_assert_ptr_eq(due, index < 0 ? NULL : &deadlines[index]);
}

START_TEST(each_deadline_expires_once_when_its_time_has_come)
{
    for (int i = 0; i < COUNT; i++) {
        expect_expiry(LENGTH + i - 1, -1);
        ck_assert(deadline_is_set(&deadlines[i]));
        expect_expiry(LENGTH + i, i);
        ck_assert(!deadline_is_set(&deadlines[i]));
    }
    expect_expiry(INT64_MAX, -1);
}
END_TEST

START_TEST(overdue_deadlines_expire_in_their_order)
{
    for (int i = 0; i < COUNT; i++)
        expect_expiry(10 * LENGTH, i);
    expect_expiry(10 * LENGTH, -1);
}
END_TEST

START_TEST(another_length_holds_for_deadlines_that_are_set_and_keeps_their_order)
{
    deadline_set_length(&list, LENGTH / 2);
    ck_assert_int_eq(deadline_next(&list, -1), LENGTH / 2);
    deadline_set(&deadlines[0], &list, COUNT);
    for (int i = 1; i < COUNT; i++)
        expect_expiry(LENGTH / 2 + i, i);
    deadline_set_length(&list, 2 * LENGTH);
    expect_expiry(2 * LENGTH + COUNT - 1, -1);
    expect_expiry(2 * LENGTH + COUNT, 0);
}
END_TEST

START_TEST(any_deadline_can_be_cleared_and_the_others_stay)
{
    for (int cleared = 0; cleared < COUNT; cleared++) {
        set_all();
        deadline_clear(&deadlines[cleared]);
        ck_assert(!deadline_is_set(&deadlines[cleared]));
        deadline_clear(&deadlines[cleared]); /* a second time does no harm */
        for (int i = 0; i < COUNT; i++)
            if (i != cleared)
                expect_expiry(INT64_MAX, i);
        expect_expiry(INT64_MAX, -1);
    }
}
END_TEST

START_TEST(a_deadline_that_is_set_anew_is_the_last)
{
    for (int again = 0; again < COUNT; again++) {
        set_all();
        deadline_set(&deadlines[again], &list, 50);
        for (int i = 0; i < COUNT; i++)
            if (i != again)
                expect_expiry(LENGTH + 49, i);
        expect_expiry(LENGTH + 49, -1);
        expect_expiry(LENGTH + 50, again);
    }
}
END_TEST

START_TEST(a_deadline_moves_from_list_to_list)
{
    struct deadline_list other = {.length = 7};
    deadline_set(&deadlines[0], &other, 1000);
    expect_expiry(INT64_MAX, 1);
    ck_assert_ptr_null(deadline_expired(&other, 1006));
    ck_assert_ptr_eq(deadline_expired(&other, 1007), &deadlines[0]);
}
END_TEST

START_TEST(the_next_of_several_lists_is_the_earliest)
{
    struct deadline_list empty = {.length = 1};
    ck_assert_int_eq(deadline_next(&empty, -1), -1);
    ck_assert_int_eq(deadline_next(&empty, 5), 5);
    ck_assert_int_eq(deadline_next(&list, -1), LENGTH);
    ck_assert_int_eq(deadline_next(&list, LENGTH + 1), LENGTH);
    ck_assert_int_eq(deadline_next(&list, LENGTH - 1), LENGTH - 1);
    ck_assert_int_eq(deadline_next(&list, 0), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("deadline");
    TCase *tests = tcase_create("list");
    tcase_add_checked_fixture(tests, set_all, NULL);
    tcase_add_test(tests, each_deadline_expires_once_when_its_time_has_come);
    tcase_add_test(tests, overdue_deadlines_expire_in_their_order);
    tcase_add_test(tests, another_length_holds_for_deadlines_that_are_set_and_keeps_their_order);
    tcase_add_test(tests, any_deadline_can_be_cleared_and_the_others_stay);
    tcase_add_test(tests, a_deadline_that_is_set_anew_is_the_last);
    tcase_add_test(tests, a_deadline_moves_from_list_to_list);
    tcase_add_test(tests, the_next_of_several_lists_is_the_earliest);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
