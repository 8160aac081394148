/* The usage database: an SQLite file with the tables of magic-wormhole's transit relay.
 *
 * Others use it at the same time: whoever reads it for long, a dump, somebody who moves it away. So
 * any call may fail that succeeds a second later, and leaves nothing behind when it fails: no
 * transaction, and no lock. A file that was moved away or removed is made anew. */
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
    sqlite3 *handle; /* NULL: it is not open */
    sqlite3_stmt *insert, *update;
    char reason[DATABASE_REASON_MAX]; /* why the last call failed */
};

/* The one row of the table `current`: times in seconds since the epoch. */
struct database_current {
    int64_t rebooted, updated;
    int64_t connected, waiting, incomplete_bytes;
};

/* Writes records and the current row in one transaction. 0, or SQLite's (extended) error code and
 * the reason in words: then nothing was written. Waits for others for an instant only. */
int database_write(struct database *database, const struct usage_record *records, size_t count,
    const struct database_current *current);

/* Whether a failure is that somebody else is using it. */
bool database_is_busy(int error);

void database_close(struct database *database);

#endif
