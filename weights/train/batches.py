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
        r = render.Renderer(case.get("tools"), notes=policy.NOTES)
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
    for text, a, b in lines if r is not None else ():
        if b > stop:
            break
        s.lines.append(("CALL" if text.startswith("ASSISTANT: <functioncall>") else text[:4], a, b))
    return s


def place(enc, s):
    """One sample as (ids, positions, mask [n, n] bool, [(place of the answer, request, target)])."""
    ids, pos = list(s.ids), list(range(len(s.ids)))
    seg = [0] * len(ids)  # one number for every trunk, alternative and branch
    up = [[(-1, 0), (-1, 0)]]  # the segments that it continues, and up to where
    cases = []

    def segment(tokens, start, links):
        ids.extend(tokens)
        pos.extend(range(start, start + len(tokens)))
        seg.extend([len(up)] * len(tokens))
        up.append(links + [(-1, 0)] * (2 - len(links)))

    def ask(start, links, case):
        segment(enc.after, start, links)
        cases.append((len(ids) - 1, case[1], case[2]))

    for case in s.cases:
        ask(case[0], [(0, case[0])], case)
    for begin, more, judged in s.alts:
        here, mine = len(ids), len(up)
        segment(more, begin, [(0, begin)])
        for case in judged:
            ask(begin + case[0], [(0, begin), (mine, here + case[0])], case)
    seg, up = np.array(seg), np.array(up)
    i = np.arange(len(ids))
    mask = (seg[None, :] == seg[:, None]) & (i[None, :] <= i[:, None])
    for k in (0, 1):
        of, stop = up[seg, k, 0], up[seg, k, 1]
        mask |= (seg[None, :] == of[:, None]) & (i[None, :] < stop[:, None])
    return ids, pos, mask, cases


class Batch:
    """What one forward pass takes and is judged by."""

    NAMES = ("ids", "pos", "back", "at", "targets", "req", "lm_at", "lm_ids")

    def to(self, device):
        for n in self.NAMES:
            setattr(self, n, getattr(self, n).to(device))
        self.groups = [(rows.to(device), mask.to(device)) for rows, mask in self.groups]
        return self


def similar(lengths, pad):
    """Numbers of samples in groups whose shorter ones are padded by at most this share."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    out = []
    for i in order:
        if out and lengths[i] >= lengths[out[-1][0]] * (1 - pad):
            out[-1].append(i)
        else:
            out.append([i])
    return out


def collate(enc, samples, r=None, lm=0.0, pad=0.0):
    """A Batch of samples; lm: share of the trunks' tokens to predict (r draws them); pad as in similar()"""
    b = Batch()
    placed = [place(enc, s) for s in samples]
    starts = np.cumsum([0] + [len(p[0]) for p in placed])
    b.ids = torch.tensor([x for p in placed for x in p[0]])
    b.pos = torch.tensor([x for p in placed for x in p[1]])
    cases = [(int(o) + at, req, t) for o, p in zip(starts, placed) for at, req, t in p[3]]
    b.at = torch.tensor([c[0] for c in cases])
    b.req = torch.tensor([c[1] for c in cases])
    b.targets = torch.from_numpy(np.array([c[2] for c in cases]))
    b.groups, back, stands = [], np.zeros(len(b.ids), np.int64), 0
    for group in similar([len(p[0]) for p in placed], pad):
        width = len(placed[group[0]][0])
        rows = np.zeros((len(group), width), np.int64)
        mask = np.zeros((len(group), 1, width, width), bool)
        mask[:, :, :, 0] = True  # a padded row may look somewhere
        for k, i in enumerate(group):
            n = len(placed[i][0])
            rows[k, :n] = starts[i] + np.arange(n)
            mask[k, 0, :n, :n] = placed[i][2]
            back[starts[i] : starts[i] + n] = stands + k * width + np.arange(n)
        stands += rows.size
        b.groups.append((torch.from_numpy(rows), torch.from_numpy(mask)))
    b.back = torch.from_numpy(back)
    lm_at, lm_ids = next_tokens(samples, starts, r, lm) if lm else ([], [])
    b.lm_at, b.lm_ids = torch.tensor(lm_at, dtype=torch.long), torch.tensor(lm_ids, dtype=torch.long)
    return b


def next_tokens(samples, starts, r, share):
    """Places of the trunks and the tokens that follow there: some of the calls, few of the rest."""
    at, ids = [], []
    for base, s in zip(starts, samples):
        for kind, x, y in s.lines:
            p = share * (0.02 if kind == "TOOL" else 1 if kind == "CALL" else 0.2)
            for j in range(x, y - 1):
                if r.random() < p:
                    at.append(int(base) + j)
                    ids.append(s.ids[j + 1])
    return at, ids


def grouped(samples, tokens):
    """Batches of at most so many tokens, and of one sample at least."""
    out, n = [], 0
    for s in samples:
        if not s.cases and not s.alts:
            continue
        if out and n + s.n > tokens:
            yield out
            out, n = [], 0
        out.append(s)
        n += s.n
    if out:
        yield out


class Stream(torch.utils.data.IterableDataset):
    """Endless batches of training, in the order of the file; each of several workers reads its share of it."""

    def __init__(self, path, enc, seed, tokens, longest, lm, pad):
        self.path, self.enc, self.seed, self.tokens = path, enc, seed, tokens
        self.longest, self.lm, self.pad = longest, lm, pad

    def __iter__(self):
        w = torch.utils.data.get_worker_info()
        mine, of = (w.id, w.num_workers) if w else (0, 1)
        r = random.Random(self.seed + mine)
        torch.set_num_threads(1 if w else torch.get_num_threads())
        while True:
            with open(self.path) as f:
                each = (json.loads(x) for n, x in enumerate(f) if n % of == mine)
                samples = (sample(self.enc, x, r) for x in each)
                for group in grouped((s for s in samples if s.n <= self.longest), self.tokens):
                    yield collate(self.enc, group, r, self.lm, self.pad)
