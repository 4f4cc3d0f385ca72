/* grammar.c - streams of one to five requests, mostly right, with the ways in which readers of HTTP
 * have been seen to differ.
 *
 * Lengths, codings, folds, line ends, odd names and targets, many headers, leading blanks, early
 * ends; then, in some streams, bytes changed at random. Bodies often hold what could be taken for a
 * request, with an id of its own. Nothing depends on the letter of the path but the ids. */
#include "desync.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct gen {
    struct rng rng;
    struct stream *out;
    uint64_t seed;
    uint32_t number;
    char letter;
    unsigned n_hidden;
};

uint64_t rng_next(struct rng *r) /* splitmix64 */
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

bool rng_percent(struct rng *r, uint32_t percent)
{
    return rng_below(r, 100) < percent;
}

#define PICK(g, table) (table)[rng_below(&(g)->rng, sizeof(table) / sizeof((table)[0]))]

static void put(struct gen *g, const char *p, size_t n)
{
    struct stream *s = g->out;
    n = n < STREAM_MAX - s->len ? n : STREAM_MAX - s->len;
    memcpy(s->bytes + s->len, p, n);
    s->len += n;
}

static void put_z(struct gen *g, const char *text)
{
    put(g, text, strlen(text));
}

__attribute__((format(printf, 2, 3))) static void put_f(struct gen *g, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    put(g, line, n > 0 && (size_t)n < sizeof(line) ? (size_t)n : 0);
}

static void put_id(struct gen *g, char kind, unsigned index)
{
    const struct id id = {.letter = g->letter, .kind = kind, .number = g->number, .index = index};
    char text[ID_LEN + 1];
    id_write(text, &id, g->seed);
    put_z(g, text);
}

/* Mostly CRLF. */
static void put_eol(struct gen *g)
{
    static const char *const odd[] = {"\n",    "\r",     "\r\r\n", "\n\r",
                                      " \r\n", "\t\r\n", "\r\n\r", ""};
    put_z(g, rng_below(&g->rng, 300) == 0 ? PICK(g, odd) : "\r\n");
}

static void put_many(struct gen *g)
{
    const uint32_t n = 50 + rng_below(&g->rng, 80);
    for (uint32_t i = 0; i < n; i++) {
        put_f(g, "X%u: %u", i, i);
        put_eol(g);
    }
}

/* What has nothing to do with the frame, or only if a reader gets it wrong. */
static void put_other_headers(struct gen *g)
{
    static const char *const odd[] = {
        "X(y): 1",    "X y: 1",     "X\x01: 1",    ": 1",      "nocolon",  "X:",
        "X: \x01",    "X: a\x7f",   "X: \xff\xfe", "X:\t1",    "X :1",     " X: 1",
        "\tX: 1",     "X: a\r\n b", "X: a\r\n\tb", "X: a\n b", "X\xe9: 1", "\"X\": 1",
        "X@: 1",      "X/: 1",      "X;: 1",       "Host : y", "Host: y",  "hOST:",
        "X: a\rY: b", "X: a\nY: b",
    };
    static const char *const plain[] = {
        "Accept: */*",
        "User-Agent: a",
        "Content-Type: application/json",
        "Content-Type: text/plain",
        "Content-Encoding: gzip",
        "Accept-Encoding: gzip",
        "Origin: http://elsewhere",
        "Origin: null",
        "Cookie: a=b",
        "Authorization: Bearer abc",
        "x-api-key: abc",
        "Range: bytes=0-1",
        "Via: 1.1 a",
        "Max-Forwards: 0",
        "If-None-Match: *",
        "X-HTTP-Method-Override: POST",
        "Trailer: Content-Length",
    };
    static const char *const connection[] = {
        "close",
        "keep-alive",
        "Close",
        "keep-alive, close",
        "close, keep-alive",
        "Content-Length",
        "Host",
        "Transfer-Encoding",
        "x-request-id",
        "Upgrade",
        "",
        "closed",
        "upgrade, HTTP2-Settings",
        ",",
        "cl ose",
    };
    static const char *const expect[] = {"100-continue", "100-Continue", "banana", "",
                                         "100-continue, x"};
    static const char *const upgrade[] = {"websocket", "h2c", "TLS/1.0", "HTTP/2.0"};
    struct rng *r = &g->rng;
    for (uint32_t i = rng_below(r, 3); i > 0; i--) {
        put_z(g, PICK(g, plain));
        put_eol(g);
    }
    if (rng_percent(r, 5)) {
        put_z(g, PICK(g, odd));
        put_eol(g);
    }
    if (rng_percent(r, 12)) {
        put_f(g, "Connection: %s", PICK(g, connection));
        put_eol(g);
    }
    if (rng_percent(r, 4)) {
        put_f(g, "Expect: %s", PICK(g, expect));
        put_eol(g);
    }
    if (rng_percent(r, 2)) {
        put_f(g, "Upgrade: %s", PICK(g, upgrade));
        put_eol(g);
    }
    if (rng_below(r, 150) == 0) {
        char many[9000];
        memset(many, 'a', sizeof(many));
        put_z(g, "X: ");
        put(g, many, 6000 + rng_below(r, 3000));
        put(g, many, rng_percent(r, 50) ? 8500 : 1);
        put_eol(g);
    }
}

static void put_hidden(struct gen *g)
{
    static const char *const lines[] = {"GET /version HTTP/1.1", "HEAD /healthz HTTP/1.1",
                                        "GET /nothing HTTP/1.1", "GET /healthz HTTP/1.0"};
    if (g->n_hidden > 15) {
        return;
    }
    put_f(g, "%s\r\nHost: x\r\nx-request-id: ", PICK(g, lines));
    put_id(g, 'h', g->n_hidden++);
    put_z(g, "\r\n");
    if (rng_percent(&g->rng, 20)) {
        put_z(g, "Content-Length: 5\r\n");
    }
    put_z(g, "\r\n");
}

/* The bytes that a request carries; some are a verdict's request, some look like a request. */
static void put_payload(struct gen *g)
{
    static const char *const texts[] = {
        "hello",
        "",
        "{}",
        "{\"messages\":[]}",
        "0\r\n\r\n",
        "\r\n",
        "\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "GET",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":"
        "\"hello\"}]}",
    };
    const uint32_t what = rng_below(&g->rng, 10);
    if (what < 5) {
        put_z(g, PICK(g, texts));
        return;
    }
    if (what == 5) {
        put_z(g, PICK(g, texts));
    }
    put_hidden(g);
    if (what == 6) {
        put_hidden(g);
    }
}

static void put_chunks(struct gen *g, const char *p, size_t n)
{
    static const char *const sizes[] = {"%zx\r\n",     "%zX\r\n",   "0%zx\r\n",  "%zx;a=b\r\n",
                                        "%zx \r\n",    "%zx\n",     "0x%zx\r\n", "+%zx\r\n",
                                        "%zx;\"\r\n",  "%zx\t\r\n", "-%zx\r\n",  "%zx;\n",
                                        "1%015zx\r\n", " %zx\r\n"};
    static const char *const ends[] = {
        "0\r\n\r\n",  "0\r\nX: y\r\n\r\n", "0\n\n",      "0\r\n",
        "00\r\n\r\n", "0;x\r\n\r\n",       "",           "0\r\nContent-Length: 5\r\n\r\n",
        "0 \r\n\r\n", "\r\n0\r\n\r\n",     "0\r\r\n\r\n"};
    const bool odd = rng_percent(&g->rng, 25);
    const uint32_t which = odd ? rng_below(&g->rng, sizeof(sizes) / sizeof(sizes[0])) : 0;
    char size[64];
    if (n > 0) {
        snprintf(size, sizeof(size), sizes[which], n); /* NOLINT: the formats are the table above */
        put_z(g, size);
        put(g, p, n);
        put_z(g, odd && rng_percent(&g->rng, 20) ? "\n" : "\r\n");
    }
    put_z(g, rng_percent(&g->rng, 15) ? PICK(g, ends) : "0\r\n\r\n");
}

static void put_length(struct gen *g, size_t n)
{
    static const char *const odd[] = {
        "Content-Length: +%zu",
        "Content-Length: -%zu",
        "Content-Length: 0x%zx",
        "Content-Length: %zu, %zu",
        "Content-Length: %zu,%zu",
        "Content-Length: %zuabc",
        "Content-Length: %zu ",
        "Content-Length:\t%zu",
        "Content-Length:%zu",
        "Content-Length : %zu",
        "Content-Length\t: %zu",
        " Content-Length: %zu",
        "Content-Length:\r\n %zu",
        "Content-Length: %zu\r\n ",
        "Content-Length: 0%zu",
        "Content-Length: %zu.0",
        "Content-Length: %zue0",
        "Content-Length: \"%zu\"",
        "Content-Length: %zu;",
        "Content_Length: %zu",
        "Content-Length: %zu\r\nContent-Length: 0",
        "Content-Length: 0\r\nContent-Length: %zu",
        "Content-Length: %zu\r\nContent-Length: %zu",
        "Content-Length: 1844674407370955161%zu",
        "Content-Length: 429496729%zu",
        "Content-Length: 000000000%zu",
        "Content-Length: ",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "content-LENGTH: %zu",
        "Content-Length: \x0b%zu",
        "Content-Length: %zu\x0c",
        "X: y\nContent-Length: %zu",
        "X: y\rContent-Length: %zu",
        "Content-Length: %zu %zu",
        "Content-Length:: %zu",
    };
    char line[160];
    if (rng_percent(&g->rng, 70)) {
        put_f(g, "Content-Length: %zu", n);
    } else {
        const char *format = PICK(g, odd);
        snprintf(line, sizeof(line), format, n, n); /* NOLINT: the formats are the table above */
        put_z(g, line);
    }
    put_eol(g);
}

static void put_coding(struct gen *g)
{
    static const char *const odd[] = {
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding:chunked",
        "Transfer-Encoding:\tchunked",
        "transfer-encoding: chunked ",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked\x0b",
        "Transfer-Encoding: \x0b"
        "chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\n ",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        " Transfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: ",
        "Transfer-Encoding: chunk",
        "TE: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer-Encoding: ch\x75nked,",
    };
    put_z(g, rng_percent(&g->rng, 50) ? "Transfer-Encoding: chunked" : PICK(g, odd));
    put_eol(g);
}

static void put_request_line(struct gen *g)
{
    static const char *const methods[] = {"OPTIONS", "PUT",  "DELETE", "TRACE", "CONNECT",
                                          "get",     "BREW", "GET\t",  "PATCH", "G@T"};
    static const char *const paths[] = {"/version",  "/version",  "/healthz", "/readyz",
                                        "/v1/guard", "/v1/guard", "/nothing"};
    static const char *const targets[] = {
        "http://x/version",
        "HTTP://x/version",
        "http://y/version",
        "*",
        "version",
        "/version?a=b",
        "//version",
        "/version#a",
        "/%00",
        "/version%20",
        "/a/../version",
        "/\xff",
        "/\x01",
        "/version\t",
        "/a b",
        "",
        "x:443",
        "/version;a",
        "/%2e%2e/",
        "\\version",
        "/?",
        "/version?\r",
        "http:///version",
        "/v1/guard?x",
        "/<script>",
    };
    static const char *const versions[] = {"HTTP/1.0",  "HTTP/1.0", "HTTP/1.2",   "HTTP/0.9",
                                           "HTTP/2.0",  "http/1.1", "HTTP/1.1 ",  "HTTP/01.1",
                                           "HTTP/1.10", "HTTP/1",   "HTTP/1.1\t", " HTTP/1.1",
                                           "HTTP/1.1x", "",         "HTTP/11",    "HTTP/1,1"};
    static const char *const usual[] = {"GET",  "GET",  "GET",  "GET", "POST",
                                        "POST", "POST", "POST", "HEAD"};
    struct rng *r = &g->rng;
    put_f(g, "%s ", rng_percent(r, 5) ? PICK(g, methods) : PICK(g, usual));
    put_f(g, "%s ", rng_percent(r, 6) ? PICK(g, targets) : PICK(g, paths));
    put_z(g, rng_percent(r, 5) ? PICK(g, versions) : "HTTP/1.1");
    put_eol(g);
}

/* Before a request, where nothing belongs. Long runs end where earlier bytes of a buffer may lie. */
static void put_leading(struct gen *g)
{
    static const char *const runs[] = {"\r\n", "\n", " ", "\r\n\r\n", "\t", "\r", "\0"};
    const char *run = PICK(g, runs);
    const uint32_t n = rng_percent(&g->rng, 50) ? 1 : 1 + rng_below(&g->rng, 200);
    if (rng_percent(&g->rng, 30)) {
        put_z(g, "\r\n\r\n");
    }
    for (uint32_t i = 0; i < n; i++) {
        put(g, run, run[0] != '\0' ? strlen(run) : 1);
    }
}

enum framing { NO_BODY, LENGTH, SHORT, LONG, CHUNKED, BOTH, UNFRAMED };

static void put_request(struct gen *g, unsigned index)
{
    static const enum framing framings[] = {NO_BODY, NO_BODY, NO_BODY, LENGTH,  LENGTH, LENGTH,
                                            SHORT,   LONG,    CHUNKED, CHUNKED, BOTH,   UNFRAMED};
    static struct stream payload, coded; /* too large for a stack */
    struct rng *r = &g->rng;
    struct stream *stream = g->out;
    const enum framing framing = PICK(g, framings);
    payload.len = coded.len = 0;
    g->out = &payload;
    if (framing != NO_BODY) {
        put_payload(g);
    }
    g->out = &coded;
    if (framing == CHUNKED || (framing == BOTH && rng_percent(r, 70))) {
        put_chunks(g, payload.bytes, payload.len);
        if (framing == BOTH && rng_percent(r, 50)) {
            put_hidden(g);
        }
    } else {
        put(g, payload.bytes, payload.len);
    }
    g->out = stream;
    if (rng_percent(r, 4)) {
        put_leading(g);
    }
    put_request_line(g);
    const bool id_last = rng_percent(r, 30);
    if (rng_percent(r, 97)) {
        put_z(g, "Host: x");
        put_eol(g);
    }
    for (int at = 0; at < 2; at++) {
        if ((at == 1) == id_last) {
            put_z(g, "x-request-id: ");
            put_id(g, 'v', index);
            put_eol(g);
        }
        if (at == 0 && rng_percent(r, 3)) {
            put_many(g);
        }
    }
    const size_t n = coded.len;
    const bool length_first = rng_percent(r, 50);
    for (int at = 0; at < 2; at++) {
        if ((at == 0) == length_first && (framing == LENGTH || framing == BOTH)) {
            put_length(g,
                       framing == BOTH && rng_percent(r, 30) ? rng_below(r, (uint32_t)n + 1) : n);
        } else if ((at == 1) == length_first && (framing == CHUNKED || framing == BOTH)) {
            put_coding(g);
        }
    }
    if (framing == SHORT) {
        put_length(g, rng_percent(r, 50) ? 0 : rng_below(r, (uint32_t)n + 1));
    } else if (framing == LONG) {
        put_length(g, n + 1 + rng_below(r, 300));
    }
    put_other_headers(g);
    put_eol(g);
    put(g, coded.bytes, n);
}

/* At most 8 bytes are doubled, so that no id comes twice. */
static void change_bytes(struct gen *g)
{
    static const char usual[] = "\r\n\t :,;\0/0159aZ%\x7f\x80\xff";
    struct stream *s = g->out;
    struct rng *r = &g->rng;
    for (uint32_t i = 1 + rng_below(r, 4); i > 0 && s->len > 16 && s->len < STREAM_MAX - 16; i--) {
        const uint32_t at = rng_below(r, (uint32_t)s->len - 8), n = 1 + rng_below(r, 8);
        const uint64_t byte = rng_next(r);
        switch (rng_below(r, 5)) {
        case 0:
            s->bytes[at] = (char)(s->bytes[at] ^ (1 << (byte & 7)));
            break;
        case 1:
            s->bytes[at] = usual[byte % (sizeof(usual) - 1)];
            break;
        case 2:
            memmove(s->bytes + at, s->bytes + at + n, s->len - at - n);
            s->len -= n;
            break;
        case 3:
            memmove(s->bytes + at + n, s->bytes + at, s->len - at);
            s->len += n;
            break;
        default:
            s->bytes[at] = (char)byte;
        }
    }
}

void stream_make(struct stream *out, uint64_t seed, uint32_t number, char letter)
{
    struct gen g = {.rng = {seed ^ (number * 0xd6e8feb86659fd93u)},
                    .out = out,
                    .seed = seed,
                    .number = number,
                    .letter = letter};
    const unsigned n = 1 + rng_below(&g.rng, 5);
    out->len = 0;
    for (unsigned i = 0; i < n; i++) {
        put_request(&g, i);
    }
    if (rng_percent(&g.rng, 3)) {
        put_leading(&g);
    }
    if (rng_percent(&g.rng, 12)) {
        change_bytes(&g);
    }
    if (rng_percent(&g.rng, 6) && out->len > 0) {
        out->len = 1 + rng_below(&g.rng, (uint32_t)out->len);
    }
}
