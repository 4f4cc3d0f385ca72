"""Too much work is refused before its body is read; clients that leave are noticed; both are counted."""
import json
import pathlib
import socket
import struct
import threading
import time

import pytest
from conftest import eventually, patient, pending_request, responses, run_threads, unique
from test_batch import post


def heavy(n, words=4000):
    return [patient(unique(), words) for _ in range(n)]


def connect(s, data):
    c = socket.create_connection(("127.0.0.1", s.port), timeout=300)
    c.sendall(data)
    return c


def post_guard(body):
    return post(body).replace(b"/v1/guard/batch", b"/v1/guard", 1)


def leave(c, reset):
    if reset:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


def rejected(metrics):
    return {k.split('"')[1]: v for k, v in metrics.items() if k.startswith("guardian_rejected_total")}


def is_busy(s):
    q = s.get("/info").json["queue"]
    return q["waiting"] + q["running"] > 0


def test_a_queue_that_is_too_long_is_refused(start):
    s = start("--threads", "1", "--max-queue-ms", "1")
    answers = []

    def work(i):
        for _ in range(6):
            answers.append(s.guard(patient(unique(), 1500)))

    run_threads(16, work)
    refused = [r for r in answers if r.status != 200]
    assert len(answers) == 96 and 0 < len(refused) < 96
    for r in refused:
        assert r.status == 503 and r.error["code"] == "overloaded" and "action" not in r.json
        assert 1 <= int(r.headers["retry-after"]) <= 60 and r.headers["connection"] == "close"
    for r in answers:
        assert r.status == 503 or r.json["action"] in ("allow", "review", "block")
    assert rejected(s.metrics()) == {"queue_time": len(refused)}
    assert s.metrics()['guardian_requests_total{route="/v1/guard",code="503"}'] == len(refused)
    eventually(lambda: not is_busy(s))
    assert s.metrics()["guardian_queue_seconds"] == 0
    for _ in range(5):  # one after another is never too much
        assert s.guard(pending_request(unique())).status == 200
    assert s.stop() == 0


def test_idle_server_takes_anything(start):
    s = start("--max-queue-ms", "0")
    assert s.guard(patient(unique(), 5000)).status == 200
    assert s.batch(heavy(3, 2000)).status == 200


def test_refused_without_its_body(start):
    """The refusal does not wait for the body, and the body is not taken for a request."""
    s = start("--threads", "1", "--max-queue-ms", "1")
    c = connect(s, post(heavy(20), *[b"Accept: application/x-ndjson"]))
    eventually(lambda: is_busy(s))
    raw, closed = s.raw(b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\nExpect: 100-continue\r\n\r\n", wait=30)
    assert raw.startswith(b"HTTP/1.1 503") and closed and b"100 Continue" not in raw
    c.close()


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("kind", ["single", "list", "lines"])
def test_clients_that_leave(start, kind, reset):
    """While a request of theirs is in work: it is given up, counted, and nothing else suffers."""
    s = start("--threads", "1", "--max-batch-tokens", "16", "--max-queue-ms", "600000")
    if kind == "single":
        path, c = "/v1/guard", connect(s, post_guard(patient(unique(), 6000)))
    else:
        accept = b"Accept: application/x-ndjson" if kind == "lines" else b"Accept: */*"
        path, c = "/v1/guard/batch", connect(s, post([patient(unique(), 0), *heavy(20)], accept))
    eventually(lambda: is_busy(s))
    if kind == "lines":
        assert c.recv(12) == b"HTTP/1.1 200"
    leave(c, reset)
    eventually(lambda: s.metrics()["guardian_requests_in_flight"] == 0)
    m = s.metrics()
    assert m["guardian_requests_canceled_total"] == 1
    assert m['guardian_requests_total{route="%s",code="499"}' % path] == 1
    # items that were not begun yet need not be canceled
    assert m["guardian_engine_canceled_total"] >= (kind == "single") and m["guardian_engine_sequences_total"] < 20
    line = s.wait_log("request", **{"http.response.status_code": 499})
    assert line["error.type"] == "canceled" and line["url.path"] == path
    assert line["http.response.body.size"] > 0 or kind != "lines"
    eventually(lambda: not is_busy(s))
    assert s.metrics()["guardian_queue_seconds"] == 0
    assert s.guard(pending_request(unique())).status == 200
    assert s.stop() == 0


@pytest.mark.parametrize("data", ["single", "batch"])
def test_nothing_is_sent_to_who_left(start, data):
    """A client that closes only its own side has left as well."""
    s = start("--threads", "1", "--max-batch-tokens", "16")
    c = connect(s, post_guard(patient(unique(), 6000)) if data == "single" else post(heavy(10)))
    c.shutdown(socket.SHUT_WR)
    assert c.recv(100) == b""
    c.close()
    assert s.metrics()["guardian_requests_canceled_total"] == 1


def test_others_do_not_notice_that_one_leaves(start):
    s = start("--threads", "1", "--max-queue-ms", "600000", "--verdict-cache", "0")
    requests = [patient(unique(), 500) for _ in range(8)]
    alone = [s.guard(r).json["scores"] for r in requests]

    def work(i):
        if i % 2:
            for _ in range(5):
                c = connect(s, post_guard(patient(unique(), 3000)))
                time.sleep(0.3)
                leave(c, i % 4 == 1)
        else:
            for r, scores in zip(requests, alone):
                r = {**r, "messages": r["messages"] + [{"role": "user", "content": str(i)}]}
                assert s.patiently(s.guard, r).json["action"] != "error"
                assert s.patiently(s.guard, requests[i]).json["scores"] == alone[i]

    run_threads(8, work)
    eventually(lambda: s.metrics()["guardian_requests_in_flight"] == 0)
    assert [s.guard(r).json["scores"] for r in requests] == alone
    assert s.stop() == 0


def test_who_waits_is_not_taken_for_gone(start):
    """Longer than the server takes to ask, with the connection used before and after."""
    s = start("--threads", "1", "--max-queue-ms", "600000")

    def work(i):
        c = s.connect()
        for words in (0, 3000, 0):
            assert s.patiently(s.guard, patient(unique(), words), connection=c).status == 200
        c.close()

    run_threads(5, work)
    m = s.metrics()
    assert m["guardian_requests_canceled_total"] == 0 and m["guardian_engine_sequences_total"] >= 15


def test_slow_readers_are_cut(start):
    """A client that takes some bytes now and then holds its connection for 10 s, then it is as if it had left."""
    s = start()
    big = {**pending_request(), "session": "\x7f" * 8192}  # comes back in each line, six times as long
    assert s.guard(big).status == 200  # from now on it costs nothing
    held = [socket.socket() for _ in range(4)]
    for c in held:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.settimeout(300)
        c.connect(("127.0.0.1", s.port))
        c.sendall(post(json.dumps([big] * 64, ensure_ascii=False).encode(), b"Accept: application/x-ndjson"))
    began = time.monotonic()
    eventually(lambda: s.metrics()["guardian_requests_in_flight"] == 4)
    while s.metrics()["guardian_requests_in_flight"] > 0:
        assert time.monotonic() < began + 60
        for c in held:
            try:
                c.recv(3000)
            except ConnectionResetError:
                pass
        assert s.get("/healthz").status == 200
        time.sleep(0.1)
    for c in held:
        c.close()
    m = s.metrics()
    assert m["guardian_requests_canceled_total"] == m['guardian_requests_total{route="/v1/guard/batch",code="499"}'] == 4
    assert s.guard(pending_request(unique())).status == 200
    assert s.stop() == 0


def test_what_is_refused_is_counted(start):
    s = start()
    assert s.ask("POST", "/v1/guard", body=b" " * 3_000_000).status == 413
    assert s.batch([{}] * 65).status == 413
    assert s.guard({**pending_request(words=1500), "deadline_ms": 1}).status == 504
    assert rejected(s.metrics()) == {"too_large": 2, "deadline": 1}


def test_a_deadline_that_cannot_be_kept(start):
    """Refused when it comes: what is before it takes longer. A short one goes before all that, and is answered."""
    s = start("--threads", "1", "--max-queue-ms", "600000")
    c = connect(s, post(heavy(64)))
    eventually(lambda: is_busy(s))
    while s.metrics()["guardian_queue_seconds"] < 11:
        if s.get("/info").json["queue"]["waiting"] > 50 or not is_busy(s):
            pytest.skip("the model is too fast for such a queue")
        time.sleep(0.05)
    r = s.guard({**pending_request(unique(), words=3000), "deadline_ms": 200})
    assert r.status == 503 and r.error["code"] == "overloaded" and " ms" in r.error["message"]
    assert 5 <= int(r.headers["retry-after"]) <= 60
    assert s.guard(pending_request(unique())).status == 200
    assert rejected(s.metrics())["deadline"] >= 1
    c.close()
    eventually(lambda: s.metrics()["guardian_requests_in_flight"] == 0)
    eventually(lambda: not is_busy(s))
    assert s.guard(pending_request(unique())).status == 200
    assert s.metrics()["guardian_requests_canceled_total"] == 1


def test_http_threads_stand_back(server):
    """Their priority is lower than that of the threads that compute."""
    nice = [int((p / "stat").read_text().rpartition(")")[2].split()[16])
            for p in pathlib.Path("/proc/%d/task" % server.process.pid).iterdir()]
    base = min(nice)
    assert sum(n == min(base + 5, 19) for n in nice) >= 200 and sum(n == base for n in nice) >= 2


def check_shed(r):
    """What an overloaded server may answer: a verdict, or 503 that says when to come again. True for a verdict."""
    if r.status == 200:
        assert r.json["action"] in ("allow", "review", "block") and "retry-after" not in r.headers
        return True
    assert r.status == 503 and r.error["code"] == "overloaded" and "action" not in r.json, r.body
    assert 1 <= int(r.headers["retry-after"]) <= 60
    return False


@pytest.mark.parametrize("kept", [False, True])
def test_bursts_are_shed_and_forgotten(start, kept):
    """Many at one time, again and again, each asked once: every one is answered, some with a verdict in every burst, as
    it is counted; and when they are gone the server takes everything."""
    s = start("--threads", "1", "--max-queue-ms", "200")
    n, rounds = 48, 4
    together = threading.Barrier(n)
    verdicts = [[0] * n for _ in range(rounds)]
    one = pending_request(unique(), 30)
    alone = s.guard(one).json["scores"]

    def work(i):
        c = s.connect() if kept else None
        for k in range(rounds):
            together.wait(300)
            r = s.guard(patient(unique(), 200), connection=c)
            verdicts[k][i] = check_shed(r)
            if kept and r.headers["connection"] == "close":
                c = s.connect()
            elif not kept:
                assert check_shed(s.guard(patient(unique(), 0))) in (True, False)

    run_threads(n, work)
    got = [sum(v) for v in verdicts]
    assert all(0 < x for x in got) and sum(got) < n * rounds, got
    eventually(lambda: s.metrics()["guardian_requests_in_flight"] == 0)
    eventually(lambda: s.metrics()["guardian_queue_seconds"] == 0)
    for _ in range(10):  # one after another: nothing is left that would have them refused
        assert check_shed(s.guard(patient(unique(), 5)))
    assert s.guard(one).json["scores"] == alone
    m = s.metrics()
    asked = n * rounds * (1 if kept else 2) + 12
    answered = {k: m.get('guardian_requests_total{route="/v1/guard",code="%d"}' % k, 0) for k in (200, 503)}
    assert sum(answered.values()) == asked
    assert answered[200] == sum(v for k, v in m.items() if k.startswith("guardian_verdicts_total"))
    assert sum(rejected(m).values()) == answered[503] > 0
    assert s.stop() == 0


def test_more_connections_than_threads(start):
    """Idle ones, and more requests at one time than the server has threads: all are answered in the end."""
    s = start("--threads", "1", "--max-queue-ms", "200")
    idle = [socket.create_connection(("127.0.0.1", s.port), timeout=300) for _ in range(60)]
    lock, seen = threading.Lock(), []

    def work(i):
        c = connect(s, post_guard(patient(unique(), 20)))
        c.settimeout(300)
        raw = b""
        while True:
            d = c.recv(65536)
            raw += d
            if not d or (b"\r\n\r\n" in raw and responses_done(raw)):
                break
        c.close()
        with lock:
            seen.append(check_shed(responses(raw)[0]))

    run_threads(300, work)
    assert len(seen) == 300 and any(seen)
    for c in idle:
        c.close()
    eventually(lambda: s.metrics()["guardian_requests_in_flight"] == 0)
    assert check_shed(s.guard(patient(unique(), 5)))
    assert s.stop() == 0


def responses_done(raw):
    head, _, rest = raw.partition(b"\r\n\r\n")
    length = [x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")]
    return length and len(rest) >= int(length[0].split(b":")[1])


def test_large_bodies_keep_nobody_out(start):
    """What is only being read may turn out to be nothing: others are let in as long as the engine has little to do."""
    s = start("--threads", "1", "--max-queue-ms", "300")
    assert s.guard(patient(unique(), 5)).status == 200
    garbage = b'{"messages": [' + b'{"role":"user","content":"x"},' * 69000 + b"0]}"  # refused at its end, for its size
    assert len(garbage) < 2097152
    stop, sent = threading.Event(), []

    def flood(i):
        c = s.connect()
        while not stop.is_set():
            r = s.guard(garbage, connection=c)
            assert r.status in (413, 422, 503), r.body
            sent.append(r.status)
            if r.headers["connection"] == "close":
                c = s.connect()

    def ask(i):
        try:
            eventually(lambda: len(sent) > 8)
            for _ in range(30):
                assert s.guard(patient(unique(), 5)).status == 200
        finally:
            stop.set()

    run_threads(7, lambda i: flood(i) if i < 6 else ask(i))
