"""Start-up: refused options, loading, environment, exit codes."""
import shutil
import signal
import socket
import time

import pytest
from conftest import Server, cli, model_args, model_dir, pending_request


def padded_model(tmp_path):
    """The model with 60 MB of blanks in its tokenizer file: it takes a while to load, and is the same model."""
    d = tmp_path / "padded"
    shutil.copytree(model_dir(), d)
    (d / "golden.json").unlink(missing_ok=True)  # the blanks change a digest
    t = d / "tokenizer.json"
    t.write_bytes(t.read_bytes().rstrip() + b" " * 60_000_000)
    return ["--model", str(d), *model_args()[2:]]


def test_answers_while_the_model_loads(start, tmp_path):
    s = start(model=padded_model(tmp_path), wait="listening")
    assert s.get("/healthz").status == 200
    seen = set()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        r = s.get("/readyz")
        seen.add((r.status, r.json["status"]))
        if r.status == 200:
            break
        g = s.guard(pending_request())
        assert g.status in (200, 503)
        if g.status == 503:
            seen.add(g.error["code"])
            assert g.headers["retry-after"] == "1" and "action" not in g.json
    assert seen >= {(503, "loading"), "loading", (200, "ready")}
    assert s.metrics()['guardian_rejected_total{reason="loading"}'] >= 1
    assert s.guard(pending_request()).status == 200
    assert s.stop() == 0


def test_sigterm_while_the_model_loads(start, tmp_path):
    s = start(model=padded_model(tmp_path), wait="listening")
    s.process.send_signal(signal.SIGTERM)
    assert s.process.wait(20) == 0


def test_broken_model_ends_the_server(start, tmp_path):
    d = tmp_path / "broken"
    shutil.copytree(model_dir(), d)
    weights = sorted(d.glob("model*.safetensors"))[0]
    weights.write_bytes(weights.read_bytes()[:-1])
    s = start(model=["--model", str(d), *model_args()[2:]], wait="listening")
    assert s.process.wait(60) == 3
    assert any(x["msg"] == "model not loaded" and weights.name in x["error"] for x in s.lines())


def test_taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = cli("serve", "--port", str(taken.getsockname()[1]))
    assert code == 1 and b"cannot listen" in err


@pytest.mark.parametrize("args,text", [
    (["--host", "0.0.0.0"], b"--insecure"), (["--host", "example.com"], b"IPv4"), (["--host", "::1"], b"IPv4"),
    (["--port", "70000"], b"70000"), (["--port", "-1"], b"-1"), (["--port", "x"], b"x"), (["--threads", "1e3"], b"1e3"),
    (["--no-such-flag"], b"--shutdown-timeout"), (["--specials"], b"--specials"), (["--port"], b"needs a value"),
    (["extra"], b"extra"), (["--log-level", "loud"], b"loud"),
    (["--max-queue-ms", "600001"], b"600001"), (["--max-batch-tokens", "8449"], b"8449"), (["--kv-cache-mib", "-1"], b"-1"),
    (["--device", "gpu"], b"cuda:N"), (["--device", "cuda:"], b"--device"), (["--device=cuda:1000"], b"999"),
    (["--dtype", "int8"], b"auto, bf16 or fp8"), (["--device", "cpu", "--dtype", "fp8"], b"capability 9.0"),
    (["--verdict-cache", "1048577"], b"1048577"), (["--no-prefix-cache=maybe"], b"maybe"), (["--policy", "/no/such/file.json"], b"/no/such"),
])
def test_wrong_usage(args, text):
    code, out, err = cli("serve", "--port=0", *args, timeout=20)
    assert code == 2 and text in err, err
    assert out == b""


def test_insecure_listens_everywhere(tmp_path):
    s = Server("--host", "0.0.0.0", "--insecure", log=tmp_path / "log")
    assert s.get("/healthz").status == 200
    assert s.stop() == 0


def test_environment_and_precedence(tmp_path):
    env = {"GUARDIAN_MODEL": model_args()[1], "GUARDIAN_SHUTDOWN_TIMEOUT": "x"}
    code, _, err = cli("serve", "--port", "0", model=False, env=env)
    assert code == 2 and b"GUARDIAN_SHUTDOWN_TIMEOUT" in err
    env = {"GUARDIAN_MODEL": "/no/such/dir", "GUARDIAN_LOG_LEVEL": "error"}
    code, _, err = cli("assess", "-", stdin=b"{}", model=False, env=env)
    assert code == 3 and b"/no/such/dir" in err
    code, out, _ = cli("assess", "-", stdin=b"{}", env=env)  # the flag wins over the environment
    assert code == 1 and b"invalid_field" in out


def test_flags_of_commands():
    code, _, err = cli("serve", "--port", "0", env={"GUARDIAN_DEVICE": "tpu"})
    assert code == 2 and b"GUARDIAN_DEVICE" in err and b"'tpu'" in err
    for command in ("serve", "assess", "render", "selftest"):
        out = cli(command, "--help", model=False)[1]
        assert b"--device DEVICE" in out and b"GUARDIAN_DTYPE" in out
    assert b"--device" not in cli("tokenize", "--help", model=False)[1]
    code, out, _ = cli("serve", "--help", model=False)
    for flag in ("max-queue-ms", "max-batch-tokens", "kv-cache-mib", "no-prefix-cache", "verdict-cache"):
        assert ("--" + flag).encode() in out and ("GUARDIAN_" + flag.upper().replace("-", "_")).encode() in out
    code, _, err = cli("assess", "--max-queue-ms", "5", "-", stdin=b"{}")
    assert code == 2 and b"--max-queue-ms" in err
    code, out, err = cli("assess", "--no-prefix-cache", "--verdict-cache", "0", "--max-batch-tokens", "64", "-", stdin=b"{}")
    assert code == 1 and b"invalid_field" in out, err


def test_help():
    for command in ("serve", "assess", "render", "tokenize", "selftest", "version"):
        code, out, err = cli(command, "--help", model=False)
        assert code == 0 and out.startswith(b"usage: guardian " + command.encode()) and err == b""
    code, out, _ = cli("--help", model=False)
    assert code == 0 and b"assess" in out
    assert cli("nothing", model=False)[0] == 2
    assert cli("version", model=False)[1].startswith(b"guardian 0.")


