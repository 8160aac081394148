/* The usage database: see database.h. It has a rollback journal, not a write-ahead log: so other
 * users need only the right to read, and the database is one file, which can be moved. */
#include "usage/database.h"

#include "base/log.h"

#include <errno.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    VERSION = 1,
    /* Milliseconds to wait for other users. While a transaction waits for readers to end, no new
     * reader can begin, so this is short, and the caller tries again later. */
    BUSY_TIME = 100,
    PRIMARY = 0xff, /* the part of an extended error code that is the primary code */
    NAME_SIZE = 64,
};

/* ---- reasons of a failure -------------------------------------------------------- */

bool database_is_busy(int error)
{
    return (error & PRIMARY) == SQLITE_BUSY || (error & PRIMARY) == SQLITE_LOCKED;
}

/* The directory of a file. */
static void name_directory(const char *path, char directory[static PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    int length = slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path);
    (void)snprintf(directory, PATH_MAX, "%.*s", length, slash == NULL ? "." : path);
}

static void name_user(uid_t id, char name[static NAME_SIZE])
{
    const struct passwd *user = getpwuid(id);
    if (user != NULL)
        (void)snprintf(name, NAME_SIZE, "%s", user->pw_name);
    else
        (void)snprintf(name, NAME_SIZE, "%u", (unsigned int)id);
}

/* Describes why this process cannot open the file: its owner and mode, or those of its directory.
 */
static void describe_file(const char *path, char *text, size_t size)
{
    char directory[PATH_MAX], owner[NAME_SIZE], self[NAME_SIZE];
    struct stat status;
    const char *what = "the file";
    name_directory(path, directory);
    if (stat(path, &status) < 0) {
        what = "its directory";
        if (errno != ENOENT || stat(directory, &status) < 0) {
            (void)snprintf(text, size, "%.180s: %s", directory, strerror(errno));
            return;
        }
    }
    name_user(status.st_uid, owner);
    name_user(geteuid(), self);
    (void)snprintf(text, size, "%s belongs to user %s and has mode %04o, this process is user %s",
        what, owner, (unsigned int)status.st_mode & 07777, self);
}

static bool concerns_rights(int error)
{
    switch (error & PRIMARY) {
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return true;
    default:
        return false;
    }
}

/* Notes the reason of a failure in words, unless a better one is noted already. */
static int note_reason(struct database *database, int error)
{
    char file[DATABASE_REASON_MAX / 2];
    const char *words = database->handle == NULL ? sqlite3_errstr(error & PRIMARY)
                                                 : sqlite3_errmsg(database->handle);
    if (database->reason[0] != '\0')
        return error;
    if (concerns_rights(error)) {
        describe_file(database->path, file, sizeof file);
        (void)snprintf(database->reason, sizeof database->reason, "%.200s (%s)", words, file);
    } else {
        (void)snprintf(database->reason, sizeof database->reason, "%s", words);
    }
    return error;
}

/* ---- opening --------------------------------------------------------------------- */

static const char schema[] =
    "CREATE TABLE version (version INTEGER);"
    "CREATE TABLE current (rebooted INTEGER, updated INTEGER, connected INTEGER,"
    " waiting INTEGER, incomplete_bytes INTEGER);"
    "CREATE TABLE usage (started INTEGER, total_time INTEGER, waiting_time INTEGER,"
    " total_bytes INTEGER, result VARCHAR);"
    "CREATE INDEX usage_started_index ON usage (started);"
    "CREATE INDEX usage_result_index ON usage (result);"
    "INSERT INTO version (version) VALUES (1);";

static const char insert[] = "INSERT INTO usage (started, total_time, waiting_time, total_bytes,"
                             " result) VALUES (?, ?, ?, ?, ?)";
static const char update[] = "INSERT INTO current (rebooted, updated, connected, waiting,"
                             " incomplete_bytes) VALUES (?, ?, ?, ?, ?)";

static int execute(struct database *database, const char *statement)
{
    return sqlite3_exec(database->handle, statement, NULL, NULL, NULL);
}

/* The number that a query yields; -1: it yields no row. */
static int query_number(struct database *database, const char *query, int *number)
{
    sqlite3_stmt *statement;
    *number = -1;
    int error = sqlite3_prepare_v2(database->handle, query, -1, &statement, NULL);
    if (error != SQLITE_OK)
        return error;
    error = sqlite3_step(statement);
    if (error == SQLITE_ROW)
        *number = sqlite3_column_int(statement, 0);
    (void)sqlite3_finalize(statement); /* repeats the error of the step */
    return error == SQLITE_ROW || error == SQLITE_DONE ? SQLITE_OK : error;
}

static int prepare_statements(struct database *database)
{
    sqlite3 *handle = database->handle;
    int error = sqlite3_prepare_v2(handle, insert, -1, &database->insert, NULL);
    return error != SQLITE_OK ? error
                              : sqlite3_prepare_v2(handle, update, -1, &database->update, NULL);
}

static int refuse_tables(struct database *database, int version)
{
    if (version >= 0 && version != VERSION)
        (void)snprintf(database->reason, sizeof database->reason, "its version is %d, expected %d",
            version, VERSION);
    else
        (void)snprintf(database->reason, sizeof database->reason, "it is no usage database");
    return SQLITE_MISMATCH;
}

/* Makes the tables in a new file, which has none. Another file has to be of our version, and our
 * statements have to fit its tables: SQLITE_ERROR means that they do not. */
static int check_tables(struct database *database)
{
    int tables, version = -1;
    int error = query_number(database, "SELECT count(*) FROM sqlite_master", &tables);
    if (error == SQLITE_OK && tables == 0)
        error = execute(database, schema);
    if (error == SQLITE_OK)
        error = query_number(database, "SELECT version FROM version", &version);
    if (error == SQLITE_OK && version == VERSION)
        error = prepare_statements(database);
    if ((error & PRIMARY) == SQLITE_ERROR || (error == SQLITE_OK && version != VERSION))
        return refuse_tables(database, version);
    return error;
}

void database_close(struct database *database)
{
    (void)sqlite3_finalize(database->insert);
    (void)sqlite3_finalize(database->update);
    (void)sqlite3_close(database->handle); /* undoes what was not committed */
    database->insert = database->update = NULL;
    database->handle = NULL;
}

/* Opens the file, in one transaction: of several processes that open a new file, one makes all
 * tables, and the others wait for it. */
static int open_file(struct database *database, int busy_time)
{
    mode_t mask = umask(0077);
    int error = sqlite3_open_v2(
        database->path, &database->handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);
    (void)umask(mask);
    if (error == SQLITE_OK)
        error = sqlite3_extended_result_codes(database->handle, 1);
    if (error == SQLITE_OK)
        error = sqlite3_busy_timeout(database->handle, busy_time);
    if (error == SQLITE_OK)
        error = execute(database, "BEGIN IMMEDIATE");
    if (error == SQLITE_OK)
        error = check_tables(database);
    if (error == SQLITE_OK)
        error = execute(database, "COMMIT");
    if (error == SQLITE_OK)
        return SQLITE_OK;
    (void)note_reason(database, error);
    database_close(database);
    return error;
}

/* ---- writing --------------------------------------------------------------------- */

/* Opens the file, and opens it again if another file, or none, has its path by now. */
static int open_or_reopen(struct database *database)
{
    int moved = 0;
    if (database->handle != NULL && (sqlite3_file_control(database->handle, "main",
                                         SQLITE_FCNTL_HAS_MOVED, &moved) != SQLITE_OK ||
                                        moved != 0))
        database_close(database);
    return database->handle != NULL ? SQLITE_OK : open_file(database, BUSY_TIME);
}

static int run_statement(sqlite3_stmt *statement)
{
    int error = sqlite3_step(statement);
    (void)sqlite3_reset(statement); /* repeats the error of the step */
    return error == SQLITE_DONE ? SQLITE_OK : error;
}

/* An INTEGER column stores a whole number as an integer, and another number as it is. */
static int insert_record(sqlite3_stmt *statement, const struct usage_record *record)
{
    int error = sqlite3_bind_double(statement, 1, (double)record->started / 1e6);
    if (error == SQLITE_OK)
        error = sqlite3_bind_double(statement, 2, (double)record->total_time / 1e6);
    if (error == SQLITE_OK && record->waiting_time < 0)
        error = sqlite3_bind_null(statement, 3);
    else if (error == SQLITE_OK)
        error = sqlite3_bind_double(statement, 3, (double)record->waiting_time / 1e6);
    if (error == SQLITE_OK)
        error = sqlite3_bind_int64(statement, 4, (sqlite3_int64)record->total_bytes);
    if (error == SQLITE_OK)
        error = sqlite3_bind_text(statement, 5, usage_mood(record->outcome), -1, SQLITE_STATIC);
    return error == SQLITE_OK ? run_statement(statement) : error;
}

static int update_current(struct database *database, const struct database_current *current)
{
    const int64_t columns[] = {current->rebooted, current->updated, current->connected,
        current->waiting, current->incomplete_bytes};
    int error = execute(database, "DELETE FROM current");
    for (int i = 0; error == SQLITE_OK && i < 5; i++)
        error = sqlite3_bind_int64(database->update, i + 1, columns[i]);
    return error == SQLITE_OK ? run_statement(database->update) : error;
}

static int write_transaction(struct database *database, const struct usage_record *records,
    size_t count, const struct database_current *current)
{
    int error = execute(database, "BEGIN IMMEDIATE");
    for (size_t i = 0; error == SQLITE_OK && i < count; i++)
        error = insert_record(database->insert, &records[i]);
    if (error == SQLITE_OK)
        error = update_current(database, current);
    return error == SQLITE_OK ? execute(database, "COMMIT") : error;
}

int database_write(struct database *database, const struct usage_record *records, size_t count,
    const struct database_current *current)
{
    database->reason[0] = '\0';
    int error = open_or_reopen(database);
    if (error != SQLITE_OK)
        return error;
    error = write_transaction(database, records, count, current);
    if (error == SQLITE_OK)
        return SQLITE_OK;
    (void)note_reason(database, error);
    /* An open transaction would lock all other users out. Except when it was busy, the file is
     * closed, as the cause may be that another file has its path by now. */
    bool undone =
        sqlite3_get_autocommit(database->handle) != 0 || execute(database, "ROLLBACK") == SQLITE_OK;
    if (!undone || !database_is_busy(error))
        database_close(database);
    return error;
}
