/* Connections that wait for news (lobby.c): peers of @localfirst/relay, which are introduced to
 * each other, and Offset's listeners, to which callers are announced. */
#include "codec/capnp.h"
#include "forward/lobby.h"
#include "holding.h"
#include "suite.h"

enum {
    REPEATS = 1000,
    MESSAGE_MAX = 128,
    NEWS_MAX = 1 << 20,
    PING_FRAME = 0x89,
    PING_SIZE = 2,
    BOUND = 1 << 20, /* bytes that may wait for a client */
};

static struct client alice, bob, carol;

static void set_up(void)
{
    start_forwarder();
    alice.fd = bob.fd = carol.fd = -1;
}

static void tear_down(void)
{
    hang_up(&alice);
    hang_up(&bob);
    hang_up(&carol);
    settle();
    for (int i = 0; i < HOLDING_LAPSES; i++)
        let_deadlines_lapse();
    expect_nobody_held();
    stop_forwarder();
}

/* ---- peers ----------------------------------------------------------------------- */

static void come_for_introductions(struct client *client, const char *name)
{
    struct pair_request request = {.rule = PAIR_SIDES,
        .key = key_of(PROTOCOL_LOCALFIRST, name),
        .side = 1,
        .protocol = PROTOCOL_LOCALFIRST};
    greet(client, FRAMED);
    client->handoff.lobby = true;
    client->handoff.name_size = (uint16_t)strlen(name);
    memcpy(client->handoff.name, name, strlen(name));
    ck_assert_int_eq(meet(client, &request), PAIR_WAITS);
    hand_over(client);
    ck_assert_int_eq(connection_of(client)->state, CONNECTION_LOBBY);
}

/* A message in MessagePack about one document: its type and the document's id are short. */
static size_t write_message(
    uint8_t message[static MESSAGE_MAX], const char *type, const char *document)
{
    int size = snprintf((char *)message, MESSAGE_MAX, "\x82\xa4type%c%s\xab%s\x91%c%s",
        (char)(0xa0 | strlen(type)), type, "documentIds", (char)(0xa0 | strlen(document)),
        document);
    ck_assert(size > 0 && size < MESSAGE_MAX);
    return (size_t)size;
}

static void send_message(struct client *client, const char *type, const char *document)
{
    uint8_t message[MESSAGE_MAX];
    ck_assert(say(client, message, write_message(message, type, document)));
}

static void join(struct client *client, const char *document)
{
    send_message(client, "Join", document);
    settle();
}

static void leave(struct client *client, const char *document)
{
    send_message(client, "Leave", document);
    settle();
}

/* ---- what peers are sent --------------------------------------------------------- */

/* The payload of the next message; NULL: there is none. */
static const uint8_t *next_message(const uint8_t **at, const uint8_t *end, size_t *size)
{
    while (*at < end && **at == PING_FRAME)
        *at += PING_SIZE;
    if (*at == end)
        return NULL;
    size_t head = (*at)[1] == 126 ? 4 : 2;
    ck_assert_uint_eq((*at)[0], BINARY_FRAME);
    *size = head == 4 ? (size_t)(*at)[2] << 8 | (*at)[3] : (*at)[1];
    const uint8_t *payload = *at + head;
    *at = payload + *size;
    ck_assert(*at <= end);
    return payload;
}

struct news {
    char text[4096];
    size_t size;
};

static void note(struct news *news, const uint8_t *bytes, size_t size)
{
    ck_assert_uint_lt(news->size + size, sizeof news->text);
    memcpy(news->text + news->size, bytes, size);
    news->size += size;
}

/* Notes a short string, and this character behind it. */
static const uint8_t *note_text(struct news *news, const uint8_t *at, char behind)
{
    size_t size = *at & 0x1f;
    ck_assert_uint_eq(*at & 0xe0, 0xa0);
    note(news, at + 1, size);
    note(news, (const uint8_t *)&behind, 1);
    return at + 1 + size;
}

/* An Introduction of few documents, as "PEER:DOCUMENT,DOCUMENT,;". */
static void note_introduction(struct news *news, const uint8_t *at)
{
    static const char type[] = "\x83\xa4type\xacIntroduction\xa6peerId";
    static const char documents[] = "\xab"
                                    "documentIds";
    ck_assert_mem_eq(at, type, sizeof type - 1);
    at = note_text(news, at + sizeof type - 1, ':');
    ck_assert_mem_eq(at, documents, sizeof documents - 1);
    at += sizeof documents - 1;
    ck_assert_uint_eq(*at & 0xf0, 0x90);
    size_t count = *at++ & 0xf;
    while (count-- > 0)
        at = note_text(news, at, ',');
    note(news, (const uint8_t *)";", 1);
}

static void expect_introductions(const struct client *client, const char *expected)
{
    uint8_t bytes[4096];
    struct news news = {.size = 0};
    const uint8_t *at = bytes, *end = bytes + take_all(client, bytes, sizeof bytes), *payload;
    size_t size;
    while ((payload = next_message(&at, end, &size)) != NULL)
        note_introduction(&news, payload);
    ck_assert_uint_eq(news.size, strlen(expected));
    ck_assert_mem_eq(news.text, expected, news.size);
}

static size_t count_news(const struct client *client)
{
    static uint8_t bytes[NEWS_MAX];
    const uint8_t *at = bytes, *end = bytes + take_all(client, bytes, sizeof bytes);
    size_t size, count = 0;
    while (next_message(&at, end, &size) != NULL)
        count++;
    return count;
}

/* ---- introductions --------------------------------------------------------------- */

START_TEST(two_peers_that_join_a_document_are_introduced_to_each_other)
{
    come_for_introductions(&alice, "alice");
    come_for_introductions(&bob, "bob");
    join(&alice, "doc");
    expect_introductions(&alice, "");
    join(&bob, "other");
    expect_introductions(&bob, "");
    join(&bob, "doc");
    expect_introductions(&alice, "bob:doc,;");
    expect_introductions(&bob, "alice:doc,;");
}
END_TEST

START_TEST(documents_that_are_joined_at_once_make_one_introduction)
{
    come_for_introductions(&alice, "alice");
    come_for_introductions(&bob, "bob");
    join(&alice, "one");
    join(&alice, "two");
    send_message(&bob, "Join", "one");
    send_message(&bob, "Join", "two");
    settle();
    expect_introductions(&alice, "bob:one,two,;");
    expect_introductions(&bob, "alice:one,two,;");
}
END_TEST

START_TEST(a_peer_that_joins_again_is_introduced_again)
{
    come_for_introductions(&alice, "alice");
    come_for_introductions(&bob, "bob");
    join(&alice, "doc");
    join(&bob, "doc");
    expect_introductions(&alice, "bob:doc,;");
    join(&bob, "doc");
    expect_introductions(&alice, "bob:doc,;");
    expect_introductions(&bob, "alice:doc,;alice:doc,;");
}
END_TEST

START_TEST(a_peer_that_has_left_or_closed_is_not_introduced)
{
    come_for_introductions(&alice, "alice");
    come_for_introductions(&bob, "bob");
    come_for_introductions(&carol, "carol");
    join(&alice, "doc");
    join(&bob, "doc");
    leave(&alice, "doc");
    hang_up(&bob);
    settle();
    join(&carol, "doc");
    expect_introductions(&alice, "bob:doc,;");
    expect_introductions(&carol, "");
}
END_TEST

START_TEST(the_newest_connection_of_a_peer_is_the_one_that_counts)
{
    come_for_introductions(&alice, "alice");
    join(&alice, "doc");
    come_for_introductions(&bob, "alice");
    come_for_introductions(&carol, "carol");
    join(&carol, "doc");
    expect_introductions(&carol, ""); /* the documents of the older connection are forgotten */
    join(&alice, "doc");
    expect_introductions(&carol, "");
    join(&bob, "doc");
    expect_introductions(&bob, "carol:doc,;");
    expect_introductions(&alice, "");
    ck_assert_int_eq(
        connection_of(&alice)->state, CONNECTION_LOBBY); /* if closed, it would come again */
}
END_TEST

/* ---- messages -------------------------------------------------------------------- */

START_TEST(a_fragmented_message_is_heard_once_it_is_whole)
{
    uint8_t message[MESSAGE_MAX];
    come_for_introductions(&alice, "alice");
    come_for_introductions(&bob, "bob");
    join(&alice, "doc");
    size_t size = write_message(message, "Join", "doc");
    ck_assert(send_frame(&bob, BINARY_FRAME & 0xf, message, 10));
    settle();
    expect_introductions(&alice, "");
    ck_assert(send_frame(&bob, 0x80, message + 10, size - 10));
    settle();
    expect_introductions(&alice, "bob:doc,;");
}
END_TEST

START_TEST(a_message_that_is_too_long_ends_its_connection)
{
    static const uint8_t bytes[50000];
    come_for_introductions(&alice, "alice");
    uint8_t head = BINARY_FRAME & 0xf;
    for (size_t sent = 0; sent <= LOBBY_MESSAGE_MAX; sent += sizeof bytes) {
        ck_assert_int_eq(connection_of(&alice)->state, CONNECTION_LOBBY);
        ck_assert(send_frame(&alice, head, bytes, sizeof bytes));
        settle();
        head = 0;
    }
    ck_assert_int_eq(connection_of(&alice)->state, CONNECTION_LEAVING);
}
END_TEST

/* ---- debt ------------------------------------------------------------------------ */

START_TEST(a_peer_that_repeats_itself_is_not_read_until_it_has_paid)
{
    come_for_introductions(&alice, "alice");
    come_for_introductions(&bob, "bob");
    join(&alice, "doc");
    size_t told = 0;
    for (int i = 0; i < REPEATS; i++) {
        send_message(&bob, "Join", "doc");
        settle();
        told += count_news(&alice);
    }
    ck_assert_uint_gt(told, 0);
    ck_assert_uint_lt(told, REPEATS / 2);
    ck_assert_ptr_eq(connection_of(&bob)->phase.list, &forwarder.resting);
    ck_assert_int_eq(connection_of(&bob)->state, CONNECTION_LOBBY);
}
END_TEST

START_TEST(a_peer_in_debt_is_read_again_once_it_has_paid)
{
    come_for_introductions(&alice, "alice");
    come_for_introductions(&bob, "bob");
    join(&alice, "doc");
    connection_of(&bob)->coded->paid = INT64_MAX / 2;
    join(&bob, "doc");
    expect_introductions(&alice, "");
    let_deadlines_lapse();
    expect_introductions(&alice, "");
    ck_assert_ptr_eq(connection_of(&bob)->phase.list, &forwarder.resting);
    connection_of(&bob)->coded->paid = 0;
    let_deadlines_lapse();
    expect_introductions(&alice, "bob:doc,;");
    ck_assert(!deadline_is_set(&connection_of(&bob)->phase));
}
END_TEST

START_TEST(a_peer_in_debt_that_closes_is_noticed)
{
    come_for_introductions(&alice, "alice");
    connection_of(&alice)->coded->paid = INT64_MAX / 2;
    join(&alice, "doc");
    hang_up(&alice);
    settle();
    expect_nobody_held();
}
END_TEST

START_TEST(a_peer_that_does_not_read_is_sent_a_bounded_amount_and_stays)
{
    static const uint8_t news[1000];
    come_for_introductions(&alice, "alice");
    struct connection *connection = connection_of(&alice);
    size_t told = 0;
    while (lobby_tell(forwarder.lobby, connection, news, sizeof news))
        ck_assert_uint_lt(told += sizeof news, 4 * BOUND);
    ck_assert_uint_lt(connection->outlet.size - connection->outlet.start, 2 * BOUND);
    settle();
    ck_assert_int_eq(connection->state, CONNECTION_LOBBY);
}
END_TEST

/* ---- listeners and callers ------------------------------------------------------- */

static const uint8_t relay_key[CAPNP_KEY_SIZE] = "relay", listener_key[CAPNP_KEY_SIZE] = "listener",
                     caller_key[CAPNP_KEY_SIZE] = "caller", other_key[CAPNP_KEY_SIZE] = "other";

static struct pair_key tunnel(const uint8_t *key)
{
    struct iovec parts[] = {{(void *)(uintptr_t)key, CAPNP_KEY_SIZE},
        {(void *)(uintptr_t)listener_key, CAPNP_KEY_SIZE},
        {(void *)(uintptr_t)relay_key, CAPNP_KEY_SIZE}};
    return pair_key(table, PROTOCOL_OFFSET, parts, 3);
}

static void greet_node(struct client *client, const uint8_t *key)
{
    greet(client, FRAMED);
    client->handoff.name_size = 2 * CAPNP_KEY_SIZE;
    memcpy(client->handoff.name, key, CAPNP_KEY_SIZE);
    memcpy(client->handoff.name + CAPNP_KEY_SIZE, relay_key, CAPNP_KEY_SIZE);
}

/* Its descriptor is not handed over yet. */
static void begin_to_listen(struct client *client)
{
    struct pair_request request = {.rule = PAIR_LISTEN,
        .key = key_of(PROTOCOL_OFFSET, "listener"),
        .side = 1,
        .protocol = PROTOCOL_OFFSET};
    greet_node(client, listener_key);
    client->handoff.lobby = true;
    ck_assert_int_eq(meet(client, &request), PAIR_WAITS);
}

static void listen_there(struct client *client)
{
    begin_to_listen(client);
    hand_over(client);
    ck_assert_int_eq(connection_of(client)->state, CONNECTION_LOBBY);
}

static enum pair_result call_as(struct client *client, const uint8_t *key, enum pair_rule rule)
{
    struct pair_request request = {.rule = rule,
        .key = tunnel(key),
        .listener = key_of(PROTOCOL_OFFSET, "listener"),
        .side = rule == PAIR_ACCEPT ? 2 : 3,
        .protocol = PROTOCOL_OFFSET};
    greet_node(client, key);
    return meet(client, &request);
}

static void call(struct client *client, const uint8_t *key)
{
    ck_assert_int_eq(call_as(client, key, PAIR_CONNECT), PAIR_WAITS);
    hand_over(client);
}

static void expect_announced(const struct client *listener, const uint8_t *key)
{
    uint8_t bytes[1024], message[CAPNP_SMALL_MAX];
    struct connection_key incoming;
    const uint8_t *at = bytes, *end = bytes + take_all(listener, bytes, sizeof bytes);
    size_t size;
    memcpy(incoming.public_key, key, CAPNP_KEY_SIZE);
    size_t expected = capnp_write_connection_key(&incoming, message);
    const uint8_t *payload = next_message(&at, end, &size);
    ck_assert_ptr_nonnull(payload);
    ck_assert_uint_eq(size, expected);
    ck_assert_mem_eq(payload, message, size);
    ck_assert_ptr_eq(at, end);
}

static void reject(struct client *listener, const uint8_t *key)
{
    uint8_t message[CAPNP_SMALL_MAX];
    struct connection_key rejected;
    memcpy(rejected.public_key, key, CAPNP_KEY_SIZE);
    ck_assert(say(listener, message, capnp_write_connection_key(&rejected, message)));
    settle();
}

static bool is_waiting(const struct client *client)
{
    const struct connection *connection = connection_of(client);
    return connection != NULL && connection->state == CONNECTION_PARKED;
}

START_TEST(a_caller_is_announced_to_the_listener)
{
    listen_there(&alice);
    call(&bob, caller_key);
    expect_announced(&alice, caller_key);
    ck_assert(is_waiting(&bob));
}
END_TEST

START_TEST(a_caller_that_is_earlier_than_the_listeners_descriptor_is_announced_when_that_comes)
{
    begin_to_listen(&alice);
    call(&bob, caller_key);
    ck_assert(is_waiting(&bob));
    hand_over(&alice);
    expect_announced(&alice, caller_key);
    ck_assert(is_waiting(&bob));
}
END_TEST

START_TEST(a_caller_whose_name_is_no_key_is_refused)
{
    uint8_t byte;
    listen_there(&alice);
    ck_assert_int_eq(call_as(&bob, caller_key, PAIR_CONNECT), PAIR_WAITS);
    bob.handoff.name_size = CAPNP_KEY_SIZE - 1;
    hand_over(&bob);
    ck_assert(!is_waiting(&bob));
    ck_assert_uint_eq(take_all(&alice, &byte, 1), 0);
}
END_TEST

START_TEST(an_early_caller_that_has_closed_is_not_announced)
{
    uint8_t byte;
    begin_to_listen(&alice);
    call(&bob, caller_key);
    hang_up(&bob);
    settle();
    hand_over(&alice);
    ck_assert_uint_eq(take_all(&alice, &byte, 1), 0);
}
END_TEST

START_TEST(a_rejected_caller_is_closed_and_no_other)
{
    listen_there(&alice);
    call(&bob, caller_key);
    call(&carol, other_key);
    reject(&alice, other_key);
    ck_assert(is_waiting(&bob));
    ck_assert(!is_waiting(&carol));
    reject(&alice, listener_key); /* a node that never called */
    ck_assert(is_waiting(&bob));
    ck_assert_int_eq(connection_of(&alice)->state, CONNECTION_LOBBY);
}
END_TEST

START_TEST(an_accepted_caller_is_joined_to_the_acceptor_and_outlives_the_listener)
{
    listen_there(&alice);
    call(&bob, caller_key);
    ck_assert_int_eq(call_as(&carol, caller_key, PAIR_ACCEPT), PAIR_MATCHES);
    hang_up(&alice); /* while the acceptor is on its way */
    settle();
    hand_over(&carol);
    ck_assert_int_eq(connection_of(&bob)->state, CONNECTION_JOINED);
    ck_assert_ptr_eq(connection_of(&bob)->peer, connection_of(&carol));
}
END_TEST

START_TEST(callers_end_with_their_listener)
{
    listen_there(&alice);
    call(&bob, caller_key);
    call(&carol, other_key);
    hang_up(&alice);
    settle();
    ck_assert(!is_waiting(&bob) && !is_waiting(&carol));
}
END_TEST

/* A leaving listener keeps its slot until it is closed, but cannot be called any more. */
START_TEST(a_caller_of_a_leaving_listener_is_refused)
{
    listen_there(&alice);
    ck_assert_int_eq(call_as(&bob, caller_key, PAIR_CONNECT), PAIR_WAITS);
    ck_assert(send_frame(&alice, 0x83, "what is no message", 18));
    settle();
    ck_assert_int_eq(connection_of(&alice)->state, CONNECTION_LEAVING);
    hand_over(&bob);
    ck_assert(!is_waiting(&bob));
    ck_assert_int_eq(call_as(&carol, other_key, PAIR_CONNECT), PAIR_REFUSED);
    close(carol.relayed);
    struct pair_ref stranded;
    ck_assert_int_eq(pair_leave(table, carol.ref, &stranded), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lobby");
    TCase *introductions = tcase_create("introductions"), *calls = tcase_create("calls");
    tcase_add_checked_fixture(introductions, set_up, tear_down);
    tcase_add_test(introductions, two_peers_that_join_a_document_are_introduced_to_each_other);
    tcase_add_test(introductions, documents_that_are_joined_at_once_make_one_introduction);
    tcase_add_test(introductions, a_peer_that_joins_again_is_introduced_again);
    tcase_add_test(introductions, a_peer_that_has_left_or_closed_is_not_introduced);
    tcase_add_test(introductions, the_newest_connection_of_a_peer_is_the_one_that_counts);
    tcase_add_test(introductions, a_fragmented_message_is_heard_once_it_is_whole);
    tcase_add_test(introductions, a_message_that_is_too_long_ends_its_connection);
    tcase_add_test(introductions, a_peer_that_repeats_itself_is_not_read_until_it_has_paid);
    tcase_add_test(introductions, a_peer_in_debt_is_read_again_once_it_has_paid);
    tcase_add_test(introductions, a_peer_in_debt_that_closes_is_noticed);
    tcase_add_test(introductions, a_peer_that_does_not_read_is_sent_a_bounded_amount_and_stays);
    suite_add_tcase(suite, introductions);
    tcase_add_checked_fixture(calls, set_up, tear_down);
    tcase_add_test(calls, a_caller_is_announced_to_the_listener);
    tcase_add_test(
        calls, a_caller_that_is_earlier_than_the_listeners_descriptor_is_announced_when_that_comes);
    tcase_add_test(calls, a_caller_whose_name_is_no_key_is_refused);
    tcase_add_test(calls, an_early_caller_that_has_closed_is_not_announced);
    tcase_add_test(calls, a_rejected_caller_is_closed_and_no_other);
    tcase_add_test(calls, an_accepted_caller_is_joined_to_the_acceptor_and_outlives_the_listener);
    tcase_add_test(calls, callers_end_with_their_listener);
    tcase_add_test(calls, a_caller_of_a_leaving_listener_is_refused);
    suite_add_tcase(suite, calls);
    return run_suite(suite);
}
