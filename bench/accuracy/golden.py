#!/usr/bin/env python3
"""Records what a model says, so that a test can tell whether the model in the repository is still the one measured.

    bench/accuracy/golden.py --program build/release/guardian --model weights/guardian-mini

Writes MODEL/golden.json: the SHA-256 of the model's files, and label, action and risk of every tenth case of
bench/accuracy/cases. tests/http/test_guardian_mini.py compares.
"""

import argparse
import hashlib
import json
import os
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = ("config.json", "model.safetensors", "tokenizer.json", "policy.json")
EVERY = 10


def digests(model):
    return {n: hashlib.sha256(open(os.path.join(model, n), "rb").read()).hexdigest() for n in FILES}


def cases():
    """[(name, request)]"""
    out = []
    for name in ("assistants", "agents"):
        lines = open(os.path.join(HERE, "cases", name + ".jsonl"), encoding="utf-8").read().splitlines()
        for row in (json.loads(x) for x in lines[::EVERY]):
            request = {k: row[k] for k in ("messages", "tools") if row.get(k)}
            out.append(("%s:%s" % (name, row["id"]), request))
    return out


def verdicts(program, model, requests, *flags):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as f:
        f.writelines(json.dumps(r) + "\n" for r in requests)
        f.flush()
        argv = [program, "assess", "--model", model, *flags, f.name]
        out = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    return [json.loads(x) for x in out.splitlines()]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--program", required=True)
    ap.add_argument("--model", required=True)
    a = ap.parse_args()
    named = cases()
    got = verdicts(a.program, a.model, [r for _, r in named])
    doc = {
        "sha256": digests(a.model),
        "verdicts": [
            {"case": n, "label": v["label"], "action": v["action"], "risk": round(v["score"], 5)}
            for (n, _), v in zip(named, got, strict=True)
        ],
    }
    with open(os.path.join(a.model, "golden.json"), "w") as f:
        json.dump(doc, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
