/* The runtime directory: what lives in it, and who holds which lock.
 *
 *      table          the rendezvous table (pair.h)
 *      forward.sock   the forwarder's socket (handoff.h)
 *      forward.lock   held by the one forwarder for as long as it lives
 *      repeats        what the log has summed up (repeats.h)
 *      users.lock     shared by all who may send to the forwarder; a forwarder that was
 *                     started on demand retires only when it gets it for itself */
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

/* Fills in the paths; and makes the runtime directory where it is missing (mode 0700, of the
 * user to drop to), or gives it to that user. Refuses one that others may write to. Log, return -1
 * on failure. */
int runtime_paths(const struct options *options, struct runtime *runtime);
int runtime_prepare(const struct options *options, struct runtime *runtime);

/* From now on the log sums up over all processes that share the runtime directory, which is there.
 */
void runtime_share_log(const struct options *options);

/* Whether root gives a directory that is there to the user to drop to, when it prepares it: one
 * that is root's and empty, or that was made for nobody before there was that user. */
bool runtime_is_to_be_given(const struct options *options, const char *path);

/* Makes the state directory where it is missing, with those above it; the same mode and owner. 0 or
 * a negative errno. */
int runtime_prepare_state(const struct options *options);

/* Opens the table, or makes it; one that is damaged, or was left by another boot, is made anew, and
 * so is one of another version, unless a forwarder lives that has it: alone: we are the forwarder.
 * Logs, returns -1 on failure. */
int runtime_open_table(const struct options *options, const struct runtime *runtime, bool alone,
    struct pair_table **table);

/* Opens a lock file and takes it, shared or not, waiting or not. Returns the descriptor, held
 * for as long as the lock is meant to last, or a negative errno (-EWOULDBLOCK). */
int runtime_lock(const char *path, bool shared, bool wait);

/* Whether a lock that is held is the one that is at this path. */
bool runtime_holds(const char *path, int lock);

/* Whether somebody holds the forwarder's lock. */
bool runtime_has_forwarder(const struct runtime *runtime);

/* Notes in its lock whether the forwarder was started by a worker: then the next one will start
 * another, should this one end. 0 or a negative errno. */
int runtime_note_origin(int forward_lock, bool on_demand);

/* What is there of a relay. At rest: nothing runs until the next client, for whom a worker is
 * started (by inetd, say), which starts a forwarder. Dead: all that is left is a directory, if
 * that. */
enum runtime_life {
    RUNTIME_ALIVE,
    RUNTIME_AT_REST,
    RUNTIME_DEAD,
};
enum runtime_life runtime_look(const struct runtime *runtime);

#endif
