"""Labelled cases from JSON Lines, each as the request that asks for its verdict.

A line is {"label": ..., and one of "messages", "frames", "mci", "body"}; beside it "tools", "server" (sent), "phase"
("request" or "response"), "source" and "id" (for the tables). What cannot be sent stays in the list with its reason.
"""

import collections
import hashlib
import json

import body
from labels import key_of

FORMS = ("messages", "frames", "mci", "body")
Case = collections.namedtuple("Case", "line id label phase source request problem")


def load(path, limit=None):
    with open(path, "rb") as f:
        lines = [(n, x) for n, x in enumerate(f, 1) if x.strip()]
    return [case_of(n, x) for n, x in lines[:limit]]


def case_of(line, text):
    row, name = {}, "line %d" % line
    try:
        row = object_of(text)
        name = str(row["id"]) if row.get("id") is not None else name
        label = key_of(row.get("label"))
        if label is None:
            raise body.Unreadable("unknown label %.60r" % (row.get("label"),))
        return Case(line, name, label, row.get("phase"), row.get("source"), request_of(row), None)
    except body.Unreadable as e:
        return Case(line, name, None, row.get("phase"), row.get("source"), None, str(e))


def object_of(text):
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise body.Unreadable("not JSON: %s" % e) from None
    if not isinstance(row, dict):
        raise body.Unreadable("not a JSON object")
    return row


def request_of(row):
    given = [k for k in FORMS if row.get(k) is not None]
    if len(given) != 1:
        raise body.Unreadable(
            "exactly one of %s is needed, not %s" % (", ".join(FORMS), " and ".join(given) or "none")
        )
    form = given[0]
    request = body.request_of(row[form]) if form == "body" else {form: row[form]}
    request.update((k, row[k]) for k in ("tools", "server") if row.get(k))
    return request


def digest(request):
    """Tells apart two requests under one id: a changed case is asked again."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
