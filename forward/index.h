/* An index: entries that are found by their ids. It grows by one bucket with each entry (linear
 * hashing), so that no addition takes long, however many there are already; and its hash is
 * secret, so that nobody can choose ids that collide. */
#ifndef RELAY_INDEX_H
#define RELAY_INDEX_H

#include <stddef.h>
#include <stdint.h>

/* Part of whatever is to be found, which owns the bytes of the id. */
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
/* Adds an entry whose id and size are set, and of whose id there is none. 0 or -ENOMEM. */
int index_add(struct index *index, struct index_entry *entry);
/* Removes one that was added. An index without entries holds no memory. */
void index_remove(struct index *index, struct index_entry *entry);

#endif
