"""docker/guardian.service: systemd finds no fault with it, and the server works under what it allows.

There is no systemd here that could run it. sandbox.py does what can be done without: nobody's rights, no capabilities,
everything read-only, a filter of the unit's own system calls that kills. Where a container forbids even that, the tests of it
are skipped and say why."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest
from conftest import BIN, ROOT, Server, answered_request, clean_env, eventually, model_args, model_dir, pending_request
from sandbox import DEVICES, allowed_calls, settings

UNIT = ROOT / "docker" / "guardian.service"
EXPOSURE_MAX = 15  # tenths, of 100
SINCE_254 = re.compile(r"Unknown key(?: name)? '(RestartSteps|RestartMaxDelaySec)'")
DROP = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--no-new-privs", "--bounding-set", "-all",
        "--inh-caps", "-all", "--ambient-caps", "-all"]
PYTHON = "/usr/bin/python3"


# ---- what systemd says ----

@pytest.fixture
def unit(tmp_path):
    """The unit with the program that was built, where systemd looks for it."""
    text = UNIT.read_text()
    assert "ExecStart=/usr/local/bin/guardian serve\n" in text
    path = tmp_path / "guardian.service"
    path.write_text(text.replace("/usr/local/bin/guardian", BIN))
    return path


def analyze(*args):
    return subprocess.run(["systemd-analyze", "--no-pager", *map(str, args)], capture_output=True, text=True)


def complaints(done):
    return [x for x in done.stderr.splitlines() if x.strip() and not SINCE_254.search(x)]


def test_verify(unit):
    done = analyze("verify", unit)
    assert done.returncode == 0 and complaints(done) == [], done.stderr


def test_verify_sees_mistakes(unit):
    unit.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert any("NoNewPrivilege" in x for x in complaints(analyze("verify", unit)))


def exposure(unit):
    """(exit code under the threshold, exposure as systemd tells it)"""
    done = analyze("security", "--offline=yes", "--threshold=%d" % EXPOSURE_MAX, unit)
    return done.returncode, float(re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)[1])


def test_security(unit):
    code, mine = exposure(unit)
    assert code == 0 and mine <= EXPOSURE_MAX / 10
    for gone in ("SystemCallFilter", "RestrictAddressFamilies", "PrivateDevices", "ProtectHome", "RestrictNamespaces"):
        worse = unit.with_name("worse.service")
        worse.write_text(re.sub("(?m)^%s=.*\n" % gone, "", unit.read_text()))
        assert exposure(worse)[1] > mine, gone
    worse.write_text("[Service]\nExecStart=%s serve\n" % BIN)
    assert exposure(worse)[0] != 0


def test_promises():
    """What the tests below and the program rely on."""
    one = {k: settings(UNIT, k) for k in ("Type", "Restart", "NoNewPrivileges", "ProtectSystem", "DynamicUser", "PrivateDevices",
                                          "CapabilityBoundingSet", "MemoryDenyWriteExecute", "ExecReload")}
    assert one == {"Type": ["notify"], "Restart": ["always"], "NoNewPrivileges": ["yes"], "ProtectSystem": ["strict"],
                   "DynamicUser": ["yes"], "PrivateDevices": ["yes"], "CapabilityBoundingSet": [""], "MemoryDenyWriteExecute": [],
                   "ExecReload": ["/bin/kill -HUP $MAINPID"]}
    assert int(settings(UNIT, "WatchdogSec")[0]) >= 10 and int(settings(UNIT, "TimeoutStopSec")[0]) > 30
    calls = allowed_calls(UNIT)
    assert {"read", "accept4", "futex", "execve", "clone3"} <= calls
    assert not calls & {"mount", "ptrace", "bpf", "setuid", "reboot", "kexec_load", "init_module", "open_by_handle_at"}


# ---- under it ----

class Manager:
    """A service manager's socket."""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        os.chmod(self.path, 0o777)
        self.heard = []
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            self.heard.append(self.socket.recv(4096).decode())


@pytest.fixture(scope="module")
def stage():
    """A place that the user nobody may read, with all that a server needs: the clone may lie where only its owner may."""
    d = pathlib.Path(tempfile.mkdtemp(prefix="gd-unit-", dir="/tmp"))
    shutil.copy(BIN, d / "guardian")
    shutil.copy(pathlib.Path(__file__).parent / "sandbox.py", d)
    shutil.copy(UNIT, d)
    shutil.copytree(model_dir(), d / "model")
    for path in model_args()[3:]:
        shutil.copy(path, d / "policy.json")
    subprocess.run(["chmod", "-R", "a+rX", str(d)], check=True)
    yield d
    shutil.rmtree(d)


def sandboxed(d, *command, filtered=("filter",)):
    box = [PYTHON, str(d / "sandbox.py")]
    unit = str(d / "guardian.service")
    inner = {"filter": [*box, "filter", unit], "deny-wx": [*box, "deny-wx"]}  # nothing can be filtered after "filter"
    filters = [x for name in filtered for x in inner[name]]
    return ["unshare", "--mount", "--propagation", "private", *box, "mounts", unit, *DROP, *filters, *map(str, command)]


@pytest.fixture
def box(stage):
    if os.geteuid() != 0:
        pytest.skip("the server is not tried under the unit's sandbox: that takes root, to give it up")
    done = subprocess.run(sandboxed(stage, "/bin/true"), capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["exit code %d" % done.returncode])[-1]
        if not re.search("Operation not permitted|Permission denied|EPERM|non-zero exit status", reason):
            pytest.fail("the sandbox is broken: " + done.stderr)
        pytest.skip("the server is not tried under the unit's sandbox: this container forbids it: " + reason)
    return stage


def run_in(box, code):
    return subprocess.run(sandboxed(box, PYTHON, "-c", code), capture_output=True, text=True, timeout=60)


def test_the_sandbox_is_one(box):
    done = run_in(box, "open('/tmp/x', 'w')")
    assert done.returncode == 1 and "Read-only file system" in done.stderr
    done = run_in(box, "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)")
    assert done.returncode == 1 and "Address family not supported" in done.stderr
    forbidden = ("os.setuid(65534)", "os.chroot('/')", "os.sched_setaffinity(0, {0})", "os.setgroups([])")
    for call in forbidden:
        assert run_in(box, "import os; " + call).returncode == -signal.SIGSYS, call
    assert run_in(box, "import os; os.stat('/proc/self')").returncode == 0
    assert "No such file" in run_in(box, "import os; os.stat('/proc/1')").stderr
    assert "Permission denied" in run_in(box, "import os; os.listdir('/root')").stderr
    assert run_in(box, "import os; print(sorted(os.listdir('/dev')))").stdout.count("'") == 2 * len(DEVICES)


class Unit(Server):
    """A server as the unit starts it."""

    def __init__(self, box, log, env, filtered=("filter",), wait="ready"):
        self.log_path = log
        self.log = open(log, "wb")
        policy = ["--policy", box / "policy.json"] if (box / "policy.json").exists() else []
        flags = ["--port", "0", "--model", box / "model", *policy]
        argv = sandboxed(box, box / "guardian", "serve", *flags, filtered=filtered)
        limit = "--nofile=" + settings(UNIT, "LimitNOFILE")[0]
        self.process = subprocess.Popen(["prlimit", limit, "--core=0", *argv], stderr=self.log, stdin=subprocess.DEVNULL,
                                        env=clean_env(**env))
        self.port = None
        if wait:
            self.port = self.wait_log("listening")["port"]
            self.wait_log(wait)


def status_of(pid):
    lines = pathlib.Path("/proc/%d/status" % pid).read_text().splitlines()
    return {k: v.strip() for k, v in (x.split(":", 1) for x in lines)}


def verdict_of(r):
    assert r.status == 200, r.body
    return {k: r.json[k] for k in ("action", "label", "score", "scores", "phase")}


def test_serves(box, tmp_path, start):
    """Starts, answers all there is, drains with exit code 0; the same bits as outside."""
    s = Unit(box, tmp_path / "log", {})
    try:
        told = status_of(s.process.pid)
        assert told["NoNewPrivs"] == "1" and told["Seccomp"] == "2" and set(told["CapBnd"]) == {"0"}
        assert told["Uid"].split() == ["65534"] * 4
        assert s.wait_log("memory plan")["left_bytes"] < 2**50  # it knows how much memory there is
        outside = start()
        for request in (pending_request(), answered_request(), pending_request(words=300)):
            assert verdict_of(s.guard(request)) == verdict_of(outside.guard(request))
        r = s.batch({"items": [pending_request(str(i)) for i in range(20)] + [{"messages": []}]})
        assert r.status == 200 and [("error" in x) for x in r.json["data"]] == [False] * 20 + [True]
        lines = s.batch({"items": [pending_request("x"), {}]}, headers={"Accept": "application/x-ndjson"})
        assert len(lines.body.splitlines()) == 2
        assert s.guard({"messages": 7}).status == 422
        assert s.ask("POST", "/v1/guard", body="{").status == 400
        assert s.get("/nothing").status == 404
        for path in ("/healthz", "/readyz", "/info", "/v1/models", "/v1/taxonomy", "/version", "/metrics"):
            assert s.get(path).status == 200
        out, closed = s.raw(b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert closed and out.split()[1] in (b"400", b"404", b"411", b"501")
        out, _ = s.raw(b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", read=False)
    finally:
        code = s.stop()
    assert code == 0, (code, pathlib.Path(s.log_path).read_text()[-2000:])


def test_drains_under_load(box, tmp_path):
    s = Unit(box, tmp_path / "log", {})
    answers, stop = [], threading.Event()

    def ask(i):
        n = 0
        while not stop.is_set():
            n += 1
            try:
                answers.append(s.guard(pending_request("%d.%d" % (i, n))).status)
            except ConnectionError:  # after the end
                return

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    eventually(lambda: len(answers) >= 16)
    code = s.stop()
    stop.set()
    for t in threads:
        t.join()
    assert code == 0 and set(answers) <= {200, 503} and answers.count(200) >= 8


def test_tells_the_service_manager(box, tmp_path):
    """READY=1 not before verdicts can be had, signs of life, STOPPING=1."""
    d = pathlib.Path(tempfile.mkdtemp(prefix="gd-notify-", dir="/tmp"))
    d.chmod(0o755)
    try:
        manager = Manager(d)
        s = Unit(box, tmp_path / "log", {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "300000"}, wait="listening")
        until = time.monotonic() + 120
        while "READY=1" not in manager.heard:
            assert time.monotonic() < until, "never said READY=1"
            before = list(manager.heard)
            status = s.get("/readyz").status
            assert "READY=1" not in before or status == 200
            assert s.process.poll() is None
            time.sleep(0.01)
        assert s.get("/readyz").status == 200
        eventually(lambda: manager.heard.count("WATCHDOG=1") >= 3)
        assert "STOPPING=1" not in manager.heard
        assert s.stop() == 0
        eventually(lambda: "STOPPING=1" in manager.heard)
        assert manager.heard.count("READY=1") == 1
        assert manager.heard.index("READY=1") < manager.heard.index("STOPPING=1")
    finally:
        shutil.rmtree(d)


def test_memory_deny_write_execute(box, tmp_path, start):
    """With what the unit's comment says about it: it works where oneDNN does not write code."""
    code = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
    assert run_in(box, code).returncode == 0
    denied = subprocess.run(sandboxed(box, PYTHON, "-c", code, filtered=("deny-wx", "filter")), capture_output=True, text=True)
    assert denied.returncode == 1 and "Operation not permitted" in denied.stderr
    if "amx_tile" in pathlib.Path("/proc/cpuinfo").read_text():
        pytest.skip("MemoryDenyWriteExecute=yes is not tried: this processor has AMX, oneDNN writes code for it")
    s = Unit(box, tmp_path / "log", {}, filtered=("deny-wx", "filter"))
    outside = start()
    for request in (pending_request(), answered_request()):
        assert verdict_of(s.guard(request)) == verdict_of(outside.guard(request))
    assert s.stop() == 0
