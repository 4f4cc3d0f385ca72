/* routes.h - the table of routes and its handlers: each makes the whole answer of a request that was
 * admitted, in the thread of its connection. */
#ifndef GUARDIAN_ROUTES_H
#define GUARDIAN_ROUTES_H

#include "guardian/service.h"

typedef void (*gd_route_fn)(struct gd_service *s, const struct gd_http_request *req,
                            struct gd_http_response *resp);

struct gd_route {
    const char *path;
    const char *allow; /* methods, as in the Allow header */
    bool post;         /* POST with a JSON body; else GET and HEAD */
    bool work;         /* needs the model: refused while loading and draining */
    bool open;         /* needs no key */
    gd_route_fn handle;
};

/* Exact match; -1 when there is none. */
int gd_route_find(const char *path);
const struct gd_route *gd_route_at(int index);
size_t gd_route_count(void);

/* batch.c: /v1/guard/batch. */
void gd_batch_handle(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp);

/* info.c: the routes that tell about the server. */
void gd_info_healthz(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp);
void gd_info_readyz(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp);
void gd_info_health(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp);
void gd_info_models(struct gd_service *s, const struct gd_http_request *req,
                    struct gd_http_response *resp);
void gd_info_taxonomy(struct gd_service *s, const struct gd_http_request *req,
                      struct gd_http_response *resp);
void gd_info_info(struct gd_service *s, const struct gd_http_request *req,
                  struct gd_http_response *resp);
void gd_info_version(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp);
void gd_info_openapi(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp);
void gd_info_metrics(struct gd_service *s, const struct gd_http_request *req,
                     struct gd_http_response *resp);

#endif
