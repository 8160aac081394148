/* The certificate: the two PEM files that --certfile and --keyfile name, as bytes. proto/tls.c
 * parses them; certificate_keeper.c reads them again when they were renewed. */
#ifndef RELAY_CERTIFICATE_H
#define RELAY_CERTIFICATE_H

#include "setup/options.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

enum {
    CERTIFICATE_CHAIN_MAX = 48 * 1024,
    CERTIFICATE_KEY_MAX = 16 * 1024,
    CERTIFICATE_VERSION_SIZE = 16,
};

/* Holds a private key: the caller wipes it after use. It fits into one datagram. */
struct certificate {
    uint8_t version[CERTIFICATE_VERSION_SIZE]; /* a hash of both files */
    uint32_t chain_size, key_size;
    uint8_t chain[CERTIFICATE_CHAIN_MAX];
    uint8_t key[CERTIFICATE_KEY_MAX];
};

/* Tells whether a file changed without reading it. */
struct certificate_stamp {
    struct file_stamp {
        int error; /* 0, or the errno of stat() */
        dev_t device;
        ino_t inode;
        off_t size;
        struct timespec modified, changed;
    } chain, key;
};

/* Reads both files. Logs, returns -1 on failure. */
int certificate_read(const struct options *options, struct certificate *ret);

/* Takes the stamp of both files; true if it differs from what *stamp was. */
bool certificate_changed(const struct options *options, struct certificate_stamp *stamp);

#endif
