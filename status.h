/* The table as text for a person, as JSON for a program, and as OpenMetrics for a collector. All
 * write to `out` and return 0 or a negative errno. */
#ifndef RELAY_STATUS_H
#define RELAY_STATUS_H

#include "pair.h"

#include <stdio.h>

int status_text(FILE *out, const struct pair_stats *stats);
int status_json(FILE *out, const struct pair_stats *stats);
/* The text format of OpenMetrics 1.0. No label names anybody. */
int status_openmetrics(FILE *out, const struct pair_stats *stats);

#endif
