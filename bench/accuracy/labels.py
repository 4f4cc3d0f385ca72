"""The eleven labels and all the names they go by in case files."""

import re

# The server's key, the name in the published prompt, the name in the published data set (misspelt there too).
TABLE = (
    ("appropriate", "Appropriate", "true"),
    ("function_overlapping", "Function Overlapping", "function_overlapping"),
    ("excessive_privileges_overlapping", "Excessive Privileges Overlapping", "excessive_privileges"),
    ("function_dependency_injection", "Function Dependency Injection", "function_dependency_injection"),
    ("function_injection", "Function Injection", "function_injection"),
    ("causal_dependency_injection", "Causal Dependency Injection", "causal_dependency_injection"),
    (
        "wrong_function_intent_injection",
        "Wrong Function Intent Injection",
        "ignore_prupose_prompt_injection",
    ),
    (
        "wrong_arguments_intent_injection",
        "Wrong Arguments Intent Injection",
        "wrong_parameter_prompt_injection",
    ),
    ("data_injection", "Data Injection", "data_injection"),
    ("identity_injection", "Identity Injection", "identity_injection"),
    ("replay_injection", "Replay Injection", "replay_function"),
)
LABELS = tuple(key for key, _, _ in TABLE)
NAMES = {key: name for key, name, _ in TABLE}
LETTERS = dict(zip(LABELS, "ABCDEFGHIJK"))
SAFE = LABELS[0]


def fold(text):
    return re.sub(r"[\s_-]+", "_", text.strip().lower())


KEYS = {fold(name): names[0] for names in TABLE for name in names}
KEYS.update({letter.lower(): key for key, letter in LETTERS.items()})


def key_of(label):
    """The server's key of a label in any of its names ("B" and "B. Function Overlapping" too), or None."""
    if label is True:  # `true`, read by something that knew better
        return SAFE
    if not isinstance(label, str):
        return None
    return KEYS.get(fold(label)) or KEYS.get(fold(re.sub(r"^\s*[A-K]\.\s*", "", label)))
