#!/usr/bin/env python3
"""Labelled cases from sessions with real MCP servers, for evaluate.py.

    bench/accuracy/real_servers/main.py --envs DIR --out CASES.jsonl [--install] [--show ID]

Each paragraph of real_servers_requirements.txt is one environment under DIR; --install makes them (with
pip). The sessions are written in tasks_*.py (benign) and attacks.py; every call in them is really made and
its real result recorded. Benign sessions give a case for every prefix that a guard judges, attacked ones
from the attack on.

Exit status 1: a server does not start, a call has another result than its session says, or the cases are
not what they must be (check.py). Nothing is written then.
"""

import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
REQUIREMENTS = HERE + "_requirements.txt"


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--envs", required=True, help="folder of the environments with the servers")
    ap.add_argument("--out", help="JSON Lines file to write")
    ap.add_argument("--install", action="store_true", help="make the environments that are not there")
    ap.add_argument(
        "--show", action="append", metavar="ID", help="print sessions whose id begins so, with real results"
    )
    return ap.parse_args()


def paragraphs():
    """{environment: its lines}; the first line of a paragraph names it: '# v2: ...'"""
    with open(REQUIREMENTS, encoding="utf-8") as f:
        parts = [p.splitlines() for p in f.read().split("\n\n")]
    return {
        p[0][2:].split(":")[0]: [x for x in p if x and not x.startswith("#")] for p in parts if ":" in p[0]
    }


def install(envs):
    for name, lines in paragraphs().items():
        folder = os.path.join(envs, name)
        if os.path.exists(os.path.join(folder, "done")):
            continue
        for words in (
            [sys.executable, "-m", "venv", folder],
            [folder + "/bin/pip", "install", "--quiet", *lines],
        ):
            if subprocess.run(words, check=False).returncode:
                sys.exit("real_servers: --install: %s failed" % " ".join(words))
        with open(os.path.join(folder, "done"), "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")


def show(done, wanted):
    for r in done:
        if any(r.session.id.startswith(w) for w in wanted):
            print("== %s (%s)" % (r.session.id, r.session.label))
            for m in r.messages:
                for c in m.get("tool_calls") or [
                    {"function": {"name": m["role"], "arguments": m["content"]}}
                ]:
                    print("  %s %s" % (c["function"]["name"], c["function"]["arguments"]))


def work(a):
    import anyio
    import attacks  # noqa: F401  the sessions are entered as they are read
    import check
    import driver
    import steps

    failures = []
    sessions = steps.BENIGN + steps.ATTACKS
    if a.show:
        sessions = [s for s in sessions if any(s.id.startswith(w) for w in a.show)]
    try:
        done, called = anyio.run(driver.record_all, a.envs, sessions, failures)
    except (driver.Broken, BaseExceptionGroup) as e:
        sys.stderr.write("real_servers: %s\n" % "; ".join(driver.reasons(e)))
        return 1
    cases = [c for r in done for c in r.cases]
    if a.show:
        show(done, a.show)
    else:
        failures += check.problems(cases, done, called, (a.envs, os.path.dirname(HERE)))
        sys.stdout.write(check.table(cases, done, called))
    for f in failures:
        sys.stderr.write("real_servers: %s\n" % f)
    if failures:
        return 1
    if a.out and not a.show:
        with open(a.out, "w", encoding="utf-8") as f:
            f.writelines(json.dumps(c, ensure_ascii=False) + "\n" for c in cases)
    return 0


def main():
    a = arguments()
    a.envs = os.path.abspath(a.envs)
    if not (a.out or a.show or a.install):
        sys.exit("real_servers: one of --out, --show and --install is needed")
    if a.install:
        install(a.envs)
    python = os.path.join(a.envs, "v2", "bin", "python")
    if not os.path.exists(python):
        sys.stderr.write("real_servers: --envs: %s has no environment v2 (--install makes it)\n" % a.envs)
        return 1
    if not (a.out or a.show):
        return 0
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.join(a.envs, "v2")):
        os.execv(python, [python, os.path.abspath(__file__), *sys.argv[1:]])
    return work(a)


if __name__ == "__main__":
    sys.exit(main())
