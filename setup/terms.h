/* The terms on which a connection is handed over: those options that the forwarder carries out. It
 * may have been started by somebody else, long ago, with others; so whoever hands a connection over
 * says theirs. Of two who differ, the one that was started last is right: its options are those
 * that an operator has set last. */
#ifndef RELAY_TERMS_H
#define RELAY_TERMS_H

#include "base/clock.h"
#include "setup/options.h"

#include <stdbool.h>
#include <stdint.h>

struct terms {
    int64_t since; /* when the one who says them was started: clock_steady(); 0: not said */
    uint64_t session_bytes;
    uint64_t records;                           /* a hash of what is recorded, and where */
    int32_t wait_timeout, linger, idle_timeout; /* seconds */
    uint32_t debug;
};

/* Those of a process that is starting. */
struct terms terms_of(const struct options *options);

/* Whether they are such as options_read() lets through. */
bool terms_are_sound(const struct terms *terms);
/* Whether they are alike, whenever they were set. */
bool terms_agree(const struct terms *a, const struct terms *b);

#endif
