/* The protocols: see protocol.h. */
#include "protocol.h"

#include <string.h>
#include <sys/uio.h>

#define DECLARE(number, constant, name) extern const struct protocol name##_protocol;
PROTOCOLS(DECLARE)
#undef DECLARE

#define NUMBER(number, constant, name) (number),
const uint8_t protocols_in_order[PROTOCOL_COUNT] = {PROTOCOLS(NUMBER)};
#undef NUMBER

#define PLACE(number, constant, name) [number] = &name##_protocol,
const struct protocol *const protocols[PROTOCOL_COUNT] = {PROTOCOLS(PLACE)};
#undef PLACE

void words_set(struct words *words, const char *message)
{
    words->size = strnlen(message, sizeof words->message);
    memcpy(words->message, message, words->size);
}

size_t protocol_speech(const struct codec *codec, void *state, const struct words *words,
    bool closing, int64_t now, uint8_t speech[static PROTOCOL_SPEECH_MAX])
{
    uint8_t buffer[CODEC_HEAD + PROTOCOL_WORDS_MAX];
    struct piece piece = {buffer + CODEC_HEAD, words->size, words->text, true, true};
    struct iovec out = {piece.bytes, piece.size};
    size_t size = 0;
    memcpy(piece.bytes, words->message, words->size);
    if (words->size > 0 &&
        (codec == NULL || (codec->in_place && codec->encode(state, &piece, now, &out) == 0))) {
        memcpy(speech, out.iov_base, out.iov_len);
        size = out.iov_len;
    }
    if (closing && codec != NULL)
        size += codec->farewell(state, words->code, words->reason, speech + size);
    return size;
}
