"""Prints the flags with which a file is compiled, without its name and its output.

usage: compile_flags.py compile_commands.json FILE
"""
import json
import os
import shlex
import sys


def main():
    with open(sys.argv[1]) as f:
        commands = json.load(f)
    wanted = os.path.realpath(sys.argv[2])
    for c in commands:
        if os.path.realpath(os.path.join(c["directory"], c["file"])) == wanted:
            words = shlex.split(c["command"])[1:]
            at = words.index("-o")
            words = words[:at] + words[at + 2:]
            print(" ".join(shlex.quote(w) for w in words if w != c["file"]))
            return 0
    print("compile_flags: %s is not compiled" % sys.argv[2], file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
