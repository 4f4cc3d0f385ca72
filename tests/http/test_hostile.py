"""Hostile requests: framing, targets, methods and versions that readers of HTTP have been seen to take differently.

Each case has its status: one number, or several where the gate and the HTTP library before it may be the one to refuse.
None stands for a connection that ends without an answer. test_gate.py has the rules of the gate itself, one case each.
"""
import errno
import json
import re
import socket
import subprocess
import sys
import time

import pytest
from conftest import SHARED, pending_request, responses

BODY = json.dumps(pending_request()).encode()
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/guard HTTP/1.1\r\nHost: x\r\n"
SECOND = b"GET /version HTTP/1.1\r\nHost: x\r\nx-request-id: second\r\nConnection: close\r\n\r\n"
HIDDEN = b"GET /version HTTP/1.1\r\nHost: x\r\nx-request-id: hidden\r\n\r\n"
END = b"Connection: close\r\n\r\n"


def length(n=None):
    return b"Content-Length: %d\r\n" % (len(BODY) if n is None else n)


def line(text):
    """A request with this request line."""
    return text + b"\r\nHost: x\r\n\r\n"


def coded(header, body=b"0\r\n\r\n"):
    return POST + header + b"\r\n\r\n" + body


def sized(header, body=b"hello"):
    return POST + header + b"\r\n\r\n" + body


BAD, CODED, VERSION = (400,), (400, 411), (400, 505)
SIZED = (400, 411)  # the library refuses some of them as "no length"
CHUNKED = b"Transfer-Encoding: chunked"

REFUSED = {
    # Transfer-Encoding, whatever it says
    "te identity": (coded(b"Transfer-Encoding: identity"), CODED),
    "te empty": (coded(b"Transfer-Encoding: "), CODED),
    "te unknown": (coded(b"Transfer-Encoding: xchunked"), CODED),
    "te chunked, identity": (coded(b"Transfer-Encoding: chunked, identity"), CODED),
    "te gzip, chunked": (coded(b"Transfer-Encoding: gzip, chunked"), CODED),
    "te quoted": (coded(b'Transfer-Encoding: "chunked"'), CODED),
    "te with a parameter": (coded(b"Transfer-Encoding: chunked;q=1"), CODED),
    "te with a vertical tab": (coded(b"Transfer-Encoding: \x0bchunked"), CODED),
    "te twice": (coded(CHUNKED + b"\r\n" + CHUNKED), CODED),
    "te identity, then chunked": (coded(b"Transfer-Encoding: identity\r\n" + CHUNKED), CODED),
    "te after a blank": (coded(b" Transfer-Encoding: chunked"), CODED),
    "te before a blank": (coded(b"Transfer-Encoding : chunked"), CODED),
    "te before a tab": (coded(b"Transfer-Encoding\t: chunked"), CODED),
    "te folded": (coded(b"Transfer-Encoding:\r\n chunked"), CODED),
    "te behind a bare LF": (coded(b"X: y\n" + CHUNKED), CODED),
    "te behind a bare CR": (coded(b"X: y\r" + CHUNKED), CODED),
    "te behind a length of 0": (coded(b"Content-Length: 0\r\n" + CHUNKED), CODED),
    "te on GET": (GET + CHUNKED + b"\r\n\r\n0\r\n\r\n", CODED),
    "te on HTTP/1.0": (b"POST /v1/guard HTTP/1.0\r\nHost: x\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n", CODED),
    "chunks": (coded(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n"), CODED),
    "chunks with an extension": (coded(CHUNKED, b"5;a=b\r\nhello\r\n0\r\n\r\n"), CODED),
    "chunks with a trailer": (coded(CHUNKED, b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"), CODED),
    "chunk of 2^63 bytes": (coded(CHUNKED, b"7fffffffffffffff\r\nhello\r\n0\r\n\r\n"), CODED),
    "chunk of 2^64 bytes": (coded(CHUNKED, b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"), CODED),
    "chunk size of 80 digits": (coded(CHUNKED, b"0" * 80 + b"5\r\nhello\r\n0\r\n\r\n"), CODED),
    "chunk with a bad end": (coded(CHUNKED, b"5\r\nhelloXX0\r\n\r\n"), CODED),
    "chunk that is cut": (coded(CHUNKED, b"5\r\nhel"), CODED),
    "many chunks": (coded(CHUNKED, b"1\r\na\r\n" * 500 + b"0\r\n\r\n"), CODED),
    # Content-Length
    "length negative": (sized(b"Content-Length: -1"), SIZED),
    "length very negative": (sized(b"Content-Length: -123456789123456789123456789"), SIZED),
    "length empty": (sized(b"Content-Length:"), SIZED),
    "length of blanks": (sized(b"Content-Length:   "), SIZED),
    "length of letters": (sized(b"Content-Length: abc"), SIZED),
    "length with a fraction": (sized(b"Content-Length: 5.0"), SIZED),
    "length with an exponent": (sized(b"Content-Length: 5e0"), SIZED),
    "length quoted": (sized(b'Content-Length: "5"'), SIZED),
    "length with a parameter": (sized(b"Content-Length: 5;a"), SIZED),
    "length of two numbers": (sized(b"Content-Length: 5 5"), SIZED),
    "length as list without blank": (sized(b"Content-Length: 5,5"), SIZED),
    "length and a comma": (sized(b"Content-Length: 5,"), SIZED),
    "length with a form feed": (sized(b"Content-Length: 5\x0c"), SIZED),
    "length with a vertical tab": (sized(b"Content-Length: \x0b5"), SIZED),
    "length in other digits": (sized("Content-Length: \uff15".encode()), SIZED),
    "length of 2^32 and more": (sized(b"Content-Length: 4294967301"), (413,)),
    "length of 2^64 and more": (sized(b"Content-Length: 18446744073709551621"), (413,)),
    "length three times": (sized(b"Content-Length: 5\r\n" * 2 + b"content-length: 5"), BAD),
    "length 0, then 5": (sized(b"Content-Length: 0\r\nContent-Length: 5"), BAD),
    "length folded": (sized(b"Content-Length:\r\n 5"), SIZED),
    "length with an empty fold": (sized(b"Content-Length: 5\r\n "), SIZED),
    "length before a blank": (sized(b"Content-Length : 5"), BAD),
    "length before a tab": (sized(b"Content-Length\t: 5"), BAD),
    "length after a blank": (sized(b" Content-Length: 5"), SIZED),
    "length behind a bare LF": (sized(b"X: y\nContent-Length: 5"), SIZED),
    "length behind a bare CR": (sized(b"X: y\rContent-Length: 5"), SIZED),
    "length one more than sent": (sized(b"Content-Length: 6"), BAD),
    "request within a body on GET": (GET + length(len(HIDDEN)) + b"\r\n" + HIDDEN, BAD),
    "request within a body on HEAD": (GET.replace(b"GET", b"HEAD") + length(len(HIDDEN)) + b"\r\n" + HIDDEN, BAD),
    # Lines of the head
    "blank before a colon": (GET + b"X : 1\r\n\r\n", BAD),
    "tab before a colon": (GET + b"X\t: 1\r\n\r\n", BAD),
    "blank before a header": (GET + b" X: 1\r\n\r\n", BAD),
    "tab before a header": (GET + b"\tX: 1\r\n\r\n", BAD),
    "blank before the first header": (b"GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n", BAD),
    "header without colon": (GET + b"nocolon\r\n\r\n", BAD),
    "header without name": (GET + b": 1\r\n\r\n", BAD),
    "header of a blank": (GET + b" \r\n\r\n", BAD),
    "8-bit header name": (GET + b"X\xe9: 1\r\n\r\n", BAD),
    "quoted header name": (GET + b'"X": 1\r\n\r\n', BAD),
    "slash in a header name": (GET + b"X/Y: 1\r\n\r\n", BAD),
    "NUL in a header name": (GET + b"X\x00: 1\r\n\r\n", BAD),
    "NUL in a value": (GET + b"X: a\x00b\r\n\r\n", BAD),
    "DEL in a value": (GET + b"X: a\x7fb\r\n\r\n", BAD),
    "bare CR in a value": (GET + b"X: a\rb\r\n\r\n", BAD),
    "CR CR LF": (GET + b"X: a\r\r\n\r\n", BAD),
    "LF CR": (GET + b"X: a\n\r\r\n\r\n", BAD),
    "folded with a tab": (GET + b"X: a\r\n\tb\r\n\r\n", BAD),
    "folded first header": (b"GET /healthz HTTP/1.1\r\nHost:\r\n x\r\n\r\n", BAD),
    "request line ended by LF CR": (b"GET /healthz HTTP/1.1\n\rHost: x\r\n\r\n", BAD),
    "request line ended by CR CR": (b"GET /healthz HTTP/1.1\r\rHost: x\r\n\r\n", BAD),
    "request line ended by CR and a blank": (b"GET /healthz HTTP/1.1\r Host: x\r\n\r\n", BAD),
    "request line ended by LF and a tab": (b"GET /healthz HTTP/1.1\n\tHost: x\r\n\r\n", BAD),
    "head ended by LF LF": (GET.replace(b"\r\n", b"\n") + b"X: 1\n\n", BAD),
    "head ended by CR CR": (GET + b"X: 1\r\r\n\r\n", BAD),
    "another Host in other case": (GET + b"hOST: x\r\n\r\n", BAD),
    "host with a blank": (b"GET /healthz HTTP/1.1\r\nHost: x y\r\n\r\n", BAD),
    "host that is a URL": (b"GET /healthz HTTP/1.1\r\nHost: http://x/\r\n\r\n", BAD),
    "host with a user": (b"GET /healthz HTTP/1.1\r\nHost: a@x\r\n\r\n", BAD),
    "host of 8 bits": (b"GET /healthz HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", BAD),
    "two hosts on HTTP/1.0": (b"GET /healthz HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", BAD),
    "blank line and blanks": (b"\r\n\r\n" + b" " * 60 + GET + b"\r\n", BAD),
    "form feed before": (b"\x0c" + GET + b"\r\n", BAD),
    "NUL before": (b"\x00" + GET + b"\r\n", BAD),
    "blanks only": (b" " * 100 + b"\r\n\r\n", BAD),
    "lines only": (b"\r\n" * 100, BAD),
    "200 headers": (GET + b"".join(b"X%d: 1\r\n" % i for i in range(200)) + b"\r\n", (431,)),
    "coding behind 64 headers": (POST + b"".join(b"X%d: 1\r\n" % i for i in range(64)) + CHUNKED + b"\r\n\r\n0\r\n\r\n", (431,)),
    "head of 20 KiB": (GET + b"X: " + b"a" * 20000 + b"\r\n\r\n", (400, 431)),
    "target of 20 KiB": (line(b"GET /" + b"a" * 20000 + b" HTTP/1.1"), (400, 414, 431)),
    # Methods
    "method in lower case": (line(b"get /healthz HTTP/1.1"), BAD),
    "method with a tab": (line(b"GET\t/healthz HTTP/1.1"), BAD),
    "no method": (line(b" /healthz HTTP/1.1"), BAD),
    "method of 500 bytes": (line(b"G" * 500 + b" /healthz HTTP/1.1"), BAD),
    "TRACE": (line(b"TRACE /healthz HTTP/1.1"), (400, 405)),
    "PRI": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", VERSION),
    # Targets
    "no target": (line(b"GET HTTP/1.1"), BAD),
    "target without a slash": (line(b"GET healthz HTTP/1.1"), (400, None)),
    "target *": (line(b"OPTIONS * HTTP/1.1"), (400, 405, None)),
    "target of this host": (line(b"GET http://x/healthz HTTP/1.1"), (400, None)),
    "target of another host": (line(b"GET http://elsewhere/healthz HTTP/1.1"), (400, None)),
    "target of https": (line(b"GET https://x/healthz HTTP/1.1"), (400, None)),
    "target of CONNECT": (line(b"CONNECT x:443 HTTP/1.1"), (400, 405, None)),
    "blank in the target": (line(b"GET /health z HTTP/1.1"), BAD),
    "tab in the target": (line(b"GET /health\tz HTTP/1.1"), BAD),
    "8-bit target": (line(b"GET /healthz\xff\xfe HTTP/1.1"), BAD),
    "NUL in the target": (line(b"GET /healthz\x00 HTTP/1.1"), BAD),
    "control byte in the target": (line(b"GET /\x01 HTTP/1.1"), BAD),
    # Versions
    "no version": (line(b"GET /healthz"), BAD),
    "no version but a blank": (line(b"GET /healthz "), BAD),
    "HTTP/0.9": (line(b"GET /healthz HTTP/0.9"), VERSION),
    "HTTP/1.2": (line(b"GET /healthz HTTP/1.2"), VERSION),
    "HTTP/9.9": (line(b"GET /healthz HTTP/9.9"), VERSION),
    "HTTP/1": (line(b"GET /healthz HTTP/1"), VERSION),
    "HTTP/1.10": (line(b"GET /healthz HTTP/1.10"), VERSION),
    "HTTP/01.1": (line(b"GET /healthz HTTP/01.1"), VERSION),
    "http/1.1": (line(b"GET /healthz http/1.1"), VERSION),
    "blank behind the version": (line(b"GET /healthz HTTP/1.1 "), VERSION),
    "something behind the version": (line(b"GET /healthz HTTP/1.1x"), VERSION),
    # Options
    "upgrade to h2c": (GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n", BAD),
    "upgrade where no path is": (GET.replace(b"healthz", b"none") + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", BAD),
    "expectation twice": (POST + length() + b"Expect: 100-continue\r\n" * 2 + b"\r\n" + BODY, (417,)),
    "empty expectation": (POST + length() + b"Expect:\r\n\r\n" + BODY, (417,)),
    # Origins: a page of another site, or of a name that was made to point here
    "origin elsewhere": (GET + b"Origin: http://elsewhere\r\n\r\n", (403,)),
    "origin null": (GET + b"Origin: null\r\n\r\n", (403,)),
    "origin elsewhere on POST": (POST + length() + b"Origin: https://elsewhere\r\n\r\n" + BODY, (403,)),
    "preflight from elsewhere": (b"OPTIONS /v1/guard HTTP/1.1\r\nHost: x\r\nOrigin: http://elsewhere\r\n"
                                 b"Access-Control-Request-Method: POST\r\n\r\n", (403,)),
    "origin twice": (GET + b"Origin: http://x\r\nOrigin: http://elsewhere\r\n\r\n", (400, 403)),
}
STAYS_OPEN = ("origin", "preflight")  # the frame was right: the connection may go on


def statuses_of(raw):
    return [int(x) for x in re.findall(rb"HTTP/1\.1 (\d{3})", raw)]


def exchange(server, data):
    """All bytes until the server closes, which it must do once our side is closed. Heads that are too large are not read to
    their end: then only the server closes."""
    s = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    raw = b""
    try:
        for part in data if isinstance(data, list) else [data]:
            s.sendall(part)
            time.sleep(0.1 if isinstance(data, list) else 0)
        if len(data) < 16000:
            s.shutdown(socket.SHUT_WR)
        while part := s.recv(65536):
            raw += part
    except (ConnectionResetError, BrokenPipeError):
        pass
    except OSError as e:
        assert e.errno == errno.ENOTCONN, e  # reset before we closed our side
    s.close()
    return raw


def check_refusal(answer, statuses):
    assert answer.status in statuses
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.error["code"] and answer.error["message"] and "action" not in answer.json
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
    assert not any(k.startswith("access-control") for k in answer.headers)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(server, name):
    data, statuses = REFUSED[name]
    raw = exchange(server, data)
    if raw.partition(b"\r\n\r\n")[2] == b"" and data.startswith(b"HEAD"):
        assert int(raw[9:12]) in statuses and b"Connection: close" in raw
        return
    answers = responses(raw)
    if not answers:
        assert None in statuses, "no answer"
        return
    assert len(answers) == 1, raw
    check_refusal(answers[0], statuses)
    assert name.startswith(STAYS_OPEN) or answers[0].headers["connection"] == "close"


@pytest.mark.parametrize("name", [n for n in REFUSED if not n.startswith((*STAYS_OPEN, "length one more"))])
def test_nothing_behind_it_is_run(server, name):
    """Neither what follows nor what is in a body."""
    raw = exchange(server, REFUSED[name][0] + SECOND + SECOND)
    assert len(statuses_of(raw)) <= 1 and all(x >= 400 for x in statuses_of(raw)), raw
    assert b'"version"' not in raw and b"hidden" not in raw


PASSED = {
    "63 headers": (GET + b"".join(b"X%d: 1\r\n" % i for i in range(61)) + END, 200),
    "head of 15 KiB": (GET + b"X: " + b"a" * 15000 + b"\r\n" + END, 200),
    "empty header value": (GET + b"X:\r\n" + END, 200),
    "value without a blank before it": (b"GET /healthz HTTP/1.1\r\nHost:x\r\n" + END, 200),
    "host and port": (b"GET /healthz HTTP/1.1\r\nHost: a-b.example:8080\r\n" + END, 200),
    "host of IPv6": (b"GET /healthz HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n" + END, 200),
    "empty host": (b"GET /healthz HTTP/1.1\r\nHost:\r\n" + END, 200),
    "8-bit value": (GET + b"X: \xc3\xa9\r\n" + END, 200),
    "header names in odd case": (b"POST /v1/guard HTTP/1.1\r\nhOSt: x\r\ncONTENT-lENGTH: %d\r\n" % len(BODY) + END + BODY, 200),
    "length with leading zeros": (POST + b"Content-Length: %09d\r\n" % len(BODY) + END + BODY, 200),
    "length 0 on GET": (GET + length(0) + END, 200),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n", 200),
    "expectation on GET": (GET + b"Expect: 100-continue\r\n" + END, 200),
    "body that is a request": (POST + length(len(HIDDEN)) + END + HIDDEN, 400),
    "empty body": (POST + length(0) + END, 400),
    "query on GET": (GET.replace(b"healthz", b"healthz?a=b") + END, 200),
    "path that is encoded": (GET.replace(b"healthz", b"%68ealthz") + END, 404),
    "path that goes up": (GET.replace(b"healthz", b"%2e%2e/healthz") + END, 404),
    "path with bytes that are no UTF-8": (GET.replace(b"healthz", b"%ff%fe") + END, 404),
    "path with a half escape": (GET.replace(b"healthz", b"%zz") + END, 404),
    "path below another": (GET.replace(b"healthz", b"healthz/x") + END, 404),
    "path with a slash too many": (GET.replace(b"healthz", b"/healthz") + END, 404),
    "PROPFIND": (GET.replace(b"GET", b"PROPFIND") + END, 405),
    "PATCH": (GET.replace(b"GET", b"PATCH") + END, 405),
}


@pytest.mark.parametrize("name", PASSED)
def test_framed_well(server, name):
    """What is framed well goes on to its route, and the limits are where they are said to be."""
    data, status = PASSED[name]
    raw, closed = server.raw(data, wait=60)
    assert [r.status for r in responses(raw)] == [status], raw
    assert closed and b"hidden" not in raw


@pytest.mark.parametrize("header", [b"Connection: close", b"connection: Close", b"Connection: keep-alive, close",
                                    b"Connection: keep-alive\r\nConnection: close"])
def test_the_client_ends_the_connection(server, header):
    raw, closed = server.raw(GET + header + b"\r\n\r\n" + SECOND, wait=20)
    assert [r.status for r in responses(raw)] == [200] and closed


def test_http_1_0_ends_the_connection(server):
    raw, closed = server.raw(b"GET /healthz HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n" + SECOND, wait=20)
    assert [r.status for r in responses(raw)] == [200] and closed


@pytest.mark.parametrize("path,status", [("/healthz", 200), ("/readyz", 200), ("/v1/models", 200), ("/v1/taxonomy", 200),
                                         ("/info", 200), ("/version", 200), ("/metrics", 200), ("/nothing", 404),
                                         ("/v1/guard", 405)])
def test_head_of_every_route(server, path, status):
    """An answer to HEAD is the head alone: what follows on the connection is the next answer."""
    raw, _ = server.raw(b"HEAD " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n" + SECOND, wait=20)
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert [r.headers["x-request-id"] for r in responses(rest)] == ["second"]


def test_every_cut_of_a_request(server):
    """A request that ends early is never completed: not by later bytes, not by what another connection has left."""
    whole = POST + b"x-request-id: whole\r\n" + length() + b"\r\n" + BODY
    head = whole.index(b"\r\n\r\n") + 4
    for cut in [*range(1, head), *range(head, len(whole), 37)]:
        for s in (whole + whole[:-1], whole[:head] + SECOND):  # leave bytes behind on some worker
            exchange(server, s)
        raw = exchange(server, whole[:cut].replace(b"whole", b"cut"))
        assert b"id: whole" not in raw and b"id: second" not in raw, (cut, raw)
        assert all(400 <= r.status < 500 for r in responses(raw)), (cut, raw)


def test_blanks_never_reach_what_others_left(server):
    """However many blanks stand before nothing: no answer but a refusal, and none to another's request."""
    left = GET + b"Connection: close\r\n\r\n" + b"GET /version HTTP/1.1\r\nHost: x\r\nx-request-id: left\r\n\r\n" * 3
    for n in [*range(1, 120), *range(120, 2000, 61)]:
        exchange(server, left)
        for blanks in (b"\r\n\r\n" + b" " * n, b"\r\n" * n, b" " * n + b"\r\n\r\n"):
            raw = exchange(server, blanks)
            assert b"left" not in raw and b'"version"' not in raw, (n, raw)
            assert all(r.status == 400 for r in responses(raw)), (n, raw)


def test_slices_of_a_request(server):
    """However the bytes are cut into packets, the answers are the same."""
    data = GET + b"\r\n" + POST + length() + b"\r\n" + BODY + SECOND
    for step in (1, 2, 3, 7, 61, 500):
        s = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), step):
            s.sendall(data[at:at + step])
        raw = b""
        while part := s.recv(65536):
            raw += part
        s.close()
        assert [r.status for r in responses(raw)] == [200, 200, 200]


def test_answers_are_of_their_connection(server):
    """Many connections with many requests each, some refused: every answer bears an id of its own connection."""
    for turn in range(20):
        held = []
        for i in range(40):
            s = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            one = b"".join(b"GET /version HTTP/1.1\r\nHost: x\r\nx-request-id: c%d.%d.%d\r\n\r\n" % (turn, i, k)
                           for k in range(5))
            s.sendall(one + (b"X\r\n\r\n", b"", b"GET /ver", b" " * i + b"\r\n\r\n")[i % 4])
            s.shutdown(socket.SHUT_WR)
            held.append(s)
        for i, s in enumerate(held):
            raw = b""
            while part := s.recv(65536):
                raw += part
            s.close()
            ids = [r.headers["x-request-id"] for r in responses(raw)]
            assert ids[:5] == ["c%d.%d.%d" % (turn, i, k) for k in range(5)]
            assert all(x.startswith("rq-") for x in ids[5:]) and len(ids) <= 6


# The cases of ../shared/hostile, each with what is expected of it. Lists of statuses; () ends without an answer.
# "open" means that the connection stays.

PROBE = {
    "plain POST CL=5": ([400], "open"),
    "GET /healthz": ([200], "open"),
    "HEAD /healthz": ([200], "open"),
    "HEAD /nothing (no handler)": ([404], "open"),
    "GET /nothing": ([404], "open"),
    "OPTIONS /v1/guard": ([405], "open"),
    "OPTIONS preflight evil origin": ([403],),
    "OPTIONS *": ([400], [405], []),
    "TRACE": ([400], [404], [405]),
    "BREW (unknown method)": ([400],),
    "PUT /v1/guard (handler same)": ([405],),
    "DELETE /nothing": ([404], "open"),
    "PROPFIND /nothing": ([404], "open"),
    "no Host, 1.1": ([400],),
    "two Host": ([400],),
    "HTTP/1.2": ([505],),
    "HTTP/2.0": ([505],),
    "HTTP/1.0": ([400],),
    "0.9 style": ([400],),
    "h2 preface": ([400], [505]),
    "POST no CL no TE": ([411],),
    "CL=0": ([400], "open"),
    "CL=-1": ([400], [411]),
    "CL=+5": ([400],),
    "CL=5abc": ([400],),
    "CL=0x5": ([400],),
    "CL=5, 5": ([400],),
    "CL=99999999999999999999": ([413],),
    "dup CL 5/5": ([400],),
    "dup CL 5/50": ([400],),
    "CL too long (lie: 50, sent 5, half-close)": ([400],),
    "CL short (3, sent 5) -> leftover": ([400], "open"),  # "lo" may become a request
    "CL short smuggle GET": ([400, 200], "open"),  # two requests, for every reader
    "TE chunked + CL (smuggle)": ([411],),
    "TE identity,then chunked hdr": ([400], [411]),
    "TE: chunked, identity": ([400], [411]),
    "TE: xchunked": ([400], [411]),
    "TE : chunked (space before colon)": ([400], [411]),
    "chunked ok": ([411],),
    "chunked 10 x 100B": ([411],),
    "chunked 1-digit multi": ([411],),
    "chunk ext": ([411],),
    "chunk trailer": ([411],),
    "chunk size huge ffffffffffffffff": ([411],),
    "chunk size 7fffffffffffffff": ([411],),
    "chunk size > 64 digits": ([411],),
    "chunk bad terminator": ([411],),
    "chunk truncated half-close": ([411],),
    "chunked > limit (2MiB)": ([411], []),  # what is not read may wipe the answer
    "body = limit+1MiB CL": ([400], "open"),  # within our limit, and no JSON
    "Expect 100": ([100, 400], "open"),
    "Expect 200-nonsense": ([417],),
    "pipelined 3 GET": ([200] * 3, "open"),
    "pipelined POST+POST+GET": ([400, 400, 200], "open"),
    "pipelined 200 GET": ([200] * 200, "open"),
    "64 headers": ([431],),
    "CL as header #66 (ignored?)": ([431],),
    "200 headers": ([431],),
    "obs-fold then CL": ([400],),
    "header 15 KiB": ([405], "open"),
    "header 20 KiB": ([400], [431]),
    "URI 20 KiB": ([400], [414], [431]),
    "NUL in header": ([400],),
    "bare LF": ([400],),
    "bare CR in value": ([400],),
    "header no colon": ([400],),
    "invalid UTF-8 raw URI": ([400],),
    "invalid UTF-8 pct URI": ([404], "open"),
    "%00 in URI": ([404], "open"),
    "%zz in URI": ([404], "open"),
    "dot segs": ([404], "open"),
    "enc dot segs": ([404], "open"),
    "/v1/guard/sub prefix match": ([404], "open"),
    "//v1//check": ([404], "open"),
    "traversal /../../etc/passwd": ([404], "open"),
    "absolute URI other host": ([400], []),
    "websocket upgrade": ([400],),
    "websocket upgrade /none": ([400],),
    "CRLFs before request": ([400],),
    "TLS ClientHello on http": ([400],),
    "GET with body CL=5": ([405],),
}


def probe_cases():
    """Name and bytes (or parts) of each case, as the file writes them."""
    text = (SHARED / "hostile/probe.py").read_text().replace("/v1/check", "/v1/guard")
    cases = []
    scope = {"show": lambda name, *a, **k: cases.append((name, k.get("parts") or a[0]))}
    exec(text[text.index("H=b'Host"):], scope)  # noqa: S102 - builds bytes, sends nothing
    return cases


no_shared = pytest.mark.skipif(not (SHARED / "hostile/probe.py").exists(), reason="there is no ../shared/hostile here")


@no_shared
def test_shared_probe_is_known():
    assert [name for name, _ in probe_cases()] == list(PROBE)


@no_shared
@pytest.mark.parametrize("name", PROBE)
def test_shared_probe(server, name):
    data = next(d for n, d in probe_cases() if n == name)
    *expected, last = PROBE[name]
    stays = last == "open"
    expected = expected if stays else [*expected, last]
    parts = data if isinstance(data, list) else [data]
    extra = stays and name != "CL short (3, sent 5) -> leftover"
    if extra:  # that it is still open is seen by one more request
        parts = [*parts[:-1], parts[-1] + SECOND]
    raw = exchange(server, parts if len(parts) > 1 else parts[0])
    if extra:
        assert raw.count(b"x-request-id: second") == 1, raw
        expected = [[*e, 200] for e in expected]
    got = statuses_of(raw)
    if name == "CL short (3, sent 5) -> leftover" and len(got) == 2 and got[1] == 400:
        got = got[:1]
    assert got in expected, raw[:500]


# Within these the first of the two paths is ours: "GET / " becomes "GET /healthz ".
H1 = {
    "Request without HTTP version": ([400],),
    "Request with Expect header": ([200], [100, 200]),
    "Valid GET request": ([200],),
    "Valid GET request with edge cases": ([200], [400]),  # the library refuses a tab before a value
    "Invalid header characters": ([400],),
    "Missing Host header": ([400],),
    "Multiple Host headers": ([400],),
    "Overflowing negative Content-Length header": ([400], [411]),
    "Negative Content-Length header": ([400], [411]),
    "Non-numeric Content-Length header": ([400], [411]),
    "Empty header value": ([200],),
    "Header containing invalid control character": ([400],),
    "Invalid HTTP version": ([505], [400]),
    "Invalid prefix of request": ([400],),
    "Invalid line ending": ([400],),
    "Valid POST request with body": ([404],),  # no such route
    "Chunked Transfer-Encoding": ([411],),  # not spoken here
    "Conflicting Transfer-Encoding and Content-Length in varying case": ([411],),
}


@pytest.mark.skipif(not (SHARED / "hostile/h1/cases.json").exists(), reason="there is no ../shared/hostile/h1 here")
def test_shared_h1(server):
    cases = json.loads((SHARED / "hostile/h1/cases.json").read_text())
    cut = [c for c in cases if c.get("expectedTimeout")]
    assert {c["description"] for c in cases if c not in cut} == set(H1) and len(cut) == 15
    for case in cases:
        data = case["request"].replace("GET / ", "GET /healthz ").encode("latin1")
        if case in cut:  # a head not yet whole: silence, and the rest of it would be read
            raw, closed = server.raw(data, wait=0.3)
            assert raw == b"" and not closed, case["description"]
        raw = exchange(server, data)
        if case in cut:
            assert statuses_of(raw) in ([], [400]), (case["description"], raw)
        else:
            assert statuses_of(raw) in H1[case["description"]], (case["description"], raw)


def shared_script(server, name):
    text = (SHARED / "hostile" / name).read_text().replace("/v1/check", "/v1/guard")
    done = subprocess.run([sys.executable, "-c", text, str(server.port)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [x for x in done.stdout.splitlines() if x]


CRLF = {"plain": [400], "1 CRLF first": [400], "2 CRLF first": [400], "LFLF first": [400], "only CRLFCRLF on a fresh conn": [400],
        "CRLFCRLF+POS after 60 partial": [400]}


@pytest.mark.skipif(not (SHARED / "hostile/crlf.py").exists(), reason="there is no ../shared/hostile here")
def test_shared_crlf(server):
    lines = shared_script(server, "crlf.py")
    assert {x.partition(" -> ")[0] for x in lines} == set(CRLF) and len(lines) == 11
    for text in lines:
        name = text.partition(" -> ")[0]
        got = statuses_of(text.encode())
        assert got == CRLF[name] or (got == [] and "CRLFCRLF" in name), text
        assert "victimkey" not in text and "a value is expected" not in text.replace("plain", "", 1) or name == "plain", text


@pytest.mark.skipif(not (SHARED / "hostile/stale.py").exists(), reason="there is no ../shared/hostile here")
def test_shared_stale(server):
    for _ in range(5):
        victim, attacker = shared_script(server, "stale.py")
        assert statuses_of(victim.encode()) == [404]
        assert statuses_of(attacker.encode()) in ([], [400]) and "invalid_json" not in attacker, attacker
    assert server.get("/healthz").status == 200
