/* What the relay is doing: counts only, and nothing of anybody. */
#include "status.h"

#include "proto/proto.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <time.h>

static const char *const state_names[] = {
    "free", "greeting", "waiting", "matched", "joined", "dismissed"};

static void print_protocols(FILE *out, const struct pair_stats *stats)
{
    fprintf(out, "\n%-12s", "");
    for (size_t k = 0; k < PAIR_OUTCOMES; k++)
        fprintf(out, "%10s", pair_outcome_name((enum pair_outcome)k));
    fputc('\n', out);
    for (size_t i = 0; i < protocol_count; i++) {
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
    fprintf(out, "greeting     %" PRIu32 "\n", stats->states[PAIR_GREETING]);
    fprintf(out, "waiting      %" PRIu32 " under %" PRIu32 " keys\n", stats->states[PAIR_WAITING],
        stats->tokens);
    fprintf(out, "meeting      %" PRIu32 "\n", stats->states[PAIR_MATCHED]);
    fprintf(out, "pairs        %" PRIu32 ", %" PRIu64 " bytes so far\n",
        stats->states[PAIR_JOINED] / 2, stats->incomplete_bytes);
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
    for (size_t i = 0; i <= PAIR_DISMISSED; i++)
        json_object_set_new(object, state_names[i], json_integer(stats->states[i]));
    return object;
}

static json_t *protocols_object(const struct pair_stats *stats)
{
    json_t *object = json_object();
    for (size_t i = 0; i < protocol_count; i++) {
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
    json_t *object =
        json_pack("{s:i, s:i, s:i, s:i, s:o, s:I, s:I, s:f, s:I, s:i, s:o}", "capacity",
            (int)stats->capacity, "used", (int)stats->used, "unclaimed", (int)stats->unclaimed,
            "tokens", (int)stats->tokens, "states", states_object(stats), "incomplete_bytes",
            (json_int_t)stats->incomplete_bytes, "total_bytes", (json_int_t)stats->total_bytes,
            "created", (double)stats->created / 1e6, "repairs", (json_int_t)stats->repairs,
            "forwarder", (int)stats->forwarder, "protocols", protocols_object(stats));
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
    for (size_t i = 0; i < protocol_count; i++)
        for (size_t k = 0; k < PAIR_OUTCOMES; k++)
            fprintf(out, "relay_outcomes_total{protocol=\"%s\",outcome=\"%s\"} %" PRIu64 "\n",
                protocols[i]->name, pair_outcome_name((enum pair_outcome)k), stats->outcomes[i][k]);
}

int status_openmetrics(FILE *out, const struct pair_stats *stats)
{
    print_family(out, "relay_capacity", "gauge", "Connections that the table has room for.");
    fprintf(out, "relay_capacity %" PRIu32 "\n", stats->capacity);
    print_family(out, "relay_connections", "gauge", "Connections by what they are doing.");
    for (size_t i = PAIR_GREETING; i <= PAIR_DISMISSED; i++)
        fprintf(
            out, "relay_connections{state=\"%s\"} %" PRIu32 "\n", state_names[i], stats->states[i]);
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
