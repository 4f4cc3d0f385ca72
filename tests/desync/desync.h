/* desync.h - parts of the differential fuzzer of the front door (desync.c says what it does).
 *
 * A case is a number; with the seed it gives one stream of bytes, the same on each path but for one
 * letter in its request ids and their check sums. */
#ifndef DESYNC_H
#define DESYNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum path { DIRECT, NGINX, HAPROXY, PATHS };
extern const char PATH_LETTERS[PATHS + 1];
extern const char *const PATH_NAMES[PATHS];

/* An x-request-id of ours: letter of the path, kind, number, index, '-', check sum. Bytes that were
 * changed at random are not taken for an id. */
#define ID_LEN 16
struct id {
    char letter;     /* of PATH_LETTERS */
    char kind;       /* v: of a request of the stream, h: hidden in a body, w: of a victim */
    uint32_t number; /* of the case */
    unsigned index;  /* 0 to 15 within its kind */
};
void id_write(char out[ID_LEN + 1], const struct id *id, uint64_t seed);
/* The first id in the n bytes at p; false when there is none. *at, where wanted, is its offset. */
bool id_find(const char *p, size_t n, uint64_t seed, struct id *out, size_t *at);
/* One bit for each id of a case. */
uint32_t id_bit(const struct id *id);

struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t n);
bool rng_percent(struct rng *r, uint32_t percent);

#define STREAM_MAX 65536
struct stream {
    size_t len;
    char bytes[STREAM_MAX];
};
/* grammar.c */
void stream_make(struct stream *out, uint64_t seed, uint32_t number, char letter);

/* reference.c: what a reader that allows no doubt makes of a stream. The first request that is bad
 * or that the stream does not hold entirely is the last one. */
enum ref_state { REF_GOOD, REF_BAD, REF_INCOMPLETE };
struct ref_request {
    enum ref_state state;
    const char *why; /* of REF_BAD */
    bool head;       /* the method is HEAD */
    bool may_be_head;
    bool plain;     /* of a usual method and target: no reader has a reason to refuse these */
    uint32_t ids;   /* bits of the ids that stand in its head */
    size_t id_at;   /* value of the first x-request-id header */
    size_t id_len;  /* 0: there is none */
    bool id_echoed; /* the value is one that Guardian takes over */
};
#define REF_MAX 64
struct reference {
    unsigned n;
    struct ref_request r[REF_MAX];
};
void reference_read(struct reference *out, const struct stream *s, uint64_t seed);
/* Guardian takes over ids of up to 128 letters, digits and -_.:/+=@ */
bool id_is_sane(const char *p, size_t n);

/* judge.c: answers and lines of Guardian's log, held against the reference. */
struct answer {
    int status;
    bool close;
    size_t head_len, length;
    bool has_length, has_id, has_front, front_head;
    char id[160], front[256]; /* x-request-id; x-front-id, which the proxies add */
};
/* 1: the head is there; 0: more is needed; -1: this is not an answer, or one of no known length. */
int answer_read(struct answer *out, const char *p, size_t n);

/* What a case may do and has done. */
struct record {
    bool used;
    uint32_t number;
    uint32_t allowed;       /* ids of the reference: what may be run when sent directly */
    uint32_t logged[PATHS]; /* ids that Guardian has written into its log */
    uint32_t passed[PATHS]; /* ids answered with 2xx */
    unsigned n_done;        /* paths that are through */
    bool given_up; /* what passed on one of them cannot be known: too slow, or a spoilt id */
};
#define RECORDS 65536u
extern struct record records[RECORDS];

/* NULL, or what is wrong. `index` counts the answers of the connection. */
const char *judge_direct(const struct reference *ref, unsigned index, const struct answer *a,
                         uint32_t number, uint64_t seed);
const char *judge_proxied(enum path path, const struct reference *ref, const struct answer *a,
                          uint32_t number, uint64_t seed);
const char *judge_victim(enum path path, const struct answer *a, const char *id);
/* One request_id as Guardian logged it. */
const char *judge_log(const char *p, size_t n, uint64_t seed);

#endif
