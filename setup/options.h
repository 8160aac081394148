/* The command line: every role understands every option, and uses those that concern it,
 * so that one line of options serves all units. */
#ifndef RELAY_OPTIONS_H
#define RELAY_OPTIONS_H

#include "base/networks.h"
#include "pair.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    OPTIONS_LISTEN_MAX = 16
};

/* Where the relay of the whole system has its runtime directory. */
#define OPTIONS_SYSTEM_DIRECTORY "/run/relay"

/* What strelay and stmgr say: the version of the tools that they stand in for. */
#define OFFSET_VERSION "0.1.0"

/* Exit statuses, besides 0. */
enum {
    EXIT_RUN_TIME = 1,
    EXIT_USAGE = 2,
};

/* Where usage records go. */
struct usage_options {
    int log_fd;           /* JSON lines; -1: none */
    const char *database; /* SQLite file; NULL: none */
    uint32_t blur;        /* seconds; 0: exact */
};

static inline bool usage_wanted(const struct usage_options *options)
{
    return options->log_fd >= 0 || options->database != NULL;
}

struct options {
    const char *listen[OPTIONS_LISTEN_MAX];
    size_t listen_count;
    bool listen_given; /* else it is the default */
    struct pair_limits limits;
    int handshake_timeout; /* seconds, as all times here */
    int wait_timeout;
    int linger;
    int idle_timeout;       /* of a forwarder without work, before it retires; 0: never */
    uint64_t session_rate;  /* bytes per second; 0: unlimited */
    uint64_t session_bytes; /* 0: unlimited */
    int max_workers;
    int max_use;
    const char *certfile;    /* NULL: no TLS */
    const char *keyfile;     /* the same file, if it was not given */
    bool plain;              /* no TLS, whatever certificate there is */
    bool certificate_needed; /* without one that can be used, and not `plain`, nobody is served */
    bool identity_needed;    /* without one that can be used, nobody is served */
    struct networks proxies;
    struct usage_options usage;
    const char *runtime_directory; /* never NULL once read */
    bool runtime_directory_given;  /* else it is where one of this user's would be */
    const char *state_directory;
    const char *idfile;   /* NULL: relay.ident in the state directory */
    const char *user;     /* NULL: not given */
    const char *pid_file; /* NULL: none */
    int notify_fd;        /* where readiness is told, besides the service manager; -1: nowhere */
    bool json;
    bool openmetrics;
    bool debug;
    bool no_sandbox; /* system calls are not filtered */
    bool check;      /* to be looked at, and not to be done */
    bool check_unit; /* the same, as a unit of systemd asks */
};

/* Reads argv[1...] (argv[0] names the command in messages). What is wrong is logged in one
 * line. As `strelay`, an identity and an address must be among them. HOST and
 * PORT stand among the options when `place` says so, and then there is nothing else to listen on.
 * Returns -1 to go on, or the status to exit with: EXIT_USAGE, or 0 after --help and --version.
 * Strings are borrowed from argv and the environment. */
int options_read(struct options *options, int argc, char **argv, bool place);

/* The value of an option with one letter, as in -oFILE and, as the tools of Offset take it,
 * -o=FILE. word: the last one that was read. Other values stay as they are. */
const char *options_value(const char *value, const char *word);
/* Whether a long option was spelled to its end, which the tools of Offset insist on. next: the word
 * behind it and its value. */
bool options_is_whole(const char *name, const char *value, char *const *next);

/* A file's name as the log may have it: a credential without its directory, which systemd names
 * after the client whose worker it is for. Borrowed from path. */
const char *options_shown(const char *path);

/* The runtime and the state directory where none is given. */
const char *options_runtime_directory(void);
const char *options_state_directory(void);

#endif
