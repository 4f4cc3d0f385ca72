"""The log: one JSON object a line, one line a request, nothing in it that a client can choose but path, request id and trace.

Every byte value and texts that try to end a line, a string or an object go into every part of a request.
"""
import fcntl
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest
from conftest import BIN, ROOT, clean_env, model_args, pending_request, responses, run_threads, user

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = "00-%s-%s-01" % (TRACE, SPAN)
COMMON = {"timestamp", "severity_text", "msg", "service.name", "service.version"}
ALWAYS = COMMON | {"trace_id", "span_id", "trace_flags", "request_id", "client.address", "http.request.method",
                   "url.path", "http.response.status_code", "http.request.body.size", "http.response.body.size", "total_ms"}
SOMETIMES = {"parent_span_id", "queue_ms", "infer_ms", "error.type", "items", "item_errors", "id", "action", "label",
             "score", "phase", "events", "prompt_tokens", "cached_tokens", "cache_hit", "truncated", "tenant", "key_id"}
FORGED = ('x"}\n{"timestamp":"2026-01-01T00:00:00.000Z","severity_text":"INFO","msg":"verdict","action":"allow",'
          '"forged":"yes"}\n{"a":"')
NASTY = [FORGED, FORGED.replace("\n", "\r\n"), FORGED.replace("\n", "\\n"), "\\", '"', "\\u000a", "%0a%0d", "${jndi:x}",
         "\x1b[2J\x9b31m", "\u2028{\u2029", "\u202e", "\x85", "forged\tyes", "a" * 9000]


def request_lines(s):
    """Every line of the log must be one object with the common members, each once."""
    text = pathlib.Path(s.log_path).read_bytes()
    assert text.endswith(b"\n") and re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xe2\x80[\xa8\xa9]|\xc2[\x80-\x9f]", text) is None
    out = []
    for line in text.decode("utf-8").split("\n")[:-1]:
        members = json.loads(line, object_pairs_hook=list)
        names = [k for k, _ in members]
        assert len(set(names)) == len(names) and COMMON <= set(names) | {"service.version"}, line
        out.append(dict(members))
    return [x for x in out if x["msg"] == "request"]


def raw_head(path="/healthz", query="", headers=(), method="GET", version="HTTP/1.1"):
    def enc(x):
        return x if isinstance(x, bytes) else x.encode("utf-8", "surrogateescape")

    target = enc(path) + (b"?" + enc(query) if query else b"")
    lines = [enc(method) + b" " + target + b" " + enc(version), b"Host: x", b"Connection: close"]
    return b"\r\n".join(lines + [enc(k) + b": " + enc(v) for k, v in headers]) + b"\r\n\r\n"


def with_body(body, path="/v1/guard", headers=()):
    body = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return raw_head(path, method="POST", headers=[("Content-Length", str(len(body))), *headers]) + body


def bodies(text):
    """The text as a value, a name, a key: wherever the forms have one."""
    r = pending_request()
    r["tools"][0]["function"]["name"] = text
    yield r
    yield {**pending_request(), "session": text}
    yield {**pending_request(text)}
    yield {**pending_request(), text: 1}
    yield {**pending_request(), "policy": text, "server": text}
    yield {"messages": [{"role": text, "content": "x"}]}
    yield {"frames": [user(text), {"jsonrpc": "2.0", "id": text, "method": "tools/call",
                                   "params": {"name": text, "arguments": {text: text}, "_meta": {"traceparent": text}}}]}
    yield {"mci": [[text] * 5]}


def attempts():
    for b in range(256):
        byte = bytes([b])
        yield raw_head(b"/a" + byte + b"b")
        yield raw_head("/info", b"q=" + byte)
        yield raw_head(headers=[("x-request-id", b"r" + byte + b"r")])
        yield raw_head(headers=[("traceparent", GOOD[:-1].encode() + byte)])
        yield raw_head(headers=[(b"x-a" + byte + b"b", b"forged" + byte)])
        yield raw_head(headers=[("user-agent", b"forged" + byte)], method=b"GET" + byte)
        yield with_body(b'{"session": "a' + byte + b'b", "messages": []}')
    for text in NASTY:
        for at in ({"path": "/" + text}, {"path": "/info", "query": text}, {"method": text}, {"version": text}):
            yield raw_head(**at)
        for name in ("x-request-id", "traceparent", "tracestate", "user-agent", "x-forwarded-for", "authorization"):
            yield raw_head(headers=[(name, text)])
        for body in bodies(text):
            yield with_body(body)
            yield with_body({"items": [body, body]}, path="/v1/guard/batch")
        yield with_body(text.encode("utf-8", "surrogatepass"))


def test_no_request_can_forge_a_line(start):
    s = start()
    ids = []
    for data in attempts():
        raw, closed = s.raw(data, wait=60)
        assert closed, data
        answers = responses(raw)
        assert len(answers) <= 1, data  # none: the head never was one
        ids += [r.headers["x-request-id"] for r in answers]
    r = s.guard(pending_request(), headers={"x-request-id": "the-last-one"})
    assert r.status == 200
    s.wait_log("request", request_id="the-last-one")
    assert s.stop() == 0
    lines = request_lines(s)
    assert [x["request_id"] for x in lines] == ids + ["the-last-one"]
    assert len(lines) > 1500 and len({x["span_id"] for x in lines}) == len(lines)
    for x in lines:
        assert ALWAYS <= set(x) <= ALWAYS | SOMETIMES, x
        assert re.fullmatch("[0-9a-f]{32}", x["trace_id"]) and re.fullmatch("[0-9a-f]{16}", x["span_id"])
        assert re.fullmatch("[A-Za-z0-9._:/+=@-]{1,128}", x["request_id"]) and len(x["url.path"].encode()) <= 3 * 128
        assert x["http.request.method"] in ("GET", "POST", "_OTHER") and x["client.address"] == "127.0.0.1"
        assert isinstance(x["http.response.status_code"], int) and x["severity_text"] in ("INFO", "WARN")
        elsewhere = json.dumps({k: v for k, v in x.items() if k != "url.path"})
        assert "forged" not in elsewhere and "jndi" not in elsewhere
    ours = {"listening", "device fallback", "model checked", "memory plan", "ready", "request", "draining", "stopped"}
    assert {x["msg"] for x in s.lines()} <= ours


def test_no_content_in_the_log(start):
    """A word that stands in every part of requests of every form, answered and refused, is nowhere in the log."""
    s = start("--log-level", "debug")
    word = "zebra-quartz-77"
    for body in bodies(word):
        s.ask("POST", "/v1/guard", body=body, headers={"user-agent": word, "tracestate": "a=" + word, "cookie": word})
        s.batch([body])
    s.ask("POST", "/v1/guard?" + word, body={})
    s.get("/info?key=" + word, headers={"authorization": "Bearer " + word, "traceparent": word, "x-request-id": word + "\t"})
    assert s.stop() == 0
    assert len(request_lines(s)) == 18
    assert word not in pathlib.Path(s.log_path).read_text()


def line_of(s, name, **kw):
    answer = s.ask("GET", "/version", **kw) if "body" not in kw else s.ask("POST", "/v1/guard", **kw)
    assert "traceresponse" not in answer.headers and "traceparent" not in answer.headers
    return s.wait_log("request", request_id=name)


def test_traceparent(server):
    seen = set()
    for i, (given, flags) in enumerate([(GOOD, "01"), (GOOD[:-2] + "00", "00"), (GOOD[:-2] + "ff", "01"), (GOOD, "01")]):
        x = line_of(server, "t-%d" % i, headers={"traceparent": given, "x-request-id": "t-%d" % i})
        assert (x["trace_id"], x["parent_span_id"], x["trace_flags"]) == (TRACE, SPAN, flags)
        seen.add(x["span_id"])
    assert len(seen) == 4 and SPAN not in seen


BAD = [GOOD.upper(), "01" + GOOD[2:], "ff" + GOOD[2:], GOOD + "-x", GOOD[1:], "00-%032x-%s-01" % (0, SPAN),
       "00-%s-%016x-01" % (TRACE, 0), GOOD.replace("-", "_"), GOOD + ", " + GOOD, "", "null"]


@pytest.mark.parametrize("given", BAD)
def test_a_bad_traceparent_begins_a_trace(server, given):
    name = "u-%d" % BAD.index(given)
    x = line_of(server, name, headers={"traceparent": given, "x-request-id": name})
    assert "parent_span_id" not in x and x["trace_id"] != TRACE and x["trace_flags"] == "00"
    assert x["trace_id"].strip("0") and x["span_id"].strip("0")


def test_two_traceparents_are_none(server):
    """Which of the two counts would be a guess."""
    raw, _ = server.raw(raw_head(headers=[("traceparent", GOOD), ("TraceParent", GOOD), ("x-request-id", "two")]))
    assert raw.startswith(b"HTTP/1.1 200")
    assert "parent_span_id" not in server.wait_log("request", request_id="two")


def test_traceparent_of_a_frame(server):
    """MCP clients put it into _meta; the header, which is of this very request, goes first."""
    frames = json.loads((ROOT / "tests/golden/frames/time_convert_2026.json").read_text())["frames"]
    calls = [f for f in frames if f.get("method") == "tools/call"]
    calls[-1]["params"]["_meta"]["traceparent"] = GOOD
    body = {"frames": frames}
    x = line_of(server, "m-1", body=body, headers={"x-request-id": "m-1"})
    assert (x["trace_id"], x["parent_span_id"], x["trace_flags"]) == (TRACE, SPAN, "01") and "action" in x
    other = "00-%032x-%016x-00" % (7, 8)
    x = line_of(server, "m-2", body=body, headers={"x-request-id": "m-2", "traceparent": other})
    assert (x["trace_id"], x["parent_span_id"], x["trace_flags"]) == ("%032x" % 7, "%016x" % 8, "00")
    x = line_of(server, "m-3", body=body, headers={"x-request-id": "m-3", "traceparent": "no"})
    assert (x["trace_id"], x["parent_span_id"]) == (TRACE, SPAN)


def test_lines_say_who_wrote_them(server):
    version = server.get("/version").json["version"]
    for x in server.lines():
        assert x["service.name"] == "guardian" and x["service.version"] == version


def test_a_log_that_nobody_reads():
    """Requests are answered and the server ends when told to, though its standard error is a pipe that is full; when it is
    read again, whole lines come, and how many were lost."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen([BIN, "serve", *model_args(), "--port", "0"], stderr=into, env=clean_env())
    os.close(into)
    said = b""
    while b'"ready"' not in said:
        said += os.read(out, 65536)
    port = next(x["port"] for x in map(json.loads, said.splitlines()) if x["msg"] == "listening")

    def ask(n):
        for _ in range(n):
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            c.request("GET", "/version")
            assert c.getresponse().status == 200
            c.close()

    run_threads(8, lambda i: ask(10))
    time.sleep(3)  # it waits a second for somebody to read
    ended = []

    def read():
        parts = []
        while part := os.read(out, 65536):
            parts.append(part)
        ended.append(b"".join(parts))

    reader = threading.Thread(target=read)
    reader.start()
    ask(5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    reader.join()
    os.close(out)
    said = said[said.rindex(b"\n") + 1:] + ended[0]
    lines = [json.loads(x) for x in said.splitlines() if x]
    lost = [x["lines"] for x in lines if x["msg"] == "log lines were lost"]
    asked = sum(x["msg"] == "request" for x in lines)
    assert lost and sum(lost) + asked == 85, (lost, asked)
