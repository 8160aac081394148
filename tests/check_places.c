/* The places on the porch: each source has its share, the largest source loses its oldest place
 * first, and the next time to wake is known. */
#include "suite.h"
#include "worker/places.h"

#include <check.h>
#include <stdlib.h>

enum {
    CAPACITY = 64,
    STANDING = 48,
    PER_SOURCE = 16,
};

static struct places *places;

static void make(void)
{
    places = places_make(CAPACITY, sizeof(struct place), STANDING, PER_SOURCE);
    ck_assert_ptr_nonnull(places);
}

static void unmake(void)
{
    places_free(places);
}

static struct place *take(uint64_t source, int64_t wake_at)
{
    struct place *place = places_take(places, source, wake_at);
    ck_assert_ptr_nonnull(place);
    return place;
}

START_TEST(a_source_with_its_full_share_loses_its_oldest_place)
{
    struct place *first = take(1, 0);
    for (int i = 1; i < PER_SOURCE; i++) {
        ck_assert_ptr_null(places_surplus(places, 1));
        take(1, i);
    }
    ck_assert_ptr_eq(places_surplus(places, 1), first);
    ck_assert_ptr_null(places_surplus(places, 2));
    places_leave(places, first);
    ck_assert_ptr_null(places_surplus(places, 1));
}
END_TEST

START_TEST(when_all_places_stand_the_largest_source_loses_its_oldest)
{
    struct place *largest = NULL;
    for (int i = 0; i < STANDING - 10; i++)
        take(100 + (uint64_t)i, i);
    for (int i = 0; i < 10; i++) {
        struct place *place = take(7, 0);
        largest = i == 0 ? place : largest;
    }
    ck_assert_ptr_eq(places_surplus(places, 8), largest);
    places_dismiss(places, largest);
    ck_assert_ptr_null(
        places_surplus(places, 8)); /* its place is taken, but does not stand any more */
    ck_assert_uint_eq(places_standing(places), STANDING - 1);
    ck_assert_uint_eq(places_used(places), STANDING);
    places_leave(places, largest);
    ck_assert_uint_eq(places_used(places), STANDING - 1);
}
END_TEST

START_TEST(there_are_as_many_places_as_were_made)
{
    struct place *last = NULL;
    for (uint64_t i = 0; i < CAPACITY; i++)
        last = take(i, 0);
    ck_assert_ptr_null(places_take(places, 5, 0));
    places_leave(places, last);
    ck_assert_ptr_eq(take(5, 0), last);
}
END_TEST

START_TEST(places_wake_in_the_order_of_their_times)
{
    struct place *all[CAPACITY];
    for (int i = 0; i < CAPACITY; i++)
        all[i] = take(1 + (uint64_t)i % 3, (i * 37) % CAPACITY);
    places_wake_at(places, all[0], 1000);
    places_wake_at(places, all[1], -5);
    ck_assert_ptr_eq(places_next(places), all[1]);
    for (int64_t last = -5; places_next(places) != NULL;) {
        struct place *next = places_next(places);
        ck_assert_int_ge(next->wake_at, last);
        last = next->wake_at;
        places_leave(places, next);
    }
    ck_assert_uint_eq(places_standing(places), 0);
    ck_assert_ptr_null(places_first(places));
}
END_TEST

/* The simple way to find the largest source, to compare with places_first(). */
static size_t size_of(uint64_t source, struct place *const *standing, const uint64_t *sources)
{
    size_t size = 0;
    for (size_t i = 0; i < CAPACITY; i++)
        size += standing[i] != NULL && sources[i] == source;
    return size;
}

START_TEST(the_largest_source_and_the_next_time_are_right_after_any_operations)
{
    struct place *standing[CAPACITY] = {NULL};
    uint64_t sources[CAPACITY] = {0};
    srand(1);
    for (int step = 0; step < 20000; step++) {
        size_t at = (size_t)rand() % CAPACITY;
        if (standing[at] == NULL) {
            sources[at] = (uint64_t)rand() % 5;
            standing[at] = take(sources[at], rand() % 100);
        } else if (step % 3 == 0) {
            places_wake_at(places, standing[at], rand() % 100);
        } else {
            places_leave(places, standing[at]);
            standing[at] = NULL;
        }
        size_t most = 0, first_size = 0;
        for (uint64_t source = 0; source < 5; source++) {
            size_t size = size_of(source, standing, sources);
            most = size > most ? size : most;
        }
        for (size_t i = 0; i < CAPACITY; i++) {
            if (standing[i] == NULL)
                continue;
            if (standing[i] == places_first(places))
                first_size = size_of(sources[i], standing, sources);
            ck_assert_int_le(places_next(places)->wake_at, standing[i]->wake_at);
        }
        ck_assert_uint_eq(first_size, most);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("places");
    TCase *all = tcase_create("places");
    tcase_add_checked_fixture(all, make, unmake);
    tcase_add_test(all, a_source_with_its_full_share_loses_its_oldest_place);
    tcase_add_test(all, when_all_places_stand_the_largest_source_loses_its_oldest);
    tcase_add_test(all, there_are_as_many_places_as_were_made);
    tcase_add_test(all, places_wake_in_the_order_of_their_times);
    tcase_add_test(all, the_largest_source_and_the_next_time_are_right_after_any_operations);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
