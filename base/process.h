/* A process and its surroundings: which signals it ignores, that it ends with its parent, and the
 * name that `ps` shows. */
#ifndef RELAY_PROCESS_H
#define RELAY_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

/* Called first in main(). From then on SIGPIPE, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGXFSZ are
 * ignored, and SIGCHLD has its default action, whatever this process inherited. Returns a copy of
 * argv, as process_name() writes over the original; without memory for copies argv itself, and then
 * `ps` goes on to show the command line. */
char **process_prepare(int argc, char **argv);

/* Sets what `ps` shows: `name`, of at most 15 bytes, for `ps -o comm`; and in the place of the
 * command line `relay: ROLE (PLACE)`. place: tells processes of several relays apart, NULL: none.
 * Text that does not fit is cut. */
void process_name(const char *name, const char *role, const char *place);

/* For a child of `parent`: has the kernel send `signal` when the parent dies. False if that fails,
 * or if the parent is dead already: then the child has to end. */
bool process_end_with_parent(pid_t parent, int signal);

/* Opens /dev/null for a standard stream that is not used; where there is no /dev, a descriptor that
 * can be neither read nor written. Close-on-exec. Returns the descriptor, -1 on failure (errno). */
int process_open_null(void);

#endif
