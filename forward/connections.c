/* What becomes of each end that the forwarder holds: parked, in the lobby, joined, leaving, closed.
 * How bytes move is transfer.c's, how messages do is messages.c's; who meets whom is the table's.
 *
 * From each state something leads out, whatever a client does not do: an event, or a deadline.
 *
 *      state                       events                          deadlines
 *      parked                      bytes, its end, its peer        waiting; silent
 *        held data full            its hanging up                  waiting; silent asks, watching
 *        matched                   its peer's descriptor           arriving, then waiting
 *      in the lobby                messages, its end, a peer       silent
 *        in debt                   its hanging up                  resting
 *      joined                      bytes and ends of both          silent; watching, once written
 * to one has ended or hung up  the other's bytes and end       lingering, while nothing moves both
 * have ended or lost   none: is_over() at once leaving                     its end leaving not all
 * written           its reading                     leaving cut                       its
 * acknowledging               delivering, leaving
 *
 * silent: of those with a codec. Who has none has the kernel's keepalive, as long as nothing that
 * was written waits to be acknowledged. tests/check_ends.c walks these states. */
#include "base/log.h"
#include "codec/websocket.h"
#include "forward/forwarder.h"
#include "forward/liveness.h"
#include "protocol.h"
#include "tls/kernel_tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    SPARES_AT_ONCE = 64,
    DISCARDS_AT_ONCE = 4,    /* reads of what nobody wants, before others have their turn */
    DISCARDED_MAX = 1 << 24, /* bytes of it: more than can be on the way when one is told to go */
};

/* ---- records --------------------------------------------------------------------- */

void connections_record(struct forwarder *forwarder, const struct usage_record *entry)
{
    if (forwarder->recorder < 0)
        return;
    int error = usage_send(forwarder->recorder, entry);
    if (error == 0)
        return;
    errno = -error;
    log_repeated_errno(LOG_ERR, "cannot record a connection");
    if (error == -EAGAIN)
        return;
    close(forwarder->recorder);
    forwarder->recorder = -1;
    forwarder->recorder_lost = forwarder->outdated = true;
    log_error(
        "the recorder is gone: another forwarder, with a recorder, takes this one's place once "
        "it has no connection, or when it is ended");
}

static void record_single(
    struct forwarder *forwarder, const struct connection *connection, enum pair_outcome outcome)
{
    struct usage_record entry = usage_single(connection->start, outcome);
    pair_count(forwarder->table, connection->protocol, outcome);
    if (outcome == PAIR_SERVED || connection->state == CONNECTION_LOBBY)
        return; /* neither a pair, nor one that never met */
    connections_record(forwarder, &entry);
}

static void record_pair(
    struct forwarder *forwarder, uint8_t protocol, const struct usage_record *entry)
{
    pair_count(forwarder->table, protocol, PAIR_HAPPY);
    pair_count_bytes(forwarder->table, entry->total_bytes);
    connections_record(forwarder, entry);
}

/* ---- queueing, touching, closing ------------------------------------------------- */

void connections_queue(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->queued)
        return;
    connection->queued = true;
    connection->next = forwarder->work;
    forwarder->work = connection;
}

/* What was sent puts off the next sign of life of ours, and what was heard the end of our
 * patience. */
void connections_touch(struct forwarder *forwarder, struct connection *connection)
{
    struct coded *coded = connection->coded;
    if (coded == NULL || connection->fd < 0 || connection->state == CONNECTION_LEAVING)
        return;
    const struct codec *codec = coded->codec;
    size_t kind = codec == codecs[CODEC_CHANNEL] ? CODEC_CHANNEL : CODEC_WEBSOCKET;
    size_t jitter = connection->ref.slot % FORWARDER_JITTERS;
    if (codec->quiet_time > 0 && (coded->sent || !deadline_is_set(&coded->quiet)))
        deadline_set(&coded->quiet, &forwarder->quiet[kind], forwarder->transfer.now);
    if (codec->silent_time > 0 && (coded->heard || !deadline_is_set(&coded->silent)))
        deadline_set(&coded->silent, &forwarder->silent[kind][jitter], forwarder->transfer.now);
    coded->sent = coded->heard = false;
}

static void clear_deadlines(struct connection *connection)
{
    deadline_clear(&connection->phase);
    deadline_clear(&connection->watch);
    if (connection->coded == NULL)
        return;
    deadline_clear(&connection->coded->quiet);
    deadline_clear(&connection->coded->silent);
    deadline_clear(&connection->coded->deaf_until);
}

/* A worker may hold a copy of the descriptor yet, so the kernel would go on to report it. */
static void close_descriptor(struct forwarder *forwarder, struct connection *connection)
{
    (void)epoll_ctl(forwarder->epoll, EPOLL_CTL_DEL, connection->fd, NULL);
    close(connection->fd);
    connection->fd = -1;
}

/* Should it fail, the end looks like any other. */
static void reset_at_close(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) < 0)
        log_debug("cannot have a connection reset: %s", strerror(errno));
}

/* Gives its place up; who was to be its peer is looked at. It counts until it is closed. */
static void leave_place(struct forwarder *forwarder, struct connection *connection)
{
    struct pair_ref stranded;
    connection->bytes = NULL;
    if (pair_part(forwarder->table, connection->ref, &stranded) == 0 && !pair_is_none(stranded))
        connections_look(forwarder, stranded);
}

static void leave_slot(struct forwarder *forwarder, struct connection *connection)
{
    struct pair_ref stranded;
    if (pair_is_none(connection->ref))
        return; /* it was lost with its table */
    forwarder->slots[connection->ref.slot] = NULL;
    (void)pair_leave(
        forwarder->table, connection->ref, &stranded); /* nobody: it has left its place */
    connection->ref = PAIR_NONE;
}

/* The only place where an end ceases to be. Its slot is free before its client can know. */
void connections_close(struct forwarder *forwarder, struct connection *connection)
{
    clear_deadlines(connection);
    leave_slot(forwarder, connection);
    transfer_part(connection);
    if (connection->cut)
        reset_at_close(connection->fd);
    transfer_break(&forwarder->transfer, connection);
    messages_close(connection);
    close_descriptor(forwarder, connection);
    tls_stream_close(connection->tls);
    depart_lose(connection);
    forwarder->ends--;
    if (connection->queued)
        return; /* the work list hands it on */
    connection->next = forwarder->dead;
    forwarder->dead = connection;
}

void connections_bury(struct forwarder *forwarder)
{
    while (forwarder->dead != NULL) {
        struct connection *connection = forwarder->dead;
        forwarder->dead = connection->next;
        free(connection);
    }
}

/* ---- leaving --------------------------------------------------------------------- */

static bool discard(void *context, struct connection *from, struct piece *piece)
{
    (void)context;
    (void)from;
    (void)piece;
    return true;
}

/* Whether the other side is to answer a farewell, and its input still makes sense: what broke the
 * protocol, or is not wanted, was not read to its end. Who is cut was told none. */
static bool is_to_answer(const struct connection *connection)
{
    const struct coded *coded = connection->coded;
    return coded != NULL && coded->codec->mutual_close && coded->verdict == CODEC_MORE &&
           !coded->unwelcome && !connection->cut && !transfer_broke_tls(connection);
}

/* Returns whether there is more to discard right now. */
static bool discard_once(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->discarded > DISCARDED_MAX)
        return false;
    if (is_to_answer(connection))
        return messages_read(&forwarder->transfer, connection, discard, NULL);
    if (connection->readable && !connection->gone)
        (void)transfer_read(&forwarder->transfer, connection, TRANSFER_CHUNK);
    return connection->readable && !connection->gone;
}

/* Once everything is written: no more will be, unless the other side is to answer a farewell. */
static void shut_down(struct connection *connection)
{
    if (connection->finished || connection->gone || connection->cut || is_to_answer(connection))
        return;
    transfer_shut(connection);
}

static bool has_left(const struct connection *connection)
{
    return connection->gone ||
           (connection->coded != NULL && connection->coded->verdict == CODEC_CLOSED);
}

/* A reset throws away what is on its way: one that is cut is reset once it has acknowledged all,
 * and has LEAVE milliseconds for each step of that. */
void connections_check_delivery(struct forwarder *forwarder, struct connection *connection)
{
    if (liveness_progresses(connection->fd, &connection->acknowledged))
        deadline_set(&connection->phase, &forwarder->leaving, forwarder->transfer.now);
    if (!transfer_pending(connection) && liveness_check(connection->fd) != LIVENESS_WAITING)
        connections_close(forwarder, connection);
    else
        deadline_set(&connection->watch, &forwarder->delivering, forwarder->transfer.now);
}

/* Whether it ends because relay does, or the server that it came by. */
static bool is_stopped(const struct forwarder *forwarder, const struct connection *connection)
{
    return forwarder->stopping || connection->departure != NULL;
}

/* Closes so that what was written arrives: input is discarded until the other side closes, as a
 * close with unread input is a reset, which may overtake it. A relay that stops does not wait for
 * that any longer once there is none. */
static void go_on_leaving(struct forwarder *forwarder, struct connection *connection)
{
    bool more = true;
    transfer_flush(connection);
    bool written = connection->finished || !transfer_pending(connection);
    if (written)
        shut_down(connection);
    for (int i = 0; more && i < DISCARDS_AT_ONCE; i++)
        more = discard_once(forwarder, connection);
    if (written && !connection->cut &&
        (has_left(connection) || (is_stopped(forwarder, connection) && !more)))
        connections_close(forwarder, connection);
    else if (more)
        connections_queue(forwarder, connection);
}

static void start_leaving(struct forwarder *forwarder, struct connection *connection)
{
    clear_deadlines(connection);
    connection->state = CONNECTION_LEAVING;
    connection->peer = NULL;
    connection->ended = connection->gone;
    messages_forget(connection);
    deadline_set(&connection->phase, &forwarder->leaving, forwarder->transfer.now);
    if (connection->cut)
        connections_check_delivery(forwarder, connection);
    if (connection->fd >= 0)
        go_on_leaving(forwarder, connection);
}

/* Says farewell as the protocol does, or as befits what the other side said last. */
static bool say_farewell(struct forwarder *forwarder, struct connection *connection,
    enum pair_outcome outcome, enum pair_reason reason)
{
    const struct coded *coded = connection->coded;
    struct words words = {.size = 0};
    if (coded == NULL || coded->verdict == CODEC_MORE)
        protocols[connection->protocol]->farewell(outcome, reason, &words);
    if (coded != NULL && coded->close_code != 0)
        words = (struct words){.code = coded->close_code, .reason = coded->close_reason};
    else if (coded != NULL && coded->verdict == CODEC_MORE && is_stopped(forwarder, connection))
        words = (struct words){.code = WEBSOCKET_GOING_AWAY, .reason = "the relay stops"};
    else if (coded != NULL && coded->verdict == CODEC_MORE && connection->cut)
        words = (struct words){.code = WEBSOCKET_UNEXPECTED, .reason = "the other side was lost"};
    return messages_speak(&forwarder->transfer, connection, &words, true);
}

/* Where it is relay, or what the client sent, that ends a connection. */
static void log_reason(const struct connection *connection)
{
    const struct coded *coded = connection->coded;
    if (connection->starved)
        log_repeated(LOG_WARNING,
            "closed a connection (%s): there is no memory for what it sent, or was to be sent",
            protocols[connection->protocol]->name);
    else if (coded != NULL && (coded->verdict == CODEC_FAILED || coded->unwelcome))
        log_repeated(LOG_INFO, "closed a connection (%s): what it sent breaks the protocol",
            protocols[connection->protocol]->name);
}

void connections_dismiss(struct forwarder *forwarder, struct connection *connection,
    enum pair_outcome outcome, enum pair_reason reason)
{
    log_reason(connection);
    lobby_leave(forwarder, connection);
    leave_place(forwarder, connection);
    record_single(forwarder, connection, outcome);
    if (say_farewell(forwarder, connection, outcome, reason) || transfer_broke_tls(connection))
        start_leaving(forwarder, connection);
    else
        connections_close(forwarder, connection);
}

/* ---- pairs ----------------------------------------------------------------------- */

/* What came from this end has all been delivered, and no more will come. */
static bool is_delivered(const struct connection *connection)
{
    return connection->ended &&
           (connection->peer->finished ||
               (!transfer_pending(connection->peer) && !messages_are_held(connection)));
}

/* Whether what an end sent has stopped before its own end: its connection has failed, or was closed
 * without the word that its protocol has for it, or what it sent made no sense. */
static bool is_broken(const struct connection *connection)
{
    const struct coded *coded = connection->coded;
    if (coded == NULL || coded->verdict == CODEC_CLOSED)
        return coded == NULL && connection->broken;
    return connection->broken || connection->starved || coded->unwelcome ||
           coded->verdict == CODEC_FAILED || (connection->gone && coded->codec->mutual_close);
}

/* Whether an end of a pair that is parted has been sent less than its peer had for it. Messages
 * have no half of a connection: there, only who goes itself ends the other's direction, too. */
static bool is_cut(const struct forwarder *forwarder, const struct connection *connection)
{
    if (transfer_broke_tls(connection))
        return false; /* the alert has said so */
    if (is_broken(connection->peer))
        return connection->coded == NULL || connection->coded->codec->mutual_close;
    return !messages_between(connection) && !is_stopped(forwarder, connection) &&
           !is_delivered(connection->peer);
}

/* In the middle of a message no farewell would make sense to a client. */
static void part_in_words(struct forwarder *forwarder, struct connection *connection)
{
    const struct coded *coded = connection->coded;
    bool in_message = coded != NULL && coded->speaking && coded->verdict == CODEC_MORE &&
                      !transfer_broke_tls(connection);
    if (in_message && coded->close_code == 0)
        connection->cut = true;
    else if (say_farewell(forwarder, connection, PAIR_HAPPY, PAIR_NO_REASON))
        connection->cut = false;
}

void connections_part(struct forwarder *forwarder, struct connection *connection)
{
    struct connection *peer = connection->peer;
    struct usage_record entry =
        usage_pair(connection->start, peer->start, transfer_total(connection));
    log_reason(connection);
    log_reason(peer);
    leave_place(forwarder, connection);
    leave_place(forwarder, peer);
    connection->cut = is_cut(forwarder, connection);
    peer->cut = is_cut(forwarder, peer);
    if (messages_between(connection)) {
        part_in_words(forwarder, connection);
        part_in_words(forwarder, peer);
    }
    start_leaving(forwarder, connection);
    start_leaving(forwarder, peer);
    record_pair(forwarder, connection->protocol, &entry); /* who reads it finds the slots free */
}

void connections_stop(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->state == CONNECTION_JOINED)
        connections_part(forwarder, connection);
    else if (connection->state != CONNECTION_LEAVING)
        connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_REASON);
}

/* A pair that has had its share is not read any more, and ends as if both had closed: what was read
 * is delivered. */
static void limit_pair(const struct forwarder *forwarder, struct connection *connection)
{
    if (transfer_is_used_up(&forwarder->transfer, connection))
        connection->ended = connection->peer->ended = true;
}

/* Bytes flow until both directions have ended, or one end is broken; messages, which know no half
 * of a connection, until one has ended. To two ends that nothing more is written to, nothing more
 * can come of either. Two ends that have both closed need not be shut down before they are closed.
 */
static bool is_over(const struct connection *connection)
{
    const struct connection *peer = connection->peer;
    bool delivered = is_delivered(connection), peer_delivered = is_delivered(peer);
    if (connection->finished && peer->finished)
        return true;
    if (messages_between(connection))
        return delivered || peer_delivered;
    if ((connection->broken && delivered) || (peer->broken && peer_delivered))
        return true;
    return delivered && peer_delivered && transfer_closes_plainly(connection) &&
           transfer_closes_plainly(peer);
}

/* An end that was written to is watched until it has acknowledged that. Returns whether it was. */
static bool watch(struct forwarder *forwarder, struct connection *connection)
{
    bool moved = connection->moved;
    connection->moved = false;
    if (moved && !deadline_is_set(&connection->watch))
        deadline_set(&connection->watch, &forwarder->watching, forwarder->transfer.now);
    return moved;
}

/* It has, too, when its end is behind what cannot be read while its peer does not read. */
static bool has_ended(const struct connection *connection)
{
    return connection->ended || connection->finished || connection->hung_up;
}

/* What is left of a pair of which one direction has ended goes on as long as it moves: one deadline
 * for both ends. */
static void set_deadlines(struct forwarder *forwarder, struct connection *connection)
{
    struct connection *peer = connection->peer;
    struct deadline *phase = deadline_is_set(&peer->phase) ? &peer->phase : &connection->phase;
    bool moved = watch(forwarder, connection), peer_moved = watch(forwarder, peer);
    connections_touch(forwarder, connection);
    connections_touch(forwarder, peer);
    if (!has_ended(connection) && !has_ended(peer))
        return;
    if (moved || peer_moved || !deadline_is_set(phase))
        deadline_set(phase, &forwarder->lingering, forwarder->transfer.now);
}

/* As soon as there is something for an end that is deaf, it is asked to let itself be heard: with a
 * sign of life it has read what was before that. */
static void ask(struct forwarder *forwarder, struct connection *connection)
{
    struct coded *coded = connection->coded;
    struct iovec out = {NULL, 0};
    if (messages_may_write(connection) || coded->asked || !messages_are_held(connection->peer))
        return;
    coded->asked = true;
    if (coded->codec->silent(coded->state, forwarder->transfer.now, &out) == 0)
        transfer_say(connection, out.iov_base, out.iov_len);
}

static void run_pair(struct forwarder *forwarder, struct connection *connection)
{
    struct connection *peer = connection->peer;
    transfer_flush(connection);
    if (transfer_move(&forwarder->transfer, connection))
        connections_queue(forwarder, connection);
    if (transfer_move(&forwarder->transfer, peer))
        connections_queue(forwarder, peer);
    ask(forwarder, connection);
    ask(forwarder, peer);
    limit_pair(forwarder, connection);
    if (!is_over(connection)) {
        transfer_finish(connection);
        transfer_finish(peer);
    }
    if (is_over(connection)) {
        connections_part(forwarder, connection);
        return;
    }
    set_deadlines(forwarder, connection);
}

/* Those of the same side who waited beside the one that was taken. */
static void dismiss_spares(struct forwarder *forwarder, struct connection *connection)
{
    struct pair_ref spares[SPARES_AT_ONCE];
    size_t count = pair_spares(forwarder->table, connection->ref, spares, SPARES_AT_ONCE);
    connection->crowded = count == SPARES_AT_ONCE;
    for (size_t i = 0; i < count; i++)
        connections_look(forwarder, spares[i]);
    if (connection->crowded)
        connections_queue(forwarder, connection);
}

static void welcome(
    struct forwarder *forwarder, struct connection *connection, struct connection *peer)
{
    const struct coded *coded = connection->coded;
    struct words words = {.size = 0};
    connection->peer = peer;
    connection->state = CONNECTION_JOINED;
    messages_settle(connection);
    deadline_clear(&connection->phase);
    protocols[connection->protocol]->welcome(
        coded == NULL ? NULL : coded->name, coded == NULL ? 0 : coded->name_size, &words);
    (void)messages_speak(&forwarder->transfer, connection, &words, false);
}

static void join(
    struct forwarder *forwarder, struct connection *connection, struct connection *peer)
{
    if (pair_join(forwarder->table, connection->ref, peer->ref) != 0)
        return; /* undone meanwhile: the arrival's deadline looks again */
    connection->bytes = pair_bytes(forwarder->table, connection->ref);
    peer->bytes = pair_bytes(forwarder->table, peer->ref);
    lobby_leave(forwarder, connection);
    lobby_leave(forwarder, peer);
    /* Before the two are told: who comes after that is no spare of theirs. */
    dismiss_spares(forwarder, connection);
    welcome(forwarder, peer, connection);
    welcome(forwarder, connection, peer);
    messages_release(&forwarder->transfer, connection);
    messages_release(&forwarder->transfer, peer);
    run_pair(forwarder, connection);
}

/* ---- parked ---------------------------------------------------------------------- */

static enum pair_outcome outcome_of(enum pair_reason reason)
{
    switch (reason) {
    case PAIR_SPARE:
        return PAIR_REDUNDANT;
    case PAIR_DUPLICATE:
        return PAIR_ERRORY;
    case PAIR_REPLACED:
        return PAIR_REDUNDANT;
    case PAIR_NO_LISTENER:
    case PAIR_NO_REASON:
        break;
    }
    return PAIR_LONELY;
}

struct connection *connections_held(const struct forwarder *forwarder, struct pair_ref ref)
{
    struct connection *connection =
        ref.slot < pair_capacity(forwarder->table) ? forwarder->slots[ref.slot] : NULL;
    return connection != NULL && pair_same(connection->ref, ref) ? connection : NULL;
}

/* Does what the table says of an end without a peer. */
static void settle(
    struct forwarder *forwarder, struct connection *connection, const struct pair_view *view)
{
    if (view->state == PAIR_DISMISSED) {
        connections_dismiss(forwarder, connection, outcome_of(view->reason), view->reason);
    } else if (view->state == PAIR_MATCHED) {
        struct connection *peer = connections_held(forwarder, view->peer);
        deadline_set(&connection->phase, &forwarder->arriving, forwarder->transfer.now);
        if (peer != NULL)
            join(forwarder, connection, peer);
    } else if (connection->state == CONNECTION_PARKED &&
               (!deadline_is_set(&connection->phase) ||
                   connection->phase.list == &forwarder->arriving)) {
        deadline_set(
            &connection->phase, &forwarder->waiting[connection->protocol], forwarder->transfer.now);
    }
}

void connections_look(struct forwarder *forwarder, struct pair_ref ref)
{
    struct pair_view view;
    struct connection *connection = connections_held(forwarder, ref);
    if (connection != NULL &&
        (connection->state == CONNECTION_PARKED || connection->state == CONNECTION_LOBBY) &&
        pair_look(forwarder->table, ref, &view) == 0)
        settle(forwarder, connection, &view);
}

/* Before the match a plain client has nothing to say, and may only go. */
static void judge_parked(struct forwarder *forwarder, struct connection *connection)
{
    if (transfer_read(&forwarder->transfer, connection, TRANSFER_CHUNK) > 0)
        connections_dismiss(forwarder, connection, PAIR_IMPATIENT, PAIR_NO_REASON);
    else if (connection->ended)
        connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_REASON);
    else if (connection->readable)
        connections_queue(forwarder, connection);
}

static bool take_early(void *context, struct connection *from, struct piece *piece)
{
    const struct protocol *protocol = protocols[from->protocol];
    struct coded *coded = from->coded;
    (void)context;
    if (protocol->binary_only && piece->text)
        coded->close_code = WEBSOCKET_UNSUPPORTED;
    coded->unwelcome = coded->close_code != 0 || !protocol->patient || !messages_hold(from, piece);
    return !coded->unwelcome;
}

/* Who has gone is known to have gone by its end of file, or, while it may not be read, by hanging
 * up: no protocol with messages knows half of a connection. */
static bool has_gone(const struct connection *connection)
{
    return connection->ended || (connection->hung_up && !messages_may_read(connection));
}

static void read_parked(struct forwarder *forwarder, struct connection *connection)
{
    const struct coded *coded = connection->coded;
    bool more = messages_read(&forwarder->transfer, connection, take_early, NULL);
    if (connection->starved)
        connections_dismiss(forwarder, connection, PAIR_FULL, PAIR_NO_REASON);
    else if (coded->verdict == CODEC_FAILED || coded->close_code != 0)
        connections_dismiss(forwarder, connection, PAIR_ERRORY, PAIR_NO_REASON);
    else if (coded->unwelcome)
        connections_dismiss(forwarder, connection, PAIR_IMPATIENT, PAIR_NO_REASON);
    else if (has_gone(connection))
        connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_REASON);
    else if (more)
        connections_queue(forwarder, connection);
    if (connection->state == CONNECTION_PARKED)
        connections_touch(forwarder, connection);
}

/* ---- arriving -------------------------------------------------------------------- */

static struct connection *make_end(struct forwarder *forwarder, const struct pair_view *view,
    const struct handoff *handoff, int fd)
{
    struct epoll_event event = {.events = TRANSFER_EVENTS};
    struct connection *connection = calloc(1, sizeof *connection);
    bool in_tls = handoff->records.suite != 0;
    if (connection == NULL)
        return NULL;
    *connection = (struct connection){
        .fd = fd,
        .epoll = forwarder->epoll,
        .ref = view->ref,
        .protocol = view->protocol,
        .state = CONNECTION_PARKED,
        .writable = true,
        .chunk = TRANSFER_CHUNK,
        .outlet = {.pipe = {-1, -1}},
        .start = usage_start_of(view->opened, handoff->since),
        .server = handoff->server,
        .kernel_tls = handoff->kernel_tls,
        .tls = in_tls ? tls_stream_open(&handoff->records, &connection->account) : NULL,
    };
    event.data.ptr = connection;
    int error = in_tls && connection->tls == NULL ? -ENOMEM : 0;
    if (error == 0 && codecs[handoff->codec] != NULL)
        error = messages_open(connection, handoff, forwarder->transfer.now);
    if (error == 0 && epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        error = -errno;
    if (error != 0) {
        messages_close(connection);
        tls_stream_close(connection->tls);
        free(connection);
        errno = -error;
        return NULL;
    }
    forwarder->slots[view->ref.slot] = connection;
    forwarder->ends++;
    return connection;
}

static void refuse_arrival(struct forwarder *forwarder, const struct pair_view *view)
{
    struct pair_ref stranded;
    pair_count(forwarder->table, view->protocol, PAIR_FULL);
    if (pair_leave(forwarder->table, view->ref, &stranded) == 0 && !pair_is_none(stranded))
        connections_look(forwarder, stranded);
}

static void place(struct forwarder *forwarder, struct connection *connection,
    const struct pair_view *view, const struct handoff *handoff)
{
    if (!messages_may_write(connection))
        deadline_set(&connection->coded->deaf_until, &forwarder->deaf, forwarder->transfer.now);
    if (handoff->lobby && !messages_have_room_for_name(connection)) {
        connections_dismiss(forwarder, connection, PAIR_FULL, PAIR_NO_REASON);
    } else if (handoff->lobby && !lobby_enter(forwarder, connection)) {
        forwarder_fall_short(forwarder);
        connections_dismiss(forwarder, connection, PAIR_FULL, PAIR_NO_REASON);
    } else if (view->rule == PAIR_CONNECT && view->state == PAIR_WAITING &&
               !lobby_call(forwarder, connection, view->peer))
        connections_dismiss(forwarder, connection, PAIR_LONELY, PAIR_NO_LISTENER);
    else
        settle(forwarder, connection, view);
    if (connection->state == CONNECTION_PARKED || connection->state == CONNECTION_LOBBY)
        connections_touch(forwarder, connection);
}

/* Whether the handoff is one that a worker of ours sends for this protocol. */
static bool is_sound(const struct handoff *handoff, const struct pair_view *view)
{
    if (view->protocol >= PROTOCOL_COUNT || handoff->codec >= CODEC_KINDS)
        return false;
    bool waits = handoff->lobby || view->rule == PAIR_CONNECT;
    return !waits || (codecs[handoff->codec] != NULL && protocols[view->protocol]->lobby != NULL);
}

void connections_take(struct forwarder *forwarder, const struct handoff *handoff, int fd)
{
    struct pair_view view;
    int error = pair_claim(forwarder->table, handoff->ref, &view);
    if (fd < 0) {
        if (error == 0)
            refuse_arrival(forwarder, &view);
        return;
    }
    if (error != 0) {
        close(fd); /* its worker was too late, and its slot is somebody else's by now */
        return;
    }
    if (!is_sound(handoff, &view)) {
        log_repeated(LOG_ERR,
            "cannot take a connection: its worker's version has a protocol or codec that "
            "this forwarder does not know; restart the forwarder");
        refuse_arrival(forwarder, &view);
        close(fd);
        return;
    }
    struct connection *connection = make_end(forwarder, &view, handoff, fd);
    if (connection == NULL) {
        log_repeated_errno(LOG_ERR, "cannot take a connection");
        if (errno == ENOMEM || errno == ENOSPC)
            forwarder_fall_short(forwarder);
        refuse_arrival(forwarder, &view);
        close(fd);
        return;
    }
    place(forwarder, connection, &view, handoff);
}

/* ---- running --------------------------------------------------------------------- */

void connections_run(struct forwarder *forwarder, struct connection *connection)
{
    if (connection->fd < 0)
        return; /* closed earlier in this round */
    switch ((enum connection_state)connection->state) {
    case CONNECTION_PARKED:
        transfer_flush(connection);
        if (connection->coded != NULL)
            read_parked(forwarder, connection);
        else if (connection->readable)
            judge_parked(forwarder, connection);
        break;
    case CONNECTION_LOBBY:
        transfer_flush(connection);
        lobby_wake(forwarder, connection);
        connections_touch(forwarder, connection);
        break;
    case CONNECTION_JOINED:
        if (connection->crowded)
            dismiss_spares(forwarder, connection);
        run_pair(forwarder, connection);
        break;
    case CONNECTION_LEAVING:
        go_on_leaving(forwarder, connection);
        break;
    }
}

/* ---- when a deadline has passed -------------------------------------------------- */

/* The peer's descriptor did not come: the table undoes the match. */
void connections_missed_arrival(struct forwarder *forwarder, struct connection *connection)
{
    deadline_set(
        &connection->phase, &forwarder->waiting[connection->protocol], forwarder->transfer.now);
    (void)pair_undo(forwarder->table, connection->ref); /* whatever it says, the slot knows */
    connections_look(forwarder, connection->ref);
}

/* One direction ended some time ago, and nothing was written since then; but the kernel may have
 * more to deliver than it takes of us. */
void connections_lingered(struct forwarder *forwarder, struct connection *connection)
{
    bool moves = liveness_progresses(connection->fd, &connection->acknowledged);
    bool peer_moves = liveness_progresses(connection->peer->fd, &connection->peer->acknowledged);
    if (moves || peer_moves)
        deadline_set(&connection->phase, &forwarder->lingering, forwarder->transfer.now);
    else
        connections_part(forwarder, connection);
}

void connections_lose(struct forwarder *forwarder, struct connection *connection)
{
    transfer_break(&forwarder->transfer, connection);
    connection->broken = true;
    if (connection->state == CONNECTION_JOINED)
        run_pair(forwarder, connection);
    else
        connections_dismiss(forwarder, connection,
            connection->state == CONNECTION_LOBBY ? PAIR_SERVED : PAIR_LONELY, PAIR_NO_REASON);
}

void connections_check_life(struct forwarder *forwarder, struct connection *connection)
{
    enum vital vital = liveness_check(connection->fd);
    if (vital == LIVENESS_DEAD)
        connections_lose(forwarder, connection);
    else if (vital == LIVENESS_WAITING)
        deadline_set(&connection->watch, &forwarder->watching, forwarder->transfer.now);
}

void connections_collect(struct forwarder *forwarder)
{
    struct budget_account *account;
    while ((account = budget_debtor(forwarder->transfer.now)) != NULL) {
        struct connection *connection =
            (struct connection *)((char *)account - offsetof(struct connection, account));
        log_repeated(LOG_WARNING,
            "closed a connection (%s): all hold too much, and it held %zu KiB, for long",
            protocols[connection->protocol]->name, account->held >> 10);
        if (connection->state == CONNECTION_JOINED)
            connections_lose(forwarder, connection);
        else
            connections_close(forwarder, connection);
    }
}

/* It need not answer. */
void connections_were_deaf(struct forwarder *forwarder, struct connection *connection)
{
    connection->coded->deaf = false;
    connections_queue(forwarder, connection);
}

/* One whose socket is full has enough on its way. */
void connections_were_quiet(struct forwarder *forwarder, struct connection *connection)
{
    struct coded *coded = connection->coded;
    struct iovec out = {NULL, 0};
    if (!transfer_pending(connection) &&
        coded->codec->quiet(coded->state, forwarder->transfer.now, &out) == 0)
        transfer_say(connection, out.iov_base, out.iov_len);
    coded->sent = true;
    (void)watch(forwarder, connection);
    connections_touch(forwarder, connection);
}

/* Who is not being read for its peer's sake, or until that comes, cannot be blamed for silence. But
 * it is asked, as what is written to one who has gone is answered by a reset. */
static bool is_being_read(const struct connection *connection)
{
    if (connection->state != CONNECTION_JOINED)
        return !messages_are_full(connection);
    return !transfer_pending(connection->peer) && !connection->peer->finished &&
           messages_may_read(connection);
}

void connections_were_silent(struct forwarder *forwarder, struct connection *connection)
{
    struct coded *coded = connection->coded;
    struct iovec out = {NULL, 0};
    int error = coded->codec->silent(coded->state, forwarder->transfer.now, &out);
    bool being_read = is_being_read(connection);
    if (error != 0 && being_read) {
        connections_lose(forwarder, connection);
        return;
    }
    if (being_read || !transfer_pending(connection))
        transfer_say(connection, out.iov_base, out.iov_len);
    (void)watch(forwarder, connection);
    connections_touch(forwarder, connection);
    connections_queue(forwarder, connection); /* what it may hold may be more by now */
}
