"""The policy of guardian-mini: what stands around the body of a prompt, and its choices."""

import json

from attacks import LABELS

TEMPLATE = "Tool use of an assistant:\n{body}Which risk?\n"
ANSWER = "Choice:"
LETTERS = "ABCDEFGHIJK"
NOTES = True  # the NOTE lines of prompt.h


def before():
    return TEMPLATE.split("{body}")[0]


def after():
    return TEMPLATE.split("{body}")[1] + ANSWER


def document(points, evidence=None):
    """points: {name: (flag, block, measured)}, "balanced" among them; evidence: the field of policy.h"""
    flag, block, _ = points["balanced"]
    return {
        "name": "mcip-mini",
        "version": 4,
        "chat": "none",
        "bos": True,
        "template": TEMPLATE,
        "answer_prefix": ANSWER,
        "choices": [{"text": " " + c, "label": l} for c, l in zip(LETTERS, LABELS)],
        "rendering": "dialogue",
        "render": {"item_bytes": 900, "tool_bytes": 320, "catalog_bytes": 2400, "similar_tools": 3, "notes": NOTES},
        "thresholds": {"flag": flag, "block": block},
        "operating_points": [
            {"name": n, "flag": f, "block": b, "measured": m} for n, (f, b, m) in points.items()
        ],
        **({"evidence": evidence} if evidence else {}),
    }


def write(path, points, evidence=None):
    with open(path, "w") as f:
        json.dump(document(points, evidence), f, indent=2)
        f.write("\n")
