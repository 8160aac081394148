/* Messages to the service manager (sd_notify(3)): that the service is ready, that it stops, and its
 * status in a few words. The socket is opened while the process may still make sockets; sending
 * passes the system-call filter of the sandbox. Without $NOTIFY_SOCKET these functions do nothing.
 * Another kind of manager (s6) is told only that the service is ready, by a newline on a
 * descriptor. */
#ifndef RELAY_NOTIFY_H
#define RELAY_NOTIFY_H

/* Called before the sandbox, by the process that the service manager started. ready: the descriptor
 * that a newline is written to, which this module owns from then on; -1: none. Logs if there is a
 * manager that cannot be reached. */
void notify_open(int ready);

/* Tells the manager that the service is ready, and its status. */
void notify_ready(const char *status);

/* Sends `state` to the manager, such as "READY=1\nSTATUS=...". Logs a failure: a manager that does
 * not hear of a start ends the service at its start timeout. */
void notify_send(const char *state);

/* For a process that was forked from the service's main process and sends no messages. */
void notify_close(void);

#endif
