/* The options of the roles: see options.h. One table has their names, help, kinds and ranges. */
#include "setup/options.h"

#include "base/log.h"
#include "setup/command_line.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind {
    KIND_ADDRESS, /* repeatable */
    KIND_TEXT,
    KIND_NUMBER,  /* int */
    KIND_COUNT,   /* uint32_t */
    KIND_BYTES,   /* uint64_t, with a unit */
    KIND_RATE,    /* the same, per second */
    KIND_NETWORK, /* repeatable */
    KIND_FLAG,    /* bool: true */
    KIND_UNFLAG,  /* bool: false */
    KIND_HELP,
    KIND_VERSION,
};

struct entry {
    struct command_option option; /* first, as command_line_next() returns this */
    enum kind kind;
    size_t offset; /* into struct options */
    uint64_t min, max;
};

#define AT(member) offsetof(struct options, member)

enum {
    DEFAULT_PORT = 4001,
    DAY = 86400,
    YEAR = 365 * DAY
};

static const struct entry entries[] = {
    {{"listen", "l", "ADDR",
         "HOST:PORT, [V6]:PORT, :PORT or unix:PATH; repeatable (:$PORT, :4001)"},
        KIND_ADDRESS, 0, 0, 0},
    {{"laddr", "", "ADDR", "the same as --listen"}, KIND_ADDRESS, 0, 0, 0},
    {{"idfile", "i", "FILE",
         "Offset identity (relay.ident in the state directory, made on first use)"},
        KIND_TEXT, AT(idfile), 0, 0},
    {{"certfile", "", "FILE", "serve TLS too, with this certificate chain (PEM)"}, KIND_TEXT,
        AT(certfile), 0, 0},
    {{"keyfile", "", "FILE", "the certificate's private key (in the same file)"}, KIND_TEXT,
        AT(keyfile), 0, 0},
    {{"tls", "", NULL, "use the certificate (yes)"}, KIND_UNFLAG, AT(plain), 0, 0},
    {{"no-tls", "", NULL, "do not use it"}, KIND_FLAG, AT(plain), 0, 0},
    {{"trusted-proxy", "", "CIDR",
         "network whose connections begin with a PROXY header, or unix; repeatable (none)"},
        KIND_NETWORK, 0, 0, 0},
    {{"log-fd", "", "N", "write usage records to descriptor N, as JSON lines"}, KIND_NUMBER,
        AT(usage.log_fd), 0, 1 << 20},
    {{"usage-db", "", "FILE", "write usage records to an SQLite database"}, KIND_TEXT,
        AT(usage.database), 0, 0},
    {{"blur-usage", "", "S", "round times in records down to S seconds, and sizes up"}, KIND_COUNT,
        AT(usage.blur), 1, YEAR},
    {{"max-connections", "", "N", "connections at once (65536)"}, KIND_COUNT,
        AT(limits.connections), 1, 1 << 22},
    {{"per-source", "", "N", "connections at once from one address, or one IPv6 /64 (unlimited)"},
        KIND_COUNT, AT(limits.per_source), 1, 1 << 22},
    {{"handshake-timeout", "", "S", "seconds for a handshake (10)"}, KIND_NUMBER,
        AT(handshake_timeout), 1, DAY},
    {{"wait-timeout", "", "S", "seconds to wait for a peer (86400)"}, KIND_NUMBER, AT(wait_timeout),
        1, YEAR},
    {{"linger", "", "S", "seconds that a pair goes on once one side has closed (30)"}, KIND_NUMBER,
        AT(linger), 0, DAY},
    {{"idle-timeout", "", "S", "seconds after which an idle forwarder retires, 0: never (30)"},
        KIND_NUMBER, AT(idle_timeout), 0, YEAR},
    {{"session-rate", "", "BYTES/S", "rate to each connection, as in 2MiB/s (unlimited)"},
        KIND_RATE, AT(session_rate), 1, UINT64_MAX},
    {{"session-bytes", "", "BYTES", "bytes per pair, both ways, as in 10GiB (unlimited)"},
        KIND_BYTES, AT(session_bytes), 1, UINT64_MAX},
    {{"max-workers", "", "N", "handshakes at once (256)"}, KIND_NUMBER, AT(max_workers), 1, 65536},
    {{"max-use", "", "N", "connections that one worker serves (1000)"}, KIND_NUMBER, AT(max_use), 1,
        INT_MAX},
    {{"runtime-dir", "", "DIR",
         "where the table and the socket are ($RUNTIME_DIRECTORY, /run/relay)"},
        KIND_TEXT, AT(runtime_directory), 0, 0},
    {{"state-dir", "", "DIR", "where the identity is kept ($STATE_DIRECTORY, /var/lib/relay)"},
        KIND_TEXT, AT(state_directory), 0, 0},
    {{"user", "", "NAME", "user that root becomes after binding (relay, nobody)"}, KIND_TEXT,
        AT(user), 0, 0},
    {{"pid-file", "", "FILE", "for serve: file to write its process id to"}, KIND_TEXT,
        AT(pid_file), 0, 0},
    {{"notify-fd", "", "N", "write a newline to descriptor N once relay serves, and close it"},
        KIND_NUMBER, AT(notify_fd), 3, 1 << 20},
    {{"json", "", NULL, "for status: as JSON"}, KIND_FLAG, AT(json), 0, 0},
    {{"openmetrics", "", NULL, "for status: as OpenMetrics"}, KIND_FLAG, AT(openmetrics), 0, 0},
    {{"check", "", NULL, "show what would be used, and what is wrong with it"}, KIND_FLAG,
        AT(check), 0, 0},
    {{"check-unit", "", NULL, "the same for a unit: fails only if no client could be served"},
        KIND_FLAG, AT(check_unit), 0, 0},
    {{"no-sandbox", "", NULL, "serve without a filter of system calls, where there is no seccomp"},
        KIND_FLAG, AT(no_sandbox), 0, 0},
    {{"debug", "", NULL, "log more"}, KIND_FLAG, AT(debug), 0, 0},
    {{"help", "h", NULL, "show this"}, KIND_HELP, 0, 0, 0},
    {{"version", "vV", NULL, "show the version"}, KIND_VERSION, 0, 0, 0},
};

enum {
    ENTRIES = sizeof entries / sizeof entries[0],
};
_Static_assert(
    (int)ENTRIES <= (int)COMMAND_LINE_OPTIONS_MAX, "the command line has room for all options");

/* ---- values ---------------------------------------------------------------------- */

/* Reads digits, without sign or space before them; *end is what follows. */
static int parse_digits(const char *text, uint64_t *value, const char **end)
{
    char *after;
    if (!isdigit((unsigned char)text[0]))
        return -1;
    errno = 0;
    *value = strtoull(text, &after, 10);
    *end = after;
    return errno == 0 ? 0 : -1;
}

static int parse_unit(const char *unit, uint64_t *factor)
{
    static const struct {
        const char *name;
        uint64_t factor;
    } units[] = {
        {"", 1},
        {"B", 1},
        {"K", 1ULL << 10},
        {"KiB", 1ULL << 10},
        {"kB", 1000},
        {"M", 1ULL << 20},
        {"MiB", 1ULL << 20},
        {"MB", 1000000},
        {"G", 1ULL << 30},
        {"GiB", 1ULL << 30},
        {"GB", 1000000000},
        {"T", 1ULL << 40},
        {"TiB", 1ULL << 40},
        {"TB", 1000000000000},
    };
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(unit, units[i].name) == 0) {
            *factor = units[i].factor;
            return 0;
        }
    }
    return -1;
}

static int parse_bytes(const char *text, bool rate, uint64_t *value)
{
    char unit[8];
    const char *end;
    uint64_t factor;
    if (parse_digits(text, value, &end) < 0)
        return -1;
    size_t size = strlen(end);
    if (rate && size >= 2 && strcmp(end + size - 2, "/s") == 0)
        size -= 2;
    if (size >= sizeof unit)
        return -1;
    memcpy(unit, end, size);
    unit[size] = '\0';
    if (parse_unit(unit, &factor) < 0 || __builtin_mul_overflow(*value, factor, value))
        return -1;
    return 0;
}

static int parse_number(const char *text, uint64_t *value)
{
    const char *end;
    return parse_digits(text, value, &end) == 0 && *end == '\0' ? 0 : -1;
}

static const char *expectation(const struct entry *entry, char *text, size_t size)
{
    unsigned long long min = entry->min, max = entry->max;
    if (entry->kind == KIND_BYTES)
        return "a number of bytes, as in 500MB or 10GiB";
    if (entry->kind == KIND_RATE)
        return "bytes per second, as in 500kB/s or 2MiB/s";
    (void)snprintf(text, size, "a whole number from %llu to %llu", min, max);
    return text;
}

static int set_value(struct options *options, const struct entry *entry, const char *text)
{
    char *at = (char *)options + entry->offset;
    char expected[80];
    uint64_t value = 0;
    bool sized = entry->kind == KIND_BYTES || entry->kind == KIND_RATE;
    int bad =
        sized ? parse_bytes(text, entry->kind == KIND_RATE, &value) : parse_number(text, &value);
    if (bad != 0 || value < entry->min || value > entry->max) {
        log_error("bad value \"%s\" for --%s: expected %s", text, entry->option.name,
            expectation(entry, expected, sizeof expected));
        return EXIT_USAGE;
    }
    if (entry->kind == KIND_NUMBER)
        *(int *)(void *)at = (int)value;
    else if (entry->kind == KIND_COUNT)
        *(uint32_t *)(void *)at = (uint32_t)value;
    else
        *(uint64_t *)(void *)at = value;
    return -1;
}

static int add_address(struct options *options, const char *text)
{
    if (*text == '\0') {
        log_error("empty address: expected HOST:PORT, [V6]:PORT, :PORT or unix:PATH");
        return EXIT_USAGE;
    }
    if (options->listen_count == OPTIONS_LISTEN_MAX) {
        log_error("too many addresses: expected at most %d", OPTIONS_LISTEN_MAX);
        return EXIT_USAGE;
    }
    options->listen[options->listen_count++] = text;
    return -1;
}

static int add_network(struct options *options, const char *text)
{
    struct networks *trust = &options->proxies;
    if (trust->count == NETWORKS_MAX) {
        log_error("too many trusted proxies: expected at most %d", NETWORKS_MAX);
        return EXIT_USAGE;
    }
    if (networks_parse(text, &trust->list[trust->count]) == 0) {
        trust->count++;
        return -1;
    }
    log_error("bad value \"%s\" for --trusted-proxy: expected an address, a network as in "
              "10.0.0.0/8 or fd00::/8 (no bits set beyond its own), or unix",
        text);
    return EXIT_USAGE;
}

static int set_text(struct options *options, const struct entry *entry, const char *text)
{
    if (*text == '\0') {
        log_error("empty value for --%s: expected %s", entry->option.name, entry->option.argument);
        return EXIT_USAGE;
    }
    *(const char **)(void *)((char *)options + entry->offset) = text;
    return -1;
}

/* ---- defaults -------------------------------------------------------------------- */

static void set_defaults(struct options *options)
{
    *options = (struct options){
        .limits = {.connections = 65536},
        .handshake_timeout = 10,
        .wait_timeout = DAY,
        .linger = 30,
        .idle_timeout = 30,
        .max_workers = 256,
        .max_use = 1000,
        .usage = {.log_fd = -1},
        .notify_fd = -1,
    };
}

/* The first of the directories in systemd's variable; a unit configures only one. */
static const char *first_directory(const char *variable, char *buffer, size_t size)
{
    const char *value = getenv(variable);
    if (value == NULL || *value == '\0')
        return NULL;
    size_t length = strcspn(value, ":");
    if (length >= size)
        return NULL;
    memcpy(buffer, value, length);
    buffer[length] = '\0';
    return buffer;
}

/* Strings that struct options borrows. */
static char runtime_directory[PATH_MAX], state_directory[PATH_MAX], default_address[8];
static char place_address[320], certificate_path[PATH_MAX], key_path[PATH_MAX];

static bool format_path(char *buffer, size_t size, const char *base, const char *rest)
{
    int length = base == NULL ? -1 : snprintf(buffer, size, "%s%s", base, rest);
    return length > 0 && (size_t)length < size;
}

/* /run/relay is for root, and for the user that root has made it for. */
const char *options_runtime_directory(void)
{
    char fallback[40];
    char *buffer = runtime_directory;
    size_t size = sizeof runtime_directory;
    if (first_directory("RUNTIME_DIRECTORY", buffer, size) != NULL)
        return buffer;
    if (geteuid() == 0 || access(OPTIONS_SYSTEM_DIRECTORY, W_OK | X_OK) == 0)
        return OPTIONS_SYSTEM_DIRECTORY;
    if (format_path(buffer, size, getenv("XDG_RUNTIME_DIR"), "/relay"))
        return buffer;
    (void)snprintf(fallback, sizeof fallback, "/tmp/relay-%u", (unsigned int)geteuid());
    (void)format_path(buffer, size, fallback, "");
    return buffer;
}

const char *options_state_directory(void)
{
    char *buffer = state_directory;
    size_t size = sizeof state_directory;
    if (first_directory("STATE_DIRECTORY", buffer, size) != NULL)
        return buffer;
    if (geteuid() == 0 || access("/var/lib/relay", W_OK | X_OK) == 0)
        return "/var/lib/relay";
    if (format_path(buffer, size, getenv("XDG_STATE_HOME"), "/relay") ||
        format_path(buffer, size, getenv("HOME"), "/.local/state/relay"))
        return buffer;
    return "/var/lib/relay";
}

/* A name without a slash is one of the unit's credentials, if there is one of that name. */
static const char *find_credential(const char *name, char *buffer)
{
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    if (directory == NULL || strchr(name, '/') != NULL)
        return name;
    int length = snprintf(buffer, PATH_MAX, "%s/%s", directory, name);
    return length > 0 && length < PATH_MAX && (access(buffer, F_OK) == 0 || errno != ENOENT)
               ? buffer
               : name;
}

const char *options_shown(const char *path)
{
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    size_t length = directory == NULL ? 0 : strlen(directory);
    return length > 0 && strncmp(path, directory, length) == 0 && path[length] == '/'
               ? path + length + 1
               : path;
}

static int find_certificate(struct options *options)
{
    if (options->certfile == NULL && options->keyfile != NULL) {
        log_error("a key and no certificate: expected --certfile with --keyfile");
        return EXIT_USAGE;
    }
    if (options->certfile == NULL)
        return -1;
    if (options->keyfile == NULL)
        options->keyfile = options->certfile;
    options->certfile = find_credential(options->certfile, certificate_path);
    options->keyfile = find_credential(options->keyfile, key_path);
    return -1;
}

/* HOST and PORT, without the name of an option. */
static int add_place(struct options *options, char **words, int count)
{
    uint64_t port;
    const char *form = count > 0 && strchr(words[0], ':') != NULL ? "[%s]:%s" : "%s:%s";
    if (count != 2) {
        log_error("%d arguments: expected HOST PORT", count);
        return EXIT_USAGE;
    }
    if (parse_number(words[1], &port) < 0 || port > 65535) {
        log_error("bad port \"%s\": expected one from 0 to 65535", words[1]);
        return EXIT_USAGE;
    }
    int length = snprintf(place_address, sizeof place_address, form, words[0], words[1]);
    if (length < 0 || (size_t)length >= sizeof place_address) {
        log_error("the host's name is too long: expected 256 bytes at most");
        return EXIT_USAGE;
    }
    return add_address(options, place_address);
}

static int fill_in(struct options *options)
{
    int status = find_certificate(options);
    if (status >= 0)
        return status;
    const char *port = getenv("PORT");
    uint64_t number = DEFAULT_PORT;
    const char *passed = getenv("RUNTIME_DIRECTORY");
    options->listen_given = options->listen_count > 0;
    options->runtime_directory_given =
        options->runtime_directory != NULL || (passed != NULL && *passed != '\0');
    if (options->runtime_directory == NULL)
        options->runtime_directory = options_runtime_directory();
    if (options->state_directory == NULL)
        options->state_directory = options_state_directory();
    if (options->listen_count > 0)
        return -1;
    if (port != NULL && *port != '\0' &&
        (parse_number(port, &number) < 0 || number == 0 || number > 65535)) {
        log_error("bad value \"%s\" for $PORT: expected a port from 1 to 65535", port);
        return EXIT_USAGE;
    }
    (void)snprintf(default_address, sizeof default_address, ":%u", (unsigned int)number);
    return add_address(options, default_address);
}

/* ---- reading --------------------------------------------------------------------- */

static bool is_strelay(const char *command)
{
    return strcmp(command, "strelay") == 0;
}

static int show_help(const struct command_line *line)
{
    printf("usage: %s [OPTION]...\n\n", line->command);
    command_line_show(line);
    puts("\nrelay(8) explains them.");
    return 0;
}

static int show_version(const char *command)
{
    puts(is_strelay(command) ? "strelay " OFFSET_VERSION : "relay " RELAY_VERSION);
    return 0;
}

/* The options that strelay has no default for. */
static int check_strelay(const struct options *options)
{
    const char *missing = options->idfile == NULL      ? "--idfile=FILE"
                          : options->listen_count == 0 ? "--laddr=ADDR"
                                                       : NULL;
    if (missing == NULL)
        return -1;
    log_error("strelay needs %s", missing);
    return EXIT_USAGE;
}

static int apply_option(
    struct options *options, const struct entry *entry, const struct command_line *line)
{
    switch (entry->kind) {
    case KIND_ADDRESS:
        return add_address(options, line->value);
    case KIND_TEXT:
        return set_text(options, entry, line->value);
    case KIND_NETWORK:
        return add_network(options, line->value);
    case KIND_FLAG:
    case KIND_UNFLAG:
        *(bool *)((char *)options + entry->offset) = entry->kind == KIND_FLAG;
        return -1;
    case KIND_HELP:
        return show_help(line);
    case KIND_VERSION:
        return show_version(line->command);
    case KIND_NUMBER:
    case KIND_COUNT:
    case KIND_BYTES:
    case KIND_RATE:
        break;
    }
    return set_value(options, entry, line->value);
}

/* Returns as options_read(). */
static int read_line(struct options *options, struct command_line *line, bool place)
{
    const struct command_option *option;
    while ((option = command_line_next(line)) != NULL) {
        int status = apply_option(options, (const struct entry *)option, line);
        if (status >= 0)
            return status;
    }
    if (line->fault[0] != '\0') {
        log_error("%s", line->fault);
        return EXIT_USAGE;
    }
    if (place)
        return add_place(options, line->rest, line->rest_count);
    if (line->rest_count == 0)
        return -1;
    log_error("unexpected argument %s: expected options only", line->rest[0]);
    return EXIT_USAGE;
}

int options_read(struct options *options, int argc, char **argv, bool place)
{
    struct command_line line;
    bool as_strelay = is_strelay(argv[0]);
    command_line_init(&line, argv[0]);
    line.whole_names = as_strelay;
    for (size_t i = 0; i < ENTRIES; i++)
        command_line_add(&line, &entries[i].option, false);
    command_line_begin(&line, argc, argv);
    set_defaults(options);
    int status = read_line(options, &line, place);
    options->certificate_needed = place;
    options->identity_needed = as_strelay;
    if (status < 0 && as_strelay)
        status = check_strelay(options);
    return status < 0 ? fill_in(options) : status;
}
