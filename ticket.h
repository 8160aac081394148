/* Tickets: files by which Offset's programs learn of each other. They are JSON, byte for byte as
 * Offset's stmgr writes them:
 *
 *      relay, index and node ticket    publicKey, address
 *      app ticket                      publicKey, permissions
 *      node entry                      nodePublicKey, nodeAddress, appPrivateKey
 *
 * All functions create a file and never replace one; they log, and return -1, on failure. */
#ifndef RELAY_TICKET_H
#define RELAY_TICKET_H

#include "ident.h"

#include <stdbool.h>

enum {
    TICKET_ADDRESS_MAX = 256 /* bytes; an address is neither parsed nor resolved */
};

struct ticket_permissions {
    bool routes, buyer, seller, config;
};

int ticket_write(const char *path, const struct identity *identity, const char *address);
int ticket_write_app(const char *path, const struct identity *identity,
    const struct ticket_permissions *permissions);
/* The file holds the app's private key, so its mode is 0600. */
int ticket_write_node_entry(
    const char *path, const struct identity *node, const struct identity *app, const char *address);

#endif
