/* The options of a command: see command_line.h. */
#include "setup/command_line.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    LONG_NAME = 256, /* what getopt_long() returns for a long name: this and the option's index */
};

void command_line_init(struct command_line *line, const char *command)
{
    *line = (struct command_line){.command = command};
}

void command_line_add(struct command_line *line, const struct command_option *option, bool required)
{
    line->required[line->count] = required;
    line->options[line->count++] = option;
}

void command_line_show(const struct command_line *line)
{
    for (size_t i = 0; i < line->count; i++) {
        char left[40];
        const struct command_option *option = line->options[i];
        const char *argument = option->argument == NULL ? "" : option->argument;
        int used = option->letters[0] != '\0'
                       ? snprintf(left, sizeof left, "-%c, ", option->letters[0])
                       : snprintf(left, sizeof left, "    ");
        (void)snprintf(left + used, sizeof left - (size_t)used, "--%s%s%s", option->name,
            argument[0] == '\0' ? "" : "=", argument);
        printf("  %-30s %s%s\n", left, option->help, line->required[i] ? " (required)" : "");
    }
}

static int wanted_argument(const struct command_option *option)
{
    if (option->argument == NULL)
        return no_argument;
    return option->argument[0] == '\0' ? optional_argument : required_argument;
}

void command_line_begin(struct command_line *line, int argc, char **argv)
{
    char *letters = line->letters;
    *letters++ = ':'; /* tell a missing value from an unknown option */
    for (size_t i = 0; i < line->count; i++) {
        const struct command_option *option = line->options[i];
        int wants = wanted_argument(option);
        line->long_names[i] = (struct option){option->name, wants, NULL, LONG_NAME + (int)i};
        for (const char *letter = option->letters; *letter != '\0'; letter++) {
            *letters++ = *letter;
            if (wants == required_argument)
                *letters++ = ':';
        }
    }
    line->long_names[line->count] = (struct option){0};
    *letters = '\0';
    line->argc = argc;
    line->argv = argv;
    opterr = 0;
    optind = 0; /* glibc starts anew, should a line have been read before */
}

static const struct command_option *find_option(const struct command_line *line, int code)
{
    for (size_t i = 0; i < line->count; i++) {
        const char *letters = line->options[i]->letters;
        if (code == LONG_NAME + (int)i ||
            (code > 0 && code < LONG_NAME && strchr(letters, code) != NULL))
            return line->options[i];
    }
    return NULL;
}

__attribute__((format(printf, 2, 3))) static const struct command_option *fail(
    struct command_line *line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(line->fault, sizeof line->fault, format, arguments);
    va_end(arguments);
    return NULL;
}

static const struct command_option *fail_unknown(struct command_line *line, const char *word)
{
    return fail(line, "unknown option %s: expected one that %s --help shows", word, line->command);
}

/* Offset's tools take -o=FILE for -oFILE. word: the last one that was read. */
static const char *find_value(const char *value, const char *word)
{
    bool attached = value != NULL && value != word && word[0] == '-' && word[1] != '-';
    return attached && *value == '=' ? value + 1 : value;
}

/* word: --NAME or --NAME=VALUE */
static bool is_whole(const char *word, const char *name)
{
    size_t size = strlen(name);
    return strncmp(word + 2, name, size) == 0 && (word[2 + size] == '=' || word[2 + size] == '\0');
}

const struct command_option *command_line_next(struct command_line *line)
{
    int code = getopt_long(line->argc, line->argv, line->letters, line->long_names, NULL);
    if (code == -1) {
        line->rest = line->argv + optind;
        line->rest_count = line->argc - optind;
        return NULL;
    }
    const char *word = line->argv[optind - 1];
    bool bad = code == ':' || code == '?';
    const struct command_option *option = find_option(line, bad ? optopt : code);
    if (option == NULL)
        return fail_unknown(line, word);
    if (code == ':')
        return fail(line, "option --%s needs a value: expected %s", option->name, option->argument);
    if (code == '?')
        return fail(line, "option --%s takes no value", option->name);
    line->value = find_value(optarg, word);
    if (line->value == word)
        word = line->argv[optind - 2];
    if (line->whole_names && code >= LONG_NAME && !is_whole(word, option->name))
        return fail_unknown(line, word);
    if (wanted_argument(option) == optional_argument && line->value != NULL &&
        strcmp(line->value, "true") != 0)
        return fail(line, "option --%s takes no value but true", option->name);
    return option;
}
