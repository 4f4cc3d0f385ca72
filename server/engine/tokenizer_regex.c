/* tokenizer_regex.c - pre-tokeniser patterns other than the known ones, by PCRE2.
 *
 * Files are written for Oniguruma. Most of what pre-tokenisers use means the same in PCRE2 with
 * UTF, UCP and MULTILINE; what is known to differ in silence (set operations and nested sets in
 * brackets, \h, \v, \w, \b, (?m) and the like) is refused at load. Unicode here is that of PCRE2.
 * A match limit and a heap limit bound the cost of each search; a text that goes over them is
 * GD_ELIMIT. The JIT has a small stack of its own: a search that does not fit is run again by the
 * interpreter, whose heap is bounded too. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer_parts.h"

#include "guardian/json.h"
#include "guardian/limits.h"

#include <pcre2.h>
#include <string.h>

#define MATCH_LIMIT 1000000u
#define HEAP_LIMIT_KIB 65536u
#define NEST_LIMIT 50u
/* Of the JIT, on the heap: its own 32 KiB on the thread's stack are more than an HTTP thread has left. */
#define JIT_STACK_BYTES 32768
#define JIT_STACK_BYTES_MAX 262144

struct gd_regex {
    pcre2_code *code;
    pcre2_match_context *context;
};

struct gd_regex_run {
    const struct gd_regex *regex;
    struct gd_str text;
    pcre2_match_data *data;
    pcre2_match_context *context; /* a copy of the regex's, with the stack below */
    pcre2_jit_stack *stack;       /* NULL: no JIT */
    size_t start;                 /* of the match that lies ahead; text.len when there is none */
    size_t end;
};

/* A group that is written and means the same in both: p.ptr[i] is '('. */
static bool known_group(struct gd_str p, size_t i)
{
    static const char *const heads[] = {"(?:", "(?i:", "(?i)", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    size_t left = p.len - i;
    if (left >= 2 && p.ptr[i + 1] != '?')
        return p.ptr[i + 1] != '*';
    for (size_t k = 0; k < sizeof heads / sizeof heads[0]; k++) {
        size_t n = strlen(heads[k]);
        if (left >= n && memcmp(p.ptr + i, heads[k], n) == 0)
            return true;
    }
    return false;
}

/* Index of the last byte of the escape at i, or 0 when its letter is not among the known. */
static size_t escape_end(struct gd_str p, size_t i)
{
    char c = i + 1 < p.len ? p.ptr[i + 1] : '\0';
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (letter && strchr("sSdDpPrntfxAz", c) == NULL)
        return 0;
    size_t end = i + 1;
    if (c != '\0' && strchr("pPx", c) != NULL && i + 2 < p.len && p.ptr[i + 2] == '{') {
        while (end < p.len && p.ptr[end] != '}')
            end++;
    }
    return end;
}

/* What in the pattern PCRE2 would read differently, or NULL. */
static const char *foreign(struct gd_str p)
{
    bool in_set = false;
    for (size_t i = 0; i < p.len; i++) {
        char c = p.ptr[i], next = i + 1 < p.len ? p.ptr[i + 1] : '\0';
        if (c == '\\') {
            size_t end = escape_end(p, i);
            if (end == 0)
                return "an escape of a letter that";
            i = end;
        } else if (in_set) {
            if (c == '[' || (c == '&' && next == '&'))
                return "an operation on sets that";
            in_set = c != ']';
        } else if (c == '[') {
            in_set = true;
            i += next == '^' ? 1 : 0;
        } else if (c == '(' && !known_group(p, i)) {
            return "a kind of group that";
        } else if ((c == '{' && next == ',') || (c == '}' && next == '+')) {
            return "a repetition that";
        }
    }
    return NULL;
}

int gd_regex_open(struct gd_regex **out, struct gd_str pattern, struct gd_err *err)
{
    int code = 0, rc = GD_ENOMEM;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *compile = NULL;
    if (pattern.len > GD_TOKENIZER_PATTERN_BYTES_MAX)
        return gd_err_set(err, GD_ELIMIT, "the pre-tokenizer pattern is over %zu bytes",
                          GD_TOKENIZER_PATTERN_BYTES_MAX);
    const char *what = foreign(pattern);
    if (what != NULL)
        return gd_err_set(err, GD_EMODEL,
                          "the pre-tokenizer pattern '%.*s' has %s is not supported",
                          gd_shown(pattern, 160), pattern.ptr, what);
    struct gd_regex *r = calloc(1, sizeof *r);
    if (r == NULL)
        goto done;
    r->context = pcre2_match_context_create(NULL);
    compile = pcre2_compile_context_create(NULL);
    if (r->context == NULL || compile == NULL)
        goto done;
    pcre2_set_newline(compile, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(compile, NEST_LIMIT);
    pcre2_set_match_limit(r->context, MATCH_LIMIT);
    pcre2_set_heap_limit(r->context, HEAP_LIMIT_KIB);
    r->code = pcre2_compile((PCRE2_SPTR)pattern.ptr, pattern.len,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                            &code, &at, compile);
    if (r->code == NULL) {
        PCRE2_UCHAR msg[160] = "";
        pcre2_get_error_message(code, msg, sizeof msg);
        rc = gd_err_set(err, GD_EMODEL, "the pre-tokenizer pattern '%.*s' is wrong at byte %zu: %s",
                        gd_shown(pattern, 160), pattern.ptr, (size_t)at, (const char *)msg);
        goto done;
    }
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it the interpreter does the work */
    *out = r;
    r = NULL;
    rc = GD_OK;
done:
    pcre2_compile_context_free(compile);
    gd_regex_close(r);
    if (rc == GD_ENOMEM)
        gd_err_set(err, GD_ENOMEM, "no memory for the pre-tokenizer pattern");
    return rc;
}

void gd_regex_close(struct gd_regex *r)
{
    if (r == NULL)
        return;
    pcre2_code_free(r->code);
    pcre2_match_context_free(r->context);
    free(r);
}

int gd_regex_run_open(struct gd_regex_run **out, const struct gd_regex *r, struct gd_str text)
{
    struct gd_regex_run *run = calloc(1, sizeof *run);
    if (run == NULL)
        return GD_ENOMEM;
    run->regex = r;
    run->text = text;
    run->data = pcre2_match_data_create_from_pattern(r->code, NULL);
    run->context = pcre2_match_context_copy(r->context);
    run->stack = pcre2_jit_stack_create(JIT_STACK_BYTES, JIT_STACK_BYTES_MAX, NULL);
    if (run->data == NULL || run->context == NULL) {
        gd_regex_run_close(run);
        return GD_ENOMEM;
    }
    if (run->stack != NULL)
        pcre2_jit_stack_assign(run->context, NULL, run->stack);
    *out = run;
    return GD_OK;
}

void gd_regex_run_close(struct gd_regex_run *run)
{
    if (run == NULL)
        return;
    pcre2_match_data_free(run->data);
    pcre2_match_context_free(run->context);
    pcre2_jit_stack_free(run->stack);
    free(run);
}

/* Finds the next match that starts at or after from. */
static int search(struct gd_regex_run *run, size_t from)
{
    const struct gd_regex *r = run->regex;
    PCRE2_SPTR text = (PCRE2_SPTR)run->text.ptr;
    uint32_t options = PCRE2_NO_UTF_CHECK; /* checking all of it each time would be quadratic */
    options |= run->stack == NULL ? PCRE2_NO_JIT : 0;
    int n = pcre2_match(r->code, text, run->text.len, from, options, run->data, run->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(r->code, text, run->text.len, from, options | PCRE2_NO_JIT, run->data,
                        run->context);
    if (n == PCRE2_ERROR_NOMEMORY)
        return GD_ENOMEM;
    if (n < 0 && n != PCRE2_ERROR_NOMATCH)
        return GD_ELIMIT;
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(run->data);
    run->start = n >= 0 ? found[0] : run->text.len;
    run->end = n >= 0 ? found[1] : run->text.len;
    return GD_OK;
}

/* Text between matches is a piece too. An empty match only parts what is on its two sides, and the
 * search goes on one character further. */
int gd_regex_run_next(struct gd_regex_run *run, size_t pos, size_t *end)
{
    int rc = GD_OK;
    if (pos == run->end) {
        rc = search(run, pos);
        if (rc == GD_OK && run->end == pos) {
            uint32_t cp;
            int len = gd_utf8_next(run->text, pos, &cp);
            rc = search(run, pos + (size_t)(len > 0 ? len : 1));
        }
    }
    *end = pos < run->start ? run->start : run->end;
    return rc;
}
