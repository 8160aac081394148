/* The runtime directory: it can be used as soon as it is there, whichever process has made it, and
 * however many try at once. */
#include "setup/runtime.h"
#include "suite.h"

#include <check.h>
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PROCESSES = 8,
    ROUNDS = 50
};

static char parent[64], directory[96];
static struct options options;
static uid_t owner;

static void set_up(void)
{
    strcpy(parent, "/tmp/check-runtime-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(parent));
    ck_assert_int_eq(chmod(parent, 0755), 0);
    (void)snprintf(directory, sizeof directory, "%s/run", parent);
    options = (struct options){.runtime_directory = directory};
    owner = geteuid();
    if (owner == 0) {
        const struct passwd *nobody = getpwnam("nobody");
        ck_assert_ptr_nonnull(nobody);
        options.user = "nobody";
        owner = nobody->pw_uid;
    }
}

/* Fails if anything else is left in the parent directory. */
static void tear_down(void)
{
    (void)rmdir(directory);
    ck_assert_int_eq(rmdir(parent), 0);
}

static bool is_usable(void)
{
    struct stat status;
    return stat(directory, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == owner &&
           (status.st_mode & 0777) == 0700;
}

START_TEST(the_directory_is_made_for_the_user_that_root_becomes)
{
    struct runtime runtime;
    char expected[128];
    ck_assert_int_eq(runtime_prepare(&options, &runtime), 0);
    ck_assert(is_usable());
    (void)snprintf(expected, sizeof expected, "%s/table", directory);
    ck_assert_str_eq(runtime.table, expected);
    ck_assert_int_eq(
        runtime_prepare(&options, &runtime), 0); /* the second time it is there already */
}
END_TEST

START_TEST(a_path_may_end_with_a_slash)
{
    struct runtime runtime;
    strcat(directory, "/");
    ck_assert_int_eq(runtime_prepare(&options, &runtime), 0);
    ck_assert(is_usable());
}
END_TEST

START_TEST(of_processes_that_make_it_at_once_each_finds_it_usable)
{
    for (int round = 0; round < ROUNDS; round++) {
        int start[2], failed = 0, status;
        char byte;
        ck_assert_int_eq(pipe(start), 0);
        for (int i = 0; i < PROCESSES; i++) {
            struct runtime runtime;
            pid_t child = fork();
            ck_assert_int_ge(child, 0);
            if (child > 0)
                continue;
            close(start[1]);
            (void)!read(start[0], &byte, 1); /* all start when the other end is closed */
            _exit(runtime_prepare(&options, &runtime) == 0 && is_usable() ? 0 : 1);
        }
        close(start[0]);
        close(start[1]);
        for (int i = 0; i < PROCESSES; i++) {
            ck_assert_int_ge(waitpid(-1, &status, 0), 0);
            failed += status != 0;
        }
        ck_assert_int_eq(failed, 0);
        ck_assert_int_eq(rmdir(directory), 0);
    }
}
END_TEST

START_TEST(a_directory_that_others_may_write_to_is_refused)
{
    struct runtime runtime;
    ck_assert_int_eq(mkdir(directory, 0700), 0);
    ck_assert_int_eq(chmod(directory, 0770), 0);
    ck_assert_int_eq(runtime_prepare(&options, &runtime), -1);
    ck_assert_int_eq(chmod(directory, 0702), 0);
    ck_assert_int_eq(runtime_prepare(&options, &runtime), -1);
}
END_TEST

START_TEST(a_link_or_a_file_in_its_place_is_refused)
{
    struct runtime runtime;
    ck_assert_int_eq(symlink("/tmp", directory), 0);
    ck_assert_int_eq(runtime_prepare(&options, &runtime), -1);
    ck_assert_int_eq(unlink(directory), 0);
    FILE *file = fopen(directory, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(runtime_prepare(&options, &runtime), -1);
    ck_assert_int_eq(unlink(directory), 0);
}
END_TEST

START_TEST(the_directory_is_not_made_without_its_parent)
{
    struct runtime runtime;
    strcat(directory, "/deeper");
    ck_assert_int_eq(runtime_prepare(&options, &runtime), -1);
}
END_TEST

START_TEST(a_path_that_is_too_long_for_its_sockets_is_refused)
{
    struct runtime runtime;
    char name[200];
    memset(name, 'x', sizeof name);
    name[0] = '/';
    name[sizeof name - 1] = '\0';
    options.runtime_directory = name;
    ck_assert_int_eq(runtime_paths(&options, &runtime), -1);
}
END_TEST

START_TEST(a_lock_is_held_until_its_descriptor_is_closed)
{
    struct runtime runtime;
    ck_assert_int_eq(runtime_prepare(&options, &runtime), 0);
    int shared = runtime_lock(runtime.users_lock, true, false);
    int other = runtime_lock(runtime.users_lock, true, false);
    ck_assert_int_ge(shared, 0);
    ck_assert_int_ge(other, 0);
    ck_assert_int_eq(runtime_lock(runtime.users_lock, false, false), -EWOULDBLOCK);
    close(shared);
    ck_assert_int_eq(runtime_lock(runtime.users_lock, false, false), -EWOULDBLOCK);
    close(other);
    int alone = runtime_lock(runtime.users_lock, false, false);
    ck_assert_int_ge(alone, 0);
    close(alone);
    ck_assert_int_eq(unlink(runtime.users_lock), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("runtime");
    TCase *tests = tcase_create("directory");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, the_directory_is_made_for_the_user_that_root_becomes);
    tcase_add_test(tests, a_path_may_end_with_a_slash);
    tcase_add_test(tests, of_processes_that_make_it_at_once_each_finds_it_usable);
    tcase_add_test(tests, a_directory_that_others_may_write_to_is_refused);
    tcase_add_test(tests, a_link_or_a_file_in_its_place_is_refused);
    tcase_add_test(tests, the_directory_is_not_made_without_its_parent);
    tcase_add_test(tests, a_path_that_is_too_long_for_its_sockets_is_refused);
    tcase_add_test(tests, a_lock_is_held_until_its_descriptor_is_closed);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
