/* The deadlines of connections: their lengths, and what is done when one has passed. */
#include "forward/expiry.h"

#include "base/log.h"
#include "forward/connections.h"
#include "forward/depart.h"
#include "forward/intake.h"
#include "forward/liveness.h"
#include "forward/messages.h"
#include "protocol.h"

enum {
    WATCH = 15000, /* milliseconds between two looks at whether a client lives */
    DEAF = 1000,   /* after which a connection is sent messages, whether it has answered or not */
    REST = 100,    /* between two looks at whether a connection in the lobby has paid its debt */
    DELIVERY = 20, /* between two looks at whether a client has acknowledged all */
};

void expiry_prepare(struct forwarder *forwarder)
{
    forwarder->arriving.length = PAIR_ARRIVAL_TIME;
    forwarder->leaving.length = FORWARDER_LEAVE_TIME;
    forwarder->departing.length = FORWARDER_LEAVE_TIME;
    forwarder->watching.length = WATCH;
    forwarder->resting.length = REST;
    forwarder->deaf.length = DEAF;
    forwarder->delivering.length = DELIVERY;
    for (size_t kind = 0; kind < CODEC_KINDS; kind++) {
        const struct codec *codec = codecs[kind];
        if (codec == NULL)
            continue;
        forwarder->quiet[kind].length = codec->quiet_time;
        for (int64_t i = 0; i < FORWARDER_JITTERS; i++)
            forwarder->silent[kind][i].length =
                codec->silent_time +
                codec->silent_jitter * (2 * i + 1 - FORWARDER_JITTERS) / FORWARDER_JITTERS;
    }
}

/* ---- connections ----------------------------------------------------------------- */

/* The peer's descriptor has not come: the table undoes the match. */
static void miss_arrival(struct forwarder *forwarder, struct connection *connection)
{
    deadline_set(
        &connection->phase, &forwarder->waiting[connection->protocol], forwarder->transfer.now);
    (void)pair_undo(forwarder->table, connection->ref); /* the slot says what came of it */
    connections_look(forwarder, connection->ref);
}

/* One direction ended some time ago, and nothing was written since; but the kernel may still be
 * delivering what it was given before. */
static void end_linger(struct forwarder *forwarder, struct connection *connection)
{
    bool moves = liveness_progresses(connection->fd, &connection->acknowledged);
    bool peer_moves = liveness_progresses(connection->peer->fd, &connection->peer->acknowledged);
    if (moves || peer_moves)
        deadline_set(&connection->phase, &forwarder->lingering, forwarder->transfer.now);
    else
        connections_part(forwarder, connection);
}

static void lose_client(struct forwarder *forwarder, struct connection *connection)
{
    transfer_break(&forwarder->transfer, connection);
    messages_forget(connection);
    connection->broken = true;
    if (connection->state == CONNECTION_JOINED)
        connections_run_pair(forwarder, connection);
    else
        connections_dismiss(forwarder, connection,
            connection->state == CONNECTION_LOBBY ? PAIR_SERVED : PAIR_LONELY, PAIR_NO_REASON);
}

static void check_life(struct forwarder *forwarder, struct connection *connection)
{
    enum liveness liveness = liveness_check(connection->fd);
    if (liveness == LIVENESS_DEAD)
        lose_client(forwarder, connection);
    else if (liveness == LIVENESS_WAITING)
        deadline_set(&connection->watch, &forwarder->watching, forwarder->transfer.now);
}

/* A connection whose peer may still be on its way waits once more. */
static void expire_arrivals(struct forwarder *forwarder)
{
    struct deadline *due;
    int64_t now = forwarder->transfer.now;
    if (!deadline_is_due(&forwarder->arriving, now))
        return;
    bool missed = intake_is_over(forwarder);
    while ((due = deadline_expired(&forwarder->arriving, now)) != NULL) {
        if (missed)
            miss_arrival(forwarder, connection_of_phase(due));
        else
            deadline_set(due, &forwarder->arriving, now);
    }
}

/* ---- codecs ---------------------------------------------------------------------- */

/* A client that was asked need not answer. */
static void end_deafness(struct forwarder *forwarder, struct connection *connection)
{
    connection->coded->deaf = false;
    connections_queue(forwarder, connection);
}

/* A client for which bytes wait gets a sign of life with those. */
static void end_quiet(struct forwarder *forwarder, struct connection *connection)
{
    struct coded *coded = connection->coded;
    struct iovec out = {NULL, 0};
    if (!transfer_pending(connection) &&
        coded->codec->quiet(coded->state, forwarder->transfer.now, &out) == 0)
        transfer_say(connection, out.iov_base, out.iov_len);
    coded->sent = true;
    (void)connections_watch(forwarder, connection);
    connections_touch(forwarder, connection);
}

/* Whether the relay reads a connection now. If it does not, because of a slow peer or because the
 * peer has not come, silence is no fault of the client's. */
static bool is_being_read(const struct connection *connection)
{
    if (connection->state != CONNECTION_JOINED)
        return !messages_are_full(connection);
    return !transfer_pending(connection->peer) && !connection->peer->finished &&
           messages_may_read(connection);
}

static void end_silence(struct forwarder *forwarder, struct connection *connection)
{
    struct coded *coded = connection->coded;
    struct iovec out = {NULL, 0};
    int error = coded->codec->silent(coded->state, forwarder->transfer.now, &out);
    bool being_read = is_being_read(connection);
    if (error != 0 && being_read) {
        lose_client(forwarder, connection);
        return;
    }
    /* Also a client that is not read is sent a ping: if it is gone, a reset answers that. */
    if (being_read || !transfer_pending(connection))
        transfer_say(connection, out.iov_base, out.iov_len);
    (void)connections_watch(forwarder, connection);
    connections_touch(forwarder, connection);
    connections_queue(forwarder, connection); /* it may be allowed to hold more messages by now */
}

static struct coded *coded_of_quiet(struct deadline *deadline)
{
    return (struct coded *)((char *)deadline - offsetof(struct coded, quiet));
}

static struct coded *coded_of_silent(struct deadline *deadline)
{
    return (struct coded *)((char *)deadline - offsetof(struct coded, silent));
}

static struct coded *coded_of_deaf(struct deadline *deadline)
{
    return (struct coded *)((char *)deadline - offsetof(struct coded, deaf_until));
}

static void expire_codecs(struct forwarder *forwarder)
{
    struct deadline *due;
    int64_t now = forwarder->transfer.now;
    while ((due = deadline_expired(&forwarder->deaf, now)) != NULL)
        end_deafness(forwarder, coded_of_deaf(due)->connection);
    for (size_t kind = 0; kind < CODEC_KINDS; kind++) {
        while ((due = deadline_expired(&forwarder->quiet[kind], now)) != NULL)
            end_quiet(forwarder, coded_of_quiet(due)->connection);
        for (size_t i = 0; i < FORWARDER_JITTERS; i++)
            while ((due = deadline_expired(&forwarder->silent[kind][i], now)) != NULL)
                end_silence(forwarder, coded_of_silent(due)->connection);
    }
}

/* ---- all ------------------------------------------------------------------------- */

void expiry_run(struct forwarder *forwarder)
{
    struct deadline *due;
    int64_t now = forwarder->transfer.now;
    for (size_t i = 0; i < PROTOCOL_COUNT; i++)
        while ((due = deadline_expired(&forwarder->waiting[i], now)) != NULL)
            connections_dismiss(forwarder, connection_of_phase(due), PAIR_LONELY, PAIR_NO_REASON);
    expire_arrivals(forwarder);
    while ((due = deadline_expired(&forwarder->lingering, now)) != NULL)
        end_linger(forwarder, connection_of_phase(due));
    while ((due = deadline_expired(&forwarder->leaving, now)) != NULL)
        connections_close(forwarder, connection_of_phase(due));
    depart_expire(forwarder, now);
    while ((due = deadline_expired(&forwarder->watching, now)) != NULL)
        check_life(forwarder, connection_of_watch(due));
    while ((due = deadline_expired(&forwarder->delivering, now)) != NULL)
        connections_check_delivery(forwarder, connection_of_watch(due));
    while ((due = deadline_expired(&forwarder->resting, now)) != NULL)
        connections_run(forwarder, connection_of_phase(due));
    expire_codecs(forwarder);
}

/* The earliest of all deadlines, and `next`. */
int64_t expiry_next(const struct forwarder *forwarder, int64_t next)
{
    for (size_t i = 0; i < PROTOCOL_COUNT; i++)
        next = deadline_next(&forwarder->waiting[i], next);
    for (size_t kind = 0; kind < CODEC_KINDS; kind++) {
        next = deadline_next(&forwarder->quiet[kind], next);
        for (size_t i = 0; i < FORWARDER_JITTERS; i++)
            next = deadline_next(&forwarder->silent[kind][i], next);
    }
    next = deadline_next(&forwarder->deaf, next);
    next = deadline_next(&forwarder->arriving, next);
    next = deadline_next(&forwarder->lingering, next);
    next = deadline_next(&forwarder->leaving, next);
    next = deadline_next(&forwarder->departing, next);
    next = deadline_next(&forwarder->resting, next);
    next = deadline_next(&forwarder->delivering, next);
    return deadline_next(&forwarder->watching, next);
}

void expiry_collect(struct forwarder *forwarder)
{
    struct budget_account *account;
    while ((account = budget_debtor(forwarder->transfer.now)) != NULL) {
        struct connection *connection =
            (struct connection *)((char *)account - offsetof(struct connection, account));
        log_repeated(LOG_WARNING,
            "closed a connection (%s): all together hold too much memory, and this one has held "
            "%zu KiB for long",
            protocols[connection->protocol]->name, account->held >> 10);
        if (connection->state == CONNECTION_JOINED)
            lose_client(forwarder, connection);
        else
            connections_close(forwarder, connection);
    }
}
