/* The PROXY protocol, versions 1 and 2: a header in which a proxy says whose connection it
 * forwards. A trusted proxy has to send it. From any other address it is not understood, and the
 * connection is refused like any bad handshake. */
#ifndef RELAY_PROXY_H
#define RELAY_PROXY_H

#include <stdbool.h>
#include <sys/socket.h>

struct greeting;

enum {
    PROXY_LINE_MAX = 107,  /* version 1, with its line feed */
    PROXY_REST_MAX = 2048, /* version 2: bytes of the addresses and of the fields behind them */
};

/* Reads a header, and nothing behind it. *source becomes the client's address, AF_UNSPEC when that
 * is not an internet address. When the proxy says that the connection is its own (a health check),
 * *own is true and *source stays as it is. 0; -EPROTO: no header, or a bad one; -ECONNRESET or
 * -ETIMEDOUT: the header did not come. */
int proxy_read(const struct greeting *greeting, struct sockaddr_storage *source, bool *own);

#endif
