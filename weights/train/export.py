#!/usr/bin/env python3
"""A checkpoint becomes a model directory with a policy, calibrated on cases that training never saw.

    export.py --checkpoint best.pt --tokenizer FILE --cases CASES.jsonl [...] --out weights/guardian-mini [--check]

Everything is measured on the weights as they are stored (files.py). The temperature with the smallest log loss is
folded into the weight of the final norm. The thresholds are those with the best balanced accuracy; the operating
points `strict` and `permissive` are where at most 40 % and 5 % of the benign cases are flagged. Measured precision is
that of as many unsafe as benign cases. --check compares with transformers.
"""

import argparse
import hashlib
import json
import os

import numpy as np
import torch
from tokenizers import Tokenizer

import batches
import files
import measure
import policy

BENIGN_FLAGGED = {"strict": 0.4, "permissive": 0.05}


def weights(want, reqs):
    """Of each case, so that both phases, and unsafe and benign cases, count the same."""
    w = np.ones(len(want))
    for sel in (reqs, ~reqs):
        for bad in (True, False):
            s = sel & ((want > 0) == bad)
            w[s] = 0.25 / max(1, s.sum())
    return w


def temperature(probs, want, w):
    logp = np.log(np.maximum(probs, 1e-12))

    def loss(t):
        z = logp / t
        z -= z.max(1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return -(w * np.log(p[np.arange(len(want)), want] + 1e-12)).sum()

    return float(min(np.exp(np.linspace(np.log(0.5), np.log(3), 60)), key=loss))


def measured(risk, bad, w, flag):
    said = risk >= flag
    tp, fp = w[bad & said].sum(), w[~bad & said].sum()
    recall, rate = tp / w[bad].sum(), fp / w[~bad].sum()
    return {
        "precision": round(float(recall / max(1e-9, recall + rate)), 3),
        "recall": round(float(recall), 3),
        "false_positive_rate": round(float(rate), 3),
    }


def points(risk, bad, w):
    """{name: (flag, block, measured)}"""
    grid = np.round(np.linspace(0.02, 0.98, 193), 3)
    m = [measured(risk, bad, w, x) for x in grid]
    score = np.array([x["recall"] - x["false_positive_rate"] for x in m])
    smooth = np.convolve(score, np.ones(9) / 9, "same")
    smooth[:4] = smooth[-4:] = -1
    flags = {"balanced": float(grid[smooth.argmax()])}
    for name, limit in BENIGN_FLAGGED.items():
        flags[name] = float(next((g for g, x in zip(grid, m) if x["false_positive_rate"] <= limit), grid[-1]))
    return {
        n: (flags[n], round((1 + flags[n]) / 2, 3), measured(risk, bad, w, flags[n]))
        for n in ("strict", "balanced", "permissive")
    }


def read(path, enc):
    """Cases of training's own form, or test cases (one judged place, at the end)."""
    for x in open(path):
        row = json.loads(x)
        row.setdefault("cases", [[len(row["messages"]), row.get("phase"), row["label"]]])
        yield batches.sample(enc, row)


def check(out, m, cases, enc):
    """The largest difference of a choice logit between transformers on the stored values and this model."""
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    v = json.load(open(os.path.join(out, "config.json")))
    v.pop("quantization_config")
    hf = LlamaForCausalLM(LlamaConfig(**v)).eval()
    t = files.values(load_file(os.path.join(out, "model.safetensors")))
    t["lm_head.weight"] = t["model.embed_tokens.weight"]
    hf.load_state_dict(t)
    worst = 0.0
    with torch.no_grad():
        for s in cases:
            ids = torch.tensor(s.ids[: s.cases[-1][0]] + enc.after)
            n = len(ids)
            a = hf(ids[None]).logits[0, -1, enc.choices]
            mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
            h = m(ids, torch.arange(n), [(torch.arange(n)[None], mask)], torch.arange(n))[-1]
            worst = max(worst, (a - h @ m.embed.weight[enc.choices].T).abs().max().item())
    print("transformers: largest difference of a choice logit over %d cases %.2e (fp32)" % (len(cases), worst))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--tokenizer", required=True)
    ap.add_argument("--cases", nargs="+", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--check", action="store_true")
    a = ap.parse_args()
    tok = Tokenizer.from_file(a.tokenizer)
    enc = batches.Encoder(tok)
    cases = [s for p in a.cases for s in read(p, enc)]
    m, c = files.load(a.checkpoint)
    files.save(a.out, m, c, tok, a.tokenizer)
    m = files.load(a.out)[0].eval()
    probs, want, reqs = measure.run(m, enc, cases)
    w = weights(want, reqs)
    t = temperature(probs, want, w)
    with torch.no_grad():
        m.norm.weight /= t
    files.save(a.out, m, c, tok, a.tokenizer)
    m = files.load(a.out)[0].eval()
    probs, want, reqs = measure.run(m, enc, cases)
    ops = points(1 - probs[:, 0], want > 0, w)
    policy.write(os.path.join(a.out, "policy.json"), ops)
    print("temperature %.3f %s" % (t, json.dumps(ops)))
    print(json.dumps(measure.summary((probs, want, reqs), ops["balanced"][0])))
    for n in ("config.json", "model.safetensors", "tokenizer.json", "policy.json"):
        print(hashlib.sha256(open(os.path.join(a.out, n), "rb").read()).hexdigest(), n)
    if a.check:
        check(a.out, m, [s for s in cases if s.cases][:40], enc)


if __name__ == "__main__":
    main()
