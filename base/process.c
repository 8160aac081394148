/* A process and its surroundings: see process.h. */
#include "base/process.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

/* ---- signals --------------------------------------------------------------------- */

/* No process may die of these: a write to a closed connection returns an error (SIGPIPE), a
 * terminal may be closed (SIGHUP), a log rotation may signal all services alike (SIGUSR1), and a
 * file may be at its size limit (SIGXFSZ). */
static const int ignored[] = {SIGPIPE, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGXFSZ};

static void set_signals(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, usual = {.sa_handler = SIG_DFL};
    for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++)
        (void)sigaction(ignored[i], &ignore, NULL); /* cannot fail for these */
    /* A process that ignores SIGCHLD cannot wait for its children. */
    (void)sigaction(SIGCHLD, &usual, NULL);
}

bool process_end_with_parent(pid_t parent, int signal)
{
    return prctl(PR_SET_PDEATHSIG, signal) == 0 && getppid() == parent;
}

/* ---- the command line as `ps` shows it ------------------------------------------- */

/* Where the kernel put arguments and environment, one after the other. `ps` shows what stands
 * there. This process uses copies of both. */
static char *title;
static size_t title_size;

/* Whether `text` begins at *end; *end is then moved behind it. */
static bool extends(char **end, char *text)
{
    if (text != *end)
        return false;
    *end = text + strlen(text) + 1;
    return true;
}

/* A copy of a list of strings, in one block of memory; NULL without memory. */
static char **copy_list(char *const *list)
{
    size_t count = 0, size = sizeof *list;
    for (; list[count] != NULL; count++)
        size += sizeof *list + strlen(list[count]) + 1;
    char **copy = malloc(size);
    if (copy == NULL)
        return NULL;
    char *at = (char *)(copy + count + 1);
    for (size_t i = 0; i < count; i++) {
        copy[i] = at;
        at = stpcpy(at, list[i]) + 1;
    }
    copy[count] = NULL;
    return copy;
}

char **process_prepare(int argc, char **argv)
{
    /* Kept until the process ends, also after setenv() has replaced `environ`. */
    static char **arguments, **variables;
    set_signals();
    if (argc < 1)
        return argv;
    arguments = copy_list(argv);
    variables = copy_list(environ);
    if (arguments == NULL || variables == NULL)
        return argv;
    char *end = argv[0];
    for (char **at = argv; *at != NULL && extends(&end, *at); at++)
        continue;
    for (char **at = environ; *at != NULL && extends(&end, *at); at++)
        continue;
    title = argv[0];
    title_size = (size_t)(end - argv[0]);
    environ = variables;
    return arguments;
}

void process_name(const char *name, const char *role, const char *place)
{
    const char *form = place == NULL ? "relay: %s" : "relay: %s (%s)";
    (void)prctl(PR_SET_NAME, name); /* cannot fail for a valid string */
    if (title_size == 0)
        return;
    memset(title, 0, title_size);
    (void)snprintf(title, title_size, form, role, place);
}

/* ---- standard streams ------------------------------------------------------------ */

int process_open_null(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return fd >= 0 ? fd : open("/", O_PATH | O_CLOEXEC);
}
