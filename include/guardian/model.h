/* model.h - a Hugging Face model directory becomes a checked configuration and weights in a back
 * end.
 *
 * Architectures: LlamaForCausalLM and Qwen2ForCausalLM (GQA, QKV bias, tied embeddings, llama3 RoPE
 * scaling). Loading goes tensor by tensor: read, pack, drop the original, so that at most one
 * tensor exists twice. Field names are those of config.json of the `transformers` library. */
#ifndef GUARDIAN_MODEL_H
#define GUARDIAN_MODEL_H

#include "guardian/backend.h"
#include "guardian/file.h"

enum gd_arch { GD_ARCH_LLAMA, GD_ARCH_QWEN2 };

struct gd_model_config {
    enum gd_arch arch;
    uint32_t n_layers;   /* num_hidden_layers */
    uint32_t dim;        /* hidden_size */
    uint32_t n_heads;    /* num_attention_heads */
    uint32_t n_kv_heads; /* num_key_value_heads */
    uint32_t head_dim;
    uint32_t ffn_dim; /* intermediate_size */
    uint32_t vocab_size;
    uint32_t context_max; /* max_position_embeddings */
    float rms_norm_eps;
    double rope_theta;
    bool rope_llama3; /* the four fields below count */
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    uint32_t rope_original_context;
    bool qkv_bias;
    bool tied; /* tie_word_embeddings */
};

/* Parses config.json text. Every unsupported or missing field is refused by name. Fuzzed entry. */
int gd_model_config_parse(struct gd_str json, struct gd_model_config *out, struct gd_err *err);

/* inv_freq[head_dim / 2] with llama3 scaling applied; computed in double, stored as float. Formula:
 * Llama 3.1 ("NTK by parts"): wavelengths above original/low are divided by factor, below
 * original/high kept, between blended. */
void gd_model_rope(const struct gd_model_config *c, float *inv_freq);

struct gd_model_layer {
    struct gd_vector *attn_norm; /* [dim] */
    struct gd_weight *qkv;       /* [(n_heads + 2 n_kv_heads) * head_dim, dim], with its bias */
    struct gd_weight *o;         /* [dim, n_heads * head_dim] */
    struct gd_vector *mlp_norm;  /* [dim] */
    struct gd_weight *gate_up;   /* [2 * ffn_dim, dim], gate rows first */
    struct gd_weight *down;      /* [dim, ffn_dim] */
};

struct gd_model {
    struct gd_model_config config;
    struct gd_backend *be; /* not owned */
    struct gd_table *embed;
    struct gd_table *lm_head;     /* == embed when tied */
    struct gd_vector *final_norm; /* [dim] */
    float *inv_freq;              /* host */
    struct gd_model_layer *layers;
    struct gd_file_digest
        *files; /* every file of the model that was read: config, tokenizer, weights */
    size_t n_files;
    char version[72]; /* "sha256:" + hex over the sorted list of file digests */
    uint64_t n_params;
    uint64_t bytes_needed; /* the memory plan: weights as packed + largest tensor twice */
    double load_ms;
};

struct gd_model_options {
    /* Called while loading: what ("hash", "load"), bytes done and in all. May be NULL. */
    void (*progress)(void *ctx, const char *what, uint64_t done, uint64_t all);
    void *ctx;
    uint64_t
        memory_max; /* refuse a plan over this many bytes; 0: what the system says is available */
};

/* Loads dir. Checks shapes of all tensors against the config before reading any; missing and extra
 * tensors are refused (rotary_emb.inv_freq buffers are tolerated, lm_head.weight beside tied
 * embeddings is too). When the plan needs more than there is, GD_ENOMEM says how many GiB it needs,
 * for which dtype, and how many there are. */
int gd_model_open(struct gd_model **out, const char *dir, struct gd_backend *be,
                  const struct gd_model_options *opt, struct gd_err *err);
void gd_model_close(struct gd_model *m);

#endif
