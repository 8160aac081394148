/* The table as text for a person, as JSON for a program, and as OpenMetrics for a collector; and
 * where to look for one. */
#ifndef RELAY_STATUS_H
#define RELAY_STATUS_H

#include "pair.h"
#include "setup/options.h"

#include <stdio.h>

/* `relay status`. Says on standard error why there is nothing to show, and what to do. Returns the
 * exit status: EXIT_RUN_TIME, too, for a relay that is dead, of which it shows the remains. */
int status_main(const struct options *options);

/* Write to `out` and return 0 or a negative errno. */
int status_text(FILE *out, const struct pair_stats *stats);
int status_json(FILE *out, const struct pair_stats *stats);
/* The text format of OpenMetrics 1.0. No label names anybody. */
int status_openmetrics(FILE *out, const struct pair_stats *stats);

#endif
