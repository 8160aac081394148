/* What the parts of `relay serve` share: the parent's state.
 *
 * The parent listens but never reads from a connection. Its parts, each with a header of its own:
 *   board        what each worker is doing, in shared memory
 *   accept       what a worker of the pool does: it takes connections from the sockets
 *   pool         how many workers there are
 *   attendants   the processes beside them: the porch, the keepers, the forwarder
 *   forwarding   which forwarder is used, and whether it answers
 *   server       the events, and what is kept in its place while the server runs
 *   stop         how the server comes to its end */
#ifndef RELAY_SERVER_H
#define RELAY_SERVER_H

#include "setup/options.h"
#include "setup/runtime.h"
#include "worker/board.h"
#include "worker/porch.h"
#include "worker/worker.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    SPARE_MIN = 2,             /* idle workers: fewer are added to, */
    SPARE_START = 4,           /* so many are there when the server starts, */
    SPARE_MAX = 8,             /* and more are retired */
    FORWARDER_END_TIME = 7000, /* milliseconds for the forwarder to end all pairs: it takes 5 s */
    FAILURE_PAUSE = 1000,      /* milliseconds before a process that failed at once is replaced */
    STALL_CHECK = 250,         /* milliseconds for a worker to take a connection that has come */
    BUSY_CHECK = 100,          /* milliseconds between two looks for what no event announces */
    SOCKETS_MAX = 2 * OPTIONS_LISTEN_MAX, /* an address may be two sockets: IPv4 and IPv6 */
};

/* The question to the forwarder whether it takes what is sent to it. */
struct inquiry {
    int answer;        /* a socket whose other side the forwarder closes; -1: none */
    int looks;         /* since the question was sent; 0: no question is open */
    int64_t next_look; /* milliseconds */
    uint64_t accepts;  /* board->accepts at the last look */
    bool silent;       /* the forwarder has not answered, and this was logged */
};

struct server {
    const struct options *options;
    struct runtime runtime;
    struct worker worker; /* what every worker inherits */
    struct board *board;
    pid_t pid; /* of the parent */
    sigset_t inherited_mask;
    int signals; /* signalfd */
    int nudge;   /* eventfd: workers wake the parent */

    int sockets[SOCKETS_MAX];
    size_t socket_count;
    bool sockets_passed; /* by systemd or inetd */
    int pid_file;        /* -1: none */

    int64_t paused_until; /* no process is started before: milliseconds */

    /* The pool. */
    int64_t next_retirement; /* of idle workers: not before */
    int64_t moving_check;    /* when it was last judged whether busy workers take more, too; */
    uint64_t moving_accepts; /* board->accepts then; */
    bool moving;             /* and the judgement */
    int64_t stall_check;     /* when a waiting connection should have been taken; 0: none waits */
    uint64_t accepts_before; /* board->accepts when that connection came */

    /* Attendants. */
    struct porch porch;
    uint32_t porch_turns;     /* its pulse at the last look; */
    int64_t porch_looked;     /* when that was; */
    int64_t porch_moved;      /* and when it last moved, or had no need to */
    int records[2];           /* the pipe to our forwarder's recorder; -1: none */
    pid_t recorder_keeper;    /* -1: it has to be started */
    pid_t certificate_keeper; /* -1: it has to be started; 0: there is no certificate */
    pid_t forwarder;          /* our own; -1: it does not run */
    int64_t forwarder_since;  /* when it was started */

    /* Forwarding. */
    int handoff_socket, forward_lock; /* of our own forwarder; -1: we use another server's */
    struct inquiry inquiry;

    bool stopping;
    bool failed; /* the server stops because of an error; the forwarder's pairs go on */
};

/* After a process has failed: no process is started for FAILURE_PAUSE. */
void server_pause_starting(struct server *server);
/* Logs that a child ended other than it should. */
void server_log_death(const char *name, pid_t pid, int status);

/* Waits for signals, nudges and connections, at most `timeout` milliseconds (-1: for ever), and
 * reaps the children that have ended. */
void server_wait(struct server *server, int timeout);
void server_reap(struct server *server);
/* Whether a client waits for a worker: at a listening socket, or back from the porch. */
bool server_has_waiting(const struct server *server);
void server_close_sockets(struct server *server);

/* Puts every process and file in its place. Returns after how many milliseconds to look again; -1:
 * when something happens. */
int server_keep(struct server *server);

#endif
