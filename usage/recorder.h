/* The recorder: the process that writes usage records, and the only process that waits for a disk.
 */
#ifndef RELAY_RECORDER_H
#define RELAY_RECORDER_H

#include "setup/options.h"
#include "setup/runtime.h"

/* Makes the pipe for records: [0] is read, [1] is written and does not block; both are
 * close-on-exec. 0 or a negative errno. */
int recorder_open(int pipe[static 2]);

/* Called in a process of its own, the keeper of the recorder. It forks the recorder, and another
 * one whenever that is killed. The recorder reads records from the pipe until its end. With each
 * batch, and at least every five minutes, it writes the counts of the current table to the
 * database's row `current`. Records that cannot be written yet are kept, up to about 260,000, and
 * tried again every second. Both processes close all descriptors that they do not need. When the
 * keeper was killed, a process that has the pipe's read end can start another: records sent
 * meanwhile are in the pipe. */
_Noreturn void recorder_keep(const struct options *relay, const struct runtime *runtime, int pipe);

#endif
