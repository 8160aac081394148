/* The PROXY protocol, versions 1 and 2: by it a proxy in front says whose connection it passes on.
 * From those who are trusted a header must come, and from nobody else is one understood: there it
 * is the bad beginning of whatever protocol. */
#ifndef RELAY_PROXY_H
#define RELAY_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct greeting;

enum {
    PROXY_NETWORKS_MAX = 32,
    PROXY_LINE_MAX = 107,  /* version 1, with its line feed */
    PROXY_REST_MAX = 2048, /* version 2: addresses and what else it says, which is skipped */
};

struct proxy_network {
    int family;          /* AF_INET, AF_INET6, or AF_UNIX: whoever comes by a Unix socket */
    uint8_t address[16]; /* 4 of them for AF_INET */
    unsigned int bits;
};

/* Those who are trusted. */
struct proxy_trust {
    struct proxy_network networks[PROXY_NETWORKS_MAX];
    size_t count;
};

/* Understands ADDRESS, ADDRESS/BITS with no bits set beyond those, or `unix`. */
int proxy_parse_network(const char *text, struct proxy_network *ret);

/* An IPv4 address in IPv6 clothes counts as IPv4. AF_UNSPEC is nobody. */
bool proxy_is_trusted(const struct proxy_trust *trust, const struct sockaddr_storage *peer);

/* Reads a header, and no byte more. *source becomes the address that it conveys, AF_UNSPEC when
 * that is no internet address; it stays as it is, and *own is true, when the proxy says that the
 * connection is its own (a health check). 0; -EPROTO: no header, or a bad one; -ECONNRESET or
 * -ETIMEDOUT: none came. */
int proxy_read(const struct greeting *greeting, struct sockaddr_storage *source, bool *own);

#endif
