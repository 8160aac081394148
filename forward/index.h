/* An index: entries that are found by their ids. It grows by one bucket with each entry (linear
 * hashing), so that no addition takes long, however many entries there are; and its hash has a
 * secret key, so that no client can choose ids that collide. */
#ifndef RELAY_INDEX_H
#define RELAY_INDEX_H

#include <stddef.h>
#include <stdint.h>

/* Part of the structure that is to be found, which owns the bytes of the id. */
struct index_entry {
    struct index_entry *next;
    uint64_t hash;
    const char *id;
    size_t size;
};

/* Empty when zeroed. */
struct index {
    struct index_entry **buckets;
    size_t room, count; /* of buckets: allocated, and in use */
    size_t entries;
};

/* NULL: there is none. */
struct index_entry *index_find(const struct index *index, const char *id, size_t size);
/* Adds an entry. Its id and size are set, and the index has no entry with that id. 0 or -ENOMEM. */
int index_add(struct index *index, struct index_entry *entry);
/* Removes an entry that was added. An index without entries holds no memory. */
void index_remove(struct index *index, struct index_entry *entry);

#endif
