/* The forwarder: holds every descriptor, joins those who met, and moves their bytes. One thread
 * that never blocks, never resolves a name, never touches a disk. */
#ifndef RELAY_FORWARD_H
#define RELAY_FORWARD_H

#include "pair.h"
#include "setup/options.h"

#include <stdbool.h>
#include <stddef.h>

struct forward_setup {
    const struct options *options;
    struct pair_table *table; /* adopted by this process */
    int socket;               /* handoffs come from here */
    int recorder;             /* usage_send(); -1: nothing is recorded */
    size_t descriptors_max;
    /* Asked when there was nothing to do for options->idle_timeout: true ends the run. */
    bool (*retire)(void *context);
    /* Asked when a server that uses this forwarder has been told to stop: whether no other does;
     * true ends the run. NULL: servers come and go, and those who came by one stay. */
    bool (*forsaken)(void *context);
    /* Asked every two seconds: another socket that handoffs come from as well from now on, and is
     * closed by the forwarder, as the first one's name was lost and is this one's now; -1: all is
     * well. NULL: it has no name. */
    int (*renew)(void *context);
    /* Told when the forwarder is about to stop: has nobody send to the socket any more, if it will
     * not be another forwarder's. NULL: it will be. */
    void (*leave)(void *context);
    void *context;
};

/* Forwards until SIGTERM, SIGINT or retirement. What it still holds then is closed. Returns 0
 * or a negative errno; the setup's descriptors stay the caller's. */
int forward_run(const struct forward_setup *setup);

#endif
