#!/usr/bin/env python3
"""Records what a model says, so that a server can tell at start whether it has the model that was measured and computes
what was computed (include/guardian/golden.h), and a test the same of more cases.

    bench/accuracy/golden.py --program build/release/guardian --model weights/guardian-mini \\
        --also 'build/release/tests/guardian_simt --device cuda:0 --dtype bf16' \\
        --also 'build/release/tests/guardian_simt --device cuda:0 --dtype fp8' \\
        --cases tests/golden/guardian_mini.json

Writes MODEL/golden.json: the SHA-256 of the model's files, and for each action the shortest cases of
bench/accuracy/cases, of as many labels as there are, that a server may be asked to repeat anywhere. Refused are those
whose score lies within twice the tolerance of a threshold, whose most probable two risks are as close, or whose score
moves by more than half the tolerance in another way of computing (--also: a program and flags for its `assess`).

--cases also writes label, action and risk of every tenth case; tests/http/test_guardian_mini.py compares.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = ("config.json", "model.safetensors", "tokenizer.json", "policy.json")  # the policy has the hash of its evidence
EVERY = 10
TOLERANCE = 0.02
ACTIONS = ("allow", "review", "block")
PER_ACTION = 4
BYTES_MAX = 40_000


def digests(model):
    return {n: hashlib.sha256(open(os.path.join(model, n), "rb").read()).hexdigest() for n in FILES}


def all_cases():
    """{name: [(name, request)]} by file"""
    out = {}
    for name in ("assistants", "agents"):
        lines = open(os.path.join(HERE, "cases", name + ".jsonl"), encoding="utf-8").read().splitlines()
        rows = [json.loads(x) for x in lines]
        out[name] = [("%s:%s" % (name, r["id"]), {k: r[k] for k in ("messages", "tools") if r.get(k)}) for r in rows]
    return out


def cases():
    """[(name, request)], every tenth"""
    return [x for rows in all_cases().values() for x in rows[::EVERY]]


def verdicts(program, model, requests, *flags):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as f:
        f.writelines(json.dumps(r) + "\n" for r in requests)
        f.flush()
        argv = [program, "assess", "--model", model, *flags, f.name]
        out = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    return [json.loads(x) for x in out.splitlines()]


def firm(verdict, edges, tolerance):
    """Neither action nor label may change while the score stays within the tolerance."""
    risks = sorted((p for label, p in verdict["scores"].items() if label != "appropriate"), reverse=True)
    close = verdict["flagged"] and risks[0] - risks[1] <= 2 * tolerance
    return not close and all(abs(verdict["score"] - e) > 2 * tolerance for e in edges)


def choose(candidates):
    """The shortest of each action, its labels by turns; candidates: [(name, request, verdict)]"""
    out = []
    for action in ACTIONS:
        by_label = {}
        for c in sorted((c for c in candidates if c[2]["action"] == action), key=lambda c: (len(json.dumps(c[1])), c[0])):
            by_label.setdefault(c[2]["label"], []).append(c)
        queues = sorted(by_label.values(), key=lambda q: len(json.dumps(q[0][1])))
        turns = [q[i] for i in range(PER_ACTION) for q in queues if i < len(q)]
        if not turns:
            raise SystemExit("no case gives a firm '%s': the model has moved its scores together" % action)
        out += turns[:PER_ACTION]
    return out


def agreed(chosen, model, ways, tolerance):
    """Names of those that come out the same in every other way of computing, and the largest difference there."""
    good, widest = {name for name, _, _ in chosen}, 0.0
    for way in ways:
        program, *flags = shlex.split(way)
        for (name, _, want), v in zip(chosen, verdicts(program, model, [c[1] for c in chosen], *flags), strict=True):
            difference = abs(v["score"] - want["score"])
            if difference > tolerance / 2 or (v["action"], v["label"]) != (want["action"], want["label"]):
                good.discard(name)
            else:
                widest = max(widest, difference)
    return good, widest


def select(program, model, ways, tolerance=TOLERANCE):
    policy = json.load(open(os.path.join(model, "policy.json"), encoding="utf-8"))
    edges = [policy["thresholds"]["flag"], policy["thresholds"]["block"]]
    named = [x for rows in all_cases().values() for x in rows]
    got = verdicts(program, model, [r for _, r in named], "--device", "cpu")
    candidates = [(n, r, v) for (n, r), v in zip(named, got, strict=True) if firm(v, edges, tolerance)]
    while True:
        chosen = choose(candidates)
        good, widest = agreed(chosen, model, ways, tolerance)
        bad = {c[0] for c in chosen} - good
        if not bad:
            print("%d requests, at most %.4f apart in %d other ways" % (len(chosen), widest, len(ways)))
            return chosen
        candidates = [c for c in candidates if c[0] not in bad]


def document(model, chosen, tolerance=TOLERANCE):
    doc = {"version": 1, "sha256": digests(model), "tolerance": tolerance,
           "requests": [{"name": n, "request": r, "label": v["label"], "action": v["action"], "score": round(v["score"], 5)}
                        for n, r, v in chosen]}
    head = json.dumps({**doc, "requests": []}, indent=1).removesuffix("[]\n}")
    rows = ",\n".join("  " + json.dumps(r, ensure_ascii=False) for r in doc["requests"])
    return head + "[\n" + rows + "\n ]\n}\n"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--program", required=True)
    ap.add_argument("--model", required=True)
    ap.add_argument("--also", action="append", default=[], metavar="COMMAND")
    ap.add_argument("--cases", metavar="FILE")
    a = ap.parse_args()
    text = document(a.model, select(a.program, a.model, a.also))
    if len(text.encode()) > BYTES_MAX:
        raise SystemExit("golden.json would have %d bytes, %d at most" % (len(text.encode()), BYTES_MAX))
    if a.cases:
        named = cases()
        got = verdicts(a.program, a.model, [r for _, r in named], "--device", "cpu")
        rows = [{"case": n, "label": v["label"], "action": v["action"], "risk": round(v["score"], 5)}
                for (n, _), v in zip(named, got, strict=True)]
        with open(a.cases, "w", encoding="utf-8") as f:
            json.dump({"verdicts": rows}, f, indent=1)
            f.write("\n")
    with open(os.path.join(a.model, "golden.json"), "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
