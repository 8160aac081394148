/* Lines of the log that may come as often as strangers want: equal ones are summed up, so that
 * nobody fills a disk with them. The first is said at once; after that there is one line a minute,
 * with how many there were since the one before.
 *
 * What was counted is kept in a small file that all processes of one runtime directory share, as
 * some of them live for one connection only. It is read and written under a lock that the kernel
 * takes back from the dead, and never waited for; without the file each process counts for itself.
 * The file is not mapped: whatever is done to it, nobody dies of it. */
#ifndef RELAY_REPEATS_H
#define RELAY_REPEATS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    REPEATS_PERIOD = 60 * 1000, /* milliseconds between two lines of the same text */
    REPEATS_KINDS = 31,         /* texts that are told apart; all others count as one */
    REPEATS_TEXT = 240,         /* what is compared of a text, with its end */
};

/* Writes a line, and says whether it was taken. It is called with the file locked. */
typedef bool repeats_say(int priority, const char *text);

/* Counts in the file at `path` from now on, which is made where it is missing; NULL: for this
 * process alone. Returns 0, or a negative errno, and then it is for this process alone. */
int repeats_share(const char *path);

/* Counts a line, and says it if it is due. now: milliseconds, CLOCK_MONOTONIC. */
void repeats_add(int priority, const char *text, int64_t now, repeats_say *say);

/* Counts a line that another process that shares the file is to say. */
void repeats_leave(int priority, const char *text, int64_t now);

/* Counts lines that could not be written. */
void repeats_lose(uint64_t lines, int64_t now);

/* Says whether and how many lines were lost, and what was counted and is due, or all of it. Returns
 * in how many milliseconds to ask again. */
int repeats_look(bool all, int64_t now, repeats_say *say);

#endif
