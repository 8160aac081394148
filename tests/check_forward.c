/* The forwarder: what becomes of a handoff that it cannot use. */
#include "forwarder.h"
#include "handoff.h"
#include "passing.h"
#include "runtime.h"
#include "suite.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CAPACITY = 64,
    TIMEOUT = 10000,
    FIXED_SIZE = offsetof(struct handoff, session),
    DATAGRAM_MAX = sizeof(struct handoff_head) + sizeof(struct handoff),
};

static char directory[64], table_path[96], socket_path[96];
static struct pair_table *table;
static struct forwarder forwarder;
static struct options options = {.wait_timeout = 60, .linger = 60};
static int receiver, sender, client;

static void set_up(void)
{
    strcpy(directory, "/tmp/check-forward-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    (void)snprintf(table_path, sizeof table_path, "%s/table", directory);
    (void)snprintf(socket_path, sizeof socket_path, "%s/socket", directory);
    ck_assert_int_eq(pair_open(table_path, CAPACITY, &table), 0);
    pair_adopt(table);
    receiver = handoff_listen(socket_path);
    sender = handoff_connect(socket_path, TIMEOUT);
    ck_assert_int_ge(receiver, 0);
    ck_assert_int_ge(sender, 0);
    struct forward_setup setup = {.options = &options,
        .table = table,
        .socket = receiver,
        .recorder = -1,
        .descriptors_max = 1024};
    ck_assert_int_eq(forwarder_open(&forwarder, &setup), 0);
}

static void tear_down(void)
{
    forwarder_close(&forwarder);
    close(sender);
    close(receiver);
    pair_close(table);
    (void)unlink(table_path);
    (void)unlink(socket_path);
    ck_assert_int_eq(rmdir(directory), 0);
}

/* A slot whose connection is on its way, as it is after its worker has sent it. */
static struct pair_ref send_off(const char *name)
{
    const struct pair_limits unlimited = {0, 0};
    struct iovec part = {(void *)(uintptr_t)name, strlen(name)};
    struct pair_request request = {.rule = PAIR_SIDES, .key = pair_key(table, 0, &part, 1)};
    struct pair_meeting meeting;
    struct pair_ref ref;
    ck_assert_int_eq(pair_enter(table, &unlimited, 0, 1, runtime_now() + TIMEOUT, &ref), 0);
    ck_assert_int_eq(pair_meet(table, ref, &request, &meeting), 0);
    ck_assert_int_eq(pair_sent(table, ref), 0);
    return ref;
}

static struct handoff handoff_of(struct pair_ref ref)
{
    struct handoff handoff;
    memset(&handoff, 0, sizeof handoff);
    handoff.kind = HANDOFF_CONNECTION;
    handoff.ref = ref;
    handoff.dismissed = PAIR_NONE;
    handoff.table = pair_id(table);
    return handoff;
}

/* As a worker of that version sends it, with a client's descriptor or without. */
static void send_as(const struct handoff *handoff, uint16_t version, bool with_descriptor)
{
    uint8_t datagram[DATAGRAM_MAX];
    int ends[2];
    struct handoff_head head = {HANDOFF_MAGIC, version, version, FIXED_SIZE, handoff->session_size};
    memcpy(datagram, &head, sizeof head);
    memcpy(datagram + sizeof head, handoff, FIXED_SIZE + handoff->session_size);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(
        passing_send(sender, datagram, sizeof head + FIXED_SIZE + handoff->session_size,
            with_descriptor ? ends[1] : -1, 0),
        0);
    close(ends[1]);
    client = ends[0];
}

static void take_turn(void)
{
    sigset_t none;
    sigemptyset(&none);
    forwarder_round(&forwarder, &none, 0);
}

/* The client has been told, and nothing of it is left. */
static void expect_nothing_left(void)
{
    char byte;
    take_turn();
    ck_assert_int_eq(read(client, &byte, 1), 0);
    ck_assert_uint_eq(pair_used(table), 0);
    ck_assert_uint_eq(forwarder.ends, 0);
    close(client);
}

START_TEST(one_that_can_be_used_keeps_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    send_as(&handoff, HANDOFF_NEEDS, true);
    take_turn();
    ck_assert_uint_eq(pair_used(table), 1);
    ck_assert_uint_eq(forwarder.ends, 1);
    close(client);
    take_turn();
    take_turn();
    ck_assert_uint_eq(pair_used(table), 0);
}
END_TEST

START_TEST(one_with_a_codec_that_nobody_knows_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.codec = CODEC_KINDS + 10;
    send_as(&handoff, HANDOFF_NEEDS, true);
    expect_nothing_left();
}
END_TEST

START_TEST(one_with_keys_that_cannot_be_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.records.suite = UINT8_MAX;
    send_as(&handoff, HANDOFF_NEEDS, true);
    expect_nothing_left();
}
END_TEST

START_TEST(one_with_a_name_that_is_too_long_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.name_size = HANDOFF_NAME_MAX + 1;
    send_as(&handoff, HANDOFF_NEEDS, true);
    expect_nothing_left();
}
END_TEST

START_TEST(one_of_an_unknown_kind_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.kind = 1000;
    send_as(&handoff, HANDOFF_NEEDS, true);
    expect_nothing_left();
}
END_TEST

START_TEST(one_without_its_descriptor_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    send_as(&handoff, HANDOFF_NEEDS, false);
    expect_nothing_left();
}
END_TEST

START_TEST(one_of_a_version_that_is_not_understood_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    send_as(&handoff, HANDOFF_VERSION + 1, true);
    expect_nothing_left();
}
END_TEST

/* It only tells of a connection, whose own handoff is on its way yet. */
START_TEST(a_look_that_cannot_be_used_frees_no_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.kind = HANDOFF_LOOK;
    send_as(&handoff, HANDOFF_NEEDS, true);
    take_turn();
    ck_assert_uint_eq(pair_used(table), 1);
    close(client);
}
END_TEST

START_TEST(one_of_another_table_frees_no_slot_of_this_one)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.table++;
    handoff.name_size = HANDOFF_NAME_MAX + 1;
    send_as(&handoff, HANDOFF_NEEDS, true);
    take_turn();
    ck_assert_uint_eq(pair_used(table), 1);
    close(client);
}
END_TEST

/* Whoever has met it waits again, and is found by the next. */
START_TEST(the_peer_of_one_that_cannot_be_used_waits_again)
{
    struct handoff first = handoff_of(send_off("a")), second = handoff_of(send_off("a"));
    struct pair_view view;
    second.records.suite = UINT8_MAX;
    send_as(&first, HANDOFF_NEEDS, true);
    int waiting = client;
    send_as(&second, HANDOFF_NEEDS, true);
    take_turn();
    ck_assert_uint_eq(pair_used(table), 1);
    ck_assert_int_eq(pair_look(table, first.ref, &view), 0);
    ck_assert_int_eq(view.state, PAIR_WAITING);
    close(client);
    close(waiting);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("forward");
    TCase *tests = tcase_create("handoffs");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, one_that_can_be_used_keeps_its_slot);
    tcase_add_test(tests, one_with_a_codec_that_nobody_knows_frees_its_slot);
    tcase_add_test(tests, one_with_keys_that_cannot_be_frees_its_slot);
    tcase_add_test(tests, one_with_a_name_that_is_too_long_frees_its_slot);
    tcase_add_test(tests, one_of_an_unknown_kind_frees_its_slot);
    tcase_add_test(tests, one_without_its_descriptor_frees_its_slot);
    tcase_add_test(tests, one_of_a_version_that_is_not_understood_frees_its_slot);
    tcase_add_test(tests, a_look_that_cannot_be_used_frees_no_slot);
    tcase_add_test(tests, one_of_another_table_frees_no_slot_of_this_one);
    tcase_add_test(tests, the_peer_of_one_that_cannot_be_used_waits_again);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
