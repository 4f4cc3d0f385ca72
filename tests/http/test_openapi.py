"""/openapi.json is true to the code: routes, limits, error codes, examples, every answer; and schemathesis runs against it."""
import copy
import hashlib
import importlib
import json
import os
import re
import site
import subprocess
import sys
import time

import pytest
from conftest import HERE, ROOT, Server, call, pending_request, responses, tool, user
from openapi_rules import disagreement
from test_start import padded_model

SOURCE = ROOT / "server/http/openapi.json"
VENV = ROOT / "build/venv"
NEEDED = (HERE / "requirements.txt").read_text().strip()
PACKAGE, _, VERSION = NEEDED.partition("==")
INSTALL = ("%s is needed for this test: python3 -m venv --system-site-packages build/venv && "
           "build/venv/bin/pip install -r tests/http/requirements.txt (./run.sh test does both)" % NEEDED)
OF_HTTP = {"date", "content-type", "content-length", "connection", "transfer-encoding"}  # not for OpenAPI to say
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
POST = b"POST /v1/guard HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


def find_python():
    """The Python that has schemathesis in the version that is pinned: this one, or that of build/venv."""
    code = "import importlib.metadata as m; raise SystemExit(m.version('%s') != '%s')" % (PACKAGE, VERSION)
    for python in (sys.executable, str(VENV / "bin/python")):
        if os.path.exists(python) and subprocess.run([python, "-c", code], capture_output=True).returncode == 0:
            return python
    raise AssertionError(INSTALL)


@pytest.fixture(scope="module")
def python():
    return find_python()


@pytest.fixture(scope="module")
def srv(tmp_path_factory):
    s = Server(log=tmp_path_factory.mktemp("openapi") / "log")
    yield s
    assert s.stop() == 0
    log = s.log_path.read_text()
    assert "Sanitizer" not in log and "runtime error" not in log, log[-4000:]


@pytest.fixture(scope="module")
def doc(srv):
    return srv.get("/openapi.json").json


class Checker:
    """Holds answers against the document."""

    def __init__(self, doc, python):
        for path in VENV.glob("lib/python*/site-packages") if python != sys.executable else ():
            site.addsitedir(str(path))  # at the end: for jsonschema_rs alone, which schemathesis brings
        self.rs, self.doc, self.known = importlib.import_module("jsonschema_rs"), doc, {}

    def resolve(self, node):
        while "$ref" in node:
            name = node["$ref"].split("/")[1:]
            node = self.doc
            for part in name:
                node = node[part]
        return node

    def schema(self, schema):
        key = json.dumps(schema, sort_keys=True)
        if key not in self.known:
            self.known[key] = self.rs.validator_for(
                {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": self.doc["components"], **schema})
        return self.known[key]

    def valid(self, name, value):
        return self.schema({"$ref": "#/components/schemas/" + name}).is_valid(value)

    def validate(self, schema, value):
        errors = list(self.schema(schema).iter_errors(value))
        assert not errors, ["%s: %s" % ("/".join(map(str, e.instance_path)), e.message[:300]) for e in errors[:5]]

    def response(self, method, path, status):
        item = self.doc["paths"][path]
        op = item.get(method.lower())
        if op is None:
            assert status in (400, 405), "%s %s: %d" % (method, path, status)
            op = next(iter(item.values()))
        assert str(status) in op["responses"], "%s %s gives %d, which is not documented" % (method, path, status)
        return self.resolve(op["responses"][str(status)])

    def headers(self, described, answer):
        described = {k.lower(): self.resolve(v) for k, v in described.items()}
        unknown = set(answer.headers) - set(described) - OF_HTTP
        assert not unknown, unknown
        for name, h in described.items():
            assert name in answer.headers or not h.get("required"), "no header " + name
            if name in answer.headers:
                text = answer.headers[name]
                kind = h["schema"]["type"]
                self.validate(h["schema"], text if kind == "string" else int(text) if kind == "integer" else float(text))

    def answer(self, method, path, answer):
        """Status, headers, type and body are as the document says."""
        r = self.response(method, path, answer.status)
        self.headers(r.get("headers", {}), answer)
        kind = answer.headers["content-type"]
        assert kind in r["content"], "type %s of %d is not documented" % (kind, answer.status)
        if method == "HEAD":
            assert answer.body == b""
        elif kind == "application/json":
            assert answer.body.endswith(b"}\n")
            self.validate(r["content"][kind]["schema"], answer.json)
        elif kind == "application/x-ndjson":
            for line in answer.body.decode().split("\n")[:-1]:
                self.validate({"$ref": "#/components/schemas/BatchEntry"}, json.loads(line))
        return answer


@pytest.fixture(scope="module")
def checker(doc, python):
    return Checker(doc, python)


def walk(node, path=()):
    yield path, node
    for k, v in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from walk(v, (*path, k))


def schemas_of(doc):
    """Every keyword of a schema, but nothing that is inside an example."""
    for path, node in walk(doc):
        if not {"examples", "example", "const", "enum"} & set(path):
            yield path, node


def validate_document(python, doc):
    code = "import json, sys, schemathesis; schemathesis.openapi.from_dict(json.load(sys.stdin)).validate()"
    done = subprocess.run([python, "-c", code], input=json.dumps(doc), capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr[-1500:]


def test_the_document_is_the_file_with_the_version(srv, doc):
    r = srv.get("/openapi.json")
    version = srv.get("/version").json["version"]
    assert r.status == 200 and r.headers["content-type"] == "application/json"
    assert r.body.decode() == SOURCE.read_text().replace("@PROJECT_VERSION@", version)
    assert doc["info"]["version"] == version and doc["openapi"] == "3.1.0"


def test_the_document_is_valid(doc, python):
    code, text = validate_document(python, doc)
    assert code == 0, text
    broken = json.loads(json.dumps(doc))
    del broken["components"]["responses"]["Internal"]["description"]
    assert validate_document(python, broken)[0] != 0, "the check checks nothing"


def test_references_lead_somewhere_and_everything_is_used(doc, checker):
    used = {n["$ref"] for _, n in walk(doc) if isinstance(n, dict) and "$ref" in n}
    for ref in used:
        checker.resolve({"$ref": ref})
    kinds = ("schemas", "responses", "headers", "parameters")
    assert used == {"#/components/%s/%s" % (k, n) for k in kinds for n in doc["components"][k]}
    ids = [op["operationId"] for item in doc["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))
    assert {t["name"] for t in doc["tags"]} == {t for item in doc["paths"].values() for op in item.values() for t in op["tags"]}


def test_paths_and_methods_are_those_of_the_code(srv, doc):
    table = re.search(r"struct gd_route ROUTES\[\] = \{(.*?)\n\};", (ROOT / "server/http/routes.c").read_text(), re.S)[1]
    rows = re.findall(r'\{"(/[^"]*)",\s*"([A-Z, ]+)",\s*\w+,\s*\w+,\s*(true|false),', table)
    routes = {p: set(m.split(", ")) for p, m, _ in rows}
    assert routes and len(routes) == table.count("{")
    described = {p: {m.upper() for m in item} for p, item in doc["paths"].items()}
    assert described == routes
    for path, methods in routes.items():
        for method in METHODS:
            r = srv.ask(method, path, body=b"{}" if method == "POST" else None)
            assert (r.status != 405) == (method in methods), (method, path, r.status)
            if r.status == 405:
                assert set(r.headers["allow"].split(", ")) == methods
    public = {p for p, item in doc["paths"].items() if all(op.get("security") == [] for op in item.values())}
    assert public == {p for p, _, is_open in rows if is_open == "true"}
    seen = re.findall(r'guardian_requests_total\{route="([^"]*)"', srv.get("/metrics").body.decode())
    assert set(seen) - {"none"} == set(routes)


def test_answers_about_keys_are_documented(start, tmp_path, doc, checker):
    keys = ["gk_" + c * 32 for c in "abc"]
    limits = [{}, {"policies": ["other"]}, {"requests_per_second": 0.01, "burst": 1}]
    entries = [{"id": "k" + k[3], "sha256": hashlib.sha256(k.encode()).hexdigest(), **x} for k, x in zip(keys, limits)]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": entries}))
    os.chmod(tmp_path / "keys.json", 0o600)
    s = start("--keys", str(tmp_path / "keys.json"))
    for path, item in doc["paths"].items():
        method, need = next(iter(item)).upper(), "401" in next(iter(item.values()))["responses"]
        for op in item.values():
            assert "403" in op["responses"] and ({"401", "429"} <= set(op["responses"])) == need == ("security" not in op)
        body = {"POST": ITEM if path == "/v1/guard" else [ITEM]}.get(method)
        r = checker.answer(method, path, s.ask(method, path, body=body))
        assert r.status == (401 if need else 200), path
        r = checker.answer(method, path, s.ask(method, path, body=body, headers={"Origin": "http://x"}))
        assert (r.status, r.error["code"]) == (403, "origin_not_allowed")
        for headers in ({"Authorization": "Bearer " + keys[0]}, {"x-api-key": keys[0]}):
            assert checker.answer(method, path, s.ask(method, path, body=body, headers=headers)).status == 200
    other, slow = {"x-api-key": keys[1]}, {"x-api-key": keys[2]}
    r = checker.answer("POST", "/v1/guard", s.guard(ITEM, headers=other))
    assert (r.status, r.error["code"]) == (403, "policy_not_allowed")
    assert "error" in checker.answer("POST", "/v1/guard/batch", s.batch([ITEM], headers=other)).json["data"][0]
    got = [checker.answer("GET", "/info", s.get("/info", headers=slow)).status for _ in range(3)]
    assert got[0] == 200 and got[2] == 429
    assert {} in doc["security"] and {"bearer": []} in doc["security"] and {"key": []} in doc["security"]
    assert s.stop() == 0


def macros():
    """The numbers of limits.h by name."""
    out, text = {}, (ROOT / "include/guardian/limits.h").read_text()
    for name, value in re.findall(r"#define (GD_\w+) (.*?)\s*(?:/\*|$)", text, re.M):
        value = re.sub(r"\(size_t\)|(?<=\d)u\b", "", value)
        if re.fullmatch(r"[\w\s*/()+-]+", value) and "0x" not in value:
            out[name] = eval(value, {}, out)
    return out


BOUNDS = {
    "schemas.GuardRequest.properties.mci.maxItems": "GD_EVENTS_MAX",
    "schemas.GuardRequest.properties.tools.maxItems": "GD_TOOLS_MAX",
    "schemas.GuardRequest.properties.session.maxLength": "GD_SESSION_BYTES_MAX",
    "schemas.GuardRequest.properties.deadline_ms.maximum": "GD_DEADLINE_MS_MAX",
    "schemas.Flow.oneOf.0.maxItems": "5",
    "schemas.BatchItems.maxItems": "GD_BATCH_ITEMS_MAX",
    "schemas.BatchAnswer.properties.data.maxItems": "GD_BATCH_ITEMS_MAX",
    "schemas.BatchError.properties.index.maximum": "GD_BATCH_ITEMS_MAX - 1",
    "schemas.Verdict.properties.session.maxLength": "GD_SESSION_BYTES_MAX",
    "schemas.Models.properties.data.maxItems": "1",
    "schemas.Labels.maxItems": "11",
    "schemas.Policy.properties.choices.maximum": "11",
    "schemas.Policy.properties.operating_points.maxItems": "GD_POLICY_POINTS_MAX",
    "schemas.Policy.properties.evidence.properties.weight.maximum": "GD_EVIDENCE_WEIGHT_MAX",
    "schemas.Policy.properties.evidence.properties.model_weight.maximum": "GD_EVIDENCE_WEIGHT_MAX",
    "schemas.Info.properties.policies.maxItems": "GD_POLICIES_MAX",
}
SENTENCES = [
    "most {GD_REQUEST_BYTES_MAX} bytes, {GD_REQUEST_NODES_MAX} values, nested at most {GD_REQUEST_DEPTH_MAX} deep",
    "names at most {GD_REQUEST_KEY_BYTES_MAX} bytes long",
    "at most {GD_HTTP_HEADERS_MAX} lines and {GD_HTTP_HEADER_BYTES_MAX} bytes",
    "More than {GD_HTTP_HEADERS_MAX} header lines", "at most {GD_EVENTS_MAX} events", "and {GD_TOOLS_MAX} tools",
    "At most {FRAMES_MAX}, those of JSON-RPC batches", "At most {GD_SESSION_BYTES_MAX} bytes of UTF-8",
    "The default is {GD_DEADLINE_MS_DEFAULT}.", "1 to {GD_HTTP_REQUEST_ID_MAX} letters",
    "Up to {GD_BATCH_ITEMS_MAX} trajectories",
]


def test_limits_are_those_of_the_code(doc):
    limit = macros()
    assert "#define FRAMES_MAX (2 * GD_EVENTS_MAX)" in (ROOT / "server/guard/trajectory_frames.c").read_text()
    limit["FRAMES_MAX"] = 2 * limit["GD_EVENTS_MAX"]
    found = {".".join(map(str, p[1:])): n for p, n in schemas_of(doc) if p and p[-1] in ("maxItems", "maximum", "maxLength")
             and isinstance(n, int) and not (p[-1] == "maximum" and n == 1)}
    assert found == {k: eval(v, {}, limit) for k, v in BOUNDS.items()}
    pattern = doc["components"]["headers"]["RequestId"]["schema"]["pattern"]
    assert pattern.endswith("{1,%d}$" % limit["GD_HTTP_REQUEST_ID_MAX"])
    text = "\n".join(n for p, n in schemas_of(doc) if p and p[-1] in ("description", "summary") and isinstance(n, str))
    for sentence in SENTENCES:
        right = sentence.format(**limit)
        assert right in text, right
        text = text.replace(right, "")
    statuses = {s for item in doc["paths"].values() for op in item.values() for s in op["responses"]} | {"404"}
    left = set(re.findall(r"(?<![\w.:/-])\d{2,}(?![\w-]|\.\d)", text)) - statuses - {"1970", "8259", "100"}
    assert not left, "numbers that nobody compares: %s" % left


def error_codes():
    """{code: status} of the sources, as far as the place of the code tells it."""
    table = (ROOT / "include/guardian/status.h").read_text()
    out = {wire: status for wire, status in re.findall(r'X\(-\d+, \w+, "(\w+)", (\d+),', table)}
    for f in (ROOT / "server/http").glob("*.c"):
        text = f.read_text()
        out.update({c: s for s, c in re.findall(r'(?:refuse|gd_reply_fail)\(\s*&?[\w>.-]+,\s*(\d+),\s*"([a-z_]+)"', text)})
        for code in re.findall(r'\bcode = "([a-z_]+)"', text) + re.findall(r'\? "([a-z_]+)" : "[a-z_]+", NULL,', text):
            out.setdefault(code, None)
    return out


def test_error_codes_are_those_of_the_code(doc):
    schema = doc["components"]["schemas"]["ErrorCode"]
    described = dict(re.findall(r"`(\w+)` \((\d+|never sent)\)", schema["description"]))
    assert sorted(described) == sorted(schema["enum"])
    codes = error_codes()
    assert len(codes) > 20 and codes["loading"] is None
    assert set(codes) == set(schema["enum"])
    for code, status in codes.items():
        assert status is None or described[code] == ("never sent" if status == "499" else status), code


def bodies(doc):
    for path, item in doc["paths"].items():
        for method, op in item.items():
            if "requestBody" in op:
                for name, e in op["requestBody"]["content"]["application/json"]["examples"].items():
                    yield method.upper(), path, name, e["value"]


def test_examples_of_requests_work(srv, doc, checker):
    seen = 0
    for method, path, name, value in bodies(doc):
        seen += 1
        r = checker.answer(method, path, srv.ask(method, path, body=value))
        assert r.status == 200, (name, r.body)
        checker.validate({"$ref": "#/components/schemas/" + ("GuardRequest" if path == "/v1/guard" else "BatchRequest")}, value)
        if path.endswith("batch"):
            lines = srv.ask(method, path, body=value, headers={"Accept": "application/x-ndjson"})
            assert lines.headers["content-type"] == "application/x-ndjson"
            assert checker.answer(method, path, lines).body.count(b"\n") == len(r.json["data"])
            entries = value["items"] if isinstance(value, dict) else value
            bad = [not checker.valid("GuardRequest", x) for x in entries]
            assert ["error" in x for x in r.json["data"]] == bad
    assert seen == 7


def test_examples_of_answers_are_legal_and_alike(srv, doc, checker):
    status_of = dict(re.findall(r"`(\w+)` \((\d+)\)", doc["components"]["schemas"]["ErrorCode"]["description"]))
    seen = 0
    for item in doc["paths"].values():
        for op in item.values():
            for status, r in op["responses"].items():
                for kind, media in checker.resolve(r)["content"].items():
                    for e in media.get("examples", {}).values():
                        seen += 1
                        checker.validate(media["schema"], e["value"])
                        if kind == "application/x-ndjson":
                            checker.validate({"$ref": "#/components/schemas/BatchEntry"}, json.loads(e["value"]))
                        elif isinstance(e["value"], dict) and "error" in e["value"]:
                            code = e["value"]["error"]["code"]
                            assert status_of[code] == status or (code, status) == ("bad_request", "505")
    assert seen > 100


def test_statuses_documented_for_a_path_can_be_given(doc):
    """Each is one that the code knows; and the work has those of the engine."""
    known = set(re.findall(r'\{(\d{3}), "[A-Z]', (ROOT / "server/http/reply.c").read_text()))
    for path, item in doc["paths"].items():
        for op in item.values():
            assert set(op["responses"]) <= known, path
    assert {"408", "415", "422", "503", "504"} <= set(doc["paths"]["/v1/guard"]["post"]["responses"])


def length(n):
    return b"Content-Length: %d\r\n" % n


ITEM = pending_request()
LONG = {"messages": [user("word " * 400) for _ in range(20)] + [call("f", {})], "deadline_ms": 1}
BAD = [
    ("no JSON", "POST", "/v1/guard", b"{", 400, "invalid_json"),
    ("empty body", "POST", "/v1/guard/batch", b"", 400, "invalid_json"),
    ("no object", "POST", "/v1/guard", b"[]", 422, "invalid_field"),
    ("two forms", "POST", "/v1/guard", {**ITEM, "frames": []}, 422, "invalid_field"),
    ("a key twice", "POST", "/v1/guard", b'{"messages": [], "messages": []}', 422, "invalid_field"),
    ("odd deadline", "POST", "/v1/guard", {**ITEM, "deadline_ms": 0}, 422, "invalid_field"),
    ("other policy", "POST", "/v1/guard", {**ITEM, "policy": "none such"}, 422, "invalid_field"),
    ("other phase", "POST", "/v1/guard", {**ITEM, "phase": "response"}, 422, "invalid_field"),
    ("odd role", "POST", "/v1/guard", {"messages": [{"role": "bot"}]}, 422, "invalid_field"),
    ("odd tool", "POST", "/v1/guard", {**ITEM, "tools": [{}]}, 422, "invalid_field"),
    ("odd frame", "POST", "/v1/guard", {"frames": [{"id": 1}]}, 422, "invalid_field"),
    ("odd flow", "POST", "/v1/guard", {"mci": [["a", "b"]]}, 422, "invalid_field"),
    ("nothing to judge", "POST", "/v1/guard", {"messages": [user("x")]}, 422, "invalid_field"),
    ("no batch", "POST", "/v1/guard/batch", {"item": []}, 422, "invalid_field"),
    ("empty batch", "POST", "/v1/guard/batch", [], 422, "invalid_field"),
    ("batch too long", "POST", "/v1/guard/batch", [None] * 65, 413, "limit_exceeded"),
    ("too many tools", "POST", "/v1/guard", {**ITEM, "tools": [tool("f", "")] * 2049}, 413, "limit_exceeded"),
    ("too many events", "POST", "/v1/guard", {"messages": [user("x")] * 4097}, 413, "limit_exceeded"),
    ("too deep", "POST", "/v1/guard", b"[" * 65 + b"]" * 65, 413, "limit_exceeded"),
    ("too large", "POST", "/v1/guard", b" " * 2097153, 413, "limit_exceeded"),
    ("no time", "POST", "/v1/guard", LONG, 504, "deadline_exceeded"),
    ("wrong method", "GET", "/v1/guard", None, 405, "method_not_allowed"),
    ("wrong method", "DELETE", "/metrics", None, 405, "method_not_allowed"),
    ("body on GET", "GET", "/info", b"{}", 400, "bad_request"),
]
RAW = [
    ("no length", "POST", "/v1/guard", POST + b"\r\n", 411, "length_required"),
    ("chunks", "GET", "/healthz", GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411, "length_required"),
    ("no JSON", "POST", "/v1/guard", POST + length(2) + b"Content-Type: text/plain\r\n\r\n{}", 415, "unsupported_media_type"),
    ("gzip", "POST", "/v1/guard", POST + length(2) + b"Content-Encoding: gzip\r\n\r\n{}", 415, "unsupported_media_type"),
    ("query string", "POST", "/v1/guard", POST.replace(b"guard", b"guard?a=1") + length(2) + b"\r\n{}", 400, "bad_request"),
    ("two hosts", "GET", "/healthz", GET + b"Host: y\r\n\r\n", 400, "bad_request"),
    ("long length", "GET", "/healthz", GET + b"Content-Length: 9999999999\r\n\r\n", 413, "limit_exceeded"),
    ("expectation", "GET", "/healthz", GET + b"Expect: cake\r\n\r\n", 417, "expectation_failed"),
    ("64 headers", "GET", "/healthz", GET + b"X: 1\r\n" * 63 + b"\r\n", 431, "too_many_headers"),
    ("tab in a value", "GET", "/healthz", GET + b"X: a\tb\r\n\r\n", 400, "bad_request"),
    ("TRACE", "TRACE", "/healthz", GET.replace(b"GET", b"TRACE") + b"\r\n", 400, "bad_request"),
    ("HTTP/2", "GET", "/healthz", GET.replace(b"/1.1", b"/2.0") + b"\r\n", 505, "bad_request"),
]


@pytest.mark.parametrize("case", BAD, ids=[c[0] for c in BAD])
def test_bad_requests_get_what_is_documented(srv, checker, case):
    _, method, path, body, status, code = case
    r = checker.answer(method, path, srv.ask(method, path, body=body))
    assert (r.status, r.error["code"]) == (status, code), r.body
    if method == "POST" and isinstance(body, (dict, list)) and status == 422:
        name = "GuardRequest" if path == "/v1/guard" else "BatchRequest"
        derived = "nothing to judge" in r.error["message"] or r.error.get("field") in ("policy", "phase")
        assert checker.valid(name, body) == derived


@pytest.mark.parametrize("case", RAW, ids=[c[0] for c in RAW])
def test_odd_heads_get_what_is_documented(srv, checker, case):
    _, method, path, data, status, code = case
    raw, closed = srv.raw(data, wait=20)
    (r,) = responses(raw)
    checker.answer(method, path, r)
    assert closed and (r.status, r.error["code"]) == (status, code), raw


def test_bodies_that_do_not_come(srv, checker):
    (r,) = responses(srv.raw(POST + length(50) + b"\r\nhello", half_close=True, wait=20)[0])
    assert checker.answer("POST", "/v1/guard", r).error["code"] == "incomplete_body"
    c = srv.connect(timeout=60)
    c.putrequest("POST", "/v1/guard")
    c.putheader("Content-Length", "1000")
    c.endheaders()
    try:
        for _ in range(100):
            c.send(b" ")
            time.sleep(0.3)
    except (BrokenPipeError, ConnectionResetError):
        pass
    r = c.getresponse()
    assert r.status == 408 and json.loads(r.read())["error"]["code"] == "request_timeout"
    assert "408" in checker.doc["paths"]["/v1/guard"]["post"]["responses"]


def test_other_paths_get_an_error_object(srv, checker):
    r = srv.get("/v1")
    assert r.status == 404 and r.error["code"] == "not_found"
    checker.validate({"$ref": "#/components/schemas/Error"}, r.json)


# Every member that is read, in each form and spelling; long deadlines, so that a busy machine refuses none of it.
PLAIN = [
    {"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}},
               {"name": "g", "description": "d", "inputSchema": {}}], "server": "s", "session": "a", "policy": None,
     "phase": "response", "deadline_ms": 600000, "frames": None, "messages": [
         {"role": "system", "content": "a"}, {"role": "developer", "content": "b"},
         {"role": "user", "content": [{"type": "text", "text": "c"}]},
         {"role": "assistant", "content": "e", "tool_calls": [
             {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
         {"role": "tool", "tool_call_id": "1", "name": "f", "content": {}, "is_error": False, "isError": False},
         {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": {}}},
         {"role": "function", "name": "g", "content": "r"}]},
    {"deadline_ms": 600000, "phase": "request", "frames": [
        {"role": "user", "content": "a", "server": "s"}, {"id": 1, "method": "tools/list", "server": "s"},
        {"id": 1, "server": "s", "result": {"tools": [{"name": "f"}]}},
        {"id": "2", "method": "tools/call", "params": {"name": "f", "arguments": {}, "requestState": "x"}},
        {"id": "2", "result": {"content": [{"type": "text", "text": "r"}], "structuredContent": {}, "isError": False}},
        {"id": 3, "method": "ping", "params": {}}, {"id": 3, "result": {}},
        [{"id": 4, "method": "tools/call", "params": {"name": "f"}}, {"id": 4, "error": {"code": 1, "message": "m"}}],
        {"role": "assistant", "content": "b"}, {"id": 5, "method": "tools/call", "params": {"name": "f", "arguments": "{}"}}]},
    {"deadline_ms": 600000, "mci": [
        ["user", "client", "a", "b", "c"],
        {"sender": "client", "recipient": "f", "data_subject": "a", "information_type": "b", "transmission_principle": "c"},
        {"sender": "f", "recipient": "client", "subject": "a", "type": "b", "principle": "c"}]},
]
ODD = [None, True, 7, -0.5, "x", [], {}, [[]]]
EDGES = [{"deadline_ms": n} for n in (0, 1, 600000, 600001, 1.5, -1, "7")] + [{"session": "s" * n} for n in (8192, 8193)] + [
    {"phase": p} for p in ("request", "response", "Request")] + [
    {"tools": [t]} for t in ({"name": "f", "function": 7}, {"name": "f", "function": {}}, {"function": {"name": "f"}, "name": 7},
                             {"name": "f", "input_schema": 7, "inputSchema": []})] + [
    {"messages": [{"role": r, "content": c}, call("f", {})]} for r in ("user", "tool") for c in ({}, {"a": 1}, [7], 7)] + [
    {"messages": None, "frames": [{"id": i, "method": m, "params": {"name": "f"}}, {"id": 9, "result": {"content": "r"}}]}
    for i in (7, "7", None, [], True) for m in ("tools/call", "ping", "")] + [
    {"messages": None, "mci": [{"sender": "user", "recipient": "f", "data_subject": a, "subject": b, "type": "c",
                                "information_type": "d", "principle": "e"}]} for a in ("a", None, 7) for b in ("a", None, 7)]


def variants(value):
    """The value with one thing in it replaced, left out or doubled."""
    for path, node in walk(value):
        for odd in ODD if path else []:
            yield changed(value, path, lambda parent, key, odd=odd: parent.__setitem__(key, odd))
        if path:
            yield changed(value, path, lambda parent, key: parent.__delitem__(key))
        if isinstance(node, dict):
            for name in ("messages", "frames", "mci", "role", "method", "result", "error", "name", "content"):
                if name not in node:
                    yield changed(value, (*path, name), lambda parent, key: parent.__setitem__(key, "x"))


def changed(value, path, change):
    out = parent = copy.deepcopy(value)
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return out


def test_both_say_the_same_of_every_variant(srv, checker):
    """Requests with each member in turn of another type, missing or too much: legal for both sides or for neither."""
    made = [*PLAIN, *(v for p in PLAIN for v in variants(p)), *({**pending_request(), "deadline_ms": 600000, **e} for e in EDGES)]
    made = list({json.dumps(x): x for x in made}.values())
    legal = 0
    for i in range(0, len(made), 64):
        part = made[i:i + 64]
        r = checker.answer("POST", "/v1/guard/batch", srv.batch(part))
        assert r.status == 200
        wrong = disagreement(checker.valid, "/v1/guard/batch", part, 200, r.json)
        assert wrong is None, wrong[:1000]
        legal += sum("error" not in x for x in r.json["data"])
    assert len(made) > 1500 and legal > 300 and len(made) - legal > 300, (len(made), legal)


def described_members(checker, schema):
    """{path: names} of every object of a schema that says what it holds."""
    for key in ("anyOf", "oneOf"):
        for part in schema.get(key, []):
            yield from described_members(checker, checker.resolve(part))
    if "properties" in schema:
        assert schema["additionalProperties"] is False, schema
        yield schema
        for p in schema["properties"].values():
            yield from described_members(checker, checker.resolve(p))
    if "items" in schema:
        yield from described_members(checker, checker.resolve(schema["items"]))


def test_answers_about_the_server_are_described_whole(srv, doc, checker):
    for path in ("/info", "/health", "/healthz", "/readyz", "/v1/models", "/v1/taxonomy", "/version", "/metrics"):
        r = checker.answer("GET", path, srv.get(path))
        assert r.status == 200
        head = checker.answer("HEAD", path, srv.ask("HEAD", path))
        assert head.status == 200 and (path in ("/info", "/metrics") or head.headers["content-length"] == str(len(r.body)))
        if path == "/metrics":
            continue
        schema = checker.response("GET", path, 200)["content"]["application/json"]["schema"]
        closed = list(described_members(checker, checker.resolve(schema)))
        assert closed
        text = r.body.decode()
        for member in {m for s in closed for m in s["properties"]}:
            assert '"%s":' % member in text, "%s does not tell %s" % (path, member)
        more = json.loads(text)
        more["more"] = 1
        assert not checker.schema(schema).is_valid(more)
    for name in ("Verdict", "Error", "BatchAnswer", "BatchEntry"):
        assert list(described_members(checker, checker.resolve({"$ref": "#/components/schemas/" + name})))


def test_answers_while_the_model_loads_are_documented(start, tmp_path, checker):
    s = start(model=padded_model(tmp_path), wait="listening")
    seen = set()
    until = time.monotonic() + 120
    while time.monotonic() < until and (200, "/readyz") not in seen:
        for path in ("/info", "/v1/models", "/v1/taxonomy", "/health", "/openapi.json", "/readyz"):
            seen.add((checker.answer("GET", path, s.get(path)).status, path))
        for path in ("/v1/guard", "/v1/guard/batch"):
            r = s.ask("POST", path, body=[ITEM] if "batch" in path else ITEM)
            seen.add((checker.answer("POST", path, r).status, path))
    assert seen >= {(503, p) for p in ("/health", "/readyz", "/v1/guard", "/v1/guard/batch")}
    assert seen >= {(200, p) for p in ("/info", "/v1/models", "/v1/taxonomy", "/openapi.json", "/readyz")}
    assert s.stop() == 0


def test_header_of_the_cache(start, checker):
    """Absent where verdicts are not kept; else hit or miss."""
    s = start("--verdict-cache", "0")
    assert "x-cache" not in checker.answer("POST", "/v1/guard", s.guard(ITEM)).headers
    assert s.stop() == 0


def test_schemathesis(srv, doc, checker, python, tmp_path):
    """Requests made from the document, legal and not: no 5xx but documented ones, every answer as documented, and both sides
    agree on what is legal (openapi_checks.py)."""
    report, file = tmp_path / "report.json", tmp_path / "openapi.json"
    file.write_text(json.dumps(doc))  # of a document from a server, schemathesis leaves out the path that it came from
    argv = [os.path.join(os.path.dirname(python), "schemathesis"), "--config-file", str(HERE / "schemathesis.toml"), "run",
            str(file), "--url", "http://127.0.0.1:%d" % srv.port, "--seed", "1", "--generation-database", "none", "--no-color",
            # a busy machine makes data slowly: that is no finding
            "--suppress-health-check", "all", "--request-timeout", "300", "--report", "json", "--report-json-path", str(report)]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SCHEMATHESIS", "GUARDIAN"))}
    env.update(PYTHONPATH=str(HERE), PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800)
    shown = "\n".join(x[:600] for x in done.stdout.splitlines())
    assert done.returncode == 0, shown[-8000:] + done.stderr[-2000:]
    r = json.loads(report.read_text())
    n = sum(len(item) for item in doc["paths"].values())
    assert r["complete"] and r["operations"]["tested"] == n and r["test_cases"]["errored"] == 0
    assert r["test_cases"]["generated"] > 1500
    for phase in ("examples", "coverage", "fuzzing"):
        assert r["phases"][phase]["status"] == "success"
    for path in ("/v1/guard", "/v1/guard/batch"):
        accepted = r["valid_rates"]["POST " + path]
        assert accepted["coverage"]["accepted"] > 50 and accepted["fuzzing"]["accepted"] > 10, accepted
    assert not any(r["warnings"].values()), r["warnings"]
    counts = srv.get("/metrics").body.decode()
    for route, code in re.findall(r'guardian_requests_total\{route="(/[^"]*)",code="(\d+)"\} [1-9]', counts):
        answers = {s for op in doc["paths"][route].values() for s in op["responses"]}
        assert code in answers, (route, code)
