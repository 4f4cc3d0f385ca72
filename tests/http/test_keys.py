"""Keys over HTTP: who may ask, on whose behalf, by which policy, how much; and that no key is ever told."""
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import BIN, ROOT, clean_env, eventually, model_args, pending_request, unique
from test_life import policy, put

OPEN = ("/healthz", "/readyz", "/health", "/version", "/openapi.json")
CLOSED = ("/v1/models", "/v1/taxonomy", "/info", "/metrics")
TINY = str(ROOT / "tests/golden/models/llama_f32_tied")


def new_key():
    return "gk_test_" + os.urandom(16).hex()


def entry(key, name, **more):
    return {"id": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **more}


def bearer(key):
    return {"Authorization": "Bearer " + key}


def put_keys(path, *entries):
    put(path, {"keys": list(entries)})


def rejected(s, key, reason):
    text = s.get("/metrics", headers=bearer(key)).body.decode()
    for line in text.splitlines():
        if line.startswith('guardian_rejected_total{reason="%s"}' % reason):
            return float(line.split()[-1])
    return 0


def test_only_with_a_key(start, tmp_path):
    a, b = new_key(), new_key()
    put_keys(tmp_path / "keys.json", entry(a, "gateway-a"), entry(b, "gateway-b", tenant="b"))
    s = start("--keys", str(tmp_path / "keys.json"))
    for path in OPEN:
        assert s.get(path).status == 200
    refused = [{}, bearer(new_key()), {"Authorization": "Basic " + a}, {"Authorization": "Bearer  " + a}, bearer(a[:-1]),
               {"Authorization": "Bearer " + a, "x-api-key": a}, {"x-api-key": ""}, bearer(a.upper())]
    for headers in refused:
        for path in CLOSED:
            r = s.get(path, headers=headers)
            assert r.status == 401 and r.error["code"] == "unauthorized" and r.headers["www-authenticate"] == "Bearer"
        for ask in (s.guard, s.batch):
            r = ask(pending_request(), headers=headers)
            assert r.status == 401 and "action" not in r.json and a not in r.body.decode()
    for headers in (bearer(a), bearer(b), {"x-api-key": a}, {"Authorization": "bEARER " + b}):
        assert s.guard(pending_request(), headers=headers).status == 200
        assert s.get("/info", headers=headers).status == 200
    assert s.get("/nowhere").status == 404
    assert s.stop() == 0


def test_a_refused_body_is_not_read(start, tmp_path):
    key = new_key()
    put_keys(tmp_path / "keys.json", entry(key, "a"))
    s = start("--keys", str(tmp_path / "keys.json"))
    head = b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n"
    raw, closed = s.raw(head)
    assert raw.startswith(b"HTTP/1.1 401") and closed and b"100 Continue" not in raw
    assert s.stop() == 0


def test_key_of_the_environment(start):
    key = new_key()
    s = start(env={"GUARDIAN_API_KEY": key})
    assert s.guard(pending_request()).status == 401
    assert s.guard(pending_request(), headers=bearer(key)).status == 200
    with open("/proc/%d/environ" % s.process.pid, "rb") as f:
        assert key.encode() not in f.read()
    assert s.stop() == 0
    assert key not in open(s.log_path).read()


@pytest.mark.parametrize("content", ["{", {"keys": []}, {"keys": [{"id": "a"}]}, {"keys": [{"id": "a", "sha256": "00"}]},
                                     {"keys": [entry("x" * 20, "a"), entry("y" * 20, "a")]}, {}])
def test_bad_key_files_do_not_start(tmp_path, content):
    put(tmp_path / "keys.json", content)
    done = subprocess.run([BIN, "serve", *model_args(), "--port", "0", "--keys", str(tmp_path / "keys.json")],
                          capture_output=True, env=clean_env(), timeout=60)
    assert done.returncode == 2 and b"keys.json" in done.stderr


def test_public_address_needs_keys(start, tmp_path):
    key = new_key()
    put_keys(tmp_path / "keys.json", entry(key, "a"))
    argv = [BIN, "serve", *model_args(), "--port", "0", "--host", "0.0.0.0"]
    done = subprocess.run(argv, capture_output=True, env=clean_env(), timeout=60)
    assert done.returncode == 2 and b"--keys" in done.stderr
    s = start("--host", "0.0.0.0", "--keys", str(tmp_path / "keys.json"))
    assert s.guard(pending_request(), headers=bearer(key)).status == 200
    assert s.stop() == 0


def test_tenants_do_not_share_caches(start, tmp_path):
    a, a2, b = new_key(), new_key(), new_key()
    put_keys(tmp_path / "keys.json", entry(a, "a", tenant="acme"), entry(a2, "a2", tenant="acme"), entry(b, "b"))
    s = start("--keys", str(tmp_path / "keys.json"))
    ask = pending_request(unique(), 60)

    def cached(key):
        r = s.guard(ask, headers=bearer(key))
        return r.headers["x-cache"], r.json["context"]["cached_tokens"]

    first, base = cached(a)
    assert first == "miss"
    assert cached(a2)[0] == "hit"  # the same tenant
    assert cached(b) == ("miss", base)  # finds what everybody finds, the policy's prefix, and no more
    assert cached(b)[0] == "hit"
    assert s.stop() == 0


def test_policies_of_a_key(start, tmp_path):
    put(tmp_path / "one.json", policy("one", 1))
    put(tmp_path / "two.json", policy("two", 1))
    every, only, gone = new_key(), new_key(), new_key()
    put_keys(tmp_path / "keys.json", entry(every, "every"), entry(only, "only", policies=["two"]),
             entry(gone, "gone", policies=["three"]))
    s = start("--keys", str(tmp_path / "keys.json"),
              model=["--model", TINY, "--policy", "%s,%s" % (tmp_path / "one.json", tmp_path / "two.json")])

    def judged(key, **more):
        r = s.guard({**pending_request(), **more}, headers=bearer(key))
        return r.json["policy"] if r.status == 200 else (r.status, r.error["code"])

    assert judged(every) == "one@1" and judged(every, policy="two") == "two@1"
    assert judged(only) == "two@1" and judged(only, policy="two@1") == "two@1"
    assert judged(only, policy="one") == (403, "policy_not_allowed")
    assert judged(gone) == judged(gone, policy="one") == (403, "policy_not_allowed")
    items = s.batch([pending_request(), {**pending_request(), "policy": "one"}], headers=bearer(only)).json["data"]
    assert items[0]["policy"] == "two@1" and items[1]["error"]["code"] == "policy_not_allowed"
    assert s.stop() == 0


def test_rate_limits(start, tmp_path):
    slow, free = new_key(), new_key()
    put_keys(tmp_path / "keys.json", entry(slow, "slow", requests_per_second=0.01, burst=70), entry(free, "free"))
    s = start("--keys", str(tmp_path / "keys.json"))
    for _ in range(6):
        assert s.guard(pending_request(), headers=bearer(slow)).status == 200
    assert s.batch([pending_request()] * 64, headers=bearer(slow)).status == 200  # costs 64
    r = s.guard(pending_request(), headers=bearer(slow))
    assert r.status == 429 and r.error["code"] == "rate_limited" and "action" not in r.json
    assert 1 <= int(r.headers["retry-after"]) <= 100
    assert s.get("/info", headers=bearer(slow)).status == 429
    assert s.guard(pending_request(), headers=bearer(free)).status == 200
    assert s.get("/healthz").status == 200
    assert rejected(s, free, "rate_limited") == 2
    assert s.stop() == 0


def test_requests_at_one_time(start, tmp_path):
    key, free = new_key(), new_key()
    put_keys(tmp_path / "keys.json", entry(key, "two", concurrency=2), entry(free, "free"))
    s = start("--keys", str(tmp_path / "keys.json"))
    body = json.dumps(pending_request()).encode()
    head = ("POST /v1/guard HTTP/1.1\r\nHost: x\r\nx-api-key: %s\r\nContent-Length: %d\r\n\r\n" % (key, len(body))).encode()
    held = [socket.create_connection(("127.0.0.1", s.port), timeout=30) for _ in range(2)]
    for c in held:
        c.sendall(head)  # both are running: their bodies are waited for
    eventually(lambda: s.guard(pending_request(), headers=bearer(key)).status == 429)
    assert s.guard(pending_request(), headers=bearer(free)).status == 200
    for c in held:
        c.sendall(body)
        assert c.recv(65536).startswith(b"HTTP/1.1 200")
        c.close()
    eventually(lambda: s.guard(pending_request(), headers=bearer(key)).status == 200)
    assert s.stop() == 0


def test_sighup_reads_the_keys_again(start, tmp_path):
    old, new = new_key(), new_key()
    path = tmp_path / "keys.json"
    put_keys(path, entry(old, "old"))
    s = start("--keys", str(path))
    assert [s.guard(pending_request(), headers=bearer(k)).status for k in (old, new)] == [200, 401]
    put_keys(path, entry(new, "new"))
    s.process.send_signal(signal.SIGHUP)
    eventually(lambda: s.guard(pending_request(), headers=bearer(new)).status == 200)
    assert s.guard(pending_request(), headers=bearer(old)).status == 401
    put(path, '{"keys": [{"id": "x"}]}')
    s.process.send_signal(signal.SIGHUP)
    line = s.wait_log("keys not reloaded")
    assert "keys.json" in line["error"] and "sha256" in line["error"]
    assert s.guard(pending_request(), headers=bearer(new)).status == 200
    assert s.stop() == 0


def test_reloads_under_load_let_nobody_else_in(start, tmp_path):
    good, wrong = new_key(), new_key()
    path = tmp_path / "keys.json"
    put_keys(path, entry(good, "good"))
    s = start("--keys", str(path))
    over, seen = threading.Event(), []

    def work(key, expected):
        c = s.connect()
        while not over.is_set():
            r = s.patiently(s.guard, pending_request(), connection=c, headers=bearer(key))
            seen.append(r.status == expected)
            if r.headers["connection"] == "close":
                c = s.connect()

    threads = [threading.Thread(target=work, args=x) for x in ((good, 200), (wrong, 401)) for _ in range(3)]
    for t in threads:
        t.start()
    for i in range(20):
        put_keys(path, entry(good, "good"), *[entry(new_key(), "k%d" % k) for k in range(i * 20)])
        s.process.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    over.set()
    for t in threads:
        t.join()
    assert len(seen) > 20 and all(seen)
    assert s.stop() == 0


def test_keys_are_told_nowhere(start, tmp_path):
    key, wrong = new_key(), new_key()
    put_keys(tmp_path / "keys.json", entry(key, "gateway-1", tenant="acme"))
    s = start("--keys", str(tmp_path / "keys.json"), "--log-level", "debug")
    text = ""
    for headers in (bearer(key), {"x-api-key": key}, bearer(wrong), {"Authorization": wrong}):
        for path in OPEN + CLOSED + ("/nowhere", "/v1/guard"):
            r = s.get(path, headers=headers)
            text += r.body.decode() + str(r.headers)
        text += s.guard(pending_request(), headers=headers).body.decode()
    line = s.wait_log("request", key_id="gateway-1")
    assert line["tenant"] == "acme"
    assert s.stop() == 0
    text += open(s.log_path).read()
    for secret in (key, wrong, hashlib.sha256(key.encode()).hexdigest()):
        assert secret not in text
