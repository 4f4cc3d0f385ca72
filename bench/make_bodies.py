#!/usr/bin/env python3
"""Seeded request bodies for bench_http: trajectories whose prompts have about so many tokens.

    bench/make_bodies.py --url http://127.0.0.1:8080 --out DIR [--tokens 20,100,300,1000] [--count 200] [--seed 1]
        [--sessions 32] [--calls 10] [--key KEY]

Writes DIR/bodies-N.jsonl for each N (no two bodies have more in common than the policy's own text), and
DIR/bodies-growing.jsonl: sessions that grow call by call, in the order call 1 of all sessions, call 2 of all ...
How many words make how many tokens is learned from the running server's context.tokens, with bodies that are not
written, so that its caches know nothing of what is. N counts what is not the policy's own text; a trajectory cannot
be shorter than its frame, so the smallest sizes may be missed: the last line on stdout tells what came out.
Nothing but the standard library is used.
"""

import argparse
import json
import pathlib
import random
import string
import sys
import urllib.request

ITEM_WORDS = 60  # of one message: policies cut long items
SYLLABLES = "ka lo mi ren tas vu pel dor sin qua bet hul gri fo nam zet ula cor".split()
TOOLS = ["search_orders", "get_balance", "list_files", "read_file", "send_mail", "convert_time", "book_room"]


def word(rng):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3)))


def words(rng, n):
    return " ".join(word(rng) for _ in range(n))


def call(rng, number, n_words):
    """An assistant's tool call with about n_words words of arguments."""
    arguments = json.dumps({"query": words(rng, n_words)})
    function = {"name": rng.choice(TOOLS), "arguments": arguments}
    return {"role": "assistant", "content": None,
            "tool_calls": [{"id": "c%d" % number, "type": "function", "function": function}]}


def result(rng, number, n_words):
    return {"role": "tool", "tool_call_id": "c%d" % number, "content": words(rng, n_words)}


def trajectory(rng, n_words):
    """Ends in a call; n_words words over as many messages as it takes."""
    first = min(max(n_words - 1, 1), ITEM_WORDS)
    messages = [{"role": "user", "content": words(rng, first)}]
    left, number = n_words - first - 1, 0
    while left > 0:
        number += 1
        n = min(left, ITEM_WORDS)
        messages += [call(rng, number, 1), result(rng, number, n)]
        left -= n + 1
    return messages + [call(rng, number + 1, 1)]


def ask(a, messages):
    head = {"Content-Type": "application/json"}
    if a.key:
        head["Authorization"] = "Bearer " + a.key
    data = json.dumps({"messages": messages}).encode()
    req = urllib.request.Request(a.url.rstrip("/") + "/v1/guard", data, head)
    with urllib.request.urlopen(req, timeout=120) as f:
        return json.loads(f.read())["context"]


def learn(a, rng):
    """Tokens of the policy's own text (found in the cache by prompts that have nothing else in common, new ones
    each time), and pairs of words and mean tokens."""
    odd = ["".join(random.Random().choices(string.ascii_letters, k=4)) for _ in range(9)]
    ask(a, trajectory(rng, 3))
    fixed = min(ask(a, [{"role": "user", "content": x}, call(rng, 1, 1)])["cached_tokens"] for x in odd)
    table = []
    for n in (1, 3, 10, 30, 100, 300, 600):
        table.append((n, sum(ask(a, trajectory(rng, n))["tokens"] for _ in range(3)) / 3 - fixed))
    return fixed, table


def words_for(table, tokens):
    """Linear between the two learned points around it, or through the last two."""
    if tokens <= table[0][1]:
        return table[0][0]
    i = 1
    while i + 1 < len(table) and table[i][1] < tokens:
        i += 1
    (n0, t0), (n1, t1) = table[i - 1], table[i]
    return max(1, round(n0 + (tokens - t0) * (n1 - n0) / (t1 - t0)))


def write(path, bodies):
    with open(path, "w", encoding="utf-8") as f:
        for messages in bodies:
            f.write(json.dumps({"messages": messages}) + "\n")


def growing(a, rng, table):
    """A session's next body is the one before with the result of its call and a new call."""
    per_token = (table[-1][0] - table[0][0]) / (table[-1][1] - table[0][1])
    sessions = [trajectory(rng, max(2, round(100 * per_token))) for _ in range(a.sessions)]
    bodies = [list(s) for s in sessions]
    for _ in range(a.calls - 1):
        for s in sessions:
            number = int(s[-1]["tool_calls"][0]["id"][1:])
            delta = min(1000, rng.lognormvariate(4.285, 0.8))  # mean 100
            left = max(1, round(delta * per_token) - 2)
            while left > 0:
                s += [result(rng, number, min(left, ITEM_WORDS)), call(rng, number + 1, 1)]
                left -= ITEM_WORDS
                number += 1
            bodies.append(list(s))
    return bodies


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url", required=True)
    p.add_argument("--out", required=True, type=pathlib.Path)
    p.add_argument("--tokens", default="20,100,300,1000")
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--sessions", type=int, default=32)
    p.add_argument("--calls", type=int, default=10)
    p.add_argument("--key")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    fixed, table = learn(a, random.Random("learn %d" % a.seed))
    check = random.Random("check %d" % a.seed)
    told = {"policy_tokens": fixed, "count": a.count, "seed": a.seed, "new_tokens": {}}
    for size in (int(x) for x in a.tokens.split(",")):
        n = words_for(table, size)
        rng = random.Random("%d %d" % (a.seed, size))
        write(a.out / ("bodies-%d.jsonl" % size), [trajectory(rng, n) for _ in range(a.count)])
        tried = [ask(a, trajectory(check, n))["tokens"] - fixed for _ in range(5)]
        told["new_tokens"][str(size)] = {"words": n, "min": min(tried), "max": max(tried)}
    bodies = growing(a, random.Random("growing %d" % a.seed), table)
    write(a.out / "bodies-growing.jsonl", bodies)
    told["growing"] = {"sessions": a.sessions, "calls": a.calls, "bodies": len(bodies)}
    print(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
