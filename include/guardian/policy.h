/* policy.h - a policy is data: template, chat format, choices, labels, rendering, thresholds.
 *
 * A JSON file; the built-in `mcip` policy is such text compiled in. A model directory may carry `policy.json`, which is then the
 * default for that model. Fields (unknown ones are refused by name):
 *   name (string), version (integer >= 1)
 *   template, or template_file (path relative to the policy file): text with exactly one {body} (a file: the first
 *     {body} counts); remove: strings deleted from the template's text
 *   chat: "llama3" | "chatml" | "none"; system: text of the system turn (llama3, chatml); bos: text of the special
 *     token put first, or true for "<|begin_of_text|>" (chat "none" only; default: nothing)
 *   answer_prefix: text after which every choice is exactly one token (loading fails otherwise)
 *   choices: [{text, label}], label by our key, the published name or the data set name; one must be appropriate, none twice
 *   rendering: "dialogue" | "mci"; render: {item_bytes, tool_bytes, catalog_bytes, similar_tools}
 *   thresholds: {flag, block}: risk >= flag is flagged; risk >= block is `block`, between is `review`
 * Immutable after load; any thread. */
#ifndef GUARDIAN_POLICY_H
#define GUARDIAN_POLICY_H

#include "guardian/json.h"
#include "guardian/limits.h"
#include "guardian/taxonomy.h"
#include "guardian/tokenizer.h"

enum gd_chat { GD_CHAT_NONE, GD_CHAT_LLAMA3, GD_CHAT_CHATML };
enum gd_rendering { GD_RENDER_DIALOGUE, GD_RENDER_MCI };

struct gd_render_budget {
    uint32_t item_bytes, tool_bytes, catalog_bytes, similar_tools;
};

struct gd_choice {
    struct gd_str text;
    enum gd_label label;
    char letter;   /* 'A' for the first choice, ... */
    int32_t token; /* bound to the tokenizer at load */
};

struct gd_policy {
    struct gd_str name;
    int64_t version;
    enum gd_chat chat;
    struct gd_str system, bos, before_body, after_body, answer_prefix;
    struct gd_choice choices[GD_POLICY_CHOICES_MAX];
    uint32_t n_choices;
    enum gd_rendering rendering;
    struct gd_render_budget budget;
    double flag_threshold, block_threshold;
    struct gd_ids prefix_ids; /* ids before the text that holds the body (chat markers, BOS) */
    struct gd_ids suffix_ids; /* ids after it, up to the text of the answer prefix */
    struct gd_arena arena;
};

/* path NULL: the built-in `mcip`. Binds every choice to one token of t. GD_EPOLICY with the field and the reason. */
int gd_policy_open(struct gd_policy **out, const char *path, const struct gd_tokenizer *t,
                   struct gd_err *err);
/* The same from memory; base_dir resolves template_file (NULL: refused). */
int gd_policy_parse(struct gd_policy **out, struct gd_str json, const char *base_dir,
                    const struct gd_tokenizer *t, struct gd_err *err);
void gd_policy_close(struct gd_policy *p);

#endif
