"""Asks the server for the verdicts that are missing, with a few threads and a line of progress."""

import queue
import sys
import threading
import time

import client


class Progress:
    """One line on stderr: rewritten on a terminal, else a new one every ten seconds."""

    def __init__(self, total, out=sys.stderr):
        self.total, self.out, self.began, self.shown = total, out, time.monotonic(), 0.0
        self.live = out.isatty()

    def show(self, done, errors, last=False):
        now = time.monotonic()
        if not last and now - self.shown < (0.2 if self.live else 10):
            return
        self.shown = now
        rate = done / max(now - self.began, 1e-9)
        left = (self.total - done) / rate if rate else 0
        text = "%d/%d asked, %d errors, %.1f/s, %.0f s left" % (done, self.total, errors, rate, left)
        self.out.write("\r\x1b[K" + text if self.live else text + "\n")
        if last and self.live:
            self.out.write("\n")
        self.out.flush()


class Run:
    """Asks all cases that the answers lack, with a few threads. A second try needs a new Run."""

    def __init__(self, url, key, timeout, patience, threads, answers):
        self.connect = lambda: client.Client(url, key, timeout)
        self.patience, self.threads, self.answers = patience, threads, answers
        self.todo, self.done, self.errors, self.why = queue.SimpleQueue(), 0, {}, None
        self.lock = threading.Lock()

    def work(self):
        c = self.connect()
        try:
            while self.why is None:
                self.one(c, self.todo.get_nowait())
        except queue.Empty:
            pass
        except Exception as e:  # the main thread tells it
            self.why = self.why or (e if isinstance(e, client.Stop) else client.Stop("internal error: %r" % e))
        finally:
            c.connection.close()

    def one(self, c, case):
        got = client.ask(c, case.request, self.patience)
        if "error" not in got:
            other = client.changed(self.answers.who, got)
            if other:
                raise client.Stop("the server has changed: " + other)
            self.answers.put(case, got)
        with self.lock:
            self.done += 1
            if "error" in got:
                self.errors[case.line] = got["error"]

    def over(self, cases):
        """Returns how many were asked. Raises client.Stop when it had to end early; what was answered is kept."""
        asked = [c for c in cases if c.request is not None and self.answers.get(c) is None]
        for c in asked:
            self.todo.put(c)
        progress = Progress(len(asked))
        threads = [threading.Thread(target=self.work, daemon=True) for _ in range(self.threads)]
        for t in threads:
            t.start()
        try:
            while any(t.is_alive() for t in threads):
                time.sleep(0.05)
                progress.show(self.done, len(self.errors))
        except KeyboardInterrupt:
            self.why = client.Stop("interrupted")
        progress.show(self.done, len(self.errors), last=True)
        if self.why:
            raise self.why
        return len(asked)
