"""The catalogue of this repository: written conversations ("scenes") of many domains, in scenes/*.txt.

    scenes.py [FILE ...]        checks the files (all of scenes/ by default) and counts what they hold

A file is plain text, one item a line; blank lines and lines that start with '#' mean nothing.

    domain smart home
    server home-hub
    tool set_brightness(device_id: string, percent: integer, fade?: number) - Set how bright a lamp is.
    power set_brightness => hub_root_shell(command: string) - Any command as root. => {"command": "lamp <device_id> <percent>"}

    scene
    let room,id = kitchen,k-01 | hallway,h-07
    let pct = 20 | 45
    S: system text (optional)
    U: Dim the $room lights to $pct percent || $room too bright, go to $pct
    A: One moment. (optional text before a call)
    > set_brightness {"device_id": "$id", "percent": $pct}
    < {"device_id": "$id", "brightness": $pct}
    A: The $room lights are at $pct %. || Done, $pct percent.

`let` gives the values of one variable, or of several that go together; `$room` stands for the value anywhere
below it. ` || ` separates wordings of a turn. `\\n` is a line break. Several `>` lines in a row are parallel
calls, with as many `<` lines after them, in the same order. `>>` is a call that must not run before the call
above it (it uses its result, or acts on what was checked). `<!` is a result that reports an error, `<` alone
an empty one. `power` names a function with more rights than `set_brightness` that could do the same, and its
arguments; `<device_id>` there is the argument of the replaced call. `attack J` in place of `scene` is an
unsafe conversation of choice J (B..K); its risk begins at the line marked with `!` (`!> call {...}`,
`!A: text`, `!< result`).
"""

import glob
import json
import os
import random
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
VARIABLE = re.compile(r"\$([a-z_][a-z_0-9]*)")
TOOL = re.compile(r"([A-Za-z][A-Za-z0-9_.\-]*)\((.*?)\)\s+-\s+(.*)$")
TYPES = {"string", "integer", "number", "boolean", "array", "object"}


class Wrong(Exception):
    pass


def parse_tool(text):
    m = TOOL.match(text)
    if not m:
        raise Wrong("expected NAME(PARAM: TYPE, ...) - DESCRIPTION")
    props, required = {}, []
    for p in filter(None, (x.strip() for x in m.group(2).split(","))):
        name, _, kind = (x.strip() for x in p.partition(":"))
        if kind not in TYPES:
            raise Wrong("parameter %r: expected NAME: TYPE with one of %s" % (p, sorted(TYPES)))
        props[name.rstrip("?")] = {"type": kind}
        if not name.endswith("?"):
            required.append(name.rstrip("?"))
    schema = {"type": "object", "properties": props, "required": required}
    return {"name": m.group(1), "description": m.group(3), "parameters": schema}


class Scene:
    def __init__(self, where, label):
        self.where, self.label = where, label
        self.lets, self.lines = [], []  # lines: (kind, text, name, marked)

    def fill(self, r):
        """One reading of the scene: [(kind, text or arguments, name, marked)] with values chosen."""
        value = {}
        for names, rows in self.lets:
            value.update(zip(names, r.choice(rows)))
        put = lambda s: VARIABLE.sub(lambda m: value[m.group(1)], s)
        out = []
        for kind, text, name, marked in self.lines:
            text = put(r.choice(text.split(" || ")) if kind in "UAS" else text)
            if kind in (">", ">>"):
                text = json.loads(text)
            elif kind in "UAS":
                text = text.replace("\\n", "\n")
            out.append((kind, text, name, marked))
        return out


class Domain:
    def __init__(self, name):
        self.name, self.server = name, None
        self.tools, self.power, self.scenes = {}, {}, []

    def stronger(self, r, name, args):
        """(tool, arguments) of a function with more rights than `name` needs, or None."""
        if name not in self.power:
            return None
        tool, text = r.choice(self.power[name])

        def put(m):
            v = args.get(m.group(1), "")
            return json.dumps(v if isinstance(v, str) else json.dumps(v))[1:-1]

        return tool, json.loads(re.sub(r"<([A-Za-z_][A-Za-z0-9_]*)>", put, text))


def check(scene, domain):
    declared = {n for names, _ in scene.lets for n in names}
    for kind, text, name, _ in scene.lines:
        missing = set(VARIABLE.findall(text)) - declared
        if missing:
            raise Wrong("%s is not declared by let" % sorted(missing))
        if kind in (">", ">>") and name not in domain.tools:
            raise Wrong("function %r is not declared by tool" % name)
    r, waiting, kinds = random.Random(1), 0, ""
    for _ in range(4):
        for kind, text, name, _ in scene.fill(r):
            if kind in (">", ">>"):
                if not isinstance(text, dict):
                    raise Wrong("arguments of %s: expected an object" % name)
                spec = domain.tools[name]["parameters"]
                for p in spec["required"]:
                    if p not in text:
                        raise Wrong("call of %s lacks %r" % (name, p))
                for p in text:
                    if p not in spec["properties"]:
                        raise Wrong("call of %s: %r is not among its parameters" % (name, p))
    for kind, _, name, _ in scene.lines:
        if kind in (">", ">>"):
            if kinds == "<" and waiting:
                raise Wrong("%d results are missing before the next call" % waiting)
            waiting += 1
        elif kind in ("<", "<!"):
            if not waiting:
                raise Wrong("a result without a call")
            waiting -= 1
        elif waiting and scene.label == "A":
            raise Wrong("%d results are missing" % waiting)
        else:
            waiting = 0
        kinds = kind[0]
    if waiting and scene.label == "A":
        raise Wrong("%d results are missing at the end" % waiting)
    if not any(k == "U" for k, *_ in scene.lines):
        raise Wrong("a scene needs a user turn")
    if (scene.label != "A") != any(x[3] for x in scene.lines):
        raise Wrong("an attack marks a line with '!', a scene none")


def read(path):
    domains, domain, scene, begun = [], None, None, 0

    def close():
        if scene is not None:
            try:
                check(scene, domain)
            except (Wrong, ValueError, KeyError) as e:
                raise Wrong("%s:%d: %s" % (path, begun, e)) from None
            domain.scenes.append(scene)

    number = 0
    try:
        for number, line in enumerate(open(path, encoding="utf-8"), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            word, _, rest = line.partition(" ")
            rest = rest.strip()
            if word in ("domain", "scene", "attack"):
                close()
                scene = None
            if word == "domain":
                domain = Domain(rest)
                domains.append(domain)
            elif word == "server":
                domain.server = rest
            elif word == "tool":
                t = parse_tool(rest)
                domain.tools[t["name"]] = t
            elif word == "power":
                base, spec, args = (x.strip() for x in rest.split("=>"))
                json.loads(args)
                if base not in domain.tools:
                    raise Wrong("power of %r, which is no tool" % base)
                domain.power.setdefault(base, []).append((parse_tool(spec), args))
            elif word in ("scene", "attack"):
                if word == "attack" and rest not in tuple("BCDEFGHIJK"):
                    raise Wrong("attack needs a letter B..K")
                scene, begun = Scene("%s:%d" % (path, number), rest if word == "attack" else "A"), number
            elif word == "let":
                names, _, values = rest.partition("=")
                names = [n.strip() for n in names.split(",")]
                cut = lambda v: [x.strip() for x in v.split(",")] if len(names) > 1 else [v.strip()]
                rows = [cut(v) for v in values.split(" | ")]
                if any(len(v) != len(names) for v in rows):
                    raise Wrong("let: every choice needs %d values, separated by commas" % len(names))
                scene.lets.append((names, rows))
            else:
                marked = word.startswith("!")
                kind = word.lstrip("!").rstrip(":")
                if kind not in ("S", "U", "A", ">", ">>", "<", "<!") or scene is None:
                    raise Wrong("cannot read %r" % line[:60])
                name = ""
                if kind in (">", ">>"):
                    name, _, rest = rest.partition(" ")
                scene.lines.append((kind, rest.strip(), name, marked))
        close()
    except Wrong as e:
        text = str(e)
        raise Wrong(text if text.startswith(path) else "%s:%d: %s" % (path, number, text)) from None
    except (ValueError, AttributeError) as e:
        raise Wrong("%s:%d: %s" % (path, number, e)) from None
    return domains


def read_all(paths=None):
    paths = paths or sorted(glob.glob(os.path.join(HERE, "scenes", "*.txt")))
    return [d for p in paths for d in read(p)]


def main():
    try:
        domains = read_all(sys.argv[1:])
    except Wrong as e:
        sys.exit("scenes: %s" % e)
    scenes = [s for d in domains for s in d.scenes]
    used = {n for d in domains for s in d.scenes for _, _, n, _ in s.lines if n}
    print("%d domains, %d tools (%d used), %d power functions, %d scenes, %d attacks, %d wordings" % (
        len(domains), sum(len(d.tools) for d in domains), len(used), sum(len(p) for d in domains for p in d.power.values()),
        sum(s.label == "A" for s in scenes), sum(s.label != "A" for s in scenes),
        sum(len(t.split(" || ")) for s in scenes for k, t, *_ in s.lines if k == "U")))


if __name__ == "__main__":
    main()
