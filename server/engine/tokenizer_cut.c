/* tokenizer_cut.c - where text may be cut so that both parts can be encoded apart.
 *
 * The place: behind X "\n" and before an ASCII letter, X being a character other than white space.
 * Nothing in the encoder looks across it:
 *   - repair: a line break and a letter end and start what counts as one bad subpart;
 *   - added tokens: one that reaches across holds "\n", and then no place is given (special ones
 *     too: where they are off, their text is still passed over whole);
 *   - NFC: a character below U+0300 never composes with what is before it, and "\n" with nothing;
 *     marks behind the letter go with it, and what they make of it is a letter;
 *   - pieces: a piece with X in it ends with X, or (punctuation of the newer patterns, [\r\n]*)
 *     with the line break; otherwise "\n" is the whole piece, because \s+ and \s* begin behind X. In
 *     each case the same piece ends at the end of text. A contraction is an apostrophe and letters.
 *     No pattern looks back, so what follows does not know what was before.
 * Pieces of a later stage are made from those of the first alone. */
#include "tokenizer_parts.h"

#include "guardian/json.h"

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Whether the character that ends before end (> 0) is white space. Broken UTF-8 is U+FFFD. */
static bool space_before(struct gd_str text, size_t end)
{
    size_t start = end - 1;
    uint32_t cp;
    while (start > 0 && end - start < 4 && ((uint8_t)text.ptr[start] & 0xC0) == 0x80)
        start--;
    int len = gd_utf8_next((struct gd_str){text.ptr, end}, start, &cp);
    return len > 0 && (size_t)len == end - start && gd_split_is_space(cp);
}

size_t gd_tokenizer_cut(const struct gd_tokenizer *t, struct gd_str text, size_t at)
{
    if (t->added_breaks || !gd_splits_known(&t->splits) || text.len < 3)
        return 0;
    for (size_t i = at < text.len ? at : text.len - 1; i >= 2; i--) {
        if (text.ptr[i - 1] == '\n' && is_letter(text.ptr[i]) && !space_before(text, i - 1))
            return i;
    }
    return 0;
}
