"""Reads a gcovr JSON summary and prints coverage of the request path, file by file; exits 1 when a target is missed.

usage: coverage_table.py SUMMARY.json
"""
import json
import sys

# Of the engine: what a request passes. The rest of it loads models.
ENGINE = ("batch", "engine", "forward", "kvcache", "scorecache", "worker", "tokenizer", "tokenizer_added", "tokenizer_bpe",
          "tokenizer_cut", "tokenizer_nfc", "tokenizer_regex", "tokenizer_split", "tokenizer_vocab")
PATH_LINES = 90.0
BRANCHES = 98.0
JUDGED = {"verdict": ("server/guard/verdict.c",), "gate": ("server/http/gate.c",),
          "safetensors": ("server/engine/safetensors.c", "server/engine/safetensors_set.c")}


def on_request_path(name):
    if name.startswith("server/engine/"):
        return name[len("server/engine/"):-2] in ENGINE
    return name.startswith(("server/http/", "server/guard/", "server/base/"))


def sums(files):
    keys = ("line_covered", "line_total", "branch_covered", "branch_total")
    return [sum(f[k] for f in files) for k in keys]


def share(part, whole):
    return 100.0 * part / whole if whole else 100.0


def row(name, files):
    lc, lt, bc, bt = sums(files)
    print("%-42s %5d/%5d lines %6.2f %%  %5d/%5d branches %6.2f %%" % (name, lc, lt, share(lc, lt), bc, bt, share(bc, bt)))
    return share(lc, lt), share(bc, bt)


def main():
    with open(sys.argv[1]) as f:
        files = {x["filename"]: x for x in json.load(f)["files"]}
    path = [x for name, x in sorted(files.items()) if on_request_path(name)]
    missed = []
    for x in path:
        row(x["filename"], [x])
    print()
    lines, _ = row("request path", path)
    if not path or lines < PATH_LINES:
        missed.append("the request path has %.2f %% of lines, the target is %.0f %%" % (lines, PATH_LINES))
    for what, names in JUDGED.items():
        found = [files[n] for n in names if n in files]
        _, branches = row(what, found)
        if len(found) != len(names) or branches < BRANCHES:
            missed.append("%s has %.2f %% of branches, the target is %.0f %%" % (what, branches, BRANCHES))
    for m in missed:
        print("coverage: " + m)
    print("coverage: " + ("targets missed" if missed else "all targets hold"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
