#!/usr/bin/env python3
"""Lines of JSON from the benchmarks become one result file and a table.

    bench/report.py LINES.jsonl DIR       writes DIR/<date>-<isa>-<threads>t.json, prints Markdown
    bench/report.py RESULT.json           prints the table of a result file again

What all lines have in common (commit, processor, model) stands once in the result file. Each program measures the
ceiling of the matrix products for itself; shares of it are taken again here, of the best of them: a ceiling measured
while others had the processors would flatter. The least one is told beside it. Nothing but the standard library is
used.
"""

import datetime
import json
import pathlib
import sys

HEAD = ("commit", "cpu", "isa", "gemm_dtype", "threads", "model_version", "params")


def gather(path):
    with open(path, encoding="utf-8") as f:
        lines = [json.loads(x) for x in f]
    head = {"date": datetime.date.today().isoformat()}
    for line in lines:
        for key in HEAD:
            if line.get(key) is not None and head.setdefault(key, line[key]) == line[key]:
                del line[key]
    ceilings = [x["gflops_ceiling"] for x in lines if "gflops_ceiling" in x]
    if ceilings:
        head.update(gflops_ceiling=max(ceilings), gflops_ceiling_min=min(ceilings))
    for x in lines:
        if "gflops_ceiling" in x:
            factor = x["gflops_ceiling"] / max(ceilings)
            for key in ("of_ceiling", "of_ceiling_with_attention"):
                if key in x:
                    x[key] = round(x[key] * factor, 4)
    return {**head, "results": [{k: v for k, v in x.items() if k not in HEAD or v is not None} for x in lines]}


def number(v, digits=3):
    """A few digits, no exponent."""
    if v is None:
        return "-"
    if v >= 100:
        return "{:,.0f}".format(v)
    return "%.*g" % (digits, v)


def percent(v):
    return "%.0f %%" % (100 * v)


def table(title, names, rows):
    rows = list(rows)
    if not rows:
        return
    print("\n**%s**\n" % title)
    print("| " + " | ".join(names) + " |")
    print("|" + " --- |" * len(names))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def latency_rows(results):
    for x in results:
        share = x["share"]
        yield (str(x["new_tokens"]), str(x["cached_tokens"]), "%.1f ms" % x["p50_ms"], "%.1f ms" % x["p99_ms"],
               number(x["new_tokens_per_s"]), percent(x["of_ceiling"]), percent(share["gemm"]),
               percent(share["attention"]), percent(share["outside"]))


def offline_rows(results):
    for x in results:
        share = x["share"]
        name = x["trace"] + ("" if x["prefix_cache"] else " (nothing reused)")
        spread = "%s-%s" % (number(x["new_tokens_per_s_min"]), number(x["new_tokens_per_s_max"]))
        yield (name, str(x["requests"]), number(x["new_tokens_per_s"]), spread, number(x["logical_tokens_per_s"]),
               number(x["verdicts_per_s"]), number(x["step_tokens_mean"]),
               "%.3f of %.3f" % (x["hit_ratio"], x["hit_ratio_possible"]), percent(x["of_ceiling"]),
               percent(x["of_ceiling_with_attention"]), percent(share["gemm"]), percent(share["attention"]),
               "%.1f %%" % (100 * (share["step_outside_ops"] + share["schedule"])), "%.1f %%" % (100 * share["idle"]))


def peer_rows(results):
    ours = {x["trace"]: x for x in results if x["bench"] == "offline" and x["prefix_cache"]}
    for x in results:
        if x["bench"] != "transformers" or x["trace"] not in ours:
            continue
        mine = ours[x["trace"]]
        ratio = mine["verdicts_per_s"] / x["verdicts_per_s"] if "verdicts_per_s" in x else None
        yield (x["trace"], x["mode"], x.get("best", "given up"), number(x.get("new_tokens_per_s")),
               number(x.get("verdicts_per_s")), number(mine["verdicts_per_s"]), number(ratio),
               "%.1e" % x["max_delta"] if "max_delta" in x else "-", "%.0f, %.0f" % tuple(x["gflops_mm"]))


def http_rows(results):
    for x in results:
        yield (x["body"].removesuffix(".jsonl"), str(x["connections"]), "%d/%d" % (x["verdicts"], x["requests"]),
               number(x["verdicts_per_s"]), "%.0f" % x["tokens_mean"], "%.0f" % x["cached_tokens_mean"],
               *("%.1f / %.1f" % (x[part]["p50"], x[part]["p99"]) for part in ("total", "queue", "inference")),
               "%.2f / %.2f" % (x["rest"]["p50"], x["rest"]["p99"]))


def show(result):
    of = lambda name: [x for x in result["results"] if x["bench"] == name]
    print("%s, %s %s, %s threads, commit %s, %s" % (result.get("cpu"), result.get("isa"), result.get("gemm_dtype"),
                                                    result.get("threads"), result.get("commit"), result["date"]))
    if "gflops_ceiling" in result:
        print("\nGEMM ceiling %.0f GFLOP/s; the lowest that a program of this run measured: %.0f" % (
            result["gflops_ceiling"], result["gflops_ceiling_min"]))
    table("One verdict inside the engine", ("new tokens", "cached", "p50", "p99", "new tokens/s", "of the GEMM ceiling",
                                            "gemm", "attention", "outside operations"), latency_rows(of("latency")))
    table("Always work in the queue", ("trace", "requests", "new tokens/s", "range", "logical tokens/s", "verdicts/s",
                                       "tokens a step", "hits", "of the GEMM ceiling", "with attention", "gemm",
                                       "attention", "outside operations", "idle"), offline_rows(of("offline")))
    table("The same traces with transformers", ("trace", "mode", "best", "new tokens/s", "verdicts/s", "ours",
                                                "ours by theirs", "greatest difference of logits",
                                                "their GEMM GFLOP/s before, after"),
          peer_rows(result["results"]))
    table("HTTP, closed loop (ms: p50 / p99)", ("bodies", "connections", "verdicts", "verdicts/s", "tokens", "cached",
                                                "total", "queue", "inference", "rest"), http_rows(of("http")))


def main():
    if len(sys.argv) == 3:
        result = gather(sys.argv[1])
        name = "%s-%s-%st.json" % (result["date"], result["isa"], result["threads"])
        out = pathlib.Path(sys.argv[2])
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    elif len(sys.argv) == 2:
        result = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    else:
        sys.stderr.write(__doc__)
        return 2
    show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
