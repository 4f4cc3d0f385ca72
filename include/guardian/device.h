/* device.h - which device an engine computes on, and with which numbers: the flags --device and
 * --dtype, and the back end that they ask for.
 *
 *   device  "auto"              CUDA device 0 when it can be used, else the CPU
 *           "cpu"
 *           "cuda", "cuda:N"    that device or an error; "cuda" is "cuda:0"
 *   dtype   "auto"              the CPU: bf16 where it has AMX, else fp32; CUDA: bf16
 *           "bf16"              the CPU: only where it has AMX
 *           "fp8"               CUDA only, never the CPU in its place */
#ifndef GUARDIAN_DEVICE_H
#define GUARDIAN_DEVICE_H

#include "guardian/backend.h"

enum gd_device_kind { GD_DEVICE_AUTO, GD_DEVICE_CPU, GD_DEVICE_CUDA };
enum gd_device_dtype { GD_DEVICE_DTYPE_AUTO, GD_DEVICE_DTYPE_BF16, GD_DEVICE_DTYPE_FP8 };

#define GD_DEVICE_INDEX_MAX 999

struct gd_device {
    enum gd_device_kind kind;
    uint32_t index; /* of the CUDA device */
    enum gd_device_dtype dtype;
};

/* NULL: "auto". GD_EUSAGE with a sentence that names the flag and what it takes, also for fp8 on the
 * CPU. Any thread. */
int gd_device_parse(const char *device, const char *dtype, struct gd_device *out,
                    struct gd_err *err);

/* Opens the back end of a device that is not GD_DEVICE_AUTO. The CPU: GD_EUSAGE for too many threads
 * and for bf16 without AMX, GD_ENOMEM. CUDA: GD_ENOTFOUND when there is no such device or the build
 * has no CUDA, GD_ENOMEM, else GD_EBACKEND. */
int gd_device_open(struct gd_backend **out, const struct gd_device *d, uint32_t n_threads,
                   struct gd_err *err);

#endif
