/* The table as text for a person, and as JSON for a program. */
#ifndef RELAY_STATUS_H
#define RELAY_STATUS_H

#include "pair.h"

#include <stdio.h>

int status_text(FILE *out, const struct pair_stats *stats);
int status_json(FILE *out, const struct pair_stats *stats);

#endif
