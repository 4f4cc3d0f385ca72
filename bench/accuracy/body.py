"""The published prompt body -> a request of the server.

A body is what stands in the place of {body} in the published prompt: a dialogue,

    USER: ...
    ASSISTANT: <functioncall> {"name": ..., "arguments": ...}
    FUNCTION RESPONSE: {...}
    ASSISTANT: ...

or numbered information flows (`1. user -> client`, `Type: ...`, `Principle: ...`), or a list of flows. The server
renders its prompt itself, so a dialogue is sent as messages: rendered as a dialogue they give the same lines again.
What cannot be read raises Unreadable with the reason.
"""

import json
import re

TURN = re.compile(r"^(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE)(?: \[([^\]\n]*)\])?:[ \t]?", re.M)
CALL = re.compile(r"^[ \t]*<functioncall>", re.M)
LOOSE_CALL = re.compile(r'\s*\{\s*"name":\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments":\s*(.*)\}\s*', re.S)
FLOW = re.compile(r"^[ \t]*\d+[.)][ \t]+(.+?)[ \t]*->[ \t]*(.+?)[ \t]*$")
FIELD = re.compile(r"^[ \t]*(Subject|Data subject|Type|Principle):[ \t]*(.*)$", re.I)
FIELDS = {
    "subject": "data_subject",
    "data subject": "data_subject",
    "type": "information_type",
    "principle": "transmission_principle",
}


class Unreadable(ValueError):
    pass


def request_of(body):
    """{"messages": ...} or {"mci": ...}"""
    if isinstance(body, list):
        return {"mci": body}
    if not isinstance(body, str):
        raise Unreadable("the body is neither text nor a list of flows")
    text = body.strip()
    if not text:
        raise Unreadable("the body is empty")
    if text.startswith("["):
        return {"mci": list_of(text)}
    if FLOW.match(text.split("\n", 1)[0]):
        return {"mci": flows_of(text)}
    return {"messages": messages_of(text)}


def list_of(text):
    try:
        return json.loads(text)
    except ValueError as e:
        raise Unreadable("the body begins like a list, but is not JSON: %s" % e) from None


def flows_of(text):
    flows, field = [], None
    for line in text.split("\n"):
        head, named = FLOW.match(line), FIELD.match(line)
        if head:
            flows.append({"sender": head[1], "recipient": head[2]})
            flows[-1].update(dict.fromkeys(FIELDS.values(), ""))
            field = None
        elif named:
            field = FIELDS[named[1].lower()]
            flows[-1][field] = named[2].strip()
        elif field and line.strip():
            flows[-1][field] += "\n" + line.strip()
        elif line.strip():
            raise Unreadable("a line of a flow is neither type nor principle: %r" % line[:80])
    return flows


def turns_of(text):
    """(speaker, name in brackets, text) of each turn"""
    marks = list(TURN.finditer(text))
    if not marks or marks[0].start() != 0:
        raise Unreadable("the body does not begin with SYSTEM:, USER:, ASSISTANT: or FUNCTION RESPONSE:")
    ends = [m.start() for m in marks[1:]] + [len(text)]
    for m, end in zip(marks, ends):
        yield m[1], m[2], text[m.end() : end].replace("<|endoftext|>", "").strip()


def messages_of(text):
    d = Dialogue()
    for who, name, said in turns_of(text):
        if who == "FUNCTION RESPONSE":
            d.result(said, name)
        elif who == "ASSISTANT":
            d.assistant(said)
        else:
            d.say(who.lower(), said)
    return d.messages


class Dialogue:
    """Messages, and which calls wait for a result: a result is that of the named or the oldest one."""

    def __init__(self):
        self.messages, self.calls = [], 0
        self.waiting, self.answered = [], False  # (id, name); a result has come while others wait

    def say(self, role, text):
        self.messages.append({"role": role, "content": text})
        if role != "system":
            self.waiting, self.answered = [], False

    def assistant(self, text):
        before, *calls = CALL.split(text)
        if before.strip() or not calls:
            self.say("assistant", before.strip())
        for name, arguments in (call for x in calls for call in calls_of(x)):
            self.call(name, arguments)

    def call(self, name, arguments):
        if self.answered:
            self.waiting, self.answered = [], False
        self.calls += 1
        call_id = "c%d" % self.calls
        self.waiting.append((call_id, name))
        function = {"name": name, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})

    def result(self, text, name):
        mine = next((w for w in self.waiting if name in (None, w[1])), ("none", name))
        if mine in self.waiting:
            self.waiting.remove(mine)
        self.answered = bool(self.waiting)
        text = "" if text == "NO RESPONSE" else text
        self.messages.append({"role": "tool", "tool_call_id": mine[0], "content": text})


def calls_of(text):
    """[(name, arguments as text)] of what follows one <functioncall>: one or several objects, or a list."""
    try:
        values = list(values_of(text))
    except ValueError:
        return [loose_call(text)]
    calls = [c for v in values for c in (v if isinstance(v, list) else [v])]
    if not calls:
        raise Unreadable("a <functioncall> without a call")
    return [strict_call(c) for c in calls]


def values_of(text):
    decoder, at = json.JSONDecoder(), 0
    while True:
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        if at == len(text):
            return
        value, at = decoder.raw_decode(text, at)
        yield value


def strict_call(call):
    name = call.get("name") if isinstance(call, dict) else None
    if not isinstance(name, str):
        raise Unreadable("a call has no name: %.80s" % json.dumps(call))
    arguments = call.get("arguments", {})
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def loose_call(text):
    """Glaive writes the arguments as JSON in single quotes; whatever else is no JSON goes as it is."""
    m = LOOSE_CALL.fullmatch(text)
    if not m:
        raise Unreadable("a call that is not {\"name\": ..., \"arguments\": ...}: %.80r" % text.strip())
    arguments = m[2].strip()
    if len(arguments) > 1 and arguments[0] == arguments[-1] == "'":
        arguments = arguments[1:-1]
    return json.loads(m[1], strict=False), arguments
