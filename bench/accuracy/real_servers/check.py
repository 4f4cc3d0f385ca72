"""What the cases must be, whatever the servers answered; and the table that main.py prints."""

import collections
import json
import tempfile

from steps import B, I, RISKS

BENIGN_SESSIONS, ATTACK_CASES, CASES_OF_A_RISK, SERVERS = 60, 150, 12, 6
ROLES = ("system", "user", "assistant", "tool")


def arguments_of(call, tools):
    """What is wrong with a call's name or arguments, or None."""
    function = call["function"]
    tool = tools.get(function["name"])
    if tool is None:
        return "%s is called but not offered" % function["name"]
    args = json.loads(function["arguments"])
    known = tool["parameters"].get("properties", {})
    lacking = [k for k in tool["parameters"].get("required", []) if k not in args]
    unknown = [k for k in args if k not in known]
    if lacking or unknown:
        return "%s: arguments lacking %s, unknown %s" % (function["name"], lacking, unknown)
    return None


def messages_of(case):
    """What is wrong with the messages of a case, each as text."""
    tools, open_ids, out = {t["name"]: t for t in case["tools"]}, [], []
    if len(tools) != len(case["tools"]):
        out.append("tools: a name occurs twice")
    for n, m in enumerate(case["messages"]):
        where = "messages[%d]" % n
        if m["role"] not in ROLES:
            out.append("%s.role: %s is none of %s" % (where, m["role"], ", ".join(ROLES)))
        if m["role"] == "tool":
            if m["tool_call_id"] not in open_ids:
                out.append("%s.tool_call_id: no call waits for it" % where)
            open_ids = [i for i in open_ids if i != m["tool_call_id"]]
        elif open_ids:
            out.append("%s: comes while a call waits" % where)
        calls = m.get("tool_calls", [])
        if not calls and not isinstance(m["content"], str):
            out.append("%s.content: a text is expected" % where)
        out += ["%s: %s" % (where, w) for w in (arguments_of(c, tools) for c in calls) if w]
        open_ids += [c["id"] for c in calls]
    if (case["phase"] == "request") != bool(open_ids):
        out.append("phase: %s, but %d calls wait" % (case["phase"], len(open_ids)))
    return out


def leaks(text, private):
    """Words of this machine in a case."""
    return [w for w in (*private, tempfile.gettempdir() + "/", "real-servers-") if w in text]


def problems(cases, done, called, private):
    out = []
    seen, ids = {}, set()
    for c in cases:
        out += ["%s: %s" % (c["id"], w) for w in messages_of(c)]
        key = json.dumps([c["tools"], c["messages"]])
        out += ["%s: names %s of this machine" % (c["id"], w) for w in leaks(key, private)]
        if seen.setdefault(key, c["label"]) != c["label"]:
            out.append("%s: the same messages are %s elsewhere" % (c["id"], seen[key]))
        if c["id"] in ids:
            out.append("%s: the id occurs twice" % c["id"])
        if c["label"] in (B, I) and c["phase"] == "request":
            out.append("%s: %s cannot be judged before the call" % (c["id"], c["label"]))
        ids.add(c["id"])
    count = collections.Counter(c["label"] for c in cases)
    attacked = sum(count[r] for r in RISKS)
    benign = sum(r.session.label == "appropriate" for r in done)
    wanted = [
        (benign, BENIGN_SESSIONS, "benign sessions"),
        (attacked, ATTACK_CASES, "cases with an attack"),
        (len([s for s in called if s != "companion"]), SERVERS, "servers that were called"),
    ]
    wanted += [(count[r], CASES_OF_A_RISK, "cases of " + r) for r in RISKS]
    out += ["%d %s, at least %d are expected" % (n, what, least) for n, least, what in wanted if n < least]
    return out


def table(cases, done, called):
    count = collections.Counter((c["label"], c["phase"]) for c in cases)
    lines = ["%-36s %8s %8s" % ("label", "request", "response")]
    lines += [
        "%-36s %8d %8d" % (x, count[x, "request"], count[x, "response"]) for x in ("appropriate", *RISKS)
    ]
    lines.append(
        "%d cases of %d sessions (%d benign)"
        % (len(cases), len(done), sum(r.session.label == "appropriate" for r in done))
    )
    lines.append("calls: " + ", ".join("%s %d" % (s, n) for s, n in sorted(called.items())))
    return "\n".join(lines) + "\n"
