"""A writer of plain SVG: shapes with classes, colours for light and dark backgrounds in one style sheet."""

from xml.sax.saxutils import escape, quoteattr

LIGHT = {
    "bg": "#ffffff",
    "ink": "#1f2328",
    "soft": "#59636e",
    "grid": "#d1d9e0",
    "one": "#0969da",
    "two": "#bc4c00",
    "three": "#8250df",
}
DARK = {
    "bg": "#0d1117",
    "ink": "#e6edf3",
    "soft": "#9198a1",
    "grid": "#3d444d",
    "one": "#4493f8",
    "two": "#f0883e",
    "three": "#b87fff",
}


def rules(colours):
    """.fill-NAME and .line-NAME for each colour"""
    return "".join(".fill-%s{fill:%s}.line-%s{stroke:%s}" % (k, v, k, v) for k, v in colours.items())


class Drawing:
    def __init__(self, width, height, title):
        self.size, self.title, self.parts = (width, height), title, []
        self.rect(0, 0, width, height, "fill-bg")
        self.text(20, 28, title, "fill-ink title")

    def add(self, name, text=None, **attributes):
        given = "".join(
            " %s=%s" % (k.rstrip("_").replace("_", "-"), quoteattr(number(v)))
            for k, v in attributes.items()
            if v is not None
        )
        inside = "/>" if text is None else ">%s</%s>" % (escape(text), name)
        self.parts.append("<%s%s%s" % (name, given, inside))

    def rect(self, x, y, width, height, kind, opacity=None, tip=None):
        attributes = dict(x=x, y=y, width=width, height=height, class_=kind, fill_opacity=opacity)
        if tip is None:
            self.add("rect", **attributes)
            return
        self.parts.append("<g>")
        self.add("rect", **attributes)
        self.add("title", tip)
        self.parts.append("</g>")

    def line(self, x1, y1, x2, y2, kind):
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)

    def curve(self, points, kind):
        joined = " ".join("%s,%s" % (number(x), number(y)) for x, y in points)
        self.add("polyline", points=joined, class_="curve " + kind)

    def dot(self, x, y, r, kind):
        self.add("circle", cx=x, cy=y, r=r, class_=kind)

    def text(self, x, y, text, kind="fill-ink", anchor=None, turn=None):
        around = None if turn is None else "rotate(%s %s %s)" % (number(turn), number(x), number(y))
        self.add("text", text, x=x, y=y, class_=kind, text_anchor=anchor, transform=around)

    def write(self, path):
        style = (
            "text{font:12px system-ui,'Segoe UI','DejaVu Sans',sans-serif}.title{font-size:15px;font-weight:600}"
            ".small{font-size:11px}.curve{fill:none;stroke-width:2}.dash{stroke-dasharray:4 4}"
            + rules(LIGHT)
            + "@media(prefers-color-scheme:dark){%s}" % rules(DARK)
        )
        head = '<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">'
        with open(path, "w", encoding="utf-8") as f:
            f.write(head % (self.size * 2) + "\n<title>%s</title>\n" % escape(self.title))
            f.write("<style>%s</style>\n%s\n</svg>\n" % (style, "\n".join(self.parts)))


def number(v):
    return ("%.2f" % v).rstrip("0").rstrip(".") if isinstance(v, float) else str(v)


class Axes:
    """A square or flat field with both axes from 0 to 1."""

    def __init__(self, drawing, x, y, width, height, across, up, ticks=5):
        self.d, self.x, self.y, self.width, self.height = drawing, x, y, width, height
        for i in range(ticks + 1):
            v = i / ticks
            px, py = self.at(v, v)
            drawing.line(px, y, px, y + height, "line-grid")
            drawing.line(x, py, x + width, py, "line-grid")
            drawing.text(px, y + height + 16, "%.1f" % v, "fill-soft small", "middle")
            drawing.text(x - 6, py + 4, "%.1f" % v, "fill-soft small", "end")
        drawing.text(x + width / 2, y + height + 36, across, "fill-soft", "middle")
        drawing.text(x - 38, y + height / 2, up, "fill-soft", "middle", turn=-90)

    def at(self, u, v):
        return self.x + float(u) * self.width, self.y + (1.0 - v) * self.height

    def curve(self, points, kind):
        self.d.curve([self.at(u, v) for u, v in points], kind)

    def line(self, u1, v1, u2, v2, kind):
        self.d.line(*self.at(u1, v1), *self.at(u2, v2), kind)

    def dot(self, u, v, r, kind):
        self.d.dot(*self.at(u, v), r, kind)
