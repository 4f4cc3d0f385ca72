"""The figures as a Markdown page beside its pictures."""

import published
from labels import LABELS, LETTERS, NAMES

ROWS = (
    ("accuracy over the 11 labels (Risk Resistance)", "risk_resistance.accuracy"),
    ("macro F1 over the labels", "risk_resistance.macro_f1"),
    ("mean recall over the labels", "risk_resistance.mean_recall"),
    ("accuracy safe/unsafe (Safety Awareness)", "safety_awareness.accuracy"),
    ("macro F1 safe/unsafe", "safety_awareness.macro_f1"),
    ("balanced accuracy safe/unsafe", "balanced_accuracy"),
    ("unsafe flagged", "true_positive_rate"),
    ("benign passed", "true_negative_rate"),
    ("ROC AUC", "roc_auc"),
    ("recall at 5 % false positives", "recall_at_5_percent_false_positives"),
    ("expected calibration error", "ece"),
)


def show(x):
    return "-" if x is None else "%.3f" % x


def look_up(figures, name):
    for key in name.split("."):
        figures = figures[key]
    return figures


def cell(figures, name):
    low_high = figures.get("intervals_95", {}).get(name)
    text = show(look_up(figures, name))
    return text if not low_high else "%s (%s to %s)" % (text, show(low_high[0]), show(low_high[1]))


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| %s |" % " | ".join(str(x) for x in line) for line in lines)


def main_table(doc):
    parts = [("all", doc["all"])]
    for key, word in (("phase", "phase "), ("intent", "user intent ")):
        parts += [(word + name, f) for name, f in doc[key].items()]
    rows = [["cases (unsafe)"] + ["%d (%d)" % (f["cases"], f["unsafe"]) for _, f in parts]]
    rows += [[text] + [cell(f, name) for _, f in parts] for text, name in ROWS]
    return table(["measure"] + [name for name, _ in parts], rows)


def source_table(doc):
    """A line for each source, or nothing where the cases have none."""
    if not doc["source"]:
        return ""
    names = ("risk_resistance.accuracy", "balanced_accuracy", "roc_auc", ROWS[-2][1], "ece")
    head = ["source", "cases (unsafe)"] + [text for text, name in ROWS if name in names]
    rows = [
        [source, "%d (%d)" % (f["cases"], f["unsafe"])] + [cell(f, name) for name in names]
        for source, f in doc["source"].items()
    ]
    return "\n" + table(head, rows) + "\n"


def label_table(figures):
    rows = []
    for l in LABELS:
        f = figures["labels"][l]
        kinds = [show(f[k]) for k in ("recall", "precision", "f1", "flagged")]
        rows.append(["%s %s" % (LETTERS[l], NAMES[l]), f["cases"], *kinds])
    return table(["label", "cases", "recall", "precision", "F1", "flagged as any risk"], rows)


def confusion_table(figures):
    rows = [
        ["%s %s" % (LETTERS[w], NAMES[w])] + [figures["confusion"].get(w, {}).get(g, "") for g in LABELS]
        for w in LABELS
    ]
    return table(["label, then verdicts"] + [LETTERS[g] for g in LABELS], rows)


def errors(doc):
    if not doc["errors"]:
        return ""
    lines = ["- %s: %s" % (e["id"], " ".join(e["reason"].split())) for e in doc["failed"][:20]]
    more = doc["errors"] - len(lines)
    lines += ["- and %d more, in results.json" % more] if more > 0 else []
    head = "**%d of %d cases have no verdict and are in no figure:**" % (doc["errors"], doc["cases"])
    return head + "\n\n" + "\n".join(lines) + "\n\n"


def markdown(doc):
    m = doc["model"]
    return PAGE.format(
        model=m["model"],
        version=m["model_version"],
        policy=m["policy"],
        threshold=m["threshold"],
        file=doc["file"],
        sha=doc["file_sha256"],
        answered=doc["answered"],
        date=doc["date"],
        errors=errors(doc),
        resamples=doc["settings"]["resamples"],
        seed=doc["settings"]["seed"],
        bins=doc["settings"]["bins"],
        main=main_table(doc),
        sources=source_table(doc),
        labels=label_table(doc["all"]),
        confusion=confusion_table(doc["all"]),
        published=published.as_markdown(doc),
        test_set=published.TEST_SET,
    )


PAGE = """# Accuracy of {model}

{answered} verdicts of {date} on `{file}` (SHA-256 `{sha}`).
Model `{version}`, policy {policy}, threshold {threshold}.

{errors}## Figures

In brackets 95 % bootstrap intervals ({resamples} resamples of cases, seed {seed}): they treat cases as independent of
each other, and that of the calibration error leans upwards, as resampling adds noise to every bin. A verdict that is
not flagged counts as Appropriate. ROC, recall at 5 % false positives and calibration (in {bins} bins of equal width) are
those of the risk score.

{main}
{sources}
![ROC](roc.svg)
![Calibration](calibration.svg)

## Labels

{labels}

![Confusion matrix](confusion.svg)

{confusion}

## Beside the published figures

In per cent. {test_set}.

{published}
"""
