#!/usr/bin/env python3
"""Quick measure of a checkpoint or an exported model in PyTorch, by the server's rules.

evaluate.py --checkpoint best.pt | --model weights/guardian-mini   --vocab DIR --cases FILE [--flag 0.5]
"""

import argparse
import json
import os

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import batches
import export
import measure
from attacks import LABELS
from model import Config, Mini


def from_directory(path):
    g = json.load(open(os.path.join(path, "config.json")))
    c = Config(
        g["vocab_size"],
        g["hidden_size"],
        g["num_hidden_layers"],
        g["num_attention_heads"],
        g["num_key_value_heads"],
        g["intermediate_size"],
        g["rope_theta"],
        g["max_position_embeddings"],
        g["rms_norm_eps"],
    )
    t = {k: v.float() for k, v in load_file(os.path.join(path, "model.safetensors")).items()}
    s = {"embed.weight": t["model.embed_tokens.weight"], "norm.weight": t["model.norm.weight"]}
    for i in range(c.layers):
        p, o = "model.layers.%d." % i, "layers.%d." % i
        s[o + "qkv.weight"] = torch.cat([t[p + "self_attn.%s_proj.weight" % x] for x in "qkv"])
        s[o + "gate_up.weight"] = torch.cat(
            [t[p + "mlp.%s_proj.weight" % x] for x in ("gate", "up")]
        )
        for a, b in (
            ("o.weight", "self_attn.o_proj.weight"),
            ("down.weight", "mlp.down_proj.weight"),
            ("norm1.weight", "input_layernorm.weight"),
            ("norm2.weight", "post_attention_layernorm.weight"),
        ):
            s[o + a] = t[p + b]
    m = Mini(c)
    m.load_state_dict(s)
    return m.eval()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--checkpoint")
    ap.add_argument("--model")
    ap.add_argument("--vocab")
    ap.add_argument("--cases", required=True)
    ap.add_argument("--flag", type=float)
    ap.add_argument("--confusion", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(2)
    flag = a.flag
    if a.model:
        m = from_directory(a.model)
        flag = flag or json.load(open(os.path.join(a.model, "policy.json")))["thresholds"]["flag"]
    else:
        m = export.load(a.checkpoint)[0]
    enc = batches.Encoder(Tokenizer.from_file(os.path.join(a.vocab or a.model, "tokenizer.json")))
    cases = [json.loads(x) for x in open(a.cases)]
    res = measure.run(m, enc, [batches.sample(enc, x) for x in cases])
    out = measure.summary(res, flag or 0.5)
    out["flag"] = flag or 0.5
    print(json.dumps(out, indent=1))
    if a.confusion:
        got = measure.verdicts(res[0], flag or 0.5)
        t = np.zeros((11, 11), int)
        np.add.at(t, (res[1], got), 1)
        for k in range(11):
            print("%-34s" % LABELS[k], " ".join("%4d" % x for x in t[k]))


if __name__ == "__main__":
    main()
