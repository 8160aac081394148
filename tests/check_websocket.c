/* RFC 6455, by its sections: what a server, and an intermediary between two clients, must do with
 * frames. check_http.c tests the opening handshake, section 4.
 *
 * Input is decoded in three ways: at once, byte by byte, and cut at random. Every piece is encoded
 * in place, as in the forwarder, and read by a decoder of this file. So each expectation is about
 * what the other client gets. */
#include "codec/websocket.h"
#include "connection.h"
#include "proto/first_message.h"
#include "suite.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ROOM = 1 << 20,
    RANDOM_ROUNDS = 20,
};

/* Each assertion of libcheck writes to a pipe, which is too slow for every piece. */
#define require(condition) ((condition) ? (void)0 : ck_abort_msg("not so: %s", #condition))

static unsigned int seed = 1;

/* ---- a client's frames ----------------------------------------------------------- */

struct bytes {
    uint8_t *at;
    size_t size;
};

static struct bytes input;

static void put(struct bytes *bytes, const void *more, size_t size)
{
    require(size <= ROOM - bytes->size);
    if (size > 0)
        memcpy(bytes->at + bytes->size, more, size);
    bytes->size += size;
}

static void put_number(struct bytes *bytes, uint64_t number, size_t size)
{
    for (size_t i = size; i > 0; i--) {
        uint8_t byte = (uint8_t)(number >> (8 * (i - 1)));
        put(bytes, &byte, 1);
    }
}

/* The head of a masked frame whose length takes `wide` bytes: 0, 2 or 8. */
static void head(uint8_t first, size_t wide, uint64_t length, const uint8_t mask[4])
{
    uint8_t second = (uint8_t)(0x80 | (wide == 8 ? 127 : wide == 2 ? 126 : length));
    put(&input, &first, 1);
    put(&input, &second, 1);
    put_number(&input, length, wide);
    put(&input, mask, 4);
}

static void frame_of(uint8_t first, const void *payload, size_t size)
{
    uint8_t mask[4];
    for (size_t i = 0; i < sizeof mask; i++)
        mask[i] = (uint8_t)rand_r(&seed);
    head(first, size > 65535 ? 8 : size > 125 ? 2 : 0, size, mask);
    put(&input, payload, size);
    for (size_t i = 0; i < size; i++)
        input.at[input.size - size + i] ^= mask[i % 4];
}

static void frame(uint8_t first, const char *payload)
{
    frame_of(first, payload, strlen(payload));
}

static void close_frame(uint16_t code, const char *reason)
{
    uint8_t payload[125] = {(uint8_t)(code >> 8), (uint8_t)code};
    memcpy(payload + 2, reason, strlen(reason));
    frame_of(0x88, payload, 2 + strlen(reason));
}

#define raw(bytes) put(&input, bytes, sizeof(bytes) - 1)

/* ---- what the relay makes of them ------------------------------------------------ */

static uint8_t *state;
static struct bytes relayed;    /* frames for the other client */
static struct bytes transcript; /* what happened, in words */
static uint64_t total;          /* bytes of payload */

static void note(const char *kind, const void *payload, size_t size)
{
    put(&transcript, kind, strlen(kind));
    put(&transcript, "(", 1);
    put(&transcript, payload, size);
    put(&transcript, ")", 1);
}

static struct budget_account account;

static void open_codec(void)
{
    free(state);
    state = calloc(1, websocket_codec.state_size);
    ck_assert_int_eq(websocket_codec.open(state, NULL, 0, 0, &account), 0);
    relayed.size = transcript.size = 0;
    total = 0;
}

/* Reads one frame of a server: not masked, nothing reserved, its length in the shortest form. */
static const uint8_t *read_frame(const uint8_t *at, uint8_t *first, size_t *size)
{
    *first = at[0];
    *size = at[1];
    require((*first & 0x70) == 0);
    require((*size & 0x80) == 0);
    if (*size < 126)
        return at + 2;
    size_t wide = *size == 126 ? 2 : 8;
    *size = 0;
    for (size_t i = 0; i < wide; i++)
        *size = *size << 8 | at[2 + i];
    require(*size >= (wide == 2 ? 126 : 65536));
    return at + 2 + wide;
}

/* The message in `relayed`, put together: the first frame says its type, the others continue. */
static void note_message(void)
{
    static uint8_t room[ROOM];
    struct bytes message = {room, 0};
    const uint8_t *at = relayed.at, *end = relayed.at + relayed.size;
    bool text = (at[0] & 0x0f) == 1;
    for (size_t count = 0; at < end; count++) {
        uint8_t first;
        size_t size;
        at = read_frame(at, &first, &size);
        require((first & 0x0f) == (count > 0 ? 0 : text ? 1 : 2));
        put(&message, at, size);
        at += size;
        require(((first & 0x80) != 0) == (at == end));
    }
    note(text ? "text" : "binary", message.at, message.size);
    relayed.size = 0;
}

static void relay_piece(struct piece *piece)
{
    struct iovec out;
    total += piece->size;
    require(piece->first == (relayed.size == 0));
    require(piece->size > 0 || piece->last); /* a piece is empty only at the end */
    require(websocket_codec.encode(state, piece, 0, &out) == 0);
    put(&relayed, out.iov_base, out.iov_len);
    if (piece->last)
        note_message();
}

static void note_reply(const struct piece *piece)
{
    uint8_t first;
    size_t size;
    const uint8_t *payload = read_frame(piece->bytes, &first, &size);
    require(first == 0x8a);
    require(payload + size == piece->bytes + piece->size);
    note("pong", payload, size);
}

static enum codec_event decode(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(CODEC_HEAD + size + 1), *at = copy + CODEC_HEAD;
    enum codec_event event;
    if (size > 0)
        memcpy(at, bytes, size);
    do {
        struct piece piece;
        event = websocket_codec.decode(state, &at, &size, 0, &piece);
        if (event == CODEC_PIECE)
            relay_piece(&piece);
        else if (event == CODEC_REPLY)
            note_reply(&piece);
        else if (event == CODEC_LIFE)
            note("life", "", 0);
    } while (event == CODEC_PIECE || event == CODEC_REPLY || event == CODEC_LIFE);
    if (event == CODEC_MORE)
        require(size == 0);
    free(copy);
    return event;
}

static void note_farewell(const char *kind)
{
    uint8_t words[CODEC_FAREWELL_MAX], first;
    char code[16] = "";
    size_t size, written = websocket_codec.farewell(state, 0, "", words);
    const uint8_t *payload = read_frame(words, &first, &size);
    ck_assert_uint_eq(first, 0x88);
    ck_assert_uint_eq((size_t)(payload - words) + size, written);
    if (size > 0)
        (void)snprintf(code, sizeof code, "%u", (unsigned int)(payload[0] << 8 | payload[1]));
    note(kind, code, strlen(code));
}

/* Decodes all input in chunks of `chunk` bytes (0: of random sizes), and notes how it ended. */
static void play(size_t chunk)
{
    enum codec_event event = CODEC_MORE;
    open_codec();
    for (size_t at = 0; at < input.size && event == CODEC_MORE;) {
        size_t most = input.size - at;
        size_t size = chunk == 0 ? (size_t)rand_r(&seed) % 40 : chunk;
        size = size < most ? size : most;
        event = decode(input.at + at, size);
        at += size;
    }
    if (event == CODEC_CLOSED)
        note_farewell("closed");
    else if (event == CODEC_FAILED)
        note_farewell("failed");
}

static void expect_played(const void *expected, size_t size)
{
    if (transcript.size != size || memcmp(transcript.at, expected, size) != 0)
        ck_abort_msg("expected <%.*s>, got <%.*s>", (int)(size > 400 ? 400 : size),
            (const char *)expected, (int)(transcript.size > 400 ? 400 : transcript.size),
            (const char *)transcript.at);
}

/* Expects this, however the input is cut; then starts again without input. */
static void expect_bytes(const void *expected, size_t size)
{
    play(input.size);
    expect_played(expected, size);
    play(1);
    expect_played(expected, size);
    for (int round = 0; round < RANDOM_ROUNDS; round++) {
        play(0);
        expect_played(expected, size);
    }
    input.size = 0;
}

static void expect(const char *expected)
{
    expect_bytes(expected, strlen(expected));
}

static void set_up(void)
{
    input.at = malloc(ROOM);
    relayed.at = malloc(ROOM);
    transcript.at = malloc(ROOM);
    input.size = 0;
    open_codec();
}

static void tear_down(void)
{
    websocket_codec.close(state);
    free(state);
    state = NULL;
    free(input.at);
    free(relayed.at);
    free(transcript.at);
}

/* ---- 5.1 overview ---------------------------------------------------------------- */

START_TEST(test_5_1_a_frame_that_is_not_masked_closes_the_connection)
{
    raw("\x81\x05Hello");
    expect("failed(1002)");
    raw("\x89\x00");
    expect("failed(1002)");
    frame(0x81, "good");
    raw("\x82\x7e\x01\x00");
    expect("text(good)failed(1002)");
}
END_TEST

START_TEST(test_5_1_bytes_behind_an_error_are_not_processed)
{
    raw("\x81\x05Hello");
    frame(0x81, "more");
    frame(0x89, "ping");
    expect("failed(1002)");
}
END_TEST

/* ---- 5.2 base framing ------------------------------------------------------------ */

START_TEST(test_5_2_reserved_bits_without_an_extension_fail)
{
    for (unsigned int bits = 0x10; bits <= 0x70; bits += 0x10) {
        frame((uint8_t)(0x82 | bits), "x");
        expect("failed(1002)");
        frame((uint8_t)(0x89 | bits), "x");
        expect("failed(1002)");
        frame(0x02, "x");
        frame((uint8_t)(0x80 | bits), "y");
        expect("failed(1002)");
    }
}
END_TEST

START_TEST(test_5_2_reserved_opcodes_fail)
{
    for (unsigned int opcode = 0; opcode < 16; opcode++) {
        if ((opcode >= 3 && opcode <= 7) || opcode >= 11) {
            frame((uint8_t)(0x80 | opcode), "");
            expect("failed(1002)");
        }
    }
}
END_TEST

START_TEST(test_5_2_a_length_has_its_shortest_form)
{
    static const uint8_t mask[4] = {1, 2, 3, 4};
    static const struct {
        size_t wide;
        uint64_t length;
    } wrong[] = {{2, 0}, {2, 1}, {2, 125}, {8, 0}, {8, 125}, {8, 126}, {8, 65535}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        head(0x82, wrong[i].wide, wrong[i].length, mask);
        expect("failed(1002)");
    }
}
END_TEST

START_TEST(test_5_2_the_most_significant_bit_of_a_length_is_0)
{
    static const uint8_t mask[4] = {1, 2, 3, 4};
    head(0x82, 8, 1ULL << 63, mask);
    expect("failed(1002)");
    head(0x82, 8, UINT64_MAX, mask);
    expect("failed(1002)");
}
END_TEST

START_TEST(test_5_2_every_form_of_length_is_read_and_written)
{
    static const size_t sizes[] = {0, 1, 124, 125, 126, 127, 255, 256, 65534, 65535, 65536, 65537};
    static uint8_t payload[65537], expected[65537 + 8];
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)rand_r(&seed);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        frame_of(0x82, payload, sizes[i]);
        memcpy(expected, "binary(", 7);
        memcpy(expected + 7, payload, sizes[i]);
        expected[7 + sizes[i]] = ')';
        expect_bytes(expected, 8 + sizes[i]);
    }
}
END_TEST

/* ---- 5.3 masking ----------------------------------------------------------------- */

START_TEST(test_5_3_each_byte_is_unmasked_by_its_place_however_it_is_cut)
{
    uint8_t payload[300], expected[308];
    for (size_t size = 0; size <= sizeof payload; size += 1 + size / 8) {
        for (size_t i = 0; i < size; i++)
            payload[i] = (uint8_t)rand_r(&seed);
        frame_of(0x82, payload, size);
        memcpy(expected, "binary(", 7);
        memcpy(expected + 7, payload, size);
        expected[7 + size] = ')';
        expect_bytes(expected, 8 + size);
    }
}
END_TEST

START_TEST(test_5_3_a_mask_is_of_its_own_frame)
{
    frame(0x01, "abc");
    frame(0x00, "defgh");
    frame(0x89, "i");
    frame(0x80, "jk");
    expect("pong(i)text(abcdefghjk)");
}
END_TEST

/* ---- 5.4 fragmentation ----------------------------------------------------------- */

START_TEST(test_5_4_fragments_make_one_message)
{
    frame(0x01, "one ");
    frame(0x00, "two ");
    frame(0x80, "three");
    frame(0x82, "whole");
    expect("text(one two three)binary(whole)");
}
END_TEST

START_TEST(test_5_4_empty_fragments_change_nothing)
{
    frame(0x01, "");
    frame(0x00, "");
    frame(0x00, "middle");
    frame(0x00, "");
    frame(0x80, "");
    frame(0x02, "");
    frame(0x80, "");
    frame(0x81, "");
    expect("text(middle)binary()text()");
}
END_TEST

START_TEST(test_5_4_control_frames_may_stand_between_fragments)
{
    frame(0x01, "Hel");
    frame(0x89, "ping");
    frame(0x8a, "");
    frame(0x00, "lo");
    frame(0x89, "");
    frame(0x80, "");
    expect("pong(ping)life()pong()text(Hello)");
}
END_TEST

START_TEST(test_5_4_a_close_may_come_inside_a_message)
{
    frame(0x01, "Hel");
    close_frame(1001, "");
    expect("closed(1001)");
}
END_TEST

START_TEST(test_5_4_control_frames_are_not_fragmented)
{
    for (unsigned int opcode = 8; opcode <= 10; opcode++) {
        frame((uint8_t)opcode, "");
        expect("failed(1002)");
    }
}
END_TEST

START_TEST(test_5_4_messages_are_not_interleaved)
{
    frame(0x01, "one");
    frame(0x81, "two");
    expect("failed(1002)");
    frame(0x02, "one");
    frame(0x02, "two");
    expect("failed(1002)");
}
END_TEST

START_TEST(test_5_4_a_continuation_without_a_message_fails)
{
    frame(0x80, "x");
    expect("failed(1002)");
    frame(0x00, "x");
    expect("failed(1002)");
    frame(0x81, "whole");
    frame(0x80, "x");
    expect("text(whole)failed(1002)");
}
END_TEST

START_TEST(test_5_4_one_byte_fragments_are_passed_on_as_they_are)
{
    static char expected[10000 + 8];
    size_t size = 10000;
    memcpy(expected, "binary(", 7);
    for (size_t i = 0; i < size; i++) {
        char character = (char)('a' + i % 26);
        frame_of((uint8_t)((i == 0 ? 2 : 0) | (i == size - 1 ? 0x80 : 0)), &character, 1);
        expected[7 + i] = character;
    }
    expected[7 + size] = ')';
    expect_bytes(expected, 8 + size);
}
END_TEST

START_TEST(test_5_4_a_message_is_passed_on_before_it_is_whole)
{
    static const uint8_t mask[4] = {0, 0, 0, 0};
    head(0x82, 8, 1 << 30, mask);
    raw("beginning");
    ck_assert_int_eq(decode(input.at, input.size), CODEC_MORE);
    ck_assert_uint_eq(total, 9);
    ck_assert_uint_eq(relayed.at[0], 0x02); /* more will come */
}
END_TEST

/* ---- 5.5 control frames ---------------------------------------------------------- */

START_TEST(test_5_5_a_control_frame_holds_125_bytes_at_most)
{
    char payload[127] = "", expected[160];
    memset(payload, 'p', 125);
    frame(0x89, payload);
    (void)snprintf(expected, sizeof expected, "pong(%s)", payload);
    expect(expected);
    memset(payload, 'p', 126);
    for (unsigned int opcode = 8; opcode <= 10; opcode++) {
        frame((uint8_t)(0x80 | opcode), payload);
        expect("failed(1002)");
    }
}
END_TEST

START_TEST(test_5_5_1_a_close_is_answered_with_its_code)
{
    frame(0x88, "");
    expect("closed()");
    close_frame(1000, "");
    expect("closed(1000)");
    close_frame(1000, "done, with a reason in UTF-8: \xe2\x9c\x93");
    expect("closed(1000)");
}
END_TEST

START_TEST(test_5_5_1_bytes_behind_a_close_are_discarded)
{
    close_frame(1000, "");
    frame(0x81, "late");
    frame(0x89, "late");
    expect("closed(1000)");
}
END_TEST

START_TEST(test_5_5_1_a_payload_of_one_byte_is_no_code)
{
    frame(0x88, "x");
    expect("failed(1002)");
}
END_TEST

START_TEST(test_5_5_1_a_close_is_sent_once)
{
    uint8_t words[CODEC_FAREWELL_MAX];
    ck_assert_uint_eq(websocket_codec.farewell(state, 1013, "Duplicate", words), 4 + 9);
    ck_assert_mem_eq(words,
        "\x88\x0b\x03\xf5"
        "Duplicate",
        13);
    ck_assert_uint_eq(websocket_codec.farewell(state, 1000, "", words), 0);
    close_frame(1013, "");
    ck_assert_int_eq(decode(input.at, input.size), CODEC_CLOSED);
    ck_assert_uint_eq(websocket_codec.farewell(state, 0, "", words), 0);
}
END_TEST

START_TEST(test_5_5_1_a_connection_that_ends_well_is_closed_with_1000)
{
    note_farewell("closed");
    expect_played("closed(1000)", 12);
}
END_TEST

START_TEST(test_5_5_1_a_reason_that_is_too_long_is_cut_between_characters)
{
    uint8_t words[CODEC_FAREWELL_MAX];
    char reason[300];
    memset(reason, 'r', sizeof reason);
    reason[299] = '\0';
    ck_assert_uint_eq(websocket_codec.farewell(state, 1000, reason, words), 4 + 123);
    open_codec();
    memcpy(reason + 121, "\xe2\x9c\x93", 3);
    ck_assert_uint_eq(websocket_codec.farewell(state, 1000, reason, words), 4 + 121);
}
END_TEST

START_TEST(test_5_5_2_a_ping_is_answered_with_the_same_payload)
{
    frame(0x89, "");
    frame(0x89, "one");
    frame_of(0x89, "\0\xff\x80", 3);
    expect_bytes("pong()pong(one)pong(\0\xff\x80)", 24);
}
END_TEST

START_TEST(test_5_5_2_a_ping_inside_a_frame_cut_in_two_waits_for_its_end)
{
    frame(0x81, "first");
    frame(0x89, "then");
    frame(0x81, "last");
    expect("text(first)pong(then)text(last)");
}
END_TEST

START_TEST(test_5_5_3_an_unsolicited_pong_is_not_answered)
{
    frame(0x8a, "unsolicited");
    expect("life()");
}
END_TEST

/* ---- 5.6 data frames ------------------------------------------------------------- */

START_TEST(test_5_6_text_stays_text_and_binary_stays_binary)
{
    frame(0x81, "\xe2\x9d\xa4\xef\xb8\x8f");
    frame_of(0x82, "\0\xff", 2);
    expect_bytes("text(\xe2\x9d\xa4\xef\xb8\x8f)binary(\0\xff)", 22);
}
END_TEST

/* ---- 5.7 examples ---------------------------------------------------------------- */

START_TEST(test_5_7_a_masked_text_message)
{
    raw("\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    expect("text(Hello)");
}
END_TEST

START_TEST(test_5_7_an_unmasked_text_message_goes_out)
{
    uint8_t room[CODEC_HEAD + 5];
    struct piece piece = {room + CODEC_HEAD, 5, .text = true, .first = true, .last = true};
    struct iovec out;
    memcpy(piece.bytes, "Hello", 5);
    ck_assert_int_eq(websocket_codec.encode(state, &piece, 0, &out), 0);
    ck_assert_uint_eq(out.iov_len, 7);
    ck_assert_mem_eq(out.iov_base, "\x81\x05Hello", 7);
}
END_TEST

START_TEST(test_5_7_a_fragmented_unmasked_text_message_goes_out)
{
    uint8_t room[CODEC_HEAD + 3];
    struct piece piece = {room + CODEC_HEAD, 3, .text = true, .first = true, .last = false};
    struct iovec out;
    memcpy(piece.bytes, "Hel", 3);
    ck_assert_int_eq(websocket_codec.encode(state, &piece, 0, &out), 0);
    ck_assert_mem_eq(out.iov_base, "\x01\x03Hel", 5);
    piece = (struct piece){room + CODEC_HEAD, 2, .text = true, .first = false, .last = true};
    memcpy(piece.bytes, "lo", 2);
    ck_assert_int_eq(websocket_codec.encode(state, &piece, 0, &out), 0);
    ck_assert_mem_eq(out.iov_base, "\x80\x02lo", 4);
}
END_TEST

START_TEST(test_5_7_a_ping_and_its_pong)
{
    raw("\x89\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    expect("pong(Hello)");
}
END_TEST

/* ---- 7.4 close codes ------------------------------------------------------------- */

START_TEST(test_7_4_only_codes_that_may_be_sent_are_accepted)
{
    for (unsigned int code = 0; code < 65536; code += code < 5010 ? 1 : 997) {
        char expected[32];
        bool defined = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014);
        bool good = defined || (code >= 3000 && code <= 4999);
        close_frame((uint16_t)code, "");
        (void)snprintf(expected, sizeof expected, good ? "closed(%u)" : "failed(1002)", code);
        play(input.size);
        expect_played(expected, strlen(expected));
        input.size = 0;
    }
}
END_TEST

/* ---- 8.1 UTF-8 ------------------------------------------------------------------- */

static const char *const wrong[] = {"\x80", "\xc0\xaf", "\xc2", "\xe0\x80\x80", "\xe2\x9c",
    "\xed\xa0\x80", "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
    "good\xe2\x9c\x28", "\xc3\xa9\xc3"};
static const char *const right[] = {"\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
    "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};

#define FOR_EACH(name, texts)                                                                      \
    for (const char *const *name = texts; name < texts + sizeof(texts) / sizeof(texts)[0]; name++)

START_TEST(test_8_1_a_reason_that_is_no_utf_8_fails)
{
    FOR_EACH(text, wrong)
    {
        close_frame(1000, *text);
        expect("failed(1007)");
    }
    FOR_EACH(text, right)
    {
        close_frame(1000, *text);
        expect("closed(1000)");
    }
}
END_TEST

START_TEST(test_8_1_text_that_is_no_utf_8_fails)
{
    FOR_EACH(text, wrong)
    {
        frame(0x81, *text);
        frame(0x81, "behind it");
        expect("failed(1007)");
    }
    FOR_EACH(text, right)
    {
        char expected[32];
        frame(0x81, *text);
        (void)snprintf(expected, sizeof expected, "text(%s)", *text);
        expect(expected);
    }
}
END_TEST

START_TEST(test_8_1_binary_may_be_anything)
{
    FOR_EACH(text, wrong)
    {
        char expected[32];
        frame(0x82, *text);
        (void)snprintf(expected, sizeof expected, "binary(%s)", *text);
        expect(expected);
    }
    frame(0x81, "text first");
    frame(0x02, "\xff");
    frame(0x80, "\xff");
    expect("text(text first)binary(\xff\xff)");
}
END_TEST

START_TEST(test_8_1_a_character_may_be_cut_by_fragments_and_control_frames)
{
    frame(0x01, "a fish: \xf0");
    frame(0x00, "\x9f");
    frame(0x00, "");
    frame(0x89, "\xff");
    frame(0x80, "\x90\x9f!");
    expect("pong(\xff)text(a fish: \xf0\x9f\x90\x9f!)");
}
END_TEST

START_TEST(test_8_1_a_character_ends_with_its_message)
{
    frame(0x01, "\xe2\x9c");
    frame(0x80, "");
    expect("failed(1007)");
    frame(0x81, "\xe2\x9c");
    frame(0x81, "\x93");
    expect("failed(1007)");
    frame(0x01, "\xe2\x9c");
    frame(0x80, "no rest");
    expect("failed(1007)");
}
END_TEST

/* Wrong text is noticed before its frame and its message are whole. */
START_TEST(test_8_1_text_fails_at_its_first_wrong_byte)
{
    static const uint8_t mask[4] = {0};
    frame(0x01, "the message is not whole \xf4\x90");
    expect("failed(1007)");
    head(0x81, 8, INT64_MAX, mask);
    raw("nor is the frame \xed\xa0");
    expect("failed(1007)");
    head(0x81, 0, 10, mask);
    raw("may be \xed");
    expect("");
}
END_TEST

/* ---- 10.4 limits ----------------------------------------------------------------- */

START_TEST(test_10_4_the_largest_length_costs_no_memory)
{
    static const uint8_t mask[4] = {1, 2, 3, 4};
    uint8_t zeros[1000] = {0};
    head(0x82, 8, INT64_MAX, mask);
    ck_assert_uint_le(websocket_codec.state_size, 256);
    ck_assert_int_eq(decode(input.at, input.size), CODEC_MORE);
    for (int i = 0; i < 1000; i++) {
        relayed.size = i > 0;
        ck_assert_int_eq(decode(zeros, sizeof zeros), CODEC_MORE);
    }
    ck_assert_uint_eq(total, 1000000);
}
END_TEST

START_TEST(test_10_4_a_flood_of_empty_fragments_is_passed_on_as_nothing)
{
    frame(0x02, "");
    for (int i = 0; i < 20000; i++)
        frame(0x00, "");
    ck_assert_int_eq(decode(input.at, input.size), CODEC_MORE);
    ck_assert_uint_eq(relayed.size, 0);
    input.size = 0;
    frame(0x80, "end");
    ck_assert_int_eq(decode(input.at, input.size), CODEC_MORE);
    expect_played("binary(end)", 11);
}
END_TEST

START_TEST(test_10_4_random_bytes_end_in_an_error_or_a_close)
{
    uint8_t bytes[64];
    for (int round = 0; round < 20000; round++) {
        enum codec_event event = CODEC_MORE;
        open_codec();
        for (int i = 0; i < 4 && event == CODEC_MORE; i++) {
            for (size_t at = 0; at < sizeof bytes; at++)
                bytes[at] = (uint8_t)rand_r(&seed);
            event = decode(bytes, sizeof bytes);
        }
        if (event != CODEC_MORE) /* and no more is decoded */
            ck_assert_int_eq(decode(bytes, sizeof bytes), event);
    }
}
END_TEST

/* ---- signs of life --------------------------------------------------------------- */

static void expect_ping(void)
{
    struct iovec out;
    ck_assert_int_eq(websocket_codec.silent(state, 0, &out), 0);
    ck_assert_uint_eq(out.iov_len, 2);
    ck_assert_mem_eq(out.iov_base, "\x89\x00", 2);
}

START_TEST(a_silent_client_is_pinged_twice_and_then_closed)
{
    struct iovec out;
    expect_ping();
    expect_ping();
    ck_assert_int_eq(websocket_codec.silent(state, 0, &out), -ETIMEDOUT);
    ck_assert_mem_eq(out.iov_base, "\x89\x00", 2); /* a client that was not read is asked again */
}
END_TEST

START_TEST(any_input_is_a_sign_of_life)
{
    static const char *const signs[] = {"\x8a", "\x81", "\x82\xfe"};
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
        open_codec();
        expect_ping();
        expect_ping();
        ck_assert_int_eq(decode((const uint8_t *)signs[i], strlen(signs[i])), CODEC_MORE);
        expect_ping();
        expect_ping();
    }
}
END_TEST

START_TEST(a_session_is_empty)
{
    ck_assert_int_eq(websocket_codec.open(state, (const uint8_t *)"x", 1, 0, &account), -EBADMSG);
}
END_TEST

/* ---- one message in a greeting --------------------------------------------------- */

static void set_up_connection(void)
{
    set_up();
    open_connection();
}

static void tear_down_connection(void)
{
    close_connection();
    tear_down();
}

static void send_input(void)
{
    say(input.at, input.size);
    input.size = 0;
}

static void expect_read(const char *expected, bool expected_text)
{
    uint8_t buffer[64];
    bool text;
    struct greeting greeting = greeting_within(10000);
    ssize_t size = first_message_read(&greeting, buffer, sizeof buffer, &text);
    ck_assert_int_eq(size, (ssize_t)strlen(expected));
    ck_assert_mem_eq(buffer, expected, (size_t)size);
    ck_assert_int_eq(text, expected_text);
}

static void expect_failure(int expected)
{
    uint8_t buffer[64];
    bool text;
    struct greeting greeting = greeting_within(10000);
    ck_assert_int_eq(first_message_read(&greeting, buffer, sizeof buffer, &text), expected);
}

static void expect_heard(const void *expected, size_t size)
{
    uint8_t heard[256];
    ck_assert_int_eq(recv(client, heard, sizeof heard, MSG_DONTWAIT), (ssize_t)size);
    ck_assert_mem_eq(heard, expected, size);
}

static void expect_silence(void)
{
    uint8_t heard;
    ck_assert_int_eq(recv(client, &heard, 1, MSG_DONTWAIT), -1);
}

START_TEST(a_message_is_read_and_nothing_behind_it)
{
    frame(0x81, "hello");
    size_t first = input.size;
    frame(0x82, "next");
    int left = (int)(input.size - first);
    send_input();
    expect_read("hello", true);
    ck_assert_int_eq(left_to_read(), left);
    expect_read("next", false);
    ck_assert_int_eq(left_to_read(), 0);
    expect_silence();
}
END_TEST

START_TEST(a_message_in_fragments_is_read_and_pings_in_between_are_answered)
{
    frame(0x89, "one");
    frame(0x01, "hel");
    frame(0x8a, "");
    frame(0x89, "two");
    frame(0x80, "lo");
    size_t first = input.size;
    frame(0x89, "the forwarder's");
    int left = (int)(input.size - first);
    send_input();
    expect_read("hello", true);
    ck_assert_int_eq(left_to_read(), left);
    expect_heard("\x8a\x03one\x8a\x03two", 10);
}
END_TEST

START_TEST(a_message_byte_by_byte_is_read)
{
    frame(0x01, "hel");
    frame(0x80, "lo");
    pid_t child = fork();
    if (child == 0) {
        for (size_t i = 0; i < input.size; i++)
            ck_assert_int_eq(send(client, input.at + i, 1, 0), 1);
        _exit(0);
    }
    expect_read("hello", true);
    ck_assert_int_eq(left_to_read(), 0);
}
END_TEST

START_TEST(a_message_of_the_size_of_the_buffer_is_read)
{
    char words[65];
    memset(words, 'w', 64);
    words[64] = '\0';
    frame(0x81, words);
    send_input();
    expect_read(words, true);
}
END_TEST

START_TEST(a_larger_message_is_refused_with_1009)
{
    char words[66];
    memset(words, 'w', 65);
    words[65] = '\0';
    frame(0x81, words);
    send_input();
    expect_failure(-EMSGSIZE);
    expect_heard("\x88\x02\x03\xf1", 4);
}
END_TEST

START_TEST(a_breach_of_the_protocol_is_refused_with_1002)
{
    raw("\x81\x05hello");
    send_input();
    expect_failure(-EPROTO);
    expect_heard("\x88\x02\x03\xea", 4);
}
END_TEST

START_TEST(text_that_is_no_utf_8_is_refused_with_1007)
{
    frame(0x81, "hel\xc0");
    send_input();
    expect_failure(-EPROTO);
    expect_heard("\x88\x02\x03\xef", 4);
}
END_TEST

START_TEST(a_close_before_the_message_is_answered)
{
    close_frame(1001, "gone");
    send_input();
    expect_failure(-ECONNRESET);
    expect_heard("\x88\x02\x03\xe9", 4);
}
END_TEST

START_TEST(an_end_of_file_before_the_message_is_whole_is_not_answered)
{
    frame(0x01, "hel");
    send_input();
    ck_assert_int_eq(shutdown(client, SHUT_WR), 0);
    expect_failure(-ECONNRESET);
    expect_silence();
}
END_TEST

START_TEST(a_message_that_does_not_come_ends_at_the_deadline)
{
    uint8_t buffer[64];
    bool text;
    frame(0x01, "hel");
    send_input();
    struct greeting greeting = greeting_within(50);
    ck_assert_int_eq(first_message_read(&greeting, buffer, sizeof buffer, &text), -ETIMEDOUT);
}
END_TEST

static TCase *framing_tests(void)
{
    TCase *tests = tcase_create("framing");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, test_5_1_a_frame_that_is_not_masked_closes_the_connection);
    tcase_add_test(tests, test_5_1_bytes_behind_an_error_are_not_processed);
    tcase_add_test(tests, test_5_2_reserved_bits_without_an_extension_fail);
    tcase_add_test(tests, test_5_2_reserved_opcodes_fail);
    tcase_add_test(tests, test_5_2_a_length_has_its_shortest_form);
    tcase_add_test(tests, test_5_2_the_most_significant_bit_of_a_length_is_0);
    tcase_add_test(tests, test_5_2_every_form_of_length_is_read_and_written);
    tcase_add_test(tests, test_5_3_each_byte_is_unmasked_by_its_place_however_it_is_cut);
    tcase_add_test(tests, test_5_3_a_mask_is_of_its_own_frame);
    tcase_add_test(tests, test_5_4_fragments_make_one_message);
    tcase_add_test(tests, test_5_4_empty_fragments_change_nothing);
    tcase_add_test(tests, test_5_4_control_frames_may_stand_between_fragments);
    tcase_add_test(tests, test_5_4_a_close_may_come_inside_a_message);
    tcase_add_test(tests, test_5_4_control_frames_are_not_fragmented);
    tcase_add_test(tests, test_5_4_messages_are_not_interleaved);
    tcase_add_test(tests, test_5_4_a_continuation_without_a_message_fails);
    tcase_add_test(tests, test_5_4_one_byte_fragments_are_passed_on_as_they_are);
    tcase_add_test(tests, test_5_4_a_message_is_passed_on_before_it_is_whole);
    tcase_add_test(tests, test_5_5_a_control_frame_holds_125_bytes_at_most);
    tcase_add_test(tests, test_5_5_1_a_close_is_answered_with_its_code);
    tcase_add_test(tests, test_5_5_1_bytes_behind_a_close_are_discarded);
    tcase_add_test(tests, test_5_5_1_a_payload_of_one_byte_is_no_code);
    tcase_add_test(tests, test_5_5_1_a_close_is_sent_once);
    tcase_add_test(tests, test_5_5_1_a_connection_that_ends_well_is_closed_with_1000);
    tcase_add_test(tests, test_5_5_1_a_reason_that_is_too_long_is_cut_between_characters);
    tcase_add_test(tests, test_5_5_2_a_ping_is_answered_with_the_same_payload);
    tcase_add_test(tests, test_5_5_2_a_ping_inside_a_frame_cut_in_two_waits_for_its_end);
    tcase_add_test(tests, test_5_5_3_an_unsolicited_pong_is_not_answered);
    tcase_add_test(tests, test_5_6_text_stays_text_and_binary_stays_binary);
    tcase_add_test(tests, test_5_7_a_masked_text_message);
    tcase_add_test(tests, test_5_7_an_unmasked_text_message_goes_out);
    tcase_add_test(tests, test_5_7_a_fragmented_unmasked_text_message_goes_out);
    tcase_add_test(tests, test_5_7_a_ping_and_its_pong);
    tcase_add_test(tests, test_7_4_only_codes_that_may_be_sent_are_accepted);
    tcase_add_test(tests, test_8_1_a_reason_that_is_no_utf_8_fails);
    tcase_add_test(tests, test_8_1_text_that_is_no_utf_8_fails);
    tcase_add_test(tests, test_8_1_binary_may_be_anything);
    tcase_add_test(tests, test_8_1_a_character_may_be_cut_by_fragments_and_control_frames);
    tcase_add_test(tests, test_8_1_a_character_ends_with_its_message);
    tcase_add_test(tests, test_8_1_text_fails_at_its_first_wrong_byte);
    tcase_add_test(tests, test_10_4_the_largest_length_costs_no_memory);
    tcase_add_test(tests, test_10_4_a_flood_of_empty_fragments_is_passed_on_as_nothing);
    tcase_add_test(tests, test_10_4_random_bytes_end_in_an_error_or_a_close);
    tcase_add_test(tests, a_silent_client_is_pinged_twice_and_then_closed);
    tcase_add_test(tests, any_input_is_a_sign_of_life);
    tcase_add_test(tests, a_session_is_empty);
    return tests;
}

static TCase *greeting_tests(void)
{
    TCase *tests = tcase_create("greeting");
    tcase_add_checked_fixture(tests, set_up_connection, tear_down_connection);
    tcase_add_test(tests, a_message_is_read_and_nothing_behind_it);
    tcase_add_test(tests, a_message_in_fragments_is_read_and_pings_in_between_are_answered);
    tcase_add_test(tests, a_message_byte_by_byte_is_read);
    tcase_add_test(tests, a_message_of_the_size_of_the_buffer_is_read);
    tcase_add_test(tests, a_larger_message_is_refused_with_1009);
    tcase_add_test(tests, a_breach_of_the_protocol_is_refused_with_1002);
    tcase_add_test(tests, text_that_is_no_utf_8_is_refused_with_1007);
    tcase_add_test(tests, a_close_before_the_message_is_answered);
    tcase_add_test(tests, an_end_of_file_before_the_message_is_whole_is_not_answered);
    tcase_add_test(tests, a_message_that_does_not_come_ends_at_the_deadline);
    return tests;
}

int main(void)
{
    Suite *suite = suite_create("websocket");
    suite_add_tcase(suite, framing_tests());
    suite_add_tcase(suite, greeting_tests());
    return run_suite(suite);
}
