/* p2p-copy: reads the hello, the first message of a client. */
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
    char code[P2PCOPY_HELLO_MAX]; /* any string; the peer has the same */
};

/* Reads a hello of at most P2PCOPY_HELLO_MAX bytes. Returns NULL, or the reason with which the
 * client is closed (code 1002). The caller wipes the hello after use: its code is a secret. */
const char *p2pcopy_read_hello(
    const uint8_t *bytes, size_t size, bool text, struct p2pcopy_hello *hello);

#endif
