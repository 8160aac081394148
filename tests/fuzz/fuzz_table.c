/* A damaged table: the input overwrites a good one, at places that it names: three bytes of a
 * place, one of a length, and that many bytes. The table is refused, or whatever is done with it
 * comes to its end. Locks are left as they are: the C library trusts what is in them. */
#include "pair.h"
#include "table.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    CAPACITY = 16,
    FAR = 1000000
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static const struct pair_limits unlimited = {0, 0};
static char path[64];
static uint8_t *good;
static size_t good_size;

static void remove_table(void)
{
    (void)unlink(path);
    *strrchr(path, '/') = '\0';
    (void)rmdir(path);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000;
}

static void meet(struct pair_table *table, const char *key, enum pair_rule rule, uint64_t side)
{
    struct pair_ref ref, stranded;
    struct pair_meeting meeting;
    struct pair_view view;
    struct iovec part = {(void *)(uintptr_t)key, strlen(key)};
    struct pair_request request = {.rule = rule, .side = side, .key = pair_key(table, 0, &part, 1)};
    if (pair_enter(table, &unlimited, side, 1, now() + FAR, &ref) != 0)
        return;
    if (pair_meet(table, ref, &request, &meeting) != 0 || meeting.result == PAIR_REFUSED) {
        (void)pair_leave(table, ref, &stranded);
        return;
    }
    (void)pair_sent(table, ref);
    (void)pair_claim(table, ref, &view);
}

/* A table in which somebody waits, somebody met, and somebody is in a handshake. */
static void make_good_table(void)
{
    struct pair_table *table;
    struct pair_ref ref;
    if (pair_open(path, CAPACITY, &table) != 0)
        abort();
    pair_adopt(table);
    meet(table, "one", PAIR_SIDES, 1);
    meet(table, "one", PAIR_SIDES, 1);
    meet(table, "two", PAIR_SIDES, 2);
    meet(table, "two", PAIR_SIDES, 3);
    meet(table, "listen", PAIR_LISTEN, 4);
    if (pair_enter(table, &unlimited, 5, 1, now() + FAR, &ref) != 0)
        abort();
    pair_close(table);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char directory[] = "/tmp/fuzz-table-XXXXXX";
    (void)argc;
    (void)argv;
    if (mkdtemp(directory) == NULL)
        abort();
    (void)snprintf(path, sizeof path, "%s/table", directory);
    if (atexit(remove_table) != 0)
        abort();
    make_good_table();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (end <= 0 || (good = malloc((size_t)end)) == NULL ||
        pread(fd, good, (size_t)end, 0) != (ssize_t)end)
        abort();
    good_size = (size_t)end;
    close(fd);
    return 0;
}

/* Locks are in the header, and on either side of them is what may be damaged. */
static bool may_be_damaged(size_t at)
{
    return at < offsetof(struct table_header, entry) ||
           (at >= offsetof(struct table_header, free) &&
               at < offsetof(struct table_header, stripes)) ||
           at >= sizeof(struct table_header);
}

static void damage(uint8_t *bytes, const uint8_t *data, size_t size)
{
    while (size >= 4) {
        size_t at = ((size_t)data[0] << 16 | (size_t)data[1] << 8 | data[2]) % good_size;
        size_t length = data[3];
        data += 4, size -= 4;
        for (; length > 0 && size > 0 && at < good_size; length--, at++, data++, size--)
            if (may_be_damaged(at))
                bytes[at] = *data;
    }
}

static void write_table(const uint8_t *data, size_t size)
{
    int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)good_size) != 0)
        abort();
    uint8_t *bytes = mmap(NULL, good_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED)
        abort();
    memcpy(bytes, good, good_size);
    damage(bytes, data, size);
    if (munmap(bytes, good_size) != 0)
        abort();
    close(fd);
}

static void use(struct pair_table *table)
{
    struct pair_stats stats;
    struct pair_ref refs[CAPACITY], stranded;
    struct pair_view view;
    pair_stats(table, &stats);
    meet(table, "one", PAIR_SIDES, 6);
    meet(table, "two", PAIR_NEWEST, 2);
    meet(table, "listen", PAIR_LISTEN, 4);
    (void)pair_sweep(table, now(), refs, CAPACITY);
    (void)pair_dismissed(table, refs, CAPACITY);
    for (uint32_t slot = 0; slot < CAPACITY; slot++) {
        for (uint32_t generation = 0; generation < 3; generation++) {
            struct pair_ref ref = {slot, generation};
            if (pair_look(table, ref, &view) != 0)
                continue;
            (void)pair_spares(table, ref, refs, CAPACITY);
            (void)pair_undo(table, ref);
            (void)pair_leave(table, ref, &stranded);
        }
    }
    pair_adopt(table);
    pair_stats(table, &stats);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pair_table *table;
    write_table(data, size);
    if (pair_open_existing(path, &table) != 0)
        return 0;
    use(table);
    pair_close(table);
    return 0;
}
