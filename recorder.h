/* The recorder: the process that writes usage records down, and the only one that waits for a
 * disk. */
#ifndef RELAY_RECORDER_H
#define RELAY_RECORDER_H

#include "pair.h"
#include "usage.h"

/* Forks the recorder, and who replaces it when it is killed. It reads records from a pipe until
 * its end, and counts from `table` for the database's `current` row (with each batch, and at least
 * every five minutes). What cannot be written yet is kept, up to some 260,000 records, and tried
 * every second. Returns the pipe's non-blocking write end, close-on-exec, or a negative
 * errno. The recorder keeps no other descriptor than it needs. */
int recorder_start(const struct usage_options *options, struct pair_table *table);

#endif
