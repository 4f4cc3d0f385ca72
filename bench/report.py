#!/usr/bin/env python3
"""Lines of JSON from the benchmarks become one result file and a table.

    bench/report.py LINES.jsonl DIR       writes DIR/<date>-<isa>-<threads>t.json, prints Markdown
    bench/report.py RESULT.json           prints the tables of a result file, that of bench/gpu.sh too

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


def share(v):
    return "-" if v is None else percent(v)


def kernel_tables(x):
    ceilings = x["ceilings"]
    table("Ceilings of this run", ("what", "reached"), [(k, v if isinstance(v, str) else number(v)) for k, v in ceilings.items()])
    table("Element-wise kernels", ("kernel", "rows", "us", "GB/s", "of a copy", "in L2"), (
        (r["op"], str(r["rows"]), number(r["us"]), number(r["gb_per_s"]), percent(r["of_copy"]), "yes" if r["in_l2"] else "")
        for r in x.get("ops", ())))
    table("Attention", ("new tokens", "sequences", "cached each", "us", "TFLOP/s", "of the bf16 ceiling", "GB/s"), (
        (str(r["new_tokens"]), str(r["sequences"]), str(r["cached_each"]), number(r["us"]), number(r["tflops"]),
         share(r.get("of_bf16")), number(r["gb_per_s"])) for r in x.get("attention", ())))
    products = x.get("products", ())
    for dtype in ("bf16", "fp8", "fp8 fast"):
        mine = [p for p in products if p["dtype"] + (" fast" if p.get("fast") else "") == dtype]
        good = [p for p in mine if "error" not in p]
        rows = [(str(r["rows"]), *("%s (%s)" % (number(p["rows"][i]["tflops"]), share(p["rows"][i].get("of_ceiling"))) for p in good))
                for i, r in enumerate(good[0]["rows"])] if good else []
        names = ["%d x %d (%d of %d algorithms)" % (p["n"], p["k"], p["equal"], p["offered"]) for p in good]
        table("Products in %s, TFLOP/s" % dtype, ("rows", *names), rows)
        for p in mine:
            if "error" in p:
                print("\n%s %d x %d: %s" % (dtype, p["n"], p["k"], p["error"]))


def gpu_offline_rows(results):
    for x in results:
        spread = "%s-%s" % (number(x["new_tokens_per_s_min"]), number(x["new_tokens_per_s_max"]))
        yield (x["gemm_dtype"], x["trace"], str(x["step_tokens_max"]), number(x["new_tokens_per_s"]), spread,
               number(x["verdicts_per_s"]), number(x["step_tokens_mean"]), "%.3f" % x["hit_ratio"], share(x.get("mfu")),
               share(x.get("of_ceiling")), share(x.get("of_ceiling_with_attention")),
               *("%.1f %%" % (100 * x["share"][k]) for k in ("step", "step_outside_ops", "schedule", "idle")))


def agreement_rows(x):
    for name, r in x["with"].items():
        yield (name, str(r["compared"]), "%.2f %%" % (100 * r["choice_agrees"]), "%.2f %%" % (100 * r["action_agrees"]),
               number(r["widest_margin_that_differs"]), number(r["margin_delta_p99"]), number(r["risk_delta_max"]),
               *(str(((x.get("accuracy") or {}).get(name) or {}).get(k, "-")) for k in ("over_labels", "safe_or_not", "balanced")))


def show_gpu(result):
    of = lambda name: [x for x in result["results"] if x["bench"] == name]
    print("%s, driver %s, CUDA %s, commit %s, %s; %d s in all" % (
        result["device_name"], (result["nvidia_smi_start"] or {}).get("driver_version", result["driver"]), result["cuda"],
        result["commit"], result["date"], result["seconds"]))
    table("Parts", ("part", "outcome", "s", "SM clock", "power"), (
        (k, v["outcome"], str(v["seconds"]), (v["after"] or {}).get("clocks.sm", "-"), (v["after"] or {}).get("power.draw", "-"))
        for k, v in result["parts"].items()))
    table("Tests", ("program", "passed", "failed", "skipped"), (
        (x["name"], str(x["passed"]), str(x["failed"]), str(x["skipped"])) for x in of("test")))
    for x in of("kernels"):
        kernel_tables(x)
    for x in of("agreement"):
        table("Agreement with %s (%s)" % (x["reference"], x.get("requests_are", "")),
              ("number type", "compared", "same choice", "same action", "widest margin that differs", "margin moved by, p99",
               "risk moved by at most", "accuracy over the labels", "safe or not", "balanced"), agreement_rows(x))
    table("Always work in the queue, shape of %s" % result["shape"],
          ("products", "trace", "step", "new tokens/s", "range", "verdicts/s", "tokens a step", "hits", "MFU", "of the product ceiling",
           "with attention", "waits for the GPU", "queues operations", "schedules", "idle"), gpu_offline_rows(of("offline")))
    table("One verdict inside the engine", ("products", "new tokens", "cached", "p50", "p99", "new tokens/s", "MFU", "of the product ceiling"), (
        (x["gemm_dtype"], str(x["new_tokens"]), str(x["cached_tokens"]), "%.2f ms" % x["p50_ms"], "%.2f ms" % x["p99_ms"],
         number(x["new_tokens_per_s"]), share(x.get("mfu")), share(x.get("of_ceiling"))) for x in of("latency")))
    table("HTTP (ms: p50 / p99)", ("bodies", "connections", "verdicts", "verdicts/s", "tokens", "cached", "total", "queue", "inference",
                                   "rest"),
          ((row[0] + (" at %d/s" % x["rate"] if "rate" in x else ""), *row[1:]) for x, row in zip(of("http"), http_rows(of("http")))))
    table("transformers on the same device", ("trace", "mode", "best", "new tokens/s", "verdicts/s", "greatest difference of logits"), (
        (x.get("trace", "-"), x.get("mode", "-"), x.get("best") or x.get("skipped", "given up"), number(x.get("new_tokens_per_s")),
         number(x.get("verdicts_per_s")), "%.1e" % x["max_delta"] if "max_delta" in x else "-") for x in of("transformers")))
    table("compute-sanitizer", ("tool", "program", "outcome"), ((x["tool"], x["name"], x["outcome"]) for x in of("sanitizer")))


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
    show_gpu(result) if "parts" in result else show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
