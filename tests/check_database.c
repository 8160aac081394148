/* The usage database while other programs use the same file: a write that fails leaves nothing
 * behind, and succeeds later. */
#include "scratch.h"
#include "suite.h"
#include "usage/database.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    NOBODY = 65534
};

static const struct usage_record records[] = {
    {.started = 1500000, .total_time = 2000000, .waiting_time = 500000, .total_bytes = 7},
    {.started = 2000000, .total_time = 1, .waiting_time = -1, .outcome = PAIR_LONELY},
};

static const struct database_current current = {1, 2, 3, 4, 5};

static struct database database;
static sqlite3 *other; /* another program's connection to the database */
static char path[128];

static void run_other(const char *statement)
{
    ck_assert_int_eq(sqlite3_exec(other, statement, NULL, NULL, NULL), SQLITE_OK);
}

static void open_other(const char *file)
{
    ck_assert_int_eq(sqlite3_open_v2(file, &other, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
}

static void close_other(void)
{
    ck_assert_int_eq(sqlite3_close(other), SQLITE_OK);
    other = NULL;
}

static void set_up(void)
{
    scratch_set_up();
    ck_assert_int_eq(chmod(scratch_directory, 0777), 0);
    (void)snprintf(path, sizeof path, "%s/usage", scratch_directory);
    database = (struct database){.path = path};
}

static void tear_down(void)
{
    database_close(&database);
    if (other != NULL)
        close_other();
    scratch_tear_down();
}

static int write_records(void)
{
    return database_write(&database, records, 2, &current);
}

/* How many records a new reader, which does not wait, finds in a file. */
static int count_in(const char *file)
{
    sqlite3 *reader;
    sqlite3_stmt *statement;
    ck_assert_int_eq(sqlite3_open_v2(file, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    ck_assert_int_eq(
        sqlite3_prepare_v2(reader, "SELECT count(*) FROM usage", -1, &statement, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(statement), SQLITE_ROW);
    int count = sqlite3_column_int(statement, 0);
    (void)sqlite3_finalize(statement);
    (void)sqlite3_close(reader);
    return count;
}

static void expect_reason(const char *words)
{
    ck_assert_msg(
        strstr(database.reason, words) != NULL, "expected \"%s\" in: %s", words, database.reason);
}

/* ---- writing --------------------------------------------------------------------- */

START_TEST(records_are_written_to_a_new_file_that_only_its_user_may_read)
{
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(count_in(path), 4);
    scratch_expect_mode(path, 0600);
}
END_TEST

START_TEST(while_another_program_reads_nothing_is_written_and_new_readers_may_begin)
{
    ck_assert_int_eq(write_records(), 0);
    open_other(path);
    run_other("BEGIN; SELECT * FROM usage");
    for (int i = 0; i < 3; i++) {
        ck_assert(database_is_busy(write_records()));
        ck_assert_int_eq(count_in(path), 2);
    }
    run_other("COMMIT");
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(count_in(path), 4);
}
END_TEST

START_TEST(while_another_program_writes_nothing_is_written)
{
    ck_assert_int_eq(write_records(), 0);
    open_other(path);
    run_other("BEGIN EXCLUSIVE");
    ck_assert(database_is_busy(write_records()));
    database_close(&database);
    ck_assert(database_is_busy(write_records())); /* the file cannot even be opened */
    run_other("COMMIT");
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(count_in(path), 4);
}
END_TEST

START_TEST(a_file_that_was_moved_away_or_removed_is_made_again)
{
    const char *moved = scratch_path("moved");
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(rename(path, moved), 0);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(count_in(moved), 2);
    ck_assert_int_eq(count_in(path), 2);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(count_in(path), 2);
}
END_TEST

START_TEST(another_file_in_its_place_is_written_to)
{
    const char *backup = scratch_path("backup");
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(rename(path, backup), 0);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(rename(backup, path), 0);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(count_in(path), 4);
}
END_TEST

START_TEST(a_file_that_was_emptied_is_filled_again)
{
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(truncate(path, 0), 0);
    for (int i = 0; i < 2 && write_records() != 0; i++)
        continue;
    ck_assert_int_eq(count_in(path), 2);
}
END_TEST

START_TEST(a_file_that_is_overwritten_is_refused_until_it_is_removed)
{
    static const char junk[8192] = "no database";
    ck_assert_int_eq(write_records(), 0);
    scratch_write(path, junk, sizeof junk);
    ck_assert_int_ne(write_records(), 0);
    ck_assert_int_eq(write_records() & 0xff, SQLITE_NOTADB);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(count_in(path), 2);
}
END_TEST

START_TEST(on_a_full_disk_nothing_is_written_until_there_is_room)
{
    ck_assert_int_eq(write_records(), 0);
    scratch_limit_files(1);
    ck_assert_int_ne(write_records(), 0);
    ck_assert_int_ne(write_records(), 0);
    scratch_limit_files(RLIM_INFINITY);
    ck_assert_int_eq(count_in(path), 2);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(count_in(path), 4);
}
END_TEST

START_TEST(the_reason_names_the_owner_of_a_file_that_may_not_be_written)
{
    if (geteuid() != 0)
        return; /* only root can test with two owners */
    ck_assert_int_eq(write_records(), 0);
    database_close(&database);
    for (mode_t mode = 0600; mode <= 0644; mode += 044) {
        ck_assert_int_eq(chmod(path, mode), 0);
        ck_assert_int_eq(seteuid(NOBODY), 0);
        ck_assert_int_ne(write_records(), 0);
        ck_assert_int_eq(seteuid(0), 0);
        expect_reason("the file belongs to user root and has mode 06");
        expect_reason("this process is user nobody");
    }
    ck_assert_int_eq(chown(path, NOBODY, NOBODY), 0);
    ck_assert_int_eq(seteuid(NOBODY), 0);
    ck_assert_int_eq(write_records(), 0);
    ck_assert_int_eq(seteuid(0), 0);
    ck_assert_int_eq(count_in(path), 4);
}
END_TEST

START_TEST(the_reason_names_the_owner_of_a_directory_that_may_not_be_written)
{
    if (geteuid() != 0)
        return;
    ck_assert_int_eq(chmod(scratch_directory, 0755), 0);
    ck_assert_int_eq(seteuid(NOBODY), 0);
    ck_assert_int_ne(write_records(), 0);
    ck_assert_int_eq(seteuid(0), 0);
    expect_reason("its directory belongs to user root and has mode 0755");
}
END_TEST

/* ---- other files ----------------------------------------------------------------- */

static void expect_refusal(const char *file, const char *words)
{
    database.path = file;
    ck_assert_int_ne(write_records(), 0);
    expect_reason(words);
}

START_TEST(a_file_that_is_no_usage_database_is_not_written_to)
{
    static const char junk[8192] = "no database";
    scratch_write(path, junk, sizeof junk);
    expect_refusal(path, "file is not a database");
    ck_assert_int_eq(truncate(path, 0), 0);
    open_other(path);
    run_other("CREATE TABLE something (word VARCHAR)");
    expect_refusal(path, "it is no usage database");
    run_other("CREATE TABLE version (version INTEGER); INSERT INTO version VALUES (1)");
    expect_refusal(path, "it is no usage database");
    run_other("UPDATE version SET version = 2");
    expect_refusal(path, "its version is 2, expected 1");
    expect_refusal(scratch_path("missing/usage"), "missing: No such file or directory");
    expect_refusal(scratch_directory, "unable to open");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("database");
    TCase *tests = tcase_create("database");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, records_are_written_to_a_new_file_that_only_its_user_may_read);
    tcase_add_test(tests, while_another_program_reads_nothing_is_written_and_new_readers_may_begin);
    tcase_add_test(tests, while_another_program_writes_nothing_is_written);
    tcase_add_test(tests, a_file_that_was_moved_away_or_removed_is_made_again);
    tcase_add_test(tests, another_file_in_its_place_is_written_to);
    tcase_add_test(tests, a_file_that_was_emptied_is_filled_again);
    tcase_add_test(tests, a_file_that_is_overwritten_is_refused_until_it_is_removed);
    tcase_add_test(tests, on_a_full_disk_nothing_is_written_until_there_is_room);
    tcase_add_test(tests, the_reason_names_the_owner_of_a_file_that_may_not_be_written);
    tcase_add_test(tests, the_reason_names_the_owner_of_a_directory_that_may_not_be_written);
    tcase_add_test(tests, a_file_that_is_no_usage_database_is_not_written_to);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
