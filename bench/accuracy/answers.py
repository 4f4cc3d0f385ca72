"""Verdicts that are kept, by case: a rerun asks only what is missing."""

import json
import os
import threading

import client
from cases import digest


class Answers:
    """Verdicts by case, also in a JSON Lines file when a path is given. A rerun finds them there."""

    def __init__(self, path, who):
        self.who, self.kept, self.lock, self.file = who, {}, threading.Lock(), None
        if path:
            end = self.read(path) if os.path.exists(path) else 0
            self.file = open(path, "ab")
            self.file.truncate(end)

    def read(self, path):
        """Takes what is there and returns where it ends; a last line without its end was cut off and goes."""
        with open(path, "rb") as f:
            data = f.read()
        end = data.rfind(b"\n") + 1
        for n, line in enumerate(data[:end].splitlines(), 1):
            row = client.parsed(line)
            if not isinstance(row, dict) or not isinstance(row.get("answer"), dict):
                raise client.Stop("%s, line %d: not an answer" % (path, n))
            other = client.changed(self.who, row["answer"])
            if other:
                raise client.Stop("%s, line %d is from another server: %s" % (path, n, other))
            self.kept[row["id"], row["request"]] = row["answer"]
        return end

    @staticmethod
    def key(case):
        return case.id, digest(case.request)

    def get(self, case):
        return self.kept.get(self.key(case)) if case.request is not None else None

    def put(self, case, verdict):
        key = self.key(case)
        row = {"id": key[0], "request": key[1], "model_version": self.who["model_version"], "answer": verdict}
        with self.lock:
            self.kept[key] = verdict
            if self.file:
                self.file.write(json.dumps(row).encode() + b"\n")
                self.file.flush()
