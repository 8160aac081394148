/* Command lines: arguments are separated by zero bytes, and an odd number of bytes has HOST and
 * PORT among them. They are read, or refused with a status; what was read is in its range. */
#include "setup/options.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    ARGUMENTS_MAX = 64
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Help and complaints are not what is looked at. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    if (freopen("/dev/null", "w", stdout) == NULL)
        abort();
    return 0;
}

static void hide_errors(bool hidden)
{
    static int error = -1, null = -1;
    if (error < 0) {
        error = dup(STDERR_FILENO);
        null = open("/dev/null", O_WRONLY);
    }
    if (dup2(hidden ? null : error, STDERR_FILENO) < 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct options options;
    char *arguments[ARGUMENTS_MAX + 2] = {(char[]){"relay serve"}};
    int count = 1;
    char *text = malloc(size + 1);
    if (text == NULL)
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    for (size_t at = 0; at < size && count <= ARGUMENTS_MAX; at += strlen(text + at) + 1)
        arguments[count++] = text + at;
    hide_errors(true);
    int status = options_read(&options, count, arguments, size % 2 != 0);
    hide_errors(false);
    if (status != -1 && status != 0 && status != EXIT_USAGE)
        abort();
    if (status == -1 &&
        (options.listen_count < 1 || options.listen_count > OPTIONS_LISTEN_MAX ||
            options.limits.connections < 1 || options.max_workers < 1 || options.max_use < 1 ||
            options.handshake_timeout < 1 || options.wait_timeout < 1 || options.linger < 0 ||
            options.runtime_directory == NULL))
        abort();
    free(text);
    return 0;
}
