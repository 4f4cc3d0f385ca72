/* tokenize_lines.c - the tokenizer behind two pipes, for comparisons with other implementations.
 *
 *   tokenize_lines TOKENIZER.json off|on < texts > ids
 *
 * Texts: 4-byte little-endian length and the bytes, again and again. Ids: 4-byte count and 4-byte
 * ids for each text. Standard error gets the CPU seconds spent in gd_tokenizer_encode, the number of
 * bytes and of ids. */
#include "guardian/limits.h"
#include "guardian/tokenizer.h"

#include <string.h>
#include <time.h>

struct totals {
    double seconds;
    size_t bytes;
    size_t ids;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool answer(const struct gd_tokenizer *t, enum gd_specials specials, struct gd_str text,
                   struct gd_ids *ids, struct totals *totals)
{
    ids->len = 0;
    double start = now();
    int rc = gd_tokenizer_encode(t, text, specials, ids);
    totals->seconds += now() - start;
    totals->bytes += text.len;
    totals->ids += ids->len;
    uint32_t n = (uint32_t)ids->len;
    if (rc != GD_OK) {
        fprintf(stderr, "tokenize_lines: %s\n", gd_status_message(rc));
        return false;
    }
    return fwrite(&n, sizeof n, 1, stdout) == 1 &&
           fwrite(ids->data, sizeof ids->data[0], n, stdout) == n;
}

int main(int argc, char **argv)
{
    struct gd_tokenizer *t = NULL;
    struct gd_err err = {0};
    struct gd_ids ids = {0};
    struct totals totals = {0};
    bool good = true;
    uint32_t len;
    if (argc != 3 || (strcmp(argv[2], "off") != 0 && strcmp(argv[2], "on") != 0)) {
        fprintf(stderr, "usage: tokenize_lines TOKENIZER.json off|on\n");
        return 2;
    }
    double start = now();
    if (gd_tokenizer_open(&t, argv[1], &err) != GD_OK) {
        fprintf(stderr, "tokenize_lines: %s\n", err.msg);
        return 1;
    }
    double load_seconds = now() - start;
    char *text = malloc(GD_TOKENIZER_TEXT_BYTES_MAX);
    good = text != NULL;
    while (good && fread(&len, sizeof len, 1, stdin) == 1) {
        good = len <= GD_TOKENIZER_TEXT_BYTES_MAX && fread(text, 1, len, stdin) == len;
        if (good)
            good = answer(t, strcmp(argv[2], "on") == 0 ? GD_SPECIALS_ON : GD_SPECIALS_OFF,
                          (struct gd_str){text, len}, &ids, &totals);
    }
    fprintf(stderr, "load %.3f s, encode %.6f s, %zu bytes, %zu ids\n", load_seconds,
            totals.seconds, totals.bytes, totals.ids);
    free(text);
    gd_ids_free(&ids);
    gd_tokenizer_close(t);
    return good ? 0 : 1;
}
