/* `relay ROLE --check`: says what a role would use with its options, and what is wrong with it,
 * without doing or making anything. */
#ifndef RELAY_INSPECT_H
#define RELAY_INSPECT_H

#include "setup/options.h"

/* What would be used goes to standard output, what is wrong with it to the log. role: as in
 * `relay ROLE`. Gives up root on its way, as the role would. Returns the exit status: 0, or
 * EXIT_USAGE if anything is wrong; with options->check_unit only if nobody could be served. */
int inspect_main(const struct options *options, const char *role);

#endif
