/* forest.h - gradient-boosted trees that turn a trajectory's evidence (evidence.h) into a score for each
 * label. Internal to server/guard. Immutable once open; any thread.
 *
 * The trees are oblivious: all nodes of one depth ask the same, so that a tree is `depth` questions and a
 * table of 2^depth leaves (Prokhorenkova et al. 2018, CatBoost). A forest is a safetensors file of
 *   feature    U8  [trees, depth]          number in the list of features that the policy names
 *   threshold  F32 [trees, depth]
 *   leaf       F32 [trees, 2^depth, labels]  labels: GD_LABEL_COUNT, in the taxonomy's order
 *   bias       F32 [labels]
 * score[label] = bias[label] + sum over the trees of leaf[tree][i][label], where bit k of i says whether
 * evidence[feature[tree][k]] > threshold[tree][k]. weights/train/forest.py writes them. */
#ifndef GUARDIAN_GUARD_FOREST_H
#define GUARDIAN_GUARD_FOREST_H

#include "guardian/arena.h"
#include "guardian/limits.h"
#include "guardian/status.h"

struct gd_forest;

/* feature[n]: for each number in the file the one in evidence.h (enum gd_evidence). sha256: of the file,
 * lower-case hex. GD_EPOLICY when the file is not that one or not usable, GD_EMODEL when it is no
 * safetensors file; GD_EIO, GD_ELIMIT, GD_ENOMEM. */
int gd_forest_open(struct gd_forest **out, const char *path, struct gd_str sha256,
                   const uint8_t *feature, uint32_t n, struct gd_err *err);
void gd_forest_close(struct gd_forest *f); /* NULL is allowed */

/* evidence: of gd_evidence_finish. */
void gd_forest_score(const struct gd_forest *f, const float *evidence, float *score);

#endif
