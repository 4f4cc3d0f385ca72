/* cli_serve.c - the life of the server: listen, load, serve, drain, stop.
 *
 * The main thread waits for signals; they are blocked in all others. The model loads on a thread of
 * its own, so that health checks are answered and SIGTERM works meanwhile. A lost device ends the
 * process as a signal does, but within two seconds and with exit code 1, so that whoever watches it
 * starts a new one: only a new process can use the device again. So does a worker that hangs. A service
 * manager that wants to be told (notify.h) is told. */
#include "guardian/cli.h"
#include "guardian/clock.h"
#include "guardian/http.h"
#include "guardian/log.h"
#include "guardian/notify.h"
#include "guardian/socket.h"
#include "guardian/stats.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define POLL_NS 20000000
#define LOST_POLL_NS 100000000 /* how often a serving process looks at its device */
#define LOST_TIMEOUT_S 1       /* for the answers under way when there is no model any more */
#define QUIET_POLLS 5          /* nothing in flight for this many polls in a row ends a drain */

struct loader {
    const struct gd_cli *cli;
    struct gd_guard *guard;
    struct gd_golden golden;
    struct gd_pulse pulse; /* of the engine, from its first step on */
    struct gd_err err;
    int exit_code;
    atomic_bool done;
};

static void *load_main(void *ctx)
{
    struct loader *l = ctx;
    const struct gd_cli_hooks hooks = {GD_DEADLINE_MS_DEFAULT, gd_stats_step, &l->pulse, true};
    l->exit_code = gd_cli_open_guard(l->cli, &hooks, &l->guard, &l->err);
    if (l->exit_code == 0) {
        const int rc = gd_golden_check(l->cli->model, l->guard, &l->golden, &l->err);
        l->exit_code = rc == GD_OK ? 0 : rc == GD_EBACKEND ? GD_EXIT_RUNTIME : GD_EXIT_MODEL;
    }
    atomic_store(&l->done, true);
    return NULL;
}

/* The signal of the set that came in this time, less than a second; 0 when none did. */
static int signalled(const sigset_t *set, long ns)
{
    const struct timespec poll = {.tv_nsec = ns};
    const int signal = sigtimedwait(set, NULL, &poll);
    return signal > 0 ? signal : 0;
}

/* The same for signals that end the server; SIGHUP is taken too, and noted in *hup. */
static bool told_to_stop(const sigset_t *set, long ns, bool *hup)
{
    const int signal = signalled(set, ns);
    *hup = *hup || signal == SIGHUP;
    return signal != 0 && signal != SIGHUP;
}

static void log_device(const struct gd_engine *e)
{
    const struct gd_err *note = gd_engine_device_note(e);
    const struct gd_engine_memory *m = gd_engine_memory(e);
    const struct gd_backend *be = gd_engine_backend(e);
    if (note != NULL) {
        gd_log(note->code == GD_ENOTFOUND ? GD_LOG_INFO : GD_LOG_WARN, "device fallback",
               GD_LOG_Z("device", be->device), GD_LOG_Z("error", note->msg));
    }
    gd_log(GD_LOG_INFO, "memory plan", GD_LOG_Z("device", be->device),
           GD_LOG_Z("device_name", be->name), GD_LOG_Z("gemm_dtype", be->gemm_dtype),
           GD_LOG_I64("weight_bytes", (int64_t)m->weight_bytes),
           GD_LOG_I64("activation_bytes", (int64_t)m->activation_bytes),
           GD_LOG_I64("kv_bytes", (int64_t)m->kv_bytes), GD_LOG_I64("kv_blocks", m->kv_blocks),
           GD_LOG_I64("kv_tokens", (int64_t)m->kv_tokens),
           GD_LOG_I64("left_bytes", (int64_t)m->left_bytes));
}

static void log_ready(struct gd_guard *g)
{
    struct gd_engine *e = gd_guard_engine(g);
    struct gd_policies *policies = gd_guard_policies(g);
    const struct gd_model *m = gd_engine_model(e);
    const struct gd_backend *be = gd_engine_backend(e);
    struct gd_engine_stats now;
    gd_engine_stats(e, &now);
    gd_log(GD_LOG_INFO, "ready", GD_LOG_Z("model_version", m->version),
           GD_LOG_F64("load_ms", m->load_ms), GD_LOG_Z("device", be->device),
           GD_LOG_Z("isa", be->isa), GD_LOG_Z("gemm_dtype", be->gemm_dtype),
           GD_LOG_I64("threads", be->n_threads),
           GD_LOG_I64("kv_cache_bytes", (int64_t)now.kv_bytes),
           GD_LOG_I64("kv_blocks", now.kv.blocks), GD_LOG_I64("step_tokens", now.step_tokens),
           GD_LOG_I64("planned_bytes", (int64_t)m->bytes_needed),
           GD_LOG_I64("resident_bytes", (int64_t)gd_engine_resident_bytes()),
           GD_LOG_STR("policy", policies->policy[0]->name), GD_LOG_I64("policies", policies->n));
    gd_policies_close(policies);
}

static void log_golden(const struct gd_golden *r)
{
    if (!r->there) {
        gd_log_msg(GD_LOG_INFO, "model unchecked: it has no golden.json");
        return;
    }
    gd_log(GD_LOG_INFO, "model checked", GD_LOG_I64("files", r->n_files),
           GD_LOG_I64("requests", r->n_requests), GD_LOG_F64("difference_max", r->difference_max),
           GD_LOG_F64("ms", r->ms), GD_LOG_Z("skipped", r->skipped));
}

/* Signs of life for the service manager, half as far apart as it wants them. */
static void tell_alive(void)
{
    static int64_t next_ns;
    const int64_t every_ns = gd_notify_watchdog_ns() / 2, now_ns = gd_now_ns();
    if (every_ns > 0 && now_ns >= next_ns) {
        next_ns = now_ns + every_ns;
        (void)gd_notify_alive(NULL);
    }
}

/* Reads again what an operator may have changed, each by itself: what cannot be used changes
 * nothing. */
static void reload(struct gd_guard *g, struct gd_keyring *keys)
{
    struct gd_err err = {0};
    (void)gd_notify_reloading(NULL);
    const bool known = gd_keyring_reload(keys, &err) == 0;
    if (known) {
        gd_log(GD_LOG_INFO, "keys reloaded", GD_LOG_I64("keys", gd_keyring_count(keys)));
    } else {
        gd_log(GD_LOG_ERROR, "keys not reloaded", GD_LOG_Z("error", err.msg));
    }
    const bool policies = gd_guard_reload(g, &err) == 0;
    if (policies) {
        gd_log_msg(GD_LOG_INFO, "policies reloaded");
    } else {
        gd_log(GD_LOG_ERROR, "policies not reloaded", GD_LOG_Z("error", err.msg));
    }
    gd_stats_reload(policies && known);
    (void)gd_notify_ready(NULL);
}

/* The key of the environment is hashed and wiped, there too. */
static int open_keys(const struct gd_cli *c, struct gd_keyring **out, struct gd_err *err)
{
    char *key = getenv("GUARDIAN_API_KEY");
    const int rc = gd_keyring_open(out, c->keys, key, err);
    if (key != NULL) {
        OPENSSL_cleanse(key, strlen(key));
        unsetenv("GUARDIAN_API_KEY");
    }
    return rc;
}

/* Why the device of a loaded engine is lost, or its worker hangs; else NULL. */
static const char *lost(struct loader *l)
{
    if (!atomic_load(&l->done) || l->guard == NULL) {
        return NULL;
    }
    struct gd_engine *e = gd_guard_engine(l->guard);
    (void)gd_engine_hung(e, gd_now_ns());
    return gd_engine_lost(e);
}

/* Refuses new work and waits for what was admitted. False when a second signal or the timeout ended
 * the wait. */
static bool drain(struct gd_http *h, struct loader *l, uint32_t timeout_s, const sigset_t *set)
{
    int64_t until = gd_now_ns() + (int64_t)timeout_s * 1000000000;
    gd_http_drain(h);
    (void)gd_notify_stopping(NULL);
    gd_log(GD_LOG_INFO, "draining", GD_LOG_I64("in_flight", gd_http_in_flight(h)));
    bool hup = false; /* too late for it */
    for (int quiet = 0; quiet < QUIET_POLLS;) {
        if (told_to_stop(set, POLL_NS, &hup)) {
            gd_log_msg(GD_LOG_WARN, "second signal: stopping at once");
            return false;
        }
        tell_alive();
        (void)lost(l); /* those who wait for a worker that hangs are told */
        quiet = gd_http_in_flight(h) == 0 ? quiet + 1 : 0;
        if (quiet == 0 && gd_now_ns() > until) {
            gd_log(GD_LOG_WARN, "shutdown timeout", GD_LOG_I64("in_flight", gd_http_in_flight(h)));
            return false;
        }
    }
    return true;
}

static void log_lost(struct loader *l)
{
    gd_log(GD_LOG_ERROR, "device lost", GD_LOG_Z("error", lost(l)));
}

/* Waits for the model, then for a signal. 0 when a signal came, else an exit code. */
static int run(struct gd_http *h, struct loader *l, struct gd_keyring *keys, const sigset_t *set)
{
    bool hup = false;
    while (!atomic_load(&l->done)) {
        struct gd_err why = {0};
        if (told_to_stop(set, POLL_NS, &hup)) {
            return 0;
        }
        if (gd_pulse_hung(&l->pulse, gd_now_ns(), &why)) {
            gd_log(GD_LOG_ERROR, "model not loaded", GD_LOG_Z("error", why.msg));
            _Exit(GD_EXIT_RUNTIME); /* the loading thread waits for the worker */
        }
        tell_alive();
    }
    if (l->exit_code != 0) {
        gd_log(GD_LOG_ERROR, "model not loaded", GD_LOG_Z("error", l->err.msg));
        return l->exit_code;
    }
    log_golden(&l->golden);
    gd_http_set_guard(h, l->guard, &l->golden);
    log_device(gd_guard_engine(l->guard));
    log_ready(l->guard);
    (void)gd_notify_ready(NULL);
    while (lost(l) == NULL) {
        tell_alive();
        if (hup) {
            hup = false;
            reload(l->guard, keys);
        }
        if (told_to_stop(set, LOST_POLL_NS, &hup)) {
            return 0;
        }
    }
    log_lost(l);
    return GD_EXIT_RUNTIME;
}

static int fail(const struct gd_err *err)
{
    fprintf(stderr, "guardian serve: %s\n", err->msg);
    return err->code == GD_EUSAGE ? GD_EXIT_USAGE : GD_EXIT_RUNTIME;
}

int gd_cli_serve(const struct gd_cli *c)
{
    struct gd_err err = {0};
    struct gd_http *h = NULL;
    struct gd_keyring *keys = NULL;
    struct loader l = {.cli = c};
    pthread_t thread;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);

    gd_log_set_version(GD_VERSION);
    if (open_keys(c, &keys, &err) != 0) {
        return fail(&err);
    }
    const struct gd_http_options opt = {
        .host = c->host,
        .port = (uint16_t)c->port,
        .version = GD_VERSION,
        .model_dir = c->model,
        .keys = keys,
        .insecure = c->insecure,
        .allow_origin = c->allow_origin,
        .queue_ms_max = c->queue_ms_max,
        .prefix_cache = !c->no_prefix_cache,
    };
    if (gd_http_open(&h, &opt, &err) != 0) {
        gd_keyring_close(keys);
        return fail(&err);
    }
    gd_log(GD_LOG_INFO, "listening", GD_LOG_Z("version", GD_VERSION), GD_LOG_Z("host", c->host),
           GD_LOG_I64("port", gd_http_port(h)), GD_LOG_Z("model", c->model),
           GD_LOG_I64("connections", gd_sockets_max()), GD_LOG_I64("keys", gd_keyring_count(keys)));
    int rc = pthread_create(&thread, NULL, load_main, &l);
    if (rc != 0) {
        gd_err_set(&err, GD_ENOMEM,
                   "the loading thread could not be started: %s (there is a thread for each of %u "
                   "connections: is a limit on threads, such as pids or TasksMax, below that?)",
                   strerror(rc), (unsigned)gd_sockets_max());
        gd_http_close(h);
        gd_keyring_close(keys);
        return fail(&err);
    }
    rc = run(h, &l, keys, &set);
    bool orderly = drain(h, &l, rc == 0 ? c->shutdown_timeout_s : LOST_TIMEOUT_S, &set);
    if (lost(&l) != NULL) {
        if (rc == 0) {
            log_lost(&l); /* lost while draining */
        }
        _Exit(GD_EXIT_RUNTIME); /* giving back what a lost device holds may never end */
    }
    /* A step that nobody waits for any more may take long, or for ever. */
    const bool busy = atomic_load(&l.done) && l.guard != NULL &&
                      gd_engine_stalled_ms(gd_guard_engine(l.guard), NULL) > 0;
    if (!orderly || busy || !atomic_load(&l.done)) {
        /* Threads still work on memory that a normal end would take away under them. */
        _Exit(orderly || rc != 0 ? rc : GD_EXIT_RUNTIME);
    }
    pthread_join(thread, NULL);
    gd_http_close(h);
    gd_guard_close(l.guard);
    gd_keyring_close(keys);
    gd_log_msg(GD_LOG_INFO, "stopped");
    return rc;
}
