/* The forwarder's event loop. Handoffs are taken by intake.c, events handled by connections.c, and
 * deadlines by expiry.c; how a forwarder comes to run, and to retire, is launch.c's. */
#include "forward/forward.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "forward/carry.h"
#include "forward/connections.h"
#include "forward/depart.h"
#include "forward/expiry.h"
#include "forward/intake.h"
#include "forward/lobby.h"
#include "protocol.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    EVENTS_AT_ONCE = 128,
    STRANDED_AT_ONCE = 64,
    TICK = 2000,            /* milliseconds between two sweeps of the table */
    LOG_LOOK = 5000,        /* at most, between two looks at what other processes have logged */
    STALL = 1000,           /* a round that is so late shows that this process stood still */
    DISMISSED_TICKS = 15,   /* sweeps between two looks at every slot */
    IN_TURNS_BYTES = 4096,  /* a message, not a bulk transfer */
    IN_TURNS_WAIT = 100000, /* nanoseconds between two messages of clients that talk in turns */
    TERMS_PAUSE = 1000,     /* between two changes of options */
    OUTDATED_TIME = 500,    /* without work, before an outdated forwarder retires */
    SIGNAL_ROUNDS = 64,     /* with events, between two times that signals are let in */
    LOOKING = 50000,        /* nanoseconds spent on polling for the next event */
};

/* ---- terms ----------------------------------------------------------------------- */

/* The terms hold from now on, also for connections that are held already. */
static void set_terms(struct forwarder *forwarder, struct terms terms)
{
    int64_t wait_time = (int64_t)terms.wait_timeout * 1000;
    deadline_set_length(&forwarder->lingering, (int64_t)terms.linger * 1000);
    for (size_t i = 0; i < PROTOCOL_COUNT; i++)
        deadline_set_length(&forwarder->waiting[i],
            protocols[i]->wait_time > 0 ? protocols[i]->wait_time : wait_time);
    forwarder->transfer.pair_max = terms.session_bytes;
    forwarder->terms = terms;
    log_set_debugging(terms.debug != 0);
}

/* A forwarder in its sandbox opens no file, so what it records, and where, cannot change while it
 * runs.
 */
static void judge_records(struct forwarder *forwarder)
{
    bool differ = forwarder->terms.records != forwarder->own_records;
    if (differ && !forwarder->outdated)
        log_warning(
            "usage records are kept as this forwarder, process %d, was started to: servers and "
            "workers have other options by now; another forwarder takes its place "
            "once it has no connection, or when it is ended",
            (int)getpid());
    forwarder->outdated = differ || forwarder->recorder_lost;
}

void forwarder_heed_terms(struct forwarder *forwarder, const struct terms *terms)
{
    if (terms->since == 0 || terms->since < forwarder->terms.since || !terms_are_sound(terms))
        return;
    if (terms_agree(terms, &forwarder->terms)) {
        forwarder->terms.since = terms->since;
        return;
    }
    if (forwarder->transfer.now < forwarder->next_terms)
        return;
    forwarder->next_terms = forwarder->transfer.now + TERMS_PAUSE;
    log_repeated(LOG_INFO,
        "options have changed: a wait of %d s, a linger of %d s, %" PRIu64 " bytes per pair "
        "(0: unlimited)",
        (int)terms->wait_timeout, (int)terms->linger, terms->session_bytes);
    set_terms(forwarder, *terms);
    judge_records(forwarder);
}

/* ---- standing still -------------------------------------------------------------- */

/* While this process stood still, or had no room, handoffs have been waiting, and their workers may
 * have stood still, too. */
static void notice_stall(struct forwarder *forwarder, int timeout, int count)
{
    int64_t now = clock_now();
    bool stalled = timeout < 0 || now > forwarder->transfer.now + timeout + STALL;
    if (stalled || !forwarder->listening)
        forwarder->attentive_since = now;
    if (count >= 0 && count < EVENTS_AT_ONCE)
        forwarder->behind_until = 0;
    else if (stalled)
        forwarder->behind_until = now + STALL;
    forwarder->transfer.now = now;
}

/* Whether events may be waiting that are older than a deadline which has passed: so it is after a
 * stall, until all events have been seen, for the time of STALL at most. */
static bool is_behind(const struct forwarder *forwarder)
{
    return forwarder->transfer.now < forwarder->behind_until;
}

/* Cleans up after workers that died before their handoff. */
static void sweep(struct forwarder *forwarder)
{
    struct pair_ref stranded[STRANDED_AT_ONCE];
    size_t count =
        pair_sweep(forwarder->table, forwarder->transfer.now, stranded, STRANDED_AT_ONCE);
    for (size_t i = 0; i < count; i++)
        connections_look(forwarder, stranded[i]);
    if (++forwarder->sweeps % DISMISSED_TICKS != 0)
        return;
    count = pair_dismissed(forwarder->table, stranded, STRANDED_AT_ONCE);
    for (size_t i = 0; i < count; i++)
        connections_look(forwarder, stranded[i]);
}

/* ---- the loop -------------------------------------------------------------------- */

static void handle_events(
    struct forwarder *forwarder, struct connection *connection, uint32_t events)
{
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        connection->readable = true;
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        connection->hung_up = true;
    if ((events & EPOLLOUT) != 0)
        connection->writable = true;
    connections_run(forwarder, connection);
}

/* One turn for each connection with work left. */
static void do_work(struct forwarder *forwarder)
{
    struct connection *list = forwarder->work;
    forwarder->work = NULL;
    while (list != NULL) {
        struct connection *connection = list;
        list = connection->next;
        connection->queued = false;
        if (connection->fd >= 0) {
            connections_run(forwarder, connection);
        } else {
            connection->next = forwarder->dead;
            forwarder->dead = connection;
        }
    }
}

static int wait_time(const struct forwarder *forwarder)
{
    if (forwarder->work != NULL || lobby_is_busy(forwarder))
        return 0;
    int64_t next = expiry_next(forwarder, forwarder->next_tick);
    int64_t look = forwarder->transfer.now + INTAKE_SHORTAGE;
    if (!forwarder->listening && !forwarder->stopping && (next < 0 || look < next))
        next = look;
    if (next < 0)
        return -1;
    return next <= forwarder->transfer.now ? 0 : (int)(next - forwarder->transfer.now);
}

/* Ticks only while there are connections. */
static void tick(struct forwarder *forwarder)
{
    bool busy =
        forwarder->held > 0 || (forwarder->table_fault == 0 && pair_used(forwarder->table) > 0);
    if (busy || forwarder->idle_since < 0)
        forwarder->idle_since = busy ? -1 : forwarder->transfer.now;
    if (forwarder->next_tick >= 0 && forwarder->transfer.now < forwarder->next_tick)
        return;
    if (busy)
        carry_check(forwarder);
    if (busy && intake_is_over(forwarder))
        sweep(forwarder);
    forwarder->next_tick = busy ? forwarder->transfer.now + TICK : -1;
}

/* Workers may live for one connection only, so this process logs what was summed up of theirs. */
static void look_at_log(struct forwarder *forwarder)
{
    if (forwarder->transfer.now < forwarder->next_log)
        return;
    int next = log_write_sums(false);
    forwarder->next_log = forwarder->transfer.now + (next < LOG_LOOK ? next : LOG_LOOK);
}

/* epoll_pwait() lets signals in only when no event is ready, which under load may be never. */
static void let_signals_in(const sigset_t *mask)
{
    sigset_t blocked;
    (void)sigprocmask(SIG_SETMASK, mask, &blocked); /* fails for no sets that exist */
    (void)sigprocmask(SIG_SETMASK, &blocked, NULL);
}

/* Waits for events. When two clients send short messages in turns, putting this process to sleep
 * and waking it takes most of their round trip: while they do, it polls for a moment before it
 * sleeps. It does not when bytes come in bulk, or when the last wait was long. */
static int wait_for_events(
    struct forwarder *forwarder, struct epoll_event *events, const sigset_t *mask, int timeout)
{
    uint64_t moved = forwarder->transfer.moved - forwarder->moved_before;
    bool in_turns = moved > 0 && moved <= IN_TURNS_BYTES && forwarder->last_wait <= IN_TURNS_WAIT;
    int64_t start = clock_fine(), wait = 0;
    int count = 0;
    forwarder->moved_before = forwarder->transfer.moved;
    while (in_turns && timeout != 0 && count == 0 && wait <= LOOKING) {
        count = epoll_pwait(forwarder->epoll, events, EVENTS_AT_ONCE, 0, mask);
        wait = clock_fine() - start;
    }
    if (count == 0)
        count = epoll_pwait(forwarder->epoll, events, EVENTS_AT_ONCE, timeout, mask);
    forwarder->last_wait = clock_fine() - start;
    if (count > 0 && ++forwarder->rounds % SIGNAL_ROUNDS == 0)
        let_signals_in(mask);
    return count;
}

void forwarder_round(struct forwarder *forwarder, const sigset_t *mask, int timeout)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = wait_for_events(forwarder, events, mask, timeout);
    notice_stall(forwarder, timeout, count);
    intake_look_at_shortage(forwarder);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == NULL)
            (void)intake_take(forwarder); /* the rest in another round */
        else
            handle_events(forwarder, events[i].data.ptr, events[i].events);
    }
    do_work(forwarder);
    expiry_collect(forwarder);
    lobby_turn(forwarder);
    if (!is_behind(forwarder)) {
        expiry_run(forwarder);
        tick(forwarder);
        intake_look_at_name(forwarder);
    }
    look_at_log(forwarder);
    connections_bury(forwarder);
    intake_listen(forwarder, !forwarder->stopping && !intake_is_short(forwarder));
}

/* ---- running --------------------------------------------------------------------- */

static volatile sig_atomic_t stop_wanted;

static void want_stop(int signal)
{
    (void)signal;
    stop_wanted = 1;
}

/* Stop signals are let in only while the loop waits, so none is missed. SIGINT stays ignored if it
 * was when this process started: then it is meant for others of the process group. */
static int prepare_signals(sigset_t *while_waiting)
{
    struct sigaction stop = {.sa_handler = want_stop}, ignore = {.sa_handler = SIG_IGN}, before;
    sigset_t stops;
    stop_wanted = 0;
    sigemptyset(&stops);
    sigaddset(&stops, SIGTERM);
    sigaddset(&stops, SIGINT);
    if (sigprocmask(SIG_BLOCK, &stops, while_waiting) < 0 || sigaction(SIGTERM, &stop, NULL) < 0 ||
        sigaction(SIGINT, NULL, &before) < 0 || sigaction(SIGPIPE, &ignore, NULL) < 0 ||
        (before.sa_handler != SIG_IGN && sigaction(SIGINT, &stop, NULL) < 0))
        return -errno;
    sigdelset(while_waiting, SIGTERM);
    sigdelset(while_waiting, SIGINT);
    return 0;
}

int forwarder_open(struct forwarder *forwarder, const struct forward_setup *setup)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    *forwarder = (struct forwarder){
        .table = setup->table,
        .first_table = setup->table,
        .socket = setup->socket,
        .renewed = -1,
        .recorder = setup->recorder,
        .epoll = -1,
        .listening = true,
        .descriptors_max = setup->descriptors_max,
        .idle_since = -1,
        .setup = setup,
    };
    expiry_prepare(forwarder);
    int error = transfer_open(&forwarder->transfer, setup->descriptors_max / 4);
    if (error == 0)
        error = lobby_open(forwarder, connections_dismiss);
    if (error != 0)
        return error;
    forwarder->transfer.now = forwarder->attentive_since = clock_now();
    set_terms(forwarder, terms_of(setup->options));
    forwarder->own_records = forwarder->terms.records;
    forwarder->slots = calloc(pair_capacity(setup->table), sizeof(struct connection *));
    forwarder->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (forwarder->slots == NULL || forwarder->epoll < 0 ||
        epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, setup->socket, &event) < 0)
        return -errno;
    return 0;
}

/* Connections that come from now on are the next forwarder's, and so are those that wait in the
 * socket if the next forwarder has the same one. If not, nobody can send to the socket any more,
 * and the connections in it are taken to be ended with the others. */
static void leave_socket(struct forwarder *forwarder)
{
    const struct forward_setup *setup = forwarder->setup;
    struct pollfd entry = {.fd = forwarder->socket, .events = POLLRDHUP};
    if (setup->leave != NULL)
        setup->leave(setup->context);
    if (poll(&entry, 1, 0) > 0 && (entry.revents & POLLRDHUP) != 0)
        while (!intake_take(forwarder) && !intake_is_short(forwarder))
            continue;
    intake_close_renewed(forwarder);
    intake_listen(forwarder, false);
}

/* Ends all connections; but what was read for a client is delivered first, and then a farewell. */
static void end_all(struct forwarder *forwarder, const sigset_t *while_waiting)
{
    forwarder->stopping = true;
    notify_send("STOPPING=1\nSTATUS=What was received is delivered, and connections are closed");
    leave_socket(forwarder);
    for (struct deadline *each = forwarder->leaving.first; each != NULL; each = each->next)
        connections_queue(
            forwarder, connection_of_phase(each)); /* they are not waited for any longer */
    for (uint32_t i = 0; i < pair_capacity(forwarder->table); i++) {
        struct connection *connection = forwarder->slots[i];
        if (connection != NULL)
            connections_stop(forwarder, connection);
    }
    int64_t until = clock_now() + FORWARDER_LEAVE_TIME;
    while (forwarder->held > 0 && clock_now() < until)
        forwarder_round(forwarder, while_waiting, wait_time(forwarder));
}

void forwarder_close(struct forwarder *forwarder)
{
    struct deadline *leaving;
    while ((leaving = deadline_expired(&forwarder->leaving, INT64_MAX)) != NULL)
        connections_close(forwarder, connection_of_phase(leaving));
    depart_expire(forwarder, INT64_MAX);
    do_work(forwarder);
    connections_bury(forwarder);
    lobby_close(forwarder);
    transfer_close(&forwarder->transfer);
    if (forwarder->table != forwarder->first_table)
        pair_close(forwarder->table);
    free(forwarder->slots);
    if (forwarder->epoll >= 0)
        close(forwarder->epoll);
}

/* Milliseconds without work until the forwarder retires; 0: it never does. */
static int64_t idle_time(const struct forwarder *forwarder)
{
    return forwarder->outdated ? OUTDATED_TIME : (int64_t)forwarder->terms.idle_timeout * 1000;
}

/* How long the loop may sleep: until something is due, the forwarder retires, or the log or the
 * socket's name is to be looked at. */
static int sleep_time(const struct forwarder *forwarder)
{
    int64_t timeout = wait_time(forwarder);
    int64_t idle = idle_time(forwarder);
    int64_t look = forwarder->next_log;
    if (forwarder->setup->renew != NULL && forwarder->next_look < look)
        look = forwarder->next_look;
    look -= forwarder->transfer.now;
    if (timeout < 0 && idle > 0 && forwarder->idle_since >= 0)
        timeout = forwarder->idle_since + idle - forwarder->transfer.now;
    else if (timeout < 0)
        timeout = look;
    if (look < timeout)
        timeout = look;
    return timeout <= 0 ? 0 : (int)timeout;
}

static bool idle_for_long(const struct forwarder *forwarder)
{
    int64_t idle = idle_time(forwarder);
    return idle > 0 && forwarder->idle_since >= 0 &&
           forwarder->transfer.now - forwarder->idle_since >= idle;
}

int forward_run(const struct forward_setup *setup)
{
    struct forwarder forwarder;
    sigset_t while_waiting;
    int error = forwarder_open(&forwarder, setup);
    if (error == 0)
        error = prepare_signals(&while_waiting);
    while (error == 0 && !stop_wanted && !forwarder.forsaken) {
        forwarder_round(&forwarder, &while_waiting, sleep_time(&forwarder));
        if (!idle_for_long(&forwarder))
            continue;
        if (setup->retire(setup->context))
            break;
        forwarder.idle_since = forwarder.transfer.now;
    }
    if (error == 0)
        end_all(&forwarder, &while_waiting);
    forwarder_close(&forwarder);
    (void)log_write_sums(true);
    return error;
}
