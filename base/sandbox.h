/* The sandbox: what a process may still do once it reads from clients. */
#ifndef RELAY_SANDBOX_H
#define RELAY_SANDBOX_H

#include <stdbool.h>

enum sandbox_role {
    SANDBOX_WORKER,    /* accepts connections, reads greetings, sends handoffs */
    SANDBOX_KEEPER,    /* keeper of the certificate: reads files */
    SANDBOX_PORCH,     /* waits for descriptors to become readable, and passes them on */
    SANDBOX_FORWARDER, /* moves bytes between descriptors that it receives */
};

/* Sets no_new_privs, forbids core dumps, and installs a filter of system calls for the role: any
 * other call ends the process. handoff_socket is the only descriptor that a worker may connect.
 * Logs, returns -1 on failure. */
int sandbox_enter(enum sandbox_role role, int handoff_socket);

/* Whether system calls are filtered in this process and its children: yes, unless --no-sandbox was
 * given. */
void sandbox_setup(bool filtered);

/* Tries in a child, before any client is served, whether this kernel can filter system calls. Logs
 * if it cannot, or if --no-sandbox was given; returns -1 if no client may be served. */
int sandbox_check(void);

#endif
