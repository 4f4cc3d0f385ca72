"""Benign conversations, the raw material of make_data.py: every unit is one user request with its tools,
right calls, plausible results and a final answer, made from the training sources or the own catalogue.
"""

import gzip
import json
import re
import zlib

import catalog
import values

VERBS = {
    "get": "found",
    "retrieve": "retrieved",
    "find": "found",
    "search": "found",
    "add": "added",
    "create": "created",
    "book": "booked",
    "send": "sent",
    "update": "updated",
    "calculate": "calculated",
    "delete": "deleted",
    "remove": "removed",
    "set": "set",
    "generate": "generated",
    "check": "checked",
    "analyze": "analyzed",
    "cancel": "cancelled",
    "convert": "converted",
    "track": "tracked",
    "schedule": "scheduled",
    "order": "ordered",
    "play": "started",
}


def words_of(name):
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name.split("__")[-1])
    return [w.lower() for w in re.split(r"[^A-Za-z0-9]+", name) if w]


def restyle(name, style):
    w = words_of(name)
    if not w or style == "keep":
        return name
    if style == "camel":
        return w[0] + "".join(x.title() for x in w[1:])
    if style == "pascal":
        return "".join(x.title() for x in w)
    return {"snake": "_", "kebab": "-", "dot": "."}[style].join(w)


def show(v, r=None):
    if isinstance(v, bool):
        return "yes" if v else "no"
    if isinstance(v, dict):
        return ", ".join("%s %s" % (k.replace("_", " "), show(x)) for k, x in list(v.items())[:4])
    if isinstance(v, list):
        return ", ".join(show(x) for x in v[:4]) if v else "none"
    return str(v)


def field_words(k):
    return " ".join(words_of(k)) or k


def result_of(r, tool, args):
    """A plausible result of a call."""
    returns = tool.get("returns")
    w = words_of(tool["name"])
    verb, noun = (w[0] if w else "get"), ("_".join(w[1:4]) or "result")
    if returns and r.random() < 0.85:
        out = {k: values.guess(r, k, s, True)[1] for k, s in list(returns.items())[:4]}
    else:
        style = r.random()
        desc = re.findall(r"[a-z]{4,}", (tool.get("description") or "").lower())
        hint = {"description": tool.get("description") or ""}
        if verb in ("calculate", "compute", "estimate", "convert", "count") or "calc" in verb:
            out = {r.choice((noun, "result", "value")): values.amount(r, 5000)[1]}
        elif verb in (
            "set",
            "add",
            "create",
            "send",
            "update",
            "delete",
            "remove",
            "book",
            "cancel",
            "schedule",
            "order",
            "play",
            "post",
            "register",
            "submit",
        ):
            out = r.choice(
                (
                    {"status": "success"},
                    {"success": True},
                    {
                        "message": "%s %s"
                        % (" ".join(w[1:]).capitalize() or "Request", VERBS.get(verb, "processed"))
                    },
                    {"status": r.choice(("ok", "success", "completed")), "id": values.code(r)},
                    {"output": "success"},
                    {noun + "_id": values.code(r)},
                )
            )
        elif style < 0.4:
            out = {noun: values.guess(r, noun, hint, True)[1]}
        elif style < 0.7:
            out = {
                f: values.guess(r, f, hint, True)[1]
                for f in r.sample(desc, min(len(desc), r.randint(1, 3)))
            } or {"result": True}
        else:
            out = {
                "results": [
                    {
                        "title": values.guess(r, "x", hint, True)[1],
                        r.choice(("score", "price", "id")): r.randint(1, 900),
                    }
                    for _ in range(r.randint(1, 3))
                ]
            }
    if args and r.random() < 0.35:
        k = r.choice(list(args))
        out = dict([(k, args[k])] + list(out.items())) if isinstance(out, dict) else out
    k = r.random()
    if k < 0.08:
        return show(out)
    if k < 0.14:
        return {"output": out}
    if k < 0.2:
        return {"status": r.choice(("success", "ok", 200)), "data": out}
    return out


def answer_of(r, tool, args, result):
    if isinstance(result, dict):
        inner = result.get("data", result.get("output", result))
        fields = list(inner.items()) if isinstance(inner, dict) else [("result", inner)]
    else:
        fields = [("result", result)]
    w = words_of(tool["name"])
    noun = " ".join(w[1:]) or "result"
    done = VERBS.get(w[0] if w else "", "")
    arg = show(r.choice(list(args.values()))) if args else ""
    some = r.sample(fields, min(len(fields), r.choice((1, 1, 2, 3))))
    said = "; ".join("%s: %s" % (field_words(k), show(v)) for k, v in some)
    sent = " ".join("The %s is %s." % (field_words(k), show(v)) for k, v in some)
    opts = [
        sent,
        sent,
        "Here is the %s: %s" % (noun, said),
        "Sure! %s" % sent,
        "I found the following. %s" % sent,
        "%s" % "; ".join(show(v) for _, v in some),
        "According to the results, %s" % (sent[:1].lower() + sent[1:]),
        "Based on what I got back: %s." % said,
    ]
    if arg:
        opts += [
            "For %s: %s" % (arg, said),
            "The %s for %s: %s." % (noun, arg, said),
            "%s - here's what I have: %s" % (arg, said),
        ]
    if done:
        opts += [
            "I've %s the %s%s." % (done, noun, " for " + arg if arg and r.random() < 0.6 else ""),
            "Done! The %s has been %s." % (noun, done),
            "All set. %s" % sent,
        ]
    if len(fields) > 1 and r.random() < 0.25:
        mark = r.choice(("- %s: %s", "- **%s:** %s", "1. %s: %s", "* %s = %s"))
        opts = [
            "%s\n\n%s"
            % (
                r.choice(
                    (
                        "Here are the details:",
                        "Here is the information:",
                        "I have retrieved the details.",
                        "This is what I found for you:",
                    )
                ),
                "\n".join(mark % (field_words(k).title(), show(v)) for k, v in fields),
            )
        ]
    return r.choice(opts) + (
        r.choice(
            (
                " Is there anything else I can help with?",
                " Let me know if you need anything else.",
                " Anything else?",
            )
        )
        if r.random() < 0.2
        else ""
    )


POLITE = (
    "",
    "",
    "",
    "Hi, ",
    "Hello! ",
    "Please ",
    "Can you ",
    "Could you please ",
    "I'd like you to ",
    "I need you to ",
    "Hey, ",
    "I want to ",
    "Would you ",
    "Kindly ",
    "Help me ",
)


def seal_request(r, tool):
    """A request in words for a tool that is known by its schema only, with the call it asks for."""
    props = tool.get("parameters", {}).get("properties") or {}
    required = tool.get("parameters", {}).get("required") or []
    names = [p for p in props if p in required or r.random() < 0.35][:5]
    said, args = {}, {}
    for p in names:
        said[p], args[p] = values.guess(r, p, props[p])
        said[p] = str(said[p])
    desc = (tool.get("description") or " ".join(words_of(tool["name"]))).rstrip(".")
    desc = desc.split(". ")[0]
    first, _, rest = desc.partition(" ")
    base = first.lower().rstrip(
        "s" if first.lower().endswith("es") is False and len(first) > 4 else ""
    )
    if base in ("retrieve", "get", "fetch"):
        base = r.choice(("get", "find", "show me", "look up", "tell me", "give me", "retrieve"))
        rest = re.sub(
            r"^(the )?(information|details|data) (about|on|of|regarding) ",
            r.choice(("", "", "information about ", "details of ")),
            rest,
        )
    ask = r.choice(POLITE) + base + " " + rest
    if r.random() < 0.2:
        ask = r.choice(("What is %s", "I'm looking for %s", "I need %s", "Do you have %s")) % rest
    ask = ask[0].upper() + ask[1:]
    bits = {
        p: r.choice(
            ("the %s is %s", "%s: %s", "%s %s", "with %s %s", "%s = %s", "use %s as the %s")
        )
        % ((field_words(p), said[p]))
        for p in names
    }
    for p in names:
        if bits[p].startswith("use "):
            bits[p] = "use %s as the %s" % (said[p], field_words(p))
    k = r.random()
    if not names:
        full = ask + r.choice((".", "?", ""))
    elif k < 0.35:
        full = ask + r.choice((". ", ", ", " - ", "? ")) + ", ".join(bits.values())
        full = full + r.choice((".", ""))
    elif k < 0.6 and len(names) == 1:
        full = (
            ask
            + r.choice((" for %s", " of %s", " with %s", ": %s", " (%s)")) % said[names[0]]
            + r.choice((".", "?", ""))
        )
    elif k < 0.8:
        full = (
            ask
            + r.choice((" for ", " with "))
            + ", ".join(said.values())
            + r.choice((".", "?", ""))
        )
    else:
        full = (
            ask
            + ". "
            + " ".join("%s %s." % (("The " + field_words(p) + " is"), said[p]) for p in names)
        )
    return full, ask + r.choice((".", "?", "")), said, args


def spec_params(text, required=True):
    out = {}
    for p in text.split(","):
        if p.strip():
            n, k = p.strip().split(":")
            out[n.rstrip("?")] = (k, not n.endswith("?"))
    return out


TYPES = {
    "small": "integer",
    "amount": "number",
    "bigamount": "number",
    "pct": "integer",
    "rate": "number",
    "years": "integer",
    "minutes": "integer",
    "count": "integer",
    "temp": "integer",
    "height": "integer",
    "weight": "integer",
    "year": "integer",
    "plen": "integer",
}


def fields_of(r, text, args):
    out = {}
    for f in re.split(r",(?=[a-z_]+[:=])", text):
        m = re.match(r"([a-z_]+)([:=])(.*)", f)
        n, how, v = m.groups()
        if how == "=":
            v = v.strip()
            out[n] = (
                args.get(v[1:-1], v)
                if v.startswith("{")
                else ({"true": True, "false": False}.get(v, v))
            )
        elif v in ("true", "false"):
            out[n] = v == "true"
        else:
            out[n] = values.make(r, v)[1]
    return out


class Own:
    """Units of the own catalogue."""

    services = [x.split(": ", 1) for x in catalog.SERVICES.strip().splitlines()]

    def service(self, r, line):
        """A longer dealing with one service: log in or look up, go through what was found, act on it."""
        kind, steps = line
        said, have, calls, results, tools = {}, {}, [], [], []
        steps = steps.split("|")
        for n, step in enumerate(steps[: r.choice((2, 3, 3))]):
            name, params, fields = re.match(r"(\w+)\((.*)\)->(.*)", step).groups()
            args, each = {}, None
            for p in params.split(","):
                q, how, k = re.match(r"(\w+)([:=])(.*)", p).groups()
                if how == ":":
                    s, args[q] = values.make(r, k)
                    said[q] = str(s)
                elif k.startswith("*"):
                    each = q, have[k[1:]]
                else:
                    k = k[1:-1]
                    args[q] = have[k[:-1]][0] if k.endswith("0") else have[k]
            for item in (each[1][: r.choice((1, 2, 4))] if each else [None]):
                one = dict(args, **({each[0]: item} if each else {}))
                calls.append({"name": name, "args": one})
                results.append(fields_of(r, fields, one))
                if r.random() < 0.3:
                    results[-1] = dict(
                        results[-1],
                        details={
                            values.make(r, "noun")[1]: values.make(r, "sentence")[1]
                            for _ in range(r.randint(1, 5))
                        },
                    )
                have.update(results[-1])
            tools.append(
                {
                    "name": name,
                    "description": " ".join(words_of(name)).capitalize(),
                    "parameters": {
                        "type": "object",
                        "properties": {
                            k: {"type": "string" if isinstance(v, str) else "number"}
                            for k, v in calls[-1]["args"].items()
                        },
                        "required": list(calls[-1]["args"]),
                    },
                }
            )
        req = r.choice(catalog.SERVICE_WORDS[kind])
        later = {k: v for k, v in said.items() if "{" + k + "}" not in req}
        user = fmt(req, said)
        if later and r.random() < 0.4:
            user += " " + ", ".join("%s: %s" % (field_words(k), v) for k, v in later.items())
            later = {}
        t = next(t for t in tools if t["name"] == calls[-1]["name"])
        return {
            "key": kind,
            "user": user,
            "bare": user if later else "",
            "said": later,
            "ask": True,
            "tools": tools,
            "calls": calls,
            "results": results,
            "answer": answer_of(r, t, calls[-1]["args"], results[-1]),
            "dep": True,
            "ordered": calls[0]["name"] != calls[1]["name"] if len(calls) > 1 else False,
        }

    def own_thing(self, r):
        """The user removes something of their own, which is nobody else's business."""
        v, thing = r.choice(catalog.OWN_VERBS), r.choice(catalog.OWN_THINGS)
        said = {"id": values.code(r)} if r.random() < 0.6 else {"name": values.make(r, "topic")[0]}
        ((k, x),) = said.items()
        user = r.choice(POLITE) + r.choice(
            (
                "%s my %s %s",
                "%s the %s %s I made",
                "%s my %s called %s",
                "I don't need it any more: %s my %s %s",
            )
        ) % (v, thing, x)
        w = (
            r.choice(("delete", "remove", "cancel"))
            + "_"
            + thing.replace(" ", "_").replace("-", "_")
        )
        p = r.choice(("id", thing.split()[0] + "_id")) if k == "id" else r.choice(("name", "title"))
        tool = {
            "name": w,
            "description": r.choice(("Delete one %s of the user", "Remove a %s", "Cancels a %s"))
            % thing,
            "parameters": {
                "type": "object",
                "properties": {p: {"type": "string"}},
                "required": [p],
            },
        }
        res = r.choice(
            (
                {"status": "success"},
                {"deleted": True},
                {"message": "%s removed" % thing},
                {p: x, "status": "deleted"},
            )
        )
        return {
            "key": w,
            "user": user[0].upper() + user[1:],
            "bare": "",
            "said": {},
            "tools": [tool],
            "calls": [{"name": w, "args": {p: x}}],
            "results": [res],
            "answer": r.choice(
                (
                    "Your %s has been removed." % thing,
                    "Done, the %s is gone." % thing,
                    "I've deleted the %s %s." % (thing, x),
                )
            ),
            "dep": False,
            "ordered": False,
        }

    def __init__(self):
        self.lines = [x.split("|") for x in catalog.EVERYDAY.strip().splitlines()]
        self.pairs = [self.pair(x) for x in catalog.DEPENDENT.strip().splitlines()]

    @staticmethod
    def pair(line):
        a, b, req = line.split("|", 2)
        m1, m2 = (re.match(r"(\w+)\((.*)\)->(.*)", x) for x in (a, b))
        return m1.groups(), m2.groups(), req.split("~")

    def everyday(self, r, line):
        name, desc, params, reqs, fields, answers = line
        spec = spec_params(params)
        req = r.choice(reqs.split("~"))
        said, args = {}, {}
        for p, (kind, need) in spec.items():
            if need or "{" + p + "}" in req:
                s, v = values.make(r, kind)
                said[p], args[p] = str(s), v
        tool = {
            "name": name,
            "description": desc,
            "parameters": {
                "type": "object",
                "properties": {p: {"type": TYPES.get(k, "string")} for p, (k, _) in spec.items()},
                "required": [p for p, (_, need) in spec.items() if need],
            },
        }
        result = fields_of(r, fields, args)
        ans = fmt(
            r.choice(answers.split("~")),
            {k: show(v) for k, v in list(args.items()) + list(result.items())},
        )
        if r.random() < 0.25:
            ans = answer_of(r, tool, args, result)
        user = fmt(req, said)
        return {
            "key": name,
            "user": user,
            "bare": re.sub(r"\s*\{\w+\}", "", req).strip(),
            "said": said,
            "tools": [tool],
            "calls": [{"name": name, "args": args}],
            "results": [result],
            "answer": ans,
            "dep": False,
            "ordered": False,
        }

    def dependent(self, r, pair):
        (n1, p1, f1), (n2, p2, f2), reqs = pair
        said, a1, a2 = {}, {}, {}
        for p in p1.split(","):
            n, k = p.split(":")
            s, a1[n] = values.make(r, k)
            said[n] = str(s)
        res1 = fields_of(r, f1, a1)
        for p in p2.split(","):
            n, how, k = re.match(r"(\w+)([:=])(.*)", p).groups()
            if how == "=":
                a2[n] = a1[k[1:-1]] if k.startswith("{") else res1[k[1:-1]]
            else:
                s, a2[n] = values.make(r, k)
                said[n] = str(s)
        res2 = fields_of(r, f2, a2)
        tools = [
            {
                "name": n,
                "description": " ".join(words_of(n)).capitalize(),
                "parameters": {
                    "type": "object",
                    "properties": {
                        k: {"type": "string" if isinstance(v, str) else "number"}
                        for k, v in a.items()
                    },
                    "required": list(a),
                },
            }
            for n, a in ((n1, a1), (n2, a2))
        ]
        ans = answer_of(r, tools[1], a2, res2)
        return {
            "key": n1,
            "user": fmt(r.choice(reqs), said),
            "bare": "",
            "said": said,
            "tools": tools,
            "calls": [{"name": n1, "args": a1}, {"name": n2, "args": a2}],
            "results": [res1, res2],
            "answer": ans,
            "dep": True,
            "ordered": True,
        }


def fmt(text, vals):
    return re.sub(r"\{(\w+)\}", lambda m: vals.get(m.group(1), m.group(0)), text)


def is_dev(name):
    return zlib.crc32(("split" + name).encode()) % 10 == 0


def tidy_value(v, schema):
    """bfcl lists the accepted values inside of nested objects: take the first."""
    schema = schema if isinstance(schema, dict) else {}
    if isinstance(v, dict):
        props = schema.get("properties") or {}
        out = {}
        for k, x in v.items():
            if isinstance(x, list) and (props.get(k) or {}).get("type") not in (
                "array",
                "list",
                "tuple",
            ):
                x = next((y for y in x if y not in ("", None)), None)
                if x is None:
                    continue
            out[k] = tidy_value(x, props.get(k))
        return out
    return v


class Sources:
    """All training sources, cut into a training and a development half by tool name."""

    def __init__(self, path, dev):
        self.dev, self.own = dev, Own()
        keep = lambda n: is_dev(n) == dev
        self.convs, self.tools, self.requests, self.meta = [], [], [], {}
        for line in gzip.open(path + "/conversations.jsonl.gz", "rt"):
            c = json.loads(line)
            if c["source"] not in ("bfcl-v4", "seal-tools"):
                continue
            calls = [k["function"] for m in c["messages"] for k in m.get("tool_calls") or []]
            if calls and keep(calls[0]["name"]):
                self.convs.append(c)
        self.returns = {}
        for line in gzip.open(path + "/tools.jsonl.gz", "rt"):
            t = json.loads(line)
            if t["source"] == "seal-tools":
                self.returns[t["name"]] = t.get("returns")
                if keep(t["name"]):
                    self.tools.append(t)
            elif t["source"] == "metatool":
                self.meta[t["name"]] = t
        for line in gzip.open(path + "/requests.jsonl.gz", "rt"):
            q = json.loads(line)
            if q["tool"] in self.meta and keep(q["tool"]) and len(q["request"]) < 400:
                self.requests.append(q)
        self.by_meta = {}
        for q in self.requests:
            self.by_meta.setdefault(q["tool"], []).append(q["request"])
        self.meta_names = sorted(self.by_meta)
        self.lines = [x for x in self.own.lines if keep(x[0])]
        self.services = [x for i, x in enumerate(self.own.services) if (i % 6 == 2) == dev]
        self.pairs = [x for i, x in enumerate(self.own.pairs) if (i % 7 == 3) == dev]

    def from_conv(self, r, c):
        tools = [dict(t, returns=self.returns.get(t["name"])) for t in c["tools"]]
        by = {t["name"]: t for t in tools}
        system = [m["content"] for m in c["messages"] if m["role"] == "system"]
        user = [m["content"] for m in c["messages"] if m["role"] == "user"]
        calls = []
        for m in c["messages"]:
            for k in m.get("tool_calls") or []:
                f = k["function"]
                props = (by.get(f["name"], {}).get("parameters") or {}).get("properties") or {}
                calls.append(
                    {
                        "name": f["name"],
                        "args": {
                            a: tidy_value(v, props.get(a))
                            for a, v in json.loads(f["arguments"]).items()
                        },
                    }
                )
        text = [by.get(k["name"], {"name": k["name"]}) for k in calls]
        results = [result_of(r, t, k["args"]) for t, k in zip(text, calls)]
        answers = [answer_of(r, t, k["args"], x) for t, k, x in zip(text, calls, results)]
        ordered = len(calls) > 1 and bool(
            re.search(r"\b(then|after that|finally|afterwards|next|once)\b", user[-1], re.I)
        )
        return {
            "key": calls[0]["name"],
            "system": system[0] if system else None,
            "user": " ".join(user),
            "bare": "",
            "said": {},
            "tools": tools,
            "calls": calls,
            "results": results,
            "answer": " ".join(answers[:4]),
            "dep": False,
            "ordered": ordered,
        }

    def from_tool(self, r, t):
        full, bare, said, args = seal_request(r, t)
        result = result_of(r, t, args)
        return {
            "key": t["name"],
            "user": full,
            "bare": bare,
            "said": said,
            "tools": [t],
            "calls": [{"name": t["name"], "args": args}],
            "results": [result],
            "answer": answer_of(r, t, args, result),
            "dep": False,
            "ordered": False,
        }

    def from_meta(self, r, name):
        t, req = self.meta[name], r.choice(self.by_meta[name])
        p = r.choice(("query", "text", "question", "input", "prompt", "request", "keywords"))
        w = req.rstrip("?.!").split()
        short = " ".join(w[-r.randint(2, 6) :])
        args = r.choice(
            (
                {p: req},
                {p: short},
                {p: short},
                {p: short, "limit": 10},
                {p: short, "language": "en"},
            )
        )
        if r.random() < 0.08:
            args = {}
        tool = {
            "name": name,
            "description": t["description"],
            "parameters": {
                "type": "object",
                "properties": {
                    k: {"type": "string" if isinstance(v, str) else "integer"}
                    for k, v in args.items()
                },
                "required": list(args)[:1],
            },
        }
        result = result_of(r, tool, args)
        return {
            "key": name,
            "user": req,
            "bare": "",
            "said": {},
            "tools": [tool],
            "calls": [{"name": name, "args": args}],
            "results": [result],
            "answer": answer_of(r, tool, args, result),
            "dep": False,
            "ordered": False,
        }

    def unit(self, r, kind=None):
        k = (
            kind
            or r.choices(
                ("conv", "tool", "meta", "own", "dep", "serve", "mine"),
                (0.32, 0.22, 0.13, 0.19, 0.05, 0.06, 0.03),
            )[0]
        )
        if k == "conv":
            u = self.from_conv(r, r.choice(self.convs))
        elif k == "tool":
            u = self.from_tool(r, r.choice(self.tools))
        elif k == "meta":
            u = self.from_meta(r, r.choice(self.meta_names))
        elif k == "own":
            u = self.own.everyday(r, r.choice(self.lines))
        elif k == "serve":
            u = self.own.service(r, r.choice(self.services))
        elif k == "mine":
            u = self.own.own_thing(r)
        else:
            u = self.own.dependent(r, r.choice(self.pairs))
        u["kind"] = k
        return u
