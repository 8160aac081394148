/* For tests of the connections that the forwarder holds: a forwarder in this process, and clients
 * at the other side of real connections. The forwarder's deadlines pass when a test says so. */
#ifndef RELAY_TESTS_HOLDING_H
#define RELAY_TESTS_HOLDING_H

#include "base/budget.h"
#include "base/clock.h"
#include "codec/channel.h"
#include "forward/connections.h"
#include "forward/lobby.h"
#include "forward/messages.h"
#include "protocol.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HOLDING_CAPACITY = 1024,
    HOLDING_ROUNDS = 200000, /* after so many, the forwarder will never be idle */
    HOLDING_LAPSES = 8,      /* of all deadlines: enough for the longest way out of any state */
    SOCKET_SIZE = 1 << 15,   /* twice that in each direction of either, and less than may be held */
    FRAME_MAX = 60000,
    FRAME_HEAD_MAX = 8,
    BINARY_FRAME = 0x82,
    CLOSE_FRAME = 0x88,
};

/* What a connection carries: bytes, or messages of one kind, and either in TLS. */
enum carrier {
    PLAIN = 0,
    FRAMED = 1, /* WebSocket */
    SECURE = 2,
    CHANNEL = 4, /* Offset's frames */
};

static const enum carrier carriers[] = {
    PLAIN, FRAMED, SECURE, FRAMED | SECURE, CHANNEL, CHANNEL | SECURE};

enum {
    CARRIERS = sizeof carriers / sizeof carriers[0]
};

struct client {
    int fd;      /* the client's */
    int relayed; /* the relay's, until it is handed over: -1 */
    enum carrier carrier;
    struct pair_ref ref;
    struct handoff handoff;
    struct records records; /* the client's side of them */
    void *channel;          /* the client's side of an Offset channel: its codec's state */
};

static char holding_directory[64], holding_table[96], holding_socket[96];
static int holding_listener;
static struct forward_setup holding_setup;
static struct pair_table *table;
static struct forwarder forwarder;

/* ---- the forwarder --------------------------------------------------------------- */

static inline void listen_for_clients(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int size = SOCKET_SIZE;
    holding_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(holding_listener, 0);
    ck_assert_int_eq(setsockopt(holding_listener, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    ck_assert_int_eq(setsockopt(holding_listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size), 0);
    ck_assert_int_eq(bind(holding_listener, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(holding_listener, 16), 0);
}

static inline void start_forwarder(void)
{
    static const struct options options = {.wait_timeout = 600, .linger = 30};
    strcpy(holding_directory, "/tmp/check-holding-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(holding_directory));
    (void)snprintf(holding_table, sizeof holding_table, "%s/table", holding_directory);
    (void)snprintf(holding_socket, sizeof holding_socket, "%s/socket", holding_directory);
    ck_assert_int_eq(records_prepare(), 0);
    ck_assert_int_eq(pair_open(holding_table, HOLDING_CAPACITY, &table), 0);
    pair_adopt(table);
    holding_setup = (struct forward_setup){
        .options = &options, .recorder = -1, .descriptors_max = 4096, .table = table};
    holding_setup.socket = handoff_listen(holding_socket);
    ck_assert_int_ge(holding_setup.socket, 0);
    ck_assert_int_eq(forwarder_open(&forwarder, &holding_setup), 0);
    listen_for_clients();
}

static inline void stop_forwarder(void)
{
    forwarder_close(&forwarder);
    pair_close(table);
    close(holding_setup.socket);
    close(holding_listener);
    (void)unlink(holding_table);
    (void)unlink(holding_socket);
    ck_assert_int_eq(rmdir(holding_directory), 0);
}

static inline bool has_events(void)
{
    struct pollfd entry = {.fd = forwarder.epoll, .events = POLLIN};
    return poll(&entry, 1, 0) > 0;
}

/* The forwarder does all that there is to do now. */
static inline void settle(void)
{
    sigset_t none;
    sigemptyset(&none);
    int rounds = 0;
    do {
        forwarder_round(&forwarder, &none, 0);
        if (rounds++ == HOLDING_ROUNDS)
            ck_abort_msg("the forwarder is never idle");
    } while (forwarder.work != NULL || lobby_is_busy(&forwarder) || has_events());
}

static inline void lapse(struct deadline_list *list)
{
    for (struct deadline *each = list->first; each != NULL; each = each->next)
        each->at = 0;
}

/* All deadlines pass that are set now, and handoffs that were on their way are overdue. */
static inline void let_deadlines_lapse(void)
{
    for (size_t i = 0; i < PAIR_PROTOCOLS_MAX; i++)
        lapse(&forwarder.waiting[i]);
    struct deadline_list *const lists[] = {&forwarder.arriving, &forwarder.lingering,
        &forwarder.leaving, &forwarder.watching, &forwarder.resting, &forwarder.delivering};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        lapse(lists[i]);
    for (size_t kind = 0; kind < CODEC_KINDS; kind++) {
        lapse(&forwarder.quiet[kind]);
        for (size_t i = 0; i < FORWARDER_JITTERS; i++)
            lapse(&forwarder.silent[kind][i]);
    }
    forwarder.behind_until = 0;
    forwarder.attentive_since = forwarder.transfer.now - 2 * (int64_t)PAIR_ARRIVAL_TIME;
    settle();
}

/* In all shares of the budget. */
static inline size_t bytes_held(void)
{
    size_t bytes = 0;
    for (size_t i = 0; i < BUDGET_SHARES; i++)
        bytes += budget_used((enum budget_share)i);
    return bytes;
}

static inline void expect_nobody_held(void)
{
    ck_assert_uint_eq(forwarder.held, 0);
    ck_assert_uint_eq(pair_used(table), 0);
    ck_assert_uint_eq(bytes_held(), 0);
}

/* ---- how clients come ----------------------------------------------------------- */

static inline void connect_client(struct client *client)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    int size = SOCKET_SIZE;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(client->fd, 0);
    ck_assert_int_eq(setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size), 0);
    ck_assert_int_eq(getsockname(holding_listener, (struct sockaddr *)&address, &length), 0);
    ck_assert_int_eq(connect(client->fd, (struct sockaddr *)&address, length), 0);
    client->relayed = accept4(holding_listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    ck_assert_int_ge(client->relayed, 0);
}

/* Both sides of a session in TLS, as a handshake would have left them. */
static inline void share_keys(struct client *client)
{
    static const uint8_t ours[RECORDS_SECRET_MAX] = "the relay's";
    static const uint8_t theirs[RECORDS_SECRET_MAX] = "the client's";
    ck_assert_int_eq(
        records_start_1_3(&client->handoff.records, RECORDS_AES_128_GCM, theirs, ours), 0);
    ck_assert_int_eq(records_start_1_3(&client->records, RECORDS_AES_128_GCM, ours, theirs), 0);
    client->handoff.records.data_max = client->records.data_max = RECORDS_DATA_MAX;
}

/* Both sides have the same keys. No handshake makes such keys, but they do for these tests. */
static inline void open_channel(struct client *client)
{
    static struct budget_account account;
    struct channel_session session;
    memset(&session, 0, sizeof session);
    client->handoff.codec = CODEC_CHANNEL;
    client->handoff.session_size = sizeof session;
    memcpy(client->handoff.session, &session, sizeof session);
    client->channel = calloc(1, channel_codec.state_size);
    ck_assert_ptr_nonnull(client->channel);
    ck_assert_int_eq(channel_codec.open(client->channel, client->handoff.session, sizeof session,
                         forwarder.transfer.now, &account),
        0);
}

/* A client after its greeting, which has not met a peer yet. */
static inline void greet(struct client *client, enum carrier carrier)
{
    static const struct pair_limits unlimited = {0, 0};
    *client = (struct client){.carrier = carrier};
    connect_client(client);
    ck_assert_int_eq(pair_enter(table, &unlimited, 0, 1, clock_now() + 600000, &client->ref), 0);
    client->handoff = (struct handoff){
        .kind = HANDOFF_CONNECTION,
        .ref = client->ref,
        .dismissed = PAIR_NONE,
        .codec = (carrier & FRAMED) != 0 ? CODEC_WEBSOCKET : CODEC_PLAIN,
        .table = pair_id(table),
    };
    if ((carrier & CHANNEL) != 0)
        open_channel(client);
    if ((carrier & SECURE) != 0)
        share_keys(client);
}

static inline enum pair_result meet(struct client *client, const struct pair_request *request)
{
    struct pair_meeting meeting;
    ck_assert_int_eq(pair_meet(table, client->ref, request, &meeting), 0);
    client->handoff.dismissed = meeting.dismissed;
    return meeting.result;
}

static inline struct pair_key key_of(uint8_t protocol, const char *name)
{
    struct iovec part = {(void *)(uintptr_t)name, strlen(name)};
    return pair_key(table, protocol, &part, 1);
}

/* The forwarder takes the client, unless its slot is gone. */
static inline void hand_over(struct client *client)
{
    int error = pair_sent(table, client->ref);
    ck_assert(error == 0 || error == -ESTALE);
    connections_take(&forwarder, &client->handoff, client->relayed);
    if (!pair_is_none(client->handoff.dismissed))
        connections_look(&forwarder, client->handoff.dismissed);
    client->relayed = -1;
    settle();
}

/* NULL: the forwarder does not hold it any more. */
static inline struct connection *connection_of(const struct client *client)
{
    return connections_held(&forwarder, client->ref);
}

/* ---- what clients do ------------------------------------------------------------- */

static inline size_t make_frame(uint8_t *frame, uint8_t head, const void *payload, size_t size)
{
    size_t at = 0;
    frame[at++] = head;
    if (size < 126) {
        frame[at++] = (uint8_t)(0x80 | size);
    } else {
        frame[at++] = 0x80 | 126;
        frame[at++] = (uint8_t)(size >> 8);
        frame[at++] = (uint8_t)size;
    }
    memset(frame + at, 0, 4); /* a mask that changes nothing */
    memcpy(frame + at + 4, payload, size);
    return at + 4 + size;
}

/* Whether all bytes could be sent without waiting. */
static inline bool send_raw(const struct client *client, const void *bytes, size_t size)
{
    return send(client->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
}

static inline bool send_in_records(struct client *client, const void *bytes, size_t size)
{
    static uint8_t sealed[4 * FRAME_MAX];
    struct iovec part = {(void *)(uintptr_t)bytes, size};
    struct records_source source = {&part, 1, 0};
    ssize_t count = records_seal(&client->records, &source, sealed, sizeof sealed);
    ck_assert_int_gt(count, 0);
    return send_raw(client, sealed, (size_t)count);
}

static inline bool send_bytes(struct client *client, const void *bytes, size_t size)
{
    return (client->carrier & SECURE) != 0 ? send_in_records(client, bytes, size)
                                           : send_raw(client, bytes, size);
}

static inline bool send_frame(struct client *client, uint8_t head, const void *payload, size_t size)
{
    static uint8_t frame[FRAME_HEAD_MAX + FRAME_MAX];
    return send_bytes(client, frame, make_frame(frame, head, payload, size));
}

static inline bool send_in_channel(struct client *client, const void *bytes, size_t size)
{
    struct piece piece = {(uint8_t *)(uintptr_t)bytes, size, false, true, true};
    struct iovec out;
    ck_assert_int_eq(
        channel_codec.encode(client->channel, &piece, forwarder.transfer.now, &out), 0);
    return send_bytes(client, out.iov_base, out.iov_len);
}

/* Sends a message, or bytes. */
static inline bool say(struct client *client, const void *bytes, size_t size)
{
    if ((client->carrier & CHANNEL) != 0)
        return send_in_channel(client, bytes, size);
    return (client->carrier & FRAMED) != 0 ? send_frame(client, BINARY_FRAME, bytes, size)
                                           : send_bytes(client, bytes, size);
}

/* Ends the client's direction, in the way of what it carries. */
static inline void finish(struct client *client)
{
    uint8_t sealed[RECORDS_CONTROL_MAX];
    if ((client->carrier & FRAMED) != 0)
        (void)send_frame(client, CLOSE_FRAME, "\x03\xe8", 2);
    if ((client->carrier & SECURE) != 0) {
        ssize_t size = records_seal_alert(&client->records, RECORDS_CLOSE_NOTIFY, sealed);
        (void)send_raw(client, sealed, (size_t)size);
    }
    if (client->carrier == PLAIN || client->carrier == CHANNEL)
        (void)shutdown(client->fd, SHUT_WR); /* fails if it was reset */
}

static inline void hang_up(struct client *client)
{
    if (client->fd < 0)
        return;
    close(client->fd);
    client->fd = -1;
    if (client->channel != NULL)
        channel_codec.close(client->channel);
    free(client->channel);
    client->channel = NULL;
}

static inline void reset(struct client *client)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    if (client->fd >= 0)
        ck_assert_int_eq(setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    hang_up(client);
}

/* Reads what has come, at most `size` bytes. */
static inline size_t take_all(const struct client *client, uint8_t *bytes, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = recv(client->fd, bytes + done, size - done, MSG_DONTWAIT);
        if (count <= 0)
            break;
        done += (size_t)count;
    }
    return done;
}

#endif
