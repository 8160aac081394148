/* The protocols that relay speaks, how to tell them apart, and how their words are put. */
#include "proto.h"

#include <errno.h>
#include <string.h>

/* By their stable numbers. The order decides where prefixes are alike; the last one takes whatever
 * comes. */
const struct protocol *const protocols[] = {
    [PROTOCOL_TLS] = &tls_protocol,
    [PROTOCOL_WEB] = &web_protocol,
    [PROTOCOL_OFFSET] = &offset_protocol,
    [PROTOCOL_P2PCOPY] = &p2pcopy_protocol,
    [PROTOCOL_LOCALFIRST] = &localfirst_protocol,
    [PROTOCOL_TRANSIT] = &transit_protocol,
};
const size_t protocol_count = sizeof protocols / sizeof protocols[0];

const struct codec *const codecs[CODEC_KINDS] = {
    [CODEC_PLAIN] = NULL,
    [CODEC_WEBSOCKET] = &websocket_codec,
    [CODEC_CHANNEL] = &channel_codec,
};

/* Whether a connection that begins with `head` may be one of the protocol's; *undecided if more
 * bytes may yet tell. */
static bool begins_as(
    const struct protocol *protocol, const uint8_t *head, size_t size, bool *undecided)
{
    *undecided = false;
    if (protocol->greet == NULL)
        return false;
    for (size_t i = 0; i < protocol->prefix_count; i++) {
        const struct prefix *prefix = &protocol->prefixes[i];
        size_t common = size < prefix->size ? size : prefix->size;
        *undecided = common < prefix->size;
        if (memcmp(head, prefix->bytes, common) == 0)
            return true;
    }
    *undecided = false;
    return protocol->prefix_count == 0;
}

/* The first protocol that `head` may begin. */
static const struct protocol *find_protocol(
    const uint8_t *head, size_t size, uint8_t *index, bool *undecided)
{
    for (size_t i = 0; i < protocol_count; i++) {
        if (begins_as(protocols[i], head, size, undecided)) {
            *index = (uint8_t)i;
            return protocols[i];
        }
    }
    return NULL;
}

const struct protocol *protocol_sniff(struct greeting *greeting)
{
    uint8_t head[PROTOCOL_PREFIX_MAX];
    size_t known = 0;
    for (;;) {
        bool undecided;
        ssize_t count = greeting_peek_more(greeting, head, sizeof head, known);
        if (count == -ECONNRESET && known > 0) {
            greeting->protocol = (uint8_t)(protocol_count - 1);
            return protocols[greeting->protocol]; /* it will say what half a beginning deserves */
        }
        if (count <= 0)
            return NULL;
        known = (size_t)count;
        const struct protocol *protocol =
            find_protocol(head, known, &greeting->protocol, &undecided);
        if (!undecided)
            return protocol;
    }
}

/* ---- words ----------------------------------------------------------------------- */

size_t protocol_speech(const struct codec *codec, void *state, const struct words *words,
    bool closing, int64_t now, uint8_t speech[static PROTOCOL_SPEECH_MAX])
{
    uint8_t buffer[CODEC_HEAD + PROTOCOL_WORDS_MAX];
    struct piece piece = {buffer + CODEC_HEAD, words->size, words->text, true, true};
    struct iovec out = {piece.bytes, piece.size};
    size_t size = 0;
    memcpy(piece.bytes, words->message, words->size);
    if (words->size > 0 && (codec == NULL || codec->encode(state, &piece, now, &out) == 0)) {
        memcpy(speech, out.iov_base, out.iov_len);
        size = out.iov_len;
    }
    if (closing && codec != NULL)
        size += codec->farewell(state, words->code, words->reason, speech + size);
    return size;
}
