/* reply.h - errors, heads of answers, log lines. field may be NULL. Thread of the connection. */
#ifndef GUARDIAN_REPLY_H
#define GUARDIAN_REPLY_H

#include "guardian/service.h"

/* The root of the body, or NULL with the answer set. */
const struct gd_json *gd_reply_parse(struct gd_arena *a, const struct gd_http_request *req,
                                     struct gd_http_response *resp);
void gd_reply_fail(struct gd_http_response *resp, int status, const char *code, const char *field,
                   const char *message);
void gd_reply_err(struct gd_http_response *resp, const struct gd_err *err);
void gd_reply_err_write(struct gd_json_writer *w,
                        const struct gd_err *err); /* {"code","message","field"?} */
void gd_reply_json(struct gd_http_response *resp, int status, struct gd_json_writer *w);
/* The head of the answer, ended by an empty line; total_ms goes into x-total-time. */
void gd_reply_head(const struct gd_http_request *req, const struct gd_http_response *resp,
                   double total_ms, struct gd_buf *out);
/* x-request-id and trace: the caller's where they are good, else new ones. */
void gd_reply_identify(struct gd_http_request *req, struct gd_http_response *resp);
/* One line of the log: metadata only, nothing of the content. */
void gd_reply_log(const struct gd_http_request *req, const struct gd_http_response *resp,
                  double total_ms);

/* accept.c: true when the Accept headers name this type, and do not prefer another over it. */
bool gd_accept_prefers(const struct gd_http_request *req, const char *type, const char *other);

#endif
