/* Linear hashing: see index.h. There are `count` buckets, and `round` is the largest power of two
 * up to that. A bucket from `round` on was split from the bucket that is `round` places before it.
 * These two are told apart by one bit more of the hash than all buckets that were not split yet. */
#include "forward/index.h"

#include <errno.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    BUCKETS_MIN = 16,
};

static uint64_t secret_hash(const char *id, size_t size)
{
    static uint8_t secret[crypto_shorthash_KEYBYTES];
    static bool drawn;
    uint8_t digest[crypto_shorthash_BYTES];
    uint64_t hash;
    if (!drawn)
        randombytes_buf(secret, sizeof secret);
    drawn = true;
    crypto_shorthash(digest, (const uint8_t *)id, size, secret);
    memcpy(&hash, digest, sizeof hash);
    return hash;
}

/* The largest power of two that is not above `count`. */
static size_t round_of(size_t count)
{
    return (size_t)1 << (8 * sizeof(long) - 1 - (size_t)__builtin_clzl((unsigned long)count));
}

static struct index_entry **bucket_of(const struct index *index, uint64_t hash)
{
    size_t round = round_of(index->count);
    size_t at = (size_t)hash & (2 * round - 1);
    return &index->buckets[at < index->count ? at : at - round];
}

/* Without memory the bucket is not split, and chains grow longer. */
static void split_one(struct index *index)
{
    if (index->count == index->room) {
        struct index_entry **buckets =
            realloc(index->buckets, 2 * index->room * sizeof(struct index_entry *));
        if (buckets == NULL)
            return;
        index->buckets = buckets;
        index->room *= 2;
    }
    struct index_entry **from = &index->buckets[index->count - round_of(index->count)];
    struct index_entry *entry = *from, *next;
    index->buckets[index->count++] = NULL;
    *from = NULL;
    for (; entry != NULL; entry = next) {
        struct index_entry **bucket = bucket_of(index, entry->hash);
        next = entry->next;
        entry->next = *bucket;
        *bucket = entry;
    }
}

struct index_entry *index_find(const struct index *index, const char *id, size_t size)
{
    if (index->entries == 0)
        return NULL;
    uint64_t hash = secret_hash(id, size);
    struct index_entry *entry = *bucket_of(index, hash);
    while (entry != NULL &&
           (entry->hash != hash || entry->size != size || memcmp(entry->id, id, size) != 0))
        entry = entry->next;
    return entry;
}

int index_add(struct index *index, struct index_entry *entry)
{
    if (index->buckets == NULL) {
        index->buckets = calloc(BUCKETS_MIN, sizeof(struct index_entry *));
        if (index->buckets == NULL)
            return -ENOMEM;
        index->room = index->count = BUCKETS_MIN;
    }
    if (index->entries >= index->count)
        split_one(index);
    entry->hash = secret_hash(entry->id, entry->size);
    struct index_entry **bucket = bucket_of(index, entry->hash);
    entry->next = *bucket;
    *bucket = entry;
    index->entries++;
    return 0;
}

void index_remove(struct index *index, struct index_entry *entry)
{
    struct index_entry **at = bucket_of(index, entry->hash);
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    if (--index->entries > 0)
        return;
    free(index->buckets);
    *index = (struct index){.buckets = NULL};
}
