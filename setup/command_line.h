/* The options of a command: how they are spelled, how the help lists them, and how they are read.
 * What an option does is the caller's. */
#ifndef RELAY_COMMAND_LINE_H
#define RELAY_COMMAND_LINE_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>

struct command_option {
    const char *name;
    const char *letters;  /* "": it has a long name only; the help shows the first letter */
    const char *argument; /* as the help names it; NULL: none; "": none, but --NAME=true is taken */
    const char *help;
};

enum {
    COMMAND_LINE_OPTIONS_MAX = 64,
};

struct command_line {
    const char *command; /* as in "relay serve" */
    bool whole_names;    /* a name that is cut short is refused, as Offset's tools do */

    const struct command_option *options[COMMAND_LINE_OPTIONS_MAX];
    bool required[COMMAND_LINE_OPTIONS_MAX];
    size_t count;

    const char *value; /* of the last option; NULL: none */
    char **rest;       /* the words behind all options, */
    int rest_count;
    char fault[512]; /* what is wrong; "": nothing */

    /* For getopt_long(). */
    int argc;
    char **argv;
    struct option long_names[COMMAND_LINE_OPTIONS_MAX + 1];
    char letters[4 * COMMAND_LINE_OPTIONS_MAX + 2];
};

void command_line_init(struct command_line *line, const char *command);
/* Borrows the option, at most COMMAND_LINE_OPTIONS_MAX of them. required: only the help says so. */
void command_line_add(
    struct command_line *line, const struct command_option *option, bool required);

/* Writes the list of options to standard output. */
void command_line_show(const struct command_line *line);

/* Starts to read argv[1...]; only one line is read at a time in a process. */
void command_line_begin(struct command_line *line, int argc, char **argv);
/* The next option, with its value in line->value. NULL: there are no more, and line->rest is what
 * is left; or line->fault says what is wrong. */
const struct command_option *command_line_next(struct command_line *line);

#endif
