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

/* What `head` says of a protocol that is known by its prefixes. */
static enum beginning compare_prefixes(
    const struct protocol *protocol, const uint8_t *head, size_t size)
{
    for (size_t i = 0; i < protocol->prefix_count; i++) {
        const struct prefix *prefix = &protocol->prefixes[i];
        size_t common = size < prefix->size ? size : prefix->size;
        if (memcmp(head, prefix->bytes, common) == 0)
            return common < prefix->size ? BEGINNING_UNDECIDED : BEGINNING_OURS;
    }
    return BEGINNING_OTHER;
}

static enum beginning begins_as(const struct protocol *protocol, const uint8_t *head, size_t size)
{
    if (protocol->greet == NULL)
        return BEGINNING_OTHER;
    if (protocol->begins != NULL)
        return protocol->begins(head, size);
    return protocol->prefix_count == 0 ? BEGINNING_OURS : compare_prefixes(protocol, head, size);
}

/* The first protocol that `head` may begin; *undecided if more bytes may yet tell. */
static const struct protocol *find_protocol(
    const uint8_t *head, size_t size, uint8_t *index, bool *undecided)
{
    for (size_t i = 0; i < protocol_count; i++) {
        enum beginning beginning = begins_as(protocols[i], head, size);
        if (beginning == BEGINNING_OTHER)
            continue;
        *index = (uint8_t)i;
        *undecided = beginning == BEGINNING_UNDECIDED;
        return protocols[i];
    }
    return NULL;
}

const struct protocol *protocol_sniff(struct greeting *greeting)
{
    uint8_t head[PROTOCOL_BEGINNING_MAX];
    size_t known = 0;
    for (;;) {
        bool undecided = false;
        ssize_t count = greeting_peek_more(greeting, head, sizeof head, known);
        if ((count == -ECONNRESET || count == -ETIMEDOUT) && known > 0) {
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
