/* stats.h - the families of /metrics. Any thread, except where said otherwise. */
#ifndef GUARDIAN_STATS_H
#define GUARDIAN_STATS_H

#include "guardian/service.h"

/* Once in a process, before the server listens. */
int gd_stats_register(const char *version, struct gd_err *err);
void gd_stats_model(const struct gd_guard *g); /* when the model is loaded; no other caller */
void gd_stats_request(int route, int status, double ms); /* route -1: none was found */
void gd_stats_judgement(const struct gd_judgement *j);
void gd_stats_item_error(void);
void gd_stats_reload(bool ok); /* of the policies and keys */
enum gd_reject { /* why work was refused; what the engine refuses is taken from its own counts */
                 GD_REJECT_QUEUE_FULL,
                 GD_REJECT_QUEUE_TIME,
                 GD_REJECT_DEADLINE,
                 GD_REJECT_TOO_LARGE,
                 GD_REJECT_MEMORY,
                 GD_REJECT_DRAINING,
                 GD_REJECT_LOADING,
                 GD_REJECT_DEVICE_LOST,
                 GD_REJECT_CONNECTIONS,
                 GD_REJECT_RATE,
                 GD_REJECT_COUNT,
};
void gd_stats_reject(enum gd_reject why);
/* gd_engine_options.on_step; ctx is not used. */
void gd_stats_step(void *ctx, const struct gd_step_info *info);
void gd_stats_write(struct gd_service *s, struct gd_buf *out);

#endif
