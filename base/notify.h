/* What a service tells its service manager (sd_notify(3)): that it is ready, that it stops, and in
 * a few words how it is. A process opens the way there while it may still make sockets; what it
 * tells then passes the system-call filter of a sandbox, too. Without $NOTIFY_SOCKET nobody wants
 * to know, and all of this does nothing. A manager of another kind (s6) may be told that it is
 * ready, and nothing else, by a newline on a descriptor. */
#ifndef RELAY_NOTIFY_H
#define RELAY_NOTIFY_H

/* To be called before any sandbox, by the one process that the service manager has started.
 * ready: the descriptor that wants a newline, which is ours from then on; -1: there is none. Logs
 * when there is a manager that cannot be reached. */
void notify_open(int ready);

/* Tells that it serves from now on, and how it is. */
void notify_ready(const char *status);

/* Tells the manager `state`, as in "READY=1\nSTATUS=...". Logs what goes wrong: a manager that was
 * not told ends the service at its start timeout. */
void notify_tell(const char *state);

/* For a process that was forked from the service's own, and does not speak for it. */
void notify_close(void);

#endif
