"""One connection to a running server, with patience when the server is full."""

import http.client
import json
import time
import urllib.parse

TRIES = 4  # connections for one request
LONGEST_WAIT_S = 60
DEADLINE_MS_MAX = 600000


class Stop(Exception):
    """The run cannot go on: the server is gone, or is not the one that began."""


class Lost(Exception):
    """No answer on any connection."""


class Client:
    """One keep-alive connection."""

    def __init__(self, url, key=None, timeout=120.0):
        u = urllib.parse.urlsplit(url if "://" in url else "http://" + url)
        kind = http.client.HTTPSConnection if u.scheme == "https" else http.client.HTTPConnection
        self.prefix = u.path.rstrip("/")
        self.timeout = timeout
        self.connection = kind(u.hostname, u.port, timeout=timeout)
        self.headers = {"Content-Type": "application/json"}
        if key:
            self.headers["Authorization"] = "Bearer " + key

    def send(self, method, path, doc=None):
        """(status, headers, JSON or None). A connection that breaks is opened anew; Lost when that does not help."""
        data = None if doc is None else json.dumps(doc).encode()
        for attempt in range(TRIES):
            if attempt:
                time.sleep(0.1 * 2**attempt)
            try:
                return self.once(method, path, data)
            except TimeoutError:
                self.connection.close()
                raise
            except (OSError, http.client.HTTPException) as e:
                self.connection.close()
                why = e
        raise Lost("%r" % why)

    def once(self, method, path, data):
        try:
            self.connection.request(method, self.prefix + path, data, self.headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # a server that refuses a body does not read it: its answer may be there all the same
        r = self.connection.getresponse()
        return r.status, r.headers, parsed(r.read())

    def alive(self):
        try:
            return self.send("GET", "/healthz")[0] == 200
        except (Lost, TimeoutError):
            return False


def parsed(data):
    try:
        return json.loads(data)
    except ValueError:
        return None


def retry_after(headers):
    try:
        return min(max(float(headers.get("Retry-After", 1)), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return 1.0


def error_text(status, doc):
    e = doc.get("error") if isinstance(doc, dict) else None
    if not isinstance(e, dict):
        return "%d without a reason" % status
    return "%d %s: %s" % (status, e.get("code"), e.get("message"))


def ask(client, request, patience, sleep=time.sleep):
    """A verdict, or {"error": reason}. A server that is full says when to come again; patience is in seconds."""
    waited = 0.0
    request = {**request, "deadline_ms": max(1, min(DEADLINE_MS_MAX, int(client.timeout * 1000)))}
    while True:
        try:
            status, headers, doc = client.send("POST", "/v1/guard", request)
        except TimeoutError:
            return {"error": "no answer within %g s" % client.timeout}
        except Lost as e:
            if not client.alive():
                raise Stop("the server does not answer: %s" % e) from None
            return {"error": "the connection broke: %s" % e}
        if status == 200 and isinstance(doc, dict):
            return doc
        pause = retry_after(headers)
        if status not in (429, 503) or waited + pause > patience:
            return {"error": error_text(status, doc)}
        sleep(pause)
        waited += pause


def identity(client, patience, sleep=time.sleep):
    """What answers, from /info, once the server is ready: {"model", "model_version", "policy", "threshold"}"""
    waited = 0.0
    while True:
        try:
            status, _, doc = client.send("GET", "/info")
        except (Lost, TimeoutError) as e:
            raise Stop("the server does not answer: %s" % e) from None
        if status == 200 and isinstance(doc, dict) and doc.get("status") == "ready":
            m, p = doc["model"], doc["policy"]
            return {
                "model": m["name"],
                "model_version": m["version"],
                "policy": "%s@%s" % (p["name"], p["version"]),
                "threshold": p["flag_threshold"],
            }
        if waited >= patience or status == 404:
            raise Stop("the server is not ready: GET /info says %d" % status)
        sleep(1.0)
        waited += 1.0


def changed(who, verdict):
    """What differs between who was asked at first and who gave this verdict, as text, or None."""
    for k in ("model_version", "policy", "threshold"):
        if verdict.get(k) != who[k]:
            return "%s is %s, not %s" % (k, verdict.get(k), who[k])
    return None
