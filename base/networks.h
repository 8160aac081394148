/* Networks as options list them, and whether an address is in one of them. */
#ifndef RELAY_NETWORKS_H
#define RELAY_NETWORKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
    NETWORKS_MAX = 32,
};

struct network {
    int family;          /* AF_INET, AF_INET6, or AF_UNIX: all clients of a Unix socket */
    uint8_t address[16]; /* AF_INET: the first 4 bytes */
    unsigned int bits;
};

struct networks {
    struct network list[NETWORKS_MAX];
    size_t count;
};

/* Parses ADDRESS, ADDRESS/BITS (with no bit set behind the first BITS), or `unix`. 0 or -1. */
int networks_parse(const char *text, struct network *ret);

/* Whether the peer's address is in one of the networks. An IPv4-mapped IPv6 address
 * (::ffff:192.0.2.1) counts as IPv4; AF_UNSPEC is in no network. */
bool networks_contain(const struct networks *networks, const struct sockaddr_storage *peer);

#endif
