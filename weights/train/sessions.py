"""Sessions written by hand, in sessions/*.jsonl: tools as gateways have them, and at many places of a session other ways to go on.

    sessions.py         checks the files and counts what they hold

A line: {"id", "domain", "tools", "messages", "cases": [[messages, phase, label], ...], "alts": [{"at", "messages", "cases"}, ...]}.
`messages` with `cases` is the benign session; an alternative replaces what comes from message `at` on, and its cases count
its own messages. Risks differ from a benign way to go on in one fact where that is possible; about three alternatives in
ten are benign and look suspicious.
"""

import collections
import copy
import glob
import json
import os
import zlib

from attacks import LABELS

HERE = os.path.dirname(os.path.abspath(__file__))


def read_all(dev):
    """The sessions of one half: development holds out every ninth."""
    out = []
    for path in sorted(glob.glob(os.path.join(HERE, "sessions", "*.jsonl"))):
        for line in open(path, encoding="utf-8"):
            s = json.loads(line)
            if (zlib.crc32(s["id"].encode()) % 9 == 0) == dev:
                out.append(s)
    return out


def told(s):
    return s["messages"] + [m for a in s["alts"] for m in a["messages"]]


def called(s):
    return {k["function"]["name"] for m in told(s) for k in m.get("tool_calls") or []}


def draw(r, sessions):
    """One of them, with all, some, more or none of its tools."""
    s = copy.deepcopy(r.choice(sessions))
    x, names = r.random(), {t["name"] for t in s["tools"]}
    if x < 0.08:
        s["tools"] = []
    elif x < 0.35:
        for t in r.choice(sessions)["tools"]:
            if t["name"] not in names:
                s["tools"].insert(r.randint(0, len(s["tools"])), copy.deepcopy(t))
    elif x < 0.5:
        used = called(s)
        s["tools"] = [t for t in s["tools"] if t["name"] in used or r.random() < 0.4]
    if r.random() < 0.3:
        r.shuffle(s["tools"])
    return s


def check(s):
    assert s["messages"] and s["tools"] and s["alts"], "tools, messages and alts"
    for a in [{"at": 0, **s}] + s["alts"]:
        assert 0 <= a["at"] <= len(s["messages"]) and a["cases"], "an alternative without a place or a case"
        waiting = set()
        for m in s["messages"][: a["at"]] + a["messages"]:
            waiting |= {k["id"] for k in m.get("tool_calls") or []}
            assert m["role"] != "tool" or m["tool_call_id"] in waiting, "a result of no call"
            for k in m.get("tool_calls") or []:
                assert isinstance(json.loads(k["function"]["arguments"]), dict), "arguments"
        for n, phase, label in a["cases"]:
            m = a["messages"][n - 1]
            assert label in LABELS and phase == ("request" if m.get("tool_calls") else "response"), (n, phase, label)


def main():
    labels, n = collections.Counter(), 0
    for s in read_all(False) + read_all(True):
        try:
            check(s)
        except AssertionError as e:
            raise SystemExit("session %s: %s" % (s["id"], e)) from None
        n += 1
        labels.update(a["cases"][-1][2] for a in s["alts"])
    print("%d sessions, %d alternatives: %s" % (n, sum(labels.values()), ", ".join("%d %s" % (labels[x], x) for x in LABELS)))


if __name__ == "__main__":
    main()
