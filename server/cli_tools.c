/* cli_tools.c - the commands that read a file and print: assess, render, tokenize; and selftest,
 * version.
 *
 * A FILE is one JSON value or JSON Lines: it is Lines when its first line alone is a JSON value and
 * more follows. Each request gives one line of output; one that fails gives {"error":{...}} there,
 * and exit code 1 at the end. */
#include "guardian/cli.h"
#include "guardian/reply.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static_assert(GD_CLI_INPUT_BYTES_MAX == 268435456, "what is said of it");
#define TOO_LARGE "larger than 268435456 bytes"

/* The whole of a file or of standard input, in b. */
static int read_input(const char *path, struct gd_buf *b, struct gd_err *err)
{
    char chunk[8192];
    size_t n;
    bool is_stdin = path == NULL || strcmp(path, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(path, "rb");
    if (f == NULL) {
        return gd_err_set(err, GD_EIO, "%s: %s", path, strerror(errno));
    }
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0) {
        gd_buf_add(b, chunk, n);
    }
    bool bad = ferror(f) != 0;
    if (!is_stdin) {
        (void)fclose(f);
    }
    if (bad || b->failed != 0) {
        return gd_err_set(err, bad ? GD_EIO : b->failed, "%s: %s", is_stdin ? "input" : path,
                          bad ? "read error" : TOO_LARGE);
    }
    return 0;
}

static int fail(const char *command, const struct gd_err *err, int exit_code)
{
    fprintf(stderr, "guardian %s: %s\n", command, err->msg);
    return exit_code;
}

typedef int (*request_fn)(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                          struct gd_json_writer *w, struct gd_err *err);

static void write_error(struct gd_buf *out, const struct gd_err *err)
{
    struct gd_json_writer w;
    gd_buf_free(out);
    gd_buf_init(out, GD_CLI_INPUT_BYTES_MAX);
    gd_json_writer_init(&w, out);
    gd_jw_object(&w);
    gd_jw_key(&w, "error");
    gd_reply_err_write(&w, err);
    gd_jw_object_end(&w);
}

/* One request, one line of output; false when it has an error. */
static bool run_request(struct gd_guard *g, request_fn fn, struct gd_str text)
{
    struct gd_arena a;
    struct gd_buf out;
    struct gd_json_writer w;
    struct gd_err err = {0};
    const struct gd_json *request = NULL;
    gd_arena_init(&a, GD_REQUEST_ARENA_BYTES);
    gd_buf_init(&out, GD_CLI_INPUT_BYTES_MAX);
    gd_json_writer_init(&w, &out);
    int rc = gd_json_parse(&a, text, &GD_JSON_REQUEST_LIMITS, &request, &err);
    if (rc == 0) {
        rc = fn(g, &a, request, &w, &err);
    }
    if (rc == 0 && out.failed != 0) {
        rc = gd_err_set(&err, out.failed, "the output is too large");
    }
    if (rc != 0) {
        write_error(&out, &err);
    }
    printf("%s\n", out.data);
    (void)fflush(stdout);
    gd_buf_free(&out);
    gd_arena_free(&a);
    return rc == 0;
}

static struct gd_str first_line(struct gd_str text)
{
    const char *nl = memchr(text.ptr, '\n', text.len);
    return nl == NULL ? text : (struct gd_str){text.ptr, (size_t)(nl - text.ptr)};
}

static bool is_blank(struct gd_str s)
{
    for (size_t i = 0; i < s.len; i++) {
        if (strchr(" \t\r\n", s.ptr[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static bool is_json_lines(struct gd_str text)
{
    struct gd_arena a;
    const struct gd_json *v = NULL;
    struct gd_str line = first_line(text);
    struct gd_str rest = {text.ptr + line.len, text.len - line.len};
    if (is_blank(rest)) {
        return false;
    }
    gd_arena_init(&a, GD_REQUEST_ARENA_BYTES);
    bool whole = gd_json_parse(&a, line, &GD_JSON_REQUEST_LIMITS, &v, NULL) == 0;
    gd_arena_free(&a);
    return whole;
}

/* Runs fn on every request of the input; true when all went well. */
static bool run_all(struct gd_guard *g, request_fn fn, struct gd_str text)
{
    bool ok = true;
    if (!is_json_lines(text)) {
        return run_request(g, fn, text);
    }
    while (text.len > 0) {
        struct gd_str line = first_line(text);
        if (!is_blank(line)) {
            ok = run_request(g, fn, line) && ok;
        }
        size_t step = line.len < text.len ? line.len + 1 : line.len;
        text = (struct gd_str){text.ptr + step, text.len - step};
    }
    return ok;
}

static int judge_one(struct gd_guard *g, struct gd_arena *a, const struct gd_json *request,
                     struct gd_json_writer *w, struct gd_err *err)
{
    struct gd_judgement j;
    int rc = gd_guard_judge(g, a, request, NULL, &j, err);
    if (rc == 0) {
        gd_judgement_write(g, &j, w);
    }
    return rc;
}

static double gib(uint64_t nbytes)
{
    return (double)nbytes / (double)GD_GIB;
}

static void print_plan(const struct gd_engine *e)
{
    const struct gd_backend *be = gd_engine_backend(e);
    const struct gd_engine_memory *m = gd_engine_memory(e);
    fprintf(
        stderr,
        "guardian: memory of %s%s%s: weights %.3f GiB (%s), activations %.3f GiB, KV cache %.3f "
        "GiB (%u blocks, %llu tokens), %.3f GiB left\n",
        be->device, be->name[0] != '\0' ? " " : "", be->name, gib(m->weight_bytes), be->gemm_dtype,
        gib(m->activation_bytes), gib(m->kv_bytes), (unsigned)m->kv_blocks,
        (unsigned long long)m->kv_tokens, gib(m->left_bytes));
}

static void report_load(const struct gd_guard *g)
{
    const struct gd_engine *e = gd_guard_engine((struct gd_guard *)(uintptr_t)g);
    const struct gd_model *m = gd_engine_model(e);
    const struct gd_backend *be = gd_engine_backend(e);
    const struct gd_err *note = gd_engine_device_note(e);
    if (note != NULL) {
        fprintf(stderr, "guardian: computing on the CPU: %s\n", note->msg);
    }
    fprintf(stderr, "guardian: %s loaded in %.0f ms on %s %s (%s), %u threads; ", m->version,
            m->load_ms, be->device, be->isa, be->gemm_dtype, (unsigned)be->n_threads);
    fprintf(stderr, "memory plan %.1f MiB, resident %.1f MiB\n",
            (double)m->bytes_needed / 1048576.0, (double)gd_engine_resident_bytes() / 1048576.0);
    print_plan(e);
}

static int run_on_file(const struct gd_cli *c, const char *command, request_fn fn)
{
    struct gd_err err = {0};
    struct gd_guard *g = NULL;
    struct gd_buf in;
    gd_buf_init(&in, GD_CLI_INPUT_BYTES_MAX);
    int code = GD_EXIT_OK;
    if (read_input(c->file, &in, &err) != 0) {
        code = fail(command, &err, GD_EXIT_RUNTIME);
        goto done;
    }
    code = gd_cli_open_guard(c, &(struct gd_cli_hooks){0}, &g, &err);
    if (code != 0) {
        fail(command, &err, code);
        goto done;
    }
    report_load(g);
    struct gd_str text = in.len > 0 ? (struct gd_str){in.data, in.len} : GD_STR("");
    code = run_all(g, fn, text) ? GD_EXIT_OK : GD_EXIT_RUNTIME;
done:
    gd_guard_close(g);
    gd_buf_free(&in);
    return code;
}

int gd_cli_assess(const struct gd_cli *c)
{
    return run_on_file(c, "assess", judge_one);
}

int gd_cli_render(const struct gd_cli *c)
{
    return run_on_file(c, "render", gd_guard_render);
}

static void write_ids(struct gd_json_writer *w, const struct gd_ids *ids)
{
    gd_jw_array(w);
    for (size_t i = 0; i < ids->len; i++) {
        gd_jw_i64(w, ids->data[i]);
    }
    gd_jw_array_end(w);
}

static int print_ids(const struct gd_cli *c, const struct gd_tokenizer *t, struct gd_str text,
                     struct gd_err *err)
{
    struct gd_ids ids = {0};
    struct gd_buf out;
    struct gd_json_writer w;
    gd_buf_init(&out, GD_CLI_INPUT_BYTES_MAX);
    gd_json_writer_init(&w, &out);
    int rc = gd_tokenizer_encode(t, text, c->specials ? GD_SPECIALS_ON : GD_SPECIALS_OFF, &ids);
    if (rc == 0 && c->lines) {
        write_ids(&w, &ids);
    } else if (rc == 0) {
        gd_jw_object(&w);
        gd_jw_key(&w, "tokens");
        write_ids(&w, &ids);
        gd_jw_object_end(&w);
    }
    rc = rc != 0 ? rc : out.failed;
    if (rc == 0) {
        printf("%s\n", out.data);
    } else {
        gd_err_set(err, rc, "the text could not be encoded: %s", gd_status_message(rc));
    }
    gd_buf_free(&out);
    gd_ids_free(&ids);
    return rc;
}

static int print_lines(const struct gd_cli *c, const struct gd_tokenizer *t, struct gd_str text,
                       struct gd_err *err)
{
    int rc = 0;
    for (unsigned long n = 1; text.len > 0 && rc == 0; n++) {
        struct gd_arena a;
        const struct gd_json *v = NULL;
        struct gd_str line = first_line(text);
        size_t step = line.len < text.len ? line.len + 1 : line.len;
        text = (struct gd_str){text.ptr + step, text.len - step};
        if (is_blank(line)) {
            continue;
        }
        gd_arena_init(&a, GD_FILE_ARENA_BYTES);
        rc = gd_json_parse(&a, line, &GD_JSON_FILE_LIMITS, &v, err);
        if (rc == 0 && !gd_json_is(v, GD_JSON_STRING)) {
            rc = gd_err_set(err, GD_EFIELD, "must be a JSON string");
        }
        rc = rc != 0 ? rc : print_ids(c, t, v->str, err);
        gd_arena_free(&a);
        if (rc != 0) {
            gd_err_prefix(err, "line %lu", n);
        }
    }
    return rc;
}

int gd_cli_tokenize(const struct gd_cli *c)
{
    struct gd_err err = {0};
    struct gd_tokenizer *t = NULL;
    struct gd_buf in, path;
    gd_buf_init(&in, GD_CLI_INPUT_BYTES_MAX);
    gd_buf_init(&path, 65536);
    gd_buf_fmt(&path, "%s/tokenizer.json", c->model);
    int code = GD_EXIT_OK;
    if (gd_tokenizer_open(&t, path.data, &err) != 0) {
        code = fail("tokenize", &err, GD_EXIT_MODEL);
        goto done;
    }
    int rc = read_input(c->file, &in, &err);
    struct gd_str text = in.len > 0 ? (struct gd_str){in.data, in.len} : GD_STR("");
    if (rc == 0) {
        rc = c->lines ? print_lines(c, t, text, &err) : print_ids(c, t, text, &err);
    }
    if (rc != 0) {
        code = fail("tokenize", &err, GD_EXIT_RUNTIME);
    }
done:
    gd_tokenizer_close(t);
    gd_buf_free(&path);
    gd_buf_free(&in);
    return code;
}

static bool test_verdict(struct gd_guard *g)
{
    static const char request[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"What time is it?\"},"
        "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"clock\","
        "\"arguments\":\"{}\"}}]}]}";
    printf("verdict: ");
    return run_request(g, judge_one, gd_str_from(request));
}

/* Opening the engine includes the self-test of its back end. */
int gd_cli_selftest(const struct gd_cli *c)
{
    struct gd_err err = {0};
    struct gd_guard *g = NULL;
    int code = gd_cli_open_guard(c, &(struct gd_cli_hooks){0}, &g, &err);
    if (code != 0) {
        return fail("selftest", &err, code);
    }
    report_load(g);
    const struct gd_backend *be = gd_engine_backend(gd_guard_engine(g));
    printf("back end: ok (%s, %s, %s, %u threads)\n", be->device, be->isa, be->gemm_dtype,
           (unsigned)be->n_threads);
    printf("model: ok (%s)\n", gd_engine_model(gd_guard_engine(g))->version);
    code = test_verdict(g) ? GD_EXIT_OK : GD_EXIT_RUNTIME;
    gd_guard_close(g);
    return code;
}

int gd_cli_version(const struct gd_cli *c)
{
    (void)c;
    printf("guardian %s\n", GD_VERSION);
    return GD_EXIT_OK;
}
