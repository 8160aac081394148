/* The places on the porch: see places.h.
 *
 * The places of one source are a crowd. A hash table finds the crowd of a source. Crowds of equal
 * size are a ring, so that one of the largest is always known, as a size changes only by one. The
 * times are a binary heap, the earliest on top. */
#include "worker/places.h"

#include <stdlib.h>

struct crowd {
    uint64_t source;
    size_t size;
    struct place *first, *last;
    struct crowd *chain;       /* the next in its bucket, or the next free one */
    struct crowd *next, *prev; /* the ring of crowds of this size */
};

struct places {
    size_t capacity, place_size, standing_max, per_source;
    size_t standing, used;
    size_t fresh; /* places from here on were never used */
    char *memory;
    struct place *free; /* linked by next */
    struct crowd *crowds, *free_crowds;
    size_t fresh_crowds;
    struct crowd **buckets;
    size_t bucket_mask;
    struct crowd **rings; /* by size */
    size_t largest;       /* size of the largest crowd */
    struct place **heap;
};

/* ---- making ---------------------------------------------------------------------- */

static size_t bucket_count(size_t capacity)
{
    size_t count = 64;
    while (count < capacity)
        count *= 2;
    return count;
}

struct places *places_make(size_t capacity, size_t size, size_t standing, size_t per_source)
{
    struct places *places = calloc(1, sizeof *places);
    size_t buckets = bucket_count(capacity);
    if (places == NULL)
        return NULL;
    *places = (struct places){
        .capacity = capacity,
        .place_size = size,
        .standing_max = standing,
        .per_source = per_source,
        .memory = calloc(capacity, size),
        .crowds = calloc(capacity, sizeof *places->crowds),
        .buckets = calloc(buckets, sizeof(struct crowd *)),
        .bucket_mask = buckets - 1,
        .rings = calloc(capacity + 1, sizeof(struct crowd *)),
        .heap = calloc(capacity, sizeof(struct place *)),
    };
    if (places->memory != NULL && places->crowds != NULL && places->buckets != NULL &&
        places->rings != NULL && places->heap != NULL)
        return places;
    places_free(places);
    return NULL;
}

void places_free(struct places *places)
{
    if (places == NULL)
        return;
    free(places->memory);
    free(places->crowds);
    free((void *)places->buckets);
    free((void *)places->rings);
    free((void *)places->heap);
    free(places);
}

/* ---- crowds ---------------------------------------------------------------------- */

static struct crowd *find_crowd(const struct places *places, uint64_t source)
{
    struct crowd *crowd = places->buckets[source & places->bucket_mask];
    while (crowd != NULL && crowd->source != source)
        crowd = crowd->chain;
    return crowd;
}

/* There are as many crowds as places, so a new place always finds a free crowd. */
static struct crowd *make_crowd(struct places *places, uint64_t source)
{
    struct crowd **bucket = &places->buckets[source & places->bucket_mask];
    struct crowd *crowd = places->free_crowds;
    if (crowd != NULL)
        places->free_crowds = crowd->chain;
    else
        crowd = &places->crowds[places->fresh_crowds++];
    *crowd = (struct crowd){.source = source, .chain = *bucket};
    *bucket = crowd;
    return crowd;
}

static void forget_crowd(struct places *places, struct crowd *crowd)
{
    struct crowd **at = &places->buckets[crowd->source & places->bucket_mask];
    while (*at != crowd)
        at = &(*at)->chain;
    *at = crowd->chain;
    crowd->chain = places->free_crowds;
    places->free_crowds = crowd;
}

static void enter_ring(struct places *places, struct crowd *crowd)
{
    struct crowd **ring = &places->rings[crowd->size];
    crowd->next = crowd->prev = crowd;
    if (*ring != NULL) {
        crowd->next = *ring;
        crowd->prev = (*ring)->prev;
        crowd->prev->next = crowd->next->prev = crowd;
    }
    *ring = crowd;
    if (crowd->size > places->largest)
        places->largest = crowd->size;
}

static void leave_ring(struct places *places, struct crowd *crowd)
{
    struct crowd **ring = &places->rings[crowd->size];
    crowd->next->prev = crowd->prev;
    crowd->prev->next = crowd->next;
    if (*ring == crowd)
        *ring = crowd->next == crowd ? NULL : crowd->next;
    if (crowd->size == places->largest && *ring == NULL)
        places->largest--; /* the crowd goes there; or none is left, and this is 0 */
}

static void join_crowd(struct places *places, struct place *place, uint64_t source)
{
    struct crowd *crowd = find_crowd(places, source);
    if (crowd == NULL)
        crowd = make_crowd(places, source);
    else
        leave_ring(places, crowd);
    place->crowd = crowd;
    place->next = NULL;
    place->prev = crowd->last;
    if (crowd->last != NULL)
        crowd->last->next = place;
    else
        crowd->first = place;
    crowd->last = place;
    crowd->size++;
    enter_ring(places, crowd);
}

static void leave_crowd(struct places *places, struct place *place)
{
    struct crowd *crowd = place->crowd;
    if (place->next != NULL)
        place->next->prev = place->prev;
    else
        crowd->last = place->prev;
    if (place->prev != NULL)
        place->prev->next = place->next;
    else
        crowd->first = place->next;
    place->next = place->prev = NULL;
    place->crowd = NULL;
    leave_ring(places, crowd);
    if (--crowd->size > 0)
        enter_ring(places, crowd);
    else
        forget_crowd(places, crowd);
}

/* ---- times ----------------------------------------------------------------------- */

static void put_in_heap(struct places *places, size_t at, struct place *place)
{
    places->heap[at] = place;
    place->alarm = at + 1;
}

/* Moves a place from `at` in the heap to where it belongs, up or down. */
static void sift(struct places *places, size_t at, struct place *place)
{
    size_t count = places->standing;
    while (at > 0 && places->heap[(at - 1) / 2]->wake_at > place->wake_at) {
        put_in_heap(places, at, places->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (size_t below = 2 * at + 1; below < count; below = 2 * at + 1) {
        if (below + 1 < count && places->heap[below + 1]->wake_at < places->heap[below]->wake_at)
            below++;
        if (places->heap[below]->wake_at >= place->wake_at)
            break;
        put_in_heap(places, at, places->heap[below]);
        at = below;
    }
    put_in_heap(places, at, place);
}

void places_wake_at(struct places *places, struct place *place, int64_t at)
{
    place->wake_at = at;
    sift(places, place->alarm - 1, place);
}

struct place *places_next(const struct places *places)
{
    return places->standing == 0 ? NULL : places->heap[0];
}

/* ---- coming and going ------------------------------------------------------------ */

struct place *places_take(struct places *places, uint64_t source, int64_t wake_at)
{
    struct place *place = places->free;
    if (place != NULL)
        places->free = place->next;
    else if (places->fresh < places->capacity)
        place = (struct place *)(void *)(places->memory + places->fresh++ * places->place_size);
    else
        return NULL;
    places->used++;
    join_crowd(places, place, source);
    place->wake_at = wake_at;
    places->standing++;
    sift(places, places->standing - 1, place);
    return place;
}

struct place *places_surplus(const struct places *places, uint64_t source)
{
    const struct crowd *crowd = find_crowd(places, source);
    if (crowd != NULL && crowd->size >= places->per_source)
        return crowd->first;
    return places->standing >= places->standing_max ? places_first(places) : NULL;
}

struct place *places_first(const struct places *places)
{
    return places->standing == 0 ? NULL : places->rings[places->largest]->first;
}

void places_dismiss(struct places *places, struct place *place)
{
    if (place->crowd == NULL)
        return;
    size_t at = place->alarm - 1;
    struct place *last = places->heap[--places->standing];
    place->alarm = 0;
    if (last != place)
        sift(places, at, last);
    leave_crowd(places, place);
}

void places_leave(struct places *places, struct place *place)
{
    places_dismiss(places, place);
    place->next = places->free;
    places->free = place;
    places->used--;
}

size_t places_standing(const struct places *places)
{
    return places->standing;
}

size_t places_used(const struct places *places)
{
    return places->used;
}
