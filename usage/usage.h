/* Usage records: one per pair, and one per connection that never met its peer, as JSON
 * lines and in an SQLite database whose names and meanings are those of magic-wormhole's
 * transit relay, because munin plugins read them.
 *
 * The forwarder writes records to a pipe and never waits; recorder.c reads them. */
#ifndef RELAY_USAGE_H
#define RELAY_USAGE_H

#include "base/clock.h"
#include "pair.h"
#include "setup/options.h"

#include <stdbool.h>
#include <stdint.h>

struct usage_record {
    int64_t started;      /* when the (earlier) connection was opened: microseconds, epoch */
    int64_t total_time;   /* from there to the close: microseconds */
    int64_t waiting_time; /* between the two opens: microseconds; negative: there was no match */
    uint64_t total_bytes; /* both directions, handshakes not counted */
    uint32_t outcome;     /* enum pair_outcome */
    uint32_t padding;
};

/* When a connection was opened, by the clock on the wall, which may be set at any time, and by one
 * that never is and that durations are measured on (clock_steady()): microseconds. */
struct usage_start {
    int64_t opened, since;
};

/* Of a connection that is opened now. */
struct usage_start usage_start_now(void);
/* Of one that another process has opened, and says both of; since: 0, it does not say, and all that
 * is known is what the clock on the wall showed. */
struct usage_start usage_start_of(int64_t opened, int64_t since);

/* The record of a connection that is closed now and met nobody. */
struct usage_record usage_single(struct usage_start start, enum pair_outcome outcome);
/* The record of a pair that is closed now. */
struct usage_record usage_pair(struct usage_start start, struct usage_start peer, uint64_t bytes);

/* The mood of a record: "happy", "lonely", ... What a client of the transit relay never was
 * (refused for want of room) is "errory". */
const char *usage_mood(enum pair_outcome outcome);

/* Rounds `bytes` up: 0 stays 0; below 1e6 to a multiple of 1e4; below 1e9 of 1e6; else of
 * 1e8. */
uint64_t usage_blur_bytes(uint64_t bytes);
/* Applies both blurs: started is floored to a multiple of `seconds`. */
void usage_blur(struct usage_record *record, uint32_t seconds);

/* One line of JSON with its line feed, keys in the documented order; times with at least one
 * decimal, at most six. Returns its length, or -ENOSPC. */
int usage_format(const struct usage_record *record, char *line, size_t size);

/* Hands one record to the recorder. -EAGAIN: it is too far behind, the record is lost. */
int usage_send(int pipe, const struct usage_record *record);

#endif
