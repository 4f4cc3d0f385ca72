/* device.c - the flags --device and --dtype, and the back end that they ask for. The only file of
 * the engine that knows which back ends there are. */
#include "guardian/device.h"
#include "guardian/kernels.h"

#include <string.h>

#define CUDA "cuda"

static int parse_device(const char *text, struct gd_device *out, struct gd_err *err)
{
    if (strcmp(text, "auto") == 0) {
        out->kind = GD_DEVICE_AUTO;
        return GD_OK;
    }
    if (strcmp(text, "cpu") == 0) {
        out->kind = GD_DEVICE_CPU;
        return GD_OK;
    }
    out->kind = GD_DEVICE_CUDA;
    if (strcmp(text, CUDA) == 0) {
        return GD_OK;
    }
    if (strncmp(text, CUDA ":", strlen(CUDA) + 1) == 0) {
        const char *digits = text + strlen(CUDA) + 1;
        size_t n = strspn(digits, "0123456789");
        if (n >= 1 && n <= 3 && digits[n] == '\0') {
            out->index = (uint32_t)strtoul(digits, NULL, 10);
            return GD_OK;
        }
    }
    return gd_err_set(
        err, GD_EUSAGE,
        "--device (GUARDIAN_DEVICE) takes auto, cpu, cuda or cuda:N with N of 0 to %d, "
        "is '%.40s'",
        GD_DEVICE_INDEX_MAX, text);
}

static int parse_dtype(const char *text, struct gd_device *out, struct gd_err *err)
{
    static const char *const names[] = {[GD_DEVICE_DTYPE_AUTO] = "auto",
                                        [GD_DEVICE_DTYPE_BF16] = "bf16",
                                        [GD_DEVICE_DTYPE_FP8] = "fp8"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(text, names[i]) == 0) {
            out->dtype = (enum gd_device_dtype)i;
            return GD_OK;
        }
    }
    return gd_err_set(err, GD_EUSAGE,
                      "--dtype (GUARDIAN_DTYPE) takes auto, bf16 or fp8, is '%.40s'", text);
}

int gd_device_parse(const char *device, const char *dtype, struct gd_device *out,
                    struct gd_err *err)
{
    *out = (struct gd_device){.kind = GD_DEVICE_AUTO};
    int rc = parse_device(device != NULL ? device : "auto", out, err);
    rc = rc != GD_OK ? rc : parse_dtype(dtype != NULL ? dtype : "auto", out, err);
    if (rc == GD_OK && out->kind == GD_DEVICE_CPU && out->dtype == GD_DEVICE_DTYPE_FP8) {
        rc = gd_err_set(err, GD_EUSAGE,
                        "--dtype fp8 on the CPU: fp8 needs a CUDA device of capability 9.0");
    }
    return rc;
}

static int open_cpu(struct gd_backend **out, enum gd_device_dtype dtype, uint32_t n_threads,
                    struct gd_err *err)
{
    if (dtype == GD_DEVICE_DTYPE_FP8) {
        return gd_err_set(err, GD_EUSAGE, "fp8 needs a CUDA device of capability 9.0");
    }
    if (dtype == GD_DEVICE_DTYPE_BF16 && !gdk_gemm_amx_usable()) {
        return gd_err_set(err, GD_EUSAGE,
                          "--dtype bf16 on the CPU needs a processor with AMX, and this one has or "
                          "gives none: --dtype auto computes in fp32");
    }
    return gd_backend_cpu_open(out, n_threads, err);
}

int gd_device_open(struct gd_backend **out, const struct gd_device *d, uint32_t n_threads,
                   struct gd_err *err)
{
    GD_ASSERT(d->kind != GD_DEVICE_AUTO);
    if (d->kind == GD_DEVICE_CPU) {
        return open_cpu(out, d->dtype, n_threads, err);
    }
    return gd_backend_cuda_open(out, d->index, d->dtype == GD_DEVICE_DTYPE_FP8, err);
}
