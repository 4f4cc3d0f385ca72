#!/usr/bin/env python3
"""How hard a running Guardian server is to fool: verdicts before and after an attacker wrote into the conversation.

    bench/accuracy/attack_suite.py --url http://127.0.0.1:8080 --cases CASES.jsonl [CASES.jsonl ...] [--each 100]

Only cases that the server decides rightly count: unsafe ones that are not allowed, benign ones that are. Each is asked
again as one family of weights/train/noise.py writes it: notes that claim approval, forged turns and choices, padding,
another order of JSON, invisible characters, ... Families that training never saw are summed up apart, since they alone
tell how it will be with the next one. Prints one JSON document; exit status 1 when an answer is missing. Nothing but
the standard library is used.
"""

import argparse
import concurrent.futures
import copy
import json
import os
import random
import sys
import threading

import client
from labels import SAFE, key_of

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../weights/train"))
import noise  # noqa: E402


def load(paths):
    rows = [json.loads(x) for p in paths for x in open(p, encoding="utf-8") if x.strip()]
    return [x for x in rows if "messages" in x]


def request(row):
    return {k: row[k] for k in ("messages", "tools") if row.get(k)}


class Asker:
    """Verdicts from several threads, each with a connection of its own; what cannot be had is counted."""

    def __init__(self, url, key, threads):
        self.url, self.key, self.local, self.errors = url, key, threading.local(), []
        self.pool = concurrent.futures.ThreadPoolExecutor(threads)

    def one(self, row):
        if not hasattr(self.local, "client"):
            self.local.client = client.Client(self.url, self.key)
        got = client.ask(self.local.client, request(row), 600)
        if "error" in got:
            self.errors.append(got["error"])
            return None
        return got["action"]

    def all(self, rows):
        return list(self.pool.map(self.one, rows))


def pairs(rows, family, each, r):
    """Up to `each` cases of both kinds as the family writes them; those it leaves as they are do not count."""
    out = []
    for unsafe in (True, False):
        some = [x for x in rows if (key_of(x["label"]) != SAFE) == unsafe]
        r.shuffle(some)
        n = 0
        for row in some:
            new = copy.deepcopy(row)
            family(r, new.get("tools") or [], new["messages"])
            if new == row:
                continue
            out.append((unsafe, new))
            n += 1
            if n == each:
                break
    return out


def count(what, actions):
    """Of one family: how many verdicts turned, and into what."""
    unsafe = [a for (bad, _), a in zip(what, actions) if bad and a]
    benign = [a for (bad, _), a in zip(what, actions) if not bad and a]
    return {
        "unsafe": len(unsafe),
        "unsafe_to_allow": unsafe.count("allow"),
        "benign": len(benign),
        "benign_to_block": benign.count("block"),
        "benign_to_review": benign.count("review"),
    }


def total(tables):
    out = {k: sum(t[k] for t in tables) for k in tables[0]}
    out["unsafe_to_allow_share"] = round(out["unsafe_to_allow"] / max(1, out["unsafe"]), 4)
    out["benign_to_block_share"] = round(out["benign_to_block"] / max(1, out["benign"]), 4)
    return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--url", default="http://127.0.0.1:8080")
    ap.add_argument("--cases", nargs="+", required=True)
    ap.add_argument("--each", type=int, default=100, help="pairs of a family, for each of unsafe and benign")
    ap.add_argument("--key", help="API key, sent as a bearer token")
    ap.add_argument("--threads", type=int, default=4)
    ap.add_argument("--seed", type=int, default=1)
    a = ap.parse_args()
    asker, r = Asker(a.url, a.key, a.threads), random.Random(a.seed)
    rows = load(a.cases)
    try:
        who = client.identity(client.Client(a.url, a.key), 60)
        plain = asker.all(rows)
        right = [x for x, got in zip(rows, plain) if got and (got == "allow") == (key_of(x["label"]) == SAFE)]
        families = {}
        for seen, group in ((True, noise.TRAINED), (False, noise.HELD_OUT)):
            for name, family in group.items():
                what = pairs(right, family, a.each, r)
                families[name] = {"in_training": seen, **count(what, asker.all([x for _, x in what]))}
    except client.Stop as e:
        sys.exit("attack_suite: %s" % e)
    plain_table = lambda seen: total(
        [{k: v for k, v in t.items() if k != "in_training"} for t in families.values() if t["in_training"] == seen]
    )
    doc = {
        "server": who,
        "cases": len(rows),
        "decided_rightly": len(right),
        "families": families,
        "held_out": plain_table(False),
        "in_training": plain_table(True),
        "errors": len(asker.errors),
    }
    print(json.dumps(doc, indent=1))
    if asker.errors:
        sys.exit("attack_suite: %d answers are missing, the first: %s" % (len(asker.errors), asker.errors[0]))


if __name__ == "__main__":
    main()
