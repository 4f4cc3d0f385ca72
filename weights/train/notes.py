"""Twin of server/guard/notes.c: what can be told about a call or an answer by comparing texts alone (the NOTE lines
of include/guardian/prompt.h). Everything is done on bytes, ASCII letters lower-cased."""

import re

KEPT = 16384
ARGUMENTS, LEAVES, WORDS, CALLS, TOOLS, NUMBERS = 12, 8, 32, 64, 128, 64
NAME_KEYS, TEXT_KEYS, VALUES = 16, 256, 4096
STOP = frozenset(
    b"the and for with that this from your you are can use get has its all any not one was will have when into "
    b"what which given specified".split()
)
STOP_KEYS = frozenset(w[:4] for w in STOP)
_NOT_WORD = re.compile(rb"[^a-z0-9\x80-\xff]+")
_COMMA = re.compile(rb"(?<=[0-9]),(?=[0-9])")
_ZEROS = re.compile(r"\.0+$")
_DIGIT = re.compile(rb"[0-9]")
_ESCAPE = re.compile(rb"\\(u[0-9A-Fa-f]{4}|.|$)", re.S)
_HUMP = re.compile(rb"([a-z0-9])([A-Z])")


def norm(text):
    """b" word word ", or b" " without any word."""
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    raw = _ESCAPE.sub(b" ", raw).translate(_LOWER)
    words = [w for w in _NOT_WORD.split(_COMMA.sub(b"", raw)) if w]
    return b" " + b" ".join(words) + b" " if words else b" "


_LOWER = bytes(c + 32 if 65 <= c <= 90 else c for c in range(256))


def keys(text):
    """The first four bytes of every word of at least three, in order; no common words."""
    return [w[:4] for w in norm(text).split() if len(w) > 2 and w[:4] not in STOP_KEYS]


def name_keys(name):
    raw = name.encode("utf-8", "replace") if isinstance(name, str) else name
    return keys(_HUMP.sub(rb"\1 \2", raw))[:NAME_KEYS]


def leaves(value, out):
    """Strings and numbers (as text, without a fraction of zeros) of a parsed value."""
    if len(out) >= LEAVES or value is None or isinstance(value, bool):
        return
    if isinstance(value, str):  # a Number is its text
        out.append(_ZEROS.sub("", value) if type(value) is not str else value)
    elif isinstance(value, (int, float)):
        out.append(_ZEROS.sub("", str(value)))
    elif isinstance(value, dict):
        for v in value.values():
            leaves(v, out)
    elif value and isinstance(value[0], tuple):
        for _, v in value:
            leaves(v, out)
    else:
        for v in value:
            leaves(v, out)


class Notes:
    ORIGINS = ("user", "result", "partly", "new")

    def __init__(self, clean):
        """clean(text): rule F of a decoded text"""
        self.clean = clean
        self.said, self.found = b" ", b" "  # by user and system; by results
        self.calls = []  # [key, state, user turns before it]
        self.looked_up = 0  # values
        self.turns = self.since = 0  # user turns; calls since the last
        self.request, self.last = frozenset(), frozenset()  # of the last two user turns, of the last
        self.tools = {}  # name: (name keys, description keys)

    def copy(self):
        n = Notes.__new__(Notes)
        n.__dict__.update(self.__dict__)
        n.calls, n.tools = [list(c) for c in self.calls], dict(self.tools)
        return n

    def tool(self, name, description):
        if name not in self.tools and len(self.tools) < TOOLS:
            self.tools[name] = (frozenset(name_keys(name)), frozenset(keys(description)[:WORDS]))

    def text(self, role, text):
        if role in ("system", "user"):
            self.said = (self.said + norm(self.clean(text))[1:])[-KEPT:]
        if role == "user":
            self.turns += 1
            self.since = 0
            mine = frozenset(keys(self.clean(text))[:TEXT_KEYS])
            self.request, self.last = self.last | mine, mine

    def result(self, n, text, failed):
        """n: the number of its call, or None"""
        self.found = (self.found + norm(text)[1:])[-KEPT:]
        if n is not None:
            self.calls[n][1] = "failure" if failed else "answer"

    def lost(self, n):
        self.calls[n][1] = "failure"

    def origin(self, leaf):
        self.looked_up += 1
        n = norm(self.clean(leaf))
        if n == b" ":
            return None
        if n in self.said:
            return 0
        if n in self.found:
            return 1
        words = n.split()[:WORDS]
        seen = sum(b" " + w + b" " in self.said or b" " + w + b" " in self.found for w in words)
        return 2 if len(words) > 1 and 2 * seen >= len(words) else 3

    def fit(self, name):
        n, d = self.tools[name]
        return 2 * len(n & self.request) + len(d & self.request)

    def call(self, name, key, arguments, shown):
        """The note of a call, or None. arguments: pairs or None; shown: how a name is written."""
        parts, groups = [], ([], [], [], [])
        for k, v in (arguments or [])[:ARGUMENTS] if self.looked_up < VALUES else ():
            out = []
            leaves(v, out)
            got = [o for o in map(self.origin, out) if o is not None]
            if got:
                groups[max(got)].append(shown(k))
        for word, names in zip(self.ORIGINS, groups):
            if names:
                parts.append(word + " " + ", ".join(names))
        for old, state, turns in reversed(self.calls[-CALLS:]):
            if old == key:
                parts.append("again after " + state + (", user spoke since" if self.turns > turns else ""))
                break
        if self.turns:
            mine = frozenset(name_keys(name))
            parts.append("name %d of %d" % (len(mine & self.request), len(mine)))
            if name in self.tools:
                best = max(self.tools, key=self.fit)
                if self.fit(best) > self.fit(name):
                    parts.append("rather " + shown(best))
        self.calls.append([key, "no answer yet", self.turns])
        self.since += 1
        return "; ".join(parts)

    def answer(self, text):
        """The note of an assistant's text."""
        numbers = []
        for w in norm(self.clean(text)).split():
            if len(numbers) < NUMBERS and _DIGIT.search(w) and w not in numbers:
                numbers.append(w)
        new = sum(b" " + w + b" " not in self.said and b" " + w + b" " not in self.found for w in numbers)
        return "%d calls; %d of %d numbers new" % (self.since, new, len(numbers))
