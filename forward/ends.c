/* What becomes of each end that the forwarder holds: parked, in the lobby, joined, leaving, closed.
 * How bytes move is flow.c's, how messages do is messages.c's; who meets whom is the table's.
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
#include "forward/vital.h"
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

void ends_record(struct forwarder *forwarder, const struct usage_record *entry)
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
    struct forwarder *forwarder, const struct end *end, enum pair_outcome outcome)
{
    struct usage_record entry = usage_single(end->start, outcome);
    pair_count(forwarder->table, end->protocol, outcome);
    if (outcome == PAIR_SERVED || end->state == END_LOBBY)
        return; /* neither a pair, nor one that never met */
    ends_record(forwarder, &entry);
}

static void record_pair(
    struct forwarder *forwarder, uint8_t protocol, const struct usage_record *entry)
{
    pair_count(forwarder->table, protocol, PAIR_HAPPY);
    pair_count_bytes(forwarder->table, entry->total_bytes);
    ends_record(forwarder, entry);
}

/* ---- queueing, touching, closing ------------------------------------------------- */

void ends_queue(struct forwarder *forwarder, struct end *end)
{
    if (end->queued)
        return;
    end->queued = true;
    end->next = forwarder->work;
    forwarder->work = end;
}

/* What was sent puts off the next sign of life of ours, and what was heard the end of our
 * patience. */
void ends_touch(struct forwarder *forwarder, struct end *end)
{
    struct coded *coded = end->coded;
    if (coded == NULL || end->fd < 0 || end->state == END_LEAVING)
        return;
    const struct codec *codec = coded->codec;
    size_t kind = codec == codecs[CODEC_CHANNEL] ? CODEC_CHANNEL : CODEC_WEBSOCKET;
    size_t jitter = end->ref.slot % FORWARDER_JITTERS;
    if (codec->quiet_time > 0 && (coded->sent || !deadline_is_set(&coded->quiet)))
        deadline_set(&coded->quiet, &forwarder->quiet[kind], forwarder->flow.now);
    if (codec->silent_time > 0 && (coded->heard || !deadline_is_set(&coded->silent)))
        deadline_set(&coded->silent, &forwarder->silent[kind][jitter], forwarder->flow.now);
    coded->sent = coded->heard = false;
}

static void clear_deadlines(struct end *end)
{
    deadline_clear(&end->phase);
    deadline_clear(&end->watch);
    if (end->coded == NULL)
        return;
    deadline_clear(&end->coded->quiet);
    deadline_clear(&end->coded->silent);
    deadline_clear(&end->coded->deaf_until);
}

/* A worker may hold a copy of the descriptor yet, so the kernel would go on to report it. */
static void close_descriptor(struct forwarder *forwarder, struct end *end)
{
    (void)epoll_ctl(forwarder->epoll, EPOLL_CTL_DEL, end->fd, NULL);
    close(end->fd);
    end->fd = -1;
}

/* Should it fail, the end looks like any other. */
static void reset_at_close(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) < 0)
        log_debug("cannot have a connection reset: %s", strerror(errno));
}

/* Gives its place up; who was to be its peer is looked at. It counts until it is closed. */
static void leave_place(struct forwarder *forwarder, struct end *end)
{
    struct pair_ref stranded;
    end->bytes = NULL;
    if (pair_part(forwarder->table, end->ref, &stranded) == 0 && !pair_is_none(stranded))
        ends_look(forwarder, stranded);
}

static void leave_slot(struct forwarder *forwarder, struct end *end)
{
    struct pair_ref stranded;
    if (pair_is_none(end->ref))
        return; /* it was lost with its table */
    forwarder->slots[end->ref.slot] = NULL;
    (void)pair_leave(forwarder->table, end->ref, &stranded); /* nobody: it has left its place */
    end->ref = PAIR_NONE;
}

/* The only place where an end ceases to be. Its slot is free before its client can know. */
void ends_close(struct forwarder *forwarder, struct end *end)
{
    clear_deadlines(end);
    leave_slot(forwarder, end);
    flow_part(end);
    if (end->cut)
        reset_at_close(end->fd);
    flow_break(&forwarder->flow, end);
    messages_close(end);
    close_descriptor(forwarder, end);
    secure_close(end->secure);
    depart_lose(end);
    forwarder->ends--;
    if (end->queued)
        return; /* the work list hands it on */
    end->next = forwarder->dead;
    forwarder->dead = end;
}

void ends_bury(struct forwarder *forwarder)
{
    while (forwarder->dead != NULL) {
        struct end *end = forwarder->dead;
        forwarder->dead = end->next;
        free(end);
    }
}

/* ---- leaving --------------------------------------------------------------------- */

static bool discard(void *context, struct end *from, struct piece *piece)
{
    (void)context;
    (void)from;
    (void)piece;
    return true;
}

/* Whether the other side is to answer a farewell, and its input still makes sense: what broke the
 * protocol, or is not wanted, was not read to its end. Who is cut was told none. */
static bool is_to_answer(const struct end *end)
{
    const struct coded *coded = end->coded;
    return coded != NULL && coded->codec->mutual_close && coded->verdict == CODEC_MORE &&
           !coded->unwelcome && !end->cut && !flow_broke_tls(end);
}

/* Returns whether there is more to discard right now. */
static bool discard_once(struct forwarder *forwarder, struct end *end)
{
    if (end->discarded > DISCARDED_MAX)
        return false;
    if (is_to_answer(end))
        return messages_read(&forwarder->flow, end, discard, NULL);
    if (end->readable && !end->gone)
        (void)flow_read(&forwarder->flow, end, FLOW_CHUNK);
    return end->readable && !end->gone;
}

/* Once everything is written: no more will be, unless the other side is to answer a farewell. */
static void shut_down(struct end *end)
{
    if (end->finished || end->gone || end->cut || is_to_answer(end))
        return;
    flow_shut(end);
}

static bool has_left(const struct end *end)
{
    return end->gone || (end->coded != NULL && end->coded->verdict == CODEC_CLOSED);
}

/* A reset throws away what is on its way: one that is cut is reset once it has acknowledged all,
 * and has LEAVE milliseconds for each step of that. */
void ends_check_delivery(struct forwarder *forwarder, struct end *end)
{
    if (vital_progresses(end->fd, &end->acknowledged))
        deadline_set(&end->phase, &forwarder->leaving, forwarder->flow.now);
    if (!flow_pending(end) && vital_check(end->fd) != VITAL_WAITING)
        ends_close(forwarder, end);
    else
        deadline_set(&end->watch, &forwarder->delivering, forwarder->flow.now);
}

/* Whether it ends because relay does, or the server that it came by. */
static bool is_stopped(const struct forwarder *forwarder, const struct end *end)
{
    return forwarder->stopping || end->departure != NULL;
}

/* Closes so that what was written arrives: input is discarded until the other side closes, as a
 * close with unread input is a reset, which may overtake it. A relay that stops does not wait for
 * that any longer once there is none. */
static void go_on_leaving(struct forwarder *forwarder, struct end *end)
{
    bool more = true;
    flow_flush(end);
    bool written = end->finished || !flow_pending(end);
    if (written)
        shut_down(end);
    for (int i = 0; more && i < DISCARDS_AT_ONCE; i++)
        more = discard_once(forwarder, end);
    if (written && !end->cut && (has_left(end) || (is_stopped(forwarder, end) && !more)))
        ends_close(forwarder, end);
    else if (more)
        ends_queue(forwarder, end);
}

static void start_leaving(struct forwarder *forwarder, struct end *end)
{
    clear_deadlines(end);
    end->state = END_LEAVING;
    end->peer = NULL;
    end->ended = end->gone;
    messages_forget(end);
    deadline_set(&end->phase, &forwarder->leaving, forwarder->flow.now);
    if (end->cut)
        ends_check_delivery(forwarder, end);
    if (end->fd >= 0)
        go_on_leaving(forwarder, end);
}

/* Says farewell as the protocol does, or as befits what the other side said last. */
static bool say_farewell(struct forwarder *forwarder, struct end *end, enum pair_outcome outcome,
    enum pair_reason reason)
{
    const struct coded *coded = end->coded;
    struct words words = {.size = 0};
    if (coded == NULL || coded->verdict == CODEC_MORE)
        protocols[end->protocol]->farewell(outcome, reason, &words);
    if (coded != NULL && coded->close_code != 0)
        words = (struct words){.code = coded->close_code, .reason = coded->close_reason};
    else if (coded != NULL && coded->verdict == CODEC_MORE && is_stopped(forwarder, end))
        words = (struct words){.code = WEBSOCKET_GOING_AWAY, .reason = "the relay stops"};
    else if (coded != NULL && coded->verdict == CODEC_MORE && end->cut)
        words = (struct words){.code = WEBSOCKET_UNEXPECTED, .reason = "the other side was lost"};
    return messages_speak(&forwarder->flow, end, &words, true);
}

/* Where it is relay, or what the client sent, that ends a connection. */
static void log_reason(const struct end *end)
{
    const struct coded *coded = end->coded;
    if (end->starved)
        log_repeated(LOG_WARNING,
            "closed a connection (%s): there is no memory for what it sent, or was to be sent",
            protocols[end->protocol]->name);
    else if (coded != NULL && (coded->verdict == CODEC_FAILED || coded->unwelcome))
        log_repeated(LOG_INFO, "closed a connection (%s): what it sent breaks the protocol",
            protocols[end->protocol]->name);
}

void ends_dismiss(struct forwarder *forwarder, struct end *end, enum pair_outcome outcome,
    enum pair_reason reason)
{
    log_reason(end);
    lobby_leave(forwarder, end);
    leave_place(forwarder, end);
    record_single(forwarder, end, outcome);
    if (say_farewell(forwarder, end, outcome, reason) || flow_broke_tls(end))
        start_leaving(forwarder, end);
    else
        ends_close(forwarder, end);
}

/* ---- pairs ----------------------------------------------------------------------- */

/* What came from this end has all been delivered, and no more will come. */
static bool is_delivered(const struct end *end)
{
    return end->ended &&
           (end->peer->finished || (!flow_pending(end->peer) && !messages_are_held(end)));
}

/* Whether what an end sent has stopped before its own end: its connection has failed, or was closed
 * without the word that its protocol has for it, or what it sent made no sense. */
static bool is_broken(const struct end *end)
{
    const struct coded *coded = end->coded;
    if (coded == NULL || coded->verdict == CODEC_CLOSED)
        return coded == NULL && end->broken;
    return end->broken || end->starved || coded->unwelcome || coded->verdict == CODEC_FAILED ||
           (end->gone && coded->codec->mutual_close);
}

/* Whether an end of a pair that is parted has been sent less than its peer had for it. Messages
 * have no half of a connection: there, only who goes itself ends the other's direction, too. */
static bool is_cut(const struct forwarder *forwarder, const struct end *end)
{
    if (flow_broke_tls(end))
        return false; /* the alert has said so */
    if (is_broken(end->peer))
        return end->coded == NULL || end->coded->codec->mutual_close;
    return !messages_between(end) && !is_stopped(forwarder, end) && !is_delivered(end->peer);
}

/* In the middle of a message no farewell would make sense to a client. */
static void part_in_words(struct forwarder *forwarder, struct end *end)
{
    const struct coded *coded = end->coded;
    bool in_message =
        coded != NULL && coded->speaking && coded->verdict == CODEC_MORE && !flow_broke_tls(end);
    if (in_message && coded->close_code == 0)
        end->cut = true;
    else if (say_farewell(forwarder, end, PAIR_HAPPY, PAIR_NO_REASON))
        end->cut = false;
}

void ends_part(struct forwarder *forwarder, struct end *end)
{
    struct end *peer = end->peer;
    struct usage_record entry = usage_pair(end->start, peer->start, flow_total(end));
    log_reason(end);
    log_reason(peer);
    leave_place(forwarder, end);
    leave_place(forwarder, peer);
    end->cut = is_cut(forwarder, end);
    peer->cut = is_cut(forwarder, peer);
    if (messages_between(end)) {
        part_in_words(forwarder, end);
        part_in_words(forwarder, peer);
    }
    start_leaving(forwarder, end);
    start_leaving(forwarder, peer);
    record_pair(forwarder, end->protocol, &entry); /* who reads it finds the slots free */
}

void ends_stop(struct forwarder *forwarder, struct end *end)
{
    if (end->state == END_JOINED)
        ends_part(forwarder, end);
    else if (end->state != END_LEAVING)
        ends_dismiss(forwarder, end, PAIR_LONELY, PAIR_NO_REASON);
}

/* A pair that has had its share is not read any more, and ends as if both had closed: what was read
 * is delivered. */
static void limit_pair(const struct forwarder *forwarder, struct end *end)
{
    if (flow_is_used_up(&forwarder->flow, end))
        end->ended = end->peer->ended = true;
}

/* Bytes flow until both directions have ended, or one end is broken; messages, which know no half
 * of a connection, until one has ended. To two ends that nothing more is written to, nothing more
 * can come of either. Two ends that have both closed need not be shut down before they are closed.
 */
static bool is_over(const struct end *end)
{
    const struct end *peer = end->peer;
    bool delivered = is_delivered(end), peer_delivered = is_delivered(peer);
    if (end->finished && peer->finished)
        return true;
    if (messages_between(end))
        return delivered || peer_delivered;
    if ((end->broken && delivered) || (peer->broken && peer_delivered))
        return true;
    return delivered && peer_delivered && flow_closes_plainly(end) && flow_closes_plainly(peer);
}

/* An end that was written to is watched until it has acknowledged that. Returns whether it was. */
static bool watch(struct forwarder *forwarder, struct end *end)
{
    bool moved = end->moved;
    end->moved = false;
    if (moved && !deadline_is_set(&end->watch))
        deadline_set(&end->watch, &forwarder->watching, forwarder->flow.now);
    return moved;
}

/* It has, too, when its end is behind what cannot be read while its peer does not read. */
static bool has_ended(const struct end *end)
{
    return end->ended || end->finished || end->hung_up;
}

/* What is left of a pair of which one direction has ended goes on as long as it moves: one deadline
 * for both ends. */
static void set_deadlines(struct forwarder *forwarder, struct end *end)
{
    struct end *peer = end->peer;
    struct deadline *phase = deadline_is_set(&peer->phase) ? &peer->phase : &end->phase;
    bool moved = watch(forwarder, end), peer_moved = watch(forwarder, peer);
    ends_touch(forwarder, end);
    ends_touch(forwarder, peer);
    if (!has_ended(end) && !has_ended(peer))
        return;
    if (moved || peer_moved || !deadline_is_set(phase))
        deadline_set(phase, &forwarder->lingering, forwarder->flow.now);
}

/* As soon as there is something for an end that is deaf, it is asked to let itself be heard: with a
 * sign of life it has read what was before that. */
static void ask(struct forwarder *forwarder, struct end *end)
{
    struct coded *coded = end->coded;
    struct iovec out = {NULL, 0};
    if (messages_may_write(end) || coded->asked || !messages_are_held(end->peer))
        return;
    coded->asked = true;
    if (coded->codec->silent(coded->state, forwarder->flow.now, &out) == 0)
        flow_say(end, out.iov_base, out.iov_len);
}

static void run_pair(struct forwarder *forwarder, struct end *end)
{
    struct end *peer = end->peer;
    flow_flush(end);
    if (flow_move(&forwarder->flow, end))
        ends_queue(forwarder, end);
    if (flow_move(&forwarder->flow, peer))
        ends_queue(forwarder, peer);
    ask(forwarder, end);
    ask(forwarder, peer);
    limit_pair(forwarder, end);
    if (!is_over(end)) {
        flow_finish(end);
        flow_finish(peer);
    }
    if (is_over(end)) {
        ends_part(forwarder, end);
        return;
    }
    set_deadlines(forwarder, end);
}

/* Those of the same side who waited beside the one that was taken. */
static void dismiss_spares(struct forwarder *forwarder, struct end *end)
{
    struct pair_ref spares[SPARES_AT_ONCE];
    size_t count = pair_spares(forwarder->table, end->ref, spares, SPARES_AT_ONCE);
    end->crowded = count == SPARES_AT_ONCE;
    for (size_t i = 0; i < count; i++)
        ends_look(forwarder, spares[i]);
    if (end->crowded)
        ends_queue(forwarder, end);
}

static void welcome(struct forwarder *forwarder, struct end *end, struct end *peer)
{
    const struct coded *coded = end->coded;
    struct words words = {.size = 0};
    end->peer = peer;
    end->state = END_JOINED;
    messages_settle(end);
    deadline_clear(&end->phase);
    protocols[end->protocol]->welcome(
        coded == NULL ? NULL : coded->name, coded == NULL ? 0 : coded->name_size, &words);
    (void)messages_speak(&forwarder->flow, end, &words, false);
}

static void join(struct forwarder *forwarder, struct end *end, struct end *peer)
{
    if (pair_join(forwarder->table, end->ref, peer->ref) != 0)
        return; /* undone meanwhile: the arrival's deadline looks again */
    end->bytes = pair_bytes(forwarder->table, end->ref);
    peer->bytes = pair_bytes(forwarder->table, peer->ref);
    lobby_leave(forwarder, end);
    lobby_leave(forwarder, peer);
    /* Before the two are told: who comes after that is no spare of theirs. */
    dismiss_spares(forwarder, end);
    welcome(forwarder, peer, end);
    welcome(forwarder, end, peer);
    messages_release(&forwarder->flow, end);
    messages_release(&forwarder->flow, peer);
    run_pair(forwarder, end);
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

struct end *ends_held(const struct forwarder *forwarder, struct pair_ref ref)
{
    struct end *end =
        ref.slot < pair_capacity(forwarder->table) ? forwarder->slots[ref.slot] : NULL;
    return end != NULL && pair_same(end->ref, ref) ? end : NULL;
}

/* Does what the table says of an end without a peer. */
static void settle(struct forwarder *forwarder, struct end *end, const struct pair_view *view)
{
    if (view->state == PAIR_DISMISSED) {
        ends_dismiss(forwarder, end, outcome_of(view->reason), view->reason);
    } else if (view->state == PAIR_MATCHED) {
        struct end *peer = ends_held(forwarder, view->peer);
        deadline_set(&end->phase, &forwarder->arriving, forwarder->flow.now);
        if (peer != NULL)
            join(forwarder, end, peer);
    } else if (end->state == END_PARKED &&
               (!deadline_is_set(&end->phase) || end->phase.list == &forwarder->arriving)) {
        deadline_set(&end->phase, &forwarder->waiting[end->protocol], forwarder->flow.now);
    }
}

void ends_look(struct forwarder *forwarder, struct pair_ref ref)
{
    struct pair_view view;
    struct end *end = ends_held(forwarder, ref);
    if (end != NULL && (end->state == END_PARKED || end->state == END_LOBBY) &&
        pair_look(forwarder->table, ref, &view) == 0)
        settle(forwarder, end, &view);
}

/* Before the match a plain client has nothing to say, and may only go. */
static void judge_parked(struct forwarder *forwarder, struct end *end)
{
    if (flow_read(&forwarder->flow, end, FLOW_CHUNK) > 0)
        ends_dismiss(forwarder, end, PAIR_IMPATIENT, PAIR_NO_REASON);
    else if (end->ended)
        ends_dismiss(forwarder, end, PAIR_LONELY, PAIR_NO_REASON);
    else if (end->readable)
        ends_queue(forwarder, end);
}

static bool take_early(void *context, struct end *from, struct piece *piece)
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
static bool has_gone(const struct end *end)
{
    return end->ended || (end->hung_up && !messages_may_read(end));
}

static void read_parked(struct forwarder *forwarder, struct end *end)
{
    const struct coded *coded = end->coded;
    bool more = messages_read(&forwarder->flow, end, take_early, NULL);
    if (end->starved)
        ends_dismiss(forwarder, end, PAIR_FULL, PAIR_NO_REASON);
    else if (coded->verdict == CODEC_FAILED || coded->close_code != 0)
        ends_dismiss(forwarder, end, PAIR_ERRORY, PAIR_NO_REASON);
    else if (coded->unwelcome)
        ends_dismiss(forwarder, end, PAIR_IMPATIENT, PAIR_NO_REASON);
    else if (has_gone(end))
        ends_dismiss(forwarder, end, PAIR_LONELY, PAIR_NO_REASON);
    else if (more)
        ends_queue(forwarder, end);
    if (end->state == END_PARKED)
        ends_touch(forwarder, end);
}

/* ---- arriving -------------------------------------------------------------------- */

static struct end *make_end(struct forwarder *forwarder, const struct pair_view *view,
    const struct handoff *handoff, int fd)
{
    struct epoll_event event = {.events = FLOW_EVENTS};
    struct end *end = calloc(1, sizeof *end);
    bool in_tls = handoff->records.suite != 0;
    if (end == NULL)
        return NULL;
    *end = (struct end){
        .fd = fd,
        .epoll = forwarder->epoll,
        .ref = view->ref,
        .protocol = view->protocol,
        .state = END_PARKED,
        .writable = true,
        .chunk = FLOW_CHUNK,
        .outlet = {.pipe = {-1, -1}},
        .start = usage_start_of(view->opened, handoff->since),
        .server = handoff->server,
        .kernel_tls = handoff->kernel_tls,
        .secure = in_tls ? secure_open(&handoff->records, &end->account) : NULL,
    };
    event.data.ptr = end;
    int error = in_tls && end->secure == NULL ? -ENOMEM : 0;
    if (error == 0 && codecs[handoff->codec] != NULL)
        error = messages_open(end, handoff, forwarder->flow.now);
    if (error == 0 && epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        error = -errno;
    if (error != 0) {
        messages_close(end);
        secure_close(end->secure);
        free(end);
        errno = -error;
        return NULL;
    }
    forwarder->slots[view->ref.slot] = end;
    forwarder->ends++;
    return end;
}

static void refuse_arrival(struct forwarder *forwarder, const struct pair_view *view)
{
    struct pair_ref stranded;
    pair_count(forwarder->table, view->protocol, PAIR_FULL);
    if (pair_leave(forwarder->table, view->ref, &stranded) == 0 && !pair_is_none(stranded))
        ends_look(forwarder, stranded);
}

static void place(struct forwarder *forwarder, struct end *end, const struct pair_view *view,
    const struct handoff *handoff)
{
    if (!messages_may_write(end))
        deadline_set(&end->coded->deaf_until, &forwarder->deaf, forwarder->flow.now);
    if (handoff->lobby && !messages_have_room_for_name(end)) {
        ends_dismiss(forwarder, end, PAIR_FULL, PAIR_NO_REASON);
    } else if (handoff->lobby && !lobby_enter(forwarder, end)) {
        forwarder_fall_short(forwarder);
        ends_dismiss(forwarder, end, PAIR_FULL, PAIR_NO_REASON);
    } else if (view->rule == PAIR_CONNECT && view->state == PAIR_WAITING &&
               !lobby_call(forwarder, end, view->peer))
        ends_dismiss(forwarder, end, PAIR_LONELY, PAIR_NO_LISTENER);
    else
        settle(forwarder, end, view);
    if (end->state == END_PARKED || end->state == END_LOBBY)
        ends_touch(forwarder, end);
}

/* Whether the handoff is one that a worker of ours sends for this protocol. */
static bool is_sound(const struct handoff *handoff, const struct pair_view *view)
{
    if (view->protocol >= PROTOCOL_COUNT || handoff->codec >= CODEC_KINDS)
        return false;
    bool waits = handoff->lobby || view->rule == PAIR_CONNECT;
    return !waits || (codecs[handoff->codec] != NULL && protocols[view->protocol]->lobby != NULL);
}

void ends_take(struct forwarder *forwarder, const struct handoff *handoff, int fd)
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
    struct end *end = make_end(forwarder, &view, handoff, fd);
    if (end == NULL) {
        log_repeated_errno(LOG_ERR, "cannot take a connection");
        if (errno == ENOMEM || errno == ENOSPC)
            forwarder_fall_short(forwarder);
        refuse_arrival(forwarder, &view);
        close(fd);
        return;
    }
    place(forwarder, end, &view, handoff);
}

/* ---- running --------------------------------------------------------------------- */

void ends_run(struct forwarder *forwarder, struct end *end)
{
    if (end->fd < 0)
        return; /* closed earlier in this round */
    switch ((enum end_state)end->state) {
    case END_PARKED:
        flow_flush(end);
        if (end->coded != NULL)
            read_parked(forwarder, end);
        else if (end->readable)
            judge_parked(forwarder, end);
        break;
    case END_LOBBY:
        flow_flush(end);
        lobby_wake(forwarder, end);
        ends_touch(forwarder, end);
        break;
    case END_JOINED:
        if (end->crowded)
            dismiss_spares(forwarder, end);
        run_pair(forwarder, end);
        break;
    case END_LEAVING:
        go_on_leaving(forwarder, end);
        break;
    }
}

/* ---- when a deadline has passed -------------------------------------------------- */

/* The peer's descriptor did not come: the table undoes the match. */
void ends_missed_arrival(struct forwarder *forwarder, struct end *end)
{
    deadline_set(&end->phase, &forwarder->waiting[end->protocol], forwarder->flow.now);
    (void)pair_undo(forwarder->table, end->ref); /* whatever it says, the slot knows */
    ends_look(forwarder, end->ref);
}

/* One direction ended some time ago, and nothing was written since then; but the kernel may have
 * more to deliver than it takes of us. */
void ends_lingered(struct forwarder *forwarder, struct end *end)
{
    bool moves = vital_progresses(end->fd, &end->acknowledged);
    bool peer_moves = vital_progresses(end->peer->fd, &end->peer->acknowledged);
    if (moves || peer_moves)
        deadline_set(&end->phase, &forwarder->lingering, forwarder->flow.now);
    else
        ends_part(forwarder, end);
}

void ends_lose(struct forwarder *forwarder, struct end *end)
{
    flow_break(&forwarder->flow, end);
    end->broken = true;
    if (end->state == END_JOINED)
        run_pair(forwarder, end);
    else
        ends_dismiss(
            forwarder, end, end->state == END_LOBBY ? PAIR_SERVED : PAIR_LONELY, PAIR_NO_REASON);
}

void ends_check_life(struct forwarder *forwarder, struct end *end)
{
    enum vital vital = vital_check(end->fd);
    if (vital == VITAL_DEAD)
        ends_lose(forwarder, end);
    else if (vital == VITAL_WAITING)
        deadline_set(&end->watch, &forwarder->watching, forwarder->flow.now);
}

void ends_collect(struct forwarder *forwarder)
{
    struct budget_account *account;
    while ((account = budget_debtor(forwarder->flow.now)) != NULL) {
        struct end *end = (struct end *)((char *)account - offsetof(struct end, account));
        log_repeated(LOG_WARNING,
            "closed a connection (%s): all hold too much, and it held %zu KiB, for long",
            protocols[end->protocol]->name, account->held >> 10);
        if (end->state == END_JOINED)
            ends_lose(forwarder, end);
        else
            ends_close(forwarder, end);
    }
}

/* It need not answer. */
void ends_were_deaf(struct forwarder *forwarder, struct end *end)
{
    end->coded->deaf = false;
    ends_queue(forwarder, end);
}

/* One whose socket is full has enough on its way. */
void ends_were_quiet(struct forwarder *forwarder, struct end *end)
{
    struct coded *coded = end->coded;
    struct iovec out = {NULL, 0};
    if (!flow_pending(end) && coded->codec->quiet(coded->state, forwarder->flow.now, &out) == 0)
        flow_say(end, out.iov_base, out.iov_len);
    coded->sent = true;
    (void)watch(forwarder, end);
    ends_touch(forwarder, end);
}

/* Who is not being read for its peer's sake, or until that comes, cannot be blamed for silence. But
 * it is asked, as what is written to one who has gone is answered by a reset. */
static bool is_being_read(const struct end *end)
{
    if (end->state != END_JOINED)
        return !messages_are_full(end);
    return !flow_pending(end->peer) && !end->peer->finished && messages_may_read(end);
}

void ends_were_silent(struct forwarder *forwarder, struct end *end)
{
    struct coded *coded = end->coded;
    struct iovec out = {NULL, 0};
    int error = coded->codec->silent(coded->state, forwarder->flow.now, &out);
    bool being_read = is_being_read(end);
    if (error != 0 && being_read) {
        ends_lose(forwarder, end);
        return;
    }
    if (being_read || !flow_pending(end))
        flow_say(end, out.iov_base, out.iov_len);
    (void)watch(forwarder, end);
    ends_touch(forwarder, end);
    ends_queue(forwarder, end); /* what it may hold may be more by now */
}
