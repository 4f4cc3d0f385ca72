#!/usr/bin/env python3
"""Overload of the real server: starts it, runs bench_overload against it, writes one result file, prints a table.

    bench/overload.py [--build build/release] [--model weights/guardian-mini] [--threads N] [--words 100] [--seconds 10]
        [--nice N] [--out bench/results] [-- FLAGS of `guardian serve`]

Client and server share the processors: `cpu` is the share of all processors that the client, the server and everything
together took. --nice (below 0: root) puts both before what else runs. Nothing but the standard library is used.
"""
import argparse
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]


def commit():
    def git(*args):
        return subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True)

    dirty = git("diff", "--quiet", "HEAD", "--", "server", "kernels", "include", "bench", "CMakeLists.txt").returncode
    return git("rev-parse", "--short", "HEAD").stdout.strip() + ("-dirty" if dirty else "")


def start(a, log):
    argv = [a.build / "guardian", "serve", "--port", "0", "--model", a.model, "--threads", str(a.threads), *a.serve]
    server = subprocess.Popen(argv, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT)
    for _ in range(600):
        lines = [json.loads(x) for x in pathlib.Path(log.name).read_text().splitlines() if x.startswith("{")]
        if any(x["msg"] == "ready" for x in lines):
            return server, next(x["port"] for x in lines if x["msg"] == "listening")
        if server.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit("the server did not start: " + pathlib.Path(log.name).read_text()[-1000:])


def measure(a, server, port, mode):
    argv = [a.build / "bench_overload", "--port", str(port), "--pid", str(server.pid), "--json",
            "--words", str(a.words), "--seconds", str(a.seconds), *mode]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True)
    return done.returncode, [json.loads(x) for x in done.stdout.splitlines()]


def cpu_name():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def show(results):
    print("| connections | load | goodput | of saturation | 200: p50 | p99 | 503: p50 | p99 | failed | back "
          "| cpu: client | server | all |")
    print("|" + " --- |" * 13)
    for x in results:
        load = x["arrivals"] if x["arrivals"] != "poisson" else "%g x" % x["load"]
        back = "%.2f s" % x["back_s"] if "back_s" in x else "-"
        refusals = ["%.1f ms" % x["refusal_%s_ms" % p] if x["refused"] else "-" for p in ("p50", "p99")]
        print("| %s | %s | %.1f/s | %.2f | %.0f ms | %.0f ms | %s | %s | %d | %s | %.2f | %.2f | %.2f |" % (
            x["connections"], load, x["goodput_per_s"], x["of_saturation"], x["verdict_p50_ms"], x["verdict_p99_ms"],
            *refusals, x["failed"] + x["without_retry_after"], back, x["cpu_client"], x["cpu_server"], x["cpu_all"]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=lambda x: pathlib.Path(x).resolve(), default=ROOT / "build/release")
    p.add_argument("--model", default=str(ROOT / "weights/guardian-mini"))
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--words", type=int, default=100)
    p.add_argument("--seconds", type=int, default=10)
    p.add_argument("--nice", type=int, default=0)
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "bench/results")
    p.add_argument("serve", nargs="*")
    a = p.parse_args()
    os.nice(a.nice)
    bad = 0
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        server, port = start(a, log)
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d/info" % port, timeout=30) as f:
                info = json.loads(f.read())
            results = []
            for mode in ([], ["--kept"]):
                code, lines = measure(a, server, port, mode)
                bad += code != 0
                results += lines
        finally:
            server.send_signal(signal.SIGTERM)
            bad += server.wait(60) != 0
    head = {"date": datetime.date.today().isoformat(), "commit": commit(), "cpu": cpu_name(), "isa": info["backend"]["isa"],
            "gemm_dtype": info["backend"]["gemm_dtype"], "threads": a.threads, "model_version": info["model"]["version"],
            "words": a.words, "nice": a.nice, "serve": a.serve}
    for x in results:
        x.pop("commit")
    path = a.out / ("%s-overload-%s-%dt-%dw.json" % (head["date"], head["isa"], a.threads, a.words))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, "results": results}, indent=1) + "\n")
    show(results)
    print("\n%s; load average %s" % (path, " ".join("%.1f" % x for x in os.getloadavg())))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
