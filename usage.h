/* Usage records: one per pair, and one per connection that never met its peer, as JSON
 * lines and in an SQLite database whose names and meanings are those of magic-wormhole's
 * transit relay, because munin plugins read them.
 *
 * The forwarder writes records to a pipe and never waits; the recorder, a process of its
 * own, reads them and is the only one that waits for a disk. */
#ifndef RELAY_USAGE_H
#define RELAY_USAGE_H

#include "pair.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct usage_record {
    int64_t started;      /* when the (earlier) connection was opened: microseconds, epoch */
    int64_t total_time;   /* from there to the close: microseconds */
    int64_t waiting_time; /* between the two opens: microseconds; negative: there was no match */
    uint64_t total_bytes; /* both directions, handshakes not counted */
    uint32_t outcome;     /* enum pair_outcome */
    uint32_t padding;
};

struct usage_options {
    int log_fd;           /* JSON lines; -1: none */
    const char *database; /* SQLite file; NULL: none */
    uint32_t blur;        /* seconds; 0: exact */
};

static inline bool usage_wanted(const struct usage_options *options)
{
    return options->log_fd >= 0 || options->database != NULL;
}

/* The mood of a record: "happy", "lonely", ... */
const char *usage_mood(enum pair_outcome outcome);

/* Rounds `bytes` up: 0 stays 0; below 1e6 to a multiple of 1e4; below 1e9 of 1e6; else of
 * 1e8. */
uint64_t usage_blur_bytes(uint64_t bytes);
/* Applies both blurs: started is floored to a multiple of `seconds`. */
void usage_blur(struct usage_record *record, uint32_t seconds);

/* One line of JSON with its line feed, keys in the documented order; floats as Python's
 * json module prints them. Returns its length, or -ENOSPC. */
int usage_format(const struct usage_record *record, char *line, size_t size);

/* Checks that the database is one of ours, or makes it. Logs what is wrong; -1 then. */
int usage_check_database(const char *path);

/* Forks the recorder, which reads records from a pipe until its end, and reads counts from
 * `table` for the database's `current` row (at least every five minutes, and with each
 * batch). Returns the pipe's non-blocking write end, close-on-exec, or a negative errno; the
 * recorder's process id in *pid. The recorder closes every descriptor that it does not need. */
int usage_start_recorder(const struct usage_options *options, struct pair_table *table, pid_t *pid);

/* Hands one record to the recorder. -EAGAIN: it is too far behind, the record is lost. */
int usage_send(int pipe, const struct usage_record *record);

#endif
