#!/usr/bin/env python3
"""Writes a model directory in the exact shape of a published model with random weights, for loading, memory
and speed tests where the real weights are not at hand.

    weights/make_shape.py --preset llama-3.1-8b --out DIR [--tokenizer tokenizer.json] [--seed 1]

Presets: llama-3.1-8b (the MCIP Guardian's shape), qwen2.5-7b, tiny-llama, tiny-llama-tied, tiny-qwen2.
Matrices are Gaussian (standard deviation 0.02), norms are 1, biases 0.02 Gaussian, all bfloat16. Every tensor
has a random stream of its own (seed, name), so files do not depend on the order or the size of the shards.
Files are written tensor by tensor in pieces, so memory stays near 100 MB.
"""

import argparse
import json
import os
import shutil
import struct
import sys
import zlib

import numpy as np

ROPE_31 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
PRESETS = {
    "llama-3.1-8b": dict(
        kind="llama",
        layers=32,
        dim=4096,
        heads=32,
        kv=8,
        head=128,
        ffn=14336,
        vocab=128256,
        theta=500000.0,
        rope=ROPE_31,
        eps=1e-5,
        positions=131072,
        tied=False,
        bos=128000,
        eos=128009,
    ),
    "qwen2.5-7b": dict(
        kind="qwen2",
        layers=28,
        dim=3584,
        heads=28,
        kv=4,
        head=128,
        ffn=18944,
        vocab=152064,
        theta=1000000.0,
        rope=None,
        eps=1e-6,
        positions=32768,
        tied=False,
        bos=151643,
        eos=151645,
    ),
    "tiny-llama": dict(
        kind="llama",
        layers=2,
        dim=128,
        heads=4,
        kv=2,
        head=32,
        ffn=352,
        vocab=1024,
        theta=500000.0,
        rope=ROPE_31,
        eps=1e-5,
        positions=16384,
        tied=False,
        bos=0,
        eos=1,
    ),
    "tiny-llama-tied": dict(
        kind="llama",
        layers=3,
        dim=192,
        heads=3,
        kv=1,
        head=64,
        ffn=512,
        vocab=768,
        theta=10000.0,
        rope=None,
        eps=1e-5,
        positions=4096,
        tied=True,
        bos=0,
        eos=1,
    ),
    "tiny-qwen2": dict(
        kind="qwen2",
        layers=2,
        dim=128,
        heads=4,
        kv=2,
        head=32,
        ffn=320,
        vocab=1024,
        theta=1000000.0,
        rope=None,
        eps=1e-6,
        positions=8192,
        tied=False,
        bos=0,
        eos=1,
    ),
}
PIECE = 4 << 20  # values drawn at a time


def config(p):
    doc = {
        "architectures": ["LlamaForCausalLM" if p["kind"] == "llama" else "Qwen2ForCausalLM"],
        "model_type": p["kind"],
        "hidden_size": p["dim"],
        "intermediate_size": p["ffn"],
        "num_hidden_layers": p["layers"],
        "num_attention_heads": p["heads"],
        "num_key_value_heads": p["kv"],
        "vocab_size": p["vocab"],
        "max_position_embeddings": p["positions"],
        "rms_norm_eps": p["eps"],
        "rope_theta": p["theta"],
        "hidden_act": "silu",
        "tie_word_embeddings": p["tied"],
        "torch_dtype": "bfloat16",
        "bos_token_id": p["bos"],
        "eos_token_id": p["eos"],
        "initializer_range": 0.02,
    }
    if p["kind"] == "llama":
        doc.update(
            {
                "head_dim": p["head"],
                "attention_bias": False,
                "mlp_bias": False,
                "rope_scaling": p["rope"],
            }
        )
    else:
        doc.update({"use_sliding_window": False, "sliding_window": None})
    return doc


def tensors(p):
    """(name, shape, kind) in the order of the layers"""
    q, kv, d, f = p["heads"] * p["head"], p["kv"] * p["head"], p["dim"], p["ffn"]
    yield "model.embed_tokens.weight", (p["vocab"], d), "gauss"
    for i in range(p["layers"]):
        b = "model.layers.%d." % i
        yield b + "input_layernorm.weight", (d,), "one"
        for n, rows in (("q", q), ("k", kv), ("v", kv)):
            yield b + "self_attn.%s_proj.weight" % n, (rows, d), "gauss"
            if p["kind"] == "qwen2":
                yield b + "self_attn.%s_proj.bias" % n, (rows,), "gauss"
        yield b + "self_attn.o_proj.weight", (d, q), "gauss"
        yield b + "post_attention_layernorm.weight", (d,), "one"
        yield b + "mlp.gate_proj.weight", (f, d), "gauss"
        yield b + "mlp.up_proj.weight", (f, d), "gauss"
        yield b + "mlp.down_proj.weight", (d, f), "gauss"
    yield "model.norm.weight", (d,), "one"
    if not p["tied"]:
        yield "lm_head.weight", (p["vocab"], d), "gauss"


def bf16(x):
    """float32 -> bfloat16 bits, round to nearest even"""
    u = x.view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype("<u2")


def write_tensor(f, name, shape, kind, seed):
    n = int(np.prod(shape))
    if kind == "one":
        f.write(bf16(np.ones(n, np.float32)).tobytes())
        return
    r = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    for a in range(0, n, PIECE):
        x = r.standard_normal(min(PIECE, n - a), dtype=np.float32)
        x *= 0.02
        f.write(bf16(x).tobytes())


def size(shape):
    return 2 * int(np.prod(shape))


def write_shard(path, items, seed):
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in items:
        head[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size(shape)]}
        at += size(shape)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape, kind in items:
            write_tensor(f, name, shape, kind, seed)


def shards_of(items, limit):
    out, used = [[]], 0
    for t in items:
        if out[-1] and used + size(t[1]) > limit:
            out.append([])
            used = 0
        out[-1].append(t)
        used += size(t[1])
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--preset", choices=sorted(PRESETS), required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--tokenizer", help="a tokenizer.json to copy in")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--shard-bytes", type=int, default=5 * 10**9)
    ap.add_argument("--layers", type=int, help="fewer layers than the preset")
    a = ap.parse_args()
    p = dict(PRESETS[a.preset])
    p["layers"] = a.layers or p["layers"]
    items = list(tensors(p))
    total = sum(size(s) for _, s, _ in items)
    os.makedirs(a.out, exist_ok=True)
    free = shutil.disk_usage(a.out).free
    if free < total + (1 << 20):
        sys.exit("%d bytes needed, %d free" % (total, free))
    with open(os.path.join(a.out, "config.json"), "w") as f:
        json.dump(config(p), f, indent=2)
        f.write("\n")
    shards = shards_of(items, a.shard_bytes)
    where = {}
    for i, group in enumerate(shards):
        name = (
            "model.safetensors"
            if len(shards) == 1
            else "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
        )
        write_shard(os.path.join(a.out, name), group, a.seed)
        where.update({t[0]: name for t in group})
        print(
            "%s: %d tensors, %d bytes" % (name, len(group), sum(size(t[1]) for t in group)),
            flush=True,
        )
    if len(shards) > 1:
        with open(os.path.join(a.out, "model.safetensors.index.json"), "w") as f:
            json.dump(
                {"metadata": {"total_size": total}, "weight_map": where},
                f,
                indent=2,
                sort_keys=True,
            )
            f.write("\n")
    if a.tokenizer:
        shutil.copy(a.tokenizer, os.path.join(a.out, "tokenizer.json"))


if __name__ == "__main__":
    main()
