/* The first message of a WebSocket: see first_message.h. */
#include "proto/first_message.h"

#include "codec/websocket.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

enum {
    READ_SIZE = 4096,
    FRAME_PEEKED_MAX = 8192, /* bytes of payload that are waited for without being consumed */
};

struct reader {
    struct websocket websocket;
    uint8_t *buffer; /* for the message */
    size_t size;     /* of the buffer */
    size_t done;     /* of the message */
    bool text;
    bool whole;
};

static int append_piece(struct reader *reader, const struct piece *piece)
{
    if (piece->size > reader->size - reader->done)
        return -EMSGSIZE;
    memcpy(reader->buffer + reader->done, piece->bytes, piece->size);
    reader->done += piece->size;
    reader->text = piece->text;
    reader->whole = piece->last;
    return 0;
}

static void say_close(const struct greeting *greeting, struct websocket *websocket, uint16_t code)
{
    uint8_t words[CODEC_FAREWELL_MAX];
    greeting_say(greeting, words, websocket_codec.farewell(websocket, code, "", words));
}

/* Decodes up to the end of the message or of the input. 0 or a negative errno. */
static int decode_input(
    const struct greeting *greeting, struct reader *reader, uint8_t **input, size_t *size)
{
    int error = 0;
    while (error == 0 && !reader->whole) {
        struct piece piece;
        switch (websocket_codec.decode(&reader->websocket, input, size, 0, &piece)) {
        case CODEC_PIECE:
            error = append_piece(reader, &piece);
            break;
        case CODEC_REPLY:
            greeting_say(greeting, piece.bytes, piece.size);
            break;
        case CODEC_LIFE:
            break;
        case CODEC_MORE:
            return 0;
        case CODEC_CLOSED:
            error = -ECONNRESET;
            break;
        case CODEC_FAILED:
        case CODEC_STARVED: /* a WebSocket needs no memory */
            error = -EPROTO;
            break;
        }
    }
    return error;
}

/* Peeks at the head of the next frame. Returns the size of the whole frame; or 0 if the frame is
 * refused, is not the last of its message, or is too large to be peeked at. */
static ssize_t measure_frame(const struct greeting *greeting, const struct reader *reader)
{
    uint8_t head[WEBSOCKET_HEAD_MAX];
    size_t known = 0;
    for (;;) {
        ssize_t count = greeting_peek(greeting, head, sizeof head, known);
        if (count <= 0)
            return count == 0 ? -ECONNRESET : count;
        known = (size_t)count;
        ssize_t size = websocket_measure(&reader->websocket, head, known, FRAME_PEEKED_MAX);
        if (size != 0)
            return size < 0 ? 0 : size;
    }
}

/* Between two messages, waits until the next frame is whole, so that the greeting can be given up
 * before. If that cannot be done for this frame, the greeting keeps its worker. *limit: bytes that
 * may be read. */
static int await_frame(const struct greeting *greeting, const struct reader *reader, size_t *limit)
{
    uint8_t frame[WEBSOCKET_HEAD_MAX + FRAME_PEEKED_MAX];
    if (greeting->hearing == NULL || greeting->records != NULL ||
        !websocket_is_between(&reader->websocket))
        return 0;
    greeting_settle(greeting);
    ssize_t size = measure_frame(greeting, reader);
    if (size <= 0)
        return size == 0 ? greeting_hold(greeting) : (int)size;
    if ((size_t)size < *limit)
        *limit = (size_t)size;
    return greeting_await(greeting, frame, (size_t)size);
}

/* Decodes the input that is there, and consumes what was decoded. */
static int read_some(const struct greeting *greeting, struct reader *reader)
{
    uint8_t buffer[CODEC_HEAD + READ_SIZE];
    uint8_t *const bytes = buffer + CODEC_HEAD, *input = bytes;
    size_t limit = READ_SIZE;
    int waited = await_frame(greeting, reader, &limit);
    if (waited != 0)
        return waited;
    ssize_t count = greeting_peek(greeting, bytes, limit, 0);
    if (count <= 0)
        return count == 0 ? -ECONNRESET : (int)count;
    size_t left = (size_t)count;
    int error = decode_input(greeting, reader, &input, &left);
    bool announced = reader->websocket.phase == WEBSOCKET_IN_DATA &&
                     reader->websocket.left > reader->size - reader->done;
    if (error == 0 && announced)
        error = -EMSGSIZE;
    int lost = greeting_read(greeting, bytes, (size_t)count - left);
    sodium_memzero(bytes, READ_SIZE);
    return error != 0 ? error : lost;
}

ssize_t first_message_read(
    const struct greeting *greeting, uint8_t *buffer, size_t size, bool *text)
{
    struct reader reader = {.buffer = buffer, .size = size};
    int error = 0;
    while (error == 0 && !reader.whole)
        error = read_some(greeting, &reader);
    if (error == -EMSGSIZE)
        say_close(greeting, &reader.websocket, WEBSOCKET_TOO_BIG);
    else if (error != 0 && reader.websocket.phase == WEBSOCKET_ENDED)
        say_close(greeting, &reader.websocket, 0);
    sodium_memzero(&reader.websocket, sizeof reader.websocket);
    *text = reader.text;
    return error == 0 ? (ssize_t)reader.done : error;
}
