/* The commands for identities and tickets: see stmgr.h. One table has all options, another the
 * options of each command. Unlike a role's option, an option that is given twice is an error.
 *
 * Files are checked in the order of the original tool: the output, the identities, the address; for
 * an app ticket the identity first. */
#include "stmgr.h"

#include "base/files.h"
#include "base/log.h"
#include "ident.h"
#include "setup/command_line.h"
#include "setup/options.h"
#include "ticket.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
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
    READ_ON = -1, /* no reason to exit yet */
};

#define BIT(id) (1U << (id))

static const struct command_option entries[OPTIONS] = {
    [IDFILE] = {"idfile", "i", "FILE", "identity to make a ticket for"},
    [NODEID] = {"nodeid", "n", "FILE", "identity of the node"},
    [APPID] = {"appid", "p", "FILE", "identity of the app"},
    [ADDRESS] = {"address", "a", "ADDRESS", "where it is reached, as in relay.example.org:1337"},
    [OUTPUT] = {"output", "o", "FILE", "file to create"},
    [PROUTES] = {"proutes", "", "", "permission to request routes"},
    [PBUYER] = {"pbuyer", "", "", "permission to buy"},
    [PSELLER] = {"pseller", "", "", "permission to sell"},
    [PCONFIG] = {"pconfig", "", "", "permission to configure"},
    [STATE_DIR] = {"state-dir", "", "DIR",
        "where the identity is, without --idfile ($STATE_DIRECTORY, /var/lib/relay)"},
    [HELP] = {"help", "h", NULL, "show this"},
    [VERSION] = {"version", "V", NULL, "show the version"},
};

/* By option: NULL: it was not given; "": it has no value. */
struct values {
    const char *of[OPTIONS];
};

/* ---- the commands -------------------------------------------------------- */

static int refuse_existing(const char *path)
{
    int error = files_check_absent(path);
    if (error == 0)
        return 0;
    errno = -error;
    log_error_errno("cannot create %s", path);
    return -1;
}

/* The identity of --idfile, or the relay's own. */
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

static int write_identity(const struct values *values)
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

static int write_ticket(const struct values *values)
{
    struct identity *identity;
    if (refuse_existing(values->of[OUTPUT]) < 0 || read_identity(values, &identity) < 0)
        return -1;
    int result = ticket_write(values->of[OUTPUT], identity, values->of[ADDRESS]);
    ident_free(identity);
    return result;
}

static int write_app_ticket(const struct values *values)
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

static int write_node_entry(const struct values *values)
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
    int (*run)(const struct values *values); /* 0, or -1 (logged) */
    unsigned int required, optional;         /* BIT()s */
    const char *summary;
} commands[] = {
    {"gen-ident", write_identity, BIT(OUTPUT), 0, "make an Offset identity"},
    {"relay-ticket", write_ticket, TICKET_OPTIONS, 0, "make a relay's ticket"},
    {"index-ticket", write_ticket, TICKET_OPTIONS, 0, "make an index server's ticket"},
    {"node-ticket", write_ticket, TICKET_OPTIONS, 0, "make a node's ticket"},
    {"app-ticket", write_app_ticket, BIT(IDFILE) | BIT(OUTPUT), PERMISSIONS,
        "make an app's ticket, with its permissions"},
    {"node-entry", write_node_entry, BIT(NODEID) | BIT(APPID) | BIT(ADDRESS) | BIT(OUTPUT), 0,
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

/* One command, as it was called. */
struct call {
    const char *program; /* stmgr or relay */
    const char *version;
    const struct command *command;
    char name[32];                   /* program and command */
    unsigned int required, optional; /* the command's, for this program */
};

/* As `relay COMMAND`, the default identity is the relay's own. */
static struct call make_call(
    const char *program, const char *version, const struct command *command)
{
    struct call call = {
        .program = program,
        .version = version,
        .command = command,
        .required = command->required,
        .optional = command->optional | BIT(HELP) | BIT(VERSION),
    };
    (void)snprintf(call.name, sizeof call.name, "%s %s", program, command->name);
    if (strcmp(program, "relay") == 0 && (call.required & BIT(IDFILE)) != 0) {
        call.required &= ~(unsigned int)BIT(IDFILE);
        call.optional |= BIT(IDFILE) | BIT(STATE_DIR);
    }
    return call;
}

static void list_options(const struct call *call, struct command_line *line)
{
    command_line_init(line, call->name);
    line->whole_names = true;
    for (size_t i = 0; i < OPTIONS; i++)
        if (((call->required | call->optional) & BIT(i)) != 0)
            command_line_add(line, &entries[i], (call->required & BIT(i)) != 0);
}

static int show_help(const struct call *call)
{
    struct command_line line;
    list_options(call, &line);
    printf("usage: %s [OPTION]...\n%s\n\n", call->name, call->command->summary);
    command_line_show(&line);
    return 0;
}

static int apply_option(const struct call *call, struct values *values,
    const struct command_option *option, const char *value)
{
    ptrdiff_t id = option - entries;
    if (id == HELP)
        return show_help(call);
    if (id == VERSION) {
        printf("%s %s\n", call->program, call->version);
        return 0;
    }
    if (values->of[id] != NULL) {
        fprintf(
            stderr, "%s: option --%s given twice: expected once\n", call->program, option->name);
        return EXIT_USAGE;
    }
    /* Any address is taken, even an empty one. */
    if (value != NULL && *value == '\0' && id != ADDRESS) {
        fprintf(stderr, "%s: empty value for --%s: expected %s\n", call->program, option->name,
            option->argument);
        return EXIT_USAGE;
    }
    values->of[id] = value != NULL ? value : "";
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
    struct command_line line;
    const struct command_option *option;
    list_options(call, &line);
    command_line_begin(&line, argc, argv);
    while ((option = command_line_next(&line)) != NULL) {
        int status = apply_option(call, values, option, line.value);
        if (status != READ_ON)
            return status;
    }
    if (line.fault[0] != '\0') {
        fprintf(stderr, "%s: %s\n", call->program, line.fault);
        return EXIT_USAGE;
    }
    if (line.rest_count == 0)
        return check_required(call, values);
    fprintf(
        stderr, "%s: unexpected argument %s: expected options only\n", call->program, line.rest[0]);
    return EXIT_USAGE;
}

static int run_command(const struct call *call, int argc, char **argv)
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
    return run_command(&call, argc, argv);
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
static int show_help_of(int argc, char **argv)
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
        return run_command(&call, argc - 1, argv + 1);
    }
    if (name != NULL && (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0))
        return show_commands();
    if (name != NULL && strcmp(name, "help") == 0)
        return show_help_of(argc - 2, argv + 2);
    if (name != NULL && (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)) {
        puts("stmgr " OFFSET_VERSION);
        return 0;
    }
    return refuse_command(name);
}
