/* text.h - the rules S, N, F, C, E, J and V of guardian/prompt.h. Internal to server/guard. Any thread. */
#ifndef GUARDIAN_GUARD_TEXT_H
#define GUARDIAN_GUARD_TEXT_H

#include "guardian/json.h"

/* text without ASCII white space at both ends. */
struct gd_str gd_text_trim(struct gd_str text);

/* Nothing is left of it by S. */
bool gd_text_blank(struct gd_str text);

/* Appends F(s). */
void gd_text_fold(struct gd_buf *b, struct gd_str s);

/* Whether F makes s look like something that it is not: a word of letters of several alphabets, or a
 * character that is not shown behind ASCII that is. */
bool gd_text_disguised(struct gd_str s);

/* Whether C changes s; makes s, in place, C(s) when it does. */
bool gd_text_in_capitals(struct gd_str s);
void gd_text_uncapitalise(char *s, size_t n);

/* A character that is not shown (Default_Ignorable_Code_Point). */
bool gd_text_invisible(uint32_t cp);

/* Appends S(text). */
void gd_text_sanitise(struct gd_buf *b, struct gd_str text);

/* Appends N(text), and J of a name. */
void gd_text_name(struct gd_buf *b, struct gd_str text);
void gd_text_json_name(struct gd_buf *b, struct gd_str name);

/* Appends J(value). value may be NULL: nothing. */
void gd_text_json(struct gd_buf *b, const struct gd_json *value);

/* Appends J of a string value. */
void gd_text_json_str(struct gd_buf *b, struct gd_str s);

/* Appends E(s, limit); true when it was shortened. */
bool gd_text_elide(struct gd_buf *b, struct gd_str s, size_t limit);

/* Bytes of s to show in a message, at most 48, never cut inside a character; for "%.*s". */
int gd_text_shown(struct gd_str s);

/* Same value: members in the same order, numbers by their text, strings decoded. */
bool gd_text_json_equal(const struct gd_json *x, const struct gd_json *y);

#endif
