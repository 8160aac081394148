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
    PROXY_LINE_MAX = 107,  /* version 1, with its line feed */
    PROXY_REST_MAX = 2048, /* version 2: addresses and what else it says, which is skipped */
};

/* Reads a header, and no byte more. *source becomes the address that it conveys, AF_UNSPEC when
 * that is no internet address; it stays as it is, and *own is true, when the proxy says that the
 * connection is its own (a health check). 0; -EPROTO: no header, or a bad one; -ECONNRESET or
 * -ETIMEDOUT: none came. */
int proxy_read(const struct greeting *greeting, struct sockaddr_storage *source, bool *own);

#endif
