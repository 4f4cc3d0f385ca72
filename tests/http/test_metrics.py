"""/metrics: promtool has nothing to say about it, our own strict reader neither, and no client can add a series."""
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, pending_request, parse_metrics, unique, user


def promtool():
    """GUARDIAN_PROMTOOL, the one in PATH, or build/promtool (from Debian's package `prometheus`, unpacked there)."""
    for name in (os.environ.get("GUARDIAN_PROMTOOL"), shutil.which("promtool"), ROOT / "build/promtool/usr/bin/promtool"):
        if name and os.access(name, os.X_OK):
            return str(name)
    return None


def check(text):
    done = subprocess.run([promtool(), "check", "metrics"], input=text.encode(), capture_output=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode()


def use_everything(s):
    assert s.guard(pending_request(unique())).status == 200
    assert s.batch([pending_request(unique()), {"messages": 1}]).status == 200
    for path in ("/healthz", "/readyz", "/info", "/version", "/v1/models", "/nowhere"):
        s.get(path)
    s.guard("{")
    s.guard({**pending_request(words=1500), "deadline_ms": 1})
    s.ask("POST", "/v1/guard", body=b" " * 3_000_000)
    s.ask("DELETE", "/v1/guard")


@pytest.mark.skipif(promtool() is None, reason="there is no promtool: set GUARDIAN_PROMTOOL (Debian: prometheus)")
def test_promtool_accepts_it(server):
    """Linted at once after the start of a server and when every family has counted; promtool does complain when there is
    something to complain about."""
    use_everything(server)
    text = server.get("/metrics").body.decode()
    assert check(text) == (0, "")
    for broken in (text.replace("guardian_prompt_tokens_total", "guardian_prompt_tokens"),
                   text.replace("guardian_uptime_seconds", "guardian_uptime_milliseconds"),
                   text + "# TYPE guardian_ready gauge\n", text.replace('",code="200"} ', ',code="200"} ')):
        assert check(broken)[0] != 0, broken


def test_a_fresh_server(start):
    s = start(wait="listening")
    m = parse_metrics(s.get("/metrics").body.decode())
    assert m["guardian_ready"] in (0, 1) and m["guardian_request_duration_seconds_count"] >= 0
    s.wait_log("ready")
    text = s.get("/metrics").body.decode()
    assert parse_metrics(text)["guardian_ready"] == 1
    assert promtool() is None or check(text) == (0, "")


def test_the_reader_is_strict():
    """What it must not take for metrics, each a small change of what is right."""
    good = ('# HELP guardian_a_total Some \\\\ text.\n# TYPE guardian_a_total counter\nguardian_a_total{x="1",y="\\"\\\\\\n"} 2\n'
            "# HELP guardian_b Text.\n# TYPE guardian_b gauge\nguardian_b -1.5e-7\n"
            "# HELP guardian_c Text.\n# TYPE guardian_c histogram\n"
            'guardian_c_bucket{le="0.5"} 1\nguardian_c_bucket{le="+Inf"} 3\n'
            "guardian_c_sum 7.25\nguardian_c_count 3\n")
    assert parse_metrics(good) == {
        'guardian_a_total{x="1",y="\\"\\\\\\n"}': 2, "guardian_b": -1.5e-7, 'guardian_c_bucket{le="0.5"}': 1,
        'guardian_c_bucket{le="+Inf"}': 3, "guardian_c_sum": 7.25, "guardian_c_count": 3}
    changes = [("guardian_b -1", "guardian_b -1 "), ("guardian_b -1.5e-7", "guardian_b -1.5e-7 1700000000"),
               (" 2\n", " 2.5\n"), (" 2\n", " -2\n"), (" 2\n", " NaN\n"),
               ('x="1"', 'x="1",x="1"'), ('x="1",', 'x="1" '), ('\\n"} 2', '\\t"} 2'),
               ('"} 2', '",} 2'), ("# TYPE guardian_b gauge\n", ""), ("# HELP guardian_b Text.\n", ""),
               ("# TYPE guardian_b gauge", "# TYPE guardian_b counter"), ("guardian_a_total counter", "guardian_a_total gauge"),
               ('le="+Inf"} 3', 'le="+Inf"} 0'), ("count 3", "count 4"), ("guardian_c_sum 7.25\n", ""), ('le="+Inf"', 'le="2"'),
               ('le="0.5"', 'lf="0.5"'), ("guardian_b -1.5e-7\n", "guardian_b -1.5e-7\nguardian_b 1\n"),
               ("guardian_c_count 3\n", ""),
               ("gauge\n", "gauge\n\n"), ("gauge\n", "gauge\n# a comment\n"), ("guardian_b -1", "guardian_bb -1"),
               ("count 3\n", "count 3"), ("guardian_b", "guardian_ms")]
    for old, new in changes:
        assert old in good
        try:
            parse_metrics(good.replace(old, new))
        except (AssertionError, TypeError, IndexError, KeyError):
            continue
        raise AssertionError("taken: %r for %r" % (new, old))


def test_nobody_can_add_a_series(server):
    """Paths, methods, names of tools and sessions, ids, traces: only what is counted changes, not what is there."""
    use_everything(server)
    for line in (b"BREW /pot HTTP/1.1", b"GET /pot HTTP/2.0"):
        server.raw(line + b"\r\nHost: x\r\n\r\n")
    before = set(server.metrics())
    assert not any('code="other"' in x for x in before)
    for i in range(60):
        mark = "guardian_x{a=\"%d\"} 1" % i
        server.raw(("M%d /p%d HTTP/1.1\r\nHost: h%d\r\n\r\n" % (i, i, i)).encode())
        server.get("/p%d" % i, headers={"x-request-id": "r%d" % i, "traceparent": "00-%032x-%016x-01" % (i + 1, i + 1)})
        r = pending_request(mark)
        r["tools"][0]["function"]["name"] = mark
        server.guard({**r, "session": mark, "policy": mark})
        server.guard({"messages": [user(mark)], "server": mark})
    after = server.get("/metrics").body.decode()
    added = set(parse_metrics(after)) - before  # by what is asked here, none of it in the client's words
    known = re.compile(r'guardian_(verdicts_total\{action="[a-z]+",label="[a-z_]+"|'
                       r'requests_total\{route="(/v1/guard|/metrics|none)",code="[0-9]{3}")\}')
    assert all(known.fullmatch(x) for x in added), added
    assert "guardian_x" not in after and len(after) < 100_000


def test_what_is_written_says_what_it_is(server):
    about = json.loads(server.get("/info").body)
    text = server.get("/metrics").body.decode()
    assert 'guardian_build_info{version="%s"} 1\n' % server.get("/version").json["version"] in text
    assert about["model"]["version"] in text
    assert server.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    documented = (pathlib.Path(ROOT) / "README.md").read_text()
    assert "/metrics" in documented
