/* A worker's messages to the forwarder. The worker keeps one connected socket for them
 * (worker->forwarder); a forwarder that was replaced has a new socket under the same name, to which
 * this socket is connected again. */
#ifndef RELAY_LINK_H
#define RELAY_LINK_H

#include "handoff.h"
#include "worker/worker.h"

/* Sends one handoff, with a descriptor if fd is not -1. If there is no forwarder, seeks one until
 * `until` (milliseconds, CLOCK_MONOTONIC; 0: for no time). 0 or a negative errno; -ETIMEDOUT: the
 * forwarder's socket is full. */
int link_send(const struct worker *worker, const struct handoff *handoff, int fd, int64_t until);

/* Has the forwarder look at a slot that this worker changed. If the message is lost, the
 * forwarder's sweep finds the slot a little later. */
void link_send_look(struct worker *worker, struct pair_ref ref);
/* Has a connection that the forwarder never got written to the usage records. */
void link_record(struct worker *worker, struct usage_start start, enum pair_outcome outcome);
/* Gives the table to the forwarder, if it has none or another, and waits a moment until the
 * forwarder uses it. */
void link_offer_table(const struct worker *worker);

/* Whether the forwarder is of a version that understands handoffs of this version. */
bool link_reads(const struct worker *worker, uint16_t version);
/* Whether the forwarder, or one that is started for this, takes what is sent to it. */
bool link_answers(const struct worker *worker);
/* Logs that the forwarder does not take what is sent to it. */
void link_log_silence(const struct worker *worker);

#endif
