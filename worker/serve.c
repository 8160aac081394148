/* The parent: it listens but never reads from a connection. It keeps between SPARE_MIN and
 * SPARE_MAX workers idle, replaces those that die, and looks after the porch, and after the
 * forwarder if that is its own. What each worker is doing stands on a board in shared memory;
 * workers nudge the parent by an eventfd when idle ones become scarce. */
#include "worker/serve.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/process.h"
#include "base/sandbox.h"
#include "forward/launch.h"
#include "handoff.h"
#include "proto/greeting.h"
#include "setup/runtime.h"
#include "setup/user.h"
#include "usage/recorder.h"
#include "worker/listen.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

enum {
    SPARE_MIN = 2,
    SPARE_START = 4,
    SPARE_MAX = 8,
    SOCKETS_MAX = 2 * OPTIONS_LISTEN_MAX, /* an address may be two sockets: IPv4 and IPv6 */
    HURRY_AFTER = 500,     /* milliseconds of greeting, before others may be let in instead */
    HOLDERS_PART = 2,      /* of the workers at most one in so many is kept by half a greeting */
    CROWDS = 1024,         /* sources that are told apart among those who keep workers */
    PORCH_PART = 2,        /* of all connections at most one in so many stands on the porch, */
    PORCH_SOURCE_PART = 4, /* and of those at most one in so many is from one source */
    PORCH_STALL_TIME = 2000,
    PORCH_LOOK = 500,      /* between two looks at it, while it is in use */
    PORCH_END_TIME = 2000, /* for the porch to send everybody back, before it is killed */
    BUSY_CHECK = 100,      /* how often that is looked at, when every worker is busy */
    TURNS = 16,            /* connections that a worker takes in a row from one socket */
    SEEK_PAUSE = 10,       /* between two looks for a forwarder that is just going, or coming */
    MOVING_CHECK = 5,      /* milliseconds for busy workers to take another connection each */
    STALL_CHECK = 250,     /* for somebody to accept, before idle workers are held for stalled */
    RETIRE_PAUSE = 1000,   /* between two retirements of idle workers */
    LEAVE_TIME = 1000,     /* for an idle worker to end, before it is killed */
    OVERTIME = 5000,       /* beyond a handshake's deadline, before its worker is killed */
    DEPARTURE_TIME = 7000, /* for the forwarder to let everybody leave, which takes 5 s at most */
    FAILURE_PAUSE = 1000,  /* before a worker or forwarder that died at once is replaced */
    FORWARDER_LOOK = 1000, /* between two looks whether it has answered, */
    FORWARDER_LOOKS = 3,   /* after so many of which it is said that it has not */
    QUESTION_TIME = 50,    /* milliseconds for the forwarder's socket to take a question */
};

enum worker_state {
    WORKER_NONE,
    WORKER_IDLE,
    WORKER_BUSY,
    WORKER_LEAVING, /* told to end while it was idle */
};

struct board_entry {
    _Atomic int32_t pid;
    _Atomic uint32_t state; /* enum worker_state */
    _Atomic int64_t since;  /* milliseconds: started, or busy */
    _Atomic uint64_t
        crowd; /* busy, and kept by what comes of a greeting from there; 0: it is not */
    _Atomic uint32_t visit;   /* counts connections: the one that it has, or had last */
    _Atomic uint32_t hurried; /* the one that gives way to others */
};

/* What is exchanged, compared or added to has 32 bits at least: riscv64 does it with no less. */
struct board {
    _Atomic uint64_t accepts;      /* by all workers so far */
    _Atomic bool closing;          /* who comes is only told so */
    _Atomic bool forwarder_sought; /* a worker found none */
    _Atomic int32_t porch;         /* its process id; 0: it is being replaced; PORCH_CLOSED */
    _Atomic uint32_t porch_used;   /* 1: and may be so still: it is looked after */
    struct porch_pulse porch_pulse;
    struct board_entry workers[];
};

/* Whether the forwarder takes what is sent to it. */
struct inquiry {
    int answer;        /* a socket whose other side it closes; -1: none */
    int looks;         /* since it was asked; 0: nothing is asked */
    int64_t next_look; /* milliseconds */
    uint64_t accepts;  /* how many had come when it was asked last */
    bool silent;       /* it has not answered, and this was said */
};

struct server {
    const struct options *options;
    struct runtime runtime;
    struct worker worker; /* what every worker inherits */
    struct board *board;
    size_t board_size; /* options->max_workers */
    int sockets[SOCKETS_MAX];
    size_t socket_count;
    bool sockets_passed;              /* by systemd or inetd */
    int pid_file;                     /* -1: none */
    int signals;                      /* signalfd */
    int nudge;                        /* eventfd */
    int handoff_socket, forward_lock; /* of our own forwarder; -1: another one's */
    pid_t pid;                        /* of this process, the parent of all others here */
    struct porch porch;
    uint32_t porch_turns; /* as they were when they were looked at last, */
    int64_t porch_looked; /* which was then, and */
    int64_t porch_moved;  /* when it had moved, or did not need to */
    pid_t forwarder;
    int records[2];         /* the pipe to the recorder of our own forwarder; -1: there is none */
    pid_t recorders_keeper; /* -1: there is to be one */
    pid_t keeper;           /* of the certificate; 0: there is none */
    int64_t forwarder_since, paused_until, next_retirement;
    int64_t moving_check;    /* when it was looked at last whether busy workers take others, too, */
    uint64_t moving_accepts; /* how many had come by then, */
    bool moving;             /* and whether they do */
    int64_t stall_check;     /* when to look whether somebody accepted; 0: nobody waits */
    uint64_t accepts_before; /* as they were when a connection came */
    struct inquiry inquiry;
    bool stopping;
    bool failed; /* and nobody is to be ended by it */
    sigset_t inherited_mask;
};

/* ---- the board ------------------------------------------------------------------- */

static size_t count_workers(const struct server *server, enum worker_state state)
{
    size_t count = 0;
    for (size_t i = 0; i < server->board_size; i++)
        count +=
            atomic_load_explicit(&server->board->workers[i].state, memory_order_relaxed) == state;
    return count;
}

/* Looked at for each connection, so no further than it takes. */
static bool has_spares(const struct server *server)
{
    int idle = 0;
    for (size_t i = 0; i < server->board_size && idle < SPARE_MIN; i++)
        idle += atomic_load_explicit(&server->board->workers[i].state, memory_order_relaxed) ==
                WORKER_IDLE;
    return idle >= SPARE_MIN;
}

static struct board_entry *find_worker(const struct server *server, pid_t pid)
{
    for (size_t i = 0; i < server->board_size; i++)
        if (atomic_load(&server->board->workers[i].pid) == pid)
            return &server->board->workers[i];
    return NULL;
}

static void set_state(struct board_entry *entry, enum worker_state state)
{
    atomic_store(&entry->since, clock_now());
    atomic_store(&entry->crowd, 0);
    atomic_store(&entry->state, state);
}

/* Has a worker's connection give way, and none that the worker takes afterwards. Once more does no
 * harm. Returns whether nobody had before. */
static bool hurry(struct board_entry *entry, uint32_t visit)
{
    uint32_t last = atomic_load(&entry->hurried);
    bool first = last != visit && atomic_compare_exchange_strong(&entry->hurried, &last, visit);
    int32_t pid = atomic_load(&entry->pid);
    if (pid > 0)
        (void)kill(pid, SIGUSR1); /* gone: its place is free */
    return first;
}

/* ---- in a worker ----------------------------------------------------------------- */

static volatile sig_atomic_t worker_stop;

/* What a worker listens on: for its signal handler. */
static struct {
    const struct server *server;
    struct board_entry *entry; /* its own */
    int epoll;
} listening = {NULL, NULL, -1};

/* A worker that is told to stop gives up its listening sockets at once, even in the middle of a
 * greeting, so that whoever starts next can have their addresses. A signal that comes before
 * epoll_pwait() or accept4() makes that fail. One whose parent is dead has them listen no more for
 * its siblings, too: one of those may be stalled. */
static void stop_worker(int signal)
{
    const struct server *server = listening.server;
    int error = errno;
    (void)signal;
    if (worker_stop)
        return;
    worker_stop = 1;
    bool orphaned = getppid() != server->pid;
    for (size_t i = 0; i < server->socket_count; i++) {
        if (orphaned && !server->sockets_passed)
            (void)shutdown(
                server->sockets[i], SHUT_RDWR); /* no sibling's any more: nothing to do */
        close(server->sockets[i]);
    }
    close(listening.epoll);
    errno = error;
}

/* Told to hurry: the connection in hand, if it is still that one. */
static void heed_hurry(int signal)
{
    if (atomic_load(&listening.entry->hurried) == atomic_load(&listening.entry->visit))
        greeting_interrupt(signal);
}

/* One of the idle workers is woken, not all of them. */
static bool watch_socket(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = fd};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static int watch_sockets(const struct server *server)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    bool good = epoll >= 0 && watch_socket(epoll, server->porch.leave[1]);
    for (size_t i = 0; good && i < server->socket_count; i++)
        good = watch_socket(epoll, server->sockets[i]);
    if (good)
        return epoll;
    if (epoll >= 0)
        close(epoll);
    return -1;
}

static void nudge_parent(const struct server *server)
{
    uint64_t one = 1;
    /* A full counter has nudged already. */
    (void)!write(server->nudge, &one, sizeof one);
}

/* visit: of one that comes from the porch, or NULL. */
static void greet_one(struct server *server, struct board_entry *entry, struct visit *visit, int fd)
{
    struct worker *worker = &server->worker;
    atomic_fetch_add(&entry->visit, 1);
    set_state(entry, WORKER_BUSY);
    atomic_fetch_add(&server->board->accepts, 1);
    worker->patient = has_spares(server);
    if (!worker->patient)
        nudge_parent(server);
    greeting_resume();
    worker->closing = atomic_load(&server->board->closing);
    worker->porch_used = false;
    if (visit == NULL)
        worker_greet(worker, fd);
    else
        worker_resume(worker, visit, fd);
    if (worker->porch_used && !atomic_exchange(&server->board->porch_used, 1))
        nudge_parent(server);
    set_state(entry, WORKER_IDLE);
}

/* Takes a connection where there is one, and serves it. 0, or a negative errno: -EAGAIN. */
static int take_one(struct server *server, struct board_entry *entry, int socket)
{
    struct visit visit;
    int fd = -1, error = 0;
    bool returned = socket == server->porch.leave[1];
    if (returned)
        error = porch_take(&server->porch, &visit, &fd);
    else if ((fd = accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) < 0)
        error = -errno;
    if (error == 0)
        greet_one(server, entry, returned ? &visit : NULL, fd);
    return error;
}

/* Accepts until it has served its share, or is told to stop. */
static int work(struct server *server, struct board_entry *entry)
{
    int uses = 0, turns = 0;
    bool waiting = true;
    struct epoll_event event;
    while (!worker_stop && uses < server->options->max_use) {
        int ready = waiting ? epoll_wait(listening.epoll, &event, 1, -1) : 1;
        if (ready < 0 && errno != EINTR && !worker_stop)
            return EXIT_RUN_TIME;
        if (ready <= 0)
            continue;
        if (pair_check(server->worker.table) != 0)
            return 0; /* another one, with the table that is there by now, takes who waits */
        int error = take_one(server, entry, event.data.fd);
        uses += error == 0;
        /* One that came may not be the only one; but nobody waits behind those of the other kind.
         */
        waiting = error != 0 || ++turns % TURNS == 0;
        if (error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM) {
            errno = -error;
            log_repeated_errno(LOG_WARNING, "cannot accept a connection");
            return EXIT_RUN_TIME; /* the parent pauses before it makes another */
        }
    }
    return 0;
}

/* Who keeps workers by what comes of a greeting, which nobody else can wait for. */
struct holders {
    size_t count;
    uint16_t crowds[CROWDS]; /* how many by source, or by a few sources that share a place here */
    uint16_t largest;
};

static uint16_t *crowd_size(struct holders *holders, uint64_t crowd)
{
    return &holders->crowds[crowd % CROWDS];
}

static void count_holders(const struct server *server, struct holders *holders)
{
    *holders = (struct holders){.count = 0};
    for (size_t i = 0; i < server->board_size; i++) {
        uint64_t crowd = atomic_load(&server->board->workers[i].crowd);
        if (crowd == 0)
            continue;
        holders->count++;
        uint16_t size = ++*crowd_size(holders, crowd);
        holders->largest = size > holders->largest ? size : holders->largest;
    }
}

/* The one that has taken longest among the sources that keep most, and was not told yet. */
static struct board_entry *find_holder(
    const struct server *server, struct holders *holders, uint32_t *ret)
{
    struct board_entry *oldest = NULL;
    for (size_t i = 0; i < server->board_size; i++) {
        struct board_entry *entry = &server->board->workers[i];
        uint32_t visit = atomic_load(&entry->visit); /* before what is true of it */
        uint64_t crowd = atomic_load(&entry->crowd);
        if (crowd == 0 || atomic_load(&entry->hurried) == visit ||
            *crowd_size(holders, crowd) != holders->largest ||
            (oldest != NULL && atomic_load(&entry->since) >= atomic_load(&oldest->since)))
            continue;
        oldest = entry;
        *ret = visit;
    }
    return oldest;
}

/* Half of the workers may be kept, so that whole greetings find one. Beyond that another one gives
 * way: to a source that keeps fewer at once, else once it has taken HURRY_AFTER; an honest client
 * needs two round trips. */
static int hold_worker(uint64_t source)
{
    struct holders holders;
    const struct server *server = listening.server;
    uint64_t crowd = source == 0 ? 1 : source;
    size_t share = server->board_size / HOLDERS_PART;
    count_holders(server, &holders);
    if (holders.count >= (share == 0 ? 1 : share)) {
        uint32_t visit;
        struct board_entry *other = find_holder(server, &holders, &visit);
        if (other == NULL)
            return -EAGAIN;
        bool smaller = *crowd_size(&holders, crowd) + 1 < holders.largest;
        if (!smaller && clock_now() - atomic_load(&other->since) < HURRY_AFTER)
            return -EAGAIN;
        if (!hurry(other, visit))
            return -EAGAIN; /* another newcomer has its place */
    }
    atomic_store(&listening.entry->crowd, crowd);
    return 0;
}

/* The parent makes a forwarder, or finds the one that somebody else has made by then. */
static bool seek_forwarder(void)
{
    struct board *board = listening.server->board;
    if (atomic_load(&board->closing))
        return false;
    atomic_store(&board->forwarder_sought, true);
    nudge_parent(listening.server);
    return true;
}

static void close_answer(struct server *server)
{
    if (server->inquiry.answer >= 0)
        close(server->inquiry.answer);
    server->inquiry.answer = -1;
}

static void close_records(const struct server *server)
{
    for (size_t i = 0; i < 2; i++)
        if (server->records[i] >= 0)
            close(server->records[i]);
}

static int prepare_worker_signals(void)
{
    struct sigaction stop = {.sa_handler = stop_worker, .sa_flags = SA_RESTART};
    struct sigaction heed = {.sa_handler = heed_hurry};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t none;
    sigemptyset(&none);
    /* An interrupt from the terminal is for the parent, which then stops its workers. */
    if (sigaction(SIGTERM, &stop, NULL) < 0 || sigaction(SIGUSR1, &heed, NULL) < 0 ||
        sigaction(SIGINT, &ignore, NULL) < 0)
        return -1;
    return sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void be_worker(struct server *server, struct board_entry *entry)
{
    int status = EXIT_RUN_TIME;
    if (!process_follow(server->pid, SIGTERM))
        _exit(0);
    close(server->signals);
    notify_close();
    if (server->pid_file >= 0)
        close(server->pid_file);
    close_answer(server);
    close_records(server);
    if (server->forward_lock >= 0)
        close(server->forward_lock);
    if (server->handoff_socket >= 0)
        close(server->handoff_socket);
    process_name("relay-worker", "worker", server->options->runtime_directory);
    listening.server = server;
    listening.entry = entry;
    server->worker.hold = hold_worker;
    server->worker.seek = seek_forwarder;
    listening.epoll = watch_sockets(server);
    if (listening.epoll < 0 || prepare_worker_signals() < 0)
        log_error_errno("cannot start a worker");
    else if (sandbox_enter(SANDBOX_WORKER, server->worker.forwarder) == 0)
        status = work(server, entry);
    _exit(status);
}

/* ---- starting and reaping -------------------------------------------------------- */

static void pause_starting(struct server *server)
{
    server->paused_until = clock_now() + FAILURE_PAUSE;
}

static bool start_worker(struct server *server)
{
    for (size_t i = 0; i < server->board_size; i++) {
        struct board_entry *entry = &server->board->workers[i];
        if (atomic_load(&entry->state) != WORKER_NONE)
            continue;
        set_state(entry, WORKER_IDLE);
        pid_t pid = fork();
        if (pid == 0)
            be_worker(server, entry);
        if (pid < 0) {
            log_error_errno("cannot start a worker");
            atomic_store(&entry->state, WORKER_NONE);
            pause_starting(server);
            return false;
        }
        atomic_store(&entry->pid, pid);
        return true;
    }
    return false;
}

static _Noreturn void be_porch(struct server *server)
{
    int64_t places = server->options->limits.connections / PORCH_PART + 1;
    notify_close();
    ident_free(server->worker.identity);
    worker_close(&server->worker);
    process_name("relay-porch", "porch", server->options->runtime_directory);
    _exit(porch_run(&server->porch, (size_t)places, (size_t)(places / PORCH_SOURCE_PART + 1),
        &server->board->porch_pulse));
}

static int start_porch(struct server *server)
{
    atomic_store(&server->board->porch_pulse.due, INT64_MAX);
    pid_t pid = fork();
    if (pid == 0)
        be_porch(server);
    if (pid > 0) {
        atomic_store(&server->board->porch, pid);
        return 0;
    }
    log_error_errno("cannot start the porch");
    pause_starting(server);
    return -1;
}

/* A porch that was to move, and has not for a while, is stalled. Where nobody looked in time, as
 * all processes stood still, none is to blame. */
static void kill_stalled_porch(struct server *server)
{
    int64_t now = clock_now();
    int32_t porch = atomic_load(&server->board->porch);
    uint32_t turns = atomic_load(&server->board->porch_pulse.turns);
    bool is_due = atomic_load(&server->board->porch_pulse.due) <= now;
    bool looked = now - server->porch_looked < PORCH_STALL_TIME / 2;
    server->porch_looked = now;
    if (turns != server->porch_turns || !looked || !(is_due || porch_is_wanted(&server->porch))) {
        server->porch_turns = turns;
        server->porch_moved = now;
    } else if (porch > 0 && now - server->porch_moved >= PORCH_STALL_TIME) {
        log_warning("the porch has not moved for %d s: replacing it", PORCH_STALL_TIME / 1000);
        (void)kill(porch, SIGKILL); /* gone: reaped next */
        server->porch_moved = now;
    }
}

/* Looks after the porch for as long as anybody stands there, or is on the way. Returns when to look
 * next: milliseconds, -1: when a worker nudges. */
static int watch_porch(struct server *server)
{
    struct board *board = server->board;
    if (atomic_load(&board->porch_used) == 0)
        return -1;
    /* Before looking, as a worker may be just sending another one there. */
    atomic_store(&board->porch_used, 0);
    bool empty =
        atomic_load(&board->porch_pulse.due) == INT64_MAX && !porch_is_wanted(&server->porch);
    if (empty)
        return -1;
    atomic_store(&board->porch_used, 1);
    kill_stalled_porch(server);
    return PORCH_LOOK;
}

static _Noreturn void be_forwarder(struct server *server)
{
    for (size_t i = 0; i < server->socket_count; i++)
        close(server->sockets[i]);
    porch_close(&server->porch);
    close_answer(server);
    close(server->signals);
    close(server->nudge);
    notify_close();
    if (server->pid_file >= 0)
        close(server->pid_file);
    ident_free(server->worker.identity);
    worker_close(&server->worker);
    (void)sigprocmask(SIG_SETMASK, &server->inherited_mask, NULL);
    if (server->records[0] >= 0)
        close(server->records[0]);
    _exit(launch_child(server->options, &server->runtime, server->handoff_socket,
        server->records[1], server->pid));
}

/* One that died has taken its privileges with it: the next may be unable to read the key, and
 * then what was read before stays in use. */
static int start_keeper(struct server *server)
{
    server->keeper = tls_keep(server->worker.tls);
    if (server->keeper >= 0)
        return 0;
    pause_starting(server);
    return -1;
}

static _Noreturn void be_recorders_keeper(struct server *server)
{
    notify_close();
    ident_free(server->worker.identity);
    worker_close(&server->worker);
    recorder_keep(server->options, &server->runtime, server->records[0]);
}

/* The pipe stays, so that whoever keeps the recorder can be replaced, and loses nothing by it. */
static int start_recorder(struct server *server)
{
    int error = server->records[0] >= 0 ? 0 : recorder_open(server->records);
    if (error == 0) {
        server->recorders_keeper = fork();
        if (server->recorders_keeper == 0)
            be_recorders_keeper(server);
        if (server->recorders_keeper > 0)
            return 0;
        error = -errno;
    }
    errno = -error;
    log_error_errno("cannot start the recorder");
    pause_starting(server);
    return -1;
}

static int start_forwarder(struct server *server)
{
    server->forwarder_since = clock_now();
    server->forwarder = fork();
    if (server->forwarder == 0)
        be_forwarder(server);
    if (server->forwarder > 0)
        return 0;
    log_error_errno("cannot start the forwarder");
    pause_starting(server);
    return -1;
}

static void log_death(const char *what, pid_t pid, int status)
{
    if (WIFSIGNALED(status))
        log_warning("%s %d was killed by signal %d", what, (int)pid, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        log_warning("%s %d failed with status %d", what, (int)pid, WEXITSTATUS(status));
}

/* Connections that stood on a porch that is gone are closed, and their slots are free. */
static void forsake_porch(struct server *server, pid_t porch)
{
    pair_forsake(server->worker.table, porch);
    pair_forsake(server->worker.table, server->pid);
}

static void reap(struct server *server)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
        int64_t now = clock_now();
        if (pid == server->forwarder) {
            if (!server->stopping)
                log_death("forwarder", pid, status);
            if (now - server->forwarder_since < FAILURE_PAUSE)
                pause_starting(server);
            server->forwarder = -1;
            continue;
        }
        if (pid == atomic_load(&server->board->porch)) {
            log_death("porch", pid, status);
            atomic_store(&server->board->porch, server->stopping ? PORCH_CLOSED : 0);
            forsake_porch(server, pid);
            if (failed && WIFEXITED(status))
                pause_starting(server);
            continue;
        }
        if (pid == server->recorders_keeper) {
            log_death("recorder's keeper", pid, status);
            pause_starting(server);
            server->recorders_keeper = -1;
            continue;
        }
        if (pid == server->keeper) {
            log_death("certificate's keeper", pid, status);
            pause_starting(server);
            server->keeper = -1;
            continue;
        }
        struct board_entry *entry = find_worker(server, pid);
        if (entry == NULL)
            continue; /* an orphan that was given to us, as it is to the first process */
        log_death("worker", pid, status);
        if (failed && WIFEXITED(status) && now - atomic_load(&entry->since) < FAILURE_PAUSE)
            pause_starting(server);
        atomic_store(&entry->pid, 0);
        atomic_store(&entry->state, WORKER_NONE);
    }
}

static void hurry_all(const struct server *server)
{
    for (size_t i = 0; i < server->board_size; i++) {
        struct board_entry *entry = &server->board->workers[i];
        uint32_t visit = atomic_load(&entry->visit);
        if (atomic_load(&entry->pid) > 0 && atomic_load(&entry->state) == WORKER_BUSY)
            (void)hurry(entry, visit);
    }
}

static void stop_busy(const struct server *server)
{
    for (size_t i = 0; i < server->board_size; i++) {
        pid_t pid = atomic_load(&server->board->workers[i].pid);
        if (pid > 0 && atomic_load(&server->board->workers[i].state) == WORKER_BUSY)
            (void)kill(pid, SIGTERM); /* gone: reaped next */
    }
}

/* ---- as many as are needed ------------------------------------------------------- */

/* Connections wait and every worker is in a handshake: the slowest gives way. An honest client
 * needs two round trips, so it is hardly ever one. */
static void hurry_slowest(struct server *server)
{
    struct board_entry *slowest = NULL;
    uint32_t visit = 0;
    for (size_t i = 0; i < server->board_size; i++) {
        struct board_entry *entry = &server->board->workers[i];
        uint32_t its = atomic_load(&entry->visit);
        if (atomic_load(&entry->state) != WORKER_BUSY ||
            (slowest != NULL && atomic_load(&entry->since) >= atomic_load(&slowest->since)))
            continue;
        slowest = entry;
        visit = its;
    }
    if (slowest != NULL && clock_now() - atomic_load(&slowest->since) >= HURRY_AFTER)
        (void)hurry(slowest, visit);
}

static bool connections_return(const struct server *server)
{
    struct pollfd entry = {.fd = server->porch.leave[1], .events = POLLIN};
    return poll(&entry, 1, 0) > 0;
}

static bool connections_wait(const struct server *server)
{
    struct pollfd entries[1 + SOCKETS_MAX] = {{.fd = server->porch.leave[1], .events = POLLIN}};
    for (size_t i = 0; i < server->socket_count; i++)
        entries[1 + i] = (struct pollfd){.fd = server->sockets[i], .events = POLLIN};
    return poll(entries, 1 + server->socket_count, 0) > 0;
}

/* Tells up to `count` idle workers to end. One that takes a connection just now serves it first. */
static void dismiss_idle(struct server *server, size_t count)
{
    for (size_t i = server->board_size; i-- > 0 && count > 0;) {
        struct board_entry *entry = &server->board->workers[i];
        uint32_t idle = WORKER_IDLE;
        if (!atomic_compare_exchange_strong(&entry->state, &idle, WORKER_LEAVING))
            continue;
        atomic_store(&entry->since, clock_now());
        (void)kill(atomic_load(&entry->pid), SIGTERM);
        count--;
    }
}

/* Half of those beyond SPARE_MAX at a time: the next flood may be near. */
static void retire_idle(struct server *server, size_t idle)
{
    int64_t now = clock_now();
    if (idle <= SPARE_MAX || now < server->next_retirement)
        return;
    dismiss_idle(server, (idle - SPARE_MAX + 1) / 2);
    server->next_retirement = now + RETIRE_PAUSE;
}

/* A connection has waited, and nobody took it: the idle workers that the kernel woke for it are
 * stalled, so others take their place. */
static void replace_stalled(struct server *server)
{
    if (server->stall_check == 0 || clock_now() < server->stall_check)
        return;
    server->stall_check = 0;
    if (atomic_load(&server->board->accepts) == server->accepts_before && connections_wait(server))
        dismiss_idle(server, server->board_size);
}

/* Those who do not end when they should. */
static void kill_overdue(struct server *server)
{
    int64_t now = clock_now();
    int64_t handshake = (int64_t)server->options->handshake_timeout * 1000 + OVERTIME;
    for (size_t i = 0; i < server->board_size; i++) {
        struct board_entry *entry = &server->board->workers[i];
        uint32_t state = atomic_load(&entry->state);
        int64_t time = now - atomic_load(&entry->since);
        if ((state == WORKER_BUSY && time > handshake) ||
            (state == WORKER_LEAVING && time > LEAVE_TIME))
            (void)kill(atomic_load(&entry->pid), SIGKILL);
    }
}

/* Workers from before would ask one that is dead, so idle ones give way to others. */
static int replace_keeper(struct server *server)
{
    if (start_keeper(server) < 0)
        return -1;
    dismiss_idle(server, server->board_size);
    return 0;
}

static void drop_forwarder(struct server *server)
{
    close(server->handoff_socket);
    close(server->forward_lock);
    server->handoff_socket = server->forward_lock = -1;
}

/* A directory that was removed is made anew, and what this server holds in it. The forwarder goes
 * on there if it is our own; if not, or if somebody else has made one by now, it stays with the
 * directory that it knows. Where the directory may not be made by this user, whoever starts the
 * server anew makes it. */
static int renew_directory(struct server *server)
{
    struct runtime *runtime = &server->runtime;
    const char *directory = server->options->runtime_directory;
    if (runtime_holds(runtime->users_lock, server->worker.users_lock))
        return 0;
    log_warning("the runtime directory %s was removed or replaced", directory);
    if (runtime_prepare(server->options, runtime) < 0)
        return -1;
    int lock = runtime_lock(runtime->users_lock, true, true);
    if (lock < 0) {
        errno = -lock;
        log_error_errno("cannot lock %s", runtime->users_lock);
        return -1;
    }
    close(server->worker.users_lock);
    server->worker.users_lock = lock;
    lock = server->handoff_socket < 0 ? -1 : runtime_lock(runtime->forward_lock, false, false);
    if (lock >= 0) {
        close(server->forward_lock);
        server->forward_lock = lock;
        return 0;
    }
    if (server->handoff_socket >= 0)
        drop_forwarder(server);
    atomic_store(&server->board->forwarder_sought, true);
    return 0;
}

/* The table was removed, replaced or damaged: workers that are made from now on have the one that
 * is at its path then. Those from before notice, too. */
static int renew_table(struct server *server)
{
    struct pair_table *last = server->worker.table;
    if (pair_check(last) == 0)
        return 0;
    if (server->failed || renew_directory(server) < 0) {
        server->failed = server->stopping = true;
        return -1;
    }
    if (runtime_open_table(server->options, &server->runtime, false, &server->worker.table) < 0) {
        server->worker.table = last;
        pause_starting(server);
        return -1;
    }
    log_warning(
        "the table %s had been removed, replaced or damaged: newcomers meet in the one that "
        "is there now",
        server->runtime.table);
    pair_close(last);
    if (!atomic_load(&server->board->forwarder_sought))
        worker_offer_table(&server->worker);
    dismiss_idle(server, server->board_size);
    return 0;
}

/* The forwarder that was found in the runtime directory is gone. Unless somebody has made another,
 * this server has one of its own from now on. Returns -1 if it is to be looked at again in a
 * moment: somebody may be just about to make one, or to end. */
static int replace_forwarder(struct server *server)
{
    struct runtime *runtime = &server->runtime;
    if (server->handoff_socket < 0 &&
        handoff_reconnect(server->worker.forwarder, runtime->socket) < 0) {
        int socket = launch_socket(runtime, false, &server->forward_lock);
        if (socket == -EWOULDBLOCK)
            return -1;
        if (socket < 0) {
            errno = -socket;
            log_error_errno("cannot make the forwarder's socket %s", runtime->socket);
            pause_starting(server);
            return -1;
        }
        server->handoff_socket = socket;
        if (handoff_reconnect(server->worker.forwarder, runtime->socket) < 0)
            log_warning_errno("cannot connect to %s", runtime->socket);
        log_info("the forwarder that ran in %s is gone: running another",
            server->options->runtime_directory);
    }
    atomic_store(&server->board->forwarder_sought, false);
    return 0;
}

/* Whether busy workers take one connection after another, so that more of them would only be in
 * each other's way: whoever comes is served sooner than a worker is made. */
static bool is_moving(struct server *server, size_t idle, int64_t now)
{
    if (now - server->moving_check >= MOVING_CHECK) {
        uint64_t accepts = atomic_load(&server->board->accepts);
        size_t busy = server->board_size - count_workers(server, WORKER_NONE) - idle;
        server->moving = busy > 0 && now - server->moving_check < 2L * MOVING_CHECK &&
                         accepts - server->moving_accepts >= busy;
        server->moving_accepts = accepts;
        server->moving_check = now;
    }
    return server->moving;
}

/* Returns how long the parent may sleep: milliseconds, -1 for ever. */
static int keep_spares(struct server *server)
{
    int64_t now = clock_now();
    if (now < server->paused_until)
        return (int)(server->paused_until - now);
    if (atomic_load(&server->board->forwarder_sought) && replace_forwarder(server) < 0)
        return SEEK_PAUSE;
    if (server->handoff_socket >= 0 && usage_wanted(&server->options->usage) &&
        server->recorders_keeper < 0 && start_recorder(server) < 0)
        return FAILURE_PAUSE;
    if (server->handoff_socket >= 0 && server->forwarder < 0 && start_forwarder(server) < 0)
        return FAILURE_PAUSE;
    if (renew_table(server) < 0)
        return FAILURE_PAUSE;
    if (server->keeper < 0 && replace_keeper(server) < 0)
        return FAILURE_PAUSE;
    if (atomic_load(&server->board->porch) == 0 && start_porch(server) < 0)
        return FAILURE_PAUSE;
    replace_stalled(server);
    kill_overdue(server);
    size_t idle = count_workers(server, WORKER_IDLE);
    bool moving = idle < SPARE_MIN && is_moving(server, idle, now);
    while (idle < SPARE_MIN && !moving && start_worker(server))
        idle++;
    if (moving)
        return MOVING_CHECK;
    if (idle == 0) {
        if (connections_wait(server))
            hurry_slowest(server);
        return BUSY_CHECK;
    }
    retire_idle(server, idle);
    if (server->stall_check != 0)
        return STALL_CHECK;
    /* Busy ones become idle without telling. */
    bool settled =
        idle <= SPARE_MAX && idle + count_workers(server, WORKER_NONE) == server->board_size;
    return settled ? -1 : RETIRE_PAUSE;
}

/* ---- opening --------------------------------------------------------------------- */

static int take_passed_sockets(struct server *server, int count)
{
    server->sockets_passed = true;
    if (count > SOCKETS_MAX) {
        log_error("cannot listen on %d sockets: %d at most", count, (int)SOCKETS_MAX);
        return -1;
    }
    for (int i = 0; i < count; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0) {
            log_error("cannot serve: a socket passed by systemd does not listen; relay serve "
                      "needs Accept=no");
            return -1;
        }
        listen_tune(fd, server->options);
        listen_defer(fd);
        server->sockets[server->socket_count++] = fd;
    }
    return 0;
}

/* As inetd passes it to one that is to wait: a listening socket, which it goes on with itself once
 * this server has ended. Children have other standard streams. */
static int take_standard_input(struct server *server)
{
    int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int nowhere = process_open_nowhere();
    bool done = fd >= 0 && nowhere >= 0 && dup2(nowhere, STDIN_FILENO) >= 0;
    if (!done)
        log_error_errno("cannot listen on standard input");
    if (nowhere >= 0)
        close(nowhere);
    if (!done)
        return -1;
    server->sockets_passed = true;
    server->sockets[server->socket_count++] = fd;
    listen_tune(fd, server->options);
    return 0;
}

static int open_sockets(struct server *server)
{
    int count = sd_listen_fds(1);
    if (count > 0)
        return take_passed_sockets(server, count);
    if (listen_is_listening(STDIN_FILENO))
        return take_standard_input(server);
    for (size_t i = 0; i < server->options->listen_count; i++) {
        count = listen_open(server->options->listen[i], server->options,
            server->sockets + server->socket_count, SOCKETS_MAX - server->socket_count);
        if (count < 0)
            return -1;
        server->socket_count += (size_t)count;
    }
    return 0;
}

/* Written while this is root, as whoever trusts the file wants its owner to be. */
static int write_pid_file(struct server *server)
{
    const char *path = server->options->pid_file;
    if (path == NULL)
        return 0;
    server->pid_file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (server->pid_file >= 0 && ftruncate(server->pid_file, 0) == 0 &&
        dprintf(server->pid_file, "%d\n", (int)server->pid) > 0)
        return 0;
    log_error_errno("cannot write the process id to %s", path);
    return -1;
}

/* Without root the file can only be emptied, where its directory is root's. */
static void remove_pid_file(const struct server *server)
{
    if (server->pid_file >= 0 && unlink(server->options->pid_file) < 0 &&
        ftruncate(server->pid_file, 0) < 0)
        log_warning_errno("cannot empty %s", server->options->pid_file);
}

/* Workers share the sockets, so whoever comes second must not block in accept. */
static int unblock_sockets(const struct server *server)
{
    for (size_t i = 0; i < server->socket_count; i++) {
        if (fcntl(server->sockets[i], F_SETFL, O_NONBLOCK) < 0) {
            log_error_errno("cannot use a listening socket");
            return -1;
        }
    }
    return 0;
}

static int find_forwarder(struct server *server)
{
    struct worker *worker = &server->worker;
    int timeout = server->options->handshake_timeout * 1000;
    worker->forwarder = handoff_connect(server->runtime.socket, timeout);
    if (worker->forwarder >= 0) {
        log_info("using the forwarder that runs in %s", server->options->runtime_directory);
        worker_offer_table(worker);
        return 0;
    }
    server->handoff_socket = launch_socket(&server->runtime, true, &server->forward_lock);
    if (server->handoff_socket < 0) {
        errno = -server->handoff_socket;
        log_error_errno("cannot make the forwarder's socket %s", server->runtime.socket);
        return -1;
    }
    worker->forwarder = handoff_connect(server->runtime.socket, timeout);
    if (worker->forwarder < 0) {
        errno = -worker->forwarder;
        log_error_errno("cannot connect to %s", server->runtime.socket);
        return -1;
    }
    return 0;
}

static int open_signals(struct server *server)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, &server->inherited_mask) < 0)
        return -1;
    sigdelset(&server->inherited_mask, SIGTERM);
    sigdelset(&server->inherited_mask, SIGINT);
    server->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    server->nudge = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return server->signals < 0 || server->nudge < 0 ? -1 : 0;
}

static int open_board(struct server *server)
{
    server->board_size = (size_t)server->options->max_workers;
    size_t size = sizeof *server->board + server->board_size * sizeof *server->board->workers;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -1;
    server->board = memory;
    return 0;
}

static int open_porch(struct server *server)
{
    int error = porch_open(&server->porch);
    if (error == 0 && fcntl(server->porch.leave[1], F_SETFL, O_NONBLOCK) < 0)
        error = -errno;
    errno = -error;
    server->worker.porch = &server->porch;
    server->worker.porch_pid = &server->board->porch;
    return error;
}

/* ---- running --------------------------------------------------------------------- */

static void take_signals(struct server *server)
{
    struct signalfd_siginfo info;
    while (read(server->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGCHLD)
            server->stopping = true;
    }
    reap(server);
}

/* A connection that comes is a worker's to take; the parent only looks, some time later, whether
 * one did. */
static void wait_for_events(struct server *server, int timeout)
{
    uint64_t nudges;
    struct pollfd entries[3 + SOCKETS_MAX] = {
        {.fd = server->signals, .events = POLLIN},
        {.fd = server->nudge, .events = POLLIN},
    };
    size_t count = 2;
    if (server->stall_check == 0)
        entries[count++] = (struct pollfd){.fd = server->porch.leave[1], .events = POLLIN};
    for (size_t i = 0; server->stall_check == 0 && i < server->socket_count; i++)
        entries[count++] = (struct pollfd){.fd = server->sockets[i], .events = POLLIN};
    int ready = poll(entries, count, timeout);
    if (ready <= 0)
        return;
    int others = (entries[0].revents != 0) + (entries[1].revents != 0);
    if (ready > others) {
        server->accepts_before = atomic_load(&server->board->accepts);
        server->stall_check = clock_now() + STALL_CHECK;
    }
    if (entries[1].revents != 0)
        (void)!read(server->nudge, &nudges, sizeof nudges);
    if (entries[0].revents != 0)
        take_signals(server);
}

/* Idle workers go at once, busy ones are told to come to an end. */
static void stop_workers(struct server *server)
{
    while (count_workers(server, WORKER_NONE) < server->board_size) {
        dismiss_idle(server, server->board_size);
        stop_busy(server);
        hurry_all(server);
        kill_overdue(server);
        wait_for_events(server, BUSY_CHECK);
        reap(server);
    }
}

static bool is_in_handshake(const struct server *server, int64_t since)
{
    for (size_t i = 0; i < server->board_size; i++) {
        struct board_entry *entry = &server->board->workers[i];
        if (atomic_load(&entry->state) == WORKER_BUSY && atomic_load(&entry->since) <= since)
            return true;
    }
    return false;
}

/* Handshakes in progress come to an end, and no other begins: who comes is told so. */
static void finish_handshakes(struct server *server)
{
    int64_t now = clock_now();
    atomic_store(&server->board->closing, true);
    hurry_all(server);
    while (is_in_handshake(server, now)) {
        kill_overdue(server);
        wait_for_events(server, BUSY_CHECK);
    }
}

/* Everybody on the porch is sent back for the end, and nobody goes there any more. Workers serve
 * all others meanwhile. */
static void empty_porch(struct server *server)
{
    pid_t porch = atomic_exchange(&server->board->porch, PORCH_CLOSED);
    int64_t until = clock_now() + PORCH_END_TIME;
    if (porch <= 0)
        return;
    (void)kill(porch, SIGTERM); /* gone: there is nobody to send back */
    while (kill(porch, 0) == 0 || (connections_return(server) && clock_now() < until)) {
        if (clock_now() >= until)
            (void)kill(porch, SIGKILL); /* the same */
        (void)keep_spares(server);
        wait_for_events(server, BUSY_CHECK / 10);
        reap(server);
    }
    forsake_porch(server, porch);
}

static void close_sockets(struct server *server)
{
    for (size_t i = 0; i < server->socket_count; i++)
        close(server->sockets[i]);
    server->socket_count = 0;
}

/* The last handoff of this server, once nothing more comes by its workers. */
static int tell_forwarder(struct server *server, int socket)
{
    const struct worker *worker = &server->worker;
    struct handoff handoff = {
        .kind = HANDOFF_LEAVE, .ref = PAIR_NONE, .dismissed = PAIR_NONE, .server = worker->server};
    if (flock(worker->users_lock, LOCK_UN) < 0)
        return -errno;
    int error = handoff_send(worker->forwarder, &handoff, socket);
    if (!handoff_is_lost(error))
        return error;
    error = handoff_reconnect(worker->forwarder, server->runtime.socket);
    return error == 0 ? handoff_send(worker->forwarder, &handoff, socket) : error;
}

/* Waits until the forwarder has closed its side, but not for ever. Returns whether it goes on. */
static bool wait_for_forwarder(struct server *server, int socket)
{
    char byte;
    bool goes_on = false;
    int64_t until = clock_now() + DEPARTURE_TIME;
    for (;;) {
        ssize_t size = recv(socket, &byte, 1, MSG_DONTWAIT);
        goes_on = goes_on || size > 0;
        if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR) || clock_now() >= until)
            return goes_on;
        wait_for_events(server, BUSY_CHECK / 10);
    }
}

/* Whether there is one: systemd would start it for a handoff. */
static bool has_forwarder(const struct server *server)
{
    return server->handoff_socket >= 0 ? server->forwarder > 0
                                       : runtime_has_forwarder(&server->runtime);
}

/* The connections that came by this server end. Returns whether the forwarder goes on, for
 * others. */
static bool leave_forwarder(struct server *server)
{
    int ends[2];
    if (!has_forwarder(server))
        return false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        log_error_errno("cannot tell the forwarder that this server stops");
        return false;
    }
    int error = tell_forwarder(server, ends[1]);
    close(ends[1]);
    bool goes_on = error == 0 && wait_for_forwarder(server, ends[0]);
    close(ends[0]);
    if (error != 0 && error != -ECONNREFUSED && error != -ENOENT) {
        errno = -error;
        log_error_errno("cannot tell the forwarder that this server stops");
    }
    return goes_on;
}

/* Its time to let everybody leave is over by then, unless it stands still. */
static void end_forwarder(struct server *server)
{
    int64_t until = clock_now() + DEPARTURE_TIME;
    if (server->forwarder > 0)
        (void)kill(server->forwarder, SIGTERM);
    while (server->forwarder > 0) {
        if (clock_now() >= until) {
            log_warning("the forwarder does not end: killing it");
            (void)kill(server->forwarder, SIGKILL);
            until = INT64_MAX;
        }
        wait_for_events(server, BUSY_CHECK);
    }
}

/* The forwarder gets what workers hand over, and then has some time to let everybody leave; one of
 * our own ends then, unless other servers use it. */
static void stop_forwarder(struct server *server)
{
    bool goes_on = leave_forwarder(server);
    if (server->handoff_socket < 0)
        return;
    if (!goes_on) {
        launch_abandon(&server->runtime, server->handoff_socket);
        end_forwarder(server);
    }
    drop_forwarder(server); /* whoever makes the next one needs its lock */
}

/* Who comes meanwhile waits for the next server, if the socket is not our own. */
static void stop(struct server *server)
{
    notify_tell("STOPPING=1\nSTATUS=Handshakes come to their end");
    server->stopping = true;
    empty_porch(server);
    if (server->sockets_passed) {
        close_sockets(server); /* another service may be about to have their addresses */
        stop_workers(server);
    } else {
        finish_handshakes(server);
    }
    if (!server->failed)
        stop_forwarder(server);
    stop_workers(server);
    if (!server->sockets_passed)
        listen_remove(server->options);
    close_sockets(server);
    remove_pid_file(server);
    (void)log_look(true);
}

/* ---- whether the forwarder answers ----------------------------------------------- */

/* By a socket of its own, as the workers' may keep who sends waiting. A question that finds no room
 * is asked again with the next look. Returns whether there is anybody to ask. */
static bool ask_forwarder(struct server *server)
{
    struct handoff question = {.kind = HANDOFF_ASK, .ref = PAIR_NONE, .dismissed = PAIR_NONE};
    int ends[2];
    if (!has_forwarder(server))
        return false;
    int socket = handoff_connect(server->runtime.socket, QUESTION_TIME);
    if (socket < 0)
        return false;
    bool asked = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0;
    if (asked) {
        server->inquiry.answer = ends[0];
        if (handoff_send(socket, &question, ends[1]) != 0)
            close_answer(server);
        close(ends[1]);
    }
    close(socket);
    return true;
}

static bool has_answered(const struct server *server)
{
    struct pollfd answer = {.fd = server->inquiry.answer, .events = POLLRDHUP};
    return poll(&answer, 1, 0) > 0;
}

static void end_inquiry(struct server *server)
{
    struct inquiry *inquiry = &server->inquiry;
    if (inquiry->silent)
        log_info("the forwarder answers again");
    close_answer(server);
    inquiry->silent = false;
    inquiry->looks = 0;
}

/* One that is short of memory or descriptors has said so itself. */
static void judge_silence(struct server *server)
{
    struct inquiry *inquiry = &server->inquiry;
    if (inquiry->silent || inquiry->looks < FORWARDER_LOOKS ||
        pair_is_crammed(server->worker.table))
        return;
    inquiry->silent = true;
    worker_log_silence(&server->worker);
}

/* While connections come, and when this server starts. Returns when to look next: milliseconds, -1:
 * when another one has come. */
static int watch_forwarder(struct server *server)
{
    struct inquiry *inquiry = &server->inquiry;
    uint64_t accepts = atomic_load(&server->board->accepts);
    int64_t now = clock_now();
    if (inquiry->looks == 0 && inquiry->accepts == accepts)
        return -1;
    if (now < inquiry->next_look)
        return (int)(inquiry->next_look - now);
    inquiry->next_look = now + FORWARDER_LOOK;
    inquiry->accepts = accepts;
    if (has_answered(server) || (inquiry->answer < 0 && !ask_forwarder(server))) {
        end_inquiry(server);
        return -1;
    }
    judge_silence(server);
    inquiry->looks++;
    return FORWARDER_LOOK;
}

/* Said last, so that whoever reads it finds everything in its place. */
static void say_ready(const struct server *server)
{
    for (size_t i = 0; !server->sockets_passed && i < server->options->listen_count; i++)
        log_info("listening on %s", server->options->listen[i]);
    notify_ready("Serving");
}

/* Of two times to sleep, -1: for ever, the shorter. */
static int sooner(int a, int b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

static void run(struct server *server)
{
    reap(server); /* who died before its signal was waited for */
    while (!server->stopping) {
        int looks = sooner(watch_porch(server), watch_forwarder(server));
        wait_for_events(server, sooner(looks, keep_spares(server)));
    }
    stop(server);
}

static int prepare_as_root(struct server *server)
{
    const struct options *options = server->options;
    if (runtime_prepare(options, &server->runtime) < 0 ||
        worker_prepare(&server->worker, options) < 0 || open_sockets(server) < 0 ||
        unblock_sockets(server) < 0 || write_pid_file(server) < 0)
        return -1;
    if (server->worker.tls == NULL)
        return 0;
    (void)tls_is_current(server->worker.tls); /* logged; clients will see to it */
    return start_keeper(server);
}

static int prepare_as_user(struct server *server)
{
    const struct options *options = server->options;
    if (user_drop_root(options) < 0)
        return -1;
    runtime_share_log(options);
    if (worker_open(&server->worker, options, &server->runtime) < 0 || find_forwarder(server) < 0)
        return -1;
    randombytes_buf(&server->worker.server, sizeof server->worker.server);
    if (open_board(server) == 0 && open_signals(server) == 0 && open_porch(server) == 0)
        return 0;
    log_error_errno("cannot serve");
    return -1;
}

int serve_main(const struct options *options)
{
    struct server server = {.options = options,
        .handoff_socket = -1,
        .forward_lock = -1,
        .pid_file = -1,
        .records = {-1, -1},
        .recorders_keeper = -1,
        .inquiry = {.answer = -1, .accepts = UINT64_MAX},
        .pid = getpid(),
        .forwarder = -1};
    notify_open(options->notify_fd);
    bool passed = sd_listen_fds(0) > 0 || listen_is_listening(STDIN_FILENO);
    if ((passed ? listen_refuse(options) : listen_understand(options)) < 0)
        return EXIT_USAGE;
    if (!passed && listen_is_client(STDIN_FILENO)) {
        log_error("standard input is a client's connection, which `relay worker` serves: expected "
                  "a socket that listens (inetd's wait), or no socket");
        return EXIT_USAGE;
    }
    if (descriptors_raise() == 0 || sandbox_check() < 0)
        return EXIT_RUN_TIME;
    if (prepare_as_root(&server) < 0 || prepare_as_user(&server) < 0) {
        remove_pid_file(&server);
        return EXIT_RUN_TIME;
    }
    for (int i = 0; i < SPARE_START; i++)
        (void)start_worker(&server);
    say_ready(&server);
    run(&server);
    ident_free(server.worker.identity);
    worker_close(&server.worker);
    return server.failed ? EXIT_RUN_TIME : 0;
}
