/* fold.c - rules F and C of guardian/prompt.h: other writings of a text become the plain one, so that
 * the model reads what a person would. F is one pass; what belongs to a word is decided at its end. */
#include "text.h"

#include "guardian/limits.h"

#include <string.h>

struct range {
    uint32_t first, last;
};

/* Default_Ignorable_Code_Point (Unicode 15, DerivedCoreProperties.txt). */
static const struct range INVISIBLE[] = {
    {0x00AD, 0x00AD},   {0x034F, 0x034F},   {0x061C, 0x061C}, {0x115F, 0x1160}, {0x17B4, 0x17B5},
    {0x180B, 0x180F},   {0x200B, 0x200F},   {0x202A, 0x202E}, {0x2060, 0x206F}, {0x3164, 0x3164},
    {0xFE00, 0xFE0F},   {0xFEFF, 0xFEFF},   {0xFFA0, 0xFFA0}, {0xFFF0, 0xFFF8}, {0x1BCA0, 0x1BCA3},
    {0x1D173, 0x1D17A}, {0xE0000, 0xE0FFF},
};

/* Greek and Cyrillic letters drawn like a Latin one, in pairs. */
static const struct {
    uint32_t cp;
    char latin;
} LOOKALIKES[] = {
    {0x0391, 'A'}, {0x0392, 'B'}, {0x0395, 'E'}, {0x0396, 'Z'}, {0x0397, 'H'}, {0x0399, 'I'},
    {0x039A, 'K'}, {0x039C, 'M'}, {0x039D, 'N'}, {0x039F, 'O'}, {0x03A1, 'P'}, {0x03A4, 'T'},
    {0x03A5, 'Y'}, {0x03A7, 'X'}, {0x03B1, 'a'}, {0x03B9, 'i'}, {0x03BA, 'k'}, {0x03BD, 'v'},
    {0x03BF, 'o'}, {0x03C1, 'p'}, {0x03C5, 'u'}, {0x03C7, 'x'}, {0x0405, 'S'}, {0x0406, 'I'},
    {0x0408, 'J'}, {0x0410, 'A'}, {0x0412, 'B'}, {0x0415, 'E'}, {0x041A, 'K'}, {0x041C, 'M'},
    {0x041D, 'H'}, {0x041E, 'O'}, {0x0420, 'P'}, {0x0421, 'C'}, {0x0422, 'T'}, {0x0423, 'Y'},
    {0x0425, 'X'}, {0x0430, 'a'}, {0x0435, 'e'}, {0x043E, 'o'}, {0x0440, 'p'}, {0x0441, 'c'},
    {0x0443, 'y'}, {0x0445, 'x'}, {0x0455, 's'}, {0x0456, 'i'}, {0x0458, 'j'}, {0x04BB, 'h'},
    {0x0501, 'd'}, {0x051B, 'q'}, {0x051D, 'w'},
};

bool gd_text_invisible(uint32_t cp)
{
    for (size_t i = 0; i < sizeof INVISIBLE / sizeof INVISIBLE[0]; i++)
        if (cp >= INVISIBLE[i].first && cp <= INVISIBLE[i].last)
            return true;
    return false;
}

static bool in(uint32_t cp, uint32_t first, uint32_t last)
{
    return cp >= first && cp <= last;
}

static bool is_tag(uint32_t cp)
{
    return in(cp, 0xE0020, 0xE007E);
}

bool gd_text_blank(struct gd_str s)
{
    s = gd_text_trim(s);
    for (size_t i = 0; i < s.len;) {
        uint32_t cp = 0xFFFD;
        const int n = gd_utf8_next(s, i, &cp);
        if (n < 0 || !gd_text_invisible(cp) || is_tag(cp))
            return false;
        i += (size_t)n;
    }
    return true;
}

/* Full-width letters and digits, the mathematical alphabets, which go on in blocks of 52, and the tags
 * that some models read as ASCII although nobody sees them. */
static uint32_t plain_form(uint32_t cp)
{
    if (is_tag(cp))
        return cp - 0xE0000;
    if (in(cp, 0xFF10, 0xFF19) || in(cp, 0xFF21, 0xFF3A) || in(cp, 0xFF41, 0xFF5A))
        return cp - 0xFEE0;
    if (in(cp, 0x1D400, 0x1D6A3)) {
        const uint32_t i = (cp - 0x1D400) % 52;
        return i < 26 ? 'A' + i : 'a' + i - 26;
    }
    if (in(cp, 0x1D7CE, 0x1D7FF))
        return '0' + (cp - 0x1D7CE) % 10;
    return cp;
}

static bool is_latin(uint32_t cp)
{
    return in(cp, 'A', 'Z') || in(cp, 'a', 'z') ||
           (in(cp, 0xC0, 0x24F) && cp != 0xD7 && cp != 0xF7);
}

static bool is_greek_or_cyrillic(uint32_t cp)
{
    return in(cp, 0x0370, 0x0373) || in(cp, 0x0376, 0x0377) || in(cp, 0x037B, 0x037D) ||
           cp == 0x037F || cp == 0x0386 || in(cp, 0x0388, 0x03F5) || in(cp, 0x03F7, 0x0481) ||
           in(cp, 0x048A, 0x052F);
}

/* The Latin letter that a Greek or Cyrillic one looks like, or 0. */
static char looks_like(uint32_t cp)
{
    for (size_t k = 0; k < sizeof LOOKALIKES / sizeof LOOKALIKES[0]; k++) {
        if (LOOKALIKES[k].cp == cp)
            return LOOKALIKES[k].latin;
    }
    return 0;
}

/* Writes the word that begins at `start` of b again, lookalikes as Latin letters: never longer. */
static void latinise(struct gd_buf *b, size_t start)
{
    const struct gd_str word = {b->data + start, b->len - start};
    size_t to = start;
    for (size_t i = 0; i < word.len;) {
        uint32_t cp = 0;
        const size_t n = (size_t)gd_utf8_next(word, i, &cp);
        const char latin = looks_like(cp);
        if (latin != 0)
            b->data[to++] = latin;
        else
            for (size_t k = 0; k < n; k++)
                b->data[to++] = word.ptr[i + k];
        i += n;
    }
    b->data[to] = '\0';
    b->len = to;
}

void gd_text_fold(struct gd_buf *b, struct gd_str s)
{
    size_t start = b->len; /* of the word in hand */
    bool latin = false, other = false;
    for (size_t i = 0; i < s.len && !b->failed;) {
        uint32_t cp = 0xFFFD;
        const int n = gd_utf8_next(s, i, &cp);
        i += (size_t)(n < 0 ? -n : n);
        cp = n < 0 ? 0xFFFD : plain_form(cp);
        if (gd_text_invisible(cp))
            continue;
        const bool l = is_latin(cp), o = is_greek_or_cyrillic(cp);
        if (!l && !o) {
            if (latin && other)
                latinise(b, start);
            latin = other = false;
        }
        gd_utf8_put(b, cp);
        if (!l && !o)
            start = b->len;
        latin = latin || l;
        other = other || o;
    }
    if (latin && other && !b->failed)
        latinise(b, start);
}

bool gd_text_disguised(struct gd_str s)
{
    bool latin = false, alike = false, shown = false; /* of the word in hand; the character before */
    for (size_t i = 0; i < s.len;) {
        uint32_t cp = 0xFFFD;
        const int n = gd_utf8_next(s, i, &cp);
        i += (size_t)(n < 0 ? -n : n);
        cp = n < 0 ? 0xFFFD : cp;
        const bool picture = in(cp, 0xFE0E, 0xFE0F); /* of a digit, say: an ordinary emoji */
        if (is_tag(cp) || (shown && gd_text_invisible(cp) && !picture))
            return true;
        const bool l = is_latin(cp), o = is_greek_or_cyrillic(cp);
        latin = (latin && o) || l;
        alike = (alike && (l || o)) || (o && looks_like(cp) != 0);
        if (latin && alike)
            return true;
        shown = in(cp, 0x21, 0x7E);
    }
    return false;
}

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

bool gd_text_in_capitals(struct gd_str s)
{
    size_t upper = 0, lower = 0, spaces = 0;
    for (size_t i = 0; i < s.len; i++) {
        upper += is_upper(s.ptr[i]);
        lower += is_lower(s.ptr[i]);
        spaces += s.ptr[i] == ' ';
    }
    return upper + lower >= GD_CAPITALS_LETTERS_MIN && lower <= upper / 9 &&
           spaces >= GD_CAPITALS_SPACES_MIN;
}

void gd_text_uncapitalise(char *s, size_t n)
{
    bool begins = true, ended = false; /* of a sentence */
    for (size_t i = 0; i < n; i++) {
        const char c = s[i];
        if (is_upper(c) && !begins)
            s[i] = (char)(c - 'A' + 'a');
        if (c == '\n' || c == '\r' || (ended && (c == ' ' || (c >= '\t' && c <= '\r'))))
            begins = true;
        else if (is_upper(c) || is_lower(c) || (c >= '0' && c <= '9'))
            begins = false;
        ended = c == '.' || c == '!' || c == '?';
    }
}
