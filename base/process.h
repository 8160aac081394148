/* What a process is to those around it: how it takes signals, whose child it is, and what `ps`
 * calls it. */
#ifndef RELAY_PROCESS_H
#define RELAY_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

/* To be called first in main(). From then on SIGPIPE, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and
 * SIGXFSZ are ignored, and the end of a child is told, whatever the starter had set. Returns a copy
 * of argv, as process_name() writes over the original; argv itself if there is no memory for
 * copies, and then `ps` shows the command line as it was. */
char **process_prepare(int argc, char **argv);

/* Says which part this process plays: `name`, of at most 15 bytes, as what `ps -o comm` shows; and
 * in the place of its command line `relay: ROLE (PLACE)`. place: what tells it from processes of
 * another relay; NULL: nothing. What does not fit is cut. */
void process_name(const char *name, const char *role, const char *place);

/* For a child of `parent`: has the kernel send `signal` when the parent dies. False if that cannot
 * be had, or if the parent is dead already: the child is to end then. */
bool process_follow(pid_t parent, int signal);

/* Opens what a standard stream that leads nowhere is: /dev/null, or where there is no /dev
 * something that refuses to be read and written. Close-on-exec. Returns the descriptor, -1 on
 * failure (errno).
 */
int process_open_nowhere(void);

#endif
