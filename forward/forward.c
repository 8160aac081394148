/* The forwarder's event loop: handoffs, events, deadlines. What becomes of each connection is
 * connections.c's; how a forwarder comes to run, and to retire, is launch.c's. */
#include "forward/forward.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "forward/forwarder.h"
#include "protocol.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS_AT_ONCE = 128,
    HANDOFFS_AT_ONCE = 64,
    STRANDED_AT_ONCE = 64,
    DESCRIPTORS_KEPT = 32,   /* for everything that is no connection */
    TICK = 2000,             /* milliseconds between two sweeps of the table */
    NAME_LOOK = 2000,        /* between two looks at whether the socket has its name */
    LOG_LOOK = 5000,         /* at most, between two looks at what others want to have said */
    STALL = 1000,            /* a round that comes so late says that this process stood still */
    DISMISSED_TICKS = 15,    /* sweeps between two looks at every slot */
    WATCH = 15000,           /* between two looks at whether a peer lives */
    LEAVE = 5000,            /* for an end to read why it is closed */
    DEAF = 1000,             /* after which one that is deaf at first hears */
    REST = 100,              /* between two looks at whether one in the lobby has paid */
    DELIVERY = 20,           /* between two looks at whether all has been acknowledged */
    IN_TURNS_BYTES = 4096,   /* a message, and no bulk */
    IN_TURNS_WAIT = 100000,  /* nanoseconds between two messages of clients that talk in turns */
    TERMS_PAUSE = 1000,      /* between two changes of options */
    OUTDATED_TIME = 500,     /* without work, before one that is to be succeeded retires */
    SHORTAGE = 500,          /* between two looks whether newcomers can be taken again */
    NEWCOMER_SIZE = 1 << 16, /* bytes: more than is needed for one */
    SIGNAL_ROUNDS = 64,      /* with events, between two times that signals are let in */
    LOOKING = 50000,         /* nanoseconds spent on looking for the next one */
};

static int64_t now_nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- terms ----------------------------------------------------------------------- */

/* They hold from now on, also for those who are here. */
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

/* What is recorded, and where, is settled when a forwarder starts, as a sandbox opens no file. */
static void judge_records(struct forwarder *forwarder)
{
    bool differ = forwarder->terms.records != forwarder->own_records;
    if (differ && !forwarder->outdated)
        log_warning(
            "usage records are kept as this forwarder, process %d, was started to: those who "
            "hand connections over have other options; another forwarder takes its place "
            "once it has no connection, or when it is ended",
            (int)getpid());
    forwarder->outdated = differ || forwarder->recorder_lost;
}

/* Takes the terms of whoever was started last; but not too often, should they take turns. */
static void heed_terms(struct forwarder *forwarder, const struct terms *terms)
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

/* ---- arrivals -------------------------------------------------------------------- */

/* It may be changed while this process runs. */
static void look_at_limit(struct forwarder *forwarder)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_repeated_errno(LOG_ERR, "cannot learn the limit on descriptors");
    else
        forwarder->descriptors_max = (size_t)limit.rlim_cur;
}

static bool short_of_descriptors(const struct forwarder *forwarder)
{
    size_t used = forwarder->ends + 2 * forwarder->transfer.pipes + DESCRIPTORS_KEPT;
    return used >= forwarder->descriptors_max;
}

static bool has_memory(void)
{
    void *volatile memory = malloc(NEWCOMER_SIZE); /* or a compiler would leave it out */
    bool has = memory != NULL;
    free(memory);
    return has;
}

void forwarder_fall_short(struct forwarder *forwarder)
{
    forwarder->short_until = forwarder->transfer.now + SHORTAGE;
}

/* Whether newcomers could be taken again, where they cannot. */
static void look_at_shortage(struct forwarder *forwarder)
{
    if (!forwarder->listening)
        look_at_limit(forwarder);
    if (forwarder->short_until == 0 || forwarder->transfer.now < forwarder->short_until)
        return;
    if (has_memory())
        forwarder->short_until = 0;
    else
        forwarder_fall_short(forwarder);
}

static bool is_short(const struct forwarder *forwarder)
{
    return forwarder->short_until != 0 || short_of_descriptors(forwarder);
}

static void log_shortage(const struct forwarder *forwarder)
{
    if (short_of_descriptors(forwarder))
        log_repeated(LOG_WARNING, "no more connections are taken: %zu descriptors are in use",
            forwarder->descriptors_max);
    else
        log_repeated(LOG_WARNING,
            "no more connections are taken: the last one found no memory, or no descriptor");
}

/* Handoffs wait in the socket while nobody can be taken. */
static void listen_to_socket(struct forwarder *forwarder, bool wanted)
{
    struct epoll_event event = {.events = wanted ? EPOLLIN : 0, .data.ptr = NULL};
    if (forwarder->listening == wanted)
        return;
    if (epoll_ctl(forwarder->epoll, EPOLL_CTL_MOD, forwarder->socket, &event) < 0 ||
        (forwarder->renewed >= 0 &&
            epoll_ctl(forwarder->epoll, EPOLL_CTL_MOD, forwarder->renewed, &event) < 0))
        log_repeated_errno(LOG_ERR, "cannot wait for handoffs");
    else
        forwarder->listening = wanted;
    pair_set_crammed(forwarder->table, !wanted && !forwarder->stopping);
    if (!wanted && !forwarder->stopping)
        log_shortage(forwarder);
}

/* Its worker has met in a table that is not ours, or not any more. */
static void refuse_foreign(struct forwarder *forwarder, int fd)
{
    if (fd >= 0) {
        log_repeated(LOG_WARNING, "closed a connection: its worker has another table");
        close(fd);
    }
    carry_check(forwarder);
}

static void take_connection(struct forwarder *forwarder, const struct handoff *handoff, int fd)
{
    heed_terms(forwarder, &handoff->terms);
    connections_take(forwarder, handoff, fd);
}

/* Whether the slots that it names are of our table. */
static bool is_ours(const struct forwarder *forwarder, const struct handoff *handoff)
{
    return handoff->table == 0 || handoff->table == pair_id(forwarder->table);
}

static void forget_secrets(struct handoff *handoff)
{
    sodium_memzero(handoff->session, sizeof handoff->session);
    sodium_memzero(&handoff->records, sizeof handoff->records);
}

/* The slot of a connection that cannot be taken is freed. */
static void refuse_handoff(struct forwarder *forwarder, struct handoff *handoff, int error)
{
    if (error == -EMFILE) {
        log_repeated(LOG_ERR, "cannot take a connection: this process is short of descriptors");
        forwarder_fall_short(forwarder);
    } else if (error == -EPROTO) {
        log_repeated(LOG_ERR,
            "cannot take a connection: its worker is of a newer version; restart the forwarder");
    } else {
        errno = -error;
        log_repeated_errno(LOG_WARNING, "cannot use a handoff");
    }
    if (!pair_is_none(handoff->ref) && is_ours(forwarder, handoff))
        connections_take(forwarder, handoff, -1);
    forget_secrets(handoff);
}

/* Those who came by a server end with it, if that has the forwarder that it uses end, too. */
static void see_off(struct forwarder *forwarder, uint64_t server, int fd)
{
    const struct forward_setup *setup = forwarder->setup;
    if (setup->forsaken == NULL) {
        close(fd);
        return;
    }
    forwarder->forsaken = setup->forsaken(setup->context);
    depart(forwarder, server, fd, !forwarder->forsaken);
}

static void take_handoff(struct forwarder *forwarder, struct handoff *handoff, int fd)
{
    bool ours = is_ours(forwarder, handoff);
    if (handoff->kind == HANDOFF_TABLE)
        carry_over(forwarder, fd);
    else if (handoff->kind == HANDOFF_LEAVE)
        see_off(forwarder, handoff->server, fd);
    else if (handoff->kind == HANDOFF_RECORD)
        connections_record(forwarder, &handoff->record);
    else if (handoff->kind == HANDOFF_ASK)
        close(fd);
    else if (!ours)
        refuse_foreign(forwarder, fd);
    else if (handoff->kind == HANDOFF_CONNECTION)
        take_connection(forwarder, handoff, fd);
    else
        connections_look(forwarder, handoff->ref);
    if (ours && !pair_is_none(handoff->dismissed))
        connections_look(forwarder, handoff->dismissed);
    forget_secrets(handoff);
}

/* Returns whether the socket is empty. */
static bool take_handoffs_from(struct forwarder *forwarder, int socket)
{
    struct handoff handoff;
    int fd;
    look_at_limit(forwarder);
    for (int i = 0; i < HANDOFFS_AT_ONCE && !is_short(forwarder); i++) {
        int error = handoff_receive(socket, &handoff, &fd);
        if (error == -EAGAIN || error == -EINTR)
            return error == -EAGAIN;
        if (error == 0)
            take_handoff(forwarder, &handoff, fd);
        else
            refuse_handoff(forwarder, &handoff, error);
    }
    return false;
}

/* Returns whether nothing is in any of its sockets. */
static bool take_handoffs(struct forwarder *forwarder)
{
    bool empty = take_handoffs_from(forwarder, forwarder->socket);
    if (forwarder->renewed >= 0)
        empty = take_handoffs_from(forwarder, forwarder->renewed) && empty;
    return empty;
}

/* Whoever has connected to it finds out when it sends, and nothing of what was sent is lost. */
static void close_renewed(struct forwarder *forwarder)
{
    if (forwarder->renewed < 0)
        return;
    (void)shutdown(forwarder->renewed, SHUT_RD); /* fails for no socket that is connected to */
    while (!take_handoffs_from(forwarder, forwarder->renewed) && !is_short(forwarder))
        continue;
    close(forwarder->renewed);
    forwarder->renewed = -1;
}

/* Those who come later find the socket by its name. */
static void look_at_name(struct forwarder *forwarder)
{
    const struct forward_setup *setup = forwarder->setup;
    struct epoll_event event = {.events = forwarder->listening ? EPOLLIN : 0, .data.ptr = NULL};
    if (setup->renew == NULL || forwarder->transfer.now < forwarder->next_look)
        return;
    forwarder->next_look = forwarder->transfer.now + NAME_LOOK;
    int socket = setup->renew(setup->context);
    if (socket < 0)
        return;
    close_renewed(forwarder);
    forwarder->renewed = socket;
    if (epoll_ctl(forwarder->epoll, EPOLL_CTL_ADD, socket, &event) < 0)
        log_repeated_errno(LOG_ERR, "cannot wait for handoffs");
}

/* ---- whether all have come ------------------------------------------------------- */

/* While this process stood still, or was short of something, handoffs have been waiting for it,
 * and their workers, too, may have stood still. */
static void notice_stall(struct forwarder *forwarder, int timeout, int count)
{
    int64_t now = clock_now();
    bool stalled = timeout < 0 || now > forwarder->transfer.now + timeout + STALL;
    if (stalled || !forwarder->listening)
        forwarder->attentive_since = now;
    if (count >= 0 && count < EVENTS_AT_ONCE)
        forwarder->behind = false;
    else if (stalled)
        forwarder->behind = true;
    forwarder->transfer.now = now;
}

/* Whether events may be waiting that are older than a deadline which has passed: after a stall,
 * until all of them have been seen, but not for longer than they may keep everybody waiting. */
static bool is_behind(const struct forwarder *forwarder)
{
    return forwarder->behind && forwarder->transfer.now < forwarder->attentive_since + STALL;
}

/* Whether a descriptor that was to be here PAIR_ARRIVAL_TIME ago cannot come any more: this process
 * has been waiting for it all that time, and it is not in the socket. */
static bool nothing_is_underway(struct forwarder *forwarder)
{
    return forwarder->transfer.now - forwarder->attentive_since > PAIR_ARRIVAL_TIME &&
           take_handoffs(forwarder);
}

/* ---- deadlines ------------------------------------------------------------------- */

static struct connection *end_of_watch(struct deadline *deadline)
{
    return (struct connection *)((char *)deadline - offsetof(struct connection, watch));
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
        connections_were_deaf(forwarder, coded_of_deaf(due)->connection);
    for (size_t kind = 0; kind < CODEC_KINDS; kind++) {
        while ((due = deadline_expired(&forwarder->quiet[kind], now)) != NULL)
            connections_were_quiet(forwarder, coded_of_quiet(due)->connection);
        for (size_t i = 0; i < FORWARDER_JITTERS; i++)
            while ((due = deadline_expired(&forwarder->silent[kind][i], now)) != NULL)
                connections_were_silent(forwarder, coded_of_silent(due)->connection);
    }
}

/* An end whose peer may be on its way yet waits for it once more. */
static void expire_arrivals(struct forwarder *forwarder)
{
    struct deadline *due;
    int64_t now = forwarder->transfer.now;
    if (!deadline_is_due(&forwarder->arriving, now))
        return;
    bool missed = nothing_is_underway(forwarder);
    while ((due = deadline_expired(&forwarder->arriving, now)) != NULL) {
        if (missed)
            connections_missed_arrival(forwarder, connection_of_phase(due));
        else
            deadline_set(due, &forwarder->arriving, now);
    }
}

static void expire(struct forwarder *forwarder)
{
    struct deadline *due;
    int64_t now = forwarder->transfer.now;
    for (size_t i = 0; i < PROTOCOL_COUNT; i++)
        while ((due = deadline_expired(&forwarder->waiting[i], now)) != NULL)
            connections_dismiss(forwarder, connection_of_phase(due), PAIR_LONELY, PAIR_NO_REASON);
    expire_arrivals(forwarder);
    while ((due = deadline_expired(&forwarder->lingering, now)) != NULL)
        connections_lingered(forwarder, connection_of_phase(due));
    while ((due = deadline_expired(&forwarder->leaving, now)) != NULL)
        connections_close(forwarder, connection_of_phase(due));
    depart_expire(forwarder, now);
    while ((due = deadline_expired(&forwarder->watching, now)) != NULL)
        connections_check_life(forwarder, end_of_watch(due));
    while ((due = deadline_expired(&forwarder->delivering, now)) != NULL)
        connections_check_delivery(forwarder, end_of_watch(due));
    while ((due = deadline_expired(&forwarder->resting, now)) != NULL)
        connections_run(forwarder, connection_of_phase(due));
    expire_codecs(forwarder);
}

/* What workers left that died on their way to us. */
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

static void handle_end(struct forwarder *forwarder, struct connection *connection, uint32_t events)
{
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        connection->readable = true;
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)
        connection->hung_up = true;
    if ((events & EPOLLOUT) != 0)
        connection->writable = true;
    connections_run(forwarder, connection);
}

/* One turn for each that had more to do. */
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

/* The earliest of all deadlines, and `next`. */
static int64_t next_deadline(const struct forwarder *forwarder, int64_t next)
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

static int wait_time(const struct forwarder *forwarder)
{
    if (forwarder->work != NULL || lobby_is_busy(forwarder))
        return 0;
    int64_t next = next_deadline(forwarder, forwarder->next_tick);
    int64_t look = forwarder->transfer.now + SHORTAGE;
    if (!forwarder->listening && !forwarder->stopping && (next < 0 || look < next))
        next = look;
    if (next < 0)
        return -1;
    return next <= forwarder->transfer.now ? 0 : (int)(next - forwarder->transfer.now);
}

/* Ticks only while there is somebody to look after. */
static void tick(struct forwarder *forwarder)
{
    bool busy =
        forwarder->ends > 0 || (forwarder->table_fault == 0 && pair_used(forwarder->table) > 0);
    if (busy || forwarder->idle_since < 0)
        forwarder->idle_since = busy ? -1 : forwarder->transfer.now;
    if (forwarder->next_tick >= 0 && forwarder->transfer.now < forwarder->next_tick)
        return;
    if (busy)
        carry_check(forwarder);
    if (busy && nothing_is_underway(forwarder))
        sweep(forwarder);
    forwarder->next_tick = busy ? forwarder->transfer.now + TICK : -1;
}

/* Others may live for one connection only, so this process says what was summed up of their log. */
static void look_at_log(struct forwarder *forwarder)
{
    if (forwarder->transfer.now < forwarder->next_log)
        return;
    int next = log_look(false);
    forwarder->next_log = forwarder->transfer.now + (next < LOG_LOOK ? next : LOG_LOOK);
}

/* epoll_pwait() lets signals in when it has nothing to return, which under load may be never. */
static void let_signals_in(const sigset_t *mask)
{
    sigset_t blocked;
    (void)sigprocmask(SIG_SETMASK, mask, &blocked); /* fails for no sets that exist */
    (void)sigprocmask(SIG_SETMASK, &blocked, NULL);
}

/* Waits for events. Two clients who talk in turns are quicker than this process is put to sleep
 * and woken, which for them is most of a round trip: while they do, a little time is spent on
 * looking first. It never is when bytes come in bulk, or when nothing has come for longer. */
static int wait_for_events(
    struct forwarder *forwarder, struct epoll_event *events, const sigset_t *mask, int timeout)
{
    uint64_t moved = forwarder->transfer.moved - forwarder->moved_before;
    bool in_turns = moved > 0 && moved <= IN_TURNS_BYTES && forwarder->last_wait <= IN_TURNS_WAIT;
    int64_t start = now_nanoseconds(), wait = 0;
    int count = 0;
    forwarder->moved_before = forwarder->transfer.moved;
    while (in_turns && timeout != 0 && count == 0 && wait <= LOOKING) {
        count = epoll_pwait(forwarder->epoll, events, EVENTS_AT_ONCE, 0, mask);
        wait = now_nanoseconds() - start;
    }
    if (count == 0)
        count = epoll_pwait(forwarder->epoll, events, EVENTS_AT_ONCE, timeout, mask);
    forwarder->last_wait = now_nanoseconds() - start;
    if (count > 0 && ++forwarder->rounds % SIGNAL_ROUNDS == 0)
        let_signals_in(mask);
    return count;
}

void forwarder_round(struct forwarder *forwarder, const sigset_t *mask, int timeout)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = wait_for_events(forwarder, events, mask, timeout);
    notice_stall(forwarder, timeout, count);
    look_at_shortage(forwarder);
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == NULL)
            (void)take_handoffs(forwarder); /* the rest is another round's */
        else
            handle_end(forwarder, events[i].data.ptr, events[i].events);
    }
    do_work(forwarder);
    connections_collect(forwarder);
    lobby_turn(forwarder);
    if (!is_behind(forwarder)) {
        expire(forwarder);
        tick(forwarder);
        look_at_name(forwarder);
    }
    look_at_log(forwarder);
    connections_bury(forwarder);
    listen_to_socket(forwarder, !forwarder->stopping && !is_short(forwarder));
}

/* ---- running --------------------------------------------------------------------- */

static volatile sig_atomic_t stop_wanted;

static void want_stop(int signal)
{
    (void)signal;
    stop_wanted = 1;
}

/* Stop signals come only while the loop waits, so none is missed. An interrupt that our starter
 * has us ignore stays ignored: it is for others of our process group. */
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

/* The lengths of all other deadlines. */
static void prepare_deadlines(struct forwarder *forwarder)
{
    forwarder->arriving.length = PAIR_ARRIVAL_TIME;
    forwarder->leaving.length = LEAVE;
    forwarder->departing.length = LEAVE;
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
    prepare_deadlines(forwarder);
    int error = transfer_open(&forwarder->transfer, setup->descriptors_max / 4);
    if (error == 0)
        error = lobby_open(forwarder);
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

/* Who comes from now on is the next forwarder's; and so is who waits in the socket, if the next one
 * has the same. If not, nobody can send to it any more, and those who are in it have to go, too. */
static void leave_socket(struct forwarder *forwarder)
{
    const struct forward_setup *setup = forwarder->setup;
    struct pollfd entry = {.fd = forwarder->socket, .events = POLLRDHUP};
    if (setup->leave != NULL)
        setup->leave(setup->context);
    if (poll(&entry, 1, 0) > 0 && (entry.revents & POLLRDHUP) != 0)
        while (!take_handoffs(forwarder) && !is_short(forwarder))
            continue;
    close_renewed(forwarder);
    listen_to_socket(forwarder, false);
}

/* Everybody has to go; but what was read for them arrives first, and why they have to. */
static void stop(struct forwarder *forwarder, const sigset_t *while_waiting)
{
    forwarder->stopping = true;
    notify_tell("STOPPING=1\nSTATUS=What was received is delivered, and connections are closed");
    leave_socket(forwarder);
    for (struct deadline *each = forwarder->leaving.first; each != NULL; each = each->next)
        connections_queue(
            forwarder, connection_of_phase(each)); /* who leaves already is waited for no longer */
    for (uint32_t i = 0; i < pair_capacity(forwarder->table); i++) {
        struct connection *connection = forwarder->slots[i];
        if (connection != NULL)
            connections_stop(forwarder, connection);
    }
    int64_t until = clock_now() + LEAVE;
    while (forwarder->ends > 0 && clock_now() < until)
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

/* Milliseconds without work until it retires; 0: it never does. */
static int64_t idle_time(const struct forwarder *forwarder)
{
    return forwarder->outdated ? OUTDATED_TIME : (int64_t)forwarder->terms.idle_timeout * 1000;
}

/* How long the loop may sleep: until something is due, idleness has lasted, or the log or the
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
        stop(&forwarder, &while_waiting);
    forwarder_close(&forwarder);
    (void)log_look(true);
    return error;
}
