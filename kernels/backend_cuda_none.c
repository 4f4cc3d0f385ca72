/* backend_cuda_none.c - what a build without CUDA has in place of backend_cuda.c. */
#include "guardian/backend.h"

int gd_backend_cuda_open(struct gd_backend **out, uint32_t index, bool fp8, struct gd_err *err)
{
    (void)out;
    (void)index;
    (void)fp8;
    return gd_err_set(err, GD_ENOTFOUND,
                      "this build has no CUDA back end: build it where nvcc is installed");
}
