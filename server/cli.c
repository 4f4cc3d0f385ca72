/* cli.c - one table of flags; parsing, help, and the loading that most commands share. */
#include "guardian/cli.h"
#include "guardian/clock.h"
#include "guardian/device.h"
#include "guardian/log.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

enum kind { TEXT, NUMBER, SWITCH };

struct flag {
    const char *name, *env, *value;
    enum kind kind;
    size_t offset; /* of its member in struct gd_cli */
    uint32_t max;
    const char *help;
};

#define AT(member) offsetof(struct gd_cli, member)
static const struct flag FLAGS[] = {
    {"model", "GUARDIAN_MODEL", "DIR", TEXT, AT(model), 0,
     "model directory: config.json, tokenizer.json, safetensors"},
    {"policy", "GUARDIAN_POLICY", "FILES", TEXT, AT(policy), 0,
     "policy files, separated by commas (default: policy.json of the model, else the built-in "
     "one)"},
    {"operating-point", "GUARDIAN_OPERATING_POINT", "NAME", TEXT, AT(point), 0,
     "operating point of the policy (default: its thresholds)"},
    {"device", "GUARDIAN_DEVICE", "DEVICE", TEXT, AT(device), 0,
     "auto (default: CUDA device 0, else the CPU), cpu, cuda or cuda:N"},
    {"dtype", "GUARDIAN_DTYPE", "TYPE", TEXT, AT(dtype), 0,
     "of the products: auto (default: bf16, or fp32 on a CPU without AMX), bf16 or fp8"},
    {"threads", "GUARDIAN_THREADS", "N", NUMBER, AT(threads), GD_THREADS_MAX,
     "threads that compute on a CPU (default 0: as many as there are processors)"},
    {"host", "GUARDIAN_HOST", "ADDRESS", TEXT, AT(host), 0,
     "IPv4 address to listen on (default 127.0.0.1)"},
    {"port", "GUARDIAN_PORT", "N", NUMBER, AT(port), 65535,
     "port to listen on (default " GD_TEXT(GD_HTTP_PORT_DEFAULT) "; 0: any free one, see the log)"},
    {"shutdown-timeout", "GUARDIAN_SHUTDOWN_TIMEOUT", "SECONDS", NUMBER, AT(shutdown_timeout_s),
     GD_SHUTDOWN_S_MAX,
     "how long a shutdown waits for admitted requests (default " GD_TEXT(
         GD_SHUTDOWN_S_DEFAULT) ")"},
    {"allow-origin", "GUARDIAN_ALLOW_ORIGIN", "ORIGINS", TEXT, AT(allow_origin), 0,
     "web origins whose pages may send requests, as https://host:port, separated by commas"},
    {"insecure", "GUARDIAN_INSECURE", NULL, SWITCH, AT(insecure), 0,
     "listen on an address that other machines can reach, without authentication"},
    {"keys", "GUARDIAN_KEYS", "FILE", TEXT, AT(keys), 0,
     "key file: who may ask, and how much (`guardian key` makes entries)"},
    {"max-queue-ms", "GUARDIAN_MAX_QUEUE_MS", "N", NUMBER, AT(queue_ms_max), GD_QUEUE_MS_MAX,
     "refuse new requests when the work that waits takes so long (default " GD_TEXT(
         GD_QUEUE_MS_DEFAULT) ")"},
    {"max-batch-tokens", "GUARDIAN_MAX_BATCH_TOKENS", "N", NUMBER, AT(step_tokens),
     GD_STEP_TOKENS_MAX, "new tokens of one forward pass (default 0: the back end's choice)"},
    {"kv-cache-mib", "GUARDIAN_KV_CACHE_MIB", "N", NUMBER, AT(kv_mib), GD_KV_MIB_MAX,
     "memory of the KV cache (default 0: by what there is)"},
    {"no-prefix-cache", "GUARDIAN_NO_PREFIX_CACHE", NULL, SWITCH, AT(no_prefix_cache), 0,
     "compute every prompt from its start"},
    {"verdict-cache", "GUARDIAN_VERDICT_CACHE", "N", NUMBER, AT(verdict_entries),
     GD_VERDICT_CACHE_MAX,
     "scores kept for requests that come again (default " GD_TEXT(
         GD_VERDICT_CACHE_DEFAULT) "; 0: none)"},
    {"log-level", "GUARDIAN_LOG_LEVEL", "LEVEL", TEXT, AT(log_level), 0,
     "error, warn, info (default) or debug"},
    {"id", NULL, "NAME", TEXT, AT(id), 0, "name of the key in logs: letters, digits and -_.:/@"},
    {"tenant", NULL, "NAME", TEXT, AT(tenant), 0,
     "whose key it is (default: its id); keys of one tenant share caches"},
    {"specials", "GUARDIAN_SPECIALS", NULL, SWITCH, AT(specials), 0,
     "text of special tokens becomes special tokens"},
    {"lines", "GUARDIAN_LINES", NULL, SWITCH, AT(lines), 0,
     "one JSON string a line in, one array of ids a line out"},
    {"help", NULL, NULL, SWITCH, AT(help), 0, "print this help"},
};
#define N_FLAGS (sizeof(FLAGS) / sizeof(FLAGS[0]))

static bool takes(const struct gd_cli_command *cmd, const struct flag *f)
{
    char word[40];
    snprintf(word, sizeof(word), "%s ", f->name);
    const char *at = strstr(cmd->flags, word);
    bool listed = at != NULL && (at == cmd->flags || at[-1] == ' ');
    return listed || strcmp(f->name, "help") == 0;
}

static void print_flags(const struct gd_cli_command *cmd, FILE *to)
{
    for (size_t i = 0; i < N_FLAGS; i++) {
        const struct flag *f = &FLAGS[i];
        char left[64];
        if (!takes(cmd, f)) {
            continue;
        }
        snprintf(left, sizeof(left), "--%s %s", f->name, f->value != NULL ? f->value : "");
        fprintf(to, "  %-28s %s", left, f->help);
        fprintf(to, f->env != NULL ? " [%s]\n" : "\n", f->env);
    }
}

void gd_cli_print_help(const struct gd_cli_command *cmd)
{
    printf("usage: guardian %s [FLAGS]%s%s\n\n%s\n\nflags:\n", cmd->name,
           cmd->argument != NULL ? " " : "", cmd->argument != NULL ? cmd->argument : "", cmd->help);
    print_flags(cmd, stdout);
    printf("\nexit codes: 0; 1 run-time error; 2 wrong usage; 3 the model or the device could "
           "not be loaded\n");
}

static int usage_error(const struct gd_cli_command *cmd, const char *what, const char *detail)
{
    fprintf(stderr, "guardian %s: %s%s\n\nflags:\n", cmd->name, what, detail);
    print_flags(cmd, stderr);
    return GD_EXIT_USAGE;
}

/* The value of a flag, or of its environment variable, that cannot be. */
static int value_error(const struct gd_cli_command *cmd, const struct flag *f, const char *name,
                       const char *value)
{
    char what[160];
    if (f->kind == NUMBER) {
        snprintf(what, sizeof(what), "%s%s takes a number from 0 to %u, is ",
                 name == f->env ? "" : "--", name, (unsigned)f->max);
    } else {
        snprintf(what, sizeof(what), "%s%s takes %s, is ", name == f->env ? "" : "--", name,
                 f->kind == SWITCH ? "1, true, 0 or false" : "a text that is not empty");
    }
    return usage_error(cmd, what, value[0] != '\0' ? value : "empty");
}

static bool parse_number(const char *text, uint32_t max, uint32_t *out)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 9 || text[digits] != '\0') {
        return false;
    }
    unsigned long v = strtoul(text, NULL, 10);
    if (v > max) {
        return false;
    }
    *out = (uint32_t)v;
    return true;
}

/* Stores a value given by a flag or by its environment variable; false when it cannot be. */
static bool store(const struct flag *f, const char *value, struct gd_cli *out)
{
    char *at = (char *)out + f->offset;
    bool on = true;
    switch (f->kind) {
    case TEXT:
        memcpy(at, &value, sizeof(value));
        return value[0] != '\0';
    case NUMBER:
        return parse_number(value, f->max, (uint32_t *)(void *)at);
    case SWITCH:
        on = strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
        memcpy(at, &on, sizeof(on));
        return on || strcmp(value, "0") == 0 || strcmp(value, "false") == 0;
    }
    return false;
}

static const struct flag *find_flag(const struct gd_cli_command *cmd, const char *arg,
                                    const char **value)
{
    static const char short_help[] = "--help";
    arg = strcmp(arg, "-h") == 0 ? short_help : arg;
    const char *eq = strchr(arg, '=');
    size_t len = eq != NULL ? (size_t)(eq - arg) - 2 : strlen(arg) - 2;
    for (size_t i = 0; i < N_FLAGS; i++) {
        if (strlen(FLAGS[i].name) == len && memcmp(FLAGS[i].name, arg + 2, len) == 0 &&
            takes(cmd, &FLAGS[i])) {
            *value = eq != NULL ? eq + 1 : NULL;
            return &FLAGS[i];
        }
    }
    return NULL;
}

static int read_environment(const struct gd_cli_command *cmd, struct gd_cli *out)
{
    for (size_t i = 0; i < N_FLAGS; i++) {
        const char *value = FLAGS[i].env != NULL ? getenv(FLAGS[i].env) : NULL;
        if (value != NULL && value[0] != '\0' && takes(cmd, &FLAGS[i]) &&
            !store(&FLAGS[i], value, out)) {
            return value_error(cmd, &FLAGS[i], FLAGS[i].env, value);
        }
    }
    return 0;
}

/* Reads one argument at argv[*i], and its value when that is the next one. */
static int read_argument(const struct gd_cli_command *cmd, int argc, char **argv, int *i,
                         struct gd_cli *out)
{
    const char *arg = argv[*i], *value = NULL;
    bool is_flag = (arg[0] == '-' && arg[1] == '-') || strcmp(arg, "-h") == 0;
    if (!is_flag) {
        if (cmd->argument == NULL || out->file != NULL) {
            return usage_error(cmd, "takes no such argument: ", arg);
        }
        out->file = arg;
        return 0;
    }
    const struct flag *f = find_flag(cmd, arg, &value);
    if (f == NULL) {
        return usage_error(cmd, "there is no flag ", arg);
    }
    if (f->kind == SWITCH) {
        value = value != NULL ? value : "1";
    } else if (value == NULL) {
        if (*i + 1 >= argc) {
            return usage_error(cmd, "this flag needs a value: ", arg);
        }
        value = argv[++*i];
    }
    if (!store(f, value, out)) {
        return value_error(cmd, f, f->name, value);
    }
    return 0;
}

int gd_cli_parse(const struct gd_cli_command *cmd, int argc, char **argv, struct gd_cli *out)
{
    *out = (struct gd_cli){
        .model = access(GD_DEFAULT_MODEL_DIR, R_OK) == 0 ? GD_DEFAULT_MODEL_DIR
                                                         : "weights/guardian-mini",
        .device = "auto",
        .dtype = "auto",
        .host = "127.0.0.1",
        .log_level = "info",
        .port = GD_HTTP_PORT_DEFAULT,
        .shutdown_timeout_s = GD_SHUTDOWN_S_DEFAULT,
        .queue_ms_max = GD_QUEUE_MS_DEFAULT,
        .verdict_entries = GD_VERDICT_CACHE_DEFAULT,
    };
    int rc = read_environment(cmd, out);
    for (int i = 2; i < argc && rc == 0; i++) {
        rc = read_argument(cmd, argc, argv, &i, out);
    }
    if (rc != 0 || out->help) {
        return rc;
    }
    enum gd_log_level level;
    if (!gd_log_level_parse(out->log_level, &level)) {
        return usage_error(cmd, "no such log level: ", out->log_level);
    }
    gd_log_set_level(level);
    struct gd_device device;
    struct gd_err err = {0};
    if (gd_device_parse(out->device, out->dtype, &device, &err) != 0) {
        return usage_error(cmd, "", err.msg);
    }
    if (cmd->needs_argument && out->file == NULL) {
        return usage_error(cmd, "an argument is missing: ", cmd->argument);
    }
    return 0;
}

struct progress {
    bool log;
    int64_t last_ns;
};

/* A line a second at most; for a person at a terminal one line that is written over. */
static void show_progress(void *ctx, const char *what, uint64_t done, uint64_t all)
{
    struct progress *p = ctx;
    const int64_t now_ns = gd_now_ns();
    const bool tty = !p->log && isatty(STDERR_FILENO) == 1;
    if (p->last_ns == 0) {
        p->last_ns = now_ns;
    }
    if (all == 0 || now_ns - p->last_ns < (tty ? 100000000 : 1000000000)) {
        return;
    }
    p->last_ns = now_ns;
    if (p->log) {
        gd_log(GD_LOG_INFO, "loading", GD_LOG_Z("step", what), GD_LOG_I64("bytes", (int64_t)done),
               GD_LOG_I64("bytes_all", (int64_t)all));
        return;
    }
    fprintf(stderr, "%sguardian: %s %.0f %% of %.1f MiB%s", tty ? "\r" : "", what,
            100.0 * (double)done / (double)all, (double)all / 1048576.0, tty ? "  " : "\n");
    if (tty && done == all) {
        fprintf(stderr, "\n");
    }
}

/* Looked at before the model loads, which takes long. */
static int check_policies(const char *paths, struct gd_err *err)
{
    for (const char *at = paths; at != NULL && *at != '\0';) {
        const size_t len = strcspn(at, ",");
        char *path = strndup(at, len);
        const bool there = path != NULL && access(path, R_OK) == 0;
        if (!there) {
            gd_err_set(err, GD_EUSAGE, "policy file %.*s: %s", (int)len, at, strerror(errno));
        }
        free(path);
        if (!there) {
            return GD_EUSAGE;
        }
        at += at[len] == ',' ? len + 1 : len;
    }
    return 0;
}

int gd_cli_open_guard(const struct gd_cli *c, const struct gd_cli_hooks *hooks,
                      struct gd_guard **out, struct gd_err *err)
{
    struct progress progress = {.log = hooks->log};
    const struct gd_guard_options opt = {
        .engine = {.model_dir = c->model,
                   .device = c->device,
                   .dtype = c->dtype,
                   .n_threads = c->threads,
                   .step_tokens = c->step_tokens,
                   .kv_bytes = (uint64_t)c->kv_mib * GD_MIB,
                   .no_prefix_cache = c->no_prefix_cache,
                   .verdict_entries = c->verdict_entries,
                   .on_step = hooks->on_step,
                   .pulse = hooks->pulse,
                   .model = {.progress = show_progress, .ctx = &progress}},
        .policy_paths = c->policy,
        .operating_point = c->point,
        .deadline_ms = hooks->deadline_ms,
    };
    int rc = check_policies(c->policy, err);
    rc = rc == 0 ? gd_guard_open(out, &opt, err) : rc;
    if (rc == 0) {
        return 0;
    }
    return rc == GD_EPOLICY || rc == GD_EUSAGE ? GD_EXIT_USAGE : GD_EXIT_MODEL;
}
