/* Repeated log lines: messages that clients can cause as often as they want are summed up, so that
 * no client can fill the disk. The first of equal lines is written at once; after that one line a
 * minute, with the number of lines since the one before.
 *
 * The counts are kept in a small file that all processes of one runtime directory share, as some of
 * them live for one connection only. It is read and written under a lock of fcntl(2), which the
 * kernel releases when a process dies; a process tries for the lock only for about a millisecond.
 * Without file or lock a process counts its own lines. The file is read, not mapped, so that no
 * process dies if somebody truncates it. */
#ifndef RELAY_REPEATS_H
#define RELAY_REPEATS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    REPEATS_PERIOD = 60 * 1000, /* milliseconds between two lines of the same text */
    REPEATS_KINDS = 31, /* different texts that are counted; all others are counted together */
    REPEATS_TEXT = 240, /* bytes of a text that are compared, with its NUL */
};

/* Writes a line, and returns whether it was written. Called with the file locked. */
typedef bool repeats_writer(int priority, const char *text);

/* From now on, counts in the file at `path`, which is made if it is missing; NULL: in this process
 * only. Returns 0, or a negative errno, and then it counts in this process only. */
int repeats_share(const char *path);

/* Counts a line, and writes it if it is due. now: milliseconds, CLOCK_MONOTONIC. */
void repeats_add(int priority, const char *text, int64_t now, repeats_writer *writer);

/* Counts a line, and leaves it to another process that shares the file to write it. */
void repeats_count(int priority, const char *text, int64_t now);

/* Counts lines that could not be written. */
void repeats_count_lost(uint64_t lines, int64_t now);

/* Writes how many lines were lost, if any, and the sums that are due, or all of them. Returns after
 * how many milliseconds to call it again. */
int repeats_write_due(bool all, int64_t now, repeats_writer *writer);

#endif
