/* The rendezvous table: which connections meet, and what is left when a process dies. */
#include "pair.h"
#include "suite.h"
#include "table.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    CAPACITY = 64,
    KILLS = 2000,
    FAR = 1000000, /* milliseconds: a deadline that is never reached here */
};

static char directory[64], path[96];
static struct pair_table *table;
static const struct pair_limits unlimited = {0, 0};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void make_table(void)
{
    strcpy(directory, "/tmp/check-pair-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    (void)snprintf(path, sizeof path, "%s/table", directory);
    ck_assert_int_eq(pair_open(path, CAPACITY, &table), 0);
}

static void remove_table(void)
{
    pair_close(table);
    (void)unlink(path);
    ck_assert_int_eq(rmdir(directory), 0); /* and no temporary file is left */
}

/* ---- shorthands ------------------------------------------------------------------ */

static struct pair_ref enter_from(uint64_t source)
{
    struct pair_ref ref;
    ck_assert_int_eq(pair_enter(table, &unlimited, source, 1, now() + FAR, &ref), 0);
    return ref;
}

static struct pair_ref enter(void)
{
    return enter_from(0);
}

static struct pair_key key_of(const char *name)
{
    struct iovec part = {(void *)(uintptr_t)name, strlen(name)};
    return pair_key(table, 0, &part, 1);
}

static struct pair_meeting meet_as(
    struct pair_ref ref, enum pair_rule rule, const char *key, const char *side)
{
    struct pair_meeting meeting;
    struct pair_request request = {.rule = rule, .key = key_of(key)};
    request.side = side == NULL ? 0 : pair_side(table, side, strlen(side));
    ck_assert_int_eq(pair_meet(table, ref, &request, &meeting), 0);
    return meeting;
}

/* A connection enters, meets, and is held by the forwarder. */
static struct pair_ref park(
    enum pair_rule rule, const char *key, const char *side, enum pair_result expected)
{
    struct pair_view view;
    struct pair_ref ref = enter();
    struct pair_meeting meeting = meet_as(ref, rule, key, side);
    ck_assert_int_eq(meeting.result, expected);
    ck_assert_int_eq(pair_sent(table, ref), 0);
    ck_assert_int_eq(pair_claim(table, ref, &view), 0);
    return ref;
}

static struct pair_ref leave(struct pair_ref ref)
{
    struct pair_ref stranded;
    ck_assert_int_eq(pair_leave(table, ref, &stranded), 0);
    return stranded;
}

static enum pair_state state_of(struct pair_ref ref)
{
    struct pair_view view;
    return pair_look(table, ref, &view) == 0 ? view.state : PAIR_FREE;
}

static enum pair_reason reason_of(struct pair_ref ref)
{
    struct pair_view view;
    ck_assert_int_eq(pair_look(table, ref, &view), 0);
    return view.reason;
}

static struct pair_stats stats(void)
{
    struct pair_stats counted;
    pair_stats(table, &counted);
    return counted;
}

static void expect_empty(void)
{
    struct pair_stats counted = stats();
    ck_assert_uint_eq(counted.used, 0);
    ck_assert_uint_eq(counted.unclaimed, 0);
    ck_assert_uint_eq(counted.tokens, 0);
    for (size_t i = PAIR_GREETING; i <= PAIR_LEAVING; i++)
        ck_assert_uint_eq(counted.states[i], 0);
}

/* ---- the file -------------------------------------------------------------------- */

START_TEST(a_table_is_for_its_user_only)
{
    struct stat status;
    ck_assert_int_eq(stat(path, &status), 0);
    ck_assert_int_eq(status.st_mode & 0777, 0600);
}
END_TEST

START_TEST(an_empty_table_takes_next_to_no_memory)
{
    struct pair_table *large;
    char name[128];
    struct stat status;
    (void)snprintf(name, sizeof name, "%s.large", path);
    ck_assert_int_eq(pair_open(name, 65536, &large), 0);
    ck_assert_int_eq(stat(name, &status), 0);
    ck_assert_int_lt(status.st_blocks * 512, 65536);
    pair_close(large);
    ck_assert_int_eq(unlink(name), 0);
}
END_TEST

START_TEST(a_second_process_sees_what_the_first_did)
{
    struct pair_table *other;
    struct pair_view view;
    struct pair_ref ref = park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    ck_assert_int_eq(pair_open(path, CAPACITY * 2, &other), 0);
    ck_assert_uint_eq(pair_capacity(other), CAPACITY);
    ck_assert_int_eq(pair_look(other, ref, &view), 0);
    ck_assert_int_eq(view.state, PAIR_WAITING);
    struct pair_key ours = key_of("token");
    struct iovec part = {(void *)(uintptr_t) "token", 5};
    struct pair_key theirs = pair_key(other, 0, &part, 1);
    ck_assert_mem_eq(&ours, &theirs, sizeof ours);
    pair_close(other);
}
END_TEST

START_TEST(opening_to_read_counts_makes_no_table)
{
    struct pair_table *other;
    char name[128];
    (void)snprintf(name, sizeof name, "%s.none", path);
    ck_assert_int_eq(pair_open_existing(name, &other), -ENOENT);
    ck_assert_int_eq(access(name, F_OK), -1);
}
END_TEST

static void overwrite(const char *name, off_t offset, const void *bytes, size_t size)
{
    int fd = open(name, O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, bytes, size, offset), (ssize_t)size);
    close(fd);
}

START_TEST(a_table_of_another_version_is_refused)
{
    struct pair_table *other;
    uint32_t version = TABLE_VERSION + 1;
    overwrite(path, offsetof(struct table_header, version), &version, sizeof version);
    ck_assert_int_eq(pair_open(path, CAPACITY, &other), -EPROTO);
}
END_TEST

START_TEST(a_file_that_is_no_table_is_refused)
{
    struct pair_table *other;
    overwrite(path, 0, "something else", 14);
    ck_assert_int_eq(pair_open(path, CAPACITY, &other), -EBADMSG);
}
END_TEST

START_TEST(a_table_truncated_anywhere_is_refused)
{
    struct pair_table *other;
    struct stat status;
    ck_assert_int_eq(stat(path, &status), 0);
    for (off_t size = status.st_size - 1; size >= 0; size -= 97) {
        ck_assert_int_eq(truncate(path, size), 0);
        ck_assert_int_eq(pair_open_existing(path, &other), -EBADMSG);
    }
}
END_TEST

START_TEST(a_capacity_that_does_not_fit_the_file_is_refused)
{
    struct pair_table *other;
    const uint32_t capacities[] = {0, 1, CAPACITY - 1, CAPACITY + 1, 1U << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++) {
        overwrite(path, offsetof(struct table_header, capacity), &capacities[i], 4);
        ck_assert_int_eq(pair_open_existing(path, &other), -EBADMSG);
    }
}
END_TEST

START_TEST(a_symbolic_link_is_not_followed)
{
    struct pair_table *other;
    char name[128];
    (void)snprintf(name, sizeof name, "%s.link", path);
    ck_assert_int_eq(symlink(path, name), 0);
    ck_assert_int_eq(pair_open(name, CAPACITY, &other), -ELOOP);
    ck_assert_int_eq(unlink(name), 0);
}
END_TEST

/* ---- a table that is lost -------------------------------------------------------- */

START_TEST(a_table_of_another_boot_is_refused)
{
    struct pair_table *other;
    char boot[TABLE_BOOT_SIZE] = "00000000-0000-0000-0000-000000000000\n";
    ck_assert_int_eq(pair_check(table), 0);
    overwrite(path, offsetof(struct table_header, boot), boot, sizeof boot);
    ck_assert_int_eq(pair_open(path, CAPACITY, &other), -ESTALE);
}
END_TEST

START_TEST(a_table_from_the_future_of_this_boot_is_refused)
{
    struct pair_table *other;
    int64_t uptime = INT64_MAX;
    overwrite(path, offsetof(struct table_header, uptime), &uptime, sizeof uptime);
    ck_assert_int_eq(pair_open(path, CAPACITY, &other), -ESTALE);
}
END_TEST

START_TEST(only_a_table_that_cannot_be_used_is_discarded)
{
    struct pair_table *other;
    ck_assert_int_eq(pair_discard(path), 0);
    ck_assert_int_eq(pair_check(table), 0);
    overwrite(path, 0, "something else", 14);
    ck_assert_int_eq(pair_discard(path), 0);
    ck_assert_int_eq(access(path, F_OK), -1);
    ck_assert_int_eq(pair_discard(path), 0);
    ck_assert_int_eq(pair_open(path, CAPACITY, &other), 0);
    pair_close(other);
}
END_TEST

static void expect_lost(int fault)
{
    struct pair_ref ref;
    ck_assert_int_eq(pair_check(table), fault);
    ck_assert_int_eq(pair_enter(table, &unlimited, 0, 1, now() + FAR, &ref), -EIDRM);
}

START_TEST(a_table_truncated_while_in_use_is_noticed_and_kills_no_process)
{
    park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    ck_assert_int_eq(truncate(path, 0), 0);
    expect_lost(-EBADMSG);
    ck_assert_uint_eq(stats().used, 0);
}
END_TEST

START_TEST(an_overwritten_table_is_noticed)
{
    struct pair_ref ref = park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    memset((void *)table->header, 0xa5, table->size);
    expect_lost(-EBADMSG);
    ck_assert_int_eq(state_of(ref), PAIR_FREE);
}
END_TEST

START_TEST(a_retired_table_is_not_changed)
{
    pair_retire(table);
    expect_lost(-EBADMSG);
}
END_TEST

START_TEST(a_removed_or_replaced_table_is_noticed)
{
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(pair_check(table), -ENOENT);
    struct pair_table *last = table;
    ck_assert_int_eq(pair_open(path, CAPACITY, &table), 0);
    ck_assert_int_eq(pair_check(last), -ESTALE);
    pair_close(last);
}
END_TEST

START_TEST(pairs_and_waiting_connections_are_carried_into_the_next_table)
{
    struct pair_ref first = park(PAIR_SIDES, "one", "a", PAIR_WAITS);
    struct pair_ref second = park(PAIR_SIDES, "one", "b", PAIR_MATCHES);
    struct pair_ref waits = park(PAIR_SIDES, "two", "a", PAIR_WAITS), carried, joined[2];
    ck_assert_int_eq(pair_join(table, first, second), 0);
    struct pair_table *last = table;
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(pair_open(path, 2 * CAPACITY, &table), 0);
    ck_assert(!pair_is_adopted(table));
    pair_replace_lost(table, last);
    const struct pair_view ends[2] = {{.ref = first, .bytes = 7}, {.ref = second}};
    ck_assert_int_eq(pair_carry_joined(table, last, ends, joined), 0);
    ck_assert_int_eq(pair_carry(table, last, waits, &carried), 0);
    pair_set_forwarder(table, 3);
    ck_assert(pair_is_adopted(table));
    ck_assert_uint_eq(pair_reads(table), 3);
    ck_assert_int_eq(state_of(joined[0]), PAIR_JOINED);
    ck_assert_uint_eq(stats().incomplete_bytes, 7);
    park(PAIR_SIDES, "two", "b", PAIR_MATCHES);
    ck_assert_int_eq(state_of(carried), PAIR_MATCHED);
    pair_close(last);
}
END_TEST

START_TEST(from_a_damaged_table_only_pairs_are_carried)
{
    struct pair_ref waits = park(PAIR_SIDES, "two", "a", PAIR_WAITS), carried, joined[2];
    struct pair_table *last = table;
    memset((void *)last->header, 0, last->size);
    ck_assert_int_eq(pair_discard(path), 0);
    ck_assert_int_eq(pair_open(path, CAPACITY, &table), 0);
    pair_replace_lost(table, last);
    const struct pair_view ends[2] = {{.ref = {5, 1}, .opened = 9}, {.ref = {6, 1}}};
    ck_assert_int_eq(pair_carry_joined(table, last, ends, joined), 0);
    ck_assert_int_eq(pair_carry(table, last, waits, &carried), -ESTALE);
    ck_assert_uint_eq(stats().states[PAIR_JOINED], 2);
    leave(joined[0]);
    leave(joined[1]);
    expect_empty();
    pair_close(last);
}
END_TEST

START_TEST(a_slot_that_is_not_free_is_not_taken_even_if_the_free_list_names_it)
{
    struct pair_ref first = enter(), second = enter();
    leave(second);
    table->header->free = first.slot + 1;
    struct pair_ref third = enter();
    ck_assert_uint_ne(third.slot, first.slot);
    ck_assert_int_eq(pair_sent(table, first), 0);
}
END_TEST

START_TEST(with_an_impossible_count_of_slots_no_walk_passes_the_last_slot)
{
    struct pair_ref refs[4], stranded[4];
    struct pair_stats counted;
    enter();
    table->header->fresh = UINT32_MAX;
    table->header->reserved = UINT32_MAX;
    pair_stats(table, &counted);
    ck_assert_uint_eq(pair_dismissed(table, refs, 4), 0);
    ck_assert_uint_eq(pair_sweep(table, now(), stranded, 4), 0);
    pair_adopt(table);
}
END_TEST

/* ---- keyed hashes ---------------------------------------------------------------- */

START_TEST(a_key_depends_on_protocol_parts_and_their_lengths)
{
    struct iovec one[] = {{(void *)(uintptr_t) "ab", 2}, {(void *)(uintptr_t) "c", 1}};
    struct iovec other[] = {{(void *)(uintptr_t) "a", 1}, {(void *)(uintptr_t) "bc", 2}};
    struct pair_key first = pair_key(table, 0, one, 2), second = pair_key(table, 0, other, 2);
    struct pair_key third = pair_key(table, 1, one, 2), same = pair_key(table, 0, one, 2);
    ck_assert_mem_ne(&first, &second, sizeof first);
    ck_assert_mem_ne(&first, &third, sizeof first);
    ck_assert_mem_eq(&first, &same, sizeof first);
    ck_assert_uint_ne(pair_side(table, "", 0), 0);
    ck_assert_uint_ne(pair_side(table, "x", 1), pair_source(table, "x", 1));
}
END_TEST

START_TEST(another_table_has_another_secret)
{
    struct pair_table *other;
    char name[128];
    struct iovec part = {(void *)(uintptr_t) "token", 5};
    (void)snprintf(name, sizeof name, "%s.other", path);
    ck_assert_int_eq(pair_open(name, CAPACITY, &other), 0);
    struct pair_key ours = pair_key(table, 0, &part, 1), theirs = pair_key(other, 0, &part, 1);
    ck_assert_mem_ne(&ours, &theirs, sizeof ours);
    pair_close(other);
    ck_assert_int_eq(unlink(name), 0);
}
END_TEST

/* ---- the rule of sides ----------------------------------------------------------- */

START_TEST(different_sides_meet)
{
    struct pair_ref first = park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    struct pair_ref second = park(PAIR_SIDES, "token", "b", PAIR_MATCHES);
    ck_assert_int_eq(state_of(first), PAIR_MATCHED);
    ck_assert_int_eq(pair_join(table, first, second), 0);
    ck_assert_int_eq(state_of(second), PAIR_JOINED);
    ck_assert(pair_is_none(leave(first)));
    ck_assert(pair_is_none(leave(second)));
    expect_empty();
}
END_TEST

START_TEST(a_connection_without_a_side_meets_any)
{
    park(PAIR_SIDES, "one", NULL, PAIR_WAITS);
    park(PAIR_SIDES, "one", NULL, PAIR_MATCHES);
    park(PAIR_SIDES, "two", "a", PAIR_WAITS);
    park(PAIR_SIDES, "two", NULL, PAIR_MATCHES);
    park(PAIR_SIDES, "three", NULL, PAIR_WAITS);
    park(PAIR_SIDES, "three", "a", PAIR_MATCHES);
}
END_TEST

START_TEST(different_keys_do_not_meet)
{
    park(PAIR_SIDES, "one", NULL, PAIR_WAITS);
    park(PAIR_SIDES, "two", NULL, PAIR_WAITS);
    ck_assert_uint_eq(stats().tokens, 2);
}
END_TEST

START_TEST(connections_of_the_same_side_wait_together_and_the_rest_are_spares)
{
    struct pair_ref same[5], spares[8];
    for (size_t i = 0; i < 5; i++)
        same[i] = park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    ck_assert_uint_eq(stats().tokens, 1);
    struct pair_ref other = park(PAIR_SIDES, "token", "b", PAIR_MATCHES);
    ck_assert_uint_eq(pair_spares(table, other, spares, 3), 3);
    ck_assert_uint_eq(pair_spares(table, other, spares + 3, 5), 1);
    ck_assert_uint_eq(pair_spares(table, other, spares, 8), 0);
    ck_assert_uint_eq(stats().tokens, 0);
    size_t matched = 0;
    for (size_t i = 0; i < 5; i++) {
        if (state_of(same[i]) == PAIR_MATCHED)
            matched++;
        else
            ck_assert_int_eq(reason_of(same[i]), PAIR_SPARE);
    }
    ck_assert_uint_eq(matched, 1);
}
END_TEST

START_TEST(waiting_connections_may_leave_in_any_order)
{
    struct pair_ref refs[4];
    for (unsigned int order = 0; order < 24; order++) {
        for (size_t i = 0; i < 4; i++)
            refs[i] = park(PAIR_SIDES, i < 3 ? "token" : "other", "a", PAIR_WAITS);
        unsigned int left = order;
        for (unsigned int count = 4; count > 0; count--) {
            unsigned int chosen = left % count;
            left /= count;
            leave(refs[chosen]);
            memmove(refs + chosen, refs + chosen + 1, (3 - chosen) * sizeof refs[0]);
        }
        expect_empty();
    }
}
END_TEST

/* ---- the other rules ------------------------------------------------------------- */

START_TEST(different_roles_meet)
{
    park(PAIR_ROLES, "code", "sender", PAIR_WAITS);
    park(PAIR_ROLES, "code", "receiver", PAIR_MATCHES);
}
END_TEST

START_TEST(a_second_connection_of_a_role_refuses_both)
{
    struct pair_ref first = park(PAIR_ROLES, "code", "sender", PAIR_WAITS), second = enter();
    struct pair_meeting meeting = meet_as(second, PAIR_ROLES, "code", "sender");
    ck_assert_int_eq(meeting.result, PAIR_REFUSED);
    ck_assert_int_eq(meeting.reason, PAIR_DUPLICATE);
    ck_assert(pair_same(meeting.dismissed, first));
    ck_assert_int_eq(reason_of(first), PAIR_DUPLICATE);
    leave(first);
    leave(second);
    expect_empty();
}
END_TEST

START_TEST(a_newer_connection_replaces_the_older_one)
{
    struct pair_ref first = park(PAIR_NEWEST, "pipe", "alice", PAIR_WAITS), second = enter();
    struct pair_meeting meeting = meet_as(second, PAIR_NEWEST, "pipe", "alice");
    ck_assert_int_eq(meeting.result, PAIR_WAITS);
    ck_assert(pair_same(meeting.dismissed, first));
    ck_assert_int_eq(reason_of(first), PAIR_REPLACED);
    leave(first); /* which does not remove the newer connection */
    ck_assert_int_eq(state_of(second), PAIR_WAITING);
    park(PAIR_NEWEST, "pipe", "bob", PAIR_MATCHES);
    ck_assert_int_eq(state_of(second), PAIR_MATCHED);
}
END_TEST

static struct pair_meeting meet_listener(struct pair_ref ref, enum pair_rule rule)
{
    struct pair_meeting meeting;
    struct pair_request request = {
        .rule = rule, .key = key_of("request"), .listener = key_of("listener")};
    request.side = rule == PAIR_CONNECT ? 1 : 2;
    ck_assert_int_eq(pair_meet(table, ref, &request, &meeting), 0);
    return meeting;
}

START_TEST(a_second_listener_is_refused)
{
    struct pair_ref first = park(PAIR_LISTEN, "listener", NULL, PAIR_WAITS);
    struct pair_meeting meeting = meet_as(enter(), PAIR_LISTEN, "listener", NULL);
    ck_assert_int_eq(meeting.result, PAIR_REFUSED);
    ck_assert_int_eq(meeting.reason, PAIR_DUPLICATE);
    ck_assert_int_eq(state_of(first), PAIR_WAITING);
}
END_TEST

START_TEST(a_connector_needs_a_listener_and_waits_to_be_accepted)
{
    struct pair_meeting meeting = meet_listener(enter(), PAIR_CONNECT);
    ck_assert_int_eq(meeting.reason, PAIR_NO_LISTENER);
    struct pair_ref listener = park(PAIR_LISTEN, "listener", NULL, PAIR_WAITS);
    struct pair_ref connector = enter(), acceptor = enter();
    meeting = meet_listener(connector, PAIR_CONNECT);
    ck_assert_int_eq(meeting.result, PAIR_WAITS);
    ck_assert(pair_same(meeting.peer, listener));
    meeting = meet_listener(acceptor, PAIR_ACCEPT);
    ck_assert_int_eq(meeting.result, PAIR_MATCHES);
    ck_assert(pair_same(meeting.peer, connector));
    ck_assert_int_eq(state_of(listener), PAIR_WAITING);
}
END_TEST

START_TEST(a_second_connector_and_an_accept_without_a_connector_are_refused)
{
    park(PAIR_LISTEN, "listener", NULL, PAIR_WAITS);
    ck_assert_int_eq(meet_listener(enter(), PAIR_ACCEPT).reason, PAIR_NO_LISTENER);
    ck_assert_int_eq(meet_listener(enter(), PAIR_CONNECT).result, PAIR_WAITS);
    ck_assert_int_eq(meet_listener(enter(), PAIR_CONNECT).reason, PAIR_DUPLICATE);
}
END_TEST

/* ---- references ------------------------------------------------------------------ */

START_TEST(a_stale_reference_is_refused_everywhere)
{
    struct pair_view view;
    struct pair_meeting meeting;
    struct pair_request request = {.rule = PAIR_SIDES, .key = key_of("token")};
    struct pair_ref stranded, ref = enter();
    leave(ref);
    struct pair_ref again = enter();
    ck_assert_uint_eq(again.slot, ref.slot);
    const struct pair_ref stale[] = {ref, PAIR_NONE, {CAPACITY, 0}, {again.slot, 12345}};
    for (size_t i = 0; i < sizeof stale / sizeof stale[0]; i++) {
        ck_assert_int_eq(pair_meet(table, stale[i], &request, &meeting), -ESTALE);
        ck_assert_int_eq(pair_sent(table, stale[i]), -ESTALE);
        ck_assert_int_eq(pair_leave(table, stale[i], &stranded), -ESTALE);
        ck_assert_int_eq(pair_claim(table, stale[i], &view), -ESTALE);
        ck_assert_int_eq(pair_look(table, stale[i], &view), -ESTALE);
        ck_assert_int_eq(pair_join(table, stale[i], again), -ESTALE);
        ck_assert_int_eq(pair_undo(table, stale[i]), -ESTALE);
        ck_assert_ptr_null(pair_bytes(table, stale[i]));
    }
    ck_assert_int_eq(pair_meet(table, again, &request, &meeting), 0);
    ck_assert_int_eq(pair_meet(table, again, &request, &meeting), -ESTALE);
}
END_TEST

START_TEST(a_descriptor_is_claimed_once)
{
    struct pair_view view;
    struct pair_ref ref = park(PAIR_SIDES, "token", NULL, PAIR_WAITS);
    ck_assert_int_eq(pair_claim(table, ref, &view), -ESTALE);
    ck_assert_int_eq(state_of(ref), PAIR_WAITING);
}
END_TEST

START_TEST(bytes_are_counted_while_the_pair_is_joined)
{
    struct pair_ref first = park(PAIR_SIDES, "token", NULL, PAIR_WAITS);
    struct pair_ref second = park(PAIR_SIDES, "token", NULL, PAIR_MATCHES);
    ck_assert_int_eq(pair_join(table, first, second), 0);
    *pair_bytes(table, first) += 10;
    *pair_bytes(table, second) += 5;
    ck_assert_uint_eq(stats().incomplete_bytes, 15);
    leave(first);
    leave(second);
    pair_count_bytes(table, 15);
    ck_assert_uint_eq(stats().incomplete_bytes, 0);
    ck_assert_uint_eq(stats().total_bytes, 15);
}
END_TEST

/* ---- limits ---------------------------------------------------------------------- */

/* Stale references are recognised by the generation, at any time and without a lock. */
START_TEST(the_generation_of_a_slot_never_decreases)
{
    struct pair_ref ref = enter();
    struct slot *slot = table_slot(table, ref.slot);
    leave(ref);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        for (struct slot *taken; table_take_slot(table, 0, &taken) == 0;)
            table_free_slot(table, taken);
    uint32_t last = 0;
    bool forward = true;
    for (int64_t until = now() + 300; forward && now() < until;)
        for (int i = 0; forward && i < 100000; i++) {
            uint32_t generation = slot->generation;
            forward = generation >= last;
            last = generation;
        }
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ck_assert(forward);
    ck_assert_uint_gt(last, ref.generation + 1);
}
END_TEST

START_TEST(a_full_table_refuses_until_a_slot_is_free)
{
    struct pair_ref refs[CAPACITY], ref;
    for (size_t i = 0; i < CAPACITY; i++)
        refs[i] = enter();
    ck_assert_int_eq(pair_enter(table, &unlimited, 0, 1, now() + FAR, &ref), -ENOSPC);
    leave(refs[17]);
    ref = enter();
    ck_assert_uint_eq(ref.slot, refs[17].slot);
    ck_assert_uint_ne(ref.generation, refs[17].generation);
}
END_TEST

START_TEST(a_limit_below_the_capacity_is_kept)
{
    struct pair_limits limits = {.connections = 2};
    struct pair_ref ref;
    enter();
    enter();
    ck_assert_int_eq(pair_enter(table, &limits, 0, 1, now() + FAR, &ref), -ENOSPC);
}
END_TEST

START_TEST(each_source_has_its_limit)
{
    struct pair_limits limits = {.per_source = 2};
    uint64_t here = pair_source(table, "here", 4), there = pair_source(table, "there", 5);
    struct pair_ref ref, first = enter_from(here);
    enter_from(here);
    ck_assert_int_eq(pair_enter(table, &limits, here, 1, now() + FAR, &ref), -EUSERS);
    ck_assert_int_eq(pair_enter(table, &limits, there, 1, now() + FAR, &ref), 0);
    ck_assert_int_eq(pair_enter(table, &limits, 0, 1, now() + FAR, &ref), 0);
    leave(first);
    ck_assert_int_eq(pair_enter(table, &limits, here, 1, now() + FAR, &ref), 0);
}
END_TEST

/* ---- matches that fail ----------------------------------------------------------- */

START_TEST(when_one_connection_of_a_match_leaves_the_other_waits_again)
{
    struct pair_ref first = park(PAIR_SIDES, "token", "a", PAIR_WAITS), second = enter();
    meet_as(second, PAIR_SIDES, "token", "b");
    ck_assert(pair_same(leave(second), first));
    ck_assert_int_eq(state_of(first), PAIR_WAITING);
    park(PAIR_SIDES, "token", "b", PAIR_MATCHES);
    ck_assert_int_eq(state_of(first), PAIR_MATCHED);
}
END_TEST

START_TEST(a_connection_that_waits_again_meets_one_that_came_meanwhile)
{
    struct pair_ref first = park(PAIR_SIDES, "token", "a", PAIR_WAITS), second = enter();
    meet_as(second, PAIR_SIDES, "token", "b");
    struct pair_ref third = park(PAIR_SIDES, "token", "c", PAIR_WAITS);
    ck_assert(pair_same(leave(second), first));
    ck_assert_int_eq(state_of(first), PAIR_MATCHED);
    ck_assert_int_eq(pair_join(table, first, third), 0);
}
END_TEST

START_TEST(a_connection_that_waits_again_is_dismissed_where_only_one_may_wait)
{
    struct pair_ref first = park(PAIR_NEWEST, "pipe", "alice", PAIR_WAITS), second = enter();
    meet_as(second, PAIR_NEWEST, "pipe", "bob");
    struct pair_ref third = park(PAIR_NEWEST, "pipe", "alice", PAIR_WAITS);
    ck_assert(pair_same(leave(second), first));
    ck_assert_int_eq(reason_of(first), PAIR_REPLACED);
    ck_assert_int_eq(state_of(third), PAIR_WAITING);
}
END_TEST

START_TEST(a_match_whose_descriptor_never_arrives_is_undone)
{
    struct pair_view view;
    struct pair_ref first = park(PAIR_SIDES, "token", "a", PAIR_WAITS), second = enter();
    meet_as(second, PAIR_SIDES, "token", "b");
    ck_assert_int_eq(pair_undo(table, first), 0);
    ck_assert_int_eq(state_of(first), PAIR_WAITING);
    ck_assert_int_eq(pair_claim(table, second, &view), -ESTALE); /* it arrives too late */
    ck_assert_uint_eq(stats().used, 1);
}
END_TEST

START_TEST(a_match_whose_descriptor_has_arrived_is_not_undone)
{
    struct pair_ref first = park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    park(PAIR_SIDES, "token", "b", PAIR_MATCHES);
    ck_assert_int_eq(pair_undo(table, first), -EALREADY);
}
END_TEST

START_TEST(dismissed_connections_of_the_forwarder_are_found)
{
    struct pair_ref found[4];
    struct pair_ref first = park(PAIR_NEWEST, "pipe", "alice", PAIR_WAITS);
    park(PAIR_NEWEST, "pipe", "alice", PAIR_WAITS);
    ck_assert_uint_eq(pair_dismissed(table, found, 4), 1);
    ck_assert(pair_same(found[0], first));
}
END_TEST

START_TEST(a_leaving_connection_is_not_found_and_counts_until_it_is_closed)
{
    struct pair_limits limits = {.per_source = 1};
    struct pair_view view;
    struct pair_ref refused, stranded;
    struct pair_ref leaving = enter_from(7);
    (void)meet_as(leaving, PAIR_ROLES, "token", "a");
    ck_assert_int_eq(pair_claim(table, leaving, &view), 0);
    ck_assert_int_eq(pair_start_leaving(table, leaving, &stranded), 0);
    ck_assert(pair_is_none(stranded));
    ck_assert_int_eq(state_of(leaving), PAIR_LEAVING);
    ck_assert_uint_eq(stats().tokens, 0);
    park(PAIR_ROLES, "token", "b", PAIR_WAITS);
    ck_assert_int_eq(pair_enter(table, &limits, 7, 1, now() + FAR, &refused), -EUSERS);
    leave(leaving);
    ck_assert_int_eq(pair_enter(table, &limits, 7, 1, now() + FAR, &refused), 0);
}
END_TEST

START_TEST(leaving_a_match_strands_the_peer_and_leaving_a_pair_does_not)
{
    struct pair_ref stranded;
    struct pair_ref first = park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    struct pair_ref second = park(PAIR_SIDES, "token", "b", PAIR_MATCHES);
    ck_assert_int_eq(pair_start_leaving(table, first, &stranded), 0);
    ck_assert(pair_same(stranded, second));
    ck_assert_int_eq(state_of(second), PAIR_WAITING);
    struct pair_ref third = park(PAIR_SIDES, "token", "c", PAIR_MATCHES);
    ck_assert_int_eq(pair_join(table, second, third), 0);
    ck_assert_int_eq(pair_start_leaving(table, second, &stranded), 0);
    ck_assert(pair_is_none(stranded));
    ck_assert_int_eq(state_of(third), PAIR_JOINED);
    ck_assert_uint_eq(stats().states[PAIR_LEAVING], 2);
    pair_adopt(table); /* frees what the last forwarder held, closed or not */
    expect_empty();
}
END_TEST

START_TEST(a_connection_that_leaves_before_its_descriptor_arrives_is_not_claimed)
{
    struct pair_view view;
    struct pair_ref ref = enter(), stranded;
    (void)meet_as(ref, PAIR_SIDES, "token", "a");
    ck_assert_int_eq(pair_start_leaving(table, ref, &stranded), 0);
    ck_assert_int_eq(pair_claim(table, ref, &view), -ESTALE);
    leave(ref);
    expect_empty();
}
END_TEST

/* ---- dead and late workers ------------------------------------------------------- */

/* Runs the function in a process that ends at once after it, as if it were killed. */
static struct pair_ref in_dead_worker(
    enum pair_rule rule, const char *key, const char *side, bool sent)
{
    int pipes[2];
    struct pair_ref ref;
    ck_assert_int_eq(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        ref = enter();
        if (key != NULL)
            meet_as(ref, rule, key, side);
        if (sent)
            (void)pair_sent(table, ref);
        _exit(write(pipes[1], &ref, sizeof ref) == (ssize_t)sizeof ref ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ck_assert_int_eq(read(pipes[0], &ref, sizeof ref), (ssize_t)sizeof ref);
    close(pipes[0]);
    close(pipes[1]);
    return ref;
}

START_TEST(the_slot_of_a_dead_worker_is_freed_by_the_sweep)
{
    struct pair_ref stranded[4];
    in_dead_worker(PAIR_SIDES, NULL, NULL, false);
    ck_assert_uint_eq(stats().states[PAIR_GREETING], 1);
    ck_assert_uint_eq(pair_sweep(table, now(), stranded, 4), 0);
    expect_empty();
    in_dead_worker(PAIR_SIDES, "token", NULL, false);
    ck_assert_uint_eq(stats().states[PAIR_WAITING], 1);
    ck_assert_uint_eq(pair_sweep(table, now(), stranded, 4), 0);
    expect_empty();
}
END_TEST

START_TEST(the_slot_of_a_dead_worker_is_reused_without_a_forwarder)
{
    for (size_t i = 0; i < 2 * CAPACITY; i++)
        ck_assert(!pair_is_none(in_dead_worker(PAIR_SIDES, NULL, NULL, false)));
    ck_assert_uint_le(stats().used, CAPACITY);
}
END_TEST

START_TEST(a_match_of_a_dead_worker_is_undone_after_the_time_for_its_descriptor)
{
    struct pair_ref stranded[4];
    struct pair_ref first = park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    in_dead_worker(PAIR_SIDES, "token", "b", true);
    ck_assert_int_eq(state_of(first), PAIR_MATCHED);
    ck_assert_uint_eq(pair_sweep(table, now(), stranded, 4), 0);
    ck_assert_uint_eq(pair_sweep(table, now() + PAIR_ARRIVAL_TIME + 100, stranded, 4), 1);
    ck_assert(pair_same(stranded[0], first));
    ck_assert_int_eq(state_of(first), PAIR_WAITING);
}
END_TEST

START_TEST(a_descriptor_in_flight_outlives_its_worker)
{
    struct pair_view view;
    struct pair_ref stranded[4];
    struct pair_ref ref = in_dead_worker(PAIR_SIDES, "token", NULL, true);
    ck_assert_uint_eq(pair_sweep(table, now(), stranded, 4), 0);
    ck_assert_int_eq(pair_claim(table, ref, &view), 0);
    ck_assert_int_eq(view.state, PAIR_WAITING);
}
END_TEST

START_TEST(a_living_worker_past_its_deadline_loses_its_slot)
{
    struct pair_ref ref, stranded[4];
    ck_assert_int_eq(pair_enter(table, &unlimited, 0, 1, now() + 5000, &ref), 0);
    ck_assert_uint_eq(pair_sweep(table, now() + 4000, stranded, 4), 0);
    ck_assert_uint_eq(stats().used, 1);
    ck_assert_uint_eq(pair_sweep(table, now() + 9000, stranded, 4), 0);
    expect_empty();
}
END_TEST

START_TEST(a_new_forwarder_frees_the_slots_of_the_last_one)
{
    struct pair_ref first = park(PAIR_SIDES, "one", NULL, PAIR_WAITS);
    struct pair_ref second = park(PAIR_SIDES, "one", NULL, PAIR_MATCHES);
    ck_assert_int_eq(pair_join(table, first, second), 0);
    park(PAIR_SIDES, "two", NULL, PAIR_WAITS);
    struct pair_ref with_worker = enter();
    pair_adopt(table);
    ck_assert_uint_eq(stats().used, 1);
    ck_assert_uint_eq(stats().tokens, 0);
    ck_assert_int_eq(stats().forwarder, getpid());
    leave(with_worker);
    expect_empty();
}
END_TEST

/* ---- killed at any instruction --------------------------------------------------- */

/* Does all that workers and a forwarder do, with a few keys, without end. */
static _Noreturn void live(unsigned int seed)
{
    static const char *const keys[] = {"a", "b", "c"}, *const sides[] = {"x", "y", NULL};
    struct pair_ref refs[8] = {
        PAIR_NONE, PAIR_NONE, PAIR_NONE, PAIR_NONE, PAIR_NONE, PAIR_NONE, PAIR_NONE, PAIR_NONE};
    struct pair_ref stranded, spares[4];
    struct pair_view view;
    for (;;) {
        struct pair_ref *ref = &refs[(unsigned int)rand_r(&seed) % 8];
        struct pair_meeting meeting;
        struct pair_request request = {.rule = PAIR_SIDES};
        const char *side = sides[(unsigned int)rand_r(&seed) % 3];
        if (pair_leave(table, *ref, &stranded) == 0 && rand_r(&seed) % 2 == 0)
            continue;
        if (pair_enter(table, &unlimited, 7, 1, now() + FAR, ref) != 0)
            continue;
        request.key = key_of(keys[(unsigned int)rand_r(&seed) % 3]);
        request.side = side == NULL ? 0 : pair_side(table, side, 1);
        if (pair_meet(table, *ref, &request, &meeting) != 0)
            continue;
        (void)pair_sent(table, *ref);
        if (pair_claim(table, *ref, &view) == 0 && meeting.result == PAIR_MATCHES) {
            (void)pair_join(table, *ref, meeting.peer);
            (void)pair_spares(table, *ref, spares, 4);
            (void)pair_undo(table, *ref);
        }
    }
}

/* Sweeps until there is nothing left to free. */
static void sweep_all(void)
{
    struct pair_ref stranded[16];
    pair_adopt(table);
    for (int i = 0; i < 16 && stats().used > 0; i++)
        (void)pair_sweep(table, now() + 2 * FAR, stranded, 16);
}

START_TEST(processes_killed_at_any_instruction_leave_a_working_table)
{
    enum {
        LIVES = 4
    };
    pid_t children[LIVES];
    unsigned int seed = (unsigned int)getpid();
    for (int i = 0; i < LIVES; i++)
        if ((children[i] = fork()) == 0)
            live(seed + (unsigned int)i);
    for (int i = 0; i < KILLS; i++) {
        int chosen = rand_r(&seed) % LIVES;
        struct timespec pause = {0, rand_r(&seed) % 400000};
        nanosleep(&pause, NULL);
        ck_assert_int_eq(kill(children[chosen], SIGKILL), 0);
        ck_assert_int_eq(waitpid(children[chosen], NULL, 0), children[chosen]);
        if ((children[chosen] = fork()) == 0)
            live(seed + (unsigned int)i);
    }
    for (int i = 0; i < LIVES; i++) {
        ck_assert_int_eq(kill(children[i], SIGKILL), 0);
        ck_assert_int_eq(waitpid(children[i], NULL, 0), children[i]);
    }
    sweep_all();
    expect_empty();
    struct pair_ref refs[CAPACITY];
    for (size_t i = 0; i < CAPACITY; i++) /* no slot was lost */
        refs[i] = enter();
    for (size_t i = 0; i < CAPACITY; i++)
        leave(refs[i]);
    park(PAIR_SIDES, "a", "x", PAIR_WAITS);
    park(PAIR_SIDES, "a", "y", PAIR_MATCHES);
}
END_TEST

/* A process dies with a lock held, after it has damaged what the lock guards. */
static void die_holding(void (*lock)(void))
{
    pid_t child = fork();
    if (child == 0) {
        lock();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}

static void tear_entry(void)
{
    (void)table_lock_entry(table);
    table->header->free = table->header->first_unclaimed = table->header->last_unclaimed = 3;
    table->header->used = 12345;
    memset(table->source_buckets, 0xff, sizeof(slot_link) * (table->bucket_mask + 1));
}

static void tear_stripe(void)
{
    struct pair_key key = key_of("token");
    (void)table_lock_key(table, &key);
    table->header->stripes[0].tokens = 99;
    uint64_t hash;
    memcpy(&hash, key.bytes, sizeof hash);
    table->key_buckets[hash & table->bucket_mask] = 0;
}

START_TEST(a_lock_of_a_dead_process_is_repaired)
{
    struct pair_ref first = park(PAIR_SIDES, "token", "a", PAIR_WAITS);
    die_holding(tear_entry);
    die_holding(tear_stripe);
    struct pair_ref second = park(PAIR_SIDES, "token", "b", PAIR_MATCHES);
    ck_assert_int_eq(pair_join(table, first, second), 0);
    ck_assert_uint_eq(stats().used, 2);
    ck_assert_uint_eq(stats().repairs, 2);
    leave(first);
    leave(second);
    ck_assert_uint_eq(stats().used, 0);
}
END_TEST

static void stop_holding_entry(void)
{
    (void)table_lock_entry(table);
    (void)raise(SIGSTOP);
}

START_TEST(a_worker_that_stalls_with_a_lock_is_killed)
{
    pid_t child = fork();
    if (child == 0) {
        stop_holding_entry();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, NULL, WUNTRACED), child);
    leave(enter());
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}
END_TEST

/* ---- a table with any contents --------------------------------------------------- */

START_TEST(no_contents_of_the_slots_cause_a_read_outside_the_table)
{
    unsigned int seed = 1;
    for (int round = 0; round < 300; round++) {
        struct pair_ref refs[8], out[8];
        struct pair_view view;
        struct pair_stats counted;
        for (size_t i = 0; i < 8; i++)
            refs[i] = enter();
        for (size_t i = 0; i < 8; i++) {
            struct pair_meeting meeting;
            struct pair_request request = {.rule = PAIR_SIDES, .key = key_of("token")};
            (void)pair_meet(table, refs[i], &request, &meeting);
        }
        for (int k = 0; k < 200; k++) {
            uint8_t *bytes = (uint8_t *)table->slots;
            size_t at = (size_t)rand_r(&seed) % (8 * sizeof(struct slot));
            bytes[at] = (uint8_t)rand_r(&seed);
        }
        for (size_t i = 0; i < 8; i++) {
            (void)pair_claim(table, refs[i], &view);
            (void)pair_undo(table, refs[i]);
            (void)pair_spares(table, refs[i], out, 8);
            (void)pair_sweep(table, now() + 2 * FAR, out, 8);
            (void)pair_start_leaving(table, refs[i], out);
            (void)pair_leave(table, refs[i], out);
        }
        pair_stats(table, &counted);
        remove_table();
        make_table();
    }
}
END_TEST

/* ---------------------------------------------------------------------------------- */

static void add_tests(TCase *tests)
{
    const TTest *const all[] = {a_table_is_for_its_user_only,
        an_empty_table_takes_next_to_no_memory, a_second_process_sees_what_the_first_did,
        opening_to_read_counts_makes_no_table, a_table_of_another_version_is_refused,
        a_file_that_is_no_table_is_refused, a_table_truncated_anywhere_is_refused,
        a_capacity_that_does_not_fit_the_file_is_refused, a_symbolic_link_is_not_followed,
        a_table_of_another_boot_is_refused, a_table_from_the_future_of_this_boot_is_refused,
        only_a_table_that_cannot_be_used_is_discarded,
        a_table_truncated_while_in_use_is_noticed_and_kills_no_process,
        an_overwritten_table_is_noticed, a_retired_table_is_not_changed,
        a_removed_or_replaced_table_is_noticed,
        pairs_and_waiting_connections_are_carried_into_the_next_table,
        from_a_damaged_table_only_pairs_are_carried,
        a_slot_that_is_not_free_is_not_taken_even_if_the_free_list_names_it,
        with_an_impossible_count_of_slots_no_walk_passes_the_last_slot,
        a_key_depends_on_protocol_parts_and_their_lengths, another_table_has_another_secret,
        different_sides_meet, a_connection_without_a_side_meets_any, different_keys_do_not_meet,
        connections_of_the_same_side_wait_together_and_the_rest_are_spares,
        waiting_connections_may_leave_in_any_order, different_roles_meet,
        a_second_connection_of_a_role_refuses_both, a_newer_connection_replaces_the_older_one,
        a_second_listener_is_refused, a_connector_needs_a_listener_and_waits_to_be_accepted,
        a_second_connector_and_an_accept_without_a_connector_are_refused,
        a_stale_reference_is_refused_everywhere, a_descriptor_is_claimed_once,
        bytes_are_counted_while_the_pair_is_joined, the_generation_of_a_slot_never_decreases,
        a_full_table_refuses_until_a_slot_is_free, a_limit_below_the_capacity_is_kept,
        each_source_has_its_limit, when_one_connection_of_a_match_leaves_the_other_waits_again,
        a_connection_that_waits_again_meets_one_that_came_meanwhile,
        a_connection_that_waits_again_is_dismissed_where_only_one_may_wait,
        a_match_whose_descriptor_never_arrives_is_undone,
        a_match_whose_descriptor_has_arrived_is_not_undone,
        dismissed_connections_of_the_forwarder_are_found,
        a_leaving_connection_is_not_found_and_counts_until_it_is_closed,
        leaving_a_match_strands_the_peer_and_leaving_a_pair_does_not,
        a_connection_that_leaves_before_its_descriptor_arrives_is_not_claimed,
        the_slot_of_a_dead_worker_is_freed_by_the_sweep,
        the_slot_of_a_dead_worker_is_reused_without_a_forwarder,
        a_match_of_a_dead_worker_is_undone_after_the_time_for_its_descriptor,
        a_descriptor_in_flight_outlives_its_worker,
        a_living_worker_past_its_deadline_loses_its_slot,
        a_new_forwarder_frees_the_slots_of_the_last_one,
        processes_killed_at_any_instruction_leave_a_working_table,
        a_lock_of_a_dead_process_is_repaired, a_worker_that_stalls_with_a_lock_is_killed,
        no_contents_of_the_slots_cause_a_read_outside_the_table};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tcase_add_test(tests, all[i]);
}

int main(void)
{
    Suite *suite = suite_create("pair");
    TCase *tests = tcase_create("table");
    tcase_add_checked_fixture(tests, make_table, remove_table);
    tcase_set_timeout(tests, 120);
    add_tests(tests);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
