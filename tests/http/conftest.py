"""Starts the built server and talks to it over real sockets.

GUARDIAN_BIN names the program (default: build/guardian), GUARDIAN_TEST_MODEL a model directory (default:
weights/guardian-mini when it is complete, else a tiny model of tests/golden with policy_tiny.json).
"""
import http.client
import json
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
BIN = os.environ.get("GUARDIAN_BIN", str(ROOT / "build" / "guardian"))
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
        return [json.loads(x) for x in text.split("\n")[:-1] if x.startswith("{")]

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


def parse_metrics(text):
    """Strict enough: HELP and TYPE before samples, names and labels as in the exposition format, buckets cumulative."""
    out, types, last = {}, {}, None
    sample = re.compile(r'^([a-zA-Z_][a-zA-Z0-9_]*)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+\})? (\S+)$')
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types
            types[name] = kind
            continue
        if line.startswith("#"):
            assert line.startswith("# HELP ")
            continue
        m = sample.match(line)
        assert m, line
        base = re.sub("_(bucket|sum|count)$", "", m[1])
        assert m[1] in types or types.get(base) == "histogram", line
        value = float(m[3])
        if m[1].endswith("_bucket"):
            assert last is None or not last[0] == m[1] or value >= last[1] or 'le="0.001"' in line
            last = (m[1], value)
        assert m[1] + (m[2] or "") not in out, line
        out[m[1] + (m[2] or "")] = value
        if types.get(m[1]) == "counter":
            assert m[1].endswith("_total")
    for name, kind in types.items():
        if kind == "histogram":
            assert out[name + '_bucket{le="+Inf"}'] == out[name + "_count"]
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


def pending_request(city="Berlin", words=0):
    """A trajectory that ends with a call not yet answered; words make it longer."""
    more = [user("please " * min(100, words - k)) for k in range(0, words, 100)]
    return {"tools": TOOLS, "messages": [user("What is the weather in %s?" % city), *more, call("get_weather", {"city": city})]}


def answered_request(city="Berlin"):
    return {"tools": TOOLS, "messages": [user("What is the weather in %s?" % city), call("get_weather", {"city": city}),
                                         result("{\"temp_c\": 21}"),
                                         {"role": "assistant", "content": "It is 21 degrees in %s." % city}]}


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
