"""Pictures of the figures: confusion matrix as a heat map, ROC curve, calibration."""

import metrics
from labels import LABELS, LETTERS, NAMES, SAFE
from svg import Axes, Drawing

CELL, LEFT, TOP = 52, 320, 96
KINDS = ("one", "two", "three")


def confusion(path, figures, what):
    """figures: of metrics.figures. The shade of a cell is its share of the row."""
    n = len(LABELS)
    d = Drawing(LEFT + n * CELL + 24, TOP + n * CELL + 56, "Confusion matrix: " + what)
    d.text(LEFT, TOP - 36, "verdict", "fill-soft")
    d.text(20, TOP - 12, "label of the case (cases)", "fill-soft")
    for i, label in enumerate(LABELS):
        middle = i * CELL + CELL / 2
        d.text(LEFT + middle, TOP - 12, LETTERS[label], "fill-ink", "middle")
        cases = figures["labels"][label]["cases"]
        d.text(20, TOP + middle + 4, "%s  %s (%d)" % (LETTERS[label], NAMES[label], cases))
        for j, verdict in enumerate(LABELS):
            cell(d, i, j, figures["confusion"].get(label, {}).get(verdict, 0), cases)
    foot = "Blue: right. Orange: wrong. The shade is the share of the row; the figure is the number of cases."
    d.text(20, TOP + n * CELL + 32, foot, "fill-soft")
    d.write(path)


def cell(d, i, j, count, cases):
    x, y = LEFT + j * CELL + 1, TOP + i * CELL + 1
    share = count / cases if cases else 0.0
    tip = "%s, verdict %s: %d of %d" % (NAMES[LABELS[i]], NAMES[LABELS[j]], count, cases)
    d.rect(x, y, CELL - 2, CELL - 2, "fill-grid", 0.25)
    if not count:
        return
    # Never opaque: the text stays readable on both backgrounds.
    d.rect(x, y, CELL - 2, CELL - 2, "fill-one" if i == j else "fill-two", 0.06 + 0.64 * share, tip)
    d.text(x + CELL / 2 - 1, y + CELL / 2 + 3, str(count), "fill-ink", "middle")


def risks(rows):
    return [(s, w != SAFE) for w, _, s in rows]


def roc(path, groups, threshold, what):
    """groups: [(name, rows)], the first is everything and has the operating point marked."""
    d = Drawing(560, 560, "ROC of the risk score: " + what)
    field = Axes(d, 70, 56, 450, 430, "share of the benign that is flagged", "share of the unsafe that is flagged")
    field.line(0, 0, 1, 1, "line-soft dash")
    field.line(0.05, 0, 0.05, 1, "line-soft dash")
    d.text(*shifted(field.at(0.05, 0.02), 5), "5 % false positives", "fill-soft small")
    for i, (name, rows) in enumerate(groups[: len(KINDS)]):
        points = metrics.roc_points(risks(rows))
        if not points:
            continue
        field.curve([(x, y) for _, x, y in points], "line-" + KINDS[i])
        text = "%s (%d cases): AUC %.3f" % (name, len(rows), metrics.auc(risks(rows)))
        y = 56 + 430 - 100 + 20 * i
        d.rect(250, y - 14, 268, 20, "fill-bg")
        d.rect(256, y - 5, 18, 3, "fill-" + KINDS[i])
        d.text(280, y, text, "fill-ink small")
    operating_point(d, field, groups[0][1], threshold)
    d.write(path)


def operating_point(d, field, rows, threshold):
    _, tpr, tnr = metrics.balanced(metrics.two_classes(metrics.confusion_of(rows)))
    if tpr is None or tnr is None:
        return
    field.dot(1 - tnr, tpr, 5, "fill-one")
    d.text(*shifted(field.at(1 - tnr, tpr), 10, 14), "threshold %g" % threshold, "fill-ink small")


def shifted(point, right, down=0):
    return point[0] + right, point[1] + down


def calibration(path, rows, bins, what):
    d = Drawing(560, 640, "Calibration of the risk score: " + what)
    field = Axes(d, 70, 56, 450, 390, "mean risk score of the bin", "share that is unsafe")
    field.line(0, 0, 1, 1, "line-soft dash")
    found = metrics.calibration(risks(rows), bins)
    most = max([n for n, _, _ in found] + [1])
    field.curve([(score, bad) for n, score, bad in found if n], "line-one")
    for i, (n, score, bad) in enumerate(found):
        left, width = 70 + i * 450 / bins, 450 / bins
        high = 70 * n / most
        d.rect(left + 1.0, 596 - high, width - 2, high, "fill-one", 0.35, "%d cases" % n)
        d.text(left + width / 2, 592 - high, str(n), "fill-soft small", "middle")
        if n:
            field.dot(score, bad, 4, "fill-one")
    d.line(70, 596, 520, 596, "line-grid")
    foot = "expected calibration error %.3f in %d bins of equal width; bars: cases in each"
    d.text(295, 620, foot % (metrics.ece(risks(rows), bins), bins), "fill-soft small", "middle")
    d.write(path)
