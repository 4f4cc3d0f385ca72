/* fuzz_frames.c - libFuzzer driver of the three input forms, from raw bytes to events; no model, no prompt
 * (fuzz_request goes on from here). The first byte chooses the text: the rest as it is, or the rest as the
 * value of messages, frames or mci, with other members around it. For every input:
 *   - a refusal has a documented code and a message in UTF-8, a second run has the same;
 *   - events hold together (check.h), and all their text is UTF-8 within the request or its arena;
 *   - members that are not looked at change nothing, wherever they stand; nor do blanks around the request;
 *   - one more message of the user gives one more event and takes none away, and leaves no call to be
 *     judged;
 *   - under a small arena the result is the same or GD_ENOMEM;
 *   - the request itself is not written to. */
#include "check.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum form { AS_IT_IS, MESSAGES, FRAMES, MCI, N_FORMS };

static const char *const members[N_FORMS] = {"", "\"messages\":", "\"frames\":", "\"mci\":"};

/* What is compared of a trajectory: a line of each event. */
struct outcome {
    int rc;
    struct gd_trajectory t;
    struct gd_buf text;
    struct gd_err err;
};

static void tell(struct gd_buf *b, struct gd_str s)
{
    check_utf8(s);
    gd_buf_fmt(b, "%zu:", s.len);
    gd_buf_str(b, s);
}

static void tell_event(struct gd_buf *b, const struct gd_trajectory *t, const struct gd_event *e)
{
    gd_buf_fmt(b, "kind %d call %d error %d ", (int)e->kind, (int)e->call, e->is_error);
    const struct gd_str texts[] = {e->text,      e->name,    e->server, e->call_id,  e->sender,
                                   e->recipient, e->subject, e->type,   e->principle};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        tell(b, texts[i]);
    if (e->payload)
        tell(b, e->payload->raw);
    for (uint32_t i = e->tool_first; i < e->tool_first + e->n_tools; i++) {
        tell(b, t->tools[i].name);
        tell(b, t->tools[i].description);
        if (t->tools[i].schema)
            tell(b, t->tools[i].schema->raw);
    }
    gd_buf_z(b, "\n");
}

static void run(struct gd_str text, size_t budget, struct outcome *o)
{
    struct gd_arena arena;
    const struct gd_json *root = NULL;
    memset(o, 0, sizeof *o);
    gd_buf_init(&o->text, GD_GIB);
    gd_arena_init(&arena, budget);
    o->rc = gd_json_parse(&arena, text, &GD_JSON_REQUEST_LIMITS, &root, &o->err);
    if (o->rc == GD_OK)
        o->rc = gd_trajectory_parse(&arena, root, &o->t, &o->err);
    if (o->rc == GD_OK) {
        check_trajectory(&o->t);
        for (uint32_t i = 0; i < o->t.n_events; i++)
            tell_event(&o->text, &o->t, &o->t.events[i]);
        gd_buf_fmt(&o->text, "phase %d step %d user %d flags %u", (int)o->t.phase, (int)o->t.step,
                   o->t.has_user, o->t.flags);
        GD_ASSERT(!o->text.failed);
    } else {
        GD_ASSERT(o->rc == GD_EJSON || o->rc == GD_EFIELD || o->rc == GD_ELIMIT ||
                  o->rc == GD_ENOMEM);
        GD_ASSERT(o->err.code == o->rc);
        check_message(&o->err);
    }
    gd_arena_free(&arena);
}

static bool same(const struct outcome *a, const struct outcome *b)
{
    return a->rc == b->rc && a->text.len == b->text.len &&
           (a->text.len == 0 || memcmp(a->text.data, b->text.data, a->text.len) == 0);
}

/* before + member + value + after, in memory of exactly that size. */
static struct gd_str join(const char *before, const char *member, struct gd_str value,
                          const char *after)
{
    const size_t n[3] = {strlen(before), strlen(member), strlen(after)};
    char *p = malloc(n[0] + n[1] + value.len + n[2] + 1);
    GD_ASSERT(p);
    memcpy(p, before, n[0]);
    memcpy(p + n[0], member, n[1]);
    memcpy(p + n[0] + n[1], value.ptr, value.len);
    memcpy(p + n[0] + n[1] + value.len, after, n[2]);
    return (struct gd_str){p, n[0] + n[1] + value.len + n[2]};
}

static void check_variant(const struct outcome *want, struct gd_str text)
{
    struct outcome o;
    run(text, GD_REQUEST_ARENA_BYTES, &o);
    GD_ASSERT(same(want, &o) || o.rc == GD_ELIMIT);
    gd_buf_free(&o.text);
    free((char *)text.ptr);
}

/* Whether the text is one list and nothing else, so that a member can be put behind it. */
static bool is_list(struct gd_str value)
{
    struct gd_arena arena;
    const struct gd_json *v = NULL;
    gd_arena_init(&arena, GD_REQUEST_ARENA_BYTES);
    const bool list = gd_json_parse(&arena, value, &GD_JSON_REQUEST_LIMITS, &v, NULL) == GD_OK &&
                      v->type == GD_JSON_ARRAY;
    gd_arena_free(&arena);
    return list;
}

/* One more message at the end of the list. */
static void check_one_more(enum form form, const struct outcome *was, struct gd_str value)
{
    static const char user[] = "{\"role\":\"user\",\"content\":\"one more\"}]}";
    struct outcome o;
    size_t n = value.len;
    while (value.ptr[n - 1] != ']')
        n--;
    if (form == MCI || was->t.n_events >= GD_EVENTS_MAX)
        return;
    const struct gd_str open = {value.ptr, n - 1};
    char more[64];
    size_t last = open.len;
    while (last > 0 && strchr(" \t\r\n", open.ptr[last - 1]))
        last--;
    snprintf(more, sizeof more, "%s%s", last > 0 && open.ptr[last - 1] == '[' ? "" : ",", user);
    const struct gd_str text = join("{", members[form], open, more);
    run(text, GD_REQUEST_ARENA_BYTES, &o);
    GD_ASSERT(o.rc == GD_OK || o.rc == GD_ELIMIT);
    if (o.rc == GD_OK) {
        GD_ASSERT(o.t.n_events == was->t.n_events + 1 && o.t.has_user &&
                  o.t.phase == GD_PHASE_RESPONSE);
        GD_ASSERT(o.t.n_tools == was->t.n_tools && (o.t.flags & was->t.flags) == was->t.flags);
    }
    gd_buf_free(&o.text);
    free((char *)text.ptr);
}

static void check_small_arena(const struct outcome *want, struct gd_str text, uint8_t seed)
{
    struct outcome o;
    run(text, 512 + text.len * (seed % 16u) * 4, &o);
    GD_ASSERT(o.rc == GD_ENOMEM || same(want, &o));
    gd_buf_free(&o.text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome o;
    if (size < 2)
        return 0;
    const enum form form = (enum form)(data[0] % N_FORMS);
    const struct gd_str value = {(const char *)data + 1, size - 1};
    const bool bare = form == AS_IT_IS;
    const struct gd_str text = join(bare ? "" : "{", members[form], value, bare ? "" : "}");
    const struct gd_str copy = join("", "", text, "");
    run(text, GD_REQUEST_ARENA_BYTES, &o);
    check_small_arena(&o, text, data[0] >> 4);
    check_variant(&o, join(" \t", "\r\n", text, " "));
    if (!bare && o.rc == GD_OK && is_list(value)) {
        check_variant(&o, join("{\"zz\":[1,{}],", members[form], value, ",\"\":\"\\u0000\"}"));
        check_one_more(form, &o, value);
    }
    GD_ASSERT(memcmp(copy.ptr, text.ptr, text.len) == 0);
    gd_buf_free(&o.text);
    free((char *)copy.ptr);
    free((char *)text.ptr);
    return 0;
}
