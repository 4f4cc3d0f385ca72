#!/usr/bin/env python3
"""How far two ways of computing the same model agree: verdicts of `guardian assess` on the same requests.

    bench/accuracy/agree.py [--cases CASES.jsonl] NAME=VERDICTS.jsonl NAME=VERDICTS.jsonl ...

The first is the reference. A margin is the distance of the two most probable choices of the reference, as a difference
of their logits (the logarithm of the ratio of their probabilities): what is decided by less than the error of a number
type may differ. With --cases, whose lines have a label each, the accuracy of every one is told too; `metrics.py` says
what it means. Prints one line of JSON. Nothing but the standard library is used.
"""

import argparse
import json
import math
import sys

from labels import SAFE
from metrics import figures


def load(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(x) for x in f]


def logs(verdict):
    """Logarithms of the probabilities that are there, most probable first: (value, label)."""
    scores = verdict["scores"].items()
    return sorted(((math.log(max(p, 1e-30)), label) for label, p in scores if p), reverse=True)


def margin(verdict):
    top = logs(verdict)
    return top[0][0] - top[1][0] if len(top) > 1 else math.inf


def quantile(values, q):
    values = sorted(values)
    return round(values[min(len(values) - 1, int(q * len(values)))], 5) if values else None


def compare(reference, other):
    pairs = [(a, b) for a, b in zip(reference, other) if "scores" in a and "scores" in b]
    same = lambda key: round(sum(a[key] == b[key] for a, b in pairs) / len(pairs), 5)
    differ = [margin(a) for a, b in pairs if a["choice"] != b["choice"]]
    risk = [abs(a["score"] - b["score"]) for a, b in pairs]
    shift = [abs(margin(a) - dict((l, v) for v, l in logs(b))[logs(a)[0][1]]
                 + dict((l, v) for v, l in logs(b))[logs(a)[1][1]]) for a, b in pairs if len(logs(a)) > 1]
    return {"compared": len(pairs), "choice_agrees": same("choice"), "label_agrees": same("label"),
            "flagged_agrees": same("flagged"), "action_agrees": same("action"), "choices_differ": len(differ),
            "widest_margin_that_differs": quantile(differ, 1), "risk_delta_mean": quantile([sum(risk) / len(risk)], 0),
            "risk_delta_p99": quantile(risk, 0.99), "risk_delta_max": quantile(risk, 1),
            "margin_delta_p50": quantile(shift, 0.5), "margin_delta_p99": quantile(shift, 0.99),
            "margin_delta_max": quantile(shift, 1)}


def accuracy(cases, verdicts):
    rows = [(c["label"], v["label"] if v["flagged"] else SAFE, v["score"])
            for c, v in zip(cases, verdicts) if "scores" in v and "label" in c]
    if not rows:
        return None
    f = figures(rows)
    return {"cases": f["cases"], "over_labels": f["risk_resistance"]["accuracy"],
            "safe_or_not": f["safety_awareness"]["accuracy"], "balanced": f["balanced_accuracy"]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases")
    p.add_argument("verdicts", nargs="+", metavar="NAME=FILE")
    a = p.parse_args()
    given = [x.split("=", 1) for x in a.verdicts]
    all_of = {name: load(path) for name, path in given}
    reference = all_of[given[0][0]]
    if len({len(v) for v in all_of.values()}) != 1:
        sys.exit("not the same number of verdicts: " + ", ".join("%s %d" % (n, len(v)) for n, v in all_of.items()))
    margins = [margin(v) for v in reference if "scores" in v]
    doc = {"bench": "agreement", "reference": given[0][0], "requests": len(reference),
           "errors": {n: sum("scores" not in x for x in v) for n, v in all_of.items()},
           "margin_p10": quantile(margins, 0.1), "margin_p50": quantile(margins, 0.5),
           "with": {n: compare(reference, all_of[n]) for n, _ in given[1:]}}
    if a.cases:
        cases = load(a.cases)
        doc["accuracy"] = {n: accuracy(cases, v) for n, v in all_of.items()}
    print(json.dumps(doc))
    return 1 if any(doc["errors"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
