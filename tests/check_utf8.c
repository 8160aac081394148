/* UTF-8: compared with a reader and a writer of this file, whole and in parts. */
#include "codec/utf8.h"
#include "suite.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum {
    LONGEST = 4, /* bytes of a character */
    POINTS = 0x110000,
    TEXT_MAX = 1000,
};

/* Each assertion of libcheck writes to a pipe, which is too slow for every sequence. */
#define require(condition) ((condition) ? (void)0 : ck_abort_msg("not so: %s", #condition))

static unsigned int seed = 1;

static bool is_surrogate(uint32_t point)
{
    return point >= 0xd800 && point <= 0xdfff;
}

/* RFC 3629, section 3. Returns the size. */
static size_t write_point(uint32_t point, uint8_t bytes[LONGEST])
{
    size_t size = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static const uint8_t marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = size - 1; i > 0; i--, point >>= 6)
        bytes[i] = (uint8_t)(0x80 | (point & 0x3f));
    bytes[0] = (uint8_t)(marks[size] | point);
    return size;
}

/* Whether these bytes are one character: it is read, written again, and the bytes are the same. */
static bool is_character(const uint8_t *bytes, size_t size)
{
    uint8_t again[LONGEST];
    uint32_t point = size == 1 ? bytes[0] : bytes[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++)
        point = point << 6 | (bytes[i] & 0x3f);
    return point < POINTS && !is_surrogate(point) && write_point(point, again) == size &&
           memcmp(bytes, again, size) == 0;
}

static bool is_text(const uint8_t *bytes, size_t size)
{
    size_t at = 0;
    while (at < size) {
        size_t length = 1;
        while (length <= LONGEST && length <= size - at && !is_character(bytes + at, length))
            length++;
        if (length > LONGEST || length > size - at)
            return false;
        at += length;
    }
    return true;
}

static bool is_broken(const char *bytes, size_t size)
{
    return utf8_check(UTF8_WHOLE, (const uint8_t *)bytes, size) == UTF8_BROKEN;
}

/* Checks it in parts of random sizes. */
static uint8_t check_in_parts(const uint8_t *bytes, size_t size)
{
    uint8_t state = UTF8_WHOLE;
    for (size_t at = 0; at < size;) {
        size_t part = 1 + (size_t)rand_r(&seed) % 150;
        part = part < size - at ? part : size - at;
        state = utf8_check(state, bytes + at, part);
        at += part;
    }
    return state;
}

/* ---- characters ------------------------------------------------------------------ */

START_TEST(every_character_is_whole_with_its_last_byte)
{
    uint8_t bytes[LONGEST];
    for (uint32_t point = 0; point < POINTS; point++) {
        if (is_surrogate(point))
            continue;
        size_t size = write_point(point, bytes);
        require(utf8_valid(bytes, size));
        uint8_t state = UTF8_WHOLE;
        for (size_t i = 0; i < size; i++) {
            state = utf8_check(state, bytes + i, 1);
            require(state != UTF8_BROKEN && (state == UTF8_WHOLE) == (i == size - 1));
        }
    }
}
END_TEST

START_TEST(no_other_sequence_of_three_bytes_is_well_formed)
{
    for (uint32_t number = 0; number < 1 << 24; number++) {
        uint8_t bytes[] = {(uint8_t)(number >> 16), (uint8_t)(number >> 8), (uint8_t)number};
        require(utf8_valid(bytes, 3) == is_text(bytes, 3));
    }
}
END_TEST

START_TEST(no_other_sequence_of_four_bytes_is_well_formed)
{
    static const uint8_t last[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};
    for (uint32_t number = 0; number < 1 << 16; number++) {
        for (size_t i = 0; i < sizeof last * sizeof last; i++) {
            uint8_t bytes[] = {(uint8_t)(number >> 8), (uint8_t)number, last[i / sizeof last],
                last[i % sizeof last]};
            require(utf8_valid(bytes, 4) == is_text(bytes, 4));
        }
    }
}
END_TEST

START_TEST(text_is_broken_at_its_first_wrong_byte)
{
    ck_assert(is_broken("\x80", 1));
    ck_assert(is_broken("\xc0", 1));
    ck_assert(is_broken("\xc1", 1));
    ck_assert(is_broken("\xf5", 1));
    ck_assert(is_broken("\xff", 1));
    ck_assert(is_broken("\xc3(", 2));
    ck_assert(is_broken("\xe0\x9f", 2));
    ck_assert(is_broken("\xed\xa0", 2));
    ck_assert(is_broken("\xf0\x8f", 2));
    ck_assert(is_broken("\xf4\x90", 2));
    ck_assert(is_broken("\xf0\x9f\x90(", 4));
    ck_assert(!is_broken("\xf0\x9f\x90", 3));
}
END_TEST

/* ---- texts ----------------------------------------------------------------------- */

START_TEST(the_empty_text_is_well_formed)
{
    ck_assert(utf8_valid(NULL, 0));
}
END_TEST

START_TEST(one_wrong_byte_is_found_at_any_place)
{
    uint8_t text[TEXT_MAX];
    memset(text, 'x', sizeof text);
    ck_assert(utf8_valid(text, sizeof text));
    for (size_t at = 0; at < sizeof text; at++) {
        text[at] = 0xff;
        require(!utf8_valid(text, sizeof text));
        require(check_in_parts(text, sizeof text) == UTF8_BROKEN);
        text[at] = 'x';
    }
}
END_TEST

/* Runs of ASCII, some of them long, between characters of all sizes. */
static size_t make_text(uint8_t text[TEXT_MAX])
{
    size_t size = 0;
    while (size < TEXT_MAX - LONGEST) {
        static const uint32_t limits[] = {0x80, 0x80, 0x80, 0x800, 0xd800, POINTS};
        uint32_t limit = limits[rand_r(&seed) % 6];
        for (int run = rand_r(&seed) % 100; run > 0 && size < TEXT_MAX - LONGEST; run--) {
            uint32_t point = (uint32_t)rand_r(&seed) % limit;
            size += write_point(is_surrogate(point) ? 'x' : point, text + size);
        }
    }
    return size;
}

START_TEST(a_text_is_the_same_in_parts)
{
    uint8_t text[TEXT_MAX];
    for (int round = 0; round < 20000; round++) {
        size_t size = make_text(text);
        require(utf8_valid(text, size) && check_in_parts(text, size) == UTF8_WHOLE);
        text[(size_t)rand_r(&seed) % size] = (uint8_t)rand_r(&seed);
        require(utf8_valid(text, size) == is_text(text, size));
        require(check_in_parts(text, size) == utf8_check(UTF8_WHOLE, text, size));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("utf8");
    TCase *test_case = tcase_create("all");
    tcase_set_timeout(test_case, 120);
    tcase_add_test(test_case, every_character_is_whole_with_its_last_byte);
    tcase_add_test(test_case, no_other_sequence_of_three_bytes_is_well_formed);
    tcase_add_test(test_case, no_other_sequence_of_four_bytes_is_well_formed);
    tcase_add_test(test_case, text_is_broken_at_its_first_wrong_byte);
    tcase_add_test(test_case, the_empty_text_is_well_formed);
    tcase_add_test(test_case, one_wrong_byte_is_found_at_any_place);
    tcase_add_test(test_case, a_text_is_the_same_in_parts);
    suite_add_tcase(suite, test_case);
    return run_suite(suite);
}
