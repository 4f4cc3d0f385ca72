"""The whole program while calls fail: of its own code and of every library (tests/faults/preload.c), at start and while it serves;
a log that cannot be written; a wall clock that jumps; weights that are not numbers.

The rules: a start ends with an exit code and a sentence, or gives a server that judges right. A request gets the very verdict that
it gets without a fault, or an error, or a closed connection, and the process lives. One thing is excused: a library that ends the
process when it gets no memory (below). That is no verdict either, and a supervisor starts it anew; it is told from a crash of
ours by the frames above the call that failed. GUARDIAN_FAULTS=all takes every step.
"""
import contextlib
import http.client
import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest
from conftest import (BIN, HERE, ROOT, Server, answered_request, clean_env, eventually, patient, pending_request, responses,
                      run_threads, unique)
from test_batch import post

PRELOAD = pathlib.Path(BIN).resolve().parent / "tests" / "faults_preload.so"
TINY = ROOT / "tests/golden/models/llama_f32_tied"
TINY_ARGS = ["--model", str(TINY), "--policy", str(HERE / "policy_tiny.json"), "--threads", "2"]
EVERY = os.environ.get("GUARDIAN_FAULTS") == "all"

MEMORY, FILES, SOCKETS, THREADS, MAPS = 1, 2, 4, 8, 16
EVERYTHING = 31
ERROR, INTR, SHORT = 0, 1, 2
FOREVER = 2**63 - 1
NO_FAULT = 2**62
# Who may end the process for want of memory, and how; none of this is our code. Seen with Debian 12:
#   libdnnl 2.6, libOpenCL: operator new in their constructors, before main (libstdc++.so.6!_Znwm under ld-linux's call_init), throws
#       std::bad_alloc, nobody catches it: std::terminate, SIGABRT. The model needs no oneDNN where the CPU has no AMX; where it has, the
#       same holds for each call of it. libgomp exits with 1 and says so.
#   civetweb 1.15: mg_start2 copies its options without looking (libcivetweb.so.1!mg_start2+0x1e670): SIGSEGV, at start only.
MAY_ABORT = ("libdnnl.so", "libstdc++.so", "libOpenCL.so")
MAY_CRASH = ("libcivetweb.so.1", "libcivetweb.so.1!mg_start")


class Board:
    """The file of preload.c: the plan, the counts, and where the first fault was."""
    SIZE = 2 * 4 + 9 * 8 + 2 * 4 + 41 * 160

    def __init__(self, path):
        self.path = path
        path.write_bytes(b"\0" * self.SIZE)
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), self.SIZE)

    def env(self):
        assert PRELOAD.exists(), "%s is not built: it comes with -DGD_TESTS=ON" % PRELOAD
        return {"LD_PRELOAD": str(PRELOAD), "GUARDIAN_FAULTS_BOARD": str(self.path)}

    def arm(self, groups, nth, stay, way=ERROR):
        last = nth + 2 if stay and way == INTR else FOREVER if stay else nth
        self.disarm()
        struct.pack_into("<I4Q", self.map, 4, way, nth, last, 0, 0)
        struct.pack_into("<I", self.map, 80, 0)
        struct.pack_into("<I", self.map, 0, groups)

    def disarm(self):
        struct.pack_into("<I", self.map, 0, 0)

    @property
    def calls(self):
        return struct.unpack_from("<Q", self.map, 24)[0]

    @property
    def fired(self):
        return struct.unpack_from("<Q", self.map, 32)[0]

    def where(self):
        text = [self.map[88 + i * 160:248 + i * 160].split(b"\0")[0].decode() for i in range(41)]
        n = struct.unpack_from("<I", self.map, 80)[0]
        return text[0], text[1:1 + n]


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path / "board")


def ended_by_library(code, frames):
    """Which of these, or None."""
    above = [f for f in frames if not f.startswith("faults_preload")]
    if code == -signal.SIGABRT:
        return next((f.split("!")[0] for f in above if f.startswith(MAY_ABORT)), None)
    if code == -signal.SIGSEGV and above[0].startswith(MAY_CRASH[0]) and any(f.startswith(MAY_CRASH[1]) for f in above):
        return MAY_CRASH[0]
    return None


# ---- at start ----

def start_once(board, log, reference, mute=False):
    """One start under the plan that is armed: what became of it. mute: it cannot write either."""
    port = free_port()
    with open(log, "wb") as err:
        p = subprocess.Popen([BIN, "serve", *TINY_ARGS, "--port", str(port)], stderr=err, stdin=subprocess.DEVNULL,
                             env=clean_env(**board.env()))
    try:
        began = time.monotonic()
        while p.poll() is None and not is_ready(port):
            waited = time.monotonic() - began
            if waited > 3: # it may be ready and unable to say so
                board.disarm()
            assert waited < 150, "neither ready nor ended: %s" % (board.where(),)
            time.sleep(0.02)
        call, frames = board.where()
        if p.poll() is not None:
            library = ended_by_library(p.returncode, frames)
            if library:
                return "ended by " + library
            text = log.read_text(errors="replace")
            assert p.returncode in (1, 2, 3, 127), (p.returncode, call, frames, text[-1500:])
            assert text.strip() or mute, (p.returncode, call, frames)
            return "exit %d" % p.returncode
        board.disarm()
        answer = ask_until_closed(port, post_guard(pending_request()), 60)
        assert verdict_of(answer) == reference, (call, frames, answer)
        return "ready"
    finally:
        board.disarm()
        p.kill()
        p.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_ready(port):
    with contextlib.suppress(OSError, http.client.HTTPException):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        c.request("GET", "/readyz")
        return c.getresponse().status == 200
    return False


def steps(n, most):
    """1 to n: the first third of `most` one by one, then strides."""
    if EVERY or n <= most:
        return range(1, n + 1)
    few = most // 3
    return [*range(1, few + 1), *(few + (n - few) * k // (most - few) for k in range(1, most - few + 1))]


def tell(capsys, *words):
    with capsys.disabled():
        print(*words, flush=True)


@pytest.mark.parametrize("name,groups,most", [("memory", MEMORY, 12), ("files", FILES, 6), ("sockets", SOCKETS, 3),
                                              ("threads", THREADS, 3), ("maps", MAPS, 4)])
def test_start(board, tmp_path, reference, capsys, name, groups, most):
    board.arm(groups, NO_FAULT, False)
    assert start_once(board, tmp_path / "log", reference) == "ready"
    plans = [(nth, stay) for stay in (False, True) for nth in steps(board.calls, most)]
    seen = []

    def work(i): # most of a start that fails is waiting
        mine = Board(tmp_path / ("board%d" % i))
        for nth, stay in plans[i::4]:
            mine.arm(groups, nth, stay)
            seen.append(start_once(mine, tmp_path / ("log%d" % i), reference, mute=stay and name == "files"))

    run_threads(4, work)
    tell(capsys, "\nstart, %s: %d calls, %d starts with a fault; %s" % (name, board.calls, len(plans), ", ".join(
        "%s: %d" % (x, seen.count(x)) for x in sorted(set(seen)))))


# ---- while it serves ----

def post_guard(body):
    return post(body).replace(b"/v1/guard/batch", b"/v1/guard", 1).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


def get(path):
    return ("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path).encode()


def ask_until_closed(port, request, timeout, late=None):
    """All bytes until the server closes. Nothing for `timeout` seconds: late() is called, once, and they are waited for again."""
    out = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as s:
            s.sendall(request)
            while True:
                try:
                    d = s.recv(65536)
                except socket.timeout:
                    assert late is not None, "neither answered nor closed"
                    late()
                    late = None
                    s.settimeout(120)
                    continue
                if not d:
                    return out
                out += d
    except (ConnectionError, BrokenPipeError):
        return out


VOLATILE = ("id", "created", "timing_ms", "cached_tokens")


def plain(v):
    if isinstance(v, dict):
        return {k: plain(x) for k, x in v.items() if k not in VOLATILE}
    return [plain(x) for x in v] if isinstance(v, list) else v


def body_of(raw):
    """Status and body of a whole answer, or None."""
    head, sep, body = raw.partition(b"\r\n\r\n")
    m = re.search(rb"\r\nContent-Length: (\d+)", head)
    if not sep or not m or len(body) != int(m[1]):
        return None
    return int(head.split()[1]), body


def verdict_of(raw):
    status, body = body_of(raw)
    assert status == 200, raw
    return plain(json.loads(body))


def items_fit(got, wanted):
    return len(got) == len(wanted) and all(g == w or set(g) == {"error", "index"} for g, w in zip(got, wanted))


def judge_answer(raw, wanted, kind):
    """What an answer under a fault is: as without, an error, closed. Anything else fails."""
    whole = body_of(raw)
    if whole is None:
        # no answer, or a part of one, or one in lines: each must be what it had to be
        lines = [json.loads(x) for x in re.findall(rb"^\{.*\}$", raw.partition(b"\r\n\r\n")[2], re.M)]
        if kind == "lines" and raw.startswith(b"HTTP/1.1 200 "):
            data = wanted["lines"]
            assert len(lines) <= len(data) and items_fit([plain(x) for x in lines], data[:len(lines)]), raw
            return "same" if raw.endswith(b"\r\n0\r\n\r\n") and len(lines) == len(data) else "closed"
        return "closed"
    status, body = whole
    if status in (400, 408, 500, 503):
        if not body.endswith(b"}\n"):
            assert b"action" not in body, raw # the text of an error may end early, for want of memory
            return "error"
        error = json.loads(body)
        if kind == "error" and error == wanted["body"]:
            return "same"
        assert set(error) == {"error"} and error["error"]["code"] and error["error"]["message"], raw
        assert status != 400 or error["error"]["code"] in ("incomplete_body", "bad_request"), raw
        return "error"
    assert status == wanted["status"], raw
    if kind == "verdict":
        assert plain(json.loads(body)) == wanted["body"], raw
    elif kind == "list":
        assert items_fit(plain(json.loads(body))["data"], wanted["body"]["data"]), raw
    elif kind == "json":
        assert json.loads(body).keys() == wanted["body"].keys(), raw
    return "same"


BATCH = {"items": [pending_request(), {"messages": []}, answered_request()]}
REQUESTS = {
    "verdict": ("verdict", post_guard(answered_request())),
    "batch": ("list", post(BATCH).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)),
    "lines": ("lines", post(BATCH).replace(b"\r\n", b"\r\nConnection: close\r\nAccept: application/x-ndjson\r\n", 1)),
    "not JSON": ("error", post_guard({}).replace(b"{}", b"{]")),
    "info": ("json", get("/info")),
    "metrics": ("text", get("/metrics")),
}


def wanted_of(kind, raw):
    if kind == "lines":
        return {"lines": [plain(json.loads(x)) for x in re.findall(rb"^\{.*\}$", raw, re.M)]}
    status, body = body_of(raw)
    return {"status": status, "body": plain(json.loads(body)) if kind in ("verdict", "list", "json", "error") else None}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    s = Server(model=TINY_ARGS, log=tmp_path_factory.mktemp("reference") / "log")
    try:
        return verdict_of(ask_until_closed(s.port, post_guard(pending_request()), 60))
    finally:
        s.stop()


def held(pid):
    return len(os.listdir("/proc/%d/fd" % pid))


PLANS = {"memory": (MEMORY, ERROR), "files": (FILES, ERROR), "sockets": (SOCKETS, ERROR), "interrupted": (SOCKETS | FILES, INTR),
         "one byte": (SOCKETS | FILES, SHORT), "everything": (EVERYTHING, ERROR)}


@pytest.mark.parametrize("name", REQUESTS)
def test_serving(board, start, capsys, name):
    kind, request = REQUESTS[name]
    s = start("--verdict-cache", "0", model=TINY_ARGS, env=board.env())
    pid = s.process.pid
    ask_until_closed(s.port, request, 60)
    wanted = wanted_of(kind, ask_until_closed(s.port, request, 60))
    time.sleep(0.3)
    base, told = held(pid), {}
    for plan, (groups, way) in PLANS.items():
        board.arm(groups, NO_FAULT, False, way)
        ask_until_closed(s.port, request, 60)
        eventually(lambda: held(pid) == base)
        calls = board.calls
        for stay in (False, True):
            for nth in steps(calls, 12):
                board.arm(groups, nth, stay, way)
                raw = ask_until_closed(s.port, request, 0.7, late=board.disarm)
                fired = board.fired
                board.disarm()
                assert s.process.poll() is None, (plan, nth, stay, s.process.returncode, board.where())
                try:
                    what = judge_answer(raw, wanted, kind)
                except (AssertionError, ValueError) as e:
                    raise AssertionError("%s, call %d%s, %s: %s" % (plan, nth, " and on" if stay else "", board.where(), e))
                told[what] = told.get(what, 0) + (fired > 0)
                eventually(lambda: held(pid) == base)
        again = ask_until_closed(s.port, request, 60)
        assert judge_answer(again, wanted, kind) == "same", again
    eventually(lambda: s.metrics()["guardian_connections"] == 1)
    now = s.metrics()
    assert now["guardian_requests_in_flight"] == 0
    assert now["guardian_requests_waiting"] == 0 and now["guardian_requests_running"] == 0
    assert s.stop() == 0
    tell(capsys, "\n%s: %s" % (name, ", ".join("%s: %d" % x for x in sorted(told.items()))))


# ---- weights that are not numbers ----

def with_values(tmp_path, name, tensor, values, at=0):
    """The tiny model with some numbers of one tensor replaced."""
    d = tmp_path / name
    shutil.copytree(TINY, d)
    path = d / "model.safetensors"
    data = bytearray(path.read_bytes())
    n = struct.unpack_from("<Q", data)[0]
    begin, end = json.loads(data[8:8 + n])[tensor]["data_offsets"]
    assert 4 * (at + len(values)) <= end - begin
    struct.pack_into("<%df" % len(values), data, 8 + n + begin + 4 * at, *values)
    path.write_bytes(data)
    return ["--model", str(d), *TINY_ARGS[2:]]


def test_weights_that_make_scores_that_are_not_finite(start, tmp_path):
    """Finite, so they are loaded, but so large that nothing after them is. Only requests with a ~ in them use them."""
    row = json.loads((TINY / "tokenizer.json").read_text())["model"]["vocab"]["~"]
    huge = with_values(tmp_path, "huge", "model.embed_tokens.weight", [3e38, -3e38] * 24, at=48 * row)
    s = start("--verdict-cache", "16", model=huge)
    bad, good = pending_request("~"), pending_request()
    whole = s.guard(good)
    assert whole.status == 200
    for _ in range(2): # nothing of it is kept
        one = s.guard(bad)
        assert one.status == 500 and one.error["code"] == "non_finite_scores" and set(one.json) == {"error"}
        items = s.batch({"items": [bad, good, bad]}).json["data"]
        lines = s.batch({"items": [bad, good, bad]}, headers={"Accept": "application/x-ndjson"}).body.splitlines()
        for got in (items, [json.loads(x) for x in lines]):
            assert [set(x) for x in got[::2]] == [{"error", "index"}] * 2
            assert all(x["error"]["code"] == "non_finite_scores" for x in got[::2])
            assert plain(got[1]) == plain(whole.json)
    assert s.get("/readyz").status == 200
    assert s.stop() == 0


@pytest.mark.parametrize("tensor", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_numbers_are_refused(start, tmp_path, tensor, value):
    s = start(model=with_values(tmp_path, "bad", tensor, [0.5, float(value)]), wait="listening")
    while s.process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert s.guard(pending_request()).status == 503
    assert s.process.wait(60) == 3
    assert any(x["msg"] == "model not loaded" and tensor in x["error"] for x in s.lines())


# ---- a log that cannot be written ----

def serve_to(stderr, work):
    """A server whose log goes to an open file; work(port) while it runs."""
    port = free_port()
    p = subprocess.Popen([BIN, "serve", *TINY_ARGS, "--port", str(port)], stderr=stderr, stdin=subprocess.DEVNULL, env=clean_env())
    try:
        eventually(lambda: p.poll() is not None or is_ready(port))
        assert p.poll() is None
        work(port)
        assert p.poll() is None
        p.terminate()
        assert p.wait(60) == 0
    finally:
        if p.poll() is None:
            p.kill()
            p.wait()


def ask_many(reference, n=200):
    def work(port):
        for _ in range(n):
            assert verdict_of(ask_until_closed(port, post_guard(pending_request()), 60)) == reference
    return work


def test_log_on_a_full_device(reference):
    with open("/dev/full", "wb") as full:
        serve_to(full, ask_many(reference, 50))


def test_log_on_a_full_file_system(reference, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("a small file system cannot be mounted here: " + done.stderr.decode().strip())
    try:
        fill = small / "fill"
        log = small / "log"
        def until_full(port):
            fill.write_bytes(b"x" * 900_000)
            ask_many(reference, 400)(port)
            with pytest.raises(OSError):
                (small / "more").write_bytes(b"x" * 8192)
            full.append(log.read_bytes())
            fill.unlink() # room again: lines again
            ask_many(reference, 5)(port)

        full = []
        with open(log, "ab") as f:
            serve_to(f, until_full)
        # a line that was cut off stays alone: the next one begins anew
        assert b'"msg":"request"' in full[0] and log.read_bytes().startswith(full[0])
        after = log.read_bytes()[len(full[0]):]
        if not full[0].endswith(b"\n"):
            assert after.startswith(b"\n")
        lines = [json.loads(x) for x in after.split(b"\n") if x]
        assert sum(1 for x in lines if x["msg"] == "request") >= 5 and lines[-1]["msg"] == "stopped"
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_log_that_nobody_reads_is_closed(reference):
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as gone:
        serve_to(gone, ask_many(reference, 20))


# ---- clocks ----

def clocked(tmp_path):
    """Environment of a server whose wall clock is told by a file, and a function that writes it: "+1d", "-1d", "+0 x100". Deadlines
    are measured by the other clock, which nobody can set."""
    found = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "libfaketime is not installed (Debian package libfaketime)"
    file = tmp_path / "clock"

    def tell_time(what):
        new = tmp_path / "clock.new"
        new.write_text(what + "\n")
        new.rename(file)

    tell_time("+0")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}, tell_time


def day_of(s):
    return time.mktime(time.strptime(s.get("/healthz").headers["date"], "%a, %d %b %Y %H:%M:%S GMT")) / 86400


def test_the_wall_clock_jumps(start, tmp_path, reference):
    env, tell_time = clocked(tmp_path)
    s = start("--verdict-cache", "0", model=TINY_ARGS, env=env)
    start_day, stop, counts = day_of(s), [], [0] * 4

    def ask_on(i): # over one connection all the time
        c = s.connect()
        while not stop:
            r = s.guard(patient(unique(), 200) if i % 2 else pending_request(), connection=c)
            assert r.status == 200 and (i % 2 or plain(r.json) == reference), r.body
            counts[i] += 1

    def jump(_):
        try:
            for what, days in (("+1d", 1), ("-1d", -1), ("+0 x100", 0), ("+0", 0), ("-1d", -1), ("+1d", 1)):
                tell_time(what)
                before = list(counts)
                eventually(lambda: all(n > b + 3 for n, b in zip(counts, before)))
                assert abs(day_of(s) - start_day - days) < 0.3, what # the jump is real
        finally:
            stop.append(True)

    run_threads(5, lambda i: ask_on(i) if i < 4 else jump(i))
    m = s.metrics()
    assert not any(v for k, v in m.items() if k.startswith("guardian_rejected_total") or "canceled" in k), m
    assert m['guardian_requests_total{route="/v1/guard",code="200"}'] == sum(counts)
    assert s.stop() == 0


def test_a_slow_body_is_cut_in_its_time_whatever_the_wall_clock_says(start, tmp_path):
    env, tell_time = clocked(tmp_path)
    s = start(model=TINY_ARGS, env=env)
    head = b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection(("127.0.0.1", s.port), timeout=120) as c:
        c.sendall(head)
        began = time.monotonic()
        for what in ("+1d", "-1d", "+0", "-1d", "+0"): # not x100: libfaketime shortens each poll by it
            tell_time(what)
            for _ in range(3): # half of its time: nothing is cut yet
                c.sendall(b" ")
                time.sleep(0.33)
        c.settimeout(0.01)
        if time.monotonic() - began < 8:
            with pytest.raises(socket.timeout):
                c.recv(1)
        c.settimeout(120)
        out = b""
        while b"408" not in out:
            with contextlib.suppress(OSError):
                c.sendall(b" ") # a byte now and then, so that no pause ends it
            time.sleep(0.2)
            c.settimeout(0.2)
            with contextlib.suppress(socket.timeout):
                d = c.recv(65536)
                assert d, "closed without an answer"
                out += d
            assert time.monotonic() - began < 100, "the watchdog sleeps"
    assert time.monotonic() - began >= 9.5
    assert s.stop() == 0
