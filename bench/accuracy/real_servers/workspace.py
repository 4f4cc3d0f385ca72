"""The small world that the sessions are about: Ines' pottery studio, made anew for every session.

A git repository (site), notes, accounts as CSV, a shop database, a todo list and some web pages. Everything
has fixed dates. The workbook is made by the Excel server itself (BOOK) once and then copied.
"""

import http.server
import os
import shutil
import sqlite3
import subprocess
import threading

HOME = "/home/ines/studio"  # what the sessions call it
WHEN = "2026-04-16T09:30:00 +0000"  # a form that GitPython reads too

GIT = {
    "GIT_AUTHOR_DATE": WHEN,
    "GIT_COMMITTER_DATE": WHEN,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}

FILES = {
    "notes/meeting-2026-04-14.md": (
        """# Studio meeting, 14 April 2026

Present: Ines, Tomás, Rui

- Kiln 2: the door seal is worn. Rui orders a new one (budget 85 EUR).
- Spring fair on 9 May: we take table 14. Tomás packs on 8 May.
- Gift cards: go live when the page is ready, not before 1 May.
- Next meeting: 28 April, 18:00.
"""
    ),
    "notes/glaze-recipes.md": (
        """# Glazes

## Celadon (cone 9)
- feldspar 40
- silica 30
- whiting 20
- kaolin 10
- red iron oxide 1.5

## Tenmoku (cone 9)
- feldspar 45
- silica 25
- whiting 15
- kaolin 15
- red iron oxide 8
"""
    ),
    "notes/supplier-clay.md": (
        """Clayhaus, contact Lena Brandt, lena@clayhaus.example
Customer number 30771. Order before Wednesday noon for delivery on Friday.
Stoneware SW-11 in 12.5 kg bags.
"""
    ),
    "notes/door-code.txt": "Back door 4471#, alarm off within 30 seconds.\n",
    "notes/course-list.csv": (
        """name,course,paid
Marta Nunes,wheel beginners,yes
Paul Okoro,wheel beginners,no
Chiara Galli,glazing,yes
Sofia Lund,wheel beginners,yes
Jan Peeters,glazing,no
"""
    ),
    "books/expenses-april.csv": (
        """date,what,amount
2026-04-02,Clay SW-11,212.50
2026-04-03,Electricity,148.20
2026-04-09,Kiln shelves,96.00
2026-04-13,Packaging,41.75
"""
    ),
    # where the published todo server keeps its list
    ".claude/todos.md": (
        """# Todos

<!-- Format: - [ ] #ID [priority] (due: YYYY-MM-DD) (tags: a,b) text -->

- [ ] #1 [high] (due: 2026-04-17) (tags: kiln) Order door seal for kiln 2
- [ ] #2 [med] (due: 2026-05-08) (tags: fair) Pack for the spring fair
- [x] #3 [low] (tags: site) Fix VAT on the price list
- [ ] #4 [med] (due: 2026-04-30) (tags: site) Finish the gift card page
- [ ] #5 [high] (due: 2026-04-15) (tags: money) Send invoice to Café Lumen
- [ ] #6 [low] (tags: courses) Ask Paul about the course fee
"""
    ),
}

INDEX = """<h1>Ines Correia, pottery</h1>
<p>Open Tuesday to Friday, {hours}.</p>
<p>Rua das Olarias 12, Porto</p>
"""
PRICES = '{{\n  "vat": {vat},\n  "mug": 18.0,\n  "bowl": 24.0,\n  "teapot": 62.0\n}}\n'

COMMITS = (  # (branch, day, who, message, {file: text})
    (
        "main",
        "2026-03-02",
        "Ines Correia",
        "Start of the shop site",
        {
            "README.md": "# Shop site\n\nStatic pages, no build step.\n",
            "index.html": INDEX.format(hours="10 to 17"),
        },
    ),
    ("main", "2026-03-09", "Tomás Reis", "Add price list", {"prices.json": PRICES.format(vat="0.32")}),
    (
        "main",
        "2026-03-20",
        "Ines Correia",
        "Opening hours for spring",
        {"index.html": INDEX.format(hours="10 to 18")},
    ),
    (
        "feature/gift-cards",
        "2026-03-27",
        "Tomás Reis",
        "Sketch of the gift card page",
        {"giftcards.html": "<h1>Gift cards</h1>\n<p>From 20 EUR, valid for three years.</p>\n"},
    ),
    (
        "main",
        "2026-04-02",
        "Tomás Reis",
        "Fix VAT rate in prices",
        {"prices.json": PRICES.format(vat="0.23")},
    ),
)

SHOP = """
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, price_cents INTEGER, stock INTEGER);
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, email TEXT, city TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, product_id INTEGER, quantity INTEGER,
                     placed TEXT, status TEXT);
CREATE TABLE staff (id INTEGER PRIMARY KEY, name TEXT, role TEXT, hourly_cents INTEGER);
INSERT INTO products VALUES (1,'mug',1800,42),(2,'bowl',2400,17),(3,'teapot',6200,3),(4,'plate',2100,0),
  (5,'vase',4500,8);
INSERT INTO customers VALUES (1,'Marta Nunes','marta@nunes.example','Porto'),
  (2,'Café Lumen','hello@lumen.example','Braga'),
  (3,'Paul Okoro','paul@okoro.example','Porto'),(4,'Chiara Galli','chiara@galli.example','Lisbon');
INSERT INTO orders VALUES (101,1,1,2,'2026-04-01','paid'),
  (102,2,1,24,'2026-04-03','shipped'),(103,3,3,1,'2026-04-07','open'),
  (104,4,2,4,'2026-04-09','paid'),(105,2,2,12,'2026-04-10','open'),(106,1,5,1,'2026-04-13','cancelled');
INSERT INTO staff VALUES (1,'Ines Correia','owner',0),(2,'Tomás Reis','studio and shop',1450),
  (3,'Rui Maia','kilns',1600);
"""

BOOK = HOME + "/books/sales.xlsx"
ROWS = [
    ["Date", "Item", "Qty", "Price", "Total"],
    ["2026-04-01", "mug", 2, 18, "=C2*D2"],
    ["2026-04-03", "mug", 24, 15, "=C3*D3"],
    ["2026-04-07", "teapot", 1, 62, "=C4*D4"],
    ["2026-04-09", "bowl", 4, 24, "=C5*D5"],
    ["2026-04-10", "bowl", 12, 20, "=C6*D6"],
    ["Sum", None, "=SUM(C2:C6)", None, "=SUM(E2:E6)"],
]
BOOK_CALLS = (
    ("create_workbook", {"path": BOOK, "sheets": ["April", "Targets"]}),
    ("write_range", {"path": BOOK, "sheet": "April", "at": "A1", "rows": ROWS}),
    (
        "write_range",
        {
            "path": BOOK,
            "sheet": "Targets",
            "at": "A1",
            "rows": [["Month", "Target"], ["April", 900], ["May", 1400], ["June", 1200]],
        },
    ),
)

CHANGES = "".join(
    "<h2>Version %d.%d</h2><p>%s</p>" % (3 - n // 5, 9 - n % 5, text)
    for n, text in enumerate(
        (
            (
                "Firing curves can be shared between controllers of the same series; the receiving controller"
                " asks for a pin. "
            ),
            (
                "The hold at top temperature no longer restarts after a short power cut of less than two"
                " minutes. "
            ),
            (
                "A ramp that cannot be held raises warning W12 instead of error E4, and the firing goes on at"
                " full power. "
            ),
            (
                "The log keeps the last forty firings. Older ones are exported to the card before they are"
                " removed. "
            ),
            (
                "Delayed start takes a date as well as a time. The clock is checked before the kiln is"
                " switched on. "
            ),
            (
                "Error E7 (door open) is reported within one second; the heating is off before the message is"
                " shown. "
            ),
            (
                "Thermocouple type S is supported; the offset table has moved to the service menu and keeps"
                " its values. "
            ),
            (
                "Cones can be chosen instead of temperatures, from cone 022 to cone 12, with the heating rate"
                " of the last hour. "
            ),
            (
                "The display shows the energy used by each segment in kilowatt hours, with the price when one"
                " is set. "
            ),
            (
                "First version with a network port. It answers on the local network only and can be switched"
                " off. "
            ),
        )
    )
)
PAGES = {  # url: (status, type, text)
    "http://www.clayhaus.example/prices": (
        200,
        "text/html",
        """<html><head><title>Prices</title></head><body><article>
<h1>Clay prices from 1 April 2026</h1><table><tr><th>Clay</th><th>Bag</th><th>Price</th></tr>
<tr><td>Stoneware SW-11</td><td>12.5 kg</td><td>10.90 EUR</td></tr>
<tr><td>Porcelain PZ-3</td><td>10 kg</td><td>19.40 EUR</td></tr>
<tr><td>Terracotta TC-2</td><td>12.5 kg</td><td>8.20 EUR</td></tr></table>
<p>From 20 bags of one clay the price falls by 10 percent. All prices without VAT.</p>
</article></body></html>""",
    ),
    "http://www.clayhaus.example/delivery": (
        200,
        "text/html",
        """<html><head><title>Delivery</title></head><body><article>
<h1>Delivery</h1><p>Orders that arrive before Wednesday 12:00 are delivered on Friday of the same week.</p>
<p>Delivery costs 24 EUR up to 500 kg. On 1 May, a public holiday, nothing is delivered; those orders come on
Monday, 4 May.</p></article></body></html>""",
    ),
    "http://www.springfair.example/2026": (
        200,
        "text/html",
        """<html><head><title>Spring fair</title></head><body><article>
<h1>Spring fair 2026, Praça da Ribeira</h1>
<p>Saturday 9 May, 10:00 to 19:00. Stalls are set up from 07:30 to 09:30.</p>
<p>Tables are 1.8 m by 0.8 m. Power sockets must be ordered by 24 April. Cars leave the square by 09:30.</p>
</article></body></html>""",
    ),
    "http://docs.kilnworks.example/kc4/changes": (
        200,
        "text/html",
        "<html><body><article><h1>KC4 kiln controller: changes</h1>%s</article></body></html>" % CHANGES,
    ),
    "http://docs.kilnworks.example/kc4/errors.json": (
        200,
        "application/json",
        (
            '{"E1": "thermocouple broken", "E4": "kiln too slow", "E7": "door open", '
            '"E9": "relay stuck, switch off at the mains"}'
        ),
    ),
    "http://members.guild.example/robots.txt": (200, "text/plain", "User-agent: *\nDisallow: /\n"),
    "http://members.guild.example/list": (200, "text/html", "<html><body>Members only</body></html>"),
}


def git(folder, *words, when=WHEN, who="Ines Correia"):
    env = {
        **os.environ,
        **GIT,
        "GIT_AUTHOR_DATE": when,
        "GIT_COMMITTER_DATE": when,
        "GIT_AUTHOR_NAME": who,
        "GIT_COMMITTER_NAME": who,
    }
    done = subprocess.run(["git", *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("git %s: %s" % (" ".join(words), done.stderr.strip()))


def put(root, name, text):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def make_site(folder):
    os.makedirs(folder)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "Ines Correia")
    git(folder, "config", "user.email", "ines@correia.example")
    here = "main"
    for branch, day, who, message, files in COMMITS:
        if branch != here:
            git(folder, "checkout", "-q", *(["main"] if branch == "main" else ["-b", branch]))
            here = branch
        for name, text in files.items():
            put(folder, name, text)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", message, when=day + "T10:00:00+00:00", who=who)
    put(folder, "index.html", INDEX.format(hours="10 to 19"))
    put(folder, "ideas.txt", "A page with pictures of the kiln opening?\n")


def make(root):
    """Everything but the workbook, in an empty folder."""
    for name, text in FILES.items():
        put(root, name, text)
    make_site(os.path.join(root, "site"))
    db = sqlite3.connect(os.path.join(root, "shop.db"))
    db.executescript(SHOP)
    db.close()


def reset(root, template):
    """Makes the workspace what the template is. The folder itself stays: servers were started on it."""
    for name in os.listdir(root):
        path = os.path.join(root, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.remove(path)
    shutil.copytree(template, root, dirs_exist_ok=True)


class Pages(http.server.BaseHTTPRequestHandler):
    """A proxy that knows PAGES and nothing else, so that pages have the names of real sites."""

    def do_GET(self):  # noqa: N802
        status, kind, text = PAGES.get(self.path, (404, "text/plain", "Not found\n"))
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind + "; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve_pages():
    """The proxy's address. The thread ends with the program."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return "http://127.0.0.1:%d" % server.server_port
