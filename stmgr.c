/* The command line of identities and tickets: see stmgr.h. One table says which options there are,
 * another what each command requires. Unlike a role's options, one given twice is an error.
 *
 * Files are looked at in the order of the original tool: is the output taken, are the identities
 * good, is the address; an app ticket reads its identity first. */
#include "stmgr.h"

#include "base/files.h"
#include "base/log.h"
#include "ident.h"
#include "setup/options.h"
#include "ticket.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <string.h>

enum option_id {
    IDFILE,
    NODEID,
    APPID,
    ADDRESS,
    OUTPUT,
    PROUTES,
    PBUYER,
    PSELLER,
    PCONFIG,
    STATE_DIR,
    HELP,
    VERSION,
    OPTIONS
};

enum {
    LETTERLESS = 256, /* what getopt returns for an option: this and its id */
    READ_ON = -1,     /* no reason to exit yet */
};

#define BIT(id) (1U << (id))

static const struct entry {
    const char *name;
    char letter;          /* 0: long only */
    const char *argument; /* NULL: none */
    const char *help;
} entries[OPTIONS] = {
    [IDFILE] = {"idfile", 'i', "FILE", "identity to make a ticket for"},
    [NODEID] = {"nodeid", 'n', "FILE", "identity of the node"},
    [APPID] = {"appid", 'p', "FILE", "identity of the app"},
    [ADDRESS] = {"address", 'a', "ADDRESS", "where it is reached, as in relay.example.org:1337"},
    [OUTPUT] = {"output", 'o', "FILE", "file to create"},
    [PROUTES] = {"proutes", 0, NULL, "permission to request routes"},
    [PBUYER] = {"pbuyer", 0, NULL, "permission to buy"},
    [PSELLER] = {"pseller", 0, NULL, "permission to sell"},
    [PCONFIG] = {"pconfig", 0, NULL, "permission to configure"},
    [STATE_DIR] = {"state-dir", 0, "DIR",
        "where the identity is, without --idfile ($STATE_DIRECTORY, /var/lib/relay)"},
    [HELP] = {"help", 'h', NULL, "show this"},
    [VERSION] = {"version", 'V', NULL, "show the version"},
};

/* By option: NULL if it was not given; an empty string for one without a value. */
struct values {
    const char *of[OPTIONS];
};

/* ---- what the commands do -------------------------------------------------------- */

static int refuse_existing(const char *path)
{
    int error = files_check_absent(path);
    if (error == 0)
        return 0;
    errno = -error;
    log_error_errno("cannot create %s", path);
    return -1;
}

/* The relay's own one, unless another is named. */
static int read_identity(const struct values *values, struct identity **identity)
{
    char path[PATH_MAX];
    const char *directory = values->of[STATE_DIR];
    *identity = NULL;
    if (values->of[IDFILE] != NULL)
        return ident_read(values->of[IDFILE], identity);
    if (directory == NULL)
        directory = options_state_directory();
    if (ident_default_path(directory, path, sizeof path) < 0)
        return -1;
    return ident_read(path, identity);
}

static int gen_ident(const struct values *values)
{
    if (refuse_existing(values->of[OUTPUT]) < 0)
        return -1;
    struct identity *identity = ident_generate();
    if (identity == NULL) {
        log_error("cannot make an identity: no memory for it");
        return -1;
    }
    int result = ident_write(values->of[OUTPUT], identity);
    ident_free(identity);
    return result;
}

static int ticket(const struct values *values)
{
    struct identity *identity;
    if (refuse_existing(values->of[OUTPUT]) < 0 || read_identity(values, &identity) < 0)
        return -1;
    int result = ticket_write(values->of[OUTPUT], identity, values->of[ADDRESS]);
    ident_free(identity);
    return result;
}

static int app_ticket(const struct values *values)
{
    struct identity *identity;
    struct ticket_permissions permissions = {
        .routes = values->of[PROUTES] != NULL,
        .buyer = values->of[PBUYER] != NULL,
        .seller = values->of[PSELLER] != NULL,
        .config = values->of[PCONFIG] != NULL,
    };
    if (read_identity(values, &identity) < 0)
        return -1;
    int result = ticket_write_app(values->of[OUTPUT], identity, &permissions);
    ident_free(identity);
    return result;
}

static int node_entry(const struct values *values)
{
    struct identity *node = NULL, *app = NULL;
    int result = refuse_existing(values->of[OUTPUT]);
    if (result == 0)
        result = ident_read(values->of[NODEID], &node);
    if (result == 0)
        result = ident_read(values->of[APPID], &app);
    if (result == 0)
        result = ticket_write_node_entry(values->of[OUTPUT], node, app, values->of[ADDRESS]);
    ident_free(node);
    ident_free(app);
    return result;
}

enum {
    TICKET_OPTIONS = BIT(IDFILE) | BIT(ADDRESS) | BIT(OUTPUT),
    PERMISSIONS = BIT(PROUTES) | BIT(PBUYER) | BIT(PSELLER) | BIT(PCONFIG),
};

static const struct command {
    const char *name;
    int (*run)(const struct values *values); /* 0, or -1 after saying why */
    unsigned int required, optional;         /* BIT()s */
    const char *summary;
} commands[] = {
    {"gen-ident", gen_ident, BIT(OUTPUT), 0, "make an Offset identity"},
    {"relay-ticket", ticket, TICKET_OPTIONS, 0, "make a relay's ticket"},
    {"index-ticket", ticket, TICKET_OPTIONS, 0, "make an index server's ticket"},
    {"node-ticket", ticket, TICKET_OPTIONS, 0, "make a node's ticket"},
    {"app-ticket", app_ticket, BIT(IDFILE) | BIT(OUTPUT), PERMISSIONS,
        "make an app's ticket, with its permissions"},
    {"node-entry", node_entry, BIT(NODEID) | BIT(APPID) | BIT(ADDRESS) | BIT(OUTPUT), 0,
        "make what an app needs to reach its node"},
};

enum {
    COMMANDS = sizeof commands / sizeof commands[0]
};

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* ---- reading the command line ---------------------------------------------------- */

/* How it was called. */
struct call {
    const char *program; /* stmgr or relay */
    const char *version;
    const struct command *command;
    unsigned int required, optional; /* the command's, for this program */
};

/* A relay has an identity of its own to fall back on. */
static struct call make_call(
    const char *program, const char *version, const struct command *command)
{
    struct call call = {
        program, version, command, command->required, command->optional | BIT(HELP) | BIT(VERSION)};
    if (strcmp(program, "relay") == 0 && (call.required & BIT(IDFILE)) != 0) {
        call.required &= ~(unsigned int)BIT(IDFILE);
        call.optional |= BIT(IDFILE) | BIT(STATE_DIR);
    }
    return call;
}

static int show_help(const struct call *call)
{
    printf("usage: %s %s [OPTION]...\n%s\n\n", call->program, call->command->name,
        call->command->summary);
    for (size_t i = 0; i < OPTIONS; i++) {
        char left[40];
        const struct entry *entry = &entries[i];
        if (((call->required | call->optional) & BIT(i)) == 0)
            continue;
        int used = entry->letter != 0 ? snprintf(left, sizeof left, "-%c, ", entry->letter)
                                      : snprintf(left, sizeof left, "    ");
        (void)snprintf(left + used, sizeof left - (size_t)used, "--%s%s%s", entry->name,
            entry->argument == NULL ? "" : "=", entry->argument == NULL ? "" : entry->argument);
        printf("  %-24s %s%s\n", left, entry->help,
            (call->required & BIT(i)) != 0 ? " (required)" : "");
    }
    return 0;
}

static void fill_getopt(const struct call *call, struct option *list, char *letters)
{
    *letters++ = ':'; /* tell a missing value from an unknown option */
    for (size_t i = 0; i < OPTIONS; i++) {
        const struct entry *entry = &entries[i];
        if (((call->required | call->optional) & BIT(i)) == 0)
            continue;
        int wants = entry->argument != NULL       ? required_argument
                    : (PERMISSIONS & BIT(i)) != 0 ? optional_argument
                                                  : no_argument;
        *list++ = (struct option){entry->name, wants, NULL, LETTERLESS + (int)i};
        if (entry->letter == 0)
            continue;
        *letters++ = entry->letter;
        if (wants == required_argument)
            *letters++ = ':';
    }
    *list = (struct option){0};
    *letters = '\0';
}

static int find_option(int code)
{
    for (int i = 0; i < OPTIONS; i++)
        if (code == LETTERLESS + i || (entries[i].letter != 0 && code == entries[i].letter))
            return i;
    return -1;
}

static int refuse(const struct call *call, int code, const char *word)
{
    const char *command = call->command->name;
    int id = find_option(optopt);
    if (code == ':')
        fprintf(stderr, "%s: option --%s needs a value: expected %s\n", call->program,
            entries[id].name, entries[id].argument);
    else if (optopt >= LETTERLESS)
        fprintf(stderr, "%s: option --%s takes no value\n", call->program, entries[id].name);
    else
        fprintf(stderr, "%s: unknown option %s: expected one that %s %s --help shows\n",
            call->program, word, call->program, command);
    return EXIT_USAGE;
}

static int apply(const struct call *call, struct values *values, int id)
{
    const struct entry *entry = &entries[id];
    if (id == HELP)
        return show_help(call);
    if (id == VERSION) {
        printf("%s %s\n", call->program, call->version);
        return 0;
    }
    if (values->of[id] != NULL) {
        fprintf(stderr, "%s: option --%s given twice: expected once\n", call->program, entry->name);
        return EXIT_USAGE;
    }
    if (entry->argument == NULL && optarg != NULL && strcmp(optarg, "true") != 0) {
        fprintf(stderr, "%s: option --%s takes no value but true\n", call->program, entry->name);
        return EXIT_USAGE;
    }
    /* Any address is one, also an empty one. */
    if (entry->argument != NULL && *optarg == '\0' && id != ADDRESS) {
        fprintf(stderr, "%s: empty value for --%s: expected %s\n", call->program, entry->name,
            entry->argument);
        return EXIT_USAGE;
    }
    values->of[id] = entry->argument != NULL ? optarg : "";
    return READ_ON;
}

static int check_required(const struct call *call, const struct values *values)
{
    for (size_t i = 0; i < OPTIONS; i++) {
        if ((call->required & BIT(i)) == 0 || values->of[i] != NULL)
            continue;
        fprintf(stderr, "%s: %s needs --%s=%s\n", call->program, call->command->name,
            entries[i].name, entries[i].argument);
        return EXIT_USAGE;
    }
    return READ_ON;
}

/* argv[0] is the command. Returns READ_ON, or the status to exit with. */
static int read_values(const struct call *call, int argc, char **argv, struct values *values)
{
    struct option list[OPTIONS + 1];
    char letters[2 * OPTIONS + 2];
    int code, status = READ_ON;
    fill_getopt(call, list, letters);
    opterr = 0;
    optind = 0; /* have glibc start anew, should this be called twice */
    while (status == READ_ON && (code = getopt_long(argc, argv, letters, list, NULL)) != -1) {
        int id = code == ':' || code == '?' ? -1 : find_option(code);
        optarg = (char *)(uintptr_t)options_value(optarg, argv[optind - 1]);
        bool part = id >= 0 && code >= LETTERLESS &&
                    !options_is_whole(entries[id].name, optarg, argv + optind);
        if (part)
            optopt = 0; /* no option at all */
        if (id < 0 || part)
            status = refuse(call, part ? '?' : code,
                argv[optind - (part && optarg == argv[optind - 1] ? 2 : 1)]);
        else
            status = apply(call, values, id);
    }
    if (status == READ_ON && optind < argc) {
        fprintf(stderr, "%s: unexpected argument %s: expected options only\n", call->program,
            argv[optind]);
        status = EXIT_USAGE;
    }
    return status == READ_ON ? check_required(call, values) : status;
}

static int run(const struct call *call, int argc, char **argv)
{
    struct values values = {{NULL}};
    int status = read_values(call, argc, argv, &values);
    if (status != READ_ON)
        return status;
    return call->command->run(&values) == 0 ? 0 : EXIT_RUN_TIME;
}

/* ---- as stmgr, and as relay ------------------------------------------------------ */

bool stmgr_has(const char *command)
{
    return find_command(command) != NULL;
}

void stmgr_list(FILE *out, const char *program)
{
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %s %-12s %s\n", program, commands[i].name, commands[i].summary);
}

int stmgr_role(int argc, char **argv)
{
    struct call call = make_call("relay", RELAY_VERSION, find_command(argv[0]));
    return run(&call, argc, argv);
}

static int show_commands(void)
{
    puts("usage: stmgr COMMAND [OPTION]...\n");
    stmgr_list(stdout, "stmgr");
    puts("\n`stmgr COMMAND --help` shows the options; stmgr(1) explains them.");
    return 0;
}

static int refuse_command(const char *name)
{
    if (name == NULL)
        fputs("stmgr: no command given: expected one that stmgr --help shows\n", stderr);
    else if (strcmp(name, "init-node-db") == 0)
        fputs("stmgr: init-node-db is not offered: a node's database is of no use to a relay\n",
            stderr);
    else
        fprintf(stderr, "stmgr: unknown command %s: expected one that stmgr --help shows\n", name);
    return EXIT_USAGE;
}

/* stmgr help [COMMAND] */
static int help(int argc, char **argv)
{
    const struct command *command = argc > 0 ? find_command(argv[0]) : NULL;
    if (argc == 0)
        return show_commands();
    if (command == NULL)
        return refuse_command(argv[0]);
    struct call call = make_call("stmgr", OFFSET_VERSION, command);
    return show_help(&call);
}

int stmgr_main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    const struct command *command = name == NULL ? NULL : find_command(name);
    if (command != NULL) {
        struct call call = make_call("stmgr", OFFSET_VERSION, command);
        return run(&call, argc - 1, argv + 1);
    }
    if (name != NULL && (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0))
        return show_commands();
    if (name != NULL && strcmp(name, "help") == 0)
        return help(argc - 2, argv + 2);
    if (name != NULL && (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)) {
        puts("stmgr " OFFSET_VERSION);
        return 0;
    }
    return refuse_command(name);
}
