/* fuzz_tokenizer.c - libFuzzer driver of the tokenizer. The first byte selects what the rest is:
 *   - an arbitrary tokenizer.json: parsed or refused with a message; what loads must keep the
 *     promises below for a fixed text;
 *   - a golden tokenizer.json with some bytes changed (position and value pairs): the same;
 *   - arbitrary text for one of the golden tokenizers (found in golden/tokenizer/ of the directory
 *     named by GUARDIAN_TESTS, default "."):
 *       - with special tokens off no special id comes out, and the ids decode to the repaired text,
 *         for normalising tokenizers to its NFC (which utf8proc makes as a second opinion, as far
 *         as the text has no mark younger than the normaliser's data);
 *       - a second encoding is the same; ids are appended behind what was there;
 *       - where the text may be cut, the parts have the ids of the whole;
 *       - special tokens on: as off, where the text has none. */
#include "guardian/json.h"
#include "guardian/limits.h"
#include "guardian/tokenizer.h"

#include <string.h>
#include <utf8proc.h>

#define KINDS 4
#define FIRST_ADDED 1200 /* of the golden tokenizers */
#define FILE_BYTES_MAX (256 * GD_KIB)
#define BUF_BYTES_MAX (64 * GD_MIB)

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const kinds[KINDS] = {"digits3", "digits1_nfc", "gpt2", "cased_regex"};
static struct gd_tokenizer *loaded[KINDS];
static struct gd_str files[KINDS];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    const char *tests = getenv("GUARDIAN_TESTS");
    for (int i = 0; i < KINDS; i++) {
        char path[512];
        struct gd_err err = {0};
        snprintf(path, sizeof path, "%s/golden/tokenizer/%s.json", tests != NULL ? tests : ".",
                 kinds[i]);
        char *data = malloc(FILE_BYTES_MAX);
        FILE *f = fopen(path, "rb");
        if (f == NULL || data == NULL) {
            fprintf(stderr, "cannot read %s: set GUARDIAN_TESTS to the directory tests\n", path);
            exit(1);
        }
        files[i] = (struct gd_str){data, fread(data, 1, FILE_BYTES_MAX, f)};
        fclose(f);
        GD_ASSERT(gd_tokenizer_parse(&loaded[i], files[i], &err) == GD_OK);
    }
    return 0;
}

/* Whether the text may have a mark or composition that the normaliser passes through as it is. */
static bool has_young_mark(struct gd_str s)
{
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        int len = gd_utf8_next(s, i, &cp);
        if (cp >= 0x7FD && utf8proc_get_property((utf8proc_int32_t)cp)->combining_class != 0)
            return true;
        if (cp >= 0x11930 && cp <= 0x11938)
            return true;
        i += (size_t)len;
    }
    return false;
}

/* What the ids must decode to; false when there is no second opinion. */
static bool reference(struct gd_str text, bool nfc, struct gd_buf *out)
{
    struct gd_buf repaired;
    if (!nfc) {
        gd_utf8_repair(out, text);
        return true;
    }
    gd_buf_init(&repaired, BUF_BYTES_MAX);
    gd_utf8_repair(&repaired, text);
    struct gd_str s = {repaired.data, repaired.len};
    bool known = !has_young_mark(s);
    utf8proc_uint8_t *normal = NULL;
    if (known && s.len > 0) {
        utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)s.ptr, (utf8proc_ssize_t)s.len,
                                          &normal, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        GD_ASSERT(n >= 0);
        gd_buf_add(out, (const char *)normal, (size_t)n);
    }
    free(normal);
    gd_buf_free(&repaired);
    return known;
}

static bool same_ids(const struct gd_ids *a, size_t from, const struct gd_ids *b)
{
    return a->len - from == b->len &&
           (b->len == 0 || memcmp(a->data + from, b->data, b->len * sizeof b->data[0]) == 0);
}

static void check_cuts(const struct gd_tokenizer *t, struct gd_str text, const struct gd_ids *whole)
{
    /* The last one and one of the middle: more would only make fewer executions. */
    const size_t before[] = {text.len, text.len / 2};
    for (int i = 0; i < 2; i++) {
        struct gd_ids parts = {0};
        const size_t cut = gd_tokenizer_cut(t, text, before[i]);
        if (cut == 0)
            continue;
        struct gd_str left = {text.ptr, cut}, right = {text.ptr + cut, text.len - cut};
        GD_ASSERT(cut < text.len);
        GD_ASSERT(gd_tokenizer_encode(t, left, GD_SPECIALS_OFF, &parts) == GD_OK);
        GD_ASSERT(gd_tokenizer_encode(t, right, GD_SPECIALS_OFF, &parts) == GD_OK);
        GD_ASSERT(same_ids(&parts, 0, whole));
        gd_ids_free(&parts);
    }
}

static void check_text(const struct gd_tokenizer *t, struct gd_str text, bool exact, bool nfc)
{
    struct gd_ids ids = {0}, again = {0};
    struct gd_buf back, want;
    gd_buf_init(&back, BUF_BYTES_MAX);
    gd_buf_init(&want, BUF_BYTES_MAX);
    int rc = gd_tokenizer_encode(t, text, GD_SPECIALS_OFF, &ids);
    GD_ASSERT(rc == GD_OK || (rc == GD_ELIMIT && ids.len == 0));
    bool parted = false;
    for (size_t i = 0; i < ids.len; i++) {
        parted = parted || ids.data[i] >= FIRST_ADDED;
        GD_ASSERT(!gd_tokenizer_is_special(t, ids.data[i]));
        GD_ASSERT(gd_tokenizer_decode(t, ids.data[i], &back));
    }
    /* Text is normalised between added tokens, so that nothing composes with one of them. */
    if (rc == GD_OK && exact && !(nfc && parted) && reference(text, nfc, &want)) {
        GD_ASSERT(back.len == want.len);
        GD_ASSERT(back.len == 0 || memcmp(back.data, want.data, back.len) == 0);
    }
    GD_ASSERT(gd_ids_push(&again, 77) == GD_OK);
    GD_ASSERT(gd_tokenizer_encode(t, text, GD_SPECIALS_OFF, &again) == rc);
    GD_ASSERT(again.data[0] == 77 && same_ids(&again, 1, &ids));
    if (rc == GD_OK)
        check_cuts(t, text, &ids);
    again.len = 0;
    GD_ASSERT(gd_tokenizer_encode(t, text, GD_SPECIALS_ON, &again) == rc || rc != GD_OK);
    bool any_special = false;
    for (size_t i = 0; i < again.len; i++)
        any_special = any_special || gd_tokenizer_is_special(t, again.data[i]);
    GD_ASSERT(rc != GD_OK || any_special || same_ids(&again, 0, &ids));
    gd_buf_free(&back);
    gd_buf_free(&want);
    gd_ids_free(&ids);
    gd_ids_free(&again);
}

static void check_file(struct gd_str json)
{
    static const char text[] =
        "a<|begin|> it's 12345 \xC3\xA9 e\xCC\x81  \n\xF0\x9F\x98\x80 tool\nok);\nA\xCC\x8A";
    struct gd_tokenizer *t = NULL;
    struct gd_err err = {0};
    int rc = gd_tokenizer_parse(&t, json, &err);
    GD_ASSERT((rc == GD_OK) == (t != NULL));
    if (rc != GD_OK) {
        GD_ASSERT(err.code == rc && err.msg[0] != '\0');
        GD_ASSERT(rc == GD_EJSON || rc == GD_EMODEL || rc == GD_ELIMIT || rc == GD_ENOMEM);
        return;
    }
    check_text(t, (struct gd_str){text, sizeof text - 1}, false, false);
    gd_tokenizer_close(t);
}

/* Bytes of the input three by three: where in the file, and the byte to put there. */
static void check_changed_file(int kind, const uint8_t *data, size_t size)
{
    char *changed = malloc(files[kind].len);
    GD_ASSERT(changed != NULL);
    memcpy(changed, files[kind].ptr, files[kind].len);
    for (size_t i = 0; i + 3 <= size; i += 3) {
        size_t at = (size_t)data[i] << 8 | data[i + 1];
        changed[at % files[kind].len] = (char)data[i + 2];
    }
    check_file((struct gd_str){changed, files[kind].len});
    free(changed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct gd_str rest = {(const char *)data + 1, size - 1};
    const int kind = (data[0] >> 4) % KINDS, what = data[0] % 16;
    if (what < 6)
        check_file(rest);
    else if (what == 6) /* takes as long as many of the others */
        check_changed_file(kind, data + 1, size - 1);
    else
        check_text(loaded[kind], rest, true, kind == 1 || kind == 3);
    return 0;
}
