/* Frames: the input means the same however it is cut, and encoding in place overwrites nothing that
 * is not decoded yet. Text that is not UTF-8 is not passed on, nor is good text in the same chunk
 * before it; so smaller chunks let more of the good text pass. The first byte says how large the
 * chunks are. */
#include "codec/utf8.h"
#include "codec/websocket.h"

#include <stdlib.h>
#include <string.h>

enum {
    ROOM = 1 << 17
};

struct transcript {
    uint8_t bytes[ROOM];
    size_t size;
    uint8_t text[ROOM]; /* of one message */
    size_t text_size;
    bool in_message;
    enum codec_event end;
    uint8_t words[CODEC_FAREWELL_MAX];
    size_t words_size;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void note(struct transcript *transcript, const void *bytes, size_t size)
{
    if (size > ROOM - transcript->size)
        abort();
    if (size > 0)
        memcpy(transcript->bytes + transcript->size, bytes, size);
    transcript->size += size;
}

static void note_text(struct transcript *transcript, const struct piece *piece)
{
    if (piece->first)
        transcript->text_size = 0;
    if (piece->size > 0)
        memcpy(transcript->text + transcript->text_size, piece->bytes, piece->size);
    transcript->text_size += piece->size;
    if (piece->last && !utf8_valid(transcript->text, transcript->text_size))
        abort();
}

static void note_piece(struct transcript *transcript, void *state, const struct piece *piece)
{
    struct iovec out;
    if (piece->first == transcript->in_message || (piece->size == 0 && !piece->last))
        abort();
    if (piece->first)
        note(transcript, piece->text ? "T" : "B", 1);
    note(transcript, piece->bytes, piece->size);
    if (piece->last)
        note(transcript, ".", 1);
    if (piece->text)
        note_text(transcript, piece);
    transcript->in_message = !piece->last;
    if (websocket_codec.encode(state, piece, 0, &out) != 0 ||
        out.iov_len > piece->size + CODEC_HEAD)
        abort();
}

/* Decodes one chunk, in a copy that ends where it ends. */
static enum codec_event decode(
    struct transcript *transcript, void *state, const uint8_t *bytes, size_t size)
{
    uint8_t *copy = malloc(CODEC_HEAD + size), *at = copy + CODEC_HEAD;
    enum codec_event event;
    memcpy(at, bytes, size);
    do {
        struct piece piece;
        event = websocket_codec.decode(state, &at, &size, 0, &piece);
        if (event == CODEC_PIECE)
            note_piece(transcript, state, &piece);
        else if (event == CODEC_REPLY)
            note(transcript, piece.bytes, piece.size);
    } while (event == CODEC_PIECE || event == CODEC_REPLY || event == CODEC_LIFE);
    free(copy);
    return event;
}

static void play(struct transcript *transcript, const uint8_t *data, size_t size, size_t chunk)
{
    void *state = calloc(1, websocket_codec.state_size);
    transcript->size = 0;
    transcript->in_message = false;
    transcript->end = CODEC_MORE;
    for (size_t at = 0; at < size && transcript->end == CODEC_MORE; at += chunk)
        transcript->end =
            decode(transcript, state, data + at, size - at < chunk ? size - at : chunk);
    transcript->words_size = websocket_codec.farewell(state, 0, "", transcript->words);
    websocket_codec.close(state);
    free(state);
}

static bool is_same(const struct transcript *whole, const struct transcript *cut)
{
    bool passed =
        whole->size == cut->size || (whole->end == CODEC_FAILED && whole->size < cut->size);
    return passed && memcmp(whole->bytes, cut->bytes, whole->size) == 0 && whole->end == cut->end &&
           whole->words_size == cut->words_size &&
           memcmp(whole->words, cut->words, cut->words_size) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct transcript whole, cut;
    if (size < 2 || size > ROOM / 2)
        return 0;
    play(&whole, data + 1, size - 1, size - 1);
    play(&cut, data + 1, size - 1, (size_t)data[0] + 1);
    if (!is_same(&whole, &cut))
        abort();
    return 0;
}
