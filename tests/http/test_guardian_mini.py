"""The default model is the one that was measured: its files, its verdicts, and the figures of its model card."""

import json
import re
import sys

import pytest

import conftest
from conftest import ROOT, cli

sys.path.insert(0, str(ROOT / "bench" / "accuracy"))
import golden  # noqa: E402

MODEL = ROOT / "weights" / "guardian-mini"
RISK_TOLERANCE = 0.002  # between instruction sets; between bf16 and fp32 some 0.03
GOLDEN = json.loads((MODEL / "golden.json").read_text())
KNOWN = json.loads((ROOT / "tests" / "golden" / "guardian_mini.json").read_text())


def test_files():
    assert golden.digests(str(MODEL)) == GOLDEN["sha256"]


def test_model_card_names_the_files():
    card = (MODEL / "README.md").read_text()
    for name, digest in GOLDEN["sha256"].items():
        assert re.search(r"`%s` \| `%s`" % (re.escape(name), digest), card), name


def test_golden_requests():
    """They can be repeated anywhere, say something, and are cases that are still there; the server compares them itself."""
    assert (MODEL / "golden.json").stat().st_size < golden.BYTES_MAX
    assert 8 <= len(GOLDEN["requests"]) <= 12 and GOLDEN["tolerance"] == golden.TOLERANCE
    assert {r["action"] for r in GOLDEN["requests"]} == set(golden.ACTIONS)
    assert len({r["label"] for r in GOLDEN["requests"]}) >= 5
    there = {name: request for rows in golden.all_cases().values() for name, request in rows}
    policy = json.loads((MODEL / "policy.json").read_text())
    edges = [policy["thresholds"]["flag"], policy["thresholds"]["block"]]
    got = golden.verdicts(conftest.BIN, str(MODEL), [r["request"] for r in GOLDEN["requests"]], "--device", "cpu")
    for want, v in zip(GOLDEN["requests"], got, strict=True):
        assert there[want["name"]] == want["request"], want["name"]
        assert golden.firm({**v, "score": want["score"]}, edges, GOLDEN["tolerance"]), want["name"]
        assert (v["label"], v["action"]) == (want["label"], want["action"]), want["name"]
        assert v["score"] == pytest.approx(want["score"], abs=RISK_TOLERANCE), want["name"]


def test_golden_refuses_what_is_close():
    far = {"flagged": True, "score": 0.6, "scores": {"appropriate": 0.4, "data_injection": 0.35, "replay_injection": 0.25}}
    assert golden.firm(far, [0.5, 0.7], 0.02)
    assert not golden.firm({**far, "score": 0.539}, [0.5, 0.7], 0.02)
    assert not golden.firm({**far, "score": 0.661}, [0.5, 0.7], 0.02)
    assert not golden.firm({**far, "scores": {"data_injection": 0.3, "replay_injection": 0.261}}, [0.5, 0.7], 0.02)
    want = ("a", {}, {"score": 0.6, "action": "review", "label": "data_injection"})
    for got, good in (({}, True), ({"score": 0.611}, False), ({"action": "block"}, False), ({"label": "x"}, False)):
        v, old = {**want[2], **got}, golden.verdicts
        golden.verdicts = lambda *a, v=v: [v]
        try:
            assert golden.agreed([want], "", ["way"], 0.02)[0] == ({"a"} if good else set())
        finally:
            golden.verdicts = old


def test_verdicts():
    named = golden.cases()
    assert [n for n, _ in named] == [v["case"] for v in KNOWN["verdicts"]]
    got = golden.verdicts(conftest.BIN, str(MODEL), [r for _, r in named], "--device", "cpu")
    policy = json.loads((MODEL / "policy.json").read_text())
    edges = [policy["thresholds"]["flag"], policy["thresholds"]["block"]]
    risks = {v["risk"] for v in KNOWN["verdicts"]}
    assert min(risks) < 0.3 < 0.7 < max(risks)  # they say something
    for want, v in zip(KNOWN["verdicts"], got):
        assert v["score"] == pytest.approx(want["risk"], abs=RISK_TOLERANCE), want["case"]
        if all(abs(want["risk"] - e) > RISK_TOLERANCE for e in edges):
            assert v["action"] == want["action"], want["case"]
        top = sorted((p for p in v["scores"].values() if p), reverse=True)
        if len(top) > 2 and min(top[0] - top[1], top[1] - top[2]) > 2 * RISK_TOLERANCE:
            assert v["label"] == want["label"], want["case"]


@pytest.mark.parametrize("name", ["strict", "balanced", "permissive"])
def test_operating_points_are_measured(name):
    policy = json.loads((MODEL / "policy.json").read_text())
    point = next(p for p in policy["operating_points"] if p["name"] == name)
    assert set(point["measured"]) == {"precision", "recall", "false_positive_rate"}
    code, out, err = cli("assess", "--model", str(MODEL), "--operating-point", name, "-", model=False, stdin=b'{"messages": []}')
    assert b"no operating point" not in err


def test_operating_points_are_in_order():
    points = {p["name"]: p for p in json.loads((MODEL / "policy.json").read_text())["operating_points"]}
    order = [points[n] for n in ("strict", "balanced", "permissive")]
    assert [p["flag"] for p in order] == sorted(p["flag"] for p in order)
    rates = [p["measured"]["false_positive_rate"] for p in order]
    assert rates == sorted(rates, reverse=True)


def test_info_tells_the_evidence(start):
    policy = json.loads((MODEL / "policy.json").read_text())
    s = start(model=["--model", str(MODEL), "--device", "cpu"])
    told = s.get("/info").json
    assert told["policy"]["evidence"] == {k: policy["evidence"][k] for k in ("weight", "model_weight")}
    assert told["policies"][0]["evidence"] == told["policy"]["evidence"]
    assert s.stop() == 0
