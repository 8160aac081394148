/* `relay status`: the counts of a relay, as text for people, as JSON for programs, and as
 * OpenMetrics for a collector. */
#ifndef RELAY_STATUS_H
#define RELAY_STATUS_H

#include "pair.h"
#include "setup/options.h"

#include <stdio.h>

/* Finds the relay and shows its counts. If it cannot, it says on standard error why, and what to
 * do. Returns the exit status: EXIT_RUN_TIME also for a relay that does not run, whose last counts
 * are shown. */
int status_main(const struct options *options);

/* Write to `out` and return 0 or a negative errno. */
int status_text(FILE *out, const struct pair_stats *stats);
int status_json(FILE *out, const struct pair_stats *stats);
/* The text format of OpenMetrics 1.0. No label identifies a client. */
int status_openmetrics(FILE *out, const struct pair_stats *stats);

#endif
