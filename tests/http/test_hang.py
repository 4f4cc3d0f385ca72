"""A worker that hangs: its thread alone is stopped as a debugger stops one. The server sees it, fails those who wait and ends.

It takes the time that the server gives a step (GD_HANG_MS, 30 s), most of it asleep."""

import ctypes
import os
import pathlib
import re
import signal
import threading
import time

import pytest
from conftest import ROOT, eventually, pending_request
from test_keys import TINY, bearer, entry, new_key, put_keys
from test_life import policy, put

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000
HANG_S = int(re.search(r"#define GD_HANG_MS (\d+)", (ROOT / "include/guardian/limits.h").read_text())[1]) / 1000


def ptrace(request, tid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, tid, None, None) != 0:
        pytest.skip("no thread can be stopped here: ptrace: " + os.strerror(ctypes.get_errno()))


def used(pid):
    """{thread: time that it has computed}"""
    out = {}
    for tid in os.listdir("/proc/%d/task" % pid):
        try:
            fields = pathlib.Path("/proc/%d/task/%s/stat" % (pid, tid)).read_text().rsplit(")", 1)[1].split()
        except FileNotFoundError:
            continue
        out[int(tid)] = int(fields[11])
    return out


def reap(tid):
    """A thread that is traced is not gone before its tracer knows."""
    try:
        os.waitpid(tid, os.WNOHANG | WALL)
    except ChildProcessError:
        pass


def worker_of(s, headers=None, words=600):
    """The thread that computes."""
    before = used(s.process.pid)
    for i in range(12):
        assert s.guard(pending_request("city %d" % i, words=words), headers=headers).status == 200
    after = used(s.process.pid)
    return max(after, key=lambda t: after[t] - before.get(t, after[t]))


def run_until_it_ends(s, tid, ask):
    """Stops the worker while others ask; (answers, seconds until the end, answers of /readyz)"""
    answers, ready = [], []
    threads = [threading.Thread(target=ask, args=(i, answers)) for i in range(6)]
    ptrace(PTRACE_SEIZE, tid)
    for t in threads:
        t.start()
    ptrace(PTRACE_INTERRUPT, tid)
    start = time.monotonic()
    while s.process.poll() is None and time.monotonic() - start < 4 * HANG_S:
        try:
            ready.append(s.get("/readyz").status)
        except OSError:
            pass
        reap(tid)
        time.sleep(0.02)
    for t in threads:
        t.join()
    return answers, time.monotonic() - start, ready


def test_a_hanging_worker_ends_the_server(start):
    s = start("--threads", "1")

    def ask(i, answers):
        try:
            while True:
                r = s.guard({**pending_request("x%d.%d" % (i, len(answers)), words=600), "deadline_ms": 600000})
                answers.append((r.status, r.body))
                if r.status != 200:
                    return
        except OSError:
            answers.append((0, b""))  # came too late to be heard

    answers, took, ready = run_until_it_ends(s, worker_of(s), ask)
    assert s.process.poll() == 1
    assert took >= HANG_S - 2
    errors = [x for x in s.lines() if x["severity_text"] == "ERROR"]
    assert len(errors) == 1 and "the worker hangs" in errors[0]["error"]
    assert ready[0] == 200 and set(ready) <= {200, 503}
    refused = [body for status, body in answers if status == 503]
    told = [body for body in refused if b"the worker hangs" in body]
    assert told and all(b'"overloaded"' in body for body in refused if body not in told)
    assert {status for status, _ in answers} <= {200, 503, 0}


def test_a_reload_does_not_wait_for_the_worker(start, tmp_path):
    """While the worker stands still a key is taken back and policies are read; then it goes on where it was."""
    keys, rules = tmp_path / "keys.json", tmp_path / "policy.json"
    old, kept = new_key(), new_key()
    put_keys(keys, entry(old, "old"), entry(kept, "kept"))
    put(rules, policy("mine", 1))
    s = start("--threads", "1", "--keys", str(keys), model=["--model", TINY, "--policy", str(rules)])
    tid = worker_of(s, headers=bearer(kept), words=100)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(s.guard(pending_request("x"), headers=bearer(old))))
    ptrace(PTRACE_SEIZE, tid)
    ptrace(PTRACE_INTERRUPT, tid)
    asking.start()
    eventually(lambda: s.get("/info", headers=bearer(kept)).status == 200)
    eventually(lambda: b"guardian_requests_in_flight 1\n" in s.get("/metrics", headers=bearer(kept)).body)
    put_keys(keys, entry(kept, "kept"))
    put(rules, policy("mine", 2))
    s.process.send_signal(signal.SIGHUP)
    eventually(lambda: s.get("/info", headers=bearer(old)).status == 401, timeout=HANG_S / 3)
    eventually(lambda: s.get("/info", headers=bearer(kept)).json["policies"][0]["version"] == 2, timeout=HANG_S / 3)
    assert not answers
    ptrace(PTRACE_DETACH, tid)
    asking.join()
    assert answers[0].status == 200 and answers[0].json["policy"] == "mine@1"  # it had entered before
    r = s.guard(pending_request("y"), headers=bearer(kept))
    assert r.status == 200 and r.json["policy"] == "mine@2"
    assert s.stop() == 0


def test_a_stopped_process_does_not_hang(start):
    """Time in which the whole process was stopped is nobody's fault; here it is only short."""
    s = start()
    for _ in range(3):
        s.process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        s.process.send_signal(signal.SIGCONT)
        assert s.guard(pending_request("y")).status == 200
    assert s.stop() == 0
