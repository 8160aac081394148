/* Introductions: every valid encoding of a message is read, any other message is ignored, and
 * messages are written as the clients' own library writes them. */
#include "proto/introduction.h"
#include "suite.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROOM = 1 << 17
};

static char message[ROOM];
static size_t message_size;
static struct introduction_documents documents;

static void put(const void *bytes, size_t size)
{
    memcpy(message + message_size, bytes, size);
    message_size += size;
}

#define raw(bytes) put(bytes, sizeof(bytes) - 1)

/* Reads the first `size` bytes of the message in a copy of just that size. */
static enum introduction_kind read_part(size_t size)
{
    static uint8_t *copy;
    free(copy);
    copy = malloc(size > 0 ? size : 1);
    memcpy(copy, message, size);
    return introduction_read(copy, size, &documents);
}

static enum introduction_kind read_message(void)
{
    enum introduction_kind kind = read_part(message_size);
    message_size = 0;
    return kind;
}

static void expect_next(const char *expected)
{
    struct text id;
    ck_assert(introduction_next(&documents, &id));
    ck_assert_uint_eq(id.size, strlen(expected));
    ck_assert_mem_eq(id.bytes, expected, id.size);
}

static void expect_none_left(void)
{
    struct text id;
    ck_assert(!introduction_next(&documents, &id));
}

/* ---- what is understood ---------------------------------------------------------- */

START_TEST(join_and_leave_have_documents)
{
    raw("\x82\xa4type\xa4Join\xab"
        "documentIds\x92\xa3one\xa3two");
    ck_assert_int_eq(read_message(), INTRODUCTION_JOIN);
    expect_next("one");
    expect_next("two");
    expect_none_left();
    raw("\x82\xa4type\xa5Leave\xab"
        "documentIds\x91\xa3one");
    ck_assert_int_eq(read_message(), INTRODUCTION_LEAVE);
    expect_next("one");
    expect_none_left();
}
END_TEST

START_TEST(every_spelling_of_a_heartbeat_is_read)
{
    raw("\x81\xa4type\xa9Heartbeat");
    ck_assert_int_eq(read_message(), INTRODUCTION_HEARTBEAT);
    raw("\x81\xa4type\xa6\xe2\x9d\xa4\xef\xb8\x8f");
    ck_assert_int_eq(read_message(), INTRODUCTION_HEARTBEAT);
    raw("\x81\xa4type\xa3\xe2\x9d\xa4");
    ck_assert_int_eq(read_message(), INTRODUCTION_HEARTBEAT);
}
END_TEST

START_TEST(keys_have_any_order_and_unknown_keys_are_skipped)
{
    raw("\x85\xab"
        "documentIds\x91\xa3one"
        "\xa5other\x82\x01\x92\xc0\xc3\xa1x\x93\xcb\0\0\0\0\0\0\0\0\xc7\x02\x05zz\xc4\x01y"
        "\x2a\xa3int"
        "\x92\x01\x02\xd4\x01x"
        "\xa4type\xa4Join");
    ck_assert_int_eq(read_message(), INTRODUCTION_JOIN);
    expect_next("one");
    expect_none_left();
}
END_TEST

START_TEST(strings_maps_and_arrays_have_any_form)
{
    raw("\xde\x00\x02"
        "\xd9\x04type\xda\x00\x04Join"
        "\xdb\x00\x00\x00\x0b"
        "documentIds\xdc\x00\x05"
        "\xd9\x01"
        "1\xda\x00\x01"
        "2\xdb\x00\x00\x00\x01"
        "3\xc4\x01"
        "4\xc6\x00\x00\x00\x01"
        "5");
    ck_assert_int_eq(read_message(), INTRODUCTION_JOIN);
    expect_next("1");
    expect_next("2");
    expect_next("3");
    expect_next("4");
    expect_next("5");
    expect_none_left();
    raw("\xdf\x00\x00\x00\x02\xc4\x04type\xc5\x00\x04Join\xab"
        "documentIds"
        "\xdd\x00\x00\x00\x01\xc5\x00\x01"
        "6");
    ck_assert_int_eq(read_message(), INTRODUCTION_JOIN);
    expect_next("6");
    expect_none_left();
}
END_TEST

START_TEST(a_join_of_nothing_has_no_documents)
{
    raw("\x82\xa4type\xa4Join\xab"
        "documentIds\x90");
    ck_assert_int_eq(read_message(), INTRODUCTION_JOIN);
    expect_none_left();
    raw("\x81\xa4type\xa4Join");
    ck_assert_int_eq(read_message(), INTRODUCTION_JOIN);
    expect_none_left();
}
END_TEST

/* ---- what is ignored ------------------------------------------------------------- */

START_TEST(other_types_and_other_values_are_ignored)
{
    raw("\x81\xa4type\xa5Hello");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
    raw("\x82\xa4type\x01\xab"
        "documentIds\x91\xa3one");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
    expect_none_left();
    raw("\x80");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
    raw("\x93\x01\x02\x03");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
    raw("\xa4Join");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
}
END_TEST

START_TEST(a_message_with_a_malformed_document_id_is_ignored)
{
    static const char *const wrong[] = {"\x01", "\xa3one", "\x91\x01", "\x91\xa0", "\x91\x91\xa1x",
        "\x91\xa1\xff", "\x92\xa3one\xa2\xc3\x28", "\x91\xc0", "\x81\xa1x\xa1y"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        raw("\x82\xa4type\xa4Join\xab"
            "documentIds");
        put(wrong[i], strlen(wrong[i]));
        ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
        expect_none_left();
    }
}
END_TEST

START_TEST(a_message_cut_short_anywhere_or_followed_by_more_is_ignored)
{
    raw("\x83\xa4type\xa4Join\xab"
        "documentIds\x92\xa3one\xd9\x03two\xa1x\x81\xa1y\xcd\x01\x02");
    for (size_t size = 0; size < message_size; size++) {
        ck_assert_int_eq(read_part(size), INTRODUCTION_IGNORED);
        expect_none_left();
    }
    ck_assert_int_eq(read_part(message_size), INTRODUCTION_JOIN);
    raw("\xc0");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
}
END_TEST

START_TEST(a_count_or_length_beyond_the_message_costs_nothing)
{
    raw("\xdf\xff\xff\xff\xff");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
    raw("\x81\xa1x\xdf\xff\xff\xff\xff\xdd\xff\xff\xff\xff");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
    raw("\x81\xa4type\xdb\xff\xff\xff\xffJoin");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
    raw("\x82\xa4type\xa4Join\xab"
        "documentIds\xdd\xff\xff\xff\xff\xa1x");
    ck_assert_int_eq(read_message(), INTRODUCTION_IGNORED);
}
END_TEST

START_TEST(depth_costs_nothing)
{
    raw("\x82\xa4type\xa9Heartbeat\xa1x");
    memset(message + message_size, 0x91, 60000);
    message_size += 60000;
    raw("\xc0");
    ck_assert_int_eq(read_message(), INTRODUCTION_HEARTBEAT);
}
END_TEST

START_TEST(random_bytes_do_no_harm)
{
    unsigned int seed = 1;
    for (int round = 0; round < 20000; round++) {
        struct text id;
        raw("\x82\xa4type\xa4Join\xab"
            "documentIds");
        for (int i = rand_r(&seed) % 40; i > 0; i--)
            message[message_size++] = (char)rand_r(&seed);
        (void)read_message();
        while (introduction_next(&documents, &id))
            if (id.size == 0 || id.size > INTRODUCTION_ID_MAX)
                ck_abort();
    }
}
END_TEST

/* ---- limits ---------------------------------------------------------------------- */

static void join_many(unsigned int count)
{
    raw("\x82\xa4type\xa4Join\xab"
        "documentIds\xdd");
    for (unsigned int shift = 32; shift > 0; shift -= 8)
        message[message_size++] = (char)(count >> (shift - 8));
    for (unsigned int i = 0; i < count; i++)
        raw("\xa1x");
}

static void join_long(unsigned int size)
{
    raw("\x82\xa4type\xa4Join\xab"
        "documentIds\x92\xa1x\xda");
    message[message_size++] = (char)(size >> 8);
    message[message_size++] = (char)size;
    memset(message + message_size, 'd', size);
    message_size += size;
}

START_TEST(more_documents_than_the_limit_are_an_excess)
{
    struct text id;
    size_t count = 0;
    join_many(INTRODUCTION_DOCUMENTS_MAX);
    ck_assert_int_eq(read_message(), INTRODUCTION_JOIN);
    while (introduction_next(&documents, &id))
        count++;
    ck_assert_uint_eq(count, INTRODUCTION_DOCUMENTS_MAX);
    join_many(INTRODUCTION_DOCUMENTS_MAX + 1);
    ck_assert_int_eq(read_message(), INTRODUCTION_EXCESS);
    expect_none_left();
}
END_TEST

START_TEST(a_longer_id_than_the_limit_is_an_excess)
{
    join_long(INTRODUCTION_ID_MAX);
    ck_assert_int_eq(read_message(), INTRODUCTION_JOIN);
    join_long(INTRODUCTION_ID_MAX + 1);
    ck_assert_int_eq(read_message(), INTRODUCTION_EXCESS);
    expect_none_left();
}
END_TEST

/* ---- what is written ------------------------------------------------------------- */

START_TEST(an_introduction_has_its_keys_in_order)
{
    static const char expected[] = "\x83\xa4type\xacIntroduction\xa6peerId\xa3"
                                   "bob\xab"
                                   "documentIds"
                                   "\x92\xa3one\xa3two";
    const struct text common[] = {{"one", 3}, {"two", 3}};
    uint8_t out[128];
    size_t size = introduction_write(out, sizeof out, (struct text){"bob", 3}, common, 2);
    ck_assert_uint_eq(size, sizeof expected - 1);
    ck_assert_mem_eq(out, expected, size);
}
END_TEST

START_TEST(a_large_introduction_has_longer_heads)
{
    static char name[256]; /* the first length that takes two bytes */
    static struct text common[INTRODUCTION_DOCUMENTS_MAX];
    static uint8_t out[1 << 19];
    memset(name, 'n', sizeof name);
    for (size_t i = 0; i < INTRODUCTION_DOCUMENTS_MAX; i++)
        common[i] = (struct text){name, i % 2 == 0 ? sizeof name : 40};
    size_t size =
        introduction_write(out, sizeof out, common[0], common, INTRODUCTION_DOCUMENTS_MAX);
    ck_assert_uint_eq(size, 1 + 5 + 13 + 7 + 259 + 12 + 3 + 512 * (259 + 42));
    ck_assert_mem_eq(out + 26, "\xda\x01\x00nn", 5);
    ck_assert_mem_eq(out + 26 + 259 + 12, "\xdc\x04\x00\xda\x01\x00nn", 8);
    ck_assert_mem_eq(out + 26 + 259 + 12 + 3 + 259, "\xd9\x28nn", 4);
}
END_TEST

START_TEST(a_buffer_that_is_too_small_is_not_overrun)
{
    const struct text common[] = {{"one", 3}};
    uint8_t out[128];
    size_t needed = introduction_write(out, sizeof out, (struct text){"bob", 3}, common, 1);
    for (size_t size = 0; size < needed; size++) {
        uint8_t *room = malloc(size + 1);
        ck_assert_uint_eq(introduction_write(room, size, (struct text){"bob", 3}, common, 1), 0);
        free(room);
    }
    ck_assert_uint_eq(introduction_write(out, needed, (struct text){"bob", 3}, common, 1), needed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("introduction");
    TCase *tests = tcase_create("messages");
    tcase_add_test(tests, join_and_leave_have_documents);
    tcase_add_test(tests, every_spelling_of_a_heartbeat_is_read);
    tcase_add_test(tests, keys_have_any_order_and_unknown_keys_are_skipped);
    tcase_add_test(tests, strings_maps_and_arrays_have_any_form);
    tcase_add_test(tests, a_join_of_nothing_has_no_documents);
    tcase_add_test(tests, other_types_and_other_values_are_ignored);
    tcase_add_test(tests, a_message_with_a_malformed_document_id_is_ignored);
    tcase_add_test(tests, a_message_cut_short_anywhere_or_followed_by_more_is_ignored);
    tcase_add_test(tests, a_count_or_length_beyond_the_message_costs_nothing);
    tcase_add_test(tests, depth_costs_nothing);
    tcase_add_test(tests, random_bytes_do_no_harm);
    tcase_add_test(tests, more_documents_than_the_limit_are_an_excess);
    tcase_add_test(tests, a_longer_id_than_the_limit_is_an_excess);
    tcase_add_test(tests, an_introduction_has_its_keys_in_order);
    tcase_add_test(tests, a_large_introduction_has_longer_heads);
    tcase_add_test(tests, a_buffer_that_is_too_small_is_not_overrun);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
