/* `relay ROLE --check`: shows what a role would use with its options, and what is wrong with it.
 * Changes nothing. */
#ifndef RELAY_INSPECT_H
#define RELAY_INSPECT_H

#include "setup/options.h"

/* Writes what would be used to standard output, and logs what is wrong. role: as in `relay ROLE`.
 * Gives up root on its way, as the role does. Returns the exit status: 0, or EXIT_USAGE if anything
 * is wrong; with options->check_unit, only if no client could be served. */
int inspect_main(const struct options *options, const char *role);

#endif
