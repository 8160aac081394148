/* Repeated log lines: see repeats.h. */
#include "base/repeats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum {
    LOCK_TRIES = 40, /* the lock is held for microseconds, unless its holder is not running */
    LOCK_TRIES_AT_ONCE = 20,
    LOCK_PAUSE = 50 * 1000, /* nanoseconds between two of the later tries */
    RETRY = 1000,           /* milliseconds until lost lines, or the lock, are tried again */
};

struct repeat {
    int64_t written; /* when it was written last; 0: never */
    uint32_t count;  /* lines since then; 0 for a whole period: the place is free */
    int32_t priority;
    char text[REPEATS_TEXT]; /* empty: never used */
};

struct repeats {
    char magic[8];
    uint64_t lost;
    struct repeat kinds[REPEATS_KINDS];
    struct repeat others; /* all texts that found no free place: others_text */
};

static const char magic[8] = "repeats1";
static const char others_text[] = "lines of other texts, counted together";

static int file = -1;
static struct repeats own;    /* used without a file or without its lock */
static struct repeats shared; /* what the file holds, while it is locked */

/* Its places one after the other: all kinds, and then `others`. */
static struct repeat *place_of(struct repeats *repeats, size_t i)
{
    return i < REPEATS_KINDS ? &repeats->kinds[i] : &repeats->others;
}

/* ---- the file -------------------------------------------------------------------- */

static int set_file_lock(short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET};
    return fcntl(file, F_SETLK, &lock);
}

static bool lock_file(void)
{
    struct timespec pause = {.tv_nsec = LOCK_PAUSE};
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (set_file_lock(F_WRLCK) == 0)
            return true;
        if (i >= LOCK_TRIES_AT_ONCE)
            (void)nanosleep(&pause, NULL);
    }
    return false;
}

/* The file may hold anything: every number in it is made usable, and every text gets a NUL. */
static void load_shared(void)
{
    if (pread(file, &shared, sizeof shared, 0) != (ssize_t)sizeof shared ||
        memcmp(shared.magic, magic, sizeof magic) != 0) {
        memset(&shared, 0, sizeof shared);
        memcpy(shared.magic, magic, sizeof magic);
    }
    for (size_t i = 0; i <= REPEATS_KINDS; i++) {
        struct repeat *repeat = place_of(&shared, i);
        repeat->text[REPEATS_TEXT - 1] = '\0';
        if (repeat->written < 0)
            repeat->written = 0;
    }
}

static bool store_shared(void)
{
    return pwrite(file, &shared, sizeof shared, 0) == (ssize_t)sizeof shared;
}

int repeats_share(const char *path)
{
    struct stat status;
    if (file >= 0)
        close(file);
    file = -1;
    if (path == NULL)
        return 0;
    file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (file < 0)
        return -errno;
    int error = fstat(file, &status) < 0 ? -errno : S_ISREG(status.st_mode) ? 0 : -EINVAL;
    if (error == 0 && status.st_size < (off_t)sizeof shared && lock_file()) {
        /* Takes the disk space now, so that a later write cannot fail for want of it. */
        load_shared();
        error = store_shared() ? 0 : -ENOSPC;
        (void)set_file_lock(F_UNLCK);
    }
    if (error != 0) {
        close(file);
        file = -1;
    }
    return error;
}

/* ---- counting -------------------------------------------------------------------- */

static bool is_due(const struct repeat *repeat, int64_t now)
{
    /* Never written, or in an earlier boot, or long ago. */
    return repeat->written == 0 || repeat->written > now || now - repeat->written >= REPEATS_PERIOD;
}

/* The place of a text: its own, else a free one, else `others`. */
static struct repeat *find_place(struct repeats *repeats, const char *text, int64_t now)
{
    struct repeat *free = NULL;
    if (strcmp(text, others_text) == 0)
        return &repeats->others;
    for (size_t i = 0; i < REPEATS_KINDS; i++) {
        struct repeat *repeat = &repeats->kinds[i];
        if (strcmp(repeat->text, text) == 0)
            return repeat;
        bool unused = repeat->text[0] == '\0' || (repeat->count == 0 && is_due(repeat, now));
        if (free == NULL && unused)
            free = repeat;
    }
    if (free == NULL)
        return &repeats->others;
    *free = (struct repeat){.count = 0};
    return free;
}

static struct repeat *count_line(
    struct repeats *repeats, int priority, const char *text, uint32_t times, int64_t now)
{
    char key[REPEATS_TEXT];
    (void)snprintf(key, sizeof key, "%s", text);
    struct repeat *repeat = find_place(repeats, key, now);
    if (repeat->text[0] == '\0') {
        repeat->priority = priority;
        (void)snprintf(repeat->text, sizeof repeat->text, "%s",
            repeat == &repeats->others ? others_text : key);
    }
    if (__builtin_add_overflow(repeat->count, times, &repeat->count))
        repeat->count = UINT32_MAX;
    return repeat;
}

/* Adds what this process counted without the lock to the shared counts. */
static void add_own_counts(int64_t now)
{
    for (size_t i = 0; i <= REPEATS_KINDS; i++) {
        struct repeat *repeat = place_of(&own, i);
        if (repeat->count == 0)
            continue;
        (void)count_line(&shared, repeat->priority, repeat->text, repeat->count, now);
        repeat->count = 0;
    }
    shared.lost += own.lost;
    own.lost = 0;
}

/* Where to count: in the shared counts, or without the lock in this process's own. */
static struct repeats *begin_counting(int64_t now)
{
    if (file < 0 || !lock_file())
        return &own;
    load_shared();
    add_own_counts(now);
    return &shared;
}

/* If the file cannot be written, this process goes on with a copy of its own. */
static void end_counting(const struct repeats *repeats)
{
    if (repeats != &shared)
        return;
    bool stored = store_shared();
    (void)set_file_lock(F_UNLCK);
    if (stored)
        return;
    own = shared;
    close(file);
    file = -1;
}

/* A line that cannot be written keeps its count. */
static void write_sum(struct repeat *repeat, int64_t now, repeats_writer *writer)
{
    char line[REPEATS_TEXT + 64];
    int64_t seconds = (now - repeat->written + 500) / 1000;
    if (repeat->count == 1)
        (void)snprintf(line, sizeof line, "%s", repeat->text);
    else if (repeat->written == 0 || seconds <= 0)
        (void)snprintf(line, sizeof line, "%s (%u times)", repeat->text, repeat->count);
    else
        (void)snprintf(line, sizeof line, "%s (%u times in %lld seconds)", repeat->text,
            repeat->count, (long long)seconds);
    if (writer(repeat->priority & LOG_PRIMASK, line))
        repeat->count = 0;
    repeat->written = now;
}

static void write_lost(struct repeats *repeats, repeats_writer *writer)
{
    char line[100];
    if (repeats->lost == 0)
        return;
    (void)snprintf(line, sizeof line,
        "%llu lines of this log were lost: they could not be written at once",
        (unsigned long long)repeats->lost);
    if (writer(LOG_WARNING, line))
        repeats->lost = 0;
}

void repeats_add(int priority, const char *text, int64_t now, repeats_writer *writer)
{
    struct repeats *repeats = begin_counting(now);
    struct repeat *repeat = count_line(repeats, priority, text, 1, now);
    /* Without the lock, another process may have written the line just now. */
    bool is_known = repeats == &shared || file < 0;
    write_lost(repeats, writer);
    if (is_known && is_due(repeat, now))
        write_sum(repeat, now, writer);
    end_counting(repeats);
}

void repeats_count(int priority, const char *text, int64_t now)
{
    struct repeats *repeats = begin_counting(now);
    (void)count_line(repeats, priority, text, 1, now);
    end_counting(repeats);
}

void repeats_count_lost(uint64_t lines, int64_t now)
{
    struct repeats *repeats = begin_counting(now);
    repeats->lost += lines;
    end_counting(repeats);
}

int repeats_write_due(bool all, int64_t now, repeats_writer *writer)
{
    int64_t next = REPEATS_PERIOD;
    struct repeats *repeats = begin_counting(now);
    bool is_known = repeats == &shared || file < 0;
    write_lost(repeats, writer);
    for (size_t i = 0; i <= REPEATS_KINDS; i++) {
        struct repeat *repeat = place_of(repeats, i);
        if (is_known && repeat->count > 0 && (all || is_due(repeat, now)))
            write_sum(repeat, now, writer);
        if (repeat->count > 0 && repeat->written + REPEATS_PERIOD - now < next)
            next = repeat->written + REPEATS_PERIOD - now;
    }
    if (!is_known || (repeats->lost > 0 && next > RETRY))
        next = RETRY;
    end_counting(repeats);
    return next < 1 ? 1 : (int)next;
}
