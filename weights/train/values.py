"""Plausible values: make(rng, kind) gives (how a user says it, how a call states it); guess(rng, name,
schema) does it for a parameter or result field that is known only by its name and description."""

import re
import string

W = {
    k: v.split(",")
    for k, v in {
        "city": "Paris,London,New York,Tokyo,Berlin,Sydney,Toronto,Mumbai,San Francisco,Chicago,Madrid,Rome,Lagos,Nairobi,Seoul,Austin,Boston,Seattle,Denver,Dubai,Lisbon,Oslo,Vienna,Zurich,Prague,Cairo,Bangkok,Singapore,Helsinki,Lima,Houston,Miami,Atlanta,Portland,Montreal,Dublin,Munich,Osaka,Istanbul,Warsaw",
        "country": "France,Germany,Japan,Brazil,Canada,India,Kenya,Spain,Italy,Mexico,United States,United Kingdom,Australia,China,Norway,Egypt,South Korea,Poland,Chile,Turkey",
        "first": "Anna,John,Maria,David,Wei,Priya,Omar,Emma,Lucas,Sofia,Peter,Jane,Robert,Mia,Noah,Olivia,Liam,Hannah,Carlos,Yuki,Fatima,Ivan,Sara,Tom,Alice,Bob,Michael,Laura,Daniel,Nina",
        "last": "Smith,Miller,Garcia,Chen,Patel,Nguyen,Kim,Johnson,Brown,Silva,Kowalski,Rossi,Ahmed,Lopez,Davis,Wilson,Martin,Moore,Jackson,Tanaka,Ivanov,Schmidt,Larsen,Okafor,Khan",
        "condition": "good,bad",
        "weather": "sunny,cloudy,light rain,snow,clear,windy,thunderstorm,foggy",
        "currency": "USD,EUR,GBP,JPY,CAD,INR,CHF,AUD,CNY,MXN",
        "ticker": "AAPL,MSFT,TSLA,GOOG,AMZN,NFLX,NVDA,IBM,META,SAP",
        "restaurant": "Bella Vista,The Golden Fork,Sushi Zen,La Piazza,Green Garden,Chez Marie,Taj Palace,The Oak Room",
        "event": "Team meeting,Dentist appointment,Project review,Lunch with Anna,Budget planning,Yoga class,Interview with the candidate,Birthday party,Quarterly review,Parent teacher evening,Meeting with the marketing team,Sprint planning",
        "task": "call mom,buy milk,pay the rent,water the plants,submit the report,pick up the kids,take my medicine,renew the passport,send the invoice,book the tickets",
        "topic": "climate change,machine learning,the Roman Empire,electric cars,renewable energy,football,the stock market,healthy food,space travel,the budget report,quantum physics,jazz,the new project,modern art,artificial intelligence,world history,gardening,coffee",
        "lang": "French,German,Spanish,Japanese,Italian,Chinese,Portuguese,Korean,Arabic,Dutch",
        "food": "chicken,rice,tomatoes,eggs,pasta,spinach,potatoes,tofu,salmon,beans,cheese,mushrooms,onions,beef,carrots,peanuts",
        "dish": "tomato pasta,chicken curry,mushroom omelette,vegetable stew,rice bowl,potato soup,salmon salad",
        "unit": "kilometers,miles,kilograms,pounds,liters,gallons,meters,feet,celsius,fahrenheit,inches,ounces",
        "genre": "comedy,thriller,drama,horror,science fiction,romance,action,documentary",
        "movie": "The Long Way,Night Train,Silent River,Blue Horizon,Second Chance,The Last Garden,Paper Moon,Iron Sky",
        "song": "Bohemian Rhapsody,Imagine,Shape of You,Yesterday,Hotel California,Thriller,Hallelujah,Rolling in the Deep",
        "device": "kitchen speaker,living room TV,phone,bedroom speaker",
        "room": "living room,kitchen,bedroom,office,bathroom,conference room B,meeting room 4,blue room,garage",
        "place": "Central Station,the airport,221B Baker Street,Times Square,City Hall,1600 Main Street,Union Square,the university,15 Elm Road,Harbour Mall",
        "travelmode": "car,bike,foot,train,bus",
        "bug": "Login fails on mobile,Crash when saving,Typo in the documentation,Slow start of the server,Memory leak in the parser,Wrong total in the invoice",
        "repo": "webshop,billing,analytics,acme/api,orders,mobile-app,customers,infra,inventory,data-pipeline,frontend,reports",
        "product": "wireless headphones,running shoes,coffee machine,office chair,laptop stand,backpack,desk lamp,phone case,water bottle,keyboard,monitor",
        "shipstatus": "shipped,in transit,out for delivery,processing,delivered",
        "word": "serendipity,ephemeral,ubiquitous,feature-login,candid,hotfix-12,lucid,resilient,old-cache",
        "onoff": "on,off",
        "sport": "running,swimming,cycling,yoga,rowing,hiking,weight lifting",
        "symptom": "headache,a sore throat,back pain,fever,dizziness,a rash,nausea",
        "disease": "migraine,common cold,allergy,influenza,dehydration,tension,infection",
        "service": "nginx,postgres,redis,the mail server,backup agent,auth service",
        "channel": "#general,#random,#dev-team,#support,#marketing,#announcements",
        "zodiac": "Aries,Taurus,Gemini,Leo,Virgo,Libra,Scorpio,Pisces",
        "plant": "monstera,cactus,orchid,basil,fern,bonsai,rose",
        "env": "staging,production,test,demo",
        "company": "City Power,Acme Corp,Northwind,Water Works,Globex,Telecom One",
        "poi": "pharmacy,coffee shop,gas station,supermarket,bank,hospital",
        "drug": "ibuprofen,amoxicillin,paracetamol,metformin,aspirin,insulin",
        "bmicat": "normal weight,overweight,underweight",
        "hotel": "Hotel Aurora,The Grand,Park Inn,Seaside Lodge,City Hostel,Hilton Garden",
        "adj": "new,large,small,reliable,modern,local,public,early,main,average,detailed,current,popular,final,recent,simple,high,low",
        "noun": "report,system,project,market,method,region,plan,group,team,study,product,model,process,result,level,design,event,material,policy,review,trend,standard",
        "verb": "shows,includes,needs,supports,covers,describes,improves,follows,requires,explains,depends on,is based on",
        "greet": "see you tomorrow,I'm running late,thanks for your help,please call me back,the meeting is moved to Friday,happy birthday,can we talk later,the report is ready,don't forget the keys,dinner is at eight,where is the train station,I would like a coffee,good morning everyone,we ship the release today",
        "cabin": "economy,business,basic economy,first",
        "priority": "low,normal,high,urgent",
        "status": "active,completed,pending,approved,available,open,in progress,success",
    }.items()
}
MONTHS = (
    "January February March April May June July August September October November December".split()
)


def code(r):
    n = r.choice((4, 5, 6, 8, 10))
    k = r.random()
    if k < 0.3:
        return r.choice(string.ascii_uppercase) + "".join(r.choice(string.digits) for _ in range(n))
    if k < 0.5:
        return "".join(r.choice(string.digits) for _ in range(n))
    if k < 0.75:
        return r.choice(("ORD-", "ID", "user_", "TX", "A-", "res_", "ref-")) + "".join(
            r.choice(string.digits) for _ in range(n)
        )
    return "".join(r.choice(string.ascii_letters + string.digits) for _ in range(n))


def date(r):
    y, m, d = r.randint(2021, 2026), r.randint(1, 12), r.randint(1, 28)
    iso = "%d-%02d-%02d" % (y, m, d)
    mon = MONTHS[m - 1]
    nth = "%d%s" % (d, "th" if 10 < d < 20 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th"))
    said = r.choice(
        (
            iso,
            iso,
            "%s %d, %d" % (mon, d, y),
            "%s %s, %d" % (mon, nth, y),
            "%d %s %d" % (d, mon, y),
            "the %s of %s %d" % (nth, mon, y),
            "%d/%d/%d" % (m, d, y),
            "%s %s" % (mon, nth),
            "%s %d" % (mon[:3], d),
        )
    )
    return said, iso


def time(r):
    h, m = r.randint(0, 23), r.choice((0, 0, 0, 15, 30, 45))
    ampm = "%d%s %s" % ((h % 12) or 12, ":%02d" % m if m else "", "am" if h < 12 else "pm")
    return r.choice((ampm, ampm.replace(" ", ""), ampm.upper(), "%02d:%02d" % (h, m))), r.choice(
        ("%02d:%02d", "%02d:%02d:00")
    ) % (h, m)


def person(r):
    return r.choice(W["first"]) + " " + r.choice(W["last"])


def sentence(r):
    k = r.random()
    if k < 0.5:
        s = r.choice(W["greet"])
        return s[0].upper() + s[1:] if r.random() < 0.5 else s
    s = "The %s %s %s the %s %s" % (
        r.choice(W["adj"]),
        r.choice(W["noun"]),
        r.choice(W["verb"]),
        r.choice(W["adj"]),
        r.choice(W["noun"]),
    )
    return s + (" of " + r.choice(W["topic"]) if r.random() < 0.3 else "") + "."


def amount(r, top=1000):
    v = r.choice(
        (
            r.randint(1, 20),
            r.randint(5, top),
            r.randint(1, 20) * 50,
            round(r.uniform(1, top), 2),
            round(r.uniform(1, 100), 1),
        )
    )
    return ("{:,}".format(v) if r.random() < 0.4 else str(v)), v


NUMBER = {
    1: "one",
    2: "two",
    3: "three",
    4: "four",
    5: "five",
    6: "six",
    7: "seven",
    8: "eight",
    9: "nine",
    10: "ten",
}


def pick(word):
    return lambda r: (lambda v: (v, v))(r.choice(W[word]))


def both(fn):
    return lambda r: (lambda v: (v, v))(fn(r))


def many(fn, lo=1, hi=3):
    return both(lambda r: [fn(r) for _ in range(r.randint(lo, hi))])


def small(r):
    v = r.randint(1, 10)
    return (NUMBER[v] if r.random() < 0.3 else str(v)), v


def rng_int(lo, hi):
    return lambda r: (lambda v: (str(v), v))(r.randint(lo, hi))


def path(r):
    return "/" + "/".join(
        r.choice(("home", "var", "data", "projects", "docs", "tmp", "srv", "backup", "src", "logs"))
        for _ in range(r.randint(1, 3))
    )


def url(r):
    return (
        "https://"
        + r.choice(("", "www.", "shop."))
        + r.choice(("example.com", "acme.io", "northwind.org", "globex.net", "news.site"))
        + r.choice(
            (
                "",
                "/",
                "/" + r.choice(W["noun"]),
                "/" + r.choice(W["noun"]) + "/" + str(r.randint(1, 999)),
            )
        )
    )


def _datetime(r):
    d, t = date(r), time(r)
    said = "on %s at %s" % (d[0], t[0]) if r.random() < 0.6 else "at %s on %s" % (t[0], d[0])
    return said, d[1] + r.choice((" ", "T")) + t[1]


def secret(r):
    return "".join(
        r.choice(string.ascii_lowercase + string.digits) for _ in range(r.randint(8, 16))
    )


def host(r):
    return r.choice(("web-", "db-", "app", "srv", "node-", "prod-")) + str(r.randint(1, 20))


def filename(r):
    return (
        path(r)
        + "/"
        + r.choice(W["noun"])
        + r.choice((".txt", ".md", ".csv", ".json", ".py", ".yaml", ".conf"))
    )


def sql(r):
    return "SELECT %s FROM %s WHERE id %s %d" % (
        r.choice(("*", "name", "count(*)", "email, city")),
        r.choice(W["repo"]).replace("/", "_").replace("-", "_"),
        r.choice("=<>"),
        r.randint(1, 500),
    )


KINDS = {
    "date": date,
    "time": time,
    "datetime": _datetime,
    "person": both(person),
    "sentence": both(sentence),
    "amount": amount,
    "bigamount": lambda r: amount(r, 500000),
    "small": small,
    "temp": rng_int(-5, 38),
    "pct": rng_int(5, 95),
    "rate": both(lambda r: round(r.uniform(0.1, 9.9), r.randint(1, 3))),
    "years": rng_int(1, 30),
    "minutes": rng_int(5, 90),
    "height": rng_int(150, 200),
    "weight": rng_int(45, 110),
    "bmi": both(lambda r: round(r.uniform(17, 33), 1)),
    "year": rng_int(1975, 2024),
    "count": rng_int(2, 5000),
    "plen": rng_int(8, 32),
    "km": both(lambda r: round(r.uniform(0.5, 600), 1)),
    "code": both(code),
    "secret": both(secret),
    "path": both(path),
    "file": both(filename),
    "url": both(url),
    "email": both(
        lambda r: r.choice(W["first"]).lower()
        + r.choice((".", "_", ""))
        + r.choice(W["last"]).lower()
        + "@"
        + r.choice(("example.com", "mail.org", "acme.io"))
    ),
    "phone": both(
        lambda r: r.choice(("+1", "+44", "0", "555-"))
        + "".join(r.choice(string.digits) for _ in range(8))
    ),
    "host": both(host),
    "sql": both(sql),
    "user": both(
        lambda r: r.choice(W["first"]).lower()
        + r.choice(("", "_", "."))
        + r.choice((r.choice(W["last"]).lower(), str(r.randint(1, 999))))
    ),
    "imgfile": both(
        lambda r: r.choice(W["noun"]) + str(r.randint(1, 99)) + r.choice((".png", ".jpg"))
    ),
    "doctor": both(lambda r: "Dr. " + r.choice(W["last"])),
    "flight": both(lambda r: r.choice(("LH", "AA", "BA", "UA", "AF")) + str(r.randint(100, 999))),
    "foods": both(lambda r: ", ".join(r.sample(W["food"], r.randint(1, 3)))),
    "foodlist": many(lambda r: r.choice(W["dish"])),
    "movielist": many(lambda r: r.choice(W["movie"])),
    "hotellist": many(lambda r: r.choice(W["hotel"])),
    "filelist": many(lambda r: r.choice(W["noun"]) + r.choice((".txt", ".md", ".csv"))),
    "hostlist": many(host),
    "diseaselist": many(lambda r: r.choice(W["disease"])),
    "newslist": many(
        lambda r: "%s %s %s"
        % (r.choice(W["adj"]).title(), r.choice(W["noun"]), r.choice(W["topic"]))
    ),
    "commitlist": many(lambda r: secret(r)[:7] + " " + r.choice(W["bug"]).lower()),
    "productlist": many(lambda r: {"name": r.choice(W["product"]), "price": amount(r, 300)[1]}),
    "flightlist": many(
        lambda r: {
            "flight": KINDS["flight"](r)[1],
            "departure": time(r)[1],
            "price": r.randint(60, 900),
        }
    ),
    "eventlist": many(lambda r: r.choice(W["event"])),
    "codelist": many(code, 1, 4),
    "pathlist": many(filename, 1, 4),
    "weatherlist": many(
        lambda r: {"condition": r.choice(W["weather"]), "high": r.randint(5, 35)}, 2, 4
    ),
    "rowlist": many(lambda r: {"id": r.randint(1, 500), "name": person(r)}, 1, 3),
}


def make(r, kind):
    if kind in KINDS:
        return KINDS[kind](r)
    return pick(kind)(r)


EG = re.compile(
    r"\((?:e\.g\.,?|for example,?|such as|i\.e\.,?|eg\.?)\s*([^()]*)\)|(?:such as|e\.g\.,?|like|for example,?|Example:)\s+([^().]*)",
    re.I,
)


def examples(description):
    m = EG.search(description or "")
    if not m:
        return []
    out = [
        x.strip().strip("'\"") for x in re.split(r",| or | and ", m.group(1) or m.group(2) or "")
    ]
    return [x for x in out if 0 < len(x) < 40 and x.lower() not in ("etc", "etc.", "or", "and")]


HINTS = (
    ("date", "date"),
    ("deadline", "date"),
    ("birth", "date"),
    ("day", "date"),
    ("timestamp", "datetime"),
    ("time", "time"),
    ("hour", "small"),
    ("email", "email"),
    ("mail", "email"),
    ("phone", "phone"),
    ("url", "url"),
    ("link", "url"),
    ("website", "url"),
    ("path", "path"),
    ("file", "file"),
    ("city", "city"),
    ("country", "country"),
    ("location", "city"),
    ("region", "country"),
    ("place", "place"),
    ("address", "place"),
    ("origin", "city"),
    ("destination", "city"),
    ("currency", "currency"),
    ("language", "lang"),
    ("doctor", "doctor"),
    ("username", "user"),
    ("user_name", "user"),
    ("password", "secret"),
    ("token", "secret"),
    ("key", "secret"),
    ("_id", "code"),
    ("number", "code"),
    ("code", "code"),
    ("author", "person"),
    ("artist", "person"),
    ("patient", "person"),
    ("player", "person"),
    ("customer", "person"),
    ("employee", "person"),
    ("person", "person"),
    ("company", "company"),
    ("brand", "company"),
    ("product", "product"),
    ("genre", "genre"),
    ("movie", "movie"),
    ("song", "song"),
    ("sport", "sport"),
    ("team", "city"),
    ("symptom", "symptom"),
    ("disease", "disease"),
    ("drug", "drug"),
    ("medication", "drug"),
    ("food", "food"),
    ("ingredient", "food"),
    ("status", "status"),
    ("price", "amount"),
    ("amount", "amount"),
    ("cost", "amount"),
    ("year", "year"),
    ("topic", "topic"),
    ("subject", "topic"),
    ("query", "topic"),
    ("keyword", "topic"),
    ("message", "sentence"),
    ("text", "sentence"),
    ("content", "sentence"),
    ("description", "sentence"),
    ("comment", "sentence"),
    ("title", "event"),
    ("event", "event"),
    ("name", "person"),
)


def guess(r, name, schema, result=False):
    """(said, stated) for a parameter or a result field."""
    schema = schema if isinstance(schema, dict) else {}
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else "string"
    desc = schema.get("description") or ""
    low = name.lower()
    if schema.get("enum"):
        v = r.choice(schema["enum"])
        return str(v), v
    if kind == "boolean":
        v = True if result and r.random() < 0.9 else r.random() < 0.5
        return ("yes" if v else "no"), v
    if kind in ("integer", "number", "float"):
        if "year" in low:
            return make(r, "year")
        if low.endswith("id"):
            v = r.randint(1, 99999)
            return str(v), v
        if kind == "integer":
            v = r.choice((r.randint(1, 10), r.randint(1, 100), r.randint(10, 3000)))
            return (NUMBER[v] if v in NUMBER and r.random() < 0.15 else str(v)), v
        said, v = amount(r)
        return said, v
    if kind == "array":
        item = schema.get("items") if isinstance(schema.get("items"), dict) else {}
        vals = [
            guess(
                r, name.rstrip("s"), dict(item, description=item.get("description") or desc), result
            )
            for _ in range(r.randint(1, 3))
        ]
        return " and ".join(v[0] for v in vals), [v[1] for v in vals]
    if kind in ("object", "dict"):
        props = schema.get("properties") or {"value": {"type": "string"}}
        vals = {k: guess(r, k, s, result) for k, s in list(props.items())[:3]}
        return ", ".join("%s %s" % (k.replace("_", " "), v[0]) for k, v in vals.items()), {
            k: v[1] for k, v in vals.items()
        }
    eg = examples(desc)
    if eg and r.random() < 0.8:
        v = r.choice(eg)
        return (v.lower() if r.random() < 0.2 else v), v
    if low == "id" or low.endswith(("id", "_number", "_code")):
        v = code(r)
        return v, v
    for hint, k in HINTS:
        if hint in low:
            return make(r, k)
    if result:
        words = [
            w
            for w in re.findall(r"[a-z]{4,}", desc.lower())
            if w
            not in (
                "that",
                "with",
                "from",
                "this",
                "specified",
                "information",
                "indicates",
                "whether",
            )
        ]
        if words and r.random() < 0.6:
            s = "%s %s %s" % (
                r.choice(W["adj"]).title(),
                " ".join(words[: r.randint(1, 3)]),
                r.choice(W["noun"]),
            )
            return s, s
        return make(r, "sentence")
    words = [
        w
        for w in re.findall(r"[A-Za-z]{4,}", desc)
        if w.lower()
        not in ("that", "with", "which", "want", "specified", "name", "type", "specific", "your")
    ]
    v = (
        (r.choice(W["adj"]) + " " + r.choice(words).lower())
        if words and r.random() < 0.5
        else r.choice((r.choice(W["topic"]), r.choice(W["noun"]), code(r), r.choice(W["adj"])))
    )
    return v, v
