/* relay: which role this process plays, by the name it was called by and its first argument. */
#include "base/descriptors.h"
#include "base/log.h"
#include "base/process.h"
#include "base/sandbox.h"
#include "forward/forward.h"
#include "forward/launch.h"
#include "setup/options.h"
#include "stmgr.h"
#include "usage/status.h"
#include "worker/inspect.h"
#include "worker/listen.h"
#include "worker/serve.h"
#include "worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* p2p-copy's way to start its relay, in which TLS is the rule. */
static int run_relay_server_role(const struct options *options)
{
    if (options->plain || options->certfile != NULL)
        return serve_main(options);
    log_error("no certificate for TLS: expected --certfile and --keyfile, or --no-tls");
    return EXIT_USAGE;
}

struct role {
    const char *name;
    int (*run)(const struct options *options);
    const char *summary;
    bool place; /* HOST and PORT stand among its options */
};

static const struct role roles[] = {
    {"serve", serve_main, "listen, and serve until SIGTERM", false},
    {"worker", worker_main, "serve one connection, from systemd, inetd or xinetd", false},
    {"forward", launch_forward, "hold and forward what workers hand over", false},
    {"status", status_main, "show what the relay is doing (--json, --openmetrics)", false},
    {"run-relay-server", run_relay_server_role, "HOST PORT: serve there, as p2p-copy's relay does",
        true},
};

static void show_roles(FILE *out)
{
    fputs("usage: relay ROLE [OPTION]...\n\n", out);
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        fprintf(out, "  relay %-17s %s\n", roles[i].name, roles[i].summary);
    stmgr_list(out, "relay");
    fputs("\n`relay ROLE --help` shows the options; relay(8) explains them.\n", out);
}

static const struct role *find_role(const char *name)
{
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(roles[i].name, name) == 0)
            return &roles[i];
    return NULL;
}

static bool is_socket(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

/* What is wrong with the options of one worker is so with those of all that inetd starts, so it is
 * summed up before it is known where they would have their directory. */
static void sum_up(void)
{
    struct options defaults = {.runtime_directory = options_runtime_directory()};
    log_sum_all(true);
    runtime_share_log(&defaults);
}

/* called: another name than `relay ROLE`, or NULL. arguments: those after the role. argv has room
 * for the role's name before them. */
static int play(const struct role *role, const char *called, int argc, char **arguments)
{
    char command[64];
    struct options options;
    char **argv = calloc((size_t)argc + 2, sizeof *argv);
    if (argv == NULL) {
        log_error_errno("cannot start");
        return EXIT_RUN_TIME;
    }
    if (called == NULL)
        (void)snprintf(command, sizeof command, "relay %s", role->name);
    else
        (void)snprintf(command, sizeof command, "%s", called);
    argv[0] = command;
    memcpy(argv + 1, arguments, (size_t)argc * sizeof *argv);
    if (role->run == worker_main && is_socket(STDIN_FILENO))
        sum_up();
    int status = options_read(&options, argc + 1, argv, role->place);
    if (status < 0) {
        descriptors_close_inherited(options.usage.log_fd, options.notify_fd);
        log_setup(options.debug); /* a connection of the log may have been closed with them */
        sandbox_setup(!options.no_sandbox);
        status = options.check || options.check_unit ? inspect_main(&options, role->name)
                                                     : role->run(&options);
    } else if (status == 0 && options.check_unit) {
        log_error("a unit serves nobody with --help or --version");
        status = EXIT_USAGE;
    }
    free(argv);
    return status;
}

int main(int argc, char **argv)
{
    bool says_nothing = fcntl(STDERR_FILENO, F_GETFD) < 0;
    int error = descriptors_open_streams();
    argv = process_prepare(argc, argv);
    if (says_nothing)
        (void)setenv("RELAY_LOG", "syslog", 0); /* without memory there is no log */
    const char *slash = strrchr(argv[0] == NULL ? "relay" : argv[0], '/');
    const char *name = slash == NULL ? argv[0] : slash + 1;
    log_setup(false);
    if (error != 0) {
        errno = -error;
        log_error_errno("cannot put anything in the place of a standard stream that is closed");
        return EXIT_RUN_TIME;
    }
    if (name != NULL && strcmp(name, "strelay") == 0)
        return play(find_role("serve"), name, argc - 1, argv + 1);
    if (name != NULL && strcmp(name, "stmgr") == 0)
        return stmgr_main(argc, argv);
    if (argc > 1 && stmgr_has(argv[1]))
        return stmgr_role(argc - 1, argv + 1);
    if (argc > 1 && find_role(argv[1]) != NULL)
        return play(find_role(argv[1]), NULL, argc - 2, argv + 2);
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        show_roles(stdout);
        return 0;
    }
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)) {
        puts("relay " RELAY_VERSION);
        return 0;
    }
    /* inetd's way: no role, and on standard input the connection, or a socket that listens. */
    if (is_socket(STDIN_FILENO) && (argc < 2 || argv[1][0] == '-'))
        return play(find_role(listen_is_listening(STDIN_FILENO) ? "serve" : "worker"), NULL,
            argc < 1 ? 0 : argc - 1, argv + 1);
    if (argc > 1)
        log_error("unknown role %s: expected one that relay --help shows", argv[1]);
    else
        log_error("no role given: expected one that relay --help shows");
    return EXIT_USAGE;
}
