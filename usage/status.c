/* `relay status`: see status.h. It shows counts only, and nothing about single clients. */
#include "usage/status.h"

#include "base/clock.h"
#include "base/log.h"
#include "protocol.h"
#include "setup/runtime.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static const char *const state_names[] = {
    "free", "greeting", "waiting", "matched", "joined", "dismissed", "leaving"};

static void print_protocols(FILE *out, const struct pair_stats *stats)
{
    fprintf(out, "\n%-12s", "");
    for (size_t k = 0; k < PAIR_OUTCOMES; k++)
        fprintf(out, "%10s", pair_outcome_name((enum pair_outcome)k));
    fputc('\n', out);
    for (size_t i = 0; i < PROTOCOL_COUNT; i++) {
        fprintf(out, "%-12s", protocols[i]->name);
        for (size_t k = 0; k < PAIR_OUTCOMES; k++)
            fprintf(out, "%10" PRIu64, stats->outcomes[i][k]);
        fputc('\n', out);
    }
}

int status_text(FILE *out, const struct pair_stats *stats)
{
    char since[32] = "";
    time_t created = (time_t)(stats->created / 1000000);
    struct tm fields;
    if (localtime_r(&created, &fields) != NULL)
        (void)strftime(since, sizeof since, "%Y-%m-%d %H:%M:%S", &fields);
    fprintf(out, "connections  %" PRIu32 " of %" PRIu32 "\n", stats->used, stats->capacity);
    fprintf(out, "greeting     %" PRIu32 ", %" PRIu32 " on the porch\n",
        stats->states[PAIR_GREETING], stats->on_porch);
    fprintf(out, "waiting      %" PRIu32 " under %" PRIu32 " keys\n", stats->states[PAIR_WAITING],
        stats->tokens);
    fprintf(out, "meeting      %" PRIu32 "\n", stats->states[PAIR_MATCHED]);
    fprintf(out, "pairs        %" PRIu32 ", %" PRIu64 " bytes so far\n",
        stats->states[PAIR_JOINED] / 2, stats->incomplete_bytes);
    fprintf(out, "leaving      %" PRIu32 "\n", stats->states[PAIR_LEAVING]);
    fprintf(out, "forwarded    %" PRIu64 " bytes by pairs that ended, since %s\n",
        stats->total_bytes, since);
    if (stats->forwarder > 0)
        fprintf(out, "forwarder    process %" PRId32 "\n", stats->forwarder);
    else
        fprintf(out, "forwarder    none\n");
    print_protocols(out, stats);
    return ferror(out) ? -EIO : 0;
}

static json_t *states_object(const struct pair_stats *stats)
{
    json_t *object = json_object();
    for (size_t i = 0; i <= PAIR_LEAVING; i++)
        json_object_set_new(object, state_names[i], json_integer(stats->states[i]));
    return object;
}

static json_t *protocols_object(const struct pair_stats *stats)
{
    json_t *object = json_object();
    for (size_t i = 0; i < PROTOCOL_COUNT; i++) {
        json_t *outcomes = json_object();
        for (size_t k = 0; k < PAIR_OUTCOMES; k++)
            json_object_set_new(outcomes, pair_outcome_name((enum pair_outcome)k),
                json_integer((json_int_t)stats->outcomes[i][k]));
        json_object_set_new(object, protocols[i]->name, outcomes);
    }
    return object;
}

int status_json(FILE *out, const struct pair_stats *stats)
{
    json_t *object = json_pack("{s:i, s:i, s:i, s:i, s:i, s:o, s:I, s:I, s:f, s:I, s:i, s:o}",
        "capacity", (int)stats->capacity, "used", (int)stats->used, "unclaimed",
        (int)stats->unclaimed, "on_porch", (int)stats->on_porch, "tokens", (int)stats->tokens,
        "states", states_object(stats), "incomplete_bytes", (json_int_t)stats->incomplete_bytes,
        "total_bytes", (json_int_t)stats->total_bytes, "created", (double)stats->created / 1e6,
        "repairs", (json_int_t)stats->repairs, "forwarder", (int)stats->forwarder, "protocols",
        protocols_object(stats));
    if (object == NULL)
        return -ENOMEM;
    int error = json_dumpf(object, out, JSON_INDENT(2)) < 0 || fputc('\n', out) == EOF ? -EIO : 0;
    json_decref(object);
    return error;
}

/* ---- OpenMetrics ----------------------------------------------------------------- */

static void print_family(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# TYPE %s %s\n# HELP %s %s\n", name, type, name, help);
}

static void print_outcomes(FILE *out, const struct pair_stats *stats)
{
    print_family(out, "relay_outcomes", "counter",
        "What became of connections; happy counts pairs, once they end.");
    for (size_t i = 0; i < PROTOCOL_COUNT; i++)
        for (size_t k = 0; k < PAIR_OUTCOMES; k++)
            fprintf(out, "relay_outcomes_total{protocol=\"%s\",outcome=\"%s\"} %" PRIu64 "\n",
                protocols[i]->name, pair_outcome_name((enum pair_outcome)k), stats->outcomes[i][k]);
}

int status_openmetrics(FILE *out, const struct pair_stats *stats)
{
    print_family(out, "relay_capacity", "gauge", "Connections that the table has room for.");
    fprintf(out, "relay_capacity %" PRIu32 "\n", stats->capacity);
    print_family(out, "relay_connections", "gauge", "Connections by what they are doing.");
    for (size_t i = PAIR_GREETING; i <= PAIR_LEAVING; i++)
        fprintf(
            out, "relay_connections{state=\"%s\"} %" PRIu32 "\n", state_names[i], stats->states[i]);
    print_family(out, "relay_on_porch", "gauge", "Of those greeting: who keeps no worker.");
    fprintf(out, "relay_on_porch %" PRIu32 "\n", stats->on_porch);
    print_family(out, "relay_keys", "gauge", "Codes under which somebody waits.");
    fprintf(out, "relay_keys %" PRIu32 "\n", stats->tokens);
    print_family(out, "relay_incomplete_bytes", "gauge", "Forwarded by pairs that go on.");
    fprintf(out, "relay_incomplete_bytes %" PRIu64 "\n", stats->incomplete_bytes);
    print_family(out, "relay_bytes", "counter", "Forwarded by pairs that ended.");
    fprintf(out, "relay_bytes_total %" PRIu64 "\n", stats->total_bytes);
    print_family(out, "relay_repairs", "counter", "Locks taken over from a dead process.");
    fprintf(out, "relay_repairs_total %" PRIu64 "\n", stats->repairs);
    print_family(out, "relay_forwarding", "gauge", "Whether a forwarder runs.");
    fprintf(out, "relay_forwarding %d\n", stats->forwarder > 0 ? 1 : 0);
    print_outcomes(out, stats);
    fputs("# EOF\n", out);
    return ferror(out) ? -EIO : 0;
}

/* ---- the command ----------------------------------------------------------------- */

static const char start_one[] =
    "systemctl enable --now relay-prefork.socket, or relay serve, starts one";

/* Logs why the table in a directory cannot be read. */
static void log_unreadable(const char *directory, int error)
{
    struct stat status;
    if (error == -EACCES || error == -EPERM)
        log_error(
            "cannot look into %s: only root and the user that relay runs as may; try sudo, or "
            "name another directory with --runtime-dir",
            directory);
    else if (error == -ENOENT && stat(directory, &status) < 0 && errno == ENOENT)
        log_error("no relay has run in %s: there is no such directory; %s", directory, start_one);
    else if (error == -ENOENT)
        log_error("no relay has run in %s; %s", directory, start_one);
    else if (error == -EIDRM)
        log_error("cannot show the relay in %s, which runs: its table was removed, and is made "
                  "again for the next client",
            directory);
    else if (error == -EPROTO)
        log_error(
            "cannot show the relay in %s: it is of another version than this command", directory);
    else if (error == -EBADMSG)
        log_error("cannot show the relay in %s: its table is damaged; the relay's next process "
                  "makes another",
            directory);
    else if (error == -ESTALE)
        log_error("no relay runs in %s: its table is from before the machine was started, or was "
                  "given up; %s",
            directory, start_one);
    else
        log_error("cannot show the relay in %s: %s", directory, strerror(-error));
}

static int print_status(const struct options *options, const struct pair_stats *stats)
{
    int error;
    if (options->openmetrics)
        error = status_openmetrics(stdout, stats);
    else
        error = options->json ? status_json(stdout, stats) : status_text(stdout, stats);
    if (error == 0 && fflush(stdout) == 0)
        return 0;
    log_error_errno("cannot write the status");
    return EXIT_RUN_TIME;
}

/* Reads the counts of the relay. A relay that runs and has had no client has no table; its counts
 * are 0. Returns 0 or a negative errno. */
static int read_stats(
    const struct options *options, const struct runtime *runtime, struct pair_stats *stats)
{
    struct pair_table *table;
    struct stat status;
    int error = pair_open_existing(runtime->table, &table);
    bool alive = error == -ENOENT && runtime_look(runtime) == RUNTIME_ALIVE;
    /* Each process that opens a table makes this lock file: there was a table. */
    if (alive && stat(runtime->users_lock, &status) == 0)
        return -EIDRM;
    if (alive) {
        log_info("no client has come yet: the relay in %s makes its table for the first one",
            options->runtime_directory);
        *stats =
            (struct pair_stats){.capacity = options->limits.connections, .created = clock_epoch()};
        return 0;
    }
    if (error != 0)
        return error;
    pair_stats(table, stats);
    pair_close(table);
    if (!runtime_has_forwarder(runtime))
        stats->forwarder = 0; /* that was the last forwarder's process id */
    return 0;
}

static int show_relay(const struct options *options, const struct runtime *runtime)
{
    struct pair_stats stats;
    int error = read_stats(options, runtime, &stats);
    if (error != 0) {
        log_unreadable(options->runtime_directory, error);
        return EXIT_RUN_TIME;
    }
    if (print_status(options, &stats) != 0)
        return EXIT_RUN_TIME;
    if (runtime_look(runtime) != RUNTIME_DEAD)
        return 0;
    log_error("no relay runs in %s: this is what the last one has left; %s",
        options->runtime_directory, start_one);
    return EXIT_RUN_TIME;
}

/* Without --runtime-dir, a user who has no access to the system's relay: chooses the user's own
 * relay if there is one, else the system's. */
static int choose_directory(struct options *options, struct runtime *runtime)
{
    struct stat status;
    bool has_own = lstat(runtime->table, &status) == 0;
    bool has_system = stat(OPTIONS_SYSTEM_DIRECTORY, &status) == 0;
    if (has_own && has_system)
        log_info("showing the relay in %s; --runtime-dir=" OPTIONS_SYSTEM_DIRECTORY
                 " shows the relay there, to root",
            options->runtime_directory);
    else if (has_own)
        log_info("showing the relay in %s", options->runtime_directory);
    if (has_own || !has_system)
        return 0;
    options->runtime_directory = OPTIONS_SYSTEM_DIRECTORY;
    return runtime_paths(options, runtime);
}

int status_main(const struct options *options)
{
    struct runtime runtime;
    struct options place = *options;
    if (runtime_paths(&place, &runtime) < 0)
        return EXIT_RUN_TIME;
    bool is_elsewhere = strcmp(place.runtime_directory, OPTIONS_SYSTEM_DIRECTORY) != 0;
    if (!place.runtime_directory_given && is_elsewhere && choose_directory(&place, &runtime) < 0)
        return EXIT_RUN_TIME;
    return show_relay(&place, &runtime);
}
