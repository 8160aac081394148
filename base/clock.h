/* The clocks that relay reads. Durations and deadlines are never measured with CLOCK_REALTIME,
 * which may be set at any time. */
#ifndef RELAY_CLOCK_H
#define RELAY_CLOCK_H

#include <stdint.h>

/* For deadlines: milliseconds, CLOCK_MONOTONIC. */
int64_t clock_now(void);
/* For durations below a millisecond: nanoseconds, CLOCK_MONOTONIC. */
int64_t clock_fine(void);
/* For durations in records: microseconds, CLOCK_BOOTTIME, which goes on while the machine sleeps.
 */
int64_t clock_steady(void);
/* For points in time: microseconds since the epoch. */
int64_t clock_epoch(void);

#endif
