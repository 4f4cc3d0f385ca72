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
KNOWN = json.loads((MODEL / "golden.json").read_text())


def test_files():
    assert golden.digests(str(MODEL)) == KNOWN["sha256"]


def test_model_card_names_the_files():
    card = (MODEL / "README.md").read_text()
    for name, digest in KNOWN["sha256"].items():
        assert re.search(r"`%s` \| `%s`" % (re.escape(name), digest), card), name


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
