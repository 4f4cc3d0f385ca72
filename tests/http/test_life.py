"""The life of a server: SIGHUP reads the policies again, SIGTERM ends it without losing an answer, again and again.

GUARDIAN_DRAINS says how often the drain is tried (default 6; 100 by hand).
"""
import http.client
import json
import os
import pathlib
import signal
import threading
import time

from conftest import HERE, ROOT, eventually, pending_request, run_threads, unique

TINY = str(ROOT / "tests/golden/models/llama_f32_tied")
DRAINS = int(os.environ.get("GUARDIAN_DRAINS", "6"))


def policy(name, version, **more):
    p = json.loads((HERE / "policy_tiny.json").read_text())
    p.update(name=name, version=version, **more)
    return p


def put(path, content):
    """As editors and config maps do it: whole or not at all."""
    fresh = pathlib.Path(str(path) + ".new")
    fresh.write_text(content if isinstance(content, str) else json.dumps(content))
    fresh.rename(path)


def with_policies(start, tmp_path, *args):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    put(first, policy("first", 1))
    put(second, policy("second", 1))
    s = start(*args, model=["--model", TINY, "--policy", "%s,%s" % (first, second)])
    return s, first, second


def reloads(s):
    m = s.metrics()
    return [m.get('guardian_reloads_total{result="%s"}' % r, 0) for r in ("ok", "failed")]


def names(s):
    return ["%s@%d" % (p["name"], p["version"]) for p in s.get("/info").json["policies"]]


def test_requests_name_their_policy(start, tmp_path):
    s, _, _ = with_policies(start, tmp_path)
    assert names(s) == ["first@1", "second@1"]
    assert s.guard(pending_request()).json["policy"] == "first@1"
    assert s.guard({**pending_request(), "policy": "second"}).json["policy"] == "second@1"
    r = s.guard({**pending_request(), "policy": "third"})
    assert r.status == 422 and r.error["field"] == "policy" and "third" in r.error["message"]
    items = s.batch({"items": [{**pending_request(), "policy": p} for p in ("second@1", "third", "first")]}).json["data"]
    assert items[0]["policy"] == "second@1" and items[1]["error"]["field"] == "policy" and items[2]["policy"] == "first@1"
    assert s.stop() == 0


def test_sighup_reads_the_policies_again(start, tmp_path):
    s, first, second = with_policies(start, tmp_path)
    put(first, policy("first", 2, thresholds={"flag": 0.0, "block": 0.0}))
    assert s.guard(pending_request()).json["policy"] == "first@1"
    s.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(s) == [1, 0])
    v = s.guard(pending_request()).json
    assert v["policy"] == "first@2" and v["action"] == "block"
    for bad in ("{", policy("first", 3, choices=[]), policy("second", 3), policy("first", 3, surprise=1)):
        put(first, bad)
        before = reloads(s)[1]
        s.process.send_signal(signal.SIGHUP)
        eventually(lambda: reloads(s) == [1, before + 1])
        assert names(s) == ["first@2", "second@1"] and s.guard(pending_request()).json["policy"] == "first@2"
        assert s.get("/readyz").status == 200
    put(first, policy("first", 3))
    second.unlink()
    s.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(s) == [1, 5])
    errors = [x["error"] for x in s.lines() if x["msg"] == "policies not reloaded"]
    assert len(errors) == 5 and "surprise" in errors[3] and "second.json" in errors[4]
    assert s.stop() == 0


def test_sighup_under_load_changes_no_answer_under_way(start, tmp_path):
    s, first, _ = with_policies(start, tmp_path)
    seen, over = set(), threading.Event()

    def work(i):
        c = s.connect()
        while not over.is_set():
            r = s.patiently(s.guard, pending_request(unique()), connection=c)
            assert r.status == 200, r.body
            seen.add(r.json["policy"])
            if r.headers["connection"] == "close":
                c = s.connect()

    def change():
        for version in range(2, 12):
            put(first, policy("first", version))
            s.process.send_signal(signal.SIGHUP)
            eventually(lambda: names(s)[0] == "first@%d" % version)
        over.set()

    changer = threading.Thread(target=change)
    changer.start()
    run_threads(6, work)
    changer.join()
    assert seen <= {"first@%d" % v for v in range(1, 12)} and len(seen) > 1
    assert reloads(s) == [10, 0]
    assert s.stop() == 0


def test_sighup_while_loading_and_draining(start, tmp_path):
    s = start(model=["--model", TINY, "--policy", str(HERE / "policy_tiny.json")], wait="listening")
    s.process.send_signal(signal.SIGHUP)
    s.wait_log("ready")
    eventually(lambda: sum(reloads(s)) in (0, 1))  # before the policies were read for the first time, or after
    assert s.guard(pending_request()).status == 200
    s.process.send_signal(signal.SIGTERM)
    s.process.send_signal(signal.SIGHUP)
    assert s.process.wait(60) == 0


def one_drain(start, round_):
    """Clients that ask without a pause, half of them over a new connection each time, until the server refuses."""
    s = start("--shutdown-timeout", "60", model=["--model", TINY, "--policy", str(HERE / "policy_tiny.json")])
    counts, lock = {"verdict": 0, "refused": 0, "not connected": 0}, threading.Lock()

    def count(what):
        with lock:
            counts[what] += 1

    def work(i):
        c = None
        for k in range(100000):
            try:
                if c is None:
                    c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=120)
                    c.connect()
            except ConnectionRefusedError:
                count("not connected")  # nothing was asked, so nothing was lost
                return
            r = s.guard(pending_request("%d-%d-%d" % (round_, i, k), (i * 13 + k) % 60), connection=c)
            if r.status != 200:
                assert r.status == 503 and "action" not in r.json and int(r.headers["retry-after"]) >= 1
            count("verdict" if r.status == 200 else "refused")
            if r.status == 503 and r.error["code"] == "draining":
                assert r.headers["connection"] == "close"
                return
            if r.headers["connection"] == "close" or i % 2:
                c.close()
                c = None

    def end():
        eventually(lambda: counts["verdict"] > 20)
        time.sleep(0.01 * (round_ % 7))
        s.process.send_signal(signal.SIGTERM)

    ender = threading.Thread(target=end)
    ender.start()
    run_threads(16, work)
    ender.join()
    assert s.process.wait(60) == 0
    assert [x for x in s.lines() if x["msg"] == "stopped"] and counts["verdict"] > 20
    return counts


def test_drains_lose_no_answer(start):
    for round_ in range(DRAINS):
        counts = one_drain(start, round_)
        print(round_, counts)
        assert counts["refused"] + counts["not connected"] >= 16
