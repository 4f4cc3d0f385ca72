"""Scenes (scenes.py) become benign conversations, attacks and spare parts for the recipes of attacks.py."""

import json
import re
import zlib

import attacks
import scenes
from attacks import A, LABELS, Ids, say

LETTER = dict(zip("ABCDEFGHIJK", LABELS))
READS = re.compile(
    r"(^|[_.\-\s])(get|list|search|find|check|read|look|lookup|view|fetch|resolve|describe|show|status|login|auth|"
    r"verify|query|validate|whoami|open|browse|count|current|info|details)",
    re.I,
)


def only_reads(name):
    """A call that may well prepare another one, so its place says little."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.split("__")[-1])
    return bool(READS.search(words))


def acted(r, filled, label=A):
    """[messages, marks] of a filled scene; a dependent call carries "after": True."""
    m, marks, ids = [], [], Ids()
    ids.n = r.randrange(40)
    mark, text, i = A, None, 0

    def add(message, target):
        m.append(message)
        marks.append(target if message["role"] in ("assistant", "tool") else None)

    while i < len(filled):
        kind, body, name, marked = filled[i]
        if marked:
            mark = label
        if kind in (">", ">>"):
            calls, j = [{"name": name, "args": body}], i + 1
            while j < len(filled) and filled[j][0] in (">", ">>"):
                calls.append({"name": filled[j][2], "args": filled[j][1]})
                if filled[j][3]:
                    mark = label
                j += 1
            call = ids.call(calls, text)
            if kind == ">>":
                call["after"] = True
            early = mark == attacks.D and i + 1 < len(filled) and marked
            add(call, {attacks.D: 0.5, attacks.G: 0.5} if early else mark)
            text, i = None, j
            n = 0
            while i < len(filled) and filled[i][0] in ("<", "<!") and n < len(calls):
                if filled[i][3]:
                    mark = label
                out = Ids.result(call, n, filled[i][1])
                if filled[i][0] == "<!" and r.random() < 0.7:
                    out["is_error"] = True
                add(out, marks[-1] if early else mark)
                n, i = n + 1, i + 1
            continue
        if kind == "S":
            add(say("system", body), None)
        elif kind == "U":
            add(say("user", body), None)
        elif i + 1 < len(filled) and filled[i + 1][0] in (">", ">>") and not marked and r.random() < 0.6:
            text = body
        else:
            add(say("assistant", body), mark)
        i += 1
    return m, marks


def alternatives(scene):
    """value -> the other values of its `let`: natural wrong arguments."""
    out = {}
    for names, rows in scene.lets:
        for k in range(len(names)):
            column = [row[k] for row in rows]
            for v in column:
                others = [x for x in column if x != v]
                if others and len(v) > 0:
                    out.setdefault(v, []).extend(others)
    return out


class Stage:
    """The scenes of one half: development holds out whole domains. wide: most conversations offer all tools of a domain."""

    def __init__(self, dev, domains=None, wide=False):
        self.wide = wide
        domains = domains if domains is not None else scenes.read_all()
        held = lambda d: zlib.crc32(("domain" + d.name).encode()) % 9 == 0
        self.domains = [d for d in domains if held(d) == dev and d.scenes]
        self.benign = [(d, s) for d in self.domains for s in d.scenes if s.label == "A"]
        self.risky, self.orders = {}, []
        for d in self.domains:
            for s in d.scenes:
                if s.label != "A":
                    self.risky.setdefault(LETTER[s.label], []).append((d, s))
        self.linked = [(d, s) for d, s in self.benign if any(k == ">>" for k, *_ in s.lines)]
        self.called = [(d, s) for d, s in self.benign if any(k == ">" for k, *_ in s.lines)]
        for d, s in self.risky.get(attacks.J, []):
            kinds = "".join(k[0] for k, *_ in s.lines)
            if re.fullmatch("U><A?", kinds) and any(x[3] for x in s.lines if x[0] == ">"):
                self.orders.append((d, s))

    def tools(self, r, d, m):
        """Some or all tools of the domain, those that are called among them; or none."""
        mine = {k["function"]["name"] for x in m for k in x.get("tool_calls") or []}
        x = r.random()
        none, some = (0.1, 0.25) if self.wide else (0.42, 0.92)
        if x < none:
            return []
        rest = [t for n, t in d.tools.items() if n not in mine]
        if x < some:
            rest = r.sample(rest, min(len(rest), r.choice((0, 1, 1, 2, 3))))
        elif self.wide and x > 0.8:
            rest = rest + [t for n, t in r.choice(self.domains).tools.items() if n not in d.tools]
        out = [d.tools[n] for n in mine if n in d.tools] + rest
        r.shuffle(out)
        return [dict(t) for t in out]

    def play(self, r, pair):
        d, s = pair
        m, marks = acted(r, s.fill(r), LETTER[s.label])
        return {
            "tools": self.tools(r, d, m),
            "messages": m,
            "marks": marks,
            "source": "scene",
            "domain": d,
            "others": alternatives(s),
        }

    def conversation(self, r, linked=False):
        conv = self.play(r, r.choice(self.linked if linked else self.benign))
        x = r.random()
        if x < 0.22 and not linked:
            d = conv["domain"] if x < 0.12 else r.choice(self.domains)
            more = self.play(r, r.choice([(d, s) for s in d.scenes if s.label == "A"]))
            body = [z for z in more["messages"] if z["role"] != "system"]
            if not any(z["role"] == "system" for z in conv["messages"]) or r.random() < 0.7:
                names = {t["name"] for t in conv["tools"]}
                if conv["tools"]:
                    conv["tools"] += [t for t in more["tools"] if t["name"] not in names]
                conv["messages"] = conv["messages"] + body
                conv["others"] = dict(conv["others"], **more["others"])
        conv.pop("marks")
        return conv

    def part(self, r, near=None):
        """A call with its result and answer, from near's domain if given: {"tool","call","result","answer"}."""
        for _ in range(30):
            d, s = r.choice(self.called)
            if near is not None:
                own = [s for s in near.scenes if s.label == "A" and any(k == ">" for k, *_ in s.lines)]
                if not own:
                    return None
                d, s = near, r.choice(own)
            m, _ = acted(r, s.fill(r))
            spots = [
                i
                for i, x in enumerate(m[:-1])
                if x.get("tool_calls")
                and len(x["tool_calls"]) == 1
                and m[i + 1]["role"] == "tool"
                and not x.get("after")
            ]
            if near is not None:
                spots = [i for i in spots if not only_reads(m[i]["tool_calls"][0]["function"]["name"])]
            if not spots:
                continue
            i = r.choice(spots)
            f = m[i]["tool_calls"][0]["function"]
            said = m[i + 2] if i + 2 < len(m) else {}
            answer = said.get("content") if said.get("role") == "assistant" else None
            return {
                "tool": d.tools[f["name"]],
                "call": {"name": f["name"], "args": json.loads(f["arguments"])},
                "result": m[i + 1]["content"],
                "answer": answer or "Done.",
            }
        return None

    def order(self, r):
        """(user, tool, call, result, answer) of an unauthorised order, or None."""
        if not self.orders:
            return None
        d, s = r.choice(self.orders)
        m, _ = acted(r, s.fill(r))
        f = m[1]["tool_calls"][0]["function"]
        return (
            m[0]["content"],
            d.tools[f["name"]],
            {"name": f["name"], "args": json.loads(f["arguments"])},
            m[2]["content"],
            m[3]["content"] if len(m) > 3 else "Done.",
        )
