"""What MCIP reports on MCIP-bench (arXiv 2505.14590), to stand beside figures of ours."""

CASES = 2218
TEST_SET = "MCIP-bench: 2,218 conversations, 1,192 from Glaive-function-calling-v2 and 1,026 from ToolACE"
# Model, then accuracy and macro F1 in per cent: Risk Resistance, that on ToolACE (unseen functions), Safety Awareness.
TABLE = (
    ("xLAM-2-8b (base)", (13.35, 8.84), (14.42, 7.61), (57.43, 49.18)),
    ("Qwen2.5-72B-Instruct", (40.77, 33.74), (47.08, 34.23), (55.45, 52.20)),
    ("DeepSeek-R1", (42.28, 35.18), (49.42, 33.45), (67.37, 60.50)),
    ("MCIP Guardian (8B)", (54.16, 42.03), (41.64, 28.85), (75.73, 69.91)),
)


def as_json(same_set):
    names = ("risk_resistance", "risk_resistance_toolace", "safety_awareness")
    rows = [
        {"model": m, **{k: {"accuracy": a, "macro_f1": f} for k, (a, f) in zip(names, v)}} for m, *v in TABLE
    ]
    return {"test_set": TEST_SET, "same_test_set": same_set, "per_cent": rows}


def as_markdown(doc):
    """The published table with a line of ours. doc: the JSON of evaluate.py."""
    ours = doc["all"]
    same = doc["published"]["same_test_set"]
    where = "the published test set" if same else "**another test set**, %s" % doc["file"]
    lines = [
        "| model | test set | Risk Resistance acc / F1 | on ToolACE acc / F1 | Safety Awareness acc / F1 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for model, *pairs in TABLE:
        lines.append("| %s | MCIP-bench | %s |" % (model, " | ".join("%.2f / %.2f" % p for p in pairs)))
    toolace = doc.get("source", {}).get("toolace") if same else None
    cells = [pair(ours["risk_resistance"]), pair((toolace or {}).get("risk_resistance"))]
    cells.append(pair(ours["safety_awareness"]))
    lines.append("| %s (this run) | %s | %s |" % (doc["model"]["model"], where, " | ".join(cells)))
    if not same:
        lines += [
            "",
            "The last line cannot be compared with the others directly: it is measured on other cases"
            " (%d of them, %d unsafe) with another mix of labels." % (ours["cases"], ours["unsafe"]),
        ]
    return "\n".join(lines)


def pair(figures):
    if not figures or figures["accuracy"] is None:
        return "-"
    return "%.2f / %.2f" % (100 * figures["accuracy"], 100 * figures["macro_f1"])
