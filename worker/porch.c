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
    ROOM_WAIT = 100,       /* milliseconds that a worker waits for the porch to take one */
    ROOM_SIZE = 1 << 20,   /* bytes of socket buffer for those who are on their way in */
    RESERVED = 32,         /* descriptors for other things than connections */
    GOING_MAX = 256,       /* who are sent back, and were not taken yet, beside those who stand */
    EVENTS = 256,          /* taken at once */
    RECEIVED_AT_ONCE = 64, /* before others have their turn */
    RETURN_PAUSE = 20,     /* milliseconds before the second return; it doubles with each */
    RETURN_PAUSE_MAX = 1000,
    TURN_PAUSE = 100,        /* before one that waits for its turn is sent back */
    DEADLINE_MAX = 86400000, /* milliseconds to the end of any greeting */
    RETRY_PAUSE = 10,        /* before what the kernel had no memory for is tried again */
    PULSE = 1000, /* milliseconds: it moves at least this often while anybody stands here */
};

/* One that stands here, or is on its way back. */
struct standing {
    struct place place;
    struct visit visit;
    int fd;
    int64_t not_before;              /* when it may be sent back */
    bool heard;                      /* there is enough; it only waits for that time */
    struct standing *sooner, *later; /* in the list of refused clients */
};

/* On their way back, in order. */
struct queue {
    struct place *first, *last;
};

struct keeper_of_porch {
    int enter, leave, epoll;
    struct places *places;
    struct standing *refused,
        *refused_last;         /* clients that only read why, the first one in front */
    struct queue heard, ended; /* there is more to read; their time, or their place, is gone */
    int64_t retry_at;          /* 0: not at all */
    bool entry_open, leave_watched;
    bool abandoned; /* nobody can send here any more */
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

/* Receives one visit: -EBADMSG for anything else. */
static int receive(int socket, struct visit *visit, int *fd)
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
    return receive(porch->leave[1], visit, fd);
}

/* ---- on the porch: leaving ------------------------------------------------------- */

static void append(struct queue *queue, struct place *place)
{
    place->next = NULL;
    if (queue->last != NULL)
        queue->last->next = place;
    else
        queue->first = place;
    queue->last = place;
}

static struct standing *take_first(struct queue *queue)
{
    struct place *place = queue->first;
    if (place == NULL)
        return NULL;
    queue->first = place->next;
    if (queue->first == NULL)
        queue->last = NULL;
    return (struct standing *)place;
}

static void set_low_water(const struct standing *one, uint64_t size)
{
    int low_water = size > INT32_MAX ? INT32_MAX : (int)size;
    /* Only TCP heeds it; elsewhere what there is is counted more often. */
    (void)setsockopt(one->fd, SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof low_water);
}

/* It stands no more, and is sent back as soon as there is room for it. */
static void send_back(struct keeper_of_porch *keeper, struct standing *one, struct queue *queue)
{
    places_dismiss(keeper->places, &one->place);
    append(queue, &one->place);
}

static void list_refused(struct keeper_of_porch *keeper, struct standing *one)
{
    one->sooner = keeper->refused_last;
    one->later = NULL;
    if (one->sooner != NULL)
        one->sooner->later = one;
    else
        keeper->refused = one;
    keeper->refused_last = one;
}

static void unlist_refused(struct keeper_of_porch *keeper, struct standing *one)
{
    if (one->sooner != NULL)
        one->sooner->later = one->later;
    else
        keeper->refused = one->later;
    if (one->later != NULL)
        one->later->sooner = one->sooner;
    else
        keeper->refused_last = one->sooner;
}

/* The descriptor is not the last one of its connection, so the epoll instance would keep it. */
static void release(struct keeper_of_porch *keeper, struct standing *one)
{
    if (one->visit.parting)
        unlist_refused(keeper, one);
    (void)epoll_ctl(keeper->epoll, EPOLL_CTL_DEL, one->fd, NULL);
    close(one->fd);
    places_leave(keeper->places, &one->place);
}

static void end_visit(struct keeper_of_porch *keeper, struct standing *one, int64_t now)
{
    if (one->visit.parting) {
        release(keeper, one);
        return;
    }
    if (one->visit.deadline > now)
        one->visit.deadline = now;
    send_back(keeper, one, &keeper->ended);
}

static void watch(struct keeper_of_porch *keeper, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = fd == keeper->enter ? NULL : keeper};
    (void)epoll_ctl(keeper->epoll, EPOLL_CTL_MOD, fd, &event);
}

/* Sends one, or says that it is to be tried again. */
static bool send_one(struct keeper_of_porch *keeper, struct standing *one, int64_t now)
{
    set_low_water(one, 1);
    one->visit.returns++;
    int error = pass_descriptor_send(
        keeper->leave, &one->visit, sizeof one->visit, one->fd, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (error == 0)
        return true;
    one->visit.returns--;
    if (error != -EAGAIN)
        keeper->retry_at = now + RETRY_PAUSE;
    return false;
}

/* As many as there is room for; those who may have said all first. */
static void send_all(struct keeper_of_porch *keeper, int64_t now)
{
    struct queue *queues[] = {&keeper->heard, &keeper->ended};
    bool full = false;
    keeper->retry_at = 0;
    for (size_t i = 0; i < 2 && !full; i++) {
        while (queues[i]->first != NULL && !full) {
            full = !send_one(keeper, (struct standing *)queues[i]->first, now);
            if (!full)
                release(keeper, take_first(queues[i]));
        }
    }
    bool watched = full && keeper->retry_at == 0;
    if (watched != keeper->leave_watched)
        watch(keeper, keeper->leave, watched ? EPOLLOUT : 0);
    keeper->leave_watched = watched;
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

static bool has_enough(const struct standing *one)
{
    int count = 0;
    return ioctl(one->fd, FIONREAD, &count) < 0 || (uint64_t)count >= one->visit.enough;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Something has come, or the client has gone. */
static void hear(struct keeper_of_porch *keeper, struct standing *one, uint32_t events, int64_t now)
{
    if (one->visit.parting) {
        if (one->place.crowd != NULL && !parting_drop(one->fd, &one->visit.dropped))
            release(keeper, one);
        return;
    }
    bool gone = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    if (one->place.crowd == NULL || one->heard || (!gone && !has_enough(one)))
        return;
    if (now >= one->not_before) {
        send_back(keeper, one, &keeper->heard);
        return;
    }
    one->heard = true;
    places_wake_at(keeper->places, &one->place, earlier(one->not_before, one->visit.deadline));
}

static void wake(struct keeper_of_porch *keeper, int64_t now)
{
    for (;;) {
        struct place *next = places_next(keeper->places);
        if (next == NULL || next->wake_at > now)
            return;
        struct standing *one = (struct standing *)next;
        if (one->heard)
            send_back(keeper, one, &keeper->heard);
        else
            end_visit(keeper, one, now);
    }
}

/* ---- on the porch: coming -------------------------------------------------------- */

/* Has room for one more. A refused client has been told all, so it takes nobody's place, and gives
 * its own to whoever may yet be served. */
static bool make_room(struct keeper_of_porch *keeper, const struct visit *visit, int64_t now)
{
    struct place *surplus = places_surplus(keeper->places, visit->crowd);
    if (surplus == NULL || visit->parting)
        return surplus == NULL;
    if (keeper->refused != NULL) {
        release(keeper, keeper->refused);
        surplus = places_surplus(keeper->places, visit->crowd);
    }
    if (surplus != NULL)
        end_visit(keeper, (struct standing *)surplus, now);
    return true;
}

static void stand(struct keeper_of_porch *keeper, const struct visit *visit, int fd, int64_t now)
{
    if (!make_room(keeper, visit, now)) {
        close(fd);
        return;
    }
    int64_t deadline =
        earlier(visit->deadline, now + (visit->parting ? PARTING_TIME : DEADLINE_MAX));
    struct standing *one = (struct standing *)places_take(keeper->places, visit->crowd, deadline);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = one};
    one->visit = *visit;
    one->visit.deadline = deadline;
    one->fd = fd;
    one->not_before = now + pause_of(visit);
    one->heard = false;
    if (visit->parting)
        list_refused(keeper, one);
    set_low_water(one, visit->parting ? 1 : visit->enough);
    if (epoll_ctl(keeper->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        end_visit(keeper, one, now);
}

/* Takes those who come, while there is a place for each. */
static void receive_some(struct keeper_of_porch *keeper, size_t capacity, int64_t now)
{
    for (size_t i = 0; i < RECEIVED_AT_ONCE && places_used(keeper->places) < capacity; i++) {
        struct visit visit;
        int fd;
        int error = receive(keeper->enter, &visit, &fd);
        if (error == 0)
            stand(keeper, &visit, fd, now);
        else if (error == -EAGAIN)
            return;
        else if (error == -EPIPE)
            keeper->abandoned = true;
        else if (error == -EMFILE && places_first(keeper->places) != NULL)
            /* The kernel has no more; the slot of the one that was lost ends with its time. */
            end_visit(keeper, (struct standing *)places_first(keeper->places), now);
        if (keeper->abandoned)
            return;
    }
}

/* ---- the process ----------------------------------------------------------------- */

static volatile sig_atomic_t stopping;

static void stop_porch(int signal)
{
    (void)signal;
    stopping = 1;
}

/* When to wake if nothing happens: INT64_MAX: never. While anybody stands here the parent is to
 * see it move. */
static int64_t wake_time(const struct keeper_of_porch *keeper, int64_t now)
{
    const struct place *next = places_next(keeper->places);
    int64_t at = places_used(keeper->places) > 0 ? now + PULSE : INT64_MAX;
    if (next != NULL)
        at = earlier(at, next->wake_at);
    return keeper->retry_at == 0 ? at : earlier(at, keeper->retry_at);
}

/* Sleeps until something happens, or it is time to wake. Returns the number of events. */
static int rest(
    struct keeper_of_porch *keeper, struct epoll_event *events, const sigset_t *while_waiting)
{
    int64_t now = clock_now(), at = wake_time(keeper, now);
    int timeout = at == INT64_MAX ? -1 : at > now ? (int)(at - now) : 0;
    atomic_store(&keeper->pulse->due, at);
    int count = epoll_pwait(keeper->epoll, events, EVENTS, timeout, while_waiting);
    atomic_store(&keeper->pulse->due, clock_now());
    atomic_fetch_add(&keeper->pulse->turns, 1);
    return count;
}

static void end_all(struct keeper_of_porch *keeper, int64_t now)
{
    struct place *first;
    while ((first = places_first(keeper->places)) != NULL)
        end_visit(keeper, (struct standing *)first, now);
}

static void turn(struct keeper_of_porch *keeper, size_t capacity, const sigset_t *mask)
{
    struct epoll_event events[EVENTS];
    bool open = places_used(keeper->places) < capacity;
    if (open != keeper->entry_open)
        watch(keeper, keeper->enter, open ? EPOLLIN : 0);
    keeper->entry_open = open;
    int count = rest(keeper, events, mask);
    int64_t now = clock_now();
    for (int i = 0; i < count; i++) {
        void *what = events[i].data.ptr;
        if (what == NULL)
            receive_some(keeper, capacity, now);
        else if (what != keeper)
            hear(keeper, what, events[i].events, now);
    }
    wake(keeper, now);
    if (stopping)
        end_all(keeper, now);
    send_all(keeper, now);
}

/* It ends when nobody is left who could send or take, or once it was told to and is empty. */
static void keep(struct keeper_of_porch *keeper, size_t capacity, const sigset_t *mask)
{
    while (!keeper->abandoned) {
        turn(keeper, capacity, mask);
        if (!stopping || places_used(keeper->places) > 0)
            continue;
        receive_some(keeper, capacity, clock_now());
        if (places_used(keeper->places) == 0)
            return;
    }
}

/* How many of those that are wanted this process may have. */
static size_t count_descriptors(size_t wanted)
{
    uint64_t limit = descriptors_raise();
    size_t most = limit > 2ULL * RESERVED ? (size_t)limit - RESERVED : RESERVED;
    return most < wanted ? most : wanted;
}

static int prepare(
    struct keeper_of_porch *keeper, size_t capacity, size_t standing, size_t per_source)
{
    struct epoll_event enter = {.events = EPOLLIN, .data.ptr = NULL};
    struct epoll_event leave = {.events = 0, .data.ptr = keeper};
    keeper->entry_open = true;
    keeper->epoll = epoll_create1(EPOLL_CLOEXEC);
    keeper->places = places_make(capacity, sizeof(struct standing), standing, per_source);
    return keeper->epoll < 0 || keeper->places == NULL ||
                   epoll_ctl(keeper->epoll, EPOLL_CTL_ADD, keeper->enter, &enter) < 0 ||
                   epoll_ctl(keeper->epoll, EPOLL_CTL_ADD, keeper->leave, &leave) < 0
               ? -1
               : 0;
}

int porch_run(
    const struct porch *porch, size_t standing, size_t per_source, struct porch_pulse *pulse)
{
    struct keeper_of_porch keeper = {
        .enter = porch->enter[0], .leave = porch->leave[0], .epoll = -1, .pulse = pulse};
    struct sigaction stop = {.sa_handler = stop_porch};
    sigset_t blocked, while_waiting;
    sigfillset(&blocked);
    while_waiting = blocked;
    sigdelset(&while_waiting, SIGTERM);
    descriptors_close_others(keeper.enter, keeper.leave);
    log_setup(log_debugging()); /* its connection to syslog was one of them */
    size_t capacity = count_descriptors(standing + GOING_MAX);
    if (standing > capacity - capacity / 8)
        standing = capacity - capacity / 8;
    if (per_source > standing)
        per_source = standing;
    int status = EXIT_RUN_TIME;
    if (sigprocmask(SIG_SETMASK, &blocked, NULL) < 0 || sigaction(SIGTERM, &stop, NULL) < 0 ||
        prepare(&keeper, capacity, standing, per_source) < 0)
        log_error_errno("cannot start the porch");
    else if (sandbox_enter(SANDBOX_PORCH, -1) == 0) {
        keep(&keeper, capacity, &while_waiting);
        status = 0;
    }
    places_free(keeper.places);
    if (keeper.epoll >= 0)
        close(keeper.epoll);
    return status;
}
