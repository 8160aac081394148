/* The forwarder: holds the descriptors of all connections after their handoff, joins the two of a
 * pair, and moves their bytes. One thread that never blocks, never resolves a name, never touches a
 * disk. */
#ifndef RELAY_FORWARD_H
#define RELAY_FORWARD_H

#include "pair.h"
#include "setup/options.h"

#include <stdbool.h>
#include <stddef.h>

struct forward_setup {
    const struct options *options;
    struct pair_table *table; /* adopted by this process */
    int socket;               /* of handoffs */
    int recorder;             /* usage_send(); -1: nothing is recorded */
    size_t descriptors_max;
    /* Called when there was nothing to do for options->idle_timeout: true ends the run. */
    bool (*retire)(void *context);
    /* Called when a server that uses this forwarder has been told to stop: whether no other server
     * uses it; true ends the run. NULL: servers come and go, and their connections stay. */
    bool (*forsaken)(void *context);
    /* Called every two seconds. If the socket's name was lost, makes another socket of that name
     * and returns it: handoffs come from it, too, from now on, and the forwarder closes it. -1: the
     * name is still there. NULL: the socket has no name. */
    int (*renew)(void *context);
    /* Called when the forwarder is about to stop: sees that nobody sends to the socket any more,
     * unless another forwarder goes on with it. NULL: another does. */
    void (*leave)(void *context);
    void *context;
};

/* Forwards until SIGTERM, SIGINT or retirement, and then ends all connections. Returns 0 or a
 * negative errno. The descriptors in `setup` stay the caller's. */
int forward_run(const struct forward_setup *setup);

#endif
