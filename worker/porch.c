/* The porch: see porch.h. */
#include "worker/porch.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/pass_descriptor.h"
#include "base/sandbox.h"
#include "setup/options.h"
#include "worker/parting.h"
#include "worker/places.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    ROOM_WAIT = 100,       /* milliseconds that a worker waits for room in the socket */
    ROOM_SIZE = 1 << 20,   /* bytes of that socket's buffer */
    RESERVED = 32,         /* descriptors for other things than connections */
    GOING_MAX = 256,       /* connections that no worker has taken back yet, beside the waiting */
    EVENTS = 256,          /* taken at once */
    RECEIVED_AT_ONCE = 64, /* connections, before other events have their turn */
    RETURN_PAUSE = 20,     /* milliseconds before the second return; it doubles with each */
    RETURN_PAUSE_MAX = 1000,
    TURN_PAUSE = 100,        /* milliseconds before the return to a busy pool of workers */
    DEADLINE_MAX = 86400000, /* milliseconds to the end of any greeting */
    RETRY_PAUSE = 10,        /* milliseconds before a send is tried again that lacked memory */
    PULSE = 1000,            /* milliseconds between two moves, at most, while connections wait */
};

/* A client that waits here, or is on its way back to a worker. */
struct waiting {
    struct place place;
    struct visit visit;
    int fd;
    int64_t not_before;             /* when it may be sent back */
    bool heard;                     /* enough has come; it only waits for that time */
    struct waiting *sooner, *later; /* in the list of refused clients */
};

/* Clients on their way back, in order. */
struct queue {
    struct place *first, *last;
};

struct porch_state {
    int enter, leave, epoll;
    struct places *places;
    struct waiting *refused,
        *refused_last;         /* clients that only read why they are refused, the first in front */
    struct queue ready, ended; /* more has come; their time is over, or their place is taken */
    int64_t retry_at;          /* 0: nothing is to be sent again */
    bool entry_open, leave_watched;
    bool abandoned; /* no process is left that could send here, or take a client */
    struct porch_pulse *pulse;
};

/* ---- in workers ------------------------------------------------------------------ */

int porch_open(struct porch *porch)
{
    struct timeval limit = {0, ROOM_WAIT * 1000L};
    int size = ROOM_SIZE;
    *porch = (struct porch){{-1, -1}, {-1, -1}};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, porch->enter) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, porch->leave) < 0 ||
        setsockopt(porch->enter[1], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
        setsockopt(porch->enter[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) < 0) {
        int error = -errno;
        porch_close(porch);
        return error;
    }
    return 0;
}

void porch_close(struct porch *porch)
{
    for (size_t i = 0; i < 2; i++) {
        if (porch->enter[i] >= 0)
            close(porch->enter[i]);
        if (porch->leave[i] >= 0)
            close(porch->leave[i]);
        porch->enter[i] = porch->leave[i] = -1;
    }
}

int porch_enter(const struct porch *porch, const struct visit *visit, int fd)
{
    return pass_descriptor_send(porch->enter[1], visit, sizeof *visit, fd, MSG_NOSIGNAL);
}

bool porch_is_wanted(const struct porch *porch)
{
    struct pollfd entry = {.fd = porch->enter[0], .events = POLLIN};
    return poll(&entry, 1, 0) > 0;
}

/* -EBADMSG: it is no visit. */
static int receive_visit(int socket, struct visit *visit, int *fd)
{
    size_t dropped;
    ssize_t size =
        pass_descriptor_receive(socket, visit, sizeof *visit, MSG_DONTWAIT, fd, &dropped);
    if (size < 0)
        return (int)size;
    if (size == 0 && *fd < 0)
        return -EPIPE;
    if (size == (ssize_t)sizeof *visit && *fd >= 0)
        return 0;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return -EBADMSG;
}

int porch_take(const struct porch *porch, struct visit *visit, int *fd)
{
    return receive_visit(porch->leave[1], visit, fd);
}

/* ---- on the porch: leaving ------------------------------------------------------- */

static void append_to_queue(struct queue *queue, struct place *place)
{
    place->next = NULL;
    if (queue->last != NULL)
        queue->last->next = place;
    else
        queue->first = place;
    queue->last = place;
}

static struct waiting *take_from_queue(struct queue *queue)
{
    struct place *place = queue->first;
    if (place == NULL)
        return NULL;
    queue->first = place->next;
    if (queue->first == NULL)
        queue->last = NULL;
    return (struct waiting *)place;
}

static void set_low_water(const struct waiting *client, uint64_t size)
{
    int low_water = size > INT32_MAX ? INT32_MAX : (int)size;
    /* Only TCP obeys; for other sockets the bytes are counted at each arrival. */
    (void)setsockopt(client->fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof low_water);
}

/* The client gives up its place, and is sent back as soon as there is room in the socket. */
static void send_back(struct porch_state *state, struct waiting *client, struct queue *queue)
{
    places_dismiss(state->places, &client->place);
    append_to_queue(queue, &client->place);
}

static void list_refused(struct porch_state *state, struct waiting *client)
{
    client->sooner = state->refused_last;
    client->later = NULL;
    if (client->sooner != NULL)
        client->sooner->later = client;
    else
        state->refused = client;
    state->refused_last = client;
}

static void unlist_refused(struct porch_state *state, struct waiting *client)
{
    if (client->sooner != NULL)
        client->sooner->later = client->later;
    else
        state->refused = client->later;
    if (client->later != NULL)
        client->later->sooner = client->sooner;
    else
        state->refused_last = client->sooner;
}

/* The socket has other descriptors, in a worker or on its way there, so closing this one would
 * leave it in the epoll instance. */
static void release_client(struct porch_state *state, struct waiting *client)
{
    if (client->visit.parting)
        unlist_refused(state, client);
    (void)epoll_ctl(state->epoll, EPOLL_CTL_DEL, client->fd, NULL);
    close(client->fd);
    places_leave(state->places, &client->place);
}

static void end_client(struct porch_state *state, struct waiting *client, int64_t now)
{
    if (client->visit.parting) {
        release_client(state, client);
        return;
    }
    if (client->visit.deadline > now)
        client->visit.deadline = now;
    send_back(state, client, &state->ended);
}

static void watch_socket(struct porch_state *state, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = fd == state->enter ? NULL : state};
    (void)epoll_ctl(state->epoll, EPOLL_CTL_MOD, fd, &event);
}

/* False: it has to be sent again later, or nobody is left to take it. */
static bool send_client(struct porch_state *state, struct waiting *client, int64_t now)
{
    set_low_water(client, 1);
    client->visit.returns++;
    int error = pass_descriptor_send(state->leave, &client->visit, sizeof client->visit, client->fd,
        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (error == 0)
        return true;
    client->visit.returns--;
    if (error == -EPIPE)
        state->abandoned = true;
    else if (error != -EAGAIN)
        state->retry_at = now + RETRY_PAUSE;
    return false;
}

/* Sends back as many clients as there is room for, those with more input first. */
static void send_queues(struct porch_state *state, int64_t now)
{
    struct queue *queues[] = {&state->ready, &state->ended};
    bool full = false;
    state->retry_at = 0;
    for (size_t i = 0; i < 2 && !full; i++) {
        while (queues[i]->first != NULL && !full) {
            full = !send_client(state, (struct waiting *)queues[i]->first, now);
            if (!full)
                release_client(state, take_from_queue(queues[i]));
        }
    }
    bool watched = full && state->retry_at == 0;
    if (watched != state->leave_watched)
        watch_socket(state, state->leave, watched ? EPOLLOUT : 0);
    state->leave_watched = watched;
}

/* ---- on the porch: standing ------------------------------------------------------ */

static int64_t pause_of(const struct visit *visit)
{
    int64_t pause = 0;
    if (visit->returns > 0) {
        unsigned int doublings = visit->returns > 7 ? 6 : visit->returns - 1;
        pause = (int64_t)RETURN_PAUSE << doublings;
    }
    if (visit->crowded && pause < TURN_PAUSE)
        pause = TURN_PAUSE;
    return pause < RETURN_PAUSE_MAX ? pause : RETURN_PAUSE_MAX;
}

static bool has_enough(const struct waiting *client)
{
    int count = 0;
    return ioctl(client->fd, FIONREAD, &count) < 0 || (uint64_t)count >= client->visit.enough;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* More has come, or the client has closed. */
static void note_input(
    struct porch_state *state, struct waiting *client, uint32_t events, int64_t now)
{
    if (client->visit.parting) {
        if (client->place.crowd != NULL && !parting_drop(client->fd, &client->visit.dropped))
            release_client(state, client);
        return;
    }
    bool gone = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    if (client->place.crowd == NULL || client->heard || (!gone && !has_enough(client)))
        return;
    if (now >= client->not_before) {
        send_back(state, client, &state->ready);
        return;
    }
    client->heard = true;
    places_wake_at(
        state->places, &client->place, earlier(client->not_before, client->visit.deadline));
}

static void wake_clients(struct porch_state *state, int64_t now)
{
    for (;;) {
        struct place *next = places_next(state->places);
        if (next == NULL || next->wake_at > now)
            return;
        struct waiting *client = (struct waiting *)next;
        if (client->heard)
            send_back(state, client, &state->ready);
        else
            end_client(state, client, now);
    }
}

/* ---- on the porch: coming -------------------------------------------------------- */

/* Makes room for one more client. A refused client takes no other client's place, and gives its own
 * to a client that may still be served. False: there is no room. */
static bool make_room_for(struct porch_state *state, const struct visit *visit, int64_t now)
{
    struct place *surplus = places_surplus(state->places, visit->crowd);
    if (surplus == NULL || visit->parting)
        return surplus == NULL;
    if (state->refused != NULL) {
        release_client(state, state->refused);
        surplus = places_surplus(state->places, visit->crowd);
    }
    if (surplus != NULL)
        end_client(state, (struct waiting *)surplus, now);
    return true;
}

static void admit(struct porch_state *state, const struct visit *visit, int fd, int64_t now)
{
    if (!make_room_for(state, visit, now)) {
        close(fd);
        return;
    }
    int64_t deadline =
        visit->parting ? now + PARTING_TIME : earlier(visit->deadline, now + DEADLINE_MAX);
    struct waiting *client = (struct waiting *)places_take(state->places, visit->crowd, deadline);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = client};
    client->visit = *visit;
    client->visit.deadline = deadline;
    client->fd = fd;
    client->not_before = now + pause_of(visit);
    client->heard = false;
    if (visit->parting)
        list_refused(state, client);
    set_low_water(client, visit->parting ? 1 : visit->enough);
    if (epoll_ctl(state->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        end_client(state, client, now);
}

/* Takes clients from the socket, as long as there are places. */
static void receive_visits(struct porch_state *state, size_t capacity, int64_t now)
{
    for (size_t i = 0; i < RECEIVED_AT_ONCE && places_used(state->places) < capacity; i++) {
        struct visit visit;
        int fd;
        int error = receive_visit(state->enter, &visit, &fd);
        if (error == 0)
            admit(state, &visit, fd, now);
        else if (error == -EAGAIN)
            return;
        else if (error == -EPIPE)
            state->abandoned = true;
        else if (error == -EMFILE && places_first(state->places) != NULL)
            /* The kernel dropped this connection's descriptor; its slot ends at its deadline. */
            end_client(state, (struct waiting *)places_first(state->places), now);
        if (state->abandoned)
            return;
    }
}

/* ---- the process ----------------------------------------------------------------- */

static volatile sig_atomic_t is_told_to_stop;

static void stop_porch(int signal)
{
    (void)signal;
    is_told_to_stop = 1;
}

/* When to wake if nothing happens; INT64_MAX: never. While clients wait here, the parent has to see
 * the pulse. */
static int64_t wake_time(const struct porch_state *state, int64_t now)
{
    const struct place *next = places_next(state->places);
    int64_t at = places_used(state->places) > 0 ? now + PULSE : INT64_MAX;
    if (next != NULL)
        at = earlier(at, next->wake_at);
    return state->retry_at == 0 ? at : earlier(at, state->retry_at);
}

/* Returns the number of events; 0: it is time to wake. */
static int wait_for_events(
    struct porch_state *state, struct epoll_event *events, const sigset_t *while_waiting)
{
    int64_t now = clock_now(), at = wake_time(state, now);
    int timeout = at == INT64_MAX ? -1 : at > now ? (int)(at - now) : 0;
    atomic_store(&state->pulse->due, at);
    int count = epoll_pwait(state->epoll, events, EVENTS, timeout, while_waiting);
    atomic_store(&state->pulse->due, clock_now());
    atomic_fetch_add(&state->pulse->turns, 1);
    return count;
}

static void end_all_clients(struct porch_state *state, int64_t now)
{
    struct place *first;
    while ((first = places_first(state->places)) != NULL)
        end_client(state, (struct waiting *)first, now);
}

static void take_turn(struct porch_state *state, size_t capacity, const sigset_t *mask)
{
    struct epoll_event events[EVENTS];
    bool open = places_used(state->places) < capacity;
    if (open != state->entry_open)
        watch_socket(state, state->enter, open ? EPOLLIN : 0);
    state->entry_open = open;
    int count = wait_for_events(state, events, mask);
    int64_t now = clock_now();
    for (int i = 0; i < count; i++) {
        void *what = events[i].data.ptr;
        if (what == NULL)
            receive_visits(state, capacity, now);
        else if (what != state)
            note_input(state, what, events[i].events, now);
    }
    wake_clients(state, now);
    if (is_told_to_stop)
        end_all_clients(state, now);
    send_queues(state, now);
}

/* Runs until no process is left that could send or take a client; or, once told to stop, until it
 * is empty. */
static void run_porch(struct porch_state *state, size_t capacity, const sigset_t *mask)
{
    while (!state->abandoned) {
        take_turn(state, capacity, mask);
        if (!is_told_to_stop || places_used(state->places) > 0)
            continue;
        receive_visits(state, capacity, clock_now());
        if (places_used(state->places) == 0)
            return;
    }
}

/* As many of the wanted descriptors as this process may have. */
static size_t count_descriptors(size_t wanted)
{
    uint64_t limit = descriptors_raise();
    size_t most = limit > 2ULL * RESERVED ? (size_t)limit - RESERVED : RESERVED;
    return most < wanted ? most : wanted;
}

static int prepare_porch(
    struct porch_state *state, size_t capacity, size_t standing, size_t per_source)
{
    struct epoll_event enter = {.events = EPOLLIN, .data.ptr = NULL};
    struct epoll_event leave = {.events = 0, .data.ptr = state};
    state->entry_open = true;
    state->epoll = epoll_create1(EPOLL_CLOEXEC);
    state->places = places_make(capacity, sizeof(struct waiting), standing, per_source);
    return state->epoll < 0 || state->places == NULL ||
                   epoll_ctl(state->epoll, EPOLL_CTL_ADD, state->enter, &enter) < 0 ||
                   epoll_ctl(state->epoll, EPOLL_CTL_ADD, state->leave, &leave) < 0
               ? -1
               : 0;
}

int porch_run(
    const struct porch *porch, size_t standing, size_t per_source, struct porch_pulse *pulse)
{
    struct porch_state state = {
        .enter = porch->enter[0], .leave = porch->leave[0], .epoll = -1, .pulse = pulse};
    struct sigaction stop = {.sa_handler = stop_porch};
    sigset_t blocked, while_waiting;
    sigfillset(&blocked);
    while_waiting = blocked;
    sigdelset(&while_waiting, SIGTERM);
    descriptors_close_others(state.enter, state.leave);
    log_setup(log_debugging()); /* its connection to syslog was closed, too */
    size_t capacity = count_descriptors(standing + GOING_MAX);
    if (standing > capacity - capacity / 8)
        standing = capacity - capacity / 8;
    if (per_source > standing)
        per_source = standing;
    int status = EXIT_RUN_TIME;
    if (sigprocmask(SIG_SETMASK, &blocked, NULL) < 0 || sigaction(SIGTERM, &stop, NULL) < 0 ||
        prepare_porch(&state, capacity, standing, per_source) < 0)
        log_error_errno("cannot start the porch");
    else if (sandbox_enter(SANDBOX_PORCH, -1) == 0) {
        run_porch(&state, capacity, &while_waiting);
        status = 0;
    }
    places_free(state.places);
    if (state.epoll >= 0)
        close(state.epoll);
    return status;
}
