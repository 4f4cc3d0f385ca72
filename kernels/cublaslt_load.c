/* cublaslt_load.c - finds cuBLASLt of the major version that this was built with. */
#include "cublaslt.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

/* A function by name; POSIX gives objects, which ISO C does not turn into functions by a cast. */
static bool find(void *library, const char *name, void *function, size_t size)
{
    void *at = dlsym(library, name);
    memcpy(function, &at, size);
    return at != NULL;
}

int gdk_cublaslt_load(struct gdk_cublaslt *out, struct gd_err *err)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return gd_err_set(err, GD_EBACKEND,
                          "the library cuBLASLt of CUDA %s is missing: install it, or name its "
                          "folder in LD_LIBRARY_PATH (%s)",
                          TEXT(CUBLAS_VER_MAJOR), dlerror());
    }
#define X(call)                                                                                    \
    if (!find(library, #call, &out->call, sizeof out->call)) {                                     \
        return gd_err_set(err, GD_EBACKEND, "%s is too old: it has no %s", LIBRARY, #call);        \
    }
    GDK_CUBLASLT_CALLS(X)
#undef X
    return GD_OK;
}
