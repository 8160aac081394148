/* Cap'n Proto, as far as Offset's messages need it: a reader that checks every pointer before it
 * follows it, and a writer of one segment. The layouts are those of Offset's schema.
 *
 * The segments of a message lie end to end, and words are counted from the start of the first, so a
 * place in a message is one number. The deepest path has six pointers, each with at most one far
 * pointer before it, so a cycle of pointers cannot keep the reader busy. */
#include "codec/capnp.h"

#include "codec/packing.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

enum {
    WORD = CAPNP_WORD,
    SEGMENTS_MAX = 511,
    DRAFT_WORDS = 32,
    ELEMENTS_OF_A_BYTE = 2, /* the size code of a list of bytes */

    FIXED = 0, /* the one pointer of Fixed128, Fixed256, Fixed512 */
};

static uint16_t load16(const uint8_t *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return le16toh(value);
}

static uint32_t load32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return le32toh(value);
}

static uint64_t load64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return le64toh(value);
}

static void store64(uint8_t *bytes, uint64_t value)
{
    value = htole64(value);
    memcpy(bytes, &value, sizeof value);
}

static size_t words_of(size_t bytes)
{
    return (bytes + WORD - 1) / WORD;
}

/* ---- reading ------------------------------------------------------------------------ */

struct message {
    uint8_t *bytes;
    uint32_t segments;
    uint32_t start[SEGMENTS_MAX + 1]; /* of each segment, in words; and the end of the last */
};

enum pointer_kind {
    POINTER_STRUCT,
    POINTER_LIST,
    POINTER_FAR,
};

/* A pointer after all far pointers are resolved, and where it leads, which is not checked yet. */
struct target {
    uint64_t pointer;
    uint32_t segment;
    int64_t at;
};

/* A structure that lies within its segment. That of a null pointer has no data and no pointers. */
struct view {
    const struct message *message;
    uint32_t segment;
    size_t at;
    size_t data, pointers; /* words each */
};

static uint64_t word_at(const struct message *message, size_t at)
{
    return load64(message->bytes + at * WORD);
}

static bool is_within(const struct message *message, uint32_t segment, int64_t at, size_t words)
{
    return at >= message->start[segment] && at + (int64_t)words <= message->start[segment + 1];
}

static enum pointer_kind kind_of(uint64_t pointer)
{
    return pointer & 3;
}

static int64_t offset_of(uint64_t pointer)
{
    return (int32_t)pointer >> 2;
}

/* Finds where a far pointer leads. False if `words` words are not there. */
static bool locate(
    const struct message *message, uint64_t far, size_t words, uint32_t *segment, size_t *at)
{
    *segment = (uint32_t)(far >> 32);
    if (*segment >= message->segments)
        return false;
    *at = message->start[*segment] + ((uint32_t)far >> 3);
    return is_within(message, *segment, (int64_t)*at, words);
}

static bool follow(
    const struct message *message, uint32_t segment, size_t at, struct target *target)
{
    uint64_t far = word_at(message, at);
    bool is_far = kind_of(far) == POINTER_FAR, twice = is_far && (far & 4) != 0;
    if (is_far && !locate(message, far, twice ? 2 : 1, &segment, &at))
        return false;
    uint64_t pointer = word_at(message, at);
    if (!twice) {
        *target = (struct target){pointer, segment, (int64_t)at + 1 + offset_of(pointer)};
        return true;
    }
    size_t object;
    if (kind_of(pointer) != POINTER_FAR || !locate(message, pointer, 0, &segment, &object))
        return false;
    *target = (struct target){word_at(message, at + 1), segment, (int64_t)object};
    return true;
}

static bool read_struct(
    const struct message *message, uint32_t segment, size_t at, struct view *view)
{
    struct target target;
    *view = (struct view){.message = message};
    if (word_at(message, at) == 0)
        return true;
    if (!follow(message, segment, at, &target) || kind_of(target.pointer) != POINTER_STRUCT)
        return false;
    view->segment = target.segment;
    view->at = (size_t)target.at;
    view->data = (uint16_t)(target.pointer >> 32);
    view->pointers = (uint16_t)(target.pointer >> 48);
    return is_within(message, target.segment, target.at, view->data + view->pointers);
}

static bool has_pointer(const struct view *view, size_t index, size_t *at)
{
    *at = view->at + view->data + index;
    return index < view->pointers;
}

static bool read_child(const struct view *view, size_t index, struct view *child)
{
    size_t at;
    if (has_pointer(view, index, &at))
        return read_struct(view->message, view->segment, at, child);
    *child = (struct view){.message = view->message};
    return true;
}

static bool read_data(const struct view *view, size_t index, uint8_t **data, size_t *size)
{
    struct target target;
    size_t at;
    *data = view->message->bytes;
    *size = 0;
    if (!has_pointer(view, index, &at) || word_at(view->message, at) == 0)
        return true;
    if (!follow(view->message, view->segment, at, &target) ||
        kind_of(target.pointer) != POINTER_LIST || (target.pointer >> 32 & 7) != ELEMENTS_OF_A_BYTE)
        return false;
    *size = (size_t)(target.pointer >> 35);
    if (!is_within(view->message, target.segment, target.at, words_of(*size)))
        return false;
    *data = view->message->bytes + target.at * WORD;
    return true;
}

/* Keys and nonces are stored as 64-bit numbers: each eight bytes, big-endian, are one word. */
static bool read_fixed(const struct view *view, size_t index, uint8_t *bytes, size_t size)
{
    struct view fixed, words;
    if (!read_child(view, index, &fixed) || !read_child(&fixed, FIXED, &words))
        return false;
    for (size_t i = 0; i < size / WORD; i++) {
        uint64_t word = i < words.data ? word_at(view->message, words.at + i) : 0;
        word = htobe64(word);
        memcpy(bytes + i * WORD, &word, WORD);
    }
    return true;
}

/* The number of the union member that is set; `members` if that is not among the known ones. */
static unsigned int read_member(const struct view *view, unsigned int members)
{
    unsigned int member = view->data == 0 ? 0 : load16(view->message->bytes + view->at * WORD);
    return member < members ? member : members;
}

/* Reads the segment table: its first word says how long the table is. */
static bool read_table(
    struct message *message, const uint8_t **packed, size_t *size, size_t words_max)
{
    uint8_t table[WORD + SEGMENTS_MAX / 2 * WORD];
    if (capnp_unpack(packed, size, table, WORD) != 0)
        return false;
    uint32_t last = load32(table);
    if (last >= SEGMENTS_MAX)
        return false;
    message->segments = last + 1;
    if (capnp_unpack(packed, size, table + WORD, (size_t)(message->segments / 2) * WORD) != 0)
        return false;
    uint64_t end = 0;
    for (uint32_t i = 0; i < message->segments; i++) {
        message->start[i] = (uint32_t)end;
        end += load32(table + 4 + (size_t)i * 4);
        if (end > words_max)
            return false;
    }
    message->start[message->segments] = (uint32_t)end;
    return message->start[1] > 0;
}

ssize_t capnp_measure(const uint8_t *packed, size_t size)
{
    struct message message;
    if (!read_table(&message, &packed, &size, INT32_MAX / WORD))
        return -EBADMSG;
    return (ssize_t)message.start[message.segments] * WORD;
}

static bool read_root(struct message *message, struct capnp_scratch scratch, const uint8_t *packed,
    size_t size, struct view *root)
{
    message->bytes = scratch.bytes;
    if (!read_table(message, &packed, &size, scratch.size / WORD))
        return false;
    size_t unpacked = message->start[message->segments] * (size_t)WORD;
    return capnp_unpack(&packed, &size, message->bytes, unpacked) == 0 &&
           read_struct(message, 0, 0, root);
}

/* ---- writing ------------------------------------------------------------------------ */

/* A message without its data: the one word of the table, the root pointer, then the objects in the
 * order in which they are pointed to. */
struct draft {
    uint8_t words[DRAFT_WORDS * WORD];
    size_t used;
};

static size_t reserve_words(struct draft *draft, size_t words)
{
    size_t at = draft->used;
    draft->used += words;
    return at;
}

static uint64_t pointer_to(enum pointer_kind kind, size_t offset)
{
    return kind | (uint64_t)offset << 2;
}

/* Makes the word `pointer` point to the structure that is `offset` words behind it. */
static void point_to_struct(
    struct draft *draft, size_t pointer, size_t offset, uint64_t data, uint64_t pointers)
{
    store64(draft->words + pointer * WORD,
        pointer_to(POINTER_STRUCT, offset) | data << 32 | pointers << 48);
}

static void point_to_data(struct draft *draft, size_t pointer, size_t offset, size_t size)
{
    store64(draft->words + pointer * WORD, pointer_to(POINTER_LIST, offset) |
                                               (uint64_t)ELEMENTS_OF_A_BYTE << 32 |
                                               (uint64_t)size << 35);
}

static size_t put_struct(struct draft *draft, size_t pointer, size_t data, size_t pointers)
{
    size_t at = reserve_words(draft, data + pointers);
    point_to_struct(draft, pointer, at - pointer - 1, data, pointers);
    return at;
}

static void put_fixed(struct draft *draft, size_t pointer, const uint8_t *bytes, size_t size)
{
    size_t fixed = put_struct(draft, pointer, 0, 1);
    size_t words = put_struct(draft, fixed + FIXED, size / WORD, 0);
    for (size_t i = 0; i < size / WORD; i++) {
        uint64_t word;
        memcpy(&word, bytes + i * WORD, WORD);
        store64(draft->words + (words + i) * WORD, be64toh(word));
    }
}

static size_t put_root(struct draft *draft, size_t data, size_t pointers)
{
    memset(draft, 0, sizeof *draft);
    reserve_words(draft, 1);
    return put_struct(draft, reserve_words(draft, 1), data, pointers);
}

static void put_member(struct draft *draft, size_t at, uint64_t member)
{
    store64(draft->words + at * WORD, member);
}

/* Writes the table: one segment, of the draft and `more` words. */
static void put_table(struct draft *draft, size_t more)
{
    store64(draft->words, (uint64_t)(draft->used - 1 + more) << 32);
}

static size_t write_draft(struct draft *draft, uint8_t *packed)
{
    put_table(draft, 0);
    return capnp_pack(draft->words, draft->used * WORD, packed);
}

/* ---- the messages ------------------------------------------------------------------- */

static int error_unless(bool good)
{
    return good ? 0 : -EBADMSG;
}

int capnp_read_init_connection(
    struct capnp_scratch scratch, const uint8_t *packed, size_t size, struct init_connection *init)
{
    struct message message;
    struct view root;
    memset(init, 0, sizeof *init);
    if (!read_root(&message, scratch, packed, size, &root))
        return -EBADMSG;
    init->kind = read_member(&root, INIT_KINDS);
    if (init->kind == INIT_LISTEN)
        return 0;
    return error_unless(init->kind != INIT_KINDS &&
                        read_fixed(&root, 0, init->public_key, sizeof init->public_key));
}

size_t capnp_write_init_connection(const struct init_connection *init, uint8_t *packed)
{
    struct draft draft;
    size_t root = put_root(&draft, 1, 1);
    put_member(&draft, root, init->kind);
    if (init->kind != INIT_LISTEN)
        put_fixed(&draft, root + 1, init->public_key, sizeof init->public_key);
    return write_draft(&draft, packed);
}

int capnp_read_connection_key(
    struct capnp_scratch scratch, const uint8_t *packed, size_t size, struct connection_key *key)
{
    struct message message;
    struct view root;
    return error_unless(read_root(&message, scratch, packed, size, &root) &&
                        read_fixed(&root, 0, key->public_key, sizeof key->public_key));
}

size_t capnp_write_connection_key(const struct connection_key *key, uint8_t *packed)
{
    struct draft draft;
    size_t root = put_root(&draft, 0, 1);
    put_fixed(&draft, root, key->public_key, sizeof key->public_key);
    return write_draft(&draft, packed);
}

enum {
    KA_KEEP_ALIVE,
    KA_MESSAGE,
    KA_MEMBERS,
};

int capnp_read_ka_message(
    struct capnp_scratch scratch, const uint8_t *packed, size_t size, struct ka_message *ka)
{
    struct message message;
    struct view root;
    memset(ka, 0, sizeof *ka);
    if (!read_root(&message, scratch, packed, size, &root))
        return -EBADMSG;
    unsigned int member = read_member(&root, KA_MEMBERS);
    ka->keep_alive = member == KA_KEEP_ALIVE;
    return error_unless(
        ka->keep_alive || (member == KA_MESSAGE && read_data(&root, 0, &ka->data, &ka->size)));
}

size_t capnp_write_ka_message(const struct ka_message *ka, uint8_t *packed)
{
    struct draft draft;
    struct capnp_packer packer = {.out = packed};
    size_t root = put_root(&draft, 1, 1);
    if (ka->keep_alive)
        return write_draft(&draft, packed);
    put_member(&draft, root, KA_MESSAGE);
    point_to_data(&draft, root + 1, 0, ka->size);
    put_table(&draft, words_of(ka->size));
    capnp_pack_words(&packer, draft.words, draft.used);
    capnp_pack_bytes(&packer, ka->data, ka->size);
    return (size_t)(packer.out - packed);
}

int capnp_read_exchange_rand_nonce(struct capnp_scratch scratch, const uint8_t *packed, size_t size,
    struct exchange_rand_nonce *exchange)
{
    struct message message;
    struct view root;
    memset(exchange, 0, sizeof *exchange);
    if (!read_root(&message, scratch, packed, size, &root))
        return -EBADMSG;
    unsigned int member = read_member(&root, 2);
    exchange->has_dest = member == 1;
    return error_unless(
        member != 2 && read_fixed(&root, 0, exchange->rand_nonce, sizeof exchange->rand_nonce) &&
        read_fixed(&root, 1, exchange->src_public_key, sizeof exchange->src_public_key) &&
        (!exchange->has_dest ||
            read_fixed(&root, 2, exchange->dest_public_key, sizeof exchange->dest_public_key)));
}

size_t capnp_write_exchange_rand_nonce(const struct exchange_rand_nonce *exchange, uint8_t *packed)
{
    struct draft draft;
    size_t root = put_root(&draft, 1, 3);
    put_member(&draft, root, exchange->has_dest);
    put_fixed(&draft, root + 1, exchange->rand_nonce, sizeof exchange->rand_nonce);
    put_fixed(&draft, root + 2, exchange->src_public_key, sizeof exchange->src_public_key);
    if (exchange->has_dest)
        put_fixed(&draft, root + 3, exchange->dest_public_key, sizeof exchange->dest_public_key);
    return write_draft(&draft, packed);
}

int capnp_read_exchange_dh(
    struct capnp_scratch scratch, const uint8_t *packed, size_t size, struct exchange_dh *exchange)
{
    struct message message;
    struct view root;
    return error_unless(
        read_root(&message, scratch, packed, size, &root) &&
        read_fixed(&root, 0, exchange->dh_public_key, sizeof exchange->dh_public_key) &&
        read_fixed(&root, 1, exchange->rand_nonce, sizeof exchange->rand_nonce) &&
        read_fixed(&root, 2, exchange->key_salt, sizeof exchange->key_salt) &&
        read_fixed(&root, 3, exchange->signature, sizeof exchange->signature));
}

size_t capnp_write_exchange_dh(const struct exchange_dh *exchange, uint8_t *packed)
{
    struct draft draft;
    size_t root = put_root(&draft, 0, 4);
    put_fixed(&draft, root, exchange->dh_public_key, sizeof exchange->dh_public_key);
    put_fixed(&draft, root + 1, exchange->rand_nonce, sizeof exchange->rand_nonce);
    put_fixed(&draft, root + 2, exchange->key_salt, sizeof exchange->key_salt);
    put_fixed(&draft, root + 3, exchange->signature, sizeof exchange->signature);
    return write_draft(&draft, packed);
}

enum {
    CONTENT_REKEY,
    CONTENT_USER,
    CONTENT_MEMBERS,
};

static bool read_rekey(const struct view *content, struct rekey *rekey)
{
    struct view view;
    return read_child(content, 0, &view) &&
           read_fixed(&view, 0, rekey->dh_public_key, sizeof rekey->dh_public_key) &&
           read_fixed(&view, 1, rekey->key_salt, sizeof rekey->key_salt);
}

int capnp_read_channel_message(struct capnp_scratch scratch, const uint8_t *packed, size_t size,
    struct channel_message *channel)
{
    struct message message;
    struct view root, content;
    memset(channel, 0, sizeof *channel);
    if (!read_root(&message, scratch, packed, size, &root) || !read_child(&root, 1, &content))
        return -EBADMSG;
    unsigned int member = read_member(&content, CONTENT_MEMBERS);
    channel->is_rekey = member == CONTENT_REKEY;
    if (channel->is_rekey)
        return error_unless(read_rekey(&content, &channel->rekey));
    return error_unless(
        member == CONTENT_USER && read_data(&content, 0, &channel->data, &channel->size));
}

/* The padding lies between the two pointers of the root and the content. */
size_t capnp_write_channel_message(const struct channel_message *channel, uint8_t *packed)
{
    struct draft draft;
    struct capnp_packer packer = {.out = packed};
    size_t root = put_root(&draft, 0, 2), padding = words_of(channel->padding_size);
    size_t content = reserve_words(&draft, 2);
    point_to_data(&draft, root, 1, channel->padding_size);
    point_to_struct(&draft, root + 1, padding, 1, 1);
    if (channel->is_rekey) {
        size_t rekey = put_struct(&draft, content + 1, 0, 2);
        put_fixed(&draft, rekey, channel->rekey.dh_public_key, CAPNP_KEY_SIZE);
        put_fixed(&draft, rekey + 1, channel->rekey.key_salt, CAPNP_KEY_SIZE);
    } else {
        put_member(&draft, content, CONTENT_USER);
        point_to_data(&draft, content + 1, 0, channel->size);
    }
    put_table(&draft, padding + words_of(channel->size));
    capnp_pack_words(&packer, draft.words, content);
    capnp_pack_bytes(&packer, channel->padding, channel->padding_size);
    capnp_pack_words(&packer, draft.words + content * WORD, draft.used - content);
    capnp_pack_bytes(&packer, channel->data, channel->size);
    return (size_t)(packer.out - packed);
}
