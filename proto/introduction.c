/* Introductions in MessagePack. libmpack turns bytes into tokens and tokens into bytes, and
 * allocates nothing; this file decides what the tokens mean. */
#include "proto/introduction.h"

#include "codec/utf8.h"

#include <mpack.h>
#include <string.h>

enum {
    TEXT_HEAD_MAX = 5,
    HEADS = 64, /* more bytes than an Introduction has without its ids */
};

struct reader {
    mpack_tokbuf_t tokens;
    const char *at;
    size_t size;
};

/* ---- reading --------------------------------------------------------------------- */

static struct reader reader_of(const char *bytes, size_t size)
{
    struct reader reader = {.at = bytes, .size = size};
    mpack_tokbuf_init(&reader.tokens);
    return reader;
}

static bool take_token(struct reader *reader, mpack_token_t *token)
{
    return reader->size > 0 &&
           mpack_read(&reader->tokens, &reader->at, &reader->size, token) == MPACK_OK;
}

/* Takes the bytes of a string, binary or extension, whose head has been taken. */
static bool take_bytes(struct reader *reader, uint32_t length, struct text *text)
{
    mpack_token_t chunk;
    *text = (struct text){reader->at, length};
    if (length == 0)
        return true;
    return take_token(reader, &chunk) && chunk.type == MPACK_TOKEN_CHUNK && chunk.length == length;
}

static bool has_bytes(const mpack_token_t *token)
{
    return token->type == MPACK_TOKEN_STR || token->type == MPACK_TOKEN_BIN ||
           token->type == MPACK_TOKEN_EXT;
}

/* Takes a string. False, and nothing is taken, if the next value is not a string. */
static bool take_text(struct reader *reader, struct text *text)
{
    struct reader ahead = *reader;
    mpack_token_t token;
    if (!take_token(&ahead, &token) || !has_bytes(&token) || token.type == MPACK_TOKEN_EXT ||
        !take_bytes(&ahead, token.length, text))
        return false;
    *reader = ahead;
    return true;
}

/* Takes any value with all that is in it. It counts the values that are left, and does not recurse,
 * so a deep value costs no stack. */
static bool skip_value(struct reader *reader)
{
    uint64_t left = 1;
    while (left > 0) {
        mpack_token_t token;
        struct text ignored;
        if (!take_token(reader, &token))
            return false;
        left--;
        if (token.type == MPACK_TOKEN_ARRAY)
            left += token.length;
        else if (token.type == MPACK_TOKEN_MAP)
            left += 2 * (uint64_t)token.length;
        else if (has_bytes(&token) && !take_bytes(reader, token.length, &ignored))
            return false;
    }
    return true;
}

/* Clients send the heart with or without the variation selector that makes it red. */
static bool is_heartbeat(struct text type)
{
    return text_is(type, "Heartbeat") || text_is(type, "\xe2\x9d\xa4\xef\xb8\x8f") ||
           text_is(type, "\xe2\x9d\xa4");
}

static bool read_type(struct reader *reader, enum introduction_kind *kind)
{
    struct text type;
    *kind = INTRODUCTION_IGNORED;
    if (!take_text(reader, &type))
        return skip_value(reader);
    if (text_is(type, "Join"))
        *kind = INTRODUCTION_JOIN;
    else if (text_is(type, "Leave"))
        *kind = INTRODUCTION_LEAVE;
    else if (is_heartbeat(type))
        *kind = INTRODUCTION_HEARTBEAT;
    return true;
}

static bool read_documents(
    struct reader *reader, struct introduction_documents *documents, bool *excess)
{
    mpack_token_t array;
    if (!take_token(reader, &array) || array.type != MPACK_TOKEN_ARRAY)
        return false;
    *documents = (struct introduction_documents){.at = reader->at, .left = array.length};
    *excess = array.length > INTRODUCTION_DOCUMENTS_MAX;
    for (uint32_t i = 0; i < array.length; i++) {
        struct text id;
        if (!take_text(reader, &id) || id.size == 0 ||
            !utf8_valid((const uint8_t *)id.bytes, id.size))
            return false;
        *excess = *excess || id.size > INTRODUCTION_ID_MAX;
    }
    documents->end = reader->at;
    return true;
}

static bool read_map(struct reader *reader, enum introduction_kind *kind,
    struct introduction_documents *documents, bool *excess)
{
    mpack_token_t map;
    if (!take_token(reader, &map) || map.type != MPACK_TOKEN_MAP)
        return false;
    for (uint32_t i = 0; i < map.length; i++) {
        struct text key;
        bool good;
        if (!take_text(reader, &key))
            good = skip_value(reader) && skip_value(reader);
        else if (text_is(key, "type"))
            good = read_type(reader, kind);
        else if (text_is(key, "documentIds"))
            good = read_documents(reader, documents, excess);
        else
            good = skip_value(reader);
        if (!good)
            return false;
    }
    return reader->size == 0;
}

enum introduction_kind introduction_read(
    const uint8_t *bytes, size_t size, struct introduction_documents *documents)
{
    static const struct introduction_documents none = {.left = 0};
    struct reader reader = reader_of((const char *)bytes, size);
    enum introduction_kind kind = INTRODUCTION_IGNORED;
    bool excess = false;
    *documents = none;
    if (!read_map(&reader, &kind, documents, &excess))
        kind = INTRODUCTION_IGNORED;
    else if (excess && (kind == INTRODUCTION_JOIN || kind == INTRODUCTION_LEAVE))
        kind = INTRODUCTION_EXCESS;
    if (kind != INTRODUCTION_JOIN && kind != INTRODUCTION_LEAVE)
        *documents = none;
    return kind;
}

bool introduction_next(struct introduction_documents *documents, struct text *id)
{
    if (documents->left == 0)
        return false;
    struct reader reader = reader_of(documents->at, (size_t)(documents->end - documents->at));
    documents->left--;
    bool taken = take_text(&reader, id);
    documents->at = reader.at;
    return taken;
}

/* ---- writing --------------------------------------------------------------------- */

struct writer {
    mpack_tokbuf_t tokens;
    char *at;
    size_t left;
    bool full;
};

static void put_token(struct writer *writer, mpack_token_t token)
{
    writer->full = writer->full || writer->left == 0 ||
                   mpack_write(&writer->tokens, &writer->at, &writer->left, &token) != MPACK_OK;
}

static void put_text(struct writer *writer, struct text text)
{
    put_token(writer, mpack_pack_str((uint32_t)text.size));
    if (text.size > 0)
        put_token(writer, mpack_pack_chunk(text.bytes, (uint32_t)text.size));
}

static void put_word(struct writer *writer, const char *word)
{
    put_text(writer, (struct text){word, strlen(word)});
}

size_t introduction_room(struct text peer, const struct text *documents, size_t count)
{
    size_t room = HEADS + peer.size;
    for (size_t i = 0; i < count; i++)
        room += TEXT_HEAD_MAX + documents[i].size;
    return room;
}

size_t introduction_write(
    uint8_t *out, size_t size, struct text peer, const struct text *documents, size_t count)
{
    struct writer writer = {.at = (char *)out, .left = size};
    mpack_tokbuf_init(&writer.tokens);
    put_token(&writer, mpack_pack_map(3));
    put_word(&writer, "type");
    put_word(&writer, "Introduction");
    put_word(&writer, "peerId");
    put_text(&writer, peer);
    put_word(&writer, "documentIds");
    put_token(&writer, mpack_pack_array((uint32_t)count));
    for (size_t i = 0; i < count; i++)
        put_text(&writer, documents[i]);
    return writer.full ? 0 : size - writer.left;
}
