/* Ticket files: their bytes are those that stmgr writes; and when no file is written. */
#include "scratch.h"
#include "suite.h"
#include "ticket.h"

#include <sys/wait.h>

#define ADDRESS "relay.example.org:1337"
#define RELAY_KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
#define APP_KEY "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8"
#define RELAY_PUBLIC "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"
#define APP_PUBLIC "Kay64UG8yvCyLhqU000LxzYeUm0L_hLIl5S8kyKWbdc"
#define TICKET_TEXT(address)                                                                       \
    "{\n  \"publicKey\": \"" RELAY_PUBLIC "\",\n  \"address\": \"" address "\"\n}"

static struct identity *relay, *app;

static struct identity *parse(const char *text)
{
    struct identity *identity;
    ck_assert_ptr_null(ident_parse(text, strlen(text), &identity));
    return identity;
}

static void set_up(void)
{
    scratch_set_up();
    relay = parse("{\"privateKey\":\"" RELAY_KEY "\"}");
    app = parse("{\"privateKey\":\"" APP_KEY "\"}");
}

static void tear_down(void)
{
    ident_free(relay);
    ident_free(app);
    scratch_tear_down();
}

/* The three kinds of file, for tests of all of them. */
static int write_kind(int kind, const char *path)
{
    struct ticket_permissions none = {false, false, false, false};
    if (kind == 0)
        return ticket_write(path, relay, ADDRESS);
    if (kind == 1)
        return ticket_write_app(path, app, &none);
    return ticket_write_node_entry(path, relay, app, ADDRESS);
}

enum {
    KINDS = 3
};

/* ---- what is written ------------------------------------------------------------- */

START_TEST(a_ticket_holds_public_key_and_address)
{
    ck_assert_int_eq(ticket_write(scratch_path("file"), relay, ADDRESS), 0);
    scratch_expect(scratch_path("file"), TICKET_TEXT(ADDRESS));
}
END_TEST

START_TEST(an_app_ticket_holds_public_key_and_any_permissions)
{
    for (unsigned int set = 0; set < 16; set++) {
        char expected[512];
        bool on[4] = {(set & 1) != 0, (set & 2) != 0, (set & 4) != 0, (set & 8) != 0};
        struct ticket_permissions permissions = {on[0], on[1], on[2], on[3]};
        (void)snprintf(expected, sizeof expected,
            "{\n  \"publicKey\": \"" APP_PUBLIC "\",\n  \"permissions\": {\n"
            "    \"routes\": %s,\n    \"buyer\": %s,\n    \"seller\": %s,\n    \"config\": %s\n"
            "  }\n}",
            on[0] ? "true" : "false", on[1] ? "true" : "false", on[2] ? "true" : "false",
            on[3] ? "true" : "false");
        ck_assert_int_eq(ticket_write_app(scratch_path("file"), app, &permissions), 0);
        scratch_expect(scratch_path("file"), expected);
        ck_assert_int_eq(scratch_files(true), 1);
    }
}
END_TEST

START_TEST(a_node_entry_holds_the_nodes_public_and_the_apps_private_key)
{
    ck_assert_int_eq(ticket_write_node_entry(scratch_path("file"), relay, app, ADDRESS), 0);
    scratch_expect(scratch_path("file"),
        "{\n  \"nodePublicKey\": \"" RELAY_PUBLIC "\",\n  \"nodeAddress\": \"" ADDRESS "\",\n"
        "  \"appPrivateKey\": \"" APP_KEY "\"\n}");
}
END_TEST

START_TEST(the_mode_of_a_ticket_follows_the_umask_and_only_its_owner_reads_a_node_entry)
{
    static const mode_t masks[] = {0, 027, 077, 0777}, public[] = {0644, 0640, 0600, 0600};
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        umask(masks[i]);
        for (int kind = 0; kind < KINDS; kind++) {
            ck_assert_int_eq(write_kind(kind, scratch_path("file")), 0);
            scratch_expect_mode(scratch_path("file"), kind == KINDS - 1 ? 0600 : public[i]);
            ck_assert_int_eq(scratch_files(true), 1);
        }
    }
}
END_TEST

START_TEST(an_address_may_be_any_string)
{
    static const char *const addresses[][2] = {
        {"", TICKET_TEXT("")},
        {"no port", TICKET_TEXT("no port")},
        {"[::1]:1337", TICKET_TEXT("[::1]:1337")},
        {"a/b", TICKET_TEXT("a/b")},
        {"a\"b\\c\n\t", TICKET_TEXT("a\\\"b\\\\c\\n\\t")},
        {"\xc3\xa9.example:1", TICKET_TEXT("\xc3\xa9.example:1")},
    };
    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        ck_assert_int_eq(ticket_write(scratch_path("file"), relay, addresses[i][0]), 0);
        scratch_expect(scratch_path("file"), addresses[i][1]);
        ck_assert_int_eq(scratch_files(true), 1);
    }
}
END_TEST

/* ---- when no file is written ----------------------------------------------------- */

START_TEST(an_address_has_256_bytes_at_most)
{
    char address[TICKET_ADDRESS_MAX + 2] = "";
    memset(address, 'a', TICKET_ADDRESS_MAX);
    ck_assert_int_eq(ticket_write(scratch_path("ticket"), relay, address), 0);
    ck_assert_int_eq(ticket_write_node_entry(scratch_path("entry"), relay, app, address), 0);
    ck_assert_int_eq(scratch_files(true), 2);
    address[TICKET_ADDRESS_MAX] = 'a';
    ck_assert_int_eq(ticket_write(scratch_path("ticket"), relay, address), -1);
    scratch_expect_line("an address of 257 bytes");
    ck_assert_int_eq(ticket_write_node_entry(scratch_path("entry"), relay, app, address), -1);
    scratch_expect_line("an address of 257 bytes");
    ck_assert_int_eq(scratch_files(false), 0);
}
END_TEST

START_TEST(an_address_that_is_not_utf_8_is_refused)
{
    ck_assert_int_eq(ticket_write(scratch_path("file"), relay, "\xff"), -1);
    scratch_expect_line("not UTF-8");
    ck_assert_int_eq(ticket_write_node_entry(scratch_path("file"), relay, app, "\xc3"), -1);
    scratch_expect_line("not UTF-8");
    ck_assert_int_eq(scratch_files(false), 0);
}
END_TEST

START_TEST(an_existing_file_is_never_overwritten)
{
    scratch_write(scratch_path("file"), "precious", 8);
    ck_assert_int_eq(symlink("nowhere", scratch_path("link")), 0);
    ck_assert_int_eq(mkdir(scratch_path("directory"), 0700), 0);
    for (int kind = 0; kind < KINDS; kind++) {
        ck_assert_int_eq(write_kind(kind, scratch_path("file")), -1);
        scratch_expect_line("file: File exists");
        ck_assert_int_eq(write_kind(kind, scratch_path("link")), -1);
        scratch_expect_line("link: File exists");
        ck_assert_int_eq(write_kind(kind, scratch_path("directory")), -1);
        scratch_expect_line("directory: File exists");
    }
    scratch_expect(scratch_path("file"), "precious");
    ck_assert_int_eq(scratch_files(true), 3);
}
END_TEST

START_TEST(a_failure_leaves_no_file_behind)
{
    char name[300] = "";
    memset(name, 'a', 256);
    for (int kind = 0; kind < KINDS; kind++) {
        ck_assert_int_eq(write_kind(kind, scratch_path("missing/file")), -1);
        scratch_expect_line("missing/file: No such file or directory");
        ck_assert_int_eq(write_kind(kind, name), -1);
        scratch_expect_line("File name too long");
        scratch_limit_files(50);
        ck_assert_int_eq(write_kind(kind, scratch_path("file")), -1);
        scratch_limit_files(RLIM_INFINITY);
        scratch_expect_line("file: File too large");
        ck_assert_int_eq(scratch_files(false), 0);
    }
}
END_TEST

START_TEST(of_processes_that_create_it_at_the_same_time_one_succeeds)
{
    enum {
        RACERS = 8
    };
    char byte;
    int gun[2], status, winners = 0;
    ck_assert_int_eq(pipe(gun), 0);
    for (int i = 0; i < RACERS; i++) {
        pid_t child = fork();
        ck_assert_int_ge(child, 0);
        if (child == 0) {
            close(gun[1]);
            _exit(read(gun[0], &byte, 1) == 0 &&
                          ticket_write(scratch_path("file"), relay, ADDRESS) == 0
                      ? 0
                      : 1);
        }
    }
    close(gun[1]);
    for (int i = 0; i < RACERS; i++) {
        ck_assert_int_gt(wait(&status), 0);
        winners += status == 0;
    }
    ck_assert_int_eq(winners, 1);
    scratch_expect(scratch_path("file"), TICKET_TEXT(ADDRESS));
    ck_assert_int_eq(scratch_files(false), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ticket");
    TCase *tests = tcase_create("files");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_ticket_holds_public_key_and_address);
    tcase_add_test(tests, an_app_ticket_holds_public_key_and_any_permissions);
    tcase_add_test(tests, a_node_entry_holds_the_nodes_public_and_the_apps_private_key);
    tcase_add_test(
        tests, the_mode_of_a_ticket_follows_the_umask_and_only_its_owner_reads_a_node_entry);
    tcase_add_test(tests, an_address_may_be_any_string);
    tcase_add_test(tests, an_address_has_256_bytes_at_most);
    tcase_add_test(tests, an_address_that_is_not_utf_8_is_refused);
    tcase_add_test(tests, an_existing_file_is_never_overwritten);
    tcase_add_test(tests, a_failure_leaves_no_file_behind);
    tcase_add_loop_test(tests, of_processes_that_create_it_at_the_same_time_one_succeeds, 0, 20);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
