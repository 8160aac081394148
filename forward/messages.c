/* Moving messages: see messages.h. All pieces that came with one read are encoded in place,
 * gathered, and written with one call. */
#include "forward/messages.h"

#include "codec/websocket.h"
#include "protocol.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum {
    HELD_MAX = 1 << 18,       /* bytes held, past which a parked connection is not read */
    HELD_MIN = 1 << 12,       /* the same, when connections hold too much memory */
    HELD_MIN_LOBBY = 1 << 16, /* the same in the lobby, where one message must fit */
    PARKED_CHUNK = 1 << 14,   /* bytes to read at once without a peer */
    REPLIES_MAX = 1 << 12,    /* bytes of waiting replies, past which a connection is not read */
    HELD_ROOM_MIN = 256,
    CHUNK_MIN = 1 << 12,
    EVENT_BYTES = 1 << 14, /* to pass on so many bytes costs about as much as an event */
    EVENTS_FAIR = 1 << 9,  /* of one connection, before others have their turn: about */
};

/* The head of a held piece. It lies in the room that the encoder needs in front of the piece. */
struct held_piece {
    uint32_t size;
    bool text, first, last;
};

static_assert((int)CODEC_HEAD <= (int)TRANSFER_HEADROOM, "what is read is encoded in place");
static_assert(sizeof(struct held_piece) <= CODEC_HEAD, "a held piece has room for its head");

/* ---- opening and closing --------------------------------------------------------- */

int messages_open(struct connection *connection, const struct handoff *handoff, int64_t now)
{
    const struct codec *codec = codecs[handoff->codec];
    size_t name_size;
    const uint8_t *name = handoff_name(handoff, &name_size);
    struct coded *coded = calloc(1, sizeof *coded + codec->state_size + name_size);
    if (coded == NULL)
        return -ENOMEM;
    coded->codec = codec;
    coded->connection = connection;
    connection->chunk = PARKED_CHUNK;
    coded->name = (uint8_t *)coded->state + codec->state_size;
    coded->name_size = name_size;
    memcpy(coded->name, name, name_size);
    budget_take(&connection->account, name_size);
    coded->deaf = protocols[connection->protocol]->deaf_at_first && !handoff->lobby;
    connection->coded = coded;
    int error = codec->open(
        coded->state, handoff->session, handoff->session_size, now, &connection->account);
    if (error != 0)
        messages_close(connection);
    return error;
}

void messages_close(struct connection *connection)
{
    struct coded *coded = connection->coded;
    if (coded == NULL)
        return;
    deadline_clear(&coded->quiet);
    deadline_clear(&coded->silent);
    deadline_clear(&coded->deaf_until);
    messages_forget(connection);
    coded->codec->close(coded->state);
    budget_give(&connection->account, coded->name_size);
    connection->coded = NULL;
    free(coded);
}

bool messages_have_room_for_name(const struct connection *connection)
{
    return connection->coded == NULL ||
           connection->coded->name_size <=
               budget_allowance(BUDGET_WAITING, HANDOFF_NAME_MAX, SIZE_MAX);
}

/* ---- writing --------------------------------------------------------------------- */

static void write_gathered(struct transfer *transfer, struct connection *to)
{
    transfer_write(to, transfer->parts, transfer->part_count);
    transfer->part_count = 0;
}

/* Encodes a piece for a connection, and gathers it. */
static void encode_for(struct transfer *transfer, struct connection *to, const struct piece *piece)
{
    struct coded *coded = to->coded;
    struct iovec out = {piece->bytes, piece->size};
    if (to->finished)
        return;
    if (coded != NULL) {
        int error = coded->codec->encode(coded->state, piece, transfer->now, &out);
        if (error != 0) {
            to->starved = to->starved || error == -ENOMEM;
            to->broken = true;
            transfer_lose(to);
            return;
        }
        coded->sent = true;
        coded->speaking = !piece->last;
    }
    if (out.iov_len == 0)
        return;
    transfer->parts[transfer->part_count++] = out;
    if (transfer->part_count == TRANSFER_PARTS || (coded != NULL && !coded->codec->in_place))
        write_gathered(transfer, to);
}

/* The message is copied, as an encoder changes it in place and writes a head in front of it. */
bool messages_say(
    struct transfer *transfer, struct connection *connection, const uint8_t *message, size_t size)
{
    uint8_t *copy = malloc(CODEC_HEAD + size);
    if (copy == NULL)
        return false;
    struct piece piece = {copy + CODEC_HEAD, size, false, true, true};
    memcpy(piece.bytes, message, size);
    encode_for(transfer, connection, &piece);
    write_gathered(transfer, connection);
    free(copy);
    return true;
}

bool messages_speak(struct transfer *transfer, struct connection *connection,
    const struct words *words, bool closing)
{
    uint8_t speech[PROTOCOL_SPEECH_MAX];
    struct coded *coded = connection->coded;
    bool parting = closing && (coded == NULL || !coded->parted);
    if (closing && !parting)
        return false;
    size_t size = protocol_speech(coded == NULL ? NULL : coded->codec,
        coded == NULL ? NULL : coded->state, words, parting, transfer->now, speech);
    if (coded != NULL)
        coded->parted = coded->parted || closing;
    transfer_say(connection, speech, size);
    return size > 0;
}

/* ---- reading --------------------------------------------------------------------- */

/* A reply to the client's own bytes goes out before all that is encoded later. */
static void reply(struct connection *connection, const struct piece *piece)
{
    struct coded *coded = connection->coded;
    if (coded->parted)
        return;
    transfer_gather(connection, piece->bytes, piece->size);
    coded->replies += piece->size;
}

static void write_replies(struct connection *connection)
{
    struct coded *coded = connection->coded;
    if (coded->replies == 0)
        return;
    transfer_flush(connection);
    if (!transfer_pending(connection))
        coded->replies = 0;
}

/* Large reads are cheaper. But a read of many small messages would delay other connections, and
 * what a slow reader does not take has to be kept in memory. */
static void adapt_chunk(struct connection *from, size_t events)
{
    bool slow = from->peer != NULL && transfer_pending(from->peer);
    bool whole = from->coded != NULL && !from->coded->codec->in_place;
    size_t most = whole ? TRANSFER_CHUNK : TRANSFER_SCRATCH;
    if (events > EVENTS_FAIR && from->chunk > CHUNK_MIN)
        from->chunk /= 2;
    else if (slow && from->chunk > TRANSFER_CHUNK)
        from->chunk = TRANSFER_CHUNK;
    else if (!slow && from->readable && events < EVENTS_FAIR / 4 && from->chunk < most)
        from->chunk *= 2;
}

/* Decodes what was read, and gives each piece to take() until that returns false. Returns how many
 * events there were. */
static size_t decode_all(const struct transfer *transfer, struct connection *from, uint8_t *input,
    size_t size, messages_taker *take, void *context)
{
    struct coded *coded = from->coded;
    struct piece piece;
    for (size_t events = 0;; events++) {
        enum codec_event event =
            coded->codec->decode(coded->state, &input, &size, transfer->now, &piece);
        switch (event) {
        case CODEC_MORE:
            return events;
        case CODEC_PIECE:
            coded->heard = true;
            if (!take(context, from, &piece))
                return events;
            break;
        case CODEC_REPLY:
            coded->heard = coded->heard || coded->codec->replies_live;
            reply(from, &piece);
            break;
        case CODEC_LIFE:
            coded->heard = true;
            break;
        case CODEC_CLOSED:
        case CODEC_FAILED:
        case CODEC_STARVED:
            coded->verdict = event;
            from->starved = from->starved || event == CODEC_STARVED;
            from->ended = true;
            return events;
        }
    }
}

static size_t decode(const struct transfer *transfer, struct connection *from, uint8_t *input,
    size_t size, messages_taker *take, void *context)
{
    size_t events = decode_all(transfer, from, input, size, take, context);
    from->coded->deaf = from->coded->deaf && events == 0;
    write_replies(from);
    return events;
}

static bool hold_for_peer(void *context, struct connection *from, struct piece *piece)
{
    (void)context;
    if (!messages_hold(from, piece))
        from->ended = from->broken = true;
    return !from->ended;
}

static bool pass_to_peer(void *context, struct connection *from, struct piece *piece)
{
    struct transfer *transfer = context;
    transfer_count(transfer, from, piece->size);
    if (piece->text && protocols[from->protocol]->binary_only) {
        from->coded->unwelcome = true;
        from->coded->close_code = WEBSOCKET_UNSUPPORTED;
        from->ended = true;
        return false;
    }
    encode_for(transfer, from->peer, piece);
    return true;
}

/* A client that sends much that has to be answered, and does not read the answers, is not read. */
static bool is_held_up(const struct connection *connection)
{
    return connection->coded != NULL && connection->coded->replies > REPLIES_MAX &&
           transfer_pending(connection);
}

static void move_once(struct transfer *transfer, struct connection *from)
{
    uint64_t moved = transfer->moved;
    bool held = from->coded != NULL && !messages_may_write(from->peer);
    size_t chunk = held ? PARKED_CHUNK : from->chunk;
    size_t size =
        transfer_read(transfer, from, budget_allowance(BUDGET_STREAMS, TRANSFER_CHUNK_MIN, chunk));
    size_t events = 0;
    if (size == 0)
        return;
    if (held) {
        events = decode(transfer, from, transfer->scratch, size, hold_for_peer, NULL);
    } else if (from->coded != NULL) {
        events = decode(transfer, from, transfer->scratch, size, pass_to_peer, transfer);
    } else {
        struct piece piece = {transfer->scratch, size, false, true, true};
        transfer_count(transfer, from, size);
        encode_for(transfer, from->peer, &piece);
    }
    write_gathered(transfer, from->peer);
    adapt_chunk(from, events + (size_t)(transfer->moved - moved) / EVENT_BYTES);
}

bool messages_are_full(const struct connection *connection)
{
    const struct coded *coded = connection->coded;
    if (coded == NULL ||
        (connection->state != CONNECTION_PARKED && connection->state != CONNECTION_LOBBY))
        return false;
    if (connection->state == CONNECTION_LOBBY)
        return coded->held_size >= budget_allowance(BUDGET_WAITING, HELD_MIN_LOBBY, SIZE_MAX);
    return coded->held_size >= budget_allowance(BUDGET_WAITING, HELD_MIN, HELD_MAX);
}

bool messages_may_read(const struct connection *connection)
{
    return !is_held_up(connection) && !messages_are_full(connection) &&
           !messages_are_held(connection);
}

bool messages_may_write(const struct connection *connection)
{
    return connection->coded == NULL || !connection->coded->deaf;
}

/* Makes room for `size` held bytes more. NULL: no memory, and the connection is to end. */
static uint8_t *extend_held(struct coded *coded, size_t size)
{
    size_t wanted = coded->held_size + size;
    if (wanted > coded->held_room) {
        size_t room = coded->held_room == 0 ? HELD_ROOM_MIN : 2 * coded->held_room;
        if (room < wanted)
            room = wanted;
        uint8_t *held = realloc(coded->held, room);
        if (held == NULL) {
            coded->connection->starved = true;
            return NULL;
        }
        budget_take(&coded->connection->account, room - coded->held_room);
        coded->held = held;
        coded->held_room = room;
    }
    uint8_t *at = coded->held + coded->held_size;
    coded->held_size = wanted;
    return at;
}

/* A few bytes of an Offset frame may unpack to many, so frames are kept as they came until there is
 * a peer. */
static bool is_held_as_it_came(const struct connection *connection)
{
    return connection->state == CONNECTION_PARKED && !connection->coded->codec->in_place;
}

static void hold_as_it_came(const struct transfer *transfer, struct connection *from, size_t size)
{
    uint8_t *at = extend_held(from->coded, size);
    if (at == NULL) {
        from->ended = from->broken = true;
        return;
    }
    memcpy(at, transfer->scratch, size);
    from->coded->heard = true;
}

bool messages_read(
    struct transfer *transfer, struct connection *from, messages_taker *take, void *context)
{
    if (from->readable && !from->ended && messages_may_read(from)) {
        size_t chunk = from->chunk < PARKED_CHUNK ? from->chunk : PARKED_CHUNK;
        size_t size = transfer_read(transfer, from, chunk);
        if (size > 0 && is_held_as_it_came(from))
            hold_as_it_came(transfer, from, size);
        else if (size > 0)
            adapt_chunk(from, decode(transfer, from, transfer->scratch, size, take, context));
    }
    return from->fd >= 0 && from->readable && !from->ended && messages_may_read(from);
}

/* ---- holding --------------------------------------------------------------------- */

bool messages_hold(struct connection *from, const struct piece *piece)
{
    struct held_piece head = {(uint32_t)piece->size, piece->text, piece->first, piece->last};
    uint8_t *at = extend_held(from->coded, CODEC_HEAD + piece->size);
    if (at == NULL)
        return false;
    memcpy(at, &head, sizeof head);
    memcpy(at + CODEC_HEAD, piece->bytes, piece->size);
    return true;
}

bool messages_are_held(const struct connection *connection)
{
    return connection->coded != NULL && connection->state == CONNECTION_JOINED &&
           connection->coded->held_size > 0;
}

/* Messages that were held before there was a peer stay in the share of waiting connections until
 * they are passed on: else a peer that does not read them could fill the share of pairs. */
void messages_settle(struct connection *connection)
{
    if (connection->coded != NULL && !connection->coded->codec->in_place)
        budget_move(&connection->account, BUDGET_FRAMES);
    else if (!messages_are_held(connection))
        budget_move(&connection->account, BUDGET_STREAMS);
}

static void release_frames(struct transfer *transfer, struct connection *from)
{
    struct coded *coded = from->coded;
    size_t left = coded->held_size - coded->released,
           size = left < TRANSFER_CHUNK ? left : TRANSFER_CHUNK;
    uint8_t *input = coded->held + coded->released;
    coded->released += size;
    (void)decode(transfer, from, input, size, pass_to_peer, transfer);
    write_gathered(transfer, from->peer);
}

static void release_pieces(struct transfer *transfer, struct connection *from)
{
    struct coded *coded = from->coded;
    size_t until = coded->released + TRANSFER_CHUNK;
    while (coded->released < coded->held_size && coded->released < until) {
        struct held_piece head;
        uint8_t *at = coded->held + coded->released;
        memcpy(&head, at, sizeof head);
        struct piece piece = {at + CODEC_HEAD, head.size, head.text, head.first, head.last};
        transfer_count(transfer, from, piece.size);
        encode_for(transfer, from->peer, &piece);
        coded->released += CODEC_HEAD + head.size;
    }
    write_gathered(transfer, from->peer);
}

static bool is_releasing(const struct connection *from)
{
    const struct coded *coded = from->coded;
    bool well = coded->codec->in_place || (coded->verdict == CODEC_MORE && !coded->unwelcome);
    return coded->released < coded->held_size && !from->peer->finished && well;
}

void messages_release(struct transfer *transfer, struct connection *from)
{
    const struct connection *to = from->peer;
    if (!messages_are_held(from))
        return;
    while (is_releasing(from) && !transfer_pending(to) && messages_may_write(to)) {
        if (from->coded->codec->in_place)
            release_pieces(transfer, from);
        else
            release_frames(transfer, from);
    }
    if (is_releasing(from))
        return;
    messages_drop_held(from);
    messages_settle(from);
}

static bool can_move(const struct transfer *transfer, const struct connection *from)
{
    return transfer_can_move(transfer, from) && messages_may_read(from);
}

bool messages_move(struct transfer *transfer, struct connection *from)
{
    transfer_flush(from->peer);
    messages_release(transfer, from);
    if (can_move(transfer, from))
        move_once(transfer, from);
    transfer_tidy(transfer, from);
    return can_move(transfer, from);
}

bool messages_assemble(struct connection *from, const struct piece *piece, size_t limit)
{
    struct coded *coded = from->coded;
    if (piece->size > limit || coded->held_size > limit - piece->size)
        return false;
    uint8_t *at = extend_held(coded, piece->size);
    if (at == NULL)
        return false;
    memcpy(at, piece->bytes, piece->size);
    return true;
}

void messages_drop_held(struct connection *connection)
{
    struct coded *coded = connection->coded;
    free(coded->held);
    budget_give(&connection->account, coded->held_room);
    coded->held = NULL;
    coded->held_size = coded->held_room = coded->released = 0;
}

void messages_forget(struct connection *connection)
{
    struct coded *coded = connection->coded;
    if (coded == NULL)
        return;
    messages_drop_held(connection);
    if (coded->codec->forget != NULL)
        coded->codec->forget(coded->state);
}
