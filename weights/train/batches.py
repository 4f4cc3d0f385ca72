"""Trajectories become batches: one trunk (the whole conversation) and one short branch for every judged
prefix, which sees the trunk up to its place and itself. So one forward pass answers several cases.
"""

import json
import random

import numpy as np
import torch

import policy
import render
from attacks import B, I, LABELS

INDEX = {l: i for i, l in enumerate(LABELS)}
BUCKETS = ((576, 8), (1152, 4))
MASKED_IN_REQUEST = [INDEX[B], INDEX[I]]


class Encoder:
    def __init__(self, tok):
        self.tok, self.cache = tok, {}
        self.bos = tok.token_to_id("<|begin_of_text|>")
        self.before = [self.bos] + self.ids(policy.before())
        self.after = self.ids(policy.after())
        self.choices = [self.ids(" " + c)[0] for c in policy.LETTERS]

    def ids(self, text):
        return self.tok.encode(text, add_special_tokens=False).ids

    def line(self, text):
        got = self.cache.get(text)
        if got is None:
            if len(self.cache) > 300000:
                self.cache.clear()
            got = self.cache[text] = self.ids(text + "\n")
        return got

    def trunk(self, case):
        """ids, [(line text, start, end)], where each message ends, [alternative: (at, ids, ends)]"""
        r = render.Renderer(case.get("tools"))
        ids, lines, ends, alts = list(self.before), [], [], []
        want = {}
        for a in case.get("alts") or []:
            want.setdefault(a["at"], []).append(a)

        def write(step, ids, lines):
            for text in step:
                a = len(ids)
                ids += self.line(text)
                lines.append((text, a, len(ids)))

        write(r.opening, ids, lines)
        for n, m in enumerate(case["messages"] + [None]):
            for a in want.get(n, ()):
                fork, more, stops, _lines = r.copy(), [], [], []
                for x in a["messages"]:
                    write(fork.feed(x), more, _lines)
                    stops.append(len(more))
                alts.append(
                    (
                        len(ids),
                        more,
                        [
                            (stops[k - 1], phase == "request", target(label))
                            for k, phase, label in a["cases"]
                        ],
                    )
                )
            if m is not None:
                write(r.feed(m), ids, lines)
                ends.append(len(ids))
        return ids, lines, ends, alts


def target(label):
    t = np.zeros(len(LABELS), np.float32)
    for l, p in (label.items() if isinstance(label, dict) else ((label, 1.0),)):
        t[INDEX[l]] = p
    return t


def described(case):
    out = {}
    for t in case.get("tools") or []:
        n, d, _ = render.tool_fields(t)
        out[n] = d
    return out


class Sample:
    __slots__ = ("ids", "cases", "lines", "alts", "n")


def sample(enc, case, r=None, max_cases=8):
    s = Sample()
    ids, lines, ends, alts = enc.trunk(case)
    cases = case["cases"]
    if alts:
        max_cases = 4
    if r is not None and len(cases) > max_cases:
        bad = [c for c in cases if c[2] != "appropriate"]
        good = [c for c in cases if c[2] == "appropriate"]
        bad = r.sample(bad, min(len(bad), max_cases * 5 // 8 if good else max_cases))
        cases = bad + r.sample(good, min(len(good), max_cases - len(bad)))
    stop = (
        max([ends[c[0] - 1] for c in cases] + [a[0] for a in alts]) if cases or alts else len(ids)
    )
    s.ids = ids[:stop]
    s.cases = [(ends[n - 1], phase == "request", target(label)) for n, phase, label in cases]
    s.alts = alts
    s.n = (
        stop
        + len(enc.after) * len(cases)
        + sum(len(more) + len(enc.after) * len(k) for _, more, k in alts)
    )
    s.lines = []
    if r is not None:
        desc = described(case)
        for text, a, b in lines:
            if b > stop:
                break
            key, kind = None, text[:4]
            if kind == "USER":
                key = text[6:]
            elif kind == "TOOL":
                key = desc.get(text[6:].split("(", 1)[0])
            elif text.startswith("ASSISTANT: <functioncall>"):
                key, kind = desc.get(text.split('"name": "', 1)[1].split('"', 1)[0]), "CALL"
            s.lines.append((kind, a, b, key))
    return s


def collate(enc, rows_of, width):
    """rows_of: one list of samples for every row, packed one behind the other"""
    rows = len(rows_of)
    ids = np.zeros((rows, width), np.int64)
    pos = np.zeros((rows, width), np.int64)
    seg = np.full((rows, width), -1, np.int32)  # one number for every trunk, alternative and branch
    up = np.full(
        (2, rows, width), -2, np.int32
    )  # the segments that it continues: trunk, alternative
    limit = np.zeros((2, rows, width), np.int32)  # and up to where
    at, targets, req, starts = [], [], [], []
    for b, row in enumerate(rows_of):
        o = g = 0
        for s in row:
            n, first = len(s.ids), g
            z = slice(o, o + n)
            ids[b, z], pos[b, z], seg[b, z] = s.ids, np.arange(n), first
            starts.append(b * width + o)
            base, o = o, o + n

            def segment(tokens, start, links):
                nonlocal o, g
                g += 1
                z = slice(o, o + len(tokens))
                ids[b, z], pos[b, z], seg[b, z] = tokens, np.arange(start, start + len(tokens)), g
                for i, (u, l) in enumerate(links):
                    up[i, b, z], limit[i, b, z] = u, l
                o += len(tokens)

            def ask(start, links, case):
                segment(enc.after, start, links)
                at.append(b * width + o - 1)
                req.append(case[1])
                targets.append(case[2])

            for case in s.cases:
                ask(case[0], [(first, base + case[0])], case)
            for begin, more, cases in s.alts:
                here = o
                segment(more, begin, [(first, base + begin)])
                mine = g
                for case in cases:
                    ask(begin + case[0], [(first, base + begin), (mine, here + case[0])], case)
            g += 1
    ids, pos, seg, up, limit = map(torch.from_numpy, (ids, pos, seg, up, limit))
    i = torch.arange(width)
    mask = (seg[:, None, :] == seg[:, :, None]) & (i[None, None, :] <= i[None, :, None])
    for u, l in zip(up, limit):
        mask |= (seg[:, None, :] == u[:, :, None]) & (i[None, None, :] < l[:, :, None])
    bias = torch.zeros(rows, 1, width, width, dtype=torch.bfloat16).masked_fill_(
        ~mask[:, None], float("-inf")
    )
    return (
        ids,
        pos,
        bias,
        torch.tensor(at),
        torch.from_numpy(np.array(targets)),
        torch.tensor(req),
        starts,
    )


def pack(samples, width):
    """Rows of samples whose lengths fit into width, first fit of the longest first."""
    rows, free = [], []
    for s in sorted(samples, key=lambda s: -s.n):
        i = next((i for i, f in enumerate(free) if f >= s.n), None)
        if i is None:
            rows.append([])
            free.append(width)
            i = len(rows) - 1
        rows[i].append(s)
        free[i] -= s.n
    return rows


def grouped(samples, r=None, buckets=BUCKETS):
    """Batches (rows of samples, width); what is longer than the last bucket is left out."""
    out, low = [], 0
    for width, count in buckets:
        rows = pack([s for s in samples if low < s.n <= width and (s.cases or s.alts)], width)
        low = width
        if r is not None:
            r.shuffle(rows)
        out += [
            (rows[i : i + count], width)
            for i in range(0, len(rows), count)
            if r is None or len(rows) - i >= count
        ]
    if r is not None:
        r.shuffle(out)
    return out


def stream(path, enc, seed, chunk=1500):
    """Endless (rows of samples, width) of training."""
    r = random.Random(seed)
    while True:
        with open(path) as f:
            buf = []
            for line in f:
                buf.append(sample(enc, json.loads(line), r))
                if len(buf) == chunk:
                    yield from grouped(buf, r)
                    buf = []
            yield from grouped(buf, r)
