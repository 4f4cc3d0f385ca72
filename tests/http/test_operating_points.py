"""Operating points of a policy: chosen by flag or environment, shown by /info, refused by name, and what they decide."""
import json
import math

import pytest
from conftest import HERE, ROOT, cli, pending_request

MODEL = ROOT / "tests/golden/models/llama_f32_tied"
MEASURED = {"precision": 0.91, "recall": 0.95, "false_positive_rate": 0.06}
REQUEST = json.dumps(pending_request()).encode()


def flags(tmp_path, points=None, **more):
    """Flags for the tiny model and its policy with these operating points, in a file of their own."""
    policy = {**json.loads((HERE / "policy_tiny.json").read_text()), **more}
    if points is not None:
        policy["operating_points"] = points
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    return ["--model", str(MODEL), "--policy", str(path)]


def assess(model, *args, env=None):
    code, out, err = cli("assess", *args, "-", stdin=REQUEST, model=model, env=env)
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def risk(tmp_path_factory):
    """The request's risk: the thresholds of the points below lie around it."""
    score = assess(flags(tmp_path_factory.mktemp("risk")))["score"]
    assert 0.5 < score < 1
    return score


def around(risk):
    """One point for each action, as near to the risk as can be."""
    above = math.nextafter(risk, 1)
    return [{"name": "pass", "flag": above, "block": above, "measured": MEASURED},
            {"name": "look", "flag": risk, "block": above},
            {"name": "stop", "flag": risk, "block": risk, "measured": {k: 1 - v for k, v in MEASURED.items()}}]


def policy_of(server):
    return server.get("/info").json["policy"]


def shown(points):
    return [{"measured": None, **p} for p in points]


def check_verdict(v, point, action):
    assert (v["action"], v["threshold"]) == (action, point["flag"])
    assert v["flagged"] is (action != "allow") and (v["label"] == "appropriate") is (action == "allow")


def test_without_a_choice_the_thresholds_count(start, tmp_path, risk):
    s = start(model=flags(tmp_path, around(risk), thresholds={"flag": 0.125, "block": 0.25}))
    info = policy_of(s)
    assert info["operating_point"] == "thresholds" and info["operating_points"] == shown(around(risk))
    assert (info["flag_threshold"], info["block_threshold"]) == (0.125, 0.25)
    assert s.guard(pending_request()).json["threshold"] == 0.125


def test_a_policy_without_points(start, tmp_path):
    info = policy_of(start(model=flags(tmp_path)))
    assert info["operating_point"] == "thresholds" and info["operating_points"] == [] and info["evidence"] is None
    assert (info["flag_threshold"], info["block_threshold"]) == (0.5, 0.8)


@pytest.mark.parametrize("index,action", [(0, "allow"), (1, "review"), (2, "block")])
def test_the_server_decides_at_the_point(start, tmp_path, risk, index, action):
    points = around(risk)
    s = start("--operating-point", points[index]["name"], model=flags(tmp_path, points))
    info = policy_of(s)
    assert info["operating_point"] == points[index]["name"] and info["operating_points"] == shown(points)
    assert (info["flag_threshold"], info["block_threshold"]) == (points[index]["flag"], points[index]["block"])
    single = s.guard(pending_request()).json
    for v in (single, s.batch({"items": [pending_request()]}).json["data"][0]):
        check_verdict(v, points[index], action)
        assert v["score"] == risk


@pytest.mark.parametrize("index,action", [(0, "allow"), (1, "review"), (2, "block")])
def test_assess_decides_at_the_point(tmp_path, risk, index, action):
    points = around(risk)
    v = assess(flags(tmp_path, points), "--operating-point=" + points[index]["name"])
    check_verdict(v, points[index], action)
    assert v["score"] == risk


def test_environment_and_flag(start, tmp_path, risk):
    points = around(risk)
    model, env = flags(tmp_path, points), {"GUARDIAN_OPERATING_POINT": "stop"}
    check_verdict(assess(model, env=env), points[2], "block")
    check_verdict(assess(model, "--operating-point", "look", env=env), points[1], "review")
    check_verdict(assess(model, "--operating-point", "pass", env={"GUARDIAN_OPERATING_POINT": "no-such"}), points[0], "allow")
    assert assess(model, env={"GUARDIAN_OPERATING_POINT": ""})["threshold"] == 0.5
    assert policy_of(start(model=model, env=env))["operating_point"] == "stop"


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["assess", "-"]])
def test_unknown_names_are_refused_at_start(tmp_path, risk, command):
    model = flags(tmp_path, around(risk))
    want = b"the policy tiny has no operating point 'Stop': it has pass, look, stop"
    code, out, err = cli(*command, "--operating-point", "Stop", stdin=REQUEST, model=model)
    assert (code, out) == (2, b"") and want in err
    code, out, err = cli(*command, stdin=REQUEST, model=model, env={"GUARDIAN_OPERATING_POINT": "Stop"})
    assert (code, out) == (2, b"") and want in err
    code, out, err = cli(*command, "--operating-point", "stop", stdin=REQUEST, model=flags(tmp_path))
    assert (code, out) == (2, b"") and b"the policy tiny has no operating point 'stop': it has none" in err
    code, out, err = cli(*command, "--operating-point", "", stdin=REQUEST, model=model)
    assert (code, out) == (2, b"") and b"--operating-point takes a text that is not empty, is empty" in err


def test_a_malformed_point_is_refused_at_start(tmp_path):
    model = flags(tmp_path, [{"name": "strict", "flag": 0.2, "block": 0.7, "recal": 0.9}])
    code, out, err = cli("serve", "--port", "0", model=model)
    assert (code, out) == (2, b"") and b"policy.json: unknown field 'operating_points[0].recal'" in err


def test_which_commands_take_the_flag(tmp_path, risk):
    for command in ("serve", "assess", "render", "selftest", "tokenize", "version"):
        out = cli(command, "--help", model=False)[1]
        takes = command in ("serve", "assess")
        assert (b"--operating-point NAME" in out) is takes and (b"[GUARDIAN_OPERATING_POINT]" in out) is takes
    model = flags(tmp_path, around(risk))
    code, _, err = cli("render", "--operating-point", "stop", "-", stdin=REQUEST, model=model)
    assert code == 2 and b"there is no flag --operating-point" in err
    code, _, err = cli("render", "-", stdin=REQUEST, model=model, env={"GUARDIAN_OPERATING_POINT": "no-such"})
    assert code == 0, err
