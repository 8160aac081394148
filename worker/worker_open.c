/* What every worker has before its first connection: the certificate, the identity, the table. */
#include "worker/worker.h"

#include "base/log.h"
#include "ident.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

/* With a bad certificate, clients without TLS are served all the same. */
static int check_certificate(const struct worker *worker)
{
    int64_t until;
    if (worker->tls == NULL || tls_is_usable(worker->tls, &until))
        return 0;
    if (worker->options->certificate_needed)
        return -1;
    log_warning("TLS is not served until the certificate can be used; clients without TLS are");
    return 0;
}

static void log_no_identity(void)
{
    log_warning("Offset is not served without its identity; the other protocols are");
}

/* With a bad identity, clients of other protocols than Offset are served all the same. No other
 * identity takes its place. */
static int find_named_identity(struct worker *worker)
{
    if (ident_read(worker->options->idfile, &worker->identity) == 0)
        return 0;
    if (worker->options->identity_needed)
        return -1;
    log_no_identity();
    return 0;
}

int worker_prepare(struct worker *worker, const struct options *options)
{
    *worker = (struct worker){.options = options, .forwarder = -1, .users_lock = -1};
    if (tls_load(options, &worker->tls) < 0 || check_certificate(worker) < 0)
        return -1;
    if (options->idfile != NULL)
        return find_named_identity(worker);
    worker->state_error = runtime_prepare_state(options);
    return 0;
}

static void find_identity(struct worker *worker)
{
    char path[PATH_MAX];
    const char *directory = worker->options->state_directory;
    if (worker->options->idfile != NULL || ident_default_path(directory, path, sizeof path) < 0)
        return;
    if (worker->state_error == 0) {
        if (ident_find_or_make(path, &worker->identity) < 0)
            log_no_identity();
        return;
    }
    errno = -worker->state_error;
    log_error_errno("Offset is not served: cannot make the state directory %s", directory);
}

int worker_open(struct worker *worker, const struct options *options, const struct runtime *runtime)
{
    worker->options = options;
    worker->runtime = runtime;
    worker->terms = terms_of(options);
    find_identity(worker);
    if (runtime_open_table(options, runtime, false, &worker->table) < 0)
        return -1;
    worker->users_lock = runtime_lock(runtime->users_lock, true, true);
    if (worker->users_lock >= 0)
        return 0;
    errno = -worker->users_lock;
    log_error_errno("cannot lock %s", runtime->users_lock);
    worker_close(worker);
    return -1;
}

void worker_close(struct worker *worker)
{
    if (worker->forwarder >= 0)
        close(worker->forwarder);
    if (worker->users_lock >= 0)
        close(worker->users_lock);
    pair_close(worker->table);
    tls_close(worker->tls);
    *worker = (struct worker){.forwarder = -1, .users_lock = -1};
}
