/* Cap'n Proto's packing, which leaves out bytes that are zero. */
#ifndef RELAY_PACKING_H
#define RELAY_PACKING_H

#include <stddef.h>
#include <stdint.h>

enum {
    CAPNP_WORD = 8, /* bytes */
};

/* The run that the last packed word belongs to; the next word may join it. */
enum capnp_run {
    CAPNP_RUN_NONE,
    CAPNP_RUN_ZEROS,
    CAPNP_RUN_VERBATIM,
};

/* Packs one part of a message after the other. It starts with `out` set and all else zero. */
struct capnp_packer {
    uint8_t *out;   /* where the next byte is written */
    uint8_t *count; /* of the words in the run, without the first */
    enum capnp_run run;
};

void capnp_pack_words(struct capnp_packer *packer, const uint8_t *words, size_t count);
/* The same for bytes, with zeros to the end of the last word. */
void capnp_pack_bytes(struct capnp_packer *packer, const uint8_t *bytes, size_t size);

/* Packs bytes, and returns how many there are packed. */
size_t capnp_pack(const uint8_t *unpacked, size_t size, uint8_t *packed);
/* Unpacks exactly `unpacked_size` bytes, whole words, and moves *packed and *size past the input
 * that it used. -EBADMSG if a run or the input ends elsewhere. */
int capnp_unpack(const uint8_t **packed, size_t *size, uint8_t *unpacked, size_t unpacked_size);

#endif
