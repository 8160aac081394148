/* The log: one line per event on standard error, with the priority prefix of
 * sd-daemon(3) where the journal reads it. Nothing secret is ever logged; addresses of
 * clients only at debug level. All functions keep errno.
 *
 * The log never blocks and never ends a process. A line that would have to wait is lost; how many
 * were is said once the log takes lines again. */
#ifndef RELAY_LOG_H
#define RELAY_LOG_H

#include <stdbool.h>
#include <syslog.h>

/* Chooses where the log goes, and whether debug messages are shown. $JOURNAL_STREAM: with
 * the journal's prefixes. $RELAY_LOG=syslog, or where standard error is the client's own
 * connection (inetd makes it so), whose copies are replaced, or is /dev/null beside a connection:
 * to the syslog daemon. To be called again after all descriptors were closed. */
void log_setup(bool debug);

/* Whether debug messages are shown; to save the work of preparing one. */
bool log_debugging(void);
void log_set_debugging(bool debug);

__attribute__((format(printf, 1, 2))) void log_error(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning(const char *format, ...);
/* The same, with errno's text behind it. */
__attribute__((format(printf, 1, 2))) void log_error_errno(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_warning_errno(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_info(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_debug(const char *format, ...);

/* For what strangers can cause over and over: equal lines are summed up, one a minute with a count,
 * except at debug level. priority: as syslog(3) has it. */
__attribute__((format(printf, 2, 3))) void log_repeated(int priority, const char *format, ...);
/* The same, with errno's text behind it. */
__attribute__((format(printf, 2, 3))) void log_repeated_errno(
    int priority, const char *format, ...);

/* Whether all lines of this process are summed up, as it is one of many of its kind, one per
 * connection. */
void log_sum_all(bool wanted);

/* Sums up what all processes log that share the file at `path` (repeats.h). A file that cannot be
 * used is no fault: this process then sums up for itself. */
void log_share(const char *path);

/* Says the sums that are due, or all, and how many lines were lost. A process that lives for long
 * does so whenever this many milliseconds, which are returned, have passed. */
int log_look(bool all);

#endif
