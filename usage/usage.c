/* Usage records: making, blurring, formatting and sending one. */
#include "usage/usage.h"

#include "base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    MICROSECONDS = 1000000,
    GREETING_MAX = 60 * MICROSECONDS, /* a longer greeting is a clock that was set meanwhile */
    TIME_TEXT = 32
};

struct usage_start usage_start_now(void)
{
    return (struct usage_start){.opened = clock_epoch(), .since = clock_steady()};
}

struct usage_start usage_start_of(int64_t opened, int64_t since)
{
    int64_t now = clock_steady();
    int64_t age = since > 0 ? now - since : clock_epoch() - opened;
    if (age < 0)
        age = 0;
    else if (since <= 0 && age > GREETING_MAX)
        age = GREETING_MAX;
    return (struct usage_start){.opened = opened, .since = now - age};
}

struct usage_record usage_single(struct usage_start start, enum pair_outcome outcome)
{
    return (struct usage_record){
        .started = start.opened,
        .total_time = clock_steady() - start.since,
        .waiting_time = -1,
        .outcome = (uint32_t)outcome,
    };
}

struct usage_record usage_pair(struct usage_start start, struct usage_start peer, uint64_t bytes)
{
    struct usage_start first = start.since < peer.since ? start : peer;
    struct usage_start second = start.since < peer.since ? peer : start;
    return (struct usage_record){
        .started = first.opened,
        .total_time = clock_steady() - first.since,
        .waiting_time = second.since - first.since,
        .total_bytes = bytes,
        .outcome = PAIR_HAPPY,
    };
}

const char *usage_mood(enum pair_outcome outcome)
{
    switch (outcome) {
    case PAIR_HAPPY:
        return "happy";
    case PAIR_LONELY:
        return "lonely";
    case PAIR_IMPATIENT:
        return "impatient";
    case PAIR_REDUNDANT:
        return "redundant";
    case PAIR_EMPTY:
        return "empty";
    case PAIR_ERRORY:
    case PAIR_FULL:
    case PAIR_SOURCE:
    case PAIR_SERVED:
    case PAIR_OUTCOMES:
        break;
    }
    return "errory";
}

uint64_t usage_blur_bytes(uint64_t bytes)
{
    uint64_t step = bytes < 1000000 ? 10000 : bytes < 1000000000 ? 1000000 : 100000000;
    uint64_t beyond = bytes % step;
    if (beyond == 0)
        return bytes;
    return bytes > UINT64_MAX - step ? bytes : bytes - beyond + step;
}

void usage_blur(struct usage_record *record, uint32_t seconds)
{
    int64_t step = (int64_t)seconds * MICROSECONDS;
    if (step == 0)
        return;
    record->started -= record->started % step;
    record->total_bytes = usage_blur_bytes(record->total_bytes);
}

/* Seconds with one to six decimals. */
static void format_time(char text[static TIME_TEXT], int64_t time)
{
    int length = snprintf(
        text, TIME_TEXT, "%" PRId64 ".%06" PRId64, time / MICROSECONDS, time % MICROSECONDS);
    while (length > 2 && text[length - 1] == '0' && text[length - 2] != '.')
        text[--length] = '\0';
}

int usage_format(const struct usage_record *record, char *line, size_t size)
{
    char started[TIME_TEXT], total[TIME_TEXT], waiting[TIME_TEXT] = "null";
    format_time(started, record->started);
    format_time(total, record->total_time);
    if (record->waiting_time >= 0)
        format_time(waiting, record->waiting_time);
    int length = snprintf(line, size,
        "{\"started\": %s, \"total_time\": %s, \"waiting_time\": %s, \"total_bytes\": %" PRIu64
        ", \"mood\": \"%s\"}\n",
        started, total, waiting, record->total_bytes, usage_mood(record->outcome));
    return length < 0 || (size_t)length >= size ? -ENOSPC : length;
}

int usage_send(int pipe, const struct usage_record *record)
{
    /* A record is smaller than PIPE_BUF, so it is written whole or not at all. */
    ssize_t count = write(pipe, record, sizeof *record);
    return count == (ssize_t)sizeof *record ? 0 : count < 0 ? -errno : -EIO;
}
