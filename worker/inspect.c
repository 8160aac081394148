/* What a role would use, and what is wrong with it: see inspect.h. It reads files with the same
 * functions as the role itself, so both find the same faults. */
#include "worker/inspect.h"

#include "base/descriptors.h"
#include "base/log.h"
#include "base/sandbox.h"
#include "ident.h"
#include "pair.h"
#include "proto/tls.h"
#include "setup/runtime.h"
#include "setup/user.h"
#include "worker/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct check {
    const struct options *options;
    const char *role;
    bool wrong;   /* some clients or operators would miss something */
    bool useless; /* no client would be served */
};

__attribute__((format(printf, 2, 3))) static void show(const char *name, const char *format, ...)
{
    va_list arguments;
    printf("%-18s ", name);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

static bool serves_clients(const struct check *check)
{
    return strcmp(check->role, "forward") != 0;
}

/* ---- files ----------------------------------------------------------------------- */

/* Whether a file or directory can be made at `path`, where there is none. deep: missing directories
 * above it would be made, too. */
static bool can_be_made(const char *path, bool deep)
{
    char text[PATH_MAX];
    int length = snprintf(text, sizeof text, "%s", path);
    if (length < 0 || (size_t)length >= sizeof text)
        return false;
    char *above = dirname(text);
    while (deep && access(above, F_OK) < 0 && errno == ENOENT && strpbrk(above, "/") != NULL)
        above = dirname(above);
    return access(above, W_OK | X_OK) == 0;
}

/* Called before root is given up, as root makes the directory, or gives it to the user. For a unit,
 * systemd makes it first. to_come: it will be made or given: its content cannot be judged yet. */
static bool find_directory(
    struct check *check, const char *name, const char *path, bool deep, bool *to_come)
{
    struct stat status;
    bool missing = lstat(path, &status) < 0 && errno == ENOENT;
    bool given = !missing && runtime_is_to_be_given(check->options, path);
    *to_come = missing || given;
    show(name, "%s%s", path,
        missing ? ", which will be made"
        : given ? ", which will be given to the user"
                : "");
    if (!missing || check->options->check_unit || can_be_made(path, deep))
        return true;
    log_error_errno("cannot make the directory %s", path);
    check->wrong = true;
    return false;
}

/* ---- what may need root ------------------------------------------------------------ */

static void show_end(const char *file, int64_t until)
{
    char text[32];
    struct tm fields;
    time_t end = (time_t)until;
    if (gmtime_r(&end, &fields) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &fields) == 0)
        text[0] = '\0';
    show("certificate", "%s, valid until %s UTC", file, text);
}

/* Only the service itself can see its unit's credentials. */
static bool is_missing_credential(const struct options *options)
{
    return options->check_unit && strchr(options->certfile, '/') == NULL &&
           getenv("CREDENTIALS_DIRECTORY") == NULL;
}

static void check_certificate(struct check *check)
{
    struct tls *tls = NULL;
    int64_t until = 0;
    const struct options *options = check->options;
    if (options->plain || options->certfile == NULL) {
        show("certificate", "none: TLS is not served");
        if (options->plain || !options->certificate_needed)
            return;
        log_error("no certificate for TLS: expected --certfile and --keyfile, or --no-tls");
        check->wrong = check->useless = true;
        return;
    }
    if (is_missing_credential(options)) {
        show("certificate", "%s, a credential of the service", options->certfile);
        return;
    }
    bool usable = tls_load(options, &tls) == 0 && tls_is_usable(tls, &until);
    if (usable)
        show_end(options->certfile, until);
    else
        show("certificate", "%s cannot be used: TLS is not served", options->certfile);
    bool current = !usable || tls_is_current(tls);
    tls_close(tls);
    if (usable && current)
        return;
    check->wrong = true;
    check->useless = check->useless || (!usable && options->certificate_needed);
}

/* path: a file that exists. */
static void check_identity(struct check *check, const char *path)
{
    struct identity *identity;
    char key[IDENT_TEXT_SIZE];
    if (ident_read(path, &identity) == 0) {
        ident_key_text(identity->public_key, key);
        show("identity", "%s, public key %s", path, key);
        ident_free(identity);
        return;
    }
    show("identity", "%s cannot be used: Offset is not served", path);
    check->wrong = true;
    check->useless = check->useless || check->options->identity_needed;
}

/* ---- the rest ---------------------------------------------------------------------- */

static void check_default_identity(struct check *check, bool directory_is_to_come)
{
    char path[PATH_MAX];
    const char *directory = check->options->state_directory;
    if (ident_default_path(directory, path, sizeof path) < 0) {
        check->wrong = true;
    } else if (access(path, F_OK) == 0 || (errno != ENOENT && !directory_is_to_come)) {
        check_identity(check, path);
    } else if (directory_is_to_come || access(directory, W_OK | X_OK) == 0) {
        show("identity", "%s, which will be made", path);
    } else {
        log_error_errno("cannot make an identity in %s", directory);
        check->wrong = true;
    }
}

/* path: a directory that exists. */
static void check_runtime_directory(struct check *check, const char *path)
{
    struct stat status;
    if (lstat(path, &status) == 0 && S_ISDIR(status.st_mode) && (status.st_mode & 022) == 0 &&
        (status.st_uid == geteuid() || status.st_uid == 0) && access(path, W_OK | X_OK) == 0)
        return;
    log_error("cannot use the runtime directory %s: it must be a directory that only its user may "
              "write to",
        path);
    check->wrong = check->useless = true;
}

static void check_table(
    struct check *check, const struct runtime *runtime, bool directory_is_to_come)
{
    struct pair_table *table;
    uint32_t wanted = check->options->limits.connections;
    int error = pair_open_existing(runtime->table, &table);
    if (error == 0) {
        uint32_t capacity = pair_capacity(table);
        pair_close(table);
        show("table", "%s, for %u connections", runtime->table, (unsigned int)capacity);
        if (capacity == wanted)
            return;
        log_error(
            "the table %s is for %u connections; --max-connections=%u takes effect when it is "
            "made anew",
            runtime->table, (unsigned int)capacity, (unsigned int)wanted);
        check->wrong = true;
    } else if (error == -ENOENT || (error == -EACCES && directory_is_to_come) || error == -ESTALE ||
               error == -EBADMSG || (error == -EPROTO && !runtime_has_forwarder(runtime))) {
        show("table", "%s, which will be made, for %u connections", runtime->table,
            (unsigned int)wanted);
    } else {
        errno = -error;
        if (error == -EPROTO)
            log_error("cannot use the table %s: it is of another version of relay, whose forwarder "
                      "runs",
                runtime->table);
        else
            log_error_errno("cannot use the table %s", runtime->table);
        check->wrong = check->useless = true;
    }
}

static void check_runtime(struct check *check, bool directory_is_to_come)
{
    struct runtime runtime;
    if (runtime_paths(check->options, &runtime) < 0) {
        check->wrong = check->useless = true;
        return;
    }
    if (!directory_is_to_come)
        check_runtime_directory(check, check->options->runtime_directory);
    check_table(check, &runtime, directory_is_to_come);
    show("forwarder", "%s", runtime_has_forwarder(&runtime) ? "runs" : "will be started");
}

static void check_addresses(struct check *check)
{
    const struct options *options = check->options;
    if (options->check_unit && listen_refuse(options) < 0)
        check->wrong = check->useless = true;
    if (strcmp(check->role, "worker") == 0 || options->check_unit)
        return;
    for (size_t i = 0; i < options->listen_count; i++) {
        show("listen", "%s", options->listen[i]);
        if (listen_check(options->listen[i]) < 0)
            check->wrong = check->useless = true;
    }
}

static void check_records(struct check *check)
{
    const struct usage_options *usage = &check->options->usage;
    if (usage->log_fd >= 0) {
        show("usage records", "descriptor %d", usage->log_fd);
        if (fcntl(usage->log_fd, F_GETFL) < 0) {
            log_error_errno("cannot write usage records to descriptor %d", usage->log_fd);
            check->wrong = true;
        }
    }
    if (usage->database == NULL)
        return;
    struct stat status;
    bool there = stat(usage->database, &status) == 0;
    show("usage records", "%s%s", usage->database, there ? "" : ", which will be made");
    if (there && !S_ISREG(status.st_mode))
        log_error("cannot write to the usage database %s: it is no file", usage->database);
    else if (there ? access(usage->database, R_OK | W_OK) < 0
                   : !can_be_made(usage->database, false))
        log_error_errno("cannot write to the usage database %s", usage->database);
    else
        return;
    check->wrong = true;
}

/* Called before root is given up, as the file is written before that, too. */
static void check_pid_file(struct check *check)
{
    const char *path = check->options->pid_file;
    if (path == NULL || strcmp(check->role, "worker") == 0)
        return;
    bool there = access(path, F_OK) == 0;
    show("pid file", "%s", path);
    if (there ? access(path, W_OK) == 0 : can_be_made(path, false))
        return;
    log_error_errno("cannot write the process id to %s", path);
    check->wrong = check->useless = true;
}

static void check_user(struct check *check)
{
    if (user_drop_root(check->options) < 0) {
        check->wrong = check->useless = true;
        return;
    }
    const struct passwd *user = getpwuid(geteuid());
    if (user != NULL)
        show("user", "%s", user->pw_name);
    else
        show("user", "%u, who has no name", (unsigned int)geteuid());
}

static void check_descriptors(struct check *check)
{
    uint64_t limit = descriptors_raise();
    if (limit == 0)
        check->wrong = check->useless = true;
    else
        show("descriptors", "%llu at once", (unsigned long long)limit);
}

static void check_sandbox(struct check *check)
{
    bool possible = sandbox_check() == 0;
    if (!possible)
        check->wrong = check->useless = true;
    show("system calls", "%s",
        possible && !check->options->no_sandbox ? "filtered" : "not filtered");
}

int inspect_main(const struct options *options, const char *role)
{
    struct check check = {.options = options, .role = role};
    bool runtime_is_to_come, state_is_to_come = false;
    (void)setvbuf(stdout, NULL, _IOLBF, 0); /* each log line follows what it is about */
    if (!find_directory(
            &check, "runtime directory", options->runtime_directory, false, &runtime_is_to_come))
        check.useless = true;
    if (serves_clients(&check)) {
        (void)find_directory(
            &check, "state directory", options->state_directory, true, &state_is_to_come);
        check_certificate(&check);
        if (options->idfile != NULL)
            check_identity(&check, options->idfile);
        check_addresses(&check);
    }
    check_pid_file(&check);
    check_user(&check);
    if (serves_clients(&check) && options->idfile == NULL)
        check_default_identity(&check, state_is_to_come);
    check_runtime(&check, runtime_is_to_come);
    check_records(&check);
    check_descriptors(&check);
    check_sandbox(&check);
    show("trusted proxies", "%zu", options->proxies.count);
    if (fflush(stdout) != 0)
        log_error_errno("cannot write what would be used");
    return (options->check_unit ? check.useless : check.wrong) ? EXIT_USAGE : 0;
}
