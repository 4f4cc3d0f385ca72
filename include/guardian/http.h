/* http.h - the server: listens at once, answers /readyz with 503 until it is given a guard, drains
 * before it stops.
 *
 * http.c alone includes the header of the HTTP library; socket.c stands under it. Calls of one thread
 * (main), except where said otherwise. */
#ifndef GUARDIAN_HTTP_H
#define GUARDIAN_HTTP_H

#include "guardian/service.h"

struct gd_http_options {
    const char *host; /* IPv4 address, or "localhost" */
    uint16_t port;    /* 0: any free one */
    const char *version, *model_dir;
    struct gd_keyring *keys;  /* who may ask; must outlive the server; NULL: everybody */
    bool insecure;            /* allows an address that other machines can reach, without keys */
    const char *allow_origin; /* see gd_gate_origin; NULL: none */
    uint32_t queue_ms_max;    /* see gd_service */
    bool prefix_cache;
};

struct gd_http;

/* GD_EUSAGE for a host that is no IPv4 address, or that others can reach while there are no keys;
 * GD_EIO when the port is taken; GD_ENOMEM. */
int gd_http_open(struct gd_http **out, const struct gd_http_options *opt, struct gd_err *err);
uint16_t gd_http_port(const struct gd_http *h);
/* The model is loaded and checked (golden may be NULL: it was not): from now on /readyz is 200, while
 * its device is not lost. The guard must outlive gd_http_close. Any thread. */
void gd_http_set_guard(struct gd_http *h, struct gd_guard *g, const struct gd_golden *golden);
/* From now on /readyz is 503 and new work is refused; what was admitted goes on. */
void gd_http_drain(struct gd_http *h);
uint32_t gd_http_in_flight(const struct gd_http *h); /* admitted and not yet answered */
void gd_http_close(struct gd_http *h);               /* cuts what is still open */

/* false for an address other than 127.0.0.0/8. */
bool gd_http_host_is_loopback(const char *host);

#endif
