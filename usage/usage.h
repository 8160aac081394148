/* Usage records: one per pair, and one per connection that never met a peer. They are written as
 * JSON lines and to an SQLite database. Names and meanings are those of magic-wormhole's transit
 * relay, as munin plugins read them.
 *
 * The forwarder writes records to a pipe and never waits; the recorder (recorder.c) reads them. */
#ifndef RELAY_USAGE_H
#define RELAY_USAGE_H

#include "base/clock.h"
#include "pair.h"
#include "setup/options.h"

#include <stdbool.h>
#include <stdint.h>

struct usage_record {
    int64_t started;      /* when the (first) connection was opened: microseconds since the epoch */
    int64_t total_time;   /* from there to the close: microseconds */
    int64_t waiting_time; /* between the opening of the two: microseconds; negative: no pair */
    uint64_t total_bytes; /* both directions, without greetings */
    uint32_t outcome;     /* enum pair_outcome */
    uint32_t padding;
};

/* When a connection was opened, in microseconds: `opened` by clock_epoch(), which may be set at any
 * time, and `since` by clock_steady(), for durations. */
struct usage_start {
    int64_t opened, since;
};

/* For a connection that is opened now. */
struct usage_start usage_start_now(void);
/* For a connection that another process opened and passed both times of. since: 0, it did not pass
 * that time, and only the time since the epoch is known. */
struct usage_start usage_start_of(int64_t opened, int64_t since);

/* The record of a connection that is closed now and never met a peer. */
struct usage_record usage_single(struct usage_start start, enum pair_outcome outcome);
/* The record of a pair that is closed now. */
struct usage_record usage_pair(struct usage_start start, struct usage_start peer, uint64_t bytes);

/* The mood of a record: "happy", "lonely", ... Outcomes that the transit relay does not have, such
 * as a refusal for want of room, are "errory". */
const char *usage_mood(enum pair_outcome outcome);

/* Rounds `bytes` up to a multiple of 1e4 if it is below 1e6, of 1e6 if it is below 1e9, else of
 * 1e8. 0 stays 0. */
uint64_t usage_blur_bytes(uint64_t bytes);
/* Rounds the bytes up, and `started` down to a multiple of `seconds`; 0: changes neither. */
void usage_blur(struct usage_record *record, uint32_t seconds);

/* Writes a record as one line of JSON with its line feed; keys are in the documented order, times
 * have one to six decimals. Returns the line's length, or -ENOSPC. */
int usage_format(const struct usage_record *record, char *line, size_t size);

/* Sends a record to the recorder. -EAGAIN: the pipe is full, and the record is lost. */
int usage_send(int pipe, const struct usage_record *record);

#endif
