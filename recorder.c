/* The recorder: reads records from a pipe, and writes them as JSON lines and to SQLite, in batches.
 * It lives as long as somebody holds the pipe's other end, so what the last forwarder sent is
 * written down even when that was killed. */
#include "recorder.h"

#include "log.h"
#include "runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    BATCH = 1024,
    PIPE_SIZE = 1 << 20,
    CURRENT_PERIOD = 300 * 1000, /* milliseconds, at most, between two updates of `current` */
    BUSY_TIME = 10 * 1000,       /* milliseconds to wait for somebody else who uses the database */
    LINE = 256,
    PAUSE = 1, /* second, before a recorder that was killed is replaced */
    DATABASE_VERSION = 1,
};

struct recorder {
    const struct usage_options *options;
    struct pair_table *table;
    sqlite3 *database;
    sqlite3_stmt *insert, *current;
    int pipe;
    int64_t rebooted; /* seconds since the epoch */
};

/* ---- the database ---------------------------------------------------------------- */

static const char schema[] =
    "CREATE TABLE version (version INTEGER);"
    "CREATE TABLE current (rebooted INTEGER, updated INTEGER, connected INTEGER,"
    " waiting INTEGER, incomplete_bytes INTEGER);"
    "CREATE TABLE usage (started INTEGER, total_time INTEGER, waiting_time INTEGER,"
    " total_bytes INTEGER, result VARCHAR);"
    "CREATE INDEX usage_started_index ON usage (started);"
    "CREATE INDEX usage_result_index ON usage (result);"
    "INSERT INTO version (version) VALUES (1);";

static void log_database(const char *path, sqlite3 *database)
{
    log_error("cannot use the usage database %s: %s", path,
        database == NULL ? "out of memory" : sqlite3_errmsg(database));
}

/* The one number that a query yields, or -1. */
static int query_number(sqlite3 *database, const char *query)
{
    sqlite3_stmt *statement;
    int number = -1;
    if (sqlite3_prepare_v2(database, query, -1, &statement, NULL) != SQLITE_OK)
        return -1;
    if (sqlite3_step(statement) == SQLITE_ROW)
        number = sqlite3_column_int(statement, 0);
    (void)sqlite3_finalize(statement);
    return number;
}

/* A file without tables is a new one. */
static int check_version(sqlite3 *database, const char *path)
{
    int tables = query_number(database, "SELECT count(*) FROM sqlite_master");
    if (tables < 0) {
        log_database(path, database);
        return -1;
    }
    if (tables == 0) {
        if (sqlite3_exec(database, schema, NULL, NULL, NULL) == SQLITE_OK)
            return 0;
        log_database(path, database);
        return -1;
    }
    int version = query_number(database, "SELECT version FROM version");
    if (version == DATABASE_VERSION && query_number(database, "SELECT count(*) FROM usage") >= 0 &&
        query_number(database, "SELECT count(*) FROM current") >= 0)
        return 0;
    if (version >= 0 && version != DATABASE_VERSION)
        log_error("cannot use the usage database %s: its version is %d, expected %d", path, version,
            DATABASE_VERSION);
    else
        log_error("cannot use the usage database %s: it is no usage database", path);
    return -1;
}

/* Whoever comes first makes the tables, and everybody else finds them whole. */
static sqlite3 *open_database(const char *path)
{
    sqlite3 *database = NULL;
    mode_t mask = umask(0077);
    int error = sqlite3_open_v2(path, &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    if (error == SQLITE_OK)
        error = sqlite3_busy_timeout(database, BUSY_TIME);
    if (error == SQLITE_OK)
        error = sqlite3_exec(database, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    (void)umask(mask);
    if (error != SQLITE_OK) {
        log_database(path, database);
    } else if (check_version(database, path) == 0) {
        if (sqlite3_exec(database, "COMMIT", NULL, NULL, NULL) == SQLITE_OK)
            return database;
        log_database(path, database);
    }
    (void)sqlite3_close(database);
    return NULL;
}

int recorder_check_database(const char *path)
{
    sqlite3 *database = open_database(path);
    if (database == NULL)
        return -1;
    (void)sqlite3_close(database);
    return 0;
}

static int prepare_statements(struct recorder *recorder)
{
    static const char insert[] =
        "INSERT INTO usage (started, total_time, waiting_time, total_bytes,"
        " result) VALUES (?, ?, ?, ?, ?)";
    static const char current[] = "INSERT INTO current (rebooted, updated, connected, waiting,"
                                  " incomplete_bytes) VALUES (?, ?, ?, ?, ?)";
    sqlite3 *database = recorder->database;
    if (sqlite3_prepare_v2(database, insert, -1, &recorder->insert, NULL) == SQLITE_OK &&
        sqlite3_prepare_v2(database, current, -1, &recorder->current, NULL) == SQLITE_OK)
        return 0;
    log_database(recorder->options->database, database);
    return -1;
}

static bool execute(struct recorder *recorder, sqlite3_stmt *statement)
{
    bool done = sqlite3_step(statement) == SQLITE_DONE;
    if (!done)
        log_database(recorder->options->database, recorder->database);
    (void)sqlite3_reset(statement);
    return done;
}

/* A column takes what is whole as an integer, and what is not as it is. */
static bool insert_record(struct recorder *recorder, const struct usage_record *record)
{
    sqlite3_stmt *insert = recorder->insert;
    (void)sqlite3_bind_double(insert, 1, (double)record->started / 1e6);
    (void)sqlite3_bind_double(insert, 2, (double)record->total_time / 1e6);
    if (record->waiting_time < 0)
        (void)sqlite3_bind_null(insert, 3);
    else
        (void)sqlite3_bind_double(insert, 3, (double)record->waiting_time / 1e6);
    (void)sqlite3_bind_int64(insert, 4, (sqlite3_int64)record->total_bytes);
    (void)sqlite3_bind_text(insert, 5, usage_mood(record->outcome), -1, SQLITE_STATIC);
    return execute(recorder, insert);
}

static bool update_current(struct recorder *recorder)
{
    struct pair_stats stats;
    sqlite3_stmt *current = recorder->current;
    pair_stats(recorder->table, &stats);
    if (sqlite3_exec(recorder->database, "DELETE FROM current", NULL, NULL, NULL) != SQLITE_OK) {
        log_database(recorder->options->database, recorder->database);
        return false;
    }
    (void)sqlite3_bind_int64(current, 1, recorder->rebooted);
    (void)sqlite3_bind_int64(current, 2, runtime_epoch() / 1000000);
    (void)sqlite3_bind_int64(current, 3, stats.states[PAIR_JOINED]);
    (void)sqlite3_bind_int64(current, 4, stats.tokens);
    (void)sqlite3_bind_int64(current, 5, (sqlite3_int64)stats.incomplete_bytes);
    return execute(recorder, current);
}

static void write_database(
    struct recorder *recorder, const struct usage_record *records, size_t count)
{
    bool done = sqlite3_exec(recorder->database, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK;
    if (!done)
        log_database(recorder->options->database, recorder->database);
    for (size_t i = 0; done && i < count; i++)
        done = insert_record(recorder, &records[i]);
    done = done && update_current(recorder);
    if (sqlite3_exec(recorder->database, done ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL) !=
            SQLITE_OK &&
        done)
        log_database(recorder->options->database, recorder->database);
}

/* ---- JSON lines ------------------------------------------------------------------ */

static void write_all(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t count = write(fd, text, size);
        if (count < 0 && errno == EAGAIN) {
            struct pollfd entry = {.fd = fd, .events = POLLOUT};
            (void)poll(&entry, 1, -1);
        } else if (count < 0 && errno != EINTR) {
            log_error_errno("cannot write usage records to descriptor %d", fd);
            return;
        } else if (count > 0) {
            text += count;
            size -= (size_t)count;
        }
    }
}

static void write_lines(int fd, const struct usage_record *records, size_t count)
{
    char lines[16 * LINE];
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        int length = usage_format(&records[i], lines + used, sizeof lines - used);
        if (length > 0)
            used += (size_t)length;
        if (i + 1 == count || sizeof lines - used < LINE) {
            write_all(fd, lines, used);
            used = 0;
        }
    }
}

/* ---- the process ----------------------------------------------------------------- */

static void write_down(struct recorder *recorder, struct usage_record *records, size_t count)
{
    for (size_t i = 0; i < count; i++)
        usage_blur(&records[i], recorder->options->blur);
    if (recorder->options->log_fd >= 0)
        write_lines(recorder->options->log_fd, records, count);
    if (recorder->database != NULL)
        write_database(recorder, records, count);
}

/* Writers write whole records, and reads are multiples of one, so none comes in pieces. */
static void run(struct recorder *recorder)
{
    static struct usage_record records[BATCH];
    struct pollfd entry = {.fd = recorder->pipe, .events = POLLIN};
    for (;;) {
        int ready = poll(&entry, 1, recorder->database == NULL ? -1 : CURRENT_PERIOD);
        if (ready == 0)
            write_down(recorder, records, 0);
        if (ready <= 0)
            continue;
        ssize_t size = read(recorder->pipe, records, sizeof records);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            break;
        write_down(recorder, records, (size_t)size / sizeof *records);
    }
    write_down(recorder, records, 0);
}

static _Noreturn void record(
    const struct usage_options *options, struct pair_table *table, int pipe)
{
    struct recorder recorder = {
        .options = options, .table = table, .pipe = pipe, .rebooted = runtime_epoch() / 1000000};
    int status = EXIT_FAILURE;
    (void)prctl(PR_SET_NAME, "relay-record");
    if (options->database != NULL)
        recorder.database = open_database(options->database);
    if (options->database == NULL ||
        (recorder.database != NULL && prepare_statements(&recorder) == 0)) {
        if (recorder.database != NULL)
            write_down(&recorder, NULL, 0);
        run(&recorder);
        status = EXIT_SUCCESS;
    }
    (void)sqlite3_finalize(recorder.insert);
    (void)sqlite3_finalize(recorder.current);
    (void)sqlite3_close(recorder.database);
    _exit(status);
}

/* One that is killed is replaced; what was sent meanwhile is in the pipe. Signals to stop are for
 * the forwarder: the end of all this is the end of the pipe. */
static _Noreturn void keep_recording(
    const struct usage_options *options, struct pair_table *table, int pipe)
{
    int status = 0;
    runtime_close_others(pipe, options->log_fd < 0 ? pipe : options->log_fd);
    log_setup(log_debugging()); /* its connection to syslog was one of them */
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    for (;;) {
        pid_t child = fork();
        if (child == 0)
            record(options, table, pipe);
        if (child < 0)
            log_error_errno("cannot start the recorder");
        while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
            continue;
        if (child > 0 && WIFEXITED(status))
            _exit(WEXITSTATUS(status));
        if (child > 0)
            log_warning("recorder %d was killed by signal %d", (int)child, (int)WTERMSIG(status));
        (void)sleep(PAUSE);
    }
}

int recorder_start(const struct usage_options *options, struct pair_table *table)
{
    int pipe[2];
    if (pipe2(pipe, O_CLOEXEC) < 0)
        return -errno;
    (void)fcntl(pipe[1], F_SETPIPE_SZ, PIPE_SIZE); /* as large as we are allowed */
    pid_t child = fork();
    if (child == 0)
        keep_recording(options, table, pipe[0]);
    int error = child < 0 ? -errno : fcntl(pipe[1], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
    close(pipe[0]);
    if (error == 0)
        return pipe[1];
    close(pipe[1]);
    return error;
}
