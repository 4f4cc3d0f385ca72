/* overload_client.h - one thread that sends requests when they are due, whatever the answers do.
 *
 * Only bench/overload.c uses this. The client shares the processors with the server that it
 * measures, so it does little: one epoll loop, no thread, no JSON, one small random body a request. */
#ifndef BENCH_OVERLOAD_CLIENT_H
#define BENCH_OVERLOAD_CLIENT_H

#include "common.h"

#include <netinet/in.h>

struct overload_request {
    double due_ms;  /* on bench_now_ms(); given, or for a closed loop when it was sent */
    double done_ms; /* when the last byte of the answer was there, or it failed */
    int status;     /* of the answer; 0: there was none that could be read */
    bool retry_after;
};

struct overload_client;

struct overload_options {
    struct sockaddr_in to;
    const char *key;  /* bearer token, or NULL */
    bool keep;        /* connections are kept and used again; else each request has its own */
    uint32_t n_words; /* of the user's words in a body */
};

int overload_open(struct overload_client **out, const struct overload_options *opt,
                  struct gd_err *err);
void overload_close(struct overload_client *c);

/* Sends n requests, each at its due_ms (rising), and waits for the answers. */
void overload_run(struct overload_client *c, struct overload_request *r, size_t n);

/* Keeps n_at_once requests under way for so long, with a pause when one is refused; returns how many
 * of the `max` requests were sent. */
size_t overload_saturate(struct overload_client *c, struct overload_request *r, size_t max,
                         uint32_t n_at_once, double ms);

/* Tokens of the prompt of the last verdict, as it said; 0 before the first. */
uint32_t overload_tokens(const struct overload_client *c);

#endif
