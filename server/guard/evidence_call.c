/* evidence_call.c - a call beside the catalogue, the request and the calls before. See evidence.h. */
#include "evidence_parts.h"

#include <assert.h>
#include <string.h>

#define PAIRED_BYTES 128 /* of a name */

static bool has_type(const struct gd_json *v, struct gd_str type)
{
    switch (v->type) {
    case GD_JSON_STRING:
        return gd_str_eqz(type, "string");
    case GD_JSON_NUMBER:
        return gd_str_eqz(type, "number") || gd_str_eqz(type, "integer");
    case GD_JSON_TRUE:
    case GD_JSON_FALSE:
        return gd_str_eqz(type, "boolean");
    case GD_JSON_ARRAY:
        return gd_str_eqz(type, "array");
    case GD_JSON_OBJECT:
        return gd_str_eqz(type, "object");
    case GD_JSON_NULL:
        break;
    }
    return true;
}

const struct gd_json *gd_evidence_member(const struct gd_json *obj, struct gd_str key)
{
    const struct gd_json *c = gd_json_is(obj, GD_JSON_OBJECT) ? obj->child : NULL;
    const struct gd_json *last = NULL;
    for (uint32_t i = 0; c != NULL && i < GD_EVIDENCE_PROPERTIES_MAX; c = c->next, i++)
        if (gd_str_eq(c->key, key))
            last = c;
    return last;
}

static bool lists(const struct gd_json *required, struct gd_str key)
{
    const struct gd_json *c = gd_json_is(required, GD_JSON_ARRAY) ? required->child : NULL;
    for (uint32_t i = 0; c != NULL && i < GD_EVIDENCE_PROPERTIES_MAX; c = c->next, i++)
        if (gd_json_is(c, GD_JSON_STRING) && gd_str_eq(c->str, key))
            return true;
    return false;
}

/* The first GD_NOTE_ARGUMENTS_MAX arguments, and as many required ones, against the schema. */
static void match_schema(const struct gd_json *schema, const struct gd_json *arguments, float *out)
{
    const struct gd_json *required = gd_json_get(schema, "required");
    const struct gd_json *properties = gd_json_get(schema, "properties");
    const struct gd_json *c = gd_json_is(required, GD_JSON_ARRAY) ? required->child : NULL;
    uint32_t missing = 0, unknown = 0, mistyped = 0, optional = 0;
    for (uint32_t i = 0; c && i < GD_NOTE_ARGUMENTS_MAX; c = c->next, i++)
        missing += gd_json_is(c, GD_JSON_STRING) && !gd_evidence_member(arguments, c->str);
    c = gd_json_is(arguments, GD_JSON_OBJECT) ? arguments->child : NULL;
    for (uint32_t i = 0; c && i < GD_NOTE_ARGUMENTS_MAX; c = c->next, i++) {
        const struct gd_json *property = gd_evidence_member(properties, c->key);
        const struct gd_json *type = gd_json_get(property, "type");
        unknown += property == NULL;
        mistyped += gd_json_is(type, GD_JSON_STRING) && !has_type(c, type->str);
        optional += !lists(required, c->key);
    }
    out[AT_missing] = (float)missing;
    out[AT_unknown] = (float)unknown;
    out[AT_mistyped] = (float)mistyped;
    out[AT_optional] = (float)optional;
}

static uint32_t lower(char c)
{
    return (uint32_t)(unsigned char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
}

/* The first PAIRED_BYTES letters and digits of a name, in lower case. */
static struct gd_str plain_name(struct gd_str name, char out[PAIRED_BYTES])
{
    size_t n = 0;
    for (size_t i = 0; i < name.len && n < PAIRED_BYTES; i++) {
        const char c = (char)lower(name.ptr[i]);
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c & 0x80))
            out[n++] = c;
    }
    return (struct gd_str){out, n};
}

/* The number of a pair that begins at i. */
static uint32_t pair_at(struct gd_str name, size_t i)
{
    return lower(name.ptr[i]) << 8 | lower(name.ptr[i + 1]);
}

static struct gd_str paired(struct gd_str name)
{
    return (struct gd_str){name.ptr, name.len < PAIRED_BYTES ? name.len : PAIRED_BYTES};
}

/* Adds the pairs of a name; how many of the new ones `other` has. */
static uint32_t add_pairs(struct gd_pairs *p, struct gd_str name, const struct gd_pairs *other)
{
    uint32_t common = 0;
    for (size_t i = 0; i + 1 < paired(name).len; i++) {
        const uint32_t g = pair_at(name, i);
        const uint64_t bit = (uint64_t)1 << (g % 64);
        if (p->bits[g / 64] & bit)
            continue;
        p->bits[g / 64] |= bit;
        p->n++;
        common += (other->bits[g / 64] & bit) != 0;
    }
    return common;
}

/* Dice similarity of a name with one whose pairs are known. */
static float dice(struct gd_measure *m, const struct gd_pairs *known, struct gd_str name)
{
    struct gd_pairs *p = &m->other;
    const uint32_t common = add_pairs(p, name, known);
    const float similarity = gd_share(2 * common, known->n + p->n);
    for (size_t i = 0; i + 1 < paired(name).len; i++)
        p->bits[pair_at(name, i) / 64] = 0;
    p->n = 0;
    return similarity;
}

/* What stands before the last separator of a name, with it. */
static struct gd_str namespace_of(struct gd_str name)
{
    size_t n = 0;
    for (size_t i = 0; i + 1 < name.len; i++) {
        const char c = name.ptr[i];
        if (c == '/' || c == '.' || c == ':' || (c == '_' && i > 0 && name.ptr[i - 1] == '_'))
            n = i + 1;
    }
    return (struct gd_str){name.ptr, n};
}

static uint32_t count_parameters(const struct gd_tool *t)
{
    const struct gd_json *properties = gd_json_get(t->schema, "properties");
    return gd_json_is(properties, GD_JSON_OBJECT) ? properties->n_children : 0;
}

/* The functions most like the called one: by name, name without namespace, and description. */
static void find_twins(struct gd_measure *m, struct gd_str name, int32_t own, float *out)
{
    const struct gd_notes *n = m->notes;
    const struct gd_str space = namespace_of(name);
    char plain[PAIRED_BYTES];
    const struct gd_str core = {name.ptr + space.len, name.len - space.len};
    int32_t twin = -1;
    uint32_t kin = 0;
    float closest = 0;
    memset(&m->called, 0, sizeof m->called);
    memset(&m->core, 0, sizeof m->core);
    add_pairs(&m->called, name, &m->called);
    add_pairs(&m->core, plain_name(core, plain), &m->core);
    out[AT_power_stems] = (float)gd_evidence_stems(plain_name(core, plain));
    out[AT_twin_name] = out[AT_twin_about] = out[AT_twin_core] = out[AT_twin_words] = 0;
    for (uint32_t i = 0; i < n->n_tools; i++) {
        const struct gd_noted_tool *t = &n->tools[i];
        if ((int32_t)i == own)
            continue;
        const struct gd_str other = n->traj->tools[t->tool].name;
        const struct gd_str others = namespace_of(other);
        const float by_name = dice(m, &m->called, other);
        const struct gd_str rest = {other.ptr + others.len, other.len - others.len};
        const float by_core = dice(m, &m->core, plain_name(rest, plain));
        const uint32_t words = gd_keyset_count(&n->words, &m->name.set, t->name, t->n_name);
        const float by_words = gd_share(2 * words, m->name.n + t->n_name);
        const uint32_t about = gd_keyset_count(&n->words, &m->about.set, t->about, t->n_about);
        const float by_about = gd_share(2 * about, m->about.n + t->n_about);
        kin += gd_str_eq(space, others);
        out[AT_twin_name] = by_name > out[AT_twin_name] ? by_name : out[AT_twin_name];
        out[AT_twin_about] = by_about > out[AT_twin_about] ? by_about : out[AT_twin_about];
        out[AT_twin_words] = by_words > out[AT_twin_words] ? by_words : out[AT_twin_words];
        out[AT_twin_core] = by_core > out[AT_twin_core] ? by_core : out[AT_twin_core];
        if (by_core + by_words > closest) {
            closest = by_core + by_words;
            twin = (int32_t)i;
        }
    }
    out[AT_kin] = gd_capped(kin);
    out[AT_after_twin] = out[AT_more_parameters] = -1;
    if (twin < 0 || own < 0)
        return;
    out[AT_after_twin] = (float)(own > twin);
    out[AT_more_parameters] = gd_capped(count_parameters(&n->traj->tools[n->tools[own].tool])) -
                              gd_capped(count_parameters(&n->traj->tools[n->tools[twin].tool]));
}

static_assert(AT_from_new - AT_from_user == (int)GD_FROM_NEW - (int)GD_FROM_USER,
              "in the order of gd_origin");

/* What the notes found when the call was made. */
static void copy_found(const struct gd_noted_call *c, float *out)
{
    for (int o = 0; o < GD_ORIGINS; o++)
        out[AT_from_user + o] = c->looked ? (float)c->from[o] : -1;
    out[AT_again] = (float)(c->again + (c->spoke_since ? 3 : 0));
    out[AT_same_name] = gd_capped(c->same_name);
    out[AT_name_asked] = (float)c->asked;
    out[AT_name_asked_share] = gd_share(c->asked, c->n_name);
    out[AT_known] = (float)(c->tool >= 0);
    out[AT_fit] = gd_capped(c->fit);
    out[AT_fit_gap] = gd_capped(c->best_fit - c->fit);
    out[AT_better] = gd_capped(c->better);
}

/* What came of the same call before. */
static void measure_again(const struct gd_measure *m, const struct gd_noted_call *c, float *out)
{
    const struct gd_notes *n = m->notes;
    out[AT_again_between] = out[AT_again_trouble] = out[AT_again_open] = -1;
    if (c->twin < 0)
        return;
    const struct gd_noted_call *twin = &n->calls[c->twin];
    out[AT_again_between] = gd_capped((uint32_t)(c - twin) - 1);
    if (twin->result == UINT32_MAX)
        return;
    out[AT_again_trouble] = m->results[c->twin].trouble;
    out[AT_again_open] = m->results[c->twin].open;
}

static float count_bits(uint32_t bits)
{
    uint32_t count = 0;
    for (; bits != 0; bits &= bits - 1)
        count++;
    return (float)count;
}

/* What the name says is done, beside what is asked for. */
static void measure_verbs(const struct gd_measure *m, uint32_t lists, float *out)
{
    const uint32_t strong =
        1u << GD_LIST_REMOVES | 1u << GD_LIST_SENDS | 1u << GD_LIST_PAYS | 1u << GD_LIST_RUNS;
    const uint32_t verbs = strong | 1u << GD_LIST_MAKES | 1u << GD_LIST_BOOKS |
                           1u << GD_LIST_EDITS | 1u << GD_LIST_FINDS;
    out[AT_verbs_asked] = count_bits(lists & verbs & m->verbs);
    out[AT_verbs_strange] = count_bits(lists & verbs & ~m->verbs);
    out[AT_strong_strange] = count_bits(lists & strong & ~m->verbs);
}

/* The share of what is asked for that the call's name, description or arguments have. */
static float covered(const struct gd_measure *m)
{
    const struct gd_words *w = &m->notes->words;
    uint32_t count = 0;
    for (uint32_t i = 0; i < m->asked.n; i++) {
        const uint32_t *key = &m->asked.key[i];
        count += gd_keyset_count(w, &m->name.set, key, 1) ||
                 gd_keyset_count(w, &m->about.set, key, 1) ||
                 gd_keyset_count(w, &m->arguments.set, key, 1);
    }
    return gd_share(count, m->asked.n);
}

void gd_evidence_measure_call(struct gd_measure *m, const struct gd_noted_call *c,
                              struct gd_measured_call *call)
{
    float *out = call->of;
    struct gd_notes *n = m->notes;
    struct gd_words *w = &n->words;
    const struct gd_event *ev = &n->traj->events[c->event];
    const struct gd_tool *tool = c->tool >= 0 ? &n->traj->tools[n->tools[c->tool].tool] : NULL;
    float listed[GD_LISTS];
    memset(&m->name, 0, sizeof m->name);
    memset(&m->about, 0, sizeof m->about);
    memset(&m->arguments, 0, sizeof m->arguments);
    copy_found(c, out);
    measure_again(m, c, out);

    gd_words_of(w, gd_head(ev->name), true);
    gd_evidence_count_lists(w, listed);
    gd_evidence_add_keys(w, &m->name);
    measure_verbs(m, gd_evidence_lists(listed), out);
    out[AT_removes] = listed[GD_LIST_REMOVES];
    out[AT_power_name] = listed[GD_LIST_POWER];
    out[AT_changes] = listed[GD_LIST_CHANGES];
    out[AT_rules_name] = listed[GD_LIST_RULES];
    out[AT_reads] = listed[GD_LIST_READS];
    out[AT_power_about] = -1;
    if (tool) {
        gd_words_of(w, gd_head(tool->description), false);
        gd_evidence_count_lists(w, listed);
        gd_evidence_add_keys(w, &m->about);
        out[AT_power_about] = listed[GD_LIST_POWER];
    }
    find_twins(m, ev->name, c->tool, out);
    out[AT_missing] = out[AT_unknown] = out[AT_mistyped] = out[AT_optional] = -1;
    if (tool && gd_json_is(tool->schema, GD_JSON_OBJECT))
        match_schema(tool->schema, ev->payload, out);
    gd_evidence_values(m, ev, tool, call);
    out[AT_about_asked] = gd_evidence_share_in(m, &m->about, &m->asked);
    out[AT_arguments_asked] = gd_evidence_share_in(m, &m->arguments, &m->asked);
    out[AT_covered] = covered(m);
}
