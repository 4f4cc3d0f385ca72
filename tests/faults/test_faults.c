/* test_faults.c - every call that can fail is made to fail, in turn: loading a model, opening the
 * server, and each route with each kind of request (SQLite's method).
 *
 * For N = 1, 2, 3, ... the Nth call fails, and then all from the Nth on, until a run comes through in
 * which none did. Loading either fails with a sentence, or gives a guard that judges as it would have
 * without; nothing is lost to either. A request either gets the very verdict that it gets without a
 * fault, or an error of the server's (5xx with a body), or a closed connection; afterwards the same
 * request is right again, and no memory, descriptor, connection or admission is left behind.
 *
 * Long sweeps go in strides after their first steps; GUARDIAN_FAULTS=all takes every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "client.h"
#include "faults.h"
#include "guardian/clock.h"
#include "guardian/http.h"
#include "guardian/log.h"
#include "requests.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#define LEAKED() __lsan_do_recoverable_leak_check()
#else
#define LEAKED() 0
#endif

#define TINY "golden/models/llama_f32_tied"
#define CONTEXT "768" /* tokens, in place of: */
#define CONTEXT_TINY "32768"
/* So many steps one by one, so many of the rest. Sanitizers take their time. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STEPS_FIRST 24
#define STEPS_AFTER 16
#else
#define STEPS_FIRST 300
#define STEPS_AFTER 60
#endif
#define STEPS_MAX 200000

static const struct sweep {
    const char *name;
    unsigned groups;
    enum faults_way way;
    bool stay;
} SWEEPS[] = {
    {"no memory, once", FAULTS_MEMORY, FAULTS_ERROR, false},
    {"no memory from there on", FAULTS_MEMORY, FAULTS_ERROR, true},
    {"a full arena, once", FAULTS_ARENA, FAULTS_ERROR, false},
    {"a full arena from there on", FAULTS_ARENA, FAULTS_ERROR, true},
    {"a full buffer, once", FAULTS_APPEND, FAULTS_ERROR, false},
    {"a full buffer from there on", FAULTS_APPEND, FAULTS_ERROR, true},
    {"files, sockets and the system, once", FAULTS_FILE | FAULTS_SOCKET | FAULTS_SYSTEM,
     FAULTS_ERROR, false},
    {"files, sockets and the system from there on", FAULTS_FILE | FAULTS_SOCKET | FAULTS_SYSTEM,
     FAULTS_ERROR, true},
    {"no room and no descriptors, once", FAULTS_FILE | FAULTS_SOCKET, FAULTS_FULL, false},
    {"no room and no descriptors from there on", FAULTS_FILE | FAULTS_SOCKET, FAULTS_FULL, true},
    {"interrupted, once", FAULTS_FILE | FAULTS_SOCKET | FAULTS_SYSTEM, FAULTS_INTR, false},
    {"interrupted three times", FAULTS_FILE | FAULTS_SOCKET | FAULTS_SYSTEM, FAULTS_INTR, true},
    {"one byte, once", FAULTS_FILE | FAULTS_SOCKET | FAULTS_SYSTEM, FAULTS_SHORT, false},
    {"one byte from there on", FAULTS_FILE | FAULTS_SOCKET | FAULTS_SYSTEM, FAULTS_SHORT, true},
    {"libraries, once", FAULTS_LIBRARY, FAULTS_ERROR, false},
    {"libraries from there on", FAULTS_LIBRARY, FAULTS_ERROR, true},
    {"everything from there on", FAULTS_ALL, FAULTS_ERROR, true},
};
#define N_SWEEPS (sizeof SWEEPS / sizeof SWEEPS[0])

static char model_dir[] = "/tmp/guardian-faults-XXXXXX";

/* ---- stepping ---- */

static bool every_step(void)
{
    const char *mode = getenv("GUARDIAN_FAULTS");
    return mode != NULL && strcmp(mode, "all") == 0;
}

/* For looking into one: GUARDIAN_FAULTS_FORM, _SWEEP and _STEP name it. */
static bool left_out(const char *variable, const char *name)
{
    const char *only = getenv(variable);
    return only != NULL && strcmp(only, name) != 0;
}

static long first_step(void)
{
    const char *first = getenv("GUARDIAN_FAULTS_STEP");
    return first != NULL ? strtol(first, NULL, 10) : 1;
}

/* The next N after n, of about `all`. */
static long next_step(long n, long all)
{
    if (n < STEPS_FIRST || every_step())
        return n + 1;
    const long stride = (all - STEPS_FIRST) / STEPS_AFTER;
    return n + (stride > 1 ? stride : 1);
}

static struct faults_plan plan_of(const struct sweep *s, long n)
{
    return (struct faults_plan){.groups = s->groups, .way = s->way, .nth = n, .stay = s->stay};
}

/* Fails the test, naming the step. */
#define STEP_FAILED(s, n, seen, ...)                                                               \
    do {                                                                                           \
        print_error("%s, step %ld (first: %s): ", (s)->name, n, (seen)->first);                    \
        fail_msg(__VA_ARGS__);                                                                     \
    } while (0)

static int descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

/* ---- loading ---- */

static const struct gd_guard_options LOAD = {
    .engine = {.model_dir = model_dir, .device = "cpu", .n_threads = 2, .step_tokens = 64},
};

/* The plain verdict of a guard on a request, or NULL. Spared. */
static char *judge(struct gd_guard *g, const char *request)
{
    struct gd_arena arena;
    struct gd_judgement j;
    struct gd_buf out;
    struct gd_json_writer w;
    const struct gd_json *v = NULL;
    char *plain = NULL;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    gd_buf_init(&out, GD_MIB);
    gd_json_writer_init(&w, &out);
    if (gd_json_parse(&arena, gd_str_from(request), &GD_JSON_REQUEST_LIMITS, &v, NULL) == 0 &&
        gd_guard_judge(g, &arena, v, NULL, &j, NULL) == 0) {
        gd_judgement_write(g, &j, &w);
        plain = client_plain((struct gd_str){out.data, out.len}, false);
    }
    gd_buf_free(&out);
    gd_arena_free(&arena);
    return plain;
}

/* One load under a plan; true when something failed in it. *tolerated: it was loaded all the same. */
static bool load_once(const struct sweep *s, long n, const char *wanted, long *all, bool *tolerated)
{
    const struct faults_plan plan = plan_of(s, n);
    const long live = faults_live();
    const int fds = descriptors();
    struct gd_guard *g = NULL;
    struct gd_err err = {0};
    struct faults_seen seen;
    faults_spared = false;
    faults_arm(&plan);
    const int rc = gd_guard_open(&g, &LOAD, &err);
    faults_disarm(&seen);
    faults_spared = true;
    *all = seen.calls > *all ? seen.calls : *all;
    *tolerated = rc == GD_OK && seen.fired > 0;
    if (rc != GD_OK && (seen.fired == 0 || g != NULL || err.code != rc || err.msg[0] == '\0'))
        STEP_FAILED(s, n, &seen, "load gave %d, code %d, message '%s'", rc, err.code, err.msg);
    if (rc == GD_OK) {
        char *got = judge(g, ANSWERED);
        if (got == NULL || strcmp(got, wanted) != 0)
            STEP_FAILED(s, n, &seen, "the loaded guard says %s", got != NULL ? got : "nothing");
        free(got);
        faults_spared = false;
        gd_guard_close(g);
        faults_spared = true;
    }
    if (faults_live() != live || descriptors() != fds || LEAKED() != 0)
        STEP_FAILED(s, n, &seen, "load left %ld blocks, %d descriptors: %s", faults_live() - live,
                    descriptors() - fds, err.msg);
    return seen.fired > 0;
}

static void test_load(void **state)
{
    (void)state;
    struct gd_guard *g = NULL;
    struct gd_err err = {0};
    long points = 0, steps = 0;
    if (gd_guard_open(&g, &LOAD, &err) != GD_OK)
        fail_msg("%s", err.msg);
    char *wanted = judge(g, ANSWERED);
    assert_non_null(wanted);
    gd_guard_close(g);
    for (size_t i = 0; i < N_SWEEPS; i++) {
        const struct sweep *s = &SWEEPS[i];
        if (left_out("GUARDIAN_FAULTS_SWEEP", s->name))
            continue;
        long all = 0, n_tolerated = 0, n_steps = 0;
        bool tolerated;
        load_once(s, STEPS_MAX, wanted, &all, &tolerated);
        const long n_calls = all;
        for (long n = 1; load_once(s, n, wanted, &all, &tolerated); n = next_step(n, n_calls)) {
            n_tolerated += tolerated;
            n_steps++;
            assert_true(n < STEPS_MAX);
        }
        print_message("load: %-45s %5ld calls, %4ld steps, %3ld done without\n", s->name, n_calls,
                      n_steps, n_tolerated);
        points += s->stay ? 0 : n_calls;
        steps += n_steps;
    }
    print_message("load: %ld fault points, %ld runs with a fault\n", points, steps);
    free(wanted);
}

/* ---- opening the server ---- */

static const struct gd_http_options OPEN = {
    .host = "127.0.0.1",
    .version = "0",
    .model_dir = model_dir,
    .queue_ms_max = GD_QUEUE_MS_MAX,
    .prefix_cache = true,
};

/* One step, in a process of its own: the metrics of a process are registered once. Sockets are left to
 * tests/http/test_faults.py: here they are the HTTP library's. Ends with 0 when nothing failed, 1 when
 * something did, in order, 2 when not; calls goes into the pipe. A server that opened is not closed: it
 * takes seconds, and is no part of this. */
static void open_step(const struct sweep *s, long n, int out)
{
    struct faults_plan plan = plan_of(s, n);
    const long live = faults_live();
    const int fds = descriptors();
    struct gd_http *h = NULL;
    struct gd_err err = {0};
    struct faults_seen seen;
    plan.groups &= ~(unsigned)FAULTS_SOCKET;
    faults_spared = false;
    faults_arm(&plan);
    const int rc = gd_http_open(&h, &OPEN, &err);
    faults_disarm(&seen);
    faults_spared = true;
    bool bad = rc == GD_OK
                   ? h == NULL
                   : h != NULL || err.code != rc || err.msg[0] == '\0' || seen.fired == 0 ||
                         faults_live() != live || descriptors() != fds || LEAKED() != 0;
    if (bad)
        print_error("%s, step %ld (first: %s): %d '%s', %ld blocks, %d descriptors left\n", s->name,
                    n, seen.first, rc, err.msg, faults_live() - live, descriptors() - fds);
    bad = write(out, &seen.calls, sizeof seen.calls) != (ssize_t)sizeof seen.calls || bad;
    _exit(bad ? 2 : seen.fired > 0);
}

struct step {
    pid_t pid;
    int out;
    long n;
};

static struct step open_begin(const struct sweep *s, long n)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const struct step step = {fork(), ends[0], n};
    assert_true(step.pid >= 0);
    if (step.pid == 0)
        open_step(s, n, ends[1]);
    close(ends[1]);
    return step;
}

/* True when something failed in it. */
static bool open_end(const struct sweep *s, const struct step *step, long *calls)
{
    int status = -1;
    const bool told = read(step->out, calls, sizeof *calls) == (ssize_t)sizeof *calls;
    close(step->out);
    assert_int_equal(waitpid(step->pid, &status, 0), step->pid);
    if (!told || !WIFEXITED(status) || WEXITSTATUS(status) > 1)
        fail_msg("%s, step %ld: the process ended with status 0x%x", s->name, step->n, status);
    return WEXITSTATUS(status) == 1;
}

#define OPEN_AT_ONCE 4
#define OPEN_STEPS 16

static void test_open(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SWEEPS; i++) {
        const struct sweep *s = &SWEEPS[i];
        struct step step = open_begin(s, STEPS_MAX);
        long calls = 0, ignored, steps = 0, fired = 0;
        assert_false(open_end(s, &step, &calls));
        const long stride = every_step() || calls <= OPEN_STEPS ? 1 : calls / (OPEN_STEPS / 2);
        for (long n = 1; n <= calls;) {
            struct step at_once[OPEN_AT_ONCE];
            int k = 0;
            for (; k < OPEN_AT_ONCE && n <= calls; k++) {
                at_once[k] = open_begin(s, n);
                n += n < OPEN_STEPS / 2 ? 1 : stride;
            }
            for (int j = 0; j < k; j++)
                fired += open_end(s, &at_once[j], &ignored);
            steps += k;
        }
        /* the last calls are of its threads, which may come later */
        assert_true(calls == 0 || fired > 0);
        print_message("open: %-45s %5ld calls, %4ld steps\n", s->name, calls, steps);
    }
}

/* ---- requests ---- */

enum kind {
    VERDICT, /* 200 with a verdict, or the refusal of the request */
    LIST,    /* a batch as one list */
    LINES,   /* a batch as lines */
    ABOUT,   /* JSON about the server: numbers may differ */
    TEXT,    /* /metrics */
    NOTHING, /* HEAD */
};

static struct form {
    const char *name;
    enum kind kind;
    const char *method, *path, *accept, *body;
} FORMS[32];
static size_t n_forms;

struct server {
    struct gd_guard *guard, *keeping; /* the second one keeps scores */
    struct gd_http *http;
    int fds;
};
static struct server server;

static char *longs[3];

static char *repeat(const char *before, const char *part, size_t n, const char *after)
{
    const size_t len = strlen(part);
    char *out = calloc(1, strlen(before) + n * len + strlen(after) + 1), *p = out;
    assert_non_null(out);
    p += sprintf(p, "%s", before);
    for (size_t i = 0; i < n; i++, p += len)
        memcpy(p, part, len);
    sprintf(p, "%s", after);
    return out;
}

static void add(const char *name, enum kind kind, const char *method, const char *path,
                const char *accept, const char *body)
{
    assert_true(n_forms < sizeof FORMS / sizeof FORMS[0]);
    FORMS[n_forms++] = (struct form){name, kind, method, path, accept, body};
}

static void make_forms(void)
{
    static const char *const about[] = {"/healthz", "/readyz",      "/health", "/v1/models",
                                        "/info",    "/v1/taxonomy", "/version"};
    const char *guard = "/v1/guard", *batch = "/v1/guard/batch";
    add("messages, a call", VERDICT, "POST", guard, NULL, PENDING);
    add("messages, an answer", VERDICT, "POST", guard, NULL, ANSWERED);
    add("frames", VERDICT, "POST", guard, NULL, FRAMES);
    add("mci", VERDICT, "POST", guard, NULL, MCI);
    longs[0] = repeat("{" TOOLS ",\"messages\":[" USER ",", CALL "," RESULT ",", 8, ANSWER "]}");
    add("cut to the context", VERDICT, "POST", guard, NULL, longs[0]);
    add("batch", LIST, "POST", batch, NULL, BATCH);
    add("batch in lines", LINES, "POST", batch, "application/x-ndjson", BATCH);
    add("not JSON", VERDICT, "POST", guard, NULL, "{\"messages\":[{\"role\":\"user\",}]}");
    add("no such field", VERDICT, "POST", guard, NULL, "{\"messages\":[{\"role\":\"nobody\"}]}");
    add("an empty batch", VERDICT, "POST", batch, NULL, "{\"items\":[]}");
    longs[1] = repeat("{\"messages\":[{\"role\":\"user\",\"content\":\"", "x", GD_MIB, "\"},]}");
    add("a MiB that is not JSON", VERDICT, "POST", guard, NULL, longs[1]);
    longs[2] = repeat("", "x", GD_REQUEST_BYTES_MAX + 1, "");
    add("too long", VERDICT, "POST", guard, NULL, longs[2]);
    add("no such path", VERDICT, "GET", "/v1/nothing", NULL, NULL);
    add("another method", VERDICT, "GET", guard, NULL, NULL);
    for (size_t i = 0; i < sizeof about / sizeof about[0]; i++)
        add(about[i], ABOUT, "GET", about[i], NULL, NULL);
    add("/healthz, HEAD", NOTHING, "HEAD", "/healthz", NULL, NULL);
    add("/metrics", TEXT, "GET", "/metrics", NULL, NULL);
}

/* The lines of /metrics that describe the families. */
static char *families(struct gd_str text)
{
    char *out = calloc(1, text.len + 1), *to = out;
    assert_non_null(out);
    for (size_t i = 0; i < text.len;) {
        const char *line = text.ptr + i, *end = memchr(line, '\n', text.len - i);
        const size_t n = end != NULL ? (size_t)(end - line) + 1 : text.len - i;
        if (line[0] == '#') {
            memcpy(to, line, n);
            to += n;
        }
        i += n;
    }
    return out;
}

/* What of an answer must be as it was; to be freed. */
static char *plain_of(const struct form *f, const struct answer *a)
{
    char *text = f->kind == TEXT      ? families(a->body)
                 : f->kind == LINES   ? strndup(a->body.ptr, a->body.len)
                 : f->kind == NOTHING ? strndup(a->body.ptr, a->body.len)
                                      : client_plain(a->body, f->kind == ABOUT);
    return text != NULL ? text : strdup("not JSON");
}

/* One item of a batch against what it was: the same, or an error. */
static bool item_fits(struct gd_str got, struct gd_str wanted)
{
    char *a = client_plain(got, false), *b = client_plain(wanted, false);
    const bool fits = a != NULL && b != NULL && (strcmp(a, b) == 0 || client_is_error(got));
    free(a);
    free(b);
    return fits;
}

static bool list_fits(struct gd_str got, struct gd_str wanted)
{
    uint32_t n = 0;
    for (;; n++) {
        const struct gd_str a = client_item(got, n), b = client_item(wanted, n);
        if (a.ptr == NULL || b.ptr == NULL)
            return n > 0 && a.ptr == b.ptr;
        if (!item_fits(a, b))
            return false;
    }
}

/* All whole lines of what came, and as many as wanted when all of it came. */
static bool lines_fit(struct gd_str got, struct gd_str wanted, bool whole)
{
    while (got.len > 0) {
        const char *a = memchr(got.ptr, '\n', got.len), *b = memchr(wanted.ptr, '\n', wanted.len);
        if (a == NULL || b == NULL)
            return !whole;
        const struct gd_str one = {got.ptr, (size_t)(a - got.ptr)};
        if (!item_fits(one, (struct gd_str){wanted.ptr, (size_t)(b - wanted.ptr)}))
            return false;
        got = (struct gd_str){a + 1, got.len - one.len - 1};
        wanted = (struct gd_str){b + 1, wanted.len - (size_t)(b - wanted.ptr) - 1};
    }
    return !whole || wanted.len == 0;
}

static bool is_part(struct gd_str part, struct gd_str all)
{
    return part.len < all.len && (part.len == 0 || memcmp(part.ptr, all.ptr, part.len) == 0);
}

static bool cut_short(struct gd_str body)
{
    static const char code[] = "\"incomplete_body\"";
    return memmem(body.ptr, body.len, code, sizeof code - 1) != NULL;
}

enum outcome { SAME, ERRORS, CLOSED, WRONG };

/* What an answer under a fault is, beside the one without. */
static enum outcome compare(const struct form *f, const struct answer *got,
                            const struct answer *wanted)
{
    if (got->timed_out)
        return WRONG;
    if (f->kind == LINES && got->status == 200) {
        const bool fits = lines_fit(got->body, wanted->body, got->whole);
        return !fits ? WRONG : got->whole ? SAME : CLOSED;
    }
    const bool head = f->kind == NOTHING && got->body.len == 0;
    if (got->status == 0 || (!got->whole && !head))
        return CLOSED;
    /* the server's errors; a body that could not be read is taken for the client's */
    if (got->status == 500 || got->status == 503 || (got->status == 400 && cut_short(got->body)))
        return head || client_is_error(got->body) ? ERRORS : WRONG;
    if (got->status != wanted->status)
        return WRONG;
    if (got->status >= 400 && is_part(got->body, wanted->body))
        return ERRORS; /* the text of an error may end early, for want of memory */
    if (f->kind == LIST)
        return list_fits(got->body, wanted->body) ? SAME : WRONG;
    char *a = plain_of(f, got), *b = plain_of(f, wanted);
    const bool same = strcmp(a, b) == 0;
    const bool part = f->kind == TEXT && strncmp(a, b, strlen(a)) == 0; /* as above */
    free(a);
    free(b);
    return same ? SAME : part ? ERRORS : WRONG;
}

static void ask(const struct form *f, struct answer *out)
{
    char *request = client_request(f->method, f->path, f->accept, f->body);
    assert_non_null(request);
    client_ask(gd_http_port(server.http), gd_str_from(request), out);
    free(request);
}

/* Until the server holds nothing of any request any more. */
static void settle(const struct sweep *s, long n, const struct faults_seen *seen)
{
    const struct timespec tick = {.tv_nsec = 500000};
    const int64_t until = gd_now_ns() + 60000000000;
    while (descriptors() != server.fds || gd_http_in_flight(server.http) != 0) {
        if (gd_now_ns() > until)
            STEP_FAILED(s, n, seen, "%d descriptors and %u requests are left",
                        descriptors() - server.fds, gd_http_in_flight(server.http));
        nanosleep(&tick, NULL);
    }
}

/* Faults must be seen by what happens after the answer too: so it is the end of the connection that
 * ends a step. */
static bool ask_once(const struct form *f, const struct sweep *s, long n,
                     const struct answer *wanted, long counts[], long *calls)
{
    const struct faults_plan plan = plan_of(s, n);
    struct answer got;
    struct faults_seen seen = {.first = ""};
    const long live = faults_live();
    faults_arm(&plan);
    ask(f, &got);
    settle(s, n, &seen);
    faults_disarm(&seen);
    const enum outcome o = compare(f, &got, wanted);
    if (o == WRONG || (seen.fired == 0 && o != SAME))
        STEP_FAILED(s, n, &seen, "%s: %s%d bytes:\n%s\n%.*s", f->name,
                    got.timed_out ? "timed out, " : "", (int)got.len,
                    got.data, (int)got.body.len, got.body.ptr != NULL ? got.body.ptr : "");
    if (faults_live() != live)
        STEP_FAILED(s, n, &seen, "%s: %ld blocks are left", f->name, faults_live() - live);
    client_drop(&got);
    counts[o] += seen.fired > 0;
    *calls = seen.calls;
    return seen.fired > 0;
}

static void expect_right(const struct form *f, const struct sweep *s, long n,
                         const struct answer *wanted)
{
    const struct faults_seen seen = {.first = "disarmed"};
    struct answer got;
    ask(f, &got);
    if (compare(f, &got, wanted) != SAME || got.status != wanted->status)
        STEP_FAILED(s, n, &seen, "%s is not right any more: %s", f->name, got.data);
    client_drop(&got);
    settle(s, n, &seen);
}

static void sweep_form(const struct form *f)
{
    struct answer wanted;
    long points = 0, steps = 0, counts[4] = {0};
    ask(f, &wanted);
    client_drop(&wanted);
    ask(f, &wanted); /* with what can be kept, kept */
    assert_true(wanted.whole || f->kind == NOTHING);
    for (size_t i = 0; i < N_SWEEPS; i++) {
        const struct sweep *s = &SWEEPS[i];
        long calls, ignored, n = first_step();
        if (left_out("GUARDIAN_FAULTS_SWEEP", s->name))
            continue;
        ask_once(f, s, STEPS_MAX, &wanted, counts, &calls);
        while (ask_once(f, s, n, &wanted, counts, &ignored)) {
            expect_right(f, s, n, &wanted);
            n = next_step(n, calls);
            steps++;
            assert_true(n < STEPS_MAX);
        }
        points += s->stay ? 0 : calls;
    }
    if (LEAKED() != 0)
        fail_msg("%s: memory is lost", f->name);
    print_message("%-24s %5ld points, %5ld runs with a fault: %5ld as without, %5ld errors, "
                  "%5ld closed\n",
                  f->name, points, steps, counts[SAME], counts[ERRORS], counts[CLOSED]);
    client_drop(&wanted);
}

static double metric(const char *name)
{
    static const struct form f = {"", TEXT, "GET", "/metrics", NULL, NULL};
    struct answer a;
    ask(&f, &a);
    const char *at = a.body.ptr;
    const size_t n = strlen(name);
    while (at != NULL && (strncmp(at, name, n) != 0 || at[n] != ' ')) {
        at = strchr(at, '\n');
        at = at != NULL ? at + 1 : NULL;
    }
    if (at == NULL)
        fail_msg("no %s in %s", name, a.data);
    const double value = strtod(at + n, NULL);
    client_drop(&a);
    return value;
}

static void check_counts(void)
{
    assert_true(metric("guardian_connections") == 1);
    assert_true(metric("guardian_requests_in_flight") == 0);
    assert_true(metric("guardian_requests_waiting") == 0);
    assert_true(metric("guardian_requests_running") == 0);
    assert_true(metric("guardian_ready") == 1);
}

static void test_requests(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_forms; i++) {
        if (!left_out("GUARDIAN_FAULTS_FORM", FORMS[i].name))
            sweep_form(&FORMS[i]);
    }
    check_counts();
}

/* The same with a guard that keeps scores, and so finds what it kept. */
static void test_kept(void **state)
{
    (void)state;
    gd_http_set_guard(server.http, server.keeping, NULL);
    for (size_t i = 0; i < n_forms; i++) {
        if (FORMS[i].kind == LIST && !left_out("GUARDIAN_FAULTS_FORM", FORMS[i].name))
            sweep_form(&FORMS[i]);
    }
    check_counts();
    gd_http_set_guard(server.http, server.guard, NULL);
}

static int setup(void **state)
{
    (void)state;
    struct gd_err err = {0};
    struct gd_guard_options keep = LOAD;
    keep.engine.verdict_entries = 64;
    if (gd_guard_open(&server.guard, &LOAD, &err) != GD_OK ||
        gd_guard_open(&server.keeping, &keep, &err) != GD_OK ||
        gd_http_open(&server.http, &OPEN, &err) != GD_OK)
        fail_msg("%s", err.msg);
    gd_http_set_guard(server.http, server.guard, NULL);
    make_forms();
    struct answer a;
    ask(&FORMS[0], &a);
    client_drop(&a);
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    server.fds = descriptors();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    gd_http_close(server.http);
    gd_guard_close(server.guard);
    gd_guard_close(server.keeping);
    for (size_t i = 0; i < sizeof longs / sizeof longs[0]; i++)
        free(longs[i]);
    return 0;
}

/* ---- the model ---- */

static const char *in_dir(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", model_dir, name);
    return path;
}

/* A file of the model: a text in it, which must be there, replaced. */
static void write_changed(const char *name, const char *source, const char *from, const char *to)
{
    static char text[GD_MIB];
    FILE *f = fopen(source, "rb");
    assert_non_null(f);
    const size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    char *at = strstr(text, from);
    assert_true(n > 0 && at != NULL);
    f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    fwrite(text, 1, (size_t)(at - text), f);
    fputs(to, f);
    fputs(at + strlen(from), f);
    assert_int_equal(fclose(f), 0);
}

static const char *const LINKED[] = {"tokenizer.json", "model.safetensors"};

/* The tiny model with a short context, and the policy of the HTTP tests with notes. */
static void make_model(void)
{
    char here[4096], target[4400];
    assert_non_null(mkdtemp(model_dir));
    assert_non_null(getcwd(here, sizeof here));
    for (size_t i = 0; i < 2; i++) {
        snprintf(target, sizeof target, "%s/" TINY "/%s", here, LINKED[i]);
        assert_int_equal(symlink(target, in_dir(LINKED[i])), 0);
    }
    write_changed("config.json", TINY "/config.json", CONTEXT_TINY, CONTEXT);
    write_changed("policy.json", "http/policy_tiny.json", "\"item_bytes\"",
                  "\"notes\": true, \"item_bytes\"");
}

static void drop_model(void)
{
    for (size_t i = 0; i < 2; i++)
        unlink(in_dir(LINKED[i]));
    unlink(in_dir("config.json"));
    unlink(in_dir("policy.json"));
    rmdir(model_dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest first[] = {
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_open),
    };
    const struct CMUnitTest second[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_kept),
    };
    const char *part = argc == 2 ? argv[1] : "";
    int failed = 1;
    faults_spared = true;
    make_model();
    gd_log_set_fd(open("/dev/null", O_WRONLY | O_CLOEXEC));
    if (strcmp(part, "load") == 0)
        failed = cmocka_run_group_tests_name("loading", first, NULL, NULL);
    else if (strcmp(part, "requests") == 0)
        failed = cmocka_run_group_tests_name("requests", second, setup, teardown);
    else
        fprintf(stderr, "usage: test_faults load|requests\n");
    drop_model();
    return failed;
}
