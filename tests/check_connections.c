/* The connections that the forwarder holds (connections.c and the files around it): whatever a
 * client does next leads out of each state, and so does time, unless all is well. */
#include "holding.h"
#include "suite.h"

enum {
    WALKERS = 6,
    STEPS = 60,
    WALKS = 150,
    AWAY = 1 << 26, /* bytes: more than sockets and the relay can hold */
};

static struct client first = {.fd = -1}, second = {.fd = -1};

/* ---- clients --------------------------------------------------------------------- */

static struct pair_request request_of(const char *key, const char *side, enum pair_rule rule)
{
    return (struct pair_request){
        .rule = rule,
        .key = key_of(PROTOCOL_P2PCOPY, key),
        .side = pair_side(table, side, strlen(side)),
        .protocol = PROTOCOL_P2PCOPY,
    };
}

static enum pair_result come(
    struct client *client, enum carrier carrier, const char *key, const char *side)
{
    struct pair_request request = request_of(key, side, PAIR_SIDES);
    greet(client, carrier);
    return meet(client, &request);
}

static void make_pair(enum carrier carrier)
{
    ck_assert_int_eq(come(&first, carrier, "key", "a"), PAIR_WAITS);
    hand_over(&first);
    ck_assert_int_eq(come(&second, carrier, "key", "b"), PAIR_MATCHES);
    hand_over(&second);
    ck_assert_int_eq(connection_of(&first)->state, CONNECTION_JOINED);
    ck_assert_int_eq(connection_of(&second)->state, CONNECTION_JOINED);
}

/* Sends until bytes wait for `to`, which does not read. */
static void flood(struct client *from, const struct client *to)
{
    static const uint8_t bytes[10000];
    for (size_t sent = 0; !transfer_pending(connection_of(to)); sent += sizeof bytes) {
        ck_assert_uint_lt(sent, AWAY);
        (void)say(from, bytes, sizeof bytes);
        settle();
    }
}

/* ---- the states of a connection -------------------------------------------------- */

static void waits(enum carrier carrier)
{
    ck_assert_int_eq(come(&first, carrier, "key", "a"), PAIR_WAITS);
    hand_over(&first);
    ck_assert_int_eq(connection_of(&first)->state, CONNECTION_PARKED);
}

static void waits_with_all_held_that_may_be(enum carrier carrier)
{
    static const uint8_t bytes[10000];
    waits(carrier);
    while (say(&first, bytes, sizeof bytes))
        settle();
    ck_assert(messages_are_full(connection_of(&first)));
}

static void waits_for_the_descriptor_of_its_peer(enum carrier carrier)
{
    waits(carrier);
    ck_assert_int_eq(come(&second, carrier, "key", "b"), PAIR_MATCHES);
    ck_assert_int_eq(pair_sent(table, second.ref), 0);
    connections_look(&forwarder, first.ref);
    ck_assert_ptr_eq(connection_of(&first)->phase.list, &forwarder.arriving);
    close(second.relayed);
}

static void waits_for_news(enum carrier carrier)
{
    struct pair_request request = request_of("peer", "", PAIR_SIDES);
    request.protocol = PROTOCOL_LOCALFIRST;
    greet(&first, carrier);
    first.handoff.lobby = true;
    ck_assert_int_eq(meet(&first, &request), PAIR_WAITS);
    hand_over(&first);
    ck_assert_int_eq(connection_of(&first)->state, CONNECTION_LOBBY);
}

static void waits_for_news_and_is_in_debt(enum carrier carrier)
{
    waits_for_news(carrier);
    connection_of(&first)->coded->paid = INT64_MAX / 2;
    (void)say(&first, "what is not read", 16);
    settle();
    ck_assert_ptr_eq(connection_of(&first)->phase.list, &forwarder.resting);
}

/* Memory that other connections hold: so much that each may hold only the least. */
static struct budget_account others;

static void waits_for_news_with_all_held_that_may_be(enum carrier carrier)
{
    static const uint8_t bytes[10000];
    waits_for_news(carrier);
    budget_take(&others, BUDGET_WAITING_SIZE);
    (void)send_frame(&first, BINARY_FRAME & 0xf, bytes, sizeof bytes);
    while (send_frame(&first, 0, bytes, sizeof bytes))
        settle();
    ck_assert(messages_are_full(connection_of(&first)));
}

static void is_half_of_a_pair(enum carrier carrier)
{
    make_pair(carrier);
}

static void has_sent_more_than_its_peer_reads(enum carrier carrier)
{
    waits_with_all_held_that_may_be(carrier);
    ck_assert_int_eq(come(&second, carrier, "key", "b"), PAIR_MATCHES);
    hand_over(&second);
    ck_assert(messages_are_held(connection_of(&first)));
}

static void send_half(struct client *client)
{
    if ((client->carrier & SECURE) != 0)
        (void)send_raw(client, "\x17\x03\x03\x01", 4);
    else if ((client->carrier & FRAMED) != 0)
        (void)send_raw(client, "\x02\x8a\0\0\0\0half", 10);
    else
        (void)send_raw(client, "\0\0\0\0\0\0\1\0 as much", 16);
    settle();
}

static void has_sent_half_of_a_message(enum carrier carrier)
{
    make_pair(carrier);
    send_half(&first);
}

static void has_received_half_of_a_message(enum carrier carrier)
{
    make_pair(carrier);
    (void)send_frame(&first, BINARY_FRAME & 0xf, "half", 4);
    settle();
    ck_assert(connection_of(&second)->coded->speaking);
}

static void has_ended_its_direction(enum carrier carrier)
{
    make_pair(carrier);
    finish(&first);
    settle();
}

static void has_a_peer_that_does_not_read(enum carrier carrier)
{
    make_pair(carrier);
    flood(&first, &second);
}

static void does_not_read_and_neither_does_its_peer(enum carrier carrier)
{
    make_pair(carrier);
    flood(&first, &second);
    flood(&second, &first);
}

static void has_been_sent_a_farewell(enum carrier carrier)
{
    waits(carrier);
    connections_dismiss(&forwarder, connection_of(&first), PAIR_LONELY, PAIR_NO_REASON);
    settle();
}

static void has_a_farewell_waiting_behind_unread_bytes(enum carrier carrier)
{
    make_pair(carrier);
    flood(&first, &second);
    connections_part(&forwarder, connection_of(&first));
    settle();
}

static void is_cut(enum carrier carrier)
{
    make_pair(carrier);
    flood(&first, &second);
    reset(&first);
    settle();
}

static void break_protocol(struct client *client)
{
    (void)send_raw(client, "\x17\x03\x03\0\x20 and what else there is to be said", 40);
    settle();
}

static void has_broken_its_protocol(enum carrier carrier)
{
    make_pair(carrier);
    break_protocol(&first);
}

static void has_broken_its_protocol_and_does_not_read(enum carrier carrier)
{
    make_pair(carrier);
    flood(&second, &first);
    break_protocol(&first);
}

enum {
    /* Which carriers reach a state at all: sets of enum carrier. */
    IN_FRAMES = 1 << FRAMED | 1 << (FRAMED | SECURE),
    MESSAGES = IN_FRAMES | 1 << CHANNEL | 1 << (CHANNEL | SECURE),
    NOT_PLAIN = MESSAGES | 1 << SECURE,
    ANY = NOT_PLAIN | 1 << PLAIN,
    NONE = 0,
};

/* Time leads out of a state where the relay waits for a client, or has something for one. A pair of
 * two clients that live may last for ever, if the protocol has no pings; and so may a slow reader.
 */
static const struct state {
    const char *name;
    void (*make)(enum carrier carrier);
    unsigned int carriers, until_a_deadline;
} states[] = {
    {"waits", waits, ANY, ANY},
    {"waits, with all held that may be", waits_with_all_held_that_may_be, MESSAGES, MESSAGES},
    {"waits for the descriptor of its peer", waits_for_the_descriptor_of_its_peer, ANY, ANY},
    {"waits for news", waits_for_news, IN_FRAMES, IN_FRAMES},
    {"waits for news, and is in debt", waits_for_news_and_is_in_debt, IN_FRAMES, IN_FRAMES},
    {"waits for news, with all held that may be", waits_for_news_with_all_held_that_may_be,
        IN_FRAMES, NONE},
    {"is half of a pair", is_half_of_a_pair, ANY, MESSAGES},
    {"has sent more than its peer reads", has_sent_more_than_its_peer_reads, MESSAGES, MESSAGES},
    {"has sent half of a message", has_sent_half_of_a_message, NOT_PLAIN, MESSAGES},
    {"has received half of a message", has_received_half_of_a_message, IN_FRAMES, IN_FRAMES},
    {"has ended its direction", has_ended_its_direction, ANY, ANY},
    {"has a peer that does not read", has_a_peer_that_does_not_read, ANY, MESSAGES},
    {"does not read, and neither does its peer", does_not_read_and_neither_does_its_peer, ANY,
        NONE},
    {"has been sent a farewell", has_been_sent_a_farewell, ANY, ANY},
    {"has a farewell waiting behind unread bytes", has_a_farewell_waiting_behind_unread_bytes, ANY,
        ANY},
    {"is cut", is_cut, ANY, ANY},
    {"has broken its protocol", has_broken_its_protocol, NOT_PLAIN, NOT_PLAIN},
    {"has broken its protocol, and does not read", has_broken_its_protocol_and_does_not_read,
        NOT_PLAIN, NOT_PLAIN},
};

typedef void leads_out(void);

static void for_each_state(leads_out *leave, bool by_time)
{
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
        const struct state *state = &states[i];
        unsigned int wanted = by_time ? state->until_a_deadline : state->carriers;
        for (size_t k = 0; k < CARRIERS; k++) {
            enum carrier carrier = carriers[k];
            if ((wanted & 1U << carrier) == 0)
                continue;
            start_forwarder();
            first.fd = second.fd = -1;
            state->make(carrier);
            leave();
            budget_give(&others, others.held);
            ck_assert_msg(forwarder.held == 0 && pair_used(table) == 0 && bytes_held() == 0,
                "a connection that %s (carrier %d) has no way out: %zu connections, %u slots, %zu "
                "bytes",
                state->name, (int)carrier, forwarder.held, pair_used(table), bytes_held());
            hang_up(&first);
            hang_up(&second);
            stop_forwarder();
        }
    }
}

/* ---- ways out -------------------------------------------------------------------- */

/* Frees the slot of a client whose descriptor never comes, as a sweep of the table would. */
static void forget_client_that_never_came(void)
{
    struct pair_ref stranded;
    struct pair_view view;
    if (pair_look(table, second.ref, &view) == 0 && view.place == PAIR_IN_FLIGHT)
        ck_assert_int_eq(pair_leave(table, second.ref, &stranded), 0);
}

static void both_close(void)
{
    hang_up(&first);
    hang_up(&second);
    settle();
    forget_client_that_never_came();
    for (int i = 0; i < HOLDING_LAPSES; i++)
        let_deadlines_lapse();
}

/* A connection that is cut is looked at every few milliseconds. */
static void both_are_reset_at_once(void)
{
    reset(&first);
    reset(&second);
    settle();
    lapse(&forwarder.delivering);
    settle();
    forget_client_that_never_came();
}

static void one_closes_and_then_the_other(void)
{
    hang_up(&second);
    settle();
    hang_up(&first);
    settle();
    forget_client_that_never_came();
    for (int i = 0; i < HOLDING_LAPSES; i++)
        let_deadlines_lapse();
}

static void both_are_lost_at_once(void)
{
    struct connection *ends[] = {
        connection_of(&first), second.fd < 0 ? NULL : connection_of(&second)};
    for (size_t i = 0; i < 2; i++) {
        if (ends[i] == NULL || ends[i]->state == CONNECTION_LEAVING)
            continue;
        transfer_lose(ends[i]);
        connections_queue(&forwarder, ends[i]);
    }
    both_are_reset_at_once();
}

static void time_passes(void)
{
    for (int i = 0; i < HOLDING_LAPSES; i++)
        let_deadlines_lapse();
}

START_TEST(from_every_state_both_clients_may_close)
{
    for_each_state(both_close, false);
}
END_TEST

START_TEST(from_every_state_both_clients_may_be_reset_at_once)
{
    for_each_state(both_are_reset_at_once, false);
}
END_TEST

START_TEST(from_every_state_one_client_may_close_and_then_the_other)
{
    for_each_state(one_closes_and_then_the_other, false);
}
END_TEST

START_TEST(from_every_state_writes_to_both_clients_may_fail_at_once)
{
    for_each_state(both_are_lost_at_once, false);
}
END_TEST

START_TEST(a_deadline_ends_every_state_in_which_the_relay_waits_for_a_client)
{
    for_each_state(time_passes, true);
}
END_TEST

START_TEST(a_connection_whose_slot_is_gone_waits_no_longer_than_others)
{
    struct pair_ref stranded;
    start_forwarder();
    waits_for_the_descriptor_of_its_peer(PLAIN);
    ck_assert_int_eq(pair_leave(table, first.ref, &stranded), 0);
    let_deadlines_lapse();
    ck_assert_ptr_eq(connection_of(&first)->phase.list, &forwarder.waiting[PROTOCOL_P2PCOPY]);
    time_passes();
    forget_client_that_never_came();
    expect_nobody_held();
    hang_up(&first);
    hang_up(&second);
    stop_forwarder();
}
END_TEST

/* ---- leaving --------------------------------------------------------------------- */

START_TEST(a_leaving_connection_keeps_its_slot_until_it_is_closed)
{
    start_forwarder();
    has_been_sent_a_farewell(FRAMED);
    ck_assert_uint_eq(pair_used(table), 1);
    ck_assert_int_eq(come(&second, FRAMED, "key", "b"), PAIR_WAITS); /* and meets no peer */
    hand_over(&second);
    finish(&first);
    settle();
    ck_assert_uint_eq(pair_used(table), 1);
    hang_up(&first);
    reset(&second);
    settle();
    expect_nobody_held();
    stop_forwarder();
}
END_TEST

START_TEST(a_leaving_connection_is_read_up_to_a_bound)
{
    static const uint8_t bytes[FRAME_MAX];
    for (size_t i = 0; i < CARRIERS; i++) {
        size_t sent = 0;
        start_forwarder();
        make_pair(carriers[i]);
        connections_part(&forwarder, connection_of(&first));
        while (sent < AWAY && send_raw(&first, bytes, sizeof bytes)) {
            sent += sizeof bytes;
            settle();
        }
        ck_assert_uint_lt(sent, AWAY);
        time_passes();
        expect_nobody_held();
        hang_up(&first);
        hang_up(&second);
        stop_forwarder();
    }
}
END_TEST

/* ---- walks ----------------------------------------------------------------------- */

/* Says what is wrong with a connection whose client could keep it in its state for ever by doing
 * nothing. NULL: nothing is. */
static const char *missing(const struct connection *connection)
{
    const struct connection *peer = connection->peer;
    if (connection->state != CONNECTION_LEAVING && connection->coded != NULL &&
        !deadline_is_set(&connection->coded->silent))
        return "is never sent a ping";
    switch ((enum connection_state)connection->state) {
    case CONNECTION_PARKED:
        return deadline_is_set(&connection->phase) ? NULL : "waits for ever";
    case CONNECTION_LOBBY:
        return NULL;
    case CONNECTION_JOINED:
        if (peer->peer != connection || peer->state != CONNECTION_JOINED)
            return "has a peer that has another peer";
        return (!connection->ended && !connection->finished && !connection->hung_up) ||
                       deadline_is_set(&connection->phase) || deadline_is_set(&peer->phase)
                   ? NULL
                   : "lingers for ever";
    case CONNECTION_LEAVING:
        return connection->phase.list == &forwarder.leaving ? NULL : "leaves for ever";
    }
    return "is in no state";
}

static unsigned int walk_seed;

static int draw(int count)
{
    return rand_r(&walk_seed) % count;
}

static void worker_dies(struct client *client)
{
    struct pair_ref stranded;
    int error = pair_leave(table, client->ref, &stranded);
    ck_assert(error == 0 || error == -ESTALE);
    connections_look(&forwarder, client->handoff.dismissed);
    connections_look(&forwarder, stranded);
    close(client->relayed);
    client->relayed = -1;
    hang_up(client);
    settle();
}

/* Clients that wait for news have the key "news". */
static void come_somehow(struct client *client)
{
    static const char *const keys[] = {"sides", "roles", "newest", "news"};
    static const enum pair_rule rules[] = {PAIR_SIDES, PAIR_ROLES, PAIR_NEWEST, PAIR_SIDES};
    int which = draw(4);
    bool news = which == 3;
    struct pair_request request =
        request_of(keys[which], news || draw(2) ? "a" : "b", rules[which]);
    greet(client, news ? FRAMED | (draw(2) ? SECURE : 0) : carriers[draw(CARRIERS)]);
    request.protocol = news ? PROTOCOL_LOCALFIRST : PROTOCOL_P2PCOPY;
    client->handoff.lobby = news;
    if (meet(client, &request) == PAIR_REFUSED)
        worker_dies(client);
}

static void read_what_came(const struct client *client)
{
    static uint8_t bytes[1 << 20];
    (void)take_all(client, bytes, sizeof bytes);
    settle();
}

static void do_something(struct client *client)
{
    static const uint8_t bytes[FRAME_MAX];
    switch (draw(10)) {
    case 0:
        (void)say(client, bytes, (size_t)draw(100) + 1);
        break;
    case 1:
        (void)say(client, bytes, (size_t)draw(FRAME_MAX) + 1);
        break;
    case 2:
        finish(client);
        break;
    case 3:
        hang_up(client);
        break;
    case 4:
        reset(client);
        break;
    case 5:
        break_protocol(client);
        break;
    case 6:
        let_deadlines_lapse();
        break;
    case 7:
        send_half(client);
        break;
    default:
        read_what_came(client);
        break;
    }
    settle();
}

static void step(struct client *client)
{
    if (client->relayed >= 0 && draw(4) == 0)
        worker_dies(client);
    else if (client->relayed >= 0)
        hand_over(client);
    else if (client->fd < 0)
        come_somehow(client);
    else
        do_something(client);
}

START_TEST(every_connection_has_a_way_out_after_any_steps)
{
    struct client clients[WALKERS];
    walk_seed = (unsigned int)_i + 1;
    start_forwarder();
    for (size_t i = 0; i < WALKERS; i++)
        clients[i].fd = clients[i].relayed = -1;
    for (int i = 0; i < STEPS; i++) {
        step(&clients[draw(WALKERS)]);
        for (size_t k = 0; k < HOLDING_CAPACITY; k++) {
            const struct connection *connection = forwarder.slots[k];
            const char *what = connection == NULL ? NULL : missing(connection);
            if (what != NULL)
                ck_abort_msg(
                    "after step %d, a connection in state %d %s", i, connection->state, what);
        }
    }
    for (size_t i = 0; i < WALKERS; i++) {
        if (clients[i].relayed >= 0)
            worker_dies(&clients[i]);
        hang_up(&clients[i]);
    }
    both_close();
    expect_nobody_held();
    stop_forwarder();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("connections");
    TCase *test_case = tcase_create("states");
    tcase_set_timeout(test_case, 60);
    tcase_add_test(test_case, from_every_state_both_clients_may_close);
    tcase_add_test(test_case, from_every_state_both_clients_may_be_reset_at_once);
    tcase_add_test(test_case, from_every_state_one_client_may_close_and_then_the_other);
    tcase_add_test(test_case, from_every_state_writes_to_both_clients_may_fail_at_once);
    tcase_add_test(test_case, a_connection_whose_slot_is_gone_waits_no_longer_than_others);
    tcase_add_test(test_case, a_leaving_connection_keeps_its_slot_until_it_is_closed);
    tcase_add_test(test_case, a_leaving_connection_is_read_up_to_a_bound);
    tcase_add_loop_test(test_case, every_connection_has_a_way_out_after_any_steps, 0, WALKS);
    tcase_add_test(test_case, a_deadline_ends_every_state_in_which_the_relay_waits_for_a_client);
    suite_add_tcase(suite, test_case);
    return run_suite(suite);
}
