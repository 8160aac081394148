/* The log: one line per event on standard error, with the priority prefix of sd-daemon(3) where the
 * journal reads it. Nothing secret is ever logged; addresses of clients only at debug level. All
 * functions keep errno.
 *
 * The log never blocks and never ends a process. A line that cannot be written at once is lost; the
 * number of lost lines is logged as soon as lines can be written again. */
#ifndef RELAY_LOG_H
#define RELAY_LOG_H

#include <stdbool.h>
#include <syslog.h>

/* Chooses where the log goes, and whether debug messages are shown. With $JOURNAL_STREAM, lines
 * have the journal's prefixes. The log goes to the syslog daemon if $RELAY_LOG is "syslog"; if
 * standard error is the client's connection, as under inetd (standard output and error are then
 * replaced by /dev/null); or if standard error is /dev/null while standard input is a connection.
 * Called again after all descriptors were closed. */
void log_setup(bool debug);

/* Whether debug messages are shown, so that a caller can save the work of preparing one. */
bool log_debugging(void);
void log_set_debugging(bool debug);

__attribute__((format(printf, 1, 2))) void log_error(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning(const char *format, ...);
/* The same, followed by the text of errno. */
__attribute__((format(printf, 1, 2))) void log_error_errno(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning_errno(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_info(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_debug(const char *format, ...);

/* For messages that clients can cause again and again: equal lines are summed up to one line a
 * minute with a count, except at debug level. priority: as in syslog(3). */
__attribute__((format(printf, 2, 3))) void log_repeated(int priority, const char *format, ...);
/* The same, followed by the text of errno. */
__attribute__((format(printf, 2, 3))) void log_repeated_errno(
    int priority, const char *format, ...);

/* Whether all lines of this process are summed up: wanted where there is one process for each
 * connection. */
void log_sum_up_all(bool wanted);

/* From now on, sums up the lines of all processes that share the file at `path` (repeats.h). Where
 * the file cannot be used, this process sums up its own lines only. */
void log_share_sums(const char *path);

/* Writes the sums that are due, or all of them, and how many lines were lost. Returns after how
 * many milliseconds a long-lived process has to call it again. */
int log_write_sums(bool all);

#endif
