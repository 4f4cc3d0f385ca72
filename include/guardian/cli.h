/* cli.h - the command line: flags, environment, and one function a subcommand.
 *
 * Exit codes: 0; 1 a run-time error (a lost device, a hanging worker, a port that is taken, a failed
 * request of `assess`); 2 wrong usage, host, policy or key file; 3 the model or the device could not be
 * loaded, or golden.json does not hold. Nearly each flag has an environment variable (GUARDIAN_MODEL for
 * --model); flag > environment > default. One thread. */
#ifndef GUARDIAN_CLI_H
#define GUARDIAN_CLI_H

#include "guardian/guard.h"

#define GD_EXIT_OK 0
#define GD_EXIT_RUNTIME 1
#define GD_EXIT_USAGE 2
#define GD_EXIT_MODEL 3

struct gd_cli {
    const char *model, *policy; /* policy may be NULL */
    const char *point;          /* the policy's operating point; may be NULL */
    const char *device, *dtype; /* see device.h */
    const char *host;
    const char *keys;        /* key file of the server; may be NULL */
    const char *id, *tenant; /* of a fresh key; may be NULL */
    const char *log_level;
    const char *allow_origin; /* may be NULL */
    uint32_t port, threads, shutdown_timeout_s;
    uint32_t queue_ms_max, step_tokens, kv_mib, verdict_entries;
    bool insecure, specials, lines, help, no_prefix_cache;
    const char *file; /* the argument; NULL or "-": standard input */
};

struct gd_cli_command {
    const char *name;
    const char *argument; /* as shown in the help, or NULL when there is none */
    bool needs_argument;
    const char *flags; /* names of the flags it takes, each followed by a blank */
    const char *help;
    int (*run)(const struct gd_cli *c);
};

/* Reads argv[2..] and the environment. 0, or an exit code after a message on standard error. */
int gd_cli_parse(const struct gd_cli_command *cmd, int argc, char **argv, struct gd_cli *out);
void gd_cli_print_help(const struct gd_cli_command *cmd);

/* What the server asks for beyond the flags; all zero elsewhere. */
struct gd_cli_hooks {
    int64_t deadline_ms; /* of requests without one; 0: none */
    void (*on_step)(void *ctx, const struct gd_step_info *info);
    struct gd_pulse *pulse; /* of the engine; may be NULL */
    bool log;               /* progress goes to the log, not to a person */
};

/* Loads model and policy, and says once a second on standard error how far it is. 0, or an exit code
 * with the reason in err. */
int gd_cli_open_guard(const struct gd_cli *c, const struct gd_cli_hooks *hooks,
                      struct gd_guard **out, struct gd_err *err);

int gd_cli_serve(const struct gd_cli *c);
int gd_cli_assess(const struct gd_cli *c);
int gd_cli_render(const struct gd_cli *c);
int gd_cli_tokenize(const struct gd_cli *c);
int gd_cli_selftest(const struct gd_cli *c);
int gd_cli_key(const struct gd_cli *c);
int gd_cli_version(const struct gd_cli *c);

#endif
