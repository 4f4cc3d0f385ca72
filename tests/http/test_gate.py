"""Framing that two readers could understand differently is refused, and refusals end the connection."""
import json
import socket
import time

import pytest
from conftest import pending_request, responses

BODY = json.dumps(pending_request()).encode()
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/guard HTTP/1.1\r\nHost: x\r\n"
SECOND = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def length(n=None):
    return b"Content-Length: %d\r\n" % (len(BODY) if n is None else n)


REFUSED = {
    "te chunked": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "te and length": (POST + length() + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "te in odd case": (POST + length() + b"tRANSFER-eNCODING: chunked\r\n\r\n0\r\n\r\n", 411),
    "no length": (POST + b"\r\n", 411),
    "length with letters": (POST + b"Content-Length: 5abc\r\n\r\nhello", 400),
    "length with sign": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "length in hex": (POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "length as list": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "length twice, equal": (POST + length() + length() + b"\r\n" + BODY, 400),
    "length twice, different": (POST + length() + length(3) + b"\r\n" + BODY, 400),
    "length over the limit": (POST + length(2097153) + b"\r\n", 413),
    "length of ten digits": (POST + b"Content-Length: 0000000005\r\n\r\nhello", 413),
    "length of twenty digits": (POST + b"Content-Length: 99999999999999999999\r\n\r\nhello", 413),
    "no host": (b"GET /healthz HTTP/1.1\r\nAccept: */*\r\n\r\n", 400),
    "no headers": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: y\r\n\r\n", 400),
    "64 headers": (GET + b"".join(b"X%d: 1\r\n" % i for i in range(63)) + b"\r\n", 431),
    "length after 64 headers": (POST + b"".join(b"X%d: 1\r\n" % i for i in range(64)) + length() + b"\r\n" + BODY, 431),
    "folded line": (GET + b"X: a\r\n b\r\nContent-Length: 30\r\n\r\n", 400),
    "bare LF": (GET.replace(b"\r\n", b"\n") + b"\n", 400),
    "bare LF in one line": (GET + b"X: a\nY: b\r\n\r\n", 400),
    "control byte in a value": (GET + b"X: a\x01b\r\n\r\n", 400),
    "header name with a bracket": (GET + b"X(y): 1\r\n\r\n", 400),
    "leading CRLF": (b"\r\n" + GET + b"\r\n", 400),
    "two leading CRLFs": (b"\r\n\r\n" + POST + length() + b"\r\n" + BODY, 400),
    "leading LFs": (b"\n\n" + GET + b"\r\n", 400),
    "two blanks in the request line": (b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "upgrade": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
    "expect something else": (POST + length() + b"Expect: banana\r\n\r\n" + BODY, 417),
    "body on GET": (GET + b"Content-Length: 5\r\n\r\nhello", 400),
    "query string on POST": (b"POST /v1/guard?mode=audit HTTP/1.1\r\nHost: x\r\n" + length() + b"\r\n" + BODY, 400),
    "wrong content type": (POST + length() + b"Content-Type: text/plain\r\n\r\n" + BODY, 415),
    "content type twice": (POST + length() + b"Content-Type: application/json\r\n" * 2 + b"\r\n" + BODY, 415),
    "compressed body": (POST + length() + b"Content-Encoding: gzip\r\n\r\n" + BODY, 415),
    "unknown method": (b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "HTTP/2.0": (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_closed(server, name):
    data, status = REFUSED[name]
    raw, closed = server.raw(data, wait=8)  # a refused body is awaited for 5 s, then dropped
    assert raw, "no answer"
    first = responses(raw)
    assert [r.status for r in first] == [status], raw
    assert closed and first[0].headers["connection"] == "close"
    assert first[0].error["code"] and "action" not in first[0].json


@pytest.mark.parametrize("name", [n for n in REFUSED if n not in ("TLS hello", "HTTP/2.0", "unknown method")])
def test_what_follows_a_refusal_is_not_run(server, name):
    """The bytes after a refused request are never taken for a request of their own."""
    raw, closed = server.raw(REFUSED[name][0] + SECOND, wait=8)
    assert len(responses(raw)) <= 1 and closed
    assert b'"version"' not in raw


def test_leading_blanks_are_refused_by_every_worker(server):
    """Also in multiples of the alignment of memory, and also on workers that never had a client."""
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(200)]
    for i, s in enumerate(held):
        s.sendall((b"\r\n" * 8, b"\n" * 16, b" " * 64, b"\r\n" * 100)[i % 4] + GET + b"\r\n")
    for s in held:
        assert s.recv(16).startswith(b"HTTP/1.1 400")
        s.close()


def test_short_body(server):
    raw, closed = server.raw(POST + length(50) + b"\r\nhello", half_close=True)
    r = responses(raw)
    assert [x.status for x in r] == [400] and closed
    assert r[0].error["code"] == "incomplete_body"


def test_slow_heads_end(server):
    """All of a head must arrive within 5 s, however it is cut into pieces."""
    began = time.monotonic()
    silent = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    slow = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for i in range(60):
            slow.sendall((GET + b"X: " + b"a" * 60)[i:i + 1])
            time.sleep(0.25)
    assert silent.recv(10) == b""
    assert time.monotonic() - began > 4


def test_trickled_bodies_are_cut(server):
    """A byte now and then holds a worker for 10 s, not for as long as the client likes; others are served meanwhile."""
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(50)]
    began = time.monotonic()
    for s in held:
        s.sendall(POST + length(1000) + b"\r\n")
    left, answers = list(held), []
    while left and time.monotonic() - began < 25:
        time.sleep(0.4)
        for s in list(left):
            try:
                s.setblocking(False)
                answers.append(s.recv(4096))
                left.remove(s)
            except BlockingIOError:
                s.settimeout(20)
                try:
                    s.sendall(b" ")
                except (BrokenPipeError, ConnectionResetError):
                    pass
            except ConnectionResetError:  # our byte met a closed connection and wiped the answer
                left.remove(s)
        assert server.get("/healthz").status == 200
    took = time.monotonic() - began
    for s in held:
        s.close()
    assert not left and took > 9
    assert {a[:12] for a in answers} == {b"HTTP/1.1 408"} and len(answers) > 25


def test_too_large_body_gets_its_answer(server):
    r = server.ask("POST", "/v1/guard", body=b" " * 3_000_000)
    assert r.status == 413 and r.headers["connection"] == "close"
    assert "2097152" in r.error["message"]


def test_expect_continue(server):
    raw, _ = server.raw([POST + length() + b"Expect: 100-continue\r\nConnection: close\r\n\r\n", BODY])
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert responses(raw.partition(b"\r\n\r\n")[2])[0].status == 200


def test_expect_continue_refused_without_body(server):
    raw, closed = server.raw(POST + length(9_000_000) + b"Expect: 100-continue\r\n\r\n")
    assert [r.status for r in responses(raw)] == [413] and closed


def test_content_type_may_be_absent_or_have_parameters(server):
    for header in (b"", b"Content-Type: application/json; charset=utf-8\r\n", b"content-type: Application/JSON\r\n"):
        raw, _ = server.raw(POST + length() + header + b"Connection: close\r\n\r\n" + BODY)
        assert responses(raw)[0].status == 200, raw


def test_pipelining(server):
    raw, _ = server.raw((GET + b"\r\n") * 50 + POST + length() + b"\r\n" + BODY + SECOND)
    r = responses(raw)
    assert [x.status for x in r] == [200] * 52
    assert "version" in r[-1].json and r[50].json["object"] == "guard.verdict"


def test_keep_alive_connection(server):
    c = server.connect()
    ids = [server.ask("GET", "/healthz", connection=c).headers["x-request-id"] for _ in range(20)]
    assert len(set(ids)) == 20
    assert c.sock is not None
    c.close()


def test_head_has_no_body(server):
    raw, _ = server.raw(b"HEAD /version HTTP/1.1\r\nHost: x\r\n\r\n" + SECOND)
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and rest.startswith(b"HTTP/1.1 200")
    n = int(dict(x.split(b": ", 1) for x in head.split(b"\r\n")[1:])[b"Content-Length"])
    assert n == len(rest.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("path", ["/", "/v1/guard/", "/v1/guardx", "/V1/guard", "//v1/guard", "/v1/./guard",
                                  "/v1/guard%00", "/x/../healthz", "/etc/passwd", "/../../etc/passwd"])
def test_routes_match_exactly(server, path):
    raw, _ = server.raw(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [r.status for r in responses(raw)] == [404]


@pytest.mark.parametrize("method,path,allow", [("GET", "/v1/guard", "POST"), ("HEAD", "/v1/guard", "POST"),
                                               ("DELETE", "/v1/guard/batch", "POST"), ("OPTIONS", "/v1/guard", "POST"),
                                               ("POST", "/healthz", "GET, HEAD"), ("PUT", "/metrics", "GET, HEAD")])
def test_other_methods(server, method, path, allow):
    r = server.ask(method, path)
    assert r.status == 405 and r.headers["allow"] == allow
    assert not any(k.startswith("access-control") for k in r.headers)


def test_request_ids(server):
    assert server.get("/healthz", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for odd in ("a b", "x" * 129, "<script>", "a;b", "é"):
        got = server.get("/healthz", headers={"x-request-id": odd.encode("latin1", "replace")}).headers["x-request-id"]
        assert got.startswith("rq-") and len(got) == 35


def test_headers_of_every_answer(server):
    for r in (server.get("/healthz"), server.get("/nothing"), server.guard("{"), server.get("/metrics")):
        assert r.headers["cache-control"] == "no-store"
        assert int(r.headers["content-length"]) == len(r.body)
        assert float(r.headers["x-total-time"]) >= 0 and r.headers["x-request-id"]
