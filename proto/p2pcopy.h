/* p2p-copy: the hello, which is a client's first message. */
#ifndef RELAY_P2PCOPY_H
#define RELAY_P2PCOPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    P2PCOPY_HELLO_MAX = 4096, /* bytes in a hello; clients send about 120 */
};

struct p2pcopy_hello {
    bool sender; /* else receiver */
    size_t code_size;
    char code[P2PCOPY_HELLO_MAX]; /* an opaque string: whoever has the same one is the peer */
};

/* Reads a hello of at most P2PCOPY_HELLO_MAX bytes. Returns NULL, or the reason to give the
 * client with close code 1002. The code is a secret: wipe it after use. */
const char *p2pcopy_read_hello(
    const uint8_t *bytes, size_t size, bool text, struct p2pcopy_hello *hello);

#endif
