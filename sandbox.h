/* What a process may still do once it starts to read from strangers. */
#ifndef RELAY_SANDBOX_H
#define RELAY_SANDBOX_H

enum sandbox_role {
    SANDBOX_WORKER,     /* reads a handshake, sends a handoff; accepts connections */
    SANDBOX_TLS_WORKER, /* the same, and makes pumps */
    SANDBOX_PUMP,       /* moves bytes between two sockets */
    SANDBOX_KEEPER,     /* reads files */
    SANDBOX_FORWARDER,  /* moves bytes between descriptors it is given */
};

/* No new privileges, no core dump, and a filter that lets only the role's system calls
 * through: any other one ends the process. handoff_socket is the only descriptor that a
 * worker may connect. Logs, returns -1 on failure. */
int sandbox_enter(enum sandbox_role role, int handoff_socket);

/* Pumps come and go by the connection, and most of the time to make one would be that for making
 * their filter: so it is made here, once. Before the first SANDBOX_TLS_WORKER. Logs, returns -1 on
 * failure. */
int sandbox_prepare_pumps(void);

#endif
