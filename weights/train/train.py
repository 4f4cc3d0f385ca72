#!/usr/bin/env python3
"""Trains guardian-mini.

    train.py --set DIR --start MODEL --out DIR --minutes 60

MODEL is a model directory (start.py makes the first one) or a checkpoint, which needs --tokenizer beside it.

The learning rate follows the wall clock, so a run always ends cooled down. Two losses: the choice among the 11
labels at every judged prefix, and the next token at part of the trunk. Every few minutes the averaged weights
are measured on the development set and kept (OUT/last.pt, OUT/best.pt).
Runs on a CPU and, when PyTorch finds one, on a GPU.
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import batches
import files
import measure
from model import Mini


def newton_schulz(g):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        m = x @ x.mT
        x = a * x + (b * m + c * m @ m) @ x
    return x.mT if flip else x


class Muon:
    """Orthogonalised momentum for the matrices of the layers, one batched call a shape."""

    def __init__(self, params, lr, momentum=0.95, decay=0.0):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.by_shape = {}
        for p in params:
            self.by_shape.setdefault(tuple(p.shape), []).append(p)
        self.buf = {s: torch.zeros(len(ps), *s, device=ps[0].device) for s, ps in self.by_shape.items()}

    @torch.no_grad()
    def step(self, scale):
        for s, ps in self.by_shape.items():
            g = torch.stack([p.grad for p in ps])
            m = self.buf[s]
            m.lerp_(g, 1 - self.momentum)
            u = newton_schulz(torch.lerp(g, m, self.momentum))
            lr = self.lr * scale
            for p, d in zip(ps, u.unbind(0)):
                p.mul_(1 - lr * self.decay)
                p.add_(d, alpha=-lr * math.sqrt(max(1.0, s[0] / s[1])))


def arithmetic(device):
    """bf16 where the hardware has it, else fp32 as it is"""
    fast = device == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device, torch.bfloat16, enabled=fast)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--set", required=True)
    ap.add_argument("--start", required=True)
    ap.add_argument("--tokenizer", help="default: that of the model directory")
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--muon", type=float, default=0, help="rate of Muon for the layers' matrices")
    ap.add_argument("--lr", type=float, default=0.0002, help="rate of AdamW for all the rest")
    ap.add_argument("--freeze", type=int, default=0, help="embedding and so many layers stay")
    ap.add_argument("--batch", type=int, default=4096, help="tokens a step")
    ap.add_argument("--longest", type=int, default=2600, help="tokens of a trajectory with its branches")
    ap.add_argument("--lm", type=float, default=0.1, help="weight of the next-token loss")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--warmup", type=int, default=40, help="steps")
    ap.add_argument("--flat", type=float, default=0.3, help="share of the time at the full rate")
    ap.add_argument("--eval-minutes", type=float, default=10)
    ap.add_argument("--dev-cases", type=int, default=300)
    ap.add_argument("--workers", type=int, default=0, help="processes that make batches")
    ap.add_argument("--also", nargs="*", default=[], help="further cases to measure on")
    ap.add_argument("--steps", type=int, default=1 << 30)
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.manual_seed(a.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = Tokenizer.from_file(a.tokenizer or os.path.join(a.start, "tokenizer.json"))
    enc = batches.Encoder(tok)
    model, c = files.load(a.start)
    model.to(device)
    named = list(model.named_parameters())
    if a.freeze:
        model.freeze(a.freeze)
        named = [(n, p) for n, p in named if p.requires_grad]
    mats = [p for n, p in named if a.muon and p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in named if not any(p is q for q in mats)]
    muon = Muon(mats, a.muon, decay=0.01)
    adam = torch.optim.AdamW(rest, a.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    mean = {k: v.clone() for k, v in model.state_dict().items()}
    dev = [json.loads(x) for x in open(os.path.join(a.set, "dev.jsonl"))][: a.dev_cases]
    dev = {"dev": [batches.sample(enc, d) for d in dev]}
    for path in a.also:
        rows = [json.loads(x) for x in open(path)]
        for d in rows:
            d["cases"] = [[len(d["messages"]), d["phase"], d["label"]]]
        dev[os.path.basename(path)] = [batches.sample(enc, d) for d in rows]
    choice = torch.tensor(enc.choices, device=device)
    neg = torch.tensor(batches.MASKED_IN_REQUEST, device=device)
    begin, best, step, tokens, cases, last_eval = time.time(), -1.0, 0, 0, 0, time.time()
    sums = np.zeros(5)
    pad = 0.0 if device == "cpu" else 0.15
    data = batches.Stream(
        os.path.join(a.set, "train.jsonl"), enc, a.seed, a.batch, a.longest, a.lm and 0.15, pad
    )
    for b in torch.utils.data.DataLoader(data, batch_size=None, num_workers=a.workers):
        done = (time.time() - begin) / 60 / a.minutes
        if done >= 1 or step >= a.steps:
            break
        scale = min(1.0, (step + 1) / a.warmup) * (
            1.0 if done < a.flat else 0.02 + 0.98 * (1 - done) / (1 - a.flat)
        )
        b.to(device)
        with arithmetic(device):
            h = model(b.ids, b.pos, b.groups, b.back)
            logits = (h[b.at] @ model.embed.weight[choice].T).float()
            lm = (h[b.lm_at] @ model.embed.weight.T).float() if len(b.lm_at) else None
        logits[b.req.nonzero(), neg] = -1e9
        each = -(b.targets * F.log_softmax(logits, -1).clamp(min=-100)).sum(-1)
        loss = main_loss = each.mean()
        lm_loss = torch.zeros(())
        if lm is not None:
            lm_loss = F.cross_entropy(lm, b.lm_ids)
            loss = loss + a.lm * lm_loss
        model.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for g in adam.param_groups:
            g["lr"] = a.lr * scale
        adam.step()
        muon.step(scale)
        step += 1
        tokens, cases = tokens + len(b.ids), cases + len(b.at)
        keep = min(0.985, step / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(mean.values()), [v for v in model.state_dict().values()], 1 - keep
            )
        hit = (logits.argmax(-1) == b.targets.argmax(-1)).float().mean().item()
        sums += (main_loss.item(), lm_loss.item(), hit, norm.item(), 1)
        if step % 10 == 0:
            x, took = sums[:4] / sums[4], time.time() - begin
            print(
                "step %d %.1f min tok/s %.0f cases/s %.1f loss %.3f lm %.2f acc %.3f norm %.2f"
                % (step, took / 60, tokens / took, cases / took, *x),
                flush=True,
            )
            sums[:] = 0
        if time.time() - last_eval > a.eval_minutes * 60:
            best = keep_best(a, c, mean, dev, enc, best, step)
            last_eval = time.time()
    keep_best(a, c, mean, dev, enc, best, step)


def keep_best(a, c, mean, dev, enc, best, step):
    m = Mini(c)
    m.load_state_dict(mean)
    m.to(next(iter(mean.values())).device).eval()
    for name, cases in reversed(dev.items()):
        res = measure.summary(measure.run(m, enc, cases))
        print("DEV %s step %d %s" % (name, step, json.dumps(res)), flush=True)
    score = res["balanced"] + res["accuracy11"]  # of dev.jsonl
    state = {
        "model": {k: v.clone().cpu() for k, v in mean.items()},
        "config": vars(c),
        "dev": res,
        "step": step,
    }
    torch.save(state, os.path.join(a.out, "last.pt"))
    if score > best:
        torch.save(state, os.path.join(a.out, "best.pt"))
    return max(best, score)


if __name__ == "__main__":
    main()
