/* The recorder: the process that writes usage records down, and the only one that waits for a
 * disk. */
#ifndef RELAY_RECORDER_H
#define RELAY_RECORDER_H

#include "pair.h"
#include "usage.h"

/* Checks that the database is one of ours, or makes it. Logs what is wrong; -1 then. */
int recorder_check_database(const char *path);

/* Forks the recorder, and who replaces it when it is killed. It reads records from a pipe until
 * its end, and counts from `table` for the database's `current` row (with each batch, and at least
 * every five minutes). Returns the pipe's non-blocking write end, close-on-exec, or a negative
 * errno. The recorder keeps no other descriptor than it needs. */
int recorder_start(const struct usage_options *options, struct pair_table *table);

#endif
