/* policy.h - a policy is data: template, chat format, choices, labels, rendering, thresholds.
 *
 * A JSON file; the built-in `mcip` policy is such text compiled in. A model directory may carry
 * `policy.json`, which is then the default for that model. Fields, others being refused by name:
 *
 *   name              string
 *   version           integer, 1 or more
 *   template          text with exactly one {body}: a string, or an array of lines to be joined by
 *                     line breaks
 *   template_file     in place of template: a path relative to the policy file; its first {body}
 *                     counts
 *   remove            strings that are deleted from the template before {body} is looked for
 *   chat              "llama3" | "chatml" | "none"
 *   system            text of the system turn ("llama3" and "chatml")
 *   bos               text of the special token put first, or true for "<|begin_of_text|>" ("none"
 *                     only); default: nothing
 *   answer_prefix     text after which every choice is exactly one token (loading fails otherwise);
 *                     default: ""
 *   choices           [{text, label}], the label by our key, the published name or that of the data
 *                     set; one must be appropriate, none may come twice
 *   rendering         "dialogue" (default) | "mci"
 *   render            {item_bytes, tool_bytes, catalog_bytes, similar_tools, notes}, each with the
 *                     default of the built-in policy; notes: true for the NOTE lines of prompt.h
 *                     ("dialogue" only)
 *   thresholds        {flag, block}: risk >= flag is flagged; risk >= block is `block`, between is
 *                     `review`; default 0.5, 0.8
 *   operating_points  1 to GD_POLICY_POINTS_MAX of {name, flag, block, measured}: other pairs of
 *                     thresholds that gd_policy_operate may choose; default: none. name: 1 to 32 of
 *                     [a-z0-9_-], none twice, not "thresholds" (what no choice is called); flag and
 *                     block as above, but both are needed; measured, optional: {precision, recall,
 *                     false_positive_rate}, all three, each 0 to 1
 *   evidence          {file, sha256, features, weight, model_weight}: boosted trees over counts that
 *                     comparing texts gives (server/guard/forest.h, evidence.h; needs render.notes).
 *                     file: relative to the policy file; sha256: its hash; features: the names of
 *                     the features that its trees number from 0 on; weights of its scores and of the
 *                     model's logits in the verdict (verdict.h), each 0 to GD_EVIDENCE_WEIGHT_MAX,
 *                     default 1. Default: none, the model decides alone
 *
 * What a chat format puts around (M: a special token's id; everything else is text, encoded with
 * specials off; each run of text between two M is encoded as one string):
 *   llama3  M<|begin_of_text|> [M<|start_header_id|> system M<|end_header_id|> \n\n SYSTEM
 *           M<|eot_id|>] M<|start_header_id|> user M<|end_header_id|> \n\n BEFORE BODY AFTER
 *           M<|eot_id|> M<|start_header_id|> assistant M<|end_header_id|> \n\n ANSWER_PREFIX
 *           (SYSTEM and the template are trimmed of white space at their ends, as that format's own
 *           template does)
 *   chatml  [M<|im_start|> system\n SYSTEM M<|im_end|> \n] M<|im_start|> user\n BEFORE BODY AFTER
 *           M<|im_end|> \n M<|im_start|> assistant\n ANSWER_PREFIX
 *   none    [M<bos>] BEFORE BODY AFTER ANSWER_PREFIX
 * The system turn is there when `system` is given.
 * Immutable once loaded and operated; any thread. */
#ifndef GUARDIAN_POLICY_H
#define GUARDIAN_POLICY_H

#include "guardian/json.h"
#include "guardian/limits.h"
#include "guardian/taxonomy.h"
#include "guardian/tokenizer.h"

enum gd_chat { GD_CHAT_NONE, GD_CHAT_LLAMA3, GD_CHAT_CHATML };
enum gd_rendering { GD_RENDER_DIALOGUE, GD_RENDER_MCI };

#define GD_POLICY_SIMILAR_TOOLS_MAX 64

struct gd_render_budget {
    uint32_t item_bytes, tool_bytes, catalog_bytes, similar_tools;
    bool notes; /* NOTE lines */
};

struct gd_policy_choice {
    struct gd_str text;
    enum gd_label label;
    char letter;   /* 'A' for the first choice, ... */
    int32_t token; /* bound to the tokenizer at load */
};

struct gd_policy_point {
    struct gd_str name;
    double flag, block;
    bool measured; /* the rest is known; zeros otherwise */
    double precision, recall, false_positive_rate;
};

struct gd_forest; /* server/guard/forest.h */

struct gd_policy {
    struct gd_str name;
    int64_t version;
    struct gd_str path; /* of its file, zero-terminated; ptr NULL: built in, or from memory */
    char sha256[65];    /* of the JSON text, lower-case hex */
    enum gd_chat chat;
    struct gd_str system, bos, answer_prefix; /* as in the file */
    /* The text around the body, with what the chat format adds to its run. What can be encoded apart
     * (gd_tokenizer_cut) is not in before_body but in prefix_ids and prefix_text. */
    struct gd_str before_body, after_body;
    size_t after_bytes; /* of after_body in tokens: what the tokenizer's normaliser makes of it */
    struct gd_str prefix_text, suffix_text; /* prefix_ids and suffix_ids as text, for display */
    struct gd_policy_choice choices[GD_POLICY_CHOICES_MAX];
    uint32_t n_choices;
    enum gd_rendering rendering;
    struct gd_render_budget budget;
    double flag_threshold, block_threshold; /* those that count: of `point` when it is not NULL */
    struct gd_policy_point points[GD_POLICY_POINTS_MAX];
    uint32_t n_points;
    const struct gd_policy_point *point; /* the active one of points; NULL: `thresholds` count */
    struct gd_forest *forest; /* NULL: no evidence */
    double model_weight, evidence_weight;
    struct gd_ids prefix_ids; /* ids before the text that holds the body: chat markers, system turn,
                               * BOS, and the template up to its last cut before the body */
    struct gd_ids
        suffix_ids; /* ids after it, the answer prefix included; chat "none": empty, it ends after_body */
    struct gd_arena arena;
};

/* path NULL: the built-in `mcip`. Binds every choice to one token of t. GD_EPOLICY with the field
 * and the reason. */
int gd_policy_open(struct gd_policy **out, const char *path, const struct gd_tokenizer *t,
                   struct gd_err *err);
/* The same from memory; base_dir resolves template_file (NULL: refused). */
int gd_policy_parse(struct gd_policy **out, struct gd_str json, const char *base_dir,
                    const struct gd_tokenizer *t, struct gd_err *err);
/* The flag and block of the operating point of that name replace the thresholds. Before the policy is
 * shared. GD_EPOLICY, and nothing changed, when the policy has no such point: err lists those it has. */
int gd_policy_operate(struct gd_policy *p, const char *name, struct gd_err *err);
void gd_policy_close(struct gd_policy *p);

#endif
