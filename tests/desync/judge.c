/* judge.c - whether an answer, or a line of Guardian's log, belongs to a request that was asked.
 *
 * The proxies put "via-n:" or "via-h:" and a number of their own before the client's x-request-id on
 * its way to Guardian, and tell the client the same text as x-front-id: the request that they take
 * the answer for. Guardian's x-request-id is the request that it has answered. Where they differ, the
 * connection between the two has lost its step. An id of a proxied stream that reaches Guardian
 * without the proxy's mark was in a request that the proxy did not see. */
#include "desync.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char PATH_LETTERS[PATHS + 1] = "DNH";
const char *const PATH_NAMES[PATHS] = {"direct", "nginx", "haproxy"};
static const char *const MARKS[PATHS] = {"", "via-n:", "via-h:"};
struct record records[RECORDS];

static unsigned id_sum(const char *p, uint64_t seed)
{
    struct rng r = {seed};
    for (int i = 0; i < ID_LEN - 5; i++) {
        r.state = rng_next(&r) ^ (unsigned char)p[i];
    }
    return (unsigned)rng_next(&r) & 0xffff;
}

void id_write(char out[ID_LEN + 1], const struct id *id, uint64_t seed)
{
    snprintf(out, ID_LEN + 1, "%c%c%08x%x-%04x", id->letter, id->kind, id->number, id->index & 15u,
             0u);
    snprintf(out + ID_LEN - 4, 5, "%04x", id_sum(out, seed));
}

bool id_find(const char *p, size_t n, uint64_t seed, struct id *out, size_t *at)
{
    for (size_t i = 0; i + ID_LEN <= n; i++) {
        char text[ID_LEN + 1], sum[5], *end;
        if (p[i + ID_LEN - 5] != '-' || strchr("vhw", p[i + 1]) == NULL) {
            continue;
        }
        memcpy(text, p + i, ID_LEN);
        text[ID_LEN] = '\0';
        snprintf(sum, sizeof(sum), "%04x", id_sum(text, seed));
        if (strcmp(sum, text + ID_LEN - 4) != 0) {
            continue;
        }
        text[ID_LEN - 5] = '\0';
        const uint64_t digits = strtoull(text + 2, &end, 16);
        *out = (struct id){text[0], text[1], (uint32_t)(digits >> 4), (unsigned)digits & 15u};
        if (at != NULL) {
            *at = i;
        }
        return *end == '\0';
    }
    return false;
}

uint32_t id_bit(const struct id *id)
{
    return id->kind == 'w' ? 0 : 1u << (id->index + (id->kind == 'h' ? 16 : 0));
}

static void take(char *out, size_t size, const char *p, size_t n)
{
    n = n < size - 1 ? n : size - 1;
    memcpy(out, p, n);
    out[n] = '\0';
}

static void read_field(struct answer *a, const char *p, size_t n)
{
    const char *colon = memchr(p, ':', n);
    const size_t name = colon != NULL ? (size_t)(colon - p) : n;
    const char *v = colon != NULL ? colon + 1 : p + n;
    size_t len = n - (size_t)(v - p);
    while (len > 0 && *v == ' ') {
        v++;
        len--;
    }
    if (name == 14 && strncasecmp(p, "content-length", name) == 0) {
        a->has_length = true;
        a->length = strtoul(v, NULL, 10);
    } else if (name == 10 && strncasecmp(p, "connection", name) == 0) {
        a->close = len == 5 && strncasecmp(v, "close", 5) == 0;
    } else if (name == 12 && strncasecmp(p, "x-request-id", name) == 0) {
        a->has_id = true;
        take(a->id, sizeof(a->id), v, len);
    } else if (name == 10 && strncasecmp(p, "x-front-id", name) == 0) {
        a->has_front = true;
        take(a->front, sizeof(a->front), v, len);
    } else if (name == 14 && strncasecmp(p, "x-front-method", name) == 0) {
        a->front_head = len == 4 && memcmp(v, "HEAD", 4) == 0;
    }
}

int answer_read(struct answer *out, const char *p, size_t n)
{
    static const char protocol[] = "HTTP/1.";
    const size_t shorter = n < sizeof(protocol) - 1 ? n : sizeof(protocol) - 1;
    const char *end = memmem(p, n, "\r\n\r\n", 4);
    *out = (struct answer){0};
    if (memcmp(p, protocol, shorter) != 0) {
        return -1;
    }
    if (end == NULL) {
        return n < 32768 ? 0 : -1;
    }
    out->head_len = (size_t)(end - p) + 4;
    out->status = out->head_len > 12 ? atoi(p + 9) : 0;
    out->close = p[7] == '0';
    for (const char *line = p; line < end;) {
        const char *stop = memmem(line, (size_t)(end - line) + 2, "\r\n", 2);
        if (line != p) {
            read_field(out, line, (size_t)(stop - line));
        }
        line = stop + 2;
    }
    return out->status >= 100 && out->status < 600 ? 1 : -1;
}

static bool is_minted(const char *id)
{
    return strncmp(id, "rq-", 3) == 0 && strlen(id) == 35;
}

const char *judge_direct(const struct reference *ref, unsigned index, const struct answer *a,
                         uint32_t number, uint64_t seed)
{
    struct id id;
    if (index >= ref->n) {
        return "more answers than requests";
    }
    const struct ref_request *r = &ref->r[index];
    if (!a->has_id) {
        return "an answer without x-request-id";
    }
    if (id_find(a->id, strlen(a->id), seed, &id, NULL)) {
        if (id.letter != PATH_LETTERS[DIRECT] || id.number != number) {
            return "an answer to a request of another connection";
        }
        if ((id_bit(&id) & r->ids) == 0) {
            return "an answer to another request of the stream, or to what is in a body";
        }
    } else if (is_minted(a->id) && r->state == REF_GOOD && r->id_echoed &&
               (r->plain || a->status < 400)) {
        return "an answer that does not tell the request's id";
    }
    if (r->state == REF_GOOD) {
        return NULL;
    }
    if (a->status < 400) {
        return r->state == REF_BAD ? "accepted what must be refused"
                                   : "accepted what is not complete";
    }
    return a->close ? NULL : "a refusal that does not end the connection";
}

/* What the HTTP library refuses by itself has an id of Guardian's: odd methods and targets. */
static bool may_be_minted(const struct reference *ref, const struct answer *a, uint64_t seed)
{
    struct id id;
    bool plain = false;
    if (!is_minted(a->id)) {
        return false;
    }
    const bool known = id_find(a->front, strlen(a->front), seed, &id, NULL);
    for (unsigned i = 0; i < ref->n && known; i++) {
        plain = plain || (ref->r[i].state == REF_GOOD && ref->r[i].plain &&
                          (ref->r[i].ids & id_bit(&id)) != 0);
    }
    return a->status >= 400 && !plain;
}

/* HAProxy leaves its rules for answers out when an early refusal comes while it still sends the body and
 * the client is already wrong in what follows. It did see the request if it has marked the id. */
static bool may_be_unseen(enum path path, const struct reference *ref, const struct answer *a,
                          uint32_t number, uint64_t seed)
{
    struct id id;
    bool odd = false;
    if (path != HAPROXY || a->status < 400) {
        return false;
    }
    for (unsigned i = 0; i < ref->n; i++) {
        odd = odd || ref->r[i].state != REF_GOOD || !ref->r[i].plain;
    }
    return (odd && is_minted(a->id)) ||
           (strncmp(a->id, MARKS[path], strlen(MARKS[path])) == 0 &&
            id_find(a->id, strlen(a->id), seed, &id, NULL) && id.letter == PATH_LETTERS[path] &&
            id.kind != 'w' && id.number == number);
}

const char *judge_proxied(enum path path, const struct reference *ref, const struct answer *a,
                          uint32_t number, uint64_t seed)
{
    struct id id;
    const size_t mark = strlen(MARKS[path]);
    if (!a->has_id) {
        return a->status >= 400 ? NULL /* the proxy's own */ : "an answer that is not Guardian's";
    }
    if (!a->has_front) {
        return may_be_unseen(path, ref, a, number, seed)
                   ? NULL
                   : "an answer of Guardian to a request that the proxy did not see";
    }
    const bool echoed = id_is_sane(a->front, strlen(a->front));
    if (echoed ? strcmp(a->id, a->front) != 0 && !may_be_minted(ref, a, seed) : !is_minted(a->id)) {
        return "an answer to another request than the proxy takes it for";
    }
    if (strncmp(a->front, MARKS[path], mark) != 0) {
        return "an answer without the proxy's mark";
    }
    if (id_find(a->front, strlen(a->front), seed, &id, NULL) &&
        (id.letter != PATH_LETTERS[path] || (id.kind != 'w' && id.number != number))) {
        return "an answer to a request of another connection";
    }
    return NULL;
}

const char *judge_victim(enum path path, const struct answer *a, const char *id)
{
    const size_t n = strlen(a->id);
    if (a->status != 200) {
        return "a victim's request was not answered with 200";
    }
    if (!a->has_id || n < ID_LEN || strcmp(a->id + n - ID_LEN, id) != 0) {
        return "a victim was given the answer to another request";
    }
    return path != DIRECT && (!a->has_front || strcmp(a->front, a->id) != 0)
               ? "a victim's answer is out of step"
               : NULL;
}

const char *judge_log(const char *p, size_t n, uint64_t seed)
{
    struct id id;
    if (!id_find(p, n, seed, &id, NULL)) {
        return NULL;
    }
    const char *letter = strchr(PATH_LETTERS, id.letter);
    const size_t path = letter != NULL ? (size_t)(letter - PATH_LETTERS) : 0;
    const size_t mark = strlen(MARKS[path]);
    if (n < mark || memcmp(p, MARKS[path], mark) != 0) {
        return "Guardian ran a request that the proxy did not see";
    }
    if (id.kind == 'w') {
        return NULL;
    }
    struct record *r = &records[id.number % RECORDS];
    const uint32_t bit = id_bit(&id);
    if (!r->used || r->number != id.number) {
        return "Guardian ran a request of a connection long gone";
    }
    if ((r->logged[path] & bit) != 0) {
        return "Guardian ran a request twice";
    }
    r->logged[path] |= bit;
    if (path == DIRECT && (r->allowed & bit) == 0) {
        return "Guardian ran what was in a body, or came after a refusal";
    }
    return NULL;
}
