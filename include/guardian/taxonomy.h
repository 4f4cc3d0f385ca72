/* taxonomy.h - the eleven labels of the Guardian and the five dimensions of their risks (MCIP,
 * arXiv 2505.14590).
 *
 * Constant tables; any thread. */
#ifndef GUARDIAN_TAXONOMY_H
#define GUARDIAN_TAXONOMY_H

#include "guardian/arena.h"

enum gd_label {
    GD_LABEL_APPROPRIATE,
    GD_LABEL_FUNCTION_OVERLAPPING,
    GD_LABEL_EXCESSIVE_PRIVILEGES_OVERLAPPING,
    GD_LABEL_FUNCTION_DEPENDENCY_INJECTION,
    GD_LABEL_FUNCTION_INJECTION,
    GD_LABEL_CAUSAL_DEPENDENCY_INJECTION,
    GD_LABEL_WRONG_FUNCTION_INTENT_INJECTION,
    GD_LABEL_WRONG_ARGUMENTS_INTENT_INJECTION,
    GD_LABEL_DATA_INJECTION,
    GD_LABEL_IDENTITY_INJECTION,
    GD_LABEL_REPLAY_INJECTION,
    GD_LABEL_COUNT,
};

struct gd_label_info {
    const char *key;  /* "function_overlapping": ours, stable */
    const char *name; /* "Function Overlapping": of the published prompt */
    /* "true", "excessive_privileges", ...: of the published data, as they are */
    const char *dataset;
    const char *phase, *source, *scope, *type, *maestro; /* NULL for appropriate */
    bool needs_response;                                 /* cannot be judged before the call ran */
    bool needs_intent;                                   /* cannot be judged without user text */
    const char *meaning;                                 /* one sentence in our words */
};

const struct gd_label_info *gd_label_info(enum gd_label l);
/* By key, published name or data set name; -1 when unknown. */
int gd_label_find(struct gd_str text);

#endif
