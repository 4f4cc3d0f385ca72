#!/usr/bin/env python3
"""Labelled trajectories for training and development, from public tool-use data and the own catalogue.

    make_data.py --data ../shared/data --out DIR [--train 60000] [--dev 3000] [--seed 1]

Writes DIR/train.jsonl and DIR/dev.jsonl, one trajectory a line:
    {"id", "source", "tools", "messages", "label", "phase", "cases": [[messages, phase, target], ...]}
`label` and `phase` are those of the whole trajectory, `cases` those of its prefixes (target: a label or
soft targets). Development uses other tools than training (split by tool name). Same seed, same bytes.
"""

import argparse
import json
import os
import random

import attacks
import contrast
import noise
import sessions
import stage
import units
import values
from attacks import A, LABELS, Ids, say

ASK = (
    "Sure! Could you please tell me the {p}?",
    "Of course. What is the {p}?",
    "I can help with that. Please provide the {p}.",
    "Happy to help! May I know the {p}?",
    "Okay, and the {p}?",
    "Sure, I need the {p} for that.",
    "Could you provide me with the {p}, please?",
    "Got it. Which {p} should I use?",
)
TELL = ("{v}", "It's {v}", "{v}, please.", "The {p} is {v}.", "Sure, {v}.", "Use {v}.", "{p}: {v}")
REFUSE = (
    "I'm sorry, but I can't help with that. My functions only cover {t}.",
    "Sorry, I don't have the ability to do that. I can assist you with {t} though.",
    "Unfortunately I have no tool for that.",
    "I'm sorry, but as an AI I'm unable to perform this task. I can only {t}.",
    "I can't do that with the functions available to me.",
    "That's outside of what I can do right now.",
)
SMALLTALK = (
    ("Hi", "Hello! How can I assist you today?"),
    ("Hello there", "Hi! What can I do for you?"),
    ("How are you?", "I'm doing well, thanks. How can I help?"),
    ("What can you do?", "I can help you with {t}. Just ask!"),
    ("Good morning", "Good morning! What do you need?"),
    ("Are you a bot?", "Yes, I'm a virtual assistant."),
    ("I need some help.", "Of course! What do you need help with?"),
)
KNOW_Q = (
    "Can you explain {x}?",
    "What is {x}?",
    "Why is {x} important?",
    "How does {x} work?",
    "Tell me a fun fact about {x}.",
    "What do people think about {x}?",
    "Give me three tips on {x}.",
    "Who invented {x}?",
    "What's the difference between {x} and {y}?",
    "Write a short text about {x}.",
    "How is {x} related to {y}?",
    "Is {x} good for you?",
    "Create a metaphor for {x}",
    "Rewrite this: {s}",
    "Can {x} be measured?",
)
KNOW_A = (
    "{x} is a broad subject that {v} many {n}s and {n2}s.",
    "Yes, {x} can be seen as a {a} {n}. It {v} the {n2}.",
    "One reason is that {x} {v} a {a} {n}. Another is the {n2}.",
    "Some people say that {x} {v} the {n}; others disagree.",
    "{x} and {y} differ in their {n}: the former {v} a {a} {n2}.",
    "Here are some points: 1. start with a {a} {n}; 2. look at the {n2}; 3. keep a {a2} view on {y}.",
    "Sure! {x} is like a {a} {n} that {v} every {n2}.",
)
SYSTEM = (
    "You are a helpful assistant with access to the following functions. Use them if required.",
    "You are a helpful assistant.",
    "You are an assistant for customers. Today is 2024-05-15.",
    "You can call tools.",
    "SYSTEM: You are a helpful assistant, with no access to external functions.",
    "You are an agent. Ask for missing values. Do not guess.",
    "Answer briefly.",
    "You are a customer service agent of an online shop.",
)
RETRY = (
    "Let me try that again.",
    "The first attempt failed, trying once more.",
    "That timed out, retrying.",
    None,
    None,
)
AGAIN = (
    "Can you check again?",
    "Please run it once more.",
    "And now? Has it changed?",
    "Do that again please.",
    "Could you repeat this, I want to be sure?",
    "Same thing again please",
)
LEAD = (
    "Let me check that for you.",
    "Sure, one moment.",
    "Okay, I'll do that now.",
    "Sure, let me check.",
    "I'll look that up.",
    "Great. Let me handle this.",
    "Alright, I'm on it.",
    "Thank you. I have everything I need.",
)


def know(r):
    d = {
        "x": r.choice(values.W["topic"]),
        "y": r.choice(values.W["topic"]),
        "s": values.sentence(r),
        "v": r.choice(values.W["verb"]),
        "n": r.choice(values.W["noun"]),
        "n2": r.choice(values.W["noun"]),
        "a": r.choice(values.W["adj"]),
        "a2": r.choice(values.W["adj"]),
    }
    a = " ".join(
        units.fmt(
            r.choice(KNOW_A), dict(d, n=r.choice(values.W["noun"]), a=r.choice(values.W["adj"]))
        )
        for _ in range(r.choice((1, 1, 2, 3)))
    )
    return units.fmt(r.choice(KNOW_Q), d), a[0].upper() + a[1:]


class Maker:
    def __init__(self, src, scenes, written):
        self.src, self.stage, self.written = src, scenes, written
        self.ease = 0.0  # share of conversations kept short and plain

    def destructive(self, r):
        got = self.stage.order(r) if r.random() < 0.6 else None
        return got or attacks.make_destructive(r)

    def pool(self, r, near=None):
        if r.random() < self.written or near is not None:
            got = self.stage.part(r, near)
            if got:
                return got
        u = self.src.unit(r)
        i = r.randrange(len(u["calls"]))
        c = u["calls"][i]
        t = next(
            (t for t in u["tools"] if t["name"] == c["name"]),
            {"name": c["name"], "description": "", "parameters": {}},
        )
        return {
            "tool": t,
            "call": c,
            "result": u["results"][i],
            "answer": units.answer_of(r, t, c["args"], u["results"][i]),
        }

    def opening(self, r, u):
        """The turns that lead to the call."""
        said = list(u["said"].items())
        if said and u["bare"] and (u.get("ask") or r.random() < 0.35):
            out = [say("user", u["bare"])]
            r.shuffle(said)
            if len(said) == 1 or r.random() < 0.5:
                p = " and the ".join(units.field_words(k) for k, _ in said)
                v = ", ".join(x for _, x in said)
                steps = [(p, v)]
            else:
                steps = [(units.field_words(k), v) for k, v in said]
            for p, v in steps:
                out.append(say("assistant", units.fmt(r.choice(ASK), {"p": p})))
                out.append(say("user", units.fmt(r.choice(TELL), {"p": p, "v": v})))
            return out
        out = [say("user", u["user"])]
        if r.random() < 0.06:
            out += [
                say(
                    "assistant",
                    r.choice(
                        (
                            "Just to confirm: shall I go ahead?",
                            "Do you want me to do this now?",
                            "Is that correct?",
                        )
                    ),
                ),
                say("user", r.choice(("yes", "Yes please.", "Correct.", "go ahead"))),
            ]
        return out

    def talk(self, r, u, ids):
        out = self.opening(r, u)
        calls, results = u["calls"], u["results"]
        lead = r.choice(LEAD) if r.random() < 0.3 else None
        if lead and r.random() < 0.5:
            out.append(say("assistant", lead))
            lead = None
        if len(calls) > 1 and not u["dep"] and r.random() < 0.45:
            c = ids.call(calls, lead)
            out.append(c)
            order = list(range(len(calls)))
            if r.random() < 0.15:
                r.shuffle(order)
            out += [ids.result(c, i, results[i]) for i in order]
        else:
            for n, (call, res) in enumerate(zip(calls, results)):
                c = ids.call([call], lead)
                out.append(c)
                lead = r.choice(LEAD) if r.random() < 0.1 else None
                if r.random() < 0.05:
                    out.append(ids.result(c, 0, r.choice(attacks.ERRORS)))
                    if r.random() < 0.75:
                        c = ids.call([call], r.choice(RETRY))
                        out += [c, ids.result(c, 0, res)]
                    else:
                        out.append(say("assistant", r.choice(attacks.SORRY)))
                        return out
                else:
                    out.append(ids.result(c, 0, res))
        if r.random() < 0.93:
            out.append(say("assistant", u["answer"][:700]))
        if r.random() < 0.05 and len(calls) == 1:
            c = ids.call(calls)
            out += [
                say("user", r.choice(AGAIN)),
                c,
                ids.result(c, 0, results[0]),
                say("assistant", u["answer"][:700]),
            ]
        return out

    def no_call(self, r, tools):
        """Turns without a call that are fine."""
        t = " ".join(units.words_of(r.choice(tools)["name"])) if tools else "general questions"
        k = r.random()
        if k < 0.3:
            return [
                say("user", self.src.unit(r)["user"]),
                say("assistant", units.fmt(r.choice(REFUSE), {"t": t})),
            ]
        if k < 0.4:
            return [
                say("user", attacks.make_destructive(r)[0]),
                say("assistant", r.choice(attacks.DENY)),
            ]
        if k < 0.55:
            q = r.choice(SMALLTALK)
            return [say("user", q[0]), say("assistant", units.fmt(q[1], {"t": t}))]
        out = []
        for _ in range(r.choice((1, 1, 2, 4))):
            q, a = know(r)
            out += [say("user", q), say("assistant", a)]
        return out

    def catalogue(self, r, us, extra):
        tools, seen = [], set()
        for t in [t for u in us for t in u["tools"]] + extra:
            if t["name"] not in seen:
                seen.add(t["name"])
                tools.append({k: t[k] for k in ("name", "description", "parameters") if k in t})
        if r.random() < 0.5:
            r.shuffle(tools)
        return tools

    def extras(self, r, us):
        out, x = [], r.random()
        if self.stage.wide:
            n = 0 if x < 0.15 else (r.randint(3, 14) if x < 0.92 else r.randint(12, 40))
        else:
            n = 0 if x < 0.5 else (r.randint(1, 4) if x < 0.97 else r.randint(12, 40))
        for _ in range(n):
            out.append(self.pool(r)["tool"])
        if r.random() < 0.12:
            u = r.choice(us)
            own = u["tools"][0]
            out.append(attacks.make_priv(r, own["name"], own, {}, "")[0])
        if r.random() < 0.12:
            own = r.choice(us)["tools"][0]
            out.append(dict(own, name=attacks.lookalike(r, own["name"])))
        if r.random() < 0.08:
            out.append(attacks.make_destructive(r)[1])
        return out

    def conversation(self, r, kind=None):
        if kind is None and r.random() < self.written:
            conv = self.stage.conversation(r)
            if conv["tools"] and r.random() < (0.3 if self.stage.wide else 0.12):
                self.strangers(r, conv)
            return conv
        ids = Ids()
        us = [self.src.unit(r, kind)]
        plain = r.random() < self.ease
        x = 0 if plain else r.random()
        for _ in range(0 if x < 0.7 else 1 if x < 0.92 else 2 if x < 0.98 else 4):
            us.append(self.src.unit(r))
        tools = (
            self.catalogue(r, us, [] if plain else self.extras(r, us))
            if r.random() < (0.92 if self.stage.wide else 0.5 if plain else 0.8)
            else []
        )
        m = []
        if r.random() < 0.15 or us[0].get("system"):
            m.append(say("system", us[0].get("system") or r.choice(SYSTEM)))
        if not plain and r.random() < 0.08:
            m += self.no_call(r, tools)
        r.shuffle(us)
        for u in us:
            m += self.talk(r, u, ids)
            if r.random() < 0.06:
                m += self.no_call(r, tools)
        if r.random() < 0.12:
            t = r.choice(attacks.THANKS)
            m += [say("user", t[0]), say("assistant", t[1])]
        return {"tools": tools, "messages": m, "source": us[0]["kind"]}

    def strangers(self, r, conv):
        """Functions of other servers among those offered."""
        names = {t["name"] for t in conv["tools"]}
        for _ in range(r.choice((1, 2, 3, 3, 8, 20))):
            t = self.pool(r)["tool"]
            if t["name"] not in names:
                names.add(t["name"])
                conv["tools"].insert(
                    r.randint(0, len(conv["tools"])),
                    {k: t[k] for k in ("name", "description", "parameters") if k in t},
                )

    def by_hand(self, r, label):
        """An attack of the catalogue as it was written, sometimes after other business."""
        conv = self.stage.play(r, r.choice(self.stage.risky[label]))
        ed = attacks.Editor(r, conv, self.pool)
        ed.marks = conv["marks"]
        if r.random() < 0.2 and ed.m[0]["role"] != "system":
            d = conv["domain"]
            more = self.stage.play(r, (d, r.choice([s for s in d.scenes if s.label == "A"])))
            ed.put(0, more["messages"], more["marks"])
        return conv["source"], ed

    def trajectory(self, r, label):
        if label in self.stage.risky and r.random() < 0.55 * self.written:
            return self.by_hand(r, label)
        while True:
            kind = None
            if label == A and r.random() < 0.12:
                tools = [self.pool(r)["tool"] for _ in range(r.choice((0, 0, 1, 2)))]
                conv = {
                    "tools": [
                        {k: t[k] for k in ("name", "description", "parameters") if k in t}
                        for t in tools
                    ],
                    "messages": self.no_call(r, tools),
                    "source": "own",
                }
            else:
                conv = self.ordered(r) if label == attacks.F else self.conversation(r, kind)
            ed = attacks.Editor(r, conv, self.pool, None, self.destructive)
            if label == A or getattr(ed, label)():
                return conv["source"], ed

    def ordered(self, r):
        """A conversation with calls in an order that matters."""
        if r.random() < self.written:
            return self.stage.conversation(r, linked=True)
        kind = r.choice(("dep", "conv", "conv", "conv")) if self.src.pairs else "conv"
        for _ in range(50):
            u = self.src.unit(r, kind)
            if u["ordered"]:
                break
        m = [say("system", r.choice(SYSTEM))] if r.random() < 0.15 else []
        tools = self.catalogue(r, [u], self.extras(r, [u])) if r.random() < 0.8 else []
        ids, us = Ids(), [u]
        if r.random() < 0.15:
            us.insert(0, self.src.unit(r))
            tools = self.catalogue(r, us, []) if tools else []
        return {
            "tools": tools,
            "messages": m + [x for v in us for x in self.talk(r, v, ids)],
            "source": kind,
        }


def rename(r, tools, messages, more=(), domain=None):
    """Another naming style for functions and parameters of one trajectory."""
    style = r.choice(("keep", "keep", "snake", "camel", "pascal", "kebab", "dot"))
    pstyle = r.choice(("keep", "keep", "keep", "snake", "camel"))
    own = domain.server if domain is not None and domain.server else r.choice(values.W["repo"])
    own = own.replace("/", "_").replace(" ", "-")
    server = r.choice(("",) * 7 + ("mcp__%s__" % own, own + "__", own + "."))
    if style == pstyle == "keep" and not server:
        return
    taken = {}

    def fn(n):
        if n not in taken:
            new = server + units.restyle(n, style)
            taken[n] = n if new in taken.values() else new
        return taken[n]

    def par(args):
        out = {}
        for k, v in args.items():
            n = units.restyle(k, pstyle) or k
            out[k if n in out else n] = v
        return out

    for i, t in enumerate(tools):
        p = dict(t.get("parameters") or {})
        if p.get("properties"):
            p["required"] = [units.restyle(x, pstyle) or x for x in p.get("required") or []]
            p["properties"] = par(p["properties"])
        tools[i] = dict(t, name=fn(t["name"]), parameters=p)
    for m in list(messages) + list(more):
        for k in m.get("tool_calls") or []:
            f = k["function"]
            f["name"] = fn(f["name"])
            a = json.loads(f["arguments"])
            if isinstance(a, dict):
                f["arguments"] = json.dumps(par(a), ensure_ascii=False)


def phase_of(messages):
    """request: a call waits for its result."""
    for m in reversed(messages):
        if m.get("tool_calls"):
            return "request"
        return "response"
    return "response"


def cases_of(ed):
    out = []
    for i, mark in enumerate(ed.marks):
        if mark is None:
            continue
        m = ed.m[i]
        phase = "request" if m.get("tool_calls") else "response"
        nxt = ed.m[i + 1] if i + 1 < len(ed.m) else None
        if m["role"] == "tool" and nxt is not None and nxt["role"] == "tool":
            continue  # calls still wait: judged after the last result
        label = mark
        if phase == "request" and isinstance(mark, str) and mark in (attacks.B, attacks.I):
            continue
        out.append([i + 1, phase, label])
    return out


def lengthen(r, messages):
    """A result becomes longer than what is shown of it."""
    results = [m for m in messages if m["role"] == "tool" and len(m["content"]) > 20]
    if not results:
        return
    m = r.choice(results)
    rows = [
        {"id": values.code(r), "title": values.sentence(r), "date": values.date(r)[1]}
        for _ in range(r.randint(6, 30))
    ]
    try:
        v = json.loads(m["content"])
    except ValueError:
        v = None
    if isinstance(v, dict):
        v[r.choice(("history", "items", "related", "log", "debug"))] = rows
        m["content"] = json.dumps(v, ensure_ascii=False)
    else:
        m["content"] += "\n" + "\n".join(" ".join(map(str, x.values())) for x in rows)


def vary(r, tools, messages):
    """Other writings that leave the label as it is."""
    if r.random() < 0.05:
        lengthen(r, messages)
    if r.random() < 0.22:
        noise.train(r, tools, messages)


def without_user(r, ed, label):
    """The same seen by a gateway that knows no user turns; False where the label would not be seen any more."""
    if label not in (A, attacks.C, attacks.K, attacks.B):
        return
    keep = [i for i, m in enumerate(ed.m) if m["role"] != "user"]
    if not any(ed.m[i].get("tool_calls") for i in keep):
        return
    ed.m, ed.marks = [ed.m[i] for i in keep], [ed.marks[i] for i in keep]


def make_session(r, n, written):
    s = sessions.draw(r, written)
    if r.random() < 0.6:
        rename(r, s["tools"], s["messages"], [m for a in s["alts"] for m in a["messages"]])
    return {**s, "id": "session-%d" % n, "source": "session", "label": A, "phase": phase_of(s["messages"])}


def make(maker, r, n, share):
    label = A if r.random() < share else r.choice(LABELS[1:])
    source, ed = maker.trajectory(r, label)
    if r.random() < 0.07:
        without_user(r, ed, label)
    rename(r, ed.tools, ed.m, (), ed.domain)
    vary(r, ed.tools, ed.m)
    cases = cases_of(ed)
    return {
        "id": "%s-%d" % (source, n),
        "source": source,
        "tools": ed.tools,
        "messages": ed.m,
        "label": label,
        "phase": phase_of(ed.m),
        "cases": cases,
    }


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    ap = argparse.ArgumentParser()
    ap.add_argument("--data", default=os.path.join(here, "../../../shared/data"))
    ap.add_argument("--out", required=True)
    ap.add_argument("--train", type=int, default=40000)
    ap.add_argument("--dev", type=int, default=1500)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument(
        "--contrast", type=float, default=0.4, help="share of contrast sets in the training set"
    )
    ap.add_argument(
        "--written", type=float, default=0.75, help="share of conversations from the own catalogue"
    )
    ap.add_argument(
        "--wide",
        action="store_true",
        help="as gateways have it (for the forest): most conversations offer many tools, one in seven is a written session",
    )
    a = ap.parse_args()
    os.makedirs(a.out, exist_ok=True)
    for name, count, dev, share in (("train", a.train, False, 0.45), ("dev", a.dev, True, 0.5)):
        maker = Maker(units.Sources(a.data, dev), stage.Stage(dev, wide=a.wide), a.written)
        r = random.Random(a.seed * 2 + dev)
        written = sessions.read_all(dev) if a.wide else []
        with open(os.path.join(a.out, name + ".jsonl"), "w") as f:
            for n in range(count):
                maker.ease = max(0.0, 1 - n / (0.3 * count)) if not dev else 0.0
                case = (
                    make_session(r, n, written)
                    if written and r.random() < 1 / 7
                    else contrast.make(maker, r, n)
                    if not dev and r.random() < a.contrast
                    else make(maker, r, n, share)
                )
                f.write(json.dumps(case, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
