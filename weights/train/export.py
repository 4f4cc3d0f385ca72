#!/usr/bin/env python3
"""A checkpoint becomes a Hugging Face LlamaForCausalLM directory with a policy, calibrated on development cases.

    export.py --checkpoint best.pt --vocab DIR --set DIR --out weights/guardian-mini [--check]

The temperature that fits the development cases best is folded into the weight of the final norm, and the flag
threshold is the one with the best balanced accuracy there. --check compares with transformers.
"""

import argparse
import hashlib
import json
import os
import shutil

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import batches
import measure
import policy
from model import Config, Mini


def load(path):
    state = torch.load(path)
    v = state["config"]
    c = Config(
        v["vocab"],
        v["dim"],
        v["layers"],
        v["heads"],
        v["kv_heads"],
        v["ffn"],
        v["theta"],
        v["max_pos"],
        v["eps"],
    )
    m = Mini(c)
    m.load_state_dict(state["model"])
    return m.eval(), c, state


def tensors(m, c):
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    out = {"model.embed_tokens.weight": m.embed.weight, "model.norm.weight": m.norm.weight}
    for i, l in enumerate(m.layers):
        p = "model.layers.%d." % i
        wq, wk, wv = l.qkv.weight.split([q, kv, kv])
        gate, up = l.gate_up.weight.chunk(2)
        out.update(
            {
                p + "self_attn.q_proj.weight": wq,
                p + "self_attn.k_proj.weight": wk,
                p + "self_attn.v_proj.weight": wv,
                p + "self_attn.o_proj.weight": l.o.weight,
                p + "mlp.gate_proj.weight": gate,
                p + "mlp.up_proj.weight": up,
                p + "mlp.down_proj.weight": l.down.weight,
                p + "input_layernorm.weight": l.norm1.weight,
                p + "post_attention_layernorm.weight": l.norm2.weight,
            }
        )
    return {k: v.detach().to(torch.bfloat16).contiguous().clone() for k, v in out.items()}


def config(c, tok):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": c.dim,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "vocab_size": c.vocab,
        "max_position_embeddings": c.max_pos,
        "rms_norm_eps": c.eps,
        "rope_theta": c.theta,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": tok.token_to_id("<|begin_of_text|>"),
        "eos_token_id": tok.token_to_id("<|end_of_text|>"),
        "initializer_range": 0.02,
        "use_cache": True,
    }


def fit(probs, want, reqs):
    """(temperature, flag threshold) by log loss and by balanced accuracy; both phases count the same"""
    logp = np.log(np.maximum(probs, 1e-12))
    w = np.ones(len(want))
    for sel in (reqs, ~reqs):
        for bad in (True, False):
            s = sel & ((want > 0) == bad)
            w[s] = 1.0 / max(1, s.sum())

    def scaled(t):
        z = logp / t
        z -= z.max(1, keepdims=True)
        e = np.exp(z)
        return e / e.sum(1, keepdims=True)

    temps = np.exp(np.linspace(np.log(0.5), np.log(3), 60))
    t = min(temps, key=lambda t: -(w * np.log(scaled(t)[np.arange(len(want)), want] + 1e-12)).sum())
    risk = 1 - scaled(t)[:, 0]

    def balanced(x):
        return sum(w[(want > 0) & (risk >= x)]) + sum(w[(want == 0) & (risk < x)])

    grid = np.linspace(
        0.33, 0.67, 69
    )  # near one half: the development set is no sample of real traffic
    score = np.convolve([balanced(x) for x in grid], np.ones(9) / 9, "same")
    score[:4] = score[-4:] = 0
    return float(t), round(float(grid[score.argmax()]), 3)


def check(out, dev, enc):
    """The largest difference of a choice logit between transformers on the exported files and this model."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    st = hf.state_dict()
    worst, n = 0.0, 0
    m, c, _ = load(check.path)
    with torch.no_grad():
        m.norm.weight /= check.t
        for p in m.parameters():
            p.copy_(p.to(torch.bfloat16).float())
        for s in dev[:40]:
            end, _, _ = s.cases[-1]
            ids = torch.tensor([s.ids[:end] + enc.after])
            a = hf(ids).logits[0, -1, enc.choices]
            t = ids.shape[1]
            mask = torch.zeros(1, 1, t, t).masked_fill_(
                ~torch.ones(t, t, dtype=torch.bool).tril(), float("-inf")
            )
            b = m(ids, torch.arange(t)[None], mask)[0, -1] @ m.embed.weight[enc.choices].T
            worst, n = max(worst, (a - b).abs().max().item()), n + 1
    print(
        "transformers: largest difference of a choice logit over %d cases %.2e (fp32), %d tensors"
        % (n, worst, len(st))
    )


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--vocab", required=True)
    ap.add_argument("--set", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--check", action="store_true")
    ap.add_argument(
        "--cases", type=int, default=1000, help="development trajectories for the calibration"
    )
    ap.add_argument("--flag", type=float, help="a flag threshold instead of the fitted one")
    a = ap.parse_args()
    torch.set_num_threads(2)
    os.makedirs(a.out, exist_ok=True)
    m, c, state = load(a.checkpoint)
    tok = Tokenizer.from_file(os.path.join(a.vocab, "tokenizer.json"))
    enc = batches.Encoder(tok)
    dev = [batches.sample(enc, json.loads(x)) for x in open(os.path.join(a.set, "dev.jsonl"))][
        : a.cases
    ]
    res = measure.run(m, enc, dev)
    t, flag = fit(*res)
    flag = a.flag or flag
    with torch.no_grad():
        m.norm.weight /= t
    save_file(tensors(m, c), os.path.join(a.out, "model.safetensors"), metadata={"format": "pt"})
    os.chmod(os.path.join(a.out, "model.safetensors"), 0o644)
    with open(os.path.join(a.out, "config.json"), "w") as f:
        json.dump(config(c, tok), f, indent=2)
        f.write("\n")
    shutil.copy(os.path.join(a.vocab, "tokenizer.json"), a.out)
    policy.write(
        os.path.join(a.out, "policy.json"), flag=flag, block=round(max(0.8, (1 + flag) / 2), 3)
    )
    print("step %d temperature %.3f flag %.3f" % (state["step"], t, flag))
    print(json.dumps(measure.summary(measure.run(m, enc, dev), flag)))
    for n in ("config.json", "model.safetensors", "tokenizer.json", "policy.json"):
        print(hashlib.sha256(open(os.path.join(a.out, n), "rb").read()).hexdigest(), n)
    if a.check:
        check.path, check.t = a.checkpoint, t
        check(a.out, dev, enc)


if __name__ == "__main__":
    main()
