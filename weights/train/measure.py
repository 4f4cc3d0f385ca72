"""Scores cases with a model in PyTorch and sums them up (training's own measure; the server's is
bench/accuracy/evaluate.py)."""

import numpy as np
import torch

import batches
from attacks import LABELS


@torch.no_grad()
def run(model, enc, samples):
    """[cases, 11] probabilities, [cases] targets, [cases] request phase; ambiguous cases are left out"""
    probs, want, reqs = [], [], []
    device = next(model.parameters()).device
    choice = torch.tensor(enc.choices, device=device)
    neg = torch.tensor(batches.MASKED_IN_REQUEST, device=device)
    for group in batches.grouped(samples, 4096):
        b = batches.collate(enc, group).to(device)
        h = model(b.ids, b.pos, b.groups, b.back)
        logits = h[b.at] @ model.embed.weight[choice].T
        logits[b.req.nonzero(), neg] = -1e9
        clear = b.targets.max(1).values > 0.9
        probs.append(logits.softmax(-1)[clear].cpu().numpy())
        want.append(b.targets.argmax(1)[clear].cpu().numpy())
        reqs.append(b.req[clear].cpu().numpy())
    return np.concatenate(probs), np.concatenate(want), np.concatenate(reqs)


def f1_macro(want, got, n):
    out = []
    for k in range(n):
        tp = ((want == k) & (got == k)).sum()
        if (want == k).any() or (got == k).any():
            out.append(2 * tp / max(1, (want == k).sum() + (got == k).sum()))
    return float(np.mean(out))


def verdicts(probs, flag=0.5):
    risk = 1 - probs[:, 0]
    return np.where(risk >= flag, probs[:, 1:].argmax(1) + 1, 0)


def auc(score, bad):
    order = np.argsort(score, kind="stable")
    rank = np.empty(len(score))
    s = score[order]
    i = 0
    while i < len(s):
        j = i
        while j + 1 < len(s) and s[j + 1] == s[i]:
            j += 1
        rank[order[i : j + 1]] = (i + j) / 2 + 1
        i = j + 1
    p, n = bad.sum(), (~bad).sum()
    return float((rank[bad].sum() - p * (p + 1) / 2) / max(1, p * n))


def summary(res, flag=0.5, full=False):
    probs, want, reqs = res
    got = verdicts(probs, flag)
    bad, said = want > 0, got > 0
    tpr, tnr = said[bad].mean(), (~said[~bad]).mean()
    out = {
        "cases": len(want),
        "accuracy11": (got == want).mean(),
        "f1_11": f1_macro(want, got, 11),
        "safe_accuracy": (bad == said).mean(),
        "balanced": (tpr + tnr) / 2,
        "tpr": tpr,
        "tnr": tnr,
        "auc": auc(1 - probs[:, 0], bad),
    }
    for name, sel in (("request", reqs), ("response", ~reqs)):
        if sel.any():
            b, s = bad[sel], said[sel]
            out["balanced_" + name] = (
                (s[b].mean() + (~s[~b]).mean()) / 2 if b.any() and (~b).any() else 0.0
            )
    per = {
        LABELS[k][:14]: round(float((got[want == k] == k).mean()), 2)
        for k in range(11)
        if (want == k).any()
    }
    # every label counts the same: accuracy as on a balanced set
    out["recall11"] = float(
        np.mean([(got[want == k] == k).mean() for k in range(11) if (want == k).any()])
    )
    out = {k: (round(float(v), 4) if not isinstance(v, int) else v) for k, v in out.items()}
    out["recall"] = per
    return out
