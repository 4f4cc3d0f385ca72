#!/usr/bin/env python3
"""Accuracy of a running Guardian server on labelled cases.

    bench/accuracy/evaluate.py --url http://127.0.0.1:8080 --cases CASES.jsonl [--answers ANSWERS.jsonl] [--report DIR]

A case is one JSON line with "label" and one of "messages", "frames", "mci" (as the server takes them; with "tools" and
"server" where there are any) or "body" (the published form: a dialogue, or information flows). Labels may have any of
their published names. "phase", "source" and "id" are optional.

Every case is one POST /v1/guard. A server that is full (503, 429) is asked again after its Retry-After. A case without
a verdict counts as an error with its reason, never as a right answer, and makes the exit status 1; 2 means that there
are no figures. With --answers the verdicts are kept: a run that was cut off goes on where it was, and verdicts of
another model or policy are refused.

Prints one JSON document. --report DIR writes results.json, report.md, confusion.svg, roc.svg and calibration.svg.
Nothing but the standard library is used. What the figures are: metrics.py.
"""

import argparse
import hashlib
import json
import os
import sys
import time

import cases as case_files
import client
import metrics
import plots
import published
import report
from answers import Answers
from labels import LABELS
from runner import Run


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--url", default="http://127.0.0.1:8080")
    ap.add_argument("--cases", required=True)
    ap.add_argument("--answers", help="JSON Lines file that keeps every verdict; a rerun asks what is missing")
    ap.add_argument("--report", metavar="DIR", help="write results.json, report.md and the pictures there")
    ap.add_argument("--key", help="API key, sent as a bearer token")
    ap.add_argument("--threads", type=int, default=4)
    ap.add_argument("--timeout", type=float, default=120, help="seconds for one answer, and its deadline")
    ap.add_argument("--patience", type=float, default=600, help="seconds to wait for a server that is full")
    ap.add_argument("--limit", type=int, help="only the first so many cases")
    ap.add_argument("--bins", type=int, default=metrics.BINS, help="bins of the calibration error")
    ap.add_argument("--resamples", type=int, default=1000, help="of the 95 %% bootstrap intervals; 0: none")
    ap.add_argument("--seed", type=int, default=1, help="of the bootstrap")
    ap.add_argument("--published", action="store_true", help="the cases are MCIP-bench itself")
    return ap.parse_args()


def row_of(case, verdict):
    """(wanted, given, risk) of a verdict; ValueError says what is wrong with it."""
    given = verdict.get("label")
    if given not in LABELS:
        raise ValueError("the verdict's label %r is none of the eleven" % (given,))
    risk = verdict.get("score")
    if isinstance(risk, bool) or not isinstance(risk, (int, float)) or not 0 <= risk <= 1:
        raise ValueError("the verdict's score is %r" % (risk,))
    return case.label, given, float(risk)


def collect(cases, answers, errors):
    """([(case, verdict, row)], [what has no row, with its reason])"""
    judged, failed = [], []
    for c in cases:
        verdict, reason = answers.get(c), c.problem or errors.get(c.line)
        try:
            if verdict is None:
                raise ValueError(reason or "not asked")
            judged.append((c, verdict, row_of(c, verdict)))
        except ValueError as e:
            failed.append({"id": c.id, "line": c.line, "reason": str(e)})
    return judged, failed


def split(judged, key):
    """{value: rows}; cases without a value are in none."""
    out = {}
    for case, verdict, row in judged:
        value = key(case, verdict)
        if value is not None:
            out.setdefault(str(value), []).append(row)
    return dict(sorted(out.items()))


def slices(judged):
    """The parts there are figures for. The phase is the case's, else the one that the server found."""
    return {
        "phase": split(judged, lambda c, v: c.phase or v.get("phase")),
        "intent": split(judged, lambda c, v: v.get("intent")),
        "source": split(judged, lambda c, v: c.source),
    }


def document(a, who, cases, judged, failed):
    with open(a.cases, "rb") as f:
        sha = hashlib.sha256(f.read()).hexdigest()
    return {
        "bench": "accuracy",
        "date": time.strftime("%Y-%m-%d"),
        "file": os.path.basename(a.cases),
        "file_sha256": sha,
        "model": who,
        "cases": len(cases),
        "answered": len(judged),
        "errors": len(failed),
        "failed": failed,
        "phase_differs": sum(c.phase not in (None, v.get("phase")) for c, v, _ in judged),
        "truncated": sum(bool(v.get("context", {}).get("truncated")) for _, v, _ in judged),
        "settings": {"bins": a.bins, "resamples": a.resamples, "seed": a.seed},
        "published": published.as_json(a.published),
    }


def measure(a, doc, judged, parts):
    sys.stderr.write("figures and intervals of %d verdicts\n" % len(judged))
    of = lambda rows: metrics.figures(rows, a.bins, a.resamples, a.seed)
    doc["all"] = of([row for _, _, row in judged])
    for key, groups in parts.items():
        doc[key] = {name: of(rows) for name, rows in groups.items()}


def write(folder, doc, judged, parts):
    os.makedirs(folder, exist_ok=True)
    at = lambda name: os.path.join(folder, name)
    rows = [row for _, _, row in judged]
    what = "%s, %d cases" % (doc["model"]["model"], len(rows))
    phases = [("phase " + p, parts["phase"][p]) for p in parts["phase"]]
    plots.confusion(at("confusion.svg"), doc["all"], what)
    plots.roc(at("roc.svg"), [("all", rows), *phases], doc["model"]["threshold"], what)
    plots.calibration(at("calibration.svg"), rows, doc["settings"]["bins"], what)
    with open(at("results.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(doc, indent=1) + "\n")
    with open(at("report.md"), "w", encoding="utf-8", errors="backslashreplace") as f:
        f.write(report.markdown(doc))


def main():
    a = arguments()
    try:
        cases = case_files.load(a.cases, a.limit)
        if a.published and len(cases) != published.CASES:
            raise client.Stop("MCIP-bench has %d cases, %s has %d" % (published.CASES, a.cases, len(cases)))
        who = client.identity(client.Client(a.url, a.key, a.timeout), a.patience)
        answers = Answers(a.answers, who)
        run = Run(a.url, a.key, a.timeout, a.patience, a.threads, answers)
        run.over(cases)
    except (client.Stop, OSError) as e:
        sys.stderr.write("evaluate: %s\n" % e)
        return 2
    judged, failed = collect(cases, answers, run.errors)
    doc, parts = document(a, who, cases, judged, failed), slices(judged)
    if judged:
        measure(a, doc, judged, parts)
        if a.report:
            write(a.report, doc, judged, parts)
    print(json.dumps(doc, indent=1))
    return 2 if not judged else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
