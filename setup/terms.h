/* The terms of a connection: the options that the forwarder carries out. The forwarder may have
 * been started long ago, with other options, so a worker sends its own with each connection. If two
 * terms differ, those of the process that was started last hold: the operator has set them last. */
#ifndef RELAY_TERMS_H
#define RELAY_TERMS_H

#include "base/clock.h"
#include "setup/options.h"

#include <stdbool.h>
#include <stdint.h>

/* Part of struct handoff, so its layout never changes: a new term is a field of its own that is
 * appended there (handoff.h). */
struct terms {
    int64_t since; /* when the process that sends them was started: clock_steady(); 0: unknown */
    uint64_t session_bytes;
    uint64_t records;                           /* a hash of the options for usage records */
    int32_t wait_timeout, linger, idle_timeout; /* seconds */
    uint32_t debug;
};

/* The terms of a process that is starting. */
struct terms terms_of(const struct options *options);

/* Whether options_read() would accept these values. */
bool terms_are_sound(const struct terms *terms);
/* Whether they are equal, except for `since`. */
bool terms_agree(const struct terms *a, const struct terms *b);

#endif
