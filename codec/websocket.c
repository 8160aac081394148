/* RFC 6455 framing as a codec. Numbers in parentheses are sections of the RFC. */
#include "codec/websocket.h"

#include "codec/utf8.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>

enum {
    FINAL = 0x80,      /* in a frame's first byte */
    RESERVED = 0x70,   /* bits of extensions */
    MASKED = 0x80,     /* in the second byte */
    LENGTH_16 = 126,   /* in the other bits of the second byte: the length follows, in two bytes */
    LENGTH_64 = 127,   /* the length follows, in eight bytes */
    CONTROL_MAX = 125, /* bytes of a control frame's payload (5.5) */
    CONTROL_HEAD = 2,
    SILENT_TIME = 25000, /* proxies close silent connections after 60 s */
    SILENT_JITTER = 3000,
    PINGS_MAX = 2, /* unanswered */
};

enum opcode {
    CONTINUATION = 0x0,
    TEXT = 0x1,
    BINARY = 0x2,
    CLOSE = 0x8, /* from here on: control frames */
    PING = 0x9,
    PONG = 0xa,
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

/* As many bytes as a vector register has, at any address. gcc does not vectorize a plain loop at
 * -O2, and vectors are three times as fast. */
typedef uint32_t lane __attribute__((vector_size(16), aligned(1), may_alias));

/* Applies the mask in place, and rotates it for the bytes that follow (5.3). */
static void unmask(uint8_t *bytes, size_t size, uint8_t mask[WEBSOCKET_MASK_SIZE])
{
    uint8_t rotated[WEBSOCKET_MASK_SIZE];
    uint32_t word;
    size_t at = 0;
    memcpy(&word, mask, WEBSOCKET_MASK_SIZE);
    for (; size - at >= 4 * sizeof(lane); at += 4 * sizeof(lane)) {
        lane *lanes = (lane *)(bytes + at);
        lanes[0] ^= word;
        lanes[1] ^= word;
        lanes[2] ^= word;
        lanes[3] ^= word;
    }
    for (; at < size; at++)
        bytes[at] ^= mask[at % WEBSOCKET_MASK_SIZE];
    for (size_t i = 0; i < WEBSOCKET_MASK_SIZE; i++)
        rotated[i] = mask[(size + i) % WEBSOCKET_MASK_SIZE];
    memcpy(mask, rotated, WEBSOCKET_MASK_SIZE);
}

/* ---- frames in: the head --------------------------------------------------------- */

static void end_input(struct websocket *websocket, bool failed, uint16_t code)
{
    websocket->phase = WEBSOCKET_ENDED;
    websocket->failed = failed;
    websocket->code = code;
}

static void fail_protocol(struct websocket *websocket)
{
    end_input(websocket, true, WEBSOCKET_PROTOCOL_ERROR);
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

/* Whether the next frame may begin with these two bytes (5.1, 5.2, 5.4, 5.5). */
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

/* Reads the length. False unless it has its shortest form (5.2). */
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
    memcpy(websocket->mask, websocket->head + 2 + length_size(websocket), WEBSOCKET_MASK_SIZE);
    websocket->head_size = 0;
    if (is_control(websocket)) {
        websocket->phase = WEBSOCKET_IN_CONTROL;
        websocket->control_size = 0;
        return;
    }
    websocket->phase = WEBSOCKET_IN_DATA;
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
    while (*size > 0 && websocket->head_size < wanted) {
        websocket->head[websocket->head_size++] = *(*input)++;
        --*size;
    }
    return websocket->head_size >= wanted;
}

/* A head with two wrong first bytes is refused before the rest has come. */
static enum codec_event decode_head(struct websocket *websocket, uint8_t **input, size_t *size)
{
    if (!collect_head(websocket, input, size, 2))
        return CODEC_MORE;
    if (!may_begin(websocket)) {
        fail_protocol(websocket);
        return CODEC_FAILED;
    }
    if (!collect_head(websocket, input, size, 2 + length_size(websocket) + WEBSOCKET_MASK_SIZE))
        return CODEC_MORE;
    if (!take_length(websocket)) {
        fail_protocol(websocket);
        return CODEC_FAILED;
    }
    begin_payload(websocket);
    return CODEC_PIECE;
}

/* ---- frames in: payload ---------------------------------------------------------- */

/* Takes the payload of this frame that is there off the input, and unmasks it. */
static size_t take_payload(struct websocket *websocket, uint8_t **input, size_t *size)
{
    size_t count = websocket->left < *size ? (size_t)websocket->left : *size;
    unmask(*input, count, websocket->mask);
    websocket->left -= count;
    *input += count;
    *size -= count;
    return count;
}

/* Text fails at the first byte that cannot be UTF-8 (8.1), or where the message ends within a
 * character. */
static bool is_well_formed(struct websocket *websocket, const struct piece *piece)
{
    if (!piece->text)
        return true;
    websocket->utf8 = utf8_check(websocket->utf8, piece->bytes, piece->size);
    return websocket->utf8 == UTF8_WHOLE || (websocket->utf8 != UTF8_BROKEN && !piece->last);
}

/* Returns CODEC_PIECE when there is something to pass on. A piece is empty only at the end of a
 * message. */
static enum codec_event decode_data(
    struct websocket *websocket, uint8_t **input, size_t *size, struct piece *piece)
{
    piece->bytes = *input;
    piece->size = take_payload(websocket, input, size);
    piece->text = websocket->text;
    piece->first = websocket->unspoken;
    piece->last = websocket->left == 0 && !websocket->in_message;
    if (websocket->left == 0)
        websocket->phase = WEBSOCKET_IN_HEAD;
    if (!is_well_formed(websocket, piece)) {
        end_input(websocket, true, WEBSOCKET_INVALID_DATA);
        return CODEC_FAILED;
    }
    if (piece->size == 0 && !piece->last)
        return CODEC_MORE;
    websocket->unspoken = false;
    return CODEC_PIECE;
}

/* Whether a client may send this code (7.4): it is registered, or free for applications. */
static bool is_code(uint16_t code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

/* A close frame is empty, or has a code and a reason in UTF-8 (5.5.1). */
static enum codec_event take_close(struct websocket *websocket)
{
    const uint8_t *payload = websocket->control + CONTROL_HEAD;
    size_t size = websocket->control_size;
    uint16_t code = size < 2 ? 0 : (uint16_t)get_big_endian(payload, 2);
    if (size == 1 || (size >= 2 && !is_code(code)))
        fail_protocol(websocket);
    else if (size > 2 && !utf8_valid(payload + 2, size - 2))
        end_input(websocket, true, WEBSOCKET_INVALID_DATA);
    else
        end_input(websocket, false, code);
    return websocket->failed ? CODEC_FAILED : CODEC_CLOSED;
}

static enum codec_event take_control(struct websocket *websocket, struct piece *piece)
{
    websocket->phase = WEBSOCKET_IN_HEAD;
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
        case WEBSOCKET_IN_HEAD:
            event = decode_head(websocket, input, size);
            if (event != CODEC_PIECE)
                return event;
            break;
        case WEBSOCKET_IN_DATA:
            event = decode_data(websocket, input, size, piece);
            if (event != CODEC_MORE || *size == 0)
                return event;
            break;
        case WEBSOCKET_IN_CONTROL:
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

/* How many bytes of a reason fit, in whole characters. */
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

/* A close frame is answered with its code, or without a code if it has none (5.5.1). Nothing is
 * sent after a close frame. */
static size_t websocket_farewell(void *state, uint16_t code, const char *reason, uint8_t *out)
{
    struct websocket *websocket = state;
    if (websocket->close_sent)
        return 0;
    websocket->close_sent = true;
    if (code == 0) {
        bool over = websocket->phase == WEBSOCKET_ENDED;
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

bool websocket_is_between(const struct websocket *websocket)
{
    return websocket->phase == WEBSOCKET_IN_HEAD && websocket->head_size == 0 &&
           !websocket->in_message;
}

ssize_t websocket_measure(const struct websocket *websocket, uint8_t *head, size_t size, size_t max)
{
    struct websocket probe = *websocket;
    uint8_t *input = head;
    size_t left = size;
    enum codec_event event = decode_head(&probe, &input, &left);
    if (event == CODEC_MORE)
        return 0;
    if (event != CODEC_PIECE || !is_final(&probe))
        return -EPROTO;
    return probe.left > max ? -EMSGSIZE : input - head + (ssize_t)probe.left;
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
