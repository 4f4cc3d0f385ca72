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
    GD_LIST_AGAIN,   /* of a user: something may be done once more, */
    GD_LIST_CONFIRMS,
    GD_LIST_CONDITIONS,
    GD_LIST_NEGATIONS,
    GD_LIST_RELATIVE, /* a time that another one tells */
    GD_LIST_DONE,     /* of an answer: something was done */
    GD_LIST_MAKES,    /* of names and users, what is to be done: verbs of one group */
    GD_LIST_REMOVES,
    GD_LIST_SENDS,
    GD_LIST_PAYS,
    GD_LIST_BOOKS,
    GD_LIST_EDITS,
    GD_LIST_RUNS,
    GD_LIST_FINDS,
    GD_LISTS
};

/* A text as keys, each once, and as a set of them. */
struct gd_text_keys {
    uint32_t key[GD_TEXT_KEYS_MAX];
    uint32_t n;
    struct gd_keyset set;
};

/* A user's text that may still be a part of the request. */
struct gd_user_text {
    uint32_t event;
    uint32_t key[GD_TEXT_KEYS_MAX], n;
    uint32_t lists; /* those it has words of, as bits of enum gd_list */
};

/* Pairs of neighbouring bytes of a name, as a set. */
struct gd_pairs {
    uint64_t bits[1024];
    uint32_t n;
};

/* Numbers of a call's features in its block. */
enum gd_call_feature {
#define X(name) AT##name,
    GD_EVIDENCE_OF_CALL(X, _)
#undef X
        GD_CALL_FEATURES
};

#define GD_STRANGE_MAX 8 /* words of a call whose later appearance is looked for */

/* What is kept of a call that was measured. */
struct gd_measured_call {
    float of[GD_CALL_FEATURES];
    uint32_t call; /* its number in the notes */
    /* words that nobody had said, with spaces around; in the arena */
    struct gd_str strange[GD_STRANGE_MAX];
    uint32_t n_strange, late; /* late: of them, found since in another call's result */
};

/* What the first words of a call's result told, by the number of the call. */
struct gd_result_words {
    uint8_t trouble, open;
};

struct gd_measure {
    struct gd_notes *notes;
    struct gd_measured_call *calls;  /* [GD_EVIDENCE_CALLS_MAX], in order */
    struct gd_result_words *results; /* [events] */
    uint32_t n_calls, first;         /* measured; calls before that one are not */
    uint32_t systems;                /* texts read */
    float out[GD_EVIDENCE_FEATURES];
    struct gd_user_text *users;      /* [GD_EVIDENCE_REQUEST_MAX] the last texts, in turn */
    uint32_t n_users, users_at_call; /* so far, when the last call was made */
    uint32_t n_request;              /* the last texts, which are what is asked for now */
    struct gd_text_keys asked;       /* of the request */
    uint32_t verbs;                  /* of them, as bits of enum gd_list */
    struct gd_buf user;              /* words of the last one */
    /* of the call in hand: its name, its function's description, its values, and their words */
    struct gd_text_keys name, about, arguments;
    struct gd_buf values, property; /* words: of the values, of an argument's schema */
    struct gd_pairs called, core;   /* of its name, without the namespace */
    struct gd_pairs other;          /* empty between uses */
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

/* A text of the request; 0 is the last one. */
struct gd_str gd_evidence_request(const struct gd_measure *m, uint32_t back);

/* Of the words in hand: how many are on each list; adds their keys; keeps them. */
void gd_evidence_count_lists(const struct gd_words *w, float count[GD_LISTS]);
void gd_evidence_add_keys(const struct gd_words *w, struct gd_text_keys *k);
void gd_evidence_add(const struct gd_words *w, struct gd_text_keys *k, const uint32_t *keys,
                     uint32_t n);
void gd_evidence_keep(const struct gd_words *w, struct gd_buf *out);

/* Words of rights that system and user texts have. */
uint32_t gd_evidence_said_rights(const struct gd_notes *n);

/* The member of that name, the last of the first GD_EVIDENCE_PROPERTIES_MAX; NULL: none, or no object. */
const struct gd_json *gd_evidence_member(const struct gd_json *obj, struct gd_str key);

/* The share of k that the other has. */
float gd_evidence_share_in(const struct gd_measure *m, const struct gd_text_keys *k,
                           const struct gd_text_keys *other);

/* The lists that have words, as bits. */
uint32_t gd_evidence_lists(const float count[GD_LISTS]);

/* Parts of a name, in lower case, that say it can do much. */
uint32_t gd_evidence_stems(struct gd_str name);

/* evidence_call.c: the block of a call. evidence_values.c: its part about values, and the words that
 * nobody said. */
void gd_evidence_measure_call(struct gd_measure *m, const struct gd_noted_call *c,
                              struct gd_measured_call *call);
void gd_evidence_values(struct gd_measure *m, const struct gd_event *ev, const struct gd_tool *tool,
                        struct gd_measured_call *call);

#endif
