/* How a forwarder starts: on systemd's socket, under `relay serve`, or on demand; and how it
 * retires. Only the process that holds forward.lock is the forwarder, so there is never more than
 * one. */
#ifndef RELAY_LAUNCH_H
#define RELAY_LAUNCH_H

#include "setup/options.h"
#include "setup/runtime.h"

#include <sys/types.h>

/* `relay forward`: runs a forwarder on the socket that systemd has passed, or else on one of its
 * own. It retires when it is idle. Returns the exit status. */
int launch_forward(const struct options *options);

/* Starts a forwarder as a process of its own, for which nobody waits, and connects to it within
 * `timeout` milliseconds. That process calls become(context), which is to give up what the process
 * has inherited, call launch_detached(), and exit with its status. No program file is executed.
 * Returns the handoff socket or a negative errno. */
int launch_on_demand(
    const struct runtime *runtime, void (*become)(void *context), void *context, int timeout);
/* Forwards as launch_forward() does, on a socket of its own, and closes all inherited descriptors
 * but standard error and --log-fd. Returns the exit status. */
int launch_detached(const struct options *options);

/* For `relay serve`: takes the forwarder's lock and binds its socket. Returns the socket, with the
 * lock in *lock, or a negative errno; -EWOULDBLOCK: another process is the forwarder. A `patient`
 * caller waits for a forwarder that is just retiring. */
int launch_socket(const struct runtime *runtime, bool patient, int *lock);
/* Before the last forwarder on such a socket stops: removes the socket's name, and refuses handoffs
 * of processes that are connected to it. */
void launch_abandon(const struct runtime *runtime, int socket);

/* For a child process of `relay serve`, which is `parent`: forwards on its parent's socket until
 * SIGTERM, until the last server that uses the forwarder has been told to stop, or until the
 * forwarder is idle and its parent gone. recorder: the write end of the pipe to the parent's
 * recorder; -1: there is none. Returns the exit status. */
int launch_child(const struct options *options, const struct runtime *runtime, int socket,
    int recorder, pid_t parent);

#endif
