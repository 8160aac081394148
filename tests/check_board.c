/* The board: it counts workers, and unfinished greetings share the workers fairly among sources.
 * The entries are this process's, which catches the signal that hurries a worker. */
#include "suite.h"
#include "worker/board.h"
#include "worker/pool.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

enum {
    WORKERS = 8,
    HOLDERS = WORKERS / 2, /* workers that unfinished greetings may hold */
    LONG_AGO = 10000,      /* milliseconds */
};

static struct board *board;
static volatile sig_atomic_t hurried;

static void note_hurry(int signal)
{
    (void)signal;
    hurried++;
}

static void make_older(size_t worker, int64_t milliseconds)
{
    atomic_fetch_sub(&board->workers[worker].since, milliseconds);
}

/* All connections have come in the future, so that none is old however slow this machine is. */
static void make(void)
{
    struct sigaction action = {.sa_handler = note_hurry};
    ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
    hurried = 0;
    board = board_make(WORKERS);
    ck_assert_ptr_nonnull(board);
    for (size_t i = 0; i < WORKERS; i++) {
        struct board_entry *entry = &board->workers[i];
        atomic_store(&entry->pid, (int32_t)getpid());
        atomic_store(&entry->visit, 1);
        board_set_state(entry, WORKER_BUSY);
        make_older(i, -LONG_AGO);
    }
}

static int hold(size_t worker, uint64_t source)
{
    return board_hold(board, &board->workers[worker], source);
}

static bool has_to_give_way(size_t worker)
{
    const struct board_entry *entry = &board->workers[worker];
    return atomic_load(&entry->hurried) == atomic_load(&entry->visit);
}

START_TEST(workers_are_counted_by_their_state)
{
    board_set_state(&board->workers[2], WORKER_IDLE);
    board_set_state(&board->workers[5], WORKER_IDLE);
    board_set_state(&board->workers[6], WORKER_NONE);
    ck_assert_uint_eq(board_count(board, WORKER_IDLE), 2);
    ck_assert_uint_eq(board_count(board, WORKER_BUSY), WORKERS - 3);
    ck_assert(board_has_idle(board, 2));
    ck_assert(!board_has_idle(board, 3));
}
END_TEST

START_TEST(a_worker_is_found_by_its_process_id)
{
    atomic_store(&board->workers[3].pid, 1);
    ck_assert_ptr_eq(board_find(board, 1), &board->workers[3]);
    ck_assert_ptr_null(board_find(board, 2));
}
END_TEST

START_TEST(the_slowest_connection_gives_way)
{
    make_older(4, 3 * LONG_AGO);
    make_older(5, 2 * LONG_AGO);
    board_hurry_slowest(board);
    ck_assert(has_to_give_way(4));
    ck_assert(!has_to_give_way(5));
    ck_assert_int_eq(hurried, 1);
}
END_TEST

START_TEST(a_connection_that_came_just_now_does_not_give_way)
{
    board_hurry_slowest(board);
    ck_assert_int_eq(hurried, 0);
}
END_TEST

START_TEST(unfinished_greetings_hold_half_of_the_workers)
{
    for (size_t i = 0; i < HOLDERS; i++)
        ck_assert_int_eq(hold(i, 1 + i), 0);
    ck_assert_int_eq(hold(HOLDERS, 100), -EAGAIN);
    ck_assert_int_eq(hurried, 0);
}
END_TEST

START_TEST(a_greeting_that_has_held_its_worker_for_long_gives_way)
{
    for (size_t i = 0; i < HOLDERS; i++)
        ck_assert_int_eq(hold(i, 1 + i), 0);
    make_older(2, 2 * LONG_AGO);
    ck_assert_int_eq(hold(HOLDERS, 100), 0);
    ck_assert(has_to_give_way(2));
    ck_assert_int_eq(hurried, 1);
}
END_TEST

START_TEST(a_source_that_holds_more_workers_gives_way_at_once)
{
    for (size_t i = 0; i < HOLDERS; i++)
        ck_assert_int_eq(hold(i, 1), 0);
    ck_assert_int_eq(hold(HOLDERS, 2), 0);
    ck_assert_int_eq(hurried, 1);
}
END_TEST

START_TEST(a_worker_that_takes_its_next_connection_is_held_no_more)
{
    for (size_t i = 0; i < HOLDERS; i++)
        ck_assert_int_eq(hold(i, 1 + i), 0);
    board_set_state(&board->workers[0], WORKER_BUSY);
    ck_assert_int_eq(hold(HOLDERS, 100), 0);
    ck_assert_int_eq(hurried, 0);
}
END_TEST

START_TEST(a_worker_that_was_killed_is_held_no_more)
{
    struct server server = {.board = board};
    for (size_t i = 0; i < HOLDERS; i++)
        ck_assert_int_eq(hold(i, 1 + i), 0);
    atomic_store(&board->workers[1].pid, 1);
    ck_assert(pool_note_end(&server, 1, SIGKILL));
    ck_assert_int_eq(hold(HOLDERS, 100), 0);
    ck_assert_int_eq(hurried, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("board");
    TCase *tests = tcase_create("board");
    tcase_add_checked_fixture(tests, make, NULL);
    tcase_add_test(tests, workers_are_counted_by_their_state);
    tcase_add_test(tests, a_worker_is_found_by_its_process_id);
    tcase_add_test(tests, the_slowest_connection_gives_way);
    tcase_add_test(tests, a_connection_that_came_just_now_does_not_give_way);
    tcase_add_test(tests, unfinished_greetings_hold_half_of_the_workers);
    tcase_add_test(tests, a_greeting_that_has_held_its_worker_for_long_gives_way);
    tcase_add_test(tests, a_source_that_holds_more_workers_gives_way_at_once);
    tcase_add_test(tests, a_worker_that_takes_its_next_connection_is_held_no_more);
    tcase_add_test(tests, a_worker_that_was_killed_is_held_no_more);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
