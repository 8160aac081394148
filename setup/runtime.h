/* The runtime directory: the files in it, and which process holds which lock.
 *
 *      table          the rendezvous table (pair.h)
 *      forward.sock   the forwarder's socket (handoff.h)
 *      forward.lock   the forwarder holds it for as long as it runs
 *      repeats        counts of log messages that were summed up (repeats.h)
 *      users.lock     shared by all processes that may send to the forwarder; a forwarder that
 *                     a worker has started retires only when it gets this lock for itself */
#ifndef RELAY_RUNTIME_H
#define RELAY_RUNTIME_H

#include "setup/options.h"

#include <stdbool.h>
#include <stdint.h>

struct runtime {
    char table[108];
    char socket[108]; /* as long as a Unix socket's address may be */
    char forward_lock[108];
    char users_lock[108];
};

/* Fills in the paths. 0, or -1 (logged). */
int runtime_paths(const struct options *options, struct runtime *runtime);
/* Also makes the runtime directory (mode 0700), if it is missing; as root, for the user that root
 * becomes: directory.h. Refuses a directory that others may write to. 0, or -1 (logged). */
int runtime_prepare(const struct options *options, struct runtime *runtime);

/* From now on repeated messages are summed up over all processes with this runtime directory, which
 * has to exist. */
void runtime_share_log(const struct options *options);

/* Whether root, when it prepares this directory, gives it to the user that it becomes:
 * directory_is_to_be_given(). */
bool runtime_is_to_be_given(const struct options *options, const char *path);

/* Makes the state directory, and those above it, if they are missing; with the same mode and owner.
 * 0 or a negative errno. */
int runtime_prepare_state(const struct options *options);

/* Opens the table, or makes it. A table that is damaged, or was left from before the last boot, is
 * made anew; so is a table of another version, unless its forwarder runs. alone: this process is
 * the forwarder, so no other can run. 0, or -1 (logged). */
int runtime_open_table(const struct options *options, const struct runtime *runtime, bool alone,
    struct pair_table **table);

/* Opens and locks a lock file. wait: until it is free. Returns the descriptor, which holds the lock
 * until it is closed, or a negative errno: -EWOULDBLOCK: it is not free. */
int runtime_lock(const char *path, bool shared, bool wait);

/* Whether the lock that this process holds is still the file at this path. */
bool runtime_holds(const char *path, int lock);

/* Whether a forwarder runs: whether a process holds its lock. */
bool runtime_has_forwarder(const struct runtime *runtime);

/* Notes in the forwarder's lock file whether a worker has started it. If so, the next worker will
 * start another, should this one end. 0 or a negative errno. */
int runtime_note_origin(int forward_lock, bool on_demand);

/* The state of a relay. At rest: no process runs until the next client comes, for which inetd or
 * the like starts a worker, which starts a forwarder. Dead: at most a directory is left. */
enum runtime_life {
    RUNTIME_ALIVE,
    RUNTIME_AT_REST,
    RUNTIME_DEAD,
};
enum runtime_life runtime_look(const struct runtime *runtime);

#endif
