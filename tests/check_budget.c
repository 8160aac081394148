/* The budget of memory for clients: its shares, its guarantees, and which client has to go. */
#include "base/budget.h"

#include "base/clock.h"
#include "suite.h"

#include <check.h>
#include <string.h>

enum {
    MANY = 2000,
    HOARD = 256 << 10,
    LEAST = 1 << 14,
    MOST = 1 << 20,
};

static struct budget_account accounts[MANY], other;

static void setup(void)
{
    memset(accounts, 0, sizeof accounts);
    memset(&other, 0, sizeof other);
}

static void open_account(struct budget_account *account, enum budget_share share, size_t size)
{
    account->share = share;
    budget_take(account, size);
}

static void give_all(struct budget_account *account)
{
    budget_give(account, account->held);
}

static void teardown(void)
{
    for (size_t i = 0; i < MANY; i++)
        give_all(&accounts[i]);
    give_all(&other);
    for (enum budget_share share = 0; share < BUDGET_SHARES; share++)
        ck_assert_uint_eq(budget_used(share), 0);
    ck_assert_ptr_null(budget_debtor(clock_now()));
}

START_TEST(memory_of_one_share_takes_nothing_from_another)
{
    for (enum budget_share full = 0; full < BUDGET_SHARES; full++) {
        for (size_t i = 0; i < MANY; i++)
            open_account(&accounts[i], full, HOARD);
        for (enum budget_share share = 0; share < BUDGET_SHARES; share++)
            ck_assert_uint_eq(budget_allowance(share, LEAST, MOST), share == full ? LEAST : MOST);
        for (size_t i = 0; i < MANY; i++)
            give_all(&accounts[i]);
    }
}
END_TEST

START_TEST(an_allowance_falls_as_its_share_fills_but_not_below_its_guarantee)
{
    size_t before = MOST;
    for (size_t i = 0; i < MANY; i++) {
        open_account(&accounts[i], BUDGET_WAITING, HOARD);
        size_t allowance = budget_allowance(BUDGET_WAITING, LEAST, MOST);
        ck_assert_uint_le(allowance, before);
        ck_assert_uint_ge(allowance, LEAST);
        before = allowance;
    }
    ck_assert_uint_eq(before, LEAST);
}
END_TEST

START_TEST(a_client_that_meets_a_peer_moves_its_memory_to_the_new_share)
{
    open_account(&other, BUDGET_WAITING, HOARD);
    budget_move(&other, BUDGET_STREAMS);
    ck_assert_uint_eq(budget_used(BUDGET_WAITING), 0);
    ck_assert_uint_eq(budget_used(BUDGET_STREAMS), HOARD);
    budget_move(&other, BUDGET_STREAMS);
    ck_assert_uint_eq(budget_used(BUDGET_STREAMS), HOARD);
}
END_TEST

START_TEST(no_client_has_to_go_before_the_share_is_used_up_or_for_its_guarantee)
{
    open_account(&other, BUDGET_FRAMES, BUDGET_FRAMES_SIZE);
    ck_assert_ptr_null(budget_debtor(clock_now() + 1000));
    give_all(&other);
    for (size_t i = 0; i < MANY; i++)
        open_account(&accounts[i], BUDGET_FRAMES, BUDGET_FRAMES_OWN);
    ck_assert_ptr_null(budget_debtor(clock_now() + 1000));
    open_account(&other, BUDGET_FRAMES, BUDGET_FRAMES_OWN + 1);
    ck_assert_ptr_eq(budget_debtor(clock_now() + 1000), &other);
    budget_give(&other, 1);
    ck_assert_ptr_null(budget_debtor(clock_now() + 1000));
}
END_TEST

START_TEST(a_client_that_held_memory_for_long_goes_before_one_that_holds_more_since_now)
{
    size_t count = BUDGET_FRAMES_SIZE / MOST;
    int64_t now = clock_now();
    for (size_t i = 0; i < count; i++) {
        open_account(&accounts[i], BUDGET_FRAMES, MOST);
        accounts[i].since = now - 1000;
    }
    open_account(&other, BUDGET_FRAMES, 16 * MOST);
    other.since = now;
    for (size_t i = 0; i < 16; i++) {
        struct budget_account *debtor = budget_debtor(now);
        ck_assert_ptr_nonnull(debtor);
        ck_assert_ptr_ne(debtor, &other);
        give_all(debtor);
    }
    ck_assert_ptr_null(budget_debtor(now));
}
END_TEST

START_TEST(a_debt_younger_than_the_time_given_has_lasted_for_no_time)
{
    int64_t now = clock_now();
    open_account(&accounts[0], BUDGET_FRAMES, BUDGET_FRAMES_SIZE);
    open_account(&other, BUDGET_FRAMES, MOST);
    accounts[0].since = now;
    other.since = now + 100;
    ck_assert_ptr_eq(budget_debtor(now), &accounts[0]);
}
END_TEST

START_TEST(of_clients_of_the_same_time_the_largest_goes_first)
{
    int64_t now = clock_now();
    open_account(&other, BUDGET_FRAMES, MOST);
    for (size_t i = 0; i < 3; i++) {
        open_account(&accounts[i], BUDGET_FRAMES, BUDGET_FRAMES_SIZE / 3 - i * MOST);
        accounts[i].since = now;
    }
    open_account(&accounts[3], BUDGET_FRAMES, 3 * MOST);
    other.since = accounts[3].since = now;
    ck_assert_ptr_eq(budget_debtor(now + 10), &accounts[0]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("budget");
    TCase *test_case = tcase_create("all");
    tcase_add_checked_fixture(test_case, setup, teardown);
    tcase_add_test(test_case, memory_of_one_share_takes_nothing_from_another);
    tcase_add_test(test_case, an_allowance_falls_as_its_share_fills_but_not_below_its_guarantee);
    tcase_add_test(test_case, a_client_that_meets_a_peer_moves_its_memory_to_the_new_share);
    tcase_add_test(test_case, no_client_has_to_go_before_the_share_is_used_up_or_for_its_guarantee);
    tcase_add_test(
        test_case, a_client_that_held_memory_for_long_goes_before_one_that_holds_more_since_now);
    tcase_add_test(test_case, a_debt_younger_than_the_time_given_has_lasted_for_no_time);
    tcase_add_test(test_case, of_clients_of_the_same_time_the_largest_goes_first);
    suite_add_tcase(suite, test_case);
    return run_suite(suite);
}
