#!/usr/bin/env python3
"""Runs a program under what a systemd unit allows, without systemd: the part of it that a container can do.

    unshare --mount --propagation private sandbox.py mounts UNIT COMMAND...   as root: everything read-only, a /proc of
        one's own processes, a /dev of its own, no /home and /root; then COMMAND
    sandbox.py filter UNIT COMMAND...    the unit's SystemCallFilter= (groups as `systemd-analyze syscall-filter` has
        them; any other call kills the process) and RestrictAddressFamilies=; then COMMAND. Without new privileges.
    sandbox.py deny-wx COMMAND...        MemoryDenyWriteExecute=yes as systemd makes it; then COMMAND

Each replaces its process by the next. Filters are made with libseccomp, as systemd makes them; no package of Python's.
"""
import ctypes
import errno
import functools
import os
import subprocess
import sys

KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
NOT_EQUAL, MASKED_EQUAL = 1, 7
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
FAMILIES_MAX = 46
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def fail_with(code):
    return 0x00050000 | code


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def settings(unit, name):
    """Values of a setting of [Service], in order."""
    lines = open(unit, encoding="utf-8").read().split("[Service]")[1].split("\n[")[0].splitlines()
    return [x.split("=", 1)[1] for x in lines if x.split("=", 1)[0] == name]


@functools.lru_cache(maxsize=None)
def groups():
    """{group: what it lists, system calls and groups}"""
    out, name = {}, None
    done = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter"], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            name = word
            out[name] = []
        elif word and not word.startswith("#"):
            out[name].append(word)
    return out


def group(name):
    """The system calls of a group, groups in it included; of a call, itself."""
    return set().union(*(group(m) for m in groups()[name])) if name.startswith("@") else {name}


def allowed_calls(unit):
    """As systemd reads its SystemCallFilter= lines: the first decides that it is a list of what is allowed, which "~"
    takes away from; @default is always in it."""
    lines = settings(unit, "SystemCallFilter")
    assert lines and not lines[0].startswith("~"), "the unit must begin with what it allows"
    out = group("@default")
    for line in lines:
        calls = set().union(*(group(x) for x in line.lstrip("~").split()))
        out = out - calls if line.startswith("~") else out | calls
    return out | group("@default")


class Filter:
    def __init__(self, action):
        self.lib = ctypes.CDLL("libseccomp.so.2")
        self.lib.seccomp_init.restype = ctypes.c_void_p
        self.lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                                    ctypes.POINTER(Compare)]
        self.lib.seccomp_load.argtypes = [ctypes.c_void_p]
        self.ctx = self.lib.seccomp_init(action)
        assert self.ctx, "seccomp_init"

    def add(self, action, call, *compares):
        """False when this machine has no such call."""
        number = self.lib.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return False
        args = (Compare * max(1, len(compares)))(*compares)
        code = self.lib.seccomp_rule_add_array(self.ctx, action, number, len(compares), args)
        assert code == 0, (call, os.strerror(-code))
        return True

    def load(self):
        code = self.lib.seccomp_load(self.ctx)
        assert code == 0, os.strerror(-code)


def mount(*args):
    subprocess.run(["mount", *args], check=True)


def under(path, roots):
    return any(path == r or path.startswith(r + "/") for r in roots)


def mounts(unit):
    assert settings(unit, "ProtectSystem") == ["strict"]
    if settings(unit, "PrivateDevices") == ["yes"]:
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
        for name in DEVICES:
            open("/mnt/" + name, "w").close()
            mount("--bind", "/dev/" + name, "/mnt/" + name)
        mount("--move", "/mnt", "/dev")
    if settings(unit, "ProtectHome") == ["yes"]:
        for home in ("/home", "/root"):
            mount("-t", "tmpfs", "-o", "mode=000", "tmpfs", home)
    if settings(unit, "ProtectProc") == ["invisible"]:
        mount("-t", "proc", "-o", "hidepid=2", "proc", "/proc")
    for line in open("/proc/self/mountinfo", encoding="utf-8").read().splitlines():
        path = line.split()[4].encode().decode("unicode_escape")
        if not under(path, ["/proc"]) and os.path.exists(path):
            subprocess.run(["mount", "-o", "remount,bind,ro", path], stderr=subprocess.DEVNULL)
    writable = [x.split()[4] for x in open("/proc/self/mountinfo", encoding="utf-8").read().splitlines()
                if x.split()[5].split(",")[0] == "rw" and not under(x.split()[4], ["/proc", "/dev"])]
    assert not writable, "still writable: %s" % writable


def system_calls(unit):
    calls = Filter(KILL_PROCESS)
    known = sum(calls.add(ALLOW, name) for name in sorted(allowed_calls(unit)))
    assert known > 200, known
    families = Filter(ALLOW)
    kept = {FAMILIES[x] for line in settings(unit, "RestrictAddressFamilies") for x in line.split()}
    for family in set(range(FAMILIES_MAX)) - kept:
        families.add(fail_with(errno.EAFNOSUPPORT), "socket", Compare(0, 4, family, 0))
    families.load()
    calls.load()


def deny_write_execute():
    f = Filter(ALLOW)
    denied = fail_with(errno.EPERM)
    both = PROT_WRITE | PROT_EXEC
    f.add(denied, "mmap", Compare(2, MASKED_EQUAL, both, both))
    f.add(denied, "mprotect", Compare(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
    f.add(denied, "pkey_mprotect", Compare(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
    f.add(denied, "shmat", Compare(2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
    f.load()


def main():
    what, *rest = sys.argv[1:]
    if what == "mounts":
        mounts(rest.pop(0))
    elif what == "filter":
        system_calls(rest.pop(0))
    elif what == "deny-wx":
        deny_write_execute()
    else:
        raise SystemExit(__doc__)
    os.execvp(rest[0], rest)


if __name__ == "__main__":
    main()
