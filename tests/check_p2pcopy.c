/* p2p-copy's hello: which are accepted, and the reason with which every other message is refused.
 */
#include "proto/p2pcopy.h"
#include "suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HASH "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

static struct p2pcopy_hello hello;

static const char *read_bytes(const char *words, size_t size, bool text)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    memcpy(copy, words, size);
    const char *reason = p2pcopy_read_hello(copy, size, text, &hello);
    free(copy);
    return reason;
}

static const char *read_text(const char *words)
{
    return read_bytes(words, strlen(words), true);
}

static void expect_code(const char *code)
{
    ck_assert_uint_eq(hello.code_size, strlen(code));
    ck_assert_mem_eq(hello.code, code, hello.code_size);
}

static void expect_refusal(const char *words, const char *reason)
{
    ck_assert_pstr_eq(read_text(words), reason);
}

START_TEST(a_sender_and_a_receiver_are_told_apart)
{
    ck_assert_ptr_null(
        read_text("{\"type\":\"hello\",\"code_hash_hex\":\"" HASH "\",\"role\":\"sender\"}"));
    ck_assert(hello.sender);
    expect_code(HASH);
    ck_assert_ptr_null(
        read_text("{\"type\":\"hello\",\"code_hash_hex\":\"" HASH "\",\"role\":\"receiver\"}"));
    ck_assert(!hello.sender);
    expect_code(HASH);
}
END_TEST

START_TEST(keys_have_any_order_and_unknown_keys_are_ignored)
{
    ck_assert_ptr_null(read_text(" { \"role\" : \"sender\", \"extra\": [{\"type\": 1}], "
                                 "\"code_hash_hex\": \"x\", \"type\": \"hello\" } "));
    expect_code("x");
}
END_TEST

START_TEST(a_code_is_an_opaque_string)
{
    ck_assert_ptr_null(
        read_text("{\"type\":\"hello\",\"code_hash_hex\":\"\\u00e9 \\\"\",\"role\":\"sender\"}"));
    expect_code("\xc3\xa9 \"");
    ck_assert_ptr_null(
        read_text("{\"type\":\"hello\",\"code_hash_hex\":\"a\\u0000b\",\"role\":\"sender\"}"));
    ck_assert_uint_eq(hello.code_size, 3);
    ck_assert_mem_eq(hello.code, "a\0b", 3);
}
END_TEST

START_TEST(a_binary_message_is_refused)
{
    static const char good[] =
        "{\"type\":\"hello\",\"code_hash_hex\":\"" HASH "\",\"role\":\"sender\"}";
    ck_assert_pstr_eq(read_bytes(good, strlen(good), false), "First frame must be hello text");
}
END_TEST

START_TEST(a_message_that_is_not_json_is_refused)
{
    expect_refusal("", "Bad hello json");
    expect_refusal("hello", "Bad hello json");
    expect_refusal("{\"type\":\"hello\"", "Bad hello json");
    expect_refusal("{\"type\":\"hello\"} more", "Bad hello json");
    expect_refusal("{\"type\":\"\xff\"}", "Bad hello json");
}
END_TEST

START_TEST(json_that_is_not_a_hello_is_refused)
{
    expect_refusal("{}", "First frame must be hello");
    expect_refusal("[]", "First frame must be hello");
    expect_refusal("5", "First frame must be hello");
    expect_refusal("\"hello\"", "First frame must be hello");
    expect_refusal("{\"type\":\"ready\"}", "First frame must be hello");
    expect_refusal("{\"type\":[\"hello\"]}", "First frame must be hello");
    expect_refusal("{\"type\":\"hello\\u0000\"}", "First frame must be hello");
}
END_TEST

START_TEST(a_hello_without_a_code_or_a_role_is_refused)
{
    expect_refusal("{\"type\":\"hello\"}", "Bad hello");
    expect_refusal("{\"type\":\"hello\",\"role\":\"sender\"}", "Bad hello");
    expect_refusal("{\"type\":\"hello\",\"code_hash_hex\":\"x\"}", "Bad hello");
    expect_refusal("{\"type\":\"hello\",\"code_hash_hex\":\"\",\"role\":\"sender\"}", "Bad hello");
    expect_refusal("{\"type\":\"hello\",\"code_hash_hex\":5,\"role\":\"sender\"}", "Bad hello");
    expect_refusal("{\"type\":\"hello\",\"code_hash_hex\":\"x\",\"role\":\"spy\"}", "Bad hello");
    expect_refusal("{\"type\":\"hello\",\"code_hash_hex\":\"x\",\"role\":null}", "Bad hello");
}
END_TEST

START_TEST(the_deepest_and_the_longest_hello_do_no_harm)
{
    char words[P2PCOPY_HELLO_MAX + 1];
    memset(words, '[', P2PCOPY_HELLO_MAX);
    ck_assert_pstr_eq(read_bytes(words, P2PCOPY_HELLO_MAX, true), "Bad hello json");
    int size = snprintf(words, sizeof words,
        "{\"type\":\"hello\",\"role\":\"sender\","
        "\"code_hash_hex\":\"");
    memset(words + size, 'c', P2PCOPY_HELLO_MAX - (size_t)size - 2);
    memcpy(words + P2PCOPY_HELLO_MAX - 2, "\"}", 2);
    ck_assert_ptr_null(read_bytes(words, P2PCOPY_HELLO_MAX, true));
    ck_assert_uint_eq(hello.code_size, P2PCOPY_HELLO_MAX - (size_t)size - 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("p2pcopy");
    TCase *tests = tcase_create("hello");
    tcase_add_test(tests, a_sender_and_a_receiver_are_told_apart);
    tcase_add_test(tests, keys_have_any_order_and_unknown_keys_are_ignored);
    tcase_add_test(tests, a_code_is_an_opaque_string);
    tcase_add_test(tests, a_binary_message_is_refused);
    tcase_add_test(tests, a_message_that_is_not_json_is_refused);
    tcase_add_test(tests, json_that_is_not_a_hello_is_refused);
    tcase_add_test(tests, a_hello_without_a_code_or_a_role_is_refused);
    tcase_add_test(tests, the_deepest_and_the_longest_hello_do_no_harm);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
