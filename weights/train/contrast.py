"""Contrast sets: one benign conversation and, at several places of it, other ways it could go on. All share
the conversation, so the model sees the same context once with the right call and once with each wrong one.

An alternative is {"at": messages of the trunk before it, "messages", "cases": [[n, phase, target], ...]}.
"""

import copy
import json

import attacks
from attacks import A, B, C, D, E, F, G, H, I, J, K, Editor, Ids, calls_of, groups, say


def alternatives(maker, r, conv, limit):
    """(tools to offer, alternatives)"""
    ed = Editor(r, conv, maker.pool, None, maker.destructive)
    gs = [g for g in groups(conv["messages"]) if g[1]]
    if not gs:
        return [], []
    picked = gs if len(gs) == 1 else r.sample(gs, min(len(gs), 2))
    offers, out, m = [], [], conv["messages"]
    makers = [
        wrong_function,
        wrong_arguments,
        privileged,
        invented,
        silent,
        after,
        replay,
        before,
        lookalike,
        destructive,
        asks,
        wrong_arguments,
    ]
    for f in r.sample(makers, min(limit, len(makers))):
        got = f(maker, r, ed, m, r.choice(picked), offers)
        if got:
            out.append(got)
    if len(gs) > 1 and conv.get("ordered"):
        got = too_early(r, m, gs)
        if got:
            out.append(got)
    return offers, out


def alt(at, messages, cases):
    return {"at": at, "messages": messages, "cases": cases}


def single(m, g):
    return len(m[g[0]]["tool_calls"]) == 1


def two(label):
    return [[1, "request", label], [2, "response", label]]


def wrong_function(maker, r, ed, m, g, offers):
    o = ed.other()
    offers.append(o["tool"])
    c = ed.ids.call([o["call"]], m[g[0]].get("content"))
    msgs, cases = [c, Ids.result(c, 0, o["result"])], two(G)
    if r.random() < 0.5:
        msgs.append(
            say("assistant", m[g[2]]["content"] if g[2] and r.random() < 0.3 else o["answer"])
        )
        cases = cases[:1] + [[3, "response", G]]
    return alt(g[0], msgs, cases)


def before(maker, r, ed, m, g, offers):
    o = ed.other()
    offers.append(o["tool"])
    c = ed.ids.call([o["call"]])
    msgs = [c, Ids.result(c, 0, o["result"]), m[g[0]]] + [m[j] for j in g[1]]
    return alt(g[0], msgs, [[3, "request", D], [len(msgs), "response", D]])


def after(maker, r, ed, m, g, offers):
    o = ed.other()
    offers.append(o["tool"])
    c = ed.ids.call([o["call"]], r.choice((None, None, r.choice(attacks.GLUE))))
    at = g[2] + 1 if g[2] and r.random() < 0.4 else g[1][-1] + 1
    return alt(at, [c, Ids.result(c, 0, o["result"])], two(E))


def replay(maker, r, ed, m, g, offers):
    c = ed.ids.call(calls_of(m[g[0]]), r.choice((None, None, r.choice(attacks.GLUE))))
    at = g[2] + 1 if g[2] and r.random() < 0.4 else g[1][-1] + 1
    if "error" in m[g[1][-1]]["content"].lower()[:40] or len(g[1]) != len(m[g[0]]["tool_calls"]):
        return None
    msgs = [c] + [Ids.result(c, j, m[x]["content"]) for j, x in enumerate(g[1])]
    return alt(at, msgs, [[1, "request", K], [len(msgs), "response", K]])


def wrong_arguments(maker, r, ed, m, g, offers):
    if not single(m, g):
        return None
    e = Editor(r, {"tools": [], "messages": m[: g[1][-1] + 1], "others": ed.others}, None)
    e.last_group = lambda single=False: (g[0], g[1], None)
    if not e.wrong_arguments_intent_injection():
        return None
    return alt(g[0], e.m[g[0] :], [[1, "request", H], [len(e.m) - g[0], "response", H]])


def privileged(maker, r, ed, m, g, offers):
    if not single(m, g):
        return None
    call = calls_of(m[g[0]])[0]
    own = next((t for t in ed.tools if attacks.units_name(t) == call["name"]), None)
    tool, args = attacks.make_priv(r, call["name"], own, call["args"], ed.user_text(), ed.domain)
    offers.append(tool)
    c = ed.ids.call([{"name": tool["name"], "args": args}], m[g[0]].get("content"))
    return alt(g[0], [c, Ids.result(c, 0, m[g[1][0]]["content"])], two(C))


def invented(maker, r, ed, m, g, offers):
    if not g[2] or m[g[2]]["content"] in attacks.SORRY or m[g[0] - 1]["role"] == "tool":
        return None
    return alt(g[0], [say("assistant", m[g[2]]["content"])], [[1, "response", I]])


def asks(maker, r, ed, m, g, offers):
    """The fine counterpart of an invented answer."""
    text = r.choice(
        (
            "Could you give me a bit more detail, please?",
            "Sure, one moment.",
            "I'm sorry, I can't help with that.",
            "Let me check that for you.",
            "Which one do you mean?",
            "Do you want me to go ahead?",
            "I need some more information for this.",
            "Unfortunately I have no function for that.",
            "Could you please provide the exact value?",
        )
    )
    return alt(g[0], [say("assistant", text)], [[1, "response", A]])


def silent(maker, r, ed, m, g, offers):
    x = r.random()
    if x < 0.25:  # an error is told as it is: fine
        return (
            alt(
                g[0] + 1,
                [
                    Ids.result(m[g[0]], 0, r.choice(attacks.ERRORS)),
                    say("assistant", r.choice(attacks.SORRY)),
                ],
                [[2, "response", A]],
            )
            if single(m, g)
            else None
        )
    msgs = [Ids.result(m[g[0]], j, "") for j in range(len(m[g[0]]["tool_calls"]))]
    if x < 0.5:
        msgs = [
            say(
                "assistant",
                r.choice(attacks.SORRY) if not g[2] or r.random() < 0.5 else m[g[2]]["content"],
            )
        ]
    return alt(g[0] + 1, msgs, [[len(msgs), "response", B]])


def lookalike(maker, r, ed, m, g, offers):
    if not single(m, g):
        return None
    call = calls_of(m[g[0]])[0]
    own = next((t for t in ed.tools if attacks.units_name(t) == call["name"]), None)
    name = attacks.lookalike(r, call["name"])
    offers.append(dict(own or {"description": "", "parameters": {}}, name=name))
    c = ed.ids.call([dict(call, name=name)])
    value = r.choice(
        (
            r.choice(attacks.ERRORS),
            "{}",
            "",
            "null",
            "[]",
            json.dumps(maker.pool(r)["result"], ensure_ascii=False),
        )
    )
    return alt(g[0], [c, Ids.result(c, 0, value)], [[2, "response", B]])


def destructive(maker, r, ed, m, g, offers):
    at = (g[2] or g[1][-1]) + 1
    x = r.random()
    if x < 0.3:  # the user's own thing
        u = maker.src.own.own_thing(r)
        offers.append(u["tools"][0])
        c = ed.ids.call(u["calls"])
        return alt(
            at,
            [say("user", u["user"]), c, Ids.result(c, 0, u["results"][0])],
            [[2, "request", A], [3, "response", A]],
        )
    user, tool, call, result, answer = maker.destructive(r)
    if x < 0.45:
        return alt(
            at,
            [say("user", user), say("assistant", r.choice(attacks.DENY))],
            [[2, "response", A]],
        )
    offers.append(tool)
    c = ed.ids.call([call])
    if x < 0.75:
        return alt(
            at,
            [say("user", user), c, Ids.result(c, 0, result)],
            [[2, "request", J], [3, "response", J]],
        )
    return alt(
        at,
        [say("user", user), c, Ids.result(c, 0, result), say("assistant", answer)],
        [[2, "request", J], [4, "response", J]],
    )


def conv_links(m, gs):
    return [k for k in range(1, len(gs)) if m[gs[k][0]].get("after")]


def too_early(r, m, gs):
    k = r.choice(conv_links(m, gs) or [1])
    a, b = gs[k - 1], gs[k]
    if conv_links(m, gs) and not m[b[0]].get("after"):
        return None
    if json.dumps(calls_of(m[a[0]])) == json.dumps(calls_of(m[b[0]])) or any(
        x["role"] == "user" for x in m[a[0] : b[0]]
    ):
        return None
    msgs = [m[b[0]]] + [m[j] for j in b[1]]
    cases = [[1, "request", F], [len(msgs), "response", F]]
    if r.random() < 0.6:
        msgs += [m[a[0]]] + [m[j] for j in a[1]]
        cases[1] = [len(msgs), "response", F]
    return alt(a[0], msgs, cases)


def make(maker, r, n):
    import make_data

    if r.random() < 0.22:
        conv = maker.ordered(r)
        conv["ordered"] = True
    else:
        conv = maker.conversation(r)
    conv = {**conv, "tools": copy.deepcopy(conv["tools"]), "messages": copy.deepcopy(conv["messages"])}
    offers, alts = alternatives(maker, r, conv, r.choice((3, 4, 5, 6)))
    if conv["tools"]:
        names = {attacks.units_name(t) for t in conv["tools"]}
        for t in r.sample(offers, min(len(offers), 4)):
            if r.random() < 0.5 and t["name"] not in names:
                names.add(t["name"])
                conv["tools"].insert(
                    r.randint(0, len(conv["tools"])),
                    {k: t[k] for k in ("name", "description", "parameters") if k in t},
                )
    ed = Editor(r, conv, None)
    alts = copy.deepcopy(alts)
    more = [x for a in alts for x in a["messages"]]
    make_data.rename(r, ed.tools, ed.m, more, conv.get("domain"))
    make_data.vary(r, ed.tools, ed.m)
    return {
        "id": "contrast-%d" % n,
        "source": conv["source"],
        "tools": ed.tools,
        "messages": ed.m,
        "label": A,
        "phase": make_data.phase_of(ed.m),
        "cases": make_data.cases_of(ed),
        "alts": alts,
    }
