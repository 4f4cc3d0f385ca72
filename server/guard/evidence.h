/* evidence.h - a trajectory as numbers: what the forest of a policy reads (forest.h). Internal to
 * server/guard.
 *
 * Counts and shares from comparing names, schemas and words; no meaning. GD_EVIDENCE_FEATURES names
 * them in their order. Everything is measured when it happens, beside what was said until then, and
 * never again. -1: there is no such call, result or answer. The request is the user's texts since the
 * last call, at least the last two and at most GD_EVIDENCE_REQUEST_MAX. Of texts the first
 * GD_EVIDENCE_TEXT_BYTES count, of histories (words.h) what they hold, of calls the last
 * GD_EVIDENCE_CALLS_MAX, of functions the first GD_NOTE_TOOLS_MAX, of system texts the first 8. Every
 * count is at most GD_EVIDENCE_COUNT_MAX (of tools, GD_NOTE_TOOLS_MAX), shares are 0 to 1. What changes
 * here makes another input: forests are trained on these very numbers (`guardian render` shows them) and
 * name the features they were trained with. */
#ifndef GUARDIAN_GUARD_EVIDENCE_H
#define GUARDIAN_GUARD_EVIDENCE_H

#include "notes.h"

/* Of the last call (last_) and of the one before it (prev_). Keys: words.h. asked: the keys of the
 * request. A specific is a word with a digit in them. */
#define GD_EVIDENCE_OF_CALL(X, p)                                                                  \
    X(p##from_user) /* arguments by origin: prompt.h, NOTES */                                     \
    X(p##from_result)                                                                              \
    X(p##from_partly)                                                                              \
    X(p##from_new)                                                                                 \
    X(p##again) /* made before: 1 no answer yet, 2 answer, 3 failure; 3 more: user spoke since */  \
    X(p##again_between) /* calls since that one; words of failure, of being unfinished in its */   \
    X(p##again_trouble) /* result */                                                               \
    X(p##again_open)                                                                               \
    X(p##same_name)                                                                                \
    X(p##name_asked) /* keys of its name that are asked for, and their share */                    \
    X(p##name_asked_share)                                                                         \
    X(p##known) /* its function is */                                                              \
    X(p##fit)                                                                                      \
    X(p##fit_gap)    /* to the function that fits best */                                          \
    X(p##better)     /* functions that fit better */                                               \
    X(p##twin_name)  /* Dice similarity of names: highest of the other functions */                \
    X(p##twin_about) /* the same of the keys of descriptions */                                    \
    X(p##kin)        /* other functions of its namespace: what stands before its last separator */ \
    X(p##twin_words) /* the same of the keys of names */                                           \
    X(p##twin_core)  /* of letters and digits of names without namespaces; of the most similar: */ \
    X(p##after_twin) /* whether it was known before, */                                            \
    X(p##more_parameters) /* how many parameters more the called one has */                        \
    X(p##changes)         /* words of its name that change something, that read */                 \
    X(p##reads)                                                                                    \
    X(p##verbs_asked)   /* groups of verbs in its name that the request has, that it */            \
    X(p##verbs_strange) /* lacks, and of those the ones that remove, send, pay or run */           \
    X(p##strong_strange)                                                                           \
    X(p##power_name) /* words of power in its name, its description */                             \
    X(p##power_about)                                                                              \
    X(p##power_stems) /* parts of words of power in its name without the namespace */              \
    X(p##rules_name)  /* words of administration in its name */                                    \
    X(p##removes)     /* words that remove */                                                      \
    X(p##missing)     /* required arguments that it lacks */                                       \
    X(p##unknown)     /* arguments that the schema lacks, or has with another type */              \
    X(p##mistyped)                                                                                 \
    X(p##optional)                                                                                 \
    X(p##specifics) /* and those that its arguments lack */                                        \
    X(p##unused)                                                                                   \
    X(p##unused_names)  /* capitalised words in the user's last text that its arguments lack */    \
    X(p##replaced)      /* the smaller of what they lack of the request and of what nobody said */ \
    X(p##near)          /* words of arguments that nobody said, but nearly */                      \
    X(p##strange_words) /* that nobody said; the same with a digit, unless in another form; */     \
    X(p##strange_numbers) /* those of a date or time; values that are two to five capitals; */     \
    X(p##strange_dates)                                                                            \
    X(p##strange_codes)                                                                            \
    X(p##offered)         /* words nobody said that the schema of the argument has */              \
    X(p##about_asked)     /* shares of keys: of its description that are asked for, */             \
    X(p##arguments_asked) /* of its arguments that are asked for, */                               \
    X(p##covered)         /* asked for that its name, description or arguments have */

#define GD_EVIDENCE_OF_TRAJECTORY(X)                                                                \
    X(pending) /* the last call has no answer yet */                                                \
    X(turns)                                                                                        \
    X(calls)                                                                                        \
    X(calls_since_user)                                                                             \
    X(turns_since_call)                                                                             \
    X(tools)                                                                                        \
    X(last_kind) /* enum gd_event_kind of the last event, catalogues aside */                       \
    X(lost)      /* calls given up; whether the last one is */                                      \
    X(last_lost)                                                                                    \
    X(repeats) /* calls made again without a failure or the user's word between */                  \
    X(most_again)                                                                                   \
    X(unknown_calls) /* of functions that are not known */                                          \
    X(widest_gap)    /* largest fit_gap and from_new of any call */                                 \
    X(most_new)                                                                                     \
    X(late) /* of the first words of calls that nobody had said: later in another call's result; */ \
    X(late_prev)       /* those of the call before the last one */                                  \
    X(earlier_strange) /* most of any call before the last two: strange words and numbers, */       \
    X(earlier_power)   /* words of power, */                                                        \
    X(earlier_twin)    /* twin_core, */                                                             \
    X(earlier_strong)  /* strong_strange, */                                                        \
    X(earlier_changes) /* changes; least covered */                                                 \
    X(earlier_covered)                                                                              \
    X(best_fit)       /* of all functions to the last two user texts, with and without a call; */   \
    X(best_name)      /* the largest share of a name's keys */                                      \
    X(asked_again)    /* words of the user's last text: of doing it once more, of consent, of */    \
    X(asked_confirms) /* conditions, of negation, of time that another tells */                     \
    X(asked_conditions)                                                                             \
    X(asked_negations)                                                                              \
    X(asked_relative)                                                                               \
    X(asked_removes) /* words that remove, of administration, in it */                              \
    X(asked_rules)                                                                                  \
    X(said_rights)   /* words of rights and roles in system and user texts */                       \
    X(system_rights) /* in system texts, in the user's last text */                                 \
    X(asked_rights)                                                                                 \
    X(asked_claims)  /* words of who one is, in the user's last text */                             \
    X(asked_changes) /* words that change something, that read, in it */                            \
    X(asked_reads)

#define GD_EVIDENCE_OF_RESULT(X)                                                                   \
    X(result_empty) /* the last result */                                                          \
    X(result_error)                                                                                \
    X(result_trouble) /* words of failure; words of orders */                                      \
    X(result_orders)                                                                               \
    X(result_keys)                                                                                 \
    X(result_asked)     /* shares of its keys: asked for, */                                       \
    X(result_arguments) /* in the arguments of the last call, */                                   \
    X(result_about)     /* in its function's name and description */                               \
    X(arguments_result) /* share of the arguments' keys that are in it */

#define GD_EVIDENCE_OF_ANSWER(X)                                                                   \
    X(answer_calls) /* the last assistant text: calls since the user's */                          \
    X(answer_numbers)                                                                              \
    X(answer_new_numbers)                                                                          \
    X(answer_keys)                                                                                 \
    X(answer_result)    /* shares of its keys: in the last result, */                              \
    X(answer_asked)     /* asked for */                                                            \
    X(answer_new_words) /* share of its words that nobody said before */                           \
    X(answer_trouble)   /* words of failure, of what was done; question marks */                   \
    X(answer_done)                                                                                 \
    X(answer_questions)                                                                            \
    X(arguments_answer) /* shares of the arguments' keys that are in it; */                        \
    X(result_answer)    /* share of the result's keys that are in it */

#define GD_EVIDENCE_ALL(X)                                                                         \
    GD_EVIDENCE_OF_TRAJECTORY(X)                                                                   \
    GD_EVIDENCE_OF_CALL(X, last_)                                                                  \
    GD_EVIDENCE_OF_CALL(X, prev_)                                                                  \
    GD_EVIDENCE_OF_RESULT(X)                                                                       \
    GD_EVIDENCE_OF_ANSWER(X)

enum gd_evidence {
#define X(name) GD_EVIDENCE_##name,
    GD_EVIDENCE_ALL(X)
#undef X
        GD_EVIDENCE_FEATURES
};

extern const char *const gd_evidence_names[GD_EVIDENCE_FEATURES];

struct gd_measure;

/* Nothing has happened yet. In the arena of the notes, but for its buffers; NULL when there is no memory. */
struct gd_measure *gd_evidence_open(struct gd_notes *n);
void gd_evidence_close(struct gd_measure *m); /* NULL is allowed */

/* What happens, in order, each after the notes took it (notes.h). */
void gd_evidence_text(struct gd_measure *m, uint32_t event);
void gd_evidence_call(struct gd_measure *m);
void gd_evidence_result(struct gd_measure *m, uint32_t event, int64_t call, struct gd_str shown);
void gd_evidence_answer(struct gd_measure *m, uint32_t event);

/* After everything has happened: *out[GD_EVIDENCE_FEATURES], which lasts as long as the arena. GD_ENOMEM,
 * GD_ELIMIT. */
int gd_evidence_finish(struct gd_measure *m, const float **out);

#endif
