/* How a forwarder comes to run: on systemd's socket, under `relay serve`, or on demand; and how
 * it retires. forward.lock says who is the forwarder: there is never more than one. */
#ifndef RELAY_LAUNCH_H
#define RELAY_LAUNCH_H

#include "setup/options.h"
#include "setup/runtime.h"

#include <sys/types.h>

/* `relay forward`: on the socket passed by systemd, or else on one of its own. Retires when
 * idle. Returns the exit status. */
int launch_forward(const struct options *options);

/* Starts a forwarder as a process of its own, for which nobody waits, and connects to it within
 * `timeout` milliseconds. That process calls become(context), which gives up what it has of its
 * starter's and ends with the status of launch_detached(). No program is executed, so none need be
 * found. Returns the handoff socket or a negative errno. */
int launch_on_demand(
    const struct runtime *runtime, void (*become)(void *context), void *context, int timeout);
/* Forwards as launch_forward() does, on a socket of its own and with no descriptor of its starter's
 * but standard error and --log-fd. Returns the exit status. */
int launch_detached(const struct options *options);

/* For `relay serve`: takes the forwarder's lock and binds its socket. Returns the socket, with
 * the lock in *lock, or a negative errno; -EWOULDBLOCK: somebody else is the forwarder. One that is
 * just retiring is waited for if the caller is `patient`. */
int launch_socket(const struct runtime *runtime, bool patient, int *lock);
/* Before the last forwarder on such a socket stops: nobody finds the socket any more, and who has
 * connected to it is refused. */
void launch_abandon(const struct runtime *runtime, int socket);

/* For a child process of `relay serve`, which is `parent`: forwards on its parent's socket, until
 * SIGTERM, until the last server that uses it has been told to stop, or until it is idle and its
 * parent gone. recorder: the write end of the pipe to the
 * parent's recorder, -1: there is none. Returns the exit status. */
int launch_child(const struct options *options, const struct runtime *runtime, int socket,
    int recorder, pid_t parent);

#endif
