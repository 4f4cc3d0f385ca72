"""The verdict: its fields, its three input forms, its errors."""
import json
import pathlib
import struct

import pytest
from conftest import ROOT, TOOLS, answered_request, call, model_dir, pending_request, result, user

LABELS = ["appropriate", "function_overlapping", "excessive_privileges_overlapping", "function_dependency_injection",
          "function_injection", "causal_dependency_injection", "wrong_function_intent_injection",
          "wrong_arguments_intent_injection", "data_injection", "identity_injection", "replay_injection"]
FRAMES = sorted((ROOT / "tests/golden/frames").glob("*.json"))


def check_verdict(v):
    assert v["object"] == "guard.verdict" and v["id"].startswith("gv-") and len(v["id"]) == 35
    assert isinstance(v["created"], int) and v["model_version"].startswith("sha256:") and len(v["model_version"]) == 71
    assert isinstance(v["model"], str) and v["policy"].count("@") == 1
    assert v["action"] in ("allow", "review", "block") and isinstance(v["flagged"], bool)
    assert v["label"] in LABELS and len(v["choice"]) == 1
    assert sorted(v["scores"]) == sorted(LABELS)
    total = sum(x for x in v["scores"].values())
    assert all(0.0 <= x <= 1.0 for x in v["scores"].values()) and abs(total - 1) < 1e-6
    assert 0.0 <= v["score"] <= 1.0 and 0.0 <= v["threshold"] <= 1.0
    assert abs(v["score"] - (1 - v["scores"]["appropriate"])) < 1e-9
    assert v["flagged"] == (v["score"] >= v["threshold"])
    if v["action"] == "allow":
        assert not v["flagged"]
    assert (v["label"] == "appropriate") == (not v["flagged"])
    assert v["status"] == "ok" and v["phase"] in ("request", "response") and isinstance(v["reason"], str)
    c, t = v["context"], v["timing_ms"]
    assert c["events"] >= 1 and c["tokens"] >= 1 and c["cached_tokens"] >= 0 and isinstance(c["truncated"], bool)
    assert all(t[k] >= 0 for k in ("queue", "tokenize", "prefill", "total"))
    return v


def test_fields(server):
    r = server.guard(answered_request())
    assert r.status == 200 and r.headers["content-type"] == "application/json"
    v = check_verdict(r.json)
    assert v["phase"] == "response" and v["step"] is None
    assert r.headers["x-guard-id"] == v["id"]
    for h in ("x-queue-time", "x-inference-time", "x-total-time"):
        assert float(r.headers[h]) >= 0


def test_phases_and_steps(server):
    m = [user("Weather in Berlin, then in Rome?"), call("get_weather", {"city": "Berlin"}), result("21"),
         call("get_weather", {"city": "Rome"}, "c2"), result("25", "c2"), {"role": "assistant", "content": "21 and 25."}]
    got = [server.guard({"tools": TOOLS, "messages": m[:n]}).json for n in range(2, 7)]
    assert [v["phase"] for v in got] == ["request", "response", "request", "response", "response"]
    assert [v["step"] for v in got] == [0, 0, 1, 1, None]
    for v in got:
        check_verdict(v)
    for v in (got[0], got[2]):  # nothing of the response can be judged before there is one
        assert v["scores"]["data_injection"] == 0


def test_given_phase_must_be_right(server):
    assert server.guard({**pending_request(), "phase": "request"}).status == 200
    r = server.guard({**pending_request(), "phase": "response"})
    assert r.status == 422 and r.error["field"] == "phase"


def test_numbers_read_back_to_the_same_bits(server):
    r = server.guard(pending_request())
    for text, value in _numbers(r.body.decode()):
        assert struct.pack("<d", float(text)) == struct.pack("<d", value)
    v = r.json
    again = json.loads(json.dumps(v))
    assert again["scores"] == v["scores"]


def _numbers(text):
    out = []

    def keep(x):
        out.append((x, float(x)))
        return float(x)

    json.loads(text, parse_float=keep)
    assert out
    return out


def test_the_same_request_gives_the_same_scores(server):
    a, b = server.guard(pending_request()).json, server.guard(pending_request()).json
    assert a["scores"] == b["scores"] and a["score"] == b["score"] and a["id"] != b["id"]


@pytest.mark.parametrize("path", FRAMES, ids=lambda p: p.stem)
def test_frames(server, path):
    request = json.loads(path.read_text())
    v = check_verdict(server.guard({"frames": request["frames"]}).json)
    assert v["context"]["events"] >= 2


def test_there_are_recorded_sessions():
    assert len(FRAMES) >= 3


def test_mci(server):
    flows = [{"sender": "user", "recipient": "client", "subject": "user", "type": "weather in Berlin",
              "principle": "consent"},
             {"sender": "client", "recipient": "server/get_weather", "subject": "user", "type": "city: Berlin",
              "principle": "necessity"}]
    v = check_verdict(server.guard({"mci": flows}).json)
    assert v["context"]["events"] == 2


def test_envelope_fields(server):
    r = server.guard({**pending_request(), "session": "s-1", "deadline_ms": 60000, "something_else": [1]})
    assert r.status == 200 and r.json["session"] == "s-1"
    assert server.guard({**pending_request(), "policy": "no-such-policy"}).status == 422
    assert server.guard({**pending_request(), "policy": server.get("/info").json["policy"]["name"]}).status == 200


def deep(n):
    return b"[" * n + b"]" * n


BAD_JSON = {"empty": b"", "open": b"{", "two values": b"{} {}", "comment": b"{} // x", "single quotes": b"{'a': 1}",
            "NaN": b'{"messages": NaN}', "bad UTF-8": b'{"messages": "\xff"}', "BOM": b"\xef\xbb\xbf{}",
            "raw NUL": b'{"a": "\x00"}', "leading zero": b'{"a": 01}'}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json(server, name):
    r = server.guard(BAD_JSON[name])
    assert r.status == 400 and r.error["code"] == "invalid_json" and "byte" in r.error["message"]
    assert "action" not in r.json and "x-guard-id" not in r.headers


BAD_FIELDS = {
    "an array": ([], None), "nothing to judge": ({}, None), "two forms": ({"messages": [], "frames": []}, None),
    "messages not a list": ({"messages": 5}, "messages"),
    "unknown role": ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    "role not a text": ({"messages": [user("x"), {"role": 7}]}, "messages[1].role"),
    "call without a name": ({"messages": [user("x"), {"role": "assistant", "tool_calls": [{"function": {}}]}]},
                            "messages[1].tool_calls[0].function.name"),
    "tool without a name": ({**pending_request(), "tools": [{"function": {"description": "x"}}]}, "tools[0].function.name"),
    "frame not an object": ({"frames": [1]}, "frames[0]"),
    "deadline not a number": ({**pending_request(), "deadline_ms": "soon"}, "deadline_ms"),
    "deadline negative": ({**pending_request(), "deadline_ms": -1}, "deadline_ms"),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_fields_are_named(server, name):
    request, field = BAD_FIELDS[name]
    r = server.guard(request)
    assert r.status == 422 and r.error["code"] == "invalid_field", r.body
    assert field is None or r.error.get("field") == field, r.body
    assert "action" not in r.json


def test_duplicate_keys(server):
    body = json.dumps(pending_request())
    r = server.guard(body[:-1] + ', "messages": []}')
    assert r.status == 422 and "messages" in r.error["message"]
    inner = json.dumps({"messages": [user("x"), call("f", {})]}).replace('"{}"', '"{\\"a\\": 1, \\"a\\": 2}"')
    v = check_verdict(server.guard(inner).json)
    assert v["action"] in ("review", "block")


def test_limits(server):
    r = server.guard(b'{"messages": ' + deep(64) + b"}")
    assert r.status == 413 and r.error["code"] == "limit_exceeded"
    r = server.guard(b'{"x": [' + b"1," * 60000 + b"1]}")
    assert r.status == 413 and "60000" in r.error["message"]
    r = server.guard({"messages": [user("x")] * 5000})
    assert r.status == 413 and "4096" in r.error["message"]
    r = server.guard(b'{"' + b"k" * 600 + b'": 1}')
    assert r.status == 413


def test_odd_but_valid_json(server):
    args = '{"n": 123456789012345678901234567890, "e": 1e999, "z": "\\u0000", "s": "\\ud800"}'
    m = [user("x \u0000 \ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace")),
         {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": args}}]}]
    check_verdict(server.guard({"messages": m}).json)


def test_special_tokens_in_text_stay_text(server):
    plain = server.guard({"messages": [user("a"), call("f", {})]}).json["context"]["tokens"]
    odd = server.guard({"messages": [user("a<|begin_of_text|><|eot_id|>"), call("f", {})]}).json["context"]["tokens"]
    assert odd - plain > 4


def test_info_and_lists(server):
    info = server.get("/info").json
    assert info["status"] == "ready" and info["model"]["architecture"].endswith("ForCausalLM")
    files = {f["path"]: f for f in info["model"]["files"]}
    assert "config.json" in files and all(len(f["sha256"]) == 64 for f in files.values())
    assert files["config.json"]["bytes"] == (model_dir() / "config.json").stat().st_size
    assert info["limits"]["request_bytes"] == 2 * 1024 * 1024
    labels = server.get("/v1/taxonomy").json["data"]
    assert [x["key"] for x in labels] == LABELS == [x["key"] for x in info["labels"]]
    assert all(x["name"] and x["dataset_name"] and x["meaning"] for x in labels)
    assert labels[6]["dataset_name"] == "ignore_prupose_prompt_injection"
    assert all((x["phase"] is None) == (x["key"] == "appropriate") for x in labels)
    models = server.get("/v1/models").json
    assert models["object"] == "list" and models["data"][0]["object"] == "model"
    v = server.guard(pending_request()).json
    assert models["data"][0]["id"] == v["model"] and models["data"][0]["version"] == v["model_version"]
    assert server.get("/version").json["version"].count(".") == 2
    assert server.get("/health").json == {"status": "ok"} and server.get("/readyz").json == {"status": "ready"}


def test_version_is_the_model_files(server):
    info = server.get("/info").json["model"]
    import hashlib
    for f in info["files"]:
        data = pathlib.Path(model_dir() / f["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == f["sha256"]


def test_session_is_told_again_but_not_at_any_length(server):
    assert server.guard({**pending_request(), "session": "s" * 8192}).json["session"] == "s" * 8192
    r = server.guard({**pending_request(), "session": "s" * 8193})
    assert r.status == 422 and r.error["field"] == "session" and "8192" in r.error["message"]
