/* `relay serve`: listens, and keeps a few workers ready for what comes. */
#ifndef RELAY_SERVE_H
#define RELAY_SERVE_H

#include "setup/options.h"

/* Serves until SIGTERM or SIGINT, on the addresses of the options or on the listening sockets
 * passed by systemd (Accept=no). Runs a forwarder of its own unless one answers already.
 * Returns the exit status. */
int serve_main(const struct options *options);

#endif
