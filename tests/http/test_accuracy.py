"""bench/accuracy: its figures on examples worked out by hand, its reading of cases, its runs against the server."""
import http.server
import json
import random
import subprocess
import sys
import threading
import xml.etree.ElementTree

import pytest
from conftest import ROOT, TOOLS, answered_request, pending_request, user

HARNESS = ROOT / "bench" / "accuracy"
sys.path.insert(0, str(HARNESS))
import answers  # noqa: E402
import body  # noqa: E402
import cases  # noqa: E402
import client  # noqa: E402
import labels  # noqa: E402
import metrics  # noqa: E402
import published  # noqa: E402
import runner  # noqa: E402

A, B, C, K = (labels.LABELS[i] for i in (0, 1, 2, 10))


# What the figures are

# 6 safe and 4 unsafe cases: (wanted, given, risk)
ROWS = [(A, A, 0.1), (A, A, 0.2), (A, A, 0.3), (A, A, 0.3), (A, B, 0.6), (A, K, 0.9),
        (B, B, 0.8), (B, C, 0.7), (C, C, 0.95), (K, A, 0.3)]


def risk_of(rows):
    return [(s, w != A) for w, _, s in rows]


def test_confusion_and_what_follows_from_it():
    count = metrics.confusion_of(ROWS)
    assert count == {(A, A): 4, (A, B): 1, (A, K): 1, (B, B): 1, (B, C): 1, (C, C): 1, (K, A): 1}
    assert metrics.accuracy(count) == pytest.approx(6 / 10)
    # F1: A 2*4/(6+5), B 2*1/(2+2), C 2*1/(1+2), K 0/(1+1)
    assert metrics.macro_f1(count) == pytest.approx((8 / 11 + 1 / 2 + 2 / 3 + 0) / 4)
    assert metrics.mean_recall(count) == pytest.approx((4 / 6 + 1 / 2 + 1 + 0) / 4)
    two = metrics.two_classes(count)
    assert two == {(False, False): 4, (False, True): 2, (True, True): 3, (True, False): 1}
    assert metrics.accuracy(two) == pytest.approx(7 / 10)
    assert metrics.macro_f1(two) == pytest.approx((8 / 11 + 6 / 9) / 2)
    assert metrics.balanced(two) == pytest.approx(((3 / 4 + 4 / 6) / 2, 3 / 4, 4 / 6))
    by = metrics.by_label(count)
    assert by[A] == {"cases": 6, "verdicts": 5, "recall": 0.6667, "precision": 0.8, "f1": 0.7273, "flagged": 0.3333}
    assert by[B] == {"cases": 2, "verdicts": 2, "recall": 0.5, "precision": 0.5, "f1": 0.5, "flagged": 1.0}
    assert by[K]["recall"] == 0 and by["data_injection"]["recall"] is None and by["data_injection"]["f1"] is None


def test_a_verdict_of_a_label_without_cases_counts_in_macro_f1():
    assert metrics.macro_f1(metrics.confusion_of([(A, A, 0.1), (A, K, 0.9)])) == pytest.approx((2 / 3 + 0) / 2)


def test_roc_auc_counts_a_tie_as_half():
    assert metrics.auc([(0.9, True), (0.5, True), (0.5, False), (0.1, False)]) == pytest.approx(3.5 / 4)
    assert metrics.auc([(0.5, True)] * 3 + [(0.5, False)] * 5) == pytest.approx(0.5)
    assert metrics.auc([(0.2, True), (0.7, False)]) == 0
    assert metrics.auc([(0.2, True)]) is None and metrics.auc([]) is None
    # ROWS: .8 and .7 each beat 5 of 6, .95 beats 6, .3 beats 2 and ties with 2
    assert metrics.auc(risk_of(ROWS)) == pytest.approx((5 + 5 + 6 + 3) / 24)


def test_roc_auc_is_the_share_of_pairs_in_order():
    r = random.Random(5)
    for _ in range(50):
        risk = [(r.randint(0, 6) / 6, r.random() < 0.4) for _ in range(30)] + [(0.5, True), (0.5, False)]
        bad, good = [s for s, b in risk if b], [s for s, b in risk if not b]
        pairs = [(b > g) + (b == g) / 2 for b in bad for g in good]
        assert metrics.auc(risk) == pytest.approx(sum(pairs) / len(pairs))


def test_recall_at_five_percent_false_positives():
    good = [(i / 100, False) for i in range(1, 21)]  # one of twenty may be flagged: 0.20; the limit is 0.19
    bad = [(0.5, True), (0.195, True), (0.19, True)]
    assert metrics.recall_at(good + bad, 0.05) == (pytest.approx(2 / 3), 0.19)
    assert metrics.recall_at(good[1:] + bad, 0.05) == (pytest.approx(1 / 3), 0.20)  # none of nineteen may
    assert metrics.recall_at([(0.9, False)] * 40 + [(0.9, True)], 0.05)[0] == 0  # equal scores: none of them is passed
    assert metrics.recall_at(bad, 0.05) == (None, None) and metrics.recall_at(good, 0.05) == (None, None)


def test_expected_calibration_error():
    risk = [(0.1, False), (0.1, True), (0.95, True), (1.0, True)]
    # bin 1: mean 0.1, half unsafe; bin 9: mean 0.975, all unsafe
    assert metrics.ece(risk, 10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.025)
    assert [n for n, _, _ in metrics.calibration(risk, 10)] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert metrics.ece(risk, 1) == pytest.approx(abs((0.1 + 0.1 + 0.95 + 1) / 4 - 3 / 4))
    assert metrics.ece([], 10) is None
    edges = [(x, False) for x in (0.0, 0.099, 0.1, 0.199, 0.2, 0.899, 0.9, 0.999, 1.0)]
    assert [n for n, _, _ in metrics.calibration(edges, 10)] == [2, 2, 1, 0, 0, 0, 0, 0, 1, 3]


def test_intervals_are_seeded_and_hold_the_figure():
    rows = ROWS * 20
    got = metrics.intervals(rows, 200, seed=3)
    assert got == metrics.intervals(rows, 200, seed=3) != metrics.intervals(rows, 200, seed=4)
    for name, value in metrics.main_figures(rows).items():
        low, high = got[name]
        assert low < high and (name == "ece" or low <= value <= high)
    low, high = got["risk_resistance.accuracy"]  # 200 cases: 1.96 * sqrt(0.6 * 0.4 / 200) = 0.068 to each side
    assert high - low == pytest.approx(0.136, abs=0.04)
    sure = metrics.intervals([(A, A, 0.0), (B, B, 1.0)] * 50, 100, seed=1)
    assert sure["balanced_accuracy"] == sure["roc_auc"] == [1, 1] and sure["ece"] == [0, 0]
    assert metrics.intervals([(B, B, 1.0)] * 9, 50, seed=1)["roc_auc"] is None


def test_only_the_published_cases_share_a_line_with_the_published_figures():
    two = {"accuracy": 0.5, "macro_f1": 0.25}
    doc = {"all": {"risk_resistance": two, "safety_awareness": two, "cases": 3, "unsafe": 2}, "file": "c.jsonl",
           "model": {"model": "mini"}, "source": {}, "published": published.as_json(True)}
    text = published.as_markdown(doc)
    assert "| mini (this run) | the published test set | 50.00 / 25.00 | - | 50.00 / 25.00 |" in text
    doc["published"] = published.as_json(False)
    text = published.as_markdown(doc)
    assert "**another test set**, c.jsonl | 50.00" in text and "cannot be compared" in text
    assert "3 of them, 2 unsafe" in text


# Cases

def test_labels_are_the_servers_with_all_their_names(server):
    data = server.get("/v1/taxonomy").json["data"]
    assert [(x["key"], x["name"], x["dataset_name"]) for x in data] == list(labels.TABLE)
    for x in data:
        for name in (x["key"], x["name"], x["dataset_name"], x["choice"], "%s. %s" % (x["choice"], x["name"])):
            assert labels.key_of(name) == x["key"], name
    assert labels.key_of(True) == A and labels.key_of(" replay injection ") == K
    for wrong in ("", "L", "false", False, None, 1, ["true"], "Injection"):
        assert labels.key_of(wrong) is None


def calls_in(messages):
    return [(c["function"]["name"], json.loads(c["function"]["arguments"]))
            for m in messages for c in m.get("tool_calls") or []]


def test_a_published_dialogue_becomes_messages():
    text = ('SYSTEM: Be brief.\nUSER: Two things,\nplease.\n\n'
            'ASSISTANT: <functioncall> {"name": "f", "arguments": {"a": 1.0, "b": "x\\n"}}\n'
            '<functioncall> {"name": "g", "arguments": {}}\n'
            'FUNCTION RESPONSE: {"ok": 1}\nFUNCTION RESPONSE: NO RESPONSE\nASSISTANT: Done. <|endoftext|>\n')
    m = body.request_of(text)["messages"]
    assert [x["role"] for x in m] == ["system", "user", "assistant", "assistant", "tool", "tool", "assistant"]
    assert m[1]["content"] == "Two things,\nplease." and m[-1]["content"] == "Done."
    assert calls_in(m) == [("f", {"a": 1.0, "b": "x\n"}), ("g", {})]
    ids = [m[i]["tool_calls"][0]["id"] for i in (2, 3)]
    assert [x["tool_call_id"] for x in m[4:6]] == ids and [x["content"] for x in m[4:6]] == ['{"ok": 1}', ""]


def test_calls_as_they_are_written_by_others():
    glaive = """USER: x\nASSISTANT: <functioncall> {"name": "f", "arguments": '{"a": "it\\'s"}'} <|endoftext|>"""
    function = body.request_of(glaive)["messages"][1]["tool_calls"][0]["function"]
    assert function == {"name": "f", "arguments": '{"a": "it\\\'s"}'}
    several = 'ASSISTANT: Now.\n<functioncall> [{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{}"}]'
    m = body.request_of(several)["messages"]
    assert m[0] == {"role": "assistant", "content": "Now."} and calls_in(m) == [("f", {}), ("g", {})]
    said = body.request_of("ASSISTANT: I would write <functioncall> {} here.")["messages"]
    assert said == [{"role": "assistant", "content": "I would write <functioncall> {} here."}]


def test_a_result_finds_its_call():
    call = 'ASSISTANT: <functioncall> {"name": "%s", "arguments": {}}\n'
    results = "FUNCTION RESPONSE [g]: 1\nFUNCTION RESPONSE: 2\nFUNCTION RESPONSE: 3"
    m = body.request_of(call % "f" + call % "g" + results)
    f, g = (x["tool_calls"][0]["id"] for x in m["messages"][:2])
    assert [x["tool_call_id"] for x in m["messages"][2:]] == [g, f, "none"]
    m = body.request_of(call % "f" + "USER: well?\n" + call % "f" + "FUNCTION RESPONSE: 1")["messages"]
    assert m[3]["tool_call_id"] == m[2]["tool_calls"][0]["id"]  # the first one was given up
    late = call % "f" + call % "g" + "FUNCTION RESPONSE: 1\n" + call % "h" + "FUNCTION RESPONSE: 2"
    m = body.request_of(late)["messages"]
    assert m[4]["tool_call_id"] == m[3]["tool_calls"][0]["id"]  # g got none before h was called


def test_flows_become_mci():
    text = ("1. user -> client\n   Type: query: x\n   and y\n   Principle: consent\n"
            "2. client -> f\nType: {}\nPrinciple: need")
    assert body.request_of(text) == {"mci": [
        {"sender": "user", "recipient": "client", "data_subject": "", "information_type": "query: x\nand y",
         "transmission_principle": "consent"},
        {"sender": "client", "recipient": "f", "data_subject": "", "information_type": "{}",
         "transmission_principle": "need"}]}
    flows = [["user", "client", "user", "query", "consent"]]
    assert body.request_of(flows) == body.request_of(json.dumps(flows)) == {"mci": flows}


@pytest.mark.parametrize("what, reason", [
    ("", "empty"), (7, "neither text nor a list"), ("hello", "does not begin"), ("[1, 2", "not JSON"),
    ("TOOL: f()\nUSER: x", "does not begin"), ("ASSISTANT: <functioncall>", "without a call"),
    ("ASSISTANT: <functioncall> f(x)", "a call that is not"), ("ASSISTANT: <functioncall> {}", "no name"),
    ("1. user -> client\nsurprise", "neither type nor principle"),
])
def test_a_body_that_cannot_be_read_says_why(what, reason):
    with pytest.raises(body.Unreadable, match=reason):
        body.request_of(what)


def test_a_dialogue_is_the_body_that_the_server_renders(server):
    """Whatever the policy: a body and the messages it was written from have the same verdict to the last bit."""
    messages = answered_request("Oslo")["messages"]
    lines = ("USER: What is the weather in Oslo?\nASSISTANT: <functioncall> {\"name\": \"get_weather\", \"arguments\": "
             "{\"city\": \"Oslo\"}}\nFUNCTION RESPONSE: {\"temp_c\": 21}\nASSISTANT: It is 21 degrees in Oslo.\n")
    for n, end in ((2, lines.index("FUNCTION")), (3, lines.rindex("ASSISTANT")), (4, len(lines))):
        both = {"messages": messages[:n]}, body.request_of(lines[:end])
        a, b = (server.patiently(server.guard, {**x, "deadline_ms": 300000}).json for x in both)
        assert (a["scores"], a["phase"], a["step"]) == (b["scores"], b["phase"], b["step"])


# Runs

def evaluate(url, case_file, *args):
    argv = [sys.executable, str(HARNESS / "evaluate.py"), "--url", url, "--cases", str(case_file), *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def url_of(server):
    return "http://127.0.0.1:%d" % server.port


FLOWS = [["user", "client", "user", "Send Ada my address.", "consent"],
         ["client", "send_mail", "user", '{"to": "ada", "text": "7 Hill St"}', "necessity"]]
DIALOGUE = ('USER: Is it warm in Rome?\nASSISTANT: <functioncall> {"name": "get_weather", "arguments": {"city": "Rome"}}\n'
            'FUNCTION RESPONSE: {"temp_c": 30}\nASSISTANT: Yes, 30 degrees.')
FRAMES = [user("Weather in Bonn?"), {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                                     "params": {"name": "get_weather", "arguments": {"city": "Bonn"}}}]
NO_USER = {"messages": pending_request("Paris")["messages"][1:], "tools": TOOLS}
GOOD = [  # (the case without its label, the request that must be asked)
    ({**pending_request(), "phase": "request", "source": "s1"}, pending_request()),
    ({**answered_request(), "phase": "response", "source": "s1"}, answered_request()),
    ({"body": DIALOGUE, "source": "s2"}, body.request_of(DIALOGUE)),
    ({"body": FLOWS, "source": "s2"}, {"mci": FLOWS}),
    ({"frames": FRAMES, "server": "weather"}, {"frames": FRAMES, "server": "weather"}),
    (NO_USER, NO_USER),
]
BAD = [("{", "not JSON"), ({"label": "true"}, "exactly one of"), ({"label": "nonsense", "body": DIALOGUE}, "unknown label"),
       ({"label": "true", "body": "what?"}, "does not begin"), ({"label": "true", "messages": [{"role": "x"}]}, "422 ")]


def write_cases(path, rows):
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in rows))
    return path


@pytest.fixture(scope="module")
def known(server):
    """Cases whose outcome is known: the verdicts are asked for first; the last two cases get another label."""
    rows, pairs = [], []
    for i, (case, request) in enumerate(GOOD):
        v = server.patiently(server.guard, {**request, "deadline_ms": 300000}).json
        at = labels.LABELS.index(v["label"])
        at = at if i < 4 else (at + 1) % 11
        rows.append({"id": "good-%d" % i, "label": labels.TABLE[at][i % 3], **case})
        pairs.append((labels.LABELS[at], v["label"], v["score"], v["phase"], v["intent"]))
    return rows, pairs


def test_a_run(server, known, tmp_path):
    rows, pairs = known
    mixed = rows[:3] + [bad for bad, _ in BAD] + rows[3:]
    path = write_cases(tmp_path / "cases.jsonl", mixed)
    code, doc, _ = evaluate(url_of(server), path, "--report", tmp_path / "out", "--resamples", 50, "--threads", 2)
    assert code == 1 and doc["cases"] == 11 and doc["answered"] == 6 and doc["errors"] == 5
    assert [x["line"] for x in doc["failed"]] == [4, 5, 6, 7, 8]
    for failed, (_, reason) in zip(doc["failed"], BAD):
        assert reason in failed["reason"]
    f = doc["all"]
    assert f["cases"] == 6 and f["risk_resistance"]["accuracy"] == 0.6667 and f["ece_bins"] == 10
    assert f["unsafe"] == sum(w != A for w, *_ in pairs)
    for w, g, *_ in pairs:
        assert f["confusion"][w][g] == sum(p[:2] == (w, g) for p in pairs)
    assert f["ece"] == pytest.approx(metrics.ece(risk_of([p[:3] for p in pairs])), abs=1e-4)
    for at, key in ((3, "phase"), (4, "intent")):
        assert {k: v["cases"] for k, v in doc[key].items()} == {
            k: sum(p[at] == k for p in pairs) for k in {p[at] for p in pairs}}
    assert doc["intent"]["absent"]["cases"] == 1
    assert {k: (v["cases"], v["risk_resistance"]["accuracy"]) for k, v in doc["source"].items()} == {
        "s1": (2, 1.0), "s2": (2, 1.0)}
    check_report(tmp_path / "out", doc)


def check_report(folder, doc):
    assert json.loads((folder / "results.json").read_text()) == doc
    text = (folder / "report.md").read_text()
    assert "5 of 11 cases have no verdict" in text and "unknown label" in text
    assert "| MCIP Guardian (8B) | MCIP-bench | 54.16 / 42.03 | 41.64 / 28.85 | 75.73 / 69.91 |" in text
    assert "| **another test set**, cases.jsonl | 66.67 / " in text and "cannot be compared" in text
    assert not doc["published"]["same_test_set"]
    for name in ("confusion", "roc", "calibration"):
        svg = (folder / (name + ".svg")).read_text()
        assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg") and "prefers-color-scheme:dark" in svg


def asked(server):
    return server.metrics().get('guardian_requests_total{route="/v1/guard",code="200"}', 0)


def test_a_rerun_asks_only_what_is_missing(server, known, tmp_path):
    path, kept = write_cases(tmp_path / "cases.jsonl", known[0]), tmp_path / "answers.jsonl"
    go = lambda *more: evaluate(url_of(server), path, "--answers", kept, "--resamples", 0, *more)
    before = asked(server)
    assert go("--limit", 2)[0] == 0 and asked(server) == before + 2
    with open(kept, "a") as f:
        f.write('{"id": "good-2", "requ')  # the process was killed while it wrote
    code, doc, _ = go()
    assert code == 0 and doc["answered"] == 6 and asked(server) == before + 6
    assert go()[1]["all"] == doc["all"] and asked(server) == before + 6
    lines = [json.loads(x) for x in kept.read_text().splitlines()]
    assert sorted(x["id"] for x in lines) == ["good-%d" % i for i in range(6)]
    changed = [{**known[0][0], "tools": []}, *known[0][1:]]  # another request under a known id
    write_cases(path, changed)
    assert go()[0] == 0 and asked(server) == before + 7


@pytest.mark.parametrize("key, value", [("model_version", "sha256:0"), ("policy", "other@9"), ("threshold", 0.123)])
def test_answers_of_another_model_are_refused(server, known, tmp_path, key, value):
    path, kept = write_cases(tmp_path / "cases.jsonl", known[0][:1]), tmp_path / "answers.jsonl"
    assert evaluate(url_of(server), path, "--answers", kept)[0] == 0
    row = json.loads(kept.read_text())
    assert row["model_version"] == row["answer"]["model_version"]
    row["answer"][key] = value
    kept.write_text(json.dumps(row) + "\n")
    code, doc, err = evaluate(url_of(server), path, "--answers", kept)
    assert code == 2 and doc is None and "line 1 is from another server: " + key in err
    assert json.loads(kept.read_text()) == row


def test_no_server_no_figures(tmp_path):
    path = write_cases(tmp_path / "cases.jsonl", [])
    code, doc, err = evaluate("http://127.0.0.1:9", path)
    assert code == 2 and doc is None and "does not answer" in err


def test_published_needs_the_published_cases(server, known, tmp_path):
    path = write_cases(tmp_path / "cases.jsonl", known[0])
    code, doc, err = evaluate(url_of(server), path, "--published")
    assert code == 2 and doc is None and "2218" in err


# A server that misbehaves

@pytest.fixture
def stub():
    """stub(replies) gives (client, requests): each POST takes the next (status, headers, JSON); None closes instead."""
    servers = []

    def make(replies):
        replies, seen = list(replies), []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                reply = replies.pop(0)
                if reply is None:
                    self.close_connection = True
                    return
                self.reply(*reply)

            def do_GET(self):
                self.reply(200, {}, {})

            def reply(self, status, headers, doc):
                data = json.dumps(doc).encode()
                self.send_response(status)
                for k, v in {**headers, "Content-Length": len(data)}.items():
                    self.send_header(k, str(v))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        s.daemon_threads = True
        threading.Thread(target=s.serve_forever, daemon=True).start()
        servers.append(s)
        return client.Client("http://127.0.0.1:%d" % s.server_port, timeout=20), seen

    yield make
    for s in servers:
        s.shutdown()
        s.server_close()


FULL = {"error": {"code": "overloaded", "message": "full"}}


def test_a_full_server_is_asked_again_when_it_says(stub):
    c, seen = stub([(503, {"Retry-After": 7}, FULL), (429, {}, FULL), (200, {}, {"label": A})])
    pauses = []
    assert client.ask(c, {"messages": []}, 60, sleep=pauses.append) == {"label": A}
    assert pauses == [7, 1] and len(seen) == 3
    assert all(x == {"messages": [], "deadline_ms": 20000} for x in seen)


def test_patience_ends(stub):
    c, seen = stub([(503, {"Retry-After": 4}, FULL)] * 9)
    pauses = []
    assert client.ask(c, {}, 10, sleep=pauses.append) == {"error": "503 overloaded: full"}
    assert pauses == [4, 4] and len(seen) == 3


def test_a_broken_connection_is_opened_anew(stub):
    c, seen = stub([None, (200, {}, {"label": B})])
    assert client.ask(c, {}, 0) == {"label": B} and len(seen) == 2


def test_one_case_that_breaks_connections_does_not_end_the_run(stub):
    c, seen = stub([None] * client.TRIES)
    assert "the connection broke" in client.ask(c, {}, 0)["error"] and len(seen) == client.TRIES


def test_a_server_that_is_gone_ends_the_run():
    with pytest.raises(client.Stop, match="does not answer"):
        client.ask(client.Client("http://127.0.0.1:9"), {}, 0)


def test_another_model_in_the_middle_ends_the_run(stub):
    who = {"model": "m", "model_version": "v1", "policy": "p@1", "threshold": 0.5}
    first, second = ({**who, "model_version": v, "label": A, "score": 0.1} for v in ("v1", "v2"))
    c, _ = stub([(200, {}, first), (200, {}, second)])
    kept = answers.Answers(None, who)
    asks = [cases.Case(i, str(i), A, None, None, {"messages": [i]}, None) for i in (1, 2, 3)]
    with pytest.raises(client.Stop, match="has changed: model_version is v2, not v1"):
        runner.Run("http://127.0.0.1:%d" % c.connection.port, None, 20, 0, 1, kept).over(asks)
    assert kept.get(asks[0]) == first and kept.get(asks[1]) is None


def test_answers_that_are_not_answers_are_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("hello\n")
    with pytest.raises(client.Stop, match="line 1: not an answer"):
        answers.Answers(str(path), {"model_version": "v"})


def test_agree_still_counts(tmp_path):
    verdicts = [{"scores": {A: 0.9, B: 0.1}, "label": A, "choice": "A", "flagged": False, "action": "allow", "score": 0.1},
                {"scores": {A: 0.2, B: 0.8}, "label": B, "choice": "B", "flagged": True, "action": "block", "score": 0.8}]
    path = write_cases(tmp_path / "v.jsonl", verdicts)
    labelled = write_cases(tmp_path / "c.jsonl", [{"label": A}, {"label": K}])
    argv = [sys.executable, str(HARNESS / "agree.py"), "--cases", str(labelled), "x=%s" % path, "y=%s" % path]
    doc = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert doc["with"]["y"]["choice_agrees"] == 1
    assert doc["accuracy"]["y"] == {"cases": 2, "over_labels": 0.5, "safe_or_not": 1.0, "balanced": 1.0}


def test_a_case_keeps_its_reason(tmp_path):
    path = write_cases(tmp_path / "c.jsonl", [{"label": "B", "messages": []}, "", {"label": 3, "id": 5}])
    first, second = cases.load(str(path))
    assert (first.line, first.id, first.label, first.problem) == (1, "line 1", B, None)
    assert (second.line, second.id, second.request) == (3, "5", None) and "unknown label" in second.problem
