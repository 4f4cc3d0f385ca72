/* main.c - finds the subcommand and runs it. */
#include "guardian/cli.h"

#include <signal.h>
#include <string.h>

#define MODEL_FLAGS "model policy device dtype threads log-level "
#define ENGINE_FLAGS "operating-point max-batch-tokens kv-cache-mib no-prefix-cache verdict-cache "

static const struct gd_cli_command COMMANDS[] = {
    {"serve", NULL, false,
     MODEL_FLAGS ENGINE_FLAGS "host port shutdown-timeout keys insecure allow-origin max-queue-ms ",
     "answer verdicts over HTTP until SIGTERM or SIGINT", gd_cli_serve},
    {"assess", "FILE", true, MODEL_FLAGS ENGINE_FLAGS,
     "print the verdict of each request of FILE (one JSON value, or JSON Lines)", gd_cli_assess},
    {"render", "FILE", true, MODEL_FLAGS, "print what the model would read for each request",
     gd_cli_render},
    {"tokenize", "[FILE]", false, "model specials lines ", "print the token ids of a text",
     gd_cli_tokenize},
    {"selftest", NULL, false, MODEL_FLAGS, "check the back end, load the model, judge one request",
     gd_cli_selftest},
    {"key", NULL, false, "id tenant ", "print a fresh API key, and its entry for a key file",
     gd_cli_key},
    {"version", NULL, false, "", "print the version", gd_cli_version},
};
#define N_COMMANDS (sizeof(COMMANDS) / sizeof(COMMANDS[0]))

static void print_usage(FILE *to)
{
    fprintf(to, "usage: guardian COMMAND [FLAGS]\n\ncommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        fprintf(to, "  %-10s %s\n", COMMANDS[i].name, COMMANDS[i].help);
    }
    fprintf(to, "\n`guardian COMMAND --help` lists the flags of a command.\n");
}

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        print_usage(stderr);
        return GD_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_usage(stdout);
        return GD_EXIT_OK;
    }
    const char *name = strcmp(argv[1], "--version") == 0 ? "version" : argv[1];
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(COMMANDS[i].name, name) != 0) {
            continue;
        }
        struct gd_cli c;
        int rc = gd_cli_parse(&COMMANDS[i], argc, argv, &c);
        if (rc != 0) {
            return rc;
        }
        if (c.help) {
            gd_cli_print_help(&COMMANDS[i]);
            return GD_EXIT_OK;
        }
        return COMMANDS[i].run(&c);
    }
    fprintf(stderr, "guardian: there is no command '%s'\n\n", argv[1]);
    print_usage(stderr);
    return GD_EXIT_USAGE;
}
