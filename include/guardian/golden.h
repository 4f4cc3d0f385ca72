/* golden.h - is the model that was loaded the one that was measured, and does it compute here what it
 * computed there? To be asked before anybody is served.
 *
 * A model directory may hold golden.json:
 *   version    1
 *   sha256     {file: hex}: every file that the engine reads, and policy.json when there is one; other
 *              files of the directory may be listed too. Plain file names
 *   tolerance  of a score, over 0, at most GD_GOLDEN_TOLERANCE_MAX: what instruction sets, devices and
 *              number types may make of it
 *   requests   1 to GD_GOLDEN_REQUESTS_MAX of {name, request, label, action, score}: a request of the
 *              API and what its verdict says. They lie further from the thresholds than the tolerance
 *              (bench/accuracy/golden.py chooses them so)
 * Members that are not named here are refused.
 *
 * Digests are those of the bytes that were loaded; only listed files that nobody has loaded are read
 * here. The verdicts are those of the policy that is listed, else of the built-in one, at its own
 * thresholds: with another policy first or an operating point only the digests are compared. */
#ifndef GUARDIAN_GOLDEN_H
#define GUARDIAN_GOLDEN_H

#include "guardian/guard.h"

struct gd_golden {
    bool there;                       /* false: there is no golden.json, nothing was checked */
    uint32_t n_files;                 /* whose digests are right */
    uint32_t n_requests;              /* whose verdicts are right */
    char skipped[128];                /* why no verdicts were compared; "" when they were */
    double tolerance, difference_max; /* of a score */
    double ms;                        /* that the requests took */
};

/* GD_OK; GD_EMODEL when golden.json, a file or a verdict is not what it should be: err names the file or
 * the request, what was expected and what came. GD_EBACKEND, GD_ENOMEM, GD_EDRAINING, GD_ELIMIT.
 * model_dir is that of g, whom nobody else has to use meanwhile. Any thread; g's worker computes. */
int gd_golden_check(const char *model_dir, struct gd_guard *g, struct gd_golden *out,
                    struct gd_err *err);

/* The value for /info: null when there is no golden.json. */
void gd_golden_write(const struct gd_golden *r, struct gd_json_writer *w);

#endif
