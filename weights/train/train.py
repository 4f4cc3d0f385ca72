#!/usr/bin/env python3
"""Trains guardian-mini.

    train.py --set DIR --vocab DIR --out DIR --minutes 60 [--init CHECKPOINT]

The learning rate follows the wall clock, so a run always ends cooled down. Three losses: the choice among
the 11 labels at every judged prefix; early, MiniLM's sentence vector at the end of request, tool and call
lines; a next-token loss at part of the trunk. Every few minutes the averaged weights are measured on the
development set and kept (OUT/last.pt, OUT/best.pt).
"""

import argparse
import json
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import batches
import measure
from model import Config, Mini


def newton_schulz(g):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        m = x @ x.mT
        x = a * x + (b * m + c * m @ m) @ x
    return (x.mT if flip else x).float()


class Muon:
    """Orthogonalised momentum for the matrices of the layers, one batched call a shape."""

    def __init__(self, params, lr, momentum=0.95, decay=0.0):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.by_shape = {}
        for p in params:
            self.by_shape.setdefault(tuple(p.shape), []).append(p)
        self.buf = {s: torch.zeros(len(ps), *s) for s, ps in self.by_shape.items()}

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


def start_embedding(model, path):
    """PCA of the borrowed word vectors to the model's width, in the scale of a fresh embedding."""
    e = torch.from_numpy(np.load(path))
    used = e.abs().sum(1) > 0
    _, _, v = torch.linalg.svd(e[used] - e[used].mean(0), full_matrices=False)
    x = e @ v[: model.c.dim].T
    x = x / x[used].std()
    with torch.no_grad():
        model.embed.weight[used] = 0.9 * x[used] * 0.05 + 0.1 * model.embed.weight[used]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--set", required=True)
    ap.add_argument("--vocab", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=60)
    ap.add_argument("--init")
    ap.add_argument("--dim", type=int, default=256)
    ap.add_argument("--layers", type=int, default=6)
    ap.add_argument("--ffn", type=int, default=688)
    ap.add_argument("--lr", type=float, default=0.015)
    ap.add_argument("--adam-lr", type=float, default=0.0015)
    ap.add_argument("--lm", type=float, default=0.3)
    ap.add_argument("--sense", type=float, default=0.5)
    ap.add_argument(
        "--benign", type=float, default=1.0, help="weight of a case labelled appropriate"
    )
    ap.add_argument("--benign-request", type=float, default=2.2)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--warmup", type=int, default=100, help="steps")
    ap.add_argument(
        "--flat", type=float, default=0.3, help="share of the time before the learning rate falls"
    )
    ap.add_argument("--eval-minutes", type=float, default=5)
    ap.add_argument("--eager", action="store_true")
    ap.add_argument("--steps", type=int, default=1 << 30)
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.manual_seed(a.seed)
    torch.set_num_threads(2)
    tok = Tokenizer.from_file(os.path.join(a.vocab, "tokenizer.json"))
    enc = batches.Encoder(tok)
    c = Config(
        vocab=tok.get_vocab_size(),
        dim=a.dim,
        layers=a.layers,
        heads=a.dim // 64,
        kv_heads=2,
        ffn=a.ffn,
    )
    model = Mini(c)
    sense = torch.nn.Linear(a.dim, 384)
    if a.init:
        model.load_state_dict(torch.load(a.init)["model"])
    else:
        start_embedding(model, os.path.join(a.vocab, "embed.npy"))
    table = {}
    path = os.path.join(a.vocab, "sentences.npz")
    if a.sense > 0 and os.path.exists(path):
        z = np.load(path, allow_pickle=True)
        table = {k: i for i, k in enumerate(z["keys"])}
        vectors = torch.from_numpy(z["vectors"].astype(np.float32))
    print(
        "parameters %.2f M, sentences %d"
        % (sum(p.numel() for p in model.parameters()) / 1e6, len(table)),
        flush=True,
    )
    mats = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.dim() == 1 or "embed" in n] + list(
        sense.parameters()
    )
    muon = Muon(mats, a.lr, decay=0.01)
    adam = torch.optim.AdamW(rest, a.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    mean = {k: v.clone() for k, v in model.state_dict().items()}
    torch._dynamo.config.cache_size_limit = 64
    forward = model if a.eager else torch.compile(model, dynamic=False)
    r = random.Random(a.seed)
    dev = [json.loads(x) for x in open(os.path.join(a.set, "dev.jsonl"))][:450]
    dev = [batches.sample(enc, d) for d in dev]
    choice = torch.tensor(enc.choices)
    neg = torch.tensor(batches.MASKED_IN_REQUEST)
    begin, best, step, tokens, last_eval = time.time(), -1.0, 0, 0, time.time()
    sums = np.zeros(6)
    for group, width in batches.stream(os.path.join(a.set, "train.jsonl"), enc, a.seed):
        done = (time.time() - begin) / 60 / a.minutes
        if done >= 1 or step >= a.steps:
            break
        scale = min(1.0, (step + 1) / a.warmup) * (
            1.0 if done < a.flat else 0.02 + 0.98 * (1 - done) / (1 - a.flat)
        )
        ids, pos, bias, at, targets, req, starts = batches.collate(enc, group, width)
        lm_at, lm_ids, s_at, s_row = [], [], [], []
        for base, s in zip(starts, (s for row in group for s in row)):
            for kind, x, y, key in s.lines:
                p = 0.01 if kind == "TOOL" else (0.6 if kind == "CALL" else 0.05)
                for j in range(x, y - 1):
                    if r.random() < p:
                        lm_at.append(base + j)
                        lm_ids.append(s.ids[j + 1])
                row = table.get(key)
                if row is not None:
                    s_at.append(base + y - 1)
                    s_row.append(row)
        with torch.autocast("cpu", torch.bfloat16):
            h = forward(ids, pos, bias).reshape(-1, c.dim)
            logits = (h[at] @ model.embed.weight[choice].T).float()
            lm = (h[lm_at] @ model.embed.weight.T).float() if lm_at and a.lm else None
        logits[req.nonzero().squeeze(1).unsqueeze(1), neg] = -1e9
        w = torch.where(targets[:, 0] > 0.5, torch.where(req, a.benign_request, a.benign), 1.0)
        each = -(targets * F.log_softmax(logits, -1).clamp(min=-100)).sum(-1)
        main_loss = (each * w).sum() / w.sum()
        loss = main_loss
        fade = max(0.0, 1 - done / 0.6)
        lm_loss = sense_loss = torch.zeros(())
        if lm is not None:
            lm_loss = F.cross_entropy(lm, torch.tensor(lm_ids))
            loss = loss + a.lm * (0.3 + 0.7 * fade) * lm_loss
        if s_at and a.sense:
            v = sense(h[s_at].float())
            sense_loss = (1 - F.cosine_similarity(v, vectors[s_row], dim=-1)).mean()
            loss = loss + a.sense * fade * sense_loss
        model.zero_grad(set_to_none=True)
        sense.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(rest, 1.0)
        for g in adam.param_groups:
            g["lr"] = a.adam_lr * scale
        adam.step()
        muon.step(scale)
        step += 1
        tokens += ids.numel()
        keep = min(0.997, 1 - 1 / (step + 1))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(mean.values()), [v for v in model.state_dict().values()], 1 - keep
            )
        hit = (logits.argmax(-1) == targets.argmax(-1)).float().mean().item()
        sums += (main_loss.item(), lm_loss.item(), sense_loss.item(), hit, norm.item(), 1)
        if step % 50 == 0:
            x = sums[:5] / sums[5]
            print(
                "step %d %.1f min tok/s %.0f loss %.3f lm %.2f sense %.3f acc %.3f norm %.2f"
                % (step, (time.time() - begin) / 60, tokens / (time.time() - begin), *x),
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
    m.eval()
    res = measure.summary(measure.run(m, enc, dev))
    score = res["balanced"] + res["accuracy11"]
    print("DEV step %d %s" % (step, json.dumps(res)), flush=True)
    state = {
        "model": {k: v.clone() for k, v in mean.items()},
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
