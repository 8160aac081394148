/* RFC 6455 framing as a streaming codec. Sections named in comments are the RFC's. */
#include "websocket.h"

#include "utf8.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

enum {
    FINAL = 0x80,    /* in a frame's first byte */
    RESERVED = 0x70, /* belongs to extensions */
    MASKED = 0x80,   /* in its second */
    LENGTH_16 = 126, /* in the second's other bits: the length follows, in two bytes */
    LENGTH_64 = 127, /* in eight */
    MASK_SIZE = 4,
    HEAD_IN_MAX = 2 + 8 + MASK_SIZE,
    CONTROL_MAX = 125, /* bytes of a control frame's payload (5.5) */
    CONTROL_HEAD = 2,
    SILENT_TIME = 25000, /* proxies in front give up after 60 s */
    SILENT_JITTER = 3000,
    PINGS_MAX = 2, /* unanswered */
    READ_SIZE = 4096,
    FRAME_PEEKED_MAX = 8192, /* bytes of payload; a first message has no more */
};

enum opcode {
    CONTINUATION = 0x0,
    TEXT = 0x1,
    BINARY = 0x2,
    CLOSE = 0x8, /* from here on: control frames */
    PING = 0x9,
    PONG = 0xa,
};

/* What comes next on the wire. */
enum phase {
    IN_HEAD,
    IN_DATA,
    IN_CONTROL,
    IN_NOTHING, /* the connection has ended or failed */
};

struct websocket {
    uint64_t left; /* bytes of this frame's payload that are yet to come */
    uint16_t code; /* IN_NOTHING: what to close with; 0: without one */
    uint8_t phase;
    uint8_t pings; /* that nothing has answered */
    bool failed;   /* IN_NOTHING: else it was closed */
    bool close_sent;
    bool in_message; /* its last frame has not begun */
    bool text;       /* of this message */
    uint8_t utf8;    /* how far this text is well-formed */
    bool unspoken;   /* nothing of it was passed on yet */
    uint8_t head_size;
    uint8_t control_size;
    uint8_t head[HEAD_IN_MAX];
    uint8_t mask[MASK_SIZE]; /* turned so that its first byte is for the next one to come */
    uint8_t control[CONTROL_HEAD + CONTROL_MAX]; /* room in front for the head of a pong */
};

/* ---- bytes ----------------------------------------------------------------------- */

static uint64_t get_big_endian(const uint8_t *bytes, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    return value;
}

static void put_big_endian(uint8_t *bytes, size_t size, uint64_t value)
{
    for (size_t i = size; i > 0; i--, value >>= 8)
        bytes[i - 1] = (uint8_t)value;
}

/* A vector register's worth of bytes, wherever they are: gcc makes none of a plain loop at -O2,
 * and it is worth three times the speed. */
typedef uint32_t lane __attribute__((vector_size(16), aligned(1), may_alias));

/* Applies the mask in place, and turns it to where the next bytes begin (5.3). */
static void unmask(uint8_t *bytes, size_t size, uint8_t mask[MASK_SIZE])
{
    uint8_t turned[MASK_SIZE];
    uint32_t word;
    size_t at = 0;
    memcpy(&word, mask, MASK_SIZE);
    for (; size - at >= 4 * sizeof(lane); at += 4 * sizeof(lane)) {
        lane *lanes = (lane *)(bytes + at);
        lanes[0] ^= word;
        lanes[1] ^= word;
        lanes[2] ^= word;
        lanes[3] ^= word;
    }
    for (; at < size; at++)
        bytes[at] ^= mask[at % MASK_SIZE];
    for (size_t i = 0; i < MASK_SIZE; i++)
        turned[i] = mask[(size + i) % MASK_SIZE];
    memcpy(mask, turned, MASK_SIZE);
}

/* ---- frames in: the head --------------------------------------------------------- */

static void end(struct websocket *websocket, bool failed, uint16_t code)
{
    websocket->phase = IN_NOTHING;
    websocket->failed = failed;
    websocket->code = code;
}

static void fail(struct websocket *websocket)
{
    end(websocket, true, WEBSOCKET_PROTOCOL_ERROR);
}

static uint8_t opcode_of(const struct websocket *websocket)
{
    return websocket->head[0] & 0x0f;
}

static bool is_control(const struct websocket *websocket)
{
    return opcode_of(websocket) >= CLOSE;
}

static bool is_final(const struct websocket *websocket)
{
    return (websocket->head[0] & FINAL) != 0;
}

static uint8_t short_length(const struct websocket *websocket)
{
    return websocket->head[1] & (uint8_t)~MASKED;
}

static size_t length_size(const struct websocket *websocket)
{
    uint8_t length = short_length(websocket);
    return length == LENGTH_64 ? 8 : length == LENGTH_16 ? 2 : 0;
}

/* Whether a frame may begin with these two bytes, here (5.1, 5.2, 5.4, 5.5). */
static bool may_begin(const struct websocket *websocket)
{
    if ((websocket->head[0] & RESERVED) != 0 || (websocket->head[1] & MASKED) == 0)
        return false;
    switch (opcode_of(websocket)) {
    case CONTINUATION:
        return websocket->in_message;
    case TEXT:
    case BINARY:
        return !websocket->in_message;
    case CLOSE:
    case PING:
    case PONG:
        return is_final(websocket) && short_length(websocket) <= CONTROL_MAX;
    default:
        return false;
    }
}

/* Reads the length; false unless it is in the shortest form (5.2). */
static bool take_length(struct websocket *websocket)
{
    size_t size = length_size(websocket);
    uint64_t length =
        size == 0 ? short_length(websocket) : get_big_endian(websocket->head + 2, size);
    websocket->left = length;
    if (size == 2)
        return length >= LENGTH_16;
    if (size == 8)
        return length > UINT16_MAX && length <= INT64_MAX;
    return true;
}

static void begin_payload(struct websocket *websocket)
{
    memcpy(websocket->mask, websocket->head + 2 + length_size(websocket), MASK_SIZE);
    websocket->head_size = 0;
    if (is_control(websocket)) {
        websocket->phase = IN_CONTROL;
        websocket->control_size = 0;
        return;
    }
    websocket->phase = IN_DATA;
    if (opcode_of(websocket) != CONTINUATION) {
        websocket->text = opcode_of(websocket) == TEXT;
        websocket->unspoken = true;
        websocket->utf8 = UTF8_WHOLE;
    }
    websocket->in_message = !is_final(websocket);
}

/* Moves input to the head until that has `wanted` bytes. */
static bool collect_head(struct websocket *websocket, uint8_t **input, size_t *size, size_t wanted)
{
    while (websocket->head_size<wanted && * size> 0) {
        websocket->head[websocket->head_size++] = *(*input)++;
        --*size;
    }
    return websocket->head_size >= wanted;
}

/* A head that is wrong from its beginning is refused there, whatever may follow. */
static enum codec_event decode_head(struct websocket *websocket, uint8_t **input, size_t *size)
{
    if (!collect_head(websocket, input, size, 2))
        return CODEC_MORE;
    if (!may_begin(websocket)) {
        fail(websocket);
        return CODEC_FAILED;
    }
    if (!collect_head(websocket, input, size, 2 + length_size(websocket) + MASK_SIZE))
        return CODEC_MORE;
    if (!take_length(websocket)) {
        fail(websocket);
        return CODEC_FAILED;
    }
    begin_payload(websocket);
    return CODEC_PIECE;
}

/* ---- frames in: payload ---------------------------------------------------------- */

/* Takes what there is of this frame's payload off the input, unmasked. */
static size_t take_payload(struct websocket *websocket, uint8_t **input, size_t *size)
{
    size_t count = websocket->left < *size ? (size_t)websocket->left : *size;
    unmask(*input, count, websocket->mask);
    websocket->left -= count;
    *input += count;
    *size -= count;
    return count;
}

/* Text that is not UTF-8 fails where no byte that follows could mend it (8.1), or where it ends
 * within a character. */
static bool is_well_formed(struct websocket *websocket, const struct piece *piece)
{
    if (!piece->text)
        return true;
    websocket->utf8 = utf8_check(websocket->utf8, piece->bytes, piece->size);
    return websocket->utf8 == UTF8_WHOLE || (websocket->utf8 != UTF8_BROKEN && !piece->last);
}

/* CODEC_PIECE when there is something to pass on: an empty piece only where the message ends with
 * it. */
static enum codec_event decode_data(
    struct websocket *websocket, uint8_t **input, size_t *size, struct piece *piece)
{
    piece->bytes = *input;
    piece->size = take_payload(websocket, input, size);
    piece->text = websocket->text;
    piece->first = websocket->unspoken;
    piece->last = websocket->left == 0 && !websocket->in_message;
    if (websocket->left == 0)
        websocket->phase = IN_HEAD;
    if (!is_well_formed(websocket, piece)) {
        end(websocket, true, WEBSOCKET_INVALID_DATA);
        return CODEC_FAILED;
    }
    if (piece->size == 0 && !piece->last)
        return CODEC_MORE;
    websocket->unspoken = false;
    return CODEC_PIECE;
}

/* Codes that may be sent (7.4): those defined, and those left to libraries and applications. */
static bool is_code(uint16_t code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

/* A close frame: empty, or a code and a reason in UTF-8 (5.5.1). */
static enum codec_event take_close(struct websocket *websocket)
{
    const uint8_t *payload = websocket->control + CONTROL_HEAD;
    size_t size = websocket->control_size;
    uint16_t code = size < 2 ? 0 : (uint16_t)get_big_endian(payload, 2);
    if (size == 1 || (size >= 2 && !is_code(code)))
        fail(websocket);
    else if (size > 2 && !utf8_valid(payload + 2, size - 2))
        end(websocket, true, WEBSOCKET_INVALID_DATA);
    else
        end(websocket, false, code);
    return websocket->failed ? CODEC_FAILED : CODEC_CLOSED;
}

static enum codec_event take_control(struct websocket *websocket, struct piece *piece)
{
    websocket->phase = IN_HEAD;
    switch (opcode_of(websocket)) {
    case CLOSE:
        return take_close(websocket);
    case PING: /* answered with the same payload (5.5.3) */
        websocket->control[0] = FINAL | PONG;
        websocket->control[1] = websocket->control_size;
        piece->bytes = websocket->control;
        piece->size = CONTROL_HEAD + (size_t)websocket->control_size;
        return CODEC_REPLY;
    default:
        return CODEC_LIFE;
    }
}

static enum codec_event decode_control(
    struct websocket *websocket, uint8_t **input, size_t *size, struct piece *piece)
{
    uint8_t *start = *input;
    size_t count = take_payload(websocket, input, size);
    memcpy(websocket->control + CONTROL_HEAD + websocket->control_size, start, count);
    websocket->control_size = (uint8_t)(websocket->control_size + count);
    return websocket->left > 0 ? CODEC_MORE : take_control(websocket, piece);
}

static enum codec_event websocket_decode(
    void *state, uint8_t **input, size_t *size, int64_t now, struct piece *piece)
{
    struct websocket *websocket = state;
    (void)now;
    if (*size > 0)
        websocket->pings = 0;
    for (;;) {
        enum codec_event event;
        switch (websocket->phase) {
        case IN_HEAD:
            event = decode_head(websocket, input, size);
            if (event != CODEC_PIECE)
                return event;
            break;
        case IN_DATA:
            event = decode_data(websocket, input, size, piece);
            if (event != CODEC_MORE || *size == 0)
                return event;
            break;
        case IN_CONTROL:
            return decode_control(websocket, input, size, piece);
        default:
            return websocket->failed ? CODEC_FAILED : CODEC_CLOSED;
        }
    }
}

/* ---- frames out ------------------------------------------------------------------ */

/* Writes the head of an unmasked frame so that it ends at `payload`, and returns its size. */
static size_t put_head(uint8_t *payload, uint8_t first, size_t size)
{
    size_t wide = size > UINT16_MAX ? 8 : size >= LENGTH_16 ? 2 : 0;
    uint8_t *head = payload - wide - 2;
    head[0] = first;
    head[1] = wide == 8 ? LENGTH_64 : wide == 2 ? LENGTH_16 : (uint8_t)size;
    put_big_endian(head + 2, wide, size);
    return wide + 2;
}

static int websocket_encode(void *state, const struct piece *piece, int64_t now, struct iovec *out)
{
    (void)state;
    (void)now;
    uint8_t opcode = !piece->first ? CONTINUATION : piece->text ? TEXT : BINARY;
    uint8_t first = (uint8_t)(opcode | (piece->last ? FINAL : 0));
    size_t head = put_head(piece->bytes, first, piece->size);
    *out = (struct iovec){piece->bytes - head, head + piece->size};
    return 0;
}

/* How much of a reason fits, without cutting a character in two. */
static size_t reason_size(const char *reason)
{
    size_t size = reason == NULL ? 0 : strlen(reason);
    if (size <= WEBSOCKET_REASON_MAX)
        return size;
    size = WEBSOCKET_REASON_MAX;
    while (size > 0 && ((uint8_t)reason[size] & 0xc0) == 0x80)
        size--;
    return size;
}

static size_t put_close(uint8_t *out, uint16_t code, const char *reason)
{
    uint8_t *payload = out + CONTROL_HEAD;
    size_t size = 0;
    if (code != 0) {
        size = reason_size(reason);
        put_big_endian(payload, 2, code);
        if (size > 0)
            memcpy(payload + 2, reason, size);
        size += 2;
    }
    return put_head(payload, FINAL | CLOSE, size) + size;
}

/* A close that was received is answered with its own code, or without one if it had none
 * (5.5.1). Nothing follows a close. */
static size_t websocket_farewell(void *state, uint16_t code, const char *reason, uint8_t *out)
{
    struct websocket *websocket = state;
    if (websocket->close_sent)
        return 0;
    websocket->close_sent = true;
    if (code == 0) {
        bool over = websocket->phase == IN_NOTHING;
        code = over ? websocket->code : WEBSOCKET_NORMAL;
        reason = "";
    }
    return put_close(out, code, reason);
}

/* ---- the codec ------------------------------------------------------------------- */

static int websocket_open(
    void *state, const uint8_t *session, size_t size, int64_t now, struct budget_account *account)
{
    (void)state;
    (void)session;
    (void)now;
    (void)account;
    return size == 0 ? 0 : -EBADMSG;
}

static void websocket_wipe(void *state)
{
    sodium_memzero(state, sizeof(struct websocket));
}

static int websocket_silent(void *state, int64_t now, struct iovec *out)
{
    static uint8_t ping[CONTROL_HEAD] = {FINAL | PING, 0};
    struct websocket *websocket = state;
    (void)now;
    *out = (struct iovec){ping, sizeof ping};
    if (websocket->pings == PINGS_MAX)
        return -ETIMEDOUT;
    websocket->pings++;
    return 0;
}

const struct codec websocket_codec = {
    .name = "websocket",
    .state_size = sizeof(struct websocket),
    .open = websocket_open,
    .close = websocket_wipe,
    .decode = websocket_decode,
    .encode = websocket_encode,
    .in_place = true,
    .farewell = websocket_farewell,
    .mutual_close = true,
    .silent = websocket_silent,
    .silent_time = SILENT_TIME,
    .silent_jitter = SILENT_JITTER,
    .replies_live = true,
};

/* ---- in a greeting --------------------------------------------------------------- */

static void part(const struct greeting *greeting, struct websocket *websocket, uint16_t code)
{
    uint8_t words[CODEC_FAREWELL_MAX];
    greeting_say(greeting, words, websocket_farewell(websocket, code, "", words));
}

struct reader {
    struct websocket websocket;
    uint8_t *buffer; /* for the message */
    size_t size;     /* of the buffer */
    size_t done;     /* of the message */
    bool text;
    bool whole;
};

static int keep(struct reader *reader, const struct piece *piece)
{
    if (piece->size > reader->size - reader->done)
        return -EMSGSIZE;
    memcpy(reader->buffer + reader->done, piece->bytes, piece->size);
    reader->done += piece->size;
    reader->text = piece->text;
    reader->whole = piece->last;
    return 0;
}

/* Decodes up to the end of the message or of the input, and returns 0 or a negative errno. */
static int read_bytes(
    const struct greeting *greeting, struct reader *reader, uint8_t **input, size_t *size)
{
    int error = 0;
    while (error == 0 && !reader->whole) {
        struct piece piece;
        switch (websocket_decode(&reader->websocket, input, size, 0, &piece)) {
        case CODEC_PIECE:
            error = keep(reader, &piece);
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
        case CODEC_STARVED: /* it never is */
            error = -EPROTO;
            break;
        }
    }
    return error;
}

/* Peeks at the head of the frame that comes next, and returns the size of the whole frame, or 0 if
 * it is one that is refused, or has others behind it in its message, or is too large to be peeked
 * at. */
static ssize_t measure_frame(const struct greeting *greeting, const struct reader *reader)
{
    uint8_t head[HEAD_IN_MAX];
    size_t known = 0;
    for (;;) {
        ssize_t count = greeting_peek_more(greeting, head, sizeof head, known);
        if (count <= 0)
            return count == 0 ? -ECONNRESET : count;
        struct websocket probe = reader->websocket;
        uint8_t *input = head;
        size_t left = known = (size_t)count;
        enum codec_event event = decode_head(&probe, &input, &left);
        if (event == CODEC_MORE)
            continue;
        if (event != CODEC_PIECE || !is_final(&probe) || probe.left > FRAME_PEEKED_MAX)
            return 0;
        return input - head + (ssize_t)probe.left;
    }
}

/* Between two frames, waits until the next one is whole, as nothing is to be consumed before. One
 * that cannot be waited for so keeps its worker. *limit: how much may be read. */
static int await_frame(const struct greeting *greeting, const struct reader *reader, size_t *limit)
{
    uint8_t frame[HEAD_IN_MAX + FRAME_PEEKED_MAX];
    const struct websocket *websocket = &reader->websocket;
    bool between = websocket->phase == IN_HEAD && websocket->head_size == 0;
    if (greeting->hearing == NULL || greeting->records != NULL || !between || websocket->in_message)
        return 0;
    greeting_settle(greeting);
    ssize_t size = measure_frame(greeting, reader);
    if (size <= 0)
        return size == 0 ? greeting_hold(greeting) : (int)size;
    if ((size_t)size < *limit)
        *limit = (size_t)size;
    return greeting_await(greeting, frame, (size_t)size);
}

/* Reads what there is, and consumes what was understood of it. */
static int read_some(const struct greeting *greeting, struct reader *reader)
{
    uint8_t bytes[READ_SIZE];
    uint8_t *input = bytes;
    size_t limit = sizeof bytes;
    int waited = await_frame(greeting, reader, &limit);
    if (waited != 0)
        return waited;
    ssize_t count = greeting_peek(greeting, bytes, limit);
    if (count <= 0)
        return count == 0 ? -ECONNRESET : (int)count;
    size_t left = (size_t)count;
    int error = read_bytes(greeting, reader, &input, &left);
    bool announced =
        reader->websocket.phase == IN_DATA && reader->websocket.left > reader->size - reader->done;
    if (error == 0 && announced)
        error = -EMSGSIZE;
    int lost = greeting_read(greeting, bytes, (size_t)count - left);
    sodium_memzero(bytes, sizeof bytes);
    return error != 0 ? error : lost;
}

ssize_t websocket_read(const struct greeting *greeting, uint8_t *buffer, size_t size, bool *text)
{
    struct reader reader = {.buffer = buffer, .size = size};
    int error = 0;
    while (error == 0 && !reader.whole)
        error = read_some(greeting, &reader);
    if (error == -EMSGSIZE)
        part(greeting, &reader.websocket, WEBSOCKET_TOO_BIG);
    else if (error != 0 && reader.websocket.phase == IN_NOTHING)
        part(greeting, &reader.websocket, 0);
    sodium_memzero(&reader.websocket, sizeof reader.websocket);
    *text = reader.text;
    return error == 0 ? (ssize_t)reader.done : error;
}
