"""What the document and the server must agree on, one request at a time; for test_openapi.py and openapi_checks.py.

What GuardRequest forbids is refused; what it allows gets a verdict, or a refusal for a reason that no schema can say.
"""
import re

# What a schema cannot say: derived things, spelling, what was loaded, and frames whose meaning hangs on their request.
REASONS = [
    r"field 'deadline_ms' must be an integer from 1 to 600000, is \d+(\.0+|(\.\d+)?[eE]\+?\d+)$",  # to a schema 1.0 is one
    r"the trajectory has nothing to judge",
    r"field 'phase' is (request|response), but the trajectory ends with",
    r"field 'policy' is '.*', which is not loaded",
    r"field 'session' has \d+ bytes: at most 8192",
    r"frames\[\d+\](\[\d+\])?\.(result|error)\b",
    r"field 'frames\[\d+\](\[\d+\])?\.result\b",
    r".* has the key '.*' more than once",
    r"frames\[\d+\] holds a tools/call beside the result of an earlier one",
]
LIMITS = [
    r"the trajectory has more than 4096 events",
    r"there are more than 8192 frames",
    r"(tools|frames\[.*\.tools): the trajectory has more than 2048 tools",
    r"the prompt has \d+ tokens with all but",
    r"the JSON text (has more than 60000 values|is nested deeper than 64)",
    r"the member name at byte \d+ is longer than 512 bytes",
    r"the body is larger than 2097152 bytes",
]


def judge(legal, status, error):
    """Why this answer to one request is wrong, or None."""
    if status == 200:
        return None if legal else "the document forbids it and there is a verdict"
    if status in (503, 504):
        return None if error["code"] in ("overloaded", "deadline_exceeded") else "%d for no reason" % status
    if not legal:
        return None if status in (400, 413, 422) else "a refusal with the wrong status"
    known = {422: REASONS, 413: LIMITS}.get(status, [])
    if any(re.match(x, error["message"], re.S) for x in known):
        return None
    return "the document allows it, and no reason is known that a schema could not say"


STATUS = {"invalid_field": 422, "limit_exceeded": 413, "deadline_exceeded": 504, "overloaded": 503}


def disagreement(valid, path, body, status, answer):
    """Why the answer to this body is wrong, or None. valid(name, value): whether a schema of the document allows the value."""
    if path == "/v1/guard":
        return judge(valid("GuardRequest", body), status, answer.get("error"))
    if status != 200:
        return judge(valid("BatchRequest", body), status, answer["error"])
    for item, got in zip(body["items"] if isinstance(body, dict) else body, answer["data"]):
        code = STATUS.get(got["error"]["code"]) if "error" in got else 200
        wrong = judge(valid("GuardRequest", item), code, got.get("error"))
        if wrong:
            return "%s: %r: %r" % (wrong, item, got.get("error"))
    return None
