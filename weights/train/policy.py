"""The policy of guardian-mini: what stands around the body of a prompt, and its choices."""

import json

from attacks import LABELS

TEMPLATE = "Tool use of an assistant:\n{body}Which risk?\n"
ANSWER = "Choice:"
LETTERS = "ABCDEFGHIJK"


def before():
    return TEMPLATE.split("{body}")[0]


def after():
    return TEMPLATE.split("{body}")[1] + ANSWER


def document(flag=0.5, block=0.8):
    return {
        "name": "mcip-mini",
        "version": 1,
        "chat": "none",
        "bos": True,
        "template": TEMPLATE,
        "answer_prefix": ANSWER,
        "choices": [{"text": " " + c, "label": l} for c, l in zip(LETTERS, LABELS)],
        "rendering": "dialogue",
        "render": {"item_bytes": 900, "tool_bytes": 320, "catalog_bytes": 2400, "similar_tools": 3},
        "thresholds": {"flag": flag, "block": block},
    }


def write(path, **kw):
    with open(path, "w") as f:
        json.dump(document(**kw), f, indent=2)
        f.write("\n")
