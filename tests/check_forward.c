/* The forwarder: handoffs that it cannot use, connections that it cannot take, and the connections
 * of a server that stops. */
#include "base/pass_descriptor.h"
#include "forward/depart.h"
#include "forward/intake.h"
#include "holding.h"
#include "suite.h"

#include <signal.h>
#include <sys/resource.h>

enum {
    TIMEOUT = 10000,
    FIXED_SIZE = offsetof(struct handoff, session),
    DATAGRAM_MAX = sizeof(struct handoff_head) + sizeof(struct handoff),
};

static int sender, client;
static bool no_other_server; /* the answer to setup.forsaken() */

static bool is_last(void *context)
{
    (void)context;
    return no_other_server;
}

/* A forwarder that servers come to and go from; and one that ends with its last server. */
static void set_up_for_all(void)
{
    start_forwarder();
    sender = handoff_connect(holding_socket, TIMEOUT);
    ck_assert_int_ge(sender, 0);
}

static void set_up(void)
{
    set_up_for_all();
    holding_setup.forsaken = is_last;
}

static void tear_down(void)
{
    close(sender);
    stop_forwarder();
}

/* A slot as it is after its worker has sent the handoff. */
static struct pair_ref send_off(const char *name)
{
    const struct pair_limits unlimited = {0, 0};
    struct pair_request request = {.rule = PAIR_SIDES,
        .key = key_of(PROTOCOL_UNKNOWN, name),
        .protocol = PROTOCOL_UNKNOWN}; /* transit */
    struct pair_meeting meeting;
    struct pair_ref ref;
    ck_assert_int_eq(pair_enter(table, &unlimited, 0, 1, clock_now() + TIMEOUT, &ref), 0);
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

/* Sends a handoff as a worker of that version does, with a client's descriptor or without. */
static void send_as(const struct handoff *handoff, uint16_t version, bool with_descriptor)
{
    uint8_t datagram[DATAGRAM_MAX];
    int ends[2];
    struct handoff_head head = {HANDOFF_MAGIC, version, version, FIXED_SIZE, handoff->session_size};
    memcpy(datagram, &head, sizeof head);
    memcpy(datagram + sizeof head, handoff, FIXED_SIZE + handoff->session_size);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(
        pass_descriptor_send(sender, datagram, sizeof head + FIXED_SIZE + handoff->session_size,
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

/* The client's connection is closed, and its slot is free. */
static void expect_refusal(const struct handoff *handoff, uint16_t version, bool with_descriptor)
{
    char byte;
    send_as(handoff, version, with_descriptor);
    take_turn();
    ck_assert_int_eq(read(client, &byte, 1), 0);
    ck_assert_uint_eq(pair_used(table), 0);
    ck_assert_uint_eq(forwarder.held, 0);
    close(client);
}

START_TEST(a_handoff_that_can_be_used_keeps_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    send_as(&handoff, HANDOFF_NEEDS, true);
    take_turn();
    ck_assert_uint_eq(pair_used(table), 1);
    ck_assert_uint_eq(forwarder.held, 1);
    close(client);
    take_turn();
    take_turn();
    ck_assert_uint_eq(pair_used(table), 0);
}
END_TEST

START_TEST(a_handoff_with_an_unknown_codec_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.codec = CODEC_KINDS + 10;
    expect_refusal(&handoff, HANDOFF_NEEDS, true);
}
END_TEST

START_TEST(a_handoff_with_impossible_keys_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.records.suite = UINT8_MAX;
    expect_refusal(&handoff, HANDOFF_NEEDS, true);
}
END_TEST

START_TEST(a_handoff_with_a_name_that_is_too_long_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.name_size = HANDOFF_NAME_MAX + 1;
    expect_refusal(&handoff, HANDOFF_NEEDS, true);
}
END_TEST

START_TEST(a_handoff_of_an_unknown_kind_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    handoff.kind = 1000;
    expect_refusal(&handoff, HANDOFF_NEEDS, true);
}
END_TEST

START_TEST(a_handoff_without_its_descriptor_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    expect_refusal(&handoff, HANDOFF_NEEDS, false);
}
END_TEST

START_TEST(a_handoff_of_an_unknown_version_frees_its_slot)
{
    struct handoff handoff = handoff_of(send_off("a"));
    expect_refusal(&handoff, HANDOFF_VERSION + 1, true);
}
END_TEST

/* A look only names a connection, whose own handoff may still be on its way. */
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

START_TEST(a_handoff_of_another_table_frees_no_slot_of_this_one)
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

/* The peer is found by the next client of the same key. */
START_TEST(the_peer_of_a_connection_that_cannot_be_taken_waits_again)
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

/* ---- connections that cannot be taken -------------------------------------------- */

static void limit_descriptors(rlim_t count)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = count;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

START_TEST(connections_wait_while_the_limit_on_descriptors_is_too_low)
{
    struct handoff handoff = handoff_of(send_off("a"));
    char byte;
    send_as(&handoff, HANDOFF_NEEDS, true);
    limit_descriptors(4);
    take_turn();
    ck_assert_int_eq(read(client, &byte, 1), -1);
    ck_assert(pair_forwarder_is_full(table));
    limit_descriptors(1024);
    take_turn();
    take_turn();
    ck_assert_uint_eq(forwarder.held, 1);
    ck_assert(!pair_forwarder_is_full(table));
    close(client);
}
END_TEST

START_TEST(after_a_connection_that_could_not_be_taken_others_wait_for_a_while)
{
    struct handoff handoff = handoff_of(send_off("a"));
    send_as(&handoff, HANDOFF_NEEDS, true);
    intake_fall_short(&forwarder);
    take_turn();
    ck_assert_uint_eq(forwarder.held, 0);
    ck_assert(pair_forwarder_is_full(table));
    while (pair_forwarder_is_full(table))
        take_turn();
    take_turn();
    ck_assert_uint_eq(forwarder.held, 1);
    close(client);
}
END_TEST

enum {
    BUSY = 128 /* clients: their events fill a round */
};

/* Two clients that are a pair. */
static void make_pair(int *clients)
{
    struct handoff first = handoff_of(send_off("busy")), second = handoff_of(send_off("busy"));
    send_as(&first, HANDOFF_NEEDS, true);
    clients[0] = client;
    send_as(&second, HANDOFF_NEEDS, true);
    clients[1] = client;
    take_turn();
}

/* Each client reads what has come, and sends something. */
static void keep_busy(const int *clients)
{
    char bytes[64];
    for (size_t i = 0; i < BUSY; i++) {
        while (read(clients[i], bytes, sizeof bytes) > 0)
            continue;
        ck_assert_int_eq(write(clients[i], "x", 1), 1);
    }
}

/* The forwarder has no room for more connections, stood still, and has more to do than a round can
 * hold; but the wait of a client has ended. */
START_TEST(a_busy_forwarder_that_stood_still_sees_that_a_deadline_has_passed)
{
    struct handoff waits = handoff_of(send_off("a")), finds_no_room = handoff_of(send_off("b"));
    int clients[BUSY];
    send_as(&waits, HANDOFF_NEEDS, true);
    for (size_t i = 0; i < BUSY; i += 2)
        make_pair(&clients[i]);
    send_as(&finds_no_room, HANDOFF_NEEDS, true);
    limit_descriptors(4);
    take_turn();
    ck_assert_uint_eq(forwarder.held, BUSY + 1);
    keep_busy(clients);
    forwarder.transfer.now -= TIMEOUT;
    lapse(&forwarder.waiting[PROTOCOL_UNKNOWN]);
    take_turn();
    ck_assert_uint_eq(forwarder.held, BUSY + 1);
    while (forwarder.held > BUSY) {
        keep_busy(clients);
        take_turn();
    }
}
END_TEST

/* ---- servers that stop ----------------------------------------------------------- */

enum {
    FIRST = 1,
    SECOND = 2
};

/* A client that this server accepted, and that waits. */
static int wait_at(uint64_t server, const char *name)
{
    struct handoff handoff = handoff_of(send_off(name));
    handoff.server = server;
    send_as(&handoff, HANDOFF_NEEDS, true);
    return client;
}

/* Returns the server's side of its socket. */
static int stop_server(uint64_t server)
{
    struct handoff handoff = handoff_of(PAIR_NONE);
    int ends[2];
    handoff.kind = HANDOFF_LEAVE;
    handoff.server = server;
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(handoff_send(sender, &handoff, ends[1]), 0);
    close(ends[1]);
    return ends[0];
}

static ssize_t said_to(int fd)
{
    char byte;
    return read(fd, &byte, 1);
}

START_TEST(the_connections_of_a_server_that_stops_end_and_those_of_another_stay)
{
    int ended = wait_at(FIRST, "a"), stays = wait_at(SECOND, "b"), nobodys = wait_at(0, "c");
    no_other_server = false;
    int server = stop_server(FIRST);
    take_turn();
    ck_assert_int_eq(said_to(ended), 0);
    ck_assert_int_eq(said_to(stays), -1);
    ck_assert_int_eq(said_to(nobodys), -1);
    ck_assert_int_eq(said_to(server), 1);
    ck_assert_int_eq(said_to(server), 0);
    ck_assert(!forwarder.forsaken);
    ck_assert_uint_eq(pair_used(table), 2);
}
END_TEST

START_TEST(a_pair_ends_with_the_server_of_either_client)
{
    for (uint64_t stops = FIRST; stops <= SECOND; stops++) {
        int first = wait_at(FIRST, "a"), second = wait_at(SECOND, "a");
        char ok[4];
        no_other_server = false;
        take_turn();
        ck_assert_int_eq(read(first, ok, sizeof ok), 3);
        ck_assert_int_eq(read(second, ok, sizeof ok), 3);
        int server = stop_server(stops);
        take_turn();
        ck_assert_int_eq(said_to(first), 0);
        ck_assert_int_eq(said_to(second), 0);
        ck_assert_int_eq(said_to(server), 1);
        ck_assert_int_eq(said_to(server), 0);
        ck_assert_uint_eq(pair_used(table), 0);
    }
}
END_TEST

START_TEST(the_last_server_waits_until_the_forwarder_has_ended)
{
    int ended = wait_at(FIRST, "a");
    no_other_server = true;
    int server = stop_server(FIRST);
    take_turn();
    ck_assert_int_eq(said_to(ended), 0);
    ck_assert(forwarder.forsaken);
    ck_assert_int_eq(said_to(server), -1);
}
END_TEST

START_TEST(a_client_that_does_not_leave_in_time_is_closed)
{
    int first = wait_at(FIRST, "a"), second = wait_at(FIRST, "a");
    static char bytes[1 << 20];
    ssize_t size;
    no_other_server = false;
    take_turn();
    while ((size = write(first, bytes, sizeof bytes)) > 0)
        take_turn();
    int server = stop_server(FIRST);
    take_turn();
    ck_assert_int_eq(said_to(server), 1);
    ck_assert_int_eq(said_to(server), -1);
    ck_assert_uint_gt(forwarder.held, 0);
    depart_expire(&forwarder, INT64_MAX);
    ck_assert_int_eq(said_to(server), 0);
    take_turn();
    ck_assert_uint_eq(forwarder.held, 0);
    while ((size = read(second, bytes, sizeof bytes)) > 0)
        continue;
    ck_assert_int_eq(size, 0);
}
END_TEST

START_TEST(a_forwarder_that_outlives_servers_keeps_their_connections)
{
    int stays = wait_at(FIRST, "a");
    int server = stop_server(FIRST);
    take_turn();
    ck_assert_int_eq(said_to(stays), -1);
    ck_assert_int_eq(said_to(server), 0);
    ck_assert_uint_eq(pair_used(table), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("forward");
    TCase *tests = tcase_create("handoffs");
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, a_handoff_that_can_be_used_keeps_its_slot);
    tcase_add_test(tests, a_handoff_with_an_unknown_codec_frees_its_slot);
    tcase_add_test(tests, a_handoff_with_impossible_keys_frees_its_slot);
    tcase_add_test(tests, a_handoff_with_a_name_that_is_too_long_frees_its_slot);
    tcase_add_test(tests, a_handoff_of_an_unknown_kind_frees_its_slot);
    tcase_add_test(tests, a_handoff_without_its_descriptor_frees_its_slot);
    tcase_add_test(tests, a_handoff_of_an_unknown_version_frees_its_slot);
    tcase_add_test(tests, a_look_that_cannot_be_used_frees_no_slot);
    tcase_add_test(tests, a_handoff_of_another_table_frees_no_slot_of_this_one);
    tcase_add_test(tests, the_peer_of_a_connection_that_cannot_be_taken_waits_again);
    tcase_add_test(tests, connections_wait_while_the_limit_on_descriptors_is_too_low);
    tcase_add_test(tests, after_a_connection_that_could_not_be_taken_others_wait_for_a_while);
    tcase_add_test(tests, a_busy_forwarder_that_stood_still_sees_that_a_deadline_has_passed);
    suite_add_tcase(suite, tests);
    TCase *servers = tcase_create("servers");
    tcase_add_checked_fixture(servers, set_up, tear_down);
    tcase_add_test(servers, the_connections_of_a_server_that_stops_end_and_those_of_another_stay);
    tcase_add_test(servers, a_pair_ends_with_the_server_of_either_client);
    tcase_add_test(servers, the_last_server_waits_until_the_forwarder_has_ended);
    tcase_add_test(servers, a_client_that_does_not_leave_in_time_is_closed);
    suite_add_tcase(suite, servers);
    TCase *standing = tcase_create("for all");
    tcase_add_checked_fixture(standing, set_up_for_all, tear_down);
    tcase_add_test(standing, a_forwarder_that_outlives_servers_keeps_their_connections);
    suite_add_tcase(suite, standing);
    return run_suite(suite);
}
