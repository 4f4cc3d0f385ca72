/* tokenizer_load.c - a Hugging Face tokenizer.json to a struct gd_tokenizer.
 *
 * The file is checked in full before it is used: what this program does not do is refused by name,
 * so that no file loads and then gives other ids than `tokenizers` would. Not applied, and
 * therefore not looked at: post-processor, truncation, padding.
 *
 * Two guarantees are made here for the guard. Every byte that UTF-8 text can have is a token, so
 * that no text is dropped in silence. And the id of a special token cannot come out of plain text:
 * it is no byte token, no result of a merge, and no whole piece.
 *
 * A piece that is a token by itself may skip the merges when they would end in that token anyway;
 * this is tried out here for each token, once. */
#include "tokenizer_parts.h"

#include "guardian/file.h"
#include "guardian/json.h"
#include "guardian/limits.h"

#include <string.h>
#include <unistd.h>

struct load {
    struct gd_tokenizer *t;
    struct gd_err *err;
    const struct gd_json *root;
    const struct gd_json *model;
    const struct gd_json *added;
    char *scratch; /* as long as the file: any string of it fits */
    bool ignore_merges;
    bool byte_level; /* the pre-tokenizer has had its ByteLevel */
};

#define SHOWN(s) gd_shown((s), 80), (s).ptr

static int no_memory(struct load *l)
{
    return gd_err_set(l->err, GD_ENOMEM, "no memory for the tokenizer");
}

/* The type name in an object such as {"type": "NFC"}. */
static int type_of(struct load *l, const struct gd_json *v, const char *where, struct gd_str *type)
{
    if (!gd_json_is(v, GD_JSON_OBJECT))
        return gd_err_set(l->err, GD_EMODEL, "'%s' must be an object, is %s", where,
                          gd_json_type_name(v));
    return gd_json_want_str(v, where, "type", true, type, l->err);
}

/* Options of the model that must be off: absent, null, false or "". */
static int check_model_options(struct load *l)
{
    static const char *const off[] = {
        "dropout",  "unk_token",    "continuing_subword_prefix", "end_of_word_suffix",
        "fuse_unk", "byte_fallback"};
    struct gd_str type = GD_STR("BPE");
    int rc = gd_json_want_str(l->model, "model.", "type", false, &type, l->err);
    if (rc == GD_OK && !gd_str_eqz(type, "BPE"))
        rc = gd_err_set(l->err, GD_EMODEL, "model type '%.*s' is not supported, only BPE",
                        SHOWN(type));
    for (size_t i = 0; i < sizeof off / sizeof off[0] && rc == GD_OK; i++) {
        const struct gd_json *v = gd_json_get(l->model, off[i]);
        bool is_off = v == NULL || v->type == GD_JSON_NULL || v->type == GD_JSON_FALSE ||
                      (v->type == GD_JSON_STRING && v->str.len == 0);
        if (!is_off)
            rc = gd_err_set(l->err, GD_EMODEL, "model option '%s' is not supported: it must be off",
                            off[i]);
    }
    if (rc == GD_OK)
        rc = gd_json_want_bool(l->model, "model.", "ignore_merges", &l->ignore_merges, l->err);
    return rc;
}

static int check_normalizer(struct load *l)
{
    const struct gd_json *v = gd_json_get(l->root, "normalizer");
    struct gd_str type = {"", 0};
    if (v == NULL || v->type == GD_JSON_NULL)
        return GD_OK;
    int rc = type_of(l, v, "normalizer.", &type);
    if (rc != GD_OK)
        return rc;
    if (!gd_str_eqz(type, "NFC"))
        return gd_err_set(l->err, GD_EMODEL, "normalizer '%.*s' is not supported, only NFC",
                          SHOWN(type));
    l->t->nfc = true;
    return GD_OK;
}

static int check_decoder(struct load *l)
{
    const struct gd_json *v = gd_json_get(l->root, "decoder");
    struct gd_str type = {"", 0};
    if (v == NULL || v->type == GD_JSON_NULL)
        return GD_OK;
    int rc = type_of(l, v, "decoder.", &type);
    if (rc == GD_OK && !gd_str_eqz(type, "ByteLevel"))
        rc = gd_err_set(l->err, GD_EMODEL, "decoder '%.*s' is not supported, only ByteLevel",
                        SHOWN(type));
    return rc;
}

/* ---- pre-tokenizer ---- */

static int load_byte_level(struct load *l, const struct gd_json *v)
{
    bool prefix = true, regex = true; /* what an absent field means */
    int rc = gd_json_want_bool(v, "pre_tokenizer.", "add_prefix_space", &prefix, l->err);
    if (rc == GD_OK)
        rc = gd_json_want_bool(v, "pre_tokenizer.", "use_regex", &regex, l->err);
    if (rc != GD_OK)
        return rc;
    if (prefix)
        return gd_err_set(l->err, GD_EMODEL, "ByteLevel with add_prefix_space is not supported");
    l->byte_level = true;
    return regex ? gd_splits_add_gpt2(&l->t->splits, l->err) : GD_OK;
}

static int load_split(struct load *l, const struct gd_json *v)
{
    struct gd_str behavior = {"", 0}, regex;
    bool invert = false;
    int rc = gd_json_want_str(v, "pre_tokenizer.", "behavior", true, &behavior, l->err);
    if (rc == GD_OK)
        rc = gd_json_want_bool(v, "pre_tokenizer.", "invert", &invert, l->err);
    if (rc != GD_OK)
        return rc;
    if (!gd_str_eqz(behavior, "Isolated") || invert)
        return gd_err_set(l->err, GD_EMODEL,
                          "Split with behavior '%.*s'%s is not supported, only Isolated",
                          SHOWN(behavior), invert ? " and invert" : "");
    const struct gd_json *pattern = gd_json_get(v, "pattern");
    if (!gd_json_is(gd_json_get(pattern, "Regex"), GD_JSON_STRING))
        return gd_err_set(l->err, GD_EMODEL, "Split without a Regex pattern is not supported");
    regex = gd_json_get(pattern, "Regex")->str;
    return gd_splits_add(&l->t->splits, regex, l->err);
}

static int load_pre_tokenizer(struct load *l, const struct gd_json *v)
{
    struct gd_str type = {"", 0};
    int rc = type_of(l, v, "pre_tokenizer.", &type);
    if (rc != GD_OK)
        return rc;
    if (l->byte_level)
        return gd_err_set(l->err, GD_EMODEL,
                          "pre_tokenizer '%.*s' after ByteLevel is not supported", SHOWN(type));
    if (gd_str_eqz(type, "ByteLevel"))
        return load_byte_level(l, v);
    if (gd_str_eqz(type, "Split"))
        return load_split(l, v);
    if (!gd_str_eqz(type, "Sequence"))
        return gd_err_set(l->err, GD_EMODEL, "pre_tokenizer '%.*s' is not supported", SHOWN(type));
    const struct gd_json *parts = gd_json_get(v, "pretokenizers");
    if (!gd_json_is(parts, GD_JSON_ARRAY))
        return gd_err_set(l->err, GD_EMODEL, "'pre_tokenizer.pretokenizers' must be an array");
    for (const struct gd_json *p = parts->child; p != NULL && rc == GD_OK; p = p->next)
        rc = load_pre_tokenizer(l, p);
    return rc;
}

static int load_pre_tokenizers(struct load *l)
{
    const struct gd_json *v = gd_json_get(l->root, "pre_tokenizer");
    if (v != NULL && v->type != GD_JSON_NULL) {
        int rc = load_pre_tokenizer(l, v);
        if (rc != GD_OK)
            return rc;
    }
    if (!l->byte_level)
        return gd_err_set(l->err, GD_EMODEL, "a pre_tokenizer without ByteLevel is not supported");
    return GD_OK;
}

/* ---- vocabulary and merges ---- */

/* Content and kind that a string of the file has in the vocabulary. Uses scratch. */
static struct gd_str content_of(struct load *l, struct gd_str s, uint32_t *kind)
{
    size_t len;
    *kind = gd_vocab_unmap(s, l->scratch, &len) ? GD_TOKEN_BYTES : 0;
    return *kind != 0 ? (struct gd_str){l->scratch, len} : s;
}

static int32_t find_string(struct load *l, struct gd_str s)
{
    uint32_t kind;
    struct gd_str content = content_of(l, s, &kind);
    return gd_vocab_find(&l->t->vocab, content, kind);
}

static int check_id(struct load *l, const struct gd_json *v, struct gd_str name, size_t *ids_end)
{
    int64_t id;
    if (!gd_json_i64(v, &id) || id < 0)
        return gd_err_set(l->err, GD_EMODEL, "token '%.*s' has no valid id", SHOWN(name));
    if (id >= GD_TOKENIZER_VOCAB_MAX)
        return gd_err_set(l->err, GD_ELIMIT, "token '%.*s' has id %lld, the limit is %d",
                          SHOWN(name), (long long)id, GD_TOKENIZER_VOCAB_MAX);
    if ((size_t)id >= *ids_end)
        *ids_end = (size_t)id + 1;
    return GD_OK;
}

/* Sizes the tables by one walk over vocabulary and added tokens. */
static int init_vocab(struct load *l, const struct gd_json *vocab, size_t n_merges)
{
    size_t ids_end = 0, n = 0, bytes = 0;
    int rc = GD_OK;
    for (const struct gd_json *v = vocab->child; v != NULL && rc == GD_OK; v = v->next) {
        rc = check_id(l, v, v->key, &ids_end);
        n++;
        bytes += v->key.len;
    }
    const struct gd_json *a = l->added != NULL ? l->added->child : NULL;
    for (; a != NULL && rc == GD_OK; a = a->next) {
        struct gd_str content = {"", 0};
        rc = gd_json_want_str(a, "added_tokens[].", "content", true, &content, l->err);
        if (rc == GD_OK)
            rc = check_id(l, gd_json_get(a, "id"), content, &ids_end);
        bytes += content.len;
    }
    if (rc != GD_OK)
        return rc;
    if (n > ids_end)
        return gd_err_set(l->err, GD_EMODEL, "two tokens of the vocabulary have the same id");
    if (gd_vocab_init(&l->t->vocab, ids_end, n, n_merges, bytes) != GD_OK)
        return no_memory(l);
    return GD_OK;
}

static int load_vocab(struct load *l, const struct gd_json *vocab)
{
    struct gd_vocab *v = &l->t->vocab;
    for (const struct gd_json *m = vocab->child; m != NULL; m = m->next) {
        int64_t id = 0;
        uint32_t kind;
        (void)gd_json_i64(m, &id); /* init_vocab has checked it */
        if ((v->tokens[id].flags & GD_TOKEN_KNOWN) != 0)
            return gd_err_set(l->err, GD_EMODEL, "token '%.*s' has id %lld, which another one has",
                              SHOWN(m->key), (long long)id);
        struct gd_str content = content_of(l, m->key, &kind);
        if (gd_vocab_find(v, content, kind) >= 0)
            return gd_err_set(l->err, GD_EMODEL, "token '%.*s' is there twice", SHOWN(m->key));
        gd_vocab_put(v, content, kind, (int32_t)id);
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        int32_t id = gd_vocab_find(v, (struct gd_str){&c, 1}, GD_TOKEN_BYTES);
        bool in_utf8 = byte < 0xF5 && byte != 0xC0 && byte != 0xC1;
        if (id < 0 && in_utf8)
            return gd_err_set(l->err, GD_EMODEL, "the vocabulary has no token for byte 0x%02X",
                              byte);
        v->byte_id[byte] = id;
        if (id >= 0)
            v->tokens[id].flags |= GD_TOKEN_MADE;
    }
    return GD_OK;
}

/* The two sides of a merge: ["a", "b"] or "a b". */
static bool merge_sides(const struct gd_json *m, struct gd_str *left, struct gd_str *right)
{
    if (m->type == GD_JSON_ARRAY) {
        if (m->n_children != 2 || !gd_json_is(m->child, GD_JSON_STRING) ||
            !gd_json_is(m->child->next, GD_JSON_STRING))
            return false;
        *left = m->child->str;
        *right = m->child->next->str;
        return true;
    }
    if (m->type != GD_JSON_STRING || m->str.len == 0)
        return false;
    const char *space = memchr(m->str.ptr, ' ', m->str.len);
    if (space == NULL)
        return false;
    size_t n = (size_t)(space - m->str.ptr);
    *left = (struct gd_str){m->str.ptr, n};
    *right = (struct gd_str){space + 1, m->str.len - n - 1};
    return right->len == 0 || memchr(right->ptr, ' ', right->len) == NULL;
}

static int load_merge(struct load *l, const struct gd_json *m, uint32_t rank)
{
    struct gd_vocab *v = &l->t->vocab;
    struct gd_str left, right;
    if (!merge_sides(m, &left, &right) || left.len == 0 || right.len == 0)
        return gd_err_set(l->err, GD_EMODEL, "merge %u is not two tokens: %.*s", rank,
                          SHOWN(m->raw));
    int32_t a = find_string(l, left), b = find_string(l, right), id = -1;
    if (a >= 0 && b >= 0) {
        struct gd_token *ta = &v->tokens[a], *tb = &v->tokens[b];
        uint32_t kind = ta->flags & tb->flags & GD_TOKEN_BYTES;
        if (kind == 0)
            return gd_err_set(l->err, GD_EMODEL,
                              "merge %u is of tokens outside of the byte alphabet: %.*s", rank,
                              SHOWN(m->raw));
        memcpy(l->scratch, v->pool + ta->offset, ta->len);
        memcpy(l->scratch + ta->len, v->pool + tb->offset, tb->len);
        id = gd_vocab_find(v, (struct gd_str){l->scratch, (size_t)ta->len + tb->len}, kind);
    }
    if (id < 0)
        return gd_err_set(l->err, GD_EMODEL, "merge %u names or makes an unknown token: %.*s", rank,
                          SHOWN(m->raw));
    v->tokens[id].flags |= GD_TOKEN_MADE;
    gd_vocab_put_pair(v, a, b, rank, id);
    return GD_OK;
}

static int load_model(struct load *l)
{
    const struct gd_json *vocab = gd_json_get(l->model, "vocab");
    const struct gd_json *merges = gd_json_get(l->model, "merges");
    if (!gd_json_is(vocab, GD_JSON_OBJECT) || !gd_json_is(merges, GD_JSON_ARRAY))
        return gd_err_set(
            l->err, GD_EMODEL,
            "'model' must have an object 'vocab' (is %s) and an array 'merges' (is %s)",
            gd_json_type_name(vocab), gd_json_type_name(merges));
    if (vocab->n_children > GD_TOKENIZER_VOCAB_MAX || merges->n_children > GD_TOKENIZER_MERGES_MAX)
        return gd_err_set(l->err, GD_ELIMIT, "the limits are %d tokens and %d merges",
                          GD_TOKENIZER_VOCAB_MAX, GD_TOKENIZER_MERGES_MAX);
    int rc = init_vocab(l, vocab, merges->n_children);
    if (rc == GD_OK)
        rc = load_vocab(l, vocab);
    uint32_t rank = 0;
    for (const struct gd_json *m = merges->child; m != NULL && rc == GD_OK; m = m->next) {
        struct gd_str text = m->str;
        bool comment =
            m->type == GD_JSON_STRING && text.len >= 8 && memcmp(text.ptr, "#version", 8) == 0;
        if (!comment)
            rc = load_merge(l, m, rank++);
    }
    return rc;
}

/* ---- added tokens ---- */

static int read_added(struct load *l, const struct gd_json *v, struct gd_added_token *token,
                      bool *normalized)
{
    static const char *const off[] = {"single_word", "lstrip", "rstrip"};
    const char *where = "added_tokens[].";
    int64_t id = 0;
    int rc = gd_json_want_str(v, where, "content", true, &token->content, l->err);
    if (rc == GD_OK)
        rc = gd_json_want_i64(v, where, "id", 0, GD_TOKENIZER_VOCAB_MAX - 1, &id, l->err);
    if (rc == GD_OK)
        rc = gd_json_want_bool(v, where, "special", &token->special, l->err);
    if (rc == GD_OK)
        rc = gd_json_want_bool(v, where, "normalized", normalized, l->err);
    token->id = (int32_t)id;
    for (size_t i = 0; i < sizeof off / sizeof off[0] && rc == GD_OK; i++) {
        bool on = false;
        rc = gd_json_want_bool(v, where, off[i], &on, l->err);
        if (rc == GD_OK && on)
            rc = gd_err_set(l->err, GD_EMODEL, "added token '%.*s': %s is not supported",
                            SHOWN(token->content), off[i]);
    }
    if (rc != GD_OK)
        return rc;
    if (token->content.len == 0 || token->content.len > GD_TOKENIZER_ADDED_BYTES_MAX)
        return gd_err_set(l->err, GD_EMODEL, "an added token has %zu bytes, must have 1 to %d",
                          token->content.len, GD_TOKENIZER_ADDED_BYTES_MAX);
    return gd_str_dup(&l->t->arena, token->content, &token->content) == GD_OK ? GD_OK
                                                                              : no_memory(l);
}

/* Gives the token its place in the vocabulary. */
static int place_added(struct load *l, struct gd_added_token token)
{
    struct gd_vocab *v = &l->t->vocab;
    int32_t id = find_string(l, token.content);
    uint32_t *flags = &v->tokens[token.id].flags;
    if (id < 0 && *flags == 0)
        gd_vocab_put_name(v, token.content, token.id);
    else if (id != token.id)
        return gd_err_set(l->err, GD_EMODEL, "added token '%.*s' has id %d, which is not its own",
                          SHOWN(token.content), token.id);
    if (token.special && (*flags & GD_TOKEN_MADE) != 0)
        return gd_err_set(l->err, GD_EMODEL, "special token '%.*s' could come out of plain text",
                          SHOWN(token.content));
    *flags |= token.special ? GD_TOKEN_SPECIAL : 0;
    return GD_OK;
}

/* The content as the normaliser leaves it, in the arena. */
static int normalise_content(struct load *l, struct gd_added_token *token)
{
    struct gd_buf b;
    gd_buf_init(&b, GD_TOKENIZER_ADDED_BYTES_MAX);
    int rc = gd_nfc_append(&b, token->content);
    if (rc == GD_OK)
        rc = gd_str_dup(&l->t->arena, (struct gd_str){b.data, b.len}, &token->content);
    gd_buf_free(&b);
    return rc == GD_OK ? rc : gd_err_set(l->err, rc, "an added token cannot be normalised");
}

static int load_added(struct load *l)
{
    struct gd_tokenizer *t = l->t;
    size_t n = l->added != NULL ? l->added->n_children : 0;
    if (n > GD_TOKENIZER_ADDED_MAX)
        return gd_err_set(l->err, GD_ELIMIT, "there are %zu added tokens, the limit is %d", n,
                          GD_TOKENIZER_ADDED_MAX);
    if (gd_added_init(&t->all, n) != GD_OK || gd_added_init(&t->plain, n) != GD_OK ||
        gd_added_init(&t->composed, n) != GD_OK)
        return no_memory(l);
    const struct gd_json *v = n > 0 ? l->added->child : NULL;
    for (; v != NULL; v = v->next) {
        struct gd_added_token token = {0};
        bool normalized = false;
        int rc = read_added(l, v, &token, &normalized);
        if (rc == GD_OK)
            rc = place_added(l, token);
        if (rc != GD_OK)
            return rc;
        gd_added_put(&t->all, token);
        t->added_breaks |= memchr(token.content.ptr, '\n', token.content.len) != NULL;
        if (normalized && t->nfc)
            rc = normalise_content(l, &token);
        if (rc != GD_OK)
            return rc;
        gd_added_put(normalized ? &t->composed : &t->plain, token);
    }
    struct gd_str twice;
    if (!gd_added_sort(&t->all, &twice) || !gd_added_sort(&t->plain, &twice) ||
        !gd_added_sort(&t->composed, &twice))
        return gd_err_set(l->err, GD_EMODEL, "added token '%.*s' is there twice", SHOWN(twice));
    return GD_OK;
}

/* Marks the tokens that a piece of their own bytes becomes. */
static int find_whole(struct load *l)
{
    struct gd_vocab *v = &l->t->vocab;
    struct gd_bpe_scratch scratch = {0};
    struct gd_ids ids = {0};
    int rc = GD_OK;
    for (uint32_t id = 0; id < v->n_ids && rc == GD_OK; id++) {
        struct gd_token *token = &v->tokens[id];
        if ((token->flags & GD_TOKEN_BYTES) == 0 || (token->flags & GD_TOKEN_SPECIAL) != 0 ||
            token->len == 0)
            continue;
        struct gd_str bytes = {v->pool + token->offset, token->len};
        ids.len = 0;
        if (!l->ignore_merges)
            rc = gd_bpe_merge(v, &scratch, bytes, &ids);
        if (!l->ignore_merges && (ids.len != 1 || ids.data[0] != (int32_t)id))
            continue;
        token->flags |= GD_TOKEN_WHOLE;
        if (token->len > v->whole_len_max)
            v->whole_len_max = token->len;
    }
    gd_bpe_scratch_free(&scratch);
    gd_ids_free(&ids);
    return rc == GD_OK ? rc : no_memory(l);
}

static int load_all(struct load *l)
{
    l->model = gd_json_get(l->root, "model");
    l->added = gd_json_get(l->root, "added_tokens");
    if (!gd_json_is(l->model, GD_JSON_OBJECT))
        return gd_err_set(l->err, GD_EMODEL, "'model' must be an object, is %s",
                          gd_json_type_name(l->model));
    if (l->added != NULL && l->added->type == GD_JSON_NULL)
        l->added = NULL;
    if (l->added != NULL && l->added->type != GD_JSON_ARRAY)
        return gd_err_set(l->err, GD_EMODEL, "'added_tokens' must be an array, is %s",
                          gd_json_type_name(l->added));
    int (*const steps[])(struct load *) = {check_model_options, check_normalizer, check_decoder,
                                           load_pre_tokenizers, load_model,       load_added,
                                           find_whole};
    int rc = GD_OK;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && rc == GD_OK; i++)
        rc = steps[i](l);
    return rc;
}

int gd_tokenizer_parse(struct gd_tokenizer **out, struct gd_str json, struct gd_err *err)
{
    struct gd_err own = {0};
    struct load l = {.err = err != NULL ? err : &own};
    struct gd_arena arena;
    gd_arena_init(&arena, GD_FILE_ARENA_BYTES);
    int rc = gd_json_parse(&arena, json, &GD_JSON_FILE_LIMITS, &l.root, l.err);
    if (rc != GD_OK)
        goto done;
    if ((l.root->flags & GD_JSON_F_DUPKEY) != 0) {
        rc = gd_err_set(l.err, GD_EMODEL, "an object of the file has the same name twice");
        goto done;
    }
    l.t = calloc(1, sizeof *l.t);
    l.scratch = malloc(json.len + 1);
    if (l.t == NULL || l.scratch == NULL) {
        rc = no_memory(&l);
        goto done;
    }
    gd_arena_init(&l.t->arena, GD_FILE_ARENA_BYTES);
    rc = load_all(&l);
    if (rc == GD_EFIELD) /* a field of the model's file, not of a request */
        rc = l.err->code = GD_EMODEL;
done:
    if (rc == GD_OK)
        *out = l.t;
    else
        gd_tokenizer_close(l.t);
    free(l.scratch);
    gd_arena_free(&arena);
    return rc;
}

int gd_tokenizer_open(struct gd_tokenizer **out, const char *path, struct gd_err *err)
{
    int fd = -1;
    uint64_t bytes = 0;
    char *text = NULL;
    int rc = gd_file_open_needed(path, &fd, &bytes, err);
    if (rc != GD_OK)
        return rc;
    if (bytes > GD_FILE_JSON_BYTES_MAX) {
        rc =
            gd_err_set(err, GD_ELIMIT, "file '%s' is over %zu bytes", path, GD_FILE_JSON_BYTES_MAX);
        goto done;
    }
    text = malloc((size_t)bytes + 1);
    if (text == NULL) {
        rc = gd_err_set(err, GD_ENOMEM, "no memory for file '%s'", path);
        goto done;
    }
    rc = gd_file_read_at(fd, path, 0, text, (size_t)bytes, err);
    if (rc != GD_OK)
        goto done;
    rc = gd_tokenizer_parse(out, (struct gd_str){text, (size_t)bytes}, err);
    if (rc != GD_OK)
        gd_err_prefix(err, "file '%s'", path);
done:
    free(text);
    close(fd);
    return rc;
}
