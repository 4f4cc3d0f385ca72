"""Batches: a list or lines, in order, each line as soon as it is known; errors in their place."""
import json
import socket
import threading

import pytest
from conftest import CITY_WORDS, call, eventually, patient, pending_request, responses, run_threads, unique, user

NDJSON = {"Accept": "application/x-ndjson"}
GET = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def mixed(n):
    return [patient(unique(), CITY_WORDS[i % 8]) for i in range(n)]


def post(body, *headers, version=b"1.1"):
    data = json.dumps(body).encode() if not isinstance(body, bytes) else body
    head = [b"POST /v1/guard/batch HTTP/" + version, b"Host: x", b"Content-Length: %d" % len(data), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + data


def lines_of(body):
    assert body.endswith(b"\n")
    return [json.loads(x) for x in body.split(b"\n")[:-1]]


def dechunk(data):
    """(chunks, what follows); checks the framing to the byte."""
    out = []
    while True:
        size, sep, data = data.partition(b"\r\n")
        assert sep and size == b"%x" % int(size, 16), size
        n = int(size, 16)
        assert len(data) >= n + 2 and data[n:n + 2] == b"\r\n"
        if n == 0:
            return out, data[2:]
        out.append(data[:n])
        data = data[n + 2:]


def test_batch(server):
    requests = mixed(24)
    alone = [server.guard(r).json["scores"] for r in requests]
    for body in (requests, {"items": requests}):
        r = server.batch(body)
        assert r.status == 200 and r.json["object"] == "list" and r.headers["content-type"] == "application/json"
        assert [v["scores"] for v in r.json["data"]] == alone
        assert len({v["id"] for v in r.json["data"]}) == 24
        assert int(r.headers["content-length"]) == len(r.body)


BAD = [pending_request(), {"messages": 5}, pending_request(), 7, {"messages": [user("x")], "frames": []}]


def check_bad(data):
    assert [("error" in x) for x in data] == [False, True, False, True, True]
    assert data[1]["error"]["code"] == "invalid_field" and data[1]["error"]["field"] == "messages"
    assert all("action" not in x for x in data if "error" in x)
    assert [x["index"] for x in data if "error" in x] == [1, 3, 4]


def test_errors_stand_in_their_place(server):
    before = server.metrics()["guardian_batch_item_errors_total"]
    r = server.batch(BAD)
    assert r.status == 200
    check_bad(r.json["data"])
    r = server.batch(BAD, headers=NDJSON)
    assert r.status == 200
    check_bad(lines_of(r.body))
    assert server.metrics()["guardian_batch_item_errors_total"] == before + 6


def test_only_errors(server):
    assert all("error" in x for x in server.batch([1, 2]).json["data"])
    r = server.batch([1, 2], headers=NDJSON)
    assert r.status == 200 and [x["index"] for x in lines_of(r.body)] == [0, 1]


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("body,status", [([], 422), ({}, 422), ({"items": 5}, 422), (5, 422), ({"items": []}, 422),
                                         ([{}] * 65, 413), ('{"items": [1], "items": [2]}', 422), ("[", 400)])
def test_envelope(server, body, status, lines):
    r = server.batch(json.dumps(body) if not isinstance(body, str) else body, headers=NDJSON if lines else None)
    assert r.status == status, r.body
    assert r.headers["content-type"] == "application/json" and int(r.headers["content-length"]) == len(r.body)
    assert "action" not in r.json


def test_batches_at_once(server):
    requests = mixed(16)
    alone = [server.guard(r).json["scores"] for r in requests]

    def work(i):
        r = server.patiently(server.batch, requests, headers=NDJSON if i % 2 else None)
        got = lines_of(r.body) if i % 2 else r.json["data"]
        assert [v["scores"] for v in got] == alone

    run_threads(8, work)


def test_lines_are_the_list(server):
    requests = mixed(12)
    listed = server.batch(requests).json["data"]
    r = server.batch(requests, headers=NDJSON)
    assert r.status == 200 and r.headers["content-type"] == "application/x-ndjson"
    assert r.headers["transfer-encoding"] == "chunked" and "content-length" not in r.headers
    got = lines_of(r.body)
    assert [v["scores"] for v in got] == [v["scores"] for v in listed]
    assert all(sorted(a) == sorted(b) for a, b in zip(got, listed))


ACCEPTS = {
    "application/x-ndjson": True, "APPLICATION/X-NDJSON": True, "application/x-ndjson; charset=utf-8": True,
    "application/x-ndjson;q=0.5, text/html": True, "application/x-ndjson , application/json": True,
    "application/x-ndjson, */*;q=0.8": True, "application/x-ndjson;q=0.3, */*;q=0.8, application/json;q=0": True,
    "application/json;q=0.5, application/x-ndjson;q=0.501": True, ",,application/x-ndjson,": True,
    'text/plain;x="a\\",b", application/x-ndjson': True,
    "application/json": False, "*/*": False, "application/*": False, "": False, "application/x-ndjson;q=0": False,
    "application/x-ndjson;q=0.000, */*": False, "application/x-ndjson; Q=0": False, "application/x-ndjson;q=2": False,
    "application/x-ndjson;q=1.001": False, "application/x-ndjson;q=0.5555": False, "application/x-ndjson;q=": False,
    "application/json, application/x-ndjson;q=0.9": False, "application/x-ndjson;q=0.3, */*;q=0.8": False,
    "application/x-ndjson;q=0.3, application/*;q=0.4, */*;q=0": False, "application/x-ndjsonx": False, "x-ndjson": False,
    'text/plain;x="a,application/x-ndjson"': False,
}


@pytest.mark.parametrize("accept", ACCEPTS)
def test_accept(server, accept):
    r = server.batch([pending_request()], headers={"Accept": accept})
    assert r.status == 200
    assert (r.headers["content-type"] == "application/x-ndjson") == ACCEPTS[accept]


def test_accept_in_two_headers(server):
    data = post([pending_request()], b"Accept: text/html", b"Accept: application/x-ndjson;q=0.1")
    raw, _ = server.raw(data, wait=60, until=b"\r\n0\r\n\r\n")
    assert b"Content-Type: application/x-ndjson\r\n" in raw


def test_single_verdicts_are_no_lines(server):
    r = server.guard(pending_request(), headers=NDJSON)
    assert r.headers["content-type"] == "application/json" and r.json["object"] == "guard.verdict"


def test_chunks_and_what_follows(server):
    """Each line is one chunk; the connection goes on after the last."""
    body = post(BAD, b"Accept: application/x-ndjson")
    raw, closed = server.raw(body + body + post(BAD) + GET, wait=60)
    assert closed
    for _ in range(2):
        head, _, raw = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") and b"Connection: keep-alive" in head and b"x-request-id: rq-" in head
        chunks, raw = dechunk(raw)
        check_bad([json.loads(x) for x in chunks])
        assert len(chunks) == 5 and all(x.endswith(b"}\n") and x.count(b"\n") == 1 for x in chunks)
    rest = responses(raw)
    assert [r.status for r in rest] == [200, 200] and "version" in rest[1].json
    check_bad(rest[0].json["data"])


def test_keep_alive_after_lines(server):
    c = server.connect()
    for _ in range(3):
        assert len(lines_of(server.batch(BAD, headers=NDJSON, connection=c).body)) == 5
        sock = c.sock
        assert sock is not None
        assert server.guard(pending_request(), connection=c).status == 200
        assert c.sock is sock
    c.close()


def test_close_is_kept(server):
    raw, closed = server.raw(post(BAD, b"Accept: application/x-ndjson", b"Connection: close") + GET, wait=60)
    head, _, raw = raw.partition(b"\r\n\r\n")
    chunks, raw = dechunk(raw)
    assert closed and b"Connection: close" in head and len(chunks) == 5 and raw == b""


def test_lines_of_http_1_0(server):
    raw, closed = server.raw(post(BAD, b"Accept: application/x-ndjson", version=b"1.0"), wait=60)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert closed and b"Connection: close" in head
    assert b"transfer-encoding" not in head.lower() and b"content-length" not in head.lower()
    check_bad(lines_of(body))


def test_a_line_comes_before_the_last_is_known(start):
    s = start("--threads", "1")
    items = [patient(unique(), 0)] + [patient(unique(), 2000) for _ in range(12)]
    c = socket.create_connection(("127.0.0.1", s.port), timeout=300)
    c.sendall(post(items, b"Accept: application/x-ndjson"))
    got, at_first = b"", None
    while not got.endswith(b"\r\n0\r\n\r\n"):
        got += c.recv(1 << 20)
        if at_first is None and b'"guard.verdict"' in got:
            at_first = got.count(b'"guard.verdict"')
    c.close()
    chunks, rest = dechunk(got.partition(b"\r\n\r\n")[2])
    assert rest == b"" and len(chunks) == 13 and at_first < 13
    assert [json.loads(x)["context"]["tokens"] > 1000 for x in chunks] == [False] + [True] * 12


def test_items_share_their_prefix(server):
    """Of a history that all items have, the engine computes each part once."""
    history = patient(unique(), 1500)["messages"][:-1]
    items = [{"messages": history + [call("get_weather", {"city": "City %d" % i})], "deadline_ms": 300000} for i in range(8)]
    got = [v["context"] for v in server.batch(items).json["data"]]
    assert all(c["tokens"] > 1000 for c in got)
    fresh = [c["tokens"] - c["cached_tokens"] for c in got]
    assert sum(f > 300 for f in fresh) == 1 and sum(fresh) < 1.5 * got[0]["tokens"], got


def test_items_are_packed(start):
    """All are begun before the first is waited for, so that steps hold many of them."""
    s = start("--verdict-cache", "0")
    before = s.metrics()
    items = [patient(unique(), 20) for _ in range(32)]
    assert all("scores" in v for v in s.batch(items).json["data"])
    after = s.metrics()
    assert after["guardian_engine_sequences_total"] == before["guardian_engine_sequences_total"] + 32
    assert after["guardian_engine_steps_total"] < before["guardian_engine_steps_total"] + 24
    assert after["guardian_batch_size_sum"] >= before["guardian_batch_size_sum"] + 32


def test_batches_leave_places_for_others(start):
    """More items than the queue has places, all at once: each gets its verdict, and so does a single request meanwhile."""
    s = start("--max-queue-ms", "600000", "--verdict-cache", "0")
    done, verdicts = threading.Event(), []

    def many(i):
        r = s.batch({"items": [patient(unique(), 90) for _ in range(64)]})
        assert r.status == 200, r.body
        verdicts.extend("action" in x for x in r.json["data"])
        if len(verdicts) == 12 * 64:
            done.set()

    def single(i):
        eventually(lambda: s.metrics()["guardian_requests_waiting"] > 200)
        n = 0
        while not done.is_set() and n < 20:
            r = s.guard(patient(unique(), 5))
            assert r.status == 200, r.body
            n += 1
        assert n > 0

    run_threads(13, lambda i: single(i) if i == 12 else many(i))
    assert len(verdicts) == 12 * 64 and all(verdicts)
    assert s.metrics().get('guardian_rejected_total{reason="queue_full"}', 0) == 0
    assert s.stop() == 0


def test_sessions_are_told_in_lines(server):
    items = [{**pending_request(), "session": "s-%d \u00e9\n" % i} for i in range(5)]
    assert [v["session"] for v in lines_of(server.batch(items, headers=NDJSON).body)] == [x["session"] for x in items]
    assert [v["session"] for v in server.batch(items).json["data"]] == [x["session"] for x in items]


def test_log_line_of_a_batch(start):
    s = start()
    s.batch(BAD, headers={**NDJSON, "x-request-id": "b-1"})
    s.batch(BAD, headers={"x-request-id": "b-2"})
    for name in ("b-1", "b-2"):
        line = s.wait_log("request", request_id=name)
        assert line["http.response.status_code"] == 200 and line["items"] == 5 and line["item_errors"] == 3
        assert line["http.response.body.size"] > 1000
