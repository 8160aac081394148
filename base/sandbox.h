/* What a process may still do once it starts to read from strangers. */
#ifndef RELAY_SANDBOX_H
#define RELAY_SANDBOX_H

#include <stdbool.h>

enum sandbox_role {
    SANDBOX_WORKER,    /* reads a handshake, sends a handoff; accepts connections */
    SANDBOX_KEEPER,    /* reads files */
    SANDBOX_PORCH,     /* waits for descriptors to become readable, and passes them on */
    SANDBOX_FORWARDER, /* moves bytes between descriptors it is given */
};

/* No new privileges, no core dump, and a filter that lets only the role's system calls
 * through: any other one ends the process. handoff_socket is the only descriptor that a
 * worker may connect. Logs, returns -1 on failure. */
int sandbox_enter(enum sandbox_role role, int handoff_socket);

/* Whether system calls are filtered in this process and those that it forks: yes, unless
 * --no-sandbox was given. */
void sandbox_setup(bool filtered);

/* Tries, before anybody is served, whether this kernel lets us filter system calls. Logs that it
 * does not, or that it is not to be done; returns -1 if nobody can be served. */
int sandbox_check(void);

#endif
