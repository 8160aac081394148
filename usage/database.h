/* The usage database: an SQLite file with the tables of magic-wormhole's transit relay.
 *
 * Other programs use the file at the same time: one reads for long, another makes a dump or moves
 * the file away. So a call may fail and succeed a second later. A call that fails leaves no
 * transaction and no lock behind. A file that was moved away or removed is made again. */
#ifndef RELAY_DATABASE_H
#define RELAY_DATABASE_H

#include "usage/usage.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DATABASE_REASON_MAX = 512
};

struct database {
    const char *path;
    sqlite3 *handle; /* NULL: the file is not open */
    sqlite3_stmt *insert, *update;
    char reason[DATABASE_REASON_MAX]; /* why the last call failed */
};

/* The one row of the table `current`: times in seconds since the epoch. */
struct database_current {
    int64_t rebooted, updated;
    int64_t connected, waiting, incomplete_bytes;
};

/* Writes records and the current row in one transaction. Returns 0; or SQLite's extended error
 * code, with the reason in words, and then nothing was written. Waits for other users only for a
 * tenth of a second. */
int database_write(struct database *database, const struct usage_record *records, size_t count,
    const struct database_current *current);

/* Whether a failure means that another program is using the database. */
bool database_is_busy(int error);

void database_close(struct database *database);

#endif
