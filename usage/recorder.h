/* The recorder: the process that writes usage records down, and the only one that waits for a
 * disk. */
#ifndef RELAY_RECORDER_H
#define RELAY_RECORDER_H

#include "setup/options.h"
#include "setup/runtime.h"

/* Makes the pipe that records come through: [0] is read, [1] is written and does not block; both
 * are close-on-exec. 0 or a negative errno. */
int recorder_open(int pipe[static 2]);

/* In a process of its own: forks the recorder, and another one when that is killed. It reads
 * records from the read end of the pipe until its end, and counts for the database's `current` row
 * what is in the table that is there by then (with each batch, and at least every five minutes).
 * What cannot be written yet is kept, up to some 260,000 records, and tried every second. Both
 * close all descriptors that they do not need. Whoever has the read end, too, can have this done
 * again when the process was killed: what was sent meanwhile is in the pipe. */
_Noreturn void recorder_keep(const struct options *relay, const struct runtime *runtime, int pipe);

#endif
