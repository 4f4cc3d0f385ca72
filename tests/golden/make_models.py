#!/usr/bin/env python3
"""Makes the tiny model directories of tests/golden/models and their float64 references.

    python tests/golden/make_models.py [DIRECTORY [NAME ...]]    needs torch, transformers, tokenizers, safetensors

The weights are random, seeded, and so large that attention is not flat (the run prints how peaked
it is). Each directory is a complete model: config.json, tokenizer.json (byte-level BPE of 384
tokens with the marks of the llama3 and chatml formats), weights. reference.safetensors holds, for
the sequences s = 0..4 of 1, 7, 33, 65 and 130 tokens:

    input_ids.<s>   I32 [n]        the sequence
    rows.<s>        I32 [r]        positions whose hidden states are kept: all up to 33 tokens,
                                   else every eighth and the last
    hidden.<s>.<l>  F64 [r, dim]   residual stream there: l = 0 after the embedding, l = i + 1
                                   after layer i
    normed.<s>      F64 [dim]      final norm of the last position
    logits.<s>      F64 [11]       logits of the choices at the last position
    choice_ids      I32 [11]       ids of the letters A..K
    inv_freq        F64 [head_dim / 2]
    error_f32       F64 [n_layers + 2]  largest |difference| of the float32 `transformers` model to
                                   the float64 values, for l = 0..n_layers over all sequences and
                                   kept rows; the last one is of the logits
    error_bf16      F64 [n_layers + 2]  the same for the bfloat16 model
    error_fp8       F64 [n_layers + 2]  only of the models for GPUs (gpu_*): the bfloat16 model with every product
                                   of its layers done on FP8 e4m3 numbers, one scale a row of each side

The float64 values come from forward_f64() below, written from the papers: `transformers` computes
norms, rotations and softmax in float32 whatever the dtype of the model. That both agree to float32
accuracy is asserted."""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

VOCAB = 384
LENGTHS = (1, 7, 33, 65, 130)
LETTERS = "ABCDEFGHIJK"
MARKS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
         "<|im_start|>", "<|im_end|>", "<|endoftext|>"]
SPLIT = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CORPUS = ["The user asks the assistant to call a function of the server with these arguments.",
          "The server returns the result of the function and the assistant answers the user.",
          '{"name": "get_weather", "arguments": {"city": "Lisbon", "unit": "celsius"}}',
          "Choose the letter of the risk: the call, the order of the calls, the identity of the sender.",
          "A trajectory is an ordered list of flows, each with a sender, a recipient, a type and a principle."]

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}

MODELS = {
    # Grouped heads, a head dimension that is not dim / heads, llama3 RoPE, two tables, several files, old spelling of RoPE.
    "llama_bf16_sharded": dict(
        seed=11, model=LlamaForCausalLM, dtype=torch.bfloat16, shard="100KB", old_rope=True,
        config=LlamaConfig(hidden_size=64, num_hidden_layers=2, intermediate_size=80, num_attention_heads=4,
                           num_key_value_heads=2, head_dim=32, vocab_size=VOCAB, max_position_embeddings=32768,
                           rms_norm_eps=1e-5, tie_word_embeddings=False,
                           rope_parameters={"rope_theta": 500000.0, **LLAMA3})),
    # As many key-value heads as heads, one table for both ends.
    "llama_f32_tied": dict(
        seed=12, model=LlamaForCausalLM, dtype=torch.float32, shard="1GB", old_rope=False,
        config=LlamaConfig(hidden_size=48, num_hidden_layers=2, intermediate_size=88, num_attention_heads=3,
                           num_key_value_heads=3, vocab_size=VOCAB, max_position_embeddings=32768, rms_norm_eps=1e-6,
                           tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})),
    # Biases on Q, K and V, one key-value head, sizes that no vector width divides.
    "qwen2_f16": dict(
        seed=13, model=Qwen2ForCausalLM, dtype=torch.float16, shard="1GB", old_rope=False,
        config=Qwen2Config(hidden_size=56, num_hidden_layers=3, intermediate_size=100, num_attention_heads=7,
                           num_key_value_heads=1, vocab_size=VOCAB, max_position_embeddings=32768, rms_norm_eps=1e-6,
                           tie_word_embeddings=True,
                           rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
    # What the CUDA kernels know: heads of 64 and 128, sizes that 16 divides.
    "gpu_llama": dict(
        seed=14, model=LlamaForCausalLM, dtype=torch.bfloat16, shard="1GB", old_rope=False,
        config=LlamaConfig(hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4,
                           num_key_value_heads=2, head_dim=128, vocab_size=VOCAB, max_position_embeddings=32768,
                           rms_norm_eps=1e-5, tie_word_embeddings=False,
                           rope_parameters={"rope_theta": 500000.0, **LLAMA3})),
    "gpu_qwen2": dict(
        seed=15, model=Qwen2ForCausalLM, dtype=torch.bfloat16, shard="1GB", old_rope=False,
        config=Qwen2Config(hidden_size=80, num_hidden_layers=2, intermediate_size=112, num_attention_heads=7, head_dim=64,
                           num_key_value_heads=1, vocab_size=VOCAB, max_position_embeddings=32768, rms_norm_eps=1e-6,
                           tie_word_embeddings=True,
                           rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})),
}


def make_tokenizer():
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=VOCAB - len(MARKS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    assert tok.get_vocab_size() == VOCAB - len(MARKS), tok.get_vocab_size()
    tok.add_special_tokens([AddedToken(m, special=True, normalized=False) for m in MARKS])
    return tok


def fill(model, generator):
    """Scores of attention get a spread of about 2.5, other products keep the size of their input."""
    for name, p in model.named_parameters():
        fan_in = p.shape[-1]
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name:
            value = 0.75 + 0.5 * torch.rand(p.shape, generator=generator)
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed_tokens" in name:
            value = noise
        elif "q_proj" in name or "k_proj" in name:
            value = noise * math.sqrt(2.5 / fan_in)
        elif "lm_head" in name:
            value = noise * 3 / math.sqrt(fan_in)
        else:
            value = noise / math.sqrt(fan_in)
        p.data.copy_(value)


def inverse_frequencies(c):
    """RoPE, and the scaling by parts that Llama 3.1 uses, in Python's floats."""
    out = []
    rope = c.rope_parameters
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    for i in range(dim // 2):
        f = rope["rope_theta"] ** (-2 * i / dim)
        if rope["rope_type"] == "llama3":
            wave = 2 * math.pi / f
            original = rope["original_max_position_embeddings"]
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            if wave > original / low:
                f = f / rope["factor"]
            elif wave >= original / high:
                part = (original / wave - low) / (high - low)
                f = (1 - part) * f / rope["factor"] + part * f
        out.append(f)
    return torch.tensor(out, dtype=torch.float64)


def forward_f64(c, w, ids, peaks):
    """All in float64: hidden states [n_layers + 1][n, dim], final norm [n, dim], logits [n, vocab]."""
    n, heads, kv = len(ids), c.num_attention_heads, c.num_key_value_heads
    freq = inverse_frequencies(c)
    hd = 2 * len(freq)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * freq
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def norm(x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * w[weight]

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    def rotate(x):
        half = torch.cat((-x[..., hd // 2:], x[..., :hd // 2]), -1)
        return x * cos + half * sin

    x = w["model.embed_tokens.weight"][ids]
    hidden = [x]
    for i in range(c.num_hidden_layers):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm.weight")
        q, k, v = (linear(h, p + f"self_attn.{m}_proj").view(n, -1, hd).transpose(0, 1) for m in "qkv")
        q, k = rotate(q), rotate(k)
        k, v = k.repeat_interleave(heads // kv, 0), v.repeat_interleave(heads // kv, 0)
        scores = q @ k.transpose(1, 2) / math.sqrt(hd)
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -math.inf)
        weights = scores.softmax(-1)
        if n == max(LENGTHS):
            peaks.append(weights[:, -1].max(-1).values.mean().item())
        x = x + linear((weights @ v).transpose(0, 1).reshape(n, -1), p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm.weight")
        gate = linear(h, p + "mlp.gate_proj")
        x = x + linear(gate * gate.sigmoid() * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
        hidden.append(x)
    normed = norm(x, "model.norm.weight")
    head = "model.embed_tokens.weight" if c.tie_word_embeddings else "lm_head.weight"
    return hidden, normed, normed @ w[head].T


def forward_torch(model, ids):
    """The same of the `transformers` model in its own dtype, seen by hooks (its own last state is the normed one)."""
    hidden = []
    hooks = [model.model.embed_tokens.register_forward_hook(lambda m, a, out: hidden.append(out[0]))]
    for layer in model.model.layers:
        hooks.append(layer.register_forward_hook(
            lambda m, a, out: hidden.append((out[0] if isinstance(out, tuple) else out)[0])))
    with torch.no_grad():
        logits = model(ids[None], use_cache=False).logits[0]
    for h in hooks:
        h.remove()
    return hidden, logits


def fp8_rows(x):
    """Rows as FP8 e4m3 with the scale largest / 448 each; numbers and scales in float32."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / 448
    scale[scale == 0] = 1
    return (x / scale).to(torch.float8_e4m3fn).float(), scale


class Fp8Linear(torch.nn.Module):
    """A product of FP8 numbers, summed in float32, result in bfloat16."""

    def __init__(self, linear):
        super().__init__()
        self.rows, self.scale = fp8_rows(linear.weight.data)
        self.bias = linear.bias

    def forward(self, x):
        rows, scale = fp8_rows(x)
        y = rows @ self.rows.T * scale * self.scale.T
        return (y if self.bias is None else y + self.bias.float()).to(torch.bfloat16)


def with_fp8(model):
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(part, name, Fp8Linear(child))
    return model


def kept_rows(n):
    return list(range(n)) if n <= 33 else sorted({*range(0, n, 8), n - 1})


def make_reference(spec, directory, choice_ids, generator):
    c = spec["config"]
    weights = {}
    for f in sorted(directory.glob("model*.safetensors")):
        weights.update({k: v.double() for k, v in load_file(f).items()})
    out = {"choice_ids": torch.tensor(choice_ids, dtype=torch.int32), "inv_freq": inverse_frequencies(c)}
    n_errors = c.num_hidden_layers + 2
    peaks = []
    casts = {k: spec["model"].from_pretrained(directory, dtype=d, attn_implementation="eager").eval()
             for k, d in (("f32", torch.float32), ("bf16", torch.bfloat16))}
    if directory.name.startswith("gpu_"):
        casts["fp8"] = with_fp8(spec["model"].from_pretrained(directory, dtype=torch.bfloat16,
                                                              attn_implementation="eager").eval())
    errors = {k: [0.0] * n_errors for k in casts}
    for s, n in enumerate(LENGTHS):
        ids = torch.randint(0, VOCAB, (n,), generator=generator)
        rows = kept_rows(n)
        hidden, normed, logits = forward_f64(c, weights, ids, peaks)
        out[f"input_ids.{s}"] = ids.int()
        out[f"rows.{s}"] = torch.tensor(rows, dtype=torch.int32)
        for i, h in enumerate(hidden):
            out[f"hidden.{s}.{i}"] = h[rows].contiguous()
        out[f"normed.{s}"] = normed[-1].contiguous()
        out[f"logits.{s}"] = logits[-1, choice_ids].contiguous()
        for k, model in casts.items():
            theirs, their_logits = forward_torch(model, ids)
            pairs = [(t[rows], h[rows]) for t, h in zip(theirs, hidden, strict=True)]
            pairs.append((their_logits[-1, choice_ids], logits[-1, choice_ids]))
            for i, (a, b) in enumerate(pairs):
                errors[k][i] = max(errors[k][i], (a.double() - b).abs().max().item())
    assert max(errors["f32"]) < 1e-4, errors
    assert 0.2 < sum(peaks) / len(peaks) < 0.95, peaks
    for k, e in errors.items():
        out[f"error_{k}"] = torch.tensor(e, dtype=torch.float64)
        print(f"  {k}: " + " ".join(f"{v:.2e}" for v in e))
    print(f"  largest attention weight of the last of {max(LENGTHS)} tokens, mean over heads: "
          + " ".join(f"{p:.2f}" for p in peaks))
    save_file(out, directory / "reference.safetensors")


def tidy_config(spec, directory):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if spec["old_rope"]:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        config["torch_dtype"] = config.pop("dtype")
    config.pop("transformers_version")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (directory / "generation_config.json").unlink(missing_ok=True)


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "models"
    torch.set_num_threads(1)
    tok = make_tokenizer()
    choice_ids = [tok.encode(letter).ids for letter in LETTERS]
    assert all(len(i) == 1 for i in choice_ids)
    choice_ids = [i[0] for i in choice_ids]
    for name in sys.argv[2:] or MODELS:
        spec = MODELS[name]
        directory = root / name
        directory.mkdir(parents=True, exist_ok=True)
        for f in directory.iterdir():
            f.unlink()
        print(name)
        generator = torch.Generator().manual_seed(spec["seed"])
        model = spec["model"](spec["config"])
        fill(model, generator)
        model.to(spec["dtype"]).save_pretrained(directory, max_shard_size=spec["shard"])
        tok.save(str(directory / "tokenizer.json"), pretty=False)
        make_reference(spec, directory, choice_ids, generator)
        tidy_config(spec, directory)
        print("  " + ", ".join(f"{f.name} {f.stat().st_size}" for f in sorted(directory.iterdir())))


if __name__ == "__main__":
    main()
