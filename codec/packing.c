/* Cap'n Proto's packing: see packing.h. Each word is a tag, which says which of its bytes are not
 * zero, and those bytes. Behind a word of zeros stands how many more words of zeros follow; behind
 * a word without zeros, how many more words follow verbatim. */
#include "codec/packing.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum {
    WORD = CAPNP_WORD,
    RUN_MAX = 255, /* words in a run, without the first */
    STRIDE = 8,    /* words that are judged at once */
};

static uint64_t load_word(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return le64toh(value);
}

/* The top bit of each byte that is not zero. */
static uint64_t nonzero_bytes(uint64_t word)
{
    const uint64_t low = 0x7f7f7f7f7f7f7f7f;
    return (((word & low) + low) | word) & ~low;
}

/* Not 0 if the word has two zero bytes or more. With at most one, it takes less room in a verbatim
 * run than by itself. */
static uint64_t sparseness(uint64_t word)
{
    uint64_t zeros = nonzero_bytes(word) ^ 0x8080808080808080;
    return zeros & (zeros - 1);
}

/* How many words, from the first on, are dense. Most are, so several are judged at once. */
static size_t count_dense(const uint8_t *words, size_t count)
{
    size_t dense = 0;
    while (dense + STRIDE <= count) {
        uint64_t sparse = 0;
        for (size_t i = 0; i < STRIDE; i++)
            sparse |= sparseness(load_word(words + (dense + i) * WORD));
        if (sparse != 0)
            break;
        dense += STRIDE;
    }
    while (dense < count && sparseness(load_word(words + dense * WORD)) == 0)
        dense++;
    return dense;
}

static void start_run(struct capnp_packer *packer, enum capnp_run run)
{
    packer->run = run;
    packer->count = packer->out++;
    *packer->count = 0;
}

static void pack_word(struct capnp_packer *packer, uint64_t word)
{
    uint8_t *tag = packer->out++;
    *tag = 0;
    for (unsigned int i = 0; i < WORD; i++) {
        uint8_t byte = (uint8_t)(word >> 8 * i);
        if (byte == 0)
            continue;
        *tag = (uint8_t)(*tag | 1u << i);
        *packer->out++ = byte;
    }
    packer->run = CAPNP_RUN_NONE;
    if (*tag == 0)
        start_run(packer, CAPNP_RUN_ZEROS);
    else if (*tag == 0xff)
        start_run(packer, CAPNP_RUN_VERBATIM);
}

/* How many words, from the first on, join the run. */
static size_t words_for_run(const struct capnp_packer *packer, const uint8_t *words, size_t count)
{
    size_t most = packer->run == CAPNP_RUN_NONE ? 0 : (size_t)(RUN_MAX - *packer->count),
           joining = 0;
    if (most > count)
        most = count;
    if (packer->run == CAPNP_RUN_VERBATIM)
        return count_dense(words, most);
    while (joining < most && load_word(words + joining * WORD) == 0)
        joining++;
    return joining;
}

void capnp_pack_words(struct capnp_packer *packer, const uint8_t *words, size_t count)
{
    while (count > 0) {
        size_t taken = words_for_run(packer, words, count);
        if (taken > 0) {
            *packer->count = (uint8_t)(*packer->count + taken);
            if (packer->run == CAPNP_RUN_VERBATIM) {
                memcpy(packer->out, words, taken * WORD);
                packer->out += taken * WORD;
            }
        } else {
            pack_word(packer, load_word(words));
            taken = 1;
        }
        words += taken * WORD;
        count -= taken;
    }
}

void capnp_pack_bytes(struct capnp_packer *packer, const uint8_t *bytes, size_t size)
{
    size_t whole = size / WORD, rest = size % WORD;
    uint8_t last[WORD] = {0};
    capnp_pack_words(packer, bytes, whole);
    if (rest == 0)
        return;
    memcpy(last, bytes + whole * WORD, rest);
    capnp_pack_words(packer, last, 1);
}

size_t capnp_pack(const uint8_t *unpacked, size_t size, uint8_t *packed)
{
    struct capnp_packer packer = {.out = packed};
    capnp_pack_bytes(&packer, unpacked, size);
    return (size_t)(packer.out - packed);
}

int capnp_unpack(const uint8_t **packed, size_t *size, uint8_t *unpacked, size_t unpacked_size)
{
    const uint8_t *in = *packed, *in_end = in + *size;
    uint8_t *out = unpacked, *out_end = unpacked + unpacked_size;
    while (out < out_end) {
        if (in == in_end)
            return -EBADMSG;
        unsigned int tag = *in++;
        bool run = tag == 0 || tag == 0xff;
        if (in_end - in < __builtin_popcount(tag) + run)
            return -EBADMSG;
        for (unsigned int i = 0; i < WORD; i++)
            *out++ = (tag & 1u << i) != 0 ? *in++ : 0;
        if (!run)
            continue;
        ptrdiff_t further = (ptrdiff_t)*in++ * WORD;
        if (further > out_end - out || (tag != 0 && further > in_end - in))
            return -EBADMSG;
        if (tag == 0) {
            memset(out, 0, (size_t)further);
        } else {
            memcpy(out, in, (size_t)further);
            in += further;
        }
        out += further;
    }
    *packed = in;
    *size = (size_t)(in_end - in);
    return 0;
}
