"""Twin of the "dialogue" rendering of include/guardian/prompt.h: a conversation becomes prompt text.

Renderer.feed(message) returns the lines that one message adds, so the text after the first n messages
is the text of the conversation cut there: a body only ever grows at its end.
"""

import hashlib
import json
import re

from notes import Notes

ITEM_BYTES, TOOL_BYTES, CATALOG_BYTES, SIMILAR_TOOLS = 900, 320, 2400, 3
_TRIM = " \t\n\v\f\r"


class Number(str):
    """A number kept as its text."""


class Pairs(list):
    """Members of a JSON object in their order, duplicates included."""


_INVISIBLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
_PLAIN = {c: chr(c - 0xFEE0) for a, b in ((0xFF10, 0xFF19), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)) for c in range(a, b + 1)}
_PLAIN.update((c, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(c - 0x1D400) % 52]) for c in range(0x1D400, 0x1D6A4))
_PLAIN.update((c, "0123456789"[(c - 0x1D7CE) % 10]) for c in range(0x1D7CE, 0x1D800))
_HIDDEN = {c for a, b in _INVISIBLE for c in range(a, b + 1)}
_PLAIN.update((c, None) for c in _HIDDEN)
_PLAIN.update((c, chr(c - 0xE0000)) for c in range(0xE0020, 0xE007F))
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_OTHER = (
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u03f5\u03f7-\u0481\u048a-\u052f"
)
_WORD = re.compile("[%s%s]+" % (_LATIN, _OTHER))
_HAS = re.compile("[%s]" % _LATIN), re.compile("[%s]" % _OTHER)
_UPPER, _LOWER = re.compile("[A-Z]"), re.compile("[a-z]")
_LOWERED = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}
_SENTENCE = re.compile(r"(?:\A|[\n\r]|[.!?][ \t\n\v\f\r])[^A-Za-z0-9]*[A-Za-z]")
_LOOKALIKE = str.maketrans(
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαικνορυχЅІЈАВЕКМНОРСТУХаеорсухѕіјһԁԛԝ", "ABEZHIKMNOPTYXaikvopuxSIJABEKMHOPCTYXaeopcyxsijhdqw"
)


def fold(text):
    """Rule F."""
    if text.isascii():
        return text

    def word(m):
        w = m.group()
        return w.translate(_LOOKALIKE) if all(h.search(w) for h in _HAS) else w

    return _WORD.sub(word, text.translate(_PLAIN))


def _escape_control(ch):
    o = ord(ch)
    return o < 0x20 or 0x7F <= o <= 0x9F or o in (0x2028, 0x2029)


def _s3(text):
    """Rule S.3: line breaks and control characters become escapes."""
    if text.isascii() and text.isprintable():
        return text
    text = (
        text.replace("\r\n", "\\n").replace("\n", "\\n").replace("\r", "\\n").replace("\t", "\\t")
    )
    return "".join("\\u%04x" % ord(c) if _escape_control(c) else c for c in text)


def _no_surrogates(text):
    return "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def _decoded(text):
    if isinstance(text, bytes):
        return text.decode("utf-8", "replace")
    return text if text.isascii() else _no_surrogates(text)


def _clean(text):
    return fold(_decoded(text))


def _sentences(text):
    """Rule C."""
    upper, lower = len(_UPPER.findall(text)), len(_LOWER.findall(text))
    if upper + lower < 16 or lower > upper // 9 or text.count(" ") < 2:
        return text
    first = {m.end() - 1 for m in _SENTENCE.finditer(text)}
    return "".join(c if i in first else c.translate(_LOWERED) for i, c in enumerate(text))


def sanitise(text):
    """Rule S of a string (bytes are decoded with U+FFFD for what is not UTF-8)."""
    return _s3(_sentences(fold(_decoded(text).strip(_TRIM))))


def _shown(text):
    """Characters that are not shown, as escapes."""
    if text.isascii():
        return text
    return "".join("\\u%04x" % ord(c) if ord(c) in _HIDDEN else c for c in text)


def name_text(text):
    """Rule N."""
    return _shown(_s3(_decoded(text).strip(_TRIM)))


def json_name(name):
    """Rule J of a name."""
    return _shown(_s3(_json_string(name)))


def elide(s, limit):
    """Rule E of a sanitised string."""
    raw = s.encode()
    if len(raw) <= limit:
        return s
    head, tail = 2 * limit // 3, limit // 4
    while head > 0 and raw[head] & 0xC0 == 0x80:
        head -= 1
    start = len(raw) - tail
    while start < len(raw) and raw[start] & 0xC0 == 0x80:
        start += 1
    left = raw[head:start]
    mark = " [... %d bytes sha256:%s ...] " % (len(left), hashlib.sha256(left).hexdigest()[:8])
    return raw[:head].decode() + mark + raw[start:].decode()


_ESC = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def _json_string(s):
    out = ['"']
    for c in _no_surrogates(s):
        if c in _ESC:
            out.append(_ESC[c])
        elif ord(c) < 0x20:
            out.append("\\u%04x" % ord(c))
        else:
            out.append(c)
    out.append('"')
    return "".join(out)


def _json_text(v):
    if isinstance(v, Number):
        return str(v)
    if isinstance(v, str):
        return _json_string(fold(_no_surrogates(v)))
    if v is None or isinstance(v, bool):
        return {None: "null", True: "true", False: "false"}[v]
    if isinstance(v, (int, float)):
        return json.dumps(v)
    if isinstance(v, (dict, Pairs)):
        items = v.items() if isinstance(v, dict) else v
        return "{" + ", ".join(_json_string(fold(_no_surrogates(k))) + ": " + _json_text(x) for k, x in items) + "}"
    return "[" + ", ".join(_json_text(x) for x in v) + "]"


def canonical(v):
    """Rule J of a value."""
    return _s3(_json_text(v))


def unordered(v):
    """The same text for values that differ in the order of members alone."""
    if isinstance(v, (dict, Pairs)):
        items = v.items() if isinstance(v, dict) else v
        return "{" + ",".join(sorted(_json_text(k) + ":" + unordered(x) for k, x in items)) + "}"
    if isinstance(v, list):
        return "[" + ",".join(unordered(x) for x in v) + "]"
    return _json_text(v)


def _refuse(name):
    raise ValueError(name)


def parse(text):
    """JSON with numbers as text and members in order; ValueError when it is none."""
    return json.loads(
        text, parse_int=Number, parse_float=Number, parse_constant=_refuse, object_pairs_hook=Pairs
    )


def value_or_text(text):
    """Rule V of a string."""
    trimmed = text.strip(_TRIM)
    if trimmed[:1] + trimmed[-1:] in ("{}", "[]"):
        try:
            return canonical(parse(trimmed))
        except (ValueError, RecursionError):
            pass
    return sanitise(text)


def flatten(content):
    """The text of a message's content, which may be a list of parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "\n".join(p.get("text", "") for p in content if isinstance(p, dict))
    return content


def tool_fields(tool):
    f = tool.get("function", tool)
    return (
        f.get("name", ""),
        f.get("description") or "",
        f.get("parameters") or f.get("inputSchema") or {},
    )


def tool_line(tool, limit=TOOL_BYTES):
    name, description, schema = tool_fields(tool)
    required = schema.get("required") or []
    params = []
    for p, spec in (schema.get("properties") or {}).items():
        kind = spec.get("type") if isinstance(spec, dict) else None
        kind = sanitise(kind) if isinstance(kind, str) else "any"
        params.append(sanitise(p) + ("" if p in required else "?") + ": " + kind)
    line = name_text(name) + "(" + ", ".join(params) + ")"
    if description:
        line += " - " + sanitise(description)
    return "TOOL: " + elide(line, limit)


def _bigrams(name):
    raw = name.encode("utf-8", "replace").lower()
    return {raw[i : i + 2] for i in range(len(raw) - 1)}


def dice(a, b):
    total = len(a) + len(b)
    return 2 * len(a & b) / total if total else 0.0


class Renderer:
    def __init__(
        self,
        tools=None,
        item_bytes=ITEM_BYTES,
        tool_bytes=TOOL_BYTES,
        catalog_bytes=CATALOG_BYTES,
        similar_tools=SIMILAR_TOOLS,
        notes=False,
    ):
        self.notes = Notes(_clean) if notes else None
        self.item, self.tool_bytes = item_bytes, tool_bytes
        self.catalog_bytes, self.similar = catalog_bytes, similar_tools
        self.catalogue, self.late = {}, False
        self.written, self.waiting, self.waiting_numbers = set(), [], []
        self.answered = False
        self.called = set()
        self.opening = self._announce(tools or [])

    def _announce(self, tools):
        for t in tools:
            self.catalogue.setdefault(tool_fields(t)[0], tool_line(t, self.tool_bytes))
            if self.notes:
                self.notes.tool(*tool_fields(t)[:2])
        lines = [tool_line(t, self.tool_bytes) for t in tools]
        if sum(len(x.encode()) + 1 for x in lines) <= self.catalog_bytes:
            self.written.update(self.catalogue)
            return lines
        self.late = True
        return ["TOOLS: %d functions, shown when called" % len(tools)]

    def _tools_before(self, name):
        if not self.catalogue:
            return []
        if name not in self.catalogue:
            if name in self.written:
                return []
            self.written.add(name)
            return ["TOOL: " + elide(name_text(name) + " is not in the catalogue", self.tool_bytes)]
        if not self.late:
            return []
        mine = _bigrams(name)
        others = [n for n in self.catalogue if n != name]
        others.sort(key=lambda n: -dice(mine, _bigrams(n)))
        out = []
        for n in [name] + others[: self.similar]:
            if n not in self.written:
                self.written.add(n)
                out.append(self.catalogue[n])
        return out

    def _give_up(self):
        several = len(self.waiting) > 1
        out = [
            "FUNCTION RESPONSE%s: NO RESPONSE" % (" [%s]" % name_text(n) if several else "")
            for _, n in self.waiting
        ]
        for _, n in self.waiting if self.notes else ():
            self.notes.lost(self.waiting_numbers.pop(0))
        self.waiting, self.answered = [], False
        return out

    def _text(self, marker, text):
        s = sanitise(text)
        if not s:
            return []
        if marker == "ASSISTANT" and s.startswith("<functioncall>"):
            s = "\\u003c" + s[1:]  # text must not look like a call
        out = self._give_up() + [marker + ": " + elide(s, self.item)]
        if self.notes and marker == "USER":
            self.notes.text("user", text)
        elif self.notes:
            out.append("NOTE: " + elide(self.notes.answer(text), self.item))
        return out

    def _call(self, call):
        f = call.get("function", call)
        name, args = f.get("name", ""), f.get("arguments")
        out = self._give_up() if self.answered else []
        seen = name in self.called
        self.called.add(name)
        if not seen:
            out += self._tools_before(name)
        if args is None or args == "":
            text = "{}"
        else:
            text = value_or_text(args) if isinstance(args, str) else canonical(args)
        out.append(
            'ASSISTANT: <functioncall> {"name": %s, "arguments": %s}'
            % (json_name(name), elide(text, self.item))
        )
        self.waiting.append((call.get("id"), name))
        if self.notes:
            try:
                value = parse(args.strip(_TRIM)) if isinstance(args, str) else args
            except (ValueError, RecursionError):
                value = None
            pairs = list(value.items()) if isinstance(value, dict) else value if isinstance(value, Pairs) else None
            same = text if pairs is None else unordered(value)
            note = self.notes.call(name, (name, same), pairs, name_text)
            self.waiting_numbers.append(len(self.notes.calls) - 1)
            if note:
                out.append("NOTE: " + elide(note, self.item))
        return out

    def feed(self, m):
        """The lines that one message adds, without line breaks."""
        role = m.get("role")
        text = flatten(m.get("content"))
        if role == "system":
            s = sanitise(text)
            if self.notes and s:
                self.notes.text("system", text)
            return ["SYSTEM: " + elide(s, self.item)] if s else []
        if role == "user":
            return self._text("USER", text)
        if role == "assistant":
            out = self._text("ASSISTANT", text)
            for call in m.get("tool_calls") or []:
                out += self._call(call)
            return out
        return self._result(m, text)

    def _result(self, m, text):
        several = len(self.waiting) > 1
        at = next((i for i, (k, _) in enumerate(self.waiting) if k == m.get("tool_call_id")), 0)
        number = self.waiting_numbers.pop(at) if self.notes and self.waiting else None
        name = self.waiting.pop(at)[1] if self.waiting else m.get("name", "")
        self.answered = bool(self.waiting)
        shown = elide(value_or_text(text), self.item)
        if self.notes:
            self.notes.result(number, value_or_text(text), not shown or bool(m.get("is_error")))
        if not shown:
            shown = "NO RESPONSE"
        elif m.get("is_error"):
            shown = "ERROR: " + shown
        return ["FUNCTION RESPONSE%s: %s" % (" [%s]" % name_text(name) if several else "", shown)]

    def copy(self):
        """An independent renderer that goes on from here."""
        r = Renderer.__new__(Renderer)
        r.__dict__.update(self.__dict__)
        r.written, r.called, r.waiting = set(self.written), set(self.called), list(self.waiting)
        r.waiting_numbers, r.notes = list(self.waiting_numbers), self.notes and self.notes.copy()
        return r


def render_steps(case, **limits):
    """(opening lines, [lines of message 0, lines of message 1, ...])"""
    r = Renderer(case.get("tools"), **limits)
    return r.opening, [r.feed(m) for m in case["messages"]]


def render(case, **limits):
    opening, steps = render_steps(case, **limits)
    return "".join(x + "\n" for x in opening + [x for s in steps for x in s])
