#!/usr/bin/env python3
"""The forest of guardian-mini's evidence, and how much it and the model count.

    forest.py --set DIR --model weights/guardian-mini --guardian build/release/guardian [--trees 1000]

Trains on the prefixes of DIR/train.jsonl. The evidence (server/guard/evidence.h) is measured by the program itself
(`guardian render`). Writes MODEL/evidence.safetensors (server/guard/forest.h); then, on the prefixes of DIR/dev.jsonl,
finds the weights of the model's logits and of the forest's scores with the smallest log loss, and the thresholds and
operating points (export.py), and writes MODEL/policy.json. Needs catboost and safetensors.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import random
import subprocess
import tempfile

import numpy as np
from catboost import CatBoostClassifier
from safetensors.numpy import save_file

import export
import noise
import policy
from attacks import B, I, LABELS

INDEX = {l: i for i, l in enumerate(LABELS)}
MASKED_IN_REQUEST = [INDEX[B], INDEX[I]]
NEVER = float(np.finfo(np.float32).max)  # a threshold that nothing is above
DEPTH = 6
BATCH = 10000  # requests in a file


def noised(r, tools, messages):
    """The same, as an attacker may write it (the families of noise.py that are trained)."""
    tools, messages = json.loads(json.dumps(tools)), json.loads(json.dumps(messages))
    noise.train(r, tools, messages)
    return {"tools": tools, "messages": messages}


def prefixes(path, per, seed, noisy=0.0):
    """(request, phase, {label: share}) of at most `per` unsafe and as many benign prefixes of each trajectory, and a noised
    one beside this share of them"""
    r = random.Random(seed)
    for line in open(path):
        row = json.loads(line)
        cases = [(row["messages"][:n], phase, label) for n, phase, label in row["cases"]]
        for a in row.get("alts") or []:
            start = row["messages"][: a["at"]]
            cases += [(start + a["messages"][:n], phase, label) for n, phase, label in a["cases"]]
        bad = [c for c in cases if c[2] != "appropriate"]
        good = [c for c in cases if c[2] == "appropriate"]
        for messages, phase, label in r.sample(bad, min(per, len(bad))) + r.sample(good, min(per, len(good))):
            shares = label if isinstance(label, dict) else {label: 1.0}
            tools = row.get("tools") or []
            yield {"tools": tools, "messages": messages}, phase, shares
            if r.random() < noisy:
                yield noised(r, tools, messages), phase, shares


def run_some(a, command, requests):
    zero = {"precision": 0, "recall": 0, "false_positive_rate": 0}
    with tempfile.TemporaryDirectory() as d:
        alone, file = os.path.join(d, "policy.json"), os.path.join(d, "requests.jsonl")
        policy.write(alone, {"balanced": (0.5, 0.75, zero)})
        with open(file, "w") as f:
            for x in requests:
                f.write(json.dumps(x) + "\n")
        got = subprocess.run(
            [a.guardian, command, "--model", a.model, "--policy", alone, file], stdout=subprocess.PIPE, check=False, text=True
        )
    rows = [json.loads(x) for x in got.stdout.splitlines()]
    assert len(rows) == len(requests), "%s: %d answers to %d requests" % (command, len(rows), len(requests))
    return rows


def run(a, command, requests):
    """What the program prints for each request, with a policy whose model decides alone; two processes at once."""
    parts = [requests[i : i + BATCH] for i in range(0, len(requests), BATCH)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return [row for rows in pool.map(lambda part: run_some(a, command, part), parts) for row in rows]


def evidence(a, cases):
    """Names of the features, [cases, features], the cases that could be rendered."""
    rows = [r.get("evidence") for r in run(a, "render", [c[0] for c in cases])]
    kept = [i for i, r in enumerate(rows) if r]
    names = list(rows[kept[0]])
    return names, np.array([[rows[i][n] for n in names] for i in kept], np.float32), [cases[i] for i in kept]


def train(a, x, cases):
    """A case with several possible labels counts as one of each, by its share."""
    at = [(i, INDEX[l], p) for i, c in enumerate(cases) for l, p in c[2].items()]
    m = CatBoostClassifier(
        iterations=a.trees,
        depth=DEPTH,
        learning_rate=0.08,
        loss_function="MultiClass",
        l2_leaf_reg=6,
        bootstrap_type="Bernoulli",
        subsample=0.8,
        rsm=0.25,
        random_seed=a.seed,
        thread_count=2,
        allow_writing_files=False,
        verbose=50,
    )
    m.fit(x[[i for i, _, _ in at]], [l for _, l, _ in at], sample_weight=[p for _, _, p in at])
    assert list(m.classes_) == list(range(len(LABELS))), "a label has no case"
    return m


def tensors(m):
    """The trees in the form of forest.h."""
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        m.save_model(f.name, format="json")
        v = json.load(open(f.name))
    trees, n = v["oblivious_trees"], len(LABELS)
    column = [f["flat_feature_index"] for f in v["features_info"]["float_features"]]
    feature = np.zeros((len(trees), DEPTH), np.uint8)
    threshold = np.full((len(trees), DEPTH), NEVER, np.float32)
    leaf = np.zeros((len(trees), 2**DEPTH, n), np.float32)
    for t, tree in enumerate(trees):
        for k, s in enumerate(tree["splits"]):
            feature[t, k], threshold[t, k] = column[s["float_feature_index"]], s["border"]
        values = np.array(tree["leaf_values"]).reshape(-1, n)
        leaf[t, : len(values)] = values
    scale, bias = v["scale_and_bias"]
    return {
        "feature": feature,
        "threshold": threshold,
        "leaf": leaf * np.float32(scale),
        "bias": np.array(bias if len(bias) == n else bias * n, np.float32),
    }


def scores(t, x):
    """Twin of gd_forest_score."""
    out = np.tile(t["bias"], (len(x), 1)).astype(np.float32)
    for f, th, leaf in zip(t["feature"], t["threshold"], t["leaf"]):
        out += leaf[((x[:, f] > th) << np.arange(DEPTH)).sum(1)]
    return out


def log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def pool(model, forest, want, w):
    """The weights of both with the smallest log loss; the model always has a word."""
    at = np.arange(len(want))
    grid = [(m, f) for m in np.arange(0, 1.01, 0.05) for f in np.arange(0, 1.51, 0.05)]
    loss = {g: -(w * log_softmax(g[0] * model + g[1] * forest)[at, want]).sum() for g in grid}
    best = min((g for g in grid if g[0] > 0), key=loss.get)
    alone = min(v for g, v in loss.items() if g[0] == 0)
    print("loss of the model alone %.4f, of the forest alone %.4f, of both %.4f" % (loss[(1.0, 0.0)], alone, loss[best]))
    return best


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--set", required=True)
    ap.add_argument("--model", required=True)
    ap.add_argument("--guardian", required=True)
    ap.add_argument("--trees", type=int, default=1000)
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()

    names, x, cases = evidence(a, list(prefixes(os.path.join(a.set, "train.jsonl"), 2, a.seed, 0.5)))
    m = train(a, x, cases)
    t = tensors(m)
    assert np.allclose(scores(t, x[:2000]), m.predict(x[:2000], prediction_type="RawFormulaVal"), atol=1e-3)
    file = os.path.join(a.model, "evidence.safetensors")
    save_file(t, file)
    sha256 = hashlib.sha256(open(file, "rb").read()).hexdigest()

    cases = [c for c in prefixes(os.path.join(a.set, "dev.jsonl"), 2, a.seed) if max(c[2].values()) > 0.9]
    names, x, cases = evidence(a, cases)
    want = np.array([INDEX[max(c[2], key=c[2].get)] for c in cases])
    reqs = np.array([c[1] == "request" for c in cases])
    mask = np.zeros((len(cases), len(LABELS)))
    mask[np.ix_(reqs, MASKED_IN_REQUEST)] = -1e9
    verdicts = run(a, "assess", [c[0] for c in cases])
    model = np.log(np.array([[max(v["scores"].get(l) or 0, 1e-12) for l in LABELS] for v in verdicts])) + mask
    forest = scores(t, x) + mask
    w = export.weights(want, reqs)
    weights = pool(model, forest, want, w)
    p = np.exp(log_softmax(weights[0] * model + weights[1] * forest))
    ops = export.points(1 - p[:, 0], want > 0, w)
    policy.write(
        os.path.join(a.model, "policy.json"),
        ops,
        {
            "file": os.path.basename(file),
            "sha256": sha256,
            "features": names,
            "weight": round(float(weights[1]), 2),
            "model_weight": round(float(weights[0]), 2),
        },
    )
    print("weights %s points %s" % (weights, json.dumps(ops)))


if __name__ == "__main__":
    main()
