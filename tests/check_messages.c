/* Messages between two connections that the forwarder holds (messages.c), with the codec of
 * WebSocket, over real sockets. */
#include "forward/messages.h"

#include "base/budget.h"
#include "codec/websocket.h"
#include "protocol.h"
#include "suite.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CONTINUATION = 0x0, /* opcodes */
    TEXT = 0x1,
    BINARY = 0x2,
    CLOSE = 0x8,
    PING = 0x9,
    PONG = 0xa,
    FINAL = 0x80,
    MASKED = 0x80,
    HEAD_MAX = 14,
    FRAME_MAX = 1 << 16,
};

static struct transfer transfer;
static struct connection first, second;
static int first_client, second_client; /* the other side of each */
static _Atomic uint64_t first_bytes, second_bytes;

static uint8_t protocol_named(const char *name)
{
    for (size_t i = 0; i < PROTOCOL_COUNT; i++)
        if (strcmp(protocols[i]->name, name) == 0)
            return (uint8_t)i;
    ck_abort_msg("there is no protocol %s", name);
}

static void open_end(
    struct connection *connection, int *client, _Atomic uint64_t *bytes, enum codec_kind codec)
{
    struct handoff handoff = {.codec = (uint8_t)codec};
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    *client = ends[1];
    *bytes = 0;
    *connection = (struct connection){
        .fd = ends[0],
        .protocol = protocol_named("p2p-copy"),
        .state = CONNECTION_PARKED,
        .writable = true,
        .chunk = TRANSFER_CHUNK,
        .outlet = {.pipe = {-1, -1}},
        .bytes = bytes,
    };
    if (codec != CODEC_PLAIN)
        ck_assert_int_eq(messages_open(connection, &handoff, 0), 0);
}

static void open_both(enum codec_kind first_codec, enum codec_kind second_codec)
{
    open_end(&first, &first_client, &first_bytes, first_codec);
    open_end(&second, &second_client, &second_bytes, second_codec);
}

static void join(void)
{
    first.peer = &second;
    second.peer = &first;
    first.state = second.state = CONNECTION_JOINED;
    messages_settle(&first);
    messages_settle(&second);
}

static void setup(void)
{
    ck_assert_int_eq(transfer_open(&transfer, 16), 0);
}

static void close_end(struct connection *connection, int client)
{
    transfer_break(&transfer, connection);
    messages_close(connection);
    close(connection->fd);
    close(client);
}

static void teardown(void)
{
    close_end(&first, first_client);
    close_end(&second, second_client);
    transfer_close(&transfer);
    for (enum budget_share share = 0; share < BUDGET_SHARES; share++)
        ck_assert_uint_eq(budget_used(share), 0);
}

/* ---- what a client sends and receives -------------------------------------------- */

static size_t make_frame(uint8_t *frame, uint8_t head, const void *payload, size_t size)
{
    static const uint8_t mask[] = {0x12, 0x34, 0x56, 0x78};
    const uint8_t *bytes = payload;
    size_t at = 0;
    frame[at++] = head;
    if (size < 126) {
        frame[at++] = (uint8_t)(MASKED | size);
    } else {
        frame[at++] = MASKED | 126;
        frame[at++] = (uint8_t)(size >> 8);
        frame[at++] = (uint8_t)size;
    }
    memcpy(frame + at, mask, sizeof mask);
    at += sizeof mask;
    for (size_t i = 0; i < size; i++)
        frame[at++] = bytes[i] ^ mask[i % sizeof mask];
    return at;
}

static void client_writes(int client, const void *bytes, size_t size)
{
    ck_assert_int_eq(send(client, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void client_sends_bytes(int client, uint8_t head, const void *payload, size_t size)
{
    uint8_t frame[HEAD_MAX + 4096];
    ck_assert_uint_le(size, 4096);
    client_writes(client, frame, make_frame(frame, head, payload, size));
}

static void client_sends(int client, uint8_t head, const char *payload)
{
    uint8_t frame[HEAD_MAX + 256];
    client_writes(client, frame, make_frame(frame, head, payload, strlen(payload)));
}

/* Moves as much as there is, after an event for what the client has done. */
static void move(struct connection *from)
{
    from->readable = from->writable = from->peer->writable = true;
    transfer_flush(from);
    while (messages_move(&transfer, from))
        continue;
}

static size_t client_reads(int client, uint8_t *bytes, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = recv(client, bytes + done, size - done, 0);
        if (count <= 0)
            break;
        done += (size_t)count;
    }
    return done;
}

static void expect_bytes(int client, const char *expected)
{
    uint8_t bytes[256];
    size_t size = client_reads(client, bytes, sizeof bytes);
    ck_assert_uint_eq(size, strlen(expected));
    ck_assert_mem_eq(bytes, expected, size);
}

/* One unmasked frame. */
static void expect_frame(int client, uint8_t head, const char *expected)
{
    uint8_t bytes[2 + 125];
    ck_assert_uint_eq(client_reads(client, bytes, 2), 2);
    ck_assert_uint_eq(bytes[0], head);
    ck_assert_uint_eq(bytes[1], strlen(expected));
    ck_assert_uint_eq(client_reads(client, bytes, strlen(expected)), strlen(expected));
    ck_assert_mem_eq(bytes, expected, strlen(expected));
}

static void expect_nothing(int client)
{
    uint8_t byte;
    ck_assert_int_eq(recv(client, &byte, 1, 0), -1);
    ck_assert_int_eq(errno, EAGAIN);
}

/* ---- passing on ------------------------------------------------------------------ */

START_TEST(text_stays_text_and_binary_stays_binary)
{
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    client_sends(first_client, FINAL | TEXT, "text");
    client_sends(first_client, FINAL | BINARY, "binary");
    client_sends(first_client, FINAL | BINARY, "");
    move(&first);
    expect_frame(second_client, FINAL | TEXT, "text");
    expect_frame(second_client, FINAL | BINARY, "binary");
    expect_frame(second_client, FINAL | BINARY, "");
    expect_nothing(second_client);
    ck_assert_uint_eq(first_bytes, strlen("text") + strlen("binary"));
}
END_TEST

START_TEST(a_message_is_passed_on_in_pieces_as_it_arrives)
{
    uint8_t frame[HEAD_MAX + 6];
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    size_t size = make_frame(frame, FINAL | TEXT, "pieces", 6);
    client_writes(first_client, frame, size - 4);
    move(&first);
    expect_frame(second_client, TEXT, "pi");
    client_writes(first_client, frame + size - 4, 1);
    move(&first);
    expect_frame(second_client, CONTINUATION, "e");
    client_writes(first_client, frame + size - 3, 3);
    move(&first);
    expect_frame(second_client, FINAL | CONTINUATION, "ces");
}
END_TEST

START_TEST(bytes_become_binary_messages_and_messages_become_bytes)
{
    open_both(CODEC_PLAIN, CODEC_WEBSOCKET);
    join();
    client_writes(first_client, "bytes", 5);
    move(&first);
    expect_frame(second_client, FINAL | BINARY, "bytes");
    client_sends(second_client, BINARY, "a message ");
    client_sends(second_client, FINAL | CONTINUATION, "in two");
    move(&second);
    expect_bytes(first_client, "a message in two");
}
END_TEST

START_TEST(more_messages_than_are_written_at_once_arrive_in_order)
{
    char text[8];
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    for (int i = 0; i < 3 * TRANSFER_PARTS + 1; i++) {
        (void)snprintf(text, sizeof text, "%d", i);
        client_sends(first_client, FINAL | BINARY, text);
    }
    move(&first);
    for (int i = 0; i < 3 * TRANSFER_PARTS + 1; i++) {
        (void)snprintf(text, sizeof text, "%d", i);
        expect_frame(second_client, FINAL | BINARY, text);
    }
    expect_nothing(second_client);
}
END_TEST

START_TEST(a_text_message_ends_a_connection_that_takes_binary_only)
{
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    first.protocol = second.protocol = protocol_named("transit");
    join();
    client_sends(first_client, FINAL | BINARY, "before");
    client_sends(first_client, FINAL | TEXT, "text");
    client_sends(first_client, FINAL | BINARY, "behind");
    move(&first);
    expect_frame(second_client, FINAL | BINARY, "before");
    expect_nothing(second_client);
    ck_assert(first.ended && first.coded->unwelcome && !first.gone);
    ck_assert_uint_eq(first.coded->close_code, WEBSOCKET_UNSUPPORTED);
}
END_TEST

START_TEST(a_broken_frame_ends_the_connection_after_the_messages_before_it)
{
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    client_sends(first_client, FINAL | BINARY, "before");
    client_sends(first_client, FINAL | CONTINUATION, "of nothing");
    move(&first);
    expect_frame(second_client, FINAL | BINARY, "before");
    ck_assert_int_eq(first.coded->verdict, CODEC_FAILED);
    ck_assert(first.ended && !first.gone && !second.ended);
}
END_TEST

START_TEST(text_that_is_not_utf_8_ends_the_connection_and_is_not_passed_on)
{
    uint8_t frame[HEAD_MAX + 8];
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    client_sends(first_client, FINAL | TEXT, "before");
    size_t size = make_frame(frame, FINAL | TEXT, "\xf0\x9f\x90 more", 8);
    client_writes(first_client, frame, size - 6);
    move(&first);
    expect_frame(second_client, FINAL | TEXT, "before");
    expect_frame(second_client, TEXT, "\xf0\x9f");
    ck_assert(!first.ended);
    client_writes(first_client, frame + size - 6, 3);
    move(&first);
    expect_nothing(second_client);
    ck_assert_int_eq(first.coded->verdict, CODEC_FAILED);
    ck_assert(first.ended && !first.gone && !second.ended && second.coded->speaking);
}
END_TEST

/* ---- answering ------------------------------------------------------------------- */

START_TEST(a_ping_is_answered_and_not_passed_on)
{
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    client_sends(first_client, BINARY, "half a message");
    client_sends(first_client, FINAL | PING, "?");
    client_sends(first_client, FINAL | CONTINUATION, ", and the rest");
    move(&first);
    expect_frame(first_client, FINAL | PONG, "?");
    expect_frame(second_client, BINARY, "half a message");
    expect_frame(second_client, FINAL | CONTINUATION, ", and the rest");
}
END_TEST

/* Sends whole frames of `size` bytes until the second client's socket is full. Returns how many. */
static size_t fill_second(size_t size)
{
    static uint8_t frame[HEAD_MAX + FRAME_MAX], payload[FRAME_MAX];
    size_t count = 0;
    while (!transfer_pending(&second)) {
        size_t whole = make_frame(frame, FINAL | BINARY, payload, size);
        for (size_t done = 0; done < whole;) {
            ssize_t sent = send(first_client, frame + done, whole - done, MSG_NOSIGNAL);
            if (sent > 0)
                done += (size_t)sent;
            move(&first);
        }
        count++;
    }
    return count;
}

/* Reads so many bytes of binary messages, in whatever pieces, as the second client, and counts the
 * pongs between them. */
static size_t read_second(size_t size)
{
    static uint8_t payload[1 << 18];
    size_t pongs = 0;
    while (size > 0) {
        uint8_t head[10];
        second.writable = true;
        transfer_flush(&second);
        ck_assert_uint_eq(client_reads(second_client, head, 2), 2);
        size_t length = head[1], wide = length == 127 ? 8 : length == 126 ? 2 : 0;
        ck_assert_uint_eq(client_reads(second_client, head + 2, wide), wide);
        for (size_t i = length = wide == 0 ? length : 0; i < wide; i++)
            length = length << 8 | head[2 + i];
        ck_assert_uint_le(length, sizeof payload);
        for (size_t done = 0; done < length; transfer_flush(&second)) {
            second.writable = true;
            done += client_reads(second_client, payload + done, length - done);
        }
        if ((head[0] & 0xf) == PONG) {
            pongs++;
            continue;
        }
        ck_assert_uint_le(length, size);
        size -= length;
    }
    return pongs;
}

START_TEST(a_client_that_does_not_read_gets_its_pong_between_two_frames)
{
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    size_t count = fill_second(50000);
    client_sends(second_client, FINAL | PING, "?");
    second.writable = false; /* as a write has found */
    second.readable = true;
    (void)messages_move(&transfer, &second);
    size_t pongs = read_second(count * 50000);
    if (pongs == 0) { /* the pong is behind all frames */
        second.writable = true;
        transfer_flush(&second);
        expect_frame(second_client, FINAL | PONG, "?");
    }
    ck_assert_uint_le(pongs, 1);
    ck_assert(!transfer_pending(&second));
    expect_nothing(second_client);
}
END_TEST

START_TEST(nothing_is_read_while_the_peer_does_not_read)
{
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    size_t count = fill_second(50000);
    client_sends(first_client, FINAL | BINARY, "behind");
    first.readable = true;
    ck_assert(!messages_move(&transfer, &first));
    ck_assert(first.readable);
    ck_assert_uint_le(second.outlet.size, TRANSFER_SCRATCH + 64);
    /* The other direction goes on. */
    client_sends(second_client, FINAL | BINARY, "the other way");
    second.readable = first.writable = true;
    (void)messages_move(&transfer, &second);
    expect_frame(first_client, FINAL | BINARY, "the other way");
    ck_assert_uint_eq(read_second(count * 50000), 0);
    move(&first);
    expect_frame(second_client, FINAL | BINARY, "behind");
}
END_TEST

START_TEST(a_client_that_pings_and_reads_no_pong_is_not_read_until_it_does)
{
    static uint8_t pings[100 * 131], bytes[1 << 16];
    size_t size = 0, sent = 0, received = 0, read;
    char payload[126] = "";
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    memset(payload, '.', sizeof payload - 1);
    for (int i = 0; i < 100; i++)
        size += make_frame(pings + size, FINAL | PING, payload, 125);
    join();
    while (messages_may_read(&first)) {
        ssize_t count = send(first_client, pings + sent % size, size - sent % size, MSG_NOSIGNAL);
        if (count > 0)
            sent += (size_t)count;
        move(&first);
    }
    ck_assert(transfer_pending(&first));
    ck_assert_uint_le(first.outlet.size, TRANSFER_SCRATCH);
    while ((read = client_reads(first_client, bytes, sizeof bytes)) > 0) {
        received += read;
        move(&first);
    }
    ck_assert(messages_may_read(&first));
    ck_assert_uint_eq(received, sent / 131 * 127);
}
END_TEST

/* ---- holding --------------------------------------------------------------------- */

static bool hold(void *context, struct connection *from, struct piece *piece)
{
    (void)context;
    return messages_hold(from, piece);
}

START_TEST(held_messages_come_first_and_unchanged)
{
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    client_sends(first_client, FINAL | TEXT, "text");
    client_sends(first_client, BINARY, "begun");
    client_sends(first_client, FINAL | PING, "?");
    first.readable = true;
    (void)messages_read(&transfer, &first, hold, NULL);
    expect_frame(first_client, FINAL | PONG, "?");
    ck_assert_uint_eq(first_bytes, 0);
    client_sends(first_client, FINAL | CONTINUATION, "ended");
    join();
    messages_release(&transfer, &first);
    ck_assert_uint_eq(first.coded->held_size, 0);
    move(&first);
    expect_frame(second_client, FINAL | TEXT, "text");
    expect_frame(second_client, BINARY, "begun");
    expect_frame(second_client, FINAL | CONTINUATION, "ended");
    ck_assert_uint_eq(first_bytes, strlen("textbegunended"));
}
END_TEST

START_TEST(held_messages_become_bytes_for_a_peer_without_a_codec)
{
    open_both(CODEC_WEBSOCKET, CODEC_PLAIN);
    client_sends(first_client, FINAL | BINARY, "one ");
    client_sends(first_client, FINAL | BINARY, "two");
    first.readable = true;
    (void)messages_read(&transfer, &first, hold, NULL);
    join();
    messages_release(&transfer, &first);
    expect_bytes(second_client, "one two");
}
END_TEST

START_TEST(held_messages_are_bounded_and_the_rest_waits_in_the_socket)
{
    size_t sent = 0;
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    for (int i = 0; i < 100000 && messages_may_read(&first); i++) {
        client_sends(first_client, FINAL | BINARY, "x");
        first.readable = true;
        (void)messages_read(&transfer, &first, hold, NULL);
        sent++;
    }
    ck_assert(messages_are_full(&first));
    ck_assert_uint_le(first.coded->held_room, 1 << 19);
    client_sends(first_client, FINAL | BINARY, "behind");
    first.readable = true;
    ck_assert(!messages_read(&transfer, &first, hold, NULL));
    join();
    messages_release(&transfer, &first);
    for (size_t i = 0; i < sent; i++) {
        second.writable = true;
        transfer_flush(&second);
        messages_release(&transfer, &first);
        expect_frame(second_client, FINAL | BINARY, "x");
    }
    move(&first);
    expect_frame(second_client, FINAL | BINARY, "behind");
}
END_TEST

START_TEST(held_messages_wait_for_a_slow_reader_in_the_share_of_waiting_clients)
{
    static const char text[4000];
    int size = 1;
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    while (messages_may_read(&first)) {
        client_sends_bytes(first_client, FINAL | BINARY, text, sizeof text);
        first.readable = true;
        (void)messages_read(&transfer, &first, hold, NULL);
    }
    size_t held = first.account.held;
    ck_assert_int_eq(setsockopt(second.fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    join();
    messages_release(&transfer, &first);
    ck_assert(messages_are_held(&first) && !messages_may_read(&first));
    ck_assert_uint_le(second.account.held, 2 * TRANSFER_CHUNK);
    ck_assert_uint_eq(budget_used(BUDGET_WAITING), held);
    ck_assert_uint_eq(budget_used(BUDGET_STREAMS), second.account.held);
    while (messages_are_held(&first)) {
        uint8_t part[FRAME_MAX];
        ck_assert_int_gt(recv(second_client, part, sizeof part, 0), 0);
        second.writable = true;
        transfer_flush(&second);
        messages_release(&transfer, &first);
    }
    ck_assert(messages_may_read(&first));
    ck_assert_uint_eq(budget_used(BUDGET_WAITING), 0);
}
END_TEST

START_TEST(a_connection_may_hold_less_when_less_is_left_for_all)
{
    struct budget_account others = {.held = 0};
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    budget_take(&others, BUDGET_WAITING_SIZE - (1 << 20));
    for (int i = 0; i < 100000 && messages_may_read(&first); i++) {
        client_sends(first_client, FINAL | BINARY, "x");
        first.readable = true;
        (void)messages_read(&transfer, &first, hold, NULL);
    }
    ck_assert_uint_ge(first.coded->held_size, 1 << 12);
    ck_assert_uint_lt(first.coded->held_size, 1 << 15);
    budget_give(&others, BUDGET_WAITING_SIZE - (1 << 20));
    ck_assert(messages_may_read(&first));
}
END_TEST

START_TEST(long_names_count_as_held_memory_and_are_kept_while_there_is_plenty)
{
    static const uint8_t name[HANDOFF_LONG_NAME_MAX];
    struct handoff handoff = {.codec = CODEC_WEBSOCKET};
    struct budget_account others = {.held = 0};
    open_both(CODEC_PLAIN, CODEC_PLAIN);
    ck_assert_int_eq(handoff_set_name(&handoff, name, sizeof name), 0);
    ck_assert_int_eq(messages_open(&first, &handoff, 0), 0);
    ck_assert_uint_eq(budget_used(BUDGET_WAITING), sizeof name);
    ck_assert(messages_have_room_for_name(&first));
    budget_take(&others, BUDGET_WAITING_SIZE - (1 << 20));
    ck_assert(!messages_have_room_for_name(&first));
    messages_close(&first);
    ck_assert_int_eq(handoff_set_name(&handoff, name, HANDOFF_NAME_MAX), 0);
    ck_assert_int_eq(messages_open(&first, &handoff, 0), 0);
    budget_take(&others, 1 << 20);
    ck_assert(messages_have_room_for_name(&first));
    budget_give(&others, BUDGET_WAITING_SIZE);
}
END_TEST

START_TEST(a_deaf_connection_is_sent_nothing_until_it_is_heard)
{
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    client_sends(first_client, FINAL | BINARY, "early");
    first.readable = true;
    (void)messages_read(&transfer, &first, hold, NULL);
    second.coded->deaf = true;
    join();
    messages_release(&transfer, &first);
    client_sends(first_client, FINAL | BINARY, "late");
    move(&first);
    expect_nothing(second_client);
    ck_assert(!messages_may_write(&second));
    client_sends(second_client, FINAL | PONG, "");
    move(&second);
    ck_assert(messages_may_write(&second));
    move(&first);
    expect_frame(second_client, FINAL | BINARY, "early");
    expect_frame(second_client, FINAL | BINARY, "late");
}
END_TEST

/* ---- saying ---------------------------------------------------------------------- */

START_TEST(a_farewell_is_written_once_and_nothing_behind_it)
{
    struct words words = {.code = WEBSOCKET_GOING_AWAY};
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    join();
    ck_assert(messages_say(&transfer, &first, (const uint8_t *)"news", 4));
    ck_assert(messages_speak(&transfer, &first, &words, true));
    ck_assert(!messages_speak(&transfer, &first, &words, true));
    client_sends(first_client, FINAL | PING, "?");
    move(&first);
    expect_frame(first_client, FINAL | BINARY, "news");
    expect_frame(first_client, FINAL | CLOSE, "\x03\xe9");
    expect_nothing(first_client);
}
END_TEST

START_TEST(a_message_is_assembled_up_to_its_limit)
{
    uint8_t bytes[] = "12345678";
    struct piece piece = {bytes, 8, false, true, false};
    open_both(CODEC_WEBSOCKET, CODEC_WEBSOCKET);
    ck_assert(messages_assemble(&first, &piece, 20));
    ck_assert(messages_assemble(&first, &piece, 20));
    ck_assert(!messages_assemble(&first, &piece, 20));
    piece.size = 4;
    ck_assert(messages_assemble(&first, &piece, 20));
    ck_assert_uint_eq(first.coded->held_size, 20);
    ck_assert_mem_eq(first.coded->held, "12345678123456781234", 20);
    messages_drop_held(&first);
    ck_assert_uint_eq(first.coded->held_size, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("messages");
    TCase *test_case = tcase_create("all");
    tcase_add_checked_fixture(test_case, setup, teardown);
    tcase_add_test(test_case, text_stays_text_and_binary_stays_binary);
    tcase_add_test(test_case, a_message_is_passed_on_in_pieces_as_it_arrives);
    tcase_add_test(test_case, bytes_become_binary_messages_and_messages_become_bytes);
    tcase_add_test(test_case, more_messages_than_are_written_at_once_arrive_in_order);
    tcase_add_test(test_case, a_text_message_ends_a_connection_that_takes_binary_only);
    tcase_add_test(test_case, a_broken_frame_ends_the_connection_after_the_messages_before_it);
    tcase_add_test(test_case, text_that_is_not_utf_8_ends_the_connection_and_is_not_passed_on);
    tcase_add_test(test_case, a_ping_is_answered_and_not_passed_on);
    tcase_add_test(test_case, a_client_that_does_not_read_gets_its_pong_between_two_frames);
    tcase_add_test(test_case, nothing_is_read_while_the_peer_does_not_read);
    tcase_add_test(test_case, a_client_that_pings_and_reads_no_pong_is_not_read_until_it_does);
    tcase_add_test(test_case, held_messages_come_first_and_unchanged);
    tcase_add_test(test_case, held_messages_become_bytes_for_a_peer_without_a_codec);
    tcase_add_test(test_case, held_messages_are_bounded_and_the_rest_waits_in_the_socket);
    tcase_add_test(test_case, held_messages_wait_for_a_slow_reader_in_the_share_of_waiting_clients);
    tcase_add_test(test_case, a_connection_may_hold_less_when_less_is_left_for_all);
    tcase_add_test(test_case, long_names_count_as_held_memory_and_are_kept_while_there_is_plenty);
    tcase_add_test(test_case, a_deaf_connection_is_sent_nothing_until_it_is_heard);
    tcase_add_test(test_case, a_farewell_is_written_once_and_nothing_behind_it);
    tcase_add_test(test_case, a_message_is_assembled_up_to_its_limit);
    suite_add_tcase(suite, test_case);
    return run_suite(suite);
}
