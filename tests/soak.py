#!/usr/bin/env python3
"""Minutes of mixed load on the real program, and then: is it as it was?

    python3 tests/soak.py --minutes 10 --program build/release/guardian [--model DIR] [--seed N] [--log FILE] [-- FLAGS of serve]

Threads ask good requests of all forms, send hostile heads, leave at every stage (FIN and RST), are slow, come in bursts
over the limit, and send SIGHUP where the program handles it. Once a second memory, threads and descriptors are looked
at. In the end it is quiet, and must be true:

  - threads and descriptors are as many as before the load, nothing is in flight;
  - no 5xx but a 503 with Retry-After and a documented code (and 505 for HTTP/2.0), by the answers and by /metrics;
  - the fixed requests get the same bits as in the beginning, as they did all the time between;
  - the log is one JSON object a line and has one line for each request that /metrics counted;
  - between the end of a warm-up (a third of the time) and the end, both quiet, what is allocated has grown by less than
    HEAP_BOUND, and resident memory by less than RSS_BOUND for each request;
  - SIGTERM ends the process with 0.

On the bounds: half a megabyte an hour cannot be seen in ten minutes, a small leak in each request can. A leaked block of
64 bytes takes 80 bytes of the heap. guardian_heap_bytes tells to the byte what is allocated (the server runs with one
arena and without the per-thread caches of malloc, whose contents count too), and what is kept on purpose is bounded and
full by the end of the warm-up (the caches are made small for that). civetweb keeps the path of the last request of each
of its threads, long hostile ones too, so each thread gets a short one before the heap is read: then two quiet times
differ by less than 1 kB (without it by 120 kB). HEAP_BOUND is 16 times that, so 200 requests that leak one such block
break it: one in four hundred of ten minutes. Resident memory says less: it rises in steps as each of some hundred threads
comes to its deepest stack, and a leak may fill holes for a time. So it is the median of its rises between the eighths of
the time after the warm-up, beside the number of requests (a busy machine does not matter then), that must stay below
RSS_BOUND, half of 80: steps do not move it, a leak that shows in most of the eighths does. A run too short to have
READINGS_MIN readings fails.

Prints one JSON line; exit status 1 when anything is not true, and says what. Nothing is timed. Python's own library only.
"""
import argparse
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAP_BOUND = 16 * 1024  # bytes
RSS_BOUND = 40  # bytes a request
READINGS_MIN = 24
SEGMENTS = 8
MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0"}
CODES_503 = {"overloaded", "queue_full", "draining", "loading"}
NDJSON = "Accept: application/x-ndjson\r\n"
PATHS = ["/healthz", "/readyz", "/info", "/version", "/v1/models", "/v1/taxonomy", "/metrics", "/nowhere"]
WORDS = "please tell the of weather account balance transfer order city report invoice ticket mail to now again for".split()


# ---- requests ----

def tool(name, **params):
    return {"type": "function", "function": {"name": name, "description": "Does %s" % name, "parameters": {
        "type": "object", "properties": {k: {"type": v} for k, v in params.items()}, "required": list(params)}}}


TOOLS = [tool("get_weather", city="string"), tool("send_mail", to="string", text="string")]


def call(name, arguments, number=1):
    return {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c%d" % number, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}]}


def words(rng, n):
    return " ".join(rng.choice(WORDS) for _ in range(n))


def pending(rng, n):
    city = "City%d" % rng.randrange(10 ** 9)
    return {"tools": TOOLS, "messages": [{"role": "user", "content": "Weather in %s? %s" % (city, words(rng, n))},
                                         call("get_weather", {"city": city})]}


def answered(rng, n):
    r = pending(rng, n)
    r["messages"] += [{"role": "tool", "tool_call_id": "c1", "content": json.dumps({"temp": rng.randrange(40)})},
                      {"role": "assistant", "content": "It is warm. " + words(rng, n)}]
    return r


def flows(rng, n):
    def flow(sender, recipient, what, principle):
        return {"sender": sender, "recipient": recipient, "subject": "user", "type": what, "principle": principle}

    return {"mci": [flow("user", "client", words(rng, 3 + n // 8), "consent"),
                    flow("client", "server/get_weather", "city %d" % rng.randrange(10 ** 9), "necessity")]}


def frames(rng, recorded):
    some = rng.choice(recorded)
    return {"frames": some[:rng.randrange(7, len(some) + 1)], "session": "s%d" % rng.randrange(10 ** 9)}


def load_frames():
    return [json.loads(p.read_text())["frames"] for p in sorted((ROOT / "tests/golden/frames").glob("time_*.json"))]


def fixed_requests(recorded):
    rng = random.Random("fixed")
    out = [pending(rng, n) for n in (0, 5, 40)] + [answered(rng, 10), flows(rng, 8)]
    return out + [{"frames": f} for f in recorded]


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/guard HTTP/1.1\r\nHost: x\r\n"
HOSTILE = [
    POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", POST + b"Content-Length: 5abc\r\n\r\nhello", POST + b"\r\n",
    POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n", GET + b"Host: y\r\n\r\n", GET + b"".join(b"X%d: 1\r\n" % i for i in range(80)) + b"\r\n",
    GET + b"X: a\r\n b\r\n\r\n", GET.replace(b"\r\n", b"\n") + b"\n", b"\r\n\r\n" + GET + b"\r\n", GET + b"X: a\x01\r\n\r\n",
    GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", POST + b"Content-Length: 2\r\nExpect: tea\r\n\r\n{}",
    b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00" + b"\x00" * 60,
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET " + b"/a" * 6000 + b" HTTP/1.1\r\n\r\n",
    POST + b"Content-Length: 2097153\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n" * 50,
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20000,
]
BODIES = [b"", b"{", b"[]", b"{}", b"null", b"[" * 100000, b'{"messages": 1}', b'{"messages": [{"role": "x"}]}', b"\xff" * 300,
          b'{"messages": [], "messages": []}', b'{"frames": [{}]}', b'{"mci": [[]]}', b'{"messages": [' + b"1," * 50000 + b"1]}",
          b'{"messages": [{"role": "user", "content": "' + b"x" * 300000 + b'"}]}', b'{"deadline_ms": -1, "messages": []}']


def post(body, path="/v1/guard", headers=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (path, len(data), headers)).encode() + data


# ---- one connection ----

class Gone(Exception):
    """The connection ended before an answer did."""


class Connection:
    def __init__(self, port, timeout=120):
        self.s = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()

    def send(self, data):
        try:
            self.s.sendall(data)
        except OSError:
            pass  # the server may have answered and closed already

    def _more(self):
        try:
            d = self.s.recv(65536)
        except OSError:
            d = b""
        if not d:
            raise Gone()
        self.buffer += d

    def _until(self, mark):
        while mark not in self.buffer:
            self._more()
        out, _, self.buffer = self.buffer.partition(mark)
        return out

    def _take(self, n):
        while len(self.buffer) < n:
            self._more()
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def answer(self):
        """(status, headers, body)"""
        lines = self._until(b"\r\n\r\n").decode("latin1").split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (x.split(":", 1) for x in lines[1:])}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while True:
                n = int(self._until(b"\r\n"), 16)
                body += self._take(n)
                self._take(2)
                if n == 0:
                    break
        else:
            body = self._take(int(headers.get("content-length", 0)))
        return int(lines[0].split()[1]), headers, body

    def leave(self, reset):
        if reset:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.s.close()


# ---- the run ----

class Soak:
    def __init__(self, port, process, recorded, seed):
        self.port, self.process, self.recorded, self.seed = port, process, recorded, seed
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.failures, self.counts, self.samples, self.phase = [], {}, [], 0
        self.fixed, self.expected = fixed_requests(recorded), None
        self.hup = handles_hup(process.pid)

    def fail(self, text):
        with self.lock:
            if len(self.failures) < 20:
                self.failures.append(text)

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def check(self, answer, request):
        """Counts an answer and says what is wrong with it; the parsed body of a verdict, else None."""
        status, headers, body = answer
        self.count(str(status))
        if status == 503:
            code = json.loads(body)["error"]["code"]
            if code not in CODES_503 or not 1 <= int(headers.get("retry-after", 0)) <= 60:
                self.fail("503 %s, Retry-After %s" % (code, headers.get("retry-after")))
        elif status >= 500 and not (status == 505 and b" HTTP/1.1\r\n" not in request):
            self.fail("%d for %r: %r" % (status, request[:80], body[:200]))
        elif status == 200 and headers["content-type"] == "application/json" and request.startswith(b"POST"):
            return json.loads(body)
        return None

    def ask(self, connection, request):
        connection.send(request)
        return self.check(connection.answer(), request)

    def one(self, request, patient=False):
        """A verdict over a connection of its own; patient: asks until it is not refused."""
        while True:
            with Connection(self.port) as c:
                verdict = self.ask(c, post({**request, "deadline_ms": 600000}))
            if verdict is not None or not patient:
                return verdict
            time.sleep(0.05)

    def scores(self):
        return [self.one(r, patient=True)["scores"] for r in self.fixed]


def good(soak, rng):
    """Some requests on one connection, as long as the server keeps it."""
    kinds = (lambda: pending(rng, rng.randrange(30)), lambda: answered(rng, rng.randrange(20)),
             lambda: flows(rng, rng.randrange(30)), lambda: frames(rng, soak.recorded))
    with Connection(soak.port) as c:
        for _ in range(rng.randrange(1, 20)):
            k = rng.randrange(len(soak.fixed))
            which = rng.randrange(8)
            if which == 0:
                request = soak.fixed[k]
            elif which == 1:
                path = rng.choice(PATHS)
                c.send(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path).encode())
                soak.check(c.answer(), b"GET")
                continue
            elif which == 2:
                items = [{**rng.choice(kinds)(), "deadline_ms": 600000} for _ in range(rng.randrange(1, 5))] + [{}]
                lines = rng.random() < 0.5
                c.send(post({"items": items}, "/v1/guard/batch", NDJSON if lines else ""))
                status, headers, body = c.answer()
                soak.check((status, headers, body), b"POST batch")
                if status == 200:
                    told = [json.loads(x) for x in body.decode().splitlines()] if lines else json.loads(body)["data"]
                    if len(told) != len(items) or any("action" not in x and "error" not in x for x in told):
                        soak.fail("a batch of %d: %r" % (len(items), body[:200]))
                if headers["connection"] == "close":
                    return
                continue
            else:
                request = rng.choice(kinds)()
            c.send(post({**request, "deadline_ms": 600000}))
            answer = c.answer()
            verdict = soak.check(answer, b"POST /v1/guard")
            if verdict is not None:
                if verdict["action"] not in ("allow", "review", "block"):
                    soak.fail("action %r" % verdict["action"])
                if which == 0 and verdict["scores"] != soak.expected[k]:
                    soak.fail("fixed request %d: other scores than in the beginning" % k)
            if answer[1]["connection"] == "close":
                return


def hostile(soak, rng):
    data = rng.choice(HOSTILE) if rng.random() < 0.5 else post(rng.choice(BODIES), rng.choice(["/v1/guard", "/v1/guard/batch"]))
    if rng.random() < 0.3:
        at = rng.randrange(len(data)) if data else 0
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1:]
    with Connection(soak.port) as c:
        c.send(data)
        try:
            c.s.shutdown(socket.SHUT_WR)
            for _ in range(60):
                soak.check(c.answer(), data)
        except (Gone, OSError, ValueError, KeyError):
            pass


def leaver(soak, rng):
    """Gone before, in and after the head, in the body, while it waits, in the answer."""
    batch = rng.random() < 0.5
    data = post({"items": [pending(rng, 20) for _ in range(8)]}, "/v1/guard/batch", NDJSON) if batch else post(pending(rng, 30))
    head = data.index(b"\r\n\r\n") + 4
    cut = rng.choice([0, rng.randrange(1, head), head, rng.randrange(head, len(data)), len(data), len(data)])
    c = Connection(soak.port)
    c.send(data[:cut])
    if cut == len(data):
        time.sleep(rng.choice([0, 0.002, 0.02, 0.15]))
        if rng.random() < 0.3:
            c.s.settimeout(5)
            try:
                c.s.recv(20)
            except OSError:
                pass
    c.leave(reset=rng.random() < 0.5)


def slow(soak, rng):
    """Bytes now and then: the head, the body, or taking the answer."""
    data = post(pending(rng, 5))
    c = Connection(soak.port, timeout=30)
    if rng.random() < 0.3:
        c.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        c.send(post({"items": [{**pending(rng, 1), "session": "\x7f" * 8000}] * 4}, "/v1/guard/batch", NDJSON))
        pause = 0.2
    else:
        pause = rng.choice([0.05, 0.5])
    at = rng.randrange(1, 60) if rng.random() < 0.5 else data.index(b"\r\n\r\n") + 4
    until = time.monotonic() + rng.uniform(1, 14)
    c.send(data[:at])
    try:
        while time.monotonic() < until and not soak.stop.is_set():
            c.s.settimeout(pause)
            try:
                if not c.s.recv(100):
                    break
            except socket.timeout:
                c.s.sendall(data[at:at + 1])
                at += 1
    except OSError:
        pass
    c.leave(reset=rng.random() < 0.5)


def churn(soak, rng):
    held = [Connection(soak.port) for _ in range(rng.randrange(1, 12))]
    for c in held:
        if rng.random() < 0.5:
            c.send(GET + b"\r\n")
    time.sleep(rng.uniform(0, 0.3))
    for c in held:
        c.leave(reset=rng.random() < 0.5)


def burst(soak, rng):
    """More at one time than fits into the queue."""
    def ask(k):
        try:
            soak.one(pending(random.Random("%s %d" % (soak.seed, k)), 60))
        except Gone:
            soak.fail("a request of a burst got no answer")

    some = [threading.Thread(target=ask, args=(rng.randrange(10 ** 9),)) for _ in range(40)]
    for t in some:
        t.start()
    for t in some:
        t.join()
    soak.stop.wait(rng.uniform(2, 6))


def hup(soak, rng):
    soak.process.send_signal(signal.SIGHUP)
    soak.count("SIGHUP")
    soak.stop.wait(rng.uniform(3, 10))


def worker(soak, what, number):
    rng = random.Random("%s %s %d %d" % (soak.seed, what.__name__, number, soak.phase))
    while not soak.stop.is_set() and soak.process.poll() is None:
        try:
            what(soak, rng)
            soak.count(what.__name__)
        except Gone:
            if what is good:
                soak.count("kept connections that ended")
        except ConnectionError:
            soak.count("connections that failed")
        except Exception as e:  # noqa: B902 - a thread that dies would leave a soak of nothing
            soak.fail("%s: %r" % (what.__name__, e))
            time.sleep(0.2)
        time.sleep(0.01)


# ---- looking ----

def handles_hup(pid):
    """SIGHUP is caught, or blocked by all threads but the one that waits for it."""
    status = "".join(x.read_text() for x in pathlib.Path("/proc/%d/task" % pid).glob("*/status"))
    masks = [int(x.split()[1], 16) for x in status.splitlines() if x.startswith(("SigCgt:", "SigBlk:"))]
    return any(m & 1 << (signal.SIGHUP - 1) for m in masks)


def look(pid):
    fields = dict(x.split(":", 1) for x in pathlib.Path("/proc/%d/status" % pid).read_text().splitlines())
    return {"rss": int(fields["RssAnon"].split()[0]) * 1024, "threads": int(fields["Threads"]),
            "fds": len(os.listdir("/proc/%d/fd" % pid))}


def metrics(port):
    with Connection(port) as c:
        c.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = c.answer()[2].decode()
    return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in text.splitlines() if not x.startswith("#"))}


def total(m, name):
    return int(sum(v for k, v in m.items() if k.split("{")[0] == name))


def sampler(soak):
    while not soak.stop.wait(1):
        try:
            m = metrics(soak.port)
            soak.samples.append({**look(soak.process.pid), "requests": total(m, "guardian_requests_total"),
                                 "verdicts": total(m, "guardian_verdicts_total")})
        except (Gone, OSError, KeyError):
            soak.count("samples missed")


def rss_rise(samples):
    """Bytes a request: the median of what it is from each eighth of the readings to the next."""
    if len(samples) < READINGS_MIN:
        return None
    n = len(samples) // SEGMENTS
    parts = [samples[i * n:(i + 1) * n] for i in range(SEGMENTS)]
    at = [[statistics.median(s[what] for s in part) for part in parts] for what in ("requests", "rss")]
    return statistics.median((b - a) / (y - x) for x, y, a, b in zip(at[0], at[0][1:], at[1], at[1][1:]))


def heap(soak):
    """Requests that were counted, and bytes that are allocated; the least of some readings, each with its own buffers."""
    for _ in range(2 * look(soak.process.pid)["threads"]):  # idle threads come in turn, nearly
        with Connection(soak.port) as c:
            c.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            c.answer()
    some = [metrics(soak.port) for _ in range(5)]
    return {"requests": total(some[-1], "guardian_requests_total"), "heap": int(min(m["guardian_heap_bytes"] for m in some))}


def quiet(soak, base):
    """Waits until nothing is in flight and threads and descriptors are as they were; what they are then."""
    until = time.monotonic() + 120
    while True:
        now = look(soak.process.pid)
        if now["threads"] == base["threads"] and now["fds"] == base["fds"] and metrics(soak.port)["guardian_connections"] == 1:
            return {**look(soak.process.pid), **heap(soak)}
        if time.monotonic() > until:
            soak.fail("after the load %(threads)d threads and %(fds)d descriptors" % now +
                      ", before it %(threads)d and %(fds)d" % base)
            return {**now, **heap(soak)}
        time.sleep(0.5)


def judge_memory(soak, middle, now):
    n = now["requests"] - middle["requests"]
    grown, rise = now["heap"] - middle["heap"], rss_rise(soak.samples)
    if grown > HEAP_BOUND:
        soak.fail("what is allocated has grown by %d bytes in %d requests, %d at most" % (grown, n, HEAP_BOUND))
    if rise is None:
        soak.fail("%d readings after the warm-up: the run is too short to tell a leak" % len(soak.samples))
    elif rise > RSS_BOUND:
        soak.fail("resident memory rises by %.1f bytes for each request, %d at most" % (rise, RSS_BOUND))
    return {"heap_bytes": [middle["heap"], now["heap"]], "heap_grown": grown, "requests_between": n,
            "rss_bytes_a_request": rise and round(rise, 2)}


def judge(soak, base, middle):
    now = quiet(soak, base)
    memory = judge_memory(soak, middle, now)
    if soak.scores() != soak.expected:
        soak.fail("the fixed requests have other scores than in the beginning")
    quiet(soak, base)
    m = metrics(soak.port)
    for name in ("guardian_requests_in_flight", "guardian_requests_waiting", "guardian_requests_running"):
        if m[name] != 0:
            soak.fail("%s is %g" % (name, m[name]))
    failed, left = m["guardian_engine_failures_total"], m["guardian_engine_canceled_total"]
    if failed > left:  # giving up for a client that has left counts as both
        soak.fail("%d prompts failed in the engine, for %d of them the client had left" % (failed, left))
    by_code = {}
    for k, v in m.items():
        if k.startswith("guardian_requests_total{"):
            code = k.split('code="')[1].split('"')[0]
            by_code[code] = by_code.get(code, 0) + int(v)
    for code in ("500", "504", "other"):
        if by_code.get(code):
            soak.fail("/metrics counts %d answers %s" % (by_code[code], code))
    return now, m, by_code, memory


def check_log(soak, path, counted):
    lines = [x for x in path.read_text().split("\n") if x]
    try:
        requests = sum(json.loads(x)["msg"] == "request" for x in lines)
    except (ValueError, KeyError) as e:
        soak.fail("the log: %r" % e)
        return
    if requests != counted + 1:  # the reading itself is counted after it was written
        soak.fail("the log has %d request lines, /metrics counted %d" % (requests, counted + 1))


def start(a, log):
    argv = [a.program, "serve", "--port", "0", *(["--model", a.model] if a.model else []), "--max-queue-ms", "300",
            "--kv-cache-mib", "100", "--verdict-cache", "64", *a.serve]
    env = {k: v for k, v in os.environ.items() if not k.startswith("GUARDIAN_")}
    process = subprocess.Popen(argv, stderr=log, stdin=subprocess.DEVNULL, env={**env, **MALLOC})
    for _ in range(1200):
        lines = [json.loads(x) for x in pathlib.Path(log.name).read_text().splitlines() if x.endswith("}")]
        if any(x["msg"] == "ready" for x in lines):
            return process, next(x["port"] for x in lines if x["msg"] == "listening")
        if process.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit("the server did not start: " + pathlib.Path(log.name).read_text()[-1000:])


def load(soak, minutes):
    soak.stop.clear()
    soak.phase += 1
    mix = [(good, 4), (hostile, 2), (leaver, 2), (slow, 6), (churn, 1), (burst, 1)] + ([(hup, 1)] if soak.hup else [])
    threads = [threading.Thread(target=worker, args=(soak, what, i)) for what, n in mix for i in range(n)]
    threads.append(threading.Thread(target=sampler, args=(soak,)))
    for t in threads:
        t.start()
    until = time.monotonic() + minutes * 60
    while time.monotonic() < until and soak.process.poll() is None:
        time.sleep(0.2)
    soak.stop.set()
    for t in threads:
        t.join()


def run(a, log):
    process, port = start(a, log)
    soak = Soak(port, process, load_frames(), a.seed)
    try:
        soak.expected = soak.scores()
        time.sleep(1)  # the last connection is closed on both sides
        base = look(process.pid)
        load(soak, a.minutes / 3)
        middle = quiet(soak, base)
        soak.samples.clear()
        load(soak, a.minutes * 2 / 3)
        now, m, by_code, memory = judge(soak, base, middle)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        if code != 0:
            soak.fail("the process ended with %d" % code)
        check_log(soak, pathlib.Path(log.name), total(m, "guardian_requests_total"))
    except (Gone, OSError, subprocess.TimeoutExpired) as e:
        soak.stop.set()
        soak.fail("%r; the process: %s; its log ends: %s" % (e, process.poll(), pathlib.Path(log.name).read_text()[-600:]))
        now, base, m, by_code, memory = {}, {}, {}, {}, {}
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    text = pathlib.Path(log.name).read_text(errors="replace")
    if "Sanitizer" in text or "runtime error" in text:
        soak.fail("a sanitizer spoke: " + text[-2000:])
    if a.samples:
        pathlib.Path(a.samples).write_text(json.dumps(soak.samples))
    rss = [s["rss"] for s in soak.samples] or [0]
    return {"soak": "ok" if not soak.failures else "failed", "minutes": a.minutes,
            "requests": total(m, "guardian_requests_total"), "verdicts": total(m, "guardian_verdicts_total"),
            "codes": dict(sorted(by_code.items())), "did": dict(sorted(soak.counts.items())),
            "sighup": soak.hup, "readings": len(soak.samples), "threads": [base.get("threads"), now.get("threads")],
            "descriptors": [base.get("fds"), max([s["fds"] for s in soak.samples] or [0]), now.get("fds")],
            "rss_mib": [round(x / 2 ** 20, 2) for x in (base.get("rss", 0), rss[0], max(rss), now.get("rss", 0))],
            **memory, "failures": soak.failures}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--program", default=str(ROOT / "build/release/guardian"))
    p.add_argument("--model")
    p.add_argument("--seed", default="1")
    p.add_argument("--log", help="keeps the server's log here")
    p.add_argument("--samples", help="writes the readings here, one JSON value")
    p.add_argument("serve", nargs="*")
    a = p.parse_args()
    with (open(a.log, "w") if a.log else tempfile.NamedTemporaryFile("w", suffix=".log")) as log:
        told = run(a, log)
    print(json.dumps(told))
    return 0 if told["soak"] == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
