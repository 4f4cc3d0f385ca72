/* evidence_parts.h - what the files of the evidence share. Internal to them. */
#ifndef GUARDIAN_GUARD_EVIDENCE_PARTS_H
#define GUARDIAN_GUARD_EVIDENCE_PARTS_H

#include "evidence.h"

/* Lists of words, by what they tell. */
enum gd_list {
    GD_LIST_POWER,   /* of a function: it can do much */
    GD_LIST_RULES,   /* of a function: it administers */
    GD_LIST_RIGHTS,  /* of a text: who may do what */
    GD_LIST_CLAIMS,  /* of a text: who somebody is */
    GD_LIST_CHANGES, /* of both: something is changed */
    GD_LIST_READS,   /* of both: something is read */
    GD_LIST_TROUBLE, /* of a result: it failed */
    GD_LIST_OPEN,    /* of a result: it is not finished */
    GD_LIST_ORDERS,  /* of a result: it asks for something */
    GD_LISTS
};

/* A text as keys, each once, and as a set of them. */
struct gd_text_keys {
    uint32_t key[GD_TEXT_KEYS_MAX];
    uint32_t n;
    struct gd_keyset set;
};

/* Pairs of neighbouring bytes of a name, as a set. */
struct gd_pairs {
    uint64_t bits[1024];
    uint32_t n;
};

struct gd_measure {
    struct gd_notes *notes;
    float *out;
    struct gd_text_keys asked; /* of the last two user texts */
    struct gd_buf user;        /* words of the last one */
    /* of the call in hand: its name, its function's description, its values, and their words */
    struct gd_text_keys name, about, arguments;
    struct gd_buf values;
    struct gd_pairs called, core; /* of its name, without the namespace */
    struct gd_pairs other;        /* empty between uses */
    struct gd_text_keys result, answer;
};

static inline float gd_capped(size_t n)
{
    return (float)(n < GD_EVIDENCE_COUNT_MAX ? n : GD_EVIDENCE_COUNT_MAX);
}

static inline float gd_share(uint32_t part, uint32_t of)
{
    return of > 0 ? (float)part / (float)of : 0;
}

/* What counts of a text. */
static inline struct gd_str gd_head(struct gd_str s)
{
    return (struct gd_str){s.ptr, s.len < GD_EVIDENCE_TEXT_BYTES ? s.len : GD_EVIDENCE_TEXT_BYTES};
}

static inline struct gd_str gd_result_text(const struct gd_event *ev)
{
    return ev->text.len > 0 || !ev->payload ? ev->text : ev->payload->raw;
}

/* Of the words in hand: how many are on each list; adds their keys; keeps them. */
void gd_evidence_count_lists(const struct gd_words *w, float count[GD_LISTS]);
void gd_evidence_add_keys(const struct gd_words *w, struct gd_text_keys *k);
void gd_evidence_keep(const struct gd_words *w, struct gd_buf *out);

/* Words of rights that system and user texts have. */
uint32_t gd_evidence_said_rights(const struct gd_notes *n);

/* The share of k that the other has. */
float gd_evidence_share_in(const struct gd_measure *m, const struct gd_text_keys *k,
                           const struct gd_text_keys *other);

/* evidence_call.c: a block of GD_EVIDENCE_OF_CALL. evidence_values.c: its part about values. */
void gd_evidence_call(struct gd_measure *m, const struct gd_noted_call *c, float *out);
void gd_evidence_values(struct gd_measure *m, const struct gd_event *ev, float *out);

/* Numbers of a call's features in its block. */
enum gd_call_feature {
#define X(name) AT##name,
    GD_EVIDENCE_OF_CALL(X, _)
#undef X
};

#endif
