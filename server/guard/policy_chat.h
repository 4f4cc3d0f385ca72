/* policy_chat.h - the two halves of loading a policy: its text, then its ids. Internal to
 * server/guard. */
#ifndef GUARDIAN_POLICY_CHAT_H
#define GUARDIAN_POLICY_CHAT_H

#include "guardian/policy.h"

/* Fills before_body, after_body, after_bytes, prefix_*, suffix_* from the template's two halves and the chat
 * format, and binds every choice to its token. GD_EPOLICY, GD_ENOMEM, GD_ELIMIT. */
int gd_policy_bind(struct gd_policy *p, struct gd_str before, struct gd_str after,
                   const struct gd_tokenizer *t, struct gd_err *err);

/* The text of the built-in policy, server/guard/mcip.json. */
extern const unsigned char gd_policy_mcip_json[];
extern const size_t gd_policy_mcip_json_len;

#endif
