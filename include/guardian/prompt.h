/* prompt.h - a trajectory becomes prompt text and token ids.
 *
 * Layout: [chat markers][template before {body}][body][template after {body}][chat markers][answer prefix].
 * Everything before the body is the same for all requests of a policy, what follows it is short, so prefixes can be
 * reused. The body only ever grows at its end while a trajectory grows.
 *
 * Special tokens come from the chat format alone: the prompt is a list of segments, and the text segments are encoded
 * with special-token matching off. Turns cannot be forged either: external text never contains a line break, because
 * rule S below writes it as an escape, and every turn is exactly one line that starts with a marker of ours.
 *
 * RENDERING "dialogue" (weights/train/render.py is its twin for training, tests/http checks that they agree)
 *
 * S(text): what every external string goes through.
 *   1. Invalid UTF-8 is replaced by U+FFFD, one per maximal bad subpart (Unicode 15, section 3.9; what Python's
 *      errors="replace" does).
 *   2. ASCII white space (space, \t, \n, \v, \f, \r) is trimmed at both ends.
 *   3. "\r\n", "\n" and "\r" become the two characters \n; tab becomes the two characters \t; the other characters
 *      below U+0020, U+007F, U+0080-U+009F, U+2028 and U+2029 become \uXXXX (lower-case hex). Nothing else changes;
 *      a backslash stays a backslash.
 * E(s, limit): elision of a sanitised string longer than `limit` bytes: the longest prefix of whole characters within
 *   head bytes, " [... N bytes sha256:XXXXXXXX ...] " with N the number of bytes left out and XXXXXXXX the first
 *   eight hex digits of the SHA-256 of the left out bytes, then the longest suffix of whole characters within tail
 *   bytes. head = 2 * limit / 3 and tail = limit / 4 (integer division).
 * J(value): JSON as one line: members in their order, ", " and ": " as separators, number texts as they came, strings
 *   decoded and written again with only \" \\ \n \r \t \b \f and \u00XX (below U+0020) escaped, then the rest of rule
 *   S.3; lone surrogates become U+FFFD. (Python: json.dumps(ensure_ascii=False), numbers kept as text.)
 * V(text): a string that may hold JSON: when the trimmed text is a complete JSON object or array within the reader's
 *   limits then J of it, else S of it.
 *
 * One line per event, each ended by "\n":
 *   system text         SYSTEM: E(S(text), item_bytes)
 *   user text           USER: E(S(text), item_bytes)
 *   assistant text      ASSISTANT: E(S(text), item_bytes)
 *   call                ASSISTANT: <functioncall> {"name": N, "arguments": E(J(arguments) or S(arguments), item_bytes)}
 *                       N is J(name); with a server known: {"server": J(server), "name": ...}. No arguments: {}.
 *                       Arguments that came as a string go through V.
 *   result              FUNCTION RESPONSE: E(V(text), item_bytes); an error result has "ERROR: " before its text. With
 *                       more than one call waiting for its result: FUNCTION RESPONSE [S(name)]: ...
 *                       An empty result (no text at all) is NO RESPONSE.
 *   call never answered FUNCTION RESPONSE: NO RESPONSE  (written when the next user or assistant text, or the next
 *                       call after at least one result, arrives while calls still wait; one line for each waiting
 *                       call, with its [name] when several wait at that moment). A call at the end is pending.
 *   tool definition     TOOL: E(line, tool_bytes) with line = S(name) "(" params ")" " - " S(description); params are
 *                       joined by ", ", each S(parameter) [?] ": " S(type), where ? marks one that is not required and
 *                       type is the schema's "type" when that is a string, else "any". No description: no " - ".
 * All tools whose lines fit into catalog_bytes together (line breaks counted) are written where the catalogue arrives
 * (`tools` of a request: at the start; a tools/list result: at its place), in their order. A catalogue that does not
 * fit is announced there by the line "TOOLS: <count> functions, shown when called", and right before the first call
 * of each function come the TOOL lines not yet written of that function and of the similar_tools others most similar
 * by name (Dice coefficient of the sets of character bigrams of the lower-cased ASCII names, highest first, ties in
 * catalogue order), the called one first. A called function that the known catalogue lacks is announced, before its
 * first call, by "TOOL: S(name) is not in the catalogue" (elided like any TOOL line).
 *
 * RENDERING "mci": each event a numbered flow: "<n>. <sender> -> <recipient>\n   Type: ...\n   Principle: ...\n".
 */
#ifndef GUARDIAN_PROMPT_H
#define GUARDIAN_PROMPT_H

#include "guardian/policy.h"
#include "guardian/trajectory.h"

struct gd_prompt {
    struct gd_buf text;   /* what the model reads, chat markers included, for display */
    struct gd_ids ids;
    uint32_t elided;      /* items shortened by E */
    bool truncated;       /* events were left out because the context is full */
    uint32_t n_omitted;   /* how many events */
};

/* Renders and encodes. When more than context_max ids come out, the oldest events after the first user text are left
 * out until it fits (a line "[N events omitted]" stands for them) and truncated is set. Any thread.
 * GD_ELIMIT when even that does not fit, GD_ENOMEM. */
int gd_prompt_build(const struct gd_policy *p, const struct gd_tokenizer *t,
                    const struct gd_trajectory *traj, uint32_t context_max, struct gd_arena *a,
                    struct gd_prompt *out, struct gd_err *err);
void gd_prompt_free(struct gd_prompt *p);

#endif
