/* load.c - time and memory of loading a model with its weights packed as f32 or bf16, and of one
 * forward pass:  bench_load MODEL_DIR f32|bf16 [TOKENS]
 *
 * The server chooses bf16 only where the CPU has AMX; here the choice is the caller's, so that the
 * memory of a bf16 load can be measured on any machine. A directory of zeros in the right shape
 * (a sparse file) needs no disk: the packed weights are written all the same. */
#include "guardian/clock.h"
#include "guardian/engine.h"
#include "guardian/kernels.h"

#include <string.h>

#define TOKENS_MAX 2048

static double gib(uint64_t nbytes)
{
    return (double)nbytes / (double)GD_GIB;
}

static double seconds_since(int64_t start_ns)
{
    return (double)(gd_now_ns() - start_ns) / 1e9;
}

/* "VmHWM:  1234 kB" of /proc/self/status. */
static double peak_gib(void)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmHWM:", 6) == 0) {
            kib = strtod(line + 6, NULL);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return kib / 1024 / 1024;
}

static int forward(const struct gd_model *m, uint32_t n, struct gd_err *err)
{
    static int32_t tokens[TOKENS_MAX], positions[TOKENS_MAX];
    static uint32_t blocks[TOKENS_MAX / GD_KV_BLOCK_TOKENS];
    const uint32_t n_blocks = (n + GD_KV_BLOCK_TOKENS - 1) / GD_KV_BLOCK_TOKENS;
    const uint32_t starts[] = {0, n}, block_start[] = {0, n_blocks}, scored = 0;
    const struct gd_choice choice = {.row = 0, .id = 0};
    struct gd_forward *f = NULL;
    float logit = 0;
    for (uint32_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)(i % m->config.vocab_size);
        positions[i] = (int32_t)i;
        blocks[i / GD_KV_BLOCK_TOKENS] = i / GD_KV_BLOCK_TOKENS;
    }
    struct gd_batch b = {.n_tokens = n,
                         .n_seqs = 1,
                         .tokens = tokens,
                         .positions = positions,
                         .seq_start = starts,
                         .blocks = blocks,
                         .block_start = block_start};
    int rc = gd_forward_open(&f, m, n, n_blocks, err);
    if (rc != GD_OK) {
        return rc;
    }
    int64_t start = gd_now_ns();
    rc = gd_forward_run(f, &b, &scored, 1, NULL, NULL);
    rc = rc != GD_OK ? rc : gd_forward_choices(f, 1, &choice, &logit);
    printf("forward pass over %u tokens: %.2f s\n", n, seconds_since(start));
    gd_forward_close(f);
    return rc == GD_OK ? rc : gd_err_set(err, rc, "%s", gd_status_message(rc));
}

int main(int argc, char **argv)
{
    if (argc < 3 || (strcmp(argv[2], "f32") != 0 && strcmp(argv[2], "bf16") != 0)) {
        fprintf(stderr, "usage: %s MODEL_DIR f32|bf16 [TOKENS]\n", argv[0]);
        return 2;
    }
    unsigned long n = argc > 3 ? strtoul(argv[3], NULL, 10) : 300;
    n = n < 1 ? 1 : n > TOKENS_MAX ? TOKENS_MAX : n;
    struct gd_backend *be = NULL;
    struct gd_model *m = NULL;
    struct gd_err err = {0};
    int64_t start = gd_now_ns();
    int rc = gdk_backend_cpu_open(&be, 2, strcmp(argv[2], "bf16") == 0, &err);
    rc = rc != GD_OK ? rc : gd_model_open(&m, argv[1], be, NULL, &err);
    if (rc == GD_OK) {
        printf("%s, weights %s: plan %.2f GiB, loaded in %.1f s, resident %.2f GiB\n", be->isa,
               be->gemm_dtype, gib(m->bytes_needed), seconds_since(start),
               gib(gd_engine_resident_bytes()));
        rc = forward(m, (uint32_t)n, &err);
        printf("peak resident %.2f GiB\n", peak_gib());
    }
    if (rc != GD_OK) {
        fprintf(stderr, "%s\n", err.msg);
    }
    gd_model_close(m);
    if (be != NULL) {
        be->ops->close(be);
    }
    return rc == GD_OK ? 0 : 1;
}
