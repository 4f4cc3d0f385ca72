/* client.h - one request over a socket, whatever becomes of it, and what of an answer must not
 * change. All of it on the caller's thread, which is spared from faults. */
#ifndef GUARDIAN_TESTS_FAULTS_CLIENT_H
#define GUARDIAN_TESTS_FAULTS_CLIENT_H

#include "guardian/json.h"
#include "guardian/limits.h"

#include <stdint.h>

struct answer {
    char *data; /* all bytes until the server closed; zero-terminated */
    size_t len;
    int status;         /* 0: there was no whole head */
    bool chunked;
    bool whole;         /* as many bytes as the head promised, or the last chunk */
    struct gd_str body; /* without the framing of chunks */
    bool timed_out;     /* the server neither answered nor closed */
};

/* Sends a whole request and reads until the server closes. */
void client_ask(uint16_t port, struct gd_str request, struct answer *out);
void client_drop(struct answer *a);

/* A request that asks for the connection to be closed. accept may be NULL; body NULL: none. */
char *client_request(const char *method, const char *path, const char *accept, const char *body);

/* JSON as one line without the members that may differ from one answer to the next (ids, times,
 * what was cached); numbers: all numbers as 0 too. NULL when it is not JSON. To be freed. */
char *client_plain(struct gd_str json, bool numbers);
/* An object with a member `error` that has a code and a message, and no word of an action. */
bool client_is_error(struct gd_str json);
/* The n-th element of the member `data`; ptr NULL when there is none. Points into json. */
struct gd_str client_item(struct gd_str json, uint32_t n);

#endif
