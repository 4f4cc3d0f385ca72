"""Starts the built server and talks to it over real sockets.

GUARDIAN_BIN names the program (default: build/release/guardian), GUARDIAN_TEST_MODEL a model directory (default:
weights/guardian-mini when it is complete, else a tiny model of tests/golden with policy_tiny.json).
"""
import copy
import http.client
import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
BIN = os.environ.get("GUARDIAN_BIN", str(ROOT / "build/release/guardian"))
SHARED = pathlib.Path(os.environ.get("GUARDIAN_SHARED", str(ROOT.parent / "shared")))


def model_args():
    given = os.environ.get("GUARDIAN_TEST_MODEL")
    mini = ROOT / "weights" / "guardian-mini"
    if given:
        return ["--model", given]
    if (mini / "config.json").exists() and (mini / "policy.json").exists():
        return ["--model", str(mini)]
    return ["--model", str(ROOT / "tests/golden/models/llama_f32_tied"), "--policy", str(HERE / "policy_tiny.json")]


def model_dir():
    return pathlib.Path(model_args()[1])


def clean_env(**more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("GUARDIAN_")}
    env.update(more)
    return env


def cli(*args, stdin=None, env=None, model=True, timeout=300, program=BIN):
    """Runs the program; (exit code, stdout, stderr), bytes. model: True, False, or flags."""
    argv = [program, args[0], *(model_args() if model is True else model or []), *args[1:]]
    done = subprocess.run(argv, input=stdin, capture_output=True, env=clean_env(**(env or {})), timeout=timeout)
    return done.returncode, done.stdout, done.stderr


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Server:
    def __init__(self, *args, log, model=None, wait="ready", env=None, program=BIN):
        self.log_path = log
        self.log = open(log, "wb")
        argv = [program, "serve", *(model_args() if model is None else model), "--port", "0", *args]
        self.process = subprocess.Popen(argv, stderr=self.log, stdin=subprocess.DEVNULL, env=clean_env(**(env or {})))
        self.port = None
        if wait:
            self.port = self.wait_log("listening")["port"]
            if wait != "listening":
                self.wait_log(wait)

    def lines(self):
        text = pathlib.Path(self.log_path).read_bytes().decode()
        return [json.loads(x) for x in text.split("\n")[:-1]]

    def wait_log(self, msg, timeout=120, **fields):
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            for line in self.lines():
                if line["msg"] == msg and all(line.get(k) == v for k, v in fields.items()):
                    return line
            if self.process.poll() is not None and not any(x["msg"] == msg for x in self.lines()):
                raise AssertionError("the server ended: " + pathlib.Path(self.log_path).read_text()[-2000:])
            time.sleep(0.02)
        raise AssertionError("no log line '%s' in time" % msg)

    def connect(self, timeout=300):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None, connection=None):
        c = connection or self.connect()
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        h = {"Content-Type": "application/json"} if body is not None else {}
        h.update(headers or {})
        c.request(method, path, body=body, headers=h)
        r = c.getresponse()
        out = Answer(r.status, {k.lower(): v for k, v in r.getheaders()}, r.read())
        if connection is None:
            c.close()
        return out

    def get(self, path, **kw):
        return self.ask("GET", path, **kw)

    def guard(self, request, **kw):
        return self.ask("POST", "/v1/guard", body=request, **kw)

    def batch(self, request, **kw):
        return self.ask("POST", "/v1/guard/batch", body=request, **kw)

    def patiently(self, ask, *args, **kw):
        """ask, and again as long as the server says that it has too much to do."""
        while True:
            r = ask(*args, **kw)
            if r.status != 503 or r.error["code"] != "overloaded":
                return r
            assert 1 <= int(r.headers["retry-after"]) <= 60
            time.sleep(0.1)

    def metrics(self):
        return parse_metrics(self.get("/metrics").body.decode())

    def raw(self, data, wait=3.0, half_close=False, read=True, until=None):
        """Sends bytes as they are; (all bytes until the server closes, nothing comes for `wait`, or `until` has come;
        closed?)."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=wait)
        out, closed = b"", False
        try:
            for part in data if isinstance(data, list) else [data]:
                s.sendall(part)
                if isinstance(data, list):
                    time.sleep(0.05)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            while read:
                d = s.recv(65536)
                if not d:
                    closed = True
                    break
                out += d
                read = until is None or until not in out
        except socket.timeout:
            pass
        except (ConnectionResetError, BrokenPipeError):
            closed = True
        s.close()
        return out, closed

    def stop(self, timeout=60):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log.close()


def responses(raw):
    """Splits the bytes of a connection into answers by their Content-Length."""
    out = []
    while raw:
        head, sep, rest = raw.partition(b"\r\n\r\n")
        assert sep, raw
        lines = head.decode("latin1").split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (x.split(":", 1) for x in lines[1:])}
        n = int(headers.get("content-length", "0"))
        assert len(rest) >= n, "short answer"
        out.append(Answer(int(lines[0].split()[1]), headers, rest[:n]))
        raw = rest[n:]
    return out


LABELS = r'\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"(?:,(?!\})|(?=\})))+)\}'
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:%s)? (\+Inf|-Inf|NaN|-?[0-9][0-9.e+-]*)" % LABELS)
PARTS = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def parse_histogram(samples):
    """samples: [(suffix, labels, value)] of one family. Each series is its buckets in order, then sum, then count."""
    while samples:
        rest = tuple(x for x in samples[0][1] if x[0] != "le")
        bounds, counts = [], []
        while samples and samples[0][0] == "_bucket":
            _, labels, value = samples.pop(0)
            assert tuple(x for x in labels if x[0] != "le") == rest
            bounds.append(float(dict(labels)["le"]))
            counts.append(value)
        assert len(bounds) > 1 and bounds == sorted(set(bounds)) and bounds[-1] == float("inf")
        assert counts == sorted(counts) and all(x >= 0 and x == int(x) for x in counts)
        total, number = samples.pop(0), samples.pop(0)
        assert total[:2] == ("_sum", rest) and math.isfinite(total[2])
        assert number == ("_count", rest, counts[-1])


def parse_family(lines):
    """HELP, TYPE and all samples of one family, which are taken off the list; {series: value}."""
    head = re.fullmatch(r"# HELP ([a-z][a-z0-9_]*) ((?:[^\\\n]|\\[\\n])+)", lines.pop(0))
    kind = re.fullmatch(r"# TYPE %s (counter|gauge|histogram)" % head[1], lines.pop(0))[1]
    assert head[1].startswith("guardian_") and head[1].endswith("_total") == (kind == "counter"), head[0]
    assert not re.search("_(bucket|sum|count|ms|milliseconds|kib|mib|percent|info_.*)$", head[1]), head[0]
    out, samples = {}, []
    while lines and not lines[0].startswith("#"):
        m = SAMPLE.fullmatch(lines.pop(0))
        assert m and m[1].startswith(head[1]) and m[1][len(head[1]):] in PARTS[kind], (m, head[1])
        labels = tuple(LABEL.findall(m[2] or ""))
        names = [k for k, _ in labels]
        assert len(set(names)) == len(names) and not any(k.startswith("__") for k in names)
        assert ("le" in names) == m[1].endswith("_bucket")
        value = float(m[3])
        assert kind == "gauge" or (math.isfinite(value) and value >= 0)
        assert kind != "counter" or value == int(value)
        series = m[1] + ("{%s}" % m[2] if m[2] else "")
        assert series not in out, series
        out[series] = value
        samples.append((m[1][len(head[1]):], labels, value))
    assert len({tuple(k for k, _ in x[1] if k != "le") for x in samples}) <= 1  # one set of label names
    if kind == "histogram":
        parse_histogram(samples)
    return head[1], out


def parse_metrics(text):
    """The exposition format 0.0.4 as strictly as we write it: a family is HELP, TYPE and its samples, in one piece;
    no timestamps, no comments, counters are whole numbers and end in _total, no series twice."""
    assert text.endswith("\n") and "\n\n" not in text and "\r" not in text
    lines, out, seen = text[:-1].split("\n"), {}, set()
    while lines:
        name, samples = parse_family(lines)
        assert name not in seen, name
        seen.add(name)
        out.update(samples)
    return out


def eventually(f, timeout=60):
    """Waits until f() is true."""
    until = time.monotonic() + timeout
    while not f():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.02)


def run_threads(n, work):
    failures = []

    def safe(i):
        try:
            work(i)
        except BaseException as e:  # noqa: B902 - shown below
            failures.append((i, repr(e)))

    threads = [threading.Thread(target=safe, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures[:3]


def user(text):
    return {"role": "user", "content": text}


def call(name, arguments, call_id="c1"):
    return {"role": "assistant", "content": None, "tool_calls": [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}]}


def result(text, call_id="c1"):
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def tool(name, description, **params):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object", "properties": {k: {"type": v} for k, v in params.items()}, "required": list(params)}}}


TOOLS = [tool("get_weather", "Weather of a city now", city="string"), tool("send_mail", "Sends a mail", to="string",
                                                                           text="string")]


def weather(city, *more):
    """A request about the weather in a city; everything in it is the caller's own, to change."""
    return {"tools": copy.deepcopy(TOOLS), "messages": [user("What is the weather in %s?" % city), *more]}


def pending_request(city="Berlin", words=0):
    """A trajectory that ends with a call not yet answered; words make it longer."""
    more = [user("please " * min(100, words - k)) for k in range(0, words, 100)]
    return weather(city, *more, call("get_weather", {"city": city}))


def answered_request(city="Berlin"):
    return weather(city, call("get_weather", {"city": city}), result("{\"temp_c\": 21}"),
                   {"role": "assistant", "content": "It is 21 degrees in %s." % city})


def unique():
    """A text that no other test has asked about."""
    return "Place-" + uuid.uuid4().hex[:12]


CITY_WORDS = (0, 3, 120, 40, 1, 90, 15, 300)


def patient(city, words):
    """A request that also a slow build on a busy machine answers."""
    return {**pending_request(city, words), "deadline_ms": 300000}


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    s = Server(log=tmp_path_factory.mktemp("server") / "log")
    yield s
    code = s.stop()
    assert code == 0
    log = pathlib.Path(s.log_path).read_text()
    assert "Sanitizer" not in log and "runtime error" not in log, log[-4000:]


@pytest.fixture
def start(tmp_path):
    """start(*args) gives a server of its own, stopped when the test ends."""
    made = []

    def make(*args, **kw):
        made.append(Server(*args, log=tmp_path / ("log%d" % len(made)), **kw))
        return made[-1]

    yield make
    for s in made:
        if s.process.poll() is None:
            s.process.kill()
            s.process.wait()
        s.log.close()
