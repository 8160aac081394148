/* How a forwarder comes to run: on systemd's socket, under `relay serve`, or on demand; and how
 * it retires. forward.lock says who is the forwarder: there is never more than one. */
#ifndef RELAY_LAUNCH_H
#define RELAY_LAUNCH_H

#include "options.h"
#include "runtime.h"

#include <sys/types.h>

/* `relay forward`: on the socket passed by systemd, or else on one of its own. Retires when
 * idle. Returns the exit status. */
int launch_forward(const struct options *options);

/* Starts `relay forward` as a process of its own, with this one's arguments (argv from the role
 * on), and connects to it within `timeout` milliseconds. Returns the handoff socket or a
 * negative errno. */
int launch_on_demand(const struct runtime *runtime, char **arguments, int timeout);

/* For `relay serve`: takes the forwarder's lock and binds its socket. Returns the socket, with
 * the lock in *lock, or a negative errno; -EWOULDBLOCK: somebody else is the forwarder. One that is
 * just retiring is waited for if the caller is `patient`. */
int launch_socket(const struct runtime *runtime, bool patient, int *lock);
/* Before the last forwarder on such a socket stops: nobody finds the socket any more, and who has
 * connected to it is refused. */
void launch_abandon(const struct runtime *runtime, int socket);

/* For a child process of `relay serve`, which is `parent`: forwards on its parent's socket, until
 * SIGTERM, or until it is idle and its parent gone. recorder: the write end of the pipe to the
 * parent's recorder, -1: there is none. Returns the exit status. */
int launch_child(const struct options *options, const struct runtime *runtime, int socket,
    int recorder, pid_t parent);

#endif
