/* prompt.h - a trajectory becomes prompt text and token ids.
 *
 * Layout: [chat markers][template before {body}][body][template after {body}][chat markers][answer
 * prefix]. Everything before the body is the same for all requests of a policy, what follows it is
 * short, so prefixes can be reused. The body only ever grows at its end while a trajectory grows.
 *
 * Special tokens come from the chat format alone: the prompt is a list of segments, and the text
 * segments are encoded with special-token matching off (should one come out of text all the same,
 * there is no verdict: GD_EINTERNAL). Turns cannot be forged either: external text never contains a
 * line break, because rule S below writes it as an escape, and every turn is exactly one line that
 * starts with a marker of ours.
 *
 * RENDERING "dialogue" (weights/train/render.py is its twin for training, tests/http checks that
 * they agree)
 *
 * S(text): what every external string but a name goes through.
 *   1. Invalid UTF-8 is replaced by U+FFFD, one per maximal bad subpart (Unicode 15, section 3.9;
 *      what Python's errors="replace" does).
 *   2. ASCII white space (space, \t, \n, \v, \f, \r) is trimmed at both ends; then F, then C.
 *   3. "\r\n", "\n" and "\r" become the two characters \n; tab becomes the two characters \t; the
 *      other characters below U+0020, U+007F, U+0080-U+009F, U+2028 and U+2029 become \uXXXX
 *      (lower-case hex). Nothing else changes; a backslash stays a backslash.
 * F(text): other writings of a text become the plain one. Full-width letters and digits (U+FF10-FF19,
 *   FF21-FF3A, FF41-FF5A), mathematical alphabets and digits (U+1D400-1D6A3, 1D7CE-1D7FF) and tags
 *   (U+E0020-E007E) become ASCII; other characters that are not shown (Default_Ignorable_Code_Point)
 *   are left out; then, in a word (a run of Latin, Greek and Cyrillic letters) that mixes Latin letters
 *   with Greek or Cyrillic ones, those that look like a Latin letter become it (fold.c has the
 *   list).
 * C(text): a text in capitals, as a sentence: with 16 ASCII letters or more, of which one in ten at
 *   most is lower case, and two spaces or more, its ASCII letters become lower case but for the first
 *   one behind its beginning, a line break, or white space after a full stop, a question mark or an
 *   exclamation mark, each when no letter or digit came between.
 * N(text): S without F and C, and each character that is not shown becomes \uXXXX: names of functions and
 *   servers, where a difference that nobody sees must stay one.
 * E(s, limit): elision of a sanitised string longer than `limit` bytes: the longest prefix of whole
 *   characters within head bytes, " [... N bytes sha256:XXXXXXXX ...] " with N the number of bytes
 *   left out and XXXXXXXX the first eight hex digits of the SHA-256 of the left out bytes, then the
 *   longest suffix of whole characters within tail bytes. head = 2 * limit / 3 and tail = limit / 4
 *   (integer division).
 * J(value): JSON as one line: members in their order (all of them, also those of equal name), ", "
 *   and ": " as separators, number texts as they came, strings decoded and written again with only
 *   \" \\ \n \r \t \b \f and \u00XX (below U+0020) escaped, then the rest of rule S.3, F before
 *   it; nothing is trimmed; lone surrogates become U+FFFD. (Python:
 *   json.dumps(ensure_ascii=False), numbers kept as text.)
 * V(text): a string that may hold JSON: when the trimmed text is a complete JSON object or array
 *   within the reader's limits (limits.h; all strings of a request together at most
 *   GD_REQUEST_NODES_MAX values, GD_ARGUMENTS_NODES_MAX of them kept for arguments, counted as one
 *   more than the commas, { and [ of each) then J of it, else S of it.
 *
 * One line per event, each ended by "\n":
 *   system text         SYSTEM: E(S(text), item_bytes)
 *   user text           USER: E(S(text), item_bytes)
 *   assistant text      ASSISTANT: E(T, item_bytes) with T = S(text), where a "<" that begins
 *                       "<functioncall>" at the very start is written \u003c, so that text does not
 *                       pass for a call. Text that S leaves empty is no event: no line, and it ends
 *                       no waiting.
 *   call                ASSISTANT: <functioncall> {"name": N, "arguments": E(A, item_bytes)}
 *                       N is J(name), with N in place of S.3 there and for a server:
 *                       {"server": ..., "name": ...}. A is J of an arguments object, V of a
 *                       string; missing, null or blank arguments are {}.
 *   result              FUNCTION RESPONSE: E(V(text), item_bytes); J of a structured result in
 *                       place of V(text); an error result has "ERROR: " before it. With more than
 *                       one call waiting (the one answered counts) and a name known: FUNCTION
 *                       RESPONSE [N(name)]: ... An empty result (no text at all, error or not) is
 *                       NO RESPONSE.
 *   call never answered FUNCTION RESPONSE: NO RESPONSE  (written when the next user or assistant
 *                       text, or the next call after at least one result, arrives while calls still
 *                       wait; one line for each waiting call, with its [name] when several wait at
 *                       that moment). A call at the end is pending. A call waits from its line
 *                       until its result or such a line; a result that comes later is still
 *                       written, and a result of no known call ends no waiting.
 *   tool definition     TOOL: E(line, tool_bytes) with line = N(name) "(" params ")" " - "
 *                       S(description); params are the schema's properties joined by ", ", each
 *                       S(parameter) [?] ": " S(type), where ? marks one that `required` does not
 *                       list and type is its "type" when that is a string, else "any". An empty or
 *                       missing description: no " - ".
 *
 * Catalogues (`tools` of a request: at the start; a tools/list result: at its place). When the TOOL
 * lines of a catalogue, line breaks counted, fit into what earlier catalogues left of
 * catalog_bytes, they are written where it arrives, in their order; otherwise it is announced there
 * by the line "TOOLS: <count> functions, shown when called". A line that an earlier catalogue had
 * in the same words is neither counted nor written again (the count of the announcement is of all).
 * Right before a call come the TOOL lines not yet written of the functions of its name, and, when
 * it is the first call of that name, of the similar_tools other functions most similar by name, the
 * called one first. Similarity: Dice coefficient 2 * common / (n + m) (0 when n + m = 0) of the
 * sets of byte bigrams of the names as they came, ASCII letters lower-cased, first 128 bytes;
 * highest first, ties in catalogue order. A called name that no catalogue so far has (while there
 * is one) is announced once, before its call, by "TOOL: " E(N(name) " is not in the catalogue",
 * tool_bytes).
 *
 * NOTES (render.notes of a policy; rendering "dialogue"; weights/train/notes.py is the twin): what
 * comparing texts alone tells, since a small model compares badly. One line "NOTE: E(note,
 * item_bytes)" right after the line of a call, or of an assistant's text; parts are joined by "; ".
 *   words       of a text: bytes, ASCII letters lower-cased, split at everything but a-z, 0-9 and
 *               bytes from 0x80 on; a backslash and what it escapes (\uXXXX or one byte) split too;
 *               a comma between two digits is left out
 *   said, found the words of system and user texts (F of each), and of results as they are written
 *               before E; of both the last GD_NOTE_HISTORY_BYTES
 *   of a call   for its first GD_NOTE_ARGUMENTS_MAX arguments, with A an object: "user", "result",
 *               "partly", "new", each with the arguments N(name) whose values come from there:
 *               the words of F(value) stand in a row in said; in found; at least half of them (two
 *               or more) stand in either; else. Of an argument with several values (the first
 *               GD_NOTE_LEAVES_MAX strings and numbers; a fraction of zeros does not count) the
 *               last of these. No words: not named. Not once GD_NOTE_VALUES_MAX values were looked
 *               up.
 *               "again after answer | failure | no answer yet", ", user spoke since": the latest of
 *               the GD_NOTE_CALLS_MAX calls before with the same server, name and A (in whatever
 *               order its members are); failure: an error, an empty result, none
 *               once the user has spoken: "name k of m": of the m keys of the function's name k are
 *               in the last two user texts; "rather N(function)": of the first GD_NOTE_TOOLS_MAX
 *               functions of other names known by now, the first of those that fit best, when it
 *               fits better than the called one does, which is known too. Fit: keys of the name
 *               found in these texts, twice, and of the description.
 *               keys: the first four bytes of words of three or more, without common ones
 *               (notes.c), each once; of the first 16 of a name (camelCase is two words),
 *               GD_NOTE_WORDS_MAX of a description, 256 of a text
 *   of a text   "<calls> calls; <n> of <m> numbers new": calls since the user's last text; words
 *               with a digit in F(text), each once, and those that are neither in said nor found
 *
 * RENDERING "mci": the same walk, but each event is a numbered flow of three lines, n counting from
 *   1:
 *   "<n>. <from> -> <to>\n   Type: <type>\n   Principle: <principle>\n"
 *   from, to    E(S(element), item_bytes) where the input gave it; else system -> client, user ->
 *               client, client -> user, client -> F (call), F -> client (result) with F =
 *               E(N(name)), or N(server) "/" N(name) with a server known, "server" for an empty
 *               name
 *   type        E(S(element)) where the input gave it; else E(S(text)) for text, for a call
 *               "function request " and the object of the dialogue's line, for a result "function
 *               return " and what follows the dialogue's ": "
 *   principle   E(S(element)) where the input gave it, else: not stated
 * A call never answered is the flow F -> client, "function return NO RESPONSE", not stated. Tool
 * lines are as above.
 */
#ifndef GUARDIAN_PROMPT_H
#define GUARDIAN_PROMPT_H

#include "guardian/policy.h"
#include "guardian/trajectory.h"

struct gd_prompt {
    struct gd_buf text; /* what the model reads, chat markers included, for display */
    struct gd_ids ids;
    uint32_t n_shared;  /* the first ids: the same for all prompts of the policy */
    uint32_t n_keep;    /* the first ids: those before the first that holds text after the body */
    uint32_t elided;    /* items shortened by E */
    bool truncated;     /* events were left out because the context is full */
    uint32_t n_omitted; /* how many events */
    const float *evidence; /* server/guard/evidence.h, in the arena; NULL: the policy has no notes */
};

/* Renders and encodes. When more than context_max ids come out, the oldest events after the first
 * user text (without one: from the first event on; never the last event) are left out until it
 * fits, a line "[N events omitted]" stands for them and truncated is set. Left out events still
 * count for what waits and for which tools are known; the tools of a catalogue left out are shown
 * when called. Any thread. On failure *out needs no free. GD_ELIMIT when even that does not fit,
 * GD_EINTERNAL, GD_ENOMEM. */
int gd_prompt_build(const struct gd_policy *p, const struct gd_tokenizer *t,
                    const struct gd_trajectory *traj, uint32_t context_max, struct gd_arena *a,
                    struct gd_prompt *out, struct gd_err *err);
void gd_prompt_free(struct gd_prompt *p);

#endif
