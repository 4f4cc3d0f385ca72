/* taxonomy.c - the table of the eleven labels. See guardian/taxonomy.h.
 *
 * needs_response: what tells the label is the answer to the call (function overlapping: no answer
 * or a wrong one; data injection: an answer that no call gave). needs_intent: the label compares
 * with what the user asked. That is so for both intent injections, for excessive privileges (more
 * than the task needs: the task must be known) and for function (dependency) injection (unrelated
 * to the task). Causal dependency, replay and identity injection show in the calls themselves, and
 * function overlapping and data injection in calls and answers: they are judged without user text
 * too. */
#include "guardian/taxonomy.h"

#define INTERACTION "interaction"

static const struct gd_label_info labels[GD_LABEL_COUNT] = {
    [GD_LABEL_APPROPRIATE] = {.key = "appropriate",
                              .name = "Appropriate",
                              .dataset = "true",
                              .meaning =
                                  "the flows do what the user asked for, no more and no less"},
    [GD_LABEL_FUNCTION_OVERLAPPING] =
        {.key = "function_overlapping",
         .name = "Function Overlapping",
         .dataset = "function_overlapping",
         .phase = INTERACTION,
         .source = "server",
         .scope = "intra-flow (recipient)",
         .type = "confusion",
         .maestro = "L4",
         .needs_response = true,
         .meaning = "a function with the same or a confusable name caught the call, which got no "
                    "or a wrong answer"},
    [GD_LABEL_EXCESSIVE_PRIVILEGES_OVERLAPPING] =
        {.key = "excessive_privileges_overlapping",
         .name = "Excessive Privileges Overlapping",
         .dataset = "excessive_privileges",
         .phase = INTERACTION,
         .source = "server",
         .scope = "intra-flow (recipient)",
         .type = "escalation",
         .maestro = "L4 L2",
         .needs_intent = true,
         .meaning = "a function with more privilege than the task needs did the task"},
    [GD_LABEL_FUNCTION_DEPENDENCY_INJECTION] =
        {.key = "function_dependency_injection",
         .name = "Function Dependency Injection",
         .dataset = "function_dependency_injection",
         .phase = INTERACTION,
         .source = "server",
         .scope = "single-flow",
         .type = "redundancy",
         .maestro = "L4",
         .needs_intent = true,
         .meaning = "a function unrelated to the task was called before the right one"},
    [GD_LABEL_FUNCTION_INJECTION] =
        {.key = "function_injection",
         .name = "Function Injection",
         .dataset = "function_injection",
         .phase = INTERACTION,
         .source = "server",
         .scope = "single-flow",
         .type = "redundancy",
         .maestro = "L4",
         .needs_intent = true,
         .meaning = "a function unrelated to the task was called after the right one"},
    [GD_LABEL_CAUSAL_DEPENDENCY_INJECTION] =
        {.key = "causal_dependency_injection",
         .name = "Causal Dependency Injection",
         .dataset = "causal_dependency_injection",
         .phase = INTERACTION,
         .source = "client",
         .scope = "inter-flow",
         .type = "drift",
         .maestro = "L3",
         .meaning = "calls that depend on each other ran in the wrong order"},
    [GD_LABEL_WRONG_FUNCTION_INTENT_INJECTION] =
        {.key = "wrong_function_intent_injection",
         .name = "Wrong Function Intent Injection",
         .dataset = "ignore_prupose_prompt_injection",
         .phase = INTERACTION,
         .source = "client",
         .scope = "single-flow",
         .type = "misleading",
         .maestro = "L3",
         .needs_intent = true,
         .meaning = "a function was called that the user did not ask for"},
    [GD_LABEL_WRONG_ARGUMENTS_INTENT_INJECTION] =
        {.key = "wrong_arguments_intent_injection",
         .name = "Wrong Arguments Intent Injection",
         .dataset = "wrong_parameter_prompt_injection",
         .phase = INTERACTION,
         .source = "client",
         .scope = "single-flow",
         .type = "misleading",
         .maestro = "L3",
         .needs_intent = true,
         .meaning = "the right function was called with arguments other than the user's"},
    [GD_LABEL_DATA_INJECTION] = {.key = "data_injection",
                                 .name = "Data Injection",
                                 .dataset = "data_injection",
                                 .phase = INTERACTION,
                                 .source = "client",
                                 .scope = "single-flow",
                                 .type = "overwriting",
                                 .maestro = "L3",
                                 .needs_response = true,
                                 .meaning = "a result was presented that no call returned"},
    [GD_LABEL_IDENTITY_INJECTION] =
        {.key = "identity_injection",
         .name = "Identity Injection",
         .dataset = "identity_injection",
         .phase = INTERACTION,
         .source = "client",
         .scope = "intra-flow (sender)",
         .type = "confusion",
         .maestro = "L3",
         .meaning = "someone without the right to it got a privileged action executed"},
    [GD_LABEL_REPLAY_INJECTION] = {.key = "replay_injection",
                                   .name = "Replay Injection",
                                   .dataset = "replay_function",
                                   .phase = INTERACTION,
                                   .source = "client",
                                   .scope = "single-flow",
                                   .type = "redundancy",
                                   .maestro = "L3",
                                   .meaning = "the same authorised call was repeated"},
};

const struct gd_label_info *gd_label_info(enum gd_label l)
{
    const int i = (int)l;
    return i >= 0 && i < GD_LABEL_COUNT ? &labels[i] : NULL;
}

int gd_label_find(struct gd_str text)
{
    for (int i = 0; i < GD_LABEL_COUNT; i++) {
        if (gd_str_eqz(text, labels[i].key) || gd_str_eqz(text, labels[i].name) ||
            gd_str_eqz(text, labels[i].dataset))
            return i;
    }
    return -1;
}
