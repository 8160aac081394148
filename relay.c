/* relay: chooses the role of this process by its name and its first argument. */
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

/* As p2p-copy starts its relay: without a certificate it refuses to run. */
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

/* inetd starts every worker with the same options, so every worker would log the same mistake in
 * them. They share their log in the default directory, before the options are read. */
static void share_log_of_mistakes(void)
{
    struct options defaults = {.runtime_directory = options_runtime_directory()};
    log_sum_up_all(true);
    runtime_share_log(&defaults);
}

static int run_with_options(const struct role *role, const struct options *options)
{
    descriptors_close_inherited(options->usage.log_fd, options->notify_fd);
    log_setup(options->debug); /* its connection to syslog may have been closed with them */
    sandbox_setup(!options->no_sandbox);
    return options->check || options->check_unit ? inspect_main(options, role->name)
                                                 : role->run(options);
}

/* called: the command's name in messages; NULL: `relay ROLE`. words: those behind the role. */
static int run_role(const struct role *role, const char *called, int count, char **words)
{
    char command[64];
    struct options options;
    char **argv = calloc((size_t)count + 2, sizeof *argv);
    if (argv == NULL) {
        log_error_errno("cannot start");
        return EXIT_RUN_TIME;
    }
    if (called == NULL)
        (void)snprintf(command, sizeof command, "relay %s", role->name);
    else
        (void)snprintf(command, sizeof command, "%s", called);
    argv[0] = command;
    memcpy(argv + 1, words, (size_t)count * sizeof *argv);
    if (role->run == worker_main && is_socket(STDIN_FILENO))
        share_log_of_mistakes();
    int status = options_read(&options, count + 1, argv, role->place);
    if (status < 0) {
        status = run_with_options(role, &options);
    } else if (status == 0 && options.check_unit) {
        log_error("a unit serves nobody with --help or --version");
        status = EXIT_USAGE;
    }
    free(argv);
    return status;
}

int main(int argc, char **argv)
{
    bool has_no_stderr = fcntl(STDERR_FILENO, F_GETFD) < 0;
    int error = descriptors_open_streams();
    argv = process_prepare(argc, argv);
    if (has_no_stderr)
        (void)setenv("RELAY_LOG", "syslog", 0); /* fails without memory: then there is no log */
    const char *slash = strrchr(argv[0] == NULL ? "relay" : argv[0], '/');
    const char *name = slash == NULL ? argv[0] : slash + 1;
    log_setup(false);
    if (error != 0) {
        errno = -error;
        log_error_errno("cannot open /dev/null in the place of a closed standard stream");
        return EXIT_RUN_TIME;
    }
    if (name != NULL && strcmp(name, "strelay") == 0)
        return run_role(find_role("serve"), name, argc - 1, argv + 1);
    if (name != NULL && strcmp(name, "stmgr") == 0)
        return stmgr_main(argc, argv);
    if (argc > 1 && stmgr_has(argv[1]))
        return stmgr_role(argc - 1, argv + 1);
    if (argc > 1 && find_role(argv[1]) != NULL)
        return run_role(find_role(argv[1]), NULL, argc - 2, argv + 2);
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        show_roles(stdout);
        return 0;
    }
    if (argc > 1 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0)) {
        puts("relay " RELAY_VERSION);
        return 0;
    }
    /* As inetd starts it: no role, and standard input is a connection, or a socket that listens. */
    if (is_socket(STDIN_FILENO) && (argc < 2 || argv[1][0] == '-'))
        return run_role(find_role(listen_is_listening(STDIN_FILENO) ? "serve" : "worker"), NULL,
            argc < 1 ? 0 : argc - 1, argv + 1);
    if (argc > 1)
        log_error("unknown role %s: expected one that relay --help shows", argv[1]);
    else
        log_error("no role given: expected one that relay --help shows");
    return EXIT_USAGE;
}
