/* Networks, as an option lists them, and whether an address is in one. */
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
    int family;          /* AF_INET, AF_INET6, or AF_UNIX: any client of a Unix socket */
    uint8_t address[16]; /* 4 of them for AF_INET */
    unsigned int bits;
};

struct networks {
    struct network list[NETWORKS_MAX];
    size_t count;
};

/* Understands ADDRESS, ADDRESS/BITS with no bits set beyond those, or `unix`. 0 or -1. */
int networks_parse(const char *text, struct network *ret);

/* Whether the address is in one of them. An IPv4 address that IPv6 writes (::ffff:192.0.2.1) counts
 * as IPv4; AF_UNSPEC is in none. */
bool networks_have(const struct networks *networks, const struct sockaddr_storage *peer);

#endif
