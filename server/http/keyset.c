/* keyset.c - reads a key file. See guardian/keys.h for its fields.
 *
 * A table names every field and its reader, so that unknown fields are refused. Messages name the
 * path of a field and what it must be, and never tell a value: somebody will put a key where its hash
 * belongs. Strings are copied into the set's own arena; the parsed JSON is dropped. */
#include "keyset.h"

#include "guardian/json.h"

#include <math.h>
#include <string.h>

#define SECOND_NS 1000000000.0
#define WHERE_BYTES 32

static const struct gd_json_limits file_limits = {
    .bytes_max = GD_KEYS_FILE_BYTES_MAX,
    .nodes_max = GD_KEYS_FILE_NODES_MAX,
    .depth_max = 8,
    .key_bytes_max = 64,
};

struct loader {
    struct gd_keyset *set;
    struct gd_err *err;
    char where[WHERE_BYTES]; /* "keys[3]": the key that is read */
    double rate;             /* of it; 0: none was given */
    int64_t burst;           /* the same */
    bool has_hash;
};

static int refuse(struct loader *l, const char *field, const char *what)
{
    return gd_err_set(l->err, GD_EUSAGE, "%s.%s must be %s", l->where, field, what);
}

static int no_memory(struct gd_err *err)
{
    gd_err_set(err, GD_ENOMEM, "no memory for the keys");
    return GD_ENOMEM; /* said plainly, for analyzers */
}

bool gd_key_name_fits(struct gd_str name)
{
    static const char others[] = "-_.:/@0123456789";
    for (size_t i = 0; i < name.len; i++) {
        const char c = name.ptr[i];
        const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && memchr(others, c, sizeof(others) - 1) == NULL) {
            return false;
        }
    }
    return name.len > 0 && name.len <= GD_KEY_NAME_BYTES_MAX;
}

static int read_name(struct loader *l, const char *field, const struct gd_json *v,
                     struct gd_str *out)
{
    if (!gd_json_is(v, GD_JSON_STRING) || !gd_key_name_fits(v->str)) {
        return refuse(l, field, "a string of 1 to 64 letters, digits and -_.:/@");
    }
    return gd_str_dup(&l->set->arena, v->str, out) == 0 ? GD_OK : no_memory(l->err);
}

static int read_id(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    return read_name(l, "id", v, &k->id);
}

static int read_tenant(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    return read_name(l, "tenant", v, &k->tenant);
}

static int read_sha256(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    static const char digits[] = "0123456789abcdef";
    bool fits = gd_json_is(v, GD_JSON_STRING) && v->str.len == 2 * sizeof(k->hash);
    for (size_t i = 0; fits && i < v->str.len; i++) {
        const char *at = memchr(digits, v->str.ptr[i], sizeof(digits) - 1);
        fits = at != NULL;
        const unsigned digit = fits ? (unsigned)(at - digits) : 0;
        k->hash[i / 2] = (uint8_t)((unsigned)k->hash[i / 2] << 4 | digit);
    }
    l->has_hash = true;
    return fits ? GD_OK : refuse(l, "sha256", "a string of 64 lower-case hex digits");
}

/* A name as policies have them. */
static bool is_policy_name(const struct gd_json *v)
{
    if (!gd_json_is(v, GD_JSON_STRING) || v->str.len == 0 || v->str.len > GD_KEY_NAME_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < v->str.len; i++) {
        if (v->str.ptr[i] < '!' || v->str.ptr[i] > '~' || v->str.ptr[i] == '@') {
            return false;
        }
    }
    return true;
}

static int read_policies(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    char field[WHERE_BYTES];
    if (!gd_json_is(v, GD_JSON_ARRAY) || v->n_children == 0 ||
        v->n_children > GD_KEY_POLICIES_MAX) {
        return refuse(l, "policies", "an array of 1 to 16 names of policies");
    }
    k->policies = gd_arena_calloc(&l->set->arena, v->n_children, sizeof(*k->policies));
    if (k->policies == NULL) {
        return no_memory(l->err);
    }
    for (const struct gd_json *p = v->child; p != NULL; p = p->next) {
        snprintf(field, sizeof(field), "policies[%u]", (unsigned)k->n_policies);
        if (!is_policy_name(p)) {
            return refuse(l, field, "a string of 1 to 64 visible ASCII characters without '@'");
        }
        for (uint32_t i = 0; i < k->n_policies; i++) {
            if (gd_str_eq(k->policies[i], p->str)) {
                return refuse(l, field, "another name than those before it");
            }
        }
        if (gd_str_dup(&l->set->arena, p->str, &k->policies[k->n_policies]) != 0) {
            return no_memory(l->err);
        }
        k->n_policies++;
    }
    return GD_OK;
}

static int read_rate(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    (void)k;
    if (!gd_json_f64(v, &l->rate) || l->rate < GD_KEY_RATE_MIN || l->rate > GD_KEY_RATE_MAX) {
        return refuse(l, "requests_per_second", "a number from 0.001 to 100000");
    }
    return GD_OK;
}

static int read_burst(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    (void)k;
    if (!gd_json_i64(v, &l->burst) || l->burst < 1 || l->burst > GD_KEY_BURST_MAX) {
        return refuse(l, "burst", "an integer from 1 to 1000000");
    }
    return GD_OK;
}

static int read_concurrency(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    int64_t n = 0;
    if (!gd_json_i64(v, &n) || n < 1 || n > GD_KEY_CONCURRENCY_MAX) {
        return refuse(l, "concurrency", "an integer from 1 to 65536");
    }
    k->limits.concurrency = (uint32_t)n;
    return GD_OK;
}

static const struct {
    const char *name;
    int (*read)(struct loader *l, const struct gd_json *v, struct gd_key *k);
} FIELDS[] = {
    {"id", read_id},
    {"sha256", read_sha256},
    {"tenant", read_tenant},
    {"policies", read_policies},
    {"requests_per_second", read_rate},
    {"burst", read_burst},
    {"concurrency", read_concurrency},
};
#define N_FIELDS (sizeof(FIELDS) / sizeof(FIELDS[0]))

/* Tells the name when it looks like one of a field, not like a key. */
static int refuse_member(struct loader *l, struct gd_str name)
{
    bool tell = name.len > 0 && name.len < WHERE_BYTES;
    for (size_t i = 0; i < name.len; i++) {
        tell = tell && (name.ptr[i] == '_' || (name.ptr[i] >= 'a' && name.ptr[i] <= 'z'));
    }
    return gd_err_set(l->err, GD_EUSAGE,
                      "%s%s%.*s is not known: a key has id, sha256, tenant, policies, "
                      "requests_per_second, burst and concurrency, and nothing else",
                      l->where, tell ? "." : ": a member", tell ? (int)name.len : 0, name.ptr);
}

static int read_field(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    for (size_t i = 0; i < N_FIELDS; i++) {
        if (gd_str_eqz(v->key, FIELDS[i].name)) {
            return FIELDS[i].read(l, v, k);
        }
    }
    return refuse_member(l, v->key);
}

static void set_limits(const struct loader *l, struct gd_key *k)
{
    if (l->rate > 0.0) {
        const uint64_t burst = l->burst > 0 ? (uint64_t)l->burst : (uint64_t)ceil(l->rate);
        k->limits.cost_ns = (uint64_t)llround(SECOND_NS / l->rate);
        k->limits.burst_ns = burst * k->limits.cost_ns;
    }
}

static int read_key(struct loader *l, const struct gd_json *v, struct gd_key *k)
{
    if (!gd_json_is(v, GD_JSON_OBJECT)) {
        return gd_err_set(l->err, GD_EUSAGE, "%s must be an object, is %s", l->where,
                          gd_json_type_name(v));
    }
    if ((v->flags & GD_JSON_F_DUPKEY) != 0) {
        return gd_err_set(l->err, GD_EUSAGE, "%s must not have a member twice", l->where);
    }
    l->rate = 0.0;
    l->burst = 0;
    l->has_hash = false;
    for (const struct gd_json *m = v->child; m != NULL; m = m->next) {
        int rc = read_field(l, m, k);
        if (rc != GD_OK) {
            return rc;
        }
    }
    if (k->id.len == 0 || !l->has_hash) {
        return refuse(l, k->id.len == 0 ? "id" : "sha256", "there");
    }
    if (l->burst > 0 && l->rate <= 0.0) {
        return refuse(l, "requests_per_second", "there when there is a burst");
    }
    if (k->tenant.len == 0) {
        k->tenant = k->id;
    }
    set_limits(l, k);
    return GD_OK;
}

static int by_hash(const void *a, const void *b)
{
    const struct gd_key *x = a, *y = b;
    return memcmp(x->hash, y->hash, sizeof(x->hash));
}

static int by_id(const void *a, const void *b)
{
    const struct gd_key *x = *(const struct gd_key *const *)a;
    const struct gd_key *y = *(const struct gd_key *const *)b;
    const size_t n = x->id.len < y->id.len ? x->id.len : y->id.len;
    const int order = memcmp(x->id.ptr, y->id.ptr, n);
    return order != 0 ? order : (x->id.len > y->id.len) - (x->id.len < y->id.len);
}

/* Of two keys that have the same: the later one is refused. */
static int refuse_twin(struct loader *l, const struct gd_key *a, const struct gd_key *b,
                       const char *field)
{
    const uint32_t low = a->place < b->place ? a->place : b->place;
    const uint32_t high = a->place < b->place ? b->place : a->place;
    if (high == GD_KEY_PLACE_ENV) {
        return gd_err_set(l->err, GD_EUSAGE,
                          "keys[%u].%s must be another than that of the key in the environment",
                          (unsigned)low, field);
    }
    return gd_err_set(l->err, GD_EUSAGE, "keys[%u].%s must be another than that of keys[%u]",
                      (unsigned)high, field, (unsigned)low);
}

/* Sorts the keys, and refuses hashes and ids that are there twice. */
static int settle(struct loader *l)
{
    struct gd_keyset *s = l->set;
    struct gd_key **order = calloc(s->n, sizeof(struct gd_key *));
    int rc = GD_OK;
    if (order == NULL) {
        return no_memory(l->err);
    }
    qsort(s->keys, s->n, sizeof(s->keys[0]), by_hash);
    for (uint32_t i = 0; i < s->n && rc == GD_OK; i++) {
        order[i] = &s->keys[i];
        memcpy(s->hashes[i], s->keys[i].hash, sizeof(s->hashes[i]));
        if (i > 0 && by_hash(&s->keys[i - 1], &s->keys[i]) == 0) {
            rc = refuse_twin(l, &s->keys[i - 1], &s->keys[i], "sha256");
        }
    }
    if (rc == GD_OK) {
        qsort(order, s->n, sizeof(struct gd_key *), by_id);
    }
    for (uint32_t i = 1; i < s->n && rc == GD_OK; i++) {
        if (by_id(&order[i - 1], &order[i]) == 0) {
            rc = refuse_twin(l, order[i - 1], order[i], "id");
        }
    }
    free(order);
    return rc;
}

static int make_room(struct loader *l, uint32_t n)
{
    struct gd_keyset *s = l->set;
    s->keys = gd_arena_calloc(&s->arena, n, sizeof(s->keys[0]));
    s->hashes = gd_arena_calloc(&s->arena, n, sizeof(s->hashes[0]));
    return s->keys != NULL && s->hashes != NULL ? GD_OK : no_memory(l->err);
}

static int read_root(struct loader *l, const struct gd_json *root, bool env)
{
    const struct gd_json *list = gd_json_get(root, "keys");
    if (list == NULL || root->n_children != 1) {
        return gd_err_set(l->err, GD_EUSAGE,
                          "the file must be an object with one member, which is 'keys'");
    }
    if (!gd_json_is(list, GD_JSON_ARRAY) || list->n_children == 0 ||
        list->n_children > GD_KEYS_MAX) {
        return gd_err_set(l->err, GD_EUSAGE, "keys must be an array of 1 to %d objects",
                          GD_KEYS_MAX);
    }
    int rc = make_room(l, list->n_children + (env ? 1 : 0));
    for (const struct gd_json *v = list->child; v != NULL && rc == GD_OK; v = v->next) {
        struct gd_key *k = &l->set->keys[l->set->n];
        k->place = l->set->n++;
        snprintf(l->where, sizeof(l->where), "keys[%u]", (unsigned)k->place);
        rc = read_key(l, v, k);
    }
    return rc;
}

static int read_text(struct loader *l, struct gd_str json, bool env)
{
    struct gd_arena scratch;
    const struct gd_json *root = NULL;
    gd_arena_init(&scratch, GD_KEYS_ARENA_BYTES);
    int rc = gd_json_parse(&scratch, json, &file_limits, &root, l->err);
    if (rc == GD_OK) {
        rc = read_root(l, root, env);
    } else if (rc != GD_ENOMEM && l->err != NULL) {
        l->err->code = GD_EUSAGE;
    }
    gd_arena_free(&scratch);
    return rc == GD_OK || rc == GD_ENOMEM ? rc : GD_EUSAGE;
}

int gd_keyset_parse(struct gd_keyset **out, const struct gd_str *json, const uint8_t *env_hash,
                    struct gd_err *err)
{
    struct gd_keyset *s = calloc(1, sizeof(*s));
    struct loader l = {.set = s, .err = err};
    if (s == NULL) {
        return no_memory(err);
    }
    atomic_init(&s->refs, 1);
    gd_arena_init(&s->arena, GD_KEYS_ARENA_BYTES);
    int rc = json != NULL ? read_text(&l, *json, env_hash != NULL) : make_room(&l, 1);
    if (rc == GD_OK && env_hash != NULL) {
        struct gd_key *k = &s->keys[s->n++];
        *k = (struct gd_key){
            .id = GD_STR("env"), .tenant = GD_STR("env"), .place = GD_KEY_PLACE_ENV};
        memcpy(k->hash, env_hash, sizeof(k->hash));
    }
    rc = rc == GD_OK ? settle(&l) : rc;
    if (rc != GD_OK) {
        gd_keyset_drop(s);
        return rc;
    }
    *out = s;
    return GD_OK;
}

const struct gd_key *gd_keyset_find(const struct gd_keyset *s, const struct gd_key *like)
{
    const struct gd_key *k = bsearch(like, s->keys, s->n, sizeof(s->keys[0]), by_hash);
    return k != NULL && gd_str_eq(k->id, like->id) ? k : NULL;
}

static void drop_use(struct gd_key_use *u)
{
    if (u != NULL && atomic_fetch_sub(&u->refs, 1) == 1) {
        pthread_mutex_destroy(&u->lock);
        free(u);
    }
}

void gd_keyset_drop(struct gd_keyset *s)
{
    if (s == NULL || atomic_fetch_sub(&s->refs, 1) != 1) {
        return;
    }
    for (uint32_t i = 0; i < s->n; i++) {
        drop_use(s->keys[i].use);
    }
    gd_arena_free(&s->arena);
    free(s);
}
