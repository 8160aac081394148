/* The recorder: reads records from a pipe, and writes them as JSON lines and to SQLite, in batches.
 * It runs as long as a process has the pipe's write end open, so the records of a forwarder that
 * was killed are written, too.
 *
 * Records that cannot be written yet (the database is locked, a disk is full, the lines are not
 * read) are kept in the backlog and tried again. The backlog is shared memory, so that when a
 * recorder is killed, the next one has all of it. */
#include "usage/recorder.h"

#include "base/clock.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/process.h"
#include "pair.h"
#include "setup/runtime.h"
#include "usage/database.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    BATCH = 1024,
    BACKLOG = 256 * BATCH, /* records, 10 MiB; when it is full, the oldest are lost */
    PIPE_SIZE = 1 << 20,
    CURRENT_PERIOD = 300 * 1000, /* at most, in milliseconds, between two updates of `current` */
    RETRY = 1000,                /* milliseconds before a write that failed is tried again */
    BUSY_SAID = 10 * 1000,       /* milliseconds that the database is busy before that is logged */
    LAST_TRIES = 10 * 1000,      /* milliseconds for the rest after the pipe's end */
    LINE = 256,
    LINES_AT_ONCE = 16, /* no more bytes than a pipe takes in one piece: PIPE_BUF */
    PAGE = 4096,
    PAUSE = 1, /* seconds before a recorder that was killed is replaced */
};

/* Records are numbered as they are read. For each of the two outputs, the lines and the database,
 * there is the number of the next record to be written. Zeroed memory is an empty backlog. */
struct backlog {
    uint64_t origin;              /* the number of the record at the front of `records` */
    uint64_t taken;               /* the number of the next record to be read */
    uint64_t cleared;             /* 1 + `taken` when the place to read into was zeroed; 0: none */
    uint64_t printed, stored;     /* the next record for the lines, and for the database */
    uint64_t unprinted, unstored; /* records lost there since the last success */
    size_t rest_size;             /* bytes left of a line of which a part was written */
    char rest[LINE];
    _Alignas(PAGE) struct usage_record records[BACKLOG]; /* a ring */
};

/* The failures of one output. */
struct trouble {
    int error;     /* 0: none */
    int64_t since; /* the first failure: milliseconds, CLOCK_MONOTONIC, as all times here */
    int64_t next;  /* when to try again */
    bool said;     /* it was logged */
};

struct recorder {
    const struct usage_options *options;
    const char *directory; /* the runtime directory, for ps */
    const char *table; /* its path: it is opened for each count, as another table may be there */
    struct pair_stats counts;
    struct backlog *backlog;
    struct database database;
    struct trouble lines, rows;
    int64_t current_due;
    int64_t rebooted; /* seconds since the epoch */
    int pipe;
};

/* ---- the backlog ----------------------------------------------------------------- */

static bool has_lines(const struct recorder *recorder)
{
    const struct backlog *backlog = recorder->backlog;
    return recorder->options->log_fd >= 0 &&
           (backlog->printed < backlog->taken || backlog->rest_size > 0);
}

static bool has_rows(const struct recorder *recorder)
{
    return recorder->options->database != NULL &&
           recorder->backlog->stored < recorder->backlog->taken;
}

/* An output that is too far behind loses its oldest records. */
static void drop_oldest(uint64_t *number, uint64_t *lost, uint64_t least)
{
    if (*number >= least)
        return;
    *lost += least - *number;
    *number = least;
}

/* The place in the ring to read into. Returns for how many records it has room. */
static size_t find_room(struct recorder *recorder, struct usage_record **room)
{
    struct backlog *backlog = recorder->backlog;
    size_t at = (size_t)((backlog->taken - backlog->origin) % BACKLOG);
    size_t count = BACKLOG - at < BATCH ? BACKLOG - at : BATCH;
    if (backlog->taken + count - backlog->origin > BACKLOG) {
        uint64_t least = backlog->taken + count - BACKLOG;
        drop_oldest(&backlog->printed, &backlog->unprinted, least);
        drop_oldest(&backlog->stored, &backlog->unstored, least);
    }
    *room = &backlog->records[at];
    return count;
}

/* Copies records from this number on, and blurs the copies. Returns how many. */
static size_t copy_records(
    const struct recorder *recorder, uint64_t number, struct usage_record *records, size_t most)
{
    const struct backlog *backlog = recorder->backlog;
    size_t count = 0;
    for (; count < most && number + count < backlog->taken; count++) {
        records[count] = backlog->records[(number + count - backlog->origin) % BACKLOG];
        usage_blur(&records[count], recorder->options->blur);
    }
    return count;
}

/* Starts at the front of the ring again when it is empty, so that little of its memory is used. */
static void rewind_if_empty(struct recorder *recorder)
{
    struct backlog *backlog = recorder->backlog;
    if (recorder->options->log_fd < 0)
        backlog->printed = backlog->taken;
    if (recorder->options->database == NULL)
        backlog->stored = backlog->taken;
    if (backlog->printed < backlog->taken || backlog->stored < backlog->taken)
        return;
    if (backlog->taken - backlog->origin > (size_t)2 * BATCH)
        (void)madvise(backlog->records, sizeof backlog->records,
            MADV_REMOVE); /* else the memory stays in use */
    backlog->origin = backlog->taken;
}

/* The recorder before this one may have been killed between a read and the update of `taken`. */
static void recover_records(struct recorder *recorder)
{
    struct usage_record *room;
    size_t most = find_room(recorder, &room), count = 0;
    if (recorder->backlog->cleared != recorder->backlog->taken + 1)
        return;
    while (count < most && room[count].started != 0)
        count++;
    recorder->backlog->taken += count;
}

/* Reads records from the pipe. Writes are whole records, and reads are multiples of a record, so no
 * record is read in pieces. Returns false at the end of the pipe. */
static bool read_records(struct recorder *recorder)
{
    struct backlog *backlog = recorder->backlog;
    struct usage_record *room;
    size_t most = find_room(recorder, &room);
    memset(room, 0, most * sizeof *room);
    backlog->cleared = backlog->taken + 1;
    ssize_t size = read(recorder->pipe, room, most * sizeof *room);
    if (size > 0)
        backlog->taken += (size_t)size / sizeof *room;
    else
        backlog->cleared = 0;
    return size > 0 || (size < 0 && (errno == EINTR || errno == EAGAIN));
}

/* ---- failures of an output ------------------------------------------------------- */

static bool may_try(const struct trouble *trouble)
{
    return trouble->error == 0 || clock_now() >= trouble->next;
}

/* Notes a failure. Returns whether it is to be logged: once for each error, as it is tried again
 * and again; a failure that `passes` by itself only after it has lasted for BUSY_SAID. */
static bool note_failure(struct trouble *trouble, int error, bool passes)
{
    int64_t now = clock_now();
    if (trouble->error == 0)
        trouble->since = now;
    if (trouble->error != error)
        trouble->said = false;
    trouble->error = error;
    trouble->next = now + RETRY;
    if (trouble->said || (passes && now - trouble->since < BUSY_SAID))
        return false;
    trouble->said = true;
    return true;
}

/* Notes a success, and logs it after failures that were logged, or with losses. */
static void note_success(struct trouble *trouble, const char *what, uint64_t *lost)
{
    if (*lost > 0)
        log_warning("%s again, but %" PRIu64 " usage records were lost there", what, *lost);
    else if (trouble->said)
        log_info("%s again, and no usage record was lost there", what);
    *lost = 0;
    *trouble = (struct trouble){.error = 0};
}

/* ---- the database ---------------------------------------------------------------- */

/* While there is no table, the last counts are used. */
static struct database_current count_current(struct recorder *recorder)
{
    struct pair_table *table;
    const struct pair_stats *counts = &recorder->counts;
    if (pair_open_existing(recorder->table, &table) == 0) {
        pair_stats(table, &recorder->counts);
        pair_close(table);
    }
    return (struct database_current){
        .rebooted = recorder->rebooted,
        .updated = clock_epoch() / 1000000,
        .connected = counts->states[PAIR_JOINED],
        .waiting = counts->tokens,
        .incomplete_bytes = (int64_t)counts->incomplete_bytes,
    };
}

/* Writes a batch of records and the current row, or that row alone when it is due. */
static void write_rows(struct recorder *recorder)
{
    static struct usage_record records[BATCH];
    struct backlog *backlog = recorder->backlog;
    const char *path = recorder->options->database;
    int64_t now = clock_now();
    if (path == NULL || !may_try(&recorder->rows) ||
        (!has_rows(recorder) && now < recorder->current_due))
        return;
    struct database_current current = count_current(recorder);
    size_t count = copy_records(recorder, backlog->stored, records, BATCH);
    int error = database_write(&recorder->database, records, count, &current);
    if (error != 0) {
        if (note_failure(&recorder->rows, error, database_is_busy(error)))
            log_error("cannot write to the usage database %s, records are kept: %s", path,
                recorder->database.reason);
        return;
    }
    backlog->stored += count;
    recorder->current_due = now + CURRENT_PERIOD;
    note_success(&recorder->rows, "the usage database is written to", &backlog->unstored);
}

/* ---- JSON lines ------------------------------------------------------------------ */

static bool has_room_for_lines(const struct recorder *recorder)
{
    struct pollfd entry = {.fd = recorder->options->log_fd, .events = POLLOUT};
    return poll(&entry, 1, 0) > 0;
}

/* Formats the rest of a line, and the next lines. ends: where each of the next lines ends. */
static size_t format_lines(
    const struct recorder *recorder, char *text, size_t ends[static LINES_AT_ONCE], size_t *count)
{
    struct usage_record records[LINES_AT_ONCE];
    const struct backlog *backlog = recorder->backlog;
    size_t used = backlog->rest_size;
    memcpy(text, backlog->rest, used);
    *count = copy_records(recorder, backlog->printed, records, LINES_AT_ONCE - 1);
    for (size_t i = 0; i < *count; i++) {
        int length = usage_format(&records[i], text + used, LINE);
        used += length > 0 ? (size_t)length : 0; /* no line is longer */
        ends[i] = used;
    }
    return used;
}

/* Counts the lines after `done` of the formatted bytes were written; the rest of a line is kept. */
static void count_lines(
    struct backlog *backlog, const char *text, size_t done, const size_t *ends, size_t count)
{
    size_t lines = 0;
    if (done < backlog->rest_size) {
        backlog->rest_size -= done;
        memmove(backlog->rest, backlog->rest + done, backlog->rest_size);
        return;
    }
    while (lines < count && ends[lines] <= done)
        lines++;
    size_t start = lines == 0 ? backlog->rest_size : ends[lines - 1];
    backlog->rest_size = 0;
    if (done > start && lines < count) {
        backlog->rest_size = ends[lines] - done;
        memcpy(backlog->rest, text + done, backlog->rest_size);
        lines++;
    }
    backlog->printed += lines;
}

/* Writes some lines. Returns whether more may be written at once. */
static bool write_some_lines(struct recorder *recorder)
{
    char text[LINES_AT_ONCE * LINE];
    size_t ends[LINES_AT_ONCE], count;
    int fd = recorder->options->log_fd;
    if (!has_lines(recorder) || !may_try(&recorder->lines) || !has_room_for_lines(recorder))
        return false;
    size_t size = format_lines(recorder, text, ends, &count);
    ssize_t done = write(fd, text, size);
    if (done < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (done < 0) {
        if (note_failure(&recorder->lines, errno, false))
            log_error_errno("cannot write usage records to descriptor %d, they are kept", fd);
        return false;
    }
    count_lines(recorder->backlog, text, (size_t)done, ends, count);
    note_success(&recorder->lines, "usage lines are written", &recorder->backlog->unprinted);
    return (size_t)done == size;
}

static void write_lines(struct recorder *recorder)
{
    for (int i = 0; i < BATCH / LINES_AT_ONCE && write_some_lines(recorder); i++)
        continue;
}

/* ---- the process ----------------------------------------------------------------- */

static int shorten_timeout(int timeout, int64_t at)
{
    int64_t left = at - clock_now();
    left = left < 0 ? 0 : left;
    return timeout < 0 || left < timeout ? (int)left : timeout;
}

/* Waits for records, for room for lines, or for the time of the next try. Returns whether the pipe
 * has records, or is at its end. */
static bool wait_for_work(struct recorder *recorder)
{
    struct pollfd entries[] = {{.fd = recorder->pipe, .events = POLLIN}, {.fd = -1}};
    int timeout = -1;
    if (has_lines(recorder) && may_try(&recorder->lines))
        entries[1] = (struct pollfd){.fd = recorder->options->log_fd, .events = POLLOUT};
    else if (has_lines(recorder))
        timeout = shorten_timeout(timeout, recorder->lines.next);
    if (recorder->rows.error != 0)
        timeout = shorten_timeout(timeout, recorder->rows.next);
    else if (recorder->options->database != NULL)
        timeout =
            shorten_timeout(timeout, has_rows(recorder) ? clock_now() : recorder->current_due);
    return poll(entries, 2, timeout) > 0 && entries[0].revents != 0;
}

static void write_outputs(struct recorder *recorder)
{
    write_lines(recorder);
    write_rows(recorder);
    rewind_if_empty(recorder);
}

static void record_until_end(struct recorder *recorder)
{
    bool more = true;
    while (more) {
        write_outputs(recorder);
        if (wait_for_work(recorder))
            more = read_records(recorder);
    }
}

/* After the pipe's end: the rest is tried for LAST_TRIES, then it is lost. */
static void write_rest(struct recorder *recorder)
{
    int64_t until = clock_now() + LAST_TRIES;
    struct pollfd none = {.fd = -1};
    recorder->current_due = 0;
    write_outputs(recorder);
    while ((has_lines(recorder) || has_rows(recorder)) && clock_now() < until) {
        if (!may_try(&recorder->rows) || !has_rows(recorder))
            (void)poll(&none, 1, RETRY / 10);
        write_outputs(recorder);
    }
    const struct backlog *backlog = recorder->backlog;
    if (has_lines(recorder) || has_rows(recorder))
        log_error("the forwarder has ended, and %" PRIu64 " usage records could not be written",
            backlog->taken -
                (backlog->printed < backlog->stored ? backlog->printed : backlog->stored));
}

static _Noreturn void run_recorder(struct recorder *recorder)
{
    process_name("relay-record", "recorder", recorder->directory);
    recover_records(recorder);
    record_until_end(recorder);
    write_rest(recorder);
    database_close(&recorder->database);
    _exit(EXIT_SUCCESS);
}

/* A recorder that is killed is replaced; records sent meanwhile are in the pipe. Signals to stop
 * are ignored, as they are meant for the forwarder: both processes end at the end of the pipe. */
_Noreturn void recorder_keep(const struct options *relay, const struct runtime *runtime, int pipe)
{
    const struct usage_options *options = &relay->usage;
    struct recorder recorder = {
        .options = options,
        .directory = relay->runtime_directory,
        .table = runtime->table,
        .backlog = mmap(NULL, sizeof *recorder.backlog, PROT_READ | PROT_WRITE,
            MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0),
        .database = {.path = options->database},
        .rebooted = clock_epoch() / 1000000,
        .pipe = pipe,
    };
    int status = 0;
    process_name("relay-records", "keeper of the recorder", relay->runtime_directory);
    descriptors_close_others(pipe, options->log_fd < 0 ? pipe : options->log_fd);
    log_setup(log_debugging()); /* the descriptor of syslog was closed, too */
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file at its size limit is treated as a full disk */
    if (recorder.backlog == MAP_FAILED) {
        log_error_errno("cannot start the recorder");
        _exit(EXIT_FAILURE);
    }
    for (;;) {
        pid_t child = fork();
        if (child == 0)
            run_recorder(&recorder);
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

int recorder_open(int pipe[static 2])
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    (void)fcntl(ends[1], F_SETPIPE_SZ, PIPE_SIZE); /* as large as this user may have */
    if (fcntl(ends[1], F_SETFL, O_NONBLOCK) < 0) {
        int error = -errno;
        close(ends[0]);
        close(ends[1]);
        return error;
    }
    pipe[0] = ends[0];
    pipe[1] = ends[1];
    return 0;
}
