/* The forwarder: the event loop, and what becomes of each connection in it: parked, joined,
 * leaving, closed. How bytes move is flow.c's; who meets whom is the table's; how a forwarder
 * comes to run, and to retire, is launch.c's. */
#include "forward.h"

#include "deadline.h"
#include "flow.h"
#include "handoff.h"
#include "log.h"
#include "pair.h"
#include "proto/proto.h"
#include "runtime.h"
#include "usage.h"
#include "vital.h"

#include <errno.h>
#include <signal.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS_AT_ONCE = 128,
    HANDOFFS_AT_ONCE = 64,
    SPARES_AT_ONCE = 64,
    STRANDED_AT_ONCE = 64,
    DESCRIPTORS_KEPT = 32,  /* for everything that is no connection */
    TICK = 2000,            /* milliseconds between two sweeps of the table */
    DISMISSED_TICKS = 15,   /* sweeps between two looks at every slot */
    WATCH = 15000,          /* between two looks at whether a peer lives */
    LEAVE = 5000,           /* for an end to read why it is closed */
    IN_TURNS_BYTES = 4096,  /* a message, and no bulk */
    IN_TURNS_WAIT = 100000, /* nanoseconds between two messages of clients that talk in turns */
    LOOKING = 50000,        /* nanoseconds spent on looking for the next one */
};

struct forwarder {
    const struct options *options;
    struct pair_table *table;
    struct flow flow;
    struct end **slots; /* by slot: who is held */
    struct end *work;   /* ends that have more to do right now */
    struct end *dead;   /* closed, but this round's events may name them */
    size_t ends;
    size_t descriptors_max;
    struct deadline_list waiting, arriving, lingering, leaving, watching;
    int epoll;
    int socket; /* handoffs come from here */
    int recorder;
    bool listening;        /* to the socket: not while short of descriptors */
    int64_t now;           /* of this round: milliseconds */
    int64_t last_wait;     /* for events: nanoseconds */
    uint64_t moved_before; /* this round: bytes */
    int64_t next_tick;
    int64_t idle_since; /* -1: there is work */
    unsigned int sweeps;
};

static void look(struct forwarder *forwarder, struct pair_ref ref);

static int64_t now_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- records --------------------------------------------------------------------- */

static void record(struct forwarder *forwarder, const struct usage_record *entry)
{
    if (forwarder->recorder < 0)
        return;
    int error = usage_send(forwarder->recorder, entry);
    if (error == 0)
        return;
    errno = -error;
    log_error_errno("cannot record a connection");
    if (error == -EAGAIN)
        return;
    close(forwarder->recorder);
    forwarder->recorder = -1;
}

static void record_single(
    struct forwarder *forwarder, const struct end *end, enum pair_outcome outcome)
{
    struct usage_record entry = usage_single(end->opened, outcome);
    pair_count(forwarder->table, end->protocol, outcome);
    record(forwarder, &entry);
}

static uint64_t pair_total(const struct end *end)
{
    return atomic_load_explicit(end->bytes, memory_order_relaxed) +
           atomic_load_explicit(end->peer->bytes, memory_order_relaxed);
}

static void record_pair(struct forwarder *forwarder, const struct end *end)
{
    struct usage_record entry = usage_pair(end->opened, end->peer->opened, pair_total(end));
    pair_count(forwarder->table, end->protocol, PAIR_HAPPY);
    pair_count_bytes(forwarder->table, entry.total_bytes);
    record(forwarder, &entry);
}

/* ---- ends: queueing, closing ----------------------------------------------------- */

static void queue_work(struct forwarder *forwarder, struct end *end)
{
    if (end->queued)
        return;
    end->queued = true;
    end->next = forwarder->work;
    forwarder->work = end;
}

/* A worker may hold a copy of the descriptor yet, so the kernel would go on to report it. */
static void close_descriptor(struct forwarder *forwarder, struct end *end)
{
    (void)epoll_ctl(forwarder->epoll, EPOLL_CTL_DEL, end->fd, NULL);
    close(end->fd);
    end->fd = -1;
}

/* The only place where an end ceases to be. */
static void close_end(struct forwarder *forwarder, struct end *end)
{
    deadline_clear(&end->phase);
    deadline_clear(&end->watch);
    flow_break(&forwarder->flow, end);
    close_descriptor(forwarder, end);
    forwarder->ends--;
    if (end->queued)
        return; /* the work list hands it on */
    end->next = forwarder->dead;
    forwarder->dead = end;
}

static void bury_dead(struct forwarder *forwarder)
{
    while (forwarder->dead != NULL) {
        struct end *end = forwarder->dead;
        forwarder->dead = end->next;
        free(end);
    }
}

/* Gives the slot up; who was to be its peer is looked at. */
static void leave_slot(struct forwarder *forwarder, struct end *end)
{
    struct pair_ref stranded;
    forwarder->slots[end->ref.slot] = NULL;
    int error = pair_leave(forwarder->table, end->ref, &stranded);
    end->ref = PAIR_NONE;
    end->bytes = NULL;
    if (error == 0 && !pair_is_none(stranded))
        look(forwarder, stranded);
}

static void discard_input(struct forwarder *forwarder, struct end *end)
{
    while (end->readable) {
        ssize_t count = recv(end->fd, forwarder->flow.scratch, FLOW_CHUNK, MSG_DONTWAIT);
        if (count > 0 || (count < 0 && errno == EINTR))
            continue;
        if (count == 0 || errno != EAGAIN) {
            close_end(forwarder, end);
            return;
        }
        end->readable = false;
    }
}

/* Closes so that what was written arrives: input is discarded until the other side closes, as
 * a close with unread input is a reset, which may overtake it. */
static void start_leaving(struct forwarder *forwarder, struct end *end)
{
    deadline_clear(&end->watch);
    if (end->ended || (!end->finished && shutdown(end->fd, SHUT_WR) < 0)) {
        close_end(forwarder, end);
        return;
    }
    end->state = END_LEAVING;
    end->peer = NULL;
    deadline_set(&end->phase, &forwarder->leaving, forwarder->now);
    discard_input(forwarder, end);
}

/* Ends a connection that has no peer, and tells it why as its protocol does. */
static void dismiss(struct forwarder *forwarder, struct end *end, enum pair_outcome outcome)
{
    uint8_t words[PROTOCOL_WORDS_MAX];
    size_t size = protocols[end->protocol]->farewell(outcome, words);
    record_single(forwarder, end, outcome);
    leave_slot(forwarder, end);
    if (size > 0)
        flow_say(end, words, size);
    if (size == 0)
        close_end(forwarder, end);
    else
        start_leaving(forwarder, end);
}

/* ---- pairs ----------------------------------------------------------------------- */

/* Both directions are done, or a limit says so. */
static void end_pair(struct forwarder *forwarder, struct end *end)
{
    struct end *peer = end->peer;
    record_pair(forwarder, end);
    leave_slot(forwarder, end);
    leave_slot(forwarder, peer);
    start_leaving(forwarder, end);
    start_leaving(forwarder, peer);
}

static bool over_limit(const struct forwarder *forwarder, const struct end *end)
{
    uint64_t limit = forwarder->options->session_bytes;
    return limit > 0 && pair_total(end) >= limit && !flow_pending(end) && !flow_pending(end->peer);
}

/* An end that closed gives the rest of its pair some time; an end that was written to is
 * watched until it has acknowledged that. */
static void set_deadlines(struct forwarder *forwarder, struct end *end)
{
    if (end->ended && !deadline_is_set(&end->phase)) {
        end->peer->moved = false;
        deadline_set(&end->phase, &forwarder->lingering, forwarder->now);
    }
    if (end->moved && !deadline_is_set(&end->watch))
        deadline_set(&end->watch, &forwarder->watching, forwarder->now);
}

static void run_pair(struct forwarder *forwarder, struct end *end)
{
    struct end *peer = end->peer;
    if (flow_move(&forwarder->flow, end))
        queue_work(forwarder, end);
    if (flow_move(&forwarder->flow, peer))
        queue_work(forwarder, peer);
    if ((end->finished && peer->finished) || over_limit(forwarder, end)) {
        end_pair(forwarder, end);
        return;
    }
    set_deadlines(forwarder, end);
    set_deadlines(forwarder, peer);
}

/* Those of the same side who waited beside the one that was taken. */
static void dismiss_spares(struct forwarder *forwarder, struct end *end)
{
    struct pair_ref spares[SPARES_AT_ONCE];
    size_t count = pair_spares(forwarder->table, end->ref, spares, SPARES_AT_ONCE);
    end->crowded = count == SPARES_AT_ONCE;
    for (size_t i = 0; i < count; i++)
        look(forwarder, spares[i]);
    if (end->crowded)
        queue_work(forwarder, end);
}

static void welcome(struct end *end, struct end *peer)
{
    uint8_t words[PROTOCOL_WORDS_MAX];
    end->peer = peer;
    end->state = END_JOINED;
    deadline_clear(&end->phase);
    size_t size = protocols[end->protocol]->welcome(words);
    if (size > 0)
        flow_say(end, words, size);
}

static void join(struct forwarder *forwarder, struct end *end, struct end *peer)
{
    if (pair_join(forwarder->table, end->ref, peer->ref) != 0)
        return; /* undone meanwhile: the arrival's deadline looks again */
    end->bytes = pair_bytes(forwarder->table, end->ref);
    peer->bytes = pair_bytes(forwarder->table, peer->ref);
    welcome(peer, end);
    welcome(end, peer);
    dismiss_spares(forwarder, end);
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

static struct end *held(const struct forwarder *forwarder, struct pair_ref ref)
{
    struct end *end =
        ref.slot < pair_capacity(forwarder->table) ? forwarder->slots[ref.slot] : NULL;
    return end != NULL && pair_same(end->ref, ref) ? end : NULL;
}

/* Does what the table says of a parked end. */
static void settle(struct forwarder *forwarder, struct end *end, const struct pair_view *view)
{
    if (view->state == PAIR_DISMISSED) {
        dismiss(forwarder, end, outcome_of(view->reason));
    } else if (view->state == PAIR_MATCHED) {
        struct end *peer = held(forwarder, view->peer);
        deadline_set(&end->phase, &forwarder->arriving, forwarder->now);
        if (peer != NULL)
            join(forwarder, end, peer);
    } else if (!deadline_is_set(&end->phase) || end->phase.list == &forwarder->arriving) {
        deadline_set(&end->phase, &forwarder->waiting, forwarder->now);
    }
}

/* A slot has changed, or may have. */
static void look(struct forwarder *forwarder, struct pair_ref ref)
{
    struct pair_view view;
    struct end *end = held(forwarder, ref);
    if (end != NULL && end->state == END_PARKED && pair_look(forwarder->table, ref, &view) == 0)
        settle(forwarder, end, &view);
}

/* Before the match a client has nothing to say, and may only go. */
static void judge_parked(struct forwarder *forwarder, struct end *end)
{
    char byte;
    ssize_t count = recv(end->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (count > 0) {
        dismiss(forwarder, end, PAIR_IMPATIENT);
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
        end->ended = true;
        dismiss(forwarder, end, PAIR_LONELY);
    } else {
        end->readable = false;
    }
}

/* ---- arrivals -------------------------------------------------------------------- */

static struct end *make_end(struct forwarder *forwarder, const struct pair_view *view, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    struct end *end = calloc(1, sizeof *end);
    if (end == NULL)
        return NULL;
    *end = (struct end){
        .fd = fd,
        .ref = view->ref,
        .protocol = view->protocol,
        .state = END_PARKED,
        .writable = true,
        .outlet = {.pipe = {-1, -1}},
        .opened = view->opened,
    };
    event.data.ptr = end;
    if (epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        free(end);
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
        look(forwarder, stranded);
}

static void take_connection(struct forwarder *forwarder, struct pair_ref ref, int fd)
{
    struct pair_view view;
    if (pair_claim(forwarder->table, ref, &view) != 0 || view.protocol >= protocol_count) {
        close(fd); /* its worker was too late, and its slot is somebody else's by now */
        return;
    }
    struct end *end = make_end(forwarder, &view, fd);
    if (end == NULL) {
        log_error_errno("cannot take a connection");
        refuse_arrival(forwarder, &view);
        close(fd);
        return;
    }
    settle(forwarder, end, &view);
}

static void lose_connection(struct forwarder *forwarder, struct pair_ref ref)
{
    struct pair_view view;
    log_error("cannot take a connection: this process is short of descriptors");
    if (pair_claim(forwarder->table, ref, &view) == 0)
        refuse_arrival(forwarder, &view);
}

static bool short_of_descriptors(const struct forwarder *forwarder)
{
    size_t used = forwarder->ends + 2 * forwarder->flow.pipes + DESCRIPTORS_KEPT;
    return used >= forwarder->descriptors_max;
}

/* Handoffs wait in the socket while there is no number for their descriptor. */
static void listen_to_socket(struct forwarder *forwarder, bool wanted)
{
    struct epoll_event event = {.events = wanted ? EPOLLIN : 0, .data.ptr = NULL};
    if (forwarder->listening == wanted)
        return;
    if (epoll_ctl(forwarder->epoll, EPOLL_CTL_MOD, forwarder->socket, &event) < 0)
        log_error_errno("cannot wait for handoffs");
    else
        forwarder->listening = wanted;
    if (!wanted)
        log_warning("no more connections are taken: %zu descriptors are in use",
            forwarder->descriptors_max);
}

/* Returns whether the socket is empty. */
static bool take_handoffs(struct forwarder *forwarder)
{
    struct handoff handoff;
    int fd;
    for (int i = 0; i < HANDOFFS_AT_ONCE && !short_of_descriptors(forwarder); i++) {
        int error = handoff_receive(forwarder->socket, &handoff, &fd);
        if (error == -EAGAIN || error == -EINTR)
            return error == -EAGAIN;
        if (error == -EMFILE)
            lose_connection(forwarder, handoff.ref);
        if (error != 0) {
            errno = -error;
            log_warning_errno("cannot use a handoff");
            continue;
        }
        if (handoff.kind == HANDOFF_CONNECTION)
            take_connection(forwarder, handoff.ref, fd);
        else if (handoff.kind == HANDOFF_LOOK)
            look(forwarder, handoff.ref);
        else
            record(forwarder, &handoff.record);
        if (!pair_is_none(handoff.dismissed))
            look(forwarder, handoff.dismissed);
        sodium_memzero(handoff.session, handoff.session_size);
    }
    return false;
}

/* ---- deadlines ------------------------------------------------------------------- */

static struct end *end_of_phase(struct deadline *deadline)
{
    return (struct end *)((char *)deadline - offsetof(struct end, phase));
}

static struct end *end_of_watch(struct deadline *deadline)
{
    return (struct end *)((char *)deadline - offsetof(struct end, watch));
}

/* The peer's descriptor did not come: the table undoes the match. */
static void miss_arrival(struct forwarder *forwarder, struct end *end)
{
    (void)pair_undo(forwarder->table, end->ref); /* whatever it says, the slot knows */
    look(forwarder, end->ref);
}

/* This end closed some time ago. What it sent is still being delivered as long as that makes
 * progress; after that the other direction has had its time. */
static void end_lingering(struct forwarder *forwarder, struct end *end)
{
    if (!end->peer->finished && end->peer->moved) {
        end->peer->moved = false;
        deadline_set(&end->phase, &forwarder->lingering, forwarder->now);
        return;
    }
    end_pair(forwarder, end);
}

static void check_life(struct forwarder *forwarder, struct end *end)
{
    enum vital vital = vital_check(end->fd);
    if (vital == VITAL_DEAD && end->state == END_JOINED) {
        flow_break(&forwarder->flow, end);
        run_pair(forwarder, end);
    } else if (vital == VITAL_WAITING) {
        deadline_set(&end->watch, &forwarder->watching, forwarder->now);
    } else {
        end->moved = false;
    }
}

static void expire(struct forwarder *forwarder)
{
    struct deadline *due;
    int64_t now = forwarder->now;
    while ((due = deadline_expired(&forwarder->waiting, now)) != NULL)
        dismiss(forwarder, end_of_phase(due), PAIR_LONELY);
    while ((due = deadline_expired(&forwarder->arriving, now)) != NULL)
        miss_arrival(forwarder, end_of_phase(due));
    while ((due = deadline_expired(&forwarder->lingering, now)) != NULL)
        end_lingering(forwarder, end_of_phase(due));
    while ((due = deadline_expired(&forwarder->leaving, now)) != NULL)
        close_end(forwarder, end_of_phase(due));
    while ((due = deadline_expired(&forwarder->watching, now)) != NULL)
        check_life(forwarder, end_of_watch(due));
}

/* What workers left that died on their way to us. */
static void sweep(struct forwarder *forwarder)
{
    struct pair_ref stranded[STRANDED_AT_ONCE];
    size_t count = pair_sweep(forwarder->table, forwarder->now, stranded, STRANDED_AT_ONCE);
    for (size_t i = 0; i < count; i++)
        look(forwarder, stranded[i]);
    if (++forwarder->sweeps % DISMISSED_TICKS != 0)
        return;
    count = pair_dismissed(forwarder->table, stranded, STRANDED_AT_ONCE);
    for (size_t i = 0; i < count; i++)
        look(forwarder, stranded[i]);
}

/* ---- the loop -------------------------------------------------------------------- */

static void handle_end(struct forwarder *forwarder, struct end *end, uint32_t events)
{
    if (end->fd < 0)
        return; /* closed earlier in this round */
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        end->readable = true;
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        end->hung_up = true;
    if ((events & EPOLLOUT) != 0)
        end->writable = true;
    if (end->state == END_JOINED)
        run_pair(forwarder, end);
    else if (end->state == END_LEAVING)
        discard_input(forwarder, end);
    else if (end->readable)
        judge_parked(forwarder, end);
}

/* One turn for each that had more to do. */
static void do_work(struct forwarder *forwarder)
{
    struct end *list = forwarder->work;
    forwarder->work = NULL;
    while (list != NULL) {
        struct end *end = list;
        list = end->next;
        end->queued = false;
        if (end->fd < 0) {
            end->next = forwarder->dead;
            forwarder->dead = end;
            continue;
        }
        if (end->crowded && end->state == END_JOINED)
            dismiss_spares(forwarder, end);
        if (end->state == END_JOINED)
            run_pair(forwarder, end);
    }
}

static int wait_time(const struct forwarder *forwarder)
{
    int64_t next = forwarder->next_tick;
    if (forwarder->work != NULL)
        return 0;
    next = deadline_next(&forwarder->waiting, next);
    next = deadline_next(&forwarder->arriving, next);
    next = deadline_next(&forwarder->lingering, next);
    next = deadline_next(&forwarder->leaving, next);
    next = deadline_next(&forwarder->watching, next);
    if (next < 0)
        return -1;
    return next <= forwarder->now ? 0 : (int)(next - forwarder->now);
}

/* Ticks only while there is somebody to look after. */
static void tick(struct forwarder *forwarder, bool socket_empty)
{
    bool busy = forwarder->ends > 0 || pair_used(forwarder->table) > 0;
    if (busy || forwarder->idle_since < 0)
        forwarder->idle_since = busy ? -1 : forwarder->now;
    if (forwarder->next_tick >= 0 && forwarder->now < forwarder->next_tick)
        return;
    if (busy && socket_empty)
        sweep(forwarder);
    forwarder->next_tick = busy ? forwarder->now + TICK : -1;
}

/* Waits for events. Two clients who talk in turns are quicker than this process is put to sleep
 * and woken, which for them is most of a round trip: while they do, a little time is spent on
 * looking first. It never is when bytes come in bulk, or when nothing has come for longer. */
static int wait_for_events(
    struct forwarder *forwarder, struct epoll_event *events, const sigset_t *mask, int timeout)
{
    uint64_t moved = forwarder->flow.moved - forwarder->moved_before;
    bool in_turns = moved > 0 && moved <= IN_TURNS_BYTES && forwarder->last_wait <= IN_TURNS_WAIT;
    int64_t start = now_nanoseconds(), wait = 0;
    int count = 0;
    forwarder->moved_before = forwarder->flow.moved;
    while (in_turns && timeout != 0 && count == 0 && wait <= LOOKING) {
        count = epoll_pwait(forwarder->epoll, events, EVENTS_AT_ONCE, 0, mask);
        wait = now_nanoseconds() - start;
    }
    if (count == 0)
        count = epoll_pwait(forwarder->epoll, events, EVENTS_AT_ONCE, timeout, mask);
    forwarder->last_wait = now_nanoseconds() - start;
    return count;
}

static void one_round(struct forwarder *forwarder, const sigset_t *mask, int timeout)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = wait_for_events(forwarder, events, mask, timeout);
    bool socket_empty = true;
    forwarder->now = runtime_now();
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == NULL)
            socket_empty = take_handoffs(forwarder);
        else
            handle_end(forwarder, events[i].data.ptr, events[i].events);
    }
    do_work(forwarder);
    expire(forwarder);
    tick(forwarder, socket_empty);
    bury_dead(forwarder);
    listen_to_socket(forwarder, !short_of_descriptors(forwarder));
}

/* ---- running --------------------------------------------------------------------- */

static volatile sig_atomic_t stop_wanted;

static void want_stop(int signal)
{
    (void)signal;
    stop_wanted = 1;
}

/* Stop signals come only while the loop waits, so none is missed. */
static int prepare_signals(sigset_t *while_waiting)
{
    struct sigaction stop = {.sa_handler = want_stop}, ignore = {.sa_handler = SIG_IGN};
    sigset_t stops;
    stop_wanted = 0;
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    if (sigprocmask(SIG_BLOCK, &stops, while_waiting) < 0 || sigaction(SIGTERM, &stop, NULL) < 0 ||
        sigaction(SIGINT, &stop, NULL) < 0 || sigaction(SIGPIPE, &ignore, NULL) < 0)
        return -errno;
    sigdelset(while_waiting, SIGTERM);
    sigdelset(while_waiting, SIGINT);
    return 0;
}

static int prepare(struct forwarder *forwarder, const struct forward_setup *setup)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    const struct options *options = setup->options;
    *forwarder = (struct forwarder){
        .options = options,
        .table = setup->table,
        .socket = setup->socket,
        .recorder = setup->recorder,
        .epoll = -1,
        .listening = true,
        .descriptors_max = setup->descriptors_max,
        .waiting.length = (int64_t)options->wait_timeout * 1000,
        .arriving.length = PAIR_ARRIVAL_TIME,
        .lingering.length = (int64_t)options->linger * 1000,
        .leaving.length = LEAVE,
        .watching.length = WATCH,
        .now = runtime_now(),
        .idle_since = -1,
    };
    int error = flow_open(&forwarder->flow, setup->descriptors_max / 4);
    if (error != 0)
        return error;
    forwarder->slots = calloc(pair_capacity(setup->table), sizeof(struct end *));
    forwarder->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (forwarder->slots == NULL || forwarder->epoll < 0 ||
        epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, setup->socket, &event) < 0)
        return -errno;
    return 0;
}

static void release(struct forwarder *forwarder)
{
    for (uint32_t i = 0; forwarder->slots != NULL && i < pair_capacity(forwarder->table); i++) {
        struct end *end = forwarder->slots[i];
        if (end == NULL)
            continue;
        if (end->state == END_JOINED)
            end_pair(forwarder, end);
        else
            dismiss(forwarder, end, PAIR_LONELY);
    }
    do_work(forwarder);
    bury_dead(forwarder);
    flow_close(&forwarder->flow);
    free(forwarder->slots);
    if (forwarder->epoll >= 0)
        close(forwarder->epoll);
}

/* How long the loop may sleep: until something is due, or idleness has lasted. */
static int sleep_time(const struct forwarder *forwarder)
{
    int timeout = wait_time(forwarder);
    int64_t idle = (int64_t)forwarder->options->idle_timeout * 1000;
    if (timeout >= 0 || idle == 0 || forwarder->idle_since < 0)
        return timeout;
    int64_t left = forwarder->idle_since + idle - forwarder->now;
    return left <= 0 ? 0 : (int)left;
}

static bool idle_for_long(const struct forwarder *forwarder)
{
    int64_t idle = (int64_t)forwarder->options->idle_timeout * 1000;
    return idle > 0 && forwarder->idle_since >= 0 && forwarder->now - forwarder->idle_since >= idle;
}

int forward_run(const struct forward_setup *setup)
{
    struct forwarder forwarder;
    sigset_t while_waiting;
    int error = prepare(&forwarder, setup);
    if (error == 0)
        error = prepare_signals(&while_waiting);
    while (error == 0 && !stop_wanted) {
        one_round(&forwarder, &while_waiting, sleep_time(&forwarder));
        if (!idle_for_long(&forwarder))
            continue;
        if (setup->retire(setup->context))
            break;
        forwarder.idle_since = forwarder.now;
    }
    release(&forwarder);
    return error;
}
