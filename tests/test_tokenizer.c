/* test_tokenizer.c - the tokenizer against ids that the `tokenizers` library gave
 * (golden/make_tokenizer.py), what the loader refuses, and the promises to the guard: no special
 * token out of plain text, every byte counted, a megabyte of any text in bounded time, and cuts
 * whose two sides have the ids of the whole. */
#include "guardian/json.h"
#include "guardian/limits.h"
#include "guardian/tokenizer.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define DIR "golden/tokenizer/"
#define FILE_BYTES_MAX (1 * GD_MIB)

static const char *const kinds[] = {"digits3", "digits1_nfc", "gpt2", "cased_regex"};

static struct gd_str read_file(const char *kind, const char *extension)
{
    char path[256];
    snprintf(path, sizeof path, DIR "%s%s", kind, extension);
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("cannot open %s", path);
    char *data = malloc(FILE_BYTES_MAX);
    assert_non_null(data);
    size_t n = fread(data, 1, FILE_BYTES_MAX, f);
    assert_true(n > 0 && n < FILE_BYTES_MAX);
    fclose(f);
    return (struct gd_str){data, n};
}

static void drop(struct gd_str file)
{
    free((char *)(uintptr_t)file.ptr);
}

static struct gd_tokenizer *load(const char *kind)
{
    char path[256];
    struct gd_tokenizer *t = NULL;
    struct gd_err err = {0};
    snprintf(path, sizeof path, DIR "%s.json", kind);
    if (gd_tokenizer_open(&t, path, &err) != GD_OK)
        fail_msg("%s", err.msg);
    return t;
}

/* The next line of a file, without its end; moves the file on. */
static struct gd_str take_line(struct gd_str *file)
{
    const char *end = memchr(file->ptr, '\n', file->len);
    assert_non_null(end);
    struct gd_str line = {file->ptr, (size_t)(end - file->ptr)};
    file->ptr += line.len + 1;
    file->len -= line.len + 1;
    return line;
}

/* ---- golden files ---- */

static unsigned hex(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static void unescape(struct gd_str line, struct gd_buf *out)
{
    out->len = 0;
    for (size_t i = 0; i < line.len; i++) {
        char c = line.ptr[i];
        if (c == '\\') {
            assert_true(i + 3 < line.len && line.ptr[i + 1] == 'x');
            c = (char)(hex(line.ptr[i + 2]) << 4 | hex(line.ptr[i + 3]));
            i += 3;
        }
        gd_buf_add(out, &c, 1);
    }
    assert_int_equal(out->failed, GD_OK);
}

static void check_ids(const char *kind, struct gd_str line, const struct gd_ids *ids,
                      struct gd_str want)
{
    struct gd_buf got;
    gd_buf_init(&got, GD_MIB);
    for (size_t i = 0; i < ids->len; i++)
        gd_buf_fmt(&got, i > 0 ? " %d" : "%d", ids->data[i]);
    if (!gd_str_eq((struct gd_str){got.data, got.len}, want))
        fail_msg("%s: '%.*s' gives %s, must give %.*s", kind, (int)line.len, line.ptr, got.data,
                 (int)want.len, want.ptr);
    gd_buf_free(&got);
}

/* "off|on", or both the same. */
static struct gd_str expected(struct gd_str line, enum gd_specials specials)
{
    const char *bar = line.len > 0 ? memchr(line.ptr, '|', line.len) : NULL;
    if (bar == NULL)
        return line;
    size_t n = (size_t)(bar - line.ptr);
    if (specials == GD_SPECIALS_OFF)
        return (struct gd_str){line.ptr, n};
    return (struct gd_str){bar + 1, line.len - n - 1};
}

static size_t check_kind(const char *kind, enum gd_specials specials)
{
    struct gd_tokenizer *t = load(kind);
    struct gd_str strings = read_file("strings", ".txt"), first = read_file(kinds[0], ".ids");
    struct gd_str wanted = read_file(kind, ".ids");
    struct gd_str s = strings, f = first, w = wanted;
    struct gd_ids ids = {0};
    struct gd_buf text;
    size_t n = 0;
    gd_buf_init(&text, GD_MIB);
    for (; s.len > 0; n++) {
        struct gd_str line = take_line(&s), same = take_line(&f), want = take_line(&w);
        if (gd_str_eqz(want, "="))
            want = same;
        unescape(line, &text);
        ids.len = 0;
        struct gd_str bytes = {text.data, text.len};
        assert_int_equal(gd_tokenizer_encode(t, bytes, specials, &ids), GD_OK);
        check_ids(kind, line, &ids, expected(want, specials));
    }
    gd_buf_free(&text);
    gd_ids_free(&ids);
    drop(strings);
    drop(first);
    drop(wanted);
    gd_tokenizer_close(t);
    return n;
}

static void golden_ids(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        assert_true(check_kind(kinds[i], GD_SPECIALS_OFF) > 2000);
        assert_true(check_kind(kinds[i], GD_SPECIALS_ON) > 2000);
    }
}

/* ---- what the loader refuses ---- */

struct refusal {
    const char *kind;
    const char *from; /* replaced once; NULL: the whole text */
    const char *to;
    int code;
    const char *says;
};

static const struct refusal refusals[] = {
    {"digits3", NULL, "", GD_EJSON, ""},
    {"digits3", NULL, "[1]", GD_EMODEL, "model"},
    {"digits3", NULL, "{\"model\":{}}", GD_EMODEL, "ByteLevel"},
    {"digits3", "\"type\":\"BPE\"", "\"type\":\"WordPiece\"", GD_EMODEL, "WordPiece"},
    {"digits3", "\"dropout\":null", "\"dropout\":0.1", GD_EMODEL, "dropout"},
    {"digits3", "\"unk_token\":null", "\"unk_token\":\"a\"", GD_EMODEL, "unk_token"},
    {"digits3", "\"byte_fallback\":false", "\"byte_fallback\":true", GD_EMODEL, "byte_fallback"},
    {"digits3", "\"fuse_unk\":false", "\"fuse_unk\":true", GD_EMODEL, "fuse_unk"},
    {"digits3", "\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"",
     GD_EMODEL, "continuing_subword_prefix"},
    {"digits3", "\"ignore_merges\":true", "\"ignore_merges\":1", GD_EMODEL, "ignore_merges"},
    {"digits3", "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}", GD_EMODEL, "NFKC"},
    {"digits3", "\"normalizer\":null", "\"normalizer\":[]", GD_EMODEL, "normalizer"},
    {"digits3", "\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"Fuse\"", GD_EMODEL,
     "Fuse"},
    {"digits3", "\"behavior\":\"Isolated\"", "\"behavior\":\"Removed\"", GD_EMODEL, "Removed"},
    {"digits3", "\"invert\":false", "\"invert\":true", GD_EMODEL, "invert"},
    {"digits3", "{\"Regex\":", "{\"String\":", GD_EMODEL, "Regex"},
    {"digits3", "\"type\":\"Split\"", "\"type\":\"Metaspace\"", GD_EMODEL, "Metaspace"},
    {"digits3", "\"add_prefix_space\":false", "\"add_prefix_space\":true", GD_EMODEL,
     "add_prefix_space"},
    {"digits3", "(?i:'s|", "(?i:'s|(", GD_EMODEL, "pattern"},
    {"digits3", "(?i:'s|", "(?m:'s|", GD_EMODEL, "group"},
    {"digits3", "(?i:'s|", "(?i:'s|\\\\h|", GD_EMODEL, "escape"},
    {"digits3", "[^\\\\s\\\\p{L}", "[^\\\\s&&\\\\p{L}", GD_EMODEL, "sets"},
    {"digits3", "{1,3}", "{1,3}+", GD_EMODEL, "repetition"},
    {"digits3", "\"#\":5", "\"#\":6", GD_EMODEL, "id 6"},
    {"digits3", "\"#\":5", "\"#\":-5", GD_EMODEL, "valid id"},
    {"digits3", "\"#\":5", "\"#\":5.5", GD_EMODEL, "valid id"},
    {"digits3", "\"#\":5", "\"#\":4000000000", GD_ELIMIT, "limit"},
    {"digits3", "\"#\":5", "\"##\":5", GD_EMODEL, "byte 0x23"},
    {"digits3", "\"#\":5", "\"$\":5", GD_EMODEL, "twice"},
    {"digits3", "\"merges\":[[\"", "\"merges\":[[\"zqzq", GD_EMODEL, "merge 0"},
    {"digits3", "\"merges\":[", "\"merges\":[[\"z\",\"q\"],", GD_EMODEL, "merge 0"},
    {"digits3", "\"merges\":[", "\"merges\":[[\"z\"],", GD_EMODEL, "merge 0"},
    {"gpt2", "\"merges\":[", "\"merges\":[\"a b c\",", GD_EMODEL, "merge 0"},
    {"digits3", "\"merges\":[", "\"merges\":[7,", GD_EMODEL, "merge 0"},
    {"digits3", "\"lstrip\":false", "\"lstrip\":true", GD_EMODEL, "lstrip"},
    {"digits3", "\"rstrip\":false", "\"rstrip\":true", GD_EMODEL, "rstrip"},
    {"digits3", "\"single_word\":false", "\"single_word\":true", GD_EMODEL, "single_word"},
    {"digits3", "{\"id\":0,\"content\":\"<|begin|>\"", "{\"id\":0,\"content\":\"\"", GD_EMODEL,
     "0 bytes"},
    {"digits3", "{\"id\":1200,", "{\"id\":1201,", GD_EMODEL, "<tool>"},
    {"digits3", "{\"id\":1200,", "{\"id\":7,", GD_EMODEL, "<|late|>"},
    {"digits3", "{\"id\":1200,", "{\"id\":-1,", GD_EMODEL, "<|late|>"},
    {"digits3", "{\"id\":1200,\"content\":\"<|late|>\"", "{\"id\":5,\"content\":\"#\"", GD_EMODEL,
     "plain text"},
    {"digits3", "\"content\":\"<|end|>\"", "\"content\":\"<|end|>>\"", GD_EMODEL, "own"},
};

static void replace_once(struct gd_buf *out, struct gd_str text, const struct refusal *r)
{
    if (r->from == NULL) {
        gd_buf_z(out, r->to);
        return;
    }
    const char *at = memmem(text.ptr, text.len, r->from, strlen(r->from));
    if (at == NULL)
        fail_msg("%s.json has no %s", r->kind, r->from);
    size_t before = (size_t)(at - text.ptr), after = before + strlen(r->from);
    gd_buf_add(out, text.ptr, before);
    gd_buf_z(out, r->to);
    gd_buf_add(out, text.ptr + after, text.len - after);
}

static void loader_refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *r = &refusals[i];
        struct gd_str text = read_file(r->kind, ".json");
        struct gd_tokenizer *t = NULL;
        struct gd_err err = {0};
        struct gd_buf changed;
        gd_buf_init(&changed, FILE_BYTES_MAX);
        replace_once(&changed, text, r);
        int rc = gd_tokenizer_parse(&t, (struct gd_str){changed.data, changed.len}, &err);
        if (rc != r->code || err.code != rc || strstr(err.msg, r->says) == NULL)
            fail_msg("%s -> %s: %d '%s', must be %d with '%s'", r->from != NULL ? r->from : "all",
                     r->to, rc, err.msg, r->code, r->says);
        assert_null(t);
        assert_int_equal(gd_tokenizer_parse(&t, (struct gd_str){changed.data, changed.len}, NULL),
                         rc);
        gd_buf_free(&changed);
        drop(text);
    }
}

static void loader_names_the_file(void **state)
{
    (void)state;
    struct gd_tokenizer *t = NULL;
    struct gd_err err = {0};
    assert_int_equal(gd_tokenizer_open(&t, DIR "absent.json", &err), GD_EIO);
    assert_non_null(strstr(err.msg, "absent.json"));
    assert_int_equal(gd_tokenizer_open(&t, DIR "strings.txt", &err), GD_EJSON);
    assert_non_null(strstr(err.msg, "strings.txt"));
    gd_tokenizer_close(NULL);
}

/* ---- special and other added tokens ---- */

static struct gd_ids encode(const struct gd_tokenizer *t, struct gd_str text,
                            enum gd_specials specials)
{
    struct gd_ids ids = {0};
    assert_int_equal(gd_tokenizer_encode(t, text, specials, &ids), GD_OK);
    return ids;
}

static bool contains(const struct gd_ids *ids, int32_t id)
{
    for (size_t i = 0; i < ids->len; i++) {
        if (ids->data[i] == id)
            return true;
    }
    return false;
}

static void added_tokens(void **state)
{
    (void)state;
    struct gd_tokenizer *t = load("digits3");
    assert_int_equal(gd_tokenizer_added_id(t, GD_STR("<|begin|>")), 0);
    assert_int_equal(gd_tokenizer_added_id(t, GD_STR("<|late|>")), 1200);
    assert_int_equal(gd_tokenizer_added_id(t, GD_STR("<tool>")), 1201);
    assert_int_equal(gd_tokenizer_added_id(t, GD_STR("<tool")), -1);
    assert_int_equal(gd_tokenizer_added_id(t, GD_STR("")), -1);
    assert_true(gd_tokenizer_is_special(t, 0));
    assert_true(gd_tokenizer_is_special(t, 1200));
    assert_false(gd_tokenizer_is_special(t, 1201));
    assert_false(gd_tokenizer_is_special(t, -1));
    assert_false(gd_tokenizer_is_special(t, 1 << 30));
    assert_int_equal(gd_tokenizer_vocab_size(t), 1205);
    struct gd_ids off = encode(t, GD_STR("a<|begin|><tool>b"), GD_SPECIALS_OFF);
    assert_false(contains(&off, 0));
    assert_true(contains(&off, 1201));
    struct gd_ids on = encode(t, GD_STR("a<|begin|><tool>b"), GD_SPECIALS_ON);
    assert_int_equal(on.len, 4);
    assert_int_equal(on.data[1], 0);
    gd_ids_free(&off);
    gd_ids_free(&on);
    gd_tokenizer_close(t);
}

/* A special token that is in the vocabulary and would be a whole piece ("tool") stays text. */
static void special_is_no_whole_piece(void **state)
{
    (void)state;
    const struct refusal change = {"digits3", "\"<|end|>\"", "\"tool\"", 0, ""};
    struct gd_str text = read_file("digits3", ".json");
    struct gd_tokenizer *t = NULL;
    struct gd_err err = {0};
    struct gd_buf once, twice;
    gd_buf_init(&once, FILE_BYTES_MAX);
    gd_buf_init(&twice, FILE_BYTES_MAX);
    replace_once(&once, text, &change); /* its added token, then its place in the vocabulary */
    replace_once(&twice, (struct gd_str){once.data, once.len}, &change);
    if (gd_tokenizer_parse(&t, (struct gd_str){twice.data, twice.len}, &err) != GD_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(gd_tokenizer_added_id(t, GD_STR("tool")), 1);
    struct gd_ids off = encode(t, GD_STR("tool"), GD_SPECIALS_OFF);
    struct gd_ids on = encode(t, GD_STR("tool"), GD_SPECIALS_ON);
    assert_true(off.len > 1);
    assert_false(contains(&off, 1));
    assert_int_equal(on.len, 1);
    assert_int_equal(on.data[0], 1);
    gd_ids_free(&off);
    gd_ids_free(&on);
    gd_buf_free(&once);
    gd_buf_free(&twice);
    drop(text);
    gd_tokenizer_close(t);
}

/* ---- cuts ---- */

/* A golden tokenizer with one change, or as it is (from NULL). */
static struct gd_tokenizer *load_changed(const char *kind, const char *from, const char *to)
{
    if (from == NULL)
        return load(kind);
    const struct refusal change = {kind, from, to, 0, ""};
    struct gd_str text = read_file(kind, ".json");
    struct gd_tokenizer *t = NULL;
    struct gd_err err = {0};
    struct gd_buf changed;
    gd_buf_init(&changed, FILE_BYTES_MAX);
    replace_once(&changed, text, &change);
    if (gd_tokenizer_parse(&t, (struct gd_str){changed.data, changed.len}, &err) != GD_OK)
        fail_msg("%s: %s", to, err.msg);
    gd_buf_free(&changed);
    drop(text);
    return t;
}

static const struct {
    const char *kind, *from, *to;
    bool cuts;
} cutters[] = {
    {"digits3", NULL, NULL, true},
    {"digits1_nfc", NULL, NULL, true},
    {"gpt2", NULL, NULL, true},
    {"cased_regex", NULL, NULL, false},
    {"digits3", "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}", true},
    {"digits3", "\"use_regex\":false", "\"use_regex\":true", true}, /* two stages */
    {"gpt2", "\"use_regex\":true", "\"use_regex\":false", false},   /* no stage */
    {"digits3", "|\\\\s+(?!\\\\S)|\\\\s+\"", "|\\\\s+\"", false},   /* not quite the pattern */
    {"digits3", "\"content\":\"<tool>\"", "\"content\":\"}\\nU\"", false},
    {"digits1_nfc", "\"content\":\"ok ok\"", "\"content\":\"k\\n\"", false},
    {"digits3", "\"content\":\"<|late|>\"", "\"content\":\"<\\nU\"", false}, /* special */
};
#define N_CUTTERS (sizeof cutters / sizeof cutters[0])

/* The rule of the header, by the encodings of white space. */
static bool may_cut(struct gd_str text, size_t i)
{
    /* clang-format off */
    static const char *const spaces[] = {
        "\t", "\n", "\v", "\f", "\r", " ", "\xC2\x85", "\xC2\xA0", "\xE1\x9A\x80", "\xE2\x80\xA8",
        "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80", "\xE2\x80\x80",
        "\xE2\x80\x81", "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85",
        "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A",
    };
    /* clang-format on */
    if (i < 2 || i >= text.len || text.ptr[i - 1] != '\n')
        return false;
    char lower = (char)(text.ptr[i] | 0x20);
    if (lower < 'a' || lower > 'z')
        return false;
    for (size_t k = 0; k < sizeof spaces / sizeof spaces[0]; k++) {
        size_t n = strlen(spaces[k]);
        if (n <= i - 1 && memcmp(text.ptr + i - 1 - n, spaces[k], n) == 0)
            return false;
    }
    return true;
}

static void check_cut(const struct gd_tokenizer *t, struct gd_str text, size_t cut,
                      const char *kind)
{
    struct gd_ids whole = encode(t, text, GD_SPECIALS_OFF);
    struct gd_ids parts = encode(t, (struct gd_str){text.ptr, cut}, GD_SPECIALS_OFF);
    struct gd_str right = {text.ptr + cut, text.len - cut};
    assert_int_equal(gd_tokenizer_encode(t, right, GD_SPECIALS_OFF, &parts), GD_OK);
    if (parts.len != whole.len ||
        memcmp(parts.data, whole.data, whole.len * sizeof whole.data[0]) != 0)
        fail_msg("%s: cut at %zu of '%.*s'", kind, cut, (int)text.len, text.ptr);
    gd_ids_free(&whole);
    gd_ids_free(&parts);
}

/* All cuts of a text, each the greatest before the next, and each known from what is before it and
 * one character. Returns how many. */
static size_t check_cuts(const struct gd_tokenizer *t, struct gd_str text, bool cuts,
                         const char *kind)
{
    size_t last = 0, n = 0;
    for (size_t at = 0; at <= text.len + 2; at++) {
        if (cuts && may_cut(text, at)) {
            check_cut(t, text, at, kind);
            assert_int_equal(gd_tokenizer_cut(t, (struct gd_str){text.ptr, at + 1}, at), at);
            assert_true(gd_tokenizer_cut(t, (struct gd_str){text.ptr, at}, at) < at);
            last = at;
            n++;
        }
        if (gd_tokenizer_cut(t, text, at) != last)
            fail_msg("%s: cut %zu at %zu of '%.*s', must be %zu", kind,
                     gd_tokenizer_cut(t, text, at), at, (int)text.len, text.ptr, last);
    }
    return n;
}

/* clang-format off */
static const char *const hostile[] = {
    "\n", "\n", "\n", "a", "s", "S", "ll", "e", "U", "K", "A\nb", "x\nThe", "}\nU",
    "word\nAnd so on", " ", "  ", "\t", "\r", "\r\n", "\n\n", " \n", "\v", "\f", "\xC2\x85",
    "\xC2\xA0", "\xE3\x80\x80", "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x80\x83",
    "\xE2\x80\x8B", "0", "12345", "\xC2\xBD", "\xD9\xA3", "'", "'s", "'\nS", "'l\nl", "'r\ne",
    "'\xC5\xBF", "\xC5\xBF", "''", ".", "...", ");\n\n", "};\n", "/*", " */\n", "<", "=", "\"",
    "{\"a\":", "#", "\xEF\xBC\x81", "e\xCC\x81", "\xCC\x81", "\xCC\xA7", "\xCC\x81\xCC\xA7",
    "\xCC\xB8", "A\xCC\x8A", "a\xCD\x85", "\xC3\xA9", "\xC3\x85", "\xE2\x84\xAA", "\xCD\x84",
    "\xE0\xA5\x98", "\xE1\x84\x80", "\xE1\x85\xA1", "\xE1\x86\xA8", "\xE1\xBF\xAF", "\xE2\x80\x80",
    "\xF0\x9F\x98\x80", "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7", "\xE2\x9D\xA4\xEF\xB8\x8F",
    "\xE6\x97\xA5", "\x80", "\xA0", "\x85", "\xC2", "\xC3", "\xE2\x80", "\xE2", "\xF0\x9F\x98",
    "\xF0", "\xED\xA0\x80", "\xC0\x80", "\xFF", "\x01", "<tool>", "<tool", "<|end", "<|end|>",
    "<|end|>>", "<|begin|>", "<|late|>", "caf\xC3\xA9", "cafe\xCC\x81", "caf", "ok ok", "ok",
    "ok\nok", "k\n", "<\nU",
};
/* clang-format on */

static uint64_t next_random(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Wherever hostile text is cut, the parts have the ids of the whole. */
static void cuts_of_hostile_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CUTTERS; i++) {
        struct gd_tokenizer *t = load_changed(cutters[i].kind, cutters[i].from, cutters[i].to);
        uint64_t seed = 20260101 + i;
        size_t found = 0;
        struct gd_buf text;
        gd_buf_init(&text, GD_MIB);
        for (int k = 0; k < 3000; k++) {
            text.len = 0;
            for (uint64_t n = next_random(&seed) % 12; n < 12; n++)
                gd_buf_z(&text, hostile[next_random(&seed) % (sizeof hostile / sizeof hostile[0])]);
            found += check_cuts(t, (struct gd_str){text.data, text.len}, cutters[i].cuts,
                                cutters[i].kind);
        }
        assert_true(cutters[i].cuts ? found > 1500 : found == 0);
        gd_buf_free(&text);
        gd_tokenizer_close(t);
    }
}

/* Without the rule about added tokens a cut would change the ids: the parts differ. */
static void added_tokens_reach_across(void **state)
{
    (void)state;
    struct gd_tokenizer *t = load_changed("digits3", cutters[8].from, cutters[8].to);
    struct gd_ids whole = encode(t, GD_STR("}\nUp"), GD_SPECIALS_OFF);
    struct gd_ids left = encode(t, GD_STR("}\n"), GD_SPECIALS_OFF);
    assert_true(contains(&whole, 1201));
    assert_false(contains(&left, 1201));
    assert_int_equal(gd_tokenizer_cut(t, GD_STR("}\nUp"), 2), 0);
    gd_ids_free(&whole);
    gd_ids_free(&left);
    gd_tokenizer_close(t);
}

static void cuts_of_ordinary_text(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t at, cut;
    } cases[] = {
        {"ab\ncd\nef", 100, 6},
        {"ab\ncd\nef", 6, 6},
        {"ab\ncd\nef", 5, 3},
        {"ab\ncd\nef", 3, 3},
        {"ab\ncd\nef", 2, 0},
        {"a\nD", 3, 2},
        {"a.\nZ", 9, 3},
        {"1\nz", 9, 2},
        {"\xC3\xA9\nA", 9, 3},
        {"a\n\nD", 9, 0},
        {"a \nD", 9, 0},
        {"a\t\nD", 9, 0},
        {"a\r\nD", 9, 0},
        {"a\xC2\xA0\nD", 9, 0},
        {"a\xE2\x80\xA8\nD", 9, 0},
        {"a\n1", 9, 0},
        {"a\n<", 9, 0},
        {"a\n[", 9, 0},
        {"a\n@", 9, 0},
        {"a\n`", 9, 0},
        {"a\n{", 9, 0},
        {"a\n D", 9, 0},
        {"a\n\xC3\xA9", 9, 0},
        {"\nD", 9, 0},
        {"D", 9, 0},
        {"", 9, 0},
        {"a\n", 9, 0},
        {"ab\xA0\nD", 9, 4},
        {"a\xC2\xA0\xA0\nD", 9, 5},
        {"a\xE2\x80\nD", 9, 4},
    };
    struct gd_tokenizer *t = load("digits3");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t cut = gd_tokenizer_cut(t, gd_str_from(cases[i].text), cases[i].at);
        if (cut != cases[i].cut)
            fail_msg("'%s' at %zu: cut %zu, must be %zu", cases[i].text, cases[i].at, cut,
                     cases[i].cut);
    }
    gd_tokenizer_close(t);
}

/* ---- text comes back ---- */

static void check_round_trip(const struct gd_tokenizer *t, struct gd_str text, struct gd_str want)
{
    struct gd_ids ids = encode(t, text, GD_SPECIALS_OFF);
    struct gd_buf back;
    size_t bytes = 0;
    gd_buf_init(&back, 8 * GD_MIB);
    for (size_t i = 0; i < ids.len; i++) {
        assert_false(gd_tokenizer_is_special(t, ids.data[i]));
        assert_true(gd_tokenizer_decode(t, ids.data[i], &back));
        bytes += gd_tokenizer_bytes(t, ids.data[i]);
        assert_int_equal(back.len, bytes);
    }
    assert_int_equal(back.len, want.len);
    assert_memory_equal(back.data != NULL ? back.data : "", want.ptr, want.len);
    gd_buf_free(&back);
    gd_ids_free(&ids);
}

static void broken_utf8_is_replaced(void **state)
{
    (void)state;
    struct gd_tokenizer *t = load("digits3");
    check_round_trip(t, GD_STR("a\xC3"), GD_STR("a\xEF\xBF\xBD"));
    check_round_trip(t, GD_STR("\xF0\x9F\x98z\xFF\xFE"),
                     GD_STR("\xEF\xBF\xBDz\xEF\xBF\xBD\xEF\xBF\xBD"));
    check_round_trip(t, GD_STR("\xED\xA0\x80"), GD_STR("\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"));
    check_round_trip(t, GD_STR("nul\0nul"), GD_STR("nul\0nul"));
    check_round_trip(t, (struct gd_str){NULL, 0}, GD_STR(""));
    struct gd_buf none;
    gd_buf_init(&none, 16);
    assert_false(gd_tokenizer_decode(t, -1, &none));
    assert_false(gd_tokenizer_decode(t, gd_tokenizer_vocab_size(t), &none));
    assert_int_equal(gd_tokenizer_bytes(t, -1), 0);
    assert_int_equal(gd_tokenizer_bytes(t, gd_tokenizer_vocab_size(t)), 0);
    gd_buf_free(&none);
    gd_tokenizer_close(t);
}

/* ---- bounds ---- */

static const char *const units[] = {
    "a",
    " ",
    "\n",
    "0",
    "!",
    "\xF0\x9F\x98\x80",
    " \n",
    "'s",
    "'",
    "\t",
    "e\xCC\x81",
    "\xC5\xBF",
    "aA",
    "<|end",
    "{\"a\":",
    "\xE2\x80\x83",
    "\xFF",
    "\r\n ",
    "\xCC\x81\xCC\xA7", /* marks in the wrong order */
};

static void check_megabyte(const struct gd_tokenizer *t, bool known, const char *unit)
{
    struct gd_buf text;
    struct gd_ids ids = {0};
    gd_buf_init(&text, 2 * GD_MIB);
    while (text.len < GD_MIB)
        gd_buf_z(&text, unit);
    struct gd_str bytes = {text.data, text.len};
    int rc = gd_tokenizer_encode(t, bytes, GD_SPECIALS_OFF, &ids);
    if (known || rc != GD_ELIMIT) { /* a pattern of the general kind may reach its match limit */
        assert_int_equal(rc, GD_OK);
        assert_true(ids.len > 0);
    } else {
        assert_int_equal(ids.len, 0);
    }
    gd_ids_free(&ids);
    gd_buf_free(&text);
}

/* Anything quadratic would run into the time limit of the test: 1 MiB squared is an hour. */
static void megabytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct gd_tokenizer *t = load(kinds[i]);
        for (size_t k = 0; k < sizeof units / sizeof units[0]; k++)
            check_megabyte(t, strcmp(kinds[i], "cased_regex") != 0, units[k]);
        gd_tokenizer_close(t);
    }
}

static void text_over_the_limit(void **state)
{
    (void)state;
    struct gd_tokenizer *t = load("digits3");
    struct gd_ids ids = encode(t, GD_STR("kept"), GD_SPECIALS_OFF);
    size_t before = ids.len;
    char *big = calloc(1, GD_TOKENIZER_TEXT_BYTES_MAX + 1);
    assert_non_null(big);
    struct gd_str text = {big, GD_TOKENIZER_TEXT_BYTES_MAX + 1};
    assert_int_equal(gd_tokenizer_encode(t, text, GD_SPECIALS_ON, &ids), GD_ELIMIT);
    assert_int_equal(ids.len, before);
    assert_int_equal(gd_tokenizer_encode(t, GD_STR("more"), GD_SPECIALS_ON, &ids), GD_OK);
    assert_true(ids.len > before);
    free(big);
    gd_ids_free(&ids);
    gd_tokenizer_close(t);
}

/* ---- threads ---- */

struct worker {
    const struct gd_tokenizer *t;
    struct gd_str text;
    struct gd_ids ids;
    pthread_t thread;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < 50; i++) {
        w->ids.len = 0;
        if (gd_tokenizer_encode(w->t, w->text, GD_SPECIALS_ON, &w->ids) != GD_OK)
            return arg;
    }
    return NULL;
}

static void one_tokenizer_many_threads(void **state)
{
    (void)state;
    struct gd_tokenizer *t = load("cased_regex");
    struct gd_str text = read_file("strings", ".txt");
    struct gd_ids alone = encode(t, text, GD_SPECIALS_ON);
    struct worker workers[4] = {0};
    for (size_t i = 0; i < 4; i++) {
        workers[i].t = t;
        workers[i].text = text;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        void *failed = NULL;
        pthread_join(workers[i].thread, &failed);
        assert_null(failed);
        assert_int_equal(workers[i].ids.len, alone.len);
        assert_memory_equal(workers[i].ids.data, alone.data, alone.len * sizeof alone.data[0]);
        gd_ids_free(&workers[i].ids);
    }
    gd_ids_free(&alone);
    drop(text);
    gd_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_ids),
        cmocka_unit_test(loader_refuses),
        cmocka_unit_test(loader_names_the_file),
        cmocka_unit_test(added_tokens),
        cmocka_unit_test(special_is_no_whole_piece),
        cmocka_unit_test(cuts_of_hostile_text),
        cmocka_unit_test(added_tokens_reach_across),
        cmocka_unit_test(cuts_of_ordinary_text),
        cmocka_unit_test(broken_utf8_is_replaced),
        cmocka_unit_test(megabytes),
        cmocka_unit_test(text_over_the_limit),
        cmocka_unit_test(one_tokenizer_many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
