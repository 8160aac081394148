/* Tickets: what tells Offset's programs of one another. JSON files, byte for byte those that
 * stmgr writes:
 *
 *      relay, index and node ticket    publicKey, address
 *      app ticket                      publicKey, permissions
 *      node entry                      nodePublicKey, nodeAddress, appPrivateKey
 *
 * All create a file and never replace one; log, return -1 on failure. */
#ifndef RELAY_TICKET_H
#define RELAY_TICKET_H

#include "ident.h"

#include <stdbool.h>

enum {
    TICKET_ADDRESS_MAX = 256 /* bytes; it is neither parsed nor resolved */
};

struct ticket_permissions {
    bool routes, buyer, seller, config;
};

int ticket_write(const char *path, const struct identity *identity, const char *address);
int ticket_write_app(const char *path, const struct identity *identity,
    const struct ticket_permissions *permissions);
/* With the app's private key, hence mode 0600. */
int ticket_write_node_entry(
    const char *path, const struct identity *node, const struct identity *app, const char *address);

#endif
