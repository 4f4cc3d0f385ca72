#!/usr/bin/env python3
"""What slow and many clients cost the others: answers beside 1,000 slow heads, 300 slow bodies and 200 readers that do not read.

    bench/front_door.py [--guardian build/release/guardian] [--model DIR] [--seconds 20] [--out bench/results]

Starts a server of its own and measures, in one run: answers to a healthy client while nobody else is there, then beside the
slow ones (which come back when they are cut, so that they are always as many), then alone again; the ratio is that of the
slow part to both idle parts together. Before it the memory of 2,000 connections that are kept, after it the answer to one
connection too many, and slowhttptest (Debian package) with slow heads (-H), bodies (-B) and reads (-X): its "service
available" line. Writes DIR/<date>-front-door.json and prints it. Let nothing else run meanwhile; it takes some three
minutes. Nothing but the standard library is used.
"""
import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEADS, BODIES, READERS = 1000, 300, 200
KEPT = 2000
RATE = 60  # requests of the healthy client in a second: one in two is a verdict
BYTE_S = 0.5  # between two bytes of a slow client,
TURNS = 50  # not of all of them at once: nothing makes clients of their own keep step
FILES = 16384
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


# The server


def start_server(program, model, log):
    argv = [program, "serve", "--port", "0", *(["--model", model] if model else [])]
    process = subprocess.Popen(argv, stderr=open(log, "wb"), stdin=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        lines = [json.loads(x) for x in pathlib.Path(log).read_text().split("\n")[:-1] if x.startswith("{")]
        if any(x["msg"] == "ready" for x in lines):
            return process, next(x["port"] for x in lines if x["msg"] == "listening")
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    sys.exit("the server did not become ready: " + pathlib.Path(log).read_text()[-2000:])


def resident(pid):
    status = pathlib.Path("/proc/%d/status" % pid).read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def connect(port, rcvbuf=None, timeout=60):
    s = socket.socket()
    if rcvbuf:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    s.settimeout(timeout)
    s.connect(("127.0.0.1", port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def read_answer(s):
    """Status of the next answer; 0 when there is none."""
    raw = b""
    while True:
        head, sep, body = raw.partition(b"\r\n\r\n")
        if sep and len(body) >= int(re.search(rb"(?i)content-length: (\d+)", head)[1]):
            return int(raw[9:12])
        part = s.recv(65536)
        if not part:
            return 0
        raw += part


# The healthy client


def verdict_request(i):
    body = json.dumps({"messages": [{"role": "user", "content": "What is the weather in place %d?" % i},
                                    {"role": "assistant", "content": "It is 21 degrees."}]}).encode()
    return b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def healthy(port, seconds, first):
    """Milliseconds of each answer by kind, counted from when it was due, and how many failed. Connections are kept for
    verdicts and new for /healthz."""
    times = {"verdict": [], "healthz": []}
    failed = 0
    kept = connect(port)
    start = time.monotonic()
    for i in range(int(seconds * RATE)):
        due = start + i / RATE
        if time.monotonic() > start + 2 * seconds + 10:  # so late that the rest need not be asked
            failed += 1
            times["healthz" if i % 2 == 0 else "verdict"].append((time.monotonic() - due) * 1000)
            continue
        time.sleep(max(0.0, due - time.monotonic()))
        kind = "verdict" if i % 2 else "healthz"
        s = None
        try:
            if kind == "healthz":
                s = connect(port)
                s.sendall(GET)
            else:
                kept.sendall(verdict_request(first + i))
            ok = read_answer(s or kept) == 200
        except OSError:
            ok = False
        if s is not None:
            s.close()
        elif not ok:
            kept.close()
            kept = connect(port)
        failed += not ok
        times[kind].append((time.monotonic() - due) * 1000)
    kept.close()
    return times, failed


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]


def summary(times):
    return {k: {"n": len(v), "p50_ms": round(percentile(v, 0.5), 3), "p99_ms": round(percentile(v, 0.99), 3),
                "max_ms": round(max(v), 3)} for k, v in times.items()}


# The slow ones


def open_slow(port, kind):
    s = connect(port, rcvbuf=4096 if kind == "reader" else None)
    if kind == "body":
        s.sendall(b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    s.setblocking(False)
    if kind == "reader":
        try:
            s.send(LARGE * 500)
        except BlockingIOError:
            pass
    return s


def attack(port, ready, over, told):
    """Keeps all slow clients there until `over`; tells how often one was cut and came back, at once. Readers are
    held for 11 to 19 s, since one that does not read is not told that it was cut, and not all of them come at once."""
    kinds = ["head"] * HEADS + ["body"] * BODIES + ["reader"] * READERS
    held = [open_slow(port, k) for k in kinds]
    chance = random.Random(1)
    until = [time.monotonic() + chance.uniform(3, 19) for _ in kinds]
    poll = select.poll()
    by_fd = {}
    cut = 0

    def watch(i):
        poll.register(held[i], select.POLLHUP | select.POLLERR | (select.POLLIN if kinds[i] != "reader" else 0))
        by_fd[held[i].fileno()] = i

    def renew(i):
        poll.unregister(held[i])
        del by_fd[held[i].fileno()]
        held[i].close()
        held[i] = open_slow(port, kinds[i])
        until[i] = time.monotonic() + chance.uniform(11, 19)
        watch(i)

    for i in range(len(kinds)):
        watch(i)
    ready.set()
    turn = 0
    while not over.is_set():
        late = [by_fd[fd] for fd, _ in poll.poll(0)]
        late += [i for i, k in enumerate(kinds) if k == "reader" and time.monotonic() > until[i]]
        for i in range(turn, len(kinds), TURNS):
            if kinds[i] != "reader" and i not in late:
                try:
                    held[i].send(b"a" if kinds[i] == "head" else b" ")
                except BlockingIOError:
                    pass
                except OSError:
                    late.append(i)
        for i in set(late):
            renew(i)
        cut += len(set(late))
        turn = (turn + 1) % TURNS
        over.wait(BYTE_S / TURNS)
    told.put({"came_back": cut})
    for s in held:
        s.close()


def beside_slow(port, seconds, first):
    ready, over, told = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Queue()
    p = multiprocessing.Process(target=attack, args=(port, ready, over, told))
    p.start()
    if not ready.wait(120):
        sys.exit("the slow clients could not connect")
    time.sleep(3)  # the first wave of them
    times, failed = healthy(port, seconds, first)
    over.set()
    what = told.get(timeout=60)
    p.join()
    return times, failed, what


# Many


def keep_many(port, pid):
    base = resident(pid)
    held, ok, again = [], 0, 0
    for _ in range(KEPT):
        s = connect(port)
        s.sendall(GET)
        held.append(s)
    try:
        for s in held:
            ok += read_answer(s) == 200
        for s in held:
            s.sendall(GET)
        for s in held:
            again += read_answer(s) == 200
    except OSError as e:
        print("kept connections: %s" % e, file=sys.stderr)
    grown = resident(pid) - base
    for s in held:
        s.close()
    return {"connections": KEPT, "first_ok": ok, "second_ok": again, "grown_mb": round(grown / 1e6, 2),
            "kib_each": round(grown / KEPT / 1024, 1)}


def refusal(s, wait):
    """Whether a connection is told 503, without having said anything."""
    s.settimeout(wait)
    try:
        return s.recv(16)[9:12] == b"503"
    except OSError:
        return False


def one_too_many(port):
    """Connections that say nothing, more than there may be: how many were let in, and how long a refusal takes then."""
    opened = [connect(port) for _ in range(KEPT + KEPT // 4)]
    time.sleep(1)
    told = [s for s in opened if refusal(s, 0)]
    times = []
    for _ in range(100 if told else 0):
        began = time.monotonic()
        with connect(port) as s:
            if refusal(s, 2):
                times.append((time.monotonic() - began) * 1000)
    for s in opened:
        s.close()
    p99 = round(percentile(times, 0.99), 2) if times else None
    return {"let_in": len(opened) - len(told), "refused": len(told), "refusal_p99_ms": p99}


def slowhttptest(port, program):
    """The tool's own probe asks while 1,000 of its connections are slow; True when it was answered throughout."""
    url = "http://127.0.0.1:%d/" % port
    common = ["-c", "1000", "-r", "200", "-p", "3", "-l", "20", "-i", "2"]
    kinds = {"slow_headers": ["-H", "-u", url + "healthz", "-x", "24"],
             "slow_bodies": ["-B", "-u", url + "v1/guard", "-s", "8192", "-x", "10", "-t", "POST"],
             "slow_reads": ["-X", "-u", url + "v1/taxonomy", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"]}
    out = {}
    for name, args in kinds.items():
        done = subprocess.run([program, *args, *common], capture_output=True, text=True, timeout=120)
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        seen = re.findall(r"service available:\s+(YES|NO)", text)
        ended = re.findall(r"Exit status:\s+(.*)", text)
        if not seen:
            sys.exit("slowhttptest said nothing: " + (done.stdout + done.stderr)[-1000:])
        out[name] = {"available": "NO" not in seen, "reports": len(seen), "exit": ended[-1].strip() if ended else None}
    return out


def commit():
    def git(*args):
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True)
    name = git("rev-parse", "--short", "HEAD").stdout.strip()
    return name + ("-dirty" if git("diff", "--quiet", "HEAD", "--", "server", "include", "bench").returncode else "")


def cpu():
    m = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return m[1] if m else "unknown"


def measure(port, pid, seconds, program):
    healthy(port, 2, 10 ** 7)  # warms up
    kept = keep_many(port, pid)
    before, failed_before = healthy(port, seconds / 2, 0)
    beside, failed, slow = beside_slow(port, seconds, 10 ** 5)
    time.sleep(15)  # the last of them are cut
    after, failed_after = healthy(port, seconds / 2, 10 ** 6)
    idle = {k: before[k] + after[k] for k in before}
    a, b = summary(idle), summary(beside)
    return [
        {"bench": "front_door", "heads": HEADS, "bodies": BODIES, "readers": READERS, "rate": RATE, "idle": a, "beside": b,
         "ratio": {k: {p: round(b[k][p] / a[k][p], 2) for p in ("p50_ms", "p99_ms")} for k in a},
         "failed_idle": failed_before + failed_after, "failed_beside": failed, "slow": slow},
        {"bench": "kept_connections", **kept},
        {"bench": "one_too_many", **one_too_many(port)},
        {"bench": "slowhttptest", **slowhttptest(port, program)},
    ]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--guardian", default=str(ROOT / "build/release/guardian"))
    p.add_argument("--model", default=None)
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--out", default=str(ROOT / "bench/results"))
    args = p.parse_args()
    tool = shutil.which("slowhttptest")
    if tool is None:
        sys.exit("slowhttptest is needed (apt-get install slowhttptest)")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES if hard == resource.RLIM_INFINITY else min(hard, FILES), hard))
    print("load average %s: let nothing else run" % os.getloadavg()[0], file=sys.stderr)
    with tempfile.TemporaryDirectory() as tmp:
        process, port = start_server(args.guardian, args.model, tmp + "/log")
        try:
            results = measure(port, process.pid, args.seconds, tool)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
    doc = {"date": datetime.date.today().isoformat(), "commit": commit(), "cpu": cpu(), "processors": os.cpu_count(),
           "server_exit": code, "results": results}
    path = pathlib.Path(args.out) / (doc["date"] + "-front-door.json")
    path.write_text(json.dumps(doc, indent=1) + "\n")
    print(json.dumps(doc, indent=1))
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
