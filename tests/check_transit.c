/* The transit line: which lines are understood and which are refused, and that nothing behind a
 * line is read. */
#include "base/clock.h"
#include "codec/websocket.h"
#include "connection.h"
#include "proto/greeting.h"
#include "suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOKEN "0123456789abcdefABCDEF_Z0123456789abcdefABCDEF_Z0123456789abcdef"
#define SIDE "0123456789abcdef"
#define OLD_LINE "please relay " TOKEN "\n"
#define NEW_LINE "please relay " TOKEN " for side " SIDE "\n"

static char directory[64], path[96];
static struct pair_table *table;

static void set_up(void)
{
    strcpy(directory, "/tmp/check-transit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/table", directory);
    ck_assert_int_eq(pair_open(path, 64, &table), 0);
    open_connection();
}

static void tear_down(void)
{
    close_connection();
    pair_close(table);
    (void)unlink(path);
    (void)rmdir(directory);
}

static enum pair_outcome greet_within(int64_t time, struct pair_request *request)
{
    struct handoff handoff = {.session_size = 0};
    struct greeting greeting = greeting_within(time);
    greeting.table = table;
    enum pair_outcome outcome = protocols[PROTOCOL_TRANSIT]->greet(&greeting, request, &handoff);
    if (outcome == PAIR_HAPPY)
        ck_assert_uint_eq(handoff.session_size, 0);
    return outcome;
}

static enum pair_outcome greet(struct pair_request *request)
{
    return greet_within(10000, request);
}

static enum pair_outcome greet_bytes(const void *bytes, size_t size)
{
    struct pair_request request;
    say(bytes, size);
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    return greet(&request);
}

/* ---- what is understood ---------------------------------------------------------- */

START_TEST(a_line_without_a_side_asks_for_any_peer)
{
    struct pair_request request;
    struct iovec token = {(void *)(uintptr_t)TOKEN, 64};
    struct pair_key key = pair_key(table, 0, &token, 1);
    say(OLD_LINE, strlen(OLD_LINE));
    ck_assert_int_eq(greet(&request), PAIR_HAPPY);
    ck_assert_int_eq(request.rule, PAIR_SIDES);
    ck_assert_uint_eq(request.side, 0);
    ck_assert_mem_eq(&request.key, &key, sizeof key);
}
END_TEST

START_TEST(a_line_with_a_side_has_the_same_key)
{
    struct pair_request old_request, new_request;
    say(OLD_LINE, strlen(OLD_LINE));
    ck_assert_int_eq(greet(&old_request), PAIR_HAPPY);
    say(NEW_LINE, strlen(NEW_LINE));
    ck_assert_int_eq(greet(&new_request), PAIR_HAPPY);
    ck_assert_mem_eq(&old_request.key, &new_request.key, sizeof new_request.key);
    ck_assert_uint_eq(new_request.side, pair_side(table, SIDE, 16));
}
END_TEST

START_TEST(a_line_in_pieces_of_any_size_is_understood)
{
    struct pair_request request;
    size_t size = strlen(NEW_LINE);
    for (size_t piece = 1; piece < size; piece++) {
        pid_t child = fork();
        if (child == 0) {
            for (size_t at = 0; at < size; at += piece)
                say(&NEW_LINE[at], size - at < piece ? size - at : piece);
            _exit(0);
        }
        ck_assert_int_eq(greet(&request), PAIR_HAPPY);
    }
}
END_TEST

START_TEST(nothing_behind_the_line_is_read)
{
    struct pair_request request;
    say(NEW_LINE "early", strlen(NEW_LINE) + 5);
    ck_assert_int_eq(greet(&request), PAIR_IMPATIENT);
    ck_assert_int_eq(left_to_read(), 5);
}
END_TEST

/* ---- refused lines ----------------------------------------------------------------- */

START_TEST(a_line_cut_short_anywhere_is_empty)
{
    for (size_t size = 0; size < strlen(NEW_LINE); size++) {
        ck_assert_int_eq(greet_bytes(NEW_LINE, size), PAIR_EMPTY);
        close_connection();
        open_connection();
    }
}
END_TEST

/* Another character that a token or side may have makes another good line. */
static bool is_word_place(size_t at)
{
    size_t token = strlen("please relay "), side = token + 64 + strlen(" for side ");
    return (at >= token && at < token + 64) || (at >= side && at < side + 16);
}

static bool is_word(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

START_TEST(every_change_of_one_byte_is_refused_unless_it_makes_another_good_line)
{
    char line[sizeof NEW_LINE];
    size_t size = strlen(NEW_LINE);
    for (size_t at = 0; at < size; at++) {
        for (unsigned int value = 0; value < 256; value++) {
            if (value == (unsigned char)NEW_LINE[at])
                continue;
            memcpy(line, NEW_LINE, sizeof line);
            line[at] = (char)value;
            enum pair_outcome outcome = greet_bytes(line, size);
            if (is_word_place(at) && is_word((unsigned char)value))
                ck_assert_int_eq(outcome, PAIR_HAPPY);
            else if (at == size - 1)
                ck_assert_int_eq(outcome, PAIR_EMPTY); /* no line feed, and the end */
            else if (value == '\n' && at == strlen(OLD_LINE) - 1)
                ck_assert_int_eq(
                    outcome, PAIR_IMPATIENT); /* the line without a side, and more bytes */
            else
                ck_assert_int_eq(outcome, PAIR_ERRORY);
            close_connection();
            open_connection();
        }
    }
}
END_TEST

START_TEST(other_lengths_of_token_and_side_are_refused)
{
    char line[512];
    for (int token = 0; token < 70; token++) {
        for (int side = 0; side < 20; side++) {
            if (token == 64 && side == 16)
                continue;
            int size = snprintf(line, sizeof line, "please relay %.*s for side %.*s\n", token,
                TOKEN TOKEN, side, SIDE SIDE);
            ck_assert_int_eq(greet_bytes(line, (size_t)size), PAIR_ERRORY);
            close_connection();
            open_connection();
        }
    }
}
END_TEST

START_TEST(binary_data_is_refused_at_its_first_line_feed)
{
    struct pair_request request;
    say("\0\001\340\017\n\377", 6);
    ck_assert_int_eq(greet(&request), PAIR_ERRORY);
    ck_assert_int_eq(left_to_read(), 1);
}
END_TEST

START_TEST(a_line_may_not_be_longer_than_1024_bytes)
{
    char bytes[2000];
    struct pair_request request;
    memset(bytes, 'x', sizeof bytes);
    say(bytes, sizeof bytes);
    ck_assert_int_eq(greet(&request), PAIR_ERRORY);
    ck_assert_int_eq(left_to_read(), 2000 - 1024);
}
END_TEST

START_TEST(a_line_that_does_not_end_ends_at_the_deadline)
{
    struct pair_request request;
    say("please relay ", 13);
    ck_assert_int_eq(greet_within(50, &request), PAIR_EMPTY);
    ck_assert_int_eq(greet_within(-1000, &request), PAIR_EMPTY);
}
END_TEST

START_TEST(random_bytes_never_make_a_request)
{
    unsigned int seed = 1;
    for (int round = 0; round < 2000; round++) {
        unsigned char bytes[200];
        size_t size = (size_t)rand_r(&seed) % sizeof bytes;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (unsigned char)rand_r(&seed);
        ck_assert_int_ne(greet_bytes(bytes, size), PAIR_HAPPY);
        close_connection();
        open_connection();
    }
}
END_TEST

/* ---- recognising it -------------------------------------------------------------- */

START_TEST(a_connection_of_no_other_protocol_is_transit)
{
    const char *const beginnings[] = {"p", "please relay", "\n", "x", "GE", "\377\377\377"};
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++) {
        say(beginnings[i], strlen(beginnings[i]));
        ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
        struct greeting greeting = {.fd = server, .deadline = clock_now() + 10000};
        ck_assert_ptr_eq(protocol_sniff(&greeting), protocols[PROTOCOL_TRANSIT]);
        ck_assert_ptr_eq(protocols[greeting.protocol], protocols[PROTOCOL_TRANSIT]);
        ck_assert_int_eq(left_to_read(), (int)strlen(beginnings[i]));
        close_connection();
        open_connection();
    }
}
END_TEST

START_TEST(a_silent_connection_has_no_protocol)
{
    struct greeting greeting = {.fd = server, .deadline = clock_now() + 50};
    ck_assert_ptr_null(protocol_sniff(&greeting));
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    greeting.deadline = clock_now() + 10000;
    ck_assert_ptr_null(protocol_sniff(&greeting));
}
END_TEST

/* ---- words ----------------------------------------------------------------------- */

static void expect_farewell(enum pair_outcome outcome, const char *expected, uint16_t code)
{
    struct words words = {.size = 0};
    protocols[PROTOCOL_TRANSIT]->farewell(outcome, PAIR_NO_REASON, &words);
    ck_assert_uint_eq(words.size, strlen(expected));
    ck_assert_mem_eq(words.message, expected, words.size);
    ck_assert_uint_eq(words.code, code);
}

START_TEST(each_client_is_told_in_the_words_of_the_protocol)
{
    struct words words = {.size = 0};
    protocols[PROTOCOL_TRANSIT]->welcome(NULL, 0, &words);
    ck_assert_uint_eq(words.size, 3);
    ck_assert_mem_eq(words.message, "ok\n", 3);
    ck_assert(!words.text);
    expect_farewell(PAIR_HAPPY, "", WEBSOCKET_NORMAL);
    expect_farewell(PAIR_ERRORY, "bad handshake\n", WEBSOCKET_POLICY);
    expect_farewell(PAIR_IMPATIENT, "impatient\n", WEBSOCKET_POLICY);
    expect_farewell(PAIR_LONELY, "", WEBSOCKET_POLICY);
    expect_farewell(PAIR_REDUNDANT, "", WEBSOCKET_POLICY);
    expect_farewell(PAIR_EMPTY, "", WEBSOCKET_POLICY);
    expect_farewell(PAIR_FULL, "", WEBSOCKET_TRY_LATER);
    expect_farewell(PAIR_SOURCE, "", WEBSOCKET_TRY_LATER);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("transit");
    TCase *tests = tcase_create("line");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_line_without_a_side_asks_for_any_peer);
    tcase_add_test(tests, a_line_with_a_side_has_the_same_key);
    tcase_add_test(tests, a_line_in_pieces_of_any_size_is_understood);
    tcase_add_test(tests, nothing_behind_the_line_is_read);
    tcase_add_test(tests, a_line_cut_short_anywhere_is_empty);
    tcase_add_test(tests, every_change_of_one_byte_is_refused_unless_it_makes_another_good_line);
    tcase_add_test(tests, other_lengths_of_token_and_side_are_refused);
    tcase_add_test(tests, binary_data_is_refused_at_its_first_line_feed);
    tcase_add_test(tests, a_line_may_not_be_longer_than_1024_bytes);
    tcase_add_test(tests, a_line_that_does_not_end_ends_at_the_deadline);
    tcase_add_test(tests, random_bytes_never_make_a_request);
    tcase_add_test(tests, a_connection_of_no_other_protocol_is_transit);
    tcase_add_test(tests, a_silent_connection_has_no_protocol);
    tcase_add_test(tests, each_client_is_told_in_the_words_of_the_protocol);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
