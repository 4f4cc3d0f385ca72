/* catalogue.c - tool definitions in a prompt: all at once where they are few, else when they are
 * called. See render.h and guardian/prompt.h.
 *
 * Names of tools and of called functions are numbered once by sorting, so that looking for a
 * function is comparing numbers. Similarity is counted on a bit set of the called name's bigrams.
 */
#include "render.h"
#include "text.h"

#include <string.h>

#define NAME_BYTES_COMPARED 128 /* of a name, for similarity */

enum { NAME_CALLED = 1, NAME_ANNOUNCED = 2 };

static void put_type(struct gd_buf *b, const struct gd_json *spec)
{
    const struct gd_json *type = gd_json_get(spec, "type");
    if (gd_json_is(type, GD_JSON_STRING))
        gd_text_sanitise(b, type->str);
    else
        gd_buf_z(b, "any");
}

/* A set of names: sorted, so that a schema of many required properties costs n log n. */
struct names {
    struct gd_str *at;
    size_t n;
};

static int compare_strs(const void *x, const void *y)
{
    const struct gd_str *p = x;
    const struct gd_str *q = y;
    if (p->len != q->len)
        return p->len < q->len ? -1 : 1;
    return p->len ? memcmp(p->ptr, q->ptr, p->len) : 0;
}

static int read_required(struct gd_arena *a, const struct gd_json *schema, struct names *out)
{
    const struct gd_json *required = gd_json_get(schema, "required");
    *out = (struct names){NULL, 0};
    if (!gd_json_is(required, GD_JSON_ARRAY) || required->n_children == 0)
        return GD_OK;
    out->at = gd_arena_calloc(a, required->n_children, sizeof *out->at);
    if (!out->at)
        return GD_ENOMEM;
    for (const struct gd_json *r = required->child; r; r = r->next) {
        if (r->type == GD_JSON_STRING)
            out->at[out->n++] = r->str;
    }
    qsort(out->at, out->n, sizeof *out->at, compare_strs);
    return GD_OK;
}

static int put_tool(struct gd_buf *b, const struct gd_tool *tool, struct gd_arena *a)
{
    struct names required;
    const int rc = read_required(a, tool->schema, &required);
    if (rc != GD_OK)
        return rc;
    gd_text_name(b, tool->name);
    gd_buf_add(b, "(", 1);
    const struct gd_json *properties = gd_json_get(tool->schema, "properties");
    const bool object = gd_json_is(properties, GD_JSON_OBJECT);
    for (const struct gd_json *p = object ? properties->child : NULL; p; p = p->next) {
        const bool needed = required.n > 0 && bsearch(&p->key, required.at, required.n,
                                                      sizeof *required.at, compare_strs);
        if (p != properties->child)
            gd_buf_add(b, ", ", 2);
        gd_text_sanitise(b, p->key);
        gd_buf_z(b, needed ? ": " : "?: ");
        put_type(b, p);
    }
    gd_buf_add(b, ")", 1);
    if (tool->description.len > 0) {
        gd_buf_add(b, " - ", 3);
        gd_text_sanitise(b, tool->description);
    }
    return GD_OK;
}

struct named {
    struct gd_str name;
    uint32_t *number; /* where its number goes */
};

static int compare_names(const void *x, const void *y)
{
    return compare_strs(&((const struct named *)x)->name, &((const struct named *)y)->name);
}

static int number_names(struct gd_render *r, struct gd_arena *a)
{
    const struct gd_trajectory *t = r->traj;
    struct named *all = gd_arena_calloc(a, (size_t)t->n_tools + t->n_events, sizeof *all);
    r->tool_name = gd_arena_calloc(a, t->n_tools, sizeof *r->tool_name);
    r->event_name = gd_arena_calloc(a, t->n_events, sizeof *r->event_name);
    if (!all || !r->tool_name || !r->event_name)
        return GD_ENOMEM;
    size_t n = 0;
    for (uint32_t i = 0; i < t->n_tools; i++)
        all[n++] = (struct named){t->tools[i].name, &r->tool_name[i]};
    for (uint32_t i = 0; i < t->n_events; i++) {
        if (t->events[i].kind == GD_EVENT_CALL)
            all[n++] = (struct named){t->events[i].name, &r->event_name[i]};
    }
    qsort(all, n, sizeof *all, compare_names);
    for (size_t i = 0; i < n; i++) {
        const bool same = i > 0 && compare_names(&all[i - 1], &all[i]) == 0;
        r->n_names += same ? 0 : 1;
        *all[i].number = r->n_names - 1;
    }
    r->name_state = gd_arena_calloc(a, r->n_names, sizeof *r->name_state);
    return r->name_state ? GD_OK : GD_ENOMEM;
}

/* Pairs of neighbouring bytes: as a set of bits, and (gd_bigrams) as a list without repetition. */
struct bigram_set {
    uint64_t bits[1024];
};

static uint32_t lower(char c)
{
    return (unsigned char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

/* Adds one; true when it was not there. */
static bool add_bigram(struct bigram_set *set, uint32_t g)
{
    const uint64_t bit = (uint64_t)1 << (g % 64);
    const bool is_new = !(set->bits[g / 64] & bit);
    set->bits[g / 64] |= bit;
    return is_new;
}

static int list_bigrams(struct gd_arena *a, struct gd_str name, struct gd_bigrams *out)
{
    struct bigram_set seen = {{0}};
    const size_t len = name.len < NAME_BYTES_COMPARED ? name.len : NAME_BYTES_COMPARED;
    out->n = 0;
    out->at = gd_arena_calloc(a, len, sizeof *out->at);
    if (!out->at)
        return GD_ENOMEM;
    for (size_t i = 0; i + 1 < len; i++) {
        const uint32_t g = lower(name.ptr[i]) << 8 | lower(name.ptr[i + 1]);
        if (add_bigram(&seen, g))
            out->at[out->n++] = (uint16_t)g;
    }
    return GD_OK;
}

/* Room for the rankings, and every tool's bigrams; nothing when there is nothing to rank. */
static int prepare_similar(struct gd_render *r, struct gd_arena *a)
{
    const uint32_t max = r->policy->budget.similar_tools;
    const uint32_t n = r->traj->n_tools;
    r->bigrams = gd_arena_calloc(a, n, sizeof *r->bigrams);
    r->similar = gd_arena_calloc(a, n > 0 ? r->n_names : 0, sizeof *r->similar);
    uint32_t *tools = gd_arena_calloc(a, (size_t)r->n_names * (n > 0 ? max : 0), sizeof *tools);
    if (!r->bigrams || !r->similar || !tools)
        return GD_ENOMEM;
    for (uint32_t i = 0; i < r->n_names && n > 0; i++)
        r->similar[i].tool = tools + (size_t)i * max;
    int rc = GD_OK;
    for (uint32_t i = 0; i < n && rc == GD_OK; i++)
        rc = list_bigrams(a, r->traj->tools[i].name, &r->bigrams[i]);
    return rc;
}

static struct gd_str line_of(const struct gd_render *r, uint32_t tool)
{
    const size_t start = tool ? r->line_end[tool - 1] : 0;
    return (struct gd_str){r->lines.data + start, r->line_end[tool] - start};
}

static bool is_repeated(const struct gd_render *r, const struct gd_event *ev, uint32_t tool)
{
    for (uint32_t k = 0; k < ev->tool_first; k++) {
        if (r->tool_name[k] == r->tool_name[tool] && gd_str_eq(line_of(r, k), line_of(r, tool)))
            return true;
    }
    return false;
}

static int prepare_lines(struct gd_render *r, struct gd_arena *a)
{
    const struct gd_trajectory *t = r->traj;
    const size_t limit = r->policy->budget.tool_bytes;
    for (uint32_t i = 0; i < t->n_tools; i++) {
        r->scratch.len = 0;
        if (put_tool(&r->scratch, &t->tools[i], a) != GD_OK)
            return GD_ENOMEM;
        gd_buf_z(&r->lines, "TOOL: ");
        r->line_elided[i] =
            gd_text_elide(&r->lines, (struct gd_str){r->scratch.data, r->scratch.len}, limit);
        gd_buf_add(&r->lines, "\n", 1);
        r->line_end[i] = r->lines.len;
    }
    for (uint32_t i = 0; i < t->n_events; i++) {
        const struct gd_event *ev = &t->events[i];
        for (uint32_t k = 0; k < ev->n_tools && !r->lines.failed; k++)
            r->line_repeated[ev->tool_first + k] = is_repeated(r, ev, ev->tool_first + k);
    }
    return GD_OK;
}

int gd_catalogue_open(struct gd_render *r, struct gd_arena *a, struct gd_err *err)
{
    const uint32_t n = r->traj->n_tools;
    r->line_end = gd_arena_calloc(a, n, sizeof *r->line_end);
    r->line_elided = gd_arena_calloc(a, n, sizeof *r->line_elided);
    r->line_repeated = gd_arena_calloc(a, n, sizeof *r->line_repeated);
    r->written = gd_arena_calloc(a, n, sizeof *r->written);
    if (!r->line_end || !r->line_elided || !r->line_repeated || !r->written ||
        number_names(r, a) != GD_OK || prepare_lines(r, a) != GD_OK ||
        prepare_similar(r, a) != GD_OK)
        return gd_err_set(err, GD_ENOMEM, "not enough memory to render the tools");
    if (r->lines.failed || r->scratch.failed)
        return gd_err_set(err, r->lines.failed ? r->lines.failed : r->scratch.failed,
                          "the tool definitions are too large to render");
    return GD_OK;
}

static void write_tool(struct gd_render *r, uint32_t tool)
{
    if (r->written[tool])
        return;
    r->written[tool] = true;
    r->elided += r->line_elided[tool];
    gd_buf_str(r->out, line_of(r, tool));
}

void gd_catalogue_arrives(struct gd_render *r, const struct gd_event *ev, bool show)
{
    const uint32_t end = ev->tool_first + ev->n_tools;
    size_t bytes = 0;
    for (uint32_t i = ev->tool_first; i < end; i++) {
        if (r->line_repeated[i])
            r->written[i] = true; /* the earlier one stands for it */
        else
            bytes += line_of(r, i).len;
    }
    r->known = end;
    if (!show)
        return;
    if (bytes > r->policy->budget.catalog_bytes - r->catalog_bytes) {
        gd_buf_fmt(r->out, "TOOLS: %u functions, shown when called\n", (unsigned)ev->n_tools);
        return;
    }
    r->catalog_bytes += bytes;
    for (uint32_t i = ev->tool_first; i < end; i++)
        write_tool(r, i);
}

/* Keeps the highest scores; of equal ones those that came first. */
static void keep_best(struct gd_similar *b, double *scores, uint32_t max, uint32_t tool,
                      double score)
{
    uint32_t i = b->n;
    while (i > 0 && score > scores[i - 1])
        i--;
    if (i >= max)
        return;
    b->n += b->n < max;
    for (uint32_t k = b->n - 1; k > i; k--) {
        b->tool[k] = b->tool[k - 1];
        scores[k] = scores[k - 1];
    }
    b->tool[i] = tool;
    scores[i] = score;
}

/* Ranks the tools known now; kept, because a prompt that is cut is rendered several times. */
static void rank_similar(struct gd_render *r, uint32_t name, struct gd_similar *s)
{
    const uint32_t max = r->policy->budget.similar_tools;
    double scores[GD_POLICY_SIMILAR_TOOLS_MAX];
    struct bigram_set called = {{0}};
    uint32_t own = r->known; /* a tool of this name has its list */
    for (uint32_t i = 0; i < r->known; i++)
        own = r->tool_name[i] == name ? i : own;
    for (uint32_t i = 0; i < r->bigrams[own].n; i++)
        (void)add_bigram(&called, r->bigrams[own].at[i]);
    s->n = 0;
    s->known = r->known;
    for (uint32_t i = 0; i < r->known; i++) {
        const struct gd_bigrams *other = &r->bigrams[i];
        if (r->tool_name[i] == name || r->line_repeated[i])
            continue;
        uint32_t common = 0;
        for (uint32_t k = 0; k < other->n; k++)
            common += (uint32_t)(called.bits[other->at[k] / 64] >> (other->at[k] % 64) & 1);
        const uint32_t total = r->bigrams[own].n + other->n;
        keep_best(s, scores, max, i, total ? 2.0 * common / total : 0.0);
    }
}

static void write_similar(struct gd_render *r, uint32_t name)
{
    struct gd_similar *s = &r->similar[name];
    if (s->known != r->known)
        rank_similar(r, name, s);
    for (uint32_t i = 0; i < s->n; i++)
        write_tool(r, s->tool[i]);
}

static void announce_unknown(struct gd_render *r, struct gd_str name)
{
    r->scratch.len = 0;
    gd_text_name(&r->scratch, name);
    gd_buf_z(&r->scratch, " is not in the catalogue");
    gd_buf_z(r->out, "TOOL: ");
    r->elided += gd_text_elide(r->out, (struct gd_str){r->scratch.data, r->scratch.len},
                               r->policy->budget.tool_bytes);
    gd_buf_add(r->out, "\n", 1);
}

void gd_catalogue_before_call(struct gd_render *r, uint32_t event)
{
    const uint32_t name = r->event_name[event];
    const struct gd_str text = r->traj->events[event].name;
    bool found = false;
    bool all_written = true;
    for (uint32_t i = 0; i < r->known; i++) {
        if (r->tool_name[i] == name) {
            found = true;
            write_tool(r, i);
        }
        all_written = all_written && r->written[i];
    }
    if (!found) {
        if (r->known > 0 && !(r->name_state[name] & NAME_ANNOUNCED))
            announce_unknown(r, text);
        r->name_state[name] |= NAME_ANNOUNCED;
        return;
    }
    if (!all_written && !(r->name_state[name] & NAME_CALLED))
        write_similar(r, name);
    r->name_state[name] |= NAME_CALLED;
}
