"""golden.json: a server whose model is not the one that was measured, or that computes something else, never becomes ready."""

import http.client
import json
import shutil

import pytest
from conftest import ROOT

MINI = ROOT / "weights" / "guardian-mini"


@pytest.fixture
def model(tmp_path):
    d = tmp_path / "copied"
    shutil.copytree(MINI, d)
    return d


def flags(d, *more):
    return ["--model", str(d), "--device", "cpu", *more]


def never_ready(s):
    """Asks until the process ends; the error that it told."""
    port, seen = s.port, set()
    while s.process.poll() is None:
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            c.request("GET", "/readyz")
            r = c.getresponse()
            seen.add((r.status, json.loads(r.read()).get("status")))
        except (OSError, http.client.HTTPException):
            pass
        finally:
            c.close()
        assert {status for status, _ in seen} <= {503}, seen
    assert s.process.wait() == 3
    assert not any(x["msg"] == "ready" for x in s.lines())
    errors = [x for x in s.lines() if x["severity_text"] == "ERROR"]
    assert [x["msg"] for x in errors] == ["model not loaded"]
    return errors[0]["error"]


def flip(path, offset=-2, mask=1):
    """Offset -2 of the weights is the last but one byte of the last tensor: the scores hardly change."""
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


def test_right_model(start, model):
    s = start(model=flags(model))
    line = next(x for x in s.lines() if x["msg"] == "model checked")
    told = s.get("/info").json["golden"]
    assert told["files"] == line["files"] == 4 and told["requests"] == line["requests"] >= 8
    assert told["skipped"] is None and 0 <= told["difference_max"] <= told["tolerance"] == 0.02
    m = s.metrics()
    assert m["guardian_ready"] == 1
    assert s.stop() == 0


def test_flipped_bit(start, model):
    flip(model / "model.safetensors")
    error = never_ready(start(model=flags(model), wait="listening"))
    want = json.loads((model / "golden.json").read_text())["sha256"]["model.safetensors"]
    assert "'model.safetensors'" in error and "SHA-256" in error and want in error


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "policy.json"])
def test_other_file(start, model, name):
    (model / name).write_text((model / name).read_text() + "\n")
    error = never_ready(start(model=flags(model), wait="listening"))
    assert "'%s'" % name in error and "SHA-256" in error


def test_flipped_bit_with_another_policy(start, model):
    other = model / "other.json"  # beside its evidence
    policy = json.loads((model / "policy.json").read_text())
    other.write_text(json.dumps({**policy, "version": 99}))
    flip(model / "model.safetensors")
    error = never_ready(start(model=flags(model, "--policy", str(other)), wait="listening"))
    assert "'model.safetensors'" in error


@pytest.mark.parametrize("member,change", [
    ("score", lambda v: v - 0.03), ("label", lambda v: "identity_injection"),
    ("action", lambda v: "block" if v == "allow" else "allow")])
def test_wrong_verdict(start, model, member, change):
    doc = json.loads((model / "golden.json").read_text())
    row = doc["requests"][-1]
    was, row[member] = row[member], change(row[member])
    (model / "golden.json").write_text(json.dumps(doc))
    error = never_ready(start(model=flags(model), wait="listening"))
    assert "'%s'" % row["name"] in error and member in error
    for v in (was, row[member]):
        assert (v if isinstance(v, str) else ("%.5f" % v)[:5]) in error


def test_malformed(start, model):
    (model / "golden.json").write_text("{")
    assert "golden.json" in never_ready(start(model=flags(model), wait="listening"))


def test_without(start, model):
    (model / "golden.json").unlink()
    s = start(model=flags(model))
    assert s.get("/info").json["golden"] is None
    assert any("golden" in x["msg"] for x in s.lines())
    assert s.stop() == 0


@pytest.mark.parametrize("how", ["policy", "operating-point"])
def test_not_comparable(start, model, how):
    """The files count all the same; the verdicts are another policy's."""
    other = model / "other.json"
    other.write_text(json.dumps({**json.loads((model / "policy.json").read_text()), "version": 99}))
    s = start(model=flags(model, "--" + how, str(other) if how == "policy" else "strict"))
    told = s.get("/info").json["golden"]
    assert told["files"] == 4 and told["requests"] == 0 and how.split("-")[0] in told["skipped"]
    assert s.stop() == 0
