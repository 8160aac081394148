/* The command line: what each option sets, which mistakes are refused and in which words, and the
 * defaults. */
#include "setup/options.h"
#include "suite.h"

#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    GO_ON = -1,
    ARGUMENTS_MAX = 32,
    OWNS_NOTHING = 54321, /* a user */
};

static struct options options;
static char *arguments[ARGUMENTS_MAX]; /* options borrow from them */
static char said[4096];                /* on standard output and standard error */

static void forget_arguments(void)
{
    for (size_t i = 1; i < ARGUMENTS_MAX; i++) {
        free(arguments[i]);
        arguments[i] = NULL;
    }
}

static void forget_environment(void)
{
    static const char *const names[] = {"PORT", "RUNTIME_DIRECTORY", "STATE_DIRECTORY",
        "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "HOME", "CREDENTIALS_DIRECTORY"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ck_assert_int_eq(unsetenv(names[i]), 0);
}

/* Reads arguments, ended by NULL, and keeps the output in `said`. */
static int read_as(const char *command, bool place, const char *const *list)
{
    char name[32];
    int count = 1;
    forget_arguments();
    (void)snprintf(name, sizeof name, "%s", command);
    arguments[0] = name;
    while (list[count - 1] != NULL) {
        ck_assert_int_lt(count, ARGUMENTS_MAX - 1);
        arguments[count] = strdup(list[count - 1]);
        ck_assert_ptr_nonnull(arguments[count]);
        count++;
    }
    FILE *capture = tmpfile();
    int error = dup(STDERR_FILENO), output = dup(STDOUT_FILENO);
    ck_assert_ptr_nonnull(capture);
    ck_assert_int_eq(fflush(stdout), 0);
    ck_assert_int_ge(dup2(fileno(capture), STDERR_FILENO), 0);
    ck_assert_int_ge(dup2(fileno(capture), STDOUT_FILENO), 0);
    int status = options_read(&options, count, arguments, place);
    ck_assert_int_eq(fflush(stdout), 0);
    ck_assert_int_ge(dup2(error, STDERR_FILENO), 0);
    ck_assert_int_ge(dup2(output, STDOUT_FILENO), 0);
    close(error);
    close(output);
    rewind(capture);
    said[fread(said, 1, sizeof said - 1, capture)] = '\0';
    ck_assert_int_eq(fclose(capture), 0);
    return status;
}

static int read_list(const char *const *list)
{
    return read_as("relay serve", false, list);
}

#define READ_PLACE(...)                                                                            \
    read_as("relay run-relay-server", true, (const char *const[]){__VA_ARGS__, NULL})
#define READ_STRELAY(...) read_as("strelay", false, (const char *const[]){__VA_ARGS__, NULL})
#define READ(...) read_list((const char *const[]){__VA_ARGS__, NULL})

static int read_nothing(void)
{
    static const char *const none[] = {NULL};
    return read_list(none);
}

static void expect_refusal(int status, const char *expected)
{
    ck_assert_int_eq(status, EXIT_USAGE);
    ck_assert_str_eq(said, expected);
    ck_assert_ptr_eq(strchr(said, '\n'), said + strlen(said) - 1); /* one line */
}

/* ---- defaults -------------------------------------------------------------------- */

START_TEST(every_option_has_a_default)
{
    ck_assert_int_eq(read_nothing(), GO_ON);
    ck_assert_str_eq(said, "");
    ck_assert_uint_eq(options.listen_count, 1);
    ck_assert_str_eq(options.listen[0], ":4001");
    ck_assert_uint_eq(options.limits.connections, 65536);
    ck_assert_uint_eq(options.limits.per_source, 0);
    ck_assert_int_eq(options.handshake_timeout, 10);
    ck_assert_int_eq(options.wait_timeout, 86400);
    ck_assert_int_eq(options.linger, 30);
    ck_assert_int_eq(options.idle_timeout, 30);
    ck_assert_uint_eq(options.session_rate, 0);
    ck_assert_uint_eq(options.session_bytes, 0);
    ck_assert_int_eq(options.max_workers, 256);
    ck_assert_int_eq(options.max_use, 1000);
    ck_assert_int_eq(options.usage.log_fd, -1);
    ck_assert_ptr_null(options.usage.database);
    ck_assert_uint_eq(options.usage.blur, 0);
    ck_assert_ptr_null(options.user);
    ck_assert(!options.json);
    ck_assert(!options.debug);
    ck_assert_ptr_nonnull(options.runtime_directory);
    ck_assert_ptr_nonnull(options.state_directory);
}
END_TEST

START_TEST(the_port_comes_from_the_environment_unless_an_address_is_given)
{
    ck_assert_int_eq(setenv("PORT", "8080", 1), 0);
    ck_assert_int_eq(read_nothing(), GO_ON);
    ck_assert_str_eq(options.listen[0], ":8080");
    ck_assert_int_eq(READ("--listen=:1"), GO_ON);
    ck_assert_uint_eq(options.listen_count, 1);
    ck_assert_str_eq(options.listen[0], ":1");
    ck_assert_int_eq(setenv("PORT", "", 1), 0);
    ck_assert_int_eq(read_nothing(), GO_ON);
    ck_assert_str_eq(options.listen[0], ":4001");
}
END_TEST

START_TEST(a_bad_port_in_the_environment_is_refused)
{
    static const char *const ports[] = {"0", "65536", "http", "-1", " 80", "80 ", "99999999999999"};
    for (size_t i = 0; i < sizeof ports / sizeof ports[0]; i++) {
        char expected[128];
        (void)snprintf(expected, sizeof expected,
            "relay: bad value \"%s\" for $PORT: expected a port from 1 to 65535\n", ports[i]);
        ck_assert_int_eq(setenv("PORT", ports[i], 1), 0);
        expect_refusal(read_nothing(), expected);
    }
}
END_TEST

START_TEST(the_directories_come_from_systemd)
{
    ck_assert_int_eq(setenv("RUNTIME_DIRECTORY", "/run/one:/run/two", 1), 0);
    ck_assert_int_eq(setenv("STATE_DIRECTORY", "/var/lib/one", 1), 0);
    ck_assert_int_eq(read_nothing(), GO_ON);
    ck_assert_str_eq(options.runtime_directory, "/run/one");
    ck_assert_str_eq(options.state_directory, "/var/lib/one");
    ck_assert_int_eq(READ("--runtime-dir=/r", "--state-dir=/s"), GO_ON);
    ck_assert_str_eq(options.runtime_directory, "/r");
    ck_assert_str_eq(options.state_directory, "/s");
}
END_TEST

/* A user who may write to root's directories would use those. */
START_TEST(a_user_who_is_not_root_has_directories_of_their_own)
{
    ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", "/run/user/9", 1), 0);
    ck_assert_int_eq(setenv("HOME", "/home/nine", 1), 0);
    if (geteuid() == 0)
        ck_assert_int_eq(setresuid(OWNS_NOTHING, OWNS_NOTHING, OWNS_NOTHING), 0);
    ck_assert_int_eq(read_nothing(), GO_ON);
    ck_assert_str_eq(options.runtime_directory, "/run/user/9/relay");
    ck_assert_str_eq(options.state_directory, "/home/nine/.local/state/relay");
    ck_assert_int_eq(setenv("XDG_STATE_HOME", "/home/nine/state", 1), 0);
    ck_assert_int_eq(read_nothing(), GO_ON);
    ck_assert_str_eq(options.state_directory, "/home/nine/state/relay");
}
END_TEST

/* ---- what options set ------------------------------------------------------------ */

START_TEST(each_number_can_be_set)
{
    ck_assert_int_eq(READ("--log-fd=3", "--blur-usage=60", "--max-connections=1000",
                         "--per-source=5", "--handshake-timeout=7", "--wait-timeout=8",
                         "--linger=9", "--idle-timeout=0", "--max-workers=11", "--max-use=12"),
        GO_ON);
    ck_assert_int_eq(options.usage.log_fd, 3);
    ck_assert_uint_eq(options.usage.blur, 60);
    ck_assert_uint_eq(options.limits.connections, 1000);
    ck_assert_uint_eq(options.limits.per_source, 5);
    ck_assert_int_eq(options.handshake_timeout, 7);
    ck_assert_int_eq(options.wait_timeout, 8);
    ck_assert_int_eq(options.linger, 9);
    ck_assert_int_eq(options.idle_timeout, 0);
    ck_assert_int_eq(options.max_workers, 11);
    ck_assert_int_eq(options.max_use, 12);
}
END_TEST

START_TEST(texts_and_flags_can_be_set)
{
    ck_assert_int_eq(
        READ("--usage-db=/var/usage.sqlite", "--user=somebody", "--json", "--debug"), GO_ON);
    ck_assert_str_eq(options.usage.database, "/var/usage.sqlite");
    ck_assert_str_eq(options.user, "somebody");
    ck_assert(options.json);
    ck_assert(options.debug);
}
END_TEST

START_TEST(addresses_can_be_given_several_times_in_every_spelling)
{
    ck_assert_int_eq(READ("-l", "127.0.0.1:1", "-l[::1]:2", "--listen", ":3", "--listen=unix:/4",
                         "--laddr", "0.0.0.0:5", "--laddr=:6"),
        GO_ON);
    static const char *const expected[] = {
        "127.0.0.1:1", "[::1]:2", ":3", "unix:/4", "0.0.0.0:5", ":6"};
    ck_assert_uint_eq(options.listen_count, 6);
    for (size_t i = 0; i < 6; i++)
        ck_assert_str_eq(options.listen[i], expected[i]);
}
END_TEST

START_TEST(sizes_and_rates_have_units)
{
    static const struct {
        const char *text;
        uint64_t value;
    } sizes[] = {
        {"--session-bytes=1", 1},
        {"--session-bytes=10B", 10},
        {"--session-bytes=2K", 2048},
        {"--session-bytes=2KiB", 2048},
        {"--session-bytes=2kB", 2000},
        {"--session-bytes=3M", 3 << 20},
        {"--session-bytes=3MiB", 3 << 20},
        {"--session-bytes=3MB", 3000000},
        {"--session-bytes=4G", 4ULL << 30},
        {"--session-bytes=4GiB", 4ULL << 30},
        {"--session-bytes=4GB", 4000000000},
        {"--session-bytes=5T", 5ULL << 40},
        {"--session-bytes=5TiB", 5ULL << 40},
        {"--session-bytes=5TB", 5000000000000},
        {"--session-bytes=18446744073709551615", UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        ck_assert_int_eq(READ(sizes[i].text), GO_ON);
        ck_assert_uint_eq(options.session_bytes, sizes[i].value);
    }
    ck_assert_int_eq(READ("--session-rate=2MiB/s"), GO_ON);
    ck_assert_uint_eq(options.session_rate, 2 << 20);
    ck_assert_int_eq(READ("--session-rate=500kB"), GO_ON);
    ck_assert_uint_eq(options.session_rate, 500000);
}
END_TEST

START_TEST(a_certificate_has_its_key_in_the_same_file_or_in_its_own)
{
    ck_assert_int_eq(READ("--certfile=/c.pem"), GO_ON);
    ck_assert_str_eq(options.certfile, "/c.pem");
    ck_assert_str_eq(options.keyfile, "/c.pem");
    ck_assert_int_eq(READ("--certfile=/c.pem", "--keyfile=/k.pem", "--no-tls"), GO_ON);
    ck_assert_str_eq(options.keyfile, "/k.pem");
    ck_assert(options.plain);
    ck_assert_int_eq(READ("--no-tls", "--tls"), GO_ON);
    ck_assert(!options.plain);
}
END_TEST

START_TEST(an_identity_can_be_named_in_every_spelling)
{
    ck_assert_int_eq(READ("-i", "/one"), GO_ON);
    ck_assert_str_eq(options.idfile, "/one");
    ck_assert_int_eq(READ("--idfile=/two"), GO_ON);
    ck_assert_str_eq(options.idfile, "/two");
}
END_TEST

START_TEST(run_relay_server_takes_host_and_port_among_its_options)
{
    ck_assert_int_eq(READ_PLACE("localhost", "8000", "--no-tls"), GO_ON);
    ck_assert_uint_eq(options.listen_count, 1);
    ck_assert_str_eq(options.listen[0], "localhost:8000");
    ck_assert_int_eq(READ_PLACE("--no-tls", "::1", "8000"), GO_ON);
    ck_assert_str_eq(options.listen[0], "[::1]:8000");
}
END_TEST

START_TEST(strelay_takes_the_options_of_the_original)
{
    ck_assert_int_eq(READ_STRELAY("--idfile", "/id", "--laddr", "0.0.0.0:8000"), GO_ON);
    ck_assert_str_eq(options.idfile, "/id");
    ck_assert_str_eq(options.listen[0], "0.0.0.0:8000");
}
END_TEST

START_TEST(a_second_command_line_is_read_afresh)
{
    ck_assert_int_eq(READ("--linger=1", "--json"), GO_ON);
    ck_assert_int_eq(READ("--debug"), GO_ON);
    ck_assert_int_eq(options.linger, 30);
    ck_assert(!options.json);
    ck_assert(options.debug);
}
END_TEST

/* ---- what is refused ------------------------------------------------------------- */

/* The least and the greatest value are taken. Values beyond them, and values that are no whole
 * number, are refused, and the message says what is expected. */
START_TEST(each_number_has_a_range)
{
    static const struct {
        const char *name;
        uint64_t min, max;
    } ranges[] = {
        {"log-fd", 0, 1 << 20},
        {"blur-usage", 1, 31536000},
        {"max-connections", 1, 1 << 22},
        {"per-source", 1, 1 << 22},
        {"handshake-timeout", 1, 86400},
        {"wait-timeout", 1, 31536000},
        {"linger", 0, 86400},
        {"idle-timeout", 0, 31536000},
        {"max-workers", 1, 65536},
        {"max-use", 1, INT_MAX},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        unsigned long long min = ranges[i].min, max = ranges[i].max;
        char argument[64], beyond[32], expected[160];
        const char *const bad[] = {"", "-1", "+1", " 1", "1x", "0x1", beyond};
        (void)snprintf(beyond, sizeof beyond, "%llu", max + 1);
        (void)snprintf(argument, sizeof argument, "--%s=%llu", ranges[i].name, min);
        ck_assert_int_eq(READ(argument), GO_ON);
        (void)snprintf(argument, sizeof argument, "--%s=%llu", ranges[i].name, max);
        ck_assert_int_eq(READ(argument), GO_ON);
        for (size_t k = 0; k < 7; k++) {
            (void)snprintf(argument, sizeof argument, "--%s=%s", ranges[i].name, bad[k]);
            (void)snprintf(expected, sizeof expected,
                "relay: bad value \"%s\" for --%s: expected a whole number from %llu to %llu\n",
                bad[k], ranges[i].name, min, max);
            expect_refusal(READ(argument), expected);
        }
    }
}
END_TEST

START_TEST(zero_is_refused_where_it_would_mean_nothing)
{
    expect_refusal(READ("--max-use=0"),
        "relay: bad value \"0\" for --max-use: expected a whole number from 1 to 2147483647\n");
    expect_refusal(READ("--session-bytes=0"),
        "relay: bad value \"0\" for --session-bytes: expected "
        "a number of bytes, as in 500MB or 10GiB\n");
}
END_TEST

START_TEST(a_bad_size_or_rate_is_refused)
{
    static const char *const sizes[] = {"", "x", "-1", "1X", "1 MB", "1mb", "1MB/s",
        "18446744073709551616", "18446744073709551615K"};
    char argument[64], expected[160];
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        (void)snprintf(argument, sizeof argument, "--session-bytes=%s", sizes[i]);
        (void)snprintf(expected, sizeof expected,
            "relay: bad value \"%s\" for --session-bytes: expected a number of bytes, as in 500MB "
            "or 10GiB\n",
            sizes[i]);
        expect_refusal(READ(argument), expected);
    }
    expect_refusal(READ("--session-rate=1MB/h"), "relay: bad value \"1MB/h\" for --session-rate: "
                                                 "expected bytes per second, as in 500kB/s or "
                                                 "2MiB/s\n");
}
END_TEST

START_TEST(unknown_options_and_words_are_refused)
{
    expect_refusal(READ("--nonsense"), "relay: unknown option --nonsense: expected one that relay "
                                       "serve --help shows\n");
    expect_refusal(READ("-x"), "relay: unknown option -x: expected one that relay serve --help "
                               "shows\n");
    expect_refusal(READ("word"), "relay: unexpected argument word: expected options only\n");
    expect_refusal(READ("--json", "--", "--debug"),
        "relay: unexpected argument --debug: expected options only\n");
}
END_TEST

START_TEST(a_value_is_given_if_and_only_if_the_option_takes_one)
{
    expect_refusal(READ("--linger"), "relay: option --linger needs a value: expected S\n");
    expect_refusal(READ("-l"), "relay: option --listen needs a value: expected ADDR\n");
    expect_refusal(READ("--json=yes"), "relay: option --json takes no value\n");
    expect_refusal(READ("--user="), "relay: empty value for --user: expected NAME\n");
    expect_refusal(READ("--listen="), "relay: empty address: expected HOST:PORT, [V6]:PORT, :PORT "
                                      "or unix:PATH\n");
}
END_TEST

START_TEST(a_key_without_a_certificate_is_refused)
{
    expect_refusal(READ("--keyfile=/k.pem"),
        "relay: a key and no certificate: expected --certfile with --keyfile\n");
}
END_TEST

START_TEST(host_and_port_are_both_needed)
{
    expect_refusal(READ_PLACE("localhost"), "relay: 1 arguments: expected HOST PORT\n");
    expect_refusal(READ_PLACE("a", "1", "b"), "relay: 3 arguments: expected HOST PORT\n");
    expect_refusal(READ_PLACE("localhost", "65536"),
        "relay: bad port \"65536\": expected one from 0 to 65535\n");
}
END_TEST

START_TEST(strelay_needs_an_identity_and_an_address)
{
    expect_refusal(READ_STRELAY("--laddr=:1"), "relay: strelay needs --idfile=FILE\n");
    expect_refusal(READ_STRELAY("--idfile=/id"), "relay: strelay needs --laddr=ADDR\n");
}
END_TEST

START_TEST(there_are_at_most_sixteen_addresses)
{
    const char *list[OPTIONS_LISTEN_MAX + 2] = {NULL};
    for (int i = 0; i < OPTIONS_LISTEN_MAX; i++)
        list[i] = "--listen=:1";
    ck_assert_int_eq(read_list(list), GO_ON);
    ck_assert_uint_eq(options.listen_count, OPTIONS_LISTEN_MAX);
    list[OPTIONS_LISTEN_MAX] = "--listen=:1";
    expect_refusal(read_list(list), "relay: too many addresses: expected at most 16\n");
}
END_TEST

START_TEST(only_the_first_mistake_is_logged)
{
    expect_refusal(READ("--linger=x", "--nonsense"),
        "relay: bad value \"x\" for --linger: expected "
        "a whole number from 0 to 86400\n");
}
END_TEST

/* ---- what is shown --------------------------------------------------------------- */

START_TEST(version_and_help_exit_with_0)
{
    ck_assert_int_eq(READ("-v"), 0);
    ck_assert_str_eq(said, "relay " RELAY_VERSION "\n");
    ck_assert_int_eq(READ("--version"), 0);
    ck_assert_int_eq(READ("--help"), 0);
    ck_assert_ptr_nonnull(strstr(said, "usage: relay serve [OPTION]..."));
    ck_assert_ptr_nonnull(strstr(said, "-l, --listen=ADDR"));
    ck_assert_ptr_nonnull(strstr(said, "--session-rate=BYTES/S"));
    ck_assert_int_eq(READ("-h"), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("options");
    TCase *tests = tcase_create("command line");
    tcase_add_checked_fixture(tests, forget_environment, forget_arguments);
    tcase_add_test(tests, every_option_has_a_default);
    tcase_add_test(tests, the_port_comes_from_the_environment_unless_an_address_is_given);
    tcase_add_test(tests, a_bad_port_in_the_environment_is_refused);
    tcase_add_test(tests, the_directories_come_from_systemd);
    tcase_add_test(tests, a_user_who_is_not_root_has_directories_of_their_own);
    tcase_add_test(tests, each_number_can_be_set);
    tcase_add_test(tests, texts_and_flags_can_be_set);
    tcase_add_test(tests, addresses_can_be_given_several_times_in_every_spelling);
    tcase_add_test(tests, sizes_and_rates_have_units);
    tcase_add_test(tests, a_certificate_has_its_key_in_the_same_file_or_in_its_own);
    tcase_add_test(tests, an_identity_can_be_named_in_every_spelling);
    tcase_add_test(tests, run_relay_server_takes_host_and_port_among_its_options);
    tcase_add_test(tests, strelay_takes_the_options_of_the_original);
    tcase_add_test(tests, a_second_command_line_is_read_afresh);
    tcase_add_test(tests, each_number_has_a_range);
    tcase_add_test(tests, zero_is_refused_where_it_would_mean_nothing);
    tcase_add_test(tests, a_bad_size_or_rate_is_refused);
    tcase_add_test(tests, unknown_options_and_words_are_refused);
    tcase_add_test(tests, a_value_is_given_if_and_only_if_the_option_takes_one);
    tcase_add_test(tests, a_key_without_a_certificate_is_refused);
    tcase_add_test(tests, host_and_port_are_both_needed);
    tcase_add_test(tests, strelay_needs_an_identity_and_an_address);
    tcase_add_test(tests, there_are_at_most_sixteen_addresses);
    tcase_add_test(tests, only_the_first_mistake_is_logged);
    tcase_add_test(tests, version_and_help_exit_with_0);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
